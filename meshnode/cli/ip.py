"""`meshnode ip`: addresses in the mesh, one a line."""

from __future__ import annotations

import click

from meshnode.cli.errors import CommandError
from meshnode.cli.grammar import Command, switch
from meshnode.cli.peers import find_peer
from meshnode.cli.session import local_client


@click.command("ip", cls=Command)
@switch("-4", "only_ipv4", default=False, help="Only the IPv4 address.")
@switch("-6", "only_ipv6", default=False, help="Only the IPv6 address.")
@switch("-1", "only_one", default=False, help="Only the first address.")
@click.argument("peer", required=False)
@click.pass_context
def command(ctx: click.Context, only_ipv4: bool, only_ipv6: bool, only_one: bool, peer: str | None) -> None:
    """Show the addresses of this node, or of PEER (its name or an address), one a line."""
    chosen = [name for name, on in (("-1", only_one), ("-4", only_ipv4), ("-6", only_ipv6)) if on]
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other", ctx)
    status = local_client(ctx).status(peers=peer is not None)
    addresses: list[str] = list(status.get("TailscaleIPs") or ())
    if not addresses:
        raise CommandError(
            f'this node has no address, its state is {status["BackendState"]}; connect it with "meshnode up"'
        )
    if peer is not None:
        addresses = list(find_peer(status, peer)["TailscaleIPs"] or ())
    if only_ipv4 or only_ipv6:
        addresses = [address for address in addresses if (":" in address) == only_ipv6]
    if not addresses:
        raise CommandError(f"{peer or 'this node'} has no IPv{6 if only_ipv6 else 4} address")
    click.echo("\n".join(addresses[:1] if only_one else addresses))
