"""Checkpoints: the whole training state on disk while a run goes on, to be read at any layout."""
