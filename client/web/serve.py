"""Serve the rating page on this machine and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import os
import socket as sockets
import stat
import tempfile
import threading
import webbrowser
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
import uvicorn
from rich.console import Console

from client.session import Session
from client.web.app import create_app
from client.web.deck import Deck
from client.web.guard import new_token
from common.errors import SettingError, StorageError
from common.population_policy import PopulationPolicy

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LONGEST_PATH = 100  # bytes a Unix socket's path may have on every system


class _Server(uvicorn.Server):
    """Lets go of requests that wait for pictures as soon as it should stop."""

    deck: Deck
    opener: Path | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        threading.Thread(target=self.deck.close, daemon=True).start()  # a signal handler must not wait for a lock

    async def startup(self, sockets: list[sockets.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.opener is not None and self.started:
            # in a thread of its own: a browser for the terminal would not return
            threading.Thread(target=webbrowser.open, args=[self.opener.as_uri()], daemon=True).start()


def serve(
    session: Session,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    socket: Path | str | None = None,
    open_browser: bool = True,
    console: Console | None = None,
    mode: str = "pair",
    population: PopulationPolicy | None = None,
) -> None:
    """Serve the page until Ctrl+C; the session stays open.

    Guarantee: only loopback or a Unix socket for its owner; the token is new each time, printed once, and in no
    argument of any program.

    Args:
        session: whose ratings.
        host: a loopback address.
        port: 0 for any free one.
        socket: path of a Unix socket to use instead.
        open_browser: open the page; not with a socket.
        console: where the address is printed.
        mode: how to ask first.
        population: everybody's policy, see `create_app`.

    Raises:
        SettingError: the host is not loopback, the port is in use or not allowed, the socket's path cannot be used.
        StorageError: the disk refuses the socket.
    """
    console, token = console or Console(), new_token()
    with _bound(host, port, socket) as listener:
        if socket is not None:
            app = create_app(session, token=token, any_port=True, mode=mode, population=population)
            _print(
                console,
                f"The page listens on {socket}; forward a port to it and open http://localhost:PORT/?token={token}",
            )
            _run(app.state.deck, uvicorn.Config(app, **_QUIET), listener, None)  # type: ignore[arg-type]
            return
        number = listener.getsockname()[1]
        names = [f"{name}:{number}" for name in ("127.0.0.1", "localhost", "[::1]")]
        app = create_app(session, token=token, hosts=names, mode=mode, population=population)
        address = f"http://{'[::1]' if host == '::1' else host}:{number}/?token={token}"
        _print(console, f"Rate here: {address}\nStop with Ctrl+C.")
        with _opener(address) if open_browser else contextlib.nullcontext() as opener:
            _run(app.state.deck, uvicorn.Config(app, **_QUIET), listener, opener)  # type: ignore[arg-type]


_QUIET = {"log_level": "warning", "access_log": False, "server_header": False, "ws": "none", "timeout_keep_alive": 75,
          "timeout_graceful_shutdown": 3}  # fmt: skip


def _run(deck: Deck, config: uvicorn.Config, listener: sockets.socket, opener: Path | None) -> None:
    server = _Server(config)
    server.deck, server.opener = deck, opener
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the matrices are small, and the browser needs the other cores
    try:
        # Ctrl+C ends the server first and then arrives here
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        deck.close()
        torch.set_num_threads(before)


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _opener(address: str) -> Iterator[Path]:
    """A local file that leads to the page: what a browser is started with can be seen by every user of the machine."""
    with tempfile.TemporaryDirectory(prefix="plgl-") as folder:
        file = Path(folder) / "open.html"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(
                f'<!doctype html><meta http-equiv="refresh" content="0; url={address}"><a href="{address}">plgl</a>'
            )
        yield file


@contextlib.contextmanager
def _bound(host: str, port: int, path: Path | str | None) -> Iterator[sockets.socket]:
    if path is not None:
        with _unix(Path(path)) as listener:
            yield listener
        return
    if host not in _LOOPBACK:
        raise SettingError(f"host={host!r} must be one of {', '.join(_LOOPBACK)}: the page is for this machine only")
    if not 0 <= port <= 65535:
        raise SettingError(f"port={port} must lie between 0 and 65535; 0 takes any free one")
    family = sockets.AF_INET6 if host == "::1" else sockets.AF_INET
    with sockets.socket(family, sockets.SOCK_STREAM) as listener:
        listener.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1" if host == "localhost" else host, port))
            listener.listen(64)
        except OSError as error:
            raise _refused(error, host, port) from error
        yield listener


def _refused(error: OSError, host: str, port: int) -> SettingError:
    if error.errno == errno.EADDRINUSE:
        return SettingError(f"port={port} is in use; choose another one, or 0 for any free one")
    if error.errno == errno.EACCES:
        return SettingError(f"port={port} is for the system; choose one above 1023, or 0 for any free one")
    return SettingError(f"host={host!r} port={port} cannot be used: {error.strerror}; choose another one")


@contextlib.contextmanager
def _unix(path: Path) -> Iterator[sockets.socket]:
    """A Unix socket that only its owner may use, removed at the end."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise SettingError(f"socket={path} is longer than {_LONGEST_PATH} bytes; choose a shorter path")
    _make_room(path)
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as listener:
        before = os.umask(0o177)  # not chmod afterwards: somebody could connect in between
        try:
            listener.bind(str(path))
        except OSError as error:
            raise StorageError(f"cannot make the socket {path}: {error.strerror}; choose another folder") from error
        finally:
            os.umask(before)
        try:
            listener.listen(64)
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _make_room(path: Path) -> None:
    """Remove a socket that nobody listens to any more."""
    try:
        kind = path.lstat().st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(kind):
        raise SettingError(f"socket={path} is a file; choose another path")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise SettingError(f"socket={path} cannot be used: {error.strerror}; choose another path") from error
    raise SettingError(f"socket={path} is in use by another program; stop it or choose another path")
