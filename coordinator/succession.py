"""``coordinator keys rotate``: new signing keys, and documents of the keys before them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from coordinator.context import Coordinator
from coordinator.enrolment import check_admin
from coordinator.store.successions import Successions
from federation.errors import IdentityError, InputError, StorageError
from federation.messages import PublicIdentity
from federation.signing import Identity, Purpose, SignedDocument, fingerprint
from federation.succession import (
    MAX_SUCCESSIONS,
    SignedSuccession,
    Succession,
)


@dataclass(frozen=True)
class Rotated:
    """Which keys sign now, and whose place they took; ``number`` counts all successions.

    ``only_finished`` says that no new ones were made: an earlier rotation, which had been cut off
    after they began to sign, was brought to its end.
    """

    number: int
    former: str
    fingerprint: str
    only_finished: bool


def rotate(coordinator: Coordinator, admin: Identity) -> Rotated:
    """Let new keys sign from now on; a server may run meanwhile.

    Killed at any point the same call finishes it, and makes no second succession then. Raises
    IdentityError for another admin key, StorageError when the disk refuses, InputError when the
    keys were replaced as often as they can be.
    """
    check_admin(coordinator, admin)
    with coordinator.keys.replaced() as new:
        if new is not None:
            _succeed(coordinator, admin, new)
    newest = coordinator.store.successions.chain().links[-1].claimed()
    return Rotated(
        newest.number,
        fingerprint(newest.former),
        fingerprint(newest.new),
        only_finished=new is None,
    )


def _succeed(coordinator: Coordinator, admin: Identity, new: Identity) -> None:
    former = coordinator.identity
    number = len(coordinator.store.successions.chain().links) + 1
    if number > MAX_SUCCESSIONS:
        raise InputError(
            f"The keys were replaced {MAX_SUCCESSIONS} times, as often as hospitals follow.",
            hint="Found the federation anew (docs/operations.md).",
        )
    succession = Succession(
        federation=coordinator.federation,
        number=number,
        former=former.public(),
        new=new.public(),
        at=coordinator.clock(),
    )
    signed = SignedSuccession.make(succession, admin, former)
    coordinator.store.successions.add(succession, signed)


def former_keys(coordinator: Coordinator) -> tuple[PublicIdentity, ...]:
    """All keys before the present ones, oldest first; every succession is verified.

    Raises StorageError for one that is not signed as it should be: the database was altered.
    """
    store = coordinator.store.successions
    newest = store.newest_keys()
    return _former(store, newest, coordinator.federation, coordinator.admin) if newest else ()


@lru_cache(maxsize=4)
def _former(
    store: Successions, newest: str, federation: str, admin: PublicIdentity
) -> tuple[PublicIdentity, ...]:
    # Once for each succession: documents are asked for all the time.
    chain = store.chain()
    try:
        *former, last = chain.keys(federation, admin, chain.links[0].claimed().former)
        if last.digest() == newest:
            return tuple(former)
        problem = "it is of other keys"
    except IdentityError as error:
        problem = str(error)
    raise StorageError(
        f"The database holds a succession that was altered: {problem}",
        hint="`coordinator audit verify` says more; restore the newest good backup.",
    )


def present(coordinator: Coordinator, document: SignedDocument, purpose: Purpose) -> SignedDocument:
    """The document as hospitals believe it now: signed by the present keys.

    One that former keys signed is signed anew, the same text with the same digest. So whoever
    stole former keys can hand nothing to a hospital that knows of the succession, whatever date it
    bears. Raises StorageError for a document that none of the coordinator's keys signed.
    """
    former = former_keys(coordinator)
    return _renewed(document, purpose, former, coordinator.identity) if former else document


@lru_cache(maxsize=256)
def _renewed(
    document: SignedDocument,
    purpose: Purpose,
    former: tuple[PublicIdentity, ...],
    identity: Identity,
) -> SignedDocument:
    if signer(document, purpose, (identity.public(),)) is not None:
        return document
    if signer(document, purpose, former) is None:
        raise StorageError(
            f"A stored {purpose} is not signed by any of the coordinator's keys.",
            hint="`coordinator audit verify` says more; restore the newest good backup.",
        )
    return SignedDocument.sign_text(document.body, identity, purpose)


def signer(
    document: SignedDocument, purpose: Purpose, among: tuple[PublicIdentity, ...]
) -> PublicIdentity | None:
    """Which of these keys, newest first, signed the document; None if none did."""
    for keys in reversed(among):
        try:
            document.verify(keys, purpose)
        except IdentityError:
            continue
        return keys
    return None
