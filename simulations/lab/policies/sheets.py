"""Contact sheets: what some people of the first panel are shown, one row for each method."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from client.generators.pack import GeneratorPack
from simulations.contact_sheet import ContactSheet, Pictures, Row, draw_sheet
from simulations.curves_plot import ordinal
from simulations.lab.grid import Cell
from simulations.lab.lab_report import Picture
from simulations.lab.policies.grid import TOY, PolicyGrid, budget_of
from simulations.lab.policies.tiles import tiles

SHOWN = 16  # items of a row
_SIDE = 96  # pixels

Rows = Sequence[Mapping[str, Any]]


def is_shown(grid: PolicyGrid, cell: Cell) -> bool:
    """Whether the stream of a cell is on a contact sheet."""
    return cell.axes["repeat"] == 0 and int(str(cell.axes["person"])) < grid.sheets


def slug(generator: str) -> str:
    """A generator's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", generator.lower()).strip("-") or "generator"


def sheets(grid: PolicyGrid, rows: Rows) -> dict[str, list[Picture]]:
    """Contact sheets by generator."""
    return {generator: list(_sheets(grid, generator, rows)) for generator in grid.generators}


def _sheets(grid: PolicyGrid, generator: str, rows: Rows) -> Iterator[Picture]:
    mine = [row for row in rows if row.get("method") and row["generator"] == generator and row["shown"]]
    for person in sorted({row["person"] for row in mine}):
        lines = [_line(generator, row) for row in mine if row["person"] == person]
        title = f"{generator}: streams after {grid.answers} answers" if generator != TOY else f"{generator}: streams"
        sheet = ContactSheet(title=title, person=f"person {person + 1}", rows=lines)
        image = draw_sheet(sheet, columns=SHOWN, cell=_SIDE, text=20)
        yield Picture(name=f"{slug(generator)}-sheet-{person + 1}", image=image, alt=sheet.description)


def _line(generator: str, row: Mapping[str, Any]) -> Row:
    place = f"{ordinal(round(100 * row['percentile']))} percentile of their taste"
    before = ", before any answer" if budget_of(row["method"]) is not None else ""
    return Row(f"{row['method']}{before}: {place}", _drawn(generator, row["shown"]))


def _drawn(generator: str, shown: Any) -> Pictures:
    if generator == TOY:
        return tiles(torch.tensor(shown), _SIDE)
    pack = GeneratorPack.open(generator)
    media = pack.generate(torch.tensor(shown), _SIDE if pack.manifest.resizable else None)
    drawn: Pictures = ((media.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return drawn
