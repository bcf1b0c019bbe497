"""Learners that `plgl simulate compare-learners` knows, one file for each family.

================= ========= ==========================================================================
session           A or B    our session
session-prior     A or B    our session with a private prior
session-stars     stars     our session, asked for stars
session-like      like      our session, asked for likes
pairwise-gp       A or B    BoTorch PairwiseGP + EUBO as the library sets it, ties broken at random
pairwise-gp-drop  A or B    the same, ties dropped
pairwise-gp-scale A or B    the same, ties broken at random, one length scale that grows with dimension
noisy-ei          stars     BoTorch SingleTaskGP + qLogNoisyExpectedImprovement
optuna-gp         stars     Optuna GPSampler in the box -3 .. 3
optuna-tpe        stars     Optuna TPESampler in the same box
cma-es            stars     CMA-ES, ten individuals a generation, on the shell
seed-logistic     like      logistic regression + coordinate reverse classification, 70/30
random            stars     random items, the best rated
================= ========= ==========================================================================

Modules are imported when a learner is made, so that those of the extra ``bayesopt`` are optional.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.errors import SettingError

if TYPE_CHECKING:
    from client.generators.pack import GeneratorPack
    from common.prior import PopulationPrior
    from simulations.players.base import Player
    from simulations.players.botorch import Lengths, Ties
    from simulations.players.optuna import Sampler


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a player is made from.

    Attributes:
        pack: the generator; a competitor only sees its latent space.
        seed: of the player.
        prior: a population prior, for those that use one.
        surprise: how varied our recommendations are to be, 0 to 1.
    """

    pack: GeneratorPack
    seed: int
    prior: PopulationPrior | None = None
    surprise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A learner of the list.

    Attributes:
        name: for scripts; label: for people; feedback: what it asks for, for people.
        label: see above.
        feedback: see above.
        make: makes a player.
        ours: whether it is this project's.
        needs: modules of an extra it cannot do without.
        prior: whether it needs a population prior.
        on_shell: whether what it shows and recommends has the typical norm.
        slow: seconds one person's 80 answers take, roughly; for the time to go.
    """

    name: str
    label: str
    feedback: str
    make: Callable[[Setting], Player]
    ours: bool = False
    needs: tuple[str, ...] = ()
    prior: bool = False
    on_shell: bool = True
    slow: float = 5.0


def _session(kind: str, with_prior: bool = False) -> Callable[[Setting], Player]:
    def make(setting: Setting) -> Player:
        from client.ratings import Kind
        from simulations.players.session import SessionPlayer

        prior = setting.prior if with_prior else None
        return SessionPlayer(setting.pack, setting.seed, feedback=Kind[kind], prior=prior, surprise=setting.surprise)

    return make


def _pairwise(ties: Ties, lengths: Lengths) -> Callable[[Setting], Player]:
    def make(setting: Setting) -> Player:
        from simulations.players.botorch import PairwisePlayer

        return PairwisePlayer(setting.pack.latents, setting.seed, ties=ties, lengths=lengths)

    return make


def _noisy_improvement(setting: Setting) -> Player:
    from simulations.players.botorch import NoisyImprovementPlayer

    return NoisyImprovementPlayer(setting.pack.latents, setting.seed)


def _optuna(sampler: Sampler) -> Callable[[Setting], Player]:
    def make(setting: Setting) -> Player:
        from simulations.players.optuna import OptunaPlayer

        return OptunaPlayer(setting.pack.latents, setting.seed, sampler=sampler)

    return make


def _evolution(setting: Setting) -> Player:
    from simulations.players.cmaes import EvolutionPlayer

    return EvolutionPlayer(setting.pack.latents, setting.seed)


def _logistic(setting: Setting) -> Player:
    from simulations.players.seed import LogisticPlayer

    return LogisticPlayer(setting.pack.latents, setting.seed)


def _random(setting: Setting) -> Player:
    from simulations.players.seed import RandomPlayer

    return RandomPlayer(setting.pack.latents, setting.seed)


LEARNERS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(name="session", label="plgl, A/B", feedback="A/B", make=_session("CHOICE"), ours=True, slow=8),
        Entry(
            name="session-prior",
            label="plgl + private prior, A/B",
            feedback="A/B",
            make=_session("CHOICE", with_prior=True),
            ours=True,
            prior=True,
            slow=8,
        ),
        Entry(name="session-stars", label="plgl, stars", feedback="stars", make=_session("STARS"), ours=True, slow=8),
        Entry(name="session-like", label="plgl, like", feedback="like", make=_session("LIKE"), ours=True, slow=8),
        Entry(
            name="pairwise-gp",
            label="PairwiseGP + EUBO, A/B",
            feedback="A/B",
            make=_pairwise("random", "default"),
            needs=("botorch",),
            slow=20,
        ),
        Entry(
            name="pairwise-gp-drop",
            label="PairwiseGP, ties dropped, A/B",
            feedback="A/B",
            make=_pairwise("drop", "default"),
            needs=("botorch",),
            slow=20,
        ),
        Entry(
            name="pairwise-gp-scale",
            label="PairwiseGP, one length, A/B",
            feedback="A/B",
            make=_pairwise("random", "scaled"),
            needs=("botorch",),
            slow=20,
        ),
        Entry(
            name="noisy-ei",
            label="noisy EI (BoTorch), stars",
            feedback="stars",
            make=_noisy_improvement,
            needs=("botorch",),
            slow=15,
        ),
        Entry(
            name="optuna-gp",
            label="Optuna GP, stars",
            feedback="stars",
            make=_optuna("gp"),
            needs=("optuna",),
            on_shell=False,
            slow=15,
        ),
        Entry(
            name="optuna-tpe",
            label="Optuna TPE, stars",
            feedback="stars",
            make=_optuna("tpe"),
            needs=("optuna",),
            on_shell=False,
            slow=4,
        ),
        Entry(name="cma-es", label="CMA-ES, stars", feedback="stars", make=_evolution, slow=0.3),
        Entry(
            name="seed-logistic",
            label="logistic + reverse, like",
            feedback="like",
            make=_logistic,
            slow=0.5,
        ),
        Entry(
            name="random",
            label="random, keep the best, stars",
            feedback="stars",
            make=_random,
            on_shell=False,
            slow=0.1,
        ),
    )
}


def learner(name: str) -> Entry:
    """A learner by its name.

    Raises:
        SettingError: there is none of that name.
    """
    if name not in LEARNERS:
        raise SettingError(f"learner {name!r} is unknown; choose from {', '.join(LEARNERS)}")
    return LEARNERS[name]
