"""Updates and parents for tests of aggregation, and float64 oracles from the formulas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from coordinator.aggregation import Inputs, Update, ValidatedLoss
from federation.adapter import AdapterSchema, Factors, ModuleShape, initial_adapter, tensor_name
from federation.messages import Metric

SCHEMA = AdapterSchema(
    modules=(
        ModuleShape(path="m", inputs=7, outputs=5),
        ModuleShape(path="m.1.q_proj", inputs=7, outputs=5),
        ModuleShape(path="m.1.v_proj", inputs=7, outputs=3),
    ),
    rank=2,
    alpha=6.0,
)
Adapter = Mapping[str, np.ndarray]


def parent_of(turn: int, schema: AdapterSchema = SCHEMA) -> dict[str, np.ndarray]:
    """The global adapter before this turn: the initial one, later one whose B is not zero."""
    stream = np.random.default_rng(99)
    parent = dict(initial_adapter(schema, 7))
    if turn > 1:
        for name in parent:
            parent[name] = stream.normal(0, 0.3, parent[name].shape).astype(np.float32)
    return parent


@dataclass(frozen=True)
class Made:
    """A hospital's update with what it is made of."""

    hospital: str
    tensors: dict[str, np.ndarray]
    rank: int = SCHEMA.rank
    n_examples: int = 10
    metrics: Mapping[Metric, float] = field(default_factory=dict)
    validated: ValidatedLoss | None = None

    def update(self) -> Update:
        return Update(
            hospital=self.hospital,
            rank=self.rank,
            n_examples=self.n_examples,
            metrics=self.metrics,
            tensors=lambda: iter(self.tensors.items()),
            validated=self.validated,
        )


def hospital(i: int) -> str:
    return f"h{i:02d}"


def trained(
    i: int,
    seed: int,
    *,
    factors: Factors = "AB",
    turn: int = 1,
    rank: int = SCHEMA.rank,
    noise: float = 0.2,
    schema: AdapterSchema = SCHEMA,
) -> Made:
    """The i-th hospital's update: the parent's live factors moved; at another rank, noise."""
    stream = np.random.default_rng(seed)
    parent = parent_of(turn, schema)
    tensors: dict[str, np.ndarray] = {}
    for name, shape in schema.shapes(factors, rank).items():
        start = parent[name] if shape == parent[name].shape else np.zeros(shape, np.float32)
        tensors[name] = start + stream.normal(0, noise, shape).astype(np.float32)
    return Made(hospital(i), tensors, rank)


def inputs_of(made: Sequence[Made], turn: int = 1, schema: AdapterSchema = SCHEMA) -> Inputs:
    parent = parent_of(turn, schema)
    return Inputs.of(schema, lambda: iter(parent.items()), [m.update() for m in made])


def delta_w(
    adapter: Adapter, rank: int = SCHEMA.rank, schema: AdapterSchema = SCHEMA
) -> dict[str, np.ndarray]:
    """(alpha / rank) B A of each module, in float64."""
    found: dict[str, np.ndarray] = {}
    for module in schema.modules:
        a: np.ndarray = adapter[tensor_name(module.path, "A")].astype(np.float64)
        b: np.ndarray = adapter[tensor_name(module.path, "B")].astype(np.float64)
        found[module.path] = schema.alpha / rank * (b @ a)
    return found


def whole(made: Made, turn: int = 1) -> dict[str, np.ndarray]:
    """Delta W of the hospital's whole adapter: what it sent beside the factors it kept frozen."""
    kept = parent_of(turn) if made.rank == SCHEMA.rank else {}
    return delta_w({**kept, **made.tensors}, made.rank)


def weighted_sum(
    made: Sequence[Made], weights: Mapping[str, float], turn: int = 1
) -> dict[str, np.ndarray]:
    """sum w_i Delta W_i + (1 - sum w_i) Delta W_parent, the mean that exact combiners give."""
    rest = 1 - sum(weights.values())
    found = {path: rest * matrix for path, matrix in delta_w(parent_of(turn)).items()}
    for m in made:
        for path, matrix in whole(m, turn).items():
            found[path] = found[path] + weights[m.hospital] * matrix
    return found


def best_of_rank(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The nearest matrix of this rank (Eckart-Young), by numpy's SVD of the whole matrix."""
    u, sigma, vt = np.linalg.svd(matrix, full_matrices=False)
    found: np.ndarray = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
    return found


def assert_close(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float = 1e-6
) -> None:
    """Relative error of each module's Delta W."""
    assert found.keys() == expected.keys()
    for path, matrix in expected.items():
        error = float(np.linalg.norm(found[path] - matrix))
        assert error <= tolerance * max(float(np.linalg.norm(matrix)), 1e-3), path


def changes(made: Sequence[Made], turn: int = 1) -> np.ndarray:
    """U_i = Delta W_i - Delta W_parent, all modules flattened: (n, size), never formed in ours."""
    parent = delta_w(parent_of(turn))
    return np.array(
        [
            np.concatenate([(whole(m, turn)[p] - parent[p]).ravel() for p in sorted(parent)])
            for m in made
        ]
    )
