"""A base model's ``config.json`` as transformers reads it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from federation.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def read_config(base: Path) -> PretrainedConfig:
    """The configuration. Raises ModelError where it is damaged or of a type nobody here knows."""
    # Imported here, as everywhere: it takes seconds.
    from transformers import CONFIG_MAPPING, AutoConfig

    file = base / "config.json"
    try:
        kind = json.loads(file.read_bytes())["model_type"]
        if kind in CONFIG_MAPPING:
            return AutoConfig.from_pretrained(base, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} cannot be read: {error!r}") from error
    raise ModelError(
        f"{base} is a model of type {kind!r}, which transformers {version('transformers')} does "
        "not know.",
        hint="Take a base model of another architecture, such as Llama, Mistral, Qwen, Gemma or "
        "Phi, or install a newer transformers.",
    )


def context_of(config: PretrainedConfig) -> int | None:
    """Tokens that the model reads at most; None where its configuration states no limit."""
    found: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return found
