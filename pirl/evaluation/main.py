"""`pirl eval`: evaluate a saved policy, check a result folder, or compare two of them.

Owns the command line. Figures go to stdout, progress to stderr. Read `docs/evaluation.md` next.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

from pirl import doors
from pirl.config.command_line import parse
from pirl.config.jsonfile import TRAIN_CONFIG_NAME, follow_last
from pirl.config.load import LoadedConfig, load_config
from pirl.config.starting import lerobot_training_fix
from pirl.config.train import PiRLTrainConfig, env_of
from pirl.errors import ConfigError, EvidenceError, ExitCode, FieldError
from pirl.evaluation.arguments import eval_parser
from pirl.evaluation.checkpoint import Protocol, prepare, run
from pirl.evaluation.folder import INFO, append_record, create_folder, finish_folder, require_new
from pirl.evaluation.identity import describe
from pirl.evaluation.text import comparison_text, results_text
from pirl.evaluation.verify import compare_folders, verify_folder
from pirl.evaluation.videos import VideoKeeper
from pirl.ownership import owned
from pirl.records import EpisodeRecord
from pirl.runtime.lockstep import FinishedEpisode
from pirl.runtime.procs import interrupt_on_signals
from pirl.runtime.record import RunRecord


def main(argv: Sequence[str]) -> int:
    """Command line of `pirl eval`."""
    args, overrides = parse(eval_parser(), argv)
    if args.verify is not None or args.compare is not None:
        if overrides or args.policy_path is not None:
            raise _usage("--verify, --compare", "alone", "they read result folders and run nothing")
        for name in [args.verify] if args.verify is not None else args.compare:
            if not Path(name).is_dir():
                raise _usage("--verify, --compare", "result folders", f"{name} is not a folder")
        return _verify(args) if args.verify is not None else _compare(args)
    return _evaluate(args, overrides)


def _evaluate(args: argparse.Namespace, overrides: list[str]) -> int:
    if args.policy_path is None:
        raise _usage("--policy_path", "a pretrained_model folder or a hub id", "pass it")
    ignored = [
        token
        for token in overrides
        if token.startswith("--policy.") and not token.partition("=")[0].endswith(doors.DISCOVER)
    ]
    if ignored:
        raise _usage(
            ignored[0],
            "no policy setting: K and n_action_steps are those of the checkpoint's config.json",
            "remove it; the device is --device",
        )
    interrupt_on_signals()
    loaded = load_config(_config_path(args), overrides)
    fix = lerobot_training_fix(loaded.source_path) if loaded.cfg.recipe is None else None
    if fix is not None:
        raise _usage("--config_path", "a config with recipe=pi-rl", fix)
    cfg = loaded.cfg if args.suites is None else _with_suites(loaded, args.suites)
    protocol = Protocol(
        episodes_per_task=args.episodes_per_task,
        seed=args.seed,
        split=args.split,
        num_envs=args.num_envs or cfg.runtime.envs_per_actor,
        num_workers=cfg.runtime.env_workers if args.num_workers is None else args.num_workers,
        record_frames=args.videos > 0,
    )
    device = args.device or cfg.runtime.actor_device
    policy_path = follow_last(Path(args.policy_path))
    root = Path(args.out) if args.out is not None else _default_folder()
    with owned(root, field="--out"):
        require_new(root)
        evaluation = prepare(policy_path, cfg, protocol=protocol, device=device)
        tasks = {plan.task_id for plan in evaluation.plans}
        videos = (args.videos + 1) * len(tasks) if protocol.record_frames else 0
        create_folder(root, evaluation.plans, videos=videos)
        keeper = VideoKeeper(root=root, plans=evaluation.plans, per_task=args.videos)
        with RunRecord(root / "run.json", role="eval") as record:
            record.facts |= {"episodes": 0, "planned": len(evaluation.plans)}

            def on_episode(episode: FinishedEpisode) -> None:
                append_record(root, episode.record)
                record.facts["episodes"] += 1
                if protocol.record_frames:
                    keeper.see(episode)

            crashes: dict[int, str] = {}

            def on_crash(episode: EpisodeRecord, reason: str) -> None:
                append_record(root, episode, crash=reason)
                crashes[episode.episode_id] = reason
                record.facts["episodes"] += 1
                sys.stderr.write(f"crashed: {reason}\n")

            started = time.monotonic()
            records = run(evaluation, on_episode=on_episode, on_crash=on_crash)
            info = finish_folder(
                root,
                plans=evaluation.plans,
                records=records,
                identity=describe(evaluation, policy_path=policy_path, config=loaded.identity),
                videos=keeper.finish(),
                crashes=crashes,
                seconds=time.monotonic() - started,
            )
            record.write("finished", complete=True)
    sys.stderr.write(f"records in {root}\n")
    _print(info if args.json else results_text(info))
    return int(ExitCode.OK)


def _verify(args: argparse.Namespace) -> int:
    folder = verify_folder(Path(args.verify))
    try:
        text = "every figure follows from the episode records\n\n" + results_text(folder.info)
    except (KeyError, TypeError) as error:
        raise EvidenceError(f"{INFO}: the identity is malformed ({error!r})") from error
    _print(dict(folder.info) if args.json else text)
    return int(ExitCode.OK)


def _compare(args: argparse.Namespace) -> int:
    comparison = compare_folders(Path(args.compare[0]), Path(args.compare[1]))
    _print(comparison.to_json() if args.json else comparison_text(comparison))
    return int(ExitCode.OK)


def _with_suites(loaded: LoadedConfig, suites: str) -> PiRLTrainConfig:
    """The config with several LIBERO suites in place of its one; `prepare` judges each."""
    cfg = deepcopy(loaded.cfg)
    if env_of(cfg).type != "libero":
        raise _usage("--suites", "env.type=libero", "set env.task and env.tasks instead")
    env_of(cfg).task = suites
    return cfg


def _config_path(args: argparse.Namespace) -> Path:
    if args.config_path is not None:
        return Path(args.config_path)
    folder = follow_last(Path(args.policy_path))
    beside = folder / TRAIN_CONFIG_NAME
    if not folder.is_dir():
        raise _usage(
            "--policy_path",
            "an existing folder; a hub repository has no environment beside it",
            "check the path, or pass --config_path too, for instance"
            " configs/train_config_pirl_xvla_libero.json",
            value=args.policy_path,
        )
    if not beside.is_file():
        raise _usage(
            "--config_path",
            f"a config; there is no {TRAIN_CONFIG_NAME} beside the weights",
            "pass --config_path configs/train_config_pirl_xvla_libero.json, or your own",
        )
    return beside


def _default_folder() -> Path:
    return Path("outputs/eval") / datetime.now().astimezone().strftime("%Y-%m-%d/%H-%M-%S")


def _print(answer: dict[str, Any] | str) -> None:
    text = (
        answer if isinstance(answer, str) else json.dumps(answer, indent=1, sort_keys=True) + "\n"
    )
    sys.stdout.write(text)


def _usage(field: str, expected: str, fix: str, *, value: object = None) -> ConfigError:
    error = FieldError(field=field, value=value, expected=expected, fix=fix)
    return ConfigError([error], source="pirl eval")
