"""Adopting a global adapter: by the hospital's rule, on its own held-out data, recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance import adapters
from appliance.adapters import AdapterCard, StoredAdapter
from appliance.adopted import Adoption, Rule, read_adoption
from appliance.config import AdoptSection, ApplianceConfig
from appliance.context import Context
from appliance.paths import Paths
from appliance.rounds.adopting import Candidate, adopt, choose
from appliance.rounds.mixing import mixed_schema, write_mixture
from backends.base import Example, ExampleLoss
from federation.adapter import AdapterSchema, ModuleShape, tensor_name
from federation.canonical import file_sha256
from federation.errors import StorageError
from federation.files import atomic_writer
from federation.tensors import read_header, read_tensors, write_tensors

MODULES = (
    ModuleShape(path="m.0.q_proj", inputs=5, outputs=4),
    ModuleShape(path="m.0.v_proj", inputs=5, outputs=3),
)
SCHEMA = AdapterSchema(modules=MODULES, rank=2, alpha=4.0)
LOW = AdapterSchema(modules=MODULES, rank=1, alpha=4.0)
HELD_OUT = [Example(tokens=(1, 2, 3), n_prompt=1)]

Weights = dict[str, np.ndarray]


def read(path: Path) -> Weights:
    with path.open("rb") as file:
        return dict(read_tensors(file, read_header(file)))


def update(tensors: Weights, schema: AdapterSchema) -> dict[str, np.ndarray]:
    """Delta W of each module, in float64."""
    scale = schema.alpha / schema.rank
    return {
        m.path: scale
        * tensors[tensor_name(m.path, "B")].astype(np.float64)
        @ tensors[tensor_name(m.path, "A")].astype(np.float64)
        for m in schema.modules
    }


def drawn(seed: int, schema: AdapterSchema) -> Weights:
    stream = np.random.default_rng(seed)
    return {n: stream.normal(0, 1, s).astype(np.float32) for n, s in schema.shapes().items()}


def stored(folder: Path, tensors: Weights, schema: AdapterSchema, origin: str) -> StoredAdapter:
    folder.parent.mkdir(parents=True, exist_ok=True)
    weights = folder.parent / "new.safetensors"
    with atomic_writer(weights) as file:
        write_tensors(file, schema.shapes(), iter(tensors.items()))
    card = AdapterCard(
        base_name="tiny",
        base_sha256="ab" * 32,
        adapter_schema=schema,
        sha256=file_sha256(weights),
        origin=origin,
    )

    def move(target: Path) -> None:
        weights.replace(target)

    return adapters.store(folder, card, move)


class Nearest:
    """A base model whose held-out loss is an adapter's distance from what would be right here."""

    def __init__(self, right: dict[str, np.ndarray]) -> None:
        self.right = right
        self.now = {path: np.zeros_like(w) for path, w in right.items()}

    def attach(self, weights: Path, schema: AdapterSchema) -> None:
        self.now = update(read(weights), schema)

    def detach(self) -> None:
        self.now = {path: np.zeros_like(w) for path, w in self.right.items()}

    def losses(self, examples: list[Example], _: object) -> list[ExampleLoss]:
        away = sum(float(np.sum((self.now[p] - self.right[p]) ** 2)) for p in self.right)
        return [ExampleLoss(float(np.sqrt(away)), 1) for _ in examples]


@pytest.fixture
def home(tmp_path: Path) -> Paths:
    paths = Paths(tmp_path)
    paths.round(3).mkdir(parents=True)
    paths.adapters.mkdir()
    return paths


class Hospital:
    """What is here after round 3: the global adapter, and what this hospital trained."""

    def __init__(self, paths: Paths, rule: Rule, right: float, **adopting: Any) -> None:  # noqa: ANN401
        """``right`` is how much of the global adapter would be right here, beside its own."""
        self.paths = paths
        section = AdoptSection(rule=rule, **adopting)
        self.context = Context(paths)
        self.context.__dict__["config"] = ApplianceConfig(adopt=section)
        one, two = drawn(1, LOW), drawn(2, SCHEMA)
        self.own = stored(paths.round(3) / "adapter", one, LOW, "round 3, hospital h01")
        self.new = stored(adapters.global_folder(paths, 3), two, SCHEMA, "global of round 3")
        mine, theirs = update(one, LOW), update(two, SCHEMA)
        self.model = Nearest({p: (1 - right) * mine[p] + right * theirs[p] for p in mine})

    def adopt(self, number: int = 3) -> Adoption:
        self.model.attach(self.new.weights, SCHEMA)
        loss = self.model.losses(HELD_OUT, None)[0].loss
        model: Any = self.model
        return adopt(self.context, model, HELD_OUT, number, self.new, loss, lambda _: None)


@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_a_mixture_of_two_ranks_is_the_mean_of_the_updates(home: Paths, part: float) -> None:
    hospital = Hospital(home, "mixture", right=0.5)
    file = home.adapters / "mixture.safetensors"
    write_mixture(file, hospital.own, hospital.new, part)
    schema = mixed_schema(LOW, SCHEMA)
    assert schema.rank == 3
    mixed = update(read(file), schema)
    mine, theirs = update(drawn(1, LOW), LOW), update(drawn(2, SCHEMA), SCHEMA)
    for path, found in mixed.items():
        wanted = (1 - part) * mine[path] + part * theirs[path]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_best_mixture_is_found_kept_and_answers(home: Paths) -> None:
    hospital = Hospital(home, "mixture", right=0.75)
    adoption = hospital.adopt()
    assert (adoption.choice, adoption.global_part) == ("personal", 0.75)
    assert adoption.losses["a mixture with 75% of it"] == pytest.approx(0, abs=1e-4)
    assert len(adoption.losses) == 6
    used = adapters.find(home, "adopted")
    assert used is not None
    assert used.card.sha256 == adoption.sha256 == file_sha256(used.weights)
    assert used.card.origin == "75% global of round 3, the rest round 3, hospital h01"
    hospital.model.attach(used.weights, used.card.adapter_schema)
    assert hospital.model.losses(HELD_OUT, None)[0].loss == pytest.approx(0, abs=1e-4)
    kept = Adoption.model_validate_json((home.round(3) / "adoption.json").read_bytes())
    assert kept == adoption == read_adoption(home)
    assert "adopted" in adapters.choices(home)
    assert {p.name for p in home.adapters.iterdir() if p.is_dir()} == {"global", "personal"}


def test_the_best_of_own_and_global_without_mixtures(home: Paths) -> None:
    own = Hospital(home, "best", right=0.1).adopt()
    assert (own.choice, own.global_part) == ("personal", 0.0)
    kept = adapters.find(home, "personal")
    assert kept is not None
    assert kept.card.origin == "round 3, hospital h01"
    assert len(own.losses) == 3
    assert Hospital(home, "best", right=0.9).adopt().choice == "round:3"


def test_not_worse_keeps_what_there_is_and_says_so(home: Paths) -> None:
    hospital = Hospital(home, "not-worse", right=1.0)
    first = hospital.adopt()
    assert first.choice == "round:3"
    assert first.reason.startswith("not worse: 0.000 here against ")
    assert first.reason.endswith("of the present one (base)")
    worse = stored(adapters.global_folder(home, 4), drawn(7, SCHEMA), SCHEMA, "global of round 4")
    home.round(4).mkdir()
    hospital.new = worse
    second = hospital.adopt(4)
    assert (second.choice, second.round) == ("round:3", 4)
    assert "the new one is worse" in second.reason
    assert "(round:3)" in second.reason
    used = adapters.find(home, "adopted")
    assert used is not None
    assert used.folder == adapters.global_folder(home, 3)


def test_always_is_always(home: Paths) -> None:
    adoption = Hospital(home, "always", right=-5.0).adopt()
    assert adoption.choice == "round:3"
    assert adoption.losses["the global adapter"] > adoption.losses["the present one (base)"]


def test_the_base_stays_where_the_first_adapter_is_worse(home: Paths) -> None:
    adoption = Hospital(home, "not-worse", right=-5.0).adopt()
    assert (adoption.choice, adoption.sha256) == ("base", None)
    assert adapters.find(home, "adopted") is None


def test_without_an_own_adapter_there_is_nothing_to_mix(home: Paths) -> None:
    hospital = Hospital(home, "mixture", right=0.5)
    hospital.own.folder.rename(home.home / "elsewhere")
    assert hospital.adopt().losses.keys() == {"the global adapter", "the present one (base)"}


def test_a_present_one_that_is_gone_counts_as_the_base(home: Paths) -> None:
    hospital = Hospital(home, "mixture", right=0.5)
    assert hospital.adopt().choice == "personal"
    (home.adapters / "personal").rename(home.home / "elsewhere")
    assert "the present one (base)" in hospital.adopt().losses


def candidates(new: float, present: float, *others: float) -> list[Candidate]:
    found = [Candidate("new", "round:1", None, new), Candidate("old", "base", None, present)]
    return found + [Candidate(f"other {i}", "personal", None, x) for i, x in enumerate(others)]


@pytest.mark.parametrize(
    ("rule", "losses", "chosen"),
    [
        ("always", (3.0, 1.0), "new"),
        ("not-worse", (1.05, 1.0), "new"),
        ("not-worse", (1.15, 1.0), "old"),
        ("best", (1.05, 1.0), "old"),
        ("best", (1.0, 1.0, 1.0), "new"),
        ("mixture", (1.0, 1.0, 0.9, 0.9), "other 0"),
    ],
)
def test_the_rules(rule: Rule, losses: tuple[float, ...], chosen: str) -> None:
    assert choose(rule, 0.1, candidates(*losses))[0].name == chosen


def test_nothing_decided_is_the_base_and_a_damaged_decision_is_named(home: Paths) -> None:
    assert adapters.find(home, "adopted") is None
    assert "adopted" not in adapters.choices(home)
    (home.adapters / "adopted.json").write_text("{", encoding="utf-8")
    with pytest.raises(StorageError, match=r"adopted\.json cannot be read"):
        adapters.find(home, "adopted")
