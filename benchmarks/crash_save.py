"""Kill a process that saves checkpoints, at random moments and at each call; see what it left.

    python benchmarks/crash_save.py --kills 100 --stock-kills 100 --out crash_save.json

A random trial forks a process that saves one checkpoint of a tiny X-VLA after another, with other
weights each time, and sends it SIGKILL at a moment drawn uniformly over one and a half saves. A
trial at a call lets the process kill itself just before the n-th call that changes names or flushes
a file. Then `last` must point at a complete step, every step folder must agree with its manifest,
no earlier step may be gone, and the newest one must load with its recorded digests.
`--stock-kills` does the random trials to LeRobot's `save_checkpoint` and `update_last_checkpoint`,
for comparison. SIGKILL shows what the order of writes is worth; losing power also needs the
flushes, whose order the unit tests show. Exit code 1 when a pirl trial fails.
"""

from __future__ import annotations

import os

# Before torch: the trials fork, and a process with a thread pool must not.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import argparse
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lerobot.common.train_utils import (
    get_step_checkpoint_dir,
    load_training_state,
    update_last_checkpoint,
)
from lerobot.common.train_utils import (
    save_checkpoint as save_stock_checkpoint,
)
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy

from pirl.algorithm.pi_rl import PiRLAlgorithm, PiRLAlgorithmConfig
from pirl.checkpoint import (
    RunState,
    load_checkpoint,
    newest_step,
    save_checkpoint,
    verify_manifest,
)
from pirl.checkpoint.locate import step_folders
from pirl.config.recipe import FlowNoiseConfig, PiRLConfig, RuntimeConfig
from pirl.config.train import PiRLMetaWorldEnvConfig, PiRLTrainConfig
from pirl.errors import PirlError
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.policy import XVLAFlowPolicy
from pirl.policies.xvla.tiny import tiny_metaworld_config

CALLS = ("mkdir", "rename", "replace", "symlink", "unlink", "fsync")
"""Functions of `os` before which a process may be killed."""

KEPT_STEPS = 3
"""Older steps are removed by this script between trials, to bound its disk use."""


@dataclass(frozen=True)
class Run:
    cfg: PiRLTrainConfig
    policy: XVLAFlowPolicy
    algorithm: PiRLAlgorithm


@dataclass
class Outcome:
    kills: int = 0
    failures: list[str] = field(default_factory=list)
    caught_at: Counter[str] = field(default_factory=Counter)
    """What the killed process was doing, as its leftovers show."""
    saves_completed: int = 0


def build_run() -> Run:
    pirl = PiRLConfig(
        variant="flow-noise",
        flow_noise=FlowNoiseConfig(noise_head_hidden=(16,)),
        value_hidden=(64,),
    )
    cfg = PiRLTrainConfig(
        policy=tiny_metaworld_config(),
        env=PiRLMetaWorldEnvConfig(),
        recipe="pi-rl",
        pirl=pirl,
        runtime=RuntimeConfig(total_updates=10**6),
        seed=1,
    )
    policy = build_policy(cfg.policy, executed_dims=None, device="cpu", seed=1)
    settings = PiRLAlgorithmConfig(pirl=pirl, policy_config=cfg.policy, total_updates=10**6, seed=1)
    algorithm = PiRLAlgorithm(policy, settings)
    optimizer = algorithm.make_optimizers_and_scheduler()["pi_rl"]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return Run(cfg=cfg, policy=policy, algorithm=algorithm)


def change_weights(run: Run, step: int) -> None:
    """Other bytes at each step, so that a mixture of two steps cannot go unnoticed."""
    with torch.no_grad():
        for parameter in run.policy.trained_parameters().values():
            parameter.fill_(float(step))


def save_pirl(run: Run, run_dir: Path, step: int) -> None:
    save_checkpoint(
        run_dir,
        state=RunState(run_id="crash", step=step, policy_version=step, config_path="crash.json"),
        total_steps=10**6,
        cfg=run.cfg,
        flow_policy=run.policy,
        algorithm=run.algorithm,
    )


def save_stock(run: Run, run_dir: Path, step: int) -> None:
    step_dir = get_step_checkpoint_dir(run_dir, 10**6, step)
    save_stock_checkpoint(
        step_dir, step, run.cfg, run.policy.module, dict(run.algorithm.get_optimizers())
    )
    run.algorithm.save_pretrained(step_dir / "algorithm")
    update_last_checkpoint(step_dir)


def fork_saver(
    run: Run, run_dir: Path, save: Callable[[Run, Path, int], None], first: int
) -> tuple[int, int]:
    """Start a process that saves steps `first`, `first + 1`, ... for ever.

    Returns its id and a pipe that becomes readable when it is about to save.
    """
    readable, writable = os.pipe()
    pid = fork()
    if pid:
        os.close(writable)
        return pid, readable
    try:
        os.write(writable, b"x")
        step = first
        while True:
            change_weights(run, step)
            save(run, run_dir, step)
            step += 1
    except BaseException:
        logging.exception("the saving process failed by itself")
    finally:
        os._exit(1)


def calls_of(action: Callable[[], None], *, kill_before: int | None = None) -> int:
    """Run `action` and count its calls that change names or flush; optionally die before one."""
    originals = {name: getattr(os, name) for name in CALLS}
    count = 0

    def watched(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            if count == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return originals[name](*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, watched(name))
    try:
        action()
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
    return count


def kill_at_call(run: Run, run_dir: Path, *, step: int, call: int) -> str | None:
    """Returns a complaint when the process outlived the call."""
    pid = fork()
    if pid == 0:
        try:
            change_weights(run, step)
            calls_of(lambda: save_pirl(run, run_dir, step), kill_before=call)
        finally:
            os._exit(1)
    return complaint_of(pid)


def fork() -> int:
    with warnings.catch_warnings():
        # The threads are the tokenizer's, idle at this point; a child that hung would be counted.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def complaint_of(pid: int) -> str | None:
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return None if killed else f"the saving process ended by itself, status {status}"


def kill_while_saving(
    run: Run, run_dir: Path, save: Callable[[Run, Path, int], None], *, first: int, delay_s: float
) -> str | None:
    """Returns a complaint when the process ended before it was killed."""
    pid, readable = fork_saver(run, run_dir, save, first)
    os.read(readable, 1)
    os.close(readable)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    return complaint_of(pid)


def look_at_pirl(run: Run, run_dir: Path, before: int) -> tuple[list[str], str]:
    """Problems (none may be), and where the kill struck."""
    checkpoints = run_dir / "checkpoints"
    steps = step_folders(checkpoints)
    problems = [
        f"{folder.name}: {problem}"
        for folder in steps.values()
        for problem in verify_manifest(folder)
    ]
    problems += [f"step {before} is gone"] if before not in steps else []
    link = checkpoints / "last"
    if not link.exists() or verify_manifest(link.resolve()):
        problems.append("last is not a complete checkpoint")
    newest = newest_step(checkpoints)
    try:
        load_checkpoint(
            newest, cfg=run.cfg, flow_policy=run.policy, algorithm=run.algorithm, run_dir=None
        )
    except PirlError as error:
        problems.append(f"{newest.name} does not load: {error}")
    weight = next(iter(run.policy.trained_parameters().values()))
    if not torch.equal(weight, torch.full_like(weight, float(newest.name))):
        problems.append(f"{newest.name} holds the weights of another step")
    if any(path.name.startswith(".tmp-") for path in checkpoints.iterdir()):
        return problems, "while writing"
    if link.resolve().name != newest.name:
        return problems, "between rename and link"
    return problems, "between saves"


def look_at_stock(run: Run, run_dir: Path, before: int) -> tuple[list[str], str]:
    """The same questions, as far as LeRobot's layout can answer them."""
    checkpoints = run_dir / "checkpoints"
    steps = step_folders(checkpoints)
    problems: list[str] = []
    if not (checkpoints / "last").exists():
        problems.append("last does not exist or points nowhere")
    newest = max(steps)
    incomplete = is_incomplete(run, steps[newest])
    if incomplete:
        problems.append("a folder with a step's final name is incomplete")
    if before not in steps:
        problems.append("an earlier step is gone")
    return problems, "while writing" if incomplete else "between saves"


def is_incomplete(run: Run, step_dir: Path) -> bool:
    """Whether LeRobot cannot load a step folder; its layout has no other way to tell."""
    try:
        XVLAPolicy.from_pretrained(step_dir / "pretrained_model", strict=True)
        load_training_state(step_dir, dict(run.algorithm.get_optimizers()), None)
    except Exception:  # noqa: BLE001  (foreign code; whatever it raises is the answer)
        return True
    return not (step_dir / "algorithm" / "model.safetensors").is_file()


def prune(checkpoints: Path) -> int:
    """Remove old steps, never the one that `last` points at; returns the newest step's number."""
    steps = step_folders(checkpoints)
    linked = (checkpoints / "last").resolve()
    for step in sorted(steps)[:-KEPT_STEPS]:
        if steps[step].resolve() != linked:
            shutil.rmtree(steps[step])
    return max(steps)


def record(
    outcome: Outcome,
    run_dir: Path,
    newest: int,
    found: tuple[list[str], str],
    complaint: str | None,
) -> None:
    problems, where = found
    problems += [complaint] if complaint else []
    outcome.failures += [f"trial {outcome.kills}: {problem}" for problem in problems]
    outcome.caught_at[where] += 1
    outcome.saves_completed += max(step_folders(run_dir / "checkpoints")) - newest
    outcome.kills += 1


def random_trials(run: Run, *, kills: int, rng: random.Random) -> dict[str, object]:
    """Trials of pirl in one run folder: each starts from what the one before has left."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        save_s = first_saves(run, run_dir, save_pirl)
        for _ in range(kills):
            newest = prune(run_dir / "checkpoints")
            delay_s = rng.uniform(0.0, 1.5 * save_s)
            complaint = kill_while_saving(
                run, run_dir, save_pirl, first=newest + 1, delay_s=delay_s
            )
            record(outcome, run_dir, newest, look_at_pirl(run, run_dir, newest), complaint)
    return report(outcome) | {"seconds_per_save": round(save_s, 4)}


def stock_trials(run: Run, *, kills: int, rng: random.Random) -> dict[str, object]:
    """Trials of LeRobot, each in a run folder of its own: what one kill broke counts once."""
    outcome = Outcome()
    save_s = 0.0
    for _ in range(kills):
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder)
            save_s = first_saves(run, run_dir, save_stock)
            delay_s = rng.uniform(0.0, 1.5 * save_s)
            complaint = kill_while_saving(run, run_dir, save_stock, first=3, delay_s=delay_s)
            record(outcome, run_dir, 2, look_at_stock(run, run_dir, 2), complaint)
    return report(outcome) | {"seconds_per_save": round(save_s, 4)}


def call_trials(run: Run, *, every: int) -> dict[str, object]:
    """One trial per call of a save, or per `every`-th counted from the last."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder)
        first_saves(run, run_dir, save_pirl)
        change_weights(run, 3)
        total = calls_of(lambda: save_pirl(run, run_dir, 3))
        for call in range(total - 1, -1, -every):
            newest = prune(run_dir / "checkpoints")
            complaint = kill_at_call(run, run_dir, step=newest + 1, call=call)
            record(outcome, run_dir, newest, look_at_pirl(run, run_dir, newest), complaint)
    return report(outcome) | {"calls_per_save": total}


def first_saves(run: Run, run_dir: Path, save: Callable[[Run, Path, int], None]) -> float:
    """Two steps to lose; returns the seconds that the second one took."""
    change_weights(run, 1)
    save(run, run_dir, 1)
    change_weights(run, 2)
    started = time.perf_counter()
    save(run, run_dir, 2)
    return time.perf_counter() - started


def report(outcome: Outcome) -> dict[str, object]:
    trials = {text.split(":")[0] for text in outcome.failures}
    kinds = Counter(text.split(": ", 1)[1] for text in outcome.failures)
    return {
        "kills": outcome.kills,
        "trials_with_a_problem": len(trials),
        "problems": dict(kinds),
        "killed": dict(outcome.caught_at),
        "step_folders_added": outcome.saves_completed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=100, help="random trials of pirl")
    parser.add_argument(
        "--every-call", type=int, default=1, help="1: kill at each call, 0: at none"
    )
    parser.add_argument("--stock-kills", type=int, default=0, help="random trials of LeRobot")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    torch.set_num_threads(1)
    # Every trial is expected to leave something to warn of.
    logging.getLogger("pirl").setLevel(logging.ERROR)
    run = build_run()
    rng = random.Random(args.seed)
    result: dict[str, dict[str, object]] = {"pirl": random_trials(run, kills=args.kills, rng=rng)}
    if args.every_call:
        result["pirl_at_calls"] = call_trials(run, every=args.every_call)
    failed = any(part["trials_with_a_problem"] for part in result.values())
    if args.stock_kills:
        result["lerobot"] = stock_trials(run, kills=args.stock_kills, rng=rng)
    text = json.dumps({"seed": args.seed} | result, indent=2)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
