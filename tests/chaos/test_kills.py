"""The short version of the row ``kills``: kills at the calls that matter most, by a fixed seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.federation import Broken, Stages
from tests.chaos.finishing import check_transfers, examine
from tests.chaos.interposer import Kill, Op
from tests.chaos.killing import Case, by_step, carry_out, survey

pytestmark = pytest.mark.timeout(600)

# Each transition of a round, each acknowledgement, and each stage of a hospital's part in it.
STEPS = (
    ("round open", "coordinator.store.rounds:add"),
    ("serve", "coordinator.blobs:append"),
    ("serve", "coordinator.store.uploads:settle"),
    ("serve", "answer sent"),
    ("serve", "coordinator.store.rounds:close"),
    ("serve", "coordinator.store.rounds:aggregated"),
    ("serve", "coordinator.store.rounds:published"),
    ("train", "appliance.training:train"),
    ("train", "appliance.rounds.outbox:put"),
    ("train", "appliance.rounds.outbox:_deliver_once"),
    ("sync", "appliance.adapters:store"),
    ("round close --abort", "coordinator.store.rounds:aborted"),
)


@pytest.fixture(scope="module")
def places(stages: Stages, folder: Path) -> dict[tuple[str, str], list[Case]]:
    return by_step(survey(stages, folder / "survey"), seed=7)


@pytest.mark.parametrize("step", STEPS, ids=" ".join)
def test_a_killed_program_goes_on_and_the_round_is_the_same(
    step: tuple[str, str], places: dict[tuple[str, str], list[Case]], stages: Stages, folder: Path
) -> None:
    tried = places[step][:3]
    # A place that the timing of this run leaves out is made up for by the next.
    assert any(carry_out(case, stages, folder / f"case-{n}") for n, case in enumerate(tried))


def test_the_survey_finds_every_kind_of_call(
    places: dict[tuple[str, str], list[Case]],
) -> None:
    found = {case.point.op for cases in places.values() for case in cases}
    assert found == set(Op)
    assert {case.kill for cases in places.values() for case in cases} == set(Kill)


def test_a_lost_update_and_other_bytes_are_noticed(stages: Stages, folder: Path) -> None:
    made = stages.published.copy(folder / "tampered")
    with made.serving():
        for hospital in ("a", "b"):
            made.run(hospital, "sync", "--no-evaluate")
    examine(made, stages)
    receipt = made.home("b") / "rounds" / "0001" / "outbox" / "receipt.json"
    kept = receipt.read_text()
    receipt.unlink()
    made.answers.unlink()
    with pytest.raises(Broken, match="acknowledged"):
        examine(made, stages)
    receipt.write_text(kept)
    adapter = next((made.home("coordinator") / "adapters").glob("*.safetensors"))
    for file in adapter.parent.glob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(Broken, match="differs"):
        examine(made, stages)


def test_a_part_that_is_sent_again_after_its_acknowledgement_is_noticed(
    stages: Stages, folder: Path
) -> None:
    made = stages.half.copy(folder / "twice")
    with made.serving():
        runs = [made.run("a", "train", "--round", "1", "--json")]
    check_transfers(runs)
    with pytest.raises(Broken, match="durable"):
        check_transfers([*runs, *runs])
