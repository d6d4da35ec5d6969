"""A tiny base model in Hugging Face layout, made in well under a second without torch.

Two layers of width 64 and a byte-level BPE tokenizer of about 500 entries with a chat template.
The weights are random but fixed, so that every test and every engine sees the same model.
"""

from __future__ import annotations

import json
import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from federation.base_model import write_card
from federation.files import atomic_writer
from federation.tensors import DTYPES, write_tensors

Architecture = Literal["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi", "phi3"]
ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)

WIDTH, HEADS, KEY_VALUE_HEADS, INNER, LAYERS = 64, 4, 2, 128, 2
VOCABULARY = 512
"""Rows of the embedding; the tokenizer has fewer entries, as with many real models."""

END_OF_TEXT, TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TEXT = """\
What does the clinical finding "heart failure" mean? The heart cannot pump enough blood to meet
the needs of the body. What does the clinical finding "shortness of breath" mean? A feeling of
not getting enough air, often with fluid in the lungs. A seizure is a sudden change in the
electrical activity of the brain. Hypertension is a blood pressure that stays above the normal
range. Anaemia is a reduced number of red blood cells or of haemoglobin. Asthma is a chronic
inflammation of the airways. Diabetes is a disorder of metabolism with a high blood sugar level.
An abnormality of the kidney, the liver, the eye, the ear, the skin, the bone or the muscle.
A patient with a fever, a cough and a pain in the chest was treated with antibiotics. The
finding was present at birth. A fracture of the femur was repaired. user system assistant
"""

_ARCHITECTURES: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("LlamaForCausalLM", {"mlp_bias": False, "attention_bias": False}),
    "mistral": ("MistralForCausalLM", {"sliding_window": None}),
    "qwen2": ("Qwen2ForCausalLM", {"use_sliding_window": False}),
    "qwen3": ("Qwen3ForCausalLM", {"use_sliding_window": False}),
    "gemma2": (
        "Gemma2ForCausalLM",
        {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 6.0,
            "sliding_window": 1024,
        },
    ),
    # As transformers 5 writes it; a window shorter than most examples.
    "gemma3_text": (
        "Gemma3ForCausalLM",
        {
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 16,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "default", "rope_theta": 500000.0},
            },
        },
    ),
    "phi": (
        "PhiForCausalLM",
        {
            "hidden_act": "gelu_new",
            "layer_norm_eps": 1e-5,
            "partial_rotary_factor": 0.5,
            "resid_pdrop": 0.0,
        },
    ),
    "phi3": ("Phi3ForCausalLM", {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "sliding_window": None}),
}
_GEMMA = ("gemma2", "gemma3_text")
_NORMED_QUERIES = ("qwen3", "gemma3_text")


def build_tiny_model(
    folder: Path,
    *,
    architecture: Architecture = "llama",
    dtype: Literal["F32", "BF16"] = "F32",
    seed: int = 0,
    chat_template: bool = True,
    tied: bool = False,
) -> Path:
    """Write the model, its tokenizer and its ``BaseModelCard`` into ``folder``; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    turn_end = tokenizer.token_to_id(END_OF_TURN)
    ids = {
        "bos_token_id": tokenizer.token_to_id(TURN),
        "eos_token_id": turn_end,
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
    }
    config = _config(architecture, dtype) | ids | {"tie_word_embeddings": tied}
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", ids)
    names = {"bos_token": TURN, "eos_token": END_OF_TURN, "pad_token": END_OF_TEXT}
    _write_json(
        folder / "tokenizer_config.json",
        names | {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024},
    )
    if chat_template:
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    shapes = {
        name: shape
        for name, shape in _shapes(architecture).items()
        if not (tied and name.startswith("lm_head."))
    }
    weights = (
        (name, _weight(name, shapes[name], seed, architecture, tied)) for name in sorted(shapes)
    )
    with atomic_writer(folder / "model.safetensors") as file:
        write_tensors(file, shapes, weights, DTYPES[dtype])
    write_card(folder, f"tiny-{architecture}")
    return folder


@cache
def tiny_model(
    architecture: Architecture = "llama",
    dtype: Literal["F32", "BF16"] = "F32",
    *,
    tied: bool = False,
) -> Path:
    """The folder of a tiny model, built once a process. Tests must not write into it."""
    name = f"{architecture}-{dtype.lower()}{'-tied' if tied else ''}"
    return build_tiny_model(
        Path(_session_folder().name) / name, architecture=architecture, dtype=dtype, tied=tied
    )


@cache
def _session_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fedmed-tiny-")


@cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=[END_OF_TEXT, TURN, END_OF_TURN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    return tokenizer


def _config(architecture: Architecture, dtype: str) -> dict[str, object]:
    class_name, extra = _ARCHITECTURES[architecture]
    return {
        "architectures": [class_name],
        "model_type": architecture,
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "head_dim": WIDTH // HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_dropout": 0.0,
        "dtype": {"F32": "float32", "BF16": "bfloat16"}[dtype],
        **extra,
    }


def _linears(architecture: Architecture) -> dict[str, tuple[int, int]]:
    narrow = WIDTH // HEADS * KEY_VALUE_HEADS
    attention = {
        "self_attn.q_proj": (WIDTH, WIDTH),
        "self_attn.k_proj": (narrow, WIDTH),
        "self_attn.v_proj": (narrow, WIDTH),
    }
    if architecture == "phi3":
        return {
            "self_attn.qkv_proj": (WIDTH + 2 * narrow, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH),
            "mlp.gate_up_proj": (2 * INNER, WIDTH),
            "mlp.down_proj": (WIDTH, INNER),
        }
    if architecture == "phi":
        rest = {
            "self_attn.dense": (WIDTH, WIDTH),
            "mlp.fc1": (INNER, WIDTH),
            "mlp.fc2": (WIDTH, INNER),
        }
        return attention | rest
    return {
        **attention,
        "self_attn.o_proj": (WIDTH, WIDTH),
        "mlp.gate_proj": (INNER, WIDTH),
        "mlp.up_proj": (INNER, WIDTH),
        "mlp.down_proj": (WIDTH, INNER),
    }


def _vectors(architecture: Architecture) -> dict[str, int]:
    """Length of each norm and bias of a layer."""
    linears = _linears(architecture)
    found = {"input_layernorm.weight": WIDTH}
    if architecture == "phi":
        found |= {f"{path}.bias": rows for path, (rows, _) in linears.items()}
        return found | {"input_layernorm.bias": WIDTH}
    found["post_attention_layernorm.weight"] = WIDTH
    if architecture == "qwen2":
        biased = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        found |= {f"{path}.bias": linears[path][0] for path in biased}
    if architecture in _NORMED_QUERIES:
        found |= {f"self_attn.{x}_norm.weight": WIDTH // HEADS for x in "qk"}
    if architecture in _GEMMA:
        found |= {f"{x}_feedforward_layernorm.weight": WIDTH for x in ("pre", "post")}
    return found


def _shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    last_norm = "final_layernorm" if architecture == "phi" else "norm"
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        f"model.{last_norm}.weight": (WIDTH,),
        "lm_head.weight": (VOCABULARY, WIDTH),
    }
    if architecture == "phi":
        shapes |= {"model.final_layernorm.bias": (WIDTH,), "lm_head.bias": (VOCABULARY,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}{p}.weight": shape for p, shape in _linears(architecture).items()}
        shapes |= {f"{prefix}{name}": (n,) for name, n in _vectors(architecture).items()}
    return shapes


def _weight(
    name: str, shape: tuple[int, ...], seed: int, architecture: Architecture, tied: bool
) -> np.ndarray:
    if name.endswith("norm.weight"):
        # Gemma adds 1 to what is stored.
        stored = 0.0 if architecture in _GEMMA else 1.0
        return np.full(shape, stored, dtype=np.float32)
    # A stream a tensor: the weights of one layer do not depend on which others exist.
    stream = np.random.Generator(np.random.PCG64([seed, *name.encode()]))
    # The head is wide so that the likeliest token is clearly ahead of the next.
    wide = {"lm_head.weight": 3.0, "model.embed_tokens.weight": 3.0 if tied else math.sqrt(WIDTH)}
    scale = wide.get(name, 1.0)
    return (stream.standard_normal(shape) * scale / math.sqrt(shape[-1])).astype(np.float32)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
