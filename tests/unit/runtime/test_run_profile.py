"""Where a run's seconds and bytes went, from its metric rows."""

from __future__ import annotations

import json

import pytest

from pirl.errors import UsageError
from pirl.runtime.profile import main, read_profile


def write(root, role, rows):
    path = root / role / "metrics.jsonl"
    path.parent.mkdir(parents=True)
    lines = [
        {"format": 1, "step": n, "version": n, "elapsed_s": 1.0, "metrics": metrics}
        for n, metrics in enumerate(rows, 1)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def run(tmp_path):
    learner = [
        {"time/wall_s": 10.0, "time/wait_s": 6.0, "time/update_s": 2.0, "link/bytes_received": 1e6,
         "link/param_bytes": 5e5, "system/cpu_s": 3.0},
        {"time/wall_s": 20.0, "time/wait_s": 4.0, "time/update_s": 5.0, "link/bytes_received": 3e6,
         "link/param_bytes": 5e5, "system/cpu_s": 7.5},
    ]  # fmt: skip
    write(tmp_path, "learner", learner)
    for rank in (10, 2):
        write(
            tmp_path,
            f"actor-{rank}",
            [{"time/wall_s": 5.0, "time/collect_s": 4.0, "time/infer_s": 1.0}],
        )
    return tmp_path


def test_stages_add_up_and_sums_of_stages_are_none_of_them(run):
    learner, *actors = read_profile(run)
    assert (learner.updates, learner.wall_s, learner.cpu_s) == (2, 20.0, 7.5)
    assert list(learner.stages.items()) == [("wait", 10.0), ("update", 7.0)]
    assert learner.idle == 0.5
    assert [actor.role for actor in actors] == ["actor-2", "actor-10"]
    assert [actor.stages for actor in actors] == [{"infer": 1.0}] * 2


def test_counters_of_bytes_run_on_and_every_version_is_sent_anew(run):
    learner, actor, _ = read_profile(run)
    assert learner.moved == {"decisions": 3e6, "parameters": 1e6}
    assert actor.moved == {}


def test_text_says_what_no_stage_claims(run, capsys):
    assert main([str(run)]) == 0
    said = capsys.readouterr().out
    assert "learner: 2 updates in 20.0 s, 7.5 CPU s, 50% waiting\n" in said
    assert "  wait             10.00 s  50.0%\n" in said
    assert "  (no stage)        3.00 s  15.0%\n" in said
    assert "  decisions         3.00 MB\n" in said


def test_json_has_the_share_of_waiting(run, capsys):
    assert main([str(run), "--json"]) == 0
    learner, *_ = json.loads(capsys.readouterr().out)
    assert (learner["role"], learner["idle"], learner["stages"]["update"]) == ("learner", 0.5, 7.0)


def test_a_folder_without_a_row_is_no_run(tmp_path):
    with pytest.raises(UsageError, match="no row"):
        read_profile(tmp_path)
