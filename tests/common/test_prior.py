"""A prior on disk: read back as written, and refused when anything about it is not as it should be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from common.errors import PriorError, SettingError
from common.prior import DEFAULT_THRESHOLDS, PopulationPrior
from common.privacy.accounting import statement
from common.privacy.settings import PrivacySettings
from common.privacy.statement import PrivacyStatement
from common.update import length

GOLDEN = Path(__file__).parents[1] / "golden" / "prior-1"
PACK = hashlib.sha256(b"a pack").hexdigest()


def some_prior(p: int = 4) -> PopulationPrior:
    index = torch.arange(p, dtype=torch.float64)
    return PopulationPrior(
        mean=index / 8 - 0.25,
        covariance=torch.eye(p, dtype=torch.float64) + 0.5 ** (1 + (index[:, None] - index).abs()),
        thresholds=torch.tensor(DEFAULT_THRESHOLDS, dtype=torch.float64),
        pack=PACK,
        privacy=statement(PrivacySettings(), length(p), 4),
        rounds=4,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    some_prior().save(tmp_path / "prior")
    return tmp_path / "prior"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    about = json.loads((folder / "prior.json").read_text())
    change(about)
    (folder / "prior.json").write_text(json.dumps(about))


def rewrite_tensors(folder: Path, **tensors: Tensor) -> None:
    """What a forger would do: new tensors and a fitting hash."""
    raw = safetensors.torch.save({**safetensors.torch.load((folder / "prior.safetensors").read_bytes()), **tensors})
    (folder / "prior.safetensors").write_bytes(raw)
    rewrite(folder, lambda about: about.update(sha256=hashlib.sha256(raw).hexdigest()))


def assert_same(one: PopulationPrior, other: PopulationPrior) -> None:
    for name in ("mean", "covariance", "thresholds"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    assert (one.pack, one.privacy, one.rounds) == (other.pack, other.privacy, other.rounds)


def test_a_prior_reads_back_bit_for_bit(folder: Path) -> None:
    assert_same(PopulationPrior.load(folder), some_prior())
    assert_same(PopulationPrior.load(folder, pack=PACK, parameters=4), some_prior())
    assert sorted(file.name for file in folder.iterdir()) == ["prior.json", "prior.safetensors"]


@pytest.mark.parametrize("privacy", [PrivacyStatement.public(), PrivacyStatement.not_private(3)])
def test_every_kind_of_statement_survives_the_disk(privacy: PrivacyStatement, tmp_path: Path) -> None:
    dataclasses.replace(some_prior(), privacy=privacy).save(tmp_path)
    assert PopulationPrior.load(tmp_path).privacy == privacy
    # No NaN or Infinity, which other readers of JSON refuse.
    json.loads((tmp_path / "prior.json").read_text(), parse_constant=pytest.fail)


def test_saving_again_replaces_the_prior(folder: Path) -> None:
    later = dataclasses.replace(some_prior(), rounds=8)
    later.save(folder)
    assert_same(PopulationPrior.load(folder), later)


def test_a_prior_written_by_the_first_version_is_still_read() -> None:
    prior = PopulationPrior.load(GOLDEN, pack=PACK, parameters=4)
    expected = some_prior()
    for name in ("mean", "covariance", "thresholds"):
        assert torch.equal(getattr(prior, name), getattr(expected, name))
    assert prior.rounds == 4
    assert (prior.privacy.epsilon, prior.privacy.delta, prior.privacy.participations) == (1.0, 1e-6, 4)
    assert prior.privacy.noise_multiplier is not None
    assert math.isclose(prior.privacy.noise_multiplier, 8.449357787, rel_tol=1e-5)
    assert prior.privacy.accountant.startswith("plgl analytic Gaussian")


@pytest.mark.parametrize("place", [3, 60, -1])
def test_one_altered_byte_is_noticed(folder: Path, place: int) -> None:
    raw = bytearray((folder / "prior.safetensors").read_bytes())
    raw[place] ^= 1
    (folder / "prior.safetensors").write_bytes(raw)
    with pytest.raises(PriorError, match="was altered"):
        PopulationPrior.load(folder)


def test_a_prior_of_another_pack_is_refused_and_both_are_named(folder: Path) -> None:
    with pytest.raises(PriorError, match=rf"learned on pack {PACK[:12]}, not on 000000000000"):
        PopulationPrior.load(folder, pack="0" * 64)


def test_a_prior_of_another_size_is_refused_and_the_remedy_named(folder: Path) -> None:
    with pytest.raises(PriorError, match=r"has 3 features, this map has 32; pass --components 3"):
        PopulationPrior.load(folder, parameters=33)


@pytest.mark.parametrize("keep", [0, 1, 40, 200])
def test_a_truncated_description_is_a_prior_error(folder: Path, keep: int) -> None:
    text = (folder / "prior.json").read_text()
    (folder / "prior.json").write_text(text[:keep])
    with pytest.raises(PriorError, match="cannot read a prior"):
        PopulationPrior.load(folder)


@pytest.mark.parametrize("name", ["prior.json", "prior.safetensors"])
def test_a_missing_file_is_a_prior_error(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(PriorError, match="cannot read a prior"):
        PopulationPrior.load(folder)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": "plgl-prior-2"}', "\x00", "null"])
def test_something_else_in_the_place_of_the_description_is_a_prior_error(folder: Path, content: str) -> None:
    (folder / "prior.json").write_text(content)
    with pytest.raises(PriorError):
        PopulationPrior.load(folder)


@pytest.mark.parametrize("field", ["pack", "privacy", "rounds", "sha256", "format"])
def test_a_missing_field_is_a_prior_error(folder: Path, field: str) -> None:
    rewrite(folder, lambda about: about.pop(field))
    with pytest.raises(PriorError):
        PopulationPrior.load(folder, pack=PACK)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(PrivacyStatement)])
def test_a_statement_without_one_of_its_fields_is_a_prior_error(folder: Path, field: str) -> None:
    rewrite(folder, lambda about: about["privacy"].pop(field))
    with pytest.raises(PriorError, match="privacy statement has fields"):
        PopulationPrior.load(folder)


def test_a_claim_without_its_noise_is_a_prior_error(folder: Path) -> None:
    rewrite(folder, lambda about: about["privacy"].update(noise_multiplier=None))
    with pytest.raises(PriorError, match="finite epsilon needs"):
        PopulationPrior.load(folder)


EYE = torch.eye(4, dtype=torch.float64)
TILTED = EYE.clone()
TILTED[0, 1] = 0.1


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mean": torch.tensor([0.0, math.nan, 0, 0], dtype=torch.float64)}, "NaN"),
        ({"covariance": EYE * math.inf}, "NaN"),
        ({"covariance": EYE * torch.tensor([1.0, 1.0, 1.0, -0.1])}, "positive definite"),
        ({"covariance": torch.ones(4, 4, dtype=torch.float64) - EYE}, "positive definite"),
        ({"covariance": TILTED}, "symmetric"),
        ({"covariance": torch.eye(3, dtype=torch.float64)}, "shapes"),
        ({"mean": torch.zeros(1, 4, dtype=torch.float64)}, "shapes"),
        ({"thresholds": torch.tensor([-2.0, 0.7, -0.7, 2.0], dtype=torch.float64)}, "ascend"),
        ({"thresholds": torch.zeros(4, dtype=torch.float64)}, "ascend"),
        ({"thresholds": torch.zeros(3, dtype=torch.float64)}, "shapes"),
        ({"extra": torch.zeros(1)}, "cannot read"),
    ],
)
def test_a_forged_prior_with_a_fitting_hash_is_still_checked(
    folder: Path, tensors: dict[str, Tensor], message: str
) -> None:
    rewrite_tensors(folder, **tensors)
    with pytest.raises(PriorError, match=message):
        PopulationPrior.load(folder)


def test_a_pickle_in_the_place_of_the_tensors_is_never_opened(folder: Path) -> None:
    canary = folder / "executed"
    payload = f"cos\nmkdir\n(S'{canary}'\ntR.".encode()
    (folder / "prior.safetensors").write_bytes(payload)
    rewrite(folder, lambda about: about.update(sha256=hashlib.sha256(payload).hexdigest()))
    with pytest.raises(PriorError, match="cannot read a prior"):
        PopulationPrior.load(folder)
    assert not canary.exists()
    pickle.loads(payload)  # the canary sings when it is opened
    assert canary.exists()


def test_a_copied_folder_is_as_good_as_the_first(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert_same(PopulationPrior.load(tmp_path / "copy"), some_prior())


def test_the_flat_prior_is_public_and_knows_nobody() -> None:
    prior = PopulationPrior.flat(5, PACK, standard_deviation=2.0)
    assert torch.equal(prior.mean, torch.zeros(5, dtype=torch.float64))
    # the score of a typical item has the wanted spread, and so has the bias
    torch.testing.assert_close(prior.covariance, torch.tensor([1.0, 1, 1, 1, 4]).double().diag())
    scaled = PopulationPrior.flat(3, PACK, 2.0, scale=torch.tensor([3.0, 4.0]))
    torch.testing.assert_close(scaled.covariance, torch.tensor([4 * 9 / 25, 4 * 16 / 25, 4]).double().diag())
    with pytest.raises(SettingError, match="scale"):
        PopulationPrior.flat(3, PACK, 2.0, scale=torch.tensor([1.0, 0.0]))
    assert prior.privacy == PrivacyStatement.public()
    assert prior.parameters == 5
    with pytest.raises(SettingError, match="standard_deviation"):
        PopulationPrior.flat(5, PACK, standard_deviation=0.0)


def test_root_and_whitener_are_inverse_and_square_to_the_covariance() -> None:
    prior = some_prior(6)
    assert torch.allclose(prior.root() @ prior.root(), prior.covariance, rtol=1e-12, atol=1e-12)
    assert torch.allclose(prior.root() @ prior.whitener(), torch.eye(6, dtype=torch.float64), atol=1e-12)
