"""`meshnode debug`: commands that look into the running node."""

from __future__ import annotations

import click

from meshnode.cli.grammar import LazyGroup, socket_option

COMMANDS = {
    "paths": ("meshnode.cli.debug_paths", "How a peer is reached, and why that way"),
    "dataplane": ("meshnode.cli.debug_dataplane", "What moves packets, and what went no further"),
    "derp-map": ("meshnode.cli.debug_derp_map", "The relays that the coordinator offers"),
}


@click.group("debug", cls=LazyGroup, where=COMMANDS, context_settings={"help_option_names": ["--help", "-h"]})
def command() -> None:
    """Look into the running node. What these print may change from version to version, their JSON less so."""


command.params.append(socket_option())
