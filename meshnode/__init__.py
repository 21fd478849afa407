"""The node of the mesh: WireGuard data plane, control client, Linux adapters and the daemon around them."""

__version__ = "0.1.0"
