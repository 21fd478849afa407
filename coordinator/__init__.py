"""The control server of the mesh: addresses, registration, approved routes and the maps that nodes follow."""

__version__ = "0.1.0"
