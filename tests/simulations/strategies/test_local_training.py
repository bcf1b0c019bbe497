from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.likelihood import Evidence, score_terms
from client.ratings import Kind
from simulations.clipped_sum import clipped_sum
from simulations.strategies import local_training
from simulations.strategies.local_training import Lesson, Network, train_linear, train_network

CUTS = torch.tensor([-2.0, -0.7, 0.7, 2.0], dtype=torch.float64)
Array = NDArray[np.float64]


def answers(
    kinds: list[Kind], people: int = 9, t: int = 6, features: int = 8, dtype: torch.dtype = torch.float64
) -> Evidence:
    generator = torch.Generator().manual_seed(1)
    width = 1 if kinds == [Kind.LIKE] else 4
    kind = torch.tensor([int(kinds[i % len(kinds)]) for i in range(people * t)]).reshape(people, t)
    value = torch.randint(0, 2, kind.shape, generator=generator) + (kind == int(Kind.STARS)).long()
    x = torch.randn(people, t, width, features, generator=generator, dtype=torch.float64)
    x[..., -1] = 1
    weight = torch.rand(people, t, generator=generator, dtype=torch.float64)
    weight[0], weight[1, 2:] = 0, 0
    return Evidence(kind, value, weight.to(dtype), x.to(dtype), torch.full_like(kind, width))


def loss(evidence: Evidence, scores: Tensor) -> Tensor:
    share = evidence.weight / evidence.weight.sum(1, keepdim=True).clamp(min=1e-9)
    even = Evidence(evidence.kind, evidence.value, share, evidence.features, evidence.shown)
    return -score_terms(even, scores, CUTS)[0].sum()


def by_autograd(evidence: Evidence, start: dict[str, Tensor], moving: set[str], steps: int, rate: float) -> Tensor:
    """One person after the other, by ``torch.autograd``."""
    changes = []
    for person in range(evidence.people):
        one = evidence.select(slice(person, person + 1))
        weights = {name: value.clone() for name, value in start.items()}
        for _ in range(steps):
            leaves = {name: value.clone().requires_grad_(name in moving) for name, value in weights.items()}
            if "linear" in leaves:
                scores = one.features @ leaves["linear"]
            else:
                inside = torch.relu(one.features @ leaves["body"].T)
                scores = inside @ leaves["head"][:-1] + leaves["head"][-1]
            loss(one, scores).backward()  # type: ignore[no-untyped-call]
            for name in moving:
                gradient = leaves[name].grad
                assert gradient is not None
                weights[name] = weights[name] - rate * gradient
        changes.append(torch.cat([(weights[name] - start[name]).flatten() for name in start]))
    return torch.stack(changes)


@pytest.mark.parametrize("kinds", [[Kind.LIKE], [Kind.CHOICE, Kind.STARS, Kind.BEST, Kind.LIKE]], ids=["likes", "all"])
def test_linear_steps_are_those_of_autograd(kinds: list[Kind]) -> None:
    evidence, weights = answers(kinds), torch.linspace(-1, 1, 8, dtype=torch.float64)
    expected = by_autograd(evidence, {"linear": weights}, {"linear"}, 3, 0.7)
    found = train_linear(Lesson.of(evidence, CUTS), weights, steps=3, rate=0.7)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert float(found[0].abs().max()) == 0
    assert float(found[1:].abs().min(1).values.max()) > 1e-3


@pytest.mark.parametrize("kinds", [[Kind.LIKE], [Kind.CHOICE, Kind.STARS, Kind.BEST]], ids=["likes", "all"])
@pytest.mark.parametrize("moving", [{"body", "head"}, {"body"}, {"head"}], ids=["both", "body", "head"])
def test_network_steps_are_those_of_autograd(kinds: list[Kind], moving: set[str]) -> None:
    # likes: fewer rows than features, so by way of X X^T; the others have more rows and take the direct way
    evidence = answers(kinds)
    generator = torch.Generator().manual_seed(4)
    body = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    head = torch.randn(6, generator=generator, dtype=torch.float64)
    expected = by_autograd(evidence, {"body": body, "head": head}, moving, 4, 0.5)
    lesson, network = Lesson.of(evidence, CUTS), Network(body=body, head=head)
    found = train_network(lesson, network, steps=4, rate=0.5, body="body" in moving, head="head" in moving)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_how_many_are_trained_together_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = Lesson.of(answers([Kind.LIKE]), CUTS)
    network = Network(body=torch.ones(5, 8, dtype=torch.float64), head=torch.ones(9, 6, dtype=torch.float64))
    weights = torch.zeros(8, dtype=torch.float64)
    whole = train_linear(lesson, weights, steps=2, rate=1.0), train_network(lesson, network, steps=2, rate=1.0)
    monkeypatch.setattr(local_training, "LINEAR_TOGETHER", 4)
    monkeypatch.setattr(local_training, "NETWORK_TOGETHER", 4)
    parts = train_linear(lesson, weights, steps=2, rate=1.0), train_network(lesson, network, steps=2, rate=1.0)
    assert all(torch.allclose(one, other, rtol=0, atol=1e-13) for one, other in zip(whole, parts, strict=True))


def test_nobody_gives_an_empty_batch() -> None:
    lesson = Lesson.of(answers([Kind.LIKE]).select(slice(0, 0)), CUTS)
    network = Network(body=torch.ones(5, 8), head=torch.ones(6))
    assert train_linear(lesson, torch.zeros(8), steps=2, rate=1.0).shape == (0, 8)
    assert train_network(lesson, network, steps=2, rate=1.0).shape == (0, 46)


def test_people_without_any_answers_change_nothing() -> None:
    lesson = Lesson.of(answers([Kind.LIKE]).first(0), CUTS)
    network = Network(body=torch.ones(5, 8), head=torch.ones(6))
    assert float(train_linear(lesson, torch.zeros(8), steps=2, rate=1.0).abs().sum()) == 0
    assert float(train_network(lesson, network, steps=2, rate=1.0).abs().sum()) == 0


def test_a_vector_of_weights_comes_back_as_the_network_it_was() -> None:
    network = Network(body=torch.randn(5, 8), head=torch.randn(6))
    again = Network.of(network.vector, 8)
    assert torch.equal(again.body, network.body)
    assert torch.equal(again.head, network.head)


def reference_round(x: Array, liked: Array, weights: Array, hidden: int, bound: float, clip: float) -> Array:
    """A round of federated averaging in plain NumPy, float64, person by person: the mean of the rounded changes."""
    total = np.zeros_like(weights)
    d = x.shape[2]
    for rows, truth in zip(x, liked, strict=True):
        own = weights.copy()
        for _ in range(5):
            if hidden:
                body, head = own[: hidden * d].reshape(hidden, d), own[hidden * d :]
                inside = np.maximum(rows @ body.T, 0)
                slope = truth - 1 / (1 + np.exp(-(inside @ head[:-1] + head[-1])))
                back = (slope[:, None] * head[:-1]) * (inside > 0)
                step = np.concatenate([(back.T @ rows).ravel(), inside.T @ slope, [slope.sum()]])
            else:
                step = rows.T @ (truth - 1 / (1 + np.exp(-(rows @ own))))
            own += bound * step / len(rows)
        change = own - weights
        change *= min(1.0, clip / float(np.linalg.norm(change)))
        total += np.rint(change * 4096)
    return weights + total / 4096 / len(x)


@pytest.mark.parametrize("hidden", [0, 64])
def test_two_rounds_in_float32_end_where_a_plain_reference_in_float64_does(hidden: int) -> None:
    people, t, d = 40, 30, 101
    generator = np.random.default_rng(5)
    x = generator.standard_normal((people, t, d))
    x[..., -1] = 1
    liked = (x[..., :3].sum(-1) > generator.standard_normal((people, t))).astype(float)
    start = generator.standard_normal(64 * d + 65) * 0.1 if hidden else np.zeros(d)
    kind = torch.zeros(people, t, dtype=torch.int64)
    features = torch.from_numpy(x).float().unsqueeze(2)
    evidence = Evidence(kind, torch.from_numpy(liked).long(), torch.ones(people, t), features, kind + 1)
    lesson, weights, expected = Lesson.of(evidence, CUTS), torch.from_numpy(start), start
    steps: dict[str, Any] = {"steps": 5, "rate": 0.5}
    for _ in range(2):
        if hidden:
            change = train_network(lesson, Network.of(weights, d), **steps)
        else:
            change = train_linear(lesson, weights, **steps)
        clip = float(torch.linalg.vector_norm(change, dim=1).median())  # half of the people are clipped
        weights = weights + clipped_sum(change, clip).double() / 4096 / people
        expected = reference_round(x, liked, expected, hidden, 0.5, clip)
    assert float((weights - torch.from_numpy(expected)).abs().max()) < 1e-5
    assert float((weights - torch.from_numpy(start)).abs().max()) > 0.01
