"""The command classes: aliases, the flags that every command takes, help sections and mistyped words.

Everything here is about how a line reads; what a command does is in the modules that are named after it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from coordinator.cli.arguments import spelled_out
from coordinator.cli.invocation import Invocation
from coordinator.cli.values import OutputFormat

Callback = TypeVar("Callback", bound=Callable[..., Any])

HELP_FLAGS = ("-h", "--help")
SWITCHES = frozenset(
    {*HELP_FLAGS, "--force", "--version"}
)  # flags before the command words that take no value


class Flag(click.Option):
    """A flag with `former` spellings: accepted as before, shown nowhere."""

    def __init__(self, declarations: Sequence[str], *, former: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__([*declarations, *former], **attributes)
        self.former = frozenset(former)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The two columns of the help, without the former spellings."""
        everything = self.opts
        self.opts = [name for name in everything if name not in self.former]
        try:
            return super().get_help_record(ctx)
        finally:
            self.opts = everything


class SharedFlag(Flag):
    """A flag of every command; its value goes to the Invocation, whichever command word it followed."""

    def __init__(self, declarations: Sequence[str], **attributes: Any) -> None:
        super().__init__(declarations, expose_value=False, callback=_remember, **attributes)


def flag(*declarations: str, former: Sequence[str] = (), **attributes: Any) -> Callable[[Callback], Callback]:
    """Decorate a command with a `Flag`."""
    return click.option(*declarations, cls=Flag, former=former, **attributes)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name is not None:
        setattr(context.ensure_object(Invocation), parameter.name, value)


def _shared_flags() -> list[click.Parameter]:
    return [
        SharedFlag(
            ["-c", "--config"],
            metavar="FILE",
            envvar="COORDINATOR_CONFIG",
            help="Configuration file (also $COORDINATOR_CONFIG). Without it /etc/coordinator/config.yaml "
            "is read where there is one.",
        ),
        SharedFlag(
            ["--socket"],
            metavar="PATH",
            envvar="COORDINATOR_SOCKET",
            help="Admin socket of the coordinator (also $COORDINATOR_SOCKET), instead of the configuration's "
            "unix_socket.",
        ),
        SharedFlag(
            ["-o", "--output"],
            type=OutputFormat(),
            metavar="FORMAT",
            help='Print for programs: json, yaml or json-line (one line). Errors too, as {"error": …}.',
        ),
        SharedFlag(["--force"], is_flag=True, help="Answer every confirmation with yes."),
    ]


class Shared(click.Command):
    """What commands and groups have in common."""

    def __init__(self, *args: Any, aliases: Sequence[str] = (), **attributes: Any) -> None:
        settings = {"help_option_names": list(HELP_FLAGS), "max_content_width": 100}
        attributes["context_settings"] = {**settings, **attributes.get("context_settings", {})}
        super().__init__(*args, **attributes)
        self.aliases = tuple(aliases)
        self.params.extend(_shared_flags())

    def get_short_help_str(self, limit: int = 0) -> str:
        """The first sentence, whole: the list of commands wraps it."""
        return super().get_short_help_str(max(limit, 1000))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command's own flags, then those that every command takes."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                is_shared = isinstance(parameter, SharedFlag) or HELP_FLAGS[-1] in parameter.opts
                (shared if is_shared else own).append(record)
        for title, records in (("Flags", own), ("Global flags", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Other names of the command, and its examples as they are written."""
        if self.aliases:
            with formatter.section("Also known as"):
                formatter.write_text(", ".join(self.aliases))
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.strip().splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")


class Command(Shared):
    """A command that does something."""

    @property
    def is_leaf(self) -> bool:
        return True

    def child(self, word: str) -> None:
        """No command word follows."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """`NAME [flags]`, as the field's tools write it."""
        arguments = [piece for p in self.get_params(ctx) for piece in p.get_usage_pieces(ctx)]
        return [*arguments, "[flags]"]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but a line that lacks several things or has too many words is told more of it."""
        try:
            args = self._as_click_writes_it(args)
            _, extra, given = self.make_parser(ctx).parse_args(list(args))
            if extra and not any(HELP_FLAGS[-1] in parameter.opts for parameter in given):
                raise click.UsageError(f'unexpected "{extra[0]}"{self._place_for(ctx, extra[0])}')
            return super().parse_args(ctx, args)
        except click.MissingParameter as missing:
            raise self._missing(ctx, missing) from missing
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def _as_click_writes_it(self, args: Sequence[str]) -> list[str]:
        options = [parameter for parameter in self.params if isinstance(parameter, click.Option)]
        switches = frozenset(name for option in options if option.is_flag for name in option.opts)
        try:
            return spelled_out(args, switches | set(HELP_FLAGS))
        except ValueError as error:
            raise click.UsageError(str(error)) from error

    def _place_for(self, ctx: click.Context, word: str) -> str:
        """Where a word that stands alone was probably meant to go."""
        known = {name for parameter in self.params for name in parameter.opts}
        candidates = ("--identifier", "--id") if word.isdecimal() else ("--name",)
        naming = next((name for name in candidates if name in known), None)
        return f"; did you mean {naming} {word}?" if naming else f"; usage: {self._usage(ctx)}"

    def _usage(self, ctx: click.Context) -> str:
        return " ".join([ctx.command_path, *self.collect_usage_pieces(ctx)])

    def _missing(self, ctx: click.Context, first: click.MissingParameter) -> click.UsageError:
        if isinstance(first.param, click.Argument):
            name = first.param.human_readable_name
            return click.UsageError(f"missing parameters: {name}; usage: {self._usage(ctx)}", ctx)
        # What the line gives is processed before what it lacks: flags that have no value yet are absent.
        absent = [p for p in self.get_params(ctx) if p.required and ctx.params.get(p.name or "") is None]
        names = ", ".join(f'"{_long_name(p)}"' for p in absent if isinstance(p, click.Option))
        return click.UsageError(f"required flag(s) {names} not set", ctx)


class Group(Shared, click.Group):
    """A command word that others follow. Without one it prints its help."""

    command_class = Command

    def __init__(self, *args: Any, **attributes: Any) -> None:
        attributes.setdefault("invoke_without_command", True)
        super().__init__(*args, **attributes)
        self.callback = _help_if_alone

    @property
    def is_leaf(self) -> bool:
        return False

    def child(self, word: str) -> Command | Group | None:
        """The command of that name or alias."""
        for command in self.commands.values():
            if isinstance(command, Command | Group) and word in (command.name, *command.aliases):
                return command
        return None

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name or alias."""
        return self.child(cmd_name)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands, then the flags."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a node's life rather than of the alphabet: the order they were defined in."""
        return list(self.commands)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """`COMMAND [flags]`."""
        return ["COMMAND", "[flags]"]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the next word names. Raises UsageError that says what was probably meant."""
        if self.child(args[0]) is None and not ctx.resilient_parsing:
            raise click.UsageError(
                f'unknown command "{args[0]}" for "{ctx.command_path}"{self._meant(args[0])}', ctx
            )
        return super().resolve_command(ctx, args)

    def _meant(self, word: str) -> str:
        former = FORMER_COMMANDS.get(word)
        if former is not None:
            return f"; {former}"
        known = [
            name
            for command in self.commands.values()
            if not command.hidden
            for name in (command.name or "", *getattr(command, "aliases", ()))
        ]
        return did_you_mean(word, known)


FORMER_COMMANDS = {  # words of Headscale's older command line that have another home now
    "routes": "use `coordinator nodes list-routes` and `coordinator nodes approve-routes`",
}


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "list"?`, or nothing where no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _help_if_alone() -> None:
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _long_name(parameter: click.Parameter) -> str:
    return next(name for name in parameter.opts if name.startswith("--")).removeprefix("--")
