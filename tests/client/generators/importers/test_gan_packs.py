"""Each GAN importer once all the way to a pack, small: exported, first run in a child process, 64 latents compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from client.generators.importers.base import ImportSettings, make
from client.generators.importers.registry import importer_of, sniffed
from tests.client.generators.importers import stylegan_files
from tests.client.generators.importers.gan_networks import Tree, ZooProGan, lively, official_dcgan


def stylegan2(path: Path) -> ImportSettings:
    stylegan_files.write(path, stylegan_files.stylegan2(21, side=16, c=3))
    return ImportSettings(
        truncation=0.7, conditions={"label": "1/3"}, settings={"noise": "seed", "cutoff": "2"}, seed=4
    )


def stylegan3(path: Path) -> ImportSettings:
    stylegan_files.write(path, stylegan_files.stylegan3(22, "r", side=16, layers=3))
    return ImportSettings()


def plain(network: torch.nn.Module) -> Any:
    def write(path: Path) -> ImportSettings:
        torch.save(network.state_dict(), path)
        return ImportSettings()

    return write


CASES = {
    "stylegan2": ("stylegan", stylegan2),
    "stylegan3": ("stylegan", stylegan3),
    "dcgan": ("dcgan", plain(official_dcgan())),
    "progan": ("progan", plain(ZooProGan())),
    "stackgan": ("stackgan", plain(lively(Tree(branches=1)))),
}


@pytest.mark.parametrize("case", CASES)
def test_a_pack_draws_what_its_source_draws(tmp_path: Path, case: str) -> None:
    kind, write = CASES[case]
    said = write(tmp_path / "model.bin")
    assert sniffed(tmp_path / "model.bin").kind == kind
    record = importer_of(kind).read(tmp_path / "model.bin", said)
    made = make(record, name=case)
    assert made.error < 1e-3
    assert made.manifest.output.shape == record.output.shape
    assert made.manifest.truncation == record.truncation
    assert made.manifest.origin == record.origin
    assert [each.name for each in made.manifest.conditions] == (["label"] if case == "stylegan2" else [])
