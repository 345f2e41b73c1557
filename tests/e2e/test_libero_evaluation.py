"""Evaluation on the real LIBERO: the same actions, steps and outcome as LeRobot's own evaluation loop."""

from __future__ import annotations

import pytest
import torch
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from lerobot.scripts.lerobot_eval import rollout
from torch.overrides import TorchFunctionMode

from pirl.config.load import load_config
from pirl.config.train import env_of, policy_of
from pirl.envs.libero_assets import prepare_assets
from pirl.envs.schedule import stream_seed
from pirl.evaluation.checkpoint import Protocol, prepare, run
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.libero import libero_actions

pytestmark = [pytest.mark.e2e, pytest.mark.libero, pytest.mark.slow]
SEED = 5
STEPS = 25
"""Two whole decisions and half a third."""


class StartNoise(TorchFunctionMode):
    """Answers the sampler's one draw per decision with the noise of an evaluation."""

    def __init__(self, plan, task, shape):
        super().__init__()
        self.plan, self.task, self.shape, self.decisions = plan, task, shape, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not torch.randn:
            return func(*args, **(kwargs or {}))
        plan = self.plan
        seed = stream_seed(
            SEED, "evaluation", self.task, plan.init_state_id, plan.seed, self.decisions
        )
        self.decisions += 1
        with torch._C.DisableTorchFunction():
            return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))[None]


def stock_rollout(cfg, folder, plan, task, spec):
    """LeRobot's `rollout`, one environment, at a given initial state."""
    policy = XVLAPolicy.from_pretrained(folder, strict=True)
    pre, post = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    env_pre, env_post = make_env_pre_post_processors(env_of(cfg), policy.config)
    suites = make_env(env_of(cfg), n_envs=1, use_async_envs=False)
    env = next(iter(next(iter(suites.values())).values()))
    env.envs[0].unwrapped.init_state_id = plan.init_state_id
    noise = StartNoise(plan, task, (spec.chunk_size, spec.model_dim))
    with noise:
        result = rollout(env, policy, env_pre, env_post, pre, post, seeds=[plan.seed])
    env.close()
    return result, noise.decisions


def test_an_episode_equals_the_one_of_lerobots_evaluation(tmp_path):
    prepare_assets()
    cfg = load_config(
        "configs/train_config_pirl_libero_smoke.json",
        ["--env.task_ids=[2]", f"--env.episode_length={STEPS}"],
    ).cfg
    random = build_policy(policy_of(cfg), executed_dims=None, device="cpu", seed=1)
    folder = random.save(tmp_path / "policy", env_type="libero")
    evaluation = prepare(
        folder, cfg, protocol=Protocol(episodes_per_task=1, seed=SEED), device="cpu"
    )
    ours = []
    (record,) = run(evaluation, on_episode=ours.append)

    theirs, decisions = stock_rollout(
        cfg, folder, evaluation.plans[0], record.task, evaluation.policy.spec
    )
    chunks = torch.cat([t["action"] for t in ours[0].transitions], dim=1)
    rows = evaluation.policy.postprocess(chunks)[0]
    steps = theirs["action"].shape[1]
    assert record.init_state_id == 40
    assert record.decisions == decisions == 3
    assert record.env_steps == steps == STEPS
    assert record.success == bool(theirs["success"].any())
    assert torch.equal(torch.from_numpy(libero_actions(rows.numpy()))[:steps], theirs["action"][0])
