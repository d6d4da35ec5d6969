"""The MLX loop's arithmetic: gradients, accumulation, recomputation, compilation, memory."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file

from backends.base import EvalStep, ForwardPlan, Note, Quantisation, Resumed, TrainJob, TrainStep
from backends.mlx import BACKEND
from backends.mlx import evaluation as mlx_evaluation
from backends.mlx import training as mlx_training
from backends.mlx.errors import memory_errors
from backends.mlx.head import Head
from backends.mlx.model import MlxModel
from backends.mlx.training import MlxEngine
from backends.training import Training
from federation.errors import OutOfMemory
from tests.tiny import Architecture, tiny_model
from tests.tiny_training import RECIPE, examples, schema_for, write_initial, write_random

WIDE = ForwardPlan(tokens=100_000)
EIGHT = [(0, 1, 2, 3, 4, 5, 6, 7)]
Event = TrainStep | EvalStep | Resumed | Note


def quiet(_: Event) -> None:
    """No progress wanted."""


def loaded(
    tmp_path: Path,
    quantisation: Quantisation = "none",
    *,
    dropout: float = 0.0,
    architecture: Architecture = "llama",
    modules: tuple[str, ...] = ("q_proj", "down_proj"),
) -> MlxModel:
    base = tiny_model(architecture)
    model = BACKEND.load(base, quantisation=quantisation)
    schema = schema_for(base, modules)
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema, dropout=dropout)
    assert isinstance(model, MlxModel)
    return model


def gradients(
    model: MlxModel, batches: list[tuple[int, ...]], forward: ForwardPlan = WIDE
) -> tuple[float, np.ndarray]:
    """Loss and all LoRA gradients of one step."""
    assert model._lora is not None
    job = TrainJob(examples(model), RECIPE, forward=forward)
    engine = MlxEngine(model._model, model._head, model._lora, job)
    loss = Training(engine, job, quiet, {}).accumulate(batches)
    captured = engine.capture(gradients=True)
    found = [captured[name].ravel() for name in sorted(captured) if name.startswith("gradient.")]
    return loss, np.concatenate(found)


def assert_same(found: tuple[float, np.ndarray], expected: tuple[float, np.ndarray]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert np.linalg.norm(found[1] - expected[1]) < 1e-5 * np.linalg.norm(expected[1])


@pytest.mark.parametrize(
    ("batches", "forward"),
    [
        ([(0, 1), (2, 3), (4, 5), (6, 7)], WIDE),
        (EIGHT, ForwardPlan(160)),
        (EIGHT, ForwardPlan(1)),
        (EIGHT, ForwardPlan(100_000, rows=3)),
    ],
)
def test_how_a_step_is_cut_changes_no_gradient(
    tmp_path: Path, batches: list[tuple[int, ...]], forward: ForwardPlan
) -> None:
    model = loaded(tmp_path)
    # Completions differ in length, so a mean of means would not pass.
    assert_same(gradients(model, batches, forward), gradients(model, EIGHT))


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_recomputing_gives_the_same_gradients_with_the_same_dropout(
    tmp_path: Path, architecture: Architecture
) -> None:
    model = loaded(tmp_path, dropout=0.3, architecture=architecture)
    layers = list(model._model.layers)
    kept = gradients(model, EIGHT)
    assert_same(gradients(model, EIGHT, ForwardPlan(100_000, recompute=True)), kept)
    assert all(a is b for a, b in zip(model._model.layers, layers, strict=True))
    assert abs(kept[0] - gradients(loaded(tmp_path, architecture=architecture), EIGHT)[0]) > 1e-2


def test_recomputing_takes_less_memory(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    peaks = []
    for recompute in (False, True):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        gradients(model, EIGHT, ForwardPlan(100_000, recompute=recompute))
        peaks.append(mx.get_peak_memory() - before)
    # With two layers, one of which is whole in memory when the backward pass is in it.
    assert peaks[1] < 0.9 * peaks[0]


def test_the_compiled_step_computes_the_same_and_few_times_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.model_copy(update={"steps": 12, "batch_size": 3})
    traced = []
    passes = MlxEngine._pass
    monkeypatch.setattr(MlxEngine, "_pass", lambda self, *a: traced.append(1) or passes(self, *a))
    finals = []
    for device in ("cpu", "metal"):
        monkeypatch.setattr(mlx_training, "device", lambda device=device: device)
        model = loaded(tmp_path, modules=("v_proj",))
        model.train(TrainJob(examples(model), recipe), quiet)
        assert model._lora is not None
        finals.append(np.concatenate([x.ravel() for x in model._lora.tensors().values()]))
    assert np.abs(finals[0] - finals[1]).max() < 1e-4
    # 12 times as it is, and compiled once for each of a few sizes.
    assert 12 < len(traced) < 12 + 9


def test_gradients_are_those_of_the_loss(tmp_path: Path) -> None:
    """A small step against the gradient lowers the loss by step * |gradient|^2."""
    model = loaded(tmp_path)
    before, gradient = gradients(model, [(0, 1, 2)])
    assert model._lora is not None
    step, taken = 1e-3 / np.linalg.norm(gradient), 0
    for name, factor in sorted(model._lora.arrays("AB").items()):
        part = gradient[taken : taken + factor.size].reshape(factor.shape)
        model._lora.put({name: factor - mx.array((step * part).astype("f4"))})
        taken += factor.size
    after, _ = gradients(model, [(0, 1, 2)])
    assert (before - after) / step == pytest.approx(gradient @ gradient, rel=0.05)


@pytest.mark.parametrize(("quantisation", "distance"), [("affine4", 0.35), ("affine8", 0.03)])
def test_a_quantised_base_trains_by_nearly_the_same_gradient(
    tmp_path: Path, quantisation: Quantisation, distance: float
) -> None:
    model = loaded(tmp_path, quantisation)
    assert model.quantisation == quantisation
    _, exact = gradients(loaded(tmp_path), [(0, 1, 2)])
    _, close = gradients(model, [(0, 1, 2)])
    assert 1e-4 < np.linalg.norm(close - exact) / np.linalg.norm(exact) < distance
    before = sum(loss.loss for loss in model.losses(examples(model)))
    model.train(TrainJob(examples(model), RECIPE), quiet)
    assert sum(loss.loss for loss in model.losses(examples(model))) < before - 0.1


def test_weight_decay_shrinks_what_has_no_gradient(tmp_path: Path) -> None:
    # While B is zero, A's gradient is exactly zero: what is left of the step is the decay.
    schema = schema_for(tiny_model())
    model = BACKEND.load(tiny_model())
    start = write_initial(tmp_path / "start.safetensors", schema)
    model.attach(start, schema)
    recipe = RECIPE.model_copy(update={"weight_decay": 0.5, "steps": 2, "warmup_steps": 0})
    model.train(TrainJob(examples(model), recipe, factors="A"), quiet)
    model.save_adapter(tmp_path / "end.safetensors")
    old, new = load_file(start), load_file(tmp_path / "end.safetensors")
    kept = (1 - recipe.learning_rate * recipe.weight_decay) ** 2
    for name in schema.shapes("A"):
        assert np.allclose(new[name], old[name] * kept, rtol=1e-5)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    assert model._lora is not None
    job = TrainJob(examples(model), RECIPE.model_copy(update={"max_grad_norm": 1e-3}))
    engine = MlxEngine(model._model, model._head, model._lora, job)
    Training(engine, job, quiet, {}).accumulate(EIGHT)
    # Reported is the norm before clipping.
    assert engine.update(1e-3) > 1e-2
    moments = engine.capture(gradients=False)
    first = np.concatenate([v.ravel() for n, v in moments.items() if n.startswith("m.")])
    # After one step the first moment is a tenth of the clipped gradient.
    assert np.linalg.norm(first) == pytest.approx(1e-4, rel=1e-2)


def test_dropout_is_on_in_training_only(tmp_path: Path) -> None:
    model = loaded(tmp_path, dropout=0.5)
    job = TrainJob(examples(model), RECIPE)
    assert model._lora is not None
    engine = MlxEngine(model._model, model._head, model._lora, job)
    first, second, again = (
        engine.backward(examples(model)[:3], 10, recompute=False, place=place)
        for place in (0, 1, 0)
    )
    assert first == again != second
    assert model.losses(examples(model)) == model.losses(examples(model))


def test_running_out_of_memory_takes_the_plan_down_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = loaded(tmp_path, dropout=0.2)
    whole = MlxEngine.backward
    widest: list[int] = []
    room = 2

    def tight(self: MlxEngine, batch: list, *args: int, **kwargs: int) -> float:  # type: ignore[type-arg]
        widest.append(len(batch))
        if len(batch) > room:
            raise RuntimeError("[metal::malloc] Attempting to allocate 99 bytes which is too much")
        return whole(self, batch, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(MlxEngine, "backward", tight)
    seen: list[Event] = []
    model.train(TrainJob(examples(model), RECIPE), seen.append)
    assert sum(isinstance(event, TrainStep) for event in seen) == 4
    assert [e.text[:41] for e in seen if isinstance(e, Note)] == [
        "Out of memory while training step 1. It i"
    ]
    assert widest[0] == 3
    assert max(widest[1:]) <= room
    room = 0
    with pytest.raises(OutOfMemory, match="training step 1"):
        model.train(TrainJob(examples(model), RECIPE), quiet)


def test_an_evaluation_that_runs_out_of_memory_is_halved_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for Metal's refusal: the processor build would end the process."""
    model = loaded(tmp_path)
    expected = model.losses(examples(model))
    whole = mlx_evaluation.token_losses
    room = 6

    def tight(head: Head, ids: mx.array, *given: mx.array) -> mx.array:
        if len(ids) > room:
            raise RuntimeError("[metal::malloc] Attempting to allocate 99 bytes which is too much")
        return whole(head, ids, *given)

    monkeypatch.setattr(mlx_evaluation, "token_losses", tight)
    seen: list[Event] = []
    for _ in range(2):
        found = model.losses(examples(model), seen.append)
        assert [x.loss for x in found] == pytest.approx([x.loss for x in expected], rel=1e-5)
    notes = [event.text for event in seen if isinstance(event, Note)]
    assert [note[:30] for note in notes] == ["Out of memory while evaluating"]
    room = 0
    with pytest.raises(OutOfMemory, match="evaluating"):
        model.losses(examples(model))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[malloc] Unable to allocate 9 B")])
def test_memory_errors_become_ours(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match="while step 3"), memory_errors("step 3"):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(ValueError, match="shape"), memory_errors("training"):
        mx.eval(mx.ones((2, 2)) @ mx.ones((3, 3)))
