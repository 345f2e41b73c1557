"""A flow policy in fp64 whose network is one pure function, and batches of decisions made with it.

The network belongs to the test, not to pirl: pirl reaches it through `FlowPolicy` and in batches,
the oracle calls the same function with its own copy of the weights, one decision at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from plain_chain import Seen, Weights
from torch import Tensor, nn

from pirl.algorithm.chain import sample_chunk
from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig
from pirl.algorithm.prepare import Prepared
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, LastStepStd, PiRLConfig
from pirl.records import ActionSpec, Context, DecisionBatch, Observation, Prediction

STATE, TOKENS, TOKEN_WIDTH, WIDTH, HIDDEN = 3, 3, 2, 4, 6
PRIMARY_TOKENS = 2
GROUPS = ("xyz", "rot6d", "gripper_logit", "joint", "other")
GRIPPER = 2
ENCODER = "vlm."
SEED = 5


def a_spec(*, steps: int, executed_dims: Sequence[int] = (0, 1, 2, 3)) -> ActionSpec:
    """Three rows of which two run; a hidden gripper, and the last dim never executed."""
    return ActionSpec(
        action_mode="toy",
        chunk_size=3,
        executed_steps=2,
        model_dim=len(GROUPS),
        env_dim=len(GROUPS),
        denoising_steps=steps,
        executed_dims=tuple(executed_dims),
        hidden_gripper_dims=(GRIPPER,),
        group_of_dim=GROUPS,
    )


class ToyNetwork:
    """Observation and noisy chunk to clean chunk and features, as a function of the weights."""

    primary_tokens = PRIMARY_TOKENS

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec
        size = spec.chunk_size * spec.model_dim
        self.shapes = {
            "vlm.weight": (TOKENS * TOKEN_WIDTH, STATE),
            "transformer.body.weight": (HIDDEN, size + 1 + TOKENS * TOKEN_WIDTH),
            "transformer.body.bias": (HIDDEN,),
            "transformer.soft_prompt_hub": (2, HIDDEN),
            "transformer.features.weight": (spec.chunk_size * WIDTH, HIDDEN),
            "transformer.action_decoder.weight": (spec.model_dim, WIDTH),
            "transformer.action_decoder.bias": (spec.model_dim,),
        }

    def encode(self, weights: Weights, state: Tensor) -> Tensor:
        """[..., S] to [..., tokens, width]."""
        return torch.tanh(state @ weights["vlm.weight"].T).unflatten(-1, (TOKENS, TOKEN_WIDTH))

    def denoise(
        self, weights: Weights, tokens: Tensor, domain: Tensor, x: Tensor, t: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rows of chunks [B, C, D] at times [B]."""
        visible = x.clone()
        visible[..., GRIPPER] = 0.0
        inputs = torch.cat([visible.flatten(1), t[:, None], tokens.flatten(1)], dim=1)
        h = inputs @ weights["transformer.body.weight"].T + weights["transformer.body.bias"]
        h = torch.tanh(h + weights["transformer.soft_prompt_hub"][domain])
        features = torch.tanh(h @ weights["transformer.features.weight"].T)
        features = features.unflatten(1, (self.spec.chunk_size, WIDTH))
        clean = features @ weights["transformer.action_decoder.weight"].T
        return clean + weights["transformer.action_decoder.bias"], features

    def tokens(self, weights: Weights, seen: Seen) -> Tensor:
        return self.encode(weights, seen.state)

    def predict(self, weights: Weights, seen: Seen, x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        clean, features = self.denoise(
            weights,
            self.encode(weights, seen.state)[None],
            torch.tensor([seen.domain]),
            x[None],
            torch.tensor([t], dtype=torch.float64),
        )
        return clean[0], features[0]

    def demo_loss(
        self, weights: Weights, demo: Mapping[str, Tensor], rng: torch.Generator
    ) -> Tensor:
        """A supervised loss whose noise comes from `rng`."""
        action = demo["action"]
        t = torch.rand(len(action), generator=rng).double()
        noise = torch.randn(action.shape, generator=rng).double()
        noisy = t[:, None, None] * noise + (1 - t)[:, None, None] * action
        tokens = self.encode(weights, demo["state"])
        domain = torch.zeros(len(action), dtype=torch.int64)
        clean, _ = self.denoise(weights, tokens, domain, noisy, t)
        return (clean - action).square().mean()


class ToyModule(nn.Module):
    """The weights of a `ToyNetwork` as one module."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        for name, shape in shapes.items():
            value = 0.5 * torch.randn(shape, generator=rng, dtype=torch.float64)
            self.register_parameter(name.replace(".", "/"), nn.Parameter(value))

    def named(self) -> dict[str, nn.Parameter]:
        return {name.replace("/", "."): p for name, p in self.named_parameters()}


class OraclePolicy:
    """`FlowPolicy` over a `ToyNetwork`."""

    def __init__(self, spec: ActionSpec, *, trains_encoder: bool, seed: int = 0) -> None:
        self.spec, self.trains_encoder = spec, trains_encoder
        self.network = ToyNetwork(spec)
        self.module = ToyModule(self.network.shapes, seed=seed).eval()
        self.critic_width, self.feature_width = STATE, WIDTH
        self.primary_view_shape = (PRIMARY_TOKENS, TOKEN_WIDTH)
        self.inputs = ("input_ids", "domain_id")
        tables = ("soft_prompt_hub", "action_encoder", "action_decoder")
        self.no_decay = frozenset(
            n for n in self.trained_parameters() if any(part in n for part in tables)
        )
        self.device = torch.device("cpu")
        for name, parameter in self.module.named().items():
            parameter.requires_grad_(name in self.trained_parameters())

    def prepare(self, raw: Any, instruction: str) -> Observation:
        return Observation(
            images={k: torch.from_numpy(v)[None] for k, v in raw.images.items()},
            state=torch.from_numpy(raw.state)[None],
            inputs={
                "input_ids": torch.zeros(1, 2, dtype=torch.int64),
                "domain_id": torch.tensor([0]),
            },
        )

    def encode(self, observation: Observation, *, gradient: bool = False) -> Context:
        with torch.set_grad_enabled(gradient):
            tokens = self.network.encode(self.module.named(), observation.state.double())
        return Context(
            tensors={
                "vlm_features": tokens,
                "aux_visual_inputs": tokens[:, :0],
                "proprio": observation.state,
                "domain_id": observation.inputs["domain_id"],
            },
            critic_features=observation.state,
        )

    def predict(self, context: Context, x: Tensor, t: Tensor) -> Prediction:
        clean, features = self.network.denoise(
            self.module.named(),
            context.tensors["vlm_features"],
            context.tensors["domain_id"],
            x.double(),
            t.double(),
        )
        return Prediction(clean=clean, features=features)

    def primary_view(self, context: Context) -> Tensor:
        return context.tensors["vlm_features"][:, : self.primary_view_shape[0]]

    def postprocess(self, chunk: Tensor) -> Tensor:
        return chunk.clone()

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        named = self.module.named()
        return {n: p for n, p in named.items() if self.trains_encoder or not n.startswith(ENCODER)}

    def frozen_parameters(self) -> dict[str, nn.Parameter]:
        trained = self.trained_parameters()
        return {n: p for n, p in self.module.named().items() if n not in trained}

    def demo_loss(self, batch: Mapping[str, Tensor], *, rng: torch.Generator) -> Tensor:
        return self.network.demo_loss(self.module.named(), batch, rng)


# -- recipes ---------------------------------------------------------------------------------------


def a_recipe(variant: str, **knobs: object) -> PiRLConfig:
    """A small recipe; knobs of a variant's section are named `flow_sde__x` and `flow_noise__x`."""
    section = variant.replace("-", "_")
    inner = {n.split("__")[1]: v for n, v in knobs.items() if n.startswith(f"{section}__")}
    outer = {n: v for n, v in knobs.items() if "__" not in n}
    kind = {"flow_sde": FlowSDEConfig, "flow_noise": FlowNoiseConfig}[section]
    if section == "flow_noise":
        inner = {"noise_head_hidden": (4,)} | inner
    small = dict(
        value_hidden=(5, 4),
        global_batch=4,
        micro_batch=4,
        update_epochs=2,
        actor_lr=2e-2,
        value_lr=3e-2,
        weight_decay=0.1,
        # Wide enough for a policy of this size to take steps whose ratios are of order one.
        last_step_std=LastStepStd(
            xyz=0.2, rot6d=0.3, joint=0.25, gripper_logit=1.0, other=0.4
        ),
    )  # fmt: skip
    return PiRLConfig(variant=variant, **{section: kind(**inner)}, **(small | outer))


def an_algorithm(policy: OraclePolicy, pirl: PiRLConfig, *, total_updates: int) -> PiRLAlgorithm:
    """pirl's learner in fp64, with a value head away from zero.

    The last rounding to fp32 is that of the trajectory weights, which `Prepared` holds.
    """
    config = PiRLAlgorithmConfig(pirl=pirl, total_updates=total_updates, seed=SEED)
    algorithm = PiRLAlgorithm(policy, config, parity_tol=1e-4, demonstrations=ShownTable())
    if algorithm.noise_head is not None:
        algorithm.noise_head.double()
    if algorithm.critic is not None:
        critic = algorithm.critic.double()
        rng = torch.Generator().manual_seed(11)
        with torch.no_grad():
            critic.last.weight.normal_(0.0, 0.5, generator=rng)
        critic.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    prepared = algorithm._prepare
    algorithm._prepare = lambda batch: in_fp64(prepared(batch))
    algorithm.make_optimizers_and_scheduler()
    return algorithm


def in_fp64(prepared: Prepared) -> Prepared:
    """The same numbers in a type that rounds no further product of them."""
    return replace(
        prepared,
        actor_weight=prepared.actor_weight.double(),
        critic_weight=prepared.critic_weight.double(),
    )


# -- batches ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One toy episode: reward per decision, how it ends, and what happened on the way."""

    rewards: tuple[float, ...]
    end: str = "terminated"
    """`terminated`, `truncated` or `open`."""
    last_rows: int = 2
    """Rows executed of the last chunk."""
    human: tuple[int, ...] = ()
    """Decisions that a human executed."""
    group: int = -1
    stale: int = 0
    """Versions that the acting weights lag behind."""


def a_batch(
    algorithm: PiRLAlgorithm,
    episodes: Sequence[Episode],
    *,
    version: int,
    seed: int,
    old_weights: Mapping[str, Tensor] | None = None,
) -> DecisionBatch:
    """Decisions of `episodes`, each sampled with the weights its version had.

    Args:
        old_weights: weights of every version before this one; the current ones by default.
    """
    rng = torch.Generator().manual_seed(1000 * seed + version)
    states = [torch.randn(len(e.rewards) + 1, STATE, generator=rng) for e in episodes]
    rows = [(i, j) for i, e in enumerate(episodes) for j in range(len(e.rewards))]
    # The second row of the per-domain table stays unused.
    domain = torch.zeros(len(rows), dtype=torch.int64)
    observation = an_observation(torch.stack([states[i][j] for i, j in rows]), domain)
    following = an_observation(torch.stack([states[i][j + 1] for i, j in rows]), domain)
    stale = torch.tensor([episodes[i].stale for i, _ in rows])
    sampled = sampled_fields(algorithm, observation, seed=97 * seed + 31 * version)
    if old_weights is not None:
        current = algorithm.get_weights()
        algorithm.load_weights(dict(old_weights))
        earlier = sampled_fields(algorithm, observation, seed=97 * seed + 31 * version)
        algorithm.load_weights(current)
        for name, value in sampled.items():
            chosen = (stale > 0).reshape(-1, *([1] * (value.ndim - 1)))
            sampled[name] = torch.where(chosen, earlier[name], value)
    last = torch.tensor([j == len(episodes[i].rewards) - 1 for i, j in rows])
    ends = {kind: torch.tensor([episodes[i].end == kind for i, _ in rows]) for kind in ENDS}
    ran = [
        episodes[i].last_rows if is_last else 2
        for (i, _), is_last in zip(rows, last.tolist(), strict=True)
    ]
    fields = {
        **sampled,
        "pirl_version": version - stale,
        "pirl_episode_id": torch.tensor([i for i, _ in rows]),
        "pirl_chunk_idx": torch.tensor([j for _, j in rows]),
        "pirl_valid_steps": torch.tensor(ran),
        "pirl_group_id": torch.tensor([episodes[i].group for i, _ in rows]),
        "is_intervention": torch.tensor([int(j in episodes[i].human) for i, j in rows]),
    }
    return DecisionBatch(
        observation=observation,
        next_observation=following,
        action=torch.zeros(len(rows), 2, len(GROUPS)),
        reward=torch.tensor([episodes[i].rewards[j] for i, j in rows], dtype=torch.float64),
        terminated=last & ends["terminated"],
        truncated=last & ends["truncated"],
        fields=fields,
        policy_version=version,
    )


ENDS = ("terminated", "truncated")


def an_observation(state: Tensor, domain: Tensor) -> Observation:
    rows = len(state)
    return Observation(
        images={"observation.images.main": torch.zeros(rows, 3, 1, 1, dtype=torch.uint8)},
        state=state,
        inputs={"input_ids": torch.zeros(rows, 2, dtype=torch.int64), "domain_id": domain},
    )


def generators(count: int, seed: int) -> list[torch.Generator]:
    """One generator per row."""
    return [torch.Generator().manual_seed(7919 * seed + row) for row in range(count)]


def sampled_fields(
    algorithm: PiRLAlgorithm, observation: Observation, *, seed: int
) -> dict[str, Tensor]:
    """The fields of sampled decisions, with floats widened so that replay computes in fp64."""
    sampled = sample_chunk(
        algorithm.policy,
        algorithm.policy.encode(observation),
        pirl=algorithm.config.pirl,
        noise_head=algorithm.noise_head,
        rngs=generators(len(observation), seed),
    )
    return {n: v.double() if v.is_floating_point() else v for n, v in sampled.fields.items()}


_RNG = torch.Generator().manual_seed(1)
DEMOS = {
    "action": torch.randn(7, 3, len(GROUPS), generator=_RNG, dtype=torch.float64),
    "state": torch.randn(7, STATE, generator=_RNG, dtype=torch.float64),
}
"""Seven rows to imitate."""


class ShownTable:
    """`DEMOS` as pirl's learner asks for them."""

    facts: Mapping[str, str | int] = {}
    most_bytes = 0

    def __len__(self) -> int:
        return len(DEMOS["action"])

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        return {name: values[rows] for name, values in DEMOS.items()}
