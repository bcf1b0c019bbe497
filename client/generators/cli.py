"""``plgl generator``: list, show, build, map and sample generator packs; the rest is in `packs_cli.py`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from client.flows.tune_cli import tune
from client.generators.packs_cli import Home, Json, Name, add, check_pack, remove, sign
from client.generators.ready_cli import prepare
from client.generators.training.cli import train
from client.progress import progress_bar

if TYPE_CHECKING:  # heavy modules are imported inside the commands, so that help stays quick
    from client.generators.latent_map import LatentMapSettings
    from client.generators.manifest import Manifest
    from client.generators.pack import GeneratorPack

app = typer.Typer(help="Generators to learn a taste on, as packs.", no_args_is_help=True)
build_app = typer.Typer(help="Build a pack from the code of this program.", no_args_is_help=True)
app.add_typer(build_app, name="build")

app.command("add")(add)
app.command("check")(check_pack)
app.command("sign")(sign)
app.command("remove")(remove)
app.command("prepare")(prepare)
app.command("train")(train)
app.command("tune")(tune)

_PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}
AVATAR_STEPS, AVATAR_SEED = 9000, 3  # as in `AvatarSettings`, without importing torch for the help
Seed = Annotated[int, typer.Option(help="Where the random numbers start; the same seed gives the same result.")]


@app.command("list")
def list_packs(home: Home = None, as_json: Json = False) -> None:
    """Show the generators that come with the program and those that were added."""
    from client.generators.installed import InstalledPacks
    from client.generators.pack import GeneratorPack, known_generators
    from common.errors import PackError, SignatureError

    packs: list[dict[str, Any]] = []
    damaged: dict[str, str] = {}
    for name in dict.fromkeys((*known_generators(), *InstalledPacks(home).names())):
        try:
            packs.append(_about(GeneratorPack.open(name, home)))
        except (PackError, SignatureError) as error:
            damaged[name] = str(error)
    if as_json:
        print(json.dumps({"generators": packs, "damaged": damaged}))
        return
    table = Table("name", "version", "latent", "components", "makes", "licence")
    for about in packs:
        latent = str(about["latent"]["dimension"])
        table.add_row(
            about["name"], about["version"], latent, str(about["components"]), _makes(about), about["licence"]
        )
    Console().print(table)
    for name, why in damaged.items():
        Console(stderr=True).print(f"{name} cannot be used: {why}", **_PLAIN)


@app.command()
def show(name: Name, home: Home = None, as_json: Json = False) -> None:
    """Show what a generator says about itself, and how well its latent map predicts what people see."""
    from client.generators.pack import GeneratorPack

    pack = GeneratorPack.open(name, home)
    about = _about(pack)
    if as_json:
        print(json.dumps(about))
        return
    console = Console()
    console.print(f"[bold]{pack.name}[/bold] {pack.version}, {about['licence']}")
    for label, text in _rows(pack, about).items():
        console.print(f"  {label:<11} {text}", **_PLAIN)
    _print_r2(console, about["r2"], about["scale"])


@build_app.command()
def art(folder: Annotated[Path, typer.Argument(help="Where to write the pack.")]) -> None:
    """Write the embedded generator of abstract art; its latent map follows with `plgl generator map`."""
    from client.generators.art import export_art
    from client.generators.pack import GENERATOR, check_target, fingerprint, manifest_of_art, write_pack

    existing = check_target(folder)
    content = export_art()
    if existing is not None and existing.files[GENERATOR] == fingerprint(content):
        print(f"{folder} holds this generator already; its latent map is kept")
        return
    manifest = manifest_of_art(content)
    write_pack(folder, manifest, {GENERATOR: content})
    print(f"wrote {folder}; now learn its latent map: plgl generator map {folder}")


@build_app.command()
def avatars(
    folder: Annotated[Path, typer.Argument(help="Where to write the pack.")],
    steps: Annotated[int, typer.Option(help="Steps of training.")] = AVATAR_STEPS,
    seed: Annotated[int, typer.Option(help="Of the first weights and the latents.")] = AVATAR_SEED,
) -> None:
    """Train the embedded generator of pixel avatars, on drawings made on the way; its latent map follows."""
    from client.generators.avatars import AvatarSettings, export_avatars, manifest_of_avatars, train_avatars
    from client.generators.pack import GENERATOR, check_target, write_pack

    check_target(folder)
    with progress_bar() as report:
        network = train_avatars(AvatarSettings(steps=steps, seed=seed), report)
    content = export_avatars(network)
    write_pack(folder, manifest_of_avatars(content), {GENERATOR: content})
    print(f"wrote {folder}; now learn its latent map: plgl generator map {folder}")


@app.command("map")
def learn_map(
    folder: Annotated[Path, typer.Argument(metavar="NAME", help="An added generator, or the folder of a pack.")],
    components: Annotated[str, typer.Option(help="Perceptual components to predict; auto finds how many.")] = "64",
    features: Annotated[
        str, typer.Option(help="Of pictures: random, colour, both, or an embedder's ONNX file.")
    ] = "both",
    levels: Annotated[tuple[float, float], typer.Option(help="Black and white for that ONNX file.")] = (0.0, 1.0),
    pictures: Annotated[int, typer.Option(help="Pictures to learn from.")] = 60_000,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = 30,
    seed: Seed = 0,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Learn the latent map of a generator, from its pictures alone, in place of the one it may have."""
    from client.generators.embedding import picture_features
    from client.generators.installed import InstalledPacks
    from client.generators.latent_map import LatentMapSettings, learn_latent_map
    from client.generators.pack import LATENT_MAP, GeneratorPack, write_pack
    from client.generators.pack_files import with_map

    settings = LatentMapSettings(components=_count(components), pictures=pictures, epochs=epochs, seed=seed)
    chosen = picture_features(features, levels)
    installed = InstalledPacks(home)
    folder = installed.folder(str(folder)) if str(folder) in installed.names() else folder
    pack = GeneratorPack.open_without_map(folder, home)
    with progress_bar() as report:
        learned = learn_latent_map(pack, settings, report, chosen)
    about = _learning(pack, features, levels, settings)
    manifest = with_map(pack.manifest, learned.content, learned.r2, learned.scale, about)
    write_pack(folder, manifest, {LATENT_MAP: learned.content})
    if folder == installed.folder(pack.name):
        installed.remember(manifest)  # what is new in it was made here
    if as_json:
        print(json.dumps(_about(GeneratorPack.open(folder, home)) | {"explained": learned.explained}))
        return
    _print_r2(Console(), list(learned.r2), list(learned.scale))
    print(f"{len(learned.r2)} components predict {learned.explained:.0%} of all that differs between the pictures")


@app.command()
def sample(
    name: Name,
    out: Annotated[Path, typer.Option(help="PNG file to write; WAV of sounds.")],
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures.")] = 24,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Height and width of each, pixels.")] = 128,
    columns: Annotated[int, typer.Option(min=1, help="Pictures in a row.")] = 8,
    truncation: Annotated[float | None, typer.Option(help="Psi, of a generator that has it.")] = None,
    seed: Seed = 0,
    home: Home = None,
) -> None:
    """Draw a contact sheet of random pictures; of sounds, one WAV file with one after the other."""
    import torch

    from client.generators.pack import GeneratorPack
    from client.generators.sounds import wav_file
    from common.errors import SettingError
    from common.files import write_atomically

    pack = GeneratorPack.open(name, home)
    output = pack.manifest.output
    if output.kind == "points":
        raise SettingError(f"{name} makes {_makes(_about(pack))}; a sheet shows pictures")
    latents = pack.latents.sample(count, torch.Generator().manual_seed(seed))
    with progress_bar() as report:
        pictures = pack.generate(
            latents,
            size if pack.manifest.resizable else None,
            lambda done: report("drawing", done, count),
            truncation=truncation,
        )
    if output.kind == "audio":
        write_atomically(out, wav_file(pictures.flatten(), output.sample_rate))
        print(f"wrote {out}")
        return
    write_atomically(out, contact_sheet(pictures, columns))
    print(f"wrote {out}")


def contact_sheet(pictures: Any, columns: int, gap: int = 4) -> bytes:
    """Pictures ``(n, 3, h, w)`` in [-1, 1] side by side on white, as a PNG file."""
    import torch
    from matplotlib.image import imsave

    n, _, height, width = pictures.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    sheet = torch.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, dtype=torch.uint8)
    drawn = ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    for i in range(n):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = drawn[i]
    file = io.BytesIO()
    imsave(file, sheet.numpy(), format="png")
    return file.getvalue()


def _learning(pack: GeneratorPack, features: str, levels: tuple[float, float], settings: LatentMapSettings) -> Any:
    """What the manifest notes about a map; None in packs of the first format, which cannot say it."""
    from client.generators.embedding import BUILT_IN
    from client.generators.importers.base import origin_of
    from client.generators.interface import Learning
    from client.generators.manifest import FIRST_FORMAT

    if pack.manifest.format == FIRST_FORMAT:
        return None
    file = None if features in BUILT_IN else origin_of(Path(features))
    return Learning(
        features=features if file is None else file.file,
        sha256="" if file is None else file.sha256,
        levels=(0.0, 1.0) if file is None else levels,
        components=settings.components or 0,
        pictures=settings.pictures,
        seed=settings.seed,
    )


def _count(components: str) -> int | None:
    """A number of components; None for ``auto``."""
    from common.errors import SettingError

    if components == "auto":
        return None
    if not components.isascii() or not components.isdigit():
        raise SettingError(f"components={components[:40]!r} must be a whole number, or auto")
    return int(components)


def _about(pack: GeneratorPack) -> dict[str, Any]:
    return {**json.loads(pack.manifest.encode()), "pack": pack.hash, "folder": str(pack.folder)}


def _makes(about: dict[str, Any]) -> str:
    """What it makes, in a few words; ``about`` is a manifest of either format."""
    output = about["output"]
    shape = output.get("shape") or [3, output["height"], output["width"]]
    if output["kind"] == "audio":
        return f"{shape[0] / output['sample_rate']:.1f} s of sound"
    if output["kind"] == "points":
        return f"{shape[0]} points in {shape[1]}-d"
    return f"{shape[1]} x {shape[2]} pixels" + (", any size" if output["resizable"] else "")


def _rows(pack: GeneratorPack, about: dict[str, Any]) -> dict[str, str]:
    """What `show` says, by label; only what there is."""
    from common.signing import fingerprint

    manifest, source = pack.manifest, pack.manifest.source
    made_for = {"normal": "", "w": ", of W space", "uniform": f", as uniform from {source.low:g} to {source.high:g}"}
    rows = {
        "makes": _makes(about),
        "latent": f"{manifest.dimension} numbers, {manifest.law} law{made_for[source.name]}",
        "components": str(pack.components),
        "map": _map_of(manifest),
        "conditions": "; ".join(f"{each.name} {each.shape} {each.about}".strip() for each in manifest.conditions),
        "noise": ", ".join(f"{each.name} from seed {each.seed}" for each in manifest.noise),
        "truncation": "" if manifest.truncation is None else f"{manifest.truncation:g}",
        "notice": manifest.notice,
        "origin": "" if manifest.origin is None else f"{manifest.origin.file}, SHA-256 {manifest.origin.sha256}",
        "signed by": "" if pack.signer is None else fingerprint(pack.signer),
        "pack": pack.hash,
        "folder": str(pack.folder),
    }
    return {label: text for label, text in rows.items() if text}


def _map_of(manifest: Manifest) -> str:
    """What the latent map was learned with, where the pack says it."""
    learned = manifest.learned
    if learned is None:
        return ""
    black, white = learned.levels
    said = f"features {learned.features}"
    if learned.sha256:
        said += f" (SHA-256 {learned.sha256}), black {black:g}, white {white:g}"
    asked = f"{learned.components} components" if learned.components else "as many components as it takes"
    return f"{said}; {asked}; from {learned.pictures:,} items, seed {learned.seed}"


def _print_r2(console: Console, r2: list[float], scale: list[float]) -> None:
    if not r2:
        console.print("no latent map yet")
        return
    table = Table("component", "R2", "scale", "", title="how well the latent map predicts what is seen")
    for i, (share, size) in enumerate(zip(r2, scale, strict=True)):
        table.add_row(str(i + 1), f"{share:.3f}", f"{size:.3f}", "█" * round(20 * max(0.0, share)))
    console.print(table)
    for first in (8, 16, 32, 64):
        if first <= len(r2):
            console.print(f"mean R2 of the first {first}: {sum(r2[:first]) / first:.3f}")
