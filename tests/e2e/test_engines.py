"""A hospital on MLX and one on torch: the same federation as two on torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from appliance.training import HospitalData, TrainingMetadata, load_data
from backends.base import LoadedModel, TrainJob
from federation.canonical import file_sha256
from federation.records import RoundRecord
from tests.e2e.world import World
from tests.parity.engines import Tensors, farthest, load, losses, quiet
from tests.tiny_training import schema_for

pytestmark = pytest.mark.timeout(300)
ENGINES = {"a": "mlx", "b": "cuda"}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One round, published."""
    world = World(tmp_path_factory.mktemp("engines"))
    try:
        world.set_up()
        for hospital in ENGINES:
            world.join(hospital)
        # A mean of what was sent exactly: what a codec rounds is no difference between engines.
        exact = ("--aggregator", "fedavg", "--codec", "fp32")
        world.open_round("--learning-rate", "5e-3", *exact)
        for hospital, engine in ENGINES.items():
            trained = world.appliance(
                hospital, "train", "--round", "1", "--json", FEDMED_ENGINE_BACKEND=engine
            )
            assert world.must(trained).last["receipt"]["accepted"] is True
        world.await_published("a", 1)
        world.must(world.appliance("b", "sync", "--no-evaluate"))
        yield world
    finally:
        world.stop()


def metadata(world: World, hospital: str) -> TrainingMetadata:
    file = world.home(hospital) / "rounds" / "0001" / "training_metadata.json"
    return TrainingMetadata.model_validate_json(file.read_bytes())


def data(world: World, hospital: str, model: LoadedModel) -> HospitalData:
    return load_data(model, world.home(hospital) / "data", metadata(world, hospital).recipe)


def own_by_torch(world: World, hospital: str, model: LoadedModel, target: Path) -> Tensors:
    """What this hospital would have sent, had it trained with torch."""
    done = metadata(world, hospital)
    adapters = world.home(hospital).rglob(WEIGHTS)
    parent = next(path for path in adapters if file_sha256(path) == done.parent_sha256)
    model.attach(parent, schema_for(world.root / "models" / "tiny", rank=4))
    job = TrainJob(data(world, hospital, model).train, done.recipe, done.factors)
    model.train(job, quiet)
    model.save_adapter(target)
    return load_file(target)


def test_one_mlx_and_one_torch_hospital_end_where_two_torch_ones_would(
    federated: World, tmp_path: Path
) -> None:
    assert {h: metadata(federated, h).engine.split()[0] for h in ENGINES} == {
        "a": "mlx",
        "b": "torch",
    }
    model = load("cuda", federated.root / "models" / "tiny")
    own = {h: own_by_torch(federated, h, model, tmp_path / h) for h in ENGINES}
    # The hospital that did use torch shows that this is how it was trained.
    sent = federated.home("b") / "rounds" / "0001" / "adapter" / WEIGHTS
    assert farthest(own["b"], load_file(sent)) < 1e-6
    n = {h: metadata(federated, h).n_train for h in ENGINES}
    expected = {
        name: (own["a"][name] * n["a"] + own["b"][name] * n["b"]) / (n["a"] + n["b"])
        for name in own["a"]
    }
    published = federated.home("b") / "adapters" / "global" / "0001" / WEIGHTS
    assert farthest(load_file(published), expected) < 1e-3
    save_file(expected, tmp_path / "expected.safetensors")
    schema = schema_for(federated.root / "models" / "tiny", rank=4)
    for hospital in ENGINES:
        held_out = list(data(federated, hospital, model).held_out)
        found: list[np.ndarray] = []
        for adapter in (published, tmp_path / "expected.safetensors"):
            model.attach(adapter, schema)
            found.append(losses(model, held_out))
        assert np.abs(found[0] - found[1]).max() < 1e-3
        assert found[0].mean() < metadata(federated, hospital).loss_before - 0.05


def test_the_update_says_engine_and_quantisation(federated: World) -> None:
    file = federated.home("b") / "rounds" / "0001" / "record.json"
    record = RoundRecord.model_validate_json(json.loads(file.read_bytes())["body"])
    said = {
        one.hospital: (one.engine.name, one.engine.quantisation) for one in record.contributions
    }
    assert said == {"a": ("mlx", "none"), "b": ("torch", "none")}
    assert metadata(federated, "a").base == metadata(federated, "b").base
