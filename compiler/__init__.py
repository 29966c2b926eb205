"""From a checked spec to the programs of a rank; `pipeline` is the order of it all."""
