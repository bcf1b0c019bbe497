"""Publishing everybody's policy: a folder that was made of the federation's own release, signed for its members."""

from __future__ import annotations

import time
from pathlib import Path

from common.errors import ReleaseError
from common.files import write_atomically
from common.policy_release import PolicyRelease
from common.population_policy import PopulationPolicy
from common.release import digest
from server.coordinator import LIFETIME_SECONDS
from server.federation import Federation

_NAME = "policy-{:06d}.json"


def publish_policy(federation: Federation, folder: Path, now: float | None = None) -> tuple[Path, str]:
    """Sign a population policy and put it among the releases, as the next version.

    Args:
        federation: whose release the policy was made of.
        folder: of a `PopulationPolicy`.
        now: seconds since 1970; the clock of this machine without it.

    Returns:
        The file and its SHA-256.

    Raises:
        PriorError: the folder holds no policy for the federation's generator.
        ReleaseError: it claims another privacy than the federation promises, or was not made of a release.
        FolderError, StorageError: the key cannot be read, or the disk refuses.
    """
    policy = PopulationPolicy.load(folder, pack=federation.terms.pack)
    there = [int(path.stem[7:]) for path in federation.releases.glob("policy-*.json")]
    version, created = 1 + max(there, default=0), int(time.time() if now is None else now)
    if not any(federation.releases.glob("release-*.json")):
        raise ReleaseError("no round gave a release yet, so no policy can be made of one; run: plgl federation run")
    content = PolicyRelease(
        terms=federation.terms,
        version=version,
        policy=policy,
        created=created,
        expires=created + LIFETIME_SECONDS,
    ).to_bytes(federation.key("release"))
    path = federation.releases / _NAME.format(version)
    write_atomically(path, content)
    return path, digest(content)
