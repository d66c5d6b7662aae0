"""What the ports of this room stand on, one technology a file; joined in ``wiring``."""
