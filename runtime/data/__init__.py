"""Data: tokenizers, token sources, sample order and batches."""
