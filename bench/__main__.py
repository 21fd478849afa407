"""`make bench`: every benchmark there is. So far that is one: the tunnel against wireguard-go."""

from __future__ import annotations

from bench import tunnel

if __name__ == "__main__":
    tunnel.main()
