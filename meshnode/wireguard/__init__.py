"""WireGuard, sans-IO: handshake, cookies, timers, sessions and peers; bytes and the time go in."""
