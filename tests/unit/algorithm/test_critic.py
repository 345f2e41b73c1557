"""The value function: what it reads, what it must not read, and its memory."""

from __future__ import annotations

import pytest
import torch
from toys import STATE, WIDTH, ToyPolicy, a_batch, a_recipe, an_algorithm, an_observation

from pirl.algorithm.critic import (
    Critic,
    ValueBuffer,
    ValueTargets,
    critic_input,
    critic_input_width,
)
from pirl.errors import CheckpointError


def a_critic(*, last_init: str = "zero", seed: int = 0) -> Critic:
    return Critic(
        8,
        hidden=(32, 16),
        last_init=last_init,
        generator=torch.Generator().manual_seed(seed),
    )


def inputs_of(source: str, *, chunk_idx: int = 0, start: float = 0.0) -> torch.Tensor:
    policy = ToyPolicy(chunk_size=3, executed_steps=2)
    return critic_input(
        policy,
        policy.encode(an_observation(4, seed=1)),
        pirl=a_recipe(value_source=source),
        chunk_idx=torch.full((4,), chunk_idx),
        start=torch.full((4, 3, 2), start),
    )


def test_a_new_critic_says_zero_everywhere():
    assert a_critic()(torch.randn(100, 8)).abs().max() == 0.0


def test_normal_last_layer_has_the_published_std():
    weight = Critic(
        8, hidden=(4096,), last_init="normal", generator=torch.Generator().manual_seed(0)
    ).last.weight.detach()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.1)


def test_critic_weights_depend_on_the_generator_and_leave_the_global_stream_alone():
    before = torch.get_rng_state()
    one, same, other = a_critic(), a_critic(), a_critic(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.hidden[0].weight, same.hidden[0].weight)
    assert not torch.equal(one.hidden[0].weight, other.hidden[0].weight)


@pytest.mark.parametrize(
    ("source", "width"), [("vlm", STATE), ("vlm_tokens", 4 + STATE + 1), ("action_tokens", WIDTH)]
)
def test_every_source_has_the_width_it_declares_and_carries_no_gradient(source, width):
    inputs = inputs_of(source)
    policy = ToyPolicy(chunk_size=3, executed_steps=2)
    assert inputs.shape == (4, width)
    assert critic_input_width(policy, a_recipe(value_source=source)) == width
    assert not inputs.requires_grad


def test_only_the_token_critic_sees_the_time_and_only_action_tokens_see_the_chain():
    for source in ("vlm", "vlm_tokens", "action_tokens"):
        later = not torch.equal(inputs_of(source), inputs_of(source, chunk_idx=3))
        other_chain = not torch.equal(inputs_of(source), inputs_of(source, start=1.0))
        assert later == (source == "vlm_tokens")
        assert other_chain == (source == "action_tokens")


@pytest.mark.parametrize("source", ["vlm", "vlm_tokens", "action_tokens"])
def test_the_value_of_a_decision_ignores_its_denoising_state_and_step(source):
    algorithm = an_algorithm(
        ToyPolicy(chunk_size=3, executed_steps=2), a_recipe(value_source=source)
    )
    # A critic at its zero start ignores everything.
    algorithm.critic.last.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    batch = a_batch(algorithm)
    plain = algorithm._prepare(batch)
    altered = dict(batch.fields)
    altered["pirl_x_k"] = altered["pirl_x_k"] + 1.0
    altered["pirl_denoise_idx"] = (altered["pirl_denoise_idx"] + 1) % 5
    other = algorithm._prepare(type(batch)(**{**_as_dict(batch), "fields": altered}))
    assert torch.equal(plain.critic_inputs, other.critic_inputs)
    assert torch.equal(plain.old_value, other.old_value)


def _as_dict(batch: object) -> dict[str, object]:
    return {name: getattr(batch, name) for name in batch.__slots__}  # type: ignore[attr-defined]


def targets(value: float) -> ValueTargets:
    return ValueTargets(
        inputs=torch.full((2, 3), value), target=torch.full((2,), value), weight=torch.ones(2)
    )


def test_the_buffer_keeps_the_last_updates_in_order():
    buffer = ValueBuffer(2)
    for value in (1.0, 2.0, 3.0):
        buffer.add(targets(value))
    assert buffer.all().target.tolist() == [2.0, 2.0, 3.0, 3.0]


def test_the_buffer_survives_a_checkpoint_and_refuses_an_incomplete_one():
    buffer, restored = ValueBuffer(3), ValueBuffer(3)
    buffer.add(targets(1.0))
    buffer.add(targets(2.0))
    restored.load(buffer.state(), device=torch.device("cpu"))
    assert torch.equal(restored.all().inputs, buffer.all().inputs)
    damaged = buffer.state()
    del damaged["1.weight"]
    with pytest.raises(CheckpointError, match=r"1\.weight"):
        restored.load(damaged, device=torch.device("cpu"))


def test_a_buffer_of_no_update_keeps_one_and_is_replaced_by_what_is_loaded():
    buffer, other = ValueBuffer(0), ValueBuffer(3)
    assert len(buffer) == 0
    for value in (1.0, 2.0):
        buffer.add(targets(value))
    assert (len(buffer), buffer.all().target.tolist()) == (1, [2.0, 2.0])
    other.add(targets(7.0))
    other.load(buffer.state(), device=torch.device("cpu"))
    assert other.all().target.tolist() == [2.0, 2.0]
    other.load({}, device=torch.device("cpu"))
    assert len(other) == 0


def test_the_state_of_a_buffer_is_a_copy_without_a_graph():
    buffer = ValueBuffer(2)
    value = torch.ones(2, requires_grad=True)
    buffer.add(ValueTargets(inputs=torch.ones(2, 3), target=value * 2, weight=torch.ones(2)))
    state = buffer.state()
    assert state.keys() == {"0.inputs", "0.target", "0.weight"}
    assert not any(tensor.requires_grad for tensor in state.values())
    state["0.inputs"].zero_()
    assert buffer.all().inputs.tolist() == [[1.0] * 3] * 2


def test_hidden_layers_start_with_fan_out_scale_and_no_bias():
    critic = Critic(
        8, hidden=(64, 2048), last_init="normal", generator=torch.Generator().manual_seed(0)
    )
    layers = [m for m in critic.hidden if isinstance(m, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(64, 8), (2048, 64)]
    assert float(layers[1].weight.detach().std()) == pytest.approx((2 / 2048) ** 0.5, rel=0.05)
    assert all(bool((layer.bias == 0).all()) for layer in [*layers, critic.last])
    assert critic.last.weight.shape == (1, 2048)
    assert critic(torch.randn(5, 8)).shape == (5,)


def test_the_critic_reads_pooled_features_tokens_time_or_executed_rows():
    policy = ToyPolicy(chunk_size=3, executed_steps=2)
    context = policy.encode(an_observation(4, seed=1))
    assert torch.equal(inputs_of("vlm"), context.critic_features)
    tokens = inputs_of("vlm_tokens", chunk_idx=3)
    assert torch.equal(tokens[:, :4], context.tensors["vlm_features"][:, 0])
    assert torch.equal(tokens[:, 4:-1], context.critic_features)
    assert tokens[:, -1].tolist() == pytest.approx([1.3862944] * 4)
    start = torch.full((4, 3, 2), 0.5)
    features = policy.predict(context, start, torch.ones(4)).features.detach()
    expected = (features[:, 0] + features[:, 1]) / 2
    torch.testing.assert_close(inputs_of("action_tokens", start=0.5), expected)
