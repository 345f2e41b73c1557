"""Two groups of environments in worker processes make the decisions of one, with a real policy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from env_toys import ShortSettings

from pirl.config.load import load_config
from pirl.envs import describe_env
from pirl.envs.schedule import plan_episode
from pirl.envs.split import load_split
from pirl.envs.vector import IdentityCodec, SlotVectorEnv
from pirl.errors import EnvError
from pirl.runtime.rollout import Placement, RolloutCollector
from pirl.runtime.session import build_session

pytestmark = pytest.mark.integration
HERE = Path(__file__).parent
ENVS = 6


@pytest.fixture(autouse=True)
def workers_find_the_toys(monkeypatch):
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


@pytest.fixture(scope="module", params=["embedded", "embedded_flow_noise"])
def session(request):
    loaded = load_config(f"configs/train_config_pirl_{request.param}.json")
    return build_session(loaded, device="cpu", run_id="")


def collector_of(session, *, pipeline, workers, killed_seed=-1):
    """Of rank 0 in a run of one actor, and its environment."""
    cfg = session.loaded.cfg
    split = load_split(cfg.env.type, mode="train", split_file=cfg.runtime.split_file)
    info = describe_env(cfg.env)
    shapes = {key: info.image_shapes[key] for key in session.image_keys}
    env = SlotVectorEnv(
        ShortSettings(shapes=shapes, killed_seed=killed_seed),
        info=info, codec=IdentityCodec(), split=split, num_envs=ENVS, num_workers=workers,
    )  # fmt: skip
    collector = RolloutCollector(
        policy=session.policy,
        noise_head=session.algorithm.noise_head,
        env=env,
        pirl=cfg.pirl,
        placement=Placement(seed=1, rank=0, num_actors=1, split=split),
        pipeline=pipeline,
    )
    return collector, env


def collect(session, **options):
    collector, env = collector_of(session, **options)
    with env:
        return list(collector.collect(version=2, min_decisions=40))


def test_decisions_are_those_of_one_group_to_the_last_bit(session):
    theirs = collect(session, pipeline=1, workers=2)
    assert len({one.record.decisions for one in theirs}) > 1
    for workers in (2, ENVS):
        ours = collect(session, pipeline=2, workers=workers)
        assert [one.record for one in ours] == [one.record for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.transitions, other.transitions, rtol=0, atol=0)


@pytest.mark.parametrize("slot", [0, ENVS - 1])
def test_a_worker_that_dies_in_either_group_ends_the_rollout(session, slot):
    cfg = session.loaded.cfg
    split = load_split(cfg.env.type, mode="train", split_file=cfg.runtime.split_file)
    plan = plan_episode(
        seed=1, policy_version=2, rank=0, env_index=slot, episode_index=0, num_envs=ENVS,
        num_actors=1, task_names=describe_env(cfg.env).task_names, split=split,
    )  # fmt: skip
    with pytest.raises(EnvError, match=f"died while stepping .*seed {plan.seed}") as caught:
        collect(session, pipeline=2, workers=3, killed_seed=plan.seed)
    assert slot in caught.value.slots
