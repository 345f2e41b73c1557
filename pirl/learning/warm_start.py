"""A policy to start from: scripted demonstrations, then LeRobot's own supervised X-VLA loss.

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
from lerobot.utils.constants import ACTION
from torch import Tensor
from tqdm import tqdm

from pirl.config.train import PiRLTrainConfig, env_of, policy_of
from pirl.contract.xvla import (
    XVLAFlowPolicy,
    build_policy,
    domain_id_of,
    save_pretrained,
    tokenize_instruction,
)
from pirl.contract.xvla_inputs import real_cameras
from pirl.envs import describe_env
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


def demo_set(demos: Sequence[Demo], *, cfg: PiRLTrainConfig) -> DemoSet:
    """One row per picture: what was seen, and the chunk the expert wanted from there on."""
    policy = policy_of(cfg)
    length = [len(demo.looked) for demo in demos]
    tokens = {demo.instruction: tokenize_instruction(policy, demo.instruction) for demo in demos}
    chunks = [
        action_chunks(demo, chunk_size=policy.chunk_size).actions[demo.looked] for demo in demos
    ]
    observation = Observation(
        images={
            key: torch.from_numpy(np.concatenate([demo.images[key] for demo in demos]))
            for key in demos[0].images
        },
        state=torch.from_numpy(np.concatenate([demo.states[demo.looked] for demo in demos])),
        input_ids=torch.cat(
            [tokens[demo.instruction].expand(n, -1) for demo, n in zip(demos, length, strict=True)]
        ),
        domain_id=torch.full((sum(length),), domain_id_of(policy)),
    )
    return DemoSet(observation=observation, actions=torch.from_numpy(np.concatenate(chunks)))


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
            image_keys=real_cameras(policy_of(cfg)),
            task_id=task_id,
            speed=settings.speed,
            noise=settings.noise,
            picture_every=settings.picture_every,
            split_file=cfg.runtime.split_file if env.type == "libero" else None,
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
    policy: XVLAFlowPolicy, demos: DemoSet, settings: WarmStart, *, seed: int
) -> list[float]:
    """Train every parameter on LeRobot's X-VLA loss, in place; the loss of every step.

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
        # X-VLA draws flow times, noise and dropout from the global generator.
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
        policy.eval_mode()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name not in frozen)
            parameter.grad = None
    return losses


def _step(
    policy: XVLAFlowPolicy,
    demos: DemoSet,
    rows: Int64[Tensor, " M"],
    optimizer: torch.optim.Optimizer,
    *,
    clip: float,
) -> float:
    batch = policy.stock_batch(demos.observation.index(rows))
    batch[ACTION] = demos.actions[rows].to(policy.device)
    loss, _ = policy.module.forward(batch)
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
    demos = demo_set(gather_demos(cfg, settings, seed=seed), cfg=cfg)
    logger.info("%d demonstration frames", len(demos))
    policy = build_policy(
        policy_of(cfg), executed_dims=cfg.pirl.executed_dims, device="cpu", seed=seed
    )
    losses = train_supervised(policy, demos, settings, seed=seed)
    with writing(folder):
        target = save_pretrained(
            policy, folder / "pretrained_model", for_libero=env_of(cfg).type == "libero"
        )
    record = {"seed": seed, "frames": len(demos), "loss": losses[-20:], **asdict(settings)}
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")
    return target
