"""What an operator may know about a federation, as plain values: the command, the page and the metrics show the same.

Everything comes from the journal's public records, the releases and the enrolment book. What is left out, and why:

- Below the minimum cohort (N) a number of people is ``"fewer than N"``, zero included, so that its change says nothing.
- A round that fell below N shows no other count: asked minus the rest would give the number back. Its reason is shown
  with the numbers below N replaced.
- Noise, clip fraction and norm are shown of released rounds only, where they are functions of the noised sum. With
  distributed trust the noise of a round that failed would tell how many answered.
- Answers that did not come because of a person's choice or state (refused, budget spent) and because of a network
  (missing, error) are one number: whether somebody paused or was away is nobody's business. It can be had from asked
  minus answered anyway, which both are public. Answers that broke the rules are counted by reason: they are about
  messages.
- Members: how many are active, or ``"fewer than N"``; how many were ever enrolled only where enrolled minus active is
  at least N, else "or more", so that the few who left cannot be counted.
- Nothing is shown by member, and epsilon spent is the largest of all members.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from common.messages import Reason
from common.privacy.accounting import epsilon
from common.privacy.promise import promise, statement_of
from common.terms import Terms
from server.enrolment_book import Member
from server.federation import Federation
from server.journal import Journal, JournalView, RoundEntry, State

FORMAT = 1
QUIET = frozenset({Reason.MISSING, Reason.ERROR, Reason.REFUSED, Reason.SPENT})
"""Reasons that are shown as one number, ``no answer``."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One look at a federation.

    Attributes:
        terms: what was promised.
        view: the journal, verified.
        members: everybody who was ever enrolled.
        now: seconds since 1970.
    """

    terms: Terms
    view: JournalView
    members: Sequence[Member]
    now: float


def look(federation: Federation, now: float) -> Snapshot:
    """Read and verify the journal, and read the enrolment book.

    Raises:
        PlglError: one of them cannot be read, or the journal is damaged.
    """
    public = federation.key("journal").public
    with contextlib.closing(Journal.read(federation.journal, public)) as view:
        return Snapshot(terms=federation.terms, view=view, members=federation.book().members(), now=now)


def status(federation: Federation, now: float) -> dict[str, Any]:
    """Everything an operator may know, fit for JSON.

    Args:
        federation: the operator's folder.
        now: seconds since 1970.

    Raises:
        PlglError: the journal or the enrolment book cannot be read, or the journal is damaged.
    """
    return summarise(look(federation, now))


def summarise(snapshot: Snapshot) -> dict[str, Any]:
    """``status`` of what was read already."""
    terms, least = snapshot.terms, snapshot.terms.settings.minimum_people
    rounds = [_round(entry, least) for entry in snapshot.view.rounds()]
    return {
        "format": FORMAT,
        "time": snapshot.now,
        "federation": {
            "id": terms.federation,
            "name": terms.name,
            "terms": terms.digest(),
            "trust": str(terms.trust),
            "minimum_people": least,
            "expected_people": terms.settings.expected_people,
            "pack": terms.pack,
        },
        "privacy": _privacy(snapshot),
        "members": _members(snapshot),
        "rounds_done": sum(entry["result"] == "done" for entry in rounds),
        "rounds_failed": sum(entry["result"] == "failed" for entry in rounds),
        "rounds": rounds,
        "releases": [{"version": version, "sha256": digest} for version, digest in snapshot.view.releases()],
    }


def troubles(snapshot: Snapshot) -> list[str]:
    """Why the federation is not ready for another round, for people; empty where it is."""
    settings, found = snapshot.terms.settings, []
    active = _active(snapshot)
    able = sum(snapshot.view.spent(member.number) < settings.participations for member in active)
    if len(active) < settings.minimum_people:
        found.append(f"fewer than {settings.minimum_people} members are active; invite more")
    elif able < settings.minimum_people:
        found.append(
            f"fewer than {settings.minimum_people} active members have participations left of their "
            f"{settings.participations}; the budget is spent, enrol new members"
        )
    ended = [result for entry in snapshot.view.rounds() if (result := _result(entry)) in ("done", "failed")]
    if ended and ended[-1] == "failed":
        found.append("the last round failed; see its reason, it is run again with plgl federation run")
    return found


def shown(count: int, least: int) -> int | str:
    """A number of people, or that it is below the minimum cohort."""
    return count if count >= least else f"fewer than {least}"


def _result(entry: RoundEntry) -> str:
    if entry.state in (State.RELEASED, State.PUBLISHED):
        return "done"
    return "failed" if entry.state is State.ABORTED else "running"


def _round(entry: RoundEntry, least: int) -> dict[str, Any]:
    result, record = _result(entry), entry.record or {}
    asked, answered = record.get("asked"), record.get("answered")
    enough = isinstance(answered, int) and answered >= least
    dropped = dict(record.get("dropped") or {}) if enough else {}
    released = record if result == "done" else {}
    return {
        "round": entry.number,
        "result": result,
        "state": str(entry.state),
        "asked": None if asked is None else shown(asked, least),
        "answered": None if answered is None else shown(answered, least),
        "no_answer": sum(count for reason, count in dropped.items() if reason in QUIET) if enough else None,
        "rejected": {reason: count for reason, count in sorted(dropped.items()) if count and reason not in QUIET},
        "seconds": record.get("seconds"),
        "clip_fraction": released.get("clip_fraction"),
        "noise_std": released.get("noise_std"),
        "update_norm": released.get("update_norm"),
        "reason": _safe(entry.reason, least),
        "times": {str(state): when for state, when in entry.times.items()},
    }


def _safe(reason: str | None, least: int) -> str | None:
    """A reason without numbers below the minimum cohort."""
    if reason is None:
        return None
    return re.sub(r"\d+", lambda found: str(shown(int(found[0][:12]), least)), reason[:300])


def _active(snapshot: Snapshot) -> list[Member]:
    return [member for member in snapshot.members if member.revoked is None and member.expires > snapshot.now]


def _members(snapshot: Snapshot) -> dict[str, int | str]:
    least, active = snapshot.terms.settings.minimum_people, len(_active(snapshot))
    revoked, enrolled = sum(member.revoked is not None for member in snapshot.members), len(snapshot.members)
    tellable = active >= least and enrolled - active < least
    return {
        "active": shown(active, least),
        "revoked": shown(revoked, least),
        "enrolled": f"{active} or more" if tellable else shown(enrolled, least),
    }


def _privacy(snapshot: Snapshot) -> dict[str, Any]:
    """Spent, budget and after the next round; the statement is the one releases carry."""
    settings, terms = snapshot.terms.settings, snapshot.terms
    z = promise(terms).noise_multiplier
    spent = snapshot.view.most_spent()
    after = spent + 1 if spent < settings.participations else None

    def cost(participations: int) -> float:
        return min(epsilon(z, participations, settings.delta), settings.epsilon) if participations else 0.0

    return {
        "epsilon_spent": cost(spent),
        "epsilon_after_next_round": None if after is None else cost(after),
        "epsilon_budget": settings.epsilon,
        "delta": settings.delta,
        "participations_spent": spent,
        "participations_budget": settings.participations,
        "noise_multiplier": z,
        "norm_bound": settings.norm_bound,
        "statement": str(statement_of(terms, 1)),
        "unit": "one enrolled person: all ratings, all rounds; the largest of all members",
    }
