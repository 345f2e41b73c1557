"""The value function: an MLP on detached features of an observation, with a memory of its targets.

Owns V and what it reads (`algorithm.md` 8). Lives on the learner only: values never travel and are
never saved with the policy. Knows no loss; read `pirl.algorithm.update` for that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pirl.config.recipe import PiRLConfig
from pirl.contract.flow_policy import FlowPolicy
from pirl.errors import CheckpointError
from pirl.records import Context


class Critic(nn.Module):
    """V = MLP_relu(LayerNorm(u)), one number per decision, fp32 (`algorithm.md` 8.2)."""

    def __init__(
        self, width: int, *, hidden: tuple[int, ...], last_init: str, generator: torch.Generator
    ) -> None:
        super().__init__()
        sizes = (width, *hidden)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.ModuleList(_linear(a, b, generator) for a, b in pairwise(sizes))
        self.last = _linear(sizes[-1], 1, generator)
        with torch.no_grad():
            if last_init == "zero":
                # A random head starts with |V| about 0.7: noise in the first advantages.
                self.last.weight.zero_()
            else:
                self.last.weight.normal_(0.0, 0.02, generator=generator)

    def forward(self, inputs: Float[Tensor, "B F"]) -> Float[Tensor, " B"]:
        """Value of each row of critic inputs."""
        u = self.norm(inputs)
        for layer in self.hidden:
            u = torch.relu(layer(u))
        return self.last(u).squeeze(-1)


def _linear(fan_in: int, fan_out: int, generator: torch.Generator) -> nn.Linear:
    # Built on the meta device, so that torch's own initialisation draws nothing.
    layer = nn.Linear(fan_in, fan_out, device="meta").to_empty(device="cpu")
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


def critic_input_width(policy: FlowPolicy, pirl: PiRLConfig) -> int:
    """Width of what `critic_input` returns."""
    if pirl.value_source == "vlm":
        return policy.critic_width
    if pirl.value_source == "vlm_tokens":
        tokens, width = policy.primary_view_shape
        return tokens * width + policy.critic_width + 1
    return policy.feature_width


def critic_input(
    policy: FlowPolicy,
    context: Context,
    *,
    pirl: PiRLConfig,
    chunk_idx: Int64[Tensor, " B"],
    start: Float[Tensor, "B C D"],
) -> Float[Tensor, "B F"]:
    """What the critic reads of an observation, detached, fp32.

    `vlm`: pooled tokens and proprioception. `vlm_tokens`: the primary view's tokens flattened, the
    pooled features, and log(1 + chunk index), because under a time limit the value depends on the
    time left.
    `action_tokens`: action-token features of the first denoising step, mean over executed rows.

    Args:
        start: x_0 of the chain; read by `action_tokens` only.
    """
    if pirl.value_source == "vlm":
        return context.critic_features.detach().float()
    with torch.no_grad():
        if pirl.value_source == "vlm_tokens":
            flat = policy.primary_view(context).flatten(1).float()
            elapsed = chunk_idx.to(flat).log1p().unsqueeze(-1)
            return torch.cat([flat, context.critic_features.float(), elapsed], dim=-1)
        t = torch.ones(len(context), device=start.device)
        features = policy.predict(context, start, t).features
        return features[:, : policy.spec.executed_steps].mean(dim=1).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueTargets:
    """Critic regression data of one update."""

    inputs: Float[Tensor, "B F"]
    target: Float[Tensor, " B"]
    weight: Float[Tensor, " B"]
    """Loss weight per decision; 0 leaves a decision out."""


class ValueBuffer:
    """The critic targets of the last `value_buffer_updates` updates, for critic-only epochs."""

    def __init__(self, updates: int) -> None:
        self._parts: deque[ValueTargets] = deque(maxlen=max(1, updates))

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, targets: ValueTargets) -> None:
        """Append one update's targets; the oldest leave."""
        self._parts.append(targets)

    def all(self) -> ValueTargets:
        """Everything remembered, oldest first."""
        return ValueTargets(
            inputs=torch.cat([part.inputs for part in self._parts]),
            target=torch.cat([part.target for part in self._parts]),
            weight=torch.cat([part.weight for part in self._parts]),
        )

    def state(self) -> dict[str, Tensor]:
        """Flat tensors for a checkpoint."""
        return {
            f"{index}.{name}": getattr(part, name).detach().cpu().clone()
            for index, part in enumerate(self._parts)
            for name in ("inputs", "target", "weight")
        }

    def load(self, state: Mapping[str, Tensor], *, device: torch.device) -> None:
        """Replace the content by what `state` returned.

        Raises:
            CheckpointError: a tensor of a remembered update is missing.
        """
        self._parts.clear()
        count = len({name.split(".")[0] for name in state})
        wanted = {f"{i}.{n}" for i in range(count) for n in ("inputs", "target", "weight")}
        if wanted != set(state):
            raise CheckpointError(
                "value buffer incomplete", parts=sorted(wanted.symmetric_difference(state))
            )
        for index in range(count):
            self._parts.append(
                ValueTargets(
                    inputs=state[f"{index}.inputs"].to(device),
                    target=state[f"{index}.target"].to(device),
                    weight=state[f"{index}.weight"].to(device),
                )
            )
