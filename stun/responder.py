"""What a public STUN server answers, and what it passes over in silence (RFC 8489 §6.3, RFC 5780 §6).

Everyone can send it anything from a forged address, so it answers nothing but binding requests, keeps no
state but bounded rate limits, and never sends much more than it received: MAX_AMPLIFICATION, counted on the
wire. There are three kinds of requests:

- Tailscale's, with its SOFTWARE and a FINGERPRINT: 32 bytes answer 40. Always answered.
- Any other of RFC 8489. Answered within a limit per network, unless only Tailscale's clients are served.
- Those of RFC 3489, which have no cookie. Their clients always send one CHANGE-REQUEST and nothing else, by
  which they are told from noise. Answered as the second kind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import NamedTuple

from stun.messages import (
    CHANGE_ADDRESS,
    CHANGE_PORT,
    COMPREHENSION_OPTIONAL,
    HEADER_SIZE,
    TAILSCALE_SOFTWARE,
    UNKNOWN_ATTRIBUTE,
    Attribute,
    MalformedMessage,
    Message,
    MessageType,
    TransportAddress,
    encode,
    encode_address,
    encode_mapped,
    encode_xor_address,
    is_plain_tailscale_request,
    parse_request_untrusted,
)
from stun.ratelimit import NetworkLimit

MAX_AMPLIFICATION = 2.1
"""Bytes of a reply per byte of its request, IP and UDP headers counted. Reached over IPv6 with RFC 5780 only;
1.4 otherwise."""

REFUSED_PORTS = frozenset({0, 7, 17, 19, 53, 111, 123, 137, 161, 389, 1900, 5353, 11211})
"""Source ports of services that would answer our answer, or that floods are made to seem to come from."""

REQUESTS_PER_SECOND = 200.0
REQUESTS_BURST = 1000.0
WISHES_PER_SECOND = 20.0
WISHES_BURST = 100.0
"""Per source network: requests that are not Tailscale's; those that want the answer from or to elsewhere."""


class DropReason(Enum):
    """Why a datagram gets no reply."""

    MALFORMED = "malformed"
    NOT_A_BINDING_REQUEST = "not_a_binding_request"
    NO_MAGIC_COOKIE = "no_magic_cookie"
    NOT_TAILSCALE = "not_tailscale"
    SUSPICIOUS_PORT = "suspicious_port"
    NO_OTHER_ADDRESS = "no_other_address"
    RATE_LIMIT = "rate_limit"


class Reply(NamedTuple):
    """A datagram, which of our addresses it must come from, and the port of the asker it goes to."""

    datagram: bytes
    sender: TransportAddress
    port: int


class _Wish(NamedTuple):
    """What RFC 5780 lets a request ask for, besides an answer."""

    flags: int
    port: int | None

    @property
    def is_plain(self) -> bool:
        return not self.flags and self.port is None


@dataclass(frozen=True, slots=True)
class AddressPair:
    """Two addresses of one family with two ports, which make the four endpoints of RFC 5780."""

    primary: TransportAddress
    secondary: TransportAddress

    def __post_init__(self) -> None:
        if (":" in self.primary.host) != (":" in self.secondary.host):
            raise ValueError(f"{self.primary} and {self.secondary} are of different families")
        if self.primary.host == self.secondary.host or self.primary.port == self.secondary.port:
            raise ValueError(f"{self.primary} and {self.secondary} must differ in address and port")

    def endpoints(self) -> list[TransportAddress]:
        """Each address with each port."""
        hosts = self.primary.host, self.secondary.host
        ports = self.primary.port, self.secondary.port
        return [TransportAddress(host, port) for host, port in product(hosts, ports)]

    def seen_from(self, endpoint: TransportAddress, flags: int) -> TransportAddress:
        """The endpoint that the flags of a CHANGE-REQUEST to this one ask for."""
        host, port = endpoint
        if flags & CHANGE_ADDRESS:
            host = self.secondary.host if host == self.primary.host else self.primary.host
        if flags & CHANGE_PORT:
            port = self.secondary.port if port == self.primary.port else self.primary.port
        return TransportAddress(host, port)


class Responder:
    """See the module. Counts what it answered, by family, and what it dropped, by reason."""

    def __init__(self, pairs: tuple[AddressPair, ...] = (), *, only_tailscale: bool = False) -> None:
        """`pairs`: at most one per family, whose endpoints are all served."""
        self.answers: Counter[str] = Counter()
        self.drops: Counter[DropReason] = Counter()
        self._pairs = {endpoint: pair for pair in pairs for endpoint in pair.endpoints()}
        self._only_tailscale = only_tailscale
        self._requests = NetworkLimit(REQUESTS_PER_SECOND, REQUESTS_BURST)
        self._wishes = NetworkLimit(WISHES_PER_SECOND, WISHES_BURST)

    def respond(
        self, datagram: bytes, source: TransportAddress, local: TransportAddress, now: float
    ) -> Reply | DropReason:
        """The reply to a datagram that came from `source` to our address `local`. Cannot fail."""
        outcome = self._judge(datagram, source, local, now)
        if isinstance(outcome, DropReason):
            self.drops[outcome] += 1
        else:
            self.answers["ipv6" if ":" in source.host else "ipv4"] += 1
        return outcome

    def _judge(
        self, datagram: bytes, source: TransportAddress, local: TransportAddress, now: float
    ) -> Reply | DropReason:
        if (
            is_plain_tailscale_request(datagram)
            and local not in self._pairs
            and source.port not in REFUSED_PORTS
        ):
            return Reply(encode_mapped(source, datagram[4:HEADER_SIZE]), local, source.port)
        try:
            request = parse_request_untrusted(datagram)
        except MalformedMessage:
            return DropReason.MALFORMED
        if request.message_type != MessageType.BINDING_REQUEST:
            return DropReason.NOT_A_BINDING_REQUEST
        if source.port in REFUSED_PORTS:
            return DropReason.SUSPICIOUS_PORT
        if not request.has_cookie and not _is_of_rfc_3489(request):
            return DropReason.NO_MAGIC_COOKIE
        is_tailscale = _is_tailscale(request)
        if self._only_tailscale and not is_tailscale:
            return DropReason.NOT_TAILSCALE
        wish = _wish(request)
        if wish.port in REFUSED_PORTS:
            return DropReason.SUSPICIOUS_PORT
        if not self._within_limits(source, is_tailscale, wish, now):
            return DropReason.RATE_LIMIT
        return self._answer(request, wish, source, local)

    def _within_limits(self, source: TransportAddress, is_tailscale: bool, wish: _Wish, now: float) -> bool:
        if not wish.is_plain and not self._wishes.allows(source.host, now):
            return False
        return is_tailscale or self._requests.allows(source.host, now)

    def _answer(
        self, request: Message, wish: _Wish, source: TransportAddress, local: TransportAddress
    ) -> Reply | DropReason:
        pair = self._pairs.get(local)
        if pair is None and wish.flags and not request.has_cookie:
            return DropReason.NO_OTHER_ADDRESS  # those clients know no errors: silence says "filtered"
        not_understood = _not_understood(request, wish, has_other_address=pair is not None)
        if not_understood:
            return Reply(_error(request, not_understood), local, source.port)
        sender = pair.seen_from(local, wish.flags) if pair else local
        other = pair.seen_from(local, CHANGE_ADDRESS | CHANGE_PORT) if pair else None
        port = source.port if wish.port is None else wish.port
        return Reply(_success(request, source, sender, other), sender, port)


def _is_of_rfc_3489(request: Message) -> bool:
    match request.attributes:
        case ((Attribute.CHANGE_REQUEST, value),):
            return len(value) == 4 and int.from_bytes(value, "big") in range(0, 8, 2)
    return False


def _is_tailscale(request: Message) -> bool:
    return (
        request.get(Attribute.SOFTWARE) == TAILSCALE_SOFTWARE
        and request.get(Attribute.FINGERPRINT) is not None
    )


def _wish(request: Message) -> _Wish:
    flags = int.from_bytes((request.get(Attribute.CHANGE_REQUEST) or b"")[:4], "big")
    port = request.get(Attribute.RESPONSE_PORT)
    return _Wish(
        flags & (CHANGE_ADDRESS | CHANGE_PORT), None if port is None else int.from_bytes(port[:2], "big")
    )


def _not_understood(request: Message, wish: _Wish, *, has_other_address: bool) -> list[int]:
    """Types of attributes that must not be ignored and cannot be honoured (RFC 5780 §6.1, §7)."""
    understood: set[int] = {Attribute.CHANGE_REQUEST, Attribute.RESPONSE_PORT}
    if not has_other_address:
        understood.discard(Attribute.RESPONSE_PORT)
        if wish.flags:
            understood.discard(Attribute.CHANGE_REQUEST)
    return [
        kind for kind, _ in request.attributes if kind < COMPREHENSION_OPTIONAL and kind not in understood
    ]


def _error(request: Message, not_understood: list[int]) -> bytes:
    """420 (Unknown Attribute). The reason phrase is for people, and left out to stay small."""
    hundreds, rest = divmod(UNKNOWN_ATTRIBUTE, 100)
    kinds = sorted(set(not_understood))
    return encode(
        MessageType.BINDING_ERROR,
        request.identifier,
        [
            (Attribute.ERROR_CODE, bytes([0, 0, hundreds, rest])),
            (Attribute.UNKNOWN_ATTRIBUTES, b"".join(kind.to_bytes(2, "big") for kind in kinds)),
        ],
    )


def _success(
    request: Message, source: TransportAddress, sender: TransportAddress, other: TransportAddress | None
) -> bytes:
    attributes: list[tuple[int, bytes]] = []
    if request.has_cookie:
        mapped = encode_xor_address(source, request.identifier)
        attributes.append((Attribute.XOR_MAPPED_ADDRESS, mapped))
        if other is not None:
            attributes.append((Attribute.RESPONSE_ORIGIN, encode_address(sender)))
            attributes.append((Attribute.OTHER_ADDRESS, encode_address(other)))
    else:
        attributes.append((Attribute.MAPPED_ADDRESS, encode_address(source)))
        attributes.append((Attribute.SOURCE_ADDRESS, encode_address(sender)))
        if other is not None:
            attributes.append((Attribute.CHANGED_ADDRESS, encode_address(other)))
    return encode(MessageType.BINDING_SUCCESS, request.identifier, attributes)
