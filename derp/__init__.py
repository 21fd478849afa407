"""DERP: a relay for nodes that cannot reach each other, addressed by node key, over HTTPS.

`frames`, `login`, `server_core` and `client_core` are the protocol, pure. `server` and `client` put sockets
around the two ends, and `python -m derp` runs a relay alone.
"""
