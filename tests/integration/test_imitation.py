"""Demonstrations beside RL: LeRobot's data set as the learner reads it, and runs that imitate while they act.

The processes are forked from one that has imported everything; only the simulator is a toy.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from toy_demos import a_demo
from toy_run import CONFIG, DEADLINE_S, Run, a_run, wait_for

from pirl.config.load import LoadedConfig, load_config
from pirl.config.train import policy_of
from pirl.contract.registry import build_flow_policy
from pirl.errors import ConfigError, ExitCode
from pirl.gate import forked
from pirl.learning.dataset import write_demos
from pirl.learning.warm_start import demo_set
from pirl.runtime.demonstrations import (
    LeRobotDemonstrations,
    demonstration_facts,
    open_demonstrations,
)
from pirl.runtime.seat import seats_here

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.usefixtures("in_repository"),
]

DEMOS = [a_demo(6), a_demo(9, seed=1), a_demo(5, seed=2)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demos(DEMOS, tmp_path_factory.mktemp("shown") / "data", fps=16, asked={})


def imitating(data: Path, *more: str) -> LoadedConfig:
    argv = ["--pirl.bc_weight=0.5", "--dataset.repo_id=local/demos", f"--dataset.root={data}"]
    return load_config(CONFIG, [*argv, *more])


def opened(loaded: LoadedConfig) -> LeRobotDemonstrations:
    policy = build_flow_policy(policy_of(loaded.cfg), executed_dims=None, device="cpu", seed=0)
    found = open_demonstrations(loaded, policy, demonstration_facts(loaded))
    assert found is not None
    return found


# -- the reader ------------------------------------------------------------------------------------


def test_rows_are_those_that_a_warm_start_trains_on_bit_for_bit(data: Path):
    loaded = imitating(data)
    demos = opened(loaded)
    expected = demo_set(DEMOS, policy=demos._policy)
    assert len(demos) == len(expected) == 20
    assert demos.facts["episodes"] == 3
    rows = torch.tensor([19, 0, 5, 5, 14])
    wanted = demos._policy.demo_batch(expected.observation.index(rows), expected.actions[rows])
    found = demos.batch(rows)
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


def test_what_stays_in_memory_changes_no_bit(data: Path):
    demos = opened(imitating(data))
    without = LeRobotDemonstrations(demos._dataset, demos._policy, digest="", kept_bytes=0)
    rows = torch.tensor([3, 17, 3])
    for _ in range(2):
        kept, read = demos.batch(rows), without.batch(rows)
        assert [name for name in read if not torch.equal(kept[name], read[name])] == []
    assert (len(demos._kept), len(without._kept)) == (2, 0)
    # A picture of 64 by 64, a state, and a chunk of four rows.
    assert demos.most_bytes == len(demos) * (3 * 64 * 64 + 4 * 4 + 4 * 4 * 4)
    assert without.most_bytes == 0


def test_only_the_chosen_episodes_are_imitated(data: Path):
    demos = opened(imitating(data, "--dataset.episodes=[2]"))
    expected = demo_set(DEMOS[2:], policy=demos._policy)
    assert len(demos) == 5
    found = demos.batch(torch.arange(5))
    assert torch.equal(found["action"], expected.actions)


def test_a_run_that_imitates_nothing_reads_nothing():
    loaded = load_config(CONFIG)
    assert demonstration_facts(loaded) == {}
    policy = build_flow_policy(policy_of(loaded.cfg), executed_dims=None, device="cpu", seed=0)
    assert open_demonstrations(loaded, policy, {}) is None


def test_a_table_that_lerobot_cannot_read_is_told_by_its_field(tmp_path: Path):
    folder = write_demos([a_demo(6)], tmp_path / "data", fps=16, asked={})
    (table,) = (folder / "data").rglob("*.parquet")
    table.write_bytes(table.read_bytes()[:200])
    with pytest.raises(ConfigError) as caught:
        opened(imitating(folder))
    assert caught.value.errors[0].field == "dataset.root"


# -- runs ------------------------------------------------------------------------------------------

SHORT = {
    "pirl_bc_weight": "0.5",
    "pirl_bc_schedule": "linear",
    "dataset_repo_id": "local/demos",
    "runtime_total_updates": "3",
    "runtime_actors": "1",
    "runtime_checkpoint_every_updates": "1",
}


@pytest.fixture(scope="module")
def baseline(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with a_run(tmp_path_factory.mktemp("imitation") / "baseline", **SHORT) as run:
        # The actor is on a machine without the data set.
        run.expect_end(run.learner(argv=[f"--dataset.root={data}"]), run.actor(0))
        yield run


@pytest.mark.integration
@pytest.mark.slow
def test_the_weight_falls_and_the_data_set_is_in_the_books(baseline: Run):
    rows = baseline.exact_metrics()
    assert [row["update/bc_weight"] for row in rows] == pytest.approx([0.5, 1 / 3, 1 / 6])
    assert all(row["update/bc_loss"] > 0 for row in rows)
    assert baseline.record()["demonstrations"]["frames"] == 20


@pytest.mark.integration
@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_data_to_the_bit_and_with_no_other(
    baseline: Run, data: Path, tmp_path: Path
):
    other = write_demos(DEMOS[:2], tmp_path / "other", fps=16, asked={})
    with a_run(tmp_path / "killed", **SHORT) as run:
        learner = run.learner(argv=[f"--dataset.root={data}"])
        actor = run.actor(0, pace_s=0.3)
        wait_for(lambda: run.has_checkpoint(1) or learner.poll() is not None)
        time.sleep(0.2)
        learner.kill()
        forked.exit_code(learner, 10.0)
        wrong = run.learner(resume=True, argv=[f"--dataset.root={other}"], log="other")
        assert forked.wait(wrong, DEADLINE_S) == ExitCode.MISMATCH, run.logs()
        said = (run.root / "other.log").read_text()
        assert "demonstrations.sha256: now = " in said
        assert "set dataset.root to theirs" in said
        run.expect_end(run.learner(resume=True), actor)
        assert run.record()["digests_after"] == baseline.record()["digests_after"]
        assert run.exact_metrics() == baseline.exact_metrics()


@pytest.mark.integration
@pytest.mark.slow
def test_learner_processes_with_other_data_than_the_first_do_not_begin(data: Path, tmp_path: Path):
    other = write_demos(DEMOS[:2], tmp_path / "other", fps=16, asked={})
    with a_run(tmp_path / "two", **SHORT | {"parallelism_dp_replicate": "2"}) as run:
        meeting = run.root / "meeting"
        meeting.mkdir()
        learners = [
            run.learner(seat=seat, log=f"learner-{rank}", argv=[f"--dataset.root={folder}"])
            for rank, (seat, folder) in enumerate(
                zip(seats_here(2, meeting), (data, other), strict=True)
            )
        ]
        codes = [forked.wait(process, DEADLINE_S) for process in learners]
        assert codes == [ExitCode.MISMATCH] * 2, run.logs()
        assert "demonstrations: process 0 = " in (run.root / "learner-1.log").read_text()
