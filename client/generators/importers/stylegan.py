"""StyleGAN2-ADA and StyleGAN3 files (``.pkl``) without running them.

Such a file is a pickle that carries Python source to be run on loading. `restricted_pickle` takes the tensors and the
constructor arguments out of it; mapping and synthesis are written again here, from the papers.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from client.generators.importers.adapting import condition_of, known_settings
from client.generators.importers.base import Imported, Importer, ImportSettings, origin_of
from client.generators.importers.inert import LIMITS, StoredModule, mapping, module
from client.generators.importers.restricted_pickle import Inert, damage_of, read_pickle
from client.generators.importers.stylegan2 import StyledConvolution, Synthesis2
from client.generators.importers.stylegan3 import Synthesis3
from client.generators.importers.stylegan_mapping import MappingNetwork, NormalW, truncated
from client.generators.importers.weights import LARGEST_FILE, Weights
from client.generators.interface import Condition, Noise, Output, SourceLaw
from common.errors import SettingError, UnreadableModel
from common.latents import LatentSpace

NOISE_MODES = ("const", "none", "seed")
_WRAPPER = b"_reconstruct_persistent_obj"
_TENSORFLOW = b"dnnlib.tflib.network"
_NOTICE = (
    "StyleGAN weights: NVIDIA's own are for non-commercial use, and those of others have terms of their own; "
    "so may the pictures they were trained on"
)


@dataclass(frozen=True, kw_only=True)
class StyleGanSettings:
    """How a StyleGAN becomes a generator.

    Attributes:
        space: ``z``, or ``w``: the space after the mapping network, standardised (see `NormalW`).
        noise: ``const`` for the noise maps of the file, ``none``, or ``seed`` for inputs drawn from the pack's seed.
        seed: of the noise inputs, and of the styles that W is standardised with.
        cutoff: how many styles truncation moves; None for all.

    Raises:
        SettingError: a value is unknown or out of range.
    """

    space: str = "z"
    noise: str = "const"
    seed: int = 0
    cutoff: int | None = None

    def __post_init__(self) -> None:
        if self.space not in ("z", "w"):
            raise SettingError(f"space={self.space!r} is unknown; known: z, w")
        if self.noise not in NOISE_MODES:
            raise SettingError(f"noise={self.noise!r} is unknown; known: {', '.join(NOISE_MODES)}")
        if self.cutoff is not None and self.cutoff < 0:
            raise SettingError(f"cutoff={self.cutoff} must be >= 0; leave it out to truncate every layer")

    @classmethod
    def of(cls, settings: ImportSettings) -> StyleGanSettings:
        """What a person said, as ``--law w --set noise=none --set cutoff=8``."""
        cutoff = settings.settings.get("cutoff")
        if cutoff is not None and not cutoff.isdigit():
            raise SettingError(f"cutoff={cutoff!r} must be a whole number; leave it out to truncate every layer")
        law = settings.law.name if settings.law else "normal"
        if law == "uniform":
            raise SettingError("law='uniform' is not what StyleGAN is trained with; use normal or w")
        return cls(
            space="w" if law == "w" else "z",
            noise=settings.settings.get("noise", "const"),
            seed=settings.seed,
            cutoff=None if cutoff is None else int(cutoff),
        )


class StyleGan(nn.Module):
    """Latents to pictures: mapping (or standardised W), truncation, synthesis, range.

    Attributes:
        latent: ``d``, numbers in a latent.
        labels: ``c``, entries of the label input; 0 without.
        noise: numbers in the noise input, the maps of all layers one after the other; 0 without.
        side: height and width of a picture.
    """

    def __init__(
        self,
        mapping_network: MappingNetwork,
        synthesis: Synthesis2 | Synthesis3,
        average: Tensor,
        settings: StyleGanSettings,
    ) -> None:
        super().__init__()
        self.mapping: MappingNetwork | NormalW = mapping_network
        self.synthesis, self.noise_mode = synthesis, settings.noise
        self.latent, self.labels, self.side = mapping_network.latent, mapping_network.labels, synthesis.side
        self.cutoff = synthesis.styles if settings.cutoff is None else settings.cutoff
        self.register_buffer("average", average)
        self.convolutions: list[StyledConvolution] = getattr(synthesis, "convolutions", [])
        maps = [each.side**2 for each in self.convolutions if each.noisy]
        self.noise = sum(maps) if settings.noise == "seed" else 0

    def use_w(self, label: Tensor | None, seed: int) -> None:
        """Take latents of the standardised W instead of Z; the label, if there is one, is fixed to ``(c,)``."""
        if isinstance(self.mapping, MappingNetwork):
            self.mapping = NormalW.of(self.mapping, label, seed)
            self.latent, self.labels = self.synthesis.width, 0

    def forward(
        self, latent: Tensor, first: Tensor, second: Tensor | None = None, third: Tensor | None = None
    ) -> Tensor:
        """Draw pictures.

        Args:
            latent: ``(n, d)`` from N(0, I).
            first: the label ``(n, c)`` if there is one, then the noise ``(m,)`` if it is an input, then psi ``(1,)``.
            second: the next of these; None where there is no more.
            third: the last.

        Returns:
            ``(n, 3, side, side)`` in [-1, 1].
        """
        inputs = [each for each in (first, second, third) if each is not None]
        label, rest = (inputs[:1], inputs[1:]) if self.labels else ([], inputs)
        style = self.mapping(latent, *label)
        styles = truncated(style, self.get_buffer("average"), rest[-1], self.synthesis.styles, self.cutoff)
        picture: Tensor = self.synthesis(styles, self._maps(rest[0])).clamp(-1, 1)
        return picture.expand(-1, 3, -1, -1) if self.synthesis.channels == 1 else picture

    def _maps(self, noise: Tensor) -> list[Tensor | None]:
        """The noise of each convolution: the file's, none, or the next part of the input."""
        if self.noise_mode == "none":
            return [None] * len(self.convolutions)
        if self.noise_mode == "const":
            return [each.get_buffer("noise") if each.noisy else None for each in self.convolutions]
        parts = iter(torch.split(noise, [each.side**2 for each in self.convolutions if each.noisy]))
        return [next(parts).reshape(each.side, each.side) if each.noisy else None for each in self.convolutions]


def build(stored: StoredModule, what: str, settings: StyleGanSettings) -> StyleGan:
    """The network a file describes, with weights checked and in eval mode.

    Raises:
        UnreadableModel: not a StyleGAN2 or StyleGAN3 generator, or with tensors missing, left over or not finite.
    """
    weights = Weights(dict(stored.named_tensors()), what)
    synthesis: Synthesis2 | Synthesis3
    if stored.find("synthesis.b4"):
        kind, synthesis = "StyleGAN2", Synthesis2(stored, weights)
    elif stored.find("synthesis.input"):
        kind, synthesis = "StyleGAN3", Synthesis3(stored, weights)
    else:
        parts = ", ".join(list((stored.find("synthesis") or stored).children)[:4])
        raise UnreadableModel(
            f"{what} has neither synthesis.b4 nor synthesis.input but {parts}; it is no StyleGAN2 or 3"
        )
    if synthesis.channels not in (1, 3):
        raise UnreadableModel(f"{what} draws {synthesis.channels} channels; only 1 or 3 can be shown")
    mapping_network = MappingNetwork(stored, weights, synthesis.width)
    average = weights.take("mapping.w_avg", synthesis.width)
    weights.finish(kind)
    return StyleGan(mapping_network, synthesis, average, settings).eval()


def read_generator(path: Path) -> StoredModule:
    """The generator in a StyleGAN file: its moving average ``G_ema``, else ``G``, else the file itself.

    Raises:
        UnreadableModel: not such a file, a TensorFlow one, or one that asks to run something.
    """
    what = path.name
    if not 0 < path.stat().st_size <= LARGEST_FILE:
        raise UnreadableModel(
            f"{what} has {path.stat().st_size} bytes; a StyleGAN file has between 1 and {LARGEST_FILE}"
        )
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_TENSORFLOW, 0, 1 << 16) >= 0:
            raise UnreadableModel(f"{what} is a TensorFlow file; convert it with legacy.py of the StyleGAN3 repository")
        value = read_pickle(content, what, LIMITS)  # type: ignore[arg-type]
    with damage_of(what):
        saved = mapping(value)
        if saved is not None:
            value = next((saved[key] for key in ("G_ema", "G") if isinstance(saved.get(key), Inert)), None)
        if value is None:
            raise UnreadableModel(f"{what} holds no G_ema; give the network-snapshot-*.pkl that training wrote")
        return module(value, f"{what}: G_ema")


def read(path: Path, settings: ImportSettings) -> Imported:
    """Read a StyleGAN2-ADA or StyleGAN3 file; see `Importer.read`."""
    known_settings(settings.settings, IMPORTER.settings)
    chosen = StyleGanSettings.of(settings)
    with torch.no_grad(), damage_of(path.name):
        network = build(read_generator(path), path.name, chosen)
    labels, default = network.labels, _label(settings, network.labels)
    if chosen.space == "w":
        network.use_w(default if "label" in settings.conditions else None, chosen.seed)
    conditions = _conditions(network.labels)
    return Imported(
        network=network.eval(),
        latents=LatentSpace(network.latent),
        output=Output(shape=(3, network.side, network.side)),
        licence=settings.licence or "NOASSERTION",
        notice=settings.notice or _NOTICE,
        source=SourceLaw(name="w") if chosen.space == "w" else SourceLaw(),
        conditions=conditions,
        defaults={"label": default} if conditions and labels else {},
        noise=(Noise(name="noise", shape=(network.noise,), seed=chosen.seed),) if network.noise else (),
        truncation=1.0 if settings.truncation is None else settings.truncation,
        origin=origin_of(path),
    )


def _conditions(labels: int) -> tuple[Condition, ...]:
    if not labels:
        return ()
    names = tuple(str(i) for i in range(labels)) if labels > 1 else ()
    return (Condition(name="label", shape=(labels,), about="class the pictures are of", labels=names),)


def _label(settings: ImportSettings, labels: int) -> Tensor:
    """The default label: class 0 unless the person wrote ``3/10`` (the fourth of ten) or the numbers themselves."""
    if unknown := sorted(set(settings.conditions) - {"label"}):
        raise SettingError(f"--condition {unknown[0]} is unknown here; the only condition of StyleGAN is label")
    if not labels:
        if "label" in settings.conditions:
            raise SettingError("this network has no classes; leave --condition label out")
        return torch.zeros(0)
    condition, value = condition_of("label", settings.conditions.get("label", f"0/{labels}"))
    if condition.shape != (labels,):
        raise SettingError(f"the label has {labels} entries, not {condition.shape[0]}; write it as 0/{labels}")
    return value


def sniff(path: Path, head: bytes) -> bool:
    """Whether a file looks like a StyleGAN pickle."""
    return head[:1] == b"\x80" and (_WRAPPER in head or _TENSORFLOW in head)


IMPORTER = Importer(
    kind="stylegan",
    about="StyleGAN2-ADA or StyleGAN3 file, network-snapshot-*.pkl",
    sniff=sniff,
    read=read,
    settings={
        "noise": "const (maps of the file), none, or seed (inputs drawn from --seed)",
        "cutoff": "how many styles truncation moves; all if left out",
    },
)
