"""Emit: graphs -> programs -> a bundle on disk."""
