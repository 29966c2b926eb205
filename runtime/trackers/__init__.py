"""Trackers: who is told of a run beside its own record, such as TensorBoard or a service of experiments."""
