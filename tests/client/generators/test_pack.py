import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from client.generators.pack import GENERATOR, LATENT_MAP, MANIFEST, PACKS, GeneratorPack, Manifest, known_generators
from client.generators.speed import SpeedSettings
from common.errors import DamagedPack, FolderError, PackError, SettingError, UnknownGenerator


@pytest.fixture(scope="module")
def art() -> GeneratorPack:
    return GeneratorPack.open("art")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PACKS / "art", tmp_path / "copy"))


def draws(pack: GeneratorPack, n: int, seed: int = 0) -> torch.Tensor:
    return pack.latents.sample(n, torch.Generator().manual_seed(seed))


def test_the_embedded_pack_opens_by_name_and_by_folder(art: GeneratorPack, folder: Path) -> None:
    assert "art" in known_generators()
    assert (art.name, art.components, art.latents.dimension) == ("art", 64, 24)
    assert GeneratorPack.open(folder).hash == art.hash == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 6e6


def test_the_hash_does_not_depend_on_how_the_manifest_is_laid_out(art: GeneratorPack, folder: Path) -> None:
    content = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).write_bytes(json.dumps(json.loads(content)).replace("\n", "\r\n").encode())
    assert GeneratorPack.open(folder).hash == art.hash


@pytest.mark.parametrize("name", ["nothing", "", "../art/nothing"])
def test_an_unknown_generator_is_told_with_the_known_names(name: str) -> None:
    with pytest.raises(UnknownGenerator, match="art") as caught:
        GeneratorPack.open(name)
    assert caught.value.exit_code == 2


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        about = json.loads((folder / MANIFEST).read_text())
        about.update(changes)
        (folder / MANIFEST).write_text(json.dumps(about))

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / MANIFEST).unlink(), "has no manifest.json"),
    "no generator": (lambda f: (f / GENERATOR).unlink(), "has no generator.onnx"),
    "no map": (lambda f: (f / LATENT_MAP).unlink(), "has no latent_map.onnx"),
    "flipped generator": (lambda f: flip(f / GENERATOR), "generator.onnx was altered"),
    "flipped map": (lambda f: flip(f / LATENT_MAP), "latent_map.onnx was altered"),
    "truncated": (lambda f: (f / LATENT_MAP).write_bytes((f / LATENT_MAP).read_bytes()[:-9]), "bytes, not"),
    "longer": (lambda f: (f / GENERATOR).write_bytes((f / GENERATOR).read_bytes() + b"0"), "has more bytes"),
    "empty": (lambda f: (f / GENERATOR).write_bytes(b""), "has 0 bytes"),
    "not JSON": (lambda f: (f / MANIFEST).write_bytes(b"\xff\x00"), "is not JSON"),
    "foreign JSON": (lambda f: (f / MANIFEST).write_text('{"name": "art"}'), "not about a generator pack"),
    "a list": (lambda f: (f / MANIFEST).write_text("[1]"), "not about a generator pack"),
    "deep JSON": (lambda f: (f / MANIFEST).write_text("[" * 200_000), "is not JSON"),
    "other format": (edit(format="plgl-pack-2"), "plgl-pack-2"),
    "missing field": (lambda f: (f / MANIFEST).write_text('{"format": "plgl-pack-1"}'), "lacks a field"),
    "unknown field": (edit(more=1), "says more"),
    "wrong type": (edit(components="64"), "wrong type"),
    "wrong number": (edit(components=3), "components|r2|scale"),
    "other law": (edit(latent={"dimension": 24, "law": "cauchy"}), "law"),
    "no dimension": (edit(latent={"dimension": 0, "law": "normal"}), "latent"),
    "path as file": (edit(files={"../x": {"size": 1, "sha256": "0" * 64}}), "files"),
    "path as name": (edit(name="../x"), "name"),
    "not a number": (edit(scale=[float("nan")] * 64), "scale"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_or_foreign_pack_is_refused_with_its_reason(kind: str, folder: Path) -> None:
    damage, message = DAMAGE[kind]
    damage(folder)
    with pytest.raises(DamagedPack, match=message):
        GeneratorPack.open(folder)


def test_a_file_that_is_no_network_is_refused_although_its_hash_is_right(folder: Path) -> None:
    manifest = Manifest.decode((folder / MANIFEST).read_bytes())
    (folder / GENERATOR).write_bytes(b"no network")
    files = manifest.files | {GENERATOR: (10, hashlib.sha256(b"no network").hexdigest())}
    about = json.loads(manifest.encode())
    about["files"] = {name: {"size": size, "sha256": sha} for name, (size, sha) in files.items()}
    (folder / MANIFEST).write_text(json.dumps(about))
    pack = GeneratorPack.open(folder)
    with pytest.raises(DamagedPack, match=r"not an ONNX file|cannot be loaded"):
        pack.generate(draws(pack, 1))


def test_swapped_networks_are_refused(folder: Path) -> None:
    about = json.loads((folder / MANIFEST).read_text())
    about["files"][GENERATOR], about["files"][LATENT_MAP] = about["files"][LATENT_MAP], about["files"][GENERATOR]
    (folder / MANIFEST).write_text(json.dumps(about))
    (folder / "x").write_bytes((folder / GENERATOR).read_bytes())
    shutil.copy(folder / LATENT_MAP, folder / GENERATOR)
    (folder / "x").replace(folder / LATENT_MAP)
    pack = GeneratorPack.open(folder)
    with pytest.raises(DamagedPack, match="takes"):
        pack.generate(draws(pack, 1))
    with pytest.raises(DamagedPack, match="takes"):
        pack.features(draws(pack, 1))


def test_drawing_in_chunks_draws_the_same_pictures(art: GeneratorPack) -> None:
    latents = draws(art, 11)
    whole = art.generate(latents, 32)
    seen: list[int] = []
    parts = art.tuned(SpeedSettings(items_at_once=4)).generate(latents, 32, seen.append)
    assert seen == [4, 8, 11]
    assert float((whole - parts).abs().max()) < 1e-4


@pytest.mark.parametrize("size", [None, 16, 33, 300])
def test_pictures_come_in_any_size(art: GeneratorPack, size: int | None) -> None:
    pictures = art.generate(draws(art, 2), size)
    side = size or 256
    assert pictures.shape == (2, 3, side, side)
    assert pictures.dtype == torch.float32
    assert float(pictures.abs().max()) <= 1


def test_another_size_shows_the_same_picture(art: GeneratorPack) -> None:
    latents = draws(art, 8)
    small = torch.nn.functional.adaptive_avg_pool2d(art.generate(latents, 64), 8)
    large = torch.nn.functional.adaptive_avg_pool2d(art.generate(latents, 192), 8)
    assert float((small - large).abs().mean()) < 0.02


def test_nothing_asked_is_nothing_drawn(art: GeneratorPack) -> None:
    assert art.generate(torch.zeros(0, 24), 16).shape == (0, 3, 16, 16)
    assert art.features(torch.zeros(0, 24)).shape == (0, 65)


def test_features_have_a_constant_and_fewer_components_are_a_prefix(art: GeneratorPack) -> None:
    latents = draws(art, 50)
    features = art.features(latents)
    assert features.shape == (50, 65)
    assert features.dtype == torch.float64
    assert torch.equal(features[:, -1], torch.ones(50, dtype=torch.float64))
    few = art.features(latents, 7)
    assert torch.equal(few, torch.cat([features[:, :7], features[:, -1:]], 1))
    assert torch.equal(features, art.features(latents))


def test_features_are_standardised_over_the_latent_law(art: GeneratorPack) -> None:
    features = art.features(draws(art, 40_000, seed=99))[:, :-1]
    assert float(features.mean(0).abs().max()) < 0.05
    assert float((features.var(0) - 1).abs().max()) < 0.1
    assert float(art.component_scale.square().mean()) == pytest.approx(1, abs=1e-4)
    assert art.component_r2.shape == art.component_scale.shape == (64,)


@pytest.mark.parametrize("components", [0, 65, -1])
def test_components_the_map_does_not_have_are_refused(art: GeneratorPack, components: int) -> None:
    with pytest.raises(SettingError, match="between 1 and the 64"):
        art.features(draws(art, 1), components)


@pytest.mark.parametrize(
    "latents", [torch.zeros(24), torch.zeros(2, 23), torch.full((1, 24), float("nan")), torch.full((1, 24), torch.inf)]
)
def test_bad_latents_are_refused(art: GeneratorPack, latents: torch.Tensor) -> None:
    with pytest.raises(SettingError):
        art.generate(latents, 16)
    with pytest.raises(SettingError):
        art.features(latents)


@pytest.mark.parametrize("size", [0, 15, 5000])
def test_a_size_out_of_range_is_refused(art: GeneratorPack, size: int) -> None:
    with pytest.raises(SettingError, match=f"size={size}"):
        art.generate(draws(art, 1), size)


def test_a_pack_without_a_map_draws_and_says_how_to_get_one(folder: Path) -> None:
    flip(folder / LATENT_MAP)
    pack = GeneratorPack.open_without_map(folder)
    assert pack.generate(draws(pack, 1), 16).shape == (1, 3, 16, 16)
    with pytest.raises(PackError, match="plgl generator map"):
        pack.features(draws(pack, 1))


def test_opening_without_a_map_still_verifies_the_generator(folder: Path) -> None:
    flip(folder / GENERATOR)
    with pytest.raises(DamagedPack, match="altered"):
        GeneratorPack.open_without_map(folder)


def test_nothing_is_printed(art: GeneratorPack, capfd: pytest.CaptureFixture[str]) -> None:
    fresh = GeneratorPack.open("art")
    fresh.generate(draws(fresh, 1), 16)
    fresh.features(draws(fresh, 1))
    assert capfd.readouterr() == ("", "")


def test_writing_over_something_else_is_refused(tmp_path: Path, art: GeneratorPack) -> None:
    from client.generators.pack import write_pack

    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FolderError, match="not empty"):
        write_pack(tmp_path, art.manifest, {})
    with pytest.raises(FolderError, match="is a file"):
        write_pack(tmp_path / "mine.txt", art.manifest, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
