"""What a pack says about itself: one record, three written formats.

``plgl-pack-1`` is that of the first packs and knows pictures only; it is read and written for ever, because the hash of
a pack names it in priors. ``plgl-pack-2`` adds other media, conditions, noise, truncation, notices and origins.
``plgl-pack-3`` says the same about a generator that runs in torch: `torch_network` instead of an ONNX file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from client.generators.interface import LARGEST, SMALLEST, Condition, Learning, Noise, Origin, Output, SourceLaw
from common.errors import DamagedPack, SettingError
from common.latents import LatentSpace

FIRST_FORMAT, FORMAT, TORCH_FORMAT = "plgl-pack-1", "plgl-pack-2", "plgl-pack-3"
GENERATOR, LATENT_MAP, MANIFEST = "generator.onnx", "latent_map.onnx", "manifest.json"
CONDITIONS, SIGNATURE = "conditions.safetensors", "signature.json"
NETWORK, WEIGHTS = "network.json", "generator.safetensors"
ONNX, TORCH = "onnx", "torch"
"""Runtimes of a generator."""
ROLE = "generator"
LARGEST_FILE = (1 << 31) - 1
"""Bytes of the largest file of a pack: what one ONNX file can be."""
LARGEST_WEIGHTS = 1 << 34
"""Bytes of the weights of a network that runs in torch."""
LARGEST_MANIFEST = 1 << 20
_LONGEST_NOTICE = 20_000


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a pack says about itself.

    Guarantee: every field has its type and range, checked when made.

    Attributes:
        name: lower-case name, as in ``art``.
        version: three numbers, as in ``1.0.0``.
        dimension: latent dimension ``d``.
        law: latent law, see `LatentSpace`.
        output: what one latent becomes.
        licence: SPDX identifier, or ``LicenseRef-...``.
        opset: ONNX operator set of the generator; 0 for one that runs in torch.
        files: for each file, its size in bytes and its SHA-256 in hexadecimal.
        components: ``k``, outputs of the latent map; 0 without one.
        r2: ``(k,)`` share of each component's variance that the map explains on held-out latents.
        scale: ``(k,)`` standard deviation of each component among perceptual features, root mean square 1.
        format: ``plgl-pack-1``, ``plgl-pack-2`` or ``plgl-pack-3``; the fields below are not of the first.
        notice: what whoever uses it should read; may be empty.
        source: the latent law the network was trained with.
        latent_shape: the shape the network gives the latent; empty for a vector.
        conditions: further inputs of every item; their defaults lie in ``conditions.safetensors``.
        noise: inputs that are the same for every item.
        truncation: default psi of the input ``truncation``; None for a network without it.
        origin: the file the pack was made from.
        learned: what the latent map was learned with; None where nobody noted it, as in packs of before.

    Raises:
        DamagedPack: a field is missing or impossible.
    """

    name: str
    version: str
    dimension: int
    law: str
    output: Output
    licence: str
    opset: int
    files: dict[str, tuple[int, str]]
    components: int = 0
    r2: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    format: str = FORMAT
    notice: str = ""
    source: SourceLaw = field(default_factory=SourceLaw)
    latent_shape: tuple[int, ...] = ()
    conditions: tuple[Condition, ...] = ()
    noise: tuple[Noise, ...] = ()
    truncation: float | None = None
    origin: Origin | None = None
    learned: Learning | None = None

    def __post_init__(self) -> None:
        expected = set(self.network_files) | ({LATENT_MAP} if self.components else set())
        expected |= {CONDITIONS} if self.conditions else set()
        checks = {
            "name": bool(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", self.name)),
            "version": bool(re.fullmatch(r"\d{1,9}\.\d{1,9}\.\d{1,9}", self.version)),
            "latent": 1 <= self.dimension <= 1 << 20,
            "latent shape": not self.latent_shape or math.prod(self.latent_shape) == self.dimension,
            "components": 0 <= self.components <= 65536,
            "r2": len(self.r2) == self.components and all(-1e9 < value <= 1 for value in self.r2),
            "scale": len(self.scale) == self.components and all(0 < value < 1e6 for value in self.scale),
            "files": set(self.files) == expected and all(_is_file(name, *about) for name, about in self.files.items()),
            "licence": bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.+() -]{0,99}", self.licence)),
            "opset": 1 <= self.opset <= 1000 if self.runtime == ONNX else self.opset == 0,
            "output": self.runtime == ONNX or not self.resizable,
            "notice": len(self.notice) <= _LONGEST_NOTICE,
            "text": all(_printable(text) for text in self._texts()),
            "inputs": len(set(self.inputs)) == len(self.inputs) <= 256,
            "learned": self.learned is None or self.components > 0,
            "truncation": self.truncation is None or 0 <= self.truncation <= 10,
            "format": self.format in (FORMAT, TORCH_FORMAT) or (self.format == FIRST_FORMAT and self._is_plain()),
        }
        if wrong := [name for name, good in checks.items() if not good]:
            raise DamagedPack(f"the manifest's {', '.join(wrong)} cannot be right; fetch the pack again")
        try:
            LatentSpace(self.dimension, self.law)
        except SettingError as error:
            raise DamagedPack(f"the manifest's latent cannot be right: {error}; fetch the pack again") from error

    @property
    def runtime(self) -> str:
        """What runs the generator, `ONNX` or `TORCH`."""
        return TORCH if self.format == TORCH_FORMAT else ONNX

    @property
    def network_files(self) -> tuple[str, ...]:
        """Names of the files that are the generator's network."""
        return (NETWORK, WEIGHTS) if self.runtime == TORCH else (GENERATOR,)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of the generator's network, in order."""
        named = (*(each.name for each in self.conditions), *(each.name for each in self.noise))
        last = (("truncation",) if self.truncation is not None else ()) + (("grid",) if self.output.resizable else ())
        return ("latent", *named, *last)

    @property
    def height(self) -> int:
        """Height of a picture in pixels; 0 for other media."""
        return self.output.shape[1] if self.output.kind == "image" else 0

    @property
    def width(self) -> int:
        """Width of a picture in pixels; 0 for other media."""
        return self.output.shape[2] if self.output.kind == "image" else 0

    @property
    def resizable(self) -> bool:
        """Whether the generator draws any size."""
        return self.output.resizable

    @property
    def order(self) -> tuple[int, ...]:
        """The version as numbers, to compare."""
        return tuple(int(part) for part in self.version.split("."))

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, two spaces, UTF-8, one line feed at the end."""
        about = self._shared() | (self._first() if self.format == FIRST_FORMAT else self._second())
        return (json.dumps(about, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def decode(cls, content: bytes) -> Manifest:
        """Read a manifest of any format.

        Raises:
            DamagedPack: not JSON, not of a known format, or with a field missing, unknown or impossible.
        """
        try:
            about = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DamagedPack(f"{MANIFEST} is not JSON; fetch the pack again") from error
        if not isinstance(about, dict) or "format" not in about:
            raise DamagedPack(f"{MANIFEST} is not about a generator pack; choose another folder")
        found = str(about["format"])[:40]
        if found not in (FIRST_FORMAT, FORMAT, TORCH_FORMAT):
            known = f"{FIRST_FORMAT!r}, {FORMAT!r} or {TORCH_FORMAT!r}"
            raise DamagedPack(f"pack format {found!r} is not {known}; update the program or the pack")
        try:
            read = _read_first(about) if found == FIRST_FORMAT else _read_second(about)
            manifest = cls(**_read_shared(about), **read)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            why = f"lacks a field or has a wrong type or value: {error}"
            raise DamagedPack(f"{MANIFEST} of format {found!r} {why}; fetch the pack again") from error
        if json.loads(manifest.encode()) != about:
            raise DamagedPack(f"{MANIFEST} says more or other than format {found!r} allows; fetch the pack again")
        return manifest

    def _is_plain(self) -> bool:
        """Whether the first format can say it."""
        plain = dict.fromkeys(("conditions", "noise", "latent_shape"), ()) | {"notice": "", "source": SourceLaw()}
        plain |= {"truncation": None, "origin": None, "learned": None}
        return self.output.kind == "image" and all(getattr(self, name) == value for name, value in plain.items())

    def _texts(self) -> Iterator[str]:
        yield self.notice
        yield "" if self.origin is None else self.origin.file
        yield "" if self.learned is None else self.learned.features
        for each in self.conditions:
            yield from (each.about, *each.labels)

    def _shared(self) -> dict[str, Any]:
        return {
            "format": self.format,
            "name": self.name,
            "version": self.version,
            "components": self.components,
            "r2": list(self.r2),
            "scale": list(self.scale),
            "licence": self.licence,
            "opset": self.opset,
            "files": {name: {"size": size, "sha256": sha} for name, (size, sha) in self.files.items()},
        }

    def _first(self) -> dict[str, Any]:
        return {
            "latent": {"dimension": self.dimension, "law": self.law},
            "output": {
                "kind": "image",
                "channels": 3,
                "range": [-1.0, 1.0],
                "height": self.height,
                "width": self.width,
                "resizable": self.resizable,
            },
        }

    def _second(self) -> dict[str, Any]:
        return {
            "role": ROLE,
            "latent": {
                "dimension": self.dimension,
                "law": self.law,
                "shape": list(self.latent_shape),
                "source": {"law": self.source.name, "range": [self.source.low, self.source.high]},
            },
            "output": {
                "kind": self.output.kind,
                "shape": list(self.output.shape),
                "range": [self.output.low, self.output.high],
                "resizable": self.resizable,
                "sample_rate": self.output.sample_rate,
            },
            "conditions": [
                {"name": each.name, "shape": list(each.shape), "about": each.about, "labels": list(each.labels)}
                for each in self.conditions
            ],
            "noise": [{"name": each.name, "shape": list(each.shape), "seed": each.seed} for each in self.noise],
            "truncation": self.truncation,
            "notice": self.notice,
            "origin": None if self.origin is None else dataclasses.asdict(self.origin),
            # left out where there is none, so that packs of before keep their bytes and hash
            **({} if self.learned is None else {"learned": _plain(self.learned)}),
        }


def _read_shared(about: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": about["format"],
        "name": _text(about["name"]),
        "version": _text(about["version"]),
        "dimension": _whole(about["latent"]["dimension"]),
        "law": _text(about["latent"]["law"]),
        "licence": _text(about["licence"]),
        "opset": _whole(about["opset"]),
        "files": {_text(k): (_whole(v["size"]), _text(v["sha256"])) for k, v in about["files"].items()},
        "components": _whole(about["components"]),
        "r2": tuple(float(value) for value in about["r2"]),
        "scale": tuple(float(value) for value in about["scale"]),
    }


def _read_first(about: dict[str, Any]) -> dict[str, Any]:
    output = about["output"]
    shape = (_whole(output["channels"]), _whole(output["height"]), _whole(output["width"]))
    if not all(SMALLEST <= side <= LARGEST for side in shape[1:]):
        raise ValueError(f"output of {shape[1]} x {shape[2]}")
    return {"output": Output(shape=shape, resizable=bool(output["resizable"]))}


def _read_second(about: dict[str, Any]) -> dict[str, Any]:
    output, latent, origin = about["output"], about["latent"], about["origin"]
    if about["role"] != ROLE:
        raise ValueError(f"role {str(about['role'])[:40]!r} is not {ROLE!r}")
    low, high = (float(end) for end in latent["source"]["range"])
    least, most = (float(end) for end in output["range"])
    return {
        "output": Output(
            kind=_text(output["kind"]),
            shape=_shape(output["shape"]),
            low=least,
            high=most,
            resizable=bool(output["resizable"]),
            sample_rate=_whole(output["sample_rate"]),
        ),
        "source": SourceLaw(name=_text(latent["source"]["law"]), low=low, high=high),
        "latent_shape": _shape(latent["shape"]),
        "conditions": tuple(
            Condition(
                name=_text(each["name"]),
                shape=_shape(each["shape"]),
                about=_text(each["about"]),
                labels=tuple(_text(label) for label in each["labels"]),
            )
            for each in about["conditions"]
        ),
        "noise": tuple(
            Noise(name=_text(each["name"]), shape=_shape(each["shape"]), seed=_whole(each["seed"]))
            for each in about["noise"]
        ),
        "truncation": None if about["truncation"] is None else float(about["truncation"]),
        "notice": _text(about["notice"]),
        "origin": None if origin is None else Origin(file=_text(origin["file"]), sha256=_text(origin["sha256"])),
        "learned": _read_learning(about["learned"]) if "learned" in about else None,
    }


def _plain(learned: Learning) -> dict[str, Any]:
    return dataclasses.asdict(learned) | {"levels": list(learned.levels)}


def _read_learning(about: dict[str, Any]) -> Learning:
    black, white = (float(level) for level in about["levels"])
    return Learning(
        features=_text(about["features"]),
        sha256=_text(about["sha256"]),
        levels=(black, white),
        components=_whole(about["components"]),
        pictures=_whole(about["pictures"]),
        seed=_whole(about["seed"]),
    )


def _printable(text: str) -> bool:
    """Whether a terminal can show it: no escape sequences, no half characters."""
    return all(mark in "\n\t" or unicodedata.category(mark) not in ("Cc", "Cs") for mark in text)


def _is_file(name: str, size: int, sha: str) -> bool:
    largest = {WEIGHTS: LARGEST_WEIGHTS, NETWORK: LARGEST_MANIFEST}.get(name, LARGEST_FILE)
    return 0 < size <= largest and bool(re.fullmatch(r"[0-9a-f]{64}", sha))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:40]!r} is not text")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{value} is not a whole number")
    return operator.index(value)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 8:
        raise TypeError(f"{str(value)[:40]!r} is not a shape")
    return tuple(_whole(side) for side in value)
