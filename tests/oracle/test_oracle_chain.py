"""What an actor samples and records, against the oracle's chain; and the oracle against itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from oracle_cases import CASES, EPISODES, STALE
from oracle_compare import Case
from oracle_toys import (
    SEED,
    STATE,
    OraclePolicy,
    a_batch,
    a_recipe,
    a_spec,
    an_algorithm,
    an_observation,
    generators,
)
from plain_chain import (
    every_step,
    plain,
    read_decision,
    recorded_samples,
    reduced,
    sample,
    sample_elements,
    score,
)
from plain_update import PlainLearner, seen_by

from pirl.algorithm.chain import replay_log_prob, sample_chunk

CHAINS = (
    "base", "base-noise", "noise-level", "w-rule-vp", "flow-cps", "flow-cps-own-last-step",
    "step-weights", "exclude-last", "all-steps", "all-steps-euler", "euler", "euler-noise",
    "last-step-sde", "last-step-sde-noise", "one-step", "one-step-noise", "noise-on-unused",
    "noise-on-unused-no-gripper",
    "executed-dims", "bernoulli", "bernoulli-all-steps", "bernoulli-noise", "no-gripper",
    "joint-sum", "std-range", "head-hidden",
)  # fmt: skip
FP32 = dict(rtol=2e-5, atol=2e-5)
"""The actor's chain is fp32: some 1e-7 per step, times 1/t of the Euler base and the head's slope."""
FP32_NATS = dict(rtol=1e-5, atol=2e-4)
"""A log-density moves by z/s times the error of its argument: 4 / 0.08 times some 1e-6."""


def learner(case: Case):
    """pirl's learner on a case's recipe, with the oracle's view of its weights."""
    pirl = a_recipe(case.variant, **case.knobs)
    spec = a_spec(steps=case.steps, executed_dims=case.executed_dims)
    policy = OraclePolicy(spec, trains_encoder=pirl.train_scope == "all")
    algorithm = an_algorithm(policy, pirl, total_updates=5)
    weights = dict(policy.module.named()) | dict(algorithm._nets.parameters())
    return algorithm, spec, pirl, {n: w.detach().clone() for n, w in weights.items()}


@pytest.mark.parametrize("name", CHAINS)
def test_a_sampled_decision_is_the_oracles(name):
    algorithm, spec, pirl, weights = learner(CASES[name])
    rows = 4
    state = torch.randn(rows, STATE, generator=torch.Generator().manual_seed(2))
    observation = an_observation(state, torch.zeros(rows, dtype=torch.int64))
    ours = sample_chunk(
        algorithm.policy,
        algorithm.policy.encode(observation),
        pirl=pirl,
        noise_head=algorithm.noise_head,
        rngs=generators(rows, seed=3),
    )
    outcome = {
        "pirl_valid_steps": torch.full((rows,), spec.executed_steps),
        "is_intervention": torch.zeros(rows, dtype=torch.int64),
    }
    for row, rng in enumerate(generators(rows, seed=3)):
        seen = seen_by(observation, row)
        drawn = sample(algorithm.policy.network, weights, spec, pirl, seen=seen, rng=rng)
        torch.testing.assert_close(ours.chunk[row].double(), drawn.chunk, **FP32)
        for field, value in recorded(pirl, drawn).items():
            torch.testing.assert_close(
                ours.fields[field][row].double(), value.double(), **FP32, msg=field
            )
        decision = read_decision(spec, pirl, ours.fields | outcome, row)
        scored = score(algorithm.policy.network, weights, spec, pirl, seen=seen, decision=decision)
        for element, value in recorded_samples(spec, pirl, ours.fields | outcome, row).items():
            assert value == pytest.approx(
                plain(scored.log_prob[element]), rel=FP32_NATS["rtol"], abs=FP32_NATS["atol"]
            )
        counted = ours.fields["pirl_logprob_mask"][row].nonzero().tolist()
        joint = ours.fields["pirl_logprob_mask"].ndim == 3
        assert sample_elements(spec, pirl, decision) == [
            (0, *place) if joint else tuple(place) for place in counted
        ]


def recorded(pirl, drawn) -> dict[str, torch.Tensor]:
    """The fields of a drawn decision that replay reads."""
    chain = torch.stack(drawn.chain)
    found: dict[str, torch.Tensor] = {}
    if every_step(pirl):
        found["pirl_chain"] = chain
        if pirl.variant == "flow-sde" and pirl.base_sampler == "native":
            found["pirl_carried"] = torch.stack(drawn.carried)
    else:
        k = drawn.stochastic_step
        found |= {"pirl_denoise_idx": torch.tensor(k), "pirl_noise": chain[0]}
        found |= {"pirl_x_k": chain[k], "pirl_x_next": chain[k + 1]}
    if drawn.gripper is not None:
        found["pirl_gripper"] = drawn.gripper
        if not every_step(pirl):
            found["pirl_x_last"] = chain[-2]
    return found


@pytest.mark.parametrize("name", ["all-steps", "rows-auto", "bernoulli-all-steps", "joint-sum"])
def test_every_element_of_a_replayed_log_prob_is_the_oracles(name):
    algorithm, spec, pirl, weights = learner(CASES[name])
    batch = a_batch(algorithm, CASES[name].episodes, version=3, seed=0)
    context = algorithm.policy.encode(batch.observation)
    replayed = replay_log_prob(
        algorithm.policy,
        context,
        fields=batch.fields,
        pirl=pirl,
        noise_head=algorithm.noise_head,
    )
    for row in range(len(batch)):
        seen = seen_by(batch.observation, row)
        decision = read_decision(spec, pirl, batch.fields, row)
        network = algorithm.policy.network
        scored = score(network, weights, spec, pirl, seen=seen, decision=decision)
        mask = replayed.mask[row]
        assert [tuple(place) for place in mask.nonzero().tolist()] == sorted(scored.log_prob)
        for element, value in scored.log_prob.items():
            assert float(replayed.log_prob[row][element].detach()) == pytest.approx(
                plain(value), abs=1e-11
            )
        assert replayed.log_prob[row][~mask].abs().sum() == 0
        for sample_index, entropy in enumerate(scored.entropy):
            assert float(replayed.entropy[row, sample_index].detach()) == pytest.approx(
                plain(entropy), abs=1e-12
            )


@pytest.mark.parametrize("name", ["base-noise", "kl", "stale"])
def test_the_oracles_gradient_is_that_of_finite_differences(name):
    case = CASES[name]
    algorithm, spec, pirl, weights = learner(case)
    oracle = PlainLearner(
        algorithm.policy.network,
        spec,
        pirl,
        weights=weights,
        policy_names=list(algorithm.policy.trained_parameters()),
        total_updates=5,
        seed=SEED,
        demo_loss=algorithm.policy.network.demo_loss,
        demos=None,
    )
    batch = a_batch(algorithm, STALE if name == "stale" else EPISODES, version=3, seed=0)
    fixed, rows = oracle.fix(batch), list(range(len(batch)))
    # Away from the anchor, where clips and caps bite and the KL to the start is not 0.
    rng = torch.Generator().manual_seed(4)
    for weight in oracle.trained():
        old = oracle.weights[weight].detach()
        oracle.weights[weight] = old + 0.05 * torch.randn(old.shape, generator=rng).double()
    gradient = oracle.gradient(oracle.loss(fixed, rows).total)
    places = [
        ("transformer.body.weight", (1, 2)),
        ("transformer.action_decoder.bias", (0,)),
        ("critic.hidden.0.weight", (0, 1)),
        *([("noise_head.mlp.0.weight", (1, 1))] if pirl.variant == "flow-noise" else []),
    ]
    for weight, place in places:
        around: list[float] = []
        for step in (1e-5, -1e-5):
            oracle.weights[weight] = oracle.weights[weight].detach().clone()
            oracle.weights[weight][place] += step
            around.append(float(oracle.loss(fixed, rows).total.detach()))
            oracle.weights[weight] = oracle.weights[weight].detach().clone()
            oracle.weights[weight][place] -= step
        assert float(gradient[weight][place]) == pytest.approx(
            (around[0] - around[1]) / 2e-5, rel=1e-6, abs=1e-9
        )


def test_the_oracle_shares_no_code_with_the_algorithm():
    for path in sorted(Path(__file__).parent.glob("plain_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            ours = {m for m in modules if m.split(".")[0] == "pirl"}
            assert ours <= {"pirl.config.recipe", "pirl.records"}, path.name
            # Nor by way of the toys, which do use pirl to build a learner.
            assert not any(m.startswith(("oracle_", "toys", "flow_toys")) for m in modules), (
                path.name
            )


def test_reductions_of_the_oracle_are_sums():
    values = {(0, 0, 1): 1.0, (0, 1, 1): 2.0, (1, 0, 0): 4.0}
    assert reduced(values, "chunk") == {(0,): 3.0, (1,): 4.0}
    assert reduced(values, "action") == {(0, 0): 1.0, (0, 1): 2.0, (1, 0): 4.0}
    assert reduced(values, "token") == values
