"""The rounds of a deployed federation: planned, debited, released, published, and journaled at each step.

Every step that costs somebody something is in the journal before it happens. So a crash at any place loses at most
work: what was charged stays charged, and what was released is published with the same bytes, never drawn again.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common import summand
from common.errors import BudgetError, CohortError, SettingError
from common.files import write_atomically
from common.messages import Reason, RejectedReply
from common.prior import PopulationPrior
from common.privacy.fixed_point import dequantise, random_sensitivity
from common.privacy.noise import Randomness, discrete_gaussian, system_randomness
from common.privacy.promise import promise, statement_of
from common.release import Release, digest
from common.rounds import Opening
from common.secure_sum import RosterEntry
from common.signing import SigningKey
from common.terms import Rule, Terms, Trust
from server.intake import Exchange
from server.journal import Journal, State
from server.population import next_prior
from server.robust import RobustSettings, robust_rule
from server.robust import Rule as RobustRule
from server.secure_round import Sums, add_up, certified, gather_keys

LIFETIME_SECONDS = 90 * 86_400
"""How long what is published is taken up."""


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What the operator's side works with.

    Attributes:
        terms: what the members agreed to.
        start: the public prior the first round starts from.
        authority: ``(32,)`` bytes, the key that certifies members.
        release_key: signs releases.
        journal: open for writing.
        active: numbers of the members who have not left; asked anew in every round.
        releases: folder of published releases.
        lifetime_seconds: how long a release is valid.
        clock: seconds since 1970.
    """

    terms: Terms
    start: PopulationPrior
    authority: bytes
    release_key: SigningKey
    journal: Journal
    active: Callable[[], set[int]]
    releases: Path
    lifetime_seconds: int = LIFETIME_SECONDS
    clock: Callable[[], float] = time.time


READABLE = 0.2
"""Standard deviation of the noise beyond which a clipped fraction says nothing and is left out of the record."""


def release_file(folder: Path, version: int) -> Path:
    """Where a release lies."""
    return folder / f"release-{version:06d}.json"


def recover(desk: Desk) -> list[str]:
    """Bring the journal to rest after a crash; says what was done.

    A round with a release is published, with the bytes in the journal. A round without one is closed; its charge stays.
    """
    done = []
    for entry in desk.journal.unfinished():
        if entry.state is State.RELEASED:
            done.append(f"round {entry.number}: published what was released before the server stopped")
            _publish(desk, entry.number)
        else:
            charged = "; its members stay charged" if entry.state is State.DEBITED else "; nobody was charged"
            done.append(f"round {entry.number}: closed, the server stopped before a release{charged}")
            desk.journal.abort(entry.number, "the server stopped before a release", None)
    return done


def coordinate(
    exchange: Exchange,
    nodes: Callable[[], list[int]],
    desk: Desk,
    rounds: int,
    *,
    randomness: Randomness = system_randomness,
    on_round: Callable[[int, dict[str, Any]], None] | None = None,
) -> int:
    """Run some rounds.

    Args:
        exchange: brings the requests of a stage to nodes, and answers back.
        nodes: who is online; asked at the start of each round.
        desk: the operator's side; ``recover`` first.
        rounds: how many.
        randomness: source of the server's noise (central trust).
        on_round: told the number and the public record of each round when it is over.

    Returns:
        How many releases were published.

    Raises:
        BudgetError: so few members have participations left that no round is possible any more.
    """
    session, published = secrets.token_hex(16), 0
    for _ in range(rounds):
        _check_budget(desk)
        prior, version, before = _newest(desk)
        number = desk.journal.plan(session=session, start=before or "start")
        record, released = _round(exchange, nodes(), desk, prior, version, before, (session, number), randomness)
        published += released
        if on_round is not None:
            on_round(number, record)
    return published


def _round(
    exchange: Exchange,
    nodes: list[int],
    desk: Desk,
    prior: PopulationPrior,
    version: int,
    before: str,
    name: tuple[str, int],
    randomness: Randomness,
) -> tuple[dict[str, Any], bool]:
    session, number = name
    began, terms = time.monotonic(), desk.terms
    opening = Opening.of(prior, federation=terms.federation, terms=terms.digest(), session=session, number=number)
    entries, dropped = gather_keys(exchange, nodes, opening, _admit(desk))
    if len(entries) < terms.settings.minimum_people:
        sums = Sums(reason=f"{len(entries)} members take part, {terms.settings.minimum_people} are needed")
    else:
        # Before anything that depends on a rating leaves a device. If this fails, nothing was asked.
        desk.journal.debit(number, sorted(entry.member for entry in entries.values()))
        sums = add_up(exchange, entries, opening, terms)
    sums.dropped = sums.dropped + dropped
    record: dict[str, Any] = {
        "asked": len(nodes),
        "answered": sums.answered,
        "dropped": {str(reason): count for reason, count in sorted(sums.dropped.items())},
        "seconds": 0.0,
        "clip_fraction": None,
        "noise_std": promise(terms).noise_std(sums.answered, terms.trust),
        "update_norm": None,
    }
    if terms.rule is not Rule.MEAN and sums.answered > terms.settings.expected_people:
        sums = Sums(answered=sums.answered, dropped=sums.dropped, reason="more members answered than the rule is for")
    if sums.total is None:
        record["seconds"] = round(time.monotonic() - began, 3)
        desk.journal.abort(number, sums.reason, record)
        return record, False
    mean = _mean(sums, terms, randomness)
    update, clipped = summand.decode(mean)
    if record["noise_std"] / terms.settings.expected_people < READABLE:
        record["clip_fraction"] = min(1.0, max(0.0, clipped))
    record["update_norm"] = float(torch.linalg.vector_norm(update))
    moved = next_prior(prior, update, terms.step)
    moved = dataclasses.replace(moved, privacy=statement_of(terms, moved.rounds))
    now = int(desk.clock())
    content = Release(
        terms=terms,
        version=version + 1,
        round=number,
        prior=moved,
        created=now,
        expires=now + desk.lifetime_seconds,
        previous=before,
    ).to_bytes(desk.release_key)
    record["seconds"] = round(time.monotonic() - began, 3)
    desk.journal.release(number, content, record)
    _publish(desk, number)
    return record, True


def _mean(sums: Sums, terms: Terms, randomness: Randomness) -> torch.Tensor:
    """The noised sum over the number of members that was fixed beforehand; post-processing from here on."""
    steps, divisor = torch.from_numpy(sums.released()), terms.settings.expected_people
    if terms.rule is not Rule.MEAN and sums.vectors is not None:
        rule = combining(terms)
        steps, divisor = rule.aggregate(torch.from_numpy(sums.vectors)), rule.divisor
    if terms.trust is Trust.CENTRAL:
        # Integers plus integers: nothing may turn the sum into floating point before this line.
        steps = steps + discrete_gaussian(steps.numel(), promise(terms).total_variance, randomness)
    return dequantise(steps) / divisor


def combining(terms: Terms) -> RobustRule:
    """The robust rule of the terms.

    Raises:
        SettingError: it is refused, or one person could do more to it than the promise accounts for.
    """
    kept = promise(terms)
    one = random_sensitivity(kept.norm_bound, kept.numbers)
    settings = RobustSettings(people=terms.settings.expected_people, bound=one, malicious=terms.malicious)
    rule = robust_rule(str(terms.rule), settings, kept.numbers)
    if rule.sensitivity > kept.sensitivity * (1 + 1e-12):
        raise SettingError(f"rule={terms.rule} moves by {rule.sensitivity:.6g}, accounted are {kept.sensitivity:.6g}")
    return rule


def _check_budget(desk: Desk) -> None:
    """Stop closed: no round begins that could not have enough members with anything left."""
    settings, active = desk.terms.settings, desk.active()
    spent = sum(desk.journal.spent(member) >= settings.participations for member in active)
    if spent and len(active) - spent < settings.minimum_people:
        raise BudgetError(
            f"the budget is spent: fewer than {settings.minimum_people} members have any of their "
            f"{settings.participations} participations left; enrol new members, the published priors stay valid"
        )


def _admit(desk: Desk) -> Callable[[RosterEntry], None]:
    check, active = certified(desk.authority, desk.terms.federation, desk.clock()), desk.active()

    def admit(entry: RosterEntry) -> None:
        check(entry)
        if entry.member not in active:
            raise RejectedReply(Reason.NOT_CERTIFIED, f"member {entry.member} has left")
        if desk.journal.spent(entry.member) >= desk.terms.settings.participations:
            raise RejectedReply(Reason.SPENT, f"member {entry.member} has no participation left")

    return admit


def _newest(desk: Desk) -> tuple[PopulationPrior, int, str]:
    """The prior to start from, its version (0 for none) and its digest."""
    content = desk.journal.latest_release()
    if content is None:
        return desk.start, 0, ""
    release = Release.from_bytes(content, desk.release_key.public)
    return release.prior, release.version, digest(content)


def _publish(desk: Desk, number: int) -> None:
    content = desk.journal.latest_release()
    if content is None:
        raise CohortError(f"round {number} has no release")
    version = Release.from_bytes(content, desk.release_key.public).version
    desk.releases.mkdir(parents=True, exist_ok=True)
    write_atomically(release_file(desk.releases, version), content)
    desk.journal.published(number)
