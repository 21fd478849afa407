"""The network map: reducing the map stream, and deriving what WireGuard and the router must be."""
