"""`meshnode debug dataplane`: what moves packets on this node, and what went no further."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from meshnode.cli.grammar import Command, switch
from meshnode.cli.peers import Json
from meshnode.cli.session import local_client

OFFLOADS = (
    ("TunTCP", "TCP from the tunnel in superpackets (TSO)"),
    ("TunUDP", "UDP from the tunnel in superpackets (USO)"),
    ("MergeTCP", "TCP to the tunnel in superpackets"),
    ("MergeUDP", "UDP to the tunnel in superpackets"),
    ("UDPGSO", "datagrams sent in batches (UDP GSO)"),
    ("UDPGRO", "datagrams received in batches (UDP GRO)"),
)


@click.command("dataplane", cls=Command)
@switch("--json", "as_json", default=False, help="Print for programs.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show which kernel seals and opens packets, the offloads in use, and drops by reason."""
    document = local_client(ctx).data_plane()
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for line in describe(document):
        click.echo(line)


def describe(document: Json) -> Iterator[str]:
    """The lines for a person."""
    if document["Kernel"] == "native":
        yield "Kernel: native"
    else:
        yield f"Kernel: pure Python, because {document['WhyPure']}"
    yield "Offloads:"
    for name, meaning in OFFLOADS:
        yield f"    {'yes' if document[name] else 'no ':3} {meaning}"
    drops = document["Drops"]
    overflow = document["ReceiveOverflow"]
    if not drops and not overflow:
        yield "Drops: none"
        return
    yield "Drops:"
    for reason, count in sorted(drops.items(), key=lambda one: -one[1]):
        yield f"    {count:>9} {reason}"
    if overflow:
        yield f"    {overflow:>9} came faster than they were read"
