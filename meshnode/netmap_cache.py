"""The last network map on disk, with which a node starts while its coordinator is down."""

from __future__ import annotations

import asyncio
import logging
import time

from meshnode.netmap.session import MapSession, NetworkMap
from meshnode.state import StateDir, StateError
from meshproto.codec import MalformedMessage, decode, encode
from meshproto.keys import NodePublic
from meshproto.messages import MapResponse

log = logging.getLogger(__name__)

SAVE_DELAY_S = 1.0
"""Maps come in bursts; a burst is written once."""


class NetmapCache:
    """Written a moment after each map, and at the end. A cache that is no use is worth a warning only."""

    def __init__(self, store: StateDir) -> None:
        self._store = store
        self._unsaved: NetworkMap | None = None
        self._saver: asyncio.Task[None] | None = None

    def load(self, key: NodePublic) -> NetworkMap | None:
        """The cached map, if it was made for this node key."""
        try:
            data = self._store.load_netmap()
            if data is None:
                return None
            network_map = MapSession().apply(decode(data, MapResponse), time.time())
        except (StateError, MalformedMessage, ValueError) as error:
            log.warning("the cached network map cannot be used, starting without it: %s", error)
            return None
        return network_map if network_map is not None and network_map.self_node.key == key else None

    def save_soon(self, network_map: NetworkMap) -> None:
        """Write this map, or a later one, in a moment."""
        self._unsaved = network_map
        if self._saver is None or self._saver.done():
            self._saver = asyncio.create_task(self._save_after_delay(), name="save the map")

    async def close(self) -> None:
        """Write what is not written yet."""
        await self._end_saver()
        if self._unsaved is not None:
            self._write(self._unsaved)

    async def forget(self) -> None:
        """Delete the cached map: the login it belongs to is over."""
        await self._end_saver()
        self._unsaved = None
        self._store.delete_netmap()

    async def _save_after_delay(self) -> None:
        while self._unsaved is not None:
            await asyncio.sleep(SAVE_DELAY_S)
            network_map, self._unsaved = self._unsaved, None
            await asyncio.to_thread(self._write, network_map)

    def _write(self, network_map: NetworkMap) -> None:
        try:
            self._store.save_netmap(encode(network_map.to_response()))
        except StateError as error:
            log.warning("the network map is not cached: %s", error)

    async def _end_saver(self) -> None:
        if self._saver is not None:
            self._saver.cancel()
            await asyncio.gather(self._saver, return_exceptions=True)
