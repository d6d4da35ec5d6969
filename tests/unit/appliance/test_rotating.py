"""Rotating and protecting a hospital's keys: never without working ones, wherever it is cut off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import keys
from appliance.context import Context
from appliance.keys import forget_previous, load_keys, prepare_next, promote, protect
from appliance.rotating import rotate
from appliance.rounds.descriptor import fetch_round
from appliance.session import open_session
from appliance.state import read_status
from coordinator.enrolment import approve
from coordinator.rotation import approve_rotation
from federation.errors import IdentityError, TransportError
from federation.signing import Identity, fingerprint, is_protected
from tests.unit.appliance.answering import Reply
from tests.unit.appliance.desk import Desk, open_desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as made:
        yield made


@pytest.fixture
def joined(desk: Desk) -> Iterator[Desk]:
    desk.enrol()
    approve(desk.world.coordinator, desk.world.admin, "a")
    return desk


def context(desk: Desk) -> Context:
    return Context(desk.paths)


def sign_in(desk: Desk, new: str) -> None:
    approve_rotation(desk.world.coordinator, desk.world.admin, "a", expected=new)


def works(desk: Desk) -> bool:
    return read_status(context(desk)).coordinator == "answers"


def current(desk: Desk) -> str:
    return fingerprint(load_keys(desk.paths).current.public())


def test_new_keys_are_used_once_the_administrator_has_signed_them(joined: Desk) -> None:
    before = current(joined)
    asked = rotate(context(joined))
    assert (asked.status, asked.fingerprint) == ("waiting", before)
    assert rotate(context(joined)) == asked
    assert works(joined)
    assert current(joined) == before
    sign_in(joined, asked.new_fingerprint)
    assert works(joined)
    assert current(joined) == asked.new_fingerprint
    assert not joined.paths.next_keys.exists()
    for path in (joined.paths.keys, joined.paths.previous_keys):
        assert path.stat().st_mode & 0o777 == 0o600


def test_asking_again_after_the_signing_learns_of_it(joined: Desk) -> None:
    asked = rotate(context(joined))
    sign_in(joined, asked.new_fingerprint)
    again = rotate(context(joined))
    assert (again.status, again.new_fingerprint) == ("approved", asked.new_fingerprint)
    assert current(joined) == asked.new_fingerprint


def test_a_lost_request_or_answer_leaves_working_keys(joined: Desk) -> None:
    before = current(joined)
    joined.line.trouble = lambda request: Reply(502) if request.path == "/v1/keys" else None
    with pytest.raises(TransportError):
        rotate(context(joined))
    assert works(joined)
    joined.line.trouble = lambda _: None
    asked = rotate(context(joined))
    assert asked.fingerprint == before
    assert asked.new_fingerprint == fingerprint(prepare_next(joined.paths).public())


class PowerCut(Exception):
    """Ends a step as a power cut would."""


@pytest.mark.parametrize("step", ["write_atomically", "replace", "sync_folder"])
def test_a_cut_while_the_keys_are_exchanged_is_mended_by_the_next_command(
    joined: Desk, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    asked = rotate(context(joined))
    sign_in(joined, asked.new_fingerprint)

    real = getattr(os if step == "replace" else keys, step)

    def cut(*given: object, **named: object) -> None:
        if step == "replace" and given[0] != joined.paths.next_keys:
            return real(*given, **named)
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(os if step == "replace" else keys, step, cut)
        with pytest.raises(PowerCut):
            works(joined)
    assert works(joined)
    assert current(joined) == asked.new_fingerprint


def test_keys_signed_in_amidst_a_session_are_taken_up_in_it(joined: Desk, tmp_path: Path) -> None:
    asked = rotate(context(joined))
    joined.world.open()
    with open_session(context(joined)) as session:
        assert session.client.current().round == 1
        sign_in(joined, asked.new_fingerprint)
        assert session.client.current().round == 1
        digest = joined.world.coordinator.store.rounds.get(1).descriptor.parent_adapter_sha256  # type: ignore[union-attr]
        length = joined.world.coordinator.blobs.adapter(digest).stat().st_size
        session.client.adapter(digest, length, tmp_path / "adapter")
    assert current(joined) == asked.new_fingerprint


def test_a_session_takes_up_keys_that_another_process_rotated(joined: Desk) -> None:
    with open_session(context(joined)) as before, open_session(context(joined)) as another:
        asked = rotate(context(joined))
        sign_in(joined, asked.new_fingerprint)
        # The first finds keys that wait, the second those that are in use by then.
        assert before.client.current().round == 0
        assert current(joined) == asked.new_fingerprint
        assert another.client.current().round == 0


def test_a_download_takes_up_signed_in_keys_too(joined: Desk, tmp_path: Path) -> None:
    asked = rotate(context(joined))
    joined.world.open()
    sign_in(joined, asked.new_fingerprint)
    digest = joined.world.coordinator.store.rounds.get(1).descriptor.parent_adapter_sha256  # type: ignore[union-attr]
    length = joined.world.coordinator.blobs.adapter(digest).stat().st_size
    with open_session(context(joined)) as session:
        session.client.adapter(digest, length, tmp_path / "adapter")
    assert current(joined) == asked.new_fingerprint


def test_a_running_round_is_signed_by_the_keys_that_its_roster_names(joined: Desk) -> None:
    joined.world.open()
    before = load_keys(joined.paths).current.public()
    asked = rotate(context(joined))
    sign_in(joined, asked.new_fingerprint)
    assert works(joined)
    with open_session(context(joined)) as session:
        folder = joined.paths.round(1)
        verified = fetch_round(session.client, 1, folder, session.trust, *session.own)
        assert verified.own == before
        assert session.signer(verified.own).public() == before
    forget_previous(joined.paths, verified.own)
    assert joined.paths.previous_keys.exists()
    forget_previous(joined.paths, load_keys(joined.paths).current.public())
    assert not joined.paths.previous_keys.exists()


def test_only_the_confirmed_keys_are_promoted(joined: Desk) -> None:
    """Another process may have promoted these, and have made further ones since."""
    before = current(joined)
    prepare_next(joined.paths)
    promote(joined.paths, Identity.generate().public())
    assert current(joined) == before
    assert joined.paths.next_keys.exists()


def test_a_passphrase_is_added_changed_and_removed(
    joined: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = current(joined)
    rotate(context(joined))
    protect(joined.paths, None, "first")
    for path in (joined.paths.keys, joined.paths.next_keys):
        assert is_protected(path)
    with pytest.raises(IdentityError, match=r"signing\.pem.*") as caught:
        works(joined)
    assert "FEDMED_PASSPHRASE" in caught.value.hint
    monkeypatch.setenv("FEDMED_PASSPHRASE", "wrong")
    with pytest.raises(IdentityError, match="Incorrect password"):
        works(joined)
    with pytest.raises(IdentityError):
        protect(joined.paths, "wrong", "second")
    protect(joined.paths, "first", "second")
    monkeypatch.setenv("FEDMED_PASSPHRASE", "second")
    assert works(joined)
    protect(joined.paths, "second", None)
    monkeypatch.delenv("FEDMED_PASSPHRASE")
    assert works(joined)
    assert current(joined) == before


def test_protecting_that_was_cut_off_is_finished_by_the_same_call(
    joined: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotate(context(joined))
    real, saved = Identity.save, []

    def cut(self: Identity, path: Path, passphrase: str | None = None) -> None:
        if saved:
            raise PowerCut
        saved.append(path)
        real(self, path, passphrase)

    with monkeypatch.context() as patch:
        patch.setattr(Identity, "save", cut)
        with pytest.raises(PowerCut):
            protect(joined.paths, None, "new")
    assert is_protected(joined.paths.keys) != is_protected(joined.paths.next_keys)
    protect(joined.paths, None, "new")
    monkeypatch.setenv("FEDMED_PASSPHRASE", "new")
    assert works(joined)


def test_keys_that_others_can_read_are_refused(joined: Desk) -> None:
    joined.paths.keys.chmod(0o644)
    with pytest.raises(IdentityError, match="can be read by others") as caught:
        works(joined)
    assert f"chmod 600 {joined.paths.keys}" in caught.value.hint
