"""A finished run in its folder, for a notebook: its tables as plain frames, its report, its settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table as TerminalTable

from common.errors import FolderError, SettingError
from simulations.lab.frames import Frame
from simulations.lab.lab_report import FORMAT, Report

_CURVES = {"plgl-cold-start-1": ("epsilon",), "plgl-compare-learners-1": ("feedback", "people")}


@dataclass(frozen=True)
class LabRun:
    """What an experiment came to.

    Attributes:
        folder: where everything lies.
        command: what made it.
        headline: its main finding.
        settings: everything the numbers depend on.
        frames: its tables by name.
        tables: for a terminal; only where the run was made by this process.
    """

    folder: Path
    command: str
    headline: str
    settings: dict[str, Any]
    frames: dict[str, Frame]
    tables: tuple[TerminalTable, ...] = ()

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    def frame(self, name: str) -> dict[str, list[Any]]:
        """A table as a dictionary of columns: ``pandas.DataFrame(run.frame("curves"))``.

        Raises:
            SettingError: there is no table of that name.
        """
        return dict(self._table(name).columns)

    def records(self, name: str) -> list[dict[str, Any]]:
        """A table as one dictionary per row; errors as for ``frame``."""
        return self._table(name).records()

    def _table(self, name: str) -> Frame:
        if name not in self.frames:
            raise SettingError(f"the run in {self.folder} has no table {name!r}; it has {', '.join(self.frames)}")
        return self.frames[name]

    @classmethod
    def of(cls, folder: Path, report: Report) -> LabRun:
        """The run that has just written a report."""
        command = f"plgl simulate {report.experiment}"
        return cls(
            folder, command, report.headline, dict(report.settings), dict(report.frames), tuple(report.on_terminal())
        )

    @classmethod
    def load(cls, path: str | Path) -> LabRun:
        """The run in a folder; cold-start and compare-learners runs have one table, "curves".

        Raises:
            FolderError: there is no finished run in it.
        """
        folder = Path(path)
        try:
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))["settings"]
            known = results["format"]
            if known == FORMAT:
                frames = {name: Frame.from_json(values) for name, values in results["frames"].items()}
            elif known in _CURVES:
                frames = {"curves": _of_curves(results["curves"], _CURVES[known])}
            else:
                raise SettingError(f"format {known!r}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FolderError(
                f"{folder} holds no finished run ({_reason(error)}); give the folder of plgl simulate, after it ended"
            ) from error
        return cls(folder, results["command"], results.get("headline", ""), settings, frames)


def _reason(error: Exception) -> str:
    return "results.json is missing" if isinstance(error, FileNotFoundError) else str(error)


def _of_curves(curves: list[dict[str, Any]], about: tuple[str, ...]) -> Frame:
    """Curves with one list per measure, as rows."""
    rows = []
    for curve in curves:
        lists = {name: values for name, values in curve.items() if isinstance(values, list) and name != "ratings"}
        lists = {name: values for name, values in lists.items() if len(values) == len(curve["ratings"])}
        numbers = {name: values for name, values in lists.items() if not isinstance(values[0], dict)}
        for at, count in enumerate(curve["ratings"]):
            row = {"method": curve["method"], "ratings": count, **{name: curve.get(name) for name in about}}
            rows.append(row | {name: values[at] for name, values in numbers.items()})
    return Frame.of(rows, ("method", "ratings"))
