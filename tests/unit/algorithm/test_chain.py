"""Sampling and replaying chains: parity, masks, random streams, schema, reductions."""

import pytest
import torch
from flow_toys import (
    AffinePolicy,
    GaussianDataPolicy,
    MixingPolicy,
    a_context,
    a_head,
    a_plain_spec,
    a_spec,
    at_step,
    flow_noise,
    flow_sde,
    generators,
)

from pirl.algorithm.chain import recorded_log_prob, replay_log_prob, sample_chunk
from pirl.algorithm.transition import build_tables, transition
from pirl.errors import ContractError, NumericsError

ROWS = 7
VARIANTS = {
    "one": lambda **k: flow_sde(**k),
    "all": lambda **k: flow_sde(sde={"stochastic_steps": "all"}, **k),
    "cps": lambda **k: flow_sde(sde={"noise_method": "flow_cps"}, **k),
    "vp": lambda **k: flow_sde(sde={"w_rule": "vp"}, **k),
    "noise": lambda **k: flow_noise(**k),
}


def sample(pirl, *, spec=None, rows=ROWS, seed=0, stochastic=True):
    spec = spec or a_spec()
    policy = MixingPolicy(spec)
    return sample_chunk(
        policy,
        a_context(rows),
        pirl=pirl,
        noise_head=a_head(spec, pirl, width=8),
        rngs=generators(rows, seed=seed),
        stochastic=stochastic,
    )


def replay(pirl, fields, *, spec=None, context=None):
    spec = spec or a_spec()
    rows = len(next(iter(fields.values())))
    with torch.no_grad():
        return replay_log_prob(
            MixingPolicy(spec),
            a_context(rows) if context is None else context,
            fields=fields,
            pirl=pirl,
            noise_head=a_head(spec, pirl, width=8),
        )


def decision_sum(log_prob):
    return log_prob.flatten(2).sum(dim=-1)


@pytest.mark.parametrize("base", ["native", "euler"])
@pytest.mark.parametrize("gripper", ["last_step", "bernoulli", "none"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_replayed_log_prob_equals_the_recorded_one(variant, gripper, base):
    pirl = VARIANTS[variant](gripper_mode=gripper, base_sampler=base)
    for steps in (1, 2, 5):
        spec = a_spec(steps=steps)
        drawn = sample(pirl, spec=spec)
        replayed = replay(pirl, drawn.fields, spec=spec)
        recorded, mask = recorded_log_prob(spec, pirl, drawn.fields)
        assert torch.equal(mask, replayed.mask)
        gap = decision_sum(recorded) - decision_sum(replayed.log_prob)
        assert float((torch.exp(gap) - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("base", ["native", "euler"])
@pytest.mark.parametrize("k", range(5))
def test_parity_holds_for_every_stochastic_step(k, base):
    pirl = flow_sde(sde=at_step(k, 5), base_sampler=base, last_step_rule="sde")
    drawn = sample(pirl)
    assert drawn.fields["pirl_denoise_idx"].tolist() == [k] * ROWS
    replayed = replay(pirl, drawn.fields)
    gap = drawn.fields["pirl_logprob"] - replayed.log_prob[:, 0]
    assert float((torch.exp(gap.sum(dim=(1, 2))) - 1).abs().max()) < 1e-5


def test_mixed_steps_in_a_batch_equal_rows_replayed_alone():
    pirl = flow_sde()
    drawn = sample(pirl)
    assert len(set(drawn.fields["pirl_denoise_idx"].tolist())) > 2
    together = replay(pirl, drawn.fields)
    for row in range(ROWS):
        alone = replay(
            pirl,
            {name: value[row : row + 1] for name, value in drawn.fields.items()},
            context=a_context(ROWS).index(slice(row, row + 1)),
        )
        torch.testing.assert_close(alone.log_prob[0], together.log_prob[row], rtol=0, atol=1e-5)


def test_altered_recorded_state_changes_the_replayed_log_prob():
    pirl = flow_sde()
    fields = dict(sample(pirl).fields)
    before = replay(pirl, fields).log_prob
    fields["pirl_x_k"] = fields["pirl_x_k"] + 0.01
    assert not torch.equal(replay(pirl, fields).log_prob, before)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_euler_and_native_samplers_differ_from_three_steps_on(steps):
    spec = a_spec(steps=steps)
    chunks = [
        sample(flow_sde(base_sampler=base), spec=spec, stochastic=False).chunk
        for base in ("native", "euler")
    ]
    assert torch.equal(*chunks) == (steps <= 2)


@pytest.mark.parametrize("variant", ["one", "all", "noise"])
def test_rows_draw_from_their_own_generator_whoever_shares_the_batch(variant):
    pirl, spec = VARIANTS[variant](), a_spec()
    policy, context, head = MixingPolicy(spec), a_context(ROWS), a_head(spec, pirl, width=8)
    together = sample_chunk(policy, context, pirl=pirl, noise_head=head, rngs=generators(ROWS))
    for row in range(ROWS):
        alone = sample_chunk(
            policy,
            context.index(slice(row, row + 1)),
            pirl=pirl,
            noise_head=head,
            rngs=[generators(ROWS)[row]],
        )
        torch.testing.assert_close(alone.chunk[0], together.chunk[row], rtol=0, atol=1e-5)
        if variant == "one":
            drawn = alone.fields["pirl_denoise_idx"][0]
            assert drawn == together.fields["pirl_denoise_idx"][row]


def test_sampling_leaves_the_global_random_stream_alone():
    before = torch.random.get_rng_state()
    for variant in VARIANTS.values():
        sample(variant())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_initial_noise_is_the_same_with_and_without_exploration():
    pirl = flow_sde(sde=at_step(4, 5))
    noisy = sample(pirl)
    quiet = sample(pirl, stochastic=False)
    # Step 4 is the last: up to there the noisy chain is the deterministic one.
    masked = torch.zeros(6, 5, dtype=torch.bool)
    masked[:4, :4] = True
    assert torch.equal(noisy.chunk[:, ~masked], quiet.chunk[:, ~masked])
    assert not torch.equal(noisy.chunk, quiet.chunk)


def test_deterministic_chunk_has_no_log_prob_to_ask_for():
    drawn = sample(flow_sde(), stochastic=False)
    assert drawn.fields == {}
    with pytest.raises(ContractError) as caught:
        replay_log_prob(
            MixingPolicy(a_spec()), a_context(ROWS), fields={}, pirl=flow_sde(), noise_head=None
        )
    assert caught.value.clauses[0].value == "absent"


def test_noise_head_is_not_needed_to_act_without_noise():
    policy = MixingPolicy(a_spec())
    quiet = sample_chunk(
        policy,
        a_context(2),
        pirl=flow_noise(),
        noise_head=None,
        rngs=generators(2),
        stochastic=False,
    )
    assert torch.equal(quiet.chunk, sample(flow_sde(), rows=2, stochastic=False).chunk)


def test_stochastic_step_without_noise_is_an_error_not_a_zero():
    with pytest.raises(NumericsError, match="no density"):
        sample(flow_sde(sde={"noise_level": 0.0, **at_step(1, 5)}))


def test_flow_cps_has_no_density_at_its_own_last_step():
    sde = {"noise_method": "flow_cps", **at_step(4, 5)}
    with pytest.raises(NumericsError, match="no density"):
        sample(flow_sde(sde=sde, last_step_rule="sde"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("region", ["padded dims", "rows never executed", "hidden gripper"])
def test_changing_what_is_masked_leaves_the_log_prob_unchanged(variant, region):
    pirl = VARIANTS[variant](gripper_mode="none", last_step_rule="additive")
    drawn = sample(pirl)
    where = {
        "padded dims": (Ellipsis, slice(None), 4),
        "rows never executed": (Ellipsis, slice(4, None), slice(None)),
        "hidden gripper": (Ellipsis, slice(None), 3),
    }[region]
    fields = dict(drawn.fields)
    # The end of the chain is no network input: only its density could change.
    ends = "pirl_x_next" if "pirl_x_next" in fields else "pirl_chain"
    moved = fields[ends].clone()
    target = moved[:, -1] if ends == "pirl_chain" else moved
    target[where] += 0.5
    fields[ends] = moved
    assert torch.equal(replay(pirl, fields).log_prob, replay(pirl, drawn.fields).log_prob)


@pytest.mark.parametrize("base", ["native", "euler"])
@pytest.mark.parametrize("k", range(5))
def test_masked_coordinates_of_the_drawn_state_are_the_deterministic_update(k, base):
    pirl = flow_sde(sde=at_step(k, 5), base_sampler=base)
    drawn = sample(pirl).fields
    policy = MixingPolicy(a_spec())
    tables = build_tables(a_spec(), pirl)
    step = drawn["pirl_denoise_idx"]
    clean = policy.predict(a_context(ROWS), drawn["pirl_x_k"], tables.time[step]).clean.float()
    own = transition(
        tables,
        step=step,
        x=drawn["pirl_x_k"],
        clean=clean,
        carried=drawn["pirl_noise"],
        stochastic=torch.zeros(ROWS, dtype=torch.bool),
    )
    still = torch.ones(6, 5, dtype=torch.bool)
    still[:4, :3] = False
    still[:4, 3] = k != 4
    assert torch.equal(drawn["pirl_x_next"][:, still], own.mean[:, still])
    assert not (drawn["pirl_x_next"][:, ~still] == own.mean[:, ~still]).any()


def test_noise_on_unused_noises_everything_but_counts_the_same_coordinates():
    plain, wide = (flow_sde(sde=at_step(1, 5), noise_on_unused=unused) for unused in (False, True))
    quiet, loud = sample(plain).fields, sample(wide).fields
    assert torch.equal(quiet["pirl_logprob_mask"], loud["pirl_logprob_mask"])
    moved = quiet["pirl_x_next"] != loud["pirl_x_next"]
    assert moved[:, 4:].all()
    assert moved[..., 3:].all()
    assert not moved[:, :4, :3].any()


@pytest.mark.parametrize("gripper", ["bernoulli", "none"])
def test_noise_on_unused_never_executes_a_gripper_without_a_density(gripper):
    pirl = flow_sde(sde=at_step(4, 5), noise_on_unused=True, gripper_mode=gripper)
    drawn = sample(pirl).fields
    replayed_mean = replay(pirl, drawn).mean[:, 0]
    assert torch.equal(drawn["pirl_x_next"][:, :4, 3], replayed_mean[..., 3])


def test_without_refresh_the_native_sampler_would_forget_an_early_perturbation():
    steps, rows = 10, 20
    policy = GaussianDataPolicy(a_plain_spec(steps=steps, chunk=20, dims=5), mean=0.0, std=0.1)
    for k in (2, 5):
        pirl = flow_sde(sde=at_step(k, steps))
        chunks = [
            sample_chunk(
                policy,
                a_context(rows),
                pirl=pirl,
                noise_head=None,
                rngs=generators(rows),
                stochastic=stochastic,
            ).chunk
            for stochastic in (True, False)
        ]
        # Kept: about 0.025 in every chunk; forgotten: at most 0.0006.
        assert 0.015 < float((chunks[0] - chunks[1]).std()) < 0.05


@pytest.mark.parametrize(
    ("steps", "data_std", "expected"),
    [
        (
            10,
            0.02,
            [0.0020, 0.0021, 0.0016, 0.0014, 0.0014, 0.0014, 0.0015, 0.0018, 0.0028, 0.0527],
        ),
        (5, 0.30, [0.125, 0.148, 0.129, 0.135, 0.112]),
    ],
)
def test_exploration_of_each_step_alone_is_the_published_one(steps, data_std, expected):
    policy = GaussianDataPolicy(a_plain_spec(steps=steps, chunk=50, dims=60), mean=0, std=data_std)
    for k, std in enumerate(expected):
        pirl = flow_sde(sde=at_step(k, steps), base_sampler="euler", last_step_rule="sde")
        chunks = [
            sample_chunk(
                policy,
                a_context(1),
                pirl=pirl,
                noise_head=None,
                rngs=generators(1),
                stochastic=stochastic,
            ).chunk
            for stochastic in (True, False)
        ]
        assert float((chunks[0] - chunks[1]).std()) == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize("base", ["native", "euler"])
def test_every_step_stochastic_records_each_step_with_the_noise_it_carried(base):
    pirl = VARIANTS["all"](base_sampler=base)
    fields = sample(pirl).fields
    assert fields["pirl_logprob"].shape == (ROWS, 5, 4, 5)
    if base == "euler":
        assert "pirl_carried" not in fields
        return
    carried, chain = fields["pirl_carried"], fields["pirl_chain"]
    assert torch.equal(carried[:, 0], chain[:, 0])
    noised = carried[:, 1:, :4, :3] - carried[:, :1, :4, :3]
    assert (noised != 0).all()
    still = torch.ones(6, 5, dtype=torch.bool)
    still[:4, :3] = False
    assert torch.equal(carried[:, 1:, still], carried[:, :1, still].expand(-1, 4, -1))


def test_fields_have_the_names_types_and_sizes_of_the_transition_schema():
    spec = a_spec(
        steps=10,
        chunk=32,
        executed=32,
        groups=("xyz",) * 9 + ("gripper_logit",) + ("other",) * 10,
        executed_dims=range(10),
    )
    chunk, executed = (1, 32, 20), (1, 32, 20)
    always = {
        "pirl_logprob": (executed, torch.float32),
        "pirl_logprob_mask": (executed, torch.bool),
    }
    hybrid = {
        "pirl_denoise_idx": ((1,), torch.int64),
        "pirl_noise": (chunk, torch.float32),
        "pirl_x_k": (chunk, torch.float32),
        "pirl_x_next": (chunk, torch.float32),
    }
    bernoulli = {
        "pirl_x_last": (chunk, torch.float32),
        "pirl_gripper": ((1, 32, 1), torch.uint8),
    }
    chain = {
        "pirl_chain": ((1, 11, 32, 20), torch.float32),
        "pirl_logprob_last": (executed, torch.float32),
    }

    def schema(pirl):
        fields = sample(pirl, spec=spec, rows=1).fields
        return {name: (tuple(v.shape), v.dtype) for name, v in fields.items()}

    assert schema(flow_sde()) == always | hybrid
    assert schema(flow_sde(gripper_mode="bernoulli")) == always | hybrid | bernoulli
    assert schema(flow_noise()) == always | chain


@pytest.mark.parametrize(("k", "count"), [(0, 90), (3, 90), (4, 100)])
def test_dims_counted_are_those_of_a_single_arm_ee6d_policy(k, count):
    spec = a_spec(
        chunk=12,
        executed=10,
        groups=("xyz",) * 3 + ("rot6d",) * 6 + ("gripper_logit",) + ("other",) * 10,
        executed_dims=range(10),
    )
    mask = sample(flow_sde(sde=at_step(k, 5)), spec=spec, rows=1).fields["pirl_logprob_mask"]
    assert int(mask.sum()) == count


def test_bernoulli_chunk_executes_the_drawn_gripper_and_counts_it_in_every_sample():
    pirl = flow_sde(gripper_mode="bernoulli", sde=at_step(1, 5))
    drawn = sample(pirl, rows=64)
    closed = drawn.fields["pirl_gripper"][..., 0] == 1
    executed = torch.sigmoid(drawn.chunk[:, :4, 3])
    assert torch.equal(executed > 0.5, closed)
    assert 0 < int(closed.sum()) < closed.numel()
    assert drawn.fields["pirl_logprob_mask"][..., 3].all()
    gripper = drawn.fields["pirl_logprob"][..., 3]
    policy = MixingPolicy(a_spec())
    last = drawn.fields["pirl_x_last"]
    logit = policy.predict(a_context(64), last, torch.full((64,), 0.2)).clean[:, :4, 3]
    expected = torch.distributions.Bernoulli(logits=logit).log_prob(closed.float())
    torch.testing.assert_close(gripper, expected, rtol=0, atol=1e-6)


def test_drawn_gripper_is_executed_but_not_written_into_the_recorded_chain():
    pirl = flow_noise(gripper_mode="bernoulli")
    drawn = sample(pirl)
    end = drawn.fields["pirl_chain"][:, -1]
    assert (drawn.chunk[:, :4, 3].abs() == 10).all()
    assert (end[:, :4, 3].abs() < 5).all()
    assert torch.equal(end[..., :3], drawn.chunk[..., :3])


def test_altering_the_chain_of_another_recipe_is_refused_by_field():
    fields = dict(sample(flow_sde()).fields)
    fields["pirl_x_k"] = fields["pirl_x_k"][:, :-1]
    with pytest.raises(ContractError) as caught:
        replay(flow_sde(), fields)
    assert caught.value.clauses[0].field == "pirl_x_k"


def test_executed_dims_that_the_policy_was_not_built_with_are_refused():
    with pytest.raises(ContractError) as caught:
        sample(flow_sde(executed_dims=(0, 1)))
    assert caught.value.clauses[0].field == "pirl.executed_dims"


@pytest.mark.parametrize("pirl", [flow_noise(), flow_sde()])
def test_noise_head_belongs_to_flow_noise_alone(pirl):
    other = flow_sde() if pirl.is_flow_noise else flow_noise()
    with pytest.raises(ContractError) as caught:
        sample_chunk(
            MixingPolicy(a_spec()),
            a_context(1),
            pirl=pirl,
            noise_head=a_head(a_spec(), other, width=8),
            rngs=generators(1),
        )
    assert caught.value.clauses[0].field == "noise_head"


def test_one_generator_per_row_is_required():
    with pytest.raises(ContractError, match="one per generator"):
        sample_chunk(
            MixingPolicy(a_spec()),
            a_context(3),
            pirl=flow_sde(),
            noise_head=None,
            rngs=generators(2),
        )


def test_gradients_reach_the_prediction_and_not_the_recorded_noise():
    spec = a_plain_spec(steps=3)
    theta = torch.tensor([0.1, 0.2, 0.3], requires_grad=True)
    policy = AffinePolicy(spec, theta)
    for pirl in (flow_sde(), VARIANTS["all"]()):
        drawn = sample_chunk(policy, a_context(4), pirl=pirl, noise_head=None, rngs=generators(4))
        assert not any(value.requires_grad for value in drawn.fields.values())
        replayed = replay_log_prob(
            policy, a_context(4), fields=drawn.fields, pirl=pirl, noise_head=None
        )
        (gradient,) = torch.autograd.grad(replayed.log_prob.sum(), theta)
        assert bool(gradient.abs().gt(0).all())


def test_a_replay_without_the_noise_head_that_its_recipe_needs_is_refused():
    spec, pirl = a_spec(), flow_noise()
    policy = MixingPolicy(spec)
    context = a_context(2)
    head = a_head(spec, pirl, width=policy.feature_width)
    sampled = sample_chunk(policy, context, pirl=pirl, noise_head=head, rngs=generators(2))
    with pytest.raises(ContractError, match="noise"):
        replay_log_prob(policy, context, fields=sampled.fields, pirl=pirl, noise_head=None)


@pytest.mark.parametrize(("steps", "is_there"), [("one", True), ("all", False)])
def test_the_last_state_travels_by_itself_only_where_the_chain_does_not(steps, is_there):
    spec = a_spec()
    pirl = flow_sde(sde={"stochastic_steps": steps}, gripper_mode="bernoulli")
    policy = MixingPolicy(spec)
    sampled = sample_chunk(policy, a_context(2), pirl=pirl, noise_head=None, rngs=generators(2))
    assert ("pirl_x_last" in sampled.fields) is is_there
