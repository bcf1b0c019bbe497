from pathlib import Path

import pytest
import scipy.stats  # type: ignore[import-untyped]
import torch

from client.generators.pack import GeneratorPack
from common.errors import PeopleError
from simulations.panel import Panel
from simulations.people import Population
from simulations.yardstick import Yardstick, pictures

PEOPLE, LAW = 4, 1_500


@pytest.fixture(scope="module")
def pack() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture(scope="module")
def panel(pack: GeneratorPack) -> Panel:
    media = pictures(pack, pack.latents.sample(300, torch.Generator().manual_seed(0)))
    return Panel(Population(), people=PEOPLE, others=0, seed=0, reference=media, targets=lambda rows: media[rows])


@pytest.fixture(scope="module")
def yardstick(pack: GeneratorPack, panel: Panel) -> Yardstick:
    return Yardstick.make(pack, panel, law=LAW, seed=1, advance=lambda _: None)


def test_fresh_pictures_are_average(pack: GeneratorPack, panel: Panel, yardstick: Yardstick) -> None:
    media = pictures(pack, pack.latents.sample(400, torch.Generator().manual_seed(9)))
    utilities = yardstick.standard(panel.utilities(media))
    for row in yardstick.percentile(utilities):
        assert scipy.stats.kstest(row.numpy(), "uniform").pvalue > 1e-4
        assert scipy.stats.kstest(row.numpy() ** 2, "uniform").pvalue < 1e-4, "and the test can tell"
    assert float(utilities.mean().abs()) < 0.2
    features = yardstick.features(media)
    assert float(yardstick.extreme(features).float().mean()) < 0.05
    assert yardstick.diversity(features[:200].reshape(25, 8, -1)).mean() == pytest.approx(1.0, abs=0.1)


def test_the_threshold_leaves_one_in_a_thousand_of_the_law(pack: GeneratorPack, yardstick: Yardstick) -> None:
    generator = torch.Generator().manual_seed(1)  # the pictures it was made from, in its order
    media = torch.cat([pictures(pack, pack.latents.sample(500, generator)) for _ in range(LAW // 500)])
    assert int(yardstick.extreme(yardstick.features(media)).sum()) <= round(0.001 * LAW) + 1


def test_burnt_out_and_noisy_pictures_are_extreme_and_copies_are_not_diverse(yardstick: Yardstick) -> None:
    white = torch.ones(1, 3, 32, 32)
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = yardstick.features(torch.cat([white, noise]))
    assert yardstick.extreme(features).tolist() == [True, True]
    assert float(yardstick.diversity(features[:1].expand(1, 8, -1))) < 1e-3


def test_percentiles_count_ties_half(yardstick: Yardstick) -> None:
    low, high = yardstick.ranked[:, :1] - 1, yardstick.ranked[:, -1:] + 1
    assert yardstick.percentile(low).eq(0).all()
    assert yardstick.percentile(high).eq(1).all()
    middle = yardstick.ranked[:, LAW // 2 : LAW // 2 + 1]
    assert yardstick.percentile(middle).sub(0.5).abs().max() < 2e-3
    assert yardstick.loved(high).all()


def test_what_is_saved_comes_back(yardstick: Yardstick, pack: GeneratorPack, tmp_path: Path) -> None:
    yardstick.save(tmp_path / "yardstick.safetensors")
    again = Yardstick.load(tmp_path / "yardstick.safetensors")
    media = pictures(pack, pack.latents.sample(20, torch.Generator().manual_seed(2)))
    assert torch.equal(again.features(media), yardstick.features(media))
    assert torch.equal(again.extreme(again.features(media)), yardstick.extreme(yardstick.features(media)))
    assert torch.equal(again.ranked, yardstick.ranked)


class Indifferent:
    def utilities(self, media: torch.Tensor) -> torch.Tensor:
        return torch.zeros(1, media.shape[0])


def nobody(*, count: int, seed: int, reference: torch.Tensor) -> Indifferent:
    return Indifferent()


def test_somebody_who_likes_everything_the_same_cannot_test(pack: GeneratorPack) -> None:
    media = torch.rand(4, 3, 32, 32)
    panel = Panel(nobody, people=1, others=0, seed=0, reference=media, targets=lambda rows: media[rows])
    with pytest.raises(PeopleError, match="person 0 likes all 20 pictures the same"):
        Yardstick.make(pack, panel, law=20, seed=0, advance=lambda _: None)
