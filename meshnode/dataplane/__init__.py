"""The batch kernel: one interface over the Python reference and (where built) its native twin."""
