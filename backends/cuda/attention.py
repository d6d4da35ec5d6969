"""Which of transformers' attention functions a forward pass uses."""

from __future__ import annotations

from transformers import PreTrainedModel

from backends.limits import PLAIN_SCORES


def choose_attention(model: PreTrainedModel, rows: int, columns: int) -> None:
    """Set the attention for a batch of this padded size; a change costs about a millisecond.

    On the processor torch's fused attention goes backward several times slower than plain
    products and softmax. Those keep every score until then, so only where they are few.
    """
    plain = model.device.type == "cpu" and rows * columns**2 <= PLAIN_SCORES
    wanted = "eager" if plain or not _fused_is_exact(model) else "sdpa"
    if model.config._attn_implementation != wanted:
        model.set_attn_implementation(wanted)


def _fused_is_exact(model: PreTrainedModel) -> bool:
    # Fused attention leaves out Gemma 2's soft cap on the scores.
    return model._supports_sdpa and not getattr(model.config, "attn_logit_softcapping", None)
