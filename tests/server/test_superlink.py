"""A real SuperLink behind a real gate, with stock Flower nodes."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from common.errors import DeploymentError
from common.privacy.settings import PrivacySettings
from common.signing import SigningKey, canonical
from common.terms import Terms
from server.federation import Federation, new_identifier, pack_hash
from server.superlink import Control, SuperLink, environment, free_port, program, tls_context
from server.supervisor import Supervisor, UpSettings

PATIENCE = 60.0


def wait_for(found: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


@dataclass
class Running:
    federation: Federation
    port: int
    said: list[str]
    supervisor: Supervisor

    def control(self) -> Control:
        where = self.federation.where()
        return Control(f"127.0.0.1:{where['superlink']}", self.federation.tls_authority.read_text())

    def client(self) -> httpx.Client:
        verify = tls_context(self.federation.tls_authority.read_text())
        return httpx.Client(base_url=f"https://localhost:{self.port}", verify=verify, trust_env=False, timeout=20.0)

    def enrol(self, node: str) -> tuple[int, SigningKey]:
        key, token = SigningKey.generate(), self.federation.book().create_invite(60)
        proof = key.sign("enrolment request", canonical([self.federation.terms.federation, token, node]))
        body = {"token": token, "key": key.public.hex(), "node_key": node, "proof": proof.hex()}
        with self.client() as client:
            return client.post("/plgl/enrol", json=body).json()["certificate"]["member"], key


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("operator") / "federation"
    settings = PrivacySettings(expected_people=3, minimum_people=2)
    terms = Terms(
        federation=new_identifier(),
        name="a test",
        pack=pack_hash("art")[0],
        components=4,
        settings=settings,
        honest_people=1,
    )
    port = free_port()
    federation = Federation.create(folder, terms=terms, address=f"localhost:{port}")
    said: list[str] = []
    supervisor = Supervisor(federation, UpSettings(host="127.0.0.1", port=port), say=said.append)
    stop, failures = threading.Event(), []

    def serve() -> None:
        try:
            supervisor.run(stop)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=serve)
    thread.start()
    wait_for(lambda: federation.running.exists() or bool(failures), "the federation is up")
    assert failures == []
    yield Running(federation, port, said, supervisor)
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert failures == []
    assert not federation.running.exists()


@pytest.fixture(scope="module")
def make_key(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, str]]:
    folder = tmp_path_factory.mktemp("keys")

    def make(name: str) -> tuple[Path, str]:
        key = ec.generate_private_key(ec.SECP384R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        (folder / name).write_bytes(private)
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        return folder / name, public.decode()

    return make


def supernode(up: Running, key: Path, home: Path, *trust: str) -> "subprocess.Popen[bytes]":
    home.mkdir(exist_ok=True)
    pins = trust or ("--root-certificates", str(up.federation.tls_authority))
    command = [
        *(str(program("flower-supernode")), "--superlink", f"localhost:{up.port}", *pins, "--max-retries", "1"),
        *("--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", str(free_port())),
    ]
    log = (home / "log").open("wb")
    with log:
        return subprocess.Popen(
            command, cwd=home, env=environment(home), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


Keys = Callable[[str], tuple[Path, str]]


def test_stock_nodes_come_through_the_gate_if_they_are_members(up: Running, make_key: Keys, tmp_path: Path) -> None:
    member, public = make_key("member")
    stranger, strange = make_key("stranger")
    up.enrol(public)
    with up.control() as control:
        assert control.nodes()[public].online is False
        nodes = [supernode(up, key, tmp_path / key.name) for key in (member, stranger)]
        plain = supernode(up, member, tmp_path / "plain", "--insecure")
        try:
            wait_for(lambda: control.nodes()[public].online, (tmp_path / "member" / "log").read_text())
            wait_for(lambda: nodes[1].poll() is not None, "the stranger gives up")
            wait_for(lambda: plain.poll() is not None, "the node without TLS gives up")
            assert nodes[1].returncode != 0
            assert plain.returncode != 0
            assert nodes[0].poll() is None
            assert strange not in control.nodes()
        finally:
            for process in (*nodes, plain):
                end(process)


def test_a_leaver_s_key_is_removed_and_never_let_in_again(up: Running, make_key: Keys) -> None:
    _, public = make_key("leaver")
    number, key = up.enrol(public)
    now = int(time.time())
    proof = key.sign("leave", canonical([up.federation.terms.federation, number, now])).hex()
    with up.control() as control, up.client() as client:
        assert public in control.nodes()
        assert client.post("/plgl/leave", json={"member": number, "time": now, "proof": proof}).json() == {"left": True}
        assert public not in control.nodes()
        with pytest.raises(DeploymentError, match="register a node"):
            control.register(public, "again")


def test_a_revocation_by_another_process_reaches_the_superlink(up: Running, make_key: Keys) -> None:
    _, public = make_key("revoked")
    number, _ = up.enrol(public)
    up.federation.book().revoke(number, "test")
    with up.control() as control:
        wait_for(lambda: public not in control.nodes(), "the key is removed")


def test_the_gate_shows_none_of_flowers_own_interfaces(up: Running) -> None:
    closed = ("/v1/control/list-runs", "/v1/control/start-run", "/v1/runtime/acquire-task", "/openapi.json", "/health")
    with up.client() as client:
        assert [client.post(path, content=b"").status_code for path in closed] == [404] * len(closed)
        unsigned = client.post("/v1/fleet/pull-messages", headers={"content-type": PROTOBUF_MEDIA_TYPE})
        assert unsigned.status_code == 401


def test_a_second_process_does_not_serve_the_same_folder(up: Running) -> None:
    other = Supervisor(up.federation, UpSettings(host="127.0.0.1", port=0), say=up.said.append)
    with pytest.raises(DeploymentError, match="another process serves"):
        other.run(threading.Event())


def test_a_run_with_an_unknown_setting_or_number_is_refused(up: Running) -> None:
    with up.control() as control:
        with pytest.raises(DeploymentError, match="start a run"):
            control.start_run(up.federation.bundle.read_bytes(), {"no-such-setting": 1})
        with pytest.raises(DeploymentError, match="run 12345"):
            control.run(12345)
        assert control.unfinished_runs() == []


def test_a_run_without_devices_fails_and_says_so(up: Running) -> None:
    config: dict[str, str | int | float] = {"federation": str(up.federation.folder), "rounds": 1, "stage-seconds": 1.0}
    with up.control() as control:
        number = control.start_run(up.federation.bundle.read_bytes(), config)
        assert [each.number for each in control.unfinished_runs()] == [number]
        wait_for(lambda: control.run(number).finished, "the run ends", 90)
        state = control.run(number)
    assert (state.outcome, "none of 1 rounds" in state.details) == ("failed", True), state


def test_a_killed_superlink_is_started_again_and_knows_its_members(up: Running, make_key: Keys) -> None:
    _, public = make_key("survivor")
    up.enrol(public)
    before = int((up.federation.flower / "superlink.pid").read_text())
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: any("answers again" in line for line in up.said), "the SuperLink comes back")
    assert int((up.federation.flower / "superlink.pid").read_text()) != before
    with up.control() as control:
        wait_for(lambda: public in control.nodes(), "the member is known")
    assert json.loads(up.federation.running.read_text())["gate"] == up.port


def test_a_port_in_use_is_named(up: Running, tmp_path: Path) -> None:
    other = Federation.create(tmp_path / "other", terms=up.federation.terms, address=f"localhost:{up.port}")
    link = SuperLink(other, up.federation.where()["superlink"])
    link.start()
    try:
        with pytest.raises(DeploymentError, match=r"superlink\.log"):
            link.wait(PATIENCE)
    finally:
        link.stop()


def test_a_superlink_that_an_earlier_process_left_behind_is_ended_first(up: Running, tmp_path: Path) -> None:
    other = Federation.create(tmp_path / "other", terms=up.federation.terms, address="localhost:1")
    first = SuperLink(other)
    first.start()
    orphan = int((other.flower / "superlink.pid").read_text())
    second = SuperLink(other)
    second.start()
    try:
        wait_for(lambda: not first.alive, "the orphan ends")
        assert second.alive
        assert int((other.flower / "superlink.pid").read_text()) != orphan
    finally:
        second.stop()
        first.stop()


def test_nobody_answers_for_a_control_interface_that_is_away(up: Running) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        with Control(address, up.federation.tls_authority.read_text()) as control:
            assert not control.healthy()
            with pytest.raises(DeploymentError, match="is the federation up"):
                control.nodes()
