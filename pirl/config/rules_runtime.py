"""Rules of the `runtime` section, and of LeRobot's own fields that mean nothing under the recipe.

Owns what processes, ports and deadlines demand of each other. Refuses to open a socket.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from pirl.config.recipe import RECIPE
from pirl.config.secret import (
    MAKE_TOKEN,
    TOKEN_FORM,
    TOKEN_VARIABLE,
    has_token_elsewhere,
    is_token,
)
from pirl.config.view import ABSENT, WRONG, View
from pirl.errors import FieldError

DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?|mps")

INERT_FIELDS: dict[str, tuple[object, str]] = {
    "algorithm": (None, "remove it: the algorithm comes from `pirl`"),
    "optimizer": (None, "remove it: set pirl.actor_lr, pirl.betas and their neighbours"),
    "scheduler": (None, "remove it: set pirl.lr_schedule"),
    "mixer": ("online_offline", "remove it: piRL is on-policy"),
    "online_ratio": (0.5, "remove it: piRL is on-policy"),
    "peft": (None, "remove it: pirl.train_scope says what trains"),
    "sample_weighting": (None, "remove it: pirl.loss_weighting weighs decisions"),
    "rename_map": ({}, "remove it: use env.camera_name_mapping"),
    "use_policy_training_preset": (True, "remove it: pirl has its own optimiser settings"),
    "batch_size": (8, "remove it: set pirl.global_batch and pirl.micro_batch"),
    "steps": (100_000, "remove it: set runtime.total_updates"),
    "save_freq": (20_000, "remove it: set runtime.checkpoint_every_updates"),
    "save_checkpoint": (True, "remove it: set runtime.checkpoint_every_updates"),
    "save_checkpoint_to_hub": (
        False,
        "remove it: `pirl push RUN --repo-id ORG/NAME` uploads a finished run",
    ),
    "env_eval_freq": (20_000, "remove it: run `pirl eval`"),
    "eval_steps": (0, "remove it: run `pirl eval`"),
    "policy.push_to_hub": (
        False,
        "set policy.push_to_hub=false; `pirl push RUN --repo-id ORG/NAME` uploads a finished run",
    ),
    "policy.use_peft": (False, "set policy.use_peft=false: pirl.train_scope says what trains"),
    "job.target": (None, "remove it: pirl runs on this machine"),
}
"""LeRobot fields that piRL does not read, with their defaults: another value would be ignored in
silence.
"""


def check_batch_of_envs(view: View) -> Iterator[FieldError]:
    """Workers share the environments of an actor evenly; each actor has something to send."""
    envs, workers = view.integer("runtime.envs_per_actor"), view.integer("runtime.env_workers")
    actors, chunks = view.integer("runtime.actors"), view.integer("runtime.rollout_chunks")
    if envs is not None and workers is not None and envs > 0 and workers > 0 and envs % workers:
        fitting = next(w for w in range(min(workers, envs), 0, -1) if envs % w == 0)
        yield FieldError(
            field="runtime.env_workers",
            value=workers,
            expected=f"a divisor of runtime.envs_per_actor ({envs})",
            fix=f"set runtime.env_workers={fitting}",
        )
    if actors is not None and chunks is not None and 0 < chunks < actors:
        yield FieldError(
            field="runtime.rollout_chunks",
            value=chunks,
            expected=f"at least runtime.actors ({actors}): every actor contributes to a rollout",
            fix=f"set runtime.rollout_chunks={actors} or more",
        )


def check_pipeline(view: View) -> Iterator[FieldError]:
    """Each group has as many environments as the other, and more than one.

    The last bits of a row that is decided alone differ from those of the same row in a batch.
    """
    groups, envs = view.integer("runtime.pipeline"), view.integer("runtime.envs_per_actor")
    if groups == 2 and envs is not None and envs > 0 and (envs % 2 or envs < 4):
        yield FieldError(
            field="runtime.pipeline",
            value=groups,
            expected=f"1 with runtime.envs_per_actor={envs}: two groups are equally large and have two or more "
            "environments each",
            fix=f"set runtime.pipeline=1, or runtime.envs_per_actor={max(4, envs + envs % 2)}",
        )


def check_processes(view: View) -> Iterator[FieldError]:
    """What several learner processes share: the decisions of an update, and the GPUs of a machine."""
    processes, chunks = (
        view.integer("parallelism.dp_replicate"),
        view.integer("runtime.rollout_chunks"),
    )
    shards, device = view.integer("parallelism.dp_shard"), view.text("runtime.learner_device")
    if shards is not None and shards > 1:
        yield FieldError(
            field="parallelism.dp_shard",
            value=shards,
            expected="1: the part that trains fits one GPU (309 M parameters of X-VLA, 5 GB with gradients and "
            "AdamW), so nothing is sharded",
            fix=f"set parallelism.dp_shard=1 and parallelism.dp_replicate={shards}",
        )
    if processes is None or processes < 2:
        return
    if chunks is not None and 0 < chunks < processes:
        yield FieldError(
            field="runtime.rollout_chunks",
            value=chunks,
            expected=f"at least parallelism.dp_replicate ({processes}): each process has a decision",
            fix=f"set runtime.rollout_chunks={processes} or more",
        )
    if device is not None and device not in ("cpu", "cuda"):
        yield FieldError(
            field="runtime.learner_device",
            value=device,
            expected="cpu, or cuda without a number, with several learner processes: each takes the GPU of its "
            "own number",
            fix="set runtime.learner_device=cuda, and choose GPUs with CUDA_VISIBLE_DEVICES",
        )


def check_retention(view: View) -> Iterator[FieldError]:
    """What keeps some of the older checkpoints has a meaning only where others go."""
    every = view.integer("runtime.keep_checkpoints_every")
    if every and view.integer("runtime.keep_checkpoints") == 0:
        yield FieldError(
            field="runtime.keep_checkpoints_every",
            value=every,
            expected="0 with runtime.keep_checkpoints=0, which keeps all checkpoints",
            fix="set runtime.keep_checkpoints=2 or more, or remove runtime.keep_checkpoints_every",
        )


def check_groups(view: View) -> Iterator[FieldError]:
    """A GRPO group is neighbouring slots of one actor that start together, and arrives whole.

    A group that is cut in two is dropped from the loss, every update anew (`algorithm.md` 11).
    """
    size, envs = view.integer("pirl.group_size"), view.integer("runtime.envs_per_actor")
    if view.text("pirl.adv_type") != "grpo" or size is None or size < 2:
        return
    if envs is not None and envs > 0 and envs % size:
        fitting = next((g for g in range(min(size, envs), 1, -1) if envs % g == 0), None)
        other = f", or pirl.group_size={fitting}" if fitting else ""
        yield FieldError(
            field="runtime.envs_per_actor",
            value=envs,
            expected=f"a multiple of pirl.group_size ({size}): an actor runs whole groups",
            fix=f"set runtime.envs_per_actor={-(-envs // size) * size}{other}",
        )
    if view.text("runtime.mode") == "async":
        yield FieldError(
            field="runtime.mode",
            value="async",
            expected="sync with adv_type=grpo: async takes episodes as they come and splits groups",
            fix="set runtime.mode=sync, or pirl.adv_type=gae",
        )


def check_address(view: View) -> Iterator[FieldError]:
    """Anything but loopback needs a token and TLS; certificate files come in sets."""
    host, token = view.text("runtime.host"), view.get("runtime.token")
    if host is not None and (not host.strip() or host != host.strip()):
        yield FieldError(
            field="runtime.host",
            value=host,
            expected="a host name or an IP address",
            fix="set runtime.host=127.0.0.1",
        )
    elif host is not None and not is_loopback(host):
        is_known = token not in (None, ABSENT) or has_token_elsewhere(
            view.text("runtime.token_file")
        )
        if not is_known:
            yield FieldError(
                field="runtime.host",
                value=host,
                expected="a loopback address, unless there is a token",
                fix=f"set {TOKEN_VARIABLE} or runtime.token_file for learner and actors, or use 127.0.0.1",
            )
        elif view.text("runtime.tls_cert") is None and view.flag("runtime.insecure") is not True:
            yield FieldError(
                field="runtime.host",
                value=host,
                expected="a loopback address, unless the link is encrypted",
                fix="set runtime.tls_cert (and runtime.tls_key on the learner), or accept that token "
                "and decisions can be read on the way with runtime.insecure=true",
            )
    if isinstance(token, str) and not is_token(token):
        yield FieldError(
            field="runtime.token",
            value="(hidden)",
            expected=TOKEN_FORM,
            fix=f"make one with: {MAKE_TOKEN}",
        )
    key = view.text("runtime.tls_key")
    if key is not None and view.text("runtime.tls_cert") is None:
        yield FieldError(
            field="runtime.tls_key",
            value=key,
            expected="a certificate beside it",
            fix="set runtime.tls_cert, or remove runtime.tls_key",
        )


def check_devices(view: View) -> Iterator[FieldError]:
    """Device names are ones torch knows."""
    for name in ("runtime.learner_device", "runtime.actor_device"):
        device = view.text(name)
        if device is not None and not DEVICE.fullmatch(device):
            yield FieldError(
                field=name,
                value=device,
                expected="cpu, cuda, cuda:N or mps",
                fix=f"set {name}=cpu",
            )
    listed = view.items("runtime.actor_devices")
    if listed is not None and not (listed and all(DEVICE.fullmatch(str(d)) for d in listed)):
        yield FieldError(
            field="runtime.actor_devices",
            value=listed,
            expected="one or more of cpu, cuda, cuda:N and mps, or null",
            fix="set runtime.actor_devices=[cuda:0,cuda:1], or leave it out",
        )


def check_deadlines(view: View) -> Iterator[FieldError]:
    """A heartbeat comes more often than an actor is given up."""
    beat, limit = view.number("runtime.heartbeat_s"), view.number("runtime.actor_timeout_s")
    if beat is not None and limit is not None and beat >= limit > 0:
        yield FieldError(
            field="runtime.heartbeat_s",
            value=beat,
            expected=f"less than runtime.actor_timeout_s ({limit})",
            fix=f"set runtime.heartbeat_s={limit / 4:g}",
        )


def check_seed(view: View) -> Iterator[FieldError]:
    """Every draw is a function of the seed, so there is one."""
    seed = view.get("seed")
    number = view.integer("seed")
    if seed is None or (number is not None and not 0 <= number < 2**31):
        yield FieldError(
            field="seed", value=seed, expected="0 <= seed < 2**31", fix="set seed=1000"
        )


def check_eval(view: View) -> Iterator[FieldError]:
    """LeRobot turns `eval.batch_size=0` into a function of this machine's cores: no shared
    identity.
    """
    if view.integer("eval.batch_size") == 0:
        yield FieldError(
            field="eval.batch_size",
            value=0,
            expected="a number: 0 takes the core count, and the config hash would differ",
            fix="set eval.batch_size=1",
        )


def check_inert(view: View) -> Iterator[FieldError]:
    """LeRobot fields that piRL does not read still hold their defaults."""
    for name, (default, fix) in INERT_FIELDS.items():
        value = view.get(name)
        if value is ABSENT or value is WRONG or value == default:
            continue
        yield FieldError(
            field=name,
            value=value,
            expected=f"{default!r}: recipe {RECIPE} does not read {name}",
            fix=fix,
        )


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


RUNTIME_RULES = (
    check_batch_of_envs,
    check_pipeline,
    check_processes,
    check_retention,
    check_groups,
    check_address,
    check_devices,
    check_deadlines,
    check_seed,
    check_eval,
    check_inert,
)
