"""How a command line reads: Go's flag rules, as users of Tailscale's command line know them.

One or two dashes; `--flag value` and `--flag=value`; a boolean is `--x` or `--x=false` and never takes the
next word; a flag given twice is an error (node behaviour §2.1). Commands are imported when they are called,
so that `meshnode status` does not wait for what only `meshnode daemon` needs.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

from meshnode.cli.errors import CommandError

Callback = TypeVar("Callback", bound=Callable[..., Any])

_SINGLE_DASH_FLAG = re.compile(r"-[a-z][a-z0-9-]+(=.*)?", re.DOTALL)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS_BY_UNIT = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Boolean(click.ParamType[bool]):
    """`true` or `false` in the spellings that Go's flag package takes."""

    name = "bool"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        if isinstance(value, bool):
            return value
        if value in ("1", "t", "T", "true", "TRUE", "True"):
            return True
        if value in ("0", "f", "F", "false", "FALSE", "False"):
            return False
        return self.fail(f'"{value}" is not true or false', param, ctx)


class Duration(click.ParamType[float]):
    """Seconds from a Go duration: `30s`, `5m`, `1h30m`, or 0."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, (int, float)):
            return float(value)
        if value == "0":
            return 0.0
        if not value or _DURATION.sub("", value):
            self.fail(f'"{value}" is not a duration; write it as 30s, 5m or 1h30m', param, ctx)
        return sum(float(number) * _SECONDS_BY_UNIT[unit] for number, unit in _DURATION.findall(value))


def flag(*names: str, default: Any = None, **attributes: Any) -> Callable[[Callback], Callback]:
    """A flag with a value. Without one on the line it is None, unless a default is given."""
    return click.option(*names, default=default, **attributes)


def switch(*names: str, default: bool | None = None, **attributes: Any) -> Callable[[Callback], Callback]:
    """A boolean flag: `--x`, `--x=true`, `--x=false`. Without it None, unless a default is given."""
    return click.option(*names, type=Boolean(), default=default, metavar="", **attributes)


class Command(click.Command):
    """A command that reads its line by Go's rules and knows the global `--socket`."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        attributes.setdefault("context_settings", {})
        attributes["context_settings"].setdefault("help_option_names", ["--help", "-h"])
        super().__init__(*args, **attributes)
        self.params.append(socket_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        args = self._as_click_writes_it(args)
        _, extra, given = self.make_parser(ctx).parse_args(list(args))
        for parameter in given:
            if given.count(parameter) > 1 and isinstance(parameter, click.Option) and not parameter.multiple:
                raise click.UsageError(f"flag {_long_name(parameter)} is given twice", ctx)
        if extra:
            raise unexpected_arguments(ctx, extra)
        return super().parse_args(ctx, args)

    def _as_click_writes_it(self, args: Sequence[str]) -> list[str]:
        """Two dashes, and a value behind every boolean."""
        booleans = {
            name
            for parameter in self.params
            if isinstance(parameter, click.Option) and isinstance(parameter.type, Boolean)
            for name in parameter.opts
        }
        words: list[str] = []
        for position, word in enumerate(args):
            if word == "--":
                return [*words, *args[position:]]
            if _SINGLE_DASH_FLAG.fullmatch(word):
                word = "-" + word
            name, equals, value = word.partition("=")
            words += [name, value if equals else "true"] if name in booleans else [word]
        return words


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported when they are called."""

    command_class = Command

    def __init__(self, *args: Any, where: dict[str, tuple[str, str]], **attributes: Any) -> None:
        """`where` maps a command's name to its module and its one-line help."""
        super().__init__(*args, **attributes)
        self._where = where

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._where)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._where:
            return None
        module, _ = self._where[cmd_name]
        command = importlib.import_module(module).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._where:
            raise CommandError(
                f'unknown command "{args[0]}"{did_you_mean(args[0], self._where)}; '
                f'see "{ctx.command_path} --help"'
            )
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(
            ctx, ["-" + w if _SINGLE_DASH_FLAG.fullmatch(w) else w for w in args[:1]] + args[1:]
        )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands and their one-line helps, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in self._where.items()])


def socket_option() -> click.Option:
    """`--socket`, valid before and after the command's name."""
    return click.Option(
        ["--socket"],
        metavar="PATH",
        help="Unix socket of the daemon (default: $MESHNODE_SOCKET, else /run/meshnode/meshnode.sock).",
        expose_value=False,
        callback=_remember_socket,
    )


def _remember_socket(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(dict)["socket"] = value


def unexpected_arguments(ctx: click.Context, extra: Sequence[str]) -> CommandError:
    """Words that belong to no flag: a mistake of its own kind, exit status 1."""
    return CommandError(f'unexpected argument "{extra[0]}"; see "{ctx.command_path} --help"')


def explain(error: click.UsageError) -> str:
    """A mistake on the line, and where the right way to write it is described, in one line."""
    if isinstance(error, click.NoSuchOption):
        known = [] if error.ctx is None else [name for p in error.ctx.command.params for name in p.opts]
        message = f"unknown flag {error.option_name}{did_you_mean(error.option_name, known)}"
    elif (
        isinstance(error, click.BadParameter)
        and error.param is not None
        and not isinstance(error, click.MissingParameter)
    ):
        message = f"bad value for {_long_name(error.param)}: {error.message.rstrip('.')}"
    else:
        message = error.format_message().rstrip(".")
        message = message[:1].lower() + message[1:]
    return message if error.ctx is None else f'{message}; see "{error.ctx.command_path} --help"'


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """A question to append to the complaint, or nothing."""
    close = difflib.get_close_matches(wrong, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _long_name(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Option):
        return max(parameter.opts, key=len)
    return str(parameter.human_readable_name)
