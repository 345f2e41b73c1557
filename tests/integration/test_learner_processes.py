"""A learner of two real processes: killed in either one, resumed to the bit, stopped, resumed with another number.

The processes are forked from one that has imported everything; only the simulator is a toy.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from skewed_learner import NAME
from toy_run import DEADLINE_S, UPDATES, Run, a_run, overrides, wait_for

from pirl.checkpoint.load import verify_files
from pirl.checkpoint.locate import step_folders
from pirl.errors import ExitCode
from pirl.gate import forked

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.usefixtures("in_repository")]

TWO = {
    "parallelism_dp_replicate": "2",
    "pirl_micro_batch": "4",
    "runtime_actors": "1",
    "runtime_checkpoint_every_updates": "1",
}
END_S = 20.0
"""A process whose other one is gone has ended by then; without noticing it would wait for half an hour."""


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with a_run(tmp_path_factory.mktemp("processes") / "baseline", **TWO) as run:
        run.expect_end(*run.learners(2), run.actor(0))
        yield run


def other_record(run: Run) -> dict[str, object]:
    return json.loads(run.folder.process_record("learner-1").read_text())


def test_the_second_process_computes_every_update_and_writes_nothing_of_the_run(baseline: Run):
    record = other_record(baseline)
    assert (record["exit_reason"], record["complete"]) == ("finished", True)
    assert record["updates"] == baseline.record()["books"]["updates"] == UPDATES
    assert record["identity"] == baseline.record()["identity"]
    folder = baseline.folder.process_record("learner-1").parent
    assert {path.name for path in folder.iterdir()} == {"run.json", "processes.jsonl"}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others_and_the_resumed_run_is_bit_identical(
    baseline: Run, tmp_path: Path, killed: int
):
    with a_run(tmp_path / "killed", **TWO) as run:
        learners = run.learners(2)
        actor = run.actor(0, pace_s=0.3)
        wait_for(lambda: run.has_checkpoint(2) or any(p.poll() is not None for p in learners))
        # The rollout of version 2 takes over a second: nobody is at work on an update.
        time.sleep(0.3)
        learners[killed].kill()
        survivor = learners[1 - killed]
        assert forked.wait(survivor, END_S) == ExitCode.CHECK_FAILED, run.logs()
        if killed == 1:
            assert "learner process 1 is gone" in run.record()["exit_reason"]
        else:
            assert "LinkClosedError" in str(other_record(run)["exit_reason"])
        for step in step_folders(run.folder.root / "checkpoints").values():
            verify_files(step)
        keep = ("--runtime.keep_checkpoints=1",)
        run.expect_end(*run.learners(2, resume=True, argv=keep), actor)
        # What a run keeps of its checkpoints is its machine's own affair.
        assert list(step_folders(run.folder.root / "checkpoints")) == [1, UPDATES]
        assert run.record()["digests_after"] == baseline.record()["digests_after"]
        assert run.exact_metrics() == baseline.exact_metrics()


def test_a_process_that_is_told_to_stop_ends_all_of_them_in_order(tmp_path: Path):
    with a_run(tmp_path / "stopped", **TWO) as run:
        learners = run.learners(2)
        run.actor(0, pace_s=0.3)
        wait_for(lambda: run.has_checkpoint(1) or any(p.poll() is not None for p in learners))
        learners[1].terminate()
        codes = [forked.wait(process, END_S) for process in learners]
        assert codes == [ExitCode.INTERRUPTED] * 2, run.logs()
        assert run.record()["exit_reason"] == other_record(run)["exit_reason"] == "interrupted"


def test_another_number_of_processes_is_refused_until_it_is_asked_for_and_then_written_down(
    tmp_path: Path,
):
    with a_run(tmp_path / "other", **TWO | {"runtime_total_updates": "1"}) as run:
        run.expect_end(*run.learners(2), run.actor(0))
        alone = run.learner(resume=True, log="refused")
        assert forked.wait(alone, DEADLINE_S) == ExitCode.USAGE
        said = (run.root / "refused.log").read_text()
        assert "parallelism.dp_replicate = 2" in said
        assert "1 (WORLD_SIZE)" in said
        changes = ("--parallelism.dp_replicate=1", "--runtime.total_updates=2")
        learner = run.learner(resume=True, argv=changes, log="alone")
        run.overrides = overrides(
            **TWO | {"parallelism_dp_replicate": "1", "runtime_total_updates": "2"}
        )
        run.expect_end(learner, run.actor(0))
        line = json.loads((run.folder.root / "resume_log.jsonl").read_text())
        assert {"field": "parallelism.dp_replicate", "checkpoint": 2, "now": 1} in line["changed"]


def test_other_weights_in_one_process_end_the_run_and_name_the_tensor(tmp_path: Path):
    with a_run(tmp_path / "skewed", **TWO) as run:
        learners = run.learners(2, module="skewed_learner")
        codes = [forked.wait(process, DEADLINE_S) for process in learners]
        assert codes == [ExitCode.CHECK_FAILED] * 2, run.logs()
        assert f"disagree about {NAME}" in run.record()["exit_reason"]
        assert step_folders(run.folder.root / "checkpoints") == {}
