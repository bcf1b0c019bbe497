"""Stock programs of Flower: ``flwr run`` for the operator, ``flower-supernode`` for one of three members.

The commands are those in the docstring of ``client.deployed``.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from client.generators.pack import GeneratorPack
from client.joining import join
from client.membership import Membership
from client.memory import Memory
from client.ratings import Like
from client.store import Store
from client.vault import Cost
from common.privacy.settings import PrivacySettings
from common.release import Release
from common.terms import Terms
from server.federation import Federation, new_identifier
from server.superlink import environment, free_port, program
from server.supervisor import Supervisor, UpSettings

PATIENCE = 240.0  # a busy machine; usually it is a minute
ANSWERS = 6
PASSPHRASE = "a long one"


def wait_for(found: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, what()
        time.sleep(0.1)


@pytest.fixture
def federation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Federation]:
    """One that is up, for rounds of three."""
    monkeypatch.setenv("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.1")
    terms = Terms(
        federation=new_identifier(),
        name="stock",
        pack=GeneratorPack.open("art").hash,
        components=4,
        settings=PrivacySettings(expected_people=3, minimum_people=3),
        honest_people=2,
        minimum_ratings=ANSWERS,
    )
    port = free_port()
    made = Federation.create(tmp_path / "operator", terms=terms, address=f"localhost:{port}")
    supervisor, stop = Supervisor(made, UpSettings(host="127.0.0.1", port=port), say=print), threading.Event()
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    wait_for(lambda: made.running.exists() or not thread.is_alive(), lambda: "the federation is up")
    yield made
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def member(federation: Federation, home: Path, seed: int) -> Membership:
    """Somebody who gave a few answers, and joined."""
    home.mkdir()
    pack = GeneratorPack.open("art")
    latents = pack.latents.sample(ANSWERS, torch.Generator().manual_seed(seed))
    with Store.open(home / "store.plgl", passphrase=PASSPHRASE, cost=Cost(passes=1, kib=64, lanes=1)) as store:
        memory = Memory(store)
        memory.show("me", pack.hash, 0, latents)
        for item in range(ANSWERS):
            memory.rate("me", "", Like(item, (item + seed) % 2 == 0), None)
    invite = federation.invite(federation.book().create_invite(3600), int(time.time()) + 3600)
    return join(invite, root=home / "federations", store=home / "store.plgl")


@dataclasses.dataclass
class Programs:
    """Programs that run in the background, with their output in files."""

    folder: Path
    running: "list[subprocess.Popen[bytes]]" = dataclasses.field(default_factory=list)

    def start(self, name: str, command: list[str], **variables: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**environment(self.folder / name), **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(process)
        return process

    def said(self) -> str:
        return "\n".join(f"-- {log.name}\n{log.read_text(errors='replace')}" for log in self.folder.glob("*.log"))

    def end(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    started = Programs(tmp_path)
    yield started
    started.end()


def test_a_stock_node_and_a_stock_run_complete_a_secure_round(
    federation: Federation, programs: Programs, tmp_path: Path
) -> None:
    members = [member(federation, tmp_path / f"member-{seed}", seed) for seed in range(3)]
    stock, *edge = members
    for each in edge:
        command = [sys.executable, "-m", "common", "sharing", "run", "--home", str(each.folder.parent)]
        programs.start(f"edge-{each.member}", command, PLGL_PASSPHRASE=PASSPHRASE)
    (stock.folder / "ca.crt").write_text(stock.invite.tls_authority)
    node = [
        *(str(program("flower-supernode")), "--superlink", stock.invite.address),
        *("--root-certificates", str(stock.folder / "ca.crt")),
        *("--auth-supernode-private-key", str(stock.folder / "node.key"), "--port", str(free_port())),
        *("--node-config", f'membership="{stock.folder}"'),
    ]
    programs.start("node", node, PLGL_PASSPHRASE=PASSPHRASE, FLWR_HOME=str(stock.folder / "flower"))
    settings = f'federation="{federation.folder}" rounds=1 stage-seconds=60'
    run = [str(program("flwr")), "run", str(federation.folder / "bundle"), "--run-config", settings]
    assert programs.start("run", run, FLWR_HOME=str(federation.flower)).wait(PATIENCE) == 0, programs.said()

    releases = federation.releases
    wait_for(lambda: (releases / "release-000001.json").exists(), programs.said)
    invite = stock.invite
    release = Release.from_bytes((releases / "release-000001.json").read_bytes(), invite.release_key)
    assert (release.version, release.prior.rounds, release.terms) == (1, 1, federation.terms)
    for each in members:
        with each.ledger() as ledger:
            assert ledger.spent(federation.terms.federation) == 1, each.member
    assert all(process.poll() is None for process in programs.running[:3])
    left = [path.read_bytes() for path in (stock.folder / "flower").rglob("*") if path.is_file()]
    assert left
    for content in (*left, programs.said().encode()):  # what Flower keeps and prints
        assert PASSPHRASE.encode() not in content
