"""What a device says to the gate of its federation, beside the rounds: enrol, leave, fetch releases.

Every connection is TLS to the one certificate authority of the invitation. The authorities of the system are not asked,
so nobody who can obtain a certificate elsewhere can stand in between.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from common.enrolment import MemberCertificate
from common.errors import DeploymentError, EnrolmentError
from common.invite import Invite
from common.signing import LARGEST_DOCUMENT, SigningKey, canonical

LARGEST_ANSWER = 64 * 1024
"""Bytes of an answer that is no release."""
FAST_SECONDS, SLOW_SECONDS = 5.0, 300.0
"""How far this clock may be ahead of the server's, and behind it; Flower refuses a device outside of this."""
_VERIFICATION = {  # OpenSSL's X509_V_ERR numbers
    9: "is not valid yet; compare this clock with the real time, or tell the operator",
    10: "has expired; compare this clock with the real time, or tell the operator",
    62: "is for another name; ask the operator for a new invitation",
    64: "is for another address; ask the operator for a new invitation",
}
_FOREIGN = "does not come from the authority of the invitation: somebody may stand in between; nothing was sent"


def tls_context(authority: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, with the host's name checked, that trusts one authority and no other.

    Args:
        authority: its certificate as PEM.

    Raises:
        EnrolmentError: that is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise EnrolmentError("the invitation holds no certificate authority; ask for a new one") from error
    return context


class Gate:
    """The gate of one federation, as a context manager."""

    def __init__(self, invite: Invite, *, clock: Callable[[], float] = time.time, timeout_seconds: float = 20.0):
        """Nothing is sent yet.

        Raises:
            EnrolmentError: the invitation holds no certificate authority.
        """
        self._federation, self.address, self._clock = invite.terms.federation, invite.address, clock
        self._client = httpx.Client(
            base_url=f"https://{invite.address}", verify=tls_context(invite.tls_authority), timeout=timeout_seconds
        )

    def greet(self) -> None:
        """Look whether the gate answers and both clocks agree; says nothing about the person.

        Raises:
            DeploymentError: it does not answer.
            EnrolmentError: its certificate is foreign or expired, or this clock is wrong.
        """
        status, headers, _ = self._send("GET", "/healthz")
        if status != 200:
            raise DeploymentError(f"the gate at {self.address} answered with status {status}; try again later")
        self._compare_clocks(headers.get("date", ""))

    def enrol(self, token: str, key: SigningKey, node_key: str) -> MemberCertificate:
        """Exchange a token for a certificate. The same token with the same keys gives the same one again.

        Args:
            token: of the invitation.
            key: the member's enrolment key; only its public half and a signature leave.
            node_key: public key of the connection, OpenSSH text.

        Raises:
            EnrolmentError: the gate refuses; its reason is in the message.
            DeploymentError: it does not answer.
        """
        proof = key.sign("enrolment request", canonical([self._federation, token, node_key]))
        body = {"token": token, "key": key.public.hex(), "node_key": node_key, "proof": proof.hex()}
        return MemberCertificate.from_json(self._post("/plgl/enrol", body, "enrol").get("certificate"))

    def leave(self, member: int, key: SigningKey) -> None:
        """End a membership.

        Raises:
            EnrolmentError: the gate refuses.
            DeploymentError: it does not answer.
        """
        now = int(self._clock())
        proof = key.sign("leave", canonical([self._federation, member, now]))
        self._post("/plgl/leave", {"member": member, "time": now, "proof": proof.hex()}, "leave")

    def latest_release(self) -> bytes | None:
        """The newest release, not checked; None where there is none yet.

        Raises:
            DeploymentError: it cannot be had now.
            EnrolmentError: the gate's certificate is foreign or expired.
        """
        return self._latest("release")

    def latest_policy(self) -> bytes | None:
        """The newest published policy of everybody, not checked; None where there is none yet.

        Raises:
            DeploymentError, EnrolmentError: as `latest_release`.
        """
        return self._latest("policy")

    def _latest(self, kind: str) -> bytes | None:
        status, _, body = self._send("GET", f"/plgl/{kind}/latest", limit=LARGEST_DOCUMENT)
        if status == 404:
            return None
        if status != 200:
            raise DeploymentError(f"the gate at {self.address} answered with status {status}; try again later")
        return body

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, path: str, body: dict[str, Any], what: str) -> dict[str, Any]:
        status, headers, raw = self._send("POST", path, body=body)
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        if status == 429:
            wait = _printable(headers.get("retry-after", "some"))
            raise DeploymentError(f"the gate at {self.address} is busy; try again in {wait} seconds")
        if status >= 500 or not isinstance(answer, dict):
            raise DeploymentError(f"the gate at {self.address} answered with status {status}; try again later")
        if status != 200:
            reason = _printable(answer.get("error-message", f"status {status}"))
            raise EnrolmentError(f"the gate refuses to {what}: {reason}")
        return answer

    def _send(
        self, method: str, path: str, *, body: dict[str, Any] | None = None, limit: int = LARGEST_ANSWER
    ) -> tuple[int, httpx.Headers, bytes]:
        try:
            with self._client.stream(method, path, json=body) as response:
                return response.status_code, response.headers, b"".join(self._limited(response, limit))
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _limited(self, response: httpx.Response, limit: int) -> Iterator[bytes]:
        total = 0
        for chunk in response.iter_bytes():
            total += len(chunk)
            if total > limit:
                raise DeploymentError(f"the gate at {self.address} answers with more than {limit} bytes; try later")
            yield chunk

    def _unreachable(self, error: BaseException) -> Exception:
        reason = certificate_problem(error)
        if reason is not None:
            return EnrolmentError(f"the certificate of {self.address} {reason}")
        return DeploymentError(
            f"the gate at {self.address} does not answer ({type(error).__name__}); "
            "look whether this machine is online, and try again later"
        )

    def _compare_clocks(self, date: str) -> None:
        try:
            theirs = parsedate_to_datetime(date)
        except (ValueError, TypeError):
            return  # nothing to compare with
        ahead = self._clock() - theirs.replace(tzinfo=theirs.tzinfo or UTC).timestamp()
        # the header has whole seconds and is a little old when it arrives
        if ahead > FAST_SECONDS + 1 or ahead < -SLOW_SECONDS:
            shown = datetime.fromtimestamp(theirs.timestamp(), UTC).strftime("%Y-%m-%d %H:%M:%S")
            raise EnrolmentError(
                f"this clock is {abs(ahead):.0f} seconds {'fast' if ahead > 0 else 'slow'}: the gate's shows "
                f"{shown} UTC; set the clock and try again"
            )


def certificate_problem(error: BaseException | None) -> str | None:
    """What is wrong with the other side's certificate, where that is why a connection failed; None otherwise."""
    seen = 0
    while error is not None and seen < 16:
        if isinstance(error, ssl.SSLCertVerificationError):
            return _VERIFICATION.get(error.verify_code, _FOREIGN)
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def _printable(text: object) -> str:
    """What a server says, fit to be shown: a terminal obeys control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text)[:300])
