"""The edge process against a real SuperLink: TLS, node keys, an allowed bundle, a foreign one, kill -9."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.clientapp import ClientApp
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest, StartRunRequest, UnregisterNodeRequest
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient

from client.agent import Agent, Pace
from client.agent_status import STATUS, Status, running
from client.gate import tls_context
from client.joining import join
from client.membership import Membership
from common.errors import DeploymentError, EnrolmentError

QUICK = Pace(idle=0.3, busy=0.1, first_pause=0.2, longest_pause=1.0, lapse=0.5, heartbeat=10.0, releases=3600.0)
ROOT = Path(__file__).parents[2]

# What a node gets when Flower itself runs the bundle: the canary says that it was executed.
CLIENT = """
from pathlib import Path
Path({canary!r}).write_text("executed")
from flwr.clientapp import ClientApp
app = ClientApp()
"""
SERVER = """
import json
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp
app = ServerApp()
@app.main()
def main(grid, context):
    said = []
    for action in context.run_config["actions"].split():
        content = RecordDict({{"asked": ConfigRecord({{"action": action, "bytes": b"x" * 100_000}})}})
        messages = [Message(content, node, "query.echo", ttl=60.0) for node in grid.get_node_ids()]
        for reply in grid.send_and_receive(messages, timeout=30.0):
            error = [reply.error.code, reply.error.reason] if reply.has_error() else None
            said.append(error or dict(reply.content["said"]))
    Path({out!r}).with_suffix(".part").write_text(json.dumps(said))
    Path({out!r}).with_suffix(".part").rename({out!r})
"""
PROJECT = """
[project]
name = "echo"
version = "1.0.0"
description = "asks its nodes"
license = "Apache-2.0"
[tool.flwr.app]
publisher = "test"
fab-include = ["echo/*.py"]
[tool.flwr.app.components]
serverapp = "echo.server_app:app"
clientapp = "echo.client_app:app"
[tool.flwr.app.config]
actions = "{actions}"
"""
DEVICE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests_echo import echo, QUICK
from client.agent import Agent, run_until_stopped
from client.membership import Membership
run_until_stopped(Agent(Membership.open(Path(sys.argv[1])), passphrase="x", app=echo(), pace=QUICK, say=print))
"""


def echo() -> ClientApp:
    """Answers with how often this run has asked, out of the state of the run; `break` breaks it."""
    made = ClientApp()

    @made.query("echo")
    def _(message: Message, context: Context) -> Message:
        action = _record(message.content, "asked")["action"]
        if action == "break":
            raise RuntimeError("a rating that must not leave")
        context.state.setdefault("count", ConfigRecord({"n": 0}))
        count = _record(context.state, "count")
        count["n"] = int(str(count["n"])) + 1
        said = ConfigRecord({"n": count["n"], "action": action, "pid": os.getpid()})
        return Message(RecordDict({"said": said}), reply_to=message)

    return made


def _record(records: RecordDict, name: str) -> ConfigRecord:
    found = records[name]
    assert isinstance(found, ConfigRecord)
    return found


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> Any:
    """Ask until the answer is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"nothing after {seconds} seconds")


class SuperLink:
    """A SuperLink of its own, with TLS and node keys."""

    def __init__(self, folder: Path, certificates: Path) -> None:
        self.folder, self.certificates = folder, certificates
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.control = ControlHttpClient(
            f"https://{self.address}", verify=tls_context((certificates / "ca.crt").read_text())
        )
        self.start()

    def start(self) -> None:
        scripts = Path(sys.executable).parent
        command = [
            *(str(scripts / "flower-superlink"), "--host", "127.0.0.1", "--port", str(self.port)),
            *("--ssl-ca-certfile", str(self.certificates / "ca.crt")),
            *("--ssl-certfile", str(self.certificates / "server.crt")),
            *("--ssl-keyfile", str(self.certificates / "server.key")),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
            *("--database", str(self.folder / "state.db")),
        ]
        environment = {
            **os.environ,
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.folder),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        with (self.folder / "out.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "out.log").read_text()
        try:
            self.control.ListNodes(ListNodesRequest())
        except Exception:
            return False
        return True

    def register(self, membership: Membership) -> int:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = membership.node_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return int(self.control.RegisterNode(RegisterNodeRequest(public_key=public, name="device")).node_id)

    def status(self, node: int) -> str:
        nodes = self.control.ListNodes(ListNodesRequest()).nodes_info
        return next((each.status for each in nodes if each.node_id == node), "")

    def ask(self, name: str, actions: str) -> tuple[str, Path, Path]:
        """Start a run: the hash of its bundle, the file with what was answered, the file its client code writes."""
        canary, out = self.folder / f"{name}.canary", self.folder / f"{name}.json"
        files: dict[str, bytes | Path] = {
            "pyproject.toml": PROJECT.format(actions=actions).encode(),
            "echo/__init__.py": b"",
            "echo/client_app.py": CLIENT.format(canary=str(canary)).encode(),
            "echo/server_app.py": SERVER.format(out=str(out)).encode(),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Flower's own, of a library's old name
            content, _ = build_fab_from_files(files)
        self.fab = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        return self.fab.hash_str, out, canary

    def run(self) -> None:
        """Start the run that was last put together."""
        assert self.control.StartRun(StartRunRequest(fab=self.fab)).HasField("run_id")

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its children too
        self.process.wait(10)


@pytest.fixture
def superlink(operator: Any, tmp_path: Path) -> Iterator[SuperLink]:
    folder = tmp_path / "superlink"
    folder.mkdir()
    started = SuperLink(folder, operator.folder)
    yield started
    started.stop()
    started.control.close()


def enrolled(operator: Any, root: Path, superlink: SuperLink | None = None, *bundles: str) -> Membership:
    made = join(operator.invite(), root=root)
    if superlink is not None:
        invite = dataclasses.replace(made.invite, address=superlink.address, bundles=bundles or made.invite.bundles)
        made = dataclasses.replace(made, invite=invite)
        made.save()
    return made


class InThread:
    """An edge process that is only a thread."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.agent.run()
        except Exception as error:
            self.error = error

    def stop(self) -> None:
        self.agent.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


def test_an_edge_process_answers_its_federation_and_nobody_else(
    operator: Any, superlink: SuperLink, tmp_path: Path
) -> None:
    allowed, answers, canary = superlink.ask("allowed", "one break two")
    membership = enrolled(operator, tmp_path / "federations", superlink, allowed)
    node = superlink.register(membership)
    module = tmp_path / "tests_echo.py"
    shutil.copy(__file__, module)
    command = [sys.executable, "-c", DEVICE, str(membership.folder), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def status() -> Status:
        return Status.read(membership.folder) or Status()

    first = started()
    try:
        # the allowed bundle is answered by the code that is installed here, and a broken message is survived
        wait_for(lambda: status().connected)
        assert superlink.status(node) == "online"
        assert running(membership.folder)
        superlink.run()
        said = json.loads(wait_for(answers.exists) and answers.read_text())
        assert [each["n"] for each in (said[0], said[2])] == [1, 2]
        assert {said[0]["pid"], said[2]["pid"]} == {first.pid}
        assert said[1] == [2, "refused"]
        # a foreign bundle is refused, and not a line of it runs
        _, answers, foreign = superlink.ask("foreign", "three")
        superlink.run()
        said = json.loads(wait_for(answers.exists) and answers.read_text())
        assert said == [[7, "bundle not allowed on this device"]]
        assert not canary.exists()
        assert not foreign.exists()
        assert "which is not in the invitation" in wait_for(lambda: status().last_refusal)
        assert status().refused == 2
        # killed, it counts as online for a while; started again, it waits for that and is back under its number
        first.kill()
        first.wait(10)
        second = started()
        try:
            wait_for(lambda: status().pid == second.pid and "counts as online" in status().trouble)
            assert second.poll() is None
            wait_for(lambda: status().connected)
            assert superlink.status(node) == "online"
            # asked to stop, the server knows at once
            second.send_signal(signal.SIGTERM)
            printed = second.communicate(timeout=20)[0]
            assert second.returncode == 0, printed
            assert superlink.status(node) == "offline"
            assert not status().connected
            assert not running(membership.folder)
            assert "connected to" in printed
            assert "Traceback" not in printed
        finally:
            second.kill()
    finally:
        first.kill()
        first.communicate()
    # nothing of a run is on disk but what happened
    assert set(json.loads((membership.folder / STATUS).read_bytes())) == {
        field.name for field in dataclasses.fields(Status)
    }


def test_neither_a_revoked_key_nor_a_lost_server_ends_an_edge_process_but_leaving_does(
    operator: Any, superlink: SuperLink, tmp_path: Path
) -> None:
    membership = enrolled(operator, tmp_path / "federations", superlink)
    node = superlink.register(membership)
    agent = InThread(Agent(membership, passphrase="x", app=echo(), pace=QUICK))

    def status() -> Status:
        return Status.read(membership.folder) or Status()

    try:
        wait_for(lambda: status().connected)
        superlink.control.UnregisterNode(UnregisterNodeRequest(node_id=node))
        wait_for(lambda: "the operator ended" in status().trouble)
        superlink.stop()
        wait_for(lambda: "does not answer" in status().trouble)
        assert agent.thread.is_alive()
        membership.leave()
        agent.thread.join(20)
        assert isinstance(agent.error, EnrolmentError)
        assert "was ended" in str(agent.error)
    finally:
        agent.stop()


def test_a_foreign_server_hears_nothing_from_an_edge_process(
    operator: Any, tmp_path: Path, make_certificates: Any
) -> None:
    membership = enrolled(operator, tmp_path / "federations")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    make_certificates(elsewhere)
    invite = dataclasses.replace(membership.invite, tls_authority=(elsewhere / "ca.crt").read_text())
    before = len(operator.asked)
    agent = InThread(Agent(dataclasses.replace(membership, invite=invite), passphrase="x", app=echo(), pace=QUICK))
    try:
        trouble = wait_for(lambda: (Status.read(membership.folder) or Status()).trouble)
        assert "authority of the invitation" in trouble
        assert len(operator.asked) == before
    finally:
        agent.stop()
    assert agent.error is None


def test_a_membership_has_one_edge_process(operator: Any, tmp_path: Path) -> None:
    membership = enrolled(operator, tmp_path / "federations")
    agent = InThread(Agent(membership, passphrase="x", app=echo(), pace=QUICK))
    try:
        wait_for(lambda: (Status.read(membership.folder) or Status()).trouble)  # this gate is no SuperLink
        with pytest.raises(DeploymentError, match="runs already; stop it first"):
            Agent(membership, passphrase="x", app=echo()).run()
    finally:
        agent.stop()
    assert (Status.read(membership.folder) or Status()).pid == 0


def test_the_state_of_a_run_stays_in_memory_and_of_few_runs(operator: Any, tmp_path: Path) -> None:
    agent = Agent(enrolled(operator, tmp_path / "federations"), passphrase="x", app=echo())
    contexts = [agent._context(run, 1) for run in range(9)]
    assert agent._context(8, 1) is contexts[8]
    assert agent._context(0, 1) is not contexts[0]


def test_what_breaks_an_app_is_not_told(operator: Any, tmp_path: Path) -> None:
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
    agent = Agent(enrolled(operator, tmp_path / "federations"), passphrase="x", app=echo())
    content = RecordDict({"asked": ConfigRecord({"action": "break"})})
    for kind in ("query.echo", "train.nothing"):
        reply = agent._handled(Message(content, 1, kind), agent._context(1, 1))
        assert reply.error == Error(2, "refused")


def test_a_status_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert Status.read(tmp_path) is None
    for content in (b"", b"[]", b'{"other": 1}'):
        (tmp_path / STATUS).write_bytes(content)
        assert Status.read(tmp_path) is None
