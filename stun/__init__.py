"""STUN's binding transaction (RFC 8489): tells a node the address under which others see its UDP socket.

`messages` is the wire format, `responder` the server's decisions, `transactions` the client's; all three are
pure. `server` puts sockets around a responder, and `python -m stun` runs one alone.
"""
