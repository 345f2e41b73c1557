"""The oracle's update: losses, clipping, AdamW, schedules and the epoch loop, written out in fp64.

Written from sections 10, 12 and 14 of `algorithm.md` and the conventions of `docs/paper_map.md`;
shares no code with `pirl.algorithm`. torch's autograd differentiates the oracle's own loss and
nothing else. Micro-batches do not appear: in exact arithmetic they change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from plain_chain import (
    Decision,
    Element,
    Network,
    Real,
    Scored,
    Seen,
    exp,
    plain,
    read_decision,
    recorded_samples,
    reduced,
    score,
)
from plain_credit import (
    Outcome,
    followers,
    gae,
    grpo,
    is_done,
    normalized,
    shuffled,
    spread,
    trajectory_weights,
    value_of,
)
from torch import Tensor

from pirl.config.recipe import PiRLConfig
from pirl.records import ActionSpec, DecisionBatch

SHUFFLE, MINIBATCH, VALUE_MINIBATCH, DEMO, DEMO_ROWS = 3, 4, 5, 6, 7
"""Numbers of the random streams, part of their seeds."""
NO_DECAY = ("soft_prompt_hub", "action_encoder", "action_decoder")
CLIP_EPS = 1e-6
Key = tuple[int, ...]
Demo = Mapping[str, Tensor]
DemoLoss = Callable[[Mapping[str, Tensor], Demo, torch.Generator], Tensor]


def stream(seed: int, number: int, *position: int) -> torch.Generator:
    """A generator that depends on nothing but these integers."""
    words = np.random.SeedSequence([seed, number, *position]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(words[0]) // 2)


def parts_of(order: Sequence[int], size: int) -> list[list[int]]:
    """`order` in the fewest parts of at most `size` rows, the longer ones first."""
    count = -(-len(order) // size)
    length, longer = divmod(len(order), count)
    bounds = [0]
    for part in range(count):
        bounds.append(bounds[-1] + length + (1 if part < longer else 0))
    return [list(order[a:b]) for a, b in pairwise(bounds)]


@dataclass(kw_only=True)
class Fixed:
    """What an update holds fixed, per row."""

    seen: list[Seen]
    decisions: list[Decision]
    version: int
    lag: list[int]
    behaviour: list[dict[Key, float]]
    proximal: list[dict[Key, float]] | None
    advantage: list[float]
    valid: list[bool]
    actor_weight: list[float]
    critic_inputs: list[Tensor]
    old_value: list[float]
    target: list[float]
    critic_weight: list[float]
    reference: list[dict[Element, float]] | None
    floored: bool
    """Whether the advantages hold nothing to learn from (9.4)."""
    numbers: dict[str, float]


@dataclass(kw_only=True)
class Sums:
    """Diagnostics of samples."""

    ratio: list[float] = field(default_factory=list)
    k3: list[float] = field(default_factory=list)
    clipped: list[bool] = field(default_factory=list)
    dual: list[bool] = field(default_factory=list)
    weight: list[float] = field(default_factory=list)
    admitted: list[bool] = field(default_factory=list)

    def add(self, other: Sums) -> None:
        for name, values in vars(self).items():
            values.extend(getattr(other, name))


@dataclass(kw_only=True)
class Terms:
    """The loss of a minibatch and its parts."""

    total: Tensor
    policy: Real
    value: Real
    entropy: Real
    kl: Real
    sums: Sums


class PlainLearner:
    """A learner written from the specification; one `update` is one learner iteration."""

    def __init__(
        self,
        network: Network,
        spec: ActionSpec,
        pirl: PiRLConfig,
        *,
        weights: Mapping[str, Tensor],
        policy_names: Sequence[str],
        total_updates: int,
        seed: int,
        demo_loss: DemoLoss,
        demos: Demo | None,
    ) -> None:
        self.network, self.spec, self.pirl, self.seed = network, spec, pirl, seed
        self.weights = {n: w.detach().double().clone() for n, w in weights.items()}
        self.policy_names = list(policy_names)
        self.reference = {n: self.weights[n].clone() for n in policy_names}
        self.total_updates = total_updates
        self.demo_loss, self.demos = demo_loss, demos
        self.steps: dict[str, int] = {}
        self.first: dict[str, Tensor] = {}
        self.second: dict[str, Tensor] = {}
        self.scale = 1.0
        self.updates = 0
        self.buffer: list[tuple[list[Tensor], list[float], list[float]]] = []

    # -- what trains -------------------------------------------------------------------------------

    def trained(self) -> list[str]:
        """Names of everything with a rate."""
        others = [n for n in self.weights if n.startswith(("noise_head.", "critic."))]
        return [*self.policy_names, *others]

    def actor_names(self) -> list[str]:
        return [n for n in self.trained() if not n.startswith("critic.")]

    def critic_names(self) -> list[str]:
        return [n for n in self.trained() if n.startswith("critic.")]

    def rate_and_decay(self, name: str) -> tuple[float, float]:
        """14.2: rates by group; per-domain tables do not decay."""
        pirl = self.pirl
        if name.startswith("critic."):
            return pirl.value_lr, pirl.weight_decay
        if name.startswith("noise_head."):
            noise_lr = pirl.flow_noise.noise_lr
            rate = pirl.actor_lr if noise_lr is None else noise_lr
            return rate * self.scale, pirl.weight_decay
        decay = 0.0 if any(part in name for part in NO_DECAY) else pirl.weight_decay
        return pirl.actor_lr * self.scale, decay

    # -- one iteration -----------------------------------------------------------------------------

    def update(self, batch: DecisionBatch) -> dict[str, float]:
        """Train on one batch; the numbers that pirl reports under the same names."""
        pirl = self.pirl
        self.set_scale()
        fixed = self.fix(batch)
        train_actor = self.updates >= pirl.critic_warmup_steps
        train_actor = train_actor and not (fixed.floored and self.demos is None)
        everything, last_epoch, first = Sums(), Sums(), None
        totals: dict[str, float] = {}
        minibatches = optimiser_steps = epochs = 0
        for epoch in range(pirl.update_epochs):
            rng = stream(self.seed, MINIBATCH, fixed.version, epoch)
            order = torch.randperm(len(fixed.lag), generator=rng).tolist()
            last_epoch, stop = Sums(), False
            for number, rows in enumerate(parts_of(order, pirl.global_batch)):
                demo = self.demo_term(len(rows), (epoch, number), fixed, totals, train_actor)
                terms = self.loss(fixed, rows)
                first = terms.sums if first is None else first
                add(totals, "value_loss", terms.value)
                if train_actor:
                    for name in ("policy", "total"):
                        add(totals, f"{name}_loss", getattr(terms, name))
                    add(totals, "entropy", terms.entropy)
                    add(totals, "kl_reference", terms.kl)
                    everything.add(terms.sums)
                    last_epoch.add(terms.sums)
                minibatches += 1
                stop = train_actor and self.beyond_target(terms.sums)
                if stop:
                    break
                loss = terms.total if demo is None else terms.total + demo
                frozen = not train_actor or (not terms.sums.ratio and demo is None)
                self.step(loss, totals, without_actor=frozen)
                optimiser_steps += 1
            epochs = epoch + 1
            if stop:
                break
        report = {
            name: value / (minibatches if "norm" not in name else 1)
            for name, value in totals.items()
        }
        for name in [n for n in report if "norm" in n]:
            report[name] /= max(1, optimiser_steps)
        critic_steps, critic_loss = self.critic_epochs(fixed)
        optimiser_steps += critic_steps
        if critic_loss is not None:
            report["value_epoch_loss"] = critic_loss
        moved = mean(last_epoch.k3) if last_epoch.k3 and minibatches > 1 else None
        for group, member in (("actor", self.policy_names), ("critic", self.critic_names())):
            decaying = [n for n in member if not any(part in n for part in NO_DECAY)]
            if decaying:
                report[f"lr_{group}"] = self.rate_and_decay(decaying[0])[0]
        if self.demos is not None:
            report["bc_weight"] = self.demo_weight()
        report |= {
            **fixed.numbers,
            "approx_kl": moved or 0.0,
            "kl_first": mean(first.k3) if first is not None and first.k3 else 0.0,
            "optimiser_steps": float(optimiser_steps),
            "epochs": float(epochs),
            **ratio_report(everything),
        }
        self.adapt(moved)
        self.updates += 1
        return report

    def loss_of_batch(self, batch: DecisionBatch) -> Terms:
        """The loss of a whole batch, with nothing stepped; `Terms.total` can be differentiated."""
        fixed = self.fix(batch)
        return self.loss(fixed, list(range(len(fixed.lag))))

    # -- what stays fixed (14.1, steps 2 and 3) ----------------------------------------------------

    def fix(self, batch: DecisionBatch) -> Fixed:
        """Values, advantages, weights and anchors under the weights the update starts from."""
        spec, pirl, count = self.spec, self.pirl, len(batch)
        weights = {n: w.detach() for n, w in self.weights.items()}
        seen = [seen_by(batch.observation, row) for row in range(count)]
        decisions = [read_decision(spec, pirl, batch.fields, row) for row in range(count)]
        recorded = [recorded_samples(spec, pirl, batch.fields, row) for row in range(count)]
        outcomes = outcomes_of(batch)
        counted = [len(samples) > 0 for samples in recorded]
        nothing = [0.0] * count
        inputs: list[Tensor] = []
        old_value, target, floored = nothing, nothing, False
        if pirl.adv_type == "grpo":
            advantage, kept = grpo(outcomes, pirl)
            valid = [a and b for a, b in zip(counted, kept, strict=True)]
            numbers = advantage_report(advantage, valid)
        else:
            valid = counted
            inputs = [
                self.critic_input(weights, seen[row], decisions[row], outcomes[row].chunk)
                for row in range(count)
            ]
            old_value = [float(value_of(weights, u)) for u in inputs]
            after = self.next_values(weights, batch, decisions, outcomes, old_value)
            raw = gae(outcomes, old_value, after, pirl)
            target = [a + v for a, v in zip(raw, old_value, strict=True)]
            numbers = advantage_report(raw, valid)
            advantage = normalized(raw, valid, pirl) if pirl.normalize_advantages else raw
            small = numbers["advantage_std"] < pirl.adv_std_floor
            floored = pirl.normalize_advantages and any(valid) and small
            numbers |= value_report(old_value, target) | {"advantage_floored": float(floored)}
        if pirl.shuffle_advantages:
            rng = stream(self.seed, SHUFFLE, batch.policy_version)
            advantage = shuffled(advantage, valid, rng)
        scored = None
        if pirl.recompute_proximal:
            scored = [self.scored(weights, s, d) for s, d in zip(seen, decisions, strict=True)]
        reference = None
        if pirl.kl_beta > 0:
            before = {**weights, **self.reference}
            laws = [self.scored(before, s, d).law for s, d in zip(seen, decisions, strict=True)]
            reference = [{key: float(m) for key, (m, _) in law.items()} for law in laws]
        level = pirl.logprob_level
        return Fixed(
            seen=seen,
            decisions=decisions,
            version=batch.policy_version,
            lag=[batch.policy_version - int(v) for v in batch.fields["pirl_version"]],
            behaviour=[reduced(samples, level) for samples in recorded],
            proximal=None if scored is None else [reduced(s.log_prob, level) for s in scored],
            advantage=advantage,
            valid=valid,
            actor_weight=trajectory_weights(outcomes, valid, pirl),
            critic_inputs=inputs,
            old_value=old_value,
            target=target,
            critic_weight=trajectory_weights(outcomes, [True] * count, pirl),
            reference=reference,
            floored=floored,
            numbers=numbers,
        )

    def scored(self, weights: Mapping[str, Tensor], seen: Seen, decision: Decision) -> Scored:
        return score(self.network, weights, self.spec, self.pirl, seen=seen, decision=decision)

    def critic_input(
        self, weights: Mapping[str, Tensor], seen: Seen, decision: Decision, chunk: int
    ) -> Tensor:
        """What the critic sees (8.2 and the paper map), rounded to the fp32 it is stored in."""
        source = self.pirl.value_source
        if source == "vlm":
            u = seen.state
        elif source == "vlm_tokens":
            tokens = self.network.tokens(weights, seen)
            primary = tokens[: self.network.primary_tokens].reshape(-1)
            u = torch.cat([primary, seen.state, torch.tensor([math.log(1 + chunk)])])
        else:
            _, features = self.network.predict(weights, seen, decision.initial, 1.0)
            u = sum(features[row] for row in range(self.spec.executed_steps))
            u = u / self.spec.executed_steps
        return u.detach().float().double()

    def next_values(
        self,
        weights: Mapping[str, Tensor],
        batch: DecisionBatch,
        decisions: Sequence[Decision],
        outcomes: Sequence[Outcome],
        value: Sequence[float],
    ) -> list[float]:
        """V(next_state): the next row's value, or that of the last observation where none follows."""
        after: list[float] = []
        for row, follower in enumerate(followers(outcomes)):
            if is_done(outcomes[row], self.pirl):
                after.append(0.0)
            elif follower is not None and not outcomes[row].truncated:
                after.append(value[follower])
            else:
                seen = seen_by(batch.next_observation, row)
                u = self.critic_input(weights, seen, decisions[row], outcomes[row].chunk + 1)
                after.append(float(value_of(weights, u)))
        return after

    # -- the loss (10, 12) -------------------------------------------------------------------------

    def loss(self, fixed: Fixed, rows: Sequence[int]) -> Terms:
        """L_actor + value_coef L_V - entropy_bonus H + kl_beta KL of a minibatch."""
        pirl = self.pirl
        for weight in self.weights.values():
            weight.requires_grad_(True)
        samples = sum(len(fixed.behaviour[row]) for row in rows if fixed.valid[row])
        decisions = sum(fixed.valid[row] for row in rows)
        critic = sum(fixed.critic_weight[row] > 0 for row in rows)
        policy: Real = 0.0
        value: Real = 0.0
        entropy: Real = 0.0
        kl: Real = 0.0
        sums = Sums()
        for row in rows:
            if fixed.critic_inputs:
                value = value + fixed.critic_weight[row] / critic * self.value_loss(fixed, row)
            if not fixed.valid[row]:
                continue
            scored = self.scored(self.weights, fixed.seen[row], fixed.decisions[row])
            weight = fixed.actor_weight[row]
            terms = reduced(scored.log_prob, pirl.logprob_level)
            for key, log_prob in terms.items():
                policy = policy + weight / samples * self.surrogate(fixed, row, key, log_prob, sums)
            mean_entropy = sum(scored.entropy) / len(scored.entropy)
            entropy = entropy + weight / decisions * mean_entropy
            if fixed.reference is not None:
                kl = kl + weight / decisions * kl_to(scored.law, fixed.reference[row])
        total = policy + pirl.value_coef * value - pirl.entropy_bonus * entropy + pirl.kl_beta * kl
        return Terms(
            total=torch.as_tensor(total, dtype=torch.float64),
            policy=policy,
            value=value,
            entropy=entropy,
            kl=kl,
            sums=sums,
        )

    def surrogate(
        self, fixed: Fixed, row: int, key: Key, log_prob: Tensor, sums: Sums
    ) -> Tensor | float:
        """Dual-clipped PPO of one sample, times its behaviour weight (10.1, 12.1)."""
        pirl = self.pirl
        advantage, behaviour = fixed.advantage[row], fixed.behaviour[row][key]
        now = plain(log_prob)
        if fixed.proximal is not None:
            anchor = fixed.proximal[row][key]
        else:
            # 12.2: staleness d = (version + 1) - version_b, alpha = (d - 1) / d.
            d = fixed.lag[row] + 1
            anchor = behaviour + (d - 1) / d * (now - behaviour)
        gap = now - anchor
        limit = pirl.log_ratio_clamp
        log_ratio = log_prob - anchor if abs(gap) <= limit else math.copysign(limit, gap)
        ratio = exp(log_ratio)
        low, high = 1 - pirl.clip_low, 1 + pirl.clip_high
        bounded = low if ratio < low else high if ratio > high else ratio
        loss, clipped = -advantage * ratio, -advantage * bounded
        is_clipped = bool(clipped > loss)
        if is_clipped:
            loss = clipped
        cap = pirl.clip_dual * abs(advantage)
        is_capped = advantage < 0 and bool(loss > cap)
        if is_capped:
            loss = cap
        weight = math.exp(min(max(anchor - behaviour, -limit), limit))
        admitted = weight <= pirl.behave_weight_threshold
        clamped = plain(log_ratio)
        sums.ratio.append(plain(ratio))
        sums.k3.append(math.exp(clamped) - 1 - clamped)
        sums.clipped.append(is_clipped)
        sums.dual.append(is_capped)
        sums.weight.append(weight)
        sums.admitted.append(admitted)
        return weight * loss if admitted else 0.0

    def value_loss(self, fixed: Fixed, row: int) -> Real:
        """10.2: the worse of the plain and the clipped Huber error."""
        value = value_of(self.weights, fixed.critic_inputs[row])
        old, target, clip = fixed.old_value[row], fixed.target[row], self.pirl.value_clip
        moved = plain(value) - old
        near = value if abs(moved) <= clip else old + math.copysign(clip, moved)
        error = huber(value - target, self.pirl.huber_delta)
        clipped = huber(near - target, self.pirl.huber_delta)
        return clipped if bool(clipped > error) else error

    def demo_term(
        self,
        count: int,
        position: tuple[int, int],
        fixed: Fixed,
        totals: dict[str, float],
        train_actor: bool,
    ) -> Tensor | None:
        """10.5: as many demonstration rows as decisions, in batches of `micro_batch`; the mean over rows."""
        if self.demos is None or not train_actor:
            return None
        for tensor in self.weights.values():
            tensor.requires_grad_(True)
        number = len(next(iter(self.demos.values())))
        rng = stream(self.seed, DEMO_ROWS, fixed.version, *position)
        rows = torch.randint(number, (count,), generator=rng).tolist()
        total = torch.zeros((), dtype=torch.float64)
        for index, start in enumerate(range(0, count, self.pirl.micro_batch)):
            part = rows[start : start + self.pirl.micro_batch]
            rng = stream(self.seed, DEMO, fixed.version, *position, index)
            shown = {name: values[part] for name, values in self.demos.items()}
            total = total + len(part) * self.demo_loss(self.weights, shown, rng) / count
        weight = self.demo_weight()
        add(totals, "bc_loss", total)
        add(totals, "total_loss", weight * total)
        return weight * total

    def demo_weight(self) -> float:
        """10.5: constant, or a straight line to zero at the end of the run."""
        left = 1.0 - self.updates / self.total_updates
        return self.pirl.bc_weight * (left if self.pirl.bc_schedule == "linear" else 1.0)

    def beyond_target(self, sums: Sums) -> bool:
        """10.3: end the epoch loop before the step; `kl_adaptive` steers by the target instead."""
        target = self.pirl.target_kl
        if target is None or self.pirl.lr_schedule == "kl_adaptive":
            return False
        return bool(sums.k3) and mean(sums.k3) > target

    # -- the step (14.2) ---------------------------------------------------------------------------

    def gradient(self, loss: Tensor) -> dict[str, Tensor]:
        """d loss / d weight, by name; 0 for weights that the loss does not depend on."""
        names = [n for n in self.trained() if self.weights[n].requires_grad]
        found = {n: torch.zeros_like(self.weights[n]) for n in names}
        if loss.requires_grad:
            used = torch.autograd.grad(loss, [self.weights[n] for n in names], allow_unused=True)
            found |= {n: g for n, g in zip(names, used, strict=True) if g is not None}
        for weight in self.weights.values():
            weight.requires_grad_(False)
        return found

    def step(self, loss: Tensor, totals: dict[str, float], *, without_actor: bool) -> None:
        """Gradient, one norm for all actor groups and one for the critic, AdamW."""
        gradient = self.gradient(loss)
        if without_actor:
            gradient = {n: g for n, g in gradient.items() if n.startswith("critic.")}
        head = [g for n, g in gradient.items() if n.startswith("noise_head.")]
        if head:
            add(totals, "grad_norm_noise_head", norm_of(head))
        for group, names in (("actor", self.actor_names()), ("critic", self.critic_names())):
            members = [n for n in names if n in gradient]
            if not members:
                continue
            norm = norm_of([gradient[n] for n in members])
            add(totals, f"grad_norm_{group}", norm)
            shrink = min(1.0, self.pirl.grad_clip / (norm + CLIP_EPS))
            for name in members:
                self.adam_step(name, gradient[name] * shrink)

    def adam_step(self, name: str, gradient: Tensor) -> None:
        """AdamW with decoupled decay and bias correction."""
        rate, decay = self.rate_and_decay(name)
        beta1, beta2 = self.pirl.betas
        zero = torch.zeros_like(gradient)
        t = self.steps.get(name, 0) + 1
        m = beta1 * self.first.get(name, zero) + (1 - beta1) * gradient
        v = beta2 * self.second.get(name, zero) + (1 - beta2) * gradient * gradient
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        weight = self.weights[name].detach()
        weight = weight - rate * decay * weight
        self.weights[name] = weight - rate * m_hat / (torch.sqrt(v_hat) + self.pirl.eps)
        self.steps[name], self.first[name], self.second[name] = t, m, v

    def critic_epochs(self, fixed: Fixed) -> tuple[int, float | None]:
        """Critic-only epochs over the targets of the last updates: steps taken and their mean loss."""
        pirl = self.pirl
        if not fixed.critic_inputs or pirl.value_epochs == 0:
            return 0, None
        self.buffer.append((fixed.critic_inputs, fixed.target, fixed.critic_weight))
        self.buffer = self.buffer[-pirl.value_buffer_updates :]
        inputs = [u for part in self.buffer for u in part[0]]
        target = [g for part in self.buffer for g in part[1]]
        weight = [w for part in self.buffer for w in part[2]]
        losses: list[float] = []
        for epoch in range(pirl.value_epochs):
            rng = stream(self.seed, VALUE_MINIBATCH, fixed.version, epoch)
            order = torch.randperm(len(target), generator=rng).tolist()
            for rows in parts_of(order, pirl.global_batch):
                for name in self.critic_names():
                    self.weights[name].requires_grad_(True)
                loss = torch.zeros((), dtype=torch.float64)
                for row in rows:
                    error = value_of(self.weights, inputs[row]) - target[row]
                    loss = loss + weight[row] / len(rows) * huber(error, pirl.huber_delta)
                losses.append(plain(loss))
                self.step(loss, {}, without_actor=True)
        return len(losses), mean(losses)

    # -- rates -------------------------------------------------------------------------------------

    def set_scale(self) -> None:
        if self.pirl.lr_schedule == "cosine":
            progress = min(1.0, self.updates / max(1, self.total_updates))
            self.scale = 0.1 + 0.9 * (1 + math.cos(math.pi * progress)) / 2

    def adapt(self, moved: float | None) -> None:
        """`kl_adaptive`: by 1.5 outside [target / 1.5, 1.5 target], with a floor and a cap."""
        pirl = self.pirl
        if pirl.lr_schedule != "kl_adaptive" or moved is None:
            return
        if moved > 1.5 * pirl.target_kl:
            self.scale = max(0.01, self.scale / 1.5)
        elif moved < pirl.target_kl / 1.5:
            self.scale *= 1.5
            if pirl.actor_lr_max is not None:
                self.scale = min(self.scale, pirl.actor_lr_max / pirl.actor_lr)


# -- small things ----------------------------------------------------------------------------------


def kl_to(law: Mapping[Element, tuple[Real, Real]], reference: Mapping[Element, float]) -> Real:
    """10.3: sum of (mu - mu_ref)^2 / (2 s^2), with the current std held fixed."""
    total: Real = 0.0
    for key, (mu, std) in law.items():
        held = plain(std)
        total = total + (mu - reference[key]) ** 2 / (2 * held**2)
    return total


def huber(error: Real, delta: float) -> Real:
    """Quadratic up to `delta`, linear beyond."""
    if abs(plain(error)) <= delta:
        return 0.5 * error * error
    return delta * (abs(error) - 0.5 * delta)


def norm_of(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float((g * g).sum()) for g in tensors))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def add(totals: dict[str, float], name: str, value: Real) -> None:
    totals[name] = totals.get(name, 0.0) + plain(value)


def seen_by(observation: object, row: int) -> Seen:
    """One row of an observation batch."""
    return Seen(
        state=observation.state[row].double(), domain=int(observation.inputs["domain_id"][row])
    )


def outcomes_of(batch: DecisionBatch) -> list[Outcome]:
    """What every row led to."""
    return [
        Outcome(
            episode=int(batch.fields["pirl_episode_id"][row]),
            chunk=int(batch.fields["pirl_chunk_idx"][row]),
            group=int(batch.fields["pirl_group_id"][row]),
            reward=float(batch.reward[row]),
            terminated=bool(batch.terminated[row]),
            truncated=bool(batch.truncated[row]),
        )
        for row in range(len(batch))
    ]


def advantage_report(advantage: Sequence[float], valid: Sequence[bool]) -> dict[str, float]:
    chosen = [a for a, counts in zip(advantage, valid, strict=True) if counts]
    return {
        "advantage_mean": mean(chosen) if chosen else 0.0,
        "advantage_std": math.sqrt(spread(chosen)) if chosen else 0.0,
        "masked_fraction": 1 - len(chosen) / len(advantage),
    }


def value_report(value: Sequence[float], target: Sequence[float]) -> dict[str, float]:
    errors = [g - v for g, v in zip(target, value, strict=True)]
    return {
        "value_mean": mean(value),
        "return_mean": mean(target),
        "explained_variance": 1 - spread(errors) / spread(target) if spread(target) else 0.0,
    }


def ratio_report(sums: Sums) -> dict[str, float]:
    if not sums.ratio:
        return {}
    return {
        "ratio_mean": mean(sums.ratio),
        "ratio_min": min(sums.ratio),
        "ratio_max": max(sums.ratio),
        "ratio_clip_fraction": mean(sums.clipped),
        "ratio_dual_clip_fraction": mean(sums.dual),
        "behave_weight_mean": mean(sums.weight),
        "behave_weight_max": max(sums.weight),
        "behave_masked_fraction": 1 - mean(sums.admitted),
    }
