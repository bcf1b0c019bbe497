"""``plgl doctor``: whether everything works on this machine, what is slow and why, and what helps."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from client.doctor import Check

app = typer.Typer(add_completion=False)
_LOOKS = {"ok": ("✓ ok", "green"), "advice": ("! advice", "yellow"), "problem": ("✗ problem", "bold red")}


@app.command("doctor")
def doctor(
    generator: Annotated[str, typer.Option(help="Pack to measure with: a name, or its folder.")] = "art",
    store: Annotated[
        Path | None,
        typer.Option(help="Store to unlock and verify: by its passphrase, or by the keyring if that holds its key."),
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the passphrase; or set PLGL_PASSPHRASE.")
    ] = None,
    profile: Annotated[str, typer.Option(help="Whose answers to look at in the store.")] = "me",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page to try; 0 for any.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Measure no speed.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Look whether everything works here, what is slow and why, and say what helps.

    Your store stays locked unless you give --store and what opens it. Ends with 1 if there is a problem, else with 0.
    """
    from client.doctor_facts import Look, examine
    from client.rate_cli import given_passphrase
    from client.store import default_path

    look = Look(
        generator=generator,
        store=(default_path() if store is None else store).expanduser(),
        passphrase=given_passphrase(passphrase_file),
        unlock=store is not None,
        profile=profile,
        port=port,
        measure=not quick,
        terminal=sys.stdout.isatty(),
    )
    with Console(stderr=True, quiet=as_json).status("looking around"):
        checks = list(examine(look, os.environ))
    problems = sum(check.state == "problem" for check in checks)
    if as_json:
        print(json.dumps({"success": not problems, "checks": [check.to_json() for check in checks]}))
    else:
        report(Console(), checks)
    raise typer.Exit(1 if problems else 0)


def report(console: Console, checks: list[Check]) -> None:
    """Print checks as a table and a closing line; the state is a word and a sign, never a colour alone."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        sign, style = _LOOKS[check.state]
        seen = Text(check.seen)
        if check.next:
            seen.append(f"\n→ {check.next}", style="bold" if check.state != "ok" else "dim")
        table.add_row(Text(sign, style), Text(check.name), seen)
    console.print(table)
    console.print(_closing(checks), highlight=False)


def _closing(checks: list[Check]) -> str:
    counted = {state: sum(check.state == state for check in checks) for state in _LOOKS}
    if counted["problem"]:
        return f"{counted['problem']} of {len(checks)} checks found a problem"
    if counted["advice"]:
        return f"everything works; {counted['advice']} of {len(checks)} checks have advice"
    return f"all {len(checks)} checks are fine"
