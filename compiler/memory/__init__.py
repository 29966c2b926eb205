"""What a rank keeps between forward and backward: bytes, the work of making values again, the choice."""
