"""A policy to start from: scripted demonstrations, then the supervised loss of LeRobot's own policy.

Owns the supervised loop and what it is asked for. Refuses to know RL. Read `pirl.learning.proof` next.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm import tqdm

from pirl.config.train import PiRLTrainConfig, env_of, policy_of
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.registry import build_flow_policy, policy_kind
from pirl.envs import EnvObservation, describe_env
from pirl.envs.demos import Demo, action_chunks, collect_demos
from pirl.envs.schedule import stream_seed
from pirl.errors import ConfigError, FieldError, NumericsError
from pirl.files import write_text, writing
from pirl.learning.dataset import read_demos
from pirl.learning.settings import WarmStart
from pirl.records import Observation

logger = logging.getLogger(__name__)

RECORD = "warm_start.json"
"""What was asked for and the loss it ended with, beside the policy folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSet:
    """All frames of all demonstrations as one table of N rows."""

    observation: Observation
    actions: Float[Tensor, "N C A"]

    def __len__(self) -> int:
        return len(self.actions)


def demo_set(demos: Sequence[Demo], *, policy: FlowPolicy) -> DemoSet:
    """One row per picture: what was seen, and the chunk the expert wanted from there on."""
    rows = policy.spec.chunk_size
    chunks = [action_chunks(demo, chunk_size=rows).actions[demo.looked] for demo in demos]
    seen = [
        policy.prepare(
            EnvObservation(
                images={key: images[row] for key, images in demo.images.items()},
                state=demo.states[step],
            ),
            demo.instruction,
        )
        for demo in demos
        for row, step in enumerate(demo.looked)
    ]
    return DemoSet(
        observation=Observation.cat(seen), actions=torch.from_numpy(np.concatenate(chunks))
    )


def gather_demos(cfg: PiRLTrainConfig, settings: WarmStart, *, seed: int) -> list[Demo]:
    """Demonstrations of every task of the environment: read where `settings` name a data set, else collected.

    Raises:
        EnvError: an expert failed too often.
        ConfigError: there is no such data set, or it is of other tasks.
    """
    env = env_of(cfg)
    names = describe_env(env).task_names
    if settings.demos is not None:
        demos = read_demos(Path(settings.demos))
        _check_tasks(demos, names, settings)
        return demos
    return [
        demo
        for task_id in range(len(names))
        for demo in collect_demos(
            env,
            num_episodes=settings.demos_per_task,
            seed=seed,
            image_keys=policy_kind(policy_of(cfg).type).cameras(policy_of(cfg)),
            task_id=task_id,
            speed=settings.speed,
            noise=settings.noise,
            picture_every=settings.picture_every,
            split_file=cfg.runtime.split_file,
        )
    ]


def _check_tasks(demos: Sequence[Demo], names: Sequence[str], settings: WarmStart) -> None:
    found = sorted({demo.task for demo in demos})
    if found != sorted(names):
        error = FieldError(
            field="learn.warm_start.demos",
            value=f"{settings.demos}, of {', '.join(found)}",
            expected=f"demonstrations of {', '.join(names)}",
            fix="name a data set of the same tasks",
        )
        raise ConfigError([error])


def train_supervised(
    policy: FlowPolicy, demos: DemoSet, settings: WarmStart, *, seed: int
) -> list[float]:
    """Train every parameter on the stock policy's own loss, in place; the loss of every step.

    Dropout is on here, as in `lerobot-train`; the policy is back in eval mode afterwards.

    Raises:
        NumericsError: the loss is not finite.
    """
    module = policy.module
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    module.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    losses: list[float] = []
    rng = torch.Generator().manual_seed(stream_seed(seed, "warm-start"))
    module.train()
    try:
        # Stock policies draw flow times, noise and dropout from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(seed, "warm-start-noise"))
            for step in tqdm(
                range(settings.steps), desc="warm start", file=sys.stderr, disable=None
            ):
                decay = 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * decay
                rows = torch.randint(len(demos), (settings.batch,), generator=rng)
                losses.append(_step(policy, demos, rows, optimizer, clip=settings.grad_clip))
                if not np.isfinite(losses[-1]):
                    raise NumericsError(f"supervised loss {losses[-1]} at step {step}")
    finally:
        module.eval()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)
            parameter.grad = None
    return losses


def _step(
    policy: FlowPolicy,
    demos: DemoSet,
    rows: Int64[Tensor, " M"],
    optimizer: torch.optim.Optimizer,
    *,
    clip: float,
) -> float:
    loss, _ = policy.module(policy.demo_batch(demos.observation.index(rows), demos.actions[rows]))
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(policy.module.parameters(), clip)
    optimizer.step()
    return float(loss.detach())


def warm_start(cfg: PiRLTrainConfig, settings: WarmStart, *, seed: int, folder: Path) -> Path:
    """Collect, train, save; the policy folder that `--policy.path` takes.

    Args:
        cfg: a validated config whose policy has no pretrained weights.
        folder: gets `pretrained_model/` and the record.

    Raises:
        EnvError, NumericsError: as the parts.
    """
    torch.set_num_threads(cfg.runtime.torch_threads)
    shown = gather_demos(cfg, settings, seed=seed)
    policy = build_flow_policy(
        policy_of(cfg), executed_dims=cfg.pirl.executed_dims, device="cpu", seed=seed
    )
    demos = demo_set(shown, policy=policy)
    logger.info("%d demonstration frames", len(demos))
    losses = train_supervised(policy, demos, settings, seed=seed)
    with writing(folder):
        target = policy.save(folder / "pretrained_model", env_type=env_of(cfg).type)
    record = {"seed": seed, "frames": len(demos), "loss": losses[-20:], **asdict(settings)}
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return target
