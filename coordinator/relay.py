"""The relay inside the coordinator: DERP at the public listener, beside the control connections."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

from aiohttp import web

from coordinator.bootstrap_dns import BootstrapDns
from coordinator.changes import Change
from coordinator.config import Config
from coordinator.derp_map import EmbeddedRegion, Place, Relays
from coordinator.relay_certificate import CertificateMaker
from coordinator.relay_tls import server_context
from coordinator.state import State
from coordinator.store import Snapshot
from coordinator.stun_servers import StunServers
from derp import metrics
from derp.front import Front, HttpServer
from derp.server import RelayServer
from derp.server_core import ServerCore
from derp.session import Admission
from derp.web import add_routes
from meshproto.exposition import CONTENT_TYPE, Sample, exposition
from meshproto.keys import NodePrivate
from stun.responder import Responder


def with_embedded(others: Relays, config: Config, relay_key: NodePrivate, stun: StunServers) -> Relays:
    """`others` and the relay inside, unless the configuration keeps that out of the map."""
    relay = config.relay
    if not relay.adds_region:
        return others
    region = EmbeddedRegion(
        relay.region_id,
        relay.region_code,
        relay.region_name,
        CertificateMaker(relay_key),
        ipv4=relay.ipv4,
        ipv6=relay.ipv6,
        stun_port=stun.port,
        alternate_stun=stun.alternate,
    )
    place = Place.parse(config.server_url)
    return replace(others, embedded=region, place=place)


class EmbeddedRelay:
    """A running relay. Open with `EmbeddedRelay.open`, in whose block its connections live."""

    def __init__(
        self,
        core: ServerCore,
        server: RelayServer,
        tls: ssl.SSLContext | None,
        state: State,
        stun: Responder,
    ) -> None:
        self.core = core
        self.server = server
        self.tls = tls
        """For connections to the public listener that begin with TLS; None where a proxy has that."""
        self._bootstrap_dns = BootstrapDns(state)
        self._stun = stun
        self._known = state.snapshot.node_ids_by_node_key

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: Config, key: NodePrivate, state: State, stun: Responder
    ) -> AsyncIterator[EmbeddedRelay]:
        """Serves nodes that `state` knows, or everybody, as the configuration says."""
        core = ServerCore(key, entropy=os.urandom, verifies_clients=config.relay.verifies_clients)
        place = Place.parse(config.server_url)
        tls = None
        if place is None or not place.is_tls:
            tls = server_context(CertificateMaker(key), key.public, place.host if place else "")

        async def verify(admission: Admission) -> bool:
            return state.is_node_key(admission.key)

        async with RelayServer.open(core, verify) as server:
            relay = cls(core, server, tls, state, stun)
            unsubscribe = state.subscribe(relay._on_change) if core.verifies_clients else None
            try:
                yield relay
            finally:
                if unsubscribe is not None:
                    unsubscribe()

    def add_to(self, app: web.Application) -> None:
        """Its routes in the public listener's application."""
        add_routes(app, self.server)
        app.router.add_get("/bootstrap-dns", self._bootstrap_dns.handle)

    async def show_figures(self, _request: web.Request) -> web.Response:
        """The relay's and the STUN servers' figures, in Prometheus's text format."""
        text = exposition([*metrics.samples(self.core), *_stun_samples(self._stun)])
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    def front(self, http_server: HttpServer) -> Front:
        """Makes the protocols of the public listener: the relay's, or those of `http_server`."""
        return Front(self.server, http_server)

    def _on_change(self, snapshot: Snapshot, _change: Change) -> None:
        """Whoever was removed, or has a new key, does not relay with the old one any longer."""
        known, self._known = self._known, snapshot.node_ids_by_node_key
        if known is self._known:
            return
        for key in known.keys() - self._known.keys():
            self.core.close_key(key.raw)
        self.server.flush()


def _stun_samples(responder: Responder) -> Iterator[Sample]:
    for family in ("ipv4", "ipv6"):
        labels = {"family": family}
        help_text = "STUN requests that were answered."
        yield Sample("stun_answers_total", "counter", help_text, labels, responder.answers[family])
    for reason, count in sorted(responder.drops.items(), key=lambda item: item[0].value):
        labels = {"reason": reason.value}
        yield Sample("stun_drops_total", "counter", "Datagrams without an answer.", labels, count)
