"""A command in a real terminal: keys go in, what is shown comes out, and the terminal must be as it was."""

from __future__ import annotations

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
PROGRAM = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from importlib.metadata import EntryPoint
from common.cli import GROUP, run
command, program, *arguments = sys.argv[1:]
sys.exit(run([command, *arguments], [EntryPoint(command, program, GROUP)]))
"""


class Terminal:
    """A command in a terminal of its own."""

    def __init__(
        self, command: str, program: str, *arguments: str, home: Path, environment: dict[str, str] | None = None
    ) -> None:
        """Type ``plgl command arguments``; ``program`` is where it is, as ``module:app``."""
        self._ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        self.before = termios.tcgetattr(theirs)
        kept = {name: os.environ[name] for name in ("PATH", "OMP_NUM_THREADS") if name in os.environ}
        told = {
            "TERM": "xterm-256color", "COLORTERM": "truecolor", "HOME": str(home), "PYTHONPATH": str(ROOT),
            "PYTHONIOENCODING": "utf-8", "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, command, program, *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=home,
            env={**kept, **told, **(environment or {})},
        )  # fmt: skip
        self._theirs = theirs
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Read until ``text`` was shown, after what was waited for before."""
        start, end = len(self.seen), time.monotonic() + seconds
        while text not in self.seen[start:]:
            assert time.monotonic() < end, f"{text!r} was not shown; last: {self.seen[-500:]!r}"
            self._read()

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0.1)[0]:
            self.seen += self._decoder.decode(os.read(self._ours, 65536))

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def resize(self, lines: int, columns: int) -> None:
        termios.tcsetwinsize(self._theirs, (lines, columns))
        os.kill(self._process.pid, signal.SIGWINCH)

    def end(self) -> int:
        """The exit code; the terminal must be as it was."""
        end = time.monotonic() + 30
        while (code := self._process.poll()) is None and time.monotonic() < end:
            self._read()
        self._read()
        assert code is not None, f"it did not end; last: {self.seen[-500:]!r}"
        assert termios.tcgetattr(self._theirs) == self.before
        return code

    @property
    def after(self) -> str:
        """What stays in the window when the program has ended."""
        return self.seen.rsplit("\x1b[?1049l", 1)[-1]
