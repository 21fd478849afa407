"""The coordinator's address as a person writes it: `https://vpn.example.org`, `http://10.0.0.1:8080`.

An `https` URL is dialled with TLS, an `http` URL in the clear, both on the port that the URL says (443 and 80
by default). Tailscale's clients race both ports instead (control protocol §2.2); we do what the URL says.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

DEFAULT_PORTS = {"https": 443, "http": 80}


class InvalidServerURL(ValueError):
    """Not an address of a coordinator; the text says what is wrong and shows a right one."""


@dataclass(frozen=True, slots=True)
class ServerURL:
    """A parsed login server. `str()` is the canonical text, without a default port or trailing slash."""

    scheme: str
    host: str
    """An ASCII name or an address, without brackets for IPv6."""
    port: int

    @classmethod
    def parse(cls, text: str) -> ServerURL:
        """Raises InvalidServerURL."""
        example = f'"{text}" is not a login server URL'
        if "://" not in text:
            raise InvalidServerURL(
                f"{example}: write it with http:// or https://, as in https://{text or 'vpn.example.org'}"
            )
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise InvalidServerURL(f"{example}: {error}") from error
        if parts.scheme not in DEFAULT_PORTS:
            raise InvalidServerURL(f"{example}: it must begin with http:// or https://")
        if not parts.hostname or any(character.isspace() for character in text):
            raise InvalidServerURL(f"{example}: a host name or address is missing")
        if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
            raise InvalidServerURL(f"{example}: only scheme, host and port belong in it")
        if port == 0:
            raise InvalidServerURL(f"{example}: port 0 cannot be dialled")
        try:
            host = parts.hostname.encode("idna").decode("ascii")
        except UnicodeError as error:
            raise InvalidServerURL(f"{example}: {parts.hostname} is not a host name") from error
        return cls(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme])

    @property
    def is_tls(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """`host` or `host:port`, as in the Host header and `:authority`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"
