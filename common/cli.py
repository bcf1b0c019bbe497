"""The command ``plgl``: finds the sub-commands of each side and turns what goes wrong into a line and an exit code.

Exit codes: 0 done, 1 failed, 2 used wrongly, 3 stopped and can be resumed.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import EntryPoint
from typing import Any

import click
import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup
from typer.main import get_command, get_group
from typer.rich_utils import rich_format_error

from common.errors import Interrupted, PlglError, StorageError
from common.version import version

GROUP = "plgl.commands"
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_INTERRUPTED = "interrupted; what is finished is kept, give the same command again to go on"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}


class Commands(TyperGroup):
    """Sub-commands that are imported when they are called.

    Guarantee: calling one command imports no other. Help imports all of them for their first lines, so a module
    named in the entry-point group imports heavy libraries inside its commands only. One that cannot be imported is
    listed with the reason, and the others still work.
    """

    def __init__(self, entries: Iterable[EntryPoint]) -> None:
        """Take the entry points; each names a ``typer.Typer`` with at least one command."""
        self._entries = {entry.name: entry for entry in entries}
        option = click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_print_version,
            help="Show the version.",
        )
        super().__init__(
            name="plgl",
            params=[option],
            help="Private, on-device preference learning for generative models.",
            no_args_is_help=True,
            rich_markup_mode="rich",
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, sorted."""
        return sorted(self._entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now; one that raises when called if it cannot be imported."""
        entry = self._entries.get(cmd_name)
        return None if entry is None else load(entry)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; Ctrl-C becomes ``Interrupted`` here, before typer turns it into exit code 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted(_INTERRUPTED) from None


def load(entry: EntryPoint) -> click.Command:
    """Import the ``typer.Typer`` an entry point names.

    Returns:
        It as a click group. If it cannot be imported, a command that says why in its help and raises ``PlglError``
        when it is called: one broken part must not take the others away.
    """
    try:
        app = entry.load()
        if not isinstance(app, typer.Typer):
            raise TypeError(f"it is a {type(app).__name__}, not a typer.Typer")
        # an application whose only command has the entry's own name is that command: `plgl rate`, not `plgl rate rate`
        alone = [command.name for command in app.registered_commands] == [entry.name] and not app.registered_groups
        command: click.Command = get_command(app) if alone else get_group(app)
    except Exception as error:  # an import may raise anything
        return _broken(entry, error)
    command.name = entry.name
    return command


def _broken(entry: EntryPoint, error: Exception) -> click.Command:
    message = f"{entry.value} cannot be loaded: {type(error).__name__}: {error}"

    def refuse() -> None:
        raise PlglError(f"command {entry.name!r}: {message}; install plgl again") from error

    return click.Command(
        entry.name,
        callback=refuse,
        help=message,
        short_help=message,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        print(f"plgl {version()}")
        ctx.exit()


def run(arguments: Sequence[str], entries: Iterable[EntryPoint]) -> int:
    """Run one command line.

    Guarantee: what this project raises on purpose ends as one line ``error: ...`` on standard error; with ``--json``
    as one object ``{"success": false, "error-message": ...}`` on standard output, as Flower's own command does.
    Anything else is a mistake in the program and keeps its traceback.

    Args:
        arguments: what was typed after ``plgl``.
        entries: the sub-commands.

    Returns:
        The exit code.
    """
    as_json = "--json" in arguments
    try:
        code = Commands(entries).main(args=list(arguments), prog_name="plgl", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        if error.message:  # empty where rich has printed the help already
            print(error.message)
        return error.exit_code
    except click.ClickException as error:
        if as_json:
            _say(error.format_message(), as_json)
        else:
            rich_format_error(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):  # a question answered with Ctrl-C or no
        _say(_INTERRUPTED, as_json)
        return Interrupted.exit_code
    except PlglError as error:
        _say(str(error), as_json)
        return error.exit_code
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        _say(f"the disk is full{where}; free some space or choose another folder", as_json)
        return StorageError.exit_code
    return code if isinstance(code, int) else 0


def _say(message: str, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"success": False, "error-message": message}))
        return
    # Text, not markup: a message may hold brackets
    Console(stderr=True).print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True, highlight=False)


def main() -> None:
    """The ``plgl`` command. Nothing it starts reports usage to anybody unless the environment asks for it."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    sys.exit(run(sys.argv[1:], importlib.metadata.entry_points(group=GROUP)))
