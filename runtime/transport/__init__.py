"""Transports: self, loopback, mpi and torch, behind one protocol. `factory.make_transport` makes them."""
