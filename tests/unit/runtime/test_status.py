"""What the folder of a run says of it."""

from __future__ import annotations

import json

import pytest

from pirl.cli import main
from pirl.runtime import status
from pirl.runtime.layout import RunFolder
from pirl.runtime.status import read_status, status_text


def a_run(root, *, updates=4, reason=None, alive=()):
    """A run of 10 updates, of which each took 3 s and had 2 successes in 8 episodes."""
    folder = RunFolder(root)
    for path in (folder.learner_metrics, folder.actor_metrics(0), folder.actor_metrics(1)):
        path.parent.mkdir(parents=True, exist_ok=True)
    runtime = {"runtime": {"total_updates": 10, "actors": 2}}
    folder.effective_config("learner").write_text(json.dumps(runtime))
    rows = [
        {
            "format": 1, "step": step, "version": step, "elapsed_s": 3.0 * step,
            "metrics": {
                "rollout/successes": 2.0, "rollout/episodes": 8.0, "version/current": float(step),
                "version/lag_max": 1.0, "system/rss_mib": 512.4,
            },
        }
        for step in range(1, updates + 1)
    ]  # fmt: skip
    folder.learner_metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if reason is not None:
        folder.run_record.write_text(json.dumps({"exit_reason": reason}))
    step = root / "checkpoints" / "000004"
    step.mkdir(parents=True)
    (root / "checkpoints" / "last").symlink_to("000004")
    return {root / name if name else root for name in alive}


@pytest.fixture
def living(monkeypatch):
    """The folders that have an owner."""
    owned = set()
    monkeypatch.setattr(status, "owner_of", lambda folder: "somebody" if folder in owned else None)
    return owned


def test_a_run_under_way(tmp_path, living):
    living |= a_run(tmp_path, alive=("", "actor-1"))
    found = read_status(tmp_path)
    assert found.is_running
    assert (found.updates, found.total_updates) == (4, 10)
    assert found.left_s == 18.0
    assert found.actors_alive == ("actor-1",)
    text = status_text(found)
    for part in (
        "update      4 of 10, about 0 min 18 s left",
        "2/8 (0.07 to 0.59, 95 % Wilson) in the last update",
        "8/32 (0.13 to 0.42, 95 % Wilson) in the last 10 updates",
        "1 of 2 alive, actor-1",
        "checkpoint  000004",
        "512 MiB",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("reason", "state", "code"),
    [
        ("finished", "finished", 0),
        ("EnvError: it broke", "EnvError: it broke", 1),
        (None, "ended without a word", 1),
    ],
)
def test_a_run_that_is_over_says_how_it_ended(tmp_path, living, capsys, reason, state, code):
    a_run(tmp_path, reason=reason)
    assert main(["status", str(tmp_path), "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert answer["state"] == state
    assert answer["running"] is False
    assert answer["left_s"] is None


def test_a_run_without_an_update_yet(tmp_path, living):
    living |= a_run(tmp_path, updates=0, alive=("",))
    found = read_status(tmp_path)
    assert found.left_s is None
    assert "successes   no episode" in status_text(found)


def test_a_resumed_run_does_not_count_the_pause(tmp_path, living):
    living |= a_run(tmp_path, alive=("",))
    file = RunFolder(tmp_path).learner_metrics
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for row in rows[2:]:
        row["elapsed_s"] -= 7.0
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_status(tmp_path).left_s == 18.0


def test_watching_ends_with_the_run(tmp_path, living, capsys, monkeypatch):
    living |= a_run(tmp_path, reason="finished", alive=("",))
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            living.clear()

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert main(["watch", str(tmp_path), "--every", "5"]) == 0
    assert looks == [5, 5, 5]
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["update 4 of 10"] * 2
    assert ", running, about 0 min 18 s left" in lines[0]
    assert ", finished; " in lines[1]


def test_another_folder_is_refused_in_one_line(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("there is no learner/config.json\n")
