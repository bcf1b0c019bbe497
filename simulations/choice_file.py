"""Answers of real people from a table: CSV as it is, Parquet with the ``[parquet]`` extra.

One row is one item that somebody was shown ("long" format)::

    person,question,kind,chosen,feature.price,feature.green
    ann,1,best,1,3.20,0
    ann,1,best,0,2.90,1
    ann,1,best,0,3.50,1

=============  ====================================================================================================
column         meaning
=============  ====================================================================================================
person         who answered; any text. Required.
item           which item it is. Needed where there are no ``feature.`` columns: each item is then its own feature.
feature.NAME   a finite number that describes the item; write categories as columns of 0 and 1.
kind           ``best`` or ``worst`` of several, ``choice`` (A or B), ``like``, ``stars``. ``best`` where it is missing.
question       the rows of one person with the same question were shown together. Needed by best, worst and choice.
chosen         1 for what was chosen, else 0. A choice with both chosen is "both good", with none "neither".
value          of a like: 1 or 0; of stars: 1 to 5. Each such row is an answer of its own.
alternatives   how many rows a question must have; checked, so that a lost row is noticed. Optional.
order          a number that answers of a person are sorted by, e.g. a time. Optional: the order of the file without.
=============  ====================================================================================================
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.ratings import Kind
from simulations.choice_table import FEATURE, Table, load
from simulations.crowd import Answers

KINDS = {"best": Kind.BEST, "worst": Kind.WORST, "choice": Kind.CHOICE, "like": Kind.LIKE, "stars": Kind.STARS}
_COLUMNS = ("person", "item", "kind", "question", "chosen", "value", "alternatives", "order")
_TOGETHER = (Kind.BEST, Kind.WORST, Kind.CHOICE)
MOST_FEATURES = 128
_Integers = NDArray[np.int64]
_Reals = NDArray[np.float64]


@dataclass(frozen=True)
class ChoiceFile:
    """What was read, checked.

    Attributes:
        path: of the file; sha256: of its bytes.
        sha256: see above.
        features: names of the features, without ``feature.``.
        table: ``(items, features)`` float64, each different item once.
        people: names, in the order of ``answers``.
        answers: of everybody, padded to ``(people, t, m)``, in the order they were given; rows of ``table``.
    """

    path: Path
    sha256: str
    features: tuple[str, ...]
    table: _Reals
    people: tuple[str, ...]
    answers: Answers

    @property
    def given(self) -> torch.Tensor:
        """``(people,)`` how many answers each person gave."""
        return (self.answers.weight > 0).sum(1)


def read(path: str | Path) -> ChoiceFile:
    """Read and check a file; nothing is guessed and nothing is left out.

    Raises:
        SettingError: the file cannot be read, a column is missing, or a row is not what the columns promise. The
            message names the file, the column and the line.
    """
    table = load(Path(path))
    _check_columns(table)
    names, values, item = _items(table)
    kinds = _kinds(table)
    answer = _grouped(table, kinds)
    person_names, person = np.unique(table.text("person"), return_inverse=True)
    answers = _padded(table, kinds, answer, item, person, len(person_names))
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    found = ChoiceFile(Path(path), digest, names, values, tuple(person_names.tolist()), answers)
    _check_told_apart(table, found)
    return found


def _check_columns(table: Table) -> None:
    names = list(table.columns)
    features = [name for name in names if name.startswith(FEATURE)]
    unknown = [name for name in names if name not in _COLUMNS and name not in features]
    if unknown:
        raise table.error(f"unknown column {unknown[0]!r}; features are named {FEATURE}NAME, the rest {_listed()}")
    if "person" not in names:
        raise table.error(f"column person is missing; the columns are {', '.join(names)}")
    if "item" not in names and not features:
        raise table.error(f"neither an item column nor {FEATURE} columns; say what was shown")
    if len(features) > MOST_FEATURES:
        raise table.error(f"{len(features)} features are more than {MOST_FEATURES}; leave some out")
    if table.rows == 0:
        raise table.error("no rows below the header; nobody answered anything")


def _listed() -> str:
    return ", ".join(_COLUMNS)


def _items(table: Table) -> tuple[tuple[str, ...], _Reals, _Integers]:
    """Names of the features, the items ``(n, k)``, and the item of each row."""
    names = [name for name in table.columns if name.startswith(FEATURE)]
    if not names:
        return _items_alone(table)
    rows = np.stack([table.numbers(name) for name in names], axis=1)
    short = tuple(name.removeprefix(FEATURE) for name in names)
    if "item" not in table.columns:
        values, item = np.unique(rows, axis=0, return_inverse=True)
        return short, values, item.reshape(-1).astype(np.int64)
    labels, first, item = np.unique(table.text("item"), return_index=True, return_inverse=True)
    differs = (rows != rows[first][item]).any(1)
    if bool(differs.any()):
        row = int(differs.argmax())
        raise table.error(
            f"item {labels[item[row]]} has other features in {table.place(row)} than in "
            f"{table.place(int(first[item[row]]))}; an item has the same ones everywhere"
        )
    return short, rows[first], item.astype(np.int64)


def _items_alone(table: Table) -> tuple[tuple[str, ...], _Reals, _Integers]:
    labels, item = np.unique(table.text("item"), return_inverse=True)
    if len(labels) > MOST_FEATURES:
        raise table.error(
            f"{len(labels)} items without features are more than {MOST_FEATURES}; add {FEATURE} columns, so that what "
            "is learned about one item says something about others"
        )
    return tuple(labels.tolist()), np.eye(len(labels)), item.astype(np.int64)


def _kinds(table: Table) -> _Integers:
    if "kind" not in table.columns:
        return np.full(table.rows, int(Kind.BEST), dtype=np.int64)
    words, word = np.unique(np.char.lower(table.text("kind")), return_inverse=True)
    for at, name in enumerate(words.tolist()):
        if name not in KINDS:
            row = int((word == at).argmax())
            raise table.error(f"unknown kind {name!r} in {table.place(row)}; use one of {', '.join(KINDS)}")
    numbers: _Integers = np.array([int(KINDS[name]) for name in words.tolist()], dtype=np.int64)
    return numbers[word]


def _grouped(table: Table, kinds: _Integers) -> _Integers:
    """``(rows,)`` which answer each row belongs to: alone for likes and stars, with its question otherwise."""
    together = np.isin(kinds, _TOGETHER)
    for column, rows, why in (
        ("question", together, "best, worst and choice need it, to know what was shown together"),
        ("chosen", together, "best, worst and choice need it, to know what was chosen"),
        ("value", ~together, "likes and stars need it"),
    ):
        if bool(rows.any()) and column not in table.columns:
            raise table.error(f"column {column} is missing; {why}")
    asked = np.array([f"row {row}" for row in range(table.rows)], dtype=object)
    if bool(together.any()):
        question = np.array([str(value).strip() for value in table.columns["question"]], dtype=object)
        if bool((question[together] == "").any()):
            row = int((together & (question == "")).argmax())
            raise table.error(f"column question is empty in {table.place(row)}; say what was shown together")
        asked = np.where(together, "question " + question, asked)
    _, person = np.unique(table.text("person"), return_inverse=True)
    _, code = np.unique(asked.astype(str), return_inverse=True)
    answer: _Integers = np.unique(person.astype(np.int64) * table.rows + code, return_inverse=True)[1].astype(np.int64)
    return answer


def _padded(
    table: Table, kinds: _Integers, answer: _Integers, item: _Integers, person: NDArray[Any], people: int
) -> Answers:
    """Everybody's answers in one shape. Padding repeats the first item with weight 0, so that it has a likelihood."""
    count = int(answer.max()) + 1
    size = np.bincount(answer, minlength=count)
    by_answer = np.argsort(answer, kind="stable")
    first = by_answer[np.cumsum(size) - size]  # the first row of each answer
    place = np.empty(table.rows, dtype=np.int64)
    place[by_answer] = np.arange(table.rows) - np.repeat(np.cumsum(size) - size, size)
    value = _values(table, kinds, answer, place, size, first)
    order = table.numbers("order")[first] if "order" in table.columns else first.astype(np.float64)
    sequence = np.lexsort((first, order, person[first]))
    of = person[first][sequence]
    t = np.bincount(of, minlength=people)
    turn = np.arange(count) - np.repeat(np.cumsum(t) - t, t)
    shown = np.full((count, int(size.max())), -1, dtype=np.int64)
    shown[answer, place] = item
    shape = (people, int(t.max()))
    kind_of = np.full(shape, int(kinds[0]), dtype=np.int64)
    value_of = np.full(shape, int(kinds[0] == Kind.STARS), dtype=np.int64)
    items, weight = np.zeros((*shape, shown.shape[1]), dtype=np.int64), np.zeros(shape)
    kind_of[of, turn], value_of[of, turn] = kinds[first][sequence], value[sequence]
    items[of, turn], weight[of, turn] = shown[sequence], 1.0
    return Answers(*(torch.from_numpy(x) for x in (kind_of, value_of, items, weight)))


def _values(
    table: Table, kinds: _Integers, answer: _Integers, place: _Integers, size: _Integers, first: _Integers
) -> _Integers:
    """``(answers,)`` what was said, as ``client.ratings`` stores it."""
    together, kind = np.isin(kinds, _TOGETHER), kinds[first]
    value = np.zeros(size.shape, dtype=np.int64)
    mixed = kinds != kind[answer]
    if bool(mixed.any()):
        raise table.error(f"{_where(table, int(mixed.argmax()))} mixes kinds; a question has one")
    if bool(together.any()):
        chosen = table.truth("chosen", together)
        picked = np.bincount(answer, weights=chosen, minlength=size.size).astype(np.int64)
        _check_sizes(table, kind, size, picked, first, answer)
        rows = chosen.astype(bool)
        value[answer[rows]] = place[rows]
        is_choice = kind == Kind.CHOICE
        value[is_choice & (picked == 2)], value[is_choice & (picked == 0)] = 2, 3
    for single in (Kind.LIKE, Kind.STARS):
        rows = kinds == single
        if bool(rows.any()):
            value[answer[rows]] = (table.truth("value", rows) if single is Kind.LIKE else _stars(table, rows))[rows]
    return value


def _stars(table: Table, rows: NDArray[np.bool_]) -> _Integers:
    stars = np.ones(table.rows, dtype=np.int64)
    for row in np.flatnonzero(rows).tolist():
        text = str(table.columns["value"][row]).strip()
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if number not in (1, 2, 3, 4, 5):
            raise table.error(f"column value holds {text!r} stars in {table.place(row)}; write 1, 2, 3, 4 or 5")
        stars[row] = int(number)
    return stars


def _check_sizes(
    table: Table, kind: _Integers, size: _Integers, picked: _Integers, first: _Integers, answer: _Integers
) -> None:
    several = np.isin(kind, (Kind.BEST, Kind.WORST))
    problems = (
        (several & (size < 2), "has one row; best and worst need at least two alternatives"),
        (several & (picked == 0), "has nothing chosen; exactly one row must have chosen = 1"),
        (several & (picked > 1), "has more than one row chosen; exactly one must be"),
        ((kind == Kind.CHOICE) & (size != 2), "must have two rows, A and B; use best for more"),
    )
    for wrong, what in problems:
        if bool(wrong.any()):
            raise table.error(f"{_where(table, int(first[int(wrong.argmax())]))} {what}")
    if "alternatives" in table.columns:
        rows = np.isin(kind, _TOGETHER)[answer] & (table.numbers("alternatives") != size[answer])
        if bool(rows.any()):
            row = int(rows.argmax())
            raise table.error(
                f"{_where(table, row)} says {table.columns['alternatives'][row]} alternatives and has "
                f"{size[answer[row]]} rows; add the missing rows"
            )


def _where(table: Table, row: int) -> str:
    question = str(table.columns["question"][row]).strip() if "question" in table.columns else "?"
    return f"question {question} of person {str(table.columns['person'][row]).strip()} ({table.place(row)})"


def _check_told_apart(table: Table, found: ChoiceFile) -> None:
    """Raise where nothing can be learned from the file at all."""
    if len(found.people) < 2:
        raise table.error("only one person answered; a population needs at least two, some to learn from, some to meet")
    there = found.answers.weight > 0
    kinds, values = found.answers.kind[there], found.answers.value[there]
    if bool(((kinds == Kind.LIKE) | (kinds == Kind.STARS)).all()) and bool((values == values[0]).all()):
        raise table.error(f"all {len(values)} answers are {int(values[0])}; nothing tells one item from another")
    if not bool((found.table.max(0) > found.table.min(0)).any()):
        raise table.error("all items have the same features; nothing tells one from another")
