import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest, norm  # type: ignore[import-untyped]

from client.contribution import summand_of
from client.masking import RoundMember
from common.messages import Reason
from common.privacy.fixed_point import SCALE, quantise_at_random, random_sensitivity
from common.privacy.promise import promise
from common.rounds import KEYS, MASKED, SHARES, UNMASK, Masked, Unmasked
from common.secure_sum import modulus_bits, unpack
from common.terms import Terms, Trust
from simulations.federation import Fault, Members, Watched, invented_evidence, terms

ALPHA = 1e-4

Content = Mapping[str, object] | None


def dropping(who: Mapping[str, set[int]]) -> Fault:
    return lambda stage, node, content: [] if node in who.get(stage, set()) else [content]


def members(tmp_path: Path, count: int, agreed: Terms | None = None) -> Members:
    return Members(agreed or terms(count), count, tmp_path)


def exact(answered: set[int]) -> list[int]:
    found: list[int] = np.stack([Watched.sent[number] for number in answered]).sum(0).tolist()
    return found


def test_the_masked_sum_is_the_sum_of_the_vectors(tmp_path: Path) -> None:
    made = members(tmp_path, 7)
    sums = made.round()
    assert sums.answered == 7
    assert sums.released().tolist() == exact(set(range(1, 8)))


@pytest.mark.parametrize("stage", [KEYS, SHARES, MASKED, UNMASK])
def test_members_may_drop_out_at_every_stage(tmp_path: Path, stage: str) -> None:
    made = members(tmp_path, 10, terms(10, minimum_people=6))
    made.fault = dropping({stage: {2, 7, 9}})
    sums = made.round()
    left = set(range(1, 11)) - ({2, 7, 9} if stage != UNMASK else set())
    assert sums.released().tolist() == exact(left)
    assert sums.dropped[Reason.MISSING] == 3


@pytest.mark.parametrize("seed", range(12))
def test_any_drop_outs_leave_the_exact_sum_or_none(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    made = members(tmp_path, 12, terms(12, minimum_people=5))
    gone = {stage: set(draw.sample(range(1, 13), draw.randrange(4))) for stage in (KEYS, SHARES, MASKED, UNMASK)}
    made.fault = dropping(gone)
    sums = made.round()
    if sums.total is None:
        assert sums.reason
    else:
        left = set(range(1, 13)) - gone[KEYS] - gone[SHARES] - gone[MASKED]
        assert sums.released().tolist() == exact(left)


def test_a_sparse_graph_gives_the_exact_sum_as_well(tmp_path: Path) -> None:
    made = members(tmp_path, 140, terms(140, components=1, minimum_people=100))
    gone = set(range(1, 15))
    made.fault = dropping({MASKED: gone})
    sums = made.round()
    assert sums.released().tolist() == exact(set(range(15, 141)))


def test_too_few_answers_release_nothing_and_say_so(tmp_path: Path) -> None:
    made = members(tmp_path, 9, terms(9, minimum_people=6))
    made.fault = dropping({MASKED: {1, 2, 3, 4}})
    sums = made.round()
    assert sums.total is None
    assert "5 members sent a masked vector, 6 are needed" in sums.reason


def test_what_a_server_sees_of_one_member_is_uniform(tmp_path: Path) -> None:
    """Masked vectors of the same person in 30 rounds: bytes of the words pass a chi-square test, plain ones fail it."""
    agreed = terms(4, components=9, participations=1_000)
    made = Members(agreed, 4, tmp_path)
    seen: list[int] = []
    plain: list[int] = []
    kept = promise(agreed)
    bits = modulus_bits(4, kept.sensitivity, int(kept.share_variance))

    def look(stage: str, node: int, content: Content) -> list[Content]:
        if stage == MASKED and node == 1 and content is not None:
            seen.extend(unpack(Masked.from_wire(content).total, kept.numbers, bits))
            plain.extend(Watched.sent[1].view(np.uint64) % 2**bits)
        return [content]

    made.fault = look
    for number in range(1, 31):
        assert made.round(number).total is not None

    def p_value(words: list[int]) -> float:
        top = np.array(words, dtype=np.uint64) >> np.uint64(bits - 4)
        counts = np.bincount(top.astype(int), minlength=16)
        expected = len(words) / 16
        return float(chi2.sf(((counts - expected) ** 2 / expected).sum(), 15))

    assert p_value(seen) > ALPHA
    assert p_value(plain) < 1e-12


def test_the_noise_of_the_fewest_honest_survivors_is_the_noise_that_is_accounted(tmp_path: Path) -> None:
    """Standard deviation within 1 per cent of the target, never below it, and the normal law; 3/4 of it is rejected."""
    agreed = terms(10, components=22, minimum_people=8, honest_people=5)
    kept = promise(agreed)
    made = Members(agreed, 10, tmp_path)
    member = RoundMember(made.devices[1], {})
    shares = [member._noise(200_000, kept.share_variance) for _ in range(agreed.honest_people)]
    draws = torch.stack(shares).sum(0).double()
    target = float(kept.total_variance) ** 0.5
    assert float(kept.share_variance) * agreed.honest_people >= float(kept.total_variance)
    assert (float(kept.share_variance) * agreed.honest_people) ** 0.5 < 1.01 * target
    assert float(draws.std()) == pytest.approx(target, rel=0.01)
    assert kstest(draws.numpy()[:50_000] / target, norm.cdf).pvalue > ALPHA
    assert kstest(draws.numpy()[:50_000] / (0.75 * target), norm.cdf).pvalue < ALPHA


def test_a_vector_is_the_rounded_update_plus_noise_of_its_share(tmp_path: Path) -> None:
    agreed = terms(6, components=22)
    kept, made = promise(agreed), Members(agreed, 6, tmp_path)
    made.round()
    prior = made.opening().starting_prior(agreed.pack)
    values = summand_of(invented_evidence(1, agreed.parameters), prior, agreed.settings.norm_bound)[0]
    left = (torch.from_numpy(Watched.sent[1]).double() - values * SCALE) / float(kept.share_variance) ** 0.5
    assert kstest(left.numpy(), norm.cdf).pvalue > ALPHA
    assert kstest(left.numpy() * 2, norm.cdf).pvalue < ALPHA


def test_rounding_at_random_keeps_the_norm_and_the_expectation() -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(4_000, 30, generator=draw, dtype=torch.float64)
    rows = 2.0 * rows / torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    steps = quantise_at_random(rows, 2.0, scale=4)
    assert float(torch.linalg.vector_norm(steps.double(), dim=-1).max()) <= random_sensitivity(2.0, 30, 4)
    assert float((steps - rows * 4).abs().max()) < 1
    same = quantise_at_random(torch.full((20_000, 1), 0.3, dtype=torch.float64), 1.0, scale=1)
    assert float(same.double().mean()) == pytest.approx(0.3, abs=5 * (0.21 / 20_000) ** 0.5)


@pytest.mark.parametrize("trust", [Trust.CENTRAL, Trust.LOCAL])
def test_with_another_trust_the_vectors_are_added_as_they_are(tmp_path: Path, trust: Trust) -> None:
    made = Members(terms(5, trust=trust), 5, tmp_path)
    sums = made.round()
    assert sums.released().tolist() == exact({1, 2, 3, 4, 5})
    assert made.states[1].keys() == {"finished"}


def test_a_member_keeps_no_secret_when_a_round_is_over(tmp_path: Path) -> None:
    made = members(tmp_path, 5)
    made.round()
    assert all(set(state) == {"finished"} for state in made.states.values())


def test_a_lie_about_shares_is_found_and_gone_around(tmp_path: Path) -> None:
    made = members(tmp_path, 10, terms(10, minimum_people=6))

    def lie(stage: str, node: int, content: Content) -> list[Content]:
        if stage == UNMASK and node == 3 and content is not None:
            shares = bytearray(Unmasked.from_wire(content).seeds)
            for last in range(65, len(shares), 66):
                shares[last] ^= 1
            return [{**content, "seeds": bytes(shares)}]
        return [] if stage == MASKED and node == 8 else [content]

    made.fault = lie
    sums = made.round()
    assert sums.released().tolist() == exact(set(range(1, 11)) - {8})
