"""The app bundle of a federation: a few lines that name the installed code, and no code of their own.

Flower ships an app bundle (FAB) to every node and a stock node runs what is in it. This one only says
``server.deployed`` and ``client.deployed``, which every party has installed, so its bytes are the same everywhere and a
device can refuse any other by its SHA-256. No top-level name in it hides an installed package.
"""

from __future__ import annotations

import hashlib
import io
import zipfile

from common.terms import PROTOCOL

NAME = "plgl.fab"
_DATE = (2024, 10, 1, 0, 0, 0)  # the one Flower's own build writes
_UNIX = 3
# As Flower's build writes it again, so that `flwr build` and `flwr run` on the folder give the same bytes.
_PROJECT = f"""\
[project]
name = "plgl-federation"
version = "{PROTOCOL}.0.0"
description = "Rounds of a plgl federation; the code is the installed plgl, not this bundle"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "plgl"
fab-include = [
    "plgl_bundle/*.py",
]

[tool.flwr.app.components]
serverapp = "plgl_bundle.server_app:app"
clientapp = "plgl_bundle.client_app:app"

[tool.flwr.app.config]
federation = ""
rounds = 4
stage-seconds = 60.0
"""


def files() -> dict[str, bytes]:
    """Content by path, in the order of the bundle."""
    texts = {
        "pyproject.toml": _PROJECT,
        "plgl_bundle/__init__.py": '"""Names of the installed apps."""\n',
        "plgl_bundle/client_app.py": _module("client"),
        "plgl_bundle/server_app.py": _module("server"),
    }
    return {path: text.encode() for path, text in texts.items()}


def build() -> bytes:
    """The bundle, as Flower's build makes it.

    Guarantee: the same bytes on every machine: files are stored, not compressed, with one date and in one order.
    """
    lines, buffer = [], io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in files().items():
            _store(archive, path, content)
            lines.append(f"{path},{hashlib.sha256(content).hexdigest()},{8 * len(content)}")
        _store(archive, ".info/CONTENT", "\n".join(lines).encode())
    return buffer.getvalue()


def digest(bundle: bytes) -> str:
    """SHA-256, hexadecimal, as in invitations."""
    return hashlib.sha256(bundle).hexdigest()


def _module(side: str) -> str:
    return f'"""The {side} side of the installed plgl."""\n\nimport {side}.deployed\n\napp = {side}.deployed.app\n'


def _store(archive: zipfile.ZipFile, path: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(path, _DATE)
    entry.create_system = _UNIX
    entry.external_attr = 0o600 << 16
    archive.writestr(entry, content)
