"""A base model of a known shape with random weights: memory and speed do not depend on the values.

    python -m benchmarks.random_base SHAPE FOLDER --like BASE

SHAPE is one of those below, by the numbers of the model's public config.json; the tokenizer and
chat template are those of BASE, an installed base model such as SmolLM2.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from federation.base_model import write_card

SHAPES: dict[str, dict[str, Any]] = {
    # Grouped keys and values, a wide vocabulary, a wide MLP.
    "qwen2.5-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
    },
    # More weights in the embedding than in all layers, four norms a layer and norms of the heads.
    "gemma-3-270m": {
        "model_type": "gemma3_text",
        "hidden_size": 640,
        "intermediate_size": 2048,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "vocab_size": 262144,
        "sliding_window": 512,
        "max_position_embeddings": 32768,
    },
}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def build(shape: str, folder: Path, like: Path) -> None:
    """Write the model in bfloat16, a tokenizer and the card into ``folder``."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**SHAPES[shape], tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for name in TOKENIZER:
        shutil.copy(like / name, folder)
    ends = json.loads((like / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(ends))
    write_card(folder, shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--like", type=Path, required=True, help="whose tokenizer it gets")
    given = parser.parse_args()
    build(given.shape, given.folder, given.like)


if __name__ == "__main__":
    main()
