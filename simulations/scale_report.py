"""What a run at scale has to say, as a page and for a terminal."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from simulations.lab.frames import Frame
from simulations.lab.lab_report import Report, Section, Table
from simulations.scale_run import NEWTON_STEPS, Outcome, Scale, summary

_ABOUT = (
    "People were made up from a seed as they were needed, gave their answers, and were fitted; their updates were "
    "clipped, rounded to integers and added; noise was added to the integer sum; the prior moved. Then newcomers came."
)


def report(settings: Scale, outcome: Outcome) -> Report:
    """The report of a run; ``write`` and ``print`` it."""
    numbers = summary(settings, outcome)
    first = outcome.newcomers[0]
    return Report(
        experiment="scale",
        title=f"A prior from {settings.people:,} people",
        headline=(
            f"{settings.people:,} people, {numbers['rounds']} rounds in {numbers['seconds']:,.0f} s; before any answer "
            f"of their own, newcomers are recommended percentile {100 * first['percentile_prior']:.1f} with the prior "
            f"and {100 * first['percentile_flat']:.1f} without."
        ),
        about=_ABOUT,
        sections=[
            Section(title="Speed", parts=[_speed(numbers)], lead=_lead(settings)),
            Section(title="Rounds", parts=[_rounds(outcome)]),
            Section(title="What it is worth to newcomers", parts=[_worth(outcome)]),
        ],
        settings=dataclasses.asdict(settings),
        frames={
            "speed": Frame.of([numbers], keys=["people"]),
            "rounds": Frame.of([dataclasses.asdict(record) for record in outcome.trained.rounds], keys=["number"]),
            "newcomers": Frame.of(outcome.newcomers, keys=["answers"]),
        },
        statements={"prior": outcome.trained.statement},
        limits=[
            "The people are invented; what real people have in common decides what a prior is worth.",
            f"The machine's load was {numbers['load']:.1f} when its limits were measured; others slow it all down.",
        ],
        seconds={f"round {record.number}": round(record.seconds, 2) for record in outcome.trained.rounds},
    )


def _lead(settings: Scale) -> str:
    return (
        f"A person's fit in one round needs {settings.operations() / 1e3:,.0f} thousand operations ({NEWTON_STEPS} "
        f"Newton steps) and {settings.traffic() / 1e3:,.0f} kB of memory traffic; the limits are a large matrix "
        "product and a large copy, measured before the run."
    )


def _speed(numbers: dict[str, Any]) -> Table:
    rate = numbers["people_per_second"]
    measured = math.isfinite(rate)
    return Table(
        title="Speed and memory",
        columns=["", "value"],
        rows=[
            ["people per second, made up and fitted", f"{rate:,.0f}" if measured else "all done before"],
            ["the same per second of processor time", f"{numbers['people_per_cpu_second']:,.0f}" if measured else None],
            ["share of the arithmetic limit", f"{numbers['share_of_flops']:.1%}" if measured else None],
            ["share of the bandwidth limit", f"{numbers['share_of_bandwidth']:.1%}" if measured else None],
            ["arithmetic limit", f"{numbers['flops'] / 1e9:,.0f} GFLOP/s"],
            ["bandwidth limit", f"{numbers['bandwidth'] / 1e9:,.1f} GB/s"],
            ["most memory", f"{numbers['peak_memory_bytes'] / 2**20:,.0f} MiB"],
            ["device", numbers["device"]],
        ],
    )


def _rounds(outcome: Outcome) -> Table:
    return Table(
        title="Rounds",
        columns=["round", "people", "clipped", "numbers of an update", "seconds", "released"],
        rows=[
            [
                str(record.number),
                f"{record.people:,}",
                f"{record.clipped / max(record.people, 1):.1%}",
                record.numbers,
                f"{record.seconds:.1f}",
                "yes" if record.released else "no: charged, then lost",
            ]
            for record in outcome.trained.rounds
        ],
    )


def _worth(outcome: Outcome) -> Table:
    return Table(
        title="Percentile of 8 recommendations, log likelihood of a held-out answer",
        columns=["own answers", "percentile, prior", "flat", "log likelihood, prior", "flat ", "gain"],
        rows=[
            [
                str(int(row["answers"])),
                f"{100 * row['percentile_prior']:.1f}",
                f"{100 * row['percentile_flat']:.1f}",
                f"{row['log_likelihood_prior']:.4f}",
                f"{row['log_likelihood_flat']:.4f}",
                f"{row['log_likelihood_prior'] - row['log_likelihood_flat']:+.4f}",
            ]
            for row in outcome.newcomers
        ],
    )
