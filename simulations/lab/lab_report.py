"""The report of any experiment of the lab: one page that opens anywhere, its plots, its tables, its numbers.

An experiment fills in a ``Report`` and writes it into its run folder::

    report = Report(
        experiment="audit",
        title="Audit of the noise",
        headline="The honest build passed; all four broken builds were caught in 20 of 20 runs.",
        about="What was run, in two sentences.",
        sections=[
            Section(
                title="What the attacker can prove",
                lead="The lower bound never passes the claim.",
                parts=[
                    Plot(
                        name="bound",
                        title="Lower bound on epsilon",
                        x_label="claimed epsilon",
                        panels=[Panel(lines=[Line(label="Monte Carlo", x=[1, 2, 4], y=[0.8, 1.7, 3.6], hero=True)])],
                    ),
                    Table(
                        title="Builds",
                        columns=["build", "flagged", "of"],
                        rows=[["honest", 0, 20], ["no clip", 20, 20]],
                        hero_rows=(0,),
                    ),
                    "A paragraph of text.",
                ],
            )
        ],
        settings=dataclasses.asdict(settings),
        frames={"bounds": Frame.of(records, keys=["mechanism", "epsilon"])},
        statements={"dp-em, epsilon 1": statement},
        limits=["What this does not show."],
        seconds=stages.seconds,
    )
    page = report.write(folder)          # report.html, results.json, *.csv, *.parquet, *.svg, *.png
    report.print(Console())              # headline and tables, for a terminal
    sys.stdout.write(report.to_json())   # --json

Everything a table or plot shows should also be in a frame, so that others can compute with it; ``keys`` name the rows,
which is what ``plgl simulate diff`` pairs two runs by.
"""

from __future__ import annotations

import base64
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image
from rich.console import Console
from rich.table import Table as TerminalTable
from rich.text import Text

from common.errors import SettingError
from common.privacy.statement import PrivacyStatement
from simulations import curves_plot
from simulations.contact_sheet import as_jpeg, as_png
from simulations.curves_plot import Style
from simulations.lab.figures import Line, Panel, Plot, figure, styles
from simulations.lab.frames import Frame, strict_json, write_frames
from simulations.page import claims, render, setting_text
from simulations.run_folder import RunFolder, environment

__all__ = ["Cell", "Line", "Panel", "Picture", "Plot", "Report", "Section", "Table"]

FORMAT = "plgl-lab-1"


@dataclass(frozen=True)
class Cell:
    """A number with its band below it, e.g. ``Cell("0.81", "0.79–0.83")``."""

    value: str
    band: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the page and of the terminal.

    Attributes:
        title: what it shows, with units.
        columns: heads of the columns; the first names the row.
        rows: text, numbers or ``Cell``; ``None`` is a dash.
        hero_rows: rows the report is about, from 0.
        folded: whether the page shows it only when asked, and the terminal not at all.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float | bool | Cell | None]]
    hero_rows: Sequence[int] = ()
    folded: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise SettingError(
                    f"table {self.title!r} has {len(self.columns)} columns and a row of {len(row)} cells"
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture of the page.

    Attributes:
        name: of its file, e.g. ``"sheet-1"``.
        image: RGB.
        alt: what a screen reader says.
    """

    name: str
    image: Image.Image
    alt: str


Part = Plot | Table | Picture | str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a title, a sentence below it, then plots, tables, pictures and paragraphs in order."""

    title: str
    parts: Sequence[Part]
    lead: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything one run has to say; see the module for how to use it.

    Attributes:
        experiment: its command's name, e.g. ``"privacy"``.
        title: of the page.
        headline: the main finding, one sentence computed from the numbers.
        about: what was done, for somebody who did not do it.
        sections: the findings.
        settings: everything the numbers depend on, plain values.
        frames: the numbers; each becomes ``NAME.csv``, is in ``results.json``, and ``NAME.parquet`` with pyarrow.
        statements: what was promised, by the name of what was released.
        limits: what the numbers do not show.
        seconds: time each stage took.
    """

    experiment: str
    title: str
    headline: str
    sections: Sequence[Section]
    settings: Mapping[str, Any]
    frames: Mapping[str, Frame]
    about: str = ""
    statements: Mapping[str, PrivacyStatement] = field(default_factory=dict)
    limits: Sequence[str] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*(plot.name for plot in self.plots), *(picture.name for picture in self.pictures)]
        if len(set(names)) != len(names):
            raise SettingError(f"two pictures of the report share a name: {', '.join(names)}; rename one")
        for name in (*names, *self.frames):
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
                raise SettingError(f"name {name!r} of a plot or table must be small letters, digits and '-'")

    @property
    def plots(self) -> list[Plot]:
        """All plots of the page."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Plot)]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures of the page that are no plots."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Picture)]

    @property
    def tables(self) -> list[Table]:
        """All tables of the page."""
        return [part for section in self.sections for part in section.parts if isinstance(part, Table)]

    def results(self) -> dict[str, Any]:
        """What ``results.json`` holds and ``--json`` prints."""
        return {
            "format": FORMAT,
            "command": f"plgl simulate {self.experiment}",
            "headline": self.headline,
            "settings": dict(self.settings),
            "frames": {name: frame.to_json() for name, frame in self.frames.items()},
            "privacy": {name: statement.to_json() for name, statement in self.statements.items()},
            "environment": environment(),
            "seconds": dict(self.seconds),
        }

    def to_json(self) -> str:
        """``results`` as strict JSON."""
        return strict_json(self.results())

    def write(self, folder: RunFolder) -> Path:
        """Write the page and everything beside it; each file is whole or absent, the page comes last.

        Returns:
            The path of ``report.html``.

        Raises:
            StorageError: the disk refuses a write.
        """
        folder.write("results.json", self.to_json().encode())
        beside = ["results.json", *write_frames(folder, self.frames)]
        looks = styles(self.plots)
        drawn = {}
        for plot in self.plots:
            drawn[plot.name] = _write_plot(folder, plot, looks)
            beside += [f"{plot.name}.svg", f"{plot.name}.png"]
        for picture in self.pictures:
            beside.append(folder.write(f"{picture.name}.png", as_png(picture.image)).name)
        return folder.write("report.html", self._page(drawn, looks, beside).encode())

    def print(self, console: Console) -> None:
        """The tables that are not folded, and the headline, on a terminal."""
        for table in self.on_terminal():
            console.print(table)
        console.print(self.headline, highlight=False, markup=False)

    def on_terminal(self) -> list[TerminalTable]:
        """The tables that are not folded."""
        return [on_terminal(table) for table in self.tables if not table.folded]

    def _page(self, drawn: dict[str, dict[str, Any]], looks: dict[str, Style], beside: list[str]) -> str:
        return render(
            "lab.html",
            report=self,
            looks={look.slot: look for look in looks.values()}.values(),
            sections=[
                {"id": f"part-{at}", "title": section.title, "lead": section.lead, "parts": _parts(section, drawn)}
                for at, section in enumerate(self.sections, start=1)
            ],
            privacy=[
                {"name": name, "text": str(statement), "claims": claims(statement.to_json())}
                for name, statement in self.statements.items()
            ],
            environment=environment(),
            total_seconds=sum(self.seconds.values()),
            beside=beside,
        )


def _parts(section: Section, drawn: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    def part(item: Part) -> dict[str, Any]:
        if isinstance(item, str):
            return {"kind": "text", "text": item}
        if isinstance(item, Plot):
            return {"kind": "plot", **drawn[item.name]}
        if isinstance(item, Picture):
            source = f"data:image/jpeg;base64,{base64.b64encode(as_jpeg(item.image)).decode()}"
            return {"kind": "picture", "name": f"{item.name}.png", "source": source, "alt": item.alt}
        cells = [[_cell(value) for value in row] for row in item.rows]
        return {"kind": "table", "table": item, "rows": cells, "textual": _textual(item)}

    return [part(item) for item in section.parts]


def _textual(table: Table) -> list[bool]:
    """Which columns hold words: they are aligned to the left."""
    return [
        at > 0 and all(isinstance(row[at], str) and not _numeric(str(row[at])) for row in table.rows)
        for at in range(len(table.columns))
    ]


def _numeric(text: str) -> bool:
    return bool(re.match(r"^[+\-−<>≤≥]?\s*[\d.,]+", text)) or text in ("–", "∞", "yes", "no")


def _cell(value: str | int | float | bool | Cell | None) -> Cell:
    if isinstance(value, Cell):
        return value
    if value is None or value != value:  # a NaN differs from itself
        return Cell("–")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, int):
        return Cell(f"{value:,}".replace("-", "−"))
    if isinstance(value, float):
        return Cell("∞" if value == float("inf") else f"{value:.4g}".replace("-", "−"))
    return Cell(value)


def on_terminal(table: Table) -> TerminalTable:
    """A table for a terminal."""
    drawn = TerminalTable(title=table.title, title_justify="left")
    textual = _textual(table)
    for at, column in enumerate(table.columns):
        drawn.add_column(Text(column), justify="left" if at == 0 or textual[at] else "right", overflow="fold")
    for at, row in enumerate(table.rows):
        cells = [_cell(value) for value in row]
        texts = [
            Text.assemble(cell.value, "\n", (cell.band, "dim")) if cell.band else Text(cell.value) for cell in cells
        ]
        drawn.add_row(*texts, style="bold cyan" if at in table.hero_rows else None)
    return drawn


def settings_table(settings: Mapping[str, Any]) -> Table:
    """Settings by name, as ``--set`` takes them."""
    rows = [[name, setting_text(value).replace(", ", ",")] for name, value in settings.items()]
    return Table(title="Settings, for --set", columns=["key", "value"], rows=rows)


def _write_plot(folder: RunFolder, plot: Plot, looks: dict[str, Style]) -> dict[str, Any]:
    """Write a plot as PNG and SVG; return it for the page, once for wide windows and once for narrow ones."""
    looks = {label: dataclasses.replace(looks[label]) for label in plot.labels}
    wide = figure(plot, looks)
    svg = curves_plot.as_svg(wide, plot.name)
    folder.write(f"{plot.name}.svg", svg.encode())
    folder.write(f"{plot.name}.png", curves_plot.as_png(wide))
    narrow = curves_plot.as_svg(figure(plot, looks, narrow=True), f"{plot.name}-narrow")
    said = f"Line plot: {plot.alt or plot.title}, by {plot.x_label}. A table holds the same values."
    return {
        "wide": Markup(curves_plot.for_page(svg, looks, said)),
        "narrow": Markup(curves_plot.for_page(narrow, looks, said)),
        "legend": [{"label": label, "swatch": Markup(curves_plot.swatch(looks[label]))} for label in plot.labels],
    }
