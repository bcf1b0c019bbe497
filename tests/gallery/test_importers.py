"""The gallery of importers in small, so that the script cannot rot."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.client.generators.importers import stylegan_files, stylegan_reference

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of the libraries when they are imported
    from client.generators.avatar_drawing import COLOURS
    from client.generators.importers.diffusers_folder import _tokenizer
    from client.generators.pack import GeneratorPack
    from common.latents import LatentSpace
    from tests.gallery import diffusion, importers, sheet
    from tests.gallery.importing import add, against, latents_of
    from tests.gallery.lessons import DIMENSION, NATIVE, drawings, importance, portraits
    from tests.gallery.sources import SOURCES, Source, finished, train
    from tests.gallery.stylegan import Trainable

SMALL: dict[str, Any] = {"steps": 2, "batch": 4}


def source(name: str) -> Source:
    return next(each for each in SOURCES if each.name == name)


def test_a_source_is_trained_once_imported_by_the_commands_and_compared_with_its_training(tmp_path: Path) -> None:
    vae = source("vae")
    in_torch = replace(vae.packs[0], options=(*vae.packs[0].options, "--set", "runtime=torch"))  # quicker than ONNX
    steps: list[int] = []
    effort = replace(vae.effort, **SMALL)
    written = train(vae, tmp_path, effort, lambda step, loss: steps.append(step))
    again = train(vae, tmp_path, effort, lambda step, loss: steps.append(step))
    assert steps == [1, 2]
    assert again.path == written.path
    assert finished(tmp_path / vae.name, replace(effort, seed=9)) is None
    made = add(vae, in_torch, written, tmp_path / "home", tmp_path, count=3, seed=5)
    assert made.error < 1e-3
    assert made.against_training is not None
    assert made.against_training < 1e-3
    assert made.command.startswith("plgl generator add vae.ckpt --as vae --set activation=leaky")
    assert float(made.pictures.std(0).mean()) > 1e-4  # the latents matter, so that agreement says something
    other = replace(written, pictures=-written.pictures)
    assert against(GeneratorPack.open(in_torch.name, tmp_path / "home"), other) > 0.1  # another network is told apart
    drawn = sheet.draw([sheet.Line(label="VAE", note="--as vae", pictures=made.pictures)] * 2, 3)
    assert drawn.size == (2 * sheet.MARGIN + sheet.LABELS + 3 * 70 - 6, 2 * sheet.MARGIN + 2 * 70 - 6)


@pytest.mark.parametrize("kind", ["2", "3t", "3r"])
def test_what_is_trained_as_stylegan_is_what_its_equations_say(kind: str) -> None:
    node = (
        stylegan_files.stylegan2(3, side=16, w=6, channels=4)
        if kind == "2"
        else stylegan_files.stylegan3(3, kind[1], side=16, w=6, layers=4, channels=(64, 4), margin=4, first_cutoff=4.0)
    )
    z = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    network = Trainable(node).eval()
    with torch.no_grad():
        found = network(z)
    network.settle()
    wanted = [
        stylegan_reference.stylegan2(node, each, None, 1.0, None, "const")
        if kind == "2"
        else stylegan_reference.stylegan3(node, each, None, 1.0, None)
        for each in z.double()
    ]
    assert float(found.std(0).mean()) > 1e-2
    assert float((found - torch.stack(wanted)).abs().max() / found.abs().max()) < 1e-4


def test_a_prompt_is_only_said_of_what_it_is_true_of() -> None:
    random = torch.Generator().manual_seed(1)
    _, about = drawings(400, random)
    said = diffusion.captions(about, random)
    assert set(said.tolist()) == set(range(len(diffusion.PROMPTS) + 1))
    assert bool((about.parts["glasses"][said == 1] > 0).all())
    assert bool((about.parts["hat"][said == 2] > 0).all())
    skin = about.palette[:, COLOURS.index("skin")].mean(1)
    assert float(skin[said == 3].max()) < 0.5 < float(skin.max())


def test_the_importer_reads_each_prompt_as_the_tokens_that_were_learned(tmp_path: Path) -> None:
    diffusion.write_tokenizer(tmp_path / "tokenizer")
    tokenizer = _tokenizer(tmp_path / "tokenizer", diffusion.TOKENS)
    for prompt in ("", *diffusion.PROMPTS):
        assert tokenizer.numbers(prompt) == diffusion.numbers(prompt)


def test_pixels_of_a_mouth_count_more_and_all_of_them_as_much_as_before() -> None:
    weight = importance(32)
    assert float(weight.mean()) == pytest.approx(1.0)
    assert float(weight.max() / weight.min()) == pytest.approx(4.0)
    assert portraits(latents_of(LatentSpace(DIMENSION), 2, 3)).shape == (2, 3, NATIVE, NATIVE)


def test_a_name_that_is_no_source_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importers.main(["--out", str(tmp_path), "--only", "dcgan,biggan"])
    assert "--only biggan is unknown" in capsys.readouterr().err
