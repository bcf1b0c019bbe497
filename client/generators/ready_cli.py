"""``plgl generator prepare``: draw items of a slow generator before anybody asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client.generators.packs_cli import Home, Json, Name
from common.errors import SettingError


def prepare(
    generator: Name,
    count: Annotated[int, typer.Option(help="Items to have ready, up to 4096.")] = 256,
    limit: Annotated[float, typer.Option(help="GiB that prepared items of all generators may take.")] = 1.0,
    folder: Annotated[Path | None, typer.Option(help="Where they lie; without it this system's cache.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Draw items before anybody asks, so that `plgl rate` shows some at once.

    Everybody who prepares a generator draws the same items, so they say nothing about what you were shown. The same
    command again draws only what is missing.
    """
    from client.generators import ready
    from client.generators.item_cache import ItemCache
    from client.generators.pack import GeneratorPack

    pack = GeneratorPack.open(generator, home)
    if pack.manifest.resizable:
        raise SettingError(f"{pack.name} draws any size at once; there is nothing to prepare")
    if not 0 < limit <= 1024:
        raise SettingError(f"limit={limit} must be above 0 and at most 1024 GiB; try 1")
    cache = ItemCache(folder or ready.usual_folder(), int(limit * (1 << 30)))
    columns = (TextColumn(f"drawing {pack.name}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True, quiet=as_json)) as bar:
        task = bar.add_task("", total=count)
        drawn = ready.prepare(pack, cache, count, progress=lambda done: bar.update(task, completed=done))
    found = {"generator": pack.name, "ready": count, "drawn": drawn, "bytes": cache.total_bytes}
    if as_json:
        print(json.dumps({**found, "folder": str(cache.folder)}))
        return
    Console().print(
        f"{count} items of {pack.name} are ready, {drawn} of them drawn now; all take {cache.total_bytes >> 20} MiB",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip
