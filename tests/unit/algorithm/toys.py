"""A flow policy small enough to train in seconds, and decisions made with it.

Implements `FlowPolicy` with an MLP; knows no X-VLA. Read `test_toy_learning.py` for its use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pirl.algorithm.chain import sample_chunk
from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig
from pirl.config.recipe import FlowNoiseConfig, FlowSDEConfig, PiRLConfig
from pirl.records import ActionSpec, Context, DecisionBatch, Observation, Prediction

STATE = 3
WIDTH = 16


class ToyNet(nn.Module):
    """A frozen encoder and a trained `transformer`, named like the policy it stands for."""

    def __init__(self, *, chunk_size: int, dims: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.vlm = nn.Linear(STATE, 4)
        size = chunk_size * dims
        self.transformer = nn.ModuleDict(
            {
                "body": nn.Sequential(
                    nn.Linear(size + 1 + 4, hidden),
                    nn.Tanh(),
                    nn.Dropout(dropout),
                    nn.Linear(hidden, hidden),
                    nn.Tanh(),
                    nn.Linear(hidden, chunk_size * WIDTH),
                    nn.Tanh(),
                ),
                "action_decoder": nn.Linear(WIDTH, dims),
            }
        )


class ToyPolicy:
    """`FlowPolicy` over `ToyNet`; all dims are ordinary flow dims unless `gripper` is given.

    With `dtype=torch.float64` the network's answer does not depend on the batch that a row shares
    once it is rounded to the chain's fp32, on no CPU: for tests that compare passes of different
    sizes.
    """

    def __init__(
        self,
        *,
        chunk_size: int = 1,
        executed_steps: int = 1,
        dims: int = 2,
        denoising_steps: int = 5,
        hidden: int = 64,
        dropout: float = 0.0,
        gripper: tuple[int, ...] = (),
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = ToyNet(chunk_size=chunk_size, dims=dims, hidden=hidden, dropout=dropout)
        self.module.vlm.requires_grad_(False)
        self.module.eval().to(dtype)
        self.dtype = dtype
        self.spec = ActionSpec(
            action_mode="auto",
            chunk_size=chunk_size,
            executed_steps=executed_steps,
            model_dim=dims,
            env_dim=dims,
            denoising_steps=denoising_steps,
            executed_dims=tuple(range(dims)),
            hidden_gripper_dims=gripper,
            group_of_dim=tuple("gripper_logit" if d in gripper else "other" for d in range(dims)),
        )
        self.critic_width = STATE
        self.feature_width = WIDTH
        self.primary_view_shape = (1, 4)
        self.trains_encoder = False
        tables = ("soft_prompt_hub", "action_encoder", "action_decoder")
        self.no_decay = frozenset(
            n for n in self.trained_parameters() if any(part in n for part in tables)
        )
        self.device = torch.device("cpu")

    @torch.no_grad()
    def encode(self, observation: Observation, *, gradient: bool = False) -> Context:
        tokens = self.module.vlm(observation.state.to(self.dtype)).float().unsqueeze(1)
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
        visible = x.clone()
        visible[..., list(self.spec.hidden_gripper_dims)] = 0.0
        inputs = torch.cat(
            [visible.flatten(1), t[:, None], context.tensors["vlm_features"][:, 0]], dim=1
        )
        features = self.module.transformer["body"](inputs.to(self.dtype)).unflatten(1, (-1, WIDTH))
        return Prediction(
            clean=self.module.transformer["action_decoder"](features), features=features
        )

    def primary_view(self, context: Context) -> Tensor:
        return context.tensors["vlm_features"][:, : self.primary_view_shape[0]]

    def postprocess(self, chunk: Tensor) -> Tensor:
        return chunk.clone()

    def trained_parameters(self) -> Mapping[str, nn.Parameter]:
        return {n: p for n, p in self.module.named_parameters() if n.startswith("transformer.")}

    def frozen_parameters(self) -> Mapping[str, nn.Parameter]:
        return {n: p for n, p in self.module.named_parameters() if not n.startswith("transformer.")}

    def demo_loss(self, batch: Mapping[str, Tensor], *, rng: torch.Generator) -> Tensor:
        action = batch["action"]
        t = torch.rand(len(action), generator=rng)
        noise = torch.randn(action.shape, generator=rng)
        noisy = t[:, None, None] * noise + (1 - t)[:, None, None] * action
        context = self.encode(an_observation(len(action)))
        return (self.predict(context, noisy, t).clean - action).square().mean()


def an_observation(rows: int, *, seed: int | None = None) -> Observation:
    """`rows` observations: zeros, or random states from `seed`."""
    state = torch.zeros(rows, STATE)
    if seed is not None:
        state = torch.randn(rows, STATE, generator=torch.Generator().manual_seed(seed))
    return Observation(
        images={"observation.images.main": torch.zeros(rows, 3, 2, 2, dtype=torch.uint8)},
        state=state,
        inputs={
            "input_ids": torch.zeros(rows, 2, dtype=torch.int64),
            "domain_id": torch.zeros(rows, dtype=torch.int64),
        },
    )


def a_recipe(variant: str = "flow-sde", **knobs: object) -> PiRLConfig:
    """Algorithm knobs at toy scale."""
    small = dict(
        value_hidden=(16,),
        global_batch=16,
        micro_batch=6,
        update_epochs=2,
        actor_lr=1e-3,
        value_lr=1e-3,
    )
    section = {
        "flow-sde": dict(flow_sde=FlowSDEConfig()),
        "flow-noise": dict(flow_noise=FlowNoiseConfig()),
    }[variant]
    return PiRLConfig(variant=variant, **{**small, **section, **knobs})  # type: ignore[arg-type]


def an_algorithm(policy: ToyPolicy, pirl: PiRLConfig, **options: object) -> PiRLAlgorithm:
    """`PiRLAlgorithm` with its optimiser, seed 0."""
    config = PiRLAlgorithmConfig(pirl=pirl, total_updates=10, seed=0)
    algorithm = PiRLAlgorithm(policy, config, **options)  # type: ignore[arg-type]
    algorithm.make_optimizers_and_scheduler()
    if algorithm.noise_head is not None:
        algorithm.noise_head.to(next(iter(policy.trained_parameters().values())).dtype)
    return algorithm


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Rows to imitate, held as one table; every row that was asked for is written down."""

    table: Mapping[str, Tensor]
    facts: Mapping[str, str | int] = field(default_factory=lambda: {"sha256": "of toys"})
    asked: list[list[int]] = field(default_factory=list)
    most_bytes: int = 0

    def __len__(self) -> int:
        return len(self.table["action"])

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        self.asked.append(rows.tolist())
        return {name: values[rows] for name, values in self.table.items()}


def shown_actions(count: int = 20, *, at: float = 0.0, spread: float = 1.0) -> Shown:
    """Chunks of three rows and three dims around `at`."""
    rng = torch.Generator().manual_seed(0)
    return Shown(table={"action": at + spread * torch.randn(count, 3, 3, generator=rng)})


@dataclass(frozen=True, kw_only=True)
class Episode:
    """Shape of one toy episode: rewards of its decisions and how it ends."""

    rewards: Sequence[float]
    truncated: bool = False
    group: int = -1


EPISODES = (
    Episode(rewards=(0.0, 0.0, 1.0)),
    Episode(rewards=(0.0, 0.0), truncated=True),
    Episode(rewards=(0.0, 1.0)),
    Episode(rewards=(0.0, 0.0, 0.0, 0.0), truncated=True),
)
"""Eleven decisions, two successes, two time limits."""


def a_batch(
    algorithm: PiRLAlgorithm,
    *,
    episodes: Sequence[Episode] = EPISODES,
    version: int = 0,
    acted: int | None = None,
    seed: int = 0,
    observation: Observation | None = None,
) -> DecisionBatch:
    """Decisions of `episodes`, sampled with the algorithm's current weights.

    Args:
        version: learner version that consumes the batch.
        acted: version stamped on the decisions; the same by default.
        observation: what the decisions look at; random states by default.
    """
    lengths = [len(e.rewards) for e in episodes]
    rows = sum(lengths)
    chunk = torch.cat([torch.arange(n) for n in lengths])
    last = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    truncated = torch.cat(
        [torch.full((n,), e.truncated) for n, e in zip(lengths, episodes, strict=True)]
    )
    if observation is None:
        observation = an_observation(rows, seed=1000 * seed + version)
    policy, pirl = algorithm.policy, algorithm.config.pirl
    sampled = sample_chunk(
        policy,
        policy.encode(observation),
        pirl=pirl,
        noise_head=algorithm.noise_head,
        rngs=[torch.Generator().manual_seed(97 * seed + 31 * version + r) for r in range(rows)],
    )
    every = torch.ones(rows, dtype=torch.int64)
    fields = {
        **sampled.fields,
        "pirl_version": every * (version if acted is None else acted),
        "pirl_episode_id": torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)]),
        "pirl_chunk_idx": chunk,
        "pirl_valid_steps": every * policy.spec.executed_steps,
        "pirl_group_id": torch.cat(
            [torch.full((n,), e.group) for n, e in zip(lengths, episodes, strict=True)]
        ),
        "is_intervention": every * 0,
    }
    return DecisionBatch(
        observation=observation,
        next_observation=an_observation(rows, seed=1000 * seed + version + 500),
        action=sampled.chunk[:, : policy.spec.executed_steps],
        reward=torch.tensor([r for e in episodes for r in e.rewards]),
        terminated=last & ~truncated,
        truncated=last & truncated,
        fields=fields,
        policy_version=version,
    )
