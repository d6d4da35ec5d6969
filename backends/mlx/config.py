"""The model's configuration as mlx-lm reads it.

mlx-lm reads ``config.json`` alone and fills gaps with defaults of its own. transformers leaves its
own defaults out when it saves, and since version 5 keeps the rotary embedding's numbers in a
field that most of mlx-lm does not know: both would silently give another model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backends.model_config import read_config

Config = dict[str, Any]


def complete_config(base: Path) -> Config:
    """What must be laid over ``config.json`` for mlx-lm. Raises ModelError."""
    known = read_config(base).to_dict()
    return _complete(json.loads((base / "config.json").read_bytes()), known)


def _complete(stated: Config, known: Config) -> Config:
    found = {k: v for k, v in known.items() if v is not None and stated.get(k) is None}
    found |= _rotary(known.get("rope_parameters") or {})
    if "text_config" in stated:
        text = stated["text_config"]
        found["text_config"] = text | _complete(text, known["text_config"])
    layers = known.get("layer_types") or []
    if "sliding_attention" in layers and "full_attention" in layers:
        # Gemma 3: every so many layers one sees everything.
        found["sliding_window_pattern"] = layers.index("full_attention") + 1
    return found


def _rotary(parameters: Config) -> Config:
    """transformers 5's ``rope_parameters``, spread over the older fields that mlx-lm reads."""
    if (everywhere := parameters.get("full_attention")) is not None:
        local = parameters["sliding_attention"]
        return _rotary(everywhere) | {"rope_local_base_freq": local["rope_theta"]}
    if not parameters:
        return {}
    rest = {k: v for k, v in parameters.items() if k not in {"rope_theta", "partial_rotary_factor"}}
    found = {k: v for k, v in parameters.items() if k not in rest}
    kind = rest.get("rope_type", "default")
    # Models ask for the kind by its older name too.
    found["rope_scaling"] = None if kind == "default" else rest | {"type": kind}
    return found
