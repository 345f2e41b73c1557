"""Control steps per second of an actor's rollouts: one group of environments against two that take turns, as JSON.

    python -m benchmarks pipeline --rounds 5 --runtime.envs_per_actor=16 --runtime.env_workers=2

Both collect the same episodes with the same policy in the same simulators, alternately round by round, so that
a busy machine slows both; the ratio is what counts. Ends with 1 when they made different decisions. Other
options are overrides of the config.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from pirl.config.load import load_config
from pirl.envs import make_vector_env
from pirl.envs.libero_setup import quiet_stdout
from pirl.envs.split import load_split
from pirl.runtime.lockstep import FinishedEpisode
from pirl.runtime.rollout import Placement, RolloutCollector
from pirl.runtime.session import build_session
from pirl.runtime.timers import StageTimers


@dataclass
class Side:
    """One contestant, and what its rounds took."""

    collector: RolloutCollector
    timers: StageTimers
    steps_per_s: list[float] = field(default_factory=list)
    episodes: list[FinishedEpisode] = field(default_factory=list)

    def race(self, decisions: int) -> None:
        started = time.perf_counter()
        self.episodes = list(self.collector.collect(version=0, min_decisions=decisions, anew=True))
        steps = sum(episode.record.env_steps for episode in self.episodes)
        self.steps_per_s.append(steps / (time.perf_counter() - started))


def largest_gap(ours: Sequence[FinishedEpisode], theirs: Sequence[FinishedEpisode]) -> float:
    """Largest difference of an action; infinite where the episodes are others."""
    if [one.record for one in ours] != [one.record for one in theirs]:
        return float("inf")
    pairs = [(a["action"], b["action"]) for x, y in zip(ours, theirs, strict=True)
             for a, b in zip(x.transitions, y.transitions, strict=True)]  # fmt: skip
    return max(float((a - b).abs().max()) for a, b in pairs)


def main() -> int:
    """Exit code 1 when two groups decided otherwise than one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config_path", default="configs/train_config_pirl_learn_flow_sde.json")
    parser.add_argument("--decisions", type=int, default=160, help="of a rollout, at least")
    parser.add_argument("--rounds", type=int, default=5)
    args, overrides = parser.parse_known_args()
    loaded = load_config(args.config_path, [*overrides, "--runtime.pipeline=2"])
    cfg, runtime = loaded.cfg, loaded.cfg.runtime
    session = build_session(loaded, device=runtime.actor_device, run_id="")
    split = load_split(cfg.env.type, mode=runtime.split, split_file=runtime.split_file)
    env = make_vector_env(
        cfg.env,
        num_envs=runtime.envs_per_actor,
        num_workers=runtime.env_workers,
        image_keys=session.image_keys,
        split=split,
    )

    def side(pipeline: int) -> Side:
        timers = StageTimers()
        collector = RolloutCollector(
            policy=session.policy,
            noise_head=session.algorithm.noise_head,
            env=env,
            pirl=cfg.pirl,
            placement=Placement(seed=cfg.seed, rank=0, num_actors=1, split=split),
            timers=timers,
            pipeline=pipeline,
        )
        return Side(collector, timers)

    one, two = side(1), side(2)
    with env, quiet_stdout():
        one.race(1)
        for contestant in (one, two):
            contestant.timers.drain()
            contestant.steps_per_s.clear()
        for _ in range(args.rounds):
            for contestant in (one, two):
                contestant.race(args.decisions)
    gap = largest_gap(two.episodes, one.episodes)
    ratios = [b / a for a, b in zip(one.steps_per_s, two.steps_per_s, strict=True)]
    result = {
        "benchmark": "pipeline",
        "config": args.config_path,
        "device": runtime.actor_device,
        "torch_threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1_min": os.getloadavg()[0],
        "envs": runtime.envs_per_actor,
        "workers": runtime.env_workers,
        "rounds": args.rounds,
        "decisions_per_round": sum(e.record.decisions for e in one.episodes),
        "steps_per_s": {
            "1": statistics.median(one.steps_per_s),
            "2": statistics.median(two.steps_per_s),
        },
        "ratio": {
            "min": min(ratios),
            "median": statistics.median(ratios),
            "max": max(ratios),
        },
        "seconds_by_stage": {"1": one.timers.drain(), "2": two.timers.drain()},
        "largest_action_gap": gap,
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0 if gap == 0 or runtime.actor_device != "cpu" else 1


if __name__ == "__main__":
    raise SystemExit(main())
