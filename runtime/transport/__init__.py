"""Transports: self, loopback, mpi and torch, behind one protocol."""
