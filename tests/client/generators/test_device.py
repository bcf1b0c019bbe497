"""Where tensors lie while a generator runs: on the GPU when there is one, without copies through the host."""

from pathlib import Path

import pytest
import torch

from client.generators import half
from client.generators.onnx import OnnxModel
from client.generators.pack import GENERATOR, PACKS, GeneratorPack
from client.generators.speed import SpeedSettings
from common.errors import DamagedPack, SettingError

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
CPU = torch.device("cpu")


@pytest.fixture
def art() -> GeneratorPack:
    return GeneratorPack.open("art")


def draws(pack: GeneratorPack, n: int, device: str = "cpu") -> torch.Tensor:
    return pack.latents.sample(n, torch.Generator(device).manual_seed(0))


def model_of(folder: Path, device: torch.device = CPU) -> OnnxModel:
    return OnnxModel((folder / GENERATOR).read_bytes(), GENERATOR, device)


def test_an_output_is_written_where_it_is_wanted(art: GeneratorPack) -> None:
    model, inputs = model_of(PACKS / "art"), art._probe(CPU)
    wanted = model.run(**inputs)
    room = torch.full((len(wanted) + 2, *wanted.shape[1:]), 7.0)
    found = model.run(room[1:-1], **inputs)
    assert found.data_ptr() == room[1].data_ptr()
    torch.testing.assert_close(found, wanted)
    assert bool((room[[0, -1]] == 7).all())


@pytest.mark.parametrize("shape", [(7, 3, 256, 256), (8, 3, 128, 256), (9, 3, 256, 256)])
def test_room_of_another_shape_is_refused(art: GeneratorPack, shape: tuple[int, ...]) -> None:
    with pytest.raises(DamagedPack, match="cannot be run"):
        model_of(PACKS / "art").run(torch.empty(shape), **art._probe(CPU))


def test_outputs_outlive_the_network_that_made_them() -> None:
    art = GeneratorPack.open("art")
    first = art.generator.run(**art._probe(CPU))
    kept = first.clone()
    art.generator.run(**{name: value * 0.5 for name, value in art._probe(CPU).items()})
    del art
    assert torch.equal(first, kept)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device on this machine")
def test_asking_for_a_gpu_that_is_not_there_is_a_clear_message(art: GeneratorPack) -> None:
    with pytest.raises(SettingError, match="no GPU that torch can use; say auto or cpu"):
        art.tuned(SpeedSettings(device="cuda")).generate(draws(art, 1), 16)


@pytest.mark.parametrize("wrong", [{"device": "gpu"}, {"items_at_once": 0}, {"items_at_once": 1 << 20}])
def test_settings_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        SpeedSettings(**wrong)  # type: ignore[arg-type]


@gpu
def test_a_gpu_draws_what_the_cpu_draws(art: GeneratorPack) -> None:
    exact = art.tuned(SpeedSettings(half=False))
    wanted = art.tuned(SpeedSettings(device="cpu")).generate(draws(art, 4), 64)
    torch.testing.assert_close(exact.generate(draws(art, 4), 64), wanted, atol=1e-3, rtol=0)
    there = exact.generate(draws(art, 4).cuda(), 64)
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), wanted, atol=1e-3, rtol=0)


@gpu
def test_on_a_gpu_nothing_is_copied_between_map_search_and_generator(art: GeneratorPack) -> None:
    exact = art.tuned(SpeedSettings(half=False))
    latents = draws(exact, 16, "cuda")
    exact.generate(latents, 64), exact.features(latents)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        features, media = exact.features(latents), exact.generate(latents, 64)
    assert features.is_cuda
    assert media.is_cuda
    copied = [event for event in profile.events() if "DtoH" in event.name]
    # the checks that latents and features are finite read one byte each
    assert len(copied) <= 3, [event.name for event in copied]


@gpu
def test_half_precision_on_a_gpu_stays_within_its_tolerance(art: GeneratorPack) -> None:
    latents = draws(art, 32)
    fast = art.generate(latents)
    wanted = art.tuned(SpeedSettings(half=False)).generate(latents)
    assert float((fast - wanted).abs().max()) <= 4 * half.TOLERANCE  # it was checked on other items
