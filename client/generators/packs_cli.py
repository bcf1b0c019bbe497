"""``plgl generator add | check | sign | remove``: generators from elsewhere, as packs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from client.generators.fetched import FETCHABLE
from client.generators.fetched.cli import add_fetched
from common.errors import SettingError

if TYPE_CHECKING:  # heavy modules are imported inside the commands, so that help stays quick
    from client.generators.check import Checked
    from client.generators.importers.base import ImportSettings, Made
    from client.generators.sandbox import Limits

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Name = Annotated[str, typer.Argument(help="A name that `plgl generator list` shows, or the folder of a pack.")]
Home = Annotated[
    Path | None, typer.Option(help="Folder of added generators; without it PLGL_GENERATORS, or the usual one.")
]
Memory = Annotated[float | None, typer.Option(help="GiB the first run may take; 0.6 without it.")]
Seconds = Annotated[float | None, typer.Option(help="The first run may take; 8 without it.")]
_FILE = "A model file"
_LATENT = "Its latent and output"
_PLAIN: dict[str, Any] = {"soft_wrap": True, "highlight": False, "markup": False}
_MARKS = {True: "✓", False: "✗", None: "–"}


def add(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help=f"A model file, the folder of a pack or a pipeline, or what can be fetched: {', '.join(FETCHABLE)}.",
        ),
    ],
    kind: Annotated[
        str, typer.Option("--as", help="What the file is; seen from the file without it.", rich_help_panel=_FILE)
    ] = "",
    name: Annotated[
        str, typer.Option(help="Of the new pack; from the file's name without it.", rich_help_panel=_FILE)
    ] = "",
    version: Annotated[str, typer.Option(help="Of the new pack.", rich_help_panel=_FILE)] = "1.0.0",
    licence: Annotated[str, typer.Option(help="SPDX identifier of the weights.", rich_help_panel=_FILE)] = "",
    notice: Annotated[str, typer.Option(help="What whoever uses it should read.", rich_help_panel=_FILE)] = "",
    module: Annotated[
        str, typer.Option(help="Class for bare weights: package.module:Class or file.py:Class.", rich_help_panel=_FILE)
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="What only this kind knows, as name=value.", rich_help_panel=_FILE)
    ] = None,
    latent: Annotated[int | None, typer.Option(help="Numbers in a latent.", rich_help_panel=_LATENT)] = None,
    law: Annotated[str, typer.Option(help="Its law: normal, uniform or w.", rich_help_panel=_LATENT)] = "",
    span: Annotated[
        tuple[float, float] | None, typer.Option("--range", help="Of a uniform latent.", rich_help_panel=_LATENT)
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Pixels of a side, where the file leaves it open.", rich_help_panel=_LATENT)
    ] = None,
    output_range: Annotated[
        tuple[float, float] | None, typer.Option(help="Of the output; -1 1 without it.", rich_help_panel=_LATENT)
    ] = None,
    truncation: Annotated[
        float | None, typer.Option(help="Psi: less is more typical.", rich_help_panel=_LATENT)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of noise inputs.", rich_help_panel=_LATENT)] = 0,
    condition: Annotated[
        list[str] | None,
        typer.Option(help="Default of a condition: label=3/10 or style=0.1,0.2.", rich_help_panel=_LATENT),
    ] = None,
    key: Annotated[str, typer.Option(help="Public key that must have signed the pack, hexadecimal.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Fetch without asking; you agree to the notice.")] = False,
    memory: Memory = None,
    seconds: Seconds = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add a generator: a pack's folder, a model file that becomes a pack, or a name to fetch.

    Nothing of the file is executed. It is copied and looked at in a child process with little memory and time, and what
    comes out must keep every promise of `plgl generator check`.
    """
    from client.generators.importers.base import ImportSettings
    from client.generators.sandbox import Limits

    limits = Limits.of(memory, seconds)
    if str(source) in FETCHABLE and not source.exists():
        _refuse({"--as": kind, "--name": name, "--latent": latent, "--module": module, "--key": key}, "what is fetched")
        add_fetched(str(source), yes=yes, home=home, as_json=as_json)
        return
    if _is_pack(source, kind):
        _refuse({"--as": kind, "--name": name, "--latent": latent, "--law": law, "--module": module}, "a pack's folder")
        said, record = _add_folder(source, key, limits, home)
    else:
        _refuse({"--key": key}, "a model file, which nobody signed")
        given = ImportSettings(
            dimension=latent,
            law=_law(law, span),
            size=size,
            output_range=output_range,
            truncation=truncation,
            seed=seed,
            module=module,
            conditions=_pairs(condition or [], "--condition"),
            licence=licence,
            notice=notice,
            settings=_pairs(settings or [], "--set"),
            limits=limits,
        )
        said, record = _add_file(source, kind, name or _slug(source), version, given, home)
    if as_json:
        print(json.dumps(record))
        return
    console = Console()
    for line in said:
        console.print(line, **_PLAIN)


def check_pack(
    name: Name, memory: Memory = None, seconds: Seconds = None, home: Home = None, as_json: Json = False
) -> None:
    """Check a pack, one line for each promise; its networks run in a child process first."""
    from client.generators.check import check
    from client.generators.installed import InstalledPacks
    from client.generators.pack_files import read_manifest
    from client.generators.sandbox import OWN, Limits

    folder, installed = _folder_of(name, home), InstalledPacks(home)
    limits = Limits.of(memory, seconds)
    if memory is None and seconds is None and folder == installed.folder(name):
        limits = OWN if installed.is_proven(read_manifest(folder)) else limits  # what it needs was allowed before
    checked = check(folder, limits)
    if as_json:
        print(json.dumps(checked.as_json()))
        raise typer.Exit(1 if checked.broken else 0)
    _print_promises(checked)
    pack = checked.must_be_sound()
    print(f"{pack.name} {pack.version} is sound: {len(pack.manifest.files)} files, {pack.components} components")


def sign(
    name: Name,
    key: Annotated[Path, typer.Option(help="File with your signing key; made, for you alone, where there is none.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Sign a pack, so that others can tell it is yours and that later versions are too."""
    from client.generators.installed import InstalledPacks
    from client.generators.pack import GeneratorPack
    from client.generators.pack_signature import load_or_make_key, sign_pack

    folder = _folder_of(name, home)
    pack = GeneratorPack.open(folder, home)  # nobody should sign a damaged one
    if folder.resolve().is_relative_to(_shipped()):
        raise SettingError(f"{pack.name} came with the program; sign packs of your own")
    signing, new = load_or_make_key(key)
    print_of = sign_pack(folder, signing)
    installed = InstalledPacks(home)
    if folder == installed.folder(pack.name) and installed.is_proven(pack.manifest):
        installed.remember(pack.manifest, signing.public)
    record = {"name": pack.name, "pack": pack.hash, "key": signing.public.hex(), "fingerprint": print_of, "new": new}
    if as_json:
        print(json.dumps(record))
        return
    if new:
        print(f"made the key {key}; keep it, later versions need it")
    print(f"signed {pack.name} {pack.version} by {print_of}")
    print(f"public key: {signing.public.hex()}")


def remove(
    name: Annotated[str, typer.Argument(help="Of an added generator.")],
    forget: Annotated[
        bool, typer.Option("--forget", help="Also forget its version and key: older or foreign packs may come then.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Delete an added generator from this machine."""
    from client.generators.installed import InstalledPacks

    if as_json and not yes:
        raise SettingError("--json asks nobody; add --yes, or leave --json out to be asked")
    installed = InstalledPacks(home)
    if not yes and name in installed.names():
        typer.confirm(f"Delete {installed.folder(name)} for good?", abort=True, err=True)
    installed.remove(name, forget=forget)
    print(json.dumps({"removed": name, "forgotten": forget}) if as_json else f"removed {name}")


def _add_folder(source: Path, key: str, limits: Limits, home: Path | None) -> tuple[list[str], dict[str, Any]]:
    from client.generators.check import check
    from client.generators.installed import InstalledPacks
    from client.generators.manifest import MANIFEST, SIGNATURE
    from client.generators.pack_files import read_manifest
    from client.generators.pack_signature import read_public_key, signature_bytes, signer_of
    from common.errors import SignatureError
    from common.signing import fingerprint

    manifest = read_manifest(source)
    _check_name(manifest.name)
    wanted, signer = read_public_key(key) if key else None, signer_of(source, manifest)
    if wanted is not None and signer != wanted:
        by = "nobody" if signer is None else fingerprint(signer)
        raise SignatureError(f"{manifest.name} is signed by {by}, not by {fingerprint(wanted)}; ask its maker")
    InstalledPacks(home).admit(manifest, signer)
    with _waiting(f"checking {source}"):
        checked = check(source, limits)
        pack = checked.must_be_sound()
    files = {**pack.files, MANIFEST: pack.manifest.encode()}
    if pack.signer is not None:
        files[SIGNATURE] = signature_bytes(source)
    folder = InstalledPacks(home).install(pack.manifest, files, pack.signer)
    said = [f"added {pack.name} {pack.version} in {folder}", *_after(pack.manifest)]
    if pack.signer is not None:
        said.insert(1, f"signed by {fingerprint(pack.signer)}; compare that with its maker")
    return said, {**checked.as_json(), "folder": str(folder)}


def _add_file(
    source: Path, kind: str, name: str, version: str, given: ImportSettings, home: Path | None
) -> tuple[list[str], dict[str, Any]]:
    from client.generators.importers.base import make
    from client.generators.importers.registry import importer_of, sniffed
    from client.generators.installed import InstalledPacks
    from client.generators.manifest import MANIFEST

    importer = importer_of(kind) if kind else sniffed(source)
    _check_name(name)
    with _waiting(f"reading {source.name} as {importer.kind}"):
        imported = importer.read(source, given)
        made = make(imported, name=name, version=version, limits=_limits_of(imported.onnx is None, given.limits))
    folder = InstalledPacks(home).install(made.manifest, {**made.files, MANIFEST: made.manifest.encode()})
    difference = (
        f"as its source up to {made.error:.1e} on 64 latents; first run in a child process: {made.report['limits']}"
    )
    said = [f"added {name} {version} in {folder}", difference, *_after(made.manifest)]
    return said, {**_record(made), "as": importer.kind, "folder": str(folder)}


def _limits_of(own: bool, given: Limits) -> Limits:
    """Networks this program built itself are bounded by the machine, foreign ones by what the person allows."""
    from client.generators.sandbox import OWN

    return replace(OWN, seconds=max(OWN.seconds, given.seconds)) if own else given


def _record(made: Made) -> dict[str, Any]:
    import hashlib

    encoded = made.manifest.encode()
    return {**json.loads(encoded), "pack": hashlib.sha256(encoded).hexdigest(), "error": made.error}


def _after(manifest: Any) -> list[str]:
    """What a person should read next."""
    lines = [f"notice: {manifest.notice}"] if manifest.notice else []
    if manifest.licence == "NOASSERTION":
        lines.append("nobody said under which licence; give it with --licence when you share the pack")
    if not manifest.components and manifest.output.kind != "points":
        lines.append(f"now learn its latent map: plgl generator map {manifest.name}")
    return lines


def _check_name(name: str) -> None:
    from client.generators.pack import known_generators

    if name in known_generators():
        raise SettingError(f"{name!r} came with the program; choose another --name")


def _folder_of(name: str, home: Path | None) -> Path:
    """The folder behind a name or a path, as `GeneratorPack.open` finds it."""
    from client.generators.pack import folder_of

    return folder_of(name, home)


def _shipped() -> Path:
    from client.generators.pack import PACKS

    return PACKS.resolve()


def _law(name: str, span: tuple[float, float] | None) -> Any:
    from client.generators.interface import SourceLaw

    if not name and span is None:
        return None
    low, high = span or (0.0, 0.0)
    return SourceLaw(name=name or "uniform", low=low, high=high)


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    if bad := [text for text, (name, sign_, _) in zip(given, pairs, strict=True) if not (name and sign_)]:
        raise SettingError(f"{option} {bad[0]} must be name=value")
    return {name: value for name, _, value in pairs}


def _is_pack(source: Path, kind: str) -> bool:
    """Whether it is the folder of a pack, rather than a file or the folder of a model."""
    from client.generators.importers.registry import DESCRIBING
    from client.generators.manifest import MANIFEST

    if not source.is_dir() or (source / MANIFEST).is_file():
        return source.is_dir()
    return not kind and not any((source / name).is_file() for name in DESCRIBING)


def _slug(source: Path) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", source.stem.lower()).strip("-")[:64]
    if not slug:
        raise SettingError(f"{source.name} makes no name; give one with --name")
    return slug


def _refuse(options: dict[str, Any], what: str) -> None:
    if given := [option for option, value in options.items() if value]:
        raise SettingError(f"{given[0]} does not go with {what}; leave it out")


def _waiting(what: str) -> Any:
    return Console(stderr=True).status(what)


def _print_promises(checked: Checked) -> None:
    console = Console()
    for promise in checked.promises:
        console.print(f"{_MARKS[promise.kept]} {promise.name:<14} {promise.says}", **_PLAIN)
