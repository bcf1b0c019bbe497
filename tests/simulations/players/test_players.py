"""The contract of all players: one that is listed is tested."""

import importlib.util

import pytest
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.ratings import Kind
from common.errors import SettingError
from simulations.players import LEARNERS, Entry, Setting, learner
from simulations.players.base import FIRST, Player, candidates, mixed
from simulations.players.session import SessionPlayer

ANSWERS = FIRST + 1  # one more than the random questions every model begins with
NAMES = list(LEARNERS)


@pytest.fixture(scope="module")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


def made(name: str, pack: GeneratorPack, seed: int = 0) -> Player:
    entry = learner(name)
    if any(importlib.util.find_spec(module) is None for module in entry.needs):
        pytest.skip(f"{name} needs {entry.needs[0]}")
    return entry.make(Setting(pack=pack, seed=seed))


def answer(kind: Kind, shown: Tensor, direction: Tensor, number: int) -> int:
    """What somebody who likes one direction says; every third A or B is a tie."""
    liking = shown @ direction
    if kind == Kind.CHOICE:
        tie = 2 if float(liking.mean()) > 0 else 3
        return tie if number % 3 == 2 else int(liking[1] > liking[0])
    if kind == Kind.LIKE:
        return int(liking[0] > 0)
    return 1 + int(torch.bucketize(liking[0], torch.tensor([-1.2, -0.4, 0.4, 1.2])))


def played(player: Player, answers: int, direction: Tensor) -> list[Tensor]:
    """Everything shown, and the recommendations last."""
    shown = []
    for number in range(answers):
        shown.append(player.ask())
        player.tell(answer(player.feedback, shown[-1], direction, number))
    return [*shown, player.recommend(8)]


def somewhere(dimension: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(dimension, generator=torch.Generator().manual_seed(3)), dim=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_player_keeps_the_contract(name: str, pack: GeneratorPack) -> None:
    entry, space = learner(name), pack.latents
    player, state = made(name, pack), torch.get_rng_state()
    everything = played(player, ANSWERS, somewhere(space.dimension))
    assert torch.equal(state, torch.get_rng_state()), "nobody else's random numbers are touched"
    again = played(made(name, pack), ANSWERS, somewhere(space.dimension))
    width = 2 if entry.feedback == "A/B" else 1
    assert [len(latents) for latents in everything] == [width] * ANSWERS + [8]
    for latents in everything:
        assert latents.shape[1] == space.dimension
        assert latents.dtype == torch.float32
        assert bool(latents.isfinite().all())
        assert float(latents.abs().max()) < 6.0
    rounding = 1e-3 if "botorch" in entry.needs else 0.0  # a fit that ends elsewhere in the seventh digit
    torch.testing.assert_close(torch.cat(again), torch.cat(everything), rtol=0.0, atol=rounding)
    assert not torch.equal(everything[0], made(name, pack, seed=1).ask()), "another seed, other latents"
    if entry.on_shell and not entry.ours:  # ours is shown as the law draws it, and recommends on the shell
        norms = torch.linalg.vector_norm(torch.cat(everything), dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, space.radius), rtol=1e-4, atol=1e-4)
    if entry.on_shell:
        norms = torch.linalg.vector_norm(everything[-1], dim=1)
        torch.testing.assert_close(norms, torch.full_like(norms, space.radius), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_player_recommends_before_anything_is_said(name: str, pack: GeneratorPack) -> None:
    found = made(name, pack).recommend(3)
    assert found.shape == (3, pack.latents.dimension)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", [n for n in NAMES if LEARNERS[n].feedback == "A/B"])
def test_nothing_but_ties_is_an_answer_too(name: str, pack: GeneratorPack) -> None:
    player = made(name, pack)
    for _ in range(6):
        player.ask()
        player.tell(3)
    assert bool(player.recommend(2).isfinite().all())


@pytest.mark.parametrize("name", [n for n in NAMES if LEARNERS[n].feedback != "A/B"])
def test_the_same_answer_every_time_is_an_answer_too(name: str, pack: GeneratorPack) -> None:
    player = made(name, pack)
    for _ in range(12):
        player.ask()
        player.tell(1)
    assert bool(player.recommend(2).isfinite().all())


def test_a_question_may_be_asked_again_before_it_is_answered(pack: GeneratorPack) -> None:
    player = made("random", pack)
    player.ask()
    shown = player.ask()
    player.tell(5)
    assert torch.equal(player.recommend(1), shown)


def test_a_session_is_not_asked_what_it_cannot_show(pack: GeneratorPack) -> None:
    with pytest.raises(SettingError, match="choice, like, stars"):
        SessionPlayer(pack, 0, feedback=Kind.WORST)


def test_an_unknown_learner_is_named() -> None:
    with pytest.raises(SettingError, match="'nobody' is unknown; choose from session"):
        learner("nobody")


def test_mixtures_keep_to_their_places(pack: GeneratorPack) -> None:
    generator = torch.Generator().manual_seed(0)
    space = pack.latents
    place = space.project(space.sample(1, generator))
    found = mixed(space, place, 400, generator)
    cosines = found @ place[0] / space.radius**2
    assert 0.29 < float(cosines.min()) < 0.35
    assert 0.9 < float(cosines.max()) < 0.98
    assert len(candidates(space, place, generator)) == 600


def test_every_learner_is_described(pack: GeneratorPack) -> None:
    import simulations.players

    assert simulations.players.__doc__ is not None
    for entry in LEARNERS.values():
        assert isinstance(entry, Entry)
        assert entry.name in simulations.players.__doc__
        assert len(entry.label) <= 30, "a label has one line beside its curve"
