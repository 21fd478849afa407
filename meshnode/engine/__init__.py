"""The asyncio shells that move packets between TUN, UDP and the WireGuard core."""
