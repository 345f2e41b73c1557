"""The oracle's chain: sampling and log-prob of one decision, one coordinate at a time, in fp64.

Written from the specification (sections 3 to 7 of `algorithm.md`) and from nothing else: it shares
no code with `pirl.algorithm`. It reads the recipe's knobs and plain tensors. A number is a Python
float where no gradient is asked for and a tensor without dimensions where one is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from pirl.config.recipe import PiRLConfig
from pirl.records import ActionSpec

Real = float | Tensor
Weights = Mapping[str, Tensor]
Element = tuple[int, int, int]
"""Sample of the decision, row of the chunk, dim of the row."""
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
REFERENCE_STD = 0.12


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The observation of one decision."""

    state: Tensor
    domain: int


class Network(Protocol):
    """The policy's network, one decision at a time; its weights are an argument."""

    def tokens(self, weights: Weights, seen: Seen) -> Tensor:
        """The encoded observation, [tokens, width]."""
        ...

    def predict(self, weights: Weights, seen: Seen, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """Clean chunk [C, D] and action-token features [C, W]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The stochastic steps of one recorded decision, and what became of it."""

    step: list[int]
    x: list[Tensor]
    x_next: list[Tensor]
    carried: list[Tensor]
    initial: Tensor
    x_last: Tensor | None
    gripper: Tensor | None
    valid_steps: int
    by_human: bool


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Log-prob of one decision under some weights, element by element."""

    log_prob: dict[Element, Real]
    """Counted elements only."""
    entropy: list[Real]
    """Per sample."""
    law: dict[Element, tuple[Real, Real]]
    """Mean and std by (stored step, row, dim), where the density counts."""
    last_share: dict[tuple[int, int], Real]
    """Flow-Noise: what the last step contributed, by (row, dim)."""


def every_step(pirl: PiRLConfig) -> bool:
    """Whether all K steps add noise."""
    return pirl.variant == "flow-noise" or pirl.flow_sde.stochastic_steps == "all"


# -- one step (3.2, 3.5, 3.9, 3.10, 6) -------------------------------------------------------------


def noise_of_step(pirl: PiRLConfig, k: int, steps: int, group: str) -> tuple[float, float]:
    """(s, w) of a noised coordinate; in Flow-Noise s is the factor on the learned std."""
    t, t_next = (steps - k) / steps, (steps - k - 1) / steps
    learned = pirl.variant == "flow-noise"
    if k == steps - 1 and pirl.last_step_rule == "additive":
        std = getattr(pirl.last_step_std, group)
        return (std / REFERENCE_STD if learned else std), 0.0
    if learned:
        return 1.0, t_next
    sde = pirl.flow_sde
    if sde.noise_method == "flow_cps":
        angle = math.pi * sde.noise_level / 2
        return t_next * math.sin(angle), t_next * math.cos(angle)
    clamped = (steps - 1) / steps if k == 0 else t
    sigma = sde.noise_level * math.sqrt(t / (1 - clamped))
    std = sigma * math.sqrt(1 / steps)
    if sde.w_rule == "vp":
        return std, math.sqrt(max(t_next**2 - std**2, 0.0))
    return std, t_next - std**2 / (2 * t)


def density_counts(spec: ActionSpec, pirl: PiRLConfig, k: int, row: int, dim: int) -> bool:
    """M_k of 7.1 and 7.2, before it is known how many rows ran."""
    if row >= spec.executed_steps or dim not in spec.executed_dims:
        return False
    if dim not in spec.hidden_gripper_dims:
        return True
    return pirl.gripper_mode == "last_step" and k == spec.denoising_steps - 1


def receives_noise(spec: ActionSpec, pirl: PiRLConfig, k: int, row: int, dim: int) -> bool:
    """D7: noise where the density counts, or everywhere but on grippers about to be executed."""
    counts = density_counts(spec, pirl, k, row, dim)
    if not pirl.noise_on_unused:
        return counts
    executed_gripper = (
        row < spec.executed_steps and dim in spec.executed_dims and dim in spec.hidden_gripper_dims
    )
    return counts if k == spec.denoising_steps - 1 and executed_gripper else True


def law_of(
    spec: ActionSpec,
    pirl: PiRLConfig,
    *,
    k: int,
    place: tuple[int, int],
    x: Real,
    clean: Real,
    carried: Real,
    learned_std: Real | None,
    adds_noise: bool = True,
) -> tuple[Real, Real]:
    """Mean and std of one coordinate of x_{k+1}; std 0 where the step is deterministic."""
    steps = spec.denoising_steps
    row, dim = place
    t, t_next = (steps - k) / steps, (steps - k - 1) / steps
    noise = carried if pirl.base_sampler == "native" else (x - (1 - t) * clean) / t
    if not (adds_noise and receives_noise(spec, pirl, k, row, dim)):
        return (1 - t_next) * clean + t_next * noise, 0.0
    std, weight = noise_of_step(pirl, k, steps, spec.group_of_dim[dim])
    if learned_std is not None:
        std = std * learned_std
    return (1 - t_next) * clean + weight * noise, std


def learned_std(pirl: PiRLConfig, weights: Weights, features: Tensor) -> Tensor | None:
    """The noise head of section 6 on features [C, W]; None with Flow-SDE."""
    if pirl.variant != "flow-noise":
        return None
    settings = pirl.flow_noise
    h = features.detach() if settings.noise_head_detach else features
    for layer in range(len(settings.noise_head_hidden) + 1):
        # A tanh stands between two layers, so layers have the even numbers.
        h = h @ weights[f"noise_head.mlp.{2 * layer}.weight"].T
        h = h + weights[f"noise_head.mlp.{2 * layer}.bias"]
        if layer < len(settings.noise_head_hidden):
            h = torch.tanh(h)
    low, high = (math.log(bound**2) for bound in settings.noise_std_range)
    return torch.exp(0.5 * (low + (high - low) * (torch.tanh(h) + 1) / 2))


# -- what counts (7.1 to 7.3) ----------------------------------------------------------------------


def row_counts(spec: ActionSpec, pirl: PiRLConfig, k: int, row: int, valid_steps: int) -> bool:
    """7.3: whether a row stays although the episode ended after `valid_steps` rows."""
    if row < valid_steps:
        return True
    if pirl.logprob_level != "chunk" or pirl.mask_unexecuted_rows == "always":
        return False
    return pirl.mask_unexecuted_rows == "never" or k < spec.denoising_steps - 1


def element_counts(
    spec: ActionSpec, pirl: PiRLConfig, decision: Decision, k: int, row: int, dim: int
) -> bool:
    """Whether the Gaussian density of a coordinate at step k enters this decision's log-prob."""
    return (
        not decision.by_human
        and density_counts(spec, pirl, k, row, dim)
        and row_counts(spec, pirl, k, row, decision.valid_steps)
    )


def gripper_counts(
    spec: ActionSpec, pirl: PiRLConfig, decision: Decision, row: int, dim: int
) -> bool:
    """Whether the Bernoulli log-prob of a gripper channel counts."""
    return (
        pirl.gripper_mode == "bernoulli"
        and not decision.by_human
        and dim in spec.gripper_dims
        and row_counts(spec, pirl, spec.denoising_steps - 1, row, decision.valid_steps)
    )


def sample_elements(spec: ActionSpec, pirl: PiRLConfig, decision: Decision) -> list[Element]:
    """Elements of the log-prob samples: one sample per stored step, one in all in Flow-Noise."""
    joint = pirl.variant == "flow-noise"
    found: dict[Element, None] = {}
    for row in range(spec.executed_steps):
        for dim in range(spec.model_dim):
            for stored, k in enumerate(decision.step):
                if element_counts(spec, pirl, decision, k, row, dim):
                    found[(0 if joint else stored, row, dim)] = None
            if gripper_counts(spec, pirl, decision, row, dim):
                found[(0 if joint else len(decision.step) - 1, row, dim)] = None
    return sorted(found)


# -- log-prob (6, 7.2, 7.4) ------------------------------------------------------------------------


def score(
    network: Network,
    weights: Weights,
    spec: ActionSpec,
    pirl: PiRLConfig,
    *,
    seen: Seen,
    decision: Decision,
) -> Scored:
    """Log-prob of a recorded decision under `weights`."""
    steps = spec.denoising_steps
    law: dict[Element, tuple[Real, Real]] = {}
    density: dict[Element, Real] = {}
    last_clean: list[list[Real]] = []
    for stored, k in enumerate(decision.step):
        t = (steps - k) / steps
        clean_chunk, features = network.predict(weights, seen, decision.x[stored], t)
        std_chunk = learned_std(pirl, weights, features)
        clean = numbers(clean_chunk)
        stds = None if std_chunk is None else numbers(std_chunk)
        x, x_next = numbers(decision.x[stored]), numbers(decision.x_next[stored])
        carried = numbers(decision.carried[stored])
        last_clean = clean
        for row in range(spec.executed_steps):
            for dim in range(spec.model_dim):
                if not element_counts(spec, pirl, decision, k, row, dim):
                    continue
                mean, std = law_of(
                    spec,
                    pirl,
                    k=k,
                    place=(row, dim),
                    x=x[row][dim],
                    clean=clean[row][dim],
                    carried=carried[row][dim],
                    learned_std=None if stds is None else stds[row][dim],
                )
                law[stored, row, dim] = mean, std
                density[stored, row, dim] = log_normal(x_next[row][dim], mean, std)
    if decision.x_last is not None:
        final, _ = network.predict(weights, seen, decision.x_last, 1 / steps)
        last_clean = numbers(final)
    gripper = gripper_log_prob(spec, pirl, decision, last_clean)
    if pirl.variant == "flow-noise":
        return joint_score(spec, pirl, decision, law, density, gripper)
    last = len(decision.step) - 1
    log_prob = dict(density)
    for (row, dim), value in gripper.items():
        log_prob[last, row, dim] = log_prob.get((last, row, dim), 0.0) + value
    entropy = [mean_entropy(law, stored) for stored in range(len(decision.step))]
    return Scored(log_prob=log_prob, entropy=entropy, law=law, last_share={})


def joint_score(
    spec: ActionSpec,
    pirl: PiRLConfig,
    decision: Decision,
    law: dict[Element, tuple[Real, Real]],
    density: dict[Element, Real],
    gripper: dict[tuple[int, int], Real],
) -> Scored:
    """Flow-Noise: log N(x_0; 0, I) plus every step, as a mean of K+1 terms or as their sum."""
    steps = spec.denoising_steps
    scale = 1 / (steps + 1) if pirl.flow_noise.joint_reduction == "mean" else 1.0
    start = numbers(decision.initial)
    log_prob: dict[Element, Real] = {}
    last_share: dict[tuple[int, int], Real] = {}
    for _, row, dim in sample_elements(spec, pirl, decision):
        total: Real = 0.0
        if (0, row, dim) in density:
            total = total + log_normal(start[row][dim], 0.0, 1.0)
        for k in range(steps):
            total = total + density.get((k, row, dim), 0.0)
        last = density.get((steps - 1, row, dim), 0.0) + gripper.get((row, dim), 0.0)
        log_prob[0, row, dim] = (total + gripper.get((row, dim), 0.0)) * scale
        last_share[row, dim] = last * scale
    any_start = any(stored == 0 for stored, _, _ in law)
    entropy: Real = HALF_LOG_2PI + 0.5 if any_start else 0.0
    for k in range(steps):
        entropy = entropy + mean_entropy(law, k)
    return Scored(
        log_prob=log_prob, entropy=[entropy / (steps + 1)], law=law, last_share=last_share
    )


def gripper_log_prob(
    spec: ActionSpec, pirl: PiRLConfig, decision: Decision, clean: list[list[Real]]
) -> dict[tuple[int, int], Real]:
    """log Bernoulli(drawn state; sigmoid(logit)) by (row, dim), where it counts."""
    found: dict[tuple[int, int], Real] = {}
    for row in range(spec.executed_steps):
        for place, dim in enumerate(spec.gripper_dims):
            if gripper_counts(spec, pirl, decision, row, dim):
                logit = clean[row][dim]
                closed = bool(decision.gripper[row, place] > 0)
                found[row, dim] = log_sigmoid(logit if closed else -logit)
    return found


def behaviour_log_prob(
    spec: ActionSpec, pirl: PiRLConfig, decision: Decision, recorded: Tensor, last: Tensor | None
) -> dict[Element, float]:
    """What the actor recorded ([J, E, D]), without what was never executed (7.3)."""
    whole = replace(decision, valid_steps=spec.executed_steps, by_human=False)
    final = spec.denoising_steps - 1
    values: dict[Element, float] = {}
    for sample, row, dim in sample_elements(spec, pirl, decision):
        value = float(recorded[sample, row, dim])
        if pirl.variant == "flow-noise":
            scored = element_counts(spec, pirl, whole, final, row, dim) or gripper_counts(
                spec, pirl, whole, row, dim
            )
            ran = element_counts(spec, pirl, decision, final, row, dim) or gripper_counts(
                spec, pirl, decision, row, dim
            )
            if scored and not ran:
                value -= float(last[row, dim])
        values[sample, row, dim] = value
    return values


def reduced(log_prob: Mapping[Element, Real], level: str) -> dict[tuple[int, ...], Real]:
    """Sums at `chunk`, `action` or `token` level, by the sample's own index."""
    length = {"chunk": 1, "action": 2, "token": 3}[level]
    totals: dict[tuple[int, ...], Real] = {}
    for element, value in log_prob.items():
        key = element[:length]
        totals[key] = totals.get(key, 0.0) + value
    return totals


# -- sampling (4.4, 5, 6) --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One sampled decision, with every state of its chain."""

    chunk: Tensor
    chain: list[Tensor]
    carried: list[Tensor]
    """Noise carried into each step."""
    stochastic_step: int | None
    gripper: Tensor | None


def sample(
    network: Network,
    weights: Weights,
    spec: ActionSpec,
    pirl: PiRLConfig,
    *,
    seen: Seen,
    rng: torch.Generator,
) -> Drawn:
    """Draw a chunk. Order of draws: x_0, the step's quantile, the noise, the grippers."""
    steps, shape = spec.denoising_steps, (spec.chunk_size, spec.model_dim)
    whole = every_step(pirl)
    x = torch.randn(shape, generator=rng).double()
    quantile = float(torch.rand((), generator=rng, dtype=torch.float64))
    z = torch.randn((steps if whole else 1, *shape), generator=rng).double()
    uniform = torch.rand((spec.executed_steps, len(spec.gripper_dims)), generator=rng).double()
    chosen = None if whole else step_at(quantile, step_law(pirl, steps))
    chain, carries, carried, clean = [x], [], x, x
    for k in range(steps):
        adds_noise = whole or k == chosen
        clean, features = network.predict(weights, seen, x, (steps - k) / steps)
        stds = learned_std(pirl, weights, features)
        following, noise_after = torch.zeros(shape).double(), carried.clone()
        for row in range(spec.chunk_size):
            for dim in range(spec.model_dim):
                place = (row, dim)
                mean, std = law_of(
                    spec,
                    pirl,
                    k=k,
                    place=place,
                    x=float(x[place]),
                    clean=float(clean[place]),
                    carried=float(carried[place]),
                    learned_std=None if stds is None else float(stds[place]),
                    adds_noise=adds_noise,
                )
                draw = float(z[k if whole else 0][place])
                following[place] = mean + std * draw
                if std > 0 and k < steps - 1 and pirl.variant == "flow-sde":
                    # Refresh: the drawn state lies on the native path of this noise (4.4).
                    t_next = (steps - k - 1) / steps
                    noise_after[place] = (following[place] - (1 - t_next) * clean[place]) / t_next
        carries.append(carried)
        x, carried = following, noise_after
        chain.append(x)
    gripper, chunk = None, x.clone()
    if pirl.gripper_mode == "bernoulli":
        logit = clean[: spec.executed_steps, list(spec.gripper_dims)]
        gripper = (uniform < torch.sigmoid(logit)).long()
        chunk[: spec.executed_steps, list(spec.gripper_dims)] = torch.where(
            gripper > 0, 10.0, -10.0
        ).double()
    return Drawn(chunk=chunk, chain=chain, carried=carries, stochastic_step=chosen, gripper=gripper)


def step_law(pirl: PiRLConfig, steps: int) -> list[float]:
    """Probabilities of the one stochastic step (5)."""
    law = pirl.flow_sde.step_sampling
    if law == "weights":
        weights = list(pirl.flow_sde.step_weights)
    else:
        weights = [1.0] * steps
        if law == "exclude_last":
            weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def step_at(quantile: float, law: list[float]) -> int:
    """The step whose share of [0, 1) contains the quantile."""
    below = 0.0
    for k, share in enumerate(law):
        below += share
        if quantile < below:
            return k
    return max(k for k, share in enumerate(law) if share > 0)


# -- records ---------------------------------------------------------------------------------------


def read_decision(
    spec: ActionSpec, pirl: PiRLConfig, fields: Mapping[str, Tensor], row: int
) -> Decision:
    """One row of a batch's fields (13.1), in fp64."""
    field = {name: value[row] for name, value in fields.items()}
    bernoulli = pirl.gripper_mode == "bernoulli"
    gripper = field["pirl_gripper"] if bernoulli else None
    if not every_step(pirl):
        start = field["pirl_noise"].double()
        step = [int(field["pirl_denoise_idx"])]
        x, x_next, carried = [field["pirl_x_k"].double()], [field["pirl_x_next"].double()], [start]
        x_last = field["pirl_x_last"].double() if bernoulli else None
    else:
        chain = field["pirl_chain"].double()
        step, start, x_last = list(range(spec.denoising_steps)), chain[0], None
        x, x_next = [chain[k] for k in step], [chain[k + 1] for k in step]
        carried = [start for _ in step]
        if pirl.variant == "flow-sde" and pirl.base_sampler == "native":
            carried = [field["pirl_carried"][k].double() for k in step]
    return Decision(
        step=step,
        x=x,
        x_next=x_next,
        carried=carried,
        initial=start,
        x_last=x_last,
        gripper=gripper,
        valid_steps=int(field["pirl_valid_steps"]),
        by_human=int(field["is_intervention"]) != 0,
    )


def recorded_samples(
    spec: ActionSpec, pirl: PiRLConfig, fields: Mapping[str, Tensor], row: int
) -> dict[Element, float]:
    """`behaviour_log_prob` of one row of a batch."""
    decision = read_decision(spec, pirl, fields, row)
    recorded = fields["pirl_logprob"][row].double()
    if recorded.ndim == 2:
        recorded = recorded[None]
    last = fields["pirl_logprob_last"][row].double() if pirl.variant == "flow-noise" else None
    return behaviour_log_prob(spec, pirl, decision, recorded, last)


# -- numbers ---------------------------------------------------------------------------------------


def numbers(matrix: Tensor) -> list[list[Real]]:
    """The entries of a matrix, with their gradient if it has one."""
    if not matrix.requires_grad:
        return matrix.tolist()
    return [list(row.unbind()) for row in matrix.unbind()]


def plain(value: Real) -> float:
    """The number without its gradient."""
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


def log_normal(value: Real, mean: Real, std: Real) -> Real:
    """log N(value; mean, std^2)."""
    scaled = (value - mean) / std
    return -log(std) - HALF_LOG_2PI - 0.5 * scaled * scaled


def mean_entropy(law: Mapping[Element, tuple[Real, Real]], stored: int) -> Real:
    """Mean of 1/2 log(2 pi e s^2) over the counted elements of a step; 0 where none counts."""
    terms = [0.5 + HALF_LOG_2PI + log(std) for key, (_, std) in law.items() if key[0] == stored]
    return sum(terms) / len(terms) if terms else 0.0


def log(value: Real) -> Real:
    return torch.log(value) if isinstance(value, Tensor) else math.log(value)


def exp(value: Real) -> Real:
    return torch.exp(value) if isinstance(value, Tensor) else math.exp(value)


def log_sigmoid(value: Real) -> Real:
    return -log(1.0 + exp(-value))
