"""Walk a chain from noise to a chunk, with noise at chosen steps.

Owns the loop and the carried noise of `algorithm.md` 4. Refuses to know which steps are chosen,
what is recorded and what it is worth. Read `pirl.algorithm.chain` next.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pirl.algorithm.flow_noise import NoiseHead
from pirl.algorithm.gaussian import GaussianStep
from pirl.algorithm.transition import StepTables, refresh_carried, transition
from pirl.contract.flow_policy import FlowPolicy
from pirl.records import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Which steps of a batch of chains add noise, and the noise."""

    step: Int64[Tensor, "B S"]
    draw: Float[Tensor, "B S C D"]
    refresh: bool
    """Whether the native sampler carries the noise on; not in Flow-Noise."""

    def at(self, k: int) -> tuple[Bool[Tensor, " B"], Float[Tensor, "B C D"]]:
        """Rows that add noise at step k, and their noise (0 elsewhere)."""
        here = self.step == k
        return here.any(dim=1), (self.draw * here[..., None, None]).sum(dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Every step of a batch of sampled chains."""

    chain: Float[Tensor, "B K+1 C D"]
    carried: Float[Tensor, "B K C D"]
    law: GaussianStep
    """Mean and std [B, K, C, D] of every step."""
    last_clean: Float[Tensor, "B C D"]
    """The prediction at the last step."""


def run_chain(
    policy: FlowPolicy,
    context: Context,
    *,
    tables: StepTables,
    initial: Float[Tensor, "B C D"],
    noise: Noise | None = None,
    noise_head: NoiseHead | None = None,
) -> Trace:
    """Denoise from `initial`; without `noise` every step is the sampler's own."""
    x, carried, clean = initial, initial, initial
    chain, carries, means, stds = [x], [carried], [], []
    nowhere = torch.zeros(len(initial), dtype=torch.bool, device=initial.device)
    for k in range(tables.num_steps):
        step = torch.full((len(initial),), k, device=initial.device)
        adds_noise, z = (nowhere, None) if noise is None else noise.at(k)
        prediction = policy.predict(context, x, tables.time[step])
        clean = prediction.clean.to(initial.dtype)
        learned = None if noise_head is None else noise_head(prediction.features).to(clean.dtype)
        law = transition(
            tables,
            step=step,
            x=x,
            clean=clean,
            carried=carried,
            stochastic=adds_noise,
            learned_std=learned,
        )
        x = law.mean if z is None else law.mean + law.std * z
        if noise is not None and noise.refresh and k + 1 < tables.num_steps:
            carried = refresh_carried(
                tables, step=k, x_next=x, clean=clean, carried=carried, std=law.std
            )
        chain.append(x)
        carries.append(carried)
        means.append(law.mean)
        stds.append(law.std)
    return Trace(
        chain=torch.stack(chain, dim=1),
        carried=torch.stack(carries[:-1], dim=1),
        law=GaussianStep(mean=torch.stack(means, dim=1), std=torch.stack(stds, dim=1)),
        last_clean=clean,
    )
