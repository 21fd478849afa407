"""`make bench`: the tunnel against wireguard-go, and a relay under load, in clear and with TLS."""

from __future__ import annotations

import argparse

from bench import relay, tunnel

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="lines of JSON instead of tables")
    common = ["--json"] if parser.parse_args().json else []
    tunnel.main(common)
    relay.main(common)
    relay.main([*common, "--tls"])
