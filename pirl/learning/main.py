"""`pirl bench learn` and `pirl demo`: prove that piRL improves a policy, with records that can be judged again.

Owns arguments, the printed answer and the exit code. Read `pirl.learning.proof` for the run itself.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pirl.config.command_line import parse
from pirl.config.load import load_config
from pirl.config.train import env_of
from pirl.errors import ConfigError, ExitCode, FieldError
from pirl.evaluation.folder import require_new
from pirl.journal.fields import mapping, read_object
from pirl.learning.arguments import (
    demos_parser,
    judge_parser,
    learn_parser,
    study_parser,
    warm_start_parser,
)
from pirl.learning.dataset import write_demos
from pirl.learning.judgement import judgement_record
from pirl.learning.proof import LearnFolder, load_run, run_learning
from pirl.learning.report import RECORD, conclude, judge_run, write_videos
from pirl.learning.settings import LearnSettings, read_settings, settings_from
from pirl.learning.study import run_study, table
from pirl.learning.track import track_learning
from pirl.learning.warm_start import gather_demos, warm_start
from pirl.ownership import clear, owned
from pirl.runtime.entry import configure_logging
from pirl.runtime.procs import interrupt_on_signals
from pirl.runtime.record import RunRecord


def learn_main(argv: Sequence[str]) -> int:
    """One learning run; exit code 0 only when every bound holds."""
    args, overrides = parse(learn_parser(), argv)
    configure_logging("learn")
    interrupt_on_signals()
    settings = read_settings(
        args.params,
        variant=args.variant,
        seed=args.seed,
        control=args.control,
        actors=args.actors,
        episodes=args.episodes,
        start_from=args.start_from,
        config=args.config,
        overrides=tuple(overrides) or None,
    )
    out = args.out or Path("runs") / time.strftime("learn-%Y%m%d-%H%M%S", time.gmtime())
    record = learn(settings, out, videos=args.videos, mlflow=not args.no_mlflow)
    sys.stdout.write((json.dumps(record, indent=1) if args.json else render(record, out)) + "\n")
    return int(ExitCode.OK if record["passed"] else ExitCode.CHECK_FAILED)


def learn(
    settings: LearnSettings, out: Path, *, videos: int, mlflow: bool, replace: bool = False
) -> dict[str, Any]:
    """Run, judge, report; the record that was written.

    Args:
        replace: remove what an earlier run left in `out`.

    Raises:
        ConfigError: another process owns `out`, or it is not empty.
    """
    folder = LearnFolder(root=out)
    with owned(out, field="--out"):
        if replace:
            clear(out)
        require_new(out)
        with (
            RunRecord(folder.record, role="bench learn") as own_record,
            track_learning(settings, enabled=mlflow) as conclude_tracked,
        ):
            run = run_learning(settings, folder=folder)
            record = conclude(settings, run)
            if videos > 0 and settings.control is None:
                write_videos(settings, run, count=videos)
            conclude_tracked(record, run)
            own_record.write("finished", complete=True)
    return record


def judge_main(argv: Sequence[str]) -> int:
    """Judge a finished run again from its episode records; exit code 1 when `learn.json` says otherwise."""
    args, _ = parse(judge_parser(), argv)
    if not (args.folder / RECORD).is_file():
        error = FieldError(
            field="folder",
            value=str(args.folder),
            expected=f"the folder of a finished learning run, with {RECORD}",
            fix="give the --out of `pirl bench learn`",
        )
        raise ConfigError([error], source="command line")
    written = read_object(args.folder / RECORD)
    settings = settings_from(dict(mapping(written, "settings")))
    run = load_run(LearnFolder(root=args.folder))
    judgement = judge_run(settings, run)
    again = judgement_record(judgement)
    different = [name for name, value in again.items() if written.get(name) != value]
    for name in different:
        sys.stdout.write(f"{name}: {written.get(name)} written, {again[name]} recomputed\n")
    sys.stdout.write(
        f"{'passed' if judgement.passed else 'failed'}, {len(different)} differences\n"
    )
    return int(ExitCode.OK if not different and judgement.passed else ExitCode.CHECK_FAILED)


def render(record: dict[str, Any], out: Path) -> str:
    """The record for a person: verdict first, then where to look."""
    control = f", control {record['control']}" if record["control"] else ""
    lines = [
        f"learning run, {record['variant']}{control}, seed {record['seed']}: "
        f"{'passed' if record['passed'] else 'failed'}",
        *(
            f"  {c['name']:<22} {c['measured']} ({c['bound']}): {'holds' if c['holds'] else 'FAILS'}"
            for c in record["criteria"]
        ),
        f"  report  {out.as_posix()}/report.md",
        f"  again   pirl bench judge {out.as_posix()}",
    ]
    return "\n".join(lines)


def warm_start_main(argv: Sequence[str]) -> int:
    """Make a starting policy and print its folder; what was asked for lies beside it."""
    args, overrides = parse(warm_start_parser(), argv)
    configure_logging("warm-start")
    interrupt_on_signals()
    settings = read_settings(
        args.params,
        variant=args.variant,
        seed=args.seed,
        config=args.config,
        overrides=tuple(overrides) or None,
    )
    with owned(args.out, field="--out"):
        require_new(args.out)
        loaded = load_config(settings.config_path, settings.all_overrides)
        made = warm_start(loaded.cfg, settings.warm_start, seed=settings.seed, folder=args.out)
    sys.stdout.write(f"{made.as_posix()}\n")
    return int(ExitCode.OK)


def demos_main(argv: Sequence[str]) -> int:
    """Write demonstrations and print their folder."""
    args, overrides = parse(demos_parser(), argv)
    configure_logging("demos")
    interrupt_on_signals()
    task = [] if args.task is None else task_overrides(args.task)
    settings = read_settings(
        args.params,
        variant=args.variant,
        seed=args.seed,
        config=args.config,
        overrides=(*task, *overrides) or None,
    )
    asked = settings.warm_start
    if args.episodes is not None:
        asked = replace(asked, demos_per_task=args.episodes)
    # A data set has a picture for every action.
    asked = replace(asked, picture_every=1)
    with owned(args.out, field="--out"):
        require_new(args.out)
        loaded = load_config(settings.config_path, settings.all_overrides)
        demos = gather_demos(loaded.cfg, asked, seed=settings.seed)
        # The folder exists by now, for its owner's mark; LeRobot wants to make its own.
        write_demos(demos, args.out / "dataset", fps=env_of(loaded.cfg).fps, asked=asdict(asked))
    sys.stdout.write(f"{(args.out / 'dataset').as_posix()}\n")
    return int(ExitCode.OK)


def task_overrides(task: str) -> list[str]:
    """`libero_goal:7`, or the name of a MetaWorld task, as overrides of a train config.

    Raises:
        ConfigError: the number is none.
    """
    suite, colon, number = task.partition(":")
    if not colon:
        return [f"--env.task={task}"]
    if not number.isdecimal():
        error = FieldError(
            field="--task",
            value=task,
            expected="a suite and the number of a task, such as libero_goal:7",
            fix="give the number",
        )
        raise ConfigError([error], source="command line")
    return [f"--env.task={suite}", f"--env.task_ids=[{number}]"]


def study_main(argv: Sequence[str]) -> int:
    """Run a study and print its table; each row says for itself whether it passed."""
    args, _ = parse(study_parser(), argv)
    configure_logging("study")
    interrupt_on_signals()
    out = args.out or Path("runs") / f"study-{args.name}"
    with owned(out, field="--out"), RunRecord(out / "run.json", role="bench study") as own_record:
        records = run_study(args.name, out, mlflow=not args.no_mlflow, path=args.params)
        own_record.write("finished", complete=True)
    sys.stdout.write(json.dumps(records, indent=1) + "\n" if args.json else table(records))
    return int(ExitCode.OK)
