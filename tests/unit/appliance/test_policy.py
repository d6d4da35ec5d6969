"""The hospital's policy: each rule refuses by name, the default file says what the code does."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from appliance.policy import DEFAULT_POLICY, Policy, check_round, load_policy
from federation.adapter import AdapterSchema, ModuleShape
from federation.errors import ConfigError, PolicyRefusal
from federation.messages import SUITE, BaseReference, Privacy, RoundDescriptor
from federation.recipe import TrainingRecipe

DESCRIPTOR = RoundDescriptor(
    suite=SUITE,
    federation="f",
    round=3,
    base=BaseReference(name="base", sha256="b" * 64, n_bytes=1),
    adapter_schema=AdapterSchema(
        modules=(ModuleShape(path="m.q_proj", inputs=6, outputs=4),), rank=8, alpha=16.0
    ),
    parent_adapter_sha256="0" * 64,
    factors="AB",
    recipe=TrainingRecipe(steps=None, epochs=2.0, batch_size=10),
    aggregator="fedavg",
    codec="fp32",
    max_norm=100.0,
    metrics=("loss_before",),
    privacy=Privacy(),
    roster_sha256="0" * 64,
    round_public_key="AAAA",
    quorum=1,
    opened_at=0,
    deadline=1,
)
WHERE = Path("policy.toml")


def test_the_default_file_is_the_default() -> None:
    assert Policy.model_validate(tomllib.loads(DEFAULT_POLICY)) == Policy()


def test_the_default_allows_an_ordinary_round() -> None:
    check_round(Policy(), DESCRIPTOR, 100, WHERE)


@pytest.mark.parametrize(
    ("rule", "policy"),
    [
        ("allowed_bases", Policy(allowed_bases=("a" * 64,))),
        ("allowed_aggregators", Policy(allowed_aggregators=("alternating",))),
        ("allowed_codecs", Policy(allowed_codecs=("int8",))),
        ("max_rank", Policy(max_rank=7)),
        ("max_steps", Policy(max_steps=19)),
        ("max_examples", Policy(max_examples=199)),
        ("max_length", Policy(max_length=511)),
        ("max_eval_examples", Policy(max_eval_examples=31)),
    ],
)
def test_each_rule_refuses_by_name(rule: str, policy: Policy) -> None:
    with pytest.raises(PolicyRefusal, match=rule) as caught:
        check_round(policy, DESCRIPTOR, 100, WHERE)
    assert "policy.toml" in caught.value.hint


def test_an_allowed_base_passes_and_steps_count_by_epochs() -> None:
    exact = Policy(allowed_bases=("b" * 64,), max_rank=8, max_steps=20)
    check_round(exact, DESCRIPTOR, 100, WHERE)
    with pytest.raises(PolicyRefusal, match="max_steps is 20, the round wants 21"):
        check_round(exact, DESCRIPTOR, 105, WHERE)


def test_a_huge_batch_does_not_get_round_the_limit_of_steps() -> None:
    """10 steps are few; of 4096 x 4096 examples each they are years."""
    recipe = TrainingRecipe(steps=10, epochs=None, batch_size=4096, accumulation=4096)
    with pytest.raises(PolicyRefusal, match="max_examples is 1000000, the round wants 167772160"):
        check_round(Policy(), DESCRIPTOR.model_copy(update={"recipe": recipe}), 100, WHERE)


def test_limits_that_are_just_met_pass() -> None:
    exact = Policy(max_examples=200, max_length=512, max_eval_examples=32)
    check_round(exact, DESCRIPTOR, 100, WHERE)


def test_the_default_file_says_what_leaves_with_loss_before() -> None:
    assert "number of held-out examples" in DEFAULT_POLICY


@pytest.mark.parametrize("text", ["max_rank = 0", "unknown = 1", 'metrics = ["names"]'])
def test_a_wrong_policy_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"policy\.toml"):
        load_policy(path)
