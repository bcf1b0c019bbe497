"""Everybody's policy on a device: out of a signed file, out of a folder, or made at home of a prior.

A published file is taken up only if it is signed with a key this person pinned when they joined, belongs to the terms
they agreed to, is fresh, and is not older than one that was seen before. A folder is what the person chose themselves,
as with ``plgl rate --prior``; nobody vouches for it, which is said.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from client.generators.pack import GeneratorPack
from client.ledger import Ledger
from client.membership import Membership, memberships
from client.policy.population import PopulationSettings, of_prior, publish
from client.policy.training import Tell
from common.errors import PriorError, ReleaseError, SignatureError, StorageError
from common.policy_release import PolicyRelease
from common.population_policy import PopulationPolicy
from common.prior import PopulationPrior
from common.release import check_fresh, check_terms, digest
from common.signing import LARGEST_DOCUMENT
from common.terms import Terms

_UNSIGNED = "nobody signed it, so what it claims is not checked"


def open_population(
    place: Path,
    pack: GeneratorPack,
    settings: PopulationSettings | None = None,
    tell: Tell | None = None,
    *,
    root: Path | None = None,
) -> tuple[PopulationPolicy, str]:
    """Everybody's policy for a generator.

    Args:
        place: a file that a federation published, a folder with a policy, or one with a prior to make it of.
        pack: the generator.
        settings: how one is made of a prior.
        tell: is told of every check of that.
        root: folder of the memberships; None for the usual one.

    Returns:
        The policy, and what a person should know of it.

    Raises:
        SignatureError, ReleaseError: a file that no federation of this person vouches for.
        PriorError: it is damaged, or for another generator.
    """
    if place.is_file():
        release = published(_read(place), memberships(root))
        if release.policy.pack != pack.hash:
            raise PriorError(f"the policy of {release.terms.name} is for another generator than {pack.name}")
        return release.policy, f"policy {release.version} of {release.terms.name}, signed; {release.policy.privacy}"
    if (place / "prior.json").exists():
        prior = PopulationPrior.load(place, pack=pack.hash)
        made = publish(of_prior(pack, prior, settings, tell).policy, pack, prior.privacy, prior.rounds)
        return made, f"made here of a prior; {prior.privacy}"
    found = PopulationPolicy.load(place, pack=pack.hash)
    return found, f"{_UNSIGNED}: {found.privacy}"


def published(raw: bytes, members: Sequence[Membership], now: float | None = None) -> PolicyRelease:
    """A published policy that a federation of this person vouches for.

    Args:
        raw: bytes of any origin.
        members: this person's memberships.
        now: seconds since 1970; the clock of this machine without it.

    Raises:
        SignatureError: none of their federations signed it.
        ReleaseError: it is another federation's, not fresh, or older than one that was seen.
        LedgerError: what was seen before cannot be read.
    """
    if not members:
        raise SignatureError("a published policy is checked with the key of a federation; join it first: plgl join")
    refused: list[SignatureError] = []
    for member in members:
        try:
            return take_up(
                raw,
                release_key=member.invite.release_key,
                terms=member.terms,
                ledger=member.ledger(),
                now=time.time() if now is None else now,
            )
        except SignatureError as error:
            refused.append(error)
    raise refused[-1]


def take_up(raw: bytes, *, release_key: bytes, terms: Terms, ledger: Ledger, now: float) -> PolicyRelease:
    """Check a published policy, and remember its version so that nothing older comes after.

    Args:
        raw: bytes of any origin.
        release_key: ``(32,)`` public key, as pinned in the invitation.
        terms: the person agreed to.
        ledger: remembers the newest version seen; policies are counted apart from priors.
        now: seconds since 1970.

    Raises:
        SignatureError: it is not signed with that key for this purpose.
        ReleaseError: it is wrong, another federation's, not fresh, or older than one that was seen.
        LedgerError, StoreInUse, StorageError: the ledger cannot be used.
    """
    release = PolicyRelease.from_bytes(raw, release_key)
    check_terms(release, terms)
    check_fresh(release, now)
    try:
        ledger.saw_version(f"{terms.federation} policy", release.version, digest(raw))
    except ReleaseError as error:
        raise ReleaseError(f"{str(error).replace('release', 'policy')}; fetch the newest") from error
    return release


def _read(place: Path) -> bytes:
    try:
        with place.open("rb") as file:
            return file.read(LARGEST_DOCUMENT + 1)  # one more than is looked at, so that a longer one is refused
    except OSError as error:
        raise StorageError(f"cannot read {place}: {error.strerror}; fetch it again") from error
