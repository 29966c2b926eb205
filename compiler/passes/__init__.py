"""Passes: one a file. A pass keeps the level of its graph, applies what the plan decided, decides nothing."""
