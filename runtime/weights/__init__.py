"""Weights on disk: the plain layout of runs and imports, and published checkpoints, read slice by slice."""
