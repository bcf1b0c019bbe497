"""The picture an artificial user has in mind."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from client.generators.pack import GeneratorPack
from common.errors import SettingError

_FORMATS = ("PNG", "JPEG")
_MOST_BYTES = 100 << 20


@dataclass(frozen=True, eq=False)
class PictureTarget:
    """A picture from a file, on white where it is transparent, turned as its camera says.

    Attributes:
        image: RGB.
        fingerprint: SHA-256 of the file.
    """

    image: Image.Image
    fingerprint: str

    @classmethod
    def open(cls, path: Path) -> PictureTarget:
        """Read a PNG or JPEG file.

        Raises:
            SettingError: it cannot be read, is no picture, is cut short, or is absurdly large.
        """
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise SettingError(f"{path} is larger than {_MOST_BYTES >> 20} MiB; choose a smaller --target")
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(path, formats=_FORMATS) as image:
                    turned = ImageOps.exif_transpose(image).convert("RGBA")
            content = path.read_bytes()
        except UnidentifiedImageError as error:
            raise SettingError(f"{path} is no PNG or JPEG picture; choose another --target") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise SettingError(f"{path} has too many pixels; choose a smaller --target") from error
        except (OSError, ValueError, SyntaxError) as error:  # Pillow's words for files that break off or lie
            reason = getattr(error, "strerror", None) or "the picture is damaged"
            raise SettingError(f"cannot read {path}: {reason}; choose another --target") from error
        white = Image.new("RGBA", turned.size, "white")
        white.alpha_composite(turned)
        return cls(white.convert("RGB"), hashlib.sha256(content).hexdigest())

    def picture(self, height: int, width: int) -> Tensor:
        """``(3, height, width)`` in [-1, 1]: scaled to fill, cropped in the middle."""
        fitted = ImageOps.fit(self.image, (width, height), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(fitted)).permute(2, 0, 1).float() / 127.5 - 1


@dataclass(frozen=True, eq=False)
class LatentTarget:
    """A random picture of the generator itself, so that it can be reached.

    Attributes:
        pack: the generator.
        seed: of the latent.
    """

    pack: GeneratorPack
    seed: int

    def picture(self, height: int, width: int) -> Tensor:
        """``(3, height, width)`` in [-1, 1]; for a generator of one size that size, which must be asked for."""
        latent = self.pack.latents.sample(1, torch.Generator().manual_seed(self.seed))
        return self.pack.generate(latent, height if self.pack.manifest.resizable else None)[0]


Target = PictureTarget | LatentTarget
