"""`meshnode debug derp-map`: the relays that the coordinator offers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from meshnode.cli.grammar import Command, switch
from meshnode.cli.peers import Json
from meshnode.cli.session import local_client

STUN_PORT = 3478
DERP_PORT = 443


@click.command("derp-map", cls=Command)
@switch("--json", "as_json", default=False, help="Print the map as the coordinator sent it.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show the DERP regions and their relays."""
    derp_map: Json = json.loads(local_client(ctx).derp_map())
    if as_json:
        click.echo(json.dumps(derp_map, indent=2, ensure_ascii=False))
        return
    regions = (derp_map.get("Regions") or {}).values()
    for region in sorted(regions, key=lambda one: one["RegionID"]):
        for line in describe_region(region):
            click.echo(line)


def describe_region(region: Json) -> Iterator[str]:
    """A line for the region, and one for each of its relays."""
    remarks = "".join(
        f", {text}"
        for text, applies in (
            ("to be avoided", region.get("Avoid")),
            ("never a home", region.get("NoMeasureNoHome")),
        )
        if applies
    )
    yield f"{region['RegionID']} {region['RegionCode']} ({region['RegionName']}){remarks}"
    for node in region["Nodes"] or ():
        yield f"    {node['Name']}: {', '.join(_services(node))}"


def _services(node: Json) -> Iterator[str]:
    addresses = [node[family] for family in ("IPv4", "IPv6") if node.get(family) not in (None, "", "none")]
    yield node["HostName"] + (f" [{', '.join(addresses)}]" if addresses else "")
    if not node.get("STUNOnly"):
        yield f"DERP port {node.get('DERPPort') or DERP_PORT}"
    stun = node.get("STUNPort") or STUN_PORT
    yield "no STUN" if stun < 0 else f"STUN port {stun}"
    if node.get("InsecureForTests"):
        yield "certificate not checked"
