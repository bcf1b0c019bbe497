"""Columns of a CSV or Parquet file, and errors that say where: the file, the column, the line."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.errors import SettingError
from simulations.lab.frames import parquet_installed

FEATURE = "feature."
"""What the names of feature columns begin with."""

_TRUTH = {"1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0, "yes": 1, "no": 0, "like": 1, "dislike": 0}


class Table:
    """Columns of one file, and errors that say where."""

    def __init__(self, path: Path, columns: dict[str, Sequence[Any]]) -> None:
        self.path, self.columns = path, columns
        self.rows = len(next(iter(columns.values()), ()))

    def error(self, message: str) -> SettingError:
        """An error about this file."""
        return SettingError(f"{self.path.name}: {message}")

    def place(self, row: int) -> str:
        """How to find a row: its line in a CSV file, its number from 1 elsewhere."""
        return f"line {row + 2}" if self.path.suffix == ".csv" else f"row {row + 1}"

    def text(self, name: str) -> NDArray[np.str_]:
        """A column as text, none of it empty."""
        values = np.array(["" if value is None else str(value).strip() for value in self.columns[name]])
        if bool((values == "").any()):
            raise self.error(f"column {name} is empty in {self.place(int((values == '').argmax()))}; give it a value")
        return values

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as finite numbers."""
        found = np.empty(self.rows)
        for row, value in enumerate(self.columns[name]):
            try:
                found[row] = float(value)
            except (TypeError, ValueError):
                hint = "; write categories as columns of 0 and 1" if name.startswith(FEATURE) else ""
                raise self.error(f"column {name} holds {value!r} in {self.place(row)}, not a number{hint}") from None
        bad = ~np.isfinite(found)
        if bool(bad.any()):
            raise self.error(
                f"column {name} is NaN or infinite in {self.place(int(bad.argmax()))} ({int(bad.sum())} rows in all); "
                "leave those rows out or fill them in"
            )
        return found

    def truth(self, name: str, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        """0 or 1 where ``rows``, 0 elsewhere."""
        found = np.zeros(self.rows, dtype=np.int64)
        for row in np.flatnonzero(rows).tolist():
            value = _TRUTH.get(str(self.columns[name][row]).strip().lower())
            if value is None:
                raise self.error(f"column {name} holds {self.columns[name][row]!r} in {self.place(row)}; write 1 or 0")
            found[row] = value
        return found


def load(path: Path) -> Table:
    """The columns of a CSV or Parquet file.

    Raises:
        SettingError: it cannot be read, or Parquet cannot be read here.
    """
    try:
        if path.suffix == ".csv":
            return Table(path, _csv(path))
        if path.suffix == ".parquet":
            return Table(path, _parquet(path))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingError(f"cannot read {path}: {reason}; give a CSV or Parquet file of answers") from error
    raise SettingError(f"{path.name} ends in {path.suffix or 'nothing'!r}; give a .csv or .parquet file")


def _csv(path: Path) -> dict[str, Sequence[Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise SettingError(f"{path.name} is empty; its first line must name the columns")
    head = [name.strip() for name in rows[0]]
    twice = [name for name in head if head.count(name) > 1]
    if twice:
        raise SettingError(f"{path.name} has two columns named {twice[0]!r}; rename one")
    for line, row in enumerate(rows, start=1):
        if len(row) != len(head):
            raise SettingError(f"{path.name}: line {line} has {len(row)} fields, the header {len(head)}")
    return dict(zip(head, zip(*rows[1:], strict=True) if len(rows) > 1 else [()] * len(head), strict=True))


def _parquet(path: Path) -> dict[str, Sequence[Any]]:
    if not parquet_installed():
        raise SettingError('Parquet needs pyarrow; install it with pip install "plgl[parquet]", or give a .csv file')
    pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    try:
        columns: dict[str, Sequence[Any]] = parquet.read_table(path).to_pydict()
    except pyarrow.ArrowInvalid as error:
        raise SettingError(f"cannot read {path}: {error}; give a CSV or Parquet file of answers") from error
    return columns
