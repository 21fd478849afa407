"""`meshnode metrics`: the daemon's counters, for Prometheus and for people."""

from __future__ import annotations

from pathlib import Path

import click

from derp.files import write_atomically
from meshnode.cli.errors import CommandError
from meshnode.cli.grammar import Command
from meshnode.cli.session import local_client

READABLE_BY_ALL = 0o644


@click.command("metrics", cls=Command)
@click.argument("action", required=False, default="print")
@click.argument("file", required=False)
@click.pass_context
def command(ctx: click.Context, action: str, file: str | None) -> None:
    """Print the daemon's counters in Prometheus's text format, or with `write FILE` put them into a file.

    A file is replaced at once, so that node_exporter's textfile collector never reads half of it.
    """
    if action not in ("print", "write"):
        raise click.UsageError(f'"{action}" is neither print nor write', ctx)
    if (action == "write") != (file is not None):
        raise click.UsageError("write takes a file, and print takes none", ctx)
    text = local_client(ctx).metrics()
    if file is None:
        click.echo(text, nl=False)
        return
    path = Path(file)
    try:
        if not path.parent.is_dir():
            raise CommandError(f"cannot write {file}: there is no directory {path.parent}")
        write_atomically(path, text.encode())
        path.chmod(READABLE_BY_ALL)
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror}") from error
