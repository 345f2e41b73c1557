"""A policy and a vector environment that write down what they are asked, for rollout tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from pirl.config.recipe import FlowSDEConfig, PiRLConfig
from pirl.envs.base import ChunkResult, EnvObservation
from pirl.records import ActionSpec, Context, EpisodePlan, Observation, Prediction

DIMS, CHUNK, EXECUTED, STEPS = 2, 3, 2, 2
SPEC = ActionSpec(
    action_mode="toy",
    chunk_size=CHUNK,
    executed_steps=EXECUTED,
    model_dim=DIMS,
    env_dim=DIMS,
    denoising_steps=STEPS,
    executed_dims=tuple(range(DIMS)),
    hidden_gripper_dims=(),
    group_of_dim=("other",) * DIMS,
)
WORDS = {"push it": torch.tensor([[1, 2, 3]]), "pull it": torch.tensor([[4, 5, 6]])}
INPUTS = ("input_ids", "domain_id")


def a_recipe(**knobs) -> PiRLConfig:
    """Noise enters at the last step, so that the action shows it."""
    sde = FlowSDEConfig(step_sampling="weights", step_weights=(0.0, 1.0))
    return PiRLConfig(variant="flow-sde", flow_sde=sde, **knobs)


class StatePolicy:
    """Predicts the state it sees, in every row; elementwise, so that no row depends on another."""

    spec = SPEC
    device = torch.device("cpu")
    module = nn.Identity()
    critic_width = 1
    feature_width = 1
    primary_view_shape = (1, 1)
    trains_encoder = False

    def __init__(self):
        self.rows: list[int] = []

    def prepare(self, raw, instruction):
        return Observation(
            images={k: torch.from_numpy(v).unsqueeze(0) for k, v in raw.images.items()},
            state=torch.from_numpy(raw.state).unsqueeze(0),
            inputs={"input_ids": WORDS[instruction], "domain_id": torch.tensor([7])},
        )

    def encode(self, observation, *, gradient=False):
        self.rows.append(len(observation))
        nothing = torch.zeros(len(observation), 1, 1)
        return Context(
            tensors={
                "vlm_features": nothing,
                "aux_visual_inputs": nothing,
                "proprio": observation.state,
                "domain_id": observation.inputs["domain_id"],
            },
            critic_features=nothing[:, 0],
        )

    def predict(self, context, x, t):
        clean = context.tensors["proprio"][:, None, :].expand_as(x) + 0 * x
        return Prediction(clean=clean, features=x[..., :1])

    def postprocess(self, chunk):
        return chunk.clone()


class LonePolicy(StatePolicy):
    """As kernels do: a row that is alone in its batch has other last bits."""

    def predict(self, context, x, t):
        made = super().predict(context, x, t)
        return replace(made, clean=made.clean * (1 + 2**-20)) if len(x) == 1 else made


class CountingEnv:
    """State: (episode id, decisions so far). An episode lasts as long as `lengths` says."""

    task_names = ("push", "pull")

    def __init__(self, num_envs=2, *, lengths: Mapping[int, int] | int = 2, truncates=()):
        self.num_envs = num_envs
        self.lengths, self.truncates = lengths, truncates
        self.running: dict[int, EpisodePlan] = {}
        self.decisions: dict[int, int] = {}
        self.resets: list[dict[int, EpisodePlan]] = []
        self.steps: list[dict[int, np.ndarray]] = []
        self.log: list[tuple[str | int, ...]] = []

    def instruction(self, task_id):
        return f"{self.task_names[task_id]} it"

    def observe(self, index):
        count = self.decisions[index]
        return EnvObservation(
            images={"observation.images.image": np.full((3, 2, 2), count, dtype=np.uint8)},
            state=np.array([self.running[index].episode_id, count], dtype=np.float32),
        )

    def reset(self, plans):
        self.resets.append(dict(plans))
        self.log.append(("reset", *plans))
        self.running |= plans
        self.decisions |= dict.fromkeys(plans, 0)
        return {index: self.observe(index) for index in plans}

    def length_of(self, plan):
        if isinstance(self.lengths, int):
            return self.lengths
        return self.lengths.get(plan.episode_id, 2)

    def step_chunk(self, actions):
        self.steps.append(dict(actions))
        results = {}
        for index in actions:
            plan = self.running[index]
            self.decisions[index] += 1
            count = self.decisions[index]
            over = count >= self.length_of(plan)
            cut = over and plan.episode_id in self.truncates
            results[index] = ChunkResult(
                observation=self.observe(index),
                step_rewards=np.array([0.0, float(over and not cut)], dtype=np.float32),
                valid_steps=EXECUTED,
                terminated=over and not cut,
                truncated=cut,
                success=over and not cut,
                sim_steps=10 * count,
                frames=(np.full((1, 1, 3), count, dtype=np.uint8),),
                timings={"step_s": 1.0, "render_s": 2.0, "preprocess_s": 4.0},
            )
        return results

    def start_chunk(self, actions):
        """Executed when its results are asked for: whoever resets a slot before that changes them."""
        self.log.append(("start", *actions))

        def results():
            self.log.append(("results", *actions))
            return self.step_chunk(actions)

        return SimpleNamespace(results=results)

    def to_env_actions(self, chunk):
        return 10 * chunk
