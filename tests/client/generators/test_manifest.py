import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from client.generators.interface import Condition, Learning, Noise, Origin, Output, SourceLaw
from client.generators.manifest import CONDITIONS, FORMAT, GENERATOR, LATENT_MAP, Manifest
from client.generators.pack import PACKS
from common.errors import DamagedPack, SettingError

SHA = "ab" * 32


def made(**changes: Any) -> Manifest:
    about: dict[str, Any] = {
        "name": "voice",
        "version": "1.2.3",
        "dimension": 16,
        "law": "normal",
        "output": Output(kind="audio", shape=(24_000,), sample_rate=24_000),
        "licence": "LicenseRef-mine",
        "opset": 18,
        "files": {GENERATOR: (10, SHA), CONDITIONS: (9, SHA), LATENT_MAP: (8, SHA)},
        "components": 2,
        "r2": (0.5, -3.0),
        "scale": (1.0, 0.5),
        "notice": "für Übungen\nonly",
        "source": SourceLaw(name="uniform", low=-1, high=1),
        "latent_shape": (4, 2, 2),
        "conditions": (Condition(name="speaker", shape=(2,), labels=("a", "b")),),
        "noise": (Noise(name="breath", shape=(1, 8), seed=7),),
        "truncation": 0.7,
        "origin": Origin(file="voice.onnx", sha256=SHA),
    }
    return Manifest(**(about | changes))


def test_everything_a_pack_says_comes_back() -> None:
    manifest = made()
    assert Manifest.decode(manifest.encode()) == manifest
    assert json.loads(manifest.encode())["format"] == FORMAT == "plgl-pack-2"
    assert manifest.inputs == ("latent", "speaker", "breath", "truncation")
    picture = made(output=Output(shape=(3, 32, 64)), conditions=(), files={GENERATOR: (1, SHA), LATENT_MAP: (1, SHA)})
    assert (picture.height, picture.width) == (32, 64)
    assert Manifest.decode(picture.encode()) == picture


def test_what_a_map_was_learned_with_is_noted_and_packs_of_before_keep_their_bytes() -> None:
    embedder = Learning(features="clip.onnx", sha256=SHA, levels=(-1.0, 1.0), components=2, pictures=5000, seed=3)
    noted = made(learned=embedder)
    assert Manifest.decode(noted.encode()) == noted
    assert json.loads(noted.encode())["learned"]["levels"] == [-1.0, 1.0]
    assert b"learned" not in made().encode()
    assert replace(noted, learned=None).encode() == made().encode()
    with pytest.raises(DamagedPack, match="learned"):  # without a map there is nothing to say
        made(learned=embedder, components=0, r2=(), scale=(), files={GENERATOR: (10, SHA), CONDITIONS: (9, SHA)})


def test_the_first_format_stays_as_it_was_byte_for_byte() -> None:
    content = (PACKS / "art" / "manifest.json").read_bytes()
    manifest = Manifest.decode(content)
    assert manifest.format == "plgl-pack-1"
    assert manifest.encode() == content.replace(b"\r\n", b"\n")


def test_the_first_format_cannot_say_more_than_it_knows() -> None:
    with pytest.raises(DamagedPack, match="format"):
        made(format="plgl-pack-1")


LEARNED = {"features": "both", "sha256": "", "levels": [0.0, 1.0], "components": 0, "pictures": 9, "seed": 0}
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another role": (lambda a: a.update(role="prior"), "role 'prior'"),
    "a future format": (lambda a: a.update(format="plgl-pack-4"), "plgl-pack-4"),
    "a field more": (lambda a: a.update(more=1), "says more"),
    "a field less": (lambda a: a.pop("origin"), "lacks a field"),
    "a range that is none": (lambda a: a["latent"]["source"].update(range=[1, -1]), "increasing"),
    "a medium nobody knows": (lambda a: a["output"].update(kind="smell"), "smell"),
    "sound without a rate": (lambda a: a["output"].update(sample_rate=0), "sample_rate"),
    "an endless medium": (lambda a: a["output"].update(shape=[1 << 40]), "more than"),
    "a negative side": (lambda a: a["output"].update(shape=[-4]), "output shape"),
    "an escape sequence": (lambda a: a.update(notice="\x1b[2J"), "text"),
    "half a character": (lambda a: a.update(notice="\ud800"), "text"),
    "a path as origin": (lambda a: a["origin"].update(file="../x"), "without a folder"),
    "an input that is ours": (lambda a: a["noise"][0].update(name="latent"), "none of latent"),
    "an input twice": (lambda a: a["noise"][0].update(name="speaker"), "inputs"),
    "labels that do not fit": (lambda a: a["conditions"][0].update(labels=["a"]), "labels"),
    "a shape that does not hold it": (lambda a: a["latent"].update(shape=[3]), "latent shape"),
    "a latent without end": (lambda a: a["latent"].update(dimension=1 << 40, shape=[]), "latent"),
    "a file too large": (lambda a: a["files"][GENERATOR].update(size=1 << 40), "files"),
    "a hash that is none": (lambda a: a["files"][GENERATOR].update(sha256="Z" * 64), "files"),
    "no defaults": (lambda a: a["files"].pop(CONDITIONS), "files"),
    "R2 without end": (lambda a: a.update(r2=[float("-inf"), 0.5]), "r2"),
    "truncation that is no number": (lambda a: a.update(truncation=float("nan")), "truncation"),
    "a map from nowhere": (lambda a: a.update(learned={"features": "both"}), "levels"),
    "a map from a path": (lambda a: a.update(learned=LEARNED | {"features": "../x"}), "without a folder"),
    "a map of no pictures": (lambda a: a.update(learned=LEARNED | {"pictures": 0}), "cannot be right"),
    "a long version": (lambda a: a.update(version="1.0." + "9" * 5000), "version"),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_manifest_that_cannot_be_right_is_refused(kind: str) -> None:
    change, message = CHANGES[kind]
    about = json.loads(made().encode())
    change(about)
    with pytest.raises(DamagedPack, match=message):
        Manifest.decode(json.dumps(about).encode())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"shape": (1, 32, 32)}, "repeat a grey one"),
        ({"shape": (3, 8, 8)}, "sides from 16"),
        ({"shape": (3, 32)}, "must be"),
        ({"shape": (3, 32, 32), "low": 0.0}, "let the network rescale"),
        ({"kind": "points", "shape": (9, 2), "low": 2.0, "high": 1.0}, "increasing"),
        ({"kind": "points", "shape": (9, 2), "resizable": True}, "only pictures"),
        ({"kind": "points", "shape": (9, 2), "sample_rate": 8000}, "is for sound"),
    ],
)
def test_an_output_that_cannot_be_is_refused_with_the_next_step(output: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Output(**output)
