"""Schedule: regions and plan -> the step of a rank as one graph, calling the graph of a micro-batch."""
