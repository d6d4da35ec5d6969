"""What every training engine must do; one that cannot run here must say why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from backends import discover, probes
from backends.base import (
    Backend,
    EvalStep,
    Example,
    ExampleLoss,
    GenerateOptions,
    LoadedModel,
    TrainJob,
    TrainStep,
)
from federation.errors import AdapterError, BackendError, DataError, ModelError
from tests.tiny import Architecture, build_tiny_model, tiny_model
from tests.tiny_training import (
    FACTS,
    RECIPE,
    conversation,
    examples,
    schema_for,
    write_initial,
    write_random,
)

QUESTION = conversation("asthma")[:1]


def quiet(_: TrainStep | EvalStep) -> None:
    """No progress wanted."""


@pytest.fixture(params=[probe.backend for probe in probes() if probe.available])
def backend(request: pytest.FixtureRequest) -> Backend:
    return discover()[request.param]


@pytest.fixture
def model(backend: Backend) -> LoadedModel:
    return backend.load(tiny_model(), threads=1)


@pytest.fixture
def adapted(model: LoadedModel, tmp_path: Path) -> LoadedModel:
    schema = schema_for(tiny_model())
    model.attach(write_initial(tmp_path / "start.safetensors", schema), schema)
    return model


def mean_loss(losses: Sequence[ExampleLoss]) -> float:
    return float(np.average([x.loss for x in losses], weights=[x.n_tokens for x in losses]))


@pytest.mark.parametrize("name", sorted(discover()))
def test_an_engine_that_cannot_run_says_why_and_refuses_to_load(name: str) -> None:
    backend = discover()[name]
    probe = backend.probe()
    assert probe.backend == backend.name == name
    assert probe.reason.endswith(".")
    if not probe.available:
        with pytest.raises(BackendError):
            backend.load(tiny_model())


def test_a_probe_of_a_usable_engine_is_complete(backend: Backend) -> None:
    probe = backend.probe()
    assert probe.device in {"metal", "cuda", "mps", "cpu"}
    assert probe.engine
    assert probe.version
    assert probe.memory_bytes > 1 << 28
    assert "none" in probe.quantisations


def test_engine_names_itself_with_its_version(model: LoadedModel, backend: Backend) -> None:
    assert model.engine == f"{backend.probe().engine} {backend.probe().version}"
    assert model.quantisation == "none"


def test_a_folder_without_a_model_is_refused(backend: Backend, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"needs config\.json"):
        backend.load(tmp_path)


@pytest.mark.parametrize(
    "damage", ["config", "cut", "missing tensor", "no object", "unknown type", "no decoder"]
)
def test_a_damaged_model_is_refused(backend: Backend, tmp_path: Path, damage: str) -> None:
    base = build_tiny_model(tmp_path / "base")
    weights, config = base / "model.safetensors", base / "config.json"
    match damage:
        case "config":
            config.write_text("{")
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "missing tensor":
            changed = weights.read_bytes().replace(b"model.norm.weight", b"model.nurm.weight")
            weights.write_bytes(changed)
        case "no object":
            config.write_text("[]")
        case "unknown type":
            config.write_text(config.read_text().replace('"llama"', '"lhama"'))
        case "no decoder":
            config.write_text(config.read_text().replace('"llama"', '"t5"'))
    with pytest.raises(ModelError, match=r"base|'t5'") as caught:
        backend.load(base)
    assert ("another architecture" in caught.value.hint) is (damage == "unknown type")


def test_losses_come_in_the_given_order(model: LoadedModel) -> None:
    batch = examples(model)
    together = model.losses(batch)
    alone = [model.losses([example])[0] for example in batch]
    assert [x.n_tokens for x in together] == [example.n_completion for example in batch]
    assert [x.loss for x in together] == pytest.approx([x.loss for x in alone], rel=1e-4)
    assert len({round(x.loss, 3) for x in together}) == len(batch)


def test_evaluation_reports_its_progress(model: LoadedModel) -> None:
    seen: list[TrainStep | EvalStep] = []
    losses = model.losses(examples(model), seen.append)
    assert isinstance(seen[-1], EvalStep)
    assert (seen[-1].done, seen[-1].of) == (len(FACTS), len(FACTS))
    assert seen[-1].loss == pytest.approx(mean_loss(losses))


def test_an_example_without_completion_is_named(model: LoadedModel) -> None:
    good, bad = examples(model)[:2]
    with pytest.raises(DataError, match="Example 1"):
        model.losses([good, replace(bad, n_prompt=len(bad.tokens))])


def test_an_example_longer_than_the_context_is_named(adapted: LoadedModel) -> None:
    good = examples(adapted)[0]
    long = Example(good.tokens * 200, good.n_prompt)
    with pytest.raises(DataError, match=r"Example 1 has .* reads at most 1024"):
        adapted.losses([good, long])
    for job in (TrainJob([good, long], RECIPE), TrainJob([good], RECIPE, held_out=[good, long])):
        with pytest.raises(DataError, match=r"Example 1 has .* reads at most 1024"):
            adapted.train(job, quiet)


def test_the_initial_adapter_changes_nothing(model: LoadedModel, tmp_path: Path) -> None:
    before = model.losses(examples(model))
    schema = schema_for(tiny_model())
    model.attach(write_initial(tmp_path / "a.safetensors", schema), schema)
    assert model.losses(examples(model)) == before


def test_swap_and_detach_are_exact(model: LoadedModel, tmp_path: Path) -> None:
    schema = schema_for(tiny_model())
    batch = examples(model)
    first = write_random(tmp_path / "1.safetensors", schema, seed=1)
    second = write_random(tmp_path / "2.safetensors", schema, seed=2)
    plain = model.losses(batch)
    model.attach(first, schema)
    with_first = model.losses(batch)
    model.attach(second, schema)
    with_second = model.losses(batch)
    model.attach(first, schema)
    assert model.losses(batch) == with_first
    model.detach()
    assert model.losses(batch) == plain
    assert with_first != plain != with_second != with_first


def test_an_adapter_of_another_shape_replaces_the_first(model: LoadedModel, tmp_path: Path) -> None:
    small, large = schema_for(tiny_model(), ("v_proj",), rank=2), schema_for(tiny_model(), rank=16)
    batch = examples(model)
    plain = model.losses(batch)
    model.attach(write_random(tmp_path / "small.safetensors", small), small)
    model.attach(write_initial(tmp_path / "large.safetensors", large), large, dropout=0.5)
    assert model.losses(batch) == plain
    model.detach()
    model.detach()
    assert model.losses(batch) == plain


def test_a_saved_adapter_has_the_same_bytes(model: LoadedModel, tmp_path: Path) -> None:
    schema = schema_for(tiny_model())
    source = write_random(tmp_path / "a.safetensors", schema)
    model.attach(source, schema)
    model.save_adapter(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == source.read_bytes()


def test_an_adapter_that_does_not_fit_leaves_the_old_one(
    adapted: LoadedModel, tmp_path: Path
) -> None:
    before = adapted.losses(examples(adapted))
    schema = schema_for(tiny_model())
    wrong = write_random(tmp_path / "wrong.safetensors", schema_for(tiny_model(), rank=4))
    with pytest.raises(AdapterError, match=r"wrong\.safetensors.*shape"):
        adapted.attach(wrong, schema)
    with pytest.raises(AdapterError, match="cannot be read"):
        adapted.attach(tmp_path / "absent.safetensors", schema)
    infinite = write_random(tmp_path / "inf.safetensors", schema, scale=float("inf"))
    with pytest.raises(AdapterError, match="not finite"):
        adapted.attach(infinite, schema)
    assert adapted.losses(examples(adapted)) == before


def test_an_adapter_for_another_base_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    schema = schema_for(tiny_model(), ("q_proj",))
    moved = tuple(m.model_copy(update={"path": f"{m.path}x"}) for m in schema.modules)
    other = schema.model_copy(update={"modules": moved})
    with pytest.raises(AdapterError, match=r"q_projx.*no such layer"):
        model.attach(write_random(tmp_path / "a.safetensors", other), other)


def test_without_an_adapter_there_is_nothing_to_train_or_save(
    model: LoadedModel, tmp_path: Path
) -> None:
    with pytest.raises(AdapterError, match="No adapter"):
        model.train(TrainJob(examples(model), RECIPE), quiet)
    with pytest.raises(AdapterError, match="No adapter"):
        model.save_adapter(tmp_path / "a.safetensors")


RECIPES = {
    "r8 on qv": ({"modules": ("q_proj", "v_proj"), "rank": 8, "alpha": 16.0}, {}),
    "r16 on qkv": (
        {"modules": ("q_proj", "k_proj", "v_proj"), "rank": 16, "alpha": 32.0},
        {"dropout": 0.05, "weight_decay": 0.01},
    ),
    "r16 on qkvo": (
        {"modules": ("q_proj", "k_proj", "v_proj", "o_proj"), "rank": 16, "alpha": 32.0},
        {"batch_size": 2, "accumulation": 4, "steps": None, "epochs": 3.0, "schedule": "cosine"},
    ),
    "r8 on mlp": (
        {"modules": ("gate_proj", "up_proj", "down_proj"), "rank": 8, "alpha": 8.0},
        {"schedule": "linear"},
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_known_recipes_lower_the_loss(
    backend: Backend, tmp_path: Path, recipe: str, architecture: Architecture
) -> None:
    lora, changes = RECIPES[recipe]
    base = tiny_model(architecture, "BF16")
    schema = schema_for(base, **lora)
    training = RECIPE.model_copy(update=changes)
    model = backend.load(base, threads=1)
    start = write_initial(tmp_path / "a.safetensors", schema)
    model.attach(start, schema, dropout=training.dropout)
    before = mean_loss(model.losses(examples(model)))
    result = model.train(TrainJob(examples(model), training), quiet)
    assert mean_loss(model.losses(examples(model))) < before - 0.02
    assert result.steps == len(result.step_losses) == training.optimizer_steps(len(FACTS))


@pytest.mark.parametrize(("factors", "frozen"), [("A", "B"), ("B", "A")])
def test_a_frozen_factor_keeps_every_bit(
    model: LoadedModel, tmp_path: Path, factors: str, frozen: str
) -> None:
    schema = schema_for(tiny_model())
    start = write_random(tmp_path / "start.safetensors", schema)
    model.attach(start, schema)
    model.train(TrainJob(examples(model), RECIPE, factors=factors), quiet)
    model.save_adapter(tmp_path / "end.safetensors")
    old, new = load_file(start), load_file(tmp_path / "end.safetensors")
    for name in schema.shapes(frozen):
        assert old[name].tobytes() == new[name].tobytes()
    for name in schema.shapes(factors):
        assert not np.array_equal(old[name], new[name])


def test_the_same_job_gives_the_same_adapter(model: LoadedModel, tmp_path: Path) -> None:
    schema = schema_for(tiny_model())
    recipe = RECIPE.model_copy(update={"dropout": 0.2})
    for name in ("one", "two"):
        start = write_initial(tmp_path / "start.safetensors", schema)
        model.attach(start, schema, dropout=recipe.dropout)
        model.train(TrainJob(examples(model), recipe), quiet)
        model.save_adapter(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_training_reports_every_step(adapted: LoadedModel) -> None:
    seen: list[TrainStep | EvalStep] = []
    batch = examples(adapted)
    recipe = RECIPE.model_copy(update={"eval_every": 2})
    job = TrainJob(batch[:6], recipe, held_out=batch[6:])
    result = adapted.train(job, seen.append)
    steps = [event for event in seen if isinstance(event, TrainStep)]
    assert [event.step for event in steps] == [1, 2, 3, 4]
    assert {event.of for event in steps} == {4}
    assert tuple(event.loss for event in steps) == result.step_losses
    assert [event.learning_rate for event in steps] == [1e-2] * 4
    assert all(event.grad_norm > 0 and event.tokens_per_second > 0 for event in steps)
    assert steps[-1].seconds_left == 0
    assert sum(event.n_tokens for event in steps) == result.n_tokens
    assert result.peak_memory_bytes > 1 << 20
    kinds = "".join("e" if isinstance(event, EvalStep) else "t" for event in seen)
    assert kinds == "ttette"
    assert seen[-1].loss == pytest.approx(mean_loss(adapted.losses(batch[6:])))


def test_a_later_start_sees_what_follows(adapted: LoadedModel) -> None:
    batch = examples(adapted)
    recipe = RECIPE.model_copy(update={"learning_rate": 1e-12, "steps": 6, "batch_size": 2})
    whole = adapted.train(TrainJob(batch, recipe), quiet).step_losses
    rest = recipe.model_copy(update={"steps": 3})
    later = adapted.train(TrainJob(batch, rest, start_step=3), quiet).step_losses
    assert later == pytest.approx(whole[3:], rel=1e-5)


def test_an_exception_from_progress_ends_the_training(adapted: LoadedModel) -> None:
    class StopIt(Exception):
        pass

    def stop(_: TrainStep | EvalStep) -> None:
        raise StopIt

    with pytest.raises(StopIt):
        adapted.train(TrainJob(examples(adapted), RECIPE), stop)
    losses = adapted.losses(examples(adapted))
    assert adapted.losses(examples(adapted)) == losses
    assert adapted.train(TrainJob(examples(adapted), RECIPE), quiet).steps == 4


def test_a_loss_that_is_not_finite_names_step_and_examples(
    model: LoadedModel, tmp_path: Path
) -> None:
    schema = schema_for(tiny_model())
    model.attach(write_random(tmp_path / "huge.safetensors", schema, scale=1e30), schema)
    with pytest.raises(BackendError, match=r"examples \[\d.*step 1"):
        model.train(TrainJob(examples(model), RECIPE), quiet)


def test_no_training_examples_is_an_error(adapted: LoadedModel) -> None:
    with pytest.raises(DataError, match="no training examples"):
        adapted.train(TrainJob([], RECIPE), quiet)


def test_answers_are_a_stream_that_can_be_closed(model: LoadedModel) -> None:
    options = GenerateOptions(max_tokens=12)
    whole = list(model.generate(QUESTION, options))
    assert 0 < len(whole) <= 12
    assert all(0 < token.probability <= 1 for token in whole)
    stream = model.generate(QUESTION, options)
    assert next(stream).text == whole[0].text
    stream.close()
    again = list(model.generate(QUESTION, options))
    assert [token.text for token in again] == [token.text for token in whole]
    # The second time keys and values of the question are known, in another batch of sums.
    assert [token.probability for token in again] == pytest.approx(
        [token.probability for token in whole], rel=1e-3
    )


def answer(model: LoadedModel) -> str:
    return "".join(token.text for token in model.generate(QUESTION, GenerateOptions(max_tokens=12)))


def test_an_adapter_changes_the_answer_at_once(model: LoadedModel, tmp_path: Path) -> None:
    schema = schema_for(tiny_model())
    adapters = [write_random(tmp_path / f"{n}", schema, seed=n, scale=0.3) for n in range(2)]
    plain = answer(model)
    answers = []
    for adapter in adapters:
        model.detach()
        model.attach(adapter, schema)
        answers.append(answer(model))
    assert len({plain, *answers}) == 3
    for adapter, expected in zip(adapters, answers, strict=True):
        model.attach(adapter, schema)
        assert answer(model) == expected
    recipe = RECIPE.model_copy(update={"learning_rate": 0.1})
    model.train(TrainJob(examples(model), recipe), quiet)
    assert answer(model) not in {plain, *answers}
    model.detach()
    assert answer(model) == plain


def test_an_adapter_may_change_while_an_answer_is_open(model: LoadedModel, tmp_path: Path) -> None:
    schema = schema_for(tiny_model())
    adapter = write_random(tmp_path / "a.safetensors", schema, scale=0.3)
    stream = model.generate(QUESTION, GenerateOptions(max_tokens=12))
    next(stream)
    model.attach(adapter, schema)
    stream.close()
    after = answer(model)
    model.attach(adapter, schema)
    assert answer(model) == after


def test_sampling_follows_its_seed(model: LoadedModel) -> None:
    def sampled(seed: int) -> str:
        options = GenerateOptions(max_tokens=12, temperature=1.5, top_p=0.95, seed=seed)
        return "".join(token.text for token in model.generate(QUESTION, options))

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1


def test_an_answer_ends_before_a_stop_string(model: LoadedModel) -> None:
    tokens = list(model.generate(QUESTION, GenerateOptions(max_tokens=12)))
    whole = "".join(token.text for token in tokens)
    assert [token.finish for token in tokens] == [None] * (len(tokens) - 1) + ["length"]
    stop = whole[len(whole) // 2 :][:3]
    stopped = list(model.generate(QUESTION, GenerateOptions(max_tokens=12, stop=("absent", stop))))
    assert "".join(token.text for token in stopped) == whole[: whole.index(stop)]
    assert stopped[-1].finish == "stop"
    assert len(stopped) < len(tokens)


def test_a_batch_gives_each_its_own_answer(model: LoadedModel) -> None:
    chats = [conversation(name)[:1] for name in ("asthma", "shortness of breath", "cough")]
    for options in (
        GenerateOptions(max_tokens=12, repetition_penalty=1.1),
        GenerateOptions(max_tokens=12, temperature=1.2, seed=3),
    ):
        together = model.generate_batch(chats, options)
        alone = [list(model.generate(chat, options)) for chat in chats]
        assert [[t.text for t in answer] for answer in together] == [
            [t.text for t in answer] for answer in alone
        ]
    with pytest.raises(DataError, match="reads at most 1024"):
        model.generate_batch([*chats, [{"role": "user", "content": "blood " * 2000}]], options)


def test_a_prompt_is_counted_in_tokens(model: LoadedModel) -> None:
    example = model.encode(conversation("asthma"), max_length=256)
    assert model.n_prompt_tokens(QUESTION) == example.n_prompt


def test_a_question_longer_than_the_context_is_refused(model: LoadedModel) -> None:
    question = [{"role": "user", "content": "blood " * 2000}]
    with pytest.raises(DataError, match="reads at most 1024"):
        next(model.generate(question, GenerateOptions()))


def test_without_a_chat_template_nothing_is_encoded(backend: Backend, tmp_path: Path) -> None:
    model = backend.load(build_tiny_model(tmp_path / "base", chat_template=False), threads=1)
    with pytest.raises(ModelError, match="chat template"):
        model.encode(conversation("asthma"), max_length=256)
