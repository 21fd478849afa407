"""A small web site for the lab: `/` is a page, `/ip` tells a caller its address as the server sees it.

Run in a host as `python -m tests.netlab.web [PORT]`. Answers over IPv4 and IPv6, and writes one line
`<address> <path>` for each request to standard output.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = "Welcome to the page behind the router.\n"


def plain(address: str) -> str:
    """An IPv4 address that came in through an IPv6 socket, written as IPv4."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


class Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    def do_GET(self) -> None:
        caller = plain(self.client_address[0])
        bodies = {"/": PAGE, "/ip": f"{caller}\n"}
        body = bodies.get(self.path, "").encode()
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        print(caller, self.path, flush=True)

    def log_message(self, format: str, *args: object) -> None:
        """The line that `do_GET` prints is the log."""


class Site(ThreadingHTTPServer):
    """Listens on all addresses of both families."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


if __name__ == "__main__":
    site = Site(("::", int(sys.argv[1]) if len(sys.argv) > 1 else 80), Handler)
    print("listening", flush=True)
    site.serve_forever()
