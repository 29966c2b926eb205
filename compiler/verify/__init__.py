"""Verifiers: one a level. Each returns all that is wrong; the pipeline runs one after every pass."""
