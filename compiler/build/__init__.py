"""Build: from a checked model to reference graphs."""
