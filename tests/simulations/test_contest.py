from collections.abc import Callable

import pytest
import scipy.stats  # type: ignore[import-untyped]
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.ratings import Kind
from simulations.contest import Outcome, contest
from simulations.panel import Panel
from simulations.people import AnswerNoise, Population
from simulations.players.base import Player
from simulations.players.seed import RandomPlayer
from simulations.players.session import SessionPlayer
from simulations.yardstick import Yardstick, pictures

PEOPLE, ANSWERS, ALPHA = 8, 12, 1e-4


@pytest.fixture(scope="module")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture(scope="module")
def panel(pack: GeneratorPack) -> Panel:
    generator = torch.Generator().manual_seed(0)
    reference = pictures(pack, pack.latents.sample(400, generator))
    wanted = pack.latents.sample(PEOPLE, generator)
    return Panel(
        Population(),
        people=PEOPLE,
        others=0,
        seed=0,
        reference=reference,
        targets=lambda rows: pictures(pack, wanted[rows]),
    )


@pytest.fixture(scope="module")
def yardstick(pack: GeneratorPack, panel: Panel) -> Yardstick:
    return Yardstick.make(pack, panel, law=1_000, seed=1, advance=lambda _: None)


class Deaf(SessionPlayer):
    """A session that hears "a" whatever was said; sides are random, so that tells it nothing."""

    def tell(self, answer: int) -> None:
        super().tell(0)


@pytest.fixture(scope="module")
def met(pack: GeneratorPack, panel: Panel, yardstick: Yardstick) -> Callable[[Callable[[int], Player]], Outcome]:
    def meet(make: Callable[[int], Player]) -> Outcome:
        return contest(make, pack, panel, yardstick, AnswerNoise(), points=(0, ANSWERS), seed=5, advance=lambda _: None)

    return meet


def chance_of(outcome: Outcome) -> float:
    """How likely a learner that knows nothing does this well (one-sided t test of percentiles over people)."""
    return float(scipy.stats.ttest_1samp(outcome.verdicts[-1].percentile, 0.5, alternative="greater").pvalue)


def test_a_learner_that_ignores_the_answers_is_no_better_than_random_and_ours_is(
    pack: GeneratorPack, met: Callable[[Callable[[int], Player]], Outcome]
) -> None:
    ours = met(lambda person: SessionPlayer(pack, 100 + person))
    deaf = met(lambda person: Deaf(pack, 100 + person))
    assert chance_of(ours) < ALPHA
    assert chance_of(deaf) > ALPHA
    assert ours.verdicts[0].percentile == deaf.verdicts[0].percentile, "before any answer they are the same"
    assert len(ours.answer_seconds) == ANSWERS
    assert all(seconds > 0 for seconds in ours.answer_seconds)


class Recorder(RandomPlayer):
    """A random player that keeps what it was told."""

    def __init__(self, pack: GeneratorPack, seed: int, kept: list[int]) -> None:
        super().__init__(pack.latents, seed)
        self.kept = kept

    def tell(self, answer: int) -> None:
        self.kept.append(answer)
        super().tell(answer)


def test_the_same_question_gets_the_same_answer_whoever_asks(
    pack: GeneratorPack, met: Callable[[Callable[[int], Player]], Outcome]
) -> None:
    one: list[int] = []
    other: list[int] = []
    first = met(lambda person: Recorder(pack, person, one))
    second = met(lambda person: Recorder(pack, person, other))
    assert one == other
    assert len(one) == PEOPLE * ANSWERS
    assert len(set(one)) > 2, "stars differ"
    assert first.verdicts == second.verdicts


def test_answers_are_about_the_persons_own_pictures(
    pack: GeneratorPack, panel: Panel, yardstick: Yardstick, met: Callable[[Callable[[int], Player]], Outcome]
) -> None:
    shown: dict[int, list[Tensor]] = {}

    class Showing(RandomPlayer):
        def __init__(self, person: int) -> None:
            super().__init__(pack.latents, person)
            self.mine = shown.setdefault(person, [])

        def ask(self) -> Tensor:
            self.mine.append(super().ask())
            return self.mine[-1]

    outcome = met(Showing)
    person = 3
    latents = torch.cat(shown[person])
    raw = panel.utilities(pictures(pack, latents))[person]
    expected = yardstick.percentile(((raw - yardstick.mean[person]) / yardstick.deviation[person]).expand(PEOPLE, -1))
    found = torch.stack(outcome.shown)[:, person]
    torch.testing.assert_close(found, expected[person].to(found), rtol=0, atol=2e-3)


def test_everybody_is_asked_the_same_kind_of_question(pack: GeneratorPack) -> None:
    assert SessionPlayer(pack, 0).feedback == Kind.CHOICE
