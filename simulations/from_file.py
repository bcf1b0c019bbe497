"""Cold start of real people: a prior is learned from some people of a file, the others are met one answer at a time.

No generator, no invented taste: the answers are those in the file (``simulations.choice_file``). What is compared is
how well somebody's *later* answers are foretold after 0, 1, 2, 5, 10 of their own, by what was learned from other
people with and without privacy. Questions are those the file holds; nobody chooses them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from client.fit import Posterior, weigh
from client.likelihood import Evidence
from common.errors import SettingError
from common.prior import TYPICAL_SPREAD, PopulationPrior
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from simulations import engines
from simulations.choice_file import ChoiceFile
from simulations.crowd import Answers
from simulations.foretold import foretold, guessing
from simulations.interview import DRAWS, FLAT_SHARE
from simulations.progress import Stages
from simulations.run_folder import RunFolder

POINTS = (0, 1, 2, 5, 10, 20, 40)
_ENOUGH = 0.8  # share of the new people who must have later answers, where points are not asked for
_TOGETHER = 256  # people met at a time
_BEFOREHAND = "items"  # what stands for the pack in a prior without a generator


@dataclass(frozen=True, kw_only=True)
class FromFile:
    """Settings of the experiment; every field changes the result.

    Attributes:
        epsilons: privacy budgets to compare; a prior without privacy is always trained beside them.
        delta: failure probability of each budget.
        participations: rounds, and the most that one person takes part in.
        norm_bound: clip norm C of one update.
        minimum_people: fewer people to learn from are refused; what a federation would abort at.
        step: learning rate of the M-step.
        spread: standard deviation of scores (log-odds) that the flat prior expects; a public guess, never fitted.
        new_share: share of the people who are met and not learned from.
        most_new: at most so many of them; all others are learned from.
        points: numbers of own answers to look after; empty for those of 0, 1, 2, 5, 10, 20, 40 that the file allows.
        engine: one of ``simulations.engines.ENGINES``; nodes: simulated devices.
        nodes: see above.
        seed: of the first division of the people; repeats: divisions.
        repeats: see above.
    """

    epsilons: tuple[float, ...] = (1.0,)
    delta: float = 1e-6
    participations: int = 4
    norm_bound: float = 4.0
    minimum_people: int = 100
    step: float = 2.0
    spread: float = TYPICAL_SPREAD
    new_share: float = 0.25
    most_new: int = 2_000
    points: tuple[int, ...] = ()
    engine: str = "batched"
    nodes: int = 10
    seed: int = 0
    repeats: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.spread < math.inf:
            raise SettingError(f"spread={self.spread} must be > 0 and finite; try {TYPICAL_SPREAD}")
        if not 0 < self.step <= 10:
            raise SettingError(f"step={self.step} must be > 0 and at most 10; try 2.0")
        if not 0 < self.new_share < 1:
            raise SettingError(f"new_share={self.new_share} must be between 0 and 1; try 0.25")
        if self.most_new < 2 or self.repeats < 1 or self.nodes < 1:
            raise SettingError("most_new must be >= 2, repeats and nodes >= 1")
        if any(point < 0 for point in self.points) or list(self.points) != sorted(set(self.points)):
            raise SettingError(f"points={self.points} must be rising whole numbers; try 0,1,2,5,10")
        if self.engine not in engines.ENGINES:
            raise SettingError(f"engine={self.engine!r} must be one of {', '.join(engines.ENGINES)}")
        if len(set(self.epsilons)) != len(self.epsilons) or not all(map(math.isfinite, self.epsilons)):
            raise SettingError(
                f"epsilons={self.epsilons} must differ and be finite; a prior without privacy is always trained"
            )
        for epsilon in self.epsilons:
            self.privacy(epsilon, self.minimum_people)

    def privacy(self, epsilon: float, people: int) -> PrivacySettings:
        """The promise of one federation of so many people."""
        return PrivacySettings(
            epsilon=epsilon,
            delta=self.delta,
            participations=self.participations,
            norm_bound=self.norm_bound,
            expected_people=people,
            minimum_people=self.minimum_people,
        )


@dataclass(frozen=True)
class Method:
    """One way to foretell: its name for scripts, its label for people, its budget."""

    name: str
    label: str
    epsilon: float | None = None


def methods(settings: FromFile) -> list[Method]:
    """What is compared, weakest first."""
    return [
        Method("own-only", "own answers only"),
        Method("mean-only", "population mean, not private"),
        Method("not-private", "mean and covariance, not private", math.inf),
        *(Method(f"eps-{epsilon:g}", f"private, ε = {epsilon:g}", epsilon) for epsilon in settings.epsilons),
    ]


@dataclass(frozen=True)
class Division:
    """Who is learned from and who is met, of one seed.

    Attributes:
        known: ``(n,)`` rows of people to learn from.
        new: ``(m,)`` rows of people to meet, all with answers beyond the last point.
    """

    known: Tensor
    new: Tensor


class Experiment:
    """One run in a folder; whatever is finished there is used again.

    Args:
        settings: of the experiment.
        file: the answers.
        folder: where cells are kept.
        quiet: print no progress.

    Raises:
        SettingError: too few people or answers for these settings. Raised before anything is computed.
    """

    def __init__(self, settings: FromFile, file: ChoiceFile, folder: RunFolder | None, *, quiet: bool = False) -> None:
        self.settings, self.file, self.folder, self.quiet = settings, file, folder, quiet
        self.points = settings.points or _points(file, settings)
        self.features = standardised(file)
        self.flat = PopulationPrior.flat(self.features.shape[1], _BEFOREHAND, settings.spread)
        self.divisions = {seed: self._division(seed) for seed in self.seeds}

    @property
    def seeds(self) -> range:
        """One for each repeat."""
        return range(self.settings.seed, self.settings.seed + self.settings.repeats)

    @functools.cached_property
    def guessing(self) -> float:
        """Share of the later answers that a blind guess gets right."""
        division = next(iter(self.divisions.values()))
        later = self._later(_of(self.file.answers, division.new).seen_as(self.features))
        return guessing(later)

    def _later(self, evidence: Evidence) -> Evidence:
        return Evidence(*(tensor[:, self.points[-1] :] for tensor in evidence.tensors()))

    def run(self) -> list[dict[str, Any]]:
        """Do what is not done yet.

        Returns:
            One cell for each seed and method: ``seed``, ``method``, and per new person and point ``right`` and
            ``log_likelihood`` of their later answers; ``privacy`` where somebody was learned from.
        """
        assert self.folder is not None, "a run needs a folder"
        found, chosen = [], methods(self.settings)
        with Stages({f"people of seed {seed}": 1.0 for seed in self.seeds}, quiet=self.quiet) as stages:
            for seed in self.seeds:
                names = [f"{method.name}-seed-{seed}" for method in chosen]
                kept = [self.folder.cell(name) for name in names]
                if all(kept):
                    stages.skip(f"people of seed {seed}")
                    found += [cell for cell in kept if cell]
                    continue
                stages.begin(f"people of seed {seed}")
                for name, cell in zip(names, self._cells(seed), strict=True):
                    self.folder.save_cell(name, cell)
                    found.append(cell)
                    stages.advance(1 / len(chosen))
        return found

    def _cells(self, seed: int) -> Iterator[dict[str, Any]]:
        division = self.divisions[seed]
        known = _of(self.file.answers, division.known).seen_as(self.features)
        full = self._learn(known, math.inf)
        mean_only = dataclasses.replace(full, covariance=self.flat.covariance)
        for method in methods(self.settings):
            learned = {"own-only": None, "mean-only": mean_only, "not-private": full}
            prior = learned[method.name] if method.name in learned else self._learn(known, method.epsilon or math.inf)
            right, likelihood = self._meet(_of(self.file.answers, division.new), prior)
            yield {
                "seed": seed,
                "method": method.name,
                "right": right.tolist(),
                "log_likelihood": likelihood.tolist(),
                "privacy": None if prior is None else prior.privacy.to_json(),
            }

    def _learn(self, known: Evidence, epsilon: float) -> PopulationPrior:
        s = self.settings
        with tempfile.TemporaryDirectory() as devices:
            prior, _ = engines.run(
                s.engine,
                known,
                self.flat,
                s.privacy(epsilon, known.people),
                step=s.step,
                nodes=min(s.nodes, known.people),
                folder=Path(devices),
            )
        return prior

    def _meet(self, answers: Answers, prior: PopulationPrior | None) -> tuple[Tensor, Tensor]:
        """``(people, points)`` share of later answers that were foretold, and their mean log likelihood in nats."""
        half = torch.randn(DRAWS // 2, self.flat.parameters, generator=torch.Generator().manual_seed(1)).double()
        draws = torch.cat([half, -half])  # in pairs, so that no direction is favoured where nothing is known
        rights, likelihoods = [], []
        for start in range(0, answers.people, _TOGETHER):
            part = _of(answers, torch.arange(start, min(start + _TOGETHER, answers.people)))
            evidence = part.seen_as(self.features)
            later = self._later(evidence)
            looks = [foretold(later, self._believe(evidence.first(point), prior), draws) for point in self.points]
            right, likelihood = (torch.stack(x, dim=1) for x in zip(*looks, strict=True))
            rights.append(right)
            likelihoods.append(likelihood)
        return torch.cat(rights), torch.cat(likelihoods)

    def _believe(self, evidence: Evidence, prior: PopulationPrior | None) -> Posterior:
        priors, shares = ([self.flat], [1.0]) if prior is None else ([prior, self.flat], [1 - FLAT_SHARE, FLAT_SHARE])
        return weigh(
            evidence,
            torch.stack([prior.mean for prior in priors]),
            torch.stack([prior.covariance for prior in priors]),
            torch.tensor(shares, dtype=torch.float64),
            self.flat.thresholds,
        )

    def _division(self, seed: int) -> Division:
        people = len(self.file.people)
        order = torch.randperm(people, generator=torch.Generator().manual_seed(seed))
        new = min(self.settings.most_new, max(1, round(self.settings.new_share * people)))
        enough = self.file.given[order[:new]] > self.points[-1]
        division = Division(known=order[new:], new=order[:new][enough])
        if division.new.numel() < 2:
            raise SettingError(
                f"of {new} new people {division.new.numel()} gave more than {self.points[-1]} answers, so there are no "
                f"later ones to foretell; use fewer points, e.g. 0,1,2 (most answers of one person: "
                f"{int(self.file.given.max())})"
            )
        needed = self.settings.minimum_people
        if division.known.numel() < needed:
            raise SettingError(
                f"{division.known.numel()} people to learn from are fewer than minimum_people={needed}; a prior of so "
                "few would have to be mostly noise. Lower minimum_people, or give answers of more people"
            )
        return division


def standardised(file: ChoiceFile) -> Tensor:
    """``(items, p)`` float64 features with mean 0 and standard deviation 1 over the items, a last column of ones.

    The statistics are those of the items, each once, so nobody's answers enter; that an item is in the file at all is
    taken as public. Features that are the same for all items say nothing and are left out.
    """
    table = torch.from_numpy(file.table)
    deviation, mean = torch.std_mean(table, dim=0, correction=0)
    varies = deviation > 1e-9 * (1 + mean.abs())
    scaled = (table[:, varies] - mean[varies]) / deviation[varies]
    return torch.cat([scaled, scaled.new_ones(len(scaled), 1)], dim=1)


def _of(answers: Answers, people: Tensor) -> Answers:
    """The answers of some people."""
    return Answers(answers.kind[people], answers.value[people], answers.items[people], answers.weight[people])


def _points(file: ChoiceFile, settings: FromFile) -> tuple[int, ...]:
    """The usual points after which most people have later answers, at least half as many again."""
    given = file.given.double()
    kept = tuple(n for n in POINTS if float((given > 1.3 * n).double().mean()) >= _ENOUGH)
    if not kept:
        raise SettingError("most people gave no answer at all; give answers of people who gave two or more")
    return kept


def statements(cells: list[dict[str, Any]], settings: FromFile) -> dict[str, PrivacyStatement]:
    """What was promised, by the label of the method that released it."""
    labels = {method.name: method.label for method in methods(settings)}
    return {
        labels[cell["method"]]: PrivacyStatement.from_json(cell["privacy"])
        for cell in cells
        if cell["privacy"] is not None
    }
