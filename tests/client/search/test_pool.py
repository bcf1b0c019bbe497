import pytest
import torch

from client.search.base import CHUNK, Task, angles
from client.search.pool import PoolSearch
from common.errors import SettingError
from common.latents import LatentSpace


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_best_of_many_chunks_is_kept_whichever_chunk_it_is_in() -> None:
    space, seen = LatentSpace(5), []

    def score(z: torch.Tensor) -> torch.Tensor:
        seen.append(z)
        return z[:, 0]

    task = Task(score=score, space=space, starts=space.sample(2, rng(1)))
    found = PoolSearch(size=3 * CHUNK + 10, keep=3).run(task, 6, rng(2))
    everything = torch.cat(seen)[:, 0]
    assert len(everything) == found.steps == 2 + 3 * CHUNK + 10
    torch.testing.assert_close(found.scores, everything.sort(descending=True).values[:6])


def test_given_candidates_are_looked_at_but_not_those_out_of_trust() -> None:
    space = LatentSpace(3)
    candidates = torch.tensor([[0.0, 0.0, 9.0], [0.9, 0.1, 0.0]])
    task = Task(score=lambda z: z[:, 1] + 2 * z[:, 2], space=space, starts=torch.tensor([[1.0, 0.0, 0.0]]))
    best = PoolSearch(size=0, candidates=candidates).run(task, 1, rng()).latents
    torch.testing.assert_close(best, torch.tensor([[0.0, 0.0, 3.0**0.5]]))
    near = Task(score=task.score, space=space, starts=task.starts, trust_angle=0.5)
    best = PoolSearch(size=0, candidates=candidates).run(near, 1, rng()).latents
    assert 0 < float(angles(best, task.starts)) < 0.5


def test_looking_stops_once_the_wanted_score_is_reached() -> None:
    space = LatentSpace(5)
    task = Task(score=lambda z: z[:, 0], space=space, starts=space.sample(2, rng(1)), wanted=1.0)
    assert PoolSearch(size=10 * CHUNK).run(task, 1, rng(2)).steps <= 2 + CHUNK


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingError, match="size=-1"):
        PoolSearch(size=-1)
