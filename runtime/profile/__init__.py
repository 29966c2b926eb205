"""Where the time and the bytes of a step go: meters that always run, and traces of chosen steps."""
