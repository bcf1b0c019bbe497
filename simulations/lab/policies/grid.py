"""What is compared: generators, methods and people, and the cells that makes."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from client.generators.installed import InstalledPacks
from client.policy import LEVEL
from client.policy.learner import LearnSettings
from client.policy.stream import StreamSettings
from common.errors import SettingError
from common.privacy.settings import PrivacySettings
from simulations.lab.crowd_policy import promise
from simulations.lab.frames import Value
from simulations.lab.grid import Cell, derived_seed
from simulations.lab.scene import check_axis
from simulations.panel import KINDS
from simulations.streams import STREAMS

TOY = "toy"
"""The generator of ``plgl toy``: a flow that draws shapes, and is itself taught."""
TAUGHT = ("injection", "pairwise", "denoising")
"""Methods that teach a flow."""
FEDERATED = "federated-eps"
"""Begins the names of methods that show everybody's policy; the budget follows."""
BUDGETS = (1, 2, 8)
METHODS = (*STREAMS, *(f"{FEDERATED}{budget}" for budget in BUDGETS), *TAUGHT)
FETCHED = "faces"
POOL = 1_000  # pictures that the questions of those who teach everybody's policy are made of
MOST_RATINGS = POOL // 2
_ON_TOY = ("base", "best-of-n", "policy", *TAUGHT)
_NEEDS = {"policy-ppo": "stable_baselines3"}
_WORK = {"base": 1, "best-of-n": 3, "search": 15, "policy": 12, "policy-ppo": 40, "distilled": 6}  # seconds
_ON_TOY_WORK = {"base": 8, "best-of-n": 90, "policy": 30, "injection": 15, "pairwise": 11, "denoising": 12}


def usual_generators() -> tuple[str, ...]:
    """Those that come with the program, the toy, and faces where somebody fetched them."""
    fetched = (FETCHED,) if FETCHED in InstalledPacks().names() else ()
    return ("art", "avatars", *fetched, TOY)


def usual_methods() -> tuple[str, ...]:
    """All of which everything needed is installed."""
    return tuple(name for name in METHODS if name not in _NEEDS or importlib.util.find_spec(_NEEDS[name]))


def budget_of(method: str) -> float | None:
    """The epsilon of a federated method; None of any other."""
    found = re.fullmatch(FEDERATED + r"(\d+(?:\.\d+)?|inf)", method)
    return float(found[1]) if found else None


def serves(method: str, generator: str) -> bool:
    """Whether a method makes streams of a generator."""
    return method in _ON_TOY if generator == TOY else method not in TAUGHT


@dataclass(frozen=True, kw_only=True)
class PolicyGrid:
    """Settings; every field changes the result.

    Attributes:
        generators: packs, each a name or a folder, and ``TOY``.
        methods: some of ``METHODS``, or federated ones with budgets of their own, e.g. ``federated-eps0.5``; each is
            tried on the generators it makes streams of.
        people: on each panel; kinds: of taste, round robin, some of ``simulations.panel.KINDS``. On the toy everybody
            loves S-curves.
        kinds: see above.
        answers: A or B questions each of them answers first; picks: of the best of four that each answers on the toy.
        picks: see above.
        items: of each stream that are judged.
        of: candidates for each item of best-of-n.
        level: from 0 (safe) to 1 (surprising).
        rounds: most rounds of learning.
        law: items that percentiles refer to.
        own: items of the generator that streams are compared with.
        crowd: people who teach everybody's policy, of the population of the panel; ratings: answers of each of them.
        ratings: see above.
        newcomers: others who neither teach nor test, and look at the first items of everybody's policy.
        delta: failure probability of each budget.
        hacking: people for whom a learner without a guard is shown cheating, on the first generator that takes latents.
        careless: rounds of that learner.
        sheets: people for whom contact sheets are drawn.
        seed: master seed.
        repeats: independent panels.
    """

    generators: tuple[str, ...] = field(default_factory=usual_generators)
    methods: tuple[str, ...] = field(default_factory=usual_methods)
    people: int = 4
    kinds: tuple[str, ...] = KINDS
    answers: int = 40
    picks: int = 6
    items: int = 200
    of: int = 64
    level: float = LEVEL
    rounds: int = 20
    law: int = 2_000
    own: int = 1_000
    crowd: int = 2_000
    ratings: int = 30
    newcomers: int = 200
    delta: float = 1e-6
    hacking: int = 2
    careless: int = 40
    sheets: int = 2
    seed: int = 0
    repeats: int = 3

    def __post_init__(self) -> None:
        check_axis("generators", self.generators)
        check_axis("methods", self.methods)
        for name in self.methods:
            if name not in METHODS and budget_of(name) is None:
                raise SettingError(f"methods={name!r} is unknown; choose from {', '.join(METHODS)}")
        for generator in self.generators:
            if not self.methods_of(generator):
                known = ", ".join(name for name in METHODS if serves(name, generator))
                raise SettingError(
                    f"methods={','.join(self.methods)} hold none for generators={generator}; add one of {known}, "
                    f"or leave {generator} out"
                )
        self._check_sizes()
        for epsilon in self.budgets:
            self.promise(epsilon)  # refuses what cannot be promised before anything is computed

    def _check_sizes(self) -> None:
        least = {
            "people": 1, "answers": 8, "picks": 1, "items": 20, "of": 2, "rounds": 1, "law": 100, "own": 20,
            "crowd": 1, "ratings": 1, "newcomers": 2, "hacking": 0, "careless": 1, "sheets": 0, "repeats": 1,
        }  # fmt: skip
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise SettingError(f"{name}={getattr(self, name)} must be >= {smallest}")
        if TOY in self.generators and self.own > self.law:
            raise SettingError(f"own={self.own} must be at most law={self.law} shapes of the toy")
        if self.ratings > MOST_RATINGS:
            raise SettingError(f"ratings={self.ratings} must be <= {MOST_RATINGS}: nobody is asked of an item twice")
        if not 0 <= self.level <= 1:
            raise SettingError(f"level={self.level} must lie between 0 (safe) and 1 (surprising)")

    def methods_of(self, generator: str) -> tuple[str, ...]:
        """Methods that make streams of a generator."""
        return tuple(name for name in self.methods if serves(name, generator))

    @property
    def others(self) -> int:
        """Those of the population of a panel who do not test."""
        return self.crowd + self.newcomers

    @property
    def budgets(self) -> tuple[float, ...]:
        """Of the federated methods."""
        return tuple(epsilon for name in self.methods if (epsilon := budget_of(name)) is not None)

    def promise(self, epsilon: float) -> PrivacySettings:
        """What each of those who teach everybody's policy is promised."""
        return promise(epsilon, people=self.crowd, delta=self.delta)

    def stream_settings(self, seed: int) -> StreamSettings:
        """How policies are learned for one person."""
        return StreamSettings(seed=seed, learn=LearnSettings(rounds=self.rounds))

    def preparations(self) -> list[Cell]:
        """What people of panels answer first, and everybody's policies."""
        found = []
        for generator in self.packs:
            for who in self.everybody():
                axes: dict[str, Value] = {"generator": generator, "part": "answers", **who}
                found.append(Cell(axes=axes, seeds=self._seeds(who), work=6))
            for repeat in range(self.repeats):
                for epsilon in self.budgets:
                    axes = {"generator": generator, "part": "crowd", "epsilon": epsilon, "repeat": repeat}
                    found.append(Cell(axes=axes, seeds=self._public_seeds(repeat), work=25))
        return found

    def cells(self) -> list[Cell]:
        """Streams, then cheating."""
        return [*self._streams(), *self._cheating()]

    def everybody(self) -> list[dict[str, int]]:
        """Repeat and person, for each."""
        return [{"repeat": r, "person": p} for r in range(self.repeats) for p in range(self.people)]

    @property
    def packs(self) -> tuple[str, ...]:
        """Generators that take latents."""
        return tuple(name for name in self.generators if name != TOY)

    def _streams(self) -> Iterator[Cell]:
        for generator in self.generators:
            work = _ON_TOY_WORK if generator == TOY else _WORK
            for who in self.everybody():
                for method in self.methods_of(generator):
                    axes: dict[str, Value] = {"generator": generator, "method": method, **who}
                    yield Cell(axes=axes, seeds=self._seeds(who), work=work.get(method, 2))

    def _cheating(self) -> Iterator[Cell]:
        for generator in self.packs[:1]:
            for who in self.everybody():
                if who["person"] < self.hacking:
                    axes: dict[str, Value] = {"generator": generator, "part": "hacking", **who}
                    yield Cell(axes=axes, seeds=self._seeds(who), work=15)

    def _seeds(self, who: dict[str, int]) -> dict[str, int]:
        person = derived_seed(self.seed, "person", who["repeat"], who["person"]) % 2**31
        return {"panel": derived_seed(self.seed, "panel", who["repeat"]) % 2**31, "person": person}

    def _public_seeds(self, repeat: int) -> dict[str, int]:
        purposes = ("panel", "public", "policy")
        return {purpose: derived_seed(self.seed, purpose, repeat) % 2**31 for purpose in purposes}
