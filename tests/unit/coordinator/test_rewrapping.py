"""A new wrapping key while a round is open: nothing is lost, wherever it is cut off."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coordinator.config import load_config
from coordinator.context import Coordinator, open_coordinator
from coordinator.rewrapping import rotate_wrapping
from coordinator.rounds import State
from coordinator.store.rounds import Rounds
from coordinator.wrapping import WrappingKey
from federation.errors import IdentityError, StorageError
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World


@pytest.fixture
def two(world: World) -> tuple[Hospital, Hospital]:
    pair = world.member("h01"), world.member("h02")
    world.open()
    return pair


def another_process(world: World) -> Coordinator:
    return open_coordinator(world.paths, load_config(world.paths.config), clock=world.clock)


def wrapped(world: World, number: int = 1) -> bytes:
    row = world.coordinator.store.rounds.get(number)
    assert row is not None
    assert row.wrapped_seed is not None
    return row.wrapped_seed


def finish(world: World, number: int, *hospitals: Hospital) -> None:
    for hospital in hospitals:
        assert hospital.upload(hospital.seal(number)).accepted
    assert world.advance(number).state is State.PUBLISHED


def test_a_server_goes_on_with_the_key_that_another_process_made(
    world: World, two: tuple[Hospital, Hospital]
) -> None:
    h01, h02 = two
    assert h01.upload(h01.seal(1)).accepted
    old_file, old = world.paths.wrapping_key.read_bytes(), wrapped(world)
    other = another_process(world)
    assert rotate_wrapping(other) == [1]
    other.store.database.close()
    assert wrapped(world) != old
    stored = b"".join(p.read_bytes() for p in world.paths.home.glob("coordinator.sqlite*"))
    assert old not in stored
    assert world.paths.wrapping_key.read_bytes() != old_file
    assert world.paths.wrapping_key.stat().st_mode & 0o777 == 0o600
    finish(world, 1, h02)
    # The next round is wrapped by the new key too, although this process began with the old.
    world.open()
    key = WrappingKey.load(world.paths.wrapping_key, None)
    assert key.unwrap(wrapped(world, 2), "demo-net", 2)
    finish(world, 2, h01, h02)


def test_the_old_key_opens_nothing_any_more(world: World, two: tuple[Hospital, Hospital]) -> None:
    old = WrappingKey.load(world.paths.wrapping_key, None)
    rotate_wrapping(world.coordinator)
    with pytest.raises(StorageError, match="cannot be unwrapped"):
        old.unwrap(wrapped(world), "demo-net", 1)


class PowerCut(Exception):
    """Ends a step as a power cut would."""


def cut_at(patch: pytest.MonkeyPatch, step: str) -> None:
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(source).name == "wrapping.next.pem":
            raise PowerCut
        real(source, target)

    def rewrap(*_: object) -> None:
        raise PowerCut

    if step == "rewrap":
        patch.setattr(Rounds, step, rewrap)
    else:
        patch.setattr(os, step, replace)


@pytest.mark.parametrize("step", ["rewrap", "replace"])
def test_a_rotation_that_was_cut_off_is_finished_by_the_next(
    world: World, two: tuple[Hospital, Hospital], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    waiting = world.paths.keys / "wrapping.next.pem"
    with monkeypatch.context() as patch:
        cut_at(patch, step)
        with pytest.raises(PowerCut):
            rotate_wrapping(world.coordinator)
    assert waiting.exists()
    h01, h02 = two
    # Meanwhile both the server and a new process still open what is there.
    assert h01.upload(h01.seal(1)).accepted
    fresh = another_process(world)
    assert fresh.wrapping.unwrap(wrapped(world), "demo-net", 1)
    assert rotate_wrapping(fresh) == ([1] if step == "rewrap" else [])
    fresh.store.database.close()
    assert not waiting.exists()
    key = WrappingKey.load(world.paths.wrapping_key, None)
    assert key.unwrap(wrapped(world), "demo-net", 1)
    finish(world, 1, h02)


def test_a_round_opened_after_a_cut_is_wrapped_anew_too(
    world: World, two: tuple[Hospital, Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        cut_at(patch, "replace")
        with pytest.raises(PowerCut):
            rotate_wrapping(world.coordinator)
    finish(world, 1, *two)
    world.open()
    assert rotate_wrapping(world.coordinator) == [2]
    finish(world, 2, *two)


def test_a_wrapping_key_that_others_can_read_is_refused(world: World) -> None:
    world.paths.wrapping_key.chmod(0o640)
    with pytest.raises(IdentityError, match="can be read by others") as caught:
        another_process(world)
    assert "chmod 600" in caught.value.hint
