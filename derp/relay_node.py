"""Where a relay is: one node of a region in the DERP map (nat-traversal reference §1.9)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORT = 443


@dataclass(frozen=True, slots=True)
class RelayNode:
    """`ipv4` and `ipv6`: an address, empty to resolve `host_name`, or anything else to not use the family."""

    host_name: str
    port: int = DEFAULT_PORT
    name: str = ""
    """Unique among all relays; a client that had to take another one of the region tells it."""
    ipv4: str = ""
    ipv6: str = ""
    cert_name: str = ""
    """Another name that the certificate is for, or `sha256-raw:` and the certificate's digest in hex."""
    uses_tls: bool = True
    is_insecure: bool = False
    """For tests: no certificate is looked at."""

    @classmethod
    def parse(cls, text: str) -> RelayNode:
        """`HOST[:PORT]`, or a URL whose scheme may be `http`. Raises ValueError."""
        wrong = ValueError(f"{text!r} is not a relay, such as relay.example.org or http://192.0.2.1:3340")
        url = urlsplit(text if "://" in text else f"https://{text}")
        try:
            port = url.port
        except ValueError:
            raise wrong from None
        if url.scheme not in ("http", "https") or not url.hostname:
            raise wrong
        uses_tls = url.scheme == "https"
        return cls(url.hostname, port or (DEFAULT_PORT if uses_tls else 80), uses_tls=uses_tls)

    def __str__(self) -> str:
        return f"{self.host_name}:{self.port}"

    @property
    def host_header(self) -> str:
        """What HTTP calls it."""
        host = f"[{self.host_name}]" if ":" in self.host_name else self.host_name
        default = DEFAULT_PORT if self.uses_tls else 80
        return host if self.port == default else f"{host}:{self.port}"
