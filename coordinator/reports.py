"""What a node reports of itself in map requests, and what becomes of its record (control-protocol §7)."""

from __future__ import annotations

from dataclasses import replace

from coordinator.errors import NotFound
from coordinator.model import NodeRecord
from coordinator.registration import MAX_HOSTNAME, merged_hostinfo, renamed_to_host
from coordinator.store import View
from meshproto.keys import MachinePublic
from meshproto.messages import MapRequest

MAX_ENDPOINTS = 32  # reported endpoints that are kept; a real node has a handful


def node_of(view: View, machine_key: MachinePublic, request: MapRequest) -> NodeRecord:
    """The node that sends `request`. Raises NotFound, also when the node key is another machine's."""
    node_id = view.node_ids_by_node_key.get(request.node_key)
    if node_id is None or view.nodes[node_id].machine_key != machine_key:
        raise NotFound("node not found")
    return view.nodes[node_id]


def updated(view: View, node: NodeRecord, request: MapRequest) -> NodeRecord:
    """The record with what `request` reports.

    A zero disco key or absent hostinfo says nothing and changes nothing.
    """
    hostinfo = merged_hostinfo(node.hostinfo, request.hostinfo)
    hostname = hostinfo.hostname[:MAX_HOSTNAME]
    endpoints = tuple(request.endpoints)[:MAX_ENDPOINTS]
    if set(endpoints) == set(node.endpoints):
        endpoints = node.endpoints
    return replace(
        node,
        disco_key=node.disco_key if request.disco_key.is_zero else request.disco_key,
        endpoints=endpoints,
        hostinfo=hostinfo,
        hostname=hostname,
        given_name=renamed_to_host(node, hostname, view.node_ids_by_name),
        capability_version=request.version,
    )
