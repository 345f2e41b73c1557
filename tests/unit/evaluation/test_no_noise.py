"""An evaluation adds no noise after the start (I43), whatever recipe trained the policy."""

from types import SimpleNamespace

import pytest
import torch

from pirl.evaluation import episodes
from pirl.records import Observation
from pirl.runtime import lockstep
from pirl.runtime.timers import StageTimers


def test_an_evaluation_asks_for_the_native_sampler_without_noise(monkeypatch):
    asked = {}

    class Recorder:
        def __init__(self, **options):
            asked.update(options)

        def run(self, *_, **__):
            return iter(())

    monkeypatch.setattr(episodes, "Lockstep", Recorder)
    env, policy = SimpleNamespace(task_names=("a",)), SimpleNamespace(sampler="euler")
    assert episodes.evaluate(policy=policy, env=env, plans=(), seed=0) == []
    assert asked["stochastic"] is False
    assert asked["noise_head"] is None
    assert asked["pirl"].base_sampler == "euler"


@pytest.mark.parametrize("stochastic", [True, False])
def test_what_was_asked_for_reaches_the_sampler(monkeypatch, stochastic):
    calls = []
    monkeypatch.setattr(lockstep, "sample_chunk", lambda *_, **options: calls.append(options))
    runner = lockstep.Lockstep(
        policy=SimpleNamespace(encode=lambda observation: observation),
        noise_head=None,
        env=None,
        pirl=None,
        timers=StageTimers(),
        stochastic=stochastic,
    )
    observation = Observation(
        images={},
        state=torch.zeros(1, 2),
        inputs={
            "input_ids": torch.zeros(1, 2, dtype=torch.int64),
            "domain_id": torch.zeros(1, dtype=torch.int64),
        },
    )
    runner._decide([observation], seeds=[3], alone=True)
    (options,) = calls
    assert options["stochastic"] is stochastic
    # Without noise a row must not depend on how many share its batch.
    assert len(options["rngs"]) == (1 if stochastic else 2)
