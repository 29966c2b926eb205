"""What a compute node runs: bundles, transports, data, training. Needs no compiler."""
