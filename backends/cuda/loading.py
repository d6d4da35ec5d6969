"""From a Hugging Face folder to a model in memory: device, numbers, quantiser, checks."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.logging import disable_progress_bar

from backends.base import Quantisation
from backends.cuda.allocator import keep_memory, release_memory
from backends.cuda.device import best_device, compute_dtype, threads_asked_for, use_threads
from backends.cuda.errors import memory_errors
from backends.cuda.model import TorchModel
from backends.model_config import read_config
from backends.tokens import ChatTokenizer
from federation.errors import ModelError


def load_model(base: Path, *, quantisation: Quantisation, threads: int | None) -> TorchModel:
    """See ``Backend.load``."""
    if not (base / "config.json").is_file() or not any(base.glob("*.safetensors")):
        raise ModelError(
            f"{base} is not a base model: it needs config.json and *.safetensors.",
            hint="`appliance models pull` installs one.",
        )
    disable_progress_bar()
    device = best_device()
    if device.type == "cpu":
        keep_memory()
    used_threads = use_threads(threads)
    tokenizer = ChatTokenizer(base)
    with memory_errors(f"loading {base.name}"):
        model = _read(base, device, quantisation)
    model.requires_grad_(False)
    _set_modes(model)
    # A quantiser leaves more behind than the model it made.
    release_memory()
    return TorchModel(
        model,
        tokenizer,
        quantisation=quantisation,
        threads=used_threads,
        keep_threads=threads_asked_for(threads),
    )


def _read(base: Path, device: torch.device, quantisation: Quantisation) -> PreTrainedModel:
    config = read_config(base)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"{base} is a model of type {config.model_type!r}, which writes no text.",
            hint="Take a causal language model, tuned for conversations.",
        )
    try:
        dtype = compute_dtype(device, config.get_text_config().dtype)
        model, found = AutoModelForCausalLM.from_pretrained(
            base,
            config=config,
            dtype=dtype,
            device_map={"": device},
            quantization_config=_quantiser(quantisation, dtype),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"The base model in {base} cannot be read: {error}") from error
    # transformers would fill these at random and only warn.
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"The base model in {base} lacks {len(missing)} tensors, first {missing[0]!r}.",
            hint="The download was not complete: `appliance models pull` again.",
        )
    return model


def _quantiser(quantisation: Quantisation, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    match quantisation:
        case "none" | "affine4" | "affine8":  # ``TorchBackend.load`` refuses the last two
            return None
        case "nf4":
            # Quantising the scales too would save 3 % of memory for a sixth of decoding speed.
            return BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
            )
        case "int8":
            return BitsAndBytesConfig(load_in_8bit=True)


def _set_modes(model: PreTrainedModel) -> None:
    """Dropout of the base off for good; quantised layers always as in training.

    On the processor bitsandbytes otherwise repacks 4-bit weights at the first evaluation, for a
    product without a gradient: a training after it would learn nothing and not say so.
    """
    model.eval()
    for module in model.modules():
        if type(module).__module__.startswith("bitsandbytes."):
            module.train()
