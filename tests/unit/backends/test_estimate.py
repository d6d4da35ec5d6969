"""The estimate before a training: against what was measured, and how it grows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from backends.base import Example, Quantisation
from backends.estimate import Estimate, estimate, pass_shapes
from backends.kept import Kept, PassShape
from backends.model_shape import ModelShape, read_shape
from federation.adapter import ModuleShape
from federation.base_model import BaseModelCard, read_card
from federation.errors import ModelError
from tests.tiny import (
    HEADS,
    INNER,
    KEY_VALUE_HEADS,
    LAYERS,
    VOCABULARY,
    WIDTH,
    build_tiny_model,
    tiny_model,
)

LAYER = {
    "q_proj": (576, 576),
    "k_proj": (576, 192),
    "v_proj": (576, 192),
    "o_proj": (576, 576),
    "gate_proj": (576, 1536),
    "up_proj": (576, 1536),
    "down_proj": (1536, 576),
}
SMOLLM2 = BaseModelCard(
    name="SmolLM2-135M-Instruct",
    sha256="0" * 64,
    n_bytes=269_030_016,
    linears=tuple(
        ModuleShape(path=f"layers.{n:02}.{path}", inputs=inputs, outputs=outputs)
        for n in range(30)
        for path, (inputs, outputs) in sorted(LAYER.items())
    ),
)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
SHAPE = ModelShape(
    layers=30,
    hidden=576,
    heads=9,
    head_dim=64,
    intermediate=1536,
    vocabulary=49152,
    normed=2 * 576,
    soft_caps=False,
    linear_weights=sum(m.inputs * m.outputs for m in SMOLLM2.linears),
    linear_inputs=sum(m.inputs for m in SMOLLM2.linears),
    other_weights=269_030_016 // 2 - sum(m.inputs * m.outputs for m in SMOLLM2.linears),
    width=2,
)


def reckoned(
    rows: int,
    columns: int,
    quantisation: Quantisation = "none",
    modules: tuple[str, ...] = ATTENTION,
    *,
    recompute: bool = False,
    shape: ModelShape = SHAPE,
) -> Estimate:
    return estimate(
        shape,
        SMOLLM2.adapter_schema(modules, rank=8, alpha=16.0),
        "AB",
        [PassShape(rows, columns, rows * columns // 2)],
        quantisation=quantisation,
        recompute=recompute,
        dropout=False,
        device="cpu",
    )


@pytest.mark.parametrize(
    ("case", "measured_mb"),
    [
        (reckoned(8, 64), 1361),
        (reckoned(8, 128), 2015),
        (reckoned(1, 1024), 1619),
        (reckoned(8, 128, recompute=True), 974),
        (reckoned(1, 64, "nf4"), 1016),
        (reckoned(8, 64, "nf4"), 1462),
        (reckoned(8, 64, "int8"), 1571),
    ],
)
def test_smollm2_takes_what_was_measured(case: Estimate, measured_mb: int) -> None:
    """Peaks by ``benchmarks/memory.py`` on Linux with one thread."""
    assert case.total / 1e6 == pytest.approx(measured_mb, rel=0.15)


def test_quantising_saves_what_it_should() -> None:
    plain, nf4 = reckoned(8, 128).weights, reckoned(8, 128, "nf4").weights
    assert plain == 269_030_016
    assert plain - nf4 == pytest.approx(SHAPE.linear_weights * 1.4375, rel=1e-6)


def test_recomputing_trades_activations_only() -> None:
    kept, again = reckoned(8, 128), reckoned(8, 128, recompute=True)
    assert again.activations < kept.activations / 4
    for field in ("runtime", "weights", "adapter", "logits"):
        assert getattr(again, field) == getattr(kept, field)


def test_the_largest_pass_decides() -> None:
    schema = SMOLLM2.adapter_schema(ATTENTION, rank=8, alpha=16.0)
    small, large = PassShape(1, 64, 32), PassShape(8, 128, 512)
    both, one = (
        estimate(
            SHAPE,
            schema,
            "AB",
            passes,
            quantisation="none",
            recompute=False,
            dropout=False,
            device="cpu",
        ).total
        for passes in ([small, large, small], [large])
    )
    assert both == one


def test_a_wide_vocabulary_shows_in_the_evaluation() -> None:
    wide = dataclasses.replace(SHAPE, vocabulary=262_144)
    assert reckoned(1, 16, shape=wide).other > 700_000_000
    assert reckoned(8, 512, shape=wide).other == 0


def test_the_parts_add_up_and_are_shown() -> None:
    one = Estimate(runtime=1, weights=2, adapter=3, activations=4, logits=5_000_000_000, other=6)
    assert one.total == 5_000_000_016
    assert str(one).startswith("5.00 GB (weights 0.00,")


def test_the_shape_is_read_from_the_model() -> None:
    base = tiny_model()
    shape = read_shape(base, read_card(base), "cpu")
    assert (shape.layers, shape.hidden, shape.heads) == (LAYERS, WIDTH, HEADS)
    assert (shape.intermediate, shape.vocabulary, shape.width) == (INNER, VOCABULARY, 4)
    assert shape.weight_bytes("none") == read_card(base).n_bytes
    assert read_shape(base, read_card(base), "cuda").width == 2


def test_norms_of_queries_and_keys_and_soft_caps_are_read_too() -> None:
    keys = WIDTH // HEADS * KEY_VALUE_HEADS
    expected = {
        "llama": (2 * WIDTH, False),
        "qwen3": (3 * WIDTH + keys, False),
        "gemma2": (4 * WIDTH, True),
        "gemma3_text": (5 * WIDTH + keys, False),
        "phi": (WIDTH, False),
    }
    for architecture, said in expected.items():
        base = tiny_model(architecture)
        shape = read_shape(base, read_card(base), "cpu")
        assert (shape.normed, shape.soft_caps) == said, architecture


def test_dropout_keeps_an_input_for_each_adapter() -> None:
    plain, dropping = (
        Kept(SHAPE, SMOLLM2.adapter_schema(ATTENTION, rank=8, alpha=16.0), "none", "cpu", dropout=d)
        for d in (False, True)
    )
    one = PassShape(8, 64, 256)
    more = dropping.layers(one, recompute=False) - plain.layers(one, recompute=False)
    # q, k, v and o: eight of two bytes a number, in place of two.
    assert more == 30 * 8 * 64 * 576 * 2 * (8 - 2)


@pytest.mark.parametrize("damage", ["{", "[]", "{}", '{"hidden_size": "x"}'])
def test_a_configuration_that_does_not_say_is_an_error(tmp_path: Path, damage: str) -> None:
    base = build_tiny_model(tmp_path / "base")
    card = read_card(base)
    (base / "config.json").write_text(damage)
    with pytest.raises(ModelError, match=r"config\.json does not say"):
        read_shape(base, card, "cpu")


def test_a_vision_model_says_it_of_its_text_part(tmp_path: Path) -> None:
    base = build_tiny_model(tmp_path / "base")
    config = base / "config.json"
    config.write_text(json.dumps({"text_config": json.loads(config.read_text())}))
    assert read_shape(base, read_card(base), "cpu").layers == LAYERS


def test_shapes_of_passes_are_padded() -> None:
    examples = [Example(tuple(range(n)), 4) for n in (10, 20, 10)]
    shapes = pass_shapes(examples, [(0, 1), (2,), (0,)])
    assert shapes == {PassShape(2, 20, 22), PassShape(1, 10, 6)}
