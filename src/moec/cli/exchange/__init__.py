"""Exchange with Hugging Face checkpoints, and reading a model out: `import`, `export` and `logits`."""
