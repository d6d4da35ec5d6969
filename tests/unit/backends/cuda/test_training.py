"""The torch loop's arithmetic: gradients, accumulation, quantised bases, memory errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from backends.base import EvalStep, ForwardPlan, Quantisation, TrainJob, TrainStep
from backends.cuda import BACKEND
from backends.cuda.errors import memory_errors
from backends.cuda.model import TorchModel
from backends.cuda.training import TorchEngine
from backends.training import Training
from federation.errors import OutOfMemory
from tests.tiny import Architecture, tiny_model
from tests.tiny_training import RECIPE, examples, schema_for, write_initial, write_random


def quiet(_: TrainStep | EvalStep) -> None:
    """No progress wanted."""


def loaded(tmp_path: Path, quantisation: Quantisation = "none") -> TorchModel:
    model = BACKEND.load(tiny_model(), threads=1, quantisation=quantisation)
    schema = schema_for(tiny_model())
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema)
    assert isinstance(model, TorchModel)
    return model


WIDE = ForwardPlan(tokens=100_000)


def gradients(
    model: TorchModel, batches: list[tuple[int, ...]], forward: ForwardPlan = WIDE
) -> tuple[float, np.ndarray]:
    """Loss and all LoRA gradients of one step."""
    assert model._lora is not None
    job = TrainJob(examples(model), RECIPE, forward=forward)
    engine = TorchEngine(model._model, model._lora, job, keep_threads=True)
    loss = Training(engine, job, quiet, {}).accumulate(batches)
    parameters = model._lora.live().values()
    found = [p.grad.numpy().ravel() for p in parameters if p.grad is not None]
    assert len(found) == len(parameters)
    model._lora.stop_training()
    return loss, np.concatenate(found)


def test_two_by_four_equals_a_batch_of_eight(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    whole, whole_gradients = gradients(model, [(0, 1, 2, 3, 4, 5, 6, 7)])
    # Completions differ in length, so a mean of means would not pass.
    parts, parts_gradients = gradients(model, [(0, 1), (2, 3), (4, 5), (6, 7)])
    assert parts == pytest.approx(whole, rel=1e-5)
    error = np.linalg.norm(parts_gradients - whole_gradients) / np.linalg.norm(whole_gradients)
    assert error < 1e-5


@pytest.mark.parametrize(
    ("forward", "widest", "most"),
    [(ForwardPlan(160), 160, 4), (ForwardPlan(1), 82, 1), (ForwardPlan(100_000, rows=3), 250, 3)],
)
def test_a_batch_too_wide_for_one_pass_is_cut_without_changing_the_gradients(
    tmp_path: Path, forward: ForwardPlan, widest: int, most: int
) -> None:
    model = loaded(tmp_path)
    whole, whole_gradients = gradients(model, [(0, 1, 2, 3, 4, 5, 6, 7)])
    seen: list[torch.Size] = []
    passes = model._model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    parts, parts_gradients = gradients(model, [(0, 1, 2, 3, 4, 5, 6, 7)], forward)
    passes.remove()
    assert len(seen) > 1
    assert sum(rows for rows, _ in seen) == 8
    assert max(shape.numel() for shape in seen) <= widest
    assert max(rows for rows, _ in seen) <= most
    assert parts == pytest.approx(whole, rel=1e-5)
    error = np.linalg.norm(parts_gradients - whole_gradients) / np.linalg.norm(whole_gradients)
    assert error < 1e-5


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "mistral"])
def test_recomputing_activations_gives_the_same_gradients(
    tmp_path: Path, architecture: Architecture
) -> None:
    """Also with dropout: the second forward pass must draw the same masks."""
    base = tiny_model(architecture)
    model = BACKEND.load(base, threads=1)
    assert isinstance(model, TorchModel)
    schema = schema_for(base)
    model.attach(write_random(tmp_path / "a.safetensors", schema), schema, dropout=0.3)
    calls = {False: 0, True: 0}
    found = {}
    for recompute in calls:

        def count(*_: object, recompute: bool = recompute) -> None:
            calls[recompute] += 1

        hook = model._model.get_submodule("model.layers.0.self_attn").register_forward_hook(count)
        torch.manual_seed(0)
        found[recompute] = gradients(model, [(0, 1, 2)], replace(WIDE, recompute=recompute))
        hook.remove()
    assert calls == {False: 1, True: 2}
    assert found[True][0] == found[False][0]
    assert np.array_equal(found[True][1], found[False][1])


def test_gradients_are_those_of_the_loss(tmp_path: Path) -> None:
    """A small step against the gradient lowers the loss by step * |gradient|^2."""
    model = loaded(tmp_path)
    before, gradient = gradients(model, [(0, 1, 2)])
    assert model._lora is not None
    step = 1e-3 / np.linalg.norm(gradient)
    taken = 0
    with torch.no_grad():
        for parameter in model._lora.start_training("AB"):
            part = gradient[taken : taken + parameter.numel()].reshape(parameter.shape)
            parameter -= torch.from_numpy(step * part)
            taken += parameter.numel()
    after, _ = gradients(model, [(0, 1, 2)])
    assert (before - after) / step == pytest.approx(gradient @ gradient, rel=0.05)


@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_a_quantised_base_trains(tmp_path: Path, quantisation: Quantisation) -> None:
    model = loaded(tmp_path, quantisation)
    assert model.quantisation == quantisation
    layer = model._model.get_submodule("model.layers.0.self_attn.q_proj").base_layer
    assert layer.weight.dtype in {torch.uint8, torch.int8}
    before = sum(loss.loss for loss in model.losses(examples(model)))
    model.train(TrainJob(examples(model), RECIPE), quiet)
    assert sum(loss.loss for loss in model.losses(examples(model))) < before - 0.1


@pytest.mark.parametrize("quantisation", ["nf4", "int8"])
def test_evaluating_first_changes_no_gradient(tmp_path: Path, quantisation: Quantisation) -> None:
    """bitsandbytes must not swap in a product without a gradient."""
    model = loaded(tmp_path, quantisation)
    _, fresh = gradients(model, [(0, 1, 2)])
    model.losses(examples(model))
    _, after = gradients(model, [(0, 1, 2)])
    assert np.array_equal(fresh, after)


@pytest.mark.parametrize(("quantisation", "distance"), [("nf4", 0.35), ("int8", 0.05)])
def test_a_quantised_base_has_nearly_the_same_gradient(
    tmp_path: Path, quantisation: Quantisation, distance: float
) -> None:
    _, exact = gradients(loaded(tmp_path), [(0, 1, 2)])
    _, close = gradients(loaded(tmp_path, quantisation), [(0, 1, 2)])
    assert np.linalg.norm(close - exact) / np.linalg.norm(exact) < distance


def test_only_the_adapter_learns(tmp_path: Path) -> None:
    model = loaded(tmp_path)
    base = {n: p.clone() for n, p in model._model.named_parameters() if "lora" not in n}
    model.train(TrainJob(examples(model), RECIPE), quiet)
    assert all(not p.requires_grad for p in model._model.parameters())
    for name, parameter in model._model.named_parameters():
        if name in base:
            assert torch.equal(parameter, base[name])


def test_weight_decay_shrinks_what_has_no_gradient(tmp_path: Path) -> None:
    # While B is zero, A's gradient is exactly zero: what is left of the step is the decay.
    schema = schema_for(tiny_model())
    model = BACKEND.load(tiny_model(), threads=1)
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
    events: list[TrainStep | EvalStep] = []
    recipe = RECIPE.model_copy(update={"max_grad_norm": 1e-3, "steps": 1})
    model.train(TrainJob(examples(model), recipe), events.append)
    assert isinstance(events[0], TrainStep)
    # Reported is the norm before clipping.
    assert events[0].grad_norm > 1e-2


def test_dropout_is_on_in_training_only(tmp_path: Path) -> None:
    model = BACKEND.load(tiny_model(), threads=1)
    schema = schema_for(tiny_model())
    model.attach(write_random(tmp_path / "a.safetensors", schema, scale=0.5), schema, dropout=0.5)
    assert isinstance(model, TorchModel)
    torch.manual_seed(0)
    first, second = (gradients(model, [(0, 1, 2)])[0] for _ in range(2))
    assert first != second
    assert model.losses(examples(model)) == model.losses(examples(model))


def test_running_out_of_memory_is_a_backend_error() -> None:
    with pytest.raises(OutOfMemory, match="while training step 3"):  # noqa: SIM117
        with memory_errors("training step 3"):
            torch.empty(1 << 50)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), memory_errors("training"):
        torch.ones(2) @ torch.ones(3, 3)
