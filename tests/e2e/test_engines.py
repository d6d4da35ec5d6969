"""One MLX and one torch hospital over several rounds: the same curve as two torch hospitals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from appliance.training import TrainingMetadata, load_held_out
from federation.records import RoundRecord
from tests.e2e.world import World, finish
from tests.parity.engines import load, losses
from tests.tiny_training import schema_for

pytestmark = pytest.mark.timeout(300)

ROUNDS = 3
MIXED, TORCH = {"a": "mlx", "b": "cuda"}, {"a": "cuda", "b": "cuda"}
WEIGHTS = "adapter_model.safetensors"
CLOSE = 1e-3
"""Nats, of the six and more that the loss falls; 2e-5 was measured."""


@dataclass(frozen=True)
class Federated:
    """A federation after its rounds; hospital -> held-out loss before each round and at the end."""

    world: World
    curves: dict[str, list[float]]

    def metadata(self, hospital: str, number: int) -> TrainingMetadata:
        file = self.world.home(hospital) / f"rounds/{number:04}/training_metadata.json"
        return TrainingMetadata.model_validate_json(file.read_bytes())


@pytest.fixture(scope="module")
def federations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federated, Federated]]:
    """The mixed one and that of torch alone: same data, same seeds, at the same time."""
    with ExitStack() as stack:
        worlds = []
        for engines in (MIXED, TORCH):
            world = World(tmp_path_factory.mktemp("engines"))
            stack.callback(world.stop)
            world.set_up()
            for hospital in engines:
                world.join(hospital)
            # A mean of what was sent exactly: what a codec rounds is no difference of engines.
            exact = ("--aggregator", "fedavg", "--codec", "fp32", "--learning-rate", "5e-3")
            world.open_round("--rounds", str(ROUNDS), *exact)
            worlds.append((world, engines))
        options = ("--rounds", str(ROUNDS), "--json")
        processes = [
            stack.enter_context(world.following(hospital, *options, FEDMED_ENGINE_BACKEND=engine))
            for world, engines in worlds
            for hospital, engine in engines.items()
        ]
        for process in processes:
            assert finish(process)[-1] == {"ended": "complete", "rounds": [1, 2, 3]}
        mixed, torch = (Federated(world, curves(world)) for world, _ in worlds)
        yield mixed, torch


def curves(world: World) -> dict[str, list[float]]:
    """What each hospital measured by its own engine on its own held-out examples."""
    shown = world.must(world.coordinator("status", "--json")).last["losses"]
    last = next(loss for loss in shown if loss["round"] == ROUNDS)["by_hospital"]
    rounds = range(1, ROUNDS + 1)
    return {
        hospital: [Federated(world, {}).metadata(hospital, n).loss_before for n in rounds]
        + [last[hospital]]
        for hospital in MIXED
    }


def test_the_mixed_federation_learns_as_the_one_of_torch_alone(
    federations: tuple[Federated, Federated],
) -> None:
    mixed, torch = federations
    for hospital in MIXED:
        found, expected = mixed.curves[hospital], torch.curves[hospital]
        assert found[0] - found[-1] > 1.0
        assert all(later < before - 0.05 for before, later in pairwise(found))
        assert np.abs(np.subtract(found, expected)).max() < CLOSE


def test_what_one_engine_trained_the_other_uses(federations: tuple[Federated, Federated]) -> None:
    world = federations[0].world
    base = world.root / "models" / "tiny"
    for trained_by, other in (("a", "cuda"), ("b", "mlx")):
        done = federations[0].metadata(trained_by, ROUNDS)
        model = load(other, base)
        adapter = world.home(trained_by) / f"rounds/{ROUNDS:04}/adapter" / WEIGHTS
        model.attach(adapter, schema_for(base, rank=4))
        held_out = load_held_out(model, world.home(trained_by) / "data", done.recipe)
        weights = [example.n_completion for example in held_out]
        mean = np.average(losses(model, held_out), weights=weights)
        assert abs(mean - done.loss_after) < CLOSE / 10
        assert done.loss_after < done.loss_before


def test_the_update_says_engine_and_quantisation(federations: tuple[Federated, Federated]) -> None:
    mixed, _ = federations
    for number in range(1, ROUNDS + 1):
        file = mixed.world.home("b") / f"rounds/{number:04}/record.json"
        record = RoundRecord.model_validate_json(json.loads(file.read_bytes())["body"])
        said = {
            one.hospital: (one.engine.name, one.engine.quantisation) for one in record.contributions
        }
        assert said == {"a": ("mlx", "none"), "b": ("torch", "none")}
    assert mixed.metadata("a", 1).base == mixed.metadata("b", 1).base
