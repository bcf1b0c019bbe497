"""A real picture through every importer: trains small networks, writes each in its source's format, imports them all.

    python -m tests.gallery.importers --out gallery            # everything; about 25 minutes of one core
    python -m tests.gallery.importers --out gallery --only dcgan,vae

There are no weights to fetch for these kinds while developing, so small ones are trained on the CC0 avatars that come
with the program. Each finished network stays in its folder, and the same command goes on from there. It needs the
extra ``plgl[diffusers]`` and runs from the root of the repository.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from client.generators.latent_map import LatentMapSettings
from tests.gallery import sheet
from tests.gallery.importing import NUMBERS, Made, add_once, learn_map
from tests.gallery.sources import SOURCES, PackOf, Source, Written, train

COLUMNS, SEED = 10, 5
PICTURE, REPORT, HOME, SHEETS = "importers.png", "importers.json", "packs", "sheets"
MAPPED = ("stylegan2", "stylegan2-w")
"""Packs whose latent map is learned, to compare Z with W."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, import it, print what came out and draw the picture."""
    said = _said(arguments)
    warnings.simplefilter("ignore")  # those of the libraries when they are imported, save and load
    torch.set_num_threads(said.threads)
    chosen = [each for each in SOURCES if not said.only or each.name in said.only.split(",")]
    written = {each.name: _trained(each, said.out) for each in chosen}
    home = said.out / HOME
    (said.out / SHEETS).mkdir(exist_ok=True)
    made = [
        (source, pack, add_once(source, pack, written[source.name], home, said.out / SHEETS, count=COLUMNS, seed=SEED))
        for source in chosen
        for pack in source.packs
    ]
    lines = [line for source, pack, each in made for line in _lines(source, pack, each)]
    few = sheet.draw(lines, COLUMNS).point(lambda level: level & 0xF8)  # 32 levels of a colour: fewer bytes
    few.save(said.out / PICTURE, optimize=True)
    console = Console()
    console.print(_table(made, written))
    report = {"packs": {pack.name: _about(each, written[source.name]) for source, pack, each in made}}
    report["maps"] = _maps(chosen, home, said.map_pictures, console)
    (said.out / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    console.print(f"wrote {said.out / PICTURE}, {said.out / REPORT}")


def _said(arguments: Sequence[str] | None) -> argparse.Namespace:
    names = ", ".join(each.name for each in SOURCES)
    parser = argparse.ArgumentParser(description="A real picture through every importer.")
    parser.add_argument("--out", type=Path, required=True, help="folder for networks, packs and the picture")
    parser.add_argument("--only", default="", help=f"some of {names}, with commas")
    parser.add_argument("--threads", type=int, default=1, help="of torch while training; 1 repeats exactly")
    usual = 12_000
    parser.add_argument("--map-pictures", type=int, default=usual, help="to learn latent maps from; 0 for no maps")
    found = parser.parse_args(arguments)
    if unknown := set(filter(None, found.only.split(","))) - {each.name for each in SOURCES}:
        parser.error(f"--only {','.join(sorted(unknown))} is unknown; known: {names}")
    if found.map_pictures and found.map_pictures < LatentMapSettings(components=None).candidates * 10:
        parser.error(f"--map-pictures {found.map_pictures} are too few for a map; try {usual}, or 0")
    return found


def _trained(source: Source, out: Path) -> Written:
    with Progress(console=Console(stderr=True)) as bar:
        row = bar.add_task(f"{source.name:>12}", total=source.effort.steps)
        return train(source, out, source.effort, lambda step, loss: bar.update(row, completed=step))


def _lines(source: Source, pack: PackOf, made: Made) -> list[sheet.Line]:
    """Rows of the picture: one for a pack, and one for each further prompt it is given."""
    note = f"--as {source.kind}" + f", {pack.shown}" * bool(pack.shown)
    others = [
        sheet.Line(label=f"“{prompt}”", note="the same pack and noise", pictures=pictures)
        for prompt, pictures in made.others.items()
    ]
    return [sheet.Line(label=pack.label, note=note, pictures=made.pictures), *others]


def _table(made: Sequence[tuple[Source, PackOf, Made]], written: dict[str, Written]) -> Table:
    columns = ("pack", "weights", "trained", "file", "training", "kept", "picture", "size")
    table = Table(title="error against the file and against the trained network", box=box.SIMPLE)
    for name in columns:
        table.add_column(name, no_wrap=True)
    for source, pack, each in made:
        about = written[source.name].about
        trained = "" if each.against_training is None else f"{each.against_training:.1e}"
        numbers = (f"{about['parameters']:,}", f"{about['seconds']:.0f} s", f"{each.error:.1e}", trained)
        table.add_row(
            pack.name, *numbers, str(each.promises), f"{each.milliseconds:.1f} ms", f"{each.megabytes:.1f} MB"
        )
    return table


def _about(made: Made, written: Written) -> dict[str, Any]:
    return {name: getattr(made, name) for name in NUMBERS} | {"trained": written.about}


def _maps(chosen: Sequence[Source], home: Path, pictures: int, console: Console) -> dict[str, Any]:
    """R2 of the latent maps of `MAPPED`, by name; none where their source was not chosen."""
    found = {}
    for pack in (pack for source in chosen for pack in source.packs if pack.name in MAPPED and pictures):
        learned = learn_map(pack, home, pictures)
        r2 = learned["r2"]
        found[pack.name] = {"components": len(r2), "r2": r2, "explained": learned["explained"]}
        mean = sum(r2) / len(r2)
        said = f"latent map of {pack.name}: {len(r2)} components, mean R2 {mean:.3f}, first eight {sum(r2[:8]) / 8:.3f}"
        console.print(
            f"{said}; {learned['explained']:.0%} of what differs between the pictures", highlight=False, soft_wrap=True
        )
    return found


if __name__ == "__main__":
    main()
