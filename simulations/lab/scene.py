"""What the experiments of the lab have in common: which items, which people, which questions, which seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from client.generators.pack import GeneratorPack
from common.errors import SettingError
from simulations.cold_start import FEEDBACK
from simulations.interview import WIDTH
from simulations.lab.grid import Cell, derived_seed
from simulations.lab.trial import Trial
from simulations.people import Population
from simulations.strategies import STRATEGIES
from simulations.world import World

ABSTRACT = "abstract"


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Settings that every experiment has; every field changes the result.

    Attributes:
        strategies: some of ``simulations.strategies.STRATEGIES``; the first is compared with the others.
        answers: numbers of own answers after which newcomers are recommended something, rising.
        look: the number of answers that pictures are about, one of ``answers``.
        delta: failure probability of each budget.
        ratings: answers of each person who takes part, at most.
        new_people: newcomers who are met; the same ones for everything that is compared.
        feedback: like, choice, stars, best or worst.
        generator: pack that items come from, a name or a folder; ``"abstract"`` for items without pictures.
        components: features of the latent map.
        pool: items that questions are about.
        unseen: items to recommend from.
        ideal: share of people with one ideal point.
        two_peaked: share of people with two.
        seed: master seed; every other one is derived from it and written.
        repeats: independent crowds.
    """

    strategies: tuple[str, ...] = ("dp-em", "fedavg-logistic", "fedrep", "local-only", "centralised")
    answers: tuple[int, ...] = (0, 1, 2, 5, 10, 20)
    look: int = 5
    delta: float = 1e-6
    ratings: int = 30
    new_people: int = 300
    feedback: str = "choice"
    generator: str = "art"
    components: int = 32
    pool: int = 1_000
    unseen: int = 2_000
    ideal: float = 0.2
    two_peaked: float = 0.1
    seed: int = 0
    repeats: int = 3

    def __post_init__(self) -> None:
        self._check_scene()
        self._check_axes()
        for cell in self.cells():
            self.trial(cell).check()  # refuses impossible budgets before anything is computed

    def _check_scene(self) -> None:
        for name, least in (("ratings", 1), ("repeats", 1), ("components", 1), ("new_people", 2)):
            if getattr(self, name) < least:
                raise SettingError(f"{name}={getattr(self, name)} must be >= {least}")
        if self.feedback not in FEEDBACK:
            raise SettingError(f"feedback={self.feedback!r} must be one of {', '.join(FEEDBACK)}")
        if self.pool < WIDTH[FEEDBACK[self.feedback]] or min(self.pool, self.unseen) < 100:
            raise SettingError(f"pool={self.pool} and unseen={self.unseen} must be >= 100 items; try 1000 and 2000")
        if not self.answers or list(self.answers) != sorted(set(self.answers)) or self.answers[0] < 0:
            raise SettingError(f"answers={self.answers} must be rising numbers >= 0; try 0,1,2,5,10,20")
        if self.answers[-1] > self.ratings:
            raise SettingError(
                f"answers={self.answers[-1]} is more than the ratings={self.ratings} anybody gives; raise ratings"
            )
        if self.look not in self.answers:
            raise SettingError(f"look={self.look} must be one of answers={self.answers}; try look={self.answers[0]}")
        check_axis("strategies", self.strategies)
        unknown = [name for name in self.strategies if name not in STRATEGIES]
        if unknown:
            raise SettingError(f"strategies={unknown[0]!r} is unknown; choose from {', '.join(STRATEGIES)}")

    def _check_axes(self) -> None:
        """Check the axes of one experiment."""

    def cells(self) -> list[Cell]:
        """All points of the grid."""
        raise NotImplementedError

    def trial(self, cell: Cell) -> Trial:
        """What is tried in a cell."""
        raise NotImplementedError

    def seeds(self, repeat: int) -> dict[str, int]:
        """Seeds of a repeat: the same for all cells, so that they are about the same people."""
        return {purpose: derived_seed(self.seed, purpose, repeat) for purpose in ("crowd", "public")}

    def law(self, *, shared: float, archetypes: int) -> Population:
        """A law of tastes."""
        return Population(shared=shared, archetypes=archetypes, ideal=self.ideal, two_peaked=self.two_peaked)

    def trial_of(self, cell: Cell, **varied: Any) -> Trial:
        """A trial with what is the same in all cells filled in."""
        return Trial(
            delta=self.delta,
            ratings=self.ratings,
            kind=FEEDBACK[self.feedback],
            new_people=self.new_people,
            answers=self.answers,
            crowd_seed=cell.seeds["crowd"],
            public_seed=cell.seeds["public"],
            **varied,
        )

    def pack(self) -> str:
        """What names the items in the settings of a run.

        Raises:
            PackError: there is no such generator, or it is damaged.
        """
        if self.generator == ABSTRACT:
            return ABSTRACT
        pack = GeneratorPack.open(self.generator)
        if self.components > pack.components:
            raise SettingError(
                f"components={self.components} is more than the {pack.components} the map of {pack.name} has"
            )
        return f"{pack.name} {pack.version} {pack.hash}"

    def world(self, advance: Any = lambda drawn: None) -> World:
        """The items, drawn and looked at."""
        sizes = {"components": self.components, "pool": self.pool, "unseen": self.unseen}
        seed = derived_seed(self.seed, "items")
        if self.generator == ABSTRACT:
            return World.abstract(**sizes, seed=seed)
        return World.make(GeneratorPack.open(self.generator), **sizes, seed=seed, advance=advance)


def check_axis(name: str, values: Sequence[Any]) -> None:
    """Refuse an axis without values or with one twice."""
    if not values:
        raise SettingError(f"{name} is empty; give at least one value")
    if len(set(values)) != len(values):
        raise SettingError(f"{name}={','.join(map(str, values))} holds a value twice; give each once")
