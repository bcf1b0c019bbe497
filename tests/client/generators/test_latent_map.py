from dataclasses import replace
from pathlib import Path

import pytest
import torch

from client.generators.embedding import picture_features
from client.generators.latent_map import EXPLAINED, LatentMapSettings, _enough, describe, learn_latent_map
from client.generators.onnx import OnnxModel
from client.generators.pack import GeneratorPack
from client.generators.pictures import FeatureScale
from common.errors import SettingError

SMALL = LatentMapSettings(components=8, pictures=1000, size=16, width=48, epochs=4, seed=5)


@pytest.fixture(scope="module")
def art() -> GeneratorPack:
    return GeneratorPack.open("art")


def test_a_learned_map_is_standardised_ordered_and_equal_in_onnx(art: GeneratorPack) -> None:
    stages: set[str] = set()
    learned = learn_latent_map(art, SMALL, lambda stage, done, total: stages.add(stage) if done <= total else None)
    assert stages == {"drawing", "learning"}
    explained = torch.tensor(learned.scale).square() * torch.tensor(learned.r2).clamp(min=0)
    assert bool((explained.diff() <= 1e-5).all())
    assert float(torch.tensor(learned.scale).square().mean()) == pytest.approx(1, abs=1e-4)
    model = OnnxModel(learned.content, "map")
    latents = art.latents.sample(4000, torch.Generator().manual_seed(8))
    for n in (1, 3, 4000):
        assert float((model.run(latent=latents[:n]) - learned.module(latents[:n]).detach()).abs().max()) < 1e-4
    features = model.run(latent=latents)
    assert float(features.mean(0).abs().max()) < 0.1
    assert float((features.var(0) - 1).abs().max()) < 0.2
    assert learn_latent_map(art, SMALL).content == learned.content  # the same seed learns the same map


def test_the_number_of_components_is_found_by_what_they_predict(art: GeneratorPack) -> None:
    settings = replace(SMALL, components=None, pictures=1500, width=96)
    assert settings.candidates == 128
    learned = learn_latent_map(art, settings, features=picture_features("colour"))
    found = torch.tensor(learned.scale).square() * torch.tensor(learned.r2).clamp(min=0)
    assert 2 <= len(found) < 128
    assert learned.module(torch.zeros(1, art.latents.dimension)).shape == (1, len(found))
    assert float(found[-1]) > 0
    assert float(torch.tensor(learned.scale).square().mean()) == pytest.approx(1, abs=1e-4)
    every = learn_latent_map(art, replace(settings, components=128), features=picture_features("colour"))
    assert every.r2[: len(found)] == learned.r2  # the same components, of which the last are left out
    assert EXPLAINED <= learned.explained / every.explained < 1


@pytest.mark.parametrize(
    ("predictable", "count"), [([6.0, 3, 0.5, 0.5, 0], 3), ([1.0], 1), ([9.0, 0.1, 0.1], 2), ([1.0, 1, 1, 1], 4)]
)
def test_enough_components_hold_their_share(predictable: list[float], count: int) -> None:
    assert _enough(torch.tensor(predictable)) == count


def test_features_that_are_asked_for_are_what_the_map_predicts(art: GeneratorPack) -> None:
    """The mean colour alone: its three components are predicted better than those of all features are."""
    settings = replace(SMALL, components=3)
    mean = learn_latent_map(art, settings, features=lambda pictures: {"mean": pictures.mean((2, 3))})
    assert mean.explained > 3 * learn_latent_map(art, settings).explained > 0
    with pytest.raises(SettingError, match="more than the 3 features"):
        learn_latent_map(art, SMALL, features=lambda pictures: {"mean": pictures.mean((2, 3))})


@torch.no_grad()
def test_the_shipped_map_predicts_what_fresh_pictures_show(art: GeneratorPack) -> None:
    """Read the map's features off the picture by ridge regression, and see how well that works on other pictures."""
    latents = art.latents.sample(3000, torch.Generator().manual_seed(1234))
    blocks = describe(art, latents, 48, lambda stage, done, total: None)
    seen = FeatureScale.fit(blocks).apply(blocks).double()
    seen = torch.cat([seen, torch.ones(len(seen), 1)], 1)
    features = art.features(latents, 16)[:, :16]
    train, test = slice(0, 2500), slice(2500, None)
    ridge = 1e-2 * torch.eye(seen.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(seen[train].T @ seen[train] + ridge, seen[train].T @ features[train])
    r2 = 1 - (seen[test] @ weights - features[test]).square().mean(0) / features[test].var(0)
    claimed = art.component_r2[:16]
    assert float(r2[:8].mean()) > 0.7, r2
    assert abs(float(r2.mean() - claimed.mean())) < 0.15, (r2, claimed)


def test_a_latent_map_beats_a_linear_one(art: GeneratorPack) -> None:
    latents = art.latents.sample(6000, torch.Generator().manual_seed(7))
    features = art.features(latents, 16)
    inputs = torch.cat([latents.double(), torch.ones(6000, 1)], 1)
    fitted = torch.linalg.lstsq(inputs[:5000], features[:5000]).solution
    r2 = 1 - (inputs[5000:] @ fitted - features[5000:]).square().mean(0)[:16] / features[5000:, :16].var(0)
    assert float(r2.mean()) < 0.8  # the map is far from linear, so a taste that is linear in the latent loses


@pytest.mark.parametrize(
    "settings",
    [
        {"components": 0},
        {"pictures": 10},
        {"size": 8},
        {"epochs": 0},
        {"width": 1},
        {"components": 200, "pictures": 1000},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(SettingError, match=next(iter(settings))):
        LatentMapSettings(**settings)


def test_more_components_than_picture_features_are_refused(art: GeneratorPack, tmp_path: Path) -> None:
    from client.generators.latent_map import _principal_components

    with pytest.raises(SettingError, match="more than the 5"):
        _principal_components(torch.randn(100, 5), 10, 6)
