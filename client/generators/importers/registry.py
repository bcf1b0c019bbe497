"""Which importers there are: one line each. A module is imported when its kind is asked for or a file is sniffed."""

from __future__ import annotations

import importlib
from pathlib import Path

from client.generators.importers.base import Importer, head_of
from common.errors import SettingError, UnreadableModel

MODULES = {
    "stylegan": "client.generators.importers.stylegan",
    "stackgan": "client.generators.importers.stackgan",
    "progan": "client.generators.importers.progan",
    "diffusers": "client.generators.importers.diffusers_pipeline",
    "vae": "client.generators.importers.vae",
    "dcgan": "client.generators.importers.dcgan",
    "onnx": "client.generators.importers.onnx_file",
    "torch": "client.generators.importers.torch_module",
}
"""Module of each kind, each with an ``IMPORTER``; files are sniffed in this order, so the special come first."""

DESCRIBING = ("model_index.json", "config.json")
"""Files that describe a folder of model files."""


def importer_of(kind: str) -> Importer:
    """The importer of a kind.

    Raises:
        SettingError: there is none of that name.
    """
    if kind not in MODULES:
        raise SettingError(f"--as {kind} is unknown; known: {', '.join(sorted(MODULES))}")
    found: Importer = importlib.import_module(MODULES[kind]).IMPORTER
    return found


def sniffed(path: Path) -> Importer:
    """The importer for a file, or for the folder a file in it describes, by what it looks like.

    Raises:
        UnreadableModel: none takes it, or it is no plain file.
    """
    path = next((path / name for name in DESCRIBING if (path / name).is_file()), path)
    head = head_of(path)
    for kind in MODULES:
        importer = importer_of(kind)
        if importer.sniff(path, head):
            return importer
    known = "; ".join(f"{kind}: {importer_of(kind).about}" for kind in MODULES)
    raise UnreadableModel(f"{path} looks like no model this program reads ({known}); say which with --as")
