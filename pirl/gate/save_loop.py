"""A process that saves checkpoints until it is killed: `python -m pirl.gate.save_loop SOURCE RUN_DIR`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pirl.checkpoint.load import load_checkpoint
from pirl.checkpoint.save import save_checkpoint
from pirl.config.load import load_config
from pirl.guard import run_guarded
from pirl.runtime.session import build_session

_MAX_SAVES = 10_000


def main(argv: Sequence[str]) -> int:
    """Restore the first argument and save it again and again below the second, as later steps."""
    source, run_dir = map(Path, argv)
    loaded = load_config(source / "pretrained_model" / "train_config.json")
    session = build_session(loaded, device="cpu", run_id="save-loop")
    session.algorithm.make_optimizers_and_scheduler()
    state = load_checkpoint(
        source,
        cfg=loaded.cfg,
        flow_policy=session.policy,
        algorithm=session.algorithm,
        run_dir=None,
    )
    for step in range(1, _MAX_SAVES):
        save_checkpoint(
            run_dir,
            state=replace(state, step=step, policy_version=step),
            total_steps=_MAX_SAVES,
            cfg=loaded.cfg,
            flow_policy=session.policy,
            algorithm=session.algorithm,
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(main, sys.argv[1:]))
