"""A node's connection to a Flower SuperLink: activate, heartbeats, pull a message, push a reply.

Flower's own ``http_request_response`` ends the whole process when a connection fails and interrupts it when a key is
refused; an edge process has to survive both, so this speaks to the fleet routes with Flower's client and nothing above
it. Private interface of flwr 1.41; `tests/client/test_agent.py` runs it against a real SuperLink.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.run import Run
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient

from client.gate import certificate_problem
from common.errors import DeploymentError

MOST_OBJECTS = 1_000
"""Parts of a message that are pulled; a round's request has a handful."""
LARGEST_PART = 64 * 2**20
"""Bytes of one answer of the server that are read."""
_PULL_SECONDS = 120.0
_NOT_ACTIVATED = 2004  # Flower's code: unknown key, or the node counts as online still
_TRIES = 3
_LATER = {429, 502, 503, 504}
_T = TypeVar("_T")


class Trouble(StrEnum):
    """Why there is no connection."""

    UNREACHABLE = "unreachable"
    CERTIFICATE = "foreign or expired certificate"
    NOT_ACTIVATED = "not activated"
    REFUSED = "key refused"
    ANSWER = "unusable answer"


class FleetError(DeploymentError):
    """There is no connection to the SuperLink, or not any more; ``trouble`` says why."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


class RunOver(DeploymentError):
    """The run of a message has ended; nobody waits for an answer."""


class Fleet:
    """One node that is online while the context lasts.

    Guarantee: no failure of the other side ends or interrupts this process. Whatever goes wrong is a `FleetError`, and
    leaving the context tells the SuperLink that the node is offline where it can be told.

    Attributes:
        node_id: Flower's number of this node.
    """

    def __init__(
        self,
        address: str,
        tls: ssl.SSLContext,
        key: Any,
        *,
        heartbeat_seconds: float = 30.0,
        timeout_seconds: float = 30.0,
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: ``host:port``.
            tls: whom to trust.
            key: EC P-384 private key of the node.
            heartbeat_seconds: the server hears of this node at least that often; after two of them without a word it
                counts as offline.
            timeout_seconds: of one request.
        """
        self._address, self._interval = address, heartbeat_seconds
        self._public = public_key_to_bytes(key.public_key())
        guard = _Guard(key, self._public)
        self._client = FleetHttpClient(f"https://{address}", interceptors=[guard], verify=tls, timeout=timeout_seconds)
        guard.client = self._client._client
        self._lost, self._closed = threading.Event(), threading.Event()
        self._heart = threading.Thread(target=self._beat, name="plgl-heartbeats", daemon=True)
        self._trees: dict[str, ObjectTree] = {}
        self.node_id = 0

    def __enter__(self) -> Self:
        request = ActivateNodeRequest(public_key=self._public, heartbeat_interval=self._interval)
        try:
            self.node_id = self._ask(lambda: self._client.ActivateNode(request)).node_id
        except BaseException:
            self._close()
            raise
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._heart.join(2)  # it may be waiting for an answer
        with suppress(Exception):
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
        self._close()

    def receive(self) -> Message | None:
        """The head of the next message, without its content; None where there is none.

        Raises:
            FleetError: the connection is lost.
        """
        if self._lost.is_set():
            raise FleetError(Trouble.REFUSED, "the server does not take this node's heartbeats any more")
        found = self._ask(lambda: self._client.PullMessages(PullMessagesRequest(node=self._node)))
        if not found.messages_list:
            return None
        tree = found.message_object_trees[0]
        head = self._read(lambda: message_from_proto(found.messages_list[0]))
        head.metadata.__dict__["_message_id"] = tree.object_id
        self._trees = {tree.object_id: tree}
        return head

    def run(self, run_id: int) -> Run:
        """What the server says about a run, the hash of its app bundle among it.

        Raises:
            FleetError: the connection is lost. RunOver: the run has ended.
        """
        answer = self._ask(lambda: self._client.GetRun(GetRunRequest(node=self._node, run_id=run_id)))
        return self._read(lambda: run_from_proto(answer.run))

    def content(self, head: Message) -> Message:
        """The whole of a message that was received last.

        Raises:
            FleetError: the connection is lost, or the message cannot be read. RunOver: the run has ended.
        """
        tree, run_id = self._trees[head.metadata.message_id], head.metadata.run_id
        if sum(1 for _ in iterate_object_tree(tree)) > MOST_OBJECTS:
            raise FleetError(Trouble.ANSWER, f"a message of more than {MOST_OBJECTS} parts")
        pull = make_pull_object_fn_protobuf(self._client.PullObject, self._node, run_id)
        confirm = make_confirm_message_received_fn_protobuf(self._client.ConfirmMessageReceived, self._node, run_id)
        whole = self._ask(
            lambda: pull_and_inflate_object_from_tree(tree, pull, confirm, return_type=Message, max_time=_PULL_SECONDS)
        )
        whole.metadata.__dict__["_message_id"] = tree.object_id
        return whole

    def reply(self, message: Message, seconds: float) -> None:
        """Send a reply.

        Args:
            message: the reply.
            seconds: what its making took, which Flower wants to know; rounded, because it could tell something.

        Raises:
            FleetError: the connection is lost. RunOver: the run has ended.
        """
        run_id = message.metadata.run_id
        message.metadata.__dict__["_message_id"] = message.object_id
        with no_object_id_recompute():
            head = remove_content_from_message(message) if message.has_content() else message
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(head)],
                message_object_trees=[get_object_tree(message)],
                clientapp_runtime_list=[float(round(seconds))],
            )
            answer = self._ask(lambda: self._client.PushMessages(request))
            push = make_push_object_fn_protobuf(self._client.PushObject, self._node, run_id, answer.session_id)
            for number, part in get_all_nested_objects(message).items():
                if number in set(answer.objects_to_push):
                    self._ask(lambda number=number, part=part: push(number, part.deflate()))  # type: ignore[misc]

    def identify(self, run_id: int) -> None:
        """Say whose message is being answered: Flower's ``Message`` reads it from the process."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, self.node_id

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node_id)

    def _ask(self, call: Callable[[], _T]) -> _T:
        """Ask, a few times where the network or the server is only slow."""
        for left in reversed(range(_TRIES)):
            try:
                return call()
            except httpx.TransportError as error:
                if not left or certificate_problem(error):
                    raise self._lost_by(error) from error
            except httpx.HTTPStatusError as error:
                if not left or error.response.status_code not in _LATER:
                    raise self._refused(error) from error
            except (FleetError, RunOver):
                raise
            except Exception as error:  # what a server answered could not be read: Flower raises many kinds
                raise FleetError(Trouble.ANSWER, f"{self._address} answered with {type(error).__name__}") from error
            time.sleep(0.5 * (_TRIES - left))
        raise AssertionError("the last try raises")

    def _read(self, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except Exception as error:
            raise FleetError(Trouble.ANSWER, f"{self._address} answered with {type(error).__name__}") from error

    def _lost_by(self, error: httpx.TransportError) -> FleetError:
        problem = certificate_problem(error)
        if problem is not None:
            return FleetError(Trouble.CERTIFICATE, f"the certificate of {self._address} {problem}")
        return FleetError(Trouble.UNREACHABLE, f"{self._address} does not answer ({type(error).__name__})")

    def _refused(self, error: httpx.HTTPStatusError) -> DeploymentError:
        status = error.response.status_code
        flower = FlowerError.from_json(error.response.text)
        if flower is not None and flower.code == _NOT_ACTIVATED:
            return FleetError(
                Trouble.NOT_ACTIVATED,
                f"{self._address} does not let this node in: it counts as online until its heartbeats lapse "
                "(a minute), another process uses the same membership, or the operator ended it",
            )
        if status == httpx.codes.UNAUTHORIZED:
            return FleetError(
                Trouble.REFUSED,
                f"{self._address} refuses this device's key: the operator ended the membership, or this clock is wrong",
            )
        if status == httpx.codes.FORBIDDEN:
            return RunOver("the run has ended")
        return FleetError(Trouble.UNREACHABLE, f"{self._address} answered with status {status}")

    def _beat(self) -> None:
        """Tell the server now and then that this node is there, until the connection is closed or it says no."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=self._interval)
        pause = 0.0
        while not self._closed.wait(pause) and not self._lost.is_set():
            pause = self._interval * random.uniform(0.5, 0.7)
            try:
                if not self._client.SendNodeHeartbeat(request).success:
                    self._lost.set()
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in _LATER:
                    self._lost.set()
                pause = min(pause, 5.0)
            except Exception:  # no connection: asked again soon
                pause = min(pause, 5.0)

    def _close(self) -> None:
        with suppress(Exception):
            self._client.close()


class _Guard:
    """Signs the time with the node's key, names Flower's version, and reads no more than a bounded answer."""

    client: httpx.Client

    def __init__(self, key: Any, public: bytes) -> None:
        self._key, self._public = key, b64encode(public).decode()
        self._version = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        moment = now().isoformat()
        signature = b64encode(sign_message(self._key, moment.encode("ascii"))).decode()
        signed = {
            FLEET_HTTP_PUBLIC_KEY_HEADER: self._public,
            TIMESTAMP_HEADER: moment,
            FLEET_HTTP_SIGNATURE_HEADER: signature,
        }
        add_headers(context.request, {**self._version, **signed})
        # not `call_next`, which would read whatever comes into memory
        response = self.client.send(context.request, stream=True)
        content = bytearray()
        try:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > LARGEST_PART:
                    raise FleetError(Trouble.ANSWER, f"an answer of more than {LARGEST_PART} bytes")
        finally:
            response.close()
        kept = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_BODY]
        return httpx.Response(response.status_code, headers=kept, content=bytes(content), request=response.request)


_OF_THE_BODY = {"content-encoding", "content-length", "transfer-encoding"}
