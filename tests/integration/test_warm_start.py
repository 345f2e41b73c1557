"""The starting policy: every parameter trains on LeRobot's loss, and nothing of it leaks into RL."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_demos import a_demo

from pirl.config.load import load_config
from pirl.config.train import policy_of
from pirl.envs.demos import Demo
from pirl.errors import ConfigError
from pirl.learning.dataset import read_demos, write_demos
from pirl.learning.dropout_learner import stick_dropout
from pirl.learning.settings import WarmStart
from pirl.learning.warm_start import demo_set, gather_demos, train_supervised
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.policy import XVLAFlowPolicy

CONFIG = "configs/train_config_pirl_learn_flow_sde.json"


@pytest.fixture(scope="module")
def cfg():
    return load_config(CONFIG).cfg


def a_policy(cfg, seed: int = 0) -> XVLAFlowPolicy:
    return build_policy(policy_of(cfg), executed_dims=None, device="cpu", seed=seed)


def test_a_demo_set_has_one_row_per_control_step_and_repeats_the_last_action(cfg):
    demos = demo_set([a_demo(6), a_demo(3, seed=1)], policy=a_policy(cfg))
    assert len(demos) == 9
    assert demos.actions.shape == (9, 4, 4)
    last = torch.from_numpy(a_demo(6).actions[-1])
    assert torch.equal(demos.actions[5], last.expand(4, 4))
    assert demos.observation.inputs["input_ids"].shape == (9, 8)


def test_a_demo_with_few_pictures_has_one_row_per_picture_and_every_action_in_its_chunks(cfg):
    demo = a_demo(7, every=3)
    rows = demo_set([demo], policy=a_policy(cfg))
    assert len(rows) == 3
    assert torch.equal(rows.actions[1], torch.from_numpy(demo.actions[3:7]))
    assert torch.equal(rows.observation.state, torch.from_numpy(demo.states[[0, 3, 6]]))


def test_demonstrations_come_back_from_a_lerobot_dataset_bit_for_bit(tmp_path):
    demos = [a_demo(5), a_demo(3, seed=1)]
    write_demos(demos, tmp_path / "data", fps=20, asked={"noise": 0.1})
    for demo, again in zip(demos, read_demos(tmp_path / "data"), strict=True):
        names = [f.name for f in fields(Demo)]
        assert [n for n in names if not _equal(getattr(demo, n), getattr(again, n))] == []


def _equal(first: object, second: object) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_equal(first[k], second[k]) for k in first)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    return first == second


def test_a_warm_start_from_a_dataset_refuses_what_is_none_and_other_tasks(tmp_path, cfg):
    asked = WarmStart(demos=str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"demos\.json"):
        gather_demos(cfg, asked, seed=0)
    write_demos([replace(a_demo(2), task="push-v3")], tmp_path / "data", fps=16, asked={})
    with pytest.raises(ConfigError, match="of push-v3"):
        gather_demos(cfg, asked, seed=0)
    write_demos([a_demo(2)], tmp_path / "same", fps=16, asked={})
    (demo,) = gather_demos(cfg, WarmStart(demos=str(tmp_path / "same")), seed=0)
    assert len(demo.actions) == 2


def test_every_parameter_learns_and_only_the_transformer_trains_afterwards(cfg):
    policy = a_policy(cfg)
    before = {name: p.detach().clone() for name, p in policy.module.named_parameters()}
    losses = train_supervised(
        policy, demo_set([a_demo()], policy=a_policy(cfg)), WarmStart(steps=30, batch=8), seed=0
    )
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    moved = {n for n, p in policy.module.named_parameters() if not torch.equal(p, before[n])}
    assert any(name.startswith("model.vlm.vision_tower") for name in moved)
    # One camera: the further views are empty, so what projects them gets no gradient.
    still = {"model.transformer.aux_visual_proj.weight"}
    assert set(policy.trained_parameters()) - still <= moved
    assert all(p.requires_grad for p in policy.trained_parameters().values())
    assert not any(p.requires_grad for p in policy.frozen_parameters().values())
    assert not any(module.training for module in policy.module.modules())


def test_the_same_seed_gives_the_same_policy_and_the_global_stream_stays(cfg):
    demos = demo_set([a_demo()], policy=a_policy(cfg))
    settings = WarmStart(steps=3, batch=4)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, second = a_policy(cfg), a_policy(cfg)
    assert train_supervised(first, demos, settings, seed=1) == train_supervised(
        second, demos, settings, seed=1
    )
    assert torch.equal(torch.get_rng_state(), state)
    for name, parameter in first.module.named_parameters():
        assert torch.equal(parameter, dict(second.module.named_parameters())[name]), name


def test_stuck_dropout_passes_the_eval_mode_guard_and_changes_every_answer(cfg):
    policy = a_policy(cfg)
    demos = demo_set([a_demo(2)], policy=a_policy(cfg))
    assert stick_dropout(policy) > 0
    policy.eval_mode()
    modules = policy.module.model.transformer.modules()
    assert not any(isinstance(m, nn.Dropout) and m.p > 0 for m in modules)
    context = policy.encode(demos.observation)
    x, t = torch.zeros(2, 4, 4), torch.ones(2)
    answers = [policy.predict(context, x, t).clean for _ in range(2)]
    assert not torch.equal(*answers)
