"""Watching a run from beside it: stalls, lost ranks, a lost launcher, signals, slow ranks."""
