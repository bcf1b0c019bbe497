"""The SuperLink of a federation: Flower's server as a process on this machine, and its control interface.

In Flower's open-source build whoever reaches the control interface may submit code. So the SuperLink listens on the
loopback interface only, with TLS, and devices reach it through the gate. Accounts of other people on this machine can
still reach it: run a federation on a machine of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import DeploymentError
from common.files import write_privately

if TYPE_CHECKING:
    from server.enrolment_book import Member
    from server.federation import Federation

HOST = "127.0.0.1"
START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_LARGEST_LOG = 16 * 2**20
_SETTINGS = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, kw_only=True)
class Node:
    """A registered node key.

    Attributes:
        number: Flower's number of the node.
        key: its public key, OpenSSH text.
        online: whether it is connected.
    """

    number: int
    key: str
    online: bool


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Where a Flower run stands.

    Attributes:
        number: Flower's number of the run.
        status: ``pending``, ``starting``, ``running`` or ``finished``.
        outcome: ``completed``, ``failed`` or ``stopped``; empty while it runs.
        details: what Flower says about it.
    """

    number: int
    status: str
    outcome: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether it is over."""
        return self.status == "finished"


class SuperLink:
    """A ``flower-superlink`` process of one federation."""

    def __init__(self, federation: Federation, port: int | None = None) -> None:
        """Nothing is started yet; the port is the same for every start.

        Args:
            federation: its folder gives keys, database and log.
            port: on the loopback interface; None for one that is free now.
        """
        self._federation, self.port = federation, free_port() if port is None else port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port`` on this machine."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What it prints."""
        return self._federation.flower / "superlink.log"

    def start(self) -> None:
        """Start the process; one that an earlier ``up`` left behind is ended first.

        Raises:
            DeploymentError: the program is missing.
        """
        flower = self._federation.flower
        flower.mkdir(mode=0o700, exist_ok=True)
        self._end_orphan()
        write_privately(flower / "config.toml", self._connection().encode())
        if self.log.exists() and self.log.stat().st_size > _LARGEST_LOG:
            self.log.replace(self.log.with_suffix(".log.1"))
        try:
            with self.log.open("ab") as log:
                # a session of its own: Ctrl-C in the terminal is for us, who then stop it in order
                self._process = subprocess.Popen(
                    self._command(),
                    cwd=flower,
                    env=environment(flower),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise DeploymentError(f"flower-superlink cannot be started: {error}; install plgl again") from error
        write_privately(self._pid_file, str(self._process.pid).encode())

    def wait(self, seconds: float = START_SECONDS) -> None:
        """Wait until it answers.

        Raises:
            DeploymentError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + seconds
        with self.control() as control:
            while not control.healthy():
                if not self.alive:
                    raise DeploymentError(f"the SuperLink ended at once; see {self.log}")
                if time.monotonic() > deadline:
                    raise DeploymentError(f"the SuperLink does not answer after {seconds:g} s; see {self.log}")
                time.sleep(0.2)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it and what it started; again does nothing."""
        if self._process is not None:
            _end_group(self._process.pid, lambda: self._process is None or self._process.poll() is not None)
            self._process.wait()
            self._process = None
            self._pid_file.unlink(missing_ok=True)

    def control(self) -> Control:
        """Its control interface."""
        return Control(self.address, self._federation.tls_authority.read_text("ascii"))

    @property
    def _pid_file(self) -> Path:
        return self._federation.flower / "superlink.pid"

    def _command(self) -> list[str]:
        keys = self._federation
        return [
            *(str(program("flower-superlink")), "--host", HOST, "--port", str(self.port)),
            *("--ssl-ca-certfile", str(keys.tls_authority), "--ssl-certfile", str(keys.certificate)),
            *("--ssl-keyfile", str(keys.server_key), "--enable-supernode-auth"),
            *("--database", str(keys.flower / "state.db"), "--disable-runtime-dependency-installation"),
        ]

    def _connection(self) -> str:
        """For the operator's own use of Flower's command line with this ``FLWR_HOME``."""
        lines = ["[superlink]", 'default = "plgl"', "", "[superlink.plgl]", f'address = "{self.address}"']
        root = str(self._federation.tls_authority).replace("\\", "\\\\").replace('"', '\\"')
        return "\n".join([*lines, f'root-certificates = "{root}"', ""])

    def _end_orphan(self) -> None:
        """End the SuperLink of an ``up`` that was killed: two processes on one database would damage it."""
        try:
            number = int(self._pid_file.read_text("ascii"))
        except (OSError, ValueError):
            return
        if str(self._federation.flower / "state.db") in _command_of(number):
            _end_group(number, lambda: not _command_of(number))
        self._pid_file.unlink(missing_ok=True)


class Control:
    """The control interface of a SuperLink, as a context manager.

    Uses Flower's own client, which is private to it: that is why the version is pinned.
    """

    def __init__(self, address: str, tls_authority: str) -> None:
        """Nothing is sent yet.

        Args:
            address: ``host:port``.
            tls_authority: the federation's certificate authority, PEM.
        """
        from flwr.supercore.control import ControlHttpClient

        self._address = address
        verify = tls_context(tls_authority)
        self._health = httpx.Client(base_url=f"https://{address}", verify=verify, timeout=5.0, trust_env=False)
        self._client = ControlHttpClient(f"https://{address}", verify=verify)
        self._client._client.close()  # it would ask the environment for proxies, on the way to our own machine
        self._client._client = httpx.Client(verify=verify, timeout=20.0, trust_env=False)

    def healthy(self) -> bool:
        """Whether it answers."""
        try:
            return self._health.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    def nodes(self) -> dict[str, Node]:
        """The registered nodes by public key, OpenSSH text.

        Raises:
            DeploymentError: the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import ListNodesRequest

        with self._asking("list nodes"):
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        here = [each for each in found if each.status != "unregistered"]  # those stay in its list
        nodes = [Node(number=n.node_id, key=_openssh(n.public_key), online=n.status == "online") for n in here]
        return {node.key: node for node in nodes}

    def register(self, key: str, name: str) -> None:
        """Let a node in; one that is in already stays so, one that was removed stays out.

        Args:
            key: its public key, OpenSSH text.
            name: shown in Flower's lists.

        Raises:
            DeploymentError: the SuperLink does not answer, or the key was used and removed before.
        """
        from flwr.proto.control_pb2 import RegisterNodeRequest

        try:
            with self._asking("register a node"):
                self._client.RegisterNode(RegisterNodeRequest(public_key=_flower_key(key), name=name))
        except DeploymentError:
            if key not in self.nodes():
                raise

    def unregister(self, key: str) -> None:
        """Let a node in no more; one that is not in stays so.

        Raises:
            DeploymentError: the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        node = self.nodes().get(key)
        if node is not None:
            with self._asking("unregister a node"):
                self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.number))

    def reconcile(self, active: Callable[[], list[Member]]) -> list[str]:
        """Make the registered nodes those of the active members, no more and no fewer; says what was done.

        Raises:
            DeploymentError: the SuperLink does not answer.
        """
        have = self.nodes()  # first: who enrols between the two is let in twice, not thrown out
        wanted = {member.node_key: member for member in active()}
        for key in wanted.keys() - have.keys():
            self.register(key, f"member-{wanted[key].number}")
        for key in have.keys() - wanted.keys():
            self.unregister(key)
        done = [f"let member {wanted[key].number} in" for key in wanted.keys() - have.keys()]
        return sorted(done) + [f"removed node {have[key].number}" for key in have.keys() - wanted.keys()]

    def start_run(self, bundle: bytes, config: Mapping[str, str | int | float]) -> int:
        """Submit an app bundle.

        Args:
            bundle: its bytes.
            config: run settings, each of which the bundle declares.

        Returns:
            Flower's number of the run.

        Raises:
            DeploymentError: the SuperLink does not answer or refuses.
        """
        from flwr.common.serde import fab_to_proto, user_config_to_proto
        from flwr.proto.control_pb2 import StartRunRequest
        from flwr.supercore.fab import Fab

        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)))
        with self._asking("start a run"):
            answer = self._client.StartRun(request)
        if not answer.HasField("run_id"):
            raise DeploymentError("the SuperLink did not start the run; see flower/superlink.log")
        return int(answer.run_id)

    def run(self, number: int) -> RunState:
        """Where a run stands.

        Raises:
            DeploymentError: the SuperLink does not answer, or knows no such run.
        """
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._asking(f"say how run {number} goes"):
            answer = self._client.ListRuns(ListRunsRequest(run_id=number))
        return _state(answer.run_dict[number])

    def unfinished_runs(self) -> list[RunState]:
        """The runs that are not over, among the newest 20.

        Raises:
            DeploymentError: the SuperLink does not answer.
        """
        from flwr.proto.control_pb2 import ListRunsRequest

        with self._asking("list runs"):
            answer = self._client.ListRuns(ListRunsRequest())
        return [state for each in answer.run_dict.values() if not (state := _state(each)).finished]

    def stop_run(self, number: int) -> None:
        """End a run; its rounds stay as they are in the journal.

        Raises:
            DeploymentError: the SuperLink does not answer or refuses.
        """
        from flwr.proto.control_pb2 import StopRunRequest

        with self._asking(f"stop run {number}"):
            self._client.StopRun(StopRunRequest(run_id=number))

    def close(self) -> None:
        """Let go of the connections."""
        self._health.close()
        self._client.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as error:
            text = "".join(c if c.isprintable() else " " for c in error.response.text[:300])
            raise DeploymentError(f"the SuperLink refuses to {what} ({error.response.status_code}): {text}") from error
        except (httpx.HTTPError, ValueError) as error:
            raise DeploymentError(
                f"the SuperLink at {self._address} cannot {what} ({type(error).__name__}); is the federation up?"
            ) from error


def tls_context(tls_authority: str) -> ssl.SSLContext:
    """TLS 1.2 or newer that trusts the federation's authority and no other; PEM in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=tls_authority)
    return context


def environment(flower_home: Path) -> dict[str, str]:
    """Environment for Flower's programs: those of this installation first, nothing reported to anybody."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    direct = ",".join(each for each in (os.environ.get("NO_PROXY"), HOST) if each)
    return {**os.environ, **_SETTINGS, "PATH": path, "FLWR_HOME": str(flower_home), "NO_PROXY": direct}


def program(name: str) -> Path:
    """A program of this installation.

    Raises:
        DeploymentError: it is missing.
    """
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise DeploymentError(f"{path} is missing; install plgl again")
    return path


def free_port() -> int:
    """A port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _end_group(number: int, ended: Callable[[], bool]) -> None:
    for kind, seconds in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, _STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(number, kind)
        deadline = time.monotonic() + seconds
        while not ended() and time.monotonic() < deadline:
            time.sleep(0.05)
        if ended():
            break
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(number, signal.SIGKILL)  # what it started and did not take along


def _command_of(number: int) -> str:
    """Command line of a process; empty if there is none."""
    columns = ["-o", "stat=", "-o", "command="]
    asked = subprocess.run(["ps", "-ww", *columns, "-p", str(number)], capture_output=True, check=False)
    state, _, command = asked.stdout.decode(errors="replace").strip().partition(" ")
    return "" if state.startswith("Z") else command  # Z: it has ended, its parent has not looked yet


def _state(run: Any) -> RunState:
    status = run.status
    return RunState(number=run.run_id, status=status.status, outcome=status.sub_status, details=status.details[:300])


def _flower_key(openssh: str) -> bytes:
    """A public key as Flower stores it."""
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes

    key = serialization.load_ssh_public_key(openssh.encode())
    assert isinstance(key, ec.EllipticCurvePublicKey)  # the enrolment book holds no others
    return public_key_to_bytes(key)


def _openssh(stored: bytes) -> str:
    from flwr.supercore.primitives.asymmetric import bytes_to_public_key

    key = bytes_to_public_key(stored)
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
