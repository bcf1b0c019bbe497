"""A panel of invented people to compare learners on: several kinds of taste, all of them functions of the picture.

========== =========================================================================================
weighted   likes more (or less) of some factors of a picture
ideal      likes pictures near an ideal point, and less of what goes beyond it
two-peaked likes pictures near either of two ideal points
target     likes what resembles one picture, seen through a random network that nobody else looks through
========== =========================================================================================
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from common.errors import SettingError
from simulations.people import NAMED, InventedPeople, Judge, People, PeopleFactory, Population, judged

KINDS = ("weighted", "ideal", "two-peaked", "target")
_PEAKS = {"weighted": 0, "ideal": 1, "two-peaked": 2}
EYE_SEED = 31_337  # of the network that targets are compared through; the judge of the others has another
EYE_FACTORS = 40


class TargetPeople:
    """People who like what resembles one picture of the generator each."""

    def __init__(self, targets: Tensor, reference: Tensor) -> None:
        """Give everybody a target.

        Args:
            targets: ``(people, 3, h, w)`` pictures in [0, 1].
            reference: ``(n, 3, h, w)`` typical pictures, to standardise the network's factors by.
        """
        self._eye = Judge(reference, embedding=EYE_FACTORS, seed=EYE_SEED)
        self.targets = self._see(targets)

    def _see(self, media: Tensor) -> Tensor:
        return self._eye.factors(media)[:, NAMED:]

    def utilities(self, media: Tensor) -> Tensor:
        """``(people, n)``, minus the distance to the target; see ``People``."""
        return -torch.cdist(self.targets, self._see(media))


class Panel:
    """People who test learners, and others of the same population who train priors.

    Guarantee: the same seed gives the same people; nobody tests who trains.

    Attributes:
        kinds: kind of each person who tests, round robin; ``"own"`` for people of a plug-in.
    """

    def __init__(
        self,
        population: PeopleFactory | Population,
        *,
        people: int,
        others: int,
        seed: int,
        reference: Tensor,
        targets: Callable[[Tensor], Tensor],
        kinds: Sequence[str] = KINDS,
    ) -> None:
        """Invent everybody.

        Args:
            population: how much people share; its shares of kinds are replaced by ``kinds``. Anything else is used as
                it is.
            people: how many test; others: how many train.
            others: see above.
            seed: of the people.
            reference: ``(n, 3, h, w)`` typical pictures in [0, 1].
            targets: draws the pictures ``(m, 3, h, w)`` that people of given numbers ``(m,)`` want.
            kinds: some of ``KINDS``.

        Raises:
            SettingError: an unknown kind.
        """
        self.people, self.others, total = people, others, people + others
        if not isinstance(population, Population):
            own = population(count=total, seed=seed, reference=reference)
            self.kinds = ["own"] * people
            self._parts: list[tuple[People, Tensor]] = [(own, torch.arange(total))]
            return
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown or not kinds:
            raise SettingError(f"kind {', '.join(unknown) or 'none'!r} is unknown; choose from {', '.join(KINDS)}")
        everybody = [kinds[i % len(kinds)] for i in range(total)]
        self.kinds = everybody[:people]
        aimed = torch.tensor([kind == "target" for kind in everybody])
        rows, wanting = (~aimed).nonzero().squeeze(-1), aimed.nonzero().squeeze(-1)
        self._parts = []
        if len(rows):
            invented = population(count=len(rows), seed=seed, reference=reference)
            peaks = torch.tensor([_PEAKS[everybody[i]] for i in rows.tolist()])
            invented.tastes = dataclasses.replace(invented.tastes, peaks=peaks)
            self._parts.append((invented, rows))
        if len(wanting):
            # drawn for each half when it is first asked: nobody waits for pictures of those who train
            for some in (wanting[wanting < people], wanting[wanting >= people]):
                later = _TargetsLater(partial(_targets, targets, some, reference))
                self._parts.append((later, some))

    def utilities(self, media: Tensor) -> Tensor:
        """Raw utilities ``(people, n)`` of those who test, for pictures ``(n, 3, h, w)`` in [0, 1]."""
        return self._ask(media, 0, self.people)

    def utilities_of_others(self, media: Tensor) -> Tensor:
        """Raw utilities ``(others, n)`` of those who train."""
        return self._ask(media, self.people, self.people + self.others)

    def _ask(self, media: Tensor, first: int, last: int) -> Tensor:
        found = torch.empty(last - first, media.shape[0])
        for people, rows in self._parts:
            wanted = (rows >= first) & (rows < last)
            if bool(wanted.any()):
                found[rows[wanted] - first] = _of(people, wanted, media)
        return found


class _TargetsLater:
    """Target people whose pictures are drawn when they are first asked."""

    def __init__(self, make: Callable[[], TargetPeople]) -> None:
        self._make = make

    @cached_property
    def _people(self) -> TargetPeople:
        return self._make()

    def utilities(self, media: Tensor) -> Tensor:
        return self._people.utilities(media)


def _targets(draw: Callable[[Tensor], Tensor], rows: Tensor, reference: Tensor) -> TargetPeople:
    return TargetPeople(draw(rows), reference)


def _of(people: People, wanted: Tensor, media: Tensor) -> Tensor:
    """Utilities ``(wanted, n)``; of our own people only those asked for are computed."""
    if not isinstance(people, InventedPeople):
        return judged(people, media, len(wanted))[wanted]
    part = copy.copy(people)
    part.tastes = people.tastes.select(wanted)
    return judged(part, media, int(wanted.sum()))
