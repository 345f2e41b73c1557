"""Sample a denoising chain, and replay a recorded one under other weights.

Owns the sampling loop of `algorithm.md` 4-6 and its mirror image on the learner. Refuses to know
advantages, simulators and sockets. Read `pirl.algorithm.log_prob` for what is made of the steps.

Everything here is fp32 (the dtype of the recorded fields), whatever the network computes in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pirl.algorithm.denoise import Noise, Trace, run_chain
from pirl.algorithm.draws import Draws, draw_decision, draw_initial, stochastic_step
from pirl.algorithm.flow_noise import NoiseHead
from pirl.algorithm.gaussian import GaussianStep
from pirl.algorithm.log_prob import (
    ReducedLogProb,
    ReplayedLogProb,
    recorded_log_prob,
    reduce_log_prob,
    score_steps,
    step_kl,
)
from pirl.algorithm.mask import decision_masks
from pirl.algorithm.recording import RecordedSteps, read_steps
from pirl.algorithm.transition import (
    StepTables,
    build_tables,
    flow_sde_settings,
    transition,
)
from pirl.config.recipe import PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.decision import (
    CARRIED,
    CHAIN,
    DENOISE_INDEX,
    GRIPPER,
    LOG_PROB,
    LOG_PROB_LAST,
    LOG_PROB_MASK,
    NOISE,
    X_K,
    X_LAST,
    X_NEXT,
    stores_all_steps,
)
from pirl.errors import ContractError, FieldError
from pirl.records import ActionSpec, Context, Prediction, SampledChunk

__all__ = [
    "ReducedLogProb",
    "ReplayedLogProb",
    "recorded_log_prob",
    "reduce_log_prob",
    "replay_log_prob",
    "sample_chunk",
    "step_kl",
]

BERNOULLI_LOGIT = 10.0
"""Logit that stands for a drawn gripper state in the chunk: its sigmoid is 5e-5 from 0 or 1."""


@torch.no_grad()
def sample_chunk(
    policy: FlowPolicy,
    context: Context,
    *,
    pirl: PiRLConfig,
    noise_head: NoiseHead | None,
    rngs: Sequence[torch.Generator],
    stochastic: bool = True,
) -> SampledChunk:
    """One action chunk per context row, with what replay needs to score it again.

    Args:
        context: encoded observations.
        noise_head: needed by stochastic Flow-Noise, not read otherwise.
        rngs: one generator per row; a row's chunk depends on its own generator only.
        stochastic: False is the deterministic sampler (stock semantics: initial noise random, none
            after it); the chunk then has no log-prob and `fields` is empty.

    Returns:
        The chunk x_K in model space and its log-prob and chain fields of `algorithm.md` 13.1, fp32.

    Raises:
        ContractError: the number of generators or the noise head does not fit.
        NumericsError: a step whose density the recipe asks for has none.

    Invariant: without noise and with the native base the chunk is bit-identical to the policy's own
    sampler at equal initial noise.
    """
    spec = policy.spec
    _check_call(policy, context, pirl=pirl, rows=len(rngs))
    device = context.critic_features.device
    tables = build_tables(spec, pirl, device=device)
    if not stochastic:
        initial = draw_initial(spec, rngs, device=device)
        trace = run_chain(policy, context, tables=tables, initial=initial)
        return SampledChunk(chunk=trace.chain[:, -1], fields={})
    _check_noise_head(pirl, noise_head)
    every_step = stores_all_steps(pirl)
    drawn_steps = tables.num_steps if every_step else 1
    draws = draw_decision(spec, rngs, stochastic_steps=drawn_steps, device=device)
    if every_step:
        step = torch.arange(tables.num_steps, device=device).expand(len(rngs), -1)
    else:
        step = stochastic_step(
            draws.step_quantile, num_steps=tables.num_steps, settings=flow_sde_settings(pirl)
        )[:, None]
    trace = run_chain(
        policy,
        context,
        tables=tables,
        initial=draws.initial,
        noise=Noise(step=step, draw=draws.noise, refresh=not pirl.is_flow_noise),
        noise_head=noise_head,
    )
    return _record(spec, pirl, trace=trace, step=step, draws=draws)


def replay_log_prob(
    policy: FlowPolicy,
    context: Context,
    *,
    fields: Mapping[str, Tensor],
    pirl: PiRLConfig,
    noise_head: NoiseHead | None,
) -> ReplayedLogProb:
    """Log-prob of recorded decisions under the policy's current weights, with gradients.

    One batched network call: B rows in hybrid mode (2B with a Bernoulli gripper), B*K when every
    step is recorded; or pieces of it (`pirl.recompute_activations`). In hybrid mode, and with
    `stochastic_steps=all` under the native base, the recorded x_k and carried noise are constants:
    the gradient is that of the recorded steps only (a semi-gradient, `algorithm.md` 5), although the
    carried noise of a later step was computed from earlier predictions.

    Args:
        context: encoded observations; must be the ones the actor saw.
        fields: as recorded; `pirl_valid_steps` and `is_intervention` shape the mask where present.

    Raises:
        ContractError: a field is missing or has the wrong shape.
        NumericsError: a masked coordinate has no density, or the result is not finite.

    Invariant: same weights and same fields give the recorded value within 1e-5 per decision (fp32
    CPU).
    """
    spec = policy.spec
    steps = read_steps(spec, pirl, fields)
    _check_call(policy, context, pirl=pirl, rows=len(steps.step))
    _check_noise_head(pirl, noise_head)
    tables = build_tables(spec, pirl, dtype=steps.x.dtype, device=steps.x.device)
    law, last_clean = _replay_steps(
        policy,
        context,
        steps=steps,
        tables=tables,
        noise_head=noise_head,
        held=pirl.recompute_activations,
    )
    return score_steps(
        spec,
        pirl,
        steps=steps,
        law=law,
        gripper_logit=_gripper_logit(spec, pirl, last_clean),
        masks=decision_masks(spec, pirl, step=steps.step, fields=fields),
    )


def _replay_steps(
    policy: FlowPolicy,
    context: Context,
    *,
    steps: RecordedSteps,
    tables: StepTables,
    noise_head: NoiseHead | None,
    held: int,
) -> tuple[GaussianStep, Float[Tensor, "B C D"]]:
    """Law [B, S, C, D] of the recorded steps, and the prediction of the last of them.

    With `steps.x_last` that is the prediction at x_{K-1}, appended to the same network call.
    """
    rows, stored = steps.step.shape
    count = rows * stored
    row = torch.arange(rows, device=steps.x.device).repeat_interleave(stored)
    step, x = steps.step.flatten(), steps.x.flatten(0, 1)
    time = tables.time[step]
    if steps.x_last is not None:
        row = torch.cat([row, row])
        x = torch.cat([x, steps.x_last])
        time = torch.cat([time, tables.time[-2].expand(rows)])
    if held and len(row) > held:
        prediction = _predict_in_pieces(policy, context, row, x, time, most=held)
    else:
        prediction = policy.predict(context if len(row) == rows else context.index(row), x, time)
    clean = prediction.clean.to(x.dtype)
    learned = None if noise_head is None else noise_head(prediction.features).to(x.dtype)
    law = transition(
        tables,
        step=step,
        x=x[:count],
        clean=clean[:count],
        carried=steps.carried.flatten(0, 1),
        learned_std=learned,
    )
    shape = (rows, stored)
    by_step = GaussianStep(mean=law.mean.unflatten(0, shape), std=law.std.unflatten(0, shape))
    last_clean = clean[count:] if steps.x_last is not None else clean.unflatten(0, shape)[:, -1]
    return by_step, last_clean


def _predict_in_pieces(
    policy: FlowPolicy,
    context: Context,
    row: Int64[Tensor, " N"],
    x: Float[Tensor, "N C D"],
    time: Float[Tensor, " N"],
    *,
    most: int,
) -> Prediction:
    """N predictions in equal pieces of at most `most`, whose activations are computed again when needed.

    Equal, because kernels of GPUs differ between batch sizes and the ratio must start at one; a pass
    without gradients takes the same pieces for the same reason.
    """
    count = next(n for n in range(-(-len(row) // most), len(row) + 1) if len(row) % n == 0)

    def predict(some: Tensor, start: Tensor, at: Tensor) -> Prediction:
        return policy.predict(context.index(some), start, at)

    parts: list[Prediction] = [
        # Nothing of eval mode draws: the generators' states need not be kept.
        cast(
            "Prediction", checkpoint(predict, *piece, use_reentrant=False, preserve_rng_state=False)
        )
        if torch.is_grad_enabled()
        else predict(*piece)
        for piece in zip(row.chunk(count), x.chunk(count), time.chunk(count), strict=True)
    ]
    return Prediction(
        clean=torch.cat([part.clean for part in parts]),
        features=torch.cat([part.features for part in parts]),
    )


def _record(
    spec: ActionSpec, pirl: PiRLConfig, *, trace: Trace, step: Tensor, draws: Draws
) -> SampledChunk:
    """Fields of a sampled chain, scored as replay will score them."""
    row = torch.arange(len(step), device=step.device)[:, None]
    chain = trace.chain
    fields: dict[str, Tensor]
    if stores_all_steps(pirl):
        fields = {CHAIN: chain}
        if not pirl.is_flow_noise and pirl.base_sampler == "native":
            fields[CARRIED] = trace.carried
    else:
        at, index = row[:, 0], step[:, 0]
        fields = {DENOISE_INDEX: index, NOISE: chain[:, 0]}
        fields |= {X_K: chain[at, index], X_NEXT: chain[at, index + 1]}
    chunk = chain[:, -1]
    gripper_logit = _gripper_logit(spec, pirl, trace.last_clean)
    if gripper_logit is not None:
        closed = draws.gripper_quantile < torch.sigmoid(gripper_logit)
        fields[GRIPPER] = closed.to(torch.uint8)
        if not stores_all_steps(pirl):
            fields[X_LAST] = chain[:, -2]
        chunk = chunk.clone()
        drawn = torch.where(closed, BERNOULLI_LOGIT, -BERNOULLI_LOGIT)
        chunk[:, : spec.executed_steps, list(spec.gripper_dims)] = drawn
    scored = score_steps(
        spec,
        pirl,
        steps=read_steps(spec, pirl, fields),
        law=GaussianStep(mean=trace.law.mean[row, step], std=trace.law.std[row, step]),
        gripper_logit=gripper_logit,
        masks=decision_masks(spec, pirl, step=step, fields={}),
    )
    one_sample = scored.log_prob.shape[1] == 1
    fields[LOG_PROB] = scored.log_prob[:, 0] if one_sample else scored.log_prob
    fields[LOG_PROB_MASK] = scored.mask[:, 0] if one_sample else scored.mask
    if pirl.is_flow_noise:
        fields[LOG_PROB_LAST] = scored.last_share
    return SampledChunk(chunk=chunk, fields=fields)


def _gripper_logit(
    spec: ActionSpec, pirl: PiRLConfig, last_clean: Float[Tensor, "B C D"]
) -> Float[Tensor, "B E G"] | None:
    if pirl.gripper_mode != "bernoulli":
        return None
    return last_clean[:, : spec.executed_steps, list(spec.gripper_dims)]


def _check_call(policy: FlowPolicy, context: Context, *, pirl: PiRLConfig, rows: int) -> None:
    """One generator or record per context row, and the recipe's executed dims are the policy's."""
    clauses: list[FieldError] = []
    if rows != len(context):
        clause = FieldError(
            field="context",
            value=len(context),
            expected=f"{rows} rows, one per generator or recorded decision",
            fix="encode exactly the observations of these decisions",
        )
        clauses.append(clause)
    wanted = pirl.executed_dims
    if wanted is not None and tuple(wanted) != policy.spec.executed_dims:
        clause = FieldError(
            field="pirl.executed_dims",
            value=tuple(wanted),
            expected=f"what the policy adapter was built with, {policy.spec.executed_dims}",
            fix="build the policy with the recipe's executed_dims",
        )
        clauses.append(clause)
    if clauses:
        raise ContractError(clauses)


def _check_noise_head(pirl: PiRLConfig, noise_head: NoiseHead | None) -> None:
    if pirl.is_flow_noise == (noise_head is not None):
        return
    clause = FieldError(
        field="noise_head",
        value=noise_head,
        expected="a NoiseHead with Flow-Noise, None with Flow-SDE",
        fix="build it with the variant of the recipe",
    )
    raise ContractError([clause])
