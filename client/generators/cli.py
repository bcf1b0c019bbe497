"""``plgl generator``: list, show, build, map, check and sample generator packs."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:  # heavy modules are imported inside the commands, so that help stays quick
    from client.generators.latent_map import Progress as Report
    from client.generators.pack import GeneratorPack

app = typer.Typer(help="Generators to learn a taste on, as packs.", no_args_is_help=True)
build_app = typer.Typer(help="Build a pack from the code of this program.", no_args_is_help=True)
app.add_typer(build_app, name="build")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Name = Annotated[str, typer.Argument(help="A name that `plgl generator list` shows, or the folder of a pack.")]
Seed = Annotated[int, typer.Option(help="Where the random numbers start; the same seed gives the same result.")]


@app.command("list")
def list_packs(as_json: Json = False) -> None:
    """Show the generators that come with the program."""
    from client.generators.pack import GeneratorPack, known_generators

    packs = [_about(GeneratorPack.open(name)) for name in known_generators()]
    if as_json:
        print(json.dumps({"generators": packs}))
        return
    table = Table("name", "version", "latent", "components", "size", "licence")
    for about in packs:
        size = f"{about['output']['height']} x {about['output']['width']}"
        latent = str(about["latent"]["dimension"])
        table.add_row(about["name"], about["version"], latent, str(about["components"]), size, about["licence"])
    Console().print(table)


@app.command()
def show(name: Name, as_json: Json = False) -> None:
    """Show what a generator says about itself, and how well its latent map predicts what people see."""
    from client.generators.pack import GeneratorPack

    pack = GeneratorPack.open(name)
    about = _about(pack)
    if as_json:
        print(json.dumps(about))
        return
    output, latent = about["output"], about["latent"]
    console = Console()
    console.print(f"[bold]{pack.name}[/bold] {pack.version}, {about['licence']}")
    console.print(f"  pictures    {output['height']} x {output['width']}{', any size' if output['resizable'] else ''}")
    console.print(f"  latent      {latent['dimension']} numbers, {latent['law']} law")
    console.print(f"  components  {pack.components}")
    console.print(f"  pack        {pack.hash}", soft_wrap=True)
    console.print(f"  folder      {pack.folder}", soft_wrap=True, highlight=False, markup=False)
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


@app.command("map")
def learn_map(
    folder: Annotated[Path, typer.Argument(help="Folder of a pack; its latent map is replaced.")],
    components: Annotated[int, typer.Option(help="Perceptual components to predict.")] = 64,
    pictures: Annotated[int, typer.Option(help="Pictures to learn from.")] = 60_000,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.")] = 30,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Learn the latent map of a generator, from its pictures alone."""
    from client.generators.latent_map import LatentMapSettings, learn_latent_map
    from client.generators.pack import LATENT_MAP, GeneratorPack, fingerprint, write_pack

    settings = LatentMapSettings(components=components, pictures=pictures, epochs=epochs, seed=seed)
    pack = GeneratorPack.open_without_map(folder)
    with _progress() as report:
        learned = learn_latent_map(pack, settings, report)
    files = pack.manifest.files | {LATENT_MAP: fingerprint(learned.content)}
    manifest = replace(pack.manifest, files=files, components=components, r2=learned.r2, scale=learned.scale)
    write_pack(folder, manifest, {LATENT_MAP: learned.content})
    if as_json:
        print(json.dumps(_about(GeneratorPack.open(folder))))
        return
    _print_r2(Console(), list(learned.r2), list(learned.scale))


@app.command()
def check(folder: Name, as_json: Json = False) -> None:
    """Verify a pack: its hashes, that both networks run, and that the map's features are standardised."""
    import torch

    from client.generators.pack import GeneratorPack
    from common.errors import DamagedPack

    pack = GeneratorPack.open(folder)
    latents = pack.latents.sample(4096, torch.Generator().manual_seed(1))
    pictures = pack.generate(latents[:16], 64 if pack.manifest.resizable else None)
    if not bool(pictures.isfinite().all()) or float(pictures.abs().max()) > 1 + 1e-4:
        raise DamagedPack(f"the generator of {folder} draws outside [-1, 1]; fetch the pack again")
    about: dict[str, Any] = {
        "name": pack.name,
        "version": pack.version,
        "pack": pack.hash,
        "provider": pack.generator.provider,
    }
    if pack.components:
        features = pack.features(latents)[:, :-1]
        about["mean"] = float(features.mean(0).abs().max())
        about["variance"] = [float(features.var(0).min()), float(features.var(0).max())]
        if about["mean"] > 0.2 or about["variance"][0] < 0.5 or about["variance"][1] > 2:
            raise DamagedPack(f"the latent map of {folder} is not standardised; run: plgl generator map {folder}")
    if as_json:
        print(json.dumps(about))
        return
    print(f"{pack.name} {pack.version} is sound: {len(pack.manifest.files)} files, {pack.components} components")


@app.command()
def sample(
    name: Name,
    out: Annotated[Path, typer.Option(help="PNG file to write.")],
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Pictures.")] = 24,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Height and width of each, pixels.")] = 128,
    columns: Annotated[int, typer.Option(min=1, help="Pictures in a row.")] = 8,
    seed: Seed = 0,
) -> None:
    """Draw a contact sheet of random pictures."""
    import torch

    from client.generators.pack import GeneratorPack
    from common.files import write_atomically

    pack = GeneratorPack.open(name)
    latents = pack.latents.sample(count, torch.Generator().manual_seed(seed))
    with _progress() as report:
        pictures = pack.generate(
            latents, size if pack.manifest.resizable else None, lambda done: report("drawing", done, count)
        )
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


@contextmanager
def _progress() -> Iterator[Report]:
    """A progress bar on standard error, one row for each stage."""
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        rows: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in rows:
                rows[stage] = bar.add_task(stage, total=total)
            bar.update(rows[stage], completed=done)

        yield report


def _about(pack: GeneratorPack) -> dict[str, Any]:
    return {**json.loads(pack.manifest.encode()), "pack": pack.hash, "folder": str(pack.folder)}


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
