"""Starting and stopping: the right door, a free port, a socket for its owner, and a clean end."""

import io
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from client.generators.pack import GeneratorPack
from client.journal import MemoryJournal
from client.session import Session
from client.web.serve import _opener, serve
from common.errors import SettingError, StorageError

PROGRAM = """
import sys
from client.session import Session
from client.web.serve import serve
with Session.open("art", seed=0) as session:
    serve(session, open_browser=sys.argv[1] == "open", socket=sys.argv[2] if len(sys.argv) > 2 else None)
print("ended")
"""


@pytest.fixture
def session(pack: GeneratorPack) -> Iterator[Session]:
    with Session(pack, MemoryJournal(), seed=0) as session:
        yield session


def started(*arguments: str, **more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **more, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "40"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=Path(__file__).parents[3], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def printed(program: subprocess.Popen[str]) -> str:
    assert program.stdout is not None
    return program.stdout.readline()


def test_it_serves_where_it_says_and_ends_cleanly_on_control_c() -> None:
    with started("quiet") as program:
        line = printed(program)
        found = re.fullmatch(r"Rate here: (http://127\.0\.0\.1:\d+)/\?token=([\w-]{43})\n", line)
        assert found is not None, line
        with httpx.Client(base_url=found[1], follow_redirects=True, timeout=30) as browser:
            assert browser.get("/").status_code == 401
            assert "Which one do you like more?" in browser.get(f"/?token={found[2]}").text
            assert found[2] not in Path(f"/proc/{program.pid}/cmdline").read_text()
            with pytest.raises(httpx.ConnectError):
                httpx.get(found[1].replace("127.0.0.1", own_address()), timeout=2)
            program.send_signal(signal.SIGINT)
        out, errors = program.communicate(timeout=15)
    assert program.returncode == 0
    assert out.endswith("ended\n")
    assert out.count("token=") == 0  # printed once, above
    assert errors == ""


def test_the_browser_is_started_without_the_token_in_its_arguments(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncp "${{1#file://}}" {tmp_path}/page.html\n')
    browser.chmod(0o700)
    with started("open", BROWSER=f"{browser} %s") as program:
        address = printed(program).removeprefix("Rate here: ").strip()
        deadline = time.monotonic() + 20
        while not (tmp_path / "page.html").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        program.send_signal(signal.SIGINT)
        program.communicate(timeout=15)
    given = (tmp_path / "arguments").read_text().strip()
    assert address in (tmp_path / "page.html").read_text()
    assert address.partition("token=")[2] not in given
    assert given.startswith("file:///")
    assert not Path(given.removeprefix("file://")).exists()


def own_address() -> str:
    """An address of this machine that is not loopback's first one."""
    return "127.0.0.2"


def test_a_socket_is_for_its_owner_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "page.sock"
    with started("quiet", str(path)) as program:
        token = re.search(r"token=([\w-]{43})", printed(program))
        assert token is not None
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(base_url="http://localhost:1234", transport=transport, follow_redirects=True) as browser:
            assert browser.get("/").status_code == 401
            assert browser.get(f"/?token={token[1]}").status_code == 200
            assert browser.get("/", headers={"host": "evil.example"}).status_code == 421
        with pytest.raises(SettingError, match="in use by another program"), Session.open("art", seed=0) as other:
            serve(other, socket=path, open_browser=False, console=Console(file=io.StringIO()))
        program.send_signal(signal.SIGINT)
        program.communicate(timeout=15)
    assert program.returncode == 0
    assert not path.exists()


def test_a_port_in_use_is_named_with_what_to_do(session: Session) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"port={port} is in use; choose another one, or 0 for any free one"):
            serve(session, port=port, open_browser=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "example.org", "", "127.0.0.1.example.org"])
def test_no_address_but_this_machine_is_served(session: Session, host: str) -> None:
    with pytest.raises(SettingError, match="the page is for this machine only"):
        serve(session, host=host, open_browser=False)


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_that_cannot_be_is_refused(session: Session, port: int) -> None:
    with pytest.raises(SettingError, match="must lie between 0 and 65535"):
        serve(session, port=port, open_browser=False)


def test_a_path_that_cannot_be_a_socket_is_refused_and_left_alone(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(SettingError, match="is a file; choose another path"):
        serve(session, socket=file, open_browser=False)
    assert file.read_text() == "mine"
    with pytest.raises(SettingError, match="longer than 100 bytes"):
        serve(session, socket=tmp_path / ("x" * 120), open_browser=False)
    with pytest.raises(StorageError, match="cannot make the socket"):
        serve(session, socket=tmp_path / "nowhere" / "s", open_browser=False)


def test_a_mode_nobody_knows_is_refused_before_anything_is_printed(session: Session) -> None:
    text = io.StringIO()
    with pytest.raises(SettingError, match="mode='guess'"):
        serve(session, open_browser=False, mode="guess", console=Console(file=text))
    assert text.getvalue() == ""


def test_the_file_that_opens_the_page_is_for_its_owner_and_gone_afterwards() -> None:
    with _opener("http://127.0.0.1:1/?token=0123456789ABCDEF") as file:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert "http://127.0.0.1:1/?token=0123456789ABCDEF" in file.read_text()
        assert "0123456789ABCDEF" not in file.as_uri()
    assert not file.exists()
