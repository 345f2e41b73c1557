"""The one preflight summary of a valid config, for people.

Owns the lines and their order. Shows no secret and no absolute path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pirl.config.installed import lerobot_note
from pirl.config.kinds import policy_facts
from pirl.config.starting import lerobot_training_fix

if TYPE_CHECKING:
    from pirl.config.identity import ConfigIdentity


class Valid(Protocol):
    """A `CheckedConfig` or a `LoadedConfig`."""

    @property
    def cfg(self) -> Any: ...

    @property
    def identity(self) -> ConfigIdentity: ...

    @property
    def source_path(self) -> Path: ...


def preflight_summary(loaded: Valid) -> str:
    """Recipe, policy, variant, config, environment, seed, chunk shape, mode and sizes; one per
    line.
    """
    cfg, runtime, pirl = loaded.cfg, loaded.cfg.runtime, loaded.cfg.pirl
    if cfg.recipe is None:
        fix = lerobot_training_fix(loaded.source_path)
        recipe = "none: LeRobot's own SAC path" if fix is None else f"none: {fix}"
        lines = [("recipe", recipe), ("config path", loaded.identity.path)]
        return _format([*lines, ("config hash", loaded.identity.hash)])
    lines = [
        ("recipe", cfg.recipe),
        ("variant", str(pirl.variant)),
        ("policy", _policy(loaded)),
        ("config path", loaded.identity.path),
        ("config hash", loaded.identity.hash),
        ("environment", _environment(loaded)),
        ("seed", str(cfg.seed)),
        ("sampler", _sampler(loaded)),
        ("precision", _precision(cfg)),
        (
            "runtime",
            f"{runtime.mode}, {_learners(cfg)}{_count(runtime.actors, 'actor')}, {_envs(loaded)}",
        ),
        ("updates", f"{runtime.total_updates} of {runtime.rollout_chunks} decisions each"),
        (
            "batches",
            f"{pirl.global_batch} decisions per optimiser step in pieces of {pirl.micro_batch}, "
            f"{_count(pirl.update_epochs, 'epoch')}",
        ),
    ]
    if pirl.bc_weight > 0 and cfg.dataset is not None:
        end = ", falling to 0" if pirl.bc_schedule == "linear" else ""
        lines.append(("imitation", f"{cfg.dataset.repo_id}, weight {pirl.bc_weight:g}{end}"))
    if cfg.policy is not None and cfg.policy.pretrained_path is not None:
        table = policy_facts(cfg.policy.type).start_table(cfg.policy)
        lines += [(f"start: {name}", text) for name, text in table.items()]
    note = lerobot_note()
    return _format(lines if note is None else [*lines, ("lerobot", note)])


def _format(lines: list[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def _policy(loaded: Valid) -> str:
    policy = loaded.cfg.policy
    if policy is None:
        return "none"
    start = policy.pretrained_path
    if start is None:
        weights = "random weights from the seed"
    else:
        weights = f"weights of {Path(start).name if Path(start).is_absolute() else start}"
    return f"{policy.type} ({getattr(policy, 'action_mode', '?')}), {weights}"


def _environment(loaded: Valid) -> str:
    env = loaded.cfg.env
    if env is None:
        return "none"
    ids = getattr(env, "task_ids", None)
    tasks = getattr(env, "tasks", None)
    chosen = f", task ids {ids}" if ids is not None else ""
    named = ", ".join(tasks) if tasks else str(env.task)
    return f"{env.type}: {named}{chosen}; split {loaded.cfg.runtime.split}"


def _sampler(loaded: Valid) -> str:
    policy = loaded.cfg.policy
    steps = getattr(policy, "num_denoising_steps", "?")
    executed, chunk = getattr(policy, "n_action_steps", "?"), getattr(policy, "chunk_size", "?")
    return f"K = {steps} denoising steps, E = {executed} of C = {chunk} rows executed"


def _precision(cfg: Any) -> str:
    actors = cfg.runtime.actor_devices or (cfg.runtime.actor_device,)
    devices = {cfg.runtime.learner_device, *actors}
    is_idle = cfg.pirl.precision == "tf32" and "cpu" in devices
    return f"{cfg.pirl.precision}, without effect on a CPU" if is_idle else str(cfg.pirl.precision)


def _envs(loaded: Valid) -> str:
    runtime = loaded.cfg.runtime
    envs = _count(runtime.envs_per_actor, "environment")
    turns = ", two groups by turns" if runtime.pipeline == 2 else ""
    return f"{envs} per actor in {_count(runtime.env_workers, 'worker')}{turns}"


def _learners(cfg: Any) -> str:
    processes = cfg.parallelism.dp_replicate
    return "" if processes == 1 else f"{processes} learner processes, "


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
