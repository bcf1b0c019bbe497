"""Results as plain tables: what ``pandas.DataFrame`` and ``polars.DataFrame`` take, written as CSV, JSON, Parquet."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import SettingError
from simulations.run_folder import RunFolder, plain

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Frame:
    """A table with named columns; some of them name a row, the others are what was measured.

    Guarantee: all columns have the same length, and no two rows have the same keys.

    Attributes:
        columns: by name, in order; a value is text, a number, a truth value or ``None``.
        keys: the columns that name a row; empty where rows have no names.
    """

    columns: dict[str, list[Any]]
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise SettingError(f"columns have different lengths: {lengths}; give each row a value, None for a gap")
        missing = [key for key in self.keys if key not in self.columns]
        if missing:
            raise SettingError(f"key {missing[0]!r} is no column; the columns are {', '.join(self.columns)}")
        seen: set[tuple[Any, ...]] = set()
        for name in self.names() if self.keys else ():
            if name in seen:
                raise SettingError(f"two rows are named {dict(zip(self.keys, name, strict=True))}; add a key column")
            seen.add(name)

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]], keys: Sequence[str] = ()) -> Frame:
        """The table of some records; a field that a record lacks is ``None`` there."""
        names = list(dict.fromkeys(name for record in records for name in record))
        return cls({name: [record.get(name) for record in records] for name in names or keys}, tuple(keys))

    @property
    def measures(self) -> tuple[str, ...]:
        """The columns that are no keys."""
        return tuple(name for name in self.columns if name not in self.keys)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def names(self) -> Iterator[tuple[Any, ...]]:
        """The keys of each row."""
        return zip(*(self.columns[key] for key in self.keys), strict=True)

    def records(self) -> list[dict[str, Any]]:
        """One dictionary per row."""
        return [dict(zip(self.columns, row, strict=True)) for row in zip(*self.columns.values(), strict=True)]

    def where(self, **wanted: Any) -> Frame:
        """The rows in which every named column has the wanted value."""
        rows = [row for row in self.records() if all(row[name] == value for name, value in wanted.items())]
        return Frame({name: [row[name] for row in rows] for name in self.columns}, self.keys)

    def to_csv(self) -> str:
        """As CSV with a header; ``None`` and NaN are empty, infinities are ``inf``."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_text(value) for value in row] for row in zip(*self.columns.values(), strict=True))
        return buffer.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Plain values for strict JSON: ``{"keys": [...], "columns": {...}}``; an infinity is ``"inf"``."""
        columns = {name: [strict(value) for value in values] for name, values in self.columns.items()}
        return {"keys": list(self.keys), "columns": columns}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Frame:
        """The table that ``to_json`` wrote.

        Raises:
            SettingError: it is no table.
        """
        try:
            columns = {name: [_number(value) for value in column] for name, column in values["columns"].items()}
            return cls(columns, tuple(values["keys"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise SettingError(
                f"results hold a table that cannot be read: {error}; run the experiment again"
            ) from error

    def to_parquet(self) -> bytes:
        """As Parquet.

        Raises:
            SettingError: pyarrow is not installed.
        """
        if not parquet_installed():
            raise SettingError('Parquet needs pyarrow; install it with pip install "plgl[parquet]"')
        optional: list[str] = ["pyarrow", "pyarrow.parquet"]  # not always there, and without type stubs
        pyarrow, parquet = (importlib.import_module(name) for name in optional)
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.table({name: _alike(values) for name, values in self.columns.items()}), sink)
        content: bytes = sink.getvalue().to_pybytes()
        return content


def parquet_installed() -> bool:
    """Whether Parquet can be written here."""
    return importlib.util.find_spec("pyarrow") is not None


def write_frames(folder: RunFolder, frames: Mapping[str, Frame]) -> list[str]:
    """Write each table as ``NAME.csv``, and as ``NAME.parquet`` where pyarrow is installed.

    Returns:
        The names of the files.

    Raises:
        StorageError: the disk refuses a write.
    """
    written = []
    for name, frame in frames.items():
        written.append(folder.write(f"{name}.csv", frame.to_csv().encode()).name)
        if parquet_installed():
            written.append(folder.write(f"{name}.parquet", frame.to_parquet()).name)
    return written


def strict_json(values: Any) -> str:
    """Strict JSON with a newline at its end: tuples as lists, NaN as null, an infinity as ``"inf"``."""
    return json.dumps(strict(values), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def strict(value: Any) -> Any:
    """As ``run_folder.plain``, and infinities as text: a budget of infinity is a setting, not a gap."""
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return plain(value)


def _number(value: Any) -> Any:
    return float(value) if value in ("inf", "-inf") else value


def _text(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _alike(values: list[Any]) -> list[Any]:
    """A column of one type: numbers as floats where one of them is, anything mixed as text."""
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) <= 1:
        return values
    if kinds <= {int, float}:
        return [None if value is None else float(value) for value in values]
    return [None if value is None else str(value) for value in values]
