"""Chains on the real X-VLA class: stock equality, parity, dropout, precision, gradients."""

from copy import copy, deepcopy
from functools import cache
from unittest import mock

import pytest
import torch
from contract_builders import a_config, a_policy, an_observation

from pirl.algorithm.chain import recorded_log_prob, replay_log_prob, sample_chunk
from pirl.algorithm.flow_noise import NoiseHead
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig
from pirl.errors import ContractError
from pirl.policies.xvla.policy import XVLAFlowPolicy
from pirl.records import Context, Prediction

ROWS = 4
ONE_ARM = range(10)
PARITY = 1e-5
"""I11: ratio minus one."""
ROUNDING = 1e-3
"""Nats, between passes of different sizes: about 3 SNR e sqrt(dims) at 5 mm, 100 dims and one fp32 ulp.

How a row of an fp32 product rounds depends on the size of the product, the row's place in it and
the CPU's kernels: seen are 0 (MKL's own choice on an AMD EPYC), 9e-5 (MKL_CBWR=AVX2) and 3e-4
(MKL_CBWR=COMPATIBLE). Passes of the sampler's size hold `PARITY` on all three, and so do passes of
every size once the network computes in fp64.
"""


def recipe(variant="one", *, sde=None, **knobs):
    if variant == "noise":
        return PiRLConfig(variant="flow-noise", flow_noise=FlowNoiseConfig(), **knobs)
    section = FlowSDEConfig(stochastic_steps=variant, **(sde or {}))
    return PiRLConfig(variant="flow-sde", flow_sde=section, **knobs)


def at_step(k, steps=5):
    return {"step_sampling": "weights", "step_weights": tuple(float(i == k) for i in range(steps))}


def generators(rows=ROWS, seed=7):
    return [torch.Generator().manual_seed(seed + i) for i in range(rows)]


@cache
def encoded(mode, steps, rows):
    """Building a policy costs more than any test here; tests that alter one copy it."""
    config = a_config(mode, num_denoising_steps=steps)
    policy = a_policy(config, executed_dims=ONE_ARM if mode == "ee6d" else None)
    observation = an_observation(config, rows=rows)
    return policy, observation, policy.encode(observation)


class InPasses:
    """A policy that is asked as the sampler asks it: one step of all decisions at a time."""

    def __init__(self, policy, *, rows):
        self.policy, self.rows = policy, rows

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def predict(self, context, x, t):
        steps = len(x) // self.rows
        first = torch.arange(self.rows) * steps
        passes = [first + k for k in range(steps)]
        got = [self.policy.predict(context.index(i), x[i], t[i]) for i in passes]
        back = torch.cat(passes).argsort()
        return Prediction(
            clean=torch.cat([p.clean for p in got])[back],
            features=torch.cat([p.features for p in got])[back],
        )


class InDouble:
    """A policy that computes in fp64 and is asked in fp32."""

    def __init__(self, policy):
        self.policy = policy

    def __getattr__(self, name):
        return getattr(self.policy, name)

    def predict(self, context, x, t):
        return self.policy.predict(context, x.double(), t.double())


class InHalf(InDouble):
    """A policy that computes in bf16 and is asked in fp32, whatever its adapter thinks of it."""

    def predict(self, context, x, t):
        half = Context(
            tensors={
                name: value.bfloat16() if value.is_floating_point() else value
                for name, value in context.tensors.items()
            },
            critic_features=context.critic_features,
        )
        with mock.patch.object(type(self.policy), "_guard"):
            got = self.policy.predict(half, x.bfloat16(), t.bfloat16())
        return Prediction(clean=got.clean.float(), features=got.features.float())


class Game:
    """A tiny policy, encoded observations, and chains sampled from it."""

    def __init__(self, pirl, *, mode="ee6d", steps=5, rows=ROWS, alters_policy=False):
        self.pirl, self.rows = pirl, rows
        self.policy, self.observation, self.context = encoded(mode, steps, rows)
        if alters_policy:
            stock = deepcopy(self.policy.module)
            self.policy = XVLAFlowPolicy(stock, executed_dims=self.policy.spec.executed_dims)
        self.head = None
        if pirl.flow_noise is not None:
            self.head = NoiseHead(
                feature_width=self.policy.feature_width,
                model_dim=self.policy.spec.model_dim,
                settings=pirl.flow_noise,
                generator=torch.Generator().manual_seed(0),
            )

    def sample(self, *, stochastic=True):
        return sample_chunk(
            self.policy,
            self.context,
            pirl=self.pirl,
            noise_head=self.head,
            rngs=generators(self.rows),
            stochastic=stochastic,
        )

    def replay(self, fields, rows=slice(None)):
        return replay_log_prob(
            self.policy,
            self.context.index(rows),
            fields={name: value[rows] for name, value in fields.items()},
            pirl=self.pirl,
            noise_head=self.head,
        )

    def to_double(self):
        """The same weights in fp64."""
        self.policy.module.double()
        self.context = self.policy.encode(self.observation)
        if self.head is not None:
            self.head.double()

    def off(self, fields, rows=slice(None)):
        """Largest |ratio - 1|."""
        return float((torch.exp(self.log_ratio(fields, rows)) - 1).abs().max())

    def log_ratio(self, fields, rows=slice(None)):
        recorded, _ = recorded_log_prob(self.policy.spec, self.pirl, fields)
        with torch.no_grad():
            replayed = self.replay(fields, rows).log_prob
        return (replayed - recorded[rows]).flatten(2).sum(-1)


@pytest.mark.parametrize(
    ("mode", "steps"),
    [("ee6d", 1), ("ee6d", 2), ("ee6d", 3), ("ee6d", 5), ("ee6d", 10), ("joint", 5), ("auto", 3)],
)
def test_sampler_without_noise_is_the_stock_sampler_bit_for_bit(mode, steps):
    game = Game(recipe(), mode=mode, steps=steps)
    batch = game.policy.stock_batch(game.observation)
    initial = torch.stack(
        [torch.randn(game.sample().chunk.shape[1:], generator=g) for g in generators()]
    )
    with mock.patch("torch.randn", return_value=initial):
        stock = game.policy.module.predict_action_chunk(batch)
    ours = game.policy.postprocess(game.sample(stochastic=False).chunk)
    assert torch.equal(ours, stock)


def test_equal_seed_gives_the_stock_action():
    game = Game(recipe(), rows=1)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        stock = game.policy.module.predict_action_chunk(game.policy.stock_batch(game.observation))
    assert torch.equal(game.policy.postprocess(game.sample(stochastic=False).chunk), stock)


@pytest.mark.parametrize("gripper", ["last_step", "bernoulli"])
@pytest.mark.parametrize("base", ["native", "euler"])
@pytest.mark.parametrize("variant", ["one", "all", "noise"])
def test_replayed_log_prob_equals_the_recorded_one(variant, base, gripper):
    game = Game(recipe(variant, base_sampler=base, gripper_mode=gripper))
    fields = game.sample().fields
    plain = game.off(fields)
    game.policy = InPasses(game.policy, rows=ROWS)
    assert game.off(fields) < PARITY
    # One call of another size, as the learner makes it.
    assert plain < ROUNDING


@pytest.mark.parametrize("base", ["native", "euler"])
@pytest.mark.parametrize("k", range(5))
def test_parity_holds_at_every_step_and_for_other_batch_sizes(k, base):
    game = Game(recipe(sde=at_step(k), base_sampler=base))
    fields = game.sample().fields
    assert game.off(fields) < PARITY
    for row in range(ROWS):
        assert float(game.log_ratio(fields, slice(row, row + 1)).abs().max()) < ROUNDING


@pytest.mark.parametrize("base", ["native", "euler"])
@pytest.mark.parametrize("variant", ["one", "all", "noise"])
def test_passes_of_other_sizes_are_equal_too_once_the_network_computes_in_fp64(variant, base):
    game = Game(recipe(variant, base_sampler=base), alters_policy=True)
    game.to_double()
    game.policy = InDouble(game.policy)
    fields = game.sample().fields
    assert fields["pirl_logprob"].dtype == torch.float32
    assert variant != "one" or len(set(fields["pirl_denoise_idx"].tolist())) > 1
    for rows in (slice(None), *(slice(row, row + 1) for row in range(ROWS))):
        assert game.off(fields, rows) < PARITY


def test_euler_and_native_samplers_differ_from_three_steps_on():
    for steps in (1, 2, 3, 5):
        native, euler = (
            Game(recipe(base_sampler=base), steps=steps).sample(stochastic=False).chunk
            for base in ("native", "euler")
        )
        assert torch.equal(native, euler) == (steps <= 2)


@pytest.mark.parametrize(("k", "count"), [(0, 90), (1, 90), (2, 90), (3, 90), (4, 100)])
def test_single_arm_counts_ninety_dims_and_a_hundred_at_the_last_step(k, count):
    game = Game(recipe(sde=at_step(k)))
    mask = game.sample().fields["pirl_logprob_mask"]
    assert mask.flatten(1).sum(1).tolist() == [count] * ROWS


@pytest.mark.parametrize("k", [0, 4])
def test_train_mode_is_refused_because_dropout_would_ruin_the_ratio(k):
    game = Game(recipe(sde=at_step(k)), alters_policy=True)
    fields = game.sample().fields
    game.policy.module.train()
    with pytest.raises(ContractError):
        game.log_ratio(fields)
    with mock.patch.object(type(game.policy), "_guard"), torch.random.fork_rng():
        torch.manual_seed(0)
        assert float(game.log_ratio(fields).abs().max()) > 0.1


def in_half(game):
    """The game with a policy that computes in bf16."""
    rough = copy(game)
    stock = deepcopy(game.policy.module).bfloat16()
    policy = XVLAFlowPolicy(stock, executed_dims=game.policy.spec.executed_dims)
    rough.policy = InHalf(policy)
    return rough


@pytest.mark.parametrize("k", [0, 2, 4])
def test_half_precision_error_follows_the_signal_to_noise_formula(k):
    game = Game(recipe(sde=at_step(k), last_step_rule="sde"))
    fields = game.sample().fields
    with torch.no_grad():
        exact, rough = game.replay(fields), in_half(game).replay(fields)
    clean_weight = (k + 1) / 5
    error = ((rough.mean - exact.mean) / clean_weight)[exact.step_mask]
    rms = float(error.square().mean().sqrt())
    dims = int(exact.step_mask[0].sum())
    snr = clean_weight / float(exact.std[exact.step_mask][0])
    log_ratio = (rough.log_prob - exact.log_prob).flatten(1).sum(1)
    assert 0 < float(log_ratio.abs().max()) < 3 * snr * rms * dims**0.5


def test_half_precision_is_too_rough_for_millimetres():
    game = Game(recipe(sde=at_step(4)), alters_policy=True)
    fields = game.sample().fields
    # The clip range ends at a log-ratio of 0.2.
    assert float(in_half(game).log_ratio(fields).abs().max()) > 0.2
    game.policy.module.bfloat16()
    with pytest.raises(ContractError):
        game.sample()


def test_postprocessing_leaves_the_recorded_chain_and_the_chunk_alone():
    game = Game(recipe("noise"))
    drawn = game.sample()
    before = {name: value.clone() for name, value in drawn.fields.items()}
    chunk = drawn.chunk.clone()
    game.policy.postprocess(drawn.chunk)
    assert torch.equal(drawn.chunk, chunk)
    assert all(torch.equal(before[name], value) for name, value in drawn.fields.items())


@pytest.mark.parametrize("variant", ["one", "noise"])
def test_gradient_reaches_every_transformer_tensor_and_nothing_of_the_vlm(variant):
    game = Game(recipe(variant), alters_policy=True)
    game.replay(game.sample().fields).log_prob.sum().backward()
    trained, frozen = game.policy.trained_parameters(), game.policy.frozen_parameters()
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for p in frozen.values())


@pytest.mark.parametrize(("variant", "k"), [("one", 1), ("one", 4), ("noise", None)])
def test_gradient_of_the_log_prob_equals_finite_differences(variant, k):
    sde = None if k is None else at_step(k)
    game = Game(recipe(variant, sde=sde), rows=2, alters_policy=True)
    fields = {
        name: value.double() if value.is_floating_point() else value
        for name, value in game.sample().fields.items()
    }
    game.to_double()
    parameters = list(game.policy.trained_parameters().values())
    log_prob = game.replay(fields).log_prob.sum()
    gradients = torch.autograd.grad(log_prob, parameters)
    rng = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=rng, dtype=p.dtype) for p in parameters]
    analytic = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    h, values = 1e-7, []
    with torch.no_grad():
        for move in (h, -2 * h):
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(d, alpha=move)
            values.append(float(game.replay(fields).log_prob.sum()))
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(analytic, rel=1e-6)


@pytest.mark.parametrize(
    ("variant", "gripper", "rows_per_call"),
    [
        ("one", "last_step", [4]),
        ("one", "bernoulli", [8]),
        ("all", "none", [20]),
        ("noise", "none", [20]),
    ],
)
def test_replay_is_one_network_call_and_sampling_one_per_step(variant, gripper, rows_per_call):
    game = Game(recipe(variant, gripper_mode=gripper))
    calls = []
    model = game.policy.module.model
    hook = model.transformer.register_forward_hook(lambda _m, _i, out: calls.append(len(out)))
    with mock.patch.object(model, "forward_vlm", side_effect=AssertionError("encoded again")):
        drawn = game.sample()
        assert calls == [ROWS] * 5
        calls.clear()
        game.replay(drawn.fields)
        assert calls == rows_per_call
    hook.remove()
