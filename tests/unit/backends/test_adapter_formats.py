"""PEFT's and mlx-lm's adapter folders: round trips as properties, and what is refused."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import mlx_folder, peft_config
from backends.lora_adapter import LoraAdapter, Scaling, alpha_for, read_file, write_file
from backends.mlx_folder import read_mlx, write_mlx
from backends.peft_folder import read_peft, write_peft
from federation.adapter import ModuleShape, tensor_name
from federation.errors import AdapterError

ENDINGS = ("self_attn.q_proj", "self_attn.qkv_proj", "self_attn.dense", "mlp.fc1", "mlp.down_proj")
PREFIXES = ("model.", "language_model.model.", "model.language_model.")
PLAIN = Scaling(8.0)
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)


def linears_of(prefix: str, layers: int = 3) -> tuple[ModuleShape, ...]:
    return tuple(
        ModuleShape(path=f"{prefix}layers.{n}.{ending}", inputs=4 + place, outputs=7 - place)
        for n in range(layers)
        for place, ending in enumerate(sorted(ENDINGS))
    )


def make(
    modules: tuple[ModuleShape, ...],
    rank: int = 2,
    scaling: Scaling = PLAIN,
    dtype: type = np.float32,
    dropout: float = 0.0,
) -> LoraAdapter:
    stream = np.random.default_rng(rank)
    tensors = {}
    for module in modules:
        a, b = stream.normal(size=(rank, module.inputs)), stream.normal(size=(module.outputs, rank))
        tensors[tensor_name(module.path, "A")] = a.astype(dtype)
        tensors[tensor_name(module.path, "B")] = b.astype(dtype)
    return LoraAdapter(modules, rank, scaling, tensors, dropout)


@st.composite
def adapters(draw: st.DrawFn) -> tuple[tuple[ModuleShape, ...], LoraAdapter]:
    linears = linears_of(draw(st.sampled_from(PREFIXES)), draw(st.integers(1, 3)))
    chosen = draw(st.sets(st.sampled_from(linears), min_size=1))
    alpha = draw(st.one_of(st.integers(1, 512).map(float), st.floats(1e-3, 1e3)))
    adapter = make(
        tuple(sorted(chosen, key=lambda module: module.path)),
        draw(st.integers(1, 64)),
        Scaling(alpha, draw(st.booleans())),
        draw(st.sampled_from(DTYPES)),
        draw(st.sampled_from((0.0, 0.05))),
    )
    return linears, adapter


def same(found: LoraAdapter, expected: LoraAdapter) -> bool:
    return (
        (found.modules, found.rank, found.scaling, found.dropout)
        == (expected.modules, expected.rank, expected.scaling, expected.dropout)
    ) and {n: (t.dtype, t.tobytes()) for n, t in found.tensors.items()} == {
        n: (t.dtype, t.tobytes()) for n, t in expected.tensors.items()
    }


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@settings(max_examples=25, deadline=None)
@given(adapters())
def test_peft_to_mlx_and_back_is_byte_exact(
    case: tuple[tuple[ModuleShape, ...], LoraAdapter],
) -> None:
    linears, adapter = case
    with tempfile.TemporaryDirectory() as name:
        first, other, last = (Path(name) / part for part in ("first", "other", "last"))
        for folder in (first, other, last):
            folder.mkdir()
        write_peft(first, adapter, "tiny")
        write_mlx(other, read_peft(first, linears), "tiny")
        back = read_mlx(other, linears)
        write_peft(last, back, "tiny")
        assert same(back, adapter)
        assert files(last) == files(first)


@settings(max_examples=25, deadline=None)
@given(
    linears=st.sampled_from([linears_of(prefix) for prefix in PREFIXES]),
    scale=st.one_of(st.integers(1, 40_000).map(lambda n: n / 1000), st.just(20.0)),
    rank=st.integers(1, 64),
    dtype=st.sampled_from(DTYPES),
)
def test_mlx_to_peft_and_back_keeps_bytes_and_the_literal_scale(
    linears: tuple[ModuleShape, ...], scale: float, rank: int, dtype: type
) -> None:
    with tempfile.TemporaryDirectory() as name:
        first, other, last = (Path(name) / part for part in ("first", "other", "last"))
        for folder in (first, other, last):
            folder.mkdir()
        write_mlx(first, make(linears, rank, dtype=dtype), "tiny")
        config = json.loads((first / mlx_folder.CONFIG_NAME).read_text())
        parameters = {"rank": rank, "scale": scale, "dropout": 0.0}
        parameters["keys"] = config["lora_parameters"]["keys"]
        config["lora_parameters"] = parameters
        (first / mlx_folder.CONFIG_NAME).write_text(json.dumps(config))
        write_peft(other, read_mlx(first, linears), "tiny")
        write_mlx(last, read_peft(other, linears), "tiny")
        found = files(last)
        assert found[mlx_folder.WEIGHTS_NAME] == files(first)[mlx_folder.WEIGHTS_NAME]
        assert json.loads(found[mlx_folder.CONFIG_NAME])["lora_parameters"]["scale"] == scale


@given(st.floats(1e-4, 1e4), st.integers(1, 1024))
def test_alpha_over_rank_is_the_factor_to_the_last_digit_but_one(factor: float, rank: int) -> None:
    assert np.float32(alpha_for(factor, rank) / rank) == pytest.approx(
        np.float32(factor), rel=2**-50
    )
    assert alpha_for(factor, 8) / 8 == factor


def test_the_schema_of_rslora_has_the_same_factor() -> None:
    adapter = make(linears_of("model."), 8, Scaling(16.0, rslora=True))
    assert adapter.schema.alpha / 8 == 16.0 / 8**0.5


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"use_dora": True}, "use_dora.*magnitude"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save.*whole layers"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern.*ranks of their own"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern.*alphas of their own"),
        ({"lora_bias": True}, "lora_bias.*biases"),
        ({"bias": "all"}, "bias"),
        ({"fan_in_fan_out": True}, "Conv1D"),
        ({"target_parameters": ["mlp.experts"]}, "mixture-of-experts"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"invented_later": 3}, "invented_later.*does not know"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"task_type": "SEQ_CLS"}, "task_type"),
        ({"r": 0}, "r: "),
        ({"target_modules": "("}, "regular expression"),
        ({"target_modules": ["q_proj", "qkv_proj"]}, "has unexpected 12 tensors"),
        ({"target_modules": ".*"}, "lacks 6 tensors"),
        ({"target_modules": "all-linear"}, "lacks 6 tensors"),
        ({"layers_to_transform": [0, 2]}, "has unexpected 8 tensors"),
        ({"exclude_modules": ["dense"]}, "has unexpected 6 tensors"),
    ],
)
def test_what_peft_says_and_cannot_be_expressed_is_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    linears = linears_of("model.")
    chosen = tuple(m for m in linears if not m.path.endswith("fc1"))
    write_peft(tmp_path, make(chosen), "tiny")
    change_json(tmp_path / peft_config.CONFIG_NAME, **changes)
    with pytest.raises(AdapterError, match=reason):
        read_peft(tmp_path, linears)


Tensors = dict[str, np.ndarray]


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name.replace(old, new): t for name, t in tensors.items()}


def without_last(tensors: Tensors) -> Tensors:
    return dict(sorted(tensors.items())[:-1])


def with_more(name: str, shape: tuple[int, ...] = (2, 4)) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: np.ones(shape, np.float32)}


PEFT_PREFIX = "base_model.model."


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_last, "lacks 1 tensors"),
        (renamed("layers.2", "layers.7"), "no linear layer of this base"),
        (renamed(".weight", ".default.weight"), "not PEFT's name"),
        (with_more(f"{PREFIXES[0]}x.lora_A.weight"), "not PEFT's name"),
        (with_more(f"{PEFT_PREFIX}model.embed_tokens.lora_embedding_A"), "embedding"),
        (with_more(f"{PEFT_PREFIX}model.layers.0.mlp.fc1.lora_magnitude_vector"), "DoRA"),
        (with_more(f"{PEFT_PREFIX}lm_head.modules_to_save.weight"), "whole layers"),
        (with_more(f"{PEFT_PREFIX}model.layers.0.mlp.fc1.lora_B.bias", (7,)), "biases"),
        (with_more(f"{PEFT_PREFIX}lm_head.lora_A.weight"), "'lm_head', which is no linear"),
        (lambda t: {n: x.astype("f2") if "_A" in n else x for n, x in t.items()}, "several dtypes"),
        (lambda t: {n: x * np.inf for n, x in t.items()}, "not finite"),
        (lambda t: {n: x.T.copy() for n, x in t.items()}, "has shape"),
    ],
)
def test_tensors_of_a_peft_folder_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[Tensors], Tensors], reason: str
) -> None:
    linears = linears_of("model.")
    write_peft(tmp_path, make(linears), "tiny")
    save(tmp_path / peft_config.WEIGHTS_NAME, change)
    with pytest.raises(AdapterError, match=reason):
        read_peft(tmp_path, linears)


def save(file: Path, change: Callable[[Tensors], Tensors]) -> None:
    from safetensors.numpy import save_file

    save_file(change(read_file(file)), file)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    write_peft(tmp_path, make(linears_of("model.")), "tiny")
    (tmp_path / peft_config.WEIGHTS_NAME).rename(tmp_path / "adapter_model.bin")
    with pytest.raises(AdapterError, match="pickle"):
        read_peft(tmp_path, linears_of("model."))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_last, "lacks 1 tensors"),
        (renamed("layers.2", "layers.7"), "no linear layer of this base"),
        (with_more("model.layers.0.mlp.fc1.m", (7,)), "DoRA"),
        (with_more("model.embed_tokens.lora_a", (9, 2)), "no linear layer"),
        (with_more("model.layers.0.mlp.switch_mlp.up_proj.lora_a", (2, 2, 4)), "experts"),
        (with_more("model.norm.weight", (4,)), "no factor"),
        (lambda t: {n: x.T.copy() for n, x in t.items()}, "has shape"),
    ],
)
def test_tensors_of_an_mlx_folder_that_do_not_fit_are_refused(
    tmp_path: Path, change: Callable[[Tensors], Tensors], reason: str
) -> None:
    linears = linears_of("model.")
    write_mlx(tmp_path, make(linears), "tiny")
    save(tmp_path / mlx_folder.WEIGHTS_NAME, change)
    with pytest.raises(AdapterError, match=reason):
        read_mlx(tmp_path, linears)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fine_tune_type": "dora"}, "fine_tune_type"),
        ({"fine_tune_type": "full"}, "fine_tune_type"),
        ({"lora_parameters": {"rank": 2}}, "lora_parameters.scale"),
        ({"lora_parameters": {"rank": 2, "scale": -1.0}}, "lora_parameters.scale"),
        ({"lora_parameters": {"rank": 3, "scale": 1.0}}, "has shape"),
        ({"num_layers": None}, "num_layers"),
        ({"lora_parameters": {"rank": 2, "scale": 1, "keys": ["mlp.fc1"]}}, "unexpected"),
        (
            {"lora_parameters": {"rank": 2, "scale": 1, "keys": list(ENDINGS)}, "num_layers": 2},
            "has unexpected 10 tensors",
        ),
    ],
)
def test_what_mlx_says_and_cannot_be_expressed_is_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    linears = linears_of("model.")
    write_mlx(tmp_path, make(linears), "tiny")
    change_json(tmp_path / mlx_folder.CONFIG_NAME, **changes)
    with pytest.raises(AdapterError, match=reason):
        read_mlx(tmp_path, linears)


@pytest.mark.parametrize(
    "path", ["model.layers.0.mlp.experts.3.up_proj", "vision_tower.encoder.layers.0.q_proj"]
)
def test_layers_that_mlx_lm_does_not_have_are_refused(tmp_path: Path, path: str) -> None:
    modules = (ModuleShape(path=path, inputs=4, outputs=4),)
    with pytest.raises(AdapterError, match="mlx-lm cannot have"):
        write_mlx(tmp_path, make(modules), "tiny")


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
@pytest.mark.parametrize("read", [read_peft, read_mlx])
def test_a_damaged_or_absent_file_is_named(
    tmp_path: Path, damage: bytes, read: Callable[..., LoraAdapter]
) -> None:
    with pytest.raises(AdapterError, match=r"adapter_config\.json cannot be read"):
        read(tmp_path, linears_of("model."))
    (tmp_path / peft_config.CONFIG_NAME).write_bytes(damage)
    with pytest.raises(AdapterError, match=r"adapter_config\.json: "):
        read(tmp_path, linears_of("model."))


def test_a_layer_named_twice_is_refused(tmp_path: Path) -> None:
    linears = linears_of("language_model.model.", 1)
    write_peft(tmp_path, make(linears), "tiny")
    file = tmp_path / peft_config.WEIGHTS_NAME
    tensors = read_file(file)
    name = next(iter(tensors))
    other = name.replace("model.language_model", "language_model.model")
    assert other != name
    write_file(file, tensors | {other: tensors[name]})
    with pytest.raises(AdapterError, match="in two ways"):
        read_peft(tmp_path, linears)
