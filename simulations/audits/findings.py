"""What a run of audits found, as a report."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable
from typing import Any

from common.privacy.accounting import statement
from simulations.audits.builds import BUILDS
from simulations.audits.experiment import AuditSettings, Found, flagged_runs
from simulations.audits.membership import FALSE_POSITIVES, largest_true_positives
from simulations.audits.verdict import AUDITS, SEES
from simulations.lab.frames import Frame
from simulations.lab.lab_report import Cell, Line, Panel, Plot, Report, Section, Table

LIMITS = (
    "A lower bound above a claim proves a bug; one below it never proves privacy.",
    "An upper bound is on the attack that was run, at its threshold. Another attack may reach more.",
    "The Monte-Carlo attacker knows everybody else and reads the sum. The release of a deployed federation is a prior.",
    "Power is measured with rounded normal noise, verdicts with the noise that ships.",
)


def report(settings: AuditSettings, found: Found) -> Report:
    """The report of a finished run."""
    sections = [
        Section(title="Which builds were caught", lead=_caught_lead(settings), parts=[_builds(settings, found)]),
        Section(title="How far the bounds reach", parts=[_bounds(settings, found), _reach(found)]),
        Section(title="What a published prior tells about its members", parts=[_membership(found)]),
        Section(title="What each audit can see", parts=[*_sees(), *_power(settings, found)]),
    ]
    return Report(
        experiment="audit",
        title="Audit: is the claim true of the code?",
        headline=headline(settings, found),
        about=(
            "The shipped build and five broken ones were each attacked by four audits. A build is flagged where an "
            f"audit refutes its claim; all audits together may flag the honest one in {settings.alpha:.2g} of the runs."
        ),
        sections=[section for section in sections if section.parts],
        settings=dataclasses.asdict(settings),
        frames={
            "verdicts": Frame.of(found.verdicts, ("epsilon", "build", "repeat", "audit")),
            "power": Frame.of(found.power, ("epsilon", "fault", "audit")),
        },
        statements={
            f"claim at epsilon {epsilon:g}": statement(settings.promise(epsilon), settings.numbers, 1)
            for epsilon in settings.epsilons
        },
        limits=LIMITS,
        seconds=found.seconds,
    )


def headline(settings: AuditSettings, found: Found) -> str:
    """One sentence."""
    if found.problems:
        return "The audit failed: " + "; ".join(found.problems) + "."
    caught = [name for name in settings.builds if name != "honest"]
    passed = "The build as it ships passed" if "honest" in settings.builds else "No build as it ships was audited"
    least = min(
        (flagged_runs(_of(found, build=name, epsilon=e)) for name in caught for e in settings.epsilons), default=0
    )
    if not caught:
        return f"{passed}."
    return f"{passed}; each of {len(caught)} broken builds was caught in at least {least} of {settings.repeats} runs."


def _of(found: Found, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in found.verdicts if all(row[key] == value for key, value in wanted.items())]


def _caught_lead(settings: AuditSettings) -> str:
    return (
        f"Runs in which an audit flagged the build, of {settings.repeats}; the honest build may be flagged by chance "
        f"in {settings.allowed()}."
    )


def _builds(settings: AuditSettings, found: Found) -> Table:
    rows: list[list[Any]] = []
    for epsilon in settings.epsilons:
        for build in BUILDS:
            if build.name not in settings.builds:
                continue
            mine = _of(found, build=build.name, epsilon=epsilon)
            counts = [sum(row["flagged"] for row in mine if row["audit"] == audit) for audit in AUDITS]
            rows.append([build.label, epsilon, *counts, flagged_runs(mine), settings.repeats])
    heroes = tuple(at for at, row in enumerate(rows) if row[0] == BUILDS[0].label)
    return Table(
        title="Runs flagged, by build and audit",
        columns=["build", "claim", *AUDITS, "any", "of"],
        rows=rows,
        hero_rows=heroes,
    )


def _bounds(settings: AuditSettings, found: Found) -> Table:
    rows: list[list[Any]] = []
    for epsilon in settings.epsilons:
        for build in BUILDS:
            mine = _of(found, build=build.name, epsilon=epsilon)
            if mine:
                cells = [_middle(row for row in mine if row["audit"] == audit) for audit in AUDITS]
                rows.append([build.label, epsilon, *cells])
    return Table(
        title=f"Lower bound on epsilon, and the most this attack reaches ({100 * settings.confidence:g} %, median)",
        columns=["build", "claim", *AUDITS],
        rows=rows,
        hero_rows=tuple(at for at, row in enumerate(rows) if row[0] == BUILDS[0].label),
    )


def _middle(rows: Iterable[dict[str, Any]]) -> Cell:
    bounds = [(row["lower"], row["upper"]) for row in rows]
    lower, upper = (statistics.median(values) for values in zip(*bounds, strict=True))
    return Cell(f"{lower:.2f}", f"up to {upper:.2f}")


def _reach(found: Found) -> Plot:
    """Bounds of the honest build over the claims."""
    lines = []
    honest = [row for row in found.verdicts if row["build"] == "honest"] or found.verdicts
    for audit in AUDITS:
        mine = [row for row in honest if row["audit"] == audit]
        claims = sorted({row["claim"] for row in mine})
        lower = [[row["lower"] for row in mine if row["claim"] == claim] for claim in claims]
        lines.append(
            Line(
                label=audit,
                x=claims,
                y=[statistics.median(values) for values in lower],
                low=[min(values) for values in lower],
                high=[max(values) for values in lower],
                hero=audit == AUDITS[0],
            )
        )
    claims = sorted({row["claim"] for row in honest})
    lines.append(Line(label="the claim", x=claims, y=claims))
    return Plot(
        name="reach",
        title="Lower bound on epsilon, median and range of the runs",
        x_label="claimed epsilon",
        panels=[Panel(lines=lines)],
    )


def _membership(found: Found) -> Plot:
    """True positives over false positives, measured and allowed."""
    panels = []
    honest = [row for row in found.verdicts if row["audit"] == "membership" and row["build"] == "honest"]
    rows = honest or [row for row in found.verdicts if row["audit"] == "membership"]
    for claim in sorted({row["claim"] for row in rows}):
        mine = [row for row in rows if row["claim"] == claim]
        rates = [[row[f"found_at_{rate:g}"] for row in mine] for rate in FALSE_POSITIVES]
        allowed = [largest_true_positives(rate, mine[0]["mu_claimed"]) for rate in FALSE_POSITIVES]
        lines = [
            Line(
                label="attack",
                x=FALSE_POSITIVES,
                y=[statistics.median(values) for values in rates],
                low=[min(values) for values in rates],
                high=[max(values) for values in rates],
                hero=True,
            ),
            Line(label="most that the claim allows", x=FALSE_POSITIVES, y=allowed),
            Line(label="a blind guess", x=FALSE_POSITIVES, y=FALSE_POSITIVES),
        ]
        panels.append(Panel(lines=lines, title=f"epsilon {claim:g}"))
    return Plot(
        name="membership",
        title="Members found, as a share of all members",
        x_label="non-members wrongly taken for members, as a share",
        panels=panels,
    )


def _sees() -> list[Table]:
    rows = [[audit, SEES[audit]] for audit in AUDITS]
    return [Table(title="What each audit looks at", columns=["audit", "sees"], rows=rows, folded=True)]


def _power(settings: AuditSettings, found: Found) -> list[Table]:
    if not found.power:
        return []
    rows: list[list[Any]] = []
    for epsilon in settings.epsilons:
        mine = [row for row in found.power if row["epsilon"] == epsilon]
        for fault in dict.fromkeys(row["fault"] for row in mine):
            of = {row["audit"]: row for row in mine if row["fault"] == fault}
            shares = [of[audit]["flagged"] / of[audit]["runs"] for audit in AUDITS]
            rows.append([next(iter(of.values()))["label"], epsilon, *shares])
    title = f"Probability to flag a fault, by its size ({settings.power_repeats} runs each)"
    return [Table(title=title, columns=["fault", "claim", *AUDITS], rows=rows)]
