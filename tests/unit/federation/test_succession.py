"""A chain of the coordinator's keys: only what both signed, link by link, and never back."""

from __future__ import annotations

import pytest

from federation.canonical import canonical_json
from federation.errors import IdentityError
from federation.messages import PublicIdentity
from federation.signing import Identity, SignedDocument, fingerprint
from federation.succession import SignedSuccession, Succession, SuccessionChain

ADMIN, THIEF = Identity.generate(), Identity.generate()
KEYS = [Identity.generate() for _ in range(4)]
PUBLIC = tuple(keys.public() for keys in KEYS)


def link(
    number: int,
    *,
    admin: Identity = ADMIN,
    signer: Identity | None = None,
    federation: str = "net",
    at: int = 1,
    new: Identity | None = None,
) -> SignedSuccession:
    """The succession from ``KEYS[number - 1]`` to ``KEYS[number]``."""
    succession = Succession(
        federation=federation,
        number=number,
        former=PUBLIC[number - 1],
        new=(new or KEYS[number]).public(),
        at=at,
    )
    return SignedSuccession.make(succession, admin, signer or KEYS[number - 1])


LINKS = tuple(link(number) for number in (1, 2, 3))


def chain(*links: SignedSuccession) -> SuccessionChain:
    return SuccessionChain(links=links)


def keys(given: SuccessionChain, pinned: PublicIdentity = PUBLIC[0]) -> tuple[PublicIdentity, ...]:
    return given.since(pinned).keys("net", ADMIN.public(), pinned)


def test_each_hospital_follows_from_the_keys_that_it_pinned() -> None:
    whole = chain(*LINKS)
    for place in range(4):
        assert keys(whole, PUBLIC[place]) == PUBLIC[place:]
    assert keys(chain()) == PUBLIC[:1]


def test_it_survives_the_network_byte_for_byte() -> None:
    text = chain(*LINKS).to_json()
    again = SuccessionChain.model_validate_json(text)
    assert again.to_json() == text
    assert keys(again) == PUBLIC


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ((link(1, admin=THIEF),), "Succession 1 .* not signed by the administrator's key"),
        # All that a thief of the coordinator's keys can make.
        ((link(1, admin=KEYS[0]),), "not signed by the administrator's key"),
        ((LINKS[0], link(2, signer=THIEF)), f"2 .* keys before, {fingerprint(PUBLIC[1])}"),
        # The administrator alone, with the keys that came before the last ones.
        ((LINKS[0], link(2, signer=KEYS[0])), "not signed by the keys before"),
        ((LINKS[0], LINKS[2]), "not signed by the keys before"),
        ((link(1, federation="other"),), "is not of the keys .* in net"),
        ((LINKS[1], LINKS[2]), "do not begin with the keys that are trusted here"),
        ((LINKS[0], link(2, new=KEYS[0])), "goes back to earlier ones"),
        ((link(1, new=KEYS[0]),), "goes back to earlier ones"),
    ],
    ids=[
        "wrong admin", "only the former keys", "wrong former keys", "keys before the former",
        "missing link", "other federation", "other beginning", "back to the first", "to itself",
    ],
)  # fmt: skip
def test_a_wrong_chain_is_refused(links: tuple[SignedSuccession, ...], said: str) -> None:
    with pytest.raises(IdentityError, match=said):
        keys(chain(*links))


def test_a_number_is_not_left_out() -> None:
    text = LINKS[1].claimed().model_copy(update={"number": 3})
    with pytest.raises(IdentityError, match=r"Succession 3 .* follows number 1"):
        keys(chain(LINKS[0], SignedSuccession.make(text, ADMIN, KEYS[1])))


def test_both_have_to_sign_the_same_text() -> None:
    mixed = SignedSuccession(by_admin=LINKS[0].by_admin, by_former=link(1, at=2).by_former)
    with pytest.raises(IdentityError, match="two different texts"):
        keys(chain(mixed))


def test_a_signature_for_another_purpose_does_not_count() -> None:
    body = LINKS[0].claimed()
    mixed = SignedSuccession(
        by_admin=SignedDocument.sign(body, ADMIN, "roster"), by_former=LINKS[0].by_former
    )
    with pytest.raises(IdentityError, match="not signed by the administrator's key"):
        keys(chain(mixed))


@pytest.mark.parametrize("body", ["", "{}", canonical_json({"v": 2}).decode(), "[" * 5000])
def test_a_malformed_link_is_said(body: str) -> None:
    document = LINKS[0].by_admin.model_copy(update={"body": body})
    with pytest.raises(IdentityError, match="malformed"):
        keys(chain(SignedSuccession(by_admin=document, by_former=document)))


def test_a_chain_only_grows() -> None:
    known = chain(*LINKS[:2])
    for grown in (known, chain(*LINKS)):
        grown.check_continues(known)
    for shorter in (chain(), chain(LINKS[0])):
        with pytest.raises(IdentityError, match="went back to keys that were replaced"):
            shorter.check_continues(known)
    fork = chain(LINKS[0], link(2, new=KEYS[3]))
    assert keys(fork)  # Rightly signed, and still not what is known.
    with pytest.raises(IdentityError, match="two successions number 2"):
        fork.check_continues(known)
