"""Differentiate: a partitioned region -> a forward and a backward graph."""
