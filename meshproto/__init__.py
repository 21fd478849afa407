"""What both ends of the control connection share: typed keys, primitives, control Noise and its messages."""
