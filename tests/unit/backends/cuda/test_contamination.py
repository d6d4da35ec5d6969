"""No example reads another, nor the padding; and that the comparison would notice it.

Batches here are padded on the right: attention is causal, so nothing of an example comes after its
padding. Packing several examples into one row would be another way, and shows what goes wrong.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from backends.base import Example
from backends.cuda import attention
from backends.cuda.forward import Batch, make_batch, token_losses
from backends.cuda.model import TorchModel
from tests.parity.engines import load
from tests.tiny import ARCHITECTURES, Architecture, tiny_model
from tests.tiny_training import examples

CPU = torch.device("cpu")
EXACT, MIXED = 1e-5, 1e-2


def loaded(architecture: Architecture = "llama") -> TorchModel:
    model = load("cuda", tiny_model(architecture))
    assert isinstance(model, TorchModel)
    return model


def with_noise(batch: Batch, seed: int) -> Batch:
    """Other tokens in the padding."""
    noise = torch.randint(0, 500, batch.ids.shape, generator=torch.Generator().manual_seed(seed))
    return replace(batch, ids=torch.where(batch.mask == 1, batch.ids, noise))


def losses(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return token_losses(model, batch)


def alone(model: PreTrainedModel, data: list[Example]) -> torch.Tensor:
    """Loss of each completion token, every example in a pass of its own."""
    return torch.cat([losses(model, make_batch([example], CPU)) for example in data])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("most_scores", [1 << 19, 0])
def test_an_example_in_a_batch_has_the_losses_it_has_alone(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture, most_scores: int
) -> None:
    """With plain and with fused attention."""
    monkeypatch.setattr(attention, "PLAIN_SCORES", most_scores)
    model = loaded(architecture)
    data = examples(model)
    assert len({len(example.tokens) for example in data}) > 4
    batch = with_noise(make_batch(data, CPU), 1)
    assert (batch.mask == 0).float().mean() > 0.1
    found = losses(model._model, batch)
    assert (found - alone(model._model, data)).abs().max() < EXACT


def shifted(batch: Batch, columns: int) -> Batch:
    """The same with so many columns of padding in front."""
    rows, places = batch.places // batch.ids.shape[1], batch.places % batch.ids.shape[1]
    pad = (columns, 0)
    ids, mask = (torch.nn.functional.pad(x, pad) for x in (batch.ids, batch.mask))
    return replace(batch, ids=ids, mask=mask, places=rows * ids.shape[1] + places + columns)


def test_padding_in_front_is_noticed_where_the_mask_is_all_ones() -> None:
    model = loaded()
    data = examples(model)
    expected = alone(model._model, data)
    in_front = shifted(make_batch(data, CPU), 8)
    assert (losses(model._model, in_front) - expected).abs().max() < EXACT
    all_ones = replace(in_front, mask=torch.ones_like(in_front.mask))
    assert (losses(model._model, all_ones) - expected).abs().max() > MIXED


def packed(model: PreTrainedModel, data: list[Example], **given: torch.Tensor) -> torch.Tensor:
    """Loss of each completion token, all examples one after the other in one row."""
    ids = torch.tensor([[token for example in data for token in example.tokens]])
    wanted = torch.tensor([k >= x.n_prompt for x in data for k in range(len(x.tokens))])
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False, **given).logits[0]
    places = wanted.nonzero()[:, 0]
    return torch.nn.functional.cross_entropy(logits[places - 1], ids[0, places], reduction="none")


def test_packing_is_exact_only_with_restarting_positions_and_no_mask() -> None:
    model = loaded()
    data = examples(model)
    expected = alone(model._model, data)
    restarting = torch.cat([torch.arange(len(example.tokens)) for example in data])[None]
    running = torch.arange(restarting.shape[1])[None]
    ones = torch.ones_like(restarting)

    def far(**given: torch.Tensor) -> float:
        return (packed(model._model, data, **given) - expected).abs().max().item()

    assert far(position_ids=restarting) < EXACT
    assert far(position_ids=restarting, attention_mask=ones) > MIXED
    assert far(position_ids=running) > MIXED
    assert far() > MIXED
