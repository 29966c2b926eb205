"""The instruction set and the bundle format: what the compiler targets and the machine executes."""
