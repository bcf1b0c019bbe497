"""What goes into a generator and what comes out: its medium, its conditions, its noise, and where it came from."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from common.errors import SettingError

_AXES = {"image": ("3", "height", "width"), "audio": ("samples",), "points": ("points", "axes")}
KINDS = tuple(_AXES)
SOURCE_LAWS = ("normal", "uniform", "w")
SMALLEST, LARGEST = 16, 4096
LARGEST_MEDIUM = 1 << 28
"""Most numbers in one item: a picture of 4096 x 4096 has 5e7."""
RESERVED = ("latent", "grid", "truncation", "media", "picture", "features")


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one latent becomes.

    Attributes:
        kind: ``image``, ``audio`` or ``points``.
        shape: of one item: ``(3, h, w)``, ``(samples,)`` or ``(points, axes)``; a resizable picture's own size.
        low: least value; -1 for pictures and sound.
        high: largest value; 1 for pictures and sound.
        resizable: whether the network draws any size, from a second input ``grid`` ``(2, h, w)``; pictures only.
        sample_rate: numbers in a second of sound; 0 for everything else.

    Raises:
        SettingError: a value is impossible.
    """

    kind: str = "image"
    shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0
    resizable: bool = False
    sample_rate: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SettingError(f"output kind={self.kind!r} is unknown; known: {', '.join(KINDS)}")
        axes = _AXES[self.kind]
        if len(self.shape) != len(axes) or any(side < 1 for side in self.shape):
            raise SettingError(f"output shape={self.shape} of kind {self.kind!r} must be ({', '.join(axes)})")
        if math.prod(self.shape) > LARGEST_MEDIUM:
            raise SettingError(f"output shape={self.shape} holds more than {LARGEST_MEDIUM} numbers")
        if self.kind == "image":
            self._check_picture()
        elif self.resizable:
            raise SettingError(f"output of kind {self.kind!r} cannot be resizable; only pictures are")
        if self.kind == "audio" and not 1000 <= self.sample_rate <= 384_000:
            raise SettingError(f"sample_rate={self.sample_rate} must lie between 1000 and 384000 per second")
        if self.kind != "audio" and self.sample_rate:
            raise SettingError(f"sample_rate={self.sample_rate} is for sound; leave it out for {self.kind!r}")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise SettingError(f"output range {self.low} to {self.high} must be finite and increasing")
        if self.kind != "points" and (self.low, self.high) != (-1.0, 1.0):
            raise SettingError(f"output range {self.low} to {self.high} must be -1 to 1; let the network rescale")

    def _check_picture(self) -> None:
        channels, height, width = self.shape
        if channels != 3:
            raise SettingError(f"pictures of {channels} channels must have 3; repeat a grey one three times")
        if not all(SMALLEST <= side <= LARGEST for side in (height, width)):
            raise SettingError(f"pictures of {height} x {width} must have sides from {SMALLEST} to {LARGEST}; enlarge")


@dataclass(frozen=True, kw_only=True)
class SourceLaw:
    """The law of the latent the network was trained with.

    A pack always takes latents from N(0, I), because everything that searches does so on its typical shell. A network
    made for another law gets the exact change of variables as its first layer, and this record says which.

    Attributes:
        name: ``normal``; ``uniform`` (``low + (high - low) * Phi(z)``, Phi the normal distribution function); ``w``
            (the space after a mapping network, standardised).
        low: least value of ``uniform``; 0 otherwise.
        high: largest value of ``uniform``; 0 otherwise.

    Raises:
        SettingError: an unknown law, or a range that is not one.
    """

    name: str = "normal"
    low: float = 0.0
    high: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SOURCE_LAWS:
            raise SettingError(f"law={self.name!r} is unknown; known: {', '.join(SOURCE_LAWS)}")
        ends = math.isfinite(self.low) and math.isfinite(self.high)
        if self.name == "uniform" and not (ends and self.low < self.high):
            raise SettingError(f"range {self.low} to {self.high} must be finite and increasing, such as --range -1 1")
        if self.name != "uniform" and (self.low, self.high) != (0.0, 0.0):
            raise SettingError(f"law={self.name!r} has no range; leave --range out")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A further input of every item, such as a class label or a prompt's embedding.

    Attributes:
        name: of the network's input.
        shape: of one item's value; the input is ``(n, *shape)`` float32.
        about: what it means, for people; may be empty.
        labels: names of the entries of a one-hot label; empty for anything else.

    Raises:
        SettingError: a value is impossible.
    """

    name: str
    shape: tuple[int, ...]
    about: str = ""
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_input("condition", self.name, self.shape)
        if self.labels and self.shape != (len(self.labels),):
            raise SettingError(f"condition {self.name!r} of shape {self.shape} has {len(self.labels)} labels")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """An input that is the same for every item: N(0, 1) numbers from a seed of the pack.

    Attributes:
        name: of the network's input.
        shape: of the input, without a batch.
        seed: of the numbers, drawn by `torch.Generator` on the CPU.

    Raises:
        SettingError: a value is impossible.
    """

    name: str
    shape: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        _check_input("noise", self.name, self.shape)
        if not 0 <= self.seed < 2**63:
            raise SettingError(f"seed={self.seed} of noise {self.name!r} must lie between 0 and 2^63 - 1")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The file a pack was made from.

    Attributes:
        file: its name, without a folder.
        sha256: of its bytes, hexadecimal.

    Raises:
        SettingError: a value is impossible.
    """

    file: str
    sha256: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.file or len(self.file) > 255 or "/" in self.file or "\\" in self.file:
            raise SettingError(f"origin file {self.file[:40]!r} must be a name without a folder")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise SettingError(f"origin {self.file!r} needs its SHA-256 as 64 hexadecimal digits")


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What a latent map was learned with.

    Attributes:
        features: of pictures: ``both``, ``random`` or ``colour``, or the name of an embedder's file.
        sha256: of that file, hexadecimal; empty for features of this program.
        levels: black and white for that file.
        components: that were asked for; 0 for as many as it takes.
        pictures: that were learned from.
        seed: of the latents, of the first weights and of the order of training.

    Raises:
        SettingError: a value is impossible.
    """

    features: str = "both"
    sha256: str = ""
    levels: tuple[float, float] = (0.0, 1.0)
    components: int = 0
    pictures: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.features or len(self.features) > 255 or "/" in self.features or "\\" in self.features:
            raise SettingError(f"features {self.features[:40]!r} must be a name without a folder")
        if self.sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise SettingError(f"features {self.features!r} need their SHA-256 as 64 hexadecimal digits")
        if not all(math.isfinite(level) for level in self.levels) or self.levels[0] == self.levels[1]:
            raise SettingError(f"levels {self.levels} of black and white must be finite and differ; try 0 1")
        if not (0 <= self.components <= 65536 and 0 < self.pictures < 1 << 40 and 0 <= self.seed < 1 << 63):
            raise SettingError(f"{self.components} components of {self.pictures} pictures cannot be right")


def _check_input(what: str, name: str, shape: tuple[int, ...]) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]{0,63}", name) or name in RESERVED:
        raise SettingError(f"{what} name {name[:40]!r} must be a word, and none of {', '.join(RESERVED)}")
    if not shape or any(side < 1 for side in shape) or math.prod(shape) > 1 << 26:
        raise SettingError(f"{what} {name!r} of shape {shape} must hold between 1 and {1 << 26} numbers")
