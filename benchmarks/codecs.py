"""Update codecs: bytes, error, and held-out loss of what hospitals' coded updates merge to.

    python -m benchmarks.codecs --run demo-run/run
    python -m benchmarks.codecs --small CACHE [--seeds 3]

The first codes what the hospitals of a finished demonstration trained in its last round, merges it
(``fedavg``) and measures the merged adapter on held-out examples of all of them; some minutes.
The second runs whole federations of a small model, without and with error feedback; CACHE keeps
the model, which takes two minutes to make, and all trainings.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from appliance import adapters
from appliance.paths import Paths
from appliance.training import METADATA, TrainingMetadata, load_held_out
from backends.cuda import BACKEND
from benchmarks.aggregation_quality.learning import Learner
from benchmarks.aggregation_quality.tasks import TASKS
from coordinator import aggregation
from coordinator.aggregation import Inputs, Update
from federation.adapter import AdapterSchema
from federation.codec import decode, encode
from federation.messages import Codec
from federation.tensors import TensorFile

Adapter = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Way:
    """A codec, whether it codes the change or the factors, and whether losses are carried on."""

    codec: Codec
    change: bool = True
    feedback: bool = False

    def __str__(self) -> str:
        what = "" if self.change or self.codec == "fp32" else " of the factors"
        return f"{self.codec}{what}{', error feedback' if self.feedback else ''}"


@dataclass(frozen=True)
class Sent:
    """What the coordinator gets, what was lost on the way, and the payload's bytes."""

    tensors: dict[str, np.ndarray]
    lost: dict[str, np.ndarray]
    n_bytes: int


def send(way: Way, trained: Adapter, parent: Adapter, owed: Adapter) -> Sent:
    """Code and decode one update, as the appliance and the coordinator do."""
    shapes = {name: tensor.shape for name, tensor in trained.items()}
    since = parent if way.change and way.codec != "fp32" else {}
    whole = {name: tensor + owed.get(name, np.float32(0)) for name, tensor in trained.items()}
    payload = io.BytesIO()
    lost = dict(encode(payload, way.codec, shapes, iter(sorted(whole.items())), since))
    n_bytes = payload.tell()
    payload.seek(0)
    return Sent(dict(decode(payload, way.codec, shapes, since)), lost, n_bytes)


def relative(lost: Adapter, trained: Adapter, parent: Adapter) -> float:
    """Norm of what was lost over that of what was learnt."""
    error = math.fsum(float(np.square(x, dtype=np.float64).sum()) for x in lost.values())
    change = math.fsum(
        float(np.square(trained[n] - parent[n], dtype=np.float64).sum()) for n in trained
    )
    return math.sqrt(error / change)


def merged(
    schema: AdapterSchema, parent: Adapter, updates: Sequence[tuple[str, int, Adapter]]
) -> dict[str, np.ndarray]:
    """The mean by examples, by the coordinator's own code."""

    def stream(tensors: Adapter) -> Iterator[tuple[str, np.ndarray]]:
        yield from sorted(tensors.items())

    fedavg = aggregation.get("fedavg")
    inputs = Inputs.of(
        schema,
        partial(stream, parent),
        [Update(name, schema.rank, n, {}, partial(stream, t)) for name, n, t in updates],
    )
    weights = {name: share.weight for name, share in fedavg.shares(inputs).items()}
    return dict(fedavg.merge(inputs, weights).tensors)


def _last_round(home: Path) -> tuple[TrainingMetadata, Adapter, Adapter, AdapterSchema]:
    """What a hospital of the demonstration trained last, and from what."""
    paths = Paths(home)
    folder = max(f.parent for f in paths.rounds.glob(f"*/{METADATA}"))
    metadata = TrainingMetadata.model_validate_json((folder / METADATA).read_bytes())
    parent = adapters.load(adapters.parent_folder(paths, metadata.parent_sha256))
    trained = adapters.load(folder / "adapter")
    schema = trained.card.adapter_schema
    return metadata, dict(TensorFile(trained.weights)), dict(TensorFile(parent.weights)), schema


def demonstration(run: Path, base: Path, examples: int) -> None:
    """Table of the demonstration's updates, coded each way."""
    homes = sorted((run / "hospitals").iterdir())
    found = {home.name: _last_round(home) for home in homes}
    metadata, _, parent, schema = found[homes[0].name]
    model = BACKEND.load(base, threads=1)
    recipe = metadata.recipe.model_copy(update={"eval_examples": examples})
    held_out = [e for home in homes for e in load_held_out(model, Paths(home).data, recipe)]

    def loss(tensors: Adapter) -> float:
        from tempfile import TemporaryDirectory

        from backends.adapters import write_adapter

        with TemporaryDirectory() as folder:
            write_adapter(Path(folder) / "a.safetensors", tensors)
            model.attach(Path(folder) / "a.safetensors", schema)
        losses = model.losses(held_out)
        return sum(x.loss * x.n_tokens for x in losses) / sum(x.n_tokens for x in losses)

    print(f"{len(homes)} hospitals, {len(held_out)} held-out examples; before: {loss(parent):.4f}")
    ways = (Way("fp32"), Way("bf16"), Way("int8"), Way("bf16", change=False))
    exact = whole = 0.0
    for way in (*ways, Way("int8", change=False)):
        sent = {name: send(way, f[1], f[2], {}) for name, f in found.items()}
        after = loss(
            merged(schema, parent, [(n, found[n][0].n_train, s.tensors) for n, s in sent.items()])
        )
        n_bytes = statistics.fmean(s.n_bytes for s in sent.values())
        exact, whole = exact or after, whole or n_bytes
        lost = statistics.fmean(relative(s.lost, *found[n][1:3]) for n, s in sent.items())
        print(
            f"{way!s:22} {n_bytes / 1e6:6.3f} MB {n_bytes / whole:6.1%}  lost {lost:7.3%}  "
            f"loss {after:.5f} ({after / exact - 1:+.3%})",
            flush=True,
        )


def federation(learner: Learner, way: Way, seed: int) -> list[float]:
    """Mean held-out loss over the hospitals after each round."""
    names = sorted(learner.task.hospitals)
    parent = learner.start(seed)
    owed: dict[str, Adapter] = {name: {} for name in names}
    losses = []
    for number in range(1, learner.task.rounds + 1):
        start, updates = learner.read(parent), []
        for name in names:
            trained = learner.train(parent, name, seed, number, "AB", lies=False)
            sent = send(way, learner.read(trained.adapter), start, owed[name])
            owed[name] = sent.lost if way.feedback else {}
            updates.append((name, trained.n_examples, sent.tensors))
        parent = learner.store(merged(learner.schema, start, updates))
        losses.append(statistics.fmean(learner.evaluate(parent, name)["loss"] for name in names))
    return losses


def small(cache: Path, seeds: int) -> None:
    """Table of whole federations of the small model."""
    learner = Learner(TASKS["small-4"](cache, None), cache)
    ways = [Way("fp32")]
    for codec in ("bf16", "int8"):
        ways += [Way(codec), Way(codec, feedback=True)]
    found = {way: [federation(learner, way, seed) for seed in range(seeds)] for way in ways}
    for way, runs in found.items():
        rounds = " ".join(
            f"{statistics.fmean(r[i] for r in runs):.5f}" for i in range(len(runs[0]))
        )
        apart = [r[-1] / e[-1] - 1 for r, e in zip(runs, found[ways[0]], strict=True)]
        print(
            f"{way!s:22} by round {rounds}; last beside fp32, by seed "
            + " ".join(f"{x:+.3%}" for x in apart)
        )
    (cache / "codecs.json").write_text(json.dumps({str(w): r for w, r in found.items()}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--run", type=Path, help="folder of a finished demonstration")
    models = Path("demo-run/models/smollm2-135m-instruct")
    parser.add_argument("--base", type=Path, default=models, help="its base model's folder")
    parser.add_argument("--examples", type=int, default=20, help="held-out ones of each hospital")
    parser.add_argument("--small", type=Path, metavar="CACHE", help="federations of a small model")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    if given.run:
        demonstration(given.run, given.base, given.examples)
    if given.small:
        small(given.small, given.seeds)


if __name__ == "__main__":
    main()
