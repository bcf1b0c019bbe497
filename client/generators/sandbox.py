"""Foreign model files are first looked at in a child process of their own, under limits, in a private folder.

The child gets a copy of the file under a name of ours, so nothing lies beside it that the file could point to. It has
little memory (RLIMIT_AS) and little time, may write only its answer, and starts without this process's environment.
On Windows and macOS the system keeps no limit of memory; there the time limit and the rules about shapes
(`onnx_rules.check_shapes`) bound what a file can take, and every report says so.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from client.generators.sandbox_child import ANSWER, FILE, PLAN, TENSORS
from common.errors import SettingError, StorageError, UnreadableModel, UnsafeFile

LARGEST_FILE = (1 << 31) - 1
_ROOT = Path(__file__).resolve().parents[2]
_CHILD = Path(__file__).with_name("sandbox_child.py")
_START_SECONDS = 60.0  # for Python and its libraries on a slow disk; nothing foreign is touched before that
_OUT_OF_TIME = {getattr(signal, name) for name in ("SIGALRM", "SIGXCPU", "SIGKILL") if hasattr(signal, name)}
_PASSED_ON = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a foreign file may take when it is first looked at.

    Attributes:
        memory: bytes beyond what the child's libraries take, to which four times the file's size is added.
        seconds: of time, after the libraries are loaded.
        largest_bytes: of one value inside the network, for a batch of three.

    Raises:
        SettingError: a limit is out of range.
    """

    memory: int = 640 << 20
    seconds: float = 8.0
    largest_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        ranges = {"memory": (64 << 20, 1 << 44), "seconds": (0.1, 86_400), "largest_bytes": (1 << 20, 1 << 44)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise SettingError(f"{name}={getattr(self, name)} must lie between {low} and {high}")

    @classmethod
    def of(cls, gibibytes: float | None, seconds: float | None) -> Limits:
        """Limits as a person gives them; None for the usual ones. One value may take a third of the memory."""
        usual = cls()
        memory = usual.memory if gibibytes is None else int(gibibytes * 2**30)
        largest = usual.largest_bytes if gibibytes is None else max(usual.largest_bytes, memory // 3)
        return cls(memory=memory, seconds=usual.seconds if seconds is None else seconds, largest_bytes=largest)


class UnsafeShape(UnsafeFile):
    """A value of a network has no known shape, too large a one, or one that does not fit."""


class UnsafeRun(UnsafeFile):
    """A network kept the rules and then took more than its limits, or could not be run."""


OWN = Limits(memory=48 << 30, seconds=900.0, largest_bytes=8 << 30)
"""For networks this program exported itself: only the machine bounds them."""


def look(content: bytes | Path, what: str, limits: Limits | None = None) -> dict[str, Any]:
    """What an ONNX file says about itself, without running it.

    Returns:
        ``inputs`` and ``outputs`` (name, ONNX element type, sides), ``opset``, ``operators``, ``limits`` in words.

    Raises:
        UnsafeFile: it breaks a rule of `onnx_rules` or a limit.
    """
    with _folder() as folder:
        _place(content, folder, what)
        return _answer(folder, "look", {}, what, limits or Limits())


def first_run(
    content: bytes | Path, what: str, inputs: Mapping[str, Tensor], batched: set[str], limits: Limits | None = None
) -> dict[str, Any]:
    """Check an ONNX file and run it for the first time.

    Args:
        content: the file, or where it lies.
        what: what messages call it.
        inputs: all its inputs in order, float32 on the CPU; the batch is three items or more.
        batched: those whose first axis is the batch.
        limits: what it may take.

    Returns:
        As `look`, and ``shape``, ``type``, ``finite``, ``low``, ``high`` of the result; ``repeats``, whether it gave
        the same bytes twice; ``alone_error``, relative difference of an item drawn alone (None: another shape);
        ``largest_bytes`` of a value inside; ``sha256`` of the result.

    Raises:
        UnsafeFile: it breaks a rule of `onnx_rules` or a limit, or cannot be run on these inputs.
    """
    limits = limits or Limits()
    with _folder() as folder:
        _place(content, folder, what)
        for i, value in enumerate(inputs.values()):
            np.save(folder / f"{i}.npy", value.numpy(), allow_pickle=False)
        plan = {"inputs": list(inputs), "batched": sorted(batched), "largest_bytes": limits.largest_bytes}
        return _answer(folder, "run", plan, what, limits)


def first_build(
    network: bytes,
    weights: bytes,
    what: str,
    inputs: Mapping[str, Tensor],
    batched: set[str],
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Build a network that runs in torch from its files, and run it for the first time.

    Args:
        network: its ``network.json``, the builder known.
        weights: its safetensors file.
        what: what messages call it.
        inputs: as of `first_run`.
        batched: as of `first_run`.
        limits: what it may take.

    Returns:
        As `first_run` of the result, and ``builder``, ``tensors`` and ``numbers``, how many there are of each.

    Raises:
        UnsafeFile: the files make no network, or it breaks a limit or cannot be run on these inputs.
    """
    limits = limits or Limits()
    with _folder() as folder:
        _place(weights, folder, what)
        for i, value in enumerate(inputs.values()):
            np.save(folder / f"{i}.npy", value.numpy(), allow_pickle=False)
        plan = {"inputs": list(inputs), "batched": sorted(batched), "network": network.decode("utf-8", "replace")}
        return _answer(folder, "build", plan, what, limits)


def read_tensors(path: Path, limits: Limits | None = None) -> dict[str, Tensor]:
    """Tensors of a state dict, ``.pt`` / ``.pth`` (``weights_only``) or ``.safetensors``; runs nothing of the file.

    Guarantee: every tensor is whole (its storage holds all its numbers), finite and on the CPU; names of nested
    dictionaries are joined by ``/``. A pickle is only opened in the child process; safetensors, which hold numbers and
    nothing else, here.

    Raises:
        UnsafeFile: it takes more than its limits.
        UnreadableModel: it is no state dict, is cut short, or holds something else than tensors and plain values.
    """
    from safetensors.torch import load_file

    with _folder() as folder:
        _place(path, folder, path.name)
        if not _is_safetensors(folder / FILE):
            _refuse_compressed(folder / FILE, path.name)
            written = 2 * (folder / FILE).stat().st_size + (1 << 20)
            _answer(folder, "tensors", {"written": written}, path.name, limits or Limits())
            (folder / TENSORS).replace(folder / FILE)
        try:
            found = dict(load_file(folder / FILE))
        except Exception as error:  # safetensors has an error type of its own, and raises others
            raise UnreadableModel(f"{path.name} is no safetensors file, or is damaged: {error}") from error
    if bad := [name for name, value in found.items() if value.is_floating_point() and not bool(value.isfinite().all())]:
        raise UnreadableModel(
            f"{path.name} holds NaN or infinite weights in {bad[0][:60]!r}; use an earlier checkpoint"
        )
    return found


def _refuse_compressed(path: Path, what: str) -> None:
    """A compressed checkpoint may unfold to any size."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise UnreadableModel(f"{what} is compressed, which torch.save never does; unpack it first")


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{"


@contextmanager
def _folder() -> Any:
    """A folder only this person can enter, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="plgl-"))  # made 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _place(content: bytes | Path, folder: Path, what: str) -> None:
    """Copy the file into the folder under a name of ours; a copy has no other names, so hard links lead nowhere."""
    try:
        if isinstance(content, bytes):
            (folder / FILE).write_bytes(content)
            return
        if not content.is_file():  # a pipe or a device would never end
            raise UnreadableModel(f"{what} is not a plain file; give the path of a model file")
        if (size := content.stat().st_size) > LARGEST_FILE:
            raise UnsafeFile(f"{what} has {size} bytes, more than the {LARGEST_FILE} that are looked at")
        shutil.copyfile(content, folder / FILE)
    except OSError as error:
        raise StorageError(f"{what} cannot be copied: {error.strerror or error}; free some space") from error


def _answer(folder: Path, task: str, plan: dict[str, Any], what: str, limits: Limits) -> dict[str, Any]:
    size = (folder / FILE).stat().st_size
    memory = limits.memory + 4 * size
    plan = {"memory": memory, "seconds": limits.seconds, "written": 1 << 20} | plan
    (folder / PLAN).write_text(json.dumps(plan), "utf-8")
    ended = _run(folder, task, limits.seconds)
    said = _said(folder)
    more = "if you trust it, add it with more: plgl generator add"
    room = f"{what} needs more than the {memory >> 20} MiB allowed; {more} --memory GIB"
    if "found" in said:
        found: dict[str, Any] = said["found"]
        return found
    if "memory" in said or ended == -signal.SIGABRT:  # a failed allocation aborts some libraries
        raise UnsafeRun(room)
    if ended is None or -ended in _OUT_OF_TIME:
        raise UnsafeRun(f"{what} was not done within {limits.seconds:g} s; {more} --seconds S")
    kinds = {"shape": UnsafeShape, "rule": UnsafeFile}
    kind = UnreadableModel if task == "tensors" else kinds.get(str(said.get("kind")), UnsafeRun)
    why = _printable(said.get("refused", f"made the process that looked at it end with code {ended}"))
    raise kind(f"{what} {why}" if task != "tensors" else f"{what} is no state dict that can be read: {why}")


def _printable(text: str) -> str:
    """Names in a message come from the file; none may steer a terminal."""
    return "".join(mark if unicodedata.category(mark) not in ("Cc", "Cf", "Cs") else "?" for mark in text)


def _run(folder: Path, task: str, seconds: float) -> int | None:
    """Exit code of the child; None where it had to be ended."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment |= {"HOME": str(folder), "TMPDIR": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [sys.executable, "-I", str(_CHILD), str(_ROOT), task],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as child:
        try:
            return child.wait(_START_SECONDS + seconds)
        except BaseException as error:
            _end(child)
            if isinstance(error, subprocess.TimeoutExpired):
                return None
            raise


def _end(child: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(child.pid, signal.SIGKILL)  # the session is its own, so this ends what it started too
    else:
        child.kill()


def _said(folder: Path) -> dict[str, Any]:
    try:
        with (folder / ANSWER).open("rb") as file:
            said = json.loads(file.read(4 << 20))
        return said if isinstance(said, dict) else {}
    except (OSError, ValueError):
        return {}
