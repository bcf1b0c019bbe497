from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from client.generators.importers.base import Imported, ImportSettings, head_of
from client.generators.importers.registry import sniffed
from client.generators.importers.stylegan import StyleGan, read
from client.generators.importers.stylegan_fir import Fir
from client.generators.importers.stylegan_mapping import MappingNetwork, NormalW
from client.generators.interface import SourceLaw
from common.errors import SettingError, UnreadableModel
from tests.client.generators.importers import stylegan_files, stylegan_reference
from tests.client.generators.importers.stylegan_files import Node

PSI, CUTOFF = 0.6, 3


def imported(path: Path, generator: Any, **said: Any) -> Imported:
    return read(stylegan_files.write(path / "model.pkl", generator), ImportSettings(**said))


def latents(n: int, d: int = 12) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def mapping_of(record: Imported) -> MappingNetwork | NormalW:
    assert isinstance(record.network, StyleGan)
    return record.network.mapping


def drawn(record: Imported, z: Tensor, psi: float, *others: Tensor) -> Tensor:
    with torch.no_grad():
        pictures: Tensor = record.network(z, *others, torch.tensor([psi]))
    return pictures


def error(found: Tensor, expected: list[Tensor]) -> float:
    """Largest difference relative to the largest value, pictures limited to their range."""
    wanted = torch.stack(expected)
    assert float((wanted.abs() < 1).double().mean()) > 0.5  # the limits do not hide the network
    return float((found - wanted.clamp(-1, 1)).abs().max() / wanted.clamp(-1, 1).abs().max())


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
@pytest.mark.parametrize("noise", ["const", "none"])
def test_stylegan2_draws_what_its_equations_say(tmp_path: Path, architecture: str, noise: str) -> None:
    node = stylegan_files.stylegan2(3, architecture=architecture)
    record = imported(tmp_path, node, settings={"noise": noise, "cutoff": str(CUTOFF)})
    z = latents(3)
    wanted = [stylegan_reference.stylegan2(node, each, None, PSI, CUTOFF, noise) for each in z.double()]
    assert record.output.shape == (3, 64, 64)
    assert error(drawn(record, z, PSI), wanted) < 1e-4


@pytest.mark.parametrize("config", ["t", "r"])
def test_stylegan3_draws_what_its_equations_say(tmp_path: Path, config: str) -> None:
    node = stylegan_files.stylegan3(5, config)
    record = imported(tmp_path, node, settings={"cutoff": str(CUTOFF)})
    z = latents(1)
    wanted = [stylegan_reference.stylegan3(node, each, None, PSI, CUTOFF) for each in z.double()]
    assert record.output.shape == (3, 64, 64)
    assert error(drawn(record, z, PSI), wanted) < 1e-4


@pytest.mark.parametrize("version", [2, 3])
def test_labels_are_a_condition_and_change_the_picture_as_the_equations_say(tmp_path: Path, version: int) -> None:
    node = stylegan_files.stylegan2(4, side=16, c=3) if version == 2 else stylegan_files.stylegan3(6, "t", side=32, c=3)
    record = imported(tmp_path, node, conditions={"label": "2/3"})
    (condition,) = record.conditions
    assert (condition.name, condition.shape) == ("label", (3,))
    assert record.defaults["label"].tolist() == [0.0, 0.0, 1.0]
    z, labels = latents(2), torch.tensor([[1.0, 0, 0], [0, 0.3, 0.7]])
    pairs = zip(z.double(), labels.double(), strict=True)
    if version == 2:
        wanted = [stylegan_reference.stylegan2(node, one, label, PSI, None, "const") for one, label in pairs]
    else:
        wanted = [stylegan_reference.stylegan3(node, one, label, PSI, None) for one, label in pairs]
    found = drawn(record, z, PSI, labels)
    assert error(found, wanted) < 1e-4
    assert error(drawn(record, z, PSI, labels.flip(0)), wanted) > 1e-2


def test_a_grey_generator_gives_three_equal_channels(tmp_path: Path) -> None:
    node = stylegan_files.stylegan2(7, side=16, colours=1)
    record = imported(tmp_path, node)
    z = latents(2)
    found = drawn(record, z, 1.0)
    wanted = [stylegan_reference.stylegan2(node, e, None, 1.0, None, "const").expand(3, -1, -1) for e in z.double()]
    assert error(found, wanted) < 1e-4


def test_noise_from_a_seed_is_an_input_that_holds_the_maps_of_all_layers(tmp_path: Path) -> None:
    node = stylegan_files.stylegan2(8, side=16)
    record = imported(tmp_path, node, settings={"noise": "seed"}, seed=5)
    (noise,) = record.noise
    assert noise.shape == (16 + 2 * 64 + 2 * 256,)
    assert noise.seed == 5
    constant = imported(tmp_path, node)
    blocks = node.children["synthesis"].children.values()
    maps = [b.children[c]["noise_const"].flatten() for b in blocks for c in ("conv0", "conv1") if c in b.children]
    z = latents(2)
    given = drawn(record, z, 1.0, torch.cat(maps).float())
    assert torch.allclose(given, drawn(constant, z, 1.0), atol=1e-6)
    assert not torch.allclose(given, drawn(record, z, 1.0, torch.randn(noise.shape)), atol=1e-2)


def test_psi_zero_draws_the_average_and_truncated_layers_alone_move(tmp_path: Path) -> None:
    node = stylegan_files.stylegan2(9, side=16)
    pictures = drawn(imported(tmp_path, node), latents(4), 0.0)
    assert float((pictures - pictures[:1]).abs().max()) < 1e-5
    none = drawn(imported(tmp_path, node, settings={"cutoff": "0"}), latents(4), 0.0)
    assert torch.allclose(none, drawn(imported(tmp_path, node), latents(4), 1.0), atol=1e-5)


def test_the_space_w_has_the_law_of_the_styles(tmp_path: Path) -> None:
    node = stylegan_files.stylegan2(10, side=16)
    in_z, in_w = imported(tmp_path, node), imported(tmp_path, node, law=SourceLaw(name="w"))
    assert in_w.source.name == "w"
    assert in_w.latents.dimension == 10
    z = torch.randn(20_000, 12, generator=torch.Generator().manual_seed(3))
    u = torch.randn(20_000, 10, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        styles, made = mapping_of(in_z)(z), mapping_of(in_w)(u)
    before = torch.where(styles < 0, styles * 5, styles), torch.where(made < 0, made * 5, made)
    spread = before[0].std(0)
    assert float(((before[0].mean(0) - before[1].mean(0)) / spread).abs().max()) < 6 * math.sqrt(2 / 20_000)
    gap = (torch.cov(before[0].T) - torch.cov(before[1].T)) / torch.outer(spread, spread)
    assert float(gap.abs().max()) < 0.1
    wrong = torch.cov((before[1] * 1.2).T) - torch.cov(before[0].T)
    assert float((wrong / torch.outer(spread, spread)).abs().max()) > 0.3
    assert drawn(in_w, u[:2], 1.0).shape == (2, 3, 16, 16)


def test_the_space_w_of_one_label_has_no_condition(tmp_path: Path) -> None:
    node = stylegan_files.stylegan2(11, side=16, c=3)
    one, all_ = (imported(tmp_path, node, law=SourceLaw(name="w"), conditions=said) for said in ({"label": "1/3"}, {}))
    assert one.conditions == all_.conditions == ()
    first, second = (mapping_of(record).get_buffer("mean") for record in (one, all_))
    assert not torch.allclose(first, second, atol=1e-2)


@pytest.mark.parametrize(("up", "down"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("taps", [1, 4, 12])
def test_resampling_without_zeros_equals_resampling_with_them(up: int, down: int, taps: int) -> None:
    random = torch.Generator().manual_seed(taps)
    x, row = torch.randn(2, 9, 11, generator=random), torch.rand(taps, generator=random) + 0.1
    for before, after in ((0, 9), (7, 6), (-3, 8), (5, -2)):
        if 9 * up + before + after < taps:
            continue
        found = Fir(row, 2, up=up, down=down, before=before, after=after, gain=4.0)(x[None])[0]
        wanted = stylegan_reference.upfirdn(x.double(), row.double(), up, down, (before, after), 4.0)
        assert found.shape == wanted.shape
        assert float((found - wanted).abs().max()) < 1e-5


def test_a_file_is_recognised_by_what_it_holds_and_not_by_its_name(tmp_path: Path) -> None:
    path = stylegan_files.write(tmp_path / "renamed.onnx", stylegan_files.stylegan2(1, side=16))
    assert sniffed(path).kind == "stylegan"
    assert b"persistent" in head_of(path)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_gives_the_same_network(tmp_path: Path, protocol: int) -> None:
    node = stylegan_files.stylegan2(12, side=16)
    path = tmp_path / "other.pkl"
    wanted = drawn(imported(tmp_path, node), latents(2), 1.0)
    stylegan_files.write(path, node, protocol)
    assert torch.equal(drawn(read(path, ImportSettings()), latents(2), 1.0), wanted)


def changed(node: Node, change: str) -> Node:
    block = node.children["synthesis"].children["b16"]
    layer = block.children["conv1"]
    if change == "nan":
        layer.parameters["weight"][0, 0, 0, 0] = math.nan
    elif change == "missing":
        del layer.parameters["bias"]
    elif change == "extra":
        layer.parameters["attention"] = torch.zeros(3)
    elif change == "shape":
        layer.parameters["weight"] = layer.parameters["weight"][:, :-1]
    elif change == "activation":
        layer.attributes["activation"] = "swish"
    elif change == "architecture":
        block.attributes["architecture"] = "dense"
    elif change == "block":
        del node.children["synthesis"].children["b8"]
    elif change == "kind":
        node.children = {"encoder": layer}
    elif change == "side":
        node.children["synthesis"].attributes["img_resolution"] = 48
    elif change == "size":
        node.children["mapping"].attributes["z_dim"] = -1
    return node


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nan", r"NaN or infinite weights in synthesis.b16.conv1.weight"),
        ("missing", r"not a StyleGAN2 generator: missing synthesis.b16.conv1.bias"),
        ("extra", r"extra synthesis.b16.conv1.attention"),
        ("shape", r"of wrong shape synthesis.b16.conv1.weight \(8, 7, 3, 3\) instead of \(8, 8, 3, 3\)"),
        ("activation", r"another activation than lrelu"),
        ("architecture", r"'dense'"),
        ("block", r"b8|resolution"),
        ("kind", r"neither synthesis.b4 nor synthesis.input"),
        ("side", r"48 pixels"),
        ("size", r"z_dim=-1"),
    ],
)
def test_another_architecture_is_refused_by_what_differs(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(UnreadableModel, match=message):
        imported(tmp_path, changed(stylegan_files.stylegan2(13, side=16), change))


def test_unknown_constructor_arguments_of_stylegan3_are_named(tmp_path: Path) -> None:
    node = stylegan_files.stylegan3(14, "t", side=32)
    node.children["synthesis"].keywords["head_layers"] = 3
    with pytest.raises(UnreadableModel, match="head_layers"):
        imported(tmp_path, node)
    node.children["synthesis"].keywords = {"w_dim": 10, "img_resolution": 10**9, "img_channels": 3}
    with pytest.raises(UnreadableModel, match="img_resolution=1000000000"):
        imported(tmp_path, node)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    content = stylegan_files.write(tmp_path / "model.pkl", stylegan_files.stylegan2(15, side=16)).read_bytes()
    for share in (0.0, 0.01, 0.3, 0.6, 0.9, 0.9999):
        (tmp_path / "cut.pkl").write_bytes(content[: int(share * len(content))])
        with pytest.raises(UnreadableModel, match=r"cut.pkl"):
            read(tmp_path / "cut.pkl", ImportSettings())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x03cdnnlib.tflib.network\nNetwork\n.", "TensorFlow"),
        (b"\x80\x03}.", "no G_ema"),
        (b"\x80\x03K\x01.", "is no network"),
        (b"PK\x03\x04 a zip file", "damaged or of another kind"),
    ],
)
def test_other_files_are_refused_with_the_next_step(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.pkl").write_bytes(content)
    with pytest.raises(UnreadableModel, match=message):
        read(tmp_path / "model.pkl", ImportSettings())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"settings": {"noise": "loud"}}, "noise='loud'"),
        ({"settings": {"cutoff": "-1"}}, "cutoff"),
        ({"settings": {"colour": "red"}}, "colour is unknown"),
        ({"law": SourceLaw(name="uniform", low=-1, high=1)}, "uniform"),
        ({"conditions": {"label": "1/3"}}, "no classes"),
        ({"conditions": {"style": "1"}}, "style is unknown"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, said: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        imported(tmp_path, stylegan_files.stylegan2(16, side=16), **said)
