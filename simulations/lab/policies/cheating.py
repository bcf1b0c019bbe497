"""What came of a learner without a guard, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulations.lab.lab_report import Line, Panel, Plot, Section, Table
from simulations.lab.policies.aims import Rows

CHEATED = {"reward": "reward", "held_out": "held-out", "utility": "true utility", "diversity": "diversity",
           "extreme": "extreme"}  # fmt: skip


def section_on(hacking: Rows) -> Section:
    """How each learner was caught, and one of them round by round."""
    rows: list[list[Any]] = []
    for row in hacking:
        kept, last = row["kept"], row["rounds"][-1]
        pairs = [f"{_number(kept.get(name)):.2f} / {_number(last.get(name)):.2f}" for name in CHEATED]
        rows.append([_person(row), kept["round"], row["drift"], *pairs])
    table = Table(
        title="Caught: kept by the guard / what came of it without one; drift: when it was stopped, over its limit",
        columns=["person", "round kept", "drift", *CHEATED.values()],
        rows=rows,
    )
    why = "; ".join(f"{_person(row)}: {row['stopped'] or 'not stopped'}" for row in hacking)
    first = hacking[0]
    rounds = [float(each["round"]) for each in first["rounds"]]
    named = {"reward learned from": "reward", "held-out": "held_out", "true utility": "utility"}
    lines = [
        Line(
            label=label,
            x=rounds,
            y=[_number(each.get(name)) for each in first["rounds"]],
            hero=name == "utility",
            points=False,
        )
        for label, name in named.items()
    ]
    plot = Plot(
        name="cheating",
        title="Standard deviations above the generator's own items",
        x_label="rounds without a guard",
        x_scale="linear",
        panels=[Panel(lines=lines, title="one person")],
        alt="Reward, held-out reward and true utility of a learner without a guard",
    )
    return Section(
        title="A learner without a guard, and when the guard would have stopped it",
        lead=f"On {first['generator']}: logistic regression on latents as the only judge, and next to no price for "
        "leaving the generator's law.",
        parts=[plot, table, f"{why}."],
    )


def _person(row: Mapping[str, Any]) -> str:
    return f"panel {row['repeat'] + 1}, person {row['person'] + 1}"


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
