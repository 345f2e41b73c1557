"""A batch of decisions to everything an update holds fixed: contexts, values, advantages, anchors.

Owns the no-gradient half of an iteration (`algorithm.md` 14.1, steps 2 and 3). Refuses to change a
weight. Read `pirl.algorithm.update` next, which consumes the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pirl.algorithm.advantage import episode_layout, shuffle, trajectory_weights
from pirl.algorithm.credit import assign_credit
from pirl.algorithm.log_prob import recorded_log_prob, reduce_log_prob
from pirl.algorithm.loss import rows_like
from pirl.algorithm.networks import Networks, encode, per_micro_batch, replay, replayed_samples
from pirl.algorithm.optim import swap_values
from pirl.algorithm.replicas import Part, Replicas, agreed, own_rows, spread
from pirl.algorithm.seeding import Stream, seeded_generator
from pirl.decision import CHUNK_INDEX, EPISODE_ID, VERSION
from pirl.errors import NumericsError
from pirl.records import Context, DecisionBatch, Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """One batch with everything that stays fixed over the epochs of an update.

    Every tensor has all rows of the batch. Where the observation is needed (contexts, `proximal`,
    `reference_mean`), only those of the rows `own` hold something: no process looks at the others'.

    "..." is the sample shape of `logprob_level`: J (chunk), J E (action) or J E D (token).
    """

    own: Int64[Tensor, " n"]
    """Rows that this process owns (`pirl.algorithm.replicas`): all of them where it is alone."""
    observation: Part[Observation]
    context: Part[Context]
    """Of `observation`, under the weights this update starts from."""
    fields: Mapping[str, Tensor]
    version: int
    lag: Int64[Tensor, " B"]
    """Learner version minus acting version."""
    behaviour: Float[Tensor, "B ..."]
    """Log-prob recorded by the actor, nats."""
    proximal: Float[Tensor, "B ..."] | None
    """Log-prob under the weights this update starts from; None without `recompute_proximal`."""
    sample_mask: Bool[Tensor, "B ..."]
    """Samples of the actor loss: something recorded, not a human's, group kept."""
    advantage: Float[Tensor, " B"]
    actor_weight: Float[Tensor, " B"]
    critic_inputs: Float[Tensor, "B F"]
    old_value: Float[Tensor, " B"]
    target: Float[Tensor, " B"]
    critic_weight: Float[Tensor, " B"]
    floored: bool
    """The advantages hold nothing to learn from (`adv_std_floor`)."""
    reference_mean: Float[Tensor, "B S E D"] | None
    metrics: Mapping[str, float]

    micro_size: int
    """Rows of every forward pass that is compared or trained: GPU kernels differ between batch
    sizes, and the ratio must start at one."""

    def __len__(self) -> int:
        return int(self.lag.shape[0])


def prepare(
    nets: Networks,
    batch: DecisionBatch,
    *,
    seed: int,
    reference: Mapping[str, Tensor] | None,
    replicas: Replicas,
) -> Prepared:
    """Everything an update needs of `batch`, computed once with the weights it starts from.

    Args:
        reference: frozen weights of the KL term, by name; None without one.
        replicas: who else has a share of the batch.

    Raises:
        NumericsError: the decisions of an episode are not consecutive, or come from the future.
        ContractError: the actor did not score what the recipe's mask counts.
    """
    device, pirl = nets.policy.device, nets.pirl
    size = min(pirl.micro_batch, len(batch))
    lag = batch.policy_version - batch.fields[VERSION].reshape(-1)
    if bool((lag < 0).any()):
        raise NumericsError(
            f"{int((lag < 0).sum())} decisions acted under a version after {batch.policy_version}, "
            "the one that consumes them"
        )
    fields = {name: value.to(device) for name, value in batch.fields.items()}
    own = own_rows(replicas, len(batch)).to(device)
    observation = Part(batch.observation, replicas.size)
    with torch.no_grad():
        encoded = encode(nets.policy, batch.observation, size=size)
        context = Part(encoded, replicas.size)
        recorded, mask = recorded_log_prob(nets.policy.spec, pirl, fields)
        behaviour = reduce_log_prob(recorded, mask=mask, level=pirl.logprob_level)
        layout = episode_layout(fields[EPISODE_ID], fields[CHUNK_INDEX])
        credit = assign_credit(
            nets,
            batch,
            layout=layout,
            context=encoded,
            fields=fields,
            valid=behaviour.mask.flatten(1).any(dim=1),
            replicas=replicas,
        )
        proximal = None
        if pirl.recompute_proximal:
            scored = agreed(
                replicas,
                lambda: per_micro_batch(
                    lambda rows: replayed_samples(nets, context, fields, rows=rows),
                    own,
                    size=size,
                ),
            )
            proximal = spread(scored, own, len(batch))
        reference_mean = None
        if reference is not None:
            frozen = reference
            mean = agreed(
                replicas,
                lambda: _reference_mean(
                    nets, observation, context, fields, own, size=size, reference=frozen
                ),
            )
            reference_mean = spread(mean, own, len(batch))
    advantage = credit.advantage
    if pirl.shuffle_advantages:
        rng = seeded_generator(seed, Stream.SHUFFLE_ADVANTAGES, batch.policy_version)
        advantage = shuffle(advantage, valid=credit.valid, generator=rng)
    everyone = torch.ones_like(credit.valid)
    by_trajectory = pirl.loss_weighting == "trajectory"
    return Prepared(
        own=own,
        observation=observation,
        context=context,
        fields=fields,
        version=batch.policy_version,
        lag=lag.to(device),
        behaviour=behaviour.value,
        proximal=proximal,
        sample_mask=behaviour.mask & rows_like(credit.valid, behaviour.mask),
        advantage=advantage,
        actor_weight=(
            trajectory_weights(layout, valid=credit.valid)
            if by_trajectory
            else credit.valid.float()
        ),
        critic_inputs=credit.critic_inputs,
        old_value=credit.old_value,
        target=credit.target,
        critic_weight=(
            trajectory_weights(layout, valid=everyone) if by_trajectory else everyone.float()
        ),
        floored=credit.floored,
        reference_mean=reference_mean,
        metrics=credit.metrics,
        micro_size=size,
    )


def _reference_mean(
    nets: Networks,
    observation: Part[Observation],
    context: Part[Context],
    fields: Mapping[str, Tensor],
    rows: Int64[Tensor, " n"],
    *,
    size: int,
    reference: Mapping[str, Tensor],
) -> Float[Tensor, "n S E D"]:
    """Transition means of `rows` under the reference weights, which are swapped in for the pass."""
    trained = nets.policy.trained_parameters()
    current = swap_values(trained, reference)
    try:
        return per_micro_batch(
            lambda some: replay(nets, context, fields, rows=some, observation=observation).mean,
            rows,
            size=size,
        )
    finally:
        swap_values(trained, current)
