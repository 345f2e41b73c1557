"""A run folder has one owner and loses nothing: second starts, copies, stops, torn files; real processes."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_run import CONFIG, DEADLINE_S, UPDATES, Run, a_run, wait_for

from pirl.errors import ExitCode
from pirl.gate import forked
from pirl.journal.metric_log import read_json_lines
from pirl.ownership import contents, owned
from pirl.runtime.launch import LaunchResult, free_port, launch
from pirl.runtime.layout import RunFolder

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.usefixtures("in_repository")]


def second_learner(run: Run, *argv: str, log: str) -> Any:
    """Another learner in the folder of `run`, on a port of its own."""
    port = f"--runtime.port={free_port('127.0.0.1')}"
    return run.start("pirl.learner", *argv, port, log=log)


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_json_lines(path)]


def test_of_two_learners_at_one_moment_exactly_one_has_the_folder(tmp_path: Path):
    with a_run(tmp_path / "twice") as run:
        argv = ["--config_path", CONFIG, *run.overrides, f"--output_dir={run.folder.root}"]
        both = [second_learner(run, *argv, log=f"learner-{i}") for i in range(2)]
        wait_for(lambda: any(p.poll() is not None for p in both))
        (loser,) = (i for i in range(2) if both[i].poll() is not None)
        assert forked.wait(both[loser], 10.0) == ExitCode.USAGE
        said = (run.root / f"learner-{loser}.log").read_text()
        assert f"pid {both[1 - loser].process.pid}" in said
        assert "started 20" in said
        both[1 - loser].terminate()
        assert forked.wait(both[1 - loser], DEADLINE_S) == ExitCode.INTERRUPTED
        assert run.record()["exit_reason"] == "interrupted"
        assert run.record()["pid"] == both[1 - loser].process.pid


def test_a_resume_of_a_living_run_takes_nothing_from_it(tmp_path: Path):
    with a_run(tmp_path / "living") as run:
        learner = run.learner()
        actors = [run.actor(rank, pace_s=0.1) for rank in range(2)]
        wait_for(lambda: run.has_checkpoint(1) or learner.poll() is not None)
        run.hold.touch()
        last = run.folder.root / "checkpoints" / "last" / "pretrained_model" / "train_config.json"
        late = second_learner(run, "--config_path", str(last), "--resume=true", log="late")
        assert forked.wait(late, DEADLINE_S) == ExitCode.USAGE
        assert f"pid {learner.process.pid}" in (run.root / "late.log").read_text()
        run.hold.unlink()
        run.expect_end(learner, *actors)
        assert steps(run.folder.learner_metrics) == list(range(1, UPDATES + 1))
        assert list(run.folder.root.rglob("*undone*")) == []
        assert run.record()["complete"] is True
        kept = {"rows": UPDATES, "lost": 0, "error": ""}
        assert run.record()["trackers"] == {"tensorboard": kept}
        # As before, a finished folder is refused to a new run, whatever its owner left.
        argv = ["--config_path", CONFIG, *run.overrides, f"--output_dir={run.folder.root}"]
        again = second_learner(run, *argv, log="again")
        assert forked.wait(again, DEADLINE_S) == ExitCode.USAGE
        assert "--resume=true" in (run.root / "again.log").read_text()
        _copy_goes_on_in_the_copy(run)


def _copy_goes_on_in_the_copy(run: Run) -> None:
    """Everything of the run is as it was; the copy has two updates more."""
    before = {p: p.read_bytes() for p in run.folder.root.rglob("*") if p.is_file()}
    copy = Run(run.root / "copy", run.overrides, processes=run.processes)
    shutil.copytree(run.folder.root, copy.folder.root, symlinks=True)
    # The actor's log of the copy ends in the middle of a row.
    with copy.folder.actor_metrics(1).open("ab") as file:
        file.write(b'{"format":1,"st')
    last = copy.folder.root / "checkpoints" / "last" / "pretrained_model" / "train_config.json"
    more = [f"--runtime.total_updates={UPDATES + 1}", f"--runtime.port={copy.port}"]
    argv = ["--config_path", str(last), "--resume=true", *more]
    learner = copy.start("pirl.learner", *argv, log="learner")
    actors = [
        copy.start("toy_actor", *argv, "--rank", str(rank), log=f"actor-{rank}")
        for rank in range(2)
    ]
    copy.expect_end(learner, *actors)
    assert steps(copy.folder.learner_metrics) == list(range(1, UPDATES + 2))
    assert len(list(copy.folder.root.rglob("metrics.torn-*.jsonl"))) == 1
    assert {p: p.read_bytes() for p in run.folder.root.rglob("*") if p.is_file()} == before


def test_an_actor_whose_rank_has_its_folder_open_elsewhere_is_refused(tmp_path: Path):
    with a_run(tmp_path / "rank") as run:
        learner = run.learner()
        wait_for(lambda: run.folder.effective_config("learner").exists())
        with owned(run.folder.actor_record(0).parent, field="test"):
            actor = run.actor(0)
            assert forked.wait(actor, DEADLINE_S) == ExitCode.USAGE
        said = (run.root / "actor-0.log").read_text()
        assert f"pid {os.getpid()}" in said
        assert "rank 0" in said
        run.expect_end(run.actor(0, log="replacement"), run.actor(1), learner)


def test_every_process_that_is_stopped_leaves_its_record(tmp_path: Path):
    with a_run(tmp_path / "stopped") as run:
        learner = run.learner()
        actors = [run.actor(rank, pace_s=0.5) for rank in range(2)]
        wait_for(lambda: run.has_checkpoint(1) or learner.poll() is not None)
        for process in (learner, *actors):
            process.terminate()
        codes = [forked.wait(process, DEADLINE_S) for process in (learner, *actors)]
        assert codes == [ExitCode.INTERRUPTED] * 3
        for record in (run.record(), *(run.actor_record(rank) for rank in range(2))):
            assert record["exit_reason"] == "interrupted"
            assert record["complete"] is True
        assert run.record()["digests_after"].keys() == run.record()["digests_before"].keys()
        assert [p.name for p in run.folder.root.rglob(".*")] == []


@dataclass
class Launched:
    """A `pirl launch` under way in a thread, with the real processes started from scratch."""

    root: Path
    log_dir: Path | None
    stop: threading.Event = field(default_factory=threading.Event)
    results: list[LaunchResult] = field(default_factory=list)

    def run(self) -> None:
        self.results.append(
            launch(
                CONFIG,
                actors=1,
                overrides=[*ONE_SHORT_EPISODE, f"--output_dir={self.root}"],
                log_dir=self.log_dir,
                quiet=True,
                stop=self.stop,
                deadline_s=DEADLINE_S,
            )
        )

    @contextmanager
    def under_way(self) -> Iterator[threading.Thread]:
        """Stopped, if need be, and over when the block is left."""
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield thread
        finally:
            self.stop.set()
            thread.join(DEADLINE_S)

    def records(self, *roles: str) -> dict[str, Any]:
        return {role: json.loads((self.root / role / "run.json").read_text()) for role in roles}


ONE_SHORT_EPISODE = [
    "--env.episode_length=20",
    "--runtime.rollout_chunks=4",
    "--pirl.global_batch=4",
    "--pirl.micro_batch=4",
    "--runtime.checkpoint_every_updates=0",
    "--runtime.total_updates=1000",
]
ROLES = ("learner", "actor-0", "launch")


def test_a_launch_that_is_stopped_waits_for_the_records_of_its_children(tmp_path: Path):
    launched = Launched(tmp_path / "run", log_dir=tmp_path / "logs")
    with launched.under_way() as thread:
        # Both are at work: a process that is still being imported has no record to write.
        row = launched.root / "actor-0" / "metrics.jsonl"
        wait_for(lambda: (row.exists() and row.stat().st_size > 0) or not thread.is_alive())
    (result,) = launched.results
    assert result.exit_code is ExitCode.INTERRUPTED
    assert [row["exit_code"] for row in result.processes] == [ExitCode.INTERRUPTED] * 2
    records = launched.records(*ROLES)
    assert {record["exit_reason"] for record in records.values()} == {"interrupted"}
    assert {record["complete"] for record in records.values()} == {True}
    table = records["launch"]["processes"]
    assert [(row["role"], row["exit_code"]) for row in table] == [("learner", 4), ("actor-0", 4)]
    assert {p.name for p in contents(launched.root)} >= set(ROLES)


@pytest.mark.parametrize("has_logs", [True, False])
def test_a_launch_whose_actor_is_refused_ends_with_its_code_and_message(
    tmp_path: Path, has_logs: bool
):
    launched = Launched(tmp_path / "run", log_dir=tmp_path / "logs" if has_logs else None)
    config = RunFolder(launched.root).effective_config("learner")
    with launched.under_way() as thread:
        wait_for(lambda: config.exists() or not thread.is_alive())
        # Before the learner listens, so before the actor can be there.
        with owned(launched.root / "actor-0", field="test"):
            thread.join(DEADLINE_S)
            assert not launched.stop.is_set()
    (result,) = launched.results
    assert result.exit_code is ExitCode.USAGE
    assert "actor-0 ended with exit code 2" in result.reason
    assert f"pid {os.getpid()}" in result.reason
    assert [row["exit_code"] for row in result.processes] == [ExitCode.INTERRUPTED, ExitCode.USAGE]
    records = launched.records("learner", "launch")
    assert records["learner"]["exit_reason"] == "interrupted"
    assert records["launch"]["exit_reason"] == "usage"
    assert {record["complete"] for record in records.values()} == {True}
    logs = {path.stem: path.read_text() for path in launched.root.glob("logs/*.log")}
    assert set(logs) == (set() if has_logs else {"learner", "actor-0"})
    assert has_logs or (
        "this process is" in logs["learner"] and f"pid {os.getpid()}" in logs["actor-0"]
    )
    assert not any(psutil.pid_exists(row["pid"]) for row in result.processes)
