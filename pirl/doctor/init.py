"""`pirl init`: a train config for a checkpoint, an environment and this machine, with a comment at each choice.

Owns the command and its refusals. Reads `config.json` and the header of the weights, no weights. What it writes
has passed `pirl validate`. Read `pirl.doctor.template` and `pirl.doctor.sizes` next.
"""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import draccus

from pirl import doors
from pirl.config.check import check_config
from pirl.config.command_line import parse
from pirl.config.hub_cache import stored
from pirl.config.kinds import EnvTemplate, env_facts, policy_facts
from pirl.config.lerobot_fields import PreTrainedConfig
from pirl.config.policy_path import CONFIG_NAME, resolve_policy_path
from pirl.config.weights_header import WEIGHTS_FILE, TensorHeader, read_header
from pirl.doctor.arguments import init_parser
from pirl.doctor.gpu import gpu_name
from pirl.doctor.sizes import Machine, Sizes, fit
from pirl.doctor.template import config_text, picture
from pirl.errors import ConfigError, FieldError
from pirl.files import write_text
from pirl.resources import folder_or_id, locate

_PLACES = ("", "pretrained_model", "checkpoints/last/pretrained_model")
"""Where a policy lies in its own folder, in a step of a run and in a run of `lerobot-train`."""


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl init`."""
    args, _ = parse(init_parser(), argv)
    source = find_policy(args.checkpoint)
    out: Path = args.out or Path(f"pirl_{args.task.replace('/', '_')}.yaml")
    _require_new(out)
    policy, tensors = _read(source)
    env = env_facts(args.env).template(
        cameras=policy_facts(policy.type).cameras(policy), picture=picture(policy)
    )
    sizes = _sizes(policy, tensors, env, gpu=args.gpu)
    command = shlex.join(["pirl", "init", *argv])
    text = config_text(
        source,
        policy,
        sizes=sizes,
        env=env,
        env_type=args.env,
        task=args.task,
        gpu=args.gpu,
        made_by=command,
    )
    _require_valid(text, env)
    write_text(out, text)
    sys.stdout.write(_answer(out, sizes))
    for note in [*_notes(sizes, gpu=args.gpu), *env.notes]:
        sys.stderr.write(f"note: {note}\n")
    return 0


def find_policy(given: str) -> str:
    """The folder of the policy that `given` means, or `given` where that is no folder (a hub repository)."""
    for place in _PLACES:
        if (locate(given) / place / CONFIG_NAME).is_file():
            return (Path(given) / place).as_posix()
    return given


def _read(source: str) -> tuple[Any, Mapping[str, TensorHeader]]:
    """Config of the checkpoint, and what its weights file holds where it is on this machine.

    Raises:
        ConfigError: there is none, or it is of a policy that the recipe does not train.
        CheckpointError: a file of it is damaged.
        EnvironmentNotReadyError: it is on the hub, and that cannot be reached.
    """
    tree = resolve_policy_path({"path": source})
    if not doors.is_installed(doors.POLICIES, tree["type"]):
        raise _wrong(
            "--from",
            f"{source} ({tree['type']})",
            f"a policy that the recipe trains: {', '.join(doors.installed(doors.POLICIES))}",
            f"give a checkpoint of such a policy, or install a distribution that offers {tree['type']}",
        )
    policy: Any = draccus.decode(PreTrainedConfig, tree)
    start = folder_or_id(policy.pretrained_path)
    file = stored(start, WEIGHTS_FILE, revision=policy.pretrained_revision)
    return policy, {} if file is None else read_header(file)


def _sizes(
    policy: Any, tensors: Mapping[str, TensorHeader], env: EnvTemplate, *, gpu: bool
) -> Sizes:
    return fit(
        Machine.here(),
        values=sum(math.prod(tensor.shape) for tensor in tensors.values()),
        simulator_gib=env.simulator_gib,
        decisions_per_episode=max(1, -(-env.control_steps // policy.n_action_steps)),
        gpu=gpu,
    )


def _require_valid(text: str, env: EnvTemplate) -> None:
    """Refuse before anything is written: what is wrong lies in checkpoint and task, not in a file to mend."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            check_config(file)
        except ConfigError as error:
            # What the template says of `pirl` is of the policies that fit it: with another one it is wrong too.
            ours = {f"pirl.{name}" for name, *_ in env.pirl}
            theirs = [e for e in error.errors if e.field not in ours] or error.errors
            raise ConfigError(theirs, source="checkpoint and task") from error


def _require_new(out: Path) -> None:
    if out.suffix not in (".yaml", ".yml"):
        raise _wrong("--out", str(out), "a name that ends in .yaml", f"--out {out.stem}.yaml")
    if out.exists():
        raise _wrong("--out", str(out), "a new file", "choose another name, or move that one away")


def _answer(out: Path, sizes: Sizes) -> str:
    file, run = shlex.quote(str(out)), shlex.quote(f"outputs/train/{out.stem}")
    return (
        f"wrote {out}: {sizes.envs_per_actor} environments in {sizes.env_workers} workers,"
        f" {sizes.rollout_chunks} decisions per update, about {sizes.needed_gib:.1f} GiB of memory\n"
        "next:\n"
        f"  pirl validate --config_path {file}\n"
        f"  pirl launch --config_path {file} --output_dir={run}\n"
        f"  pirl eval --policy_path {run}/checkpoints/last/pretrained_model --out results/{out.stem}\n"
    )


def _notes(sizes: Sizes, *, gpu: bool) -> list[str]:
    notes: list[str] = []
    if gpu and gpu_name() is None:
        notes.append(
            "torch would find no CUDA device here; the config is for a machine that has one"
        )
    free = Machine.here().memory_gib
    if sizes.needed_gib > free:
        notes.append(f"{free:.1f} GiB of memory are free here; the run needs more")
    return notes


def _wrong(field: str, value: object, expected: str, fix: str) -> ConfigError:
    error = FieldError(field=field, value=value, expected=expected, fix=fix)
    return ConfigError([error], source="command line")
