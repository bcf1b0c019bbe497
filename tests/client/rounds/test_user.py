import pytest
import torch
from torch import Tensor

from client.generators.pack import GeneratorPack
from client.ratings import ANSWERS
from client.rounds.user import BOTH, NEITHER, USERS, A, B, User
from common.errors import SettingError

PACK = GeneratorPack.open("art")
PICTURES = PACK.generate(PACK.latents.sample(120, torch.Generator().manual_seed(0)), 24)
TARGET, SHOWN = PICTURES[0], PICTURES[1:]
LOOKING = ("perceptual", "pixels")


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(name: str, tie: float = 0.0, noise: float = 0.0, good: float = 0.3) -> User:
    return USERS[name](TARGET, SHOWN, good, tie, noise)


def compare(user: User, a: Tensor, b: Tensor, seed: int = 0) -> Tensor:
    return user.compare(a, b, source(seed))


@pytest.mark.parametrize("name", USERS)
def test_a_user_gives_one_known_answer_to_each_pair_and_the_seed_decides(name: str) -> None:
    user = make(name, noise=0.2)
    answer = compare(user, SHOWN[:50], SHOWN[50:100])
    assert answer.shape == (50,)
    assert set(answer.tolist()) <= set(range(len(ANSWERS)))
    assert torch.equal(answer, compare(user, SHOWN[:50], SHOWN[50:100]))
    assert not torch.equal(answer, compare(user, SHOWN[:50], SHOWN[50:100], 1))


@pytest.mark.parametrize("name", USERS)
def test_distance_is_zero_at_the_target_and_one_at_the_median(name: str) -> None:
    eye = make(name).eye
    assert float(eye.distance(TARGET[None])) == pytest.approx(0, abs=1e-4)
    assert float(eye.distance(SHOWN).median()) == pytest.approx(1, abs=1e-4)
    assert float((eye.distance(SHOWN) <= eye.good).float().mean()) == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("name", LOOKING)
def test_the_nearer_picture_wins_in_either_place(name: str) -> None:
    user = make(name)
    others = SHOWN[:20]
    targets = TARGET.expand_as(others)
    assert compare(user, targets, others).tolist() == [A] * 20
    assert compare(user, others, targets).tolist() == [B] * 20


@pytest.mark.parametrize("name", LOOKING)
def test_ties_are_good_or_bad_by_how_near_both_are(name: str) -> None:
    user = make(name, tie=0.01)
    near = user.eye.distance(SHOWN).argsort()
    best, worst = SHOWN[near[:5]], SHOWN[near[-5:]]
    assert compare(user, best, best).tolist() == [BOTH] * 5
    assert compare(user, worst, worst).tolist() == [NEITHER] * 5


def test_a_wider_tie_ties_more_and_none_decides_all_but_equals() -> None:
    counts = [
        int((compare(make("perceptual", tie=tie), SHOWN[:59], SHOWN[59:118]) >= BOTH).sum()) for tie in (0, 0.1, 0.3, 1)
    ]
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert counts[-1] > 40


def test_noise_makes_mistakes_on_close_pairs() -> None:
    truth, noisy = make("perceptual"), make("perceptual", noise=0.3)
    a, b = SHOWN[:59], SHOWN[59:118]
    wrong = (compare(truth, a, b) != compare(noisy, a, b)).float().mean()
    assert 0.05 < float(wrong) < 0.5


def test_the_random_user_says_everything_about_as_often() -> None:
    answer = compare(make("random"), *torch.zeros(2, 4000, 3, 24, 24))
    counts = torch.bincount(answer, minlength=4)
    assert float(((counts - 1000).square() / 1000).sum()) < 21.1  # chi-squared, 3 degrees of freedom, alpha 1e-4


def test_a_generator_that_only_draws_the_target_is_refused() -> None:
    with pytest.raises(SettingError, match="all equal the target"):
        USERS["pixels"](TARGET, TARGET.expand(5, -1, -1, -1), 0.1, 0, 0)
