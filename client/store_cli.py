"""``plgl store``: show, export, import, dump, erase and forget the ratings that lie encrypted on this machine."""

from __future__ import annotations

import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from common.errors import SettingError, StorageError

if TYPE_CHECKING:  # heavy modules are imported inside the commands, so that help stays quick
    from client.store import Store

app = typer.Typer(help="Your ratings, encrypted on this machine: keep, move or delete them.", no_args_is_help=True)


PASSPHRASE, EXPORT_PASSPHRASE = "PLGL_PASSPHRASE", "PLGL_EXPORT_PASSPHRASE"
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Where = Annotated[Path | None, typer.Option("--store", help="The store; without it, the one plgl rate uses.")]
File = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help=f"First line opens the store; else {PASSPHRASE} is read, or you are asked."),
]
ExportFile = Annotated[
    Path | None,
    typer.Option(
        "--export-passphrase-file",
        help=f"First line opens the export; else {EXPORT_PASSPHRASE} is read, or you are asked.",
    ),
]
_PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}  # names may hold brackets
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


class Format(StrEnum):
    """Plain formats."""

    json = "json"
    csv = "csv"


@app.command()
def show(
    store: Where = None,
    passphrase_file: File = None,
    events: Annotated[bool, typer.Option("--events", help="List every event, with the number `erase` takes.")] = False,
    as_json: Json = False,
) -> None:
    """Say what is in the store, and verify every row of it."""
    with _open(store, passphrase_file) as opened:
        about, kept = opened.health(), opened.events()
    kinds = {kind: sum(event.kind == kind for event in kept) for kind in sorted({event.kind for event in kept})}
    lines = [{"id": event.id, "at": event.at, "kind": event.kind, "body": event.body} for event in kept]
    if as_json:
        print(json.dumps(about | {"kinds": kinds} | ({"events": lines} if events else {})))
        return
    console = Console()
    console.print(f"{about['path']}: {about['rows']} events, {about['bytes'] / 1e6:.1f} MB, {about['kdf']}", **_PLAIN)
    console.print("every row is as it was written")
    for kind, count in kinds.items():
        console.print(f"  {kind:10} {count}", **_PLAIN)
    if events:
        console.print(_table(lines))


def _table(lines: list[dict[str, Any]]) -> Table:
    from rich.text import Text

    table = Table("number", "when", "what", "details")
    for line in lines:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line["at"]))
        details = ", ".join(f"{name}={value}" for name, value in line["body"].items() if name != "pack")
        table.add_row(str(line["id"]), when, Text(line["kind"]), Text(details))
    return table


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write; an existing one is replaced.")],
    store: Where = None,
    passphrase_file: File = None,
    export_passphrase_file: ExportFile = None,
    as_json: Json = False,
) -> None:
    """Write everything to one file that a passphrase protects, to keep or to take to another machine."""
    with _open(store, passphrase_file) as opened:
        _not_itself(out, opened)
        phrase = _passphrase(export_passphrase_file, EXPORT_PASSPHRASE, "Passphrase for the export", new=True)
        opened.export(out, phrase)
        rows = opened.health()["rows"]
    said = f"wrote {rows} events to {out}; to use it: plgl store import {out}"
    _say(as_json, {"exported": str(out), "rows": rows}, said)


@app.command("import")
def import_(
    exported: Annotated[Path, typer.Argument(help="A file that `plgl store export` wrote.")],
    store: Where = None,
    passphrase_file: File = None,
    export_passphrase_file: ExportFile = None,
    keyring: Annotated[bool, typer.Option(help="Lock the new store by the system keyring.")] = False,
    as_json: Json = False,
) -> None:
    """Make a store from an export, on this machine or another; there must be none yet."""
    from client.store import Store, default_path

    path = store or default_path()
    if path.expanduser().exists():
        raise SettingError(f"{path} exists; choose another with --store, or first: plgl store forget")
    phrase = _passphrase(export_passphrase_file, EXPORT_PASSPHRASE, "Passphrase of the export")
    new = None if keyring else _passphrase(passphrase_file, PASSPHRASE, "Passphrase for the new store", new=True)
    with Store.import_(exported, phrase, path, new) as made:
        rows = made.health()["rows"]
    _say(as_json, {"store": str(path), "rows": rows}, f"{rows} events are in {path}")


@app.command()
def dump(
    out: Annotated[Path, typer.Argument(help="File to write; an existing one is replaced.")],
    format: Annotated[Format, typer.Option(help="Of the file.")] = Format.json,
    store: Where = None,
    passphrase_file: File = None,
    as_json: Json = False,
) -> None:
    """Write everything to a plain file, which anybody who gets it can read."""
    with _open(store, passphrase_file) as opened:
        _not_itself(out, opened)
        opened.dump(out, format.value)
        rows = opened.health()["rows"]
    said = f"wrote {rows} events to {out}, which is not encrypted; delete it when it has served"
    _say(as_json, {"dumped": str(out), "format": format.value, "rows": rows}, said)


@app.command()
def erase(
    numbers: Annotated[list[int], typer.Argument(help="Of events, as `plgl store show --events` lists them.")],
    store: Where = None,
    passphrase_file: File = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Remove single events for good: their content leaves the file."""
    with _open(store, passphrase_file) as opened:
        known = {event.id for event in opened.events()}
        if missing := sorted(set(numbers) - known):
            listed = ", ".join(map(str, missing))
            raise SettingError(f"there is no event {listed}; see: plgl store show --events")
        _ask(yes, as_json, f"Remove {len(set(numbers))} of {len(known)} events for good?")
        opened.erase(numbers)
    _say(as_json, {"erased": sorted(set(numbers))}, f"removed {len(set(numbers))} events")


@app.command()
def forget(store: Where = None, yes: Yes = False, as_json: Json = False) -> None:
    """Forget me: destroy the keys and every file of the store. No passphrase is asked, and nothing can be undone.

    Exports, dumps and backups you made stay where they are. A population prior that you helped to learn cannot be
    unlearned; it was published with noise so that it says next to nothing about you.
    """
    from client.store import Store, default_path

    path = store or default_path()
    _ask(yes, as_json, f"Destroy all ratings in {path} for good?")
    Store.forget(path)
    _say(as_json, {"forgotten": str(path)}, f"{path} and its keys are gone")


def _open(store: Path | None, passphrase_file: Path | None) -> Store:
    """The store, opened by what locks it; a person is asked for a passphrase only where one is needed."""
    from client.store import Store, default_path

    path = store or default_path()
    phrase = None
    if Store.locked_by(path) == "passphrase":
        phrase = _passphrase(passphrase_file, PASSPHRASE, "Passphrase of the store")
    return Store.open(path, passphrase=phrase, create=False)


def _passphrase(file: Path | None, variable: str, question: str, new: bool = False) -> str:
    """A passphrase from a file, the environment or a person, never from the command line, which others can see."""
    if file is not None:
        try:
            found = file.expanduser().read_text("utf-8").partition("\n")[0].removesuffix("\r")
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(
                f"cannot read the passphrase in {file}: {type(error).__name__}; check the file"
            ) from None
        if not found:
            raise SettingError(f"the first line of {file} is empty; write a passphrase there")
        return found
    if os.environ.get(variable):
        return os.environ[variable]
    said: str = typer.prompt(question, hide_input=True, confirmation_prompt=new, err=True)
    return said


def _not_itself(out: Path, opened: Store) -> None:
    own = [opened.path.name + ending for ending in ("", "-wal", "-shm", ".lock", ".seen", ".new")]
    target = out.expanduser().resolve()
    derived = target.name.startswith(f"{opened.path.name}.derived-")
    if target.parent == opened.path.parent and (target.name in own or derived):
        raise SettingError(f"{out} is a file of the store itself; choose another name")


def _ask(yes: bool, as_json: bool, question: str) -> None:
    if yes:
        return
    if as_json:
        raise SettingError("with --json nobody can be asked; add --yes")
    typer.confirm(question, abort=True, err=True)


def _say(as_json: bool, record: dict[str, Any], text: str) -> None:
    print(json.dumps(record) if as_json else text)
