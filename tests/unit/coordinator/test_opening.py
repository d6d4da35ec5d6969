"""Opening rounds: defaults, carried-over shape, refusals, turns."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.cli.round import veto
from coordinator.enrolment import revoke
from coordinator.opening import default_quorum
from coordinator.rounds import Request, State
from federation.adapter import ModuleShape, initial_adapter
from federation.base_model import CARD_NAME
from federation.errors import AdapterError, InputError, ModelError, RoundError
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import CARD, World


@pytest.fixture
def h01(world: World) -> Hospital:
    return world.member("h01")


def finish(world: World, hospital: Hospital, number: int) -> None:
    assert hospital.upload(hospital.seal(number)).accepted
    assert world.advance(number).state is State.PUBLISHED


def test_the_first_parent_is_the_initial_adapter_of_the_recipes_seed(
    world: World, h01: Hospital
) -> None:
    descriptor = world.open(seed=11).descriptor
    parent = dict(world.coordinator.blobs.read_adapter(descriptor.parent_adapter_sha256))
    expected = dict(initial_adapter(descriptor.adapter_schema, 11))
    assert all((parent[name] == tensor).all() for name, tensor in expected.items())
    assert parent.keys() == expected.keys()


def test_a_round_needs_members_and_a_base(world: World) -> None:
    with pytest.raises(InputError, match="roster is empty"):
        world.open()
    world.member("h01")
    with pytest.raises(InputError, match="needs a base model"):
        world.open(base=False)
    with pytest.raises(InputError, match="more than the 1 hospitals"):
        world.open(quorum=2)
    with pytest.raises(InputError, match="no aggregator 'median'"):
        world.open(aggregator="median")
    with pytest.raises(ModelError, match="no linear layer 'gate_proj'"):
        world.open(target_modules="gate_proj")
    assert world.coordinator.store.rounds.newest() is None


@pytest.mark.parametrize(
    ("quorum", "expected"), [(2, "equal+stacked"), (3, "geometric-median+stacked")]
)
def test_the_aggregator_of_a_round_that_names_none_fits_its_quorum(
    world: World, quorum: int, expected: str
) -> None:
    for name in ("h01", "h02", "h03"):
        world.member(name)
    assert world.open(quorum=quorum).descriptor.aggregator == expected


def test_only_one_round_is_open(world: World, h01: Hospital) -> None:
    world.open()
    with pytest.raises(RoundError, match="Round 1 is not finished"):
        world.open()


@pytest.mark.parametrize(("members", "quorum"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3)])
def test_default_quorum(members: int, quorum: int) -> None:
    assert default_quorum(members) == quorum


def test_the_shape_is_carried_over_where_nothing_else_is_asked(world: World, h01: Hospital) -> None:
    first = world.open(target_modules="v_proj", rank=3, alpha=5.0).descriptor
    finish(world, h01, 1)
    from coordinator.config import RoundSection
    from coordinator.opening import open_round

    second = open_round(world.coordinator, RoundSection()).descriptor
    assert second.adapter_schema == first.adapter_schema
    assert second.recipe == RoundSection().recipe()


@pytest.mark.parametrize(
    ("change", "what"),
    [({"rank": 3}, "rank"), ({"alpha": 8.0}, "alpha"), ({"target_modules": "q_proj"}, "layers")],
)
def test_another_shape_needs_a_fresh_adapter(
    world: World, h01: Hospital, change: dict[str, Any], what: str
) -> None:
    world.open()
    finish(world, h01, 1)
    with pytest.raises(AdapterError, match=f"another {what}") as caught:
        world.open(**change)
    assert "--fresh" in caught.value.hint
    row = world.open(fresh=True, **change)
    assert (row.number, row.turn) == (2, 1)


def test_another_base_needs_a_fresh_adapter(world: World, h01: Hospital) -> None:
    world.open()
    finish(world, h01, 1)
    world.card.write_bytes(CARD.model_copy(update={"sha256": "cd" * 32}).to_json())
    with pytest.raises(AdapterError, match="another base model"):
        world.open()
    assert world.open(fresh=True).descriptor.base.sha256 == "cd" * 32


def test_an_aborted_round_leaves_the_adapter_before_it(world: World, h01: Hospital) -> None:
    world.open()
    finish(world, h01, 1)
    published = world.coordinator.store.rounds.get(1)
    assert published is not None
    world.open()
    world.advance(2, Request.ABORT)
    assert world.open().descriptor.parent_adapter_sha256 == published.adapter_sha256


def test_alternating_takes_turns_by_what_was_published(world: World, h01: Hospital) -> None:
    """An aborted first round must not lead to training A while B is zero."""
    assert world.open(aggregator="alternating").descriptor.factors == "B"
    world.advance(1, Request.ABORT)
    assert world.open(aggregator="alternating").descriptor.factors == "B"
    finish(world, h01, 2)
    assert world.open(aggregator="alternating").descriptor.factors == "A"
    finish(world, h01, 3)
    assert world.open(aggregator="alternating", fresh=True).descriptor.factors == "B"


def test_the_default_norm_bound_follows_the_parent(world: World, h01: Hospital) -> None:
    row = world.open()
    parent = world.coordinator.blobs.read_adapter(row.descriptor.parent_adapter_sha256)
    squared = sum(float((t.astype("f8") ** 2).sum()) for _, t in parent)
    assert row.descriptor.max_norm == pytest.approx(10 * squared**0.5)


def test_an_adapter_that_could_not_be_uploaded_is_refused(world: World, h01: Hospital) -> None:
    wide = ModuleShape(path="m.big", inputs=1 << 20, outputs=1 << 20)
    world.card.write_bytes(CARD.model_copy(update={"linears": (wide,)}).to_json())
    with pytest.raises(InputError, match="MiB, more than 256"):
        world.open(target_modules="big", rank=33)
    # It is refused before the adapter is made.
    assert list(world.paths.adapters.iterdir()) == []


def test_a_model_folder_without_a_card_gets_one(world: World, h01: Hospital) -> None:
    from coordinator.config import RoundSection
    from coordinator.opening import open_round
    from tests.tiny import build_tiny_model

    folder = world.paths.home.parent / "tiny-model"
    build_tiny_model(folder)
    (folder / CARD_NAME).unlink(missing_ok=True)
    descriptor = open_round(world.coordinator, RoundSection(), base=folder).descriptor
    assert descriptor.base.name == "tiny-model"
    assert (folder / CARD_NAME).is_file()
    assert len(descriptor.adapter_schema.modules) == 8


def test_the_quorum_counts_who_is_on_the_roster_now(world: World, h01: Hospital) -> None:
    for name in ("h02", "h03"):
        world.member(name)
    revoke(world.coordinator, world.admin, "h03")
    assert world.open().descriptor.quorum == 2


def test_a_round_that_one_odd_update_would_abort_says_so(world: World) -> None:
    for name in ("h01", "h02", "h03"):
        world.member(name)
    descriptor = world.open(quorum=3).descriptor
    assert "one update that looks odd aborts the round" in veto(descriptor, 3)
    assert veto(descriptor, 4) == ""
    noted = descriptor.model_copy(update={"anomalies": "note"})
    assert veto(noted, 3) == ""
