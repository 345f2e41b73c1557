"""Whole runs for tests and `benchmarks/chaos.py`: real learner and actor processes, a toy simulator.

The processes are forked from one that has imported everything; only the simulator is a toy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from toy_actor import HOLD_VARIABLE, LIE_VARIABLE, PACE_VARIABLE

from pirl.checkpoint.locate import newest_step, step_folders
from pirl.checkpoint.manifest import MANIFEST_NAME
from pirl.gate import forked
from pirl.journal.metric_log import read_metrics
from pirl.journal.metrics import METRICS
from pirl.runtime.launch import free_port
from pirl.runtime.layout import RunFolder
from pirl.runtime.seat import role_of, seats_here

REPO = Path(__file__).resolve().parents[2]
CONFIG = "configs/train_config_pirl_embedded.json"
DEADLINE_S = 400.0
UPDATES = 4
SETTINGS = {
    "runtime.rollout_chunks": "8",
    "pirl.global_batch": "8",
    "runtime.envs_per_actor": "1",
    "runtime.total_updates": f"{UPDATES}",
    "runtime.heartbeat_s": "0.5",
    "runtime.reconnect_s": f"{DEADLINE_S:g}",
}


def overrides(**changes: str) -> tuple[str, ...]:
    """The settings of every run here; `runtime_mode="async"` changes `runtime.mode`."""
    changed = {name.replace("_", ".", 1): value for name, value in changes.items()}
    return tuple(f"--{name}={value}" for name, value in (SETTINGS | changed).items())


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.02)


@dataclass
class Run:
    """The processes of one run and its folder."""

    root: Path
    overrides: tuple[str, ...]
    port: int = field(default_factory=lambda: free_port("127.0.0.1"))
    processes: forked.ForkedGroup = field(default_factory=forked.ForkedGroup)
    _meetings: int = 0

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.root / "run")

    @property
    def hold(self) -> Path:
        """While this file exists the simulators stand still, and with them the run."""
        return self.root / "hold"

    def start(
        self,
        module: str,
        *argv: str,
        pace_s: float = 0.0,
        log: str = "log",
        lies: str = "",
        seat: Mapping[str, str] = MappingProxyType({}),
    ) -> Any:
        env = {
            **seat,
            PACE_VARIABLE: str(pace_s),
            LIE_VARIABLE: lies,
            HOLD_VARIABLE: str(self.hold),
        }
        return self.processes.start(module, argv, env=env, log_path=self.root / f"{log}.log")

    def learner(self, *, resume: bool = False, module: str = "pirl.learner", **options: Any) -> Any:
        """`options` of `start`; a resumed run has more arguments in `argv`."""
        argv = options.pop("argv", ())
        if resume:
            # `last` does not exist yet when the learner was killed right after its first checkpoint.
            step = newest_step(self.folder.root / "checkpoints") / "pretrained_model"
            source = ["--config_path", str(step / "train_config.json"), "--resume=true"]
        else:
            source = ["--config_path", CONFIG, *self.overrides]
        return self.start(module, *source, *argv, *self._here(), **{"log": "learner", **options})

    def learners(self, count: int, **options: Any) -> list[Any]:
        """The processes of one learner, the first one first; `options` of `learner`."""
        self._meetings += 1
        folder = self.root / f"meeting-{self._meetings}"
        folder.mkdir()
        return [
            self.learner(seat=seat, log=role_of(rank), **options)
            for rank, seat in enumerate(seats_here(count, folder))
        ]

    def actor(
        self,
        rank: int,
        *,
        pace_s: float = 0.0,
        log: str | None = None,
        lies: str = "",
        port: int | None = None,
    ) -> Any:
        """`port`: of a proxy before the learner."""
        here = self._here(port)
        argv = ["--config_path", CONFIG, *self.overrides, *here, "--rank", str(rank)]
        log = log or f"actor-{rank}"
        return self.start("toy_actor", *argv, pace_s=pace_s, log=log, lies=lies)

    def _here(self, port: int | None = None) -> list[str]:
        return [f"--output_dir={self.folder.root}", f"--runtime.port={port or self.port}"]

    def expect_end(self, *processes: Any) -> None:
        """Each ends with exit code 0; otherwise its log is shown."""
        codes = [forked.wait(process, DEADLINE_S) for process in processes]
        assert codes == [0] * len(codes), self.logs()

    def logs(self) -> str:
        return "\n".join(f"== {p.name}\n{p.read_text()[-3000:]}" for p in self.root.glob("*.log"))

    def has_checkpoint(self, step: int) -> bool:
        found = step_folders(self.folder.root / "checkpoints").get(step)
        return found is not None and (found / MANIFEST_NAME).is_file()

    def record(self) -> dict[str, Any]:
        return json.loads(self.folder.run_record.read_text())

    def actor_record(self, rank: int) -> dict[str, Any]:
        return json.loads(self.folder.actor_record(rank).read_text())

    def exact_metrics(self) -> list[dict[str, float]]:
        return [
            {
                name: value
                for name, value in row.metrics.items()
                # Only the baseline met wrong peers.
                if METRICS[name].is_deterministic and name != "counters/rejected_peers"
            }
            for row in read_metrics(self.folder.learner_metrics)
        ]


@contextmanager
def a_run(root: Path, **changes: str) -> Iterator[Run]:
    root.mkdir(exist_ok=True)
    run = Run(root, overrides(**changes))
    with run.processes:
        yield run


def books_close(counters: dict[str, int]) -> bool:
    return counters["received"] == counters["consumed"] + counters["dropped"]
