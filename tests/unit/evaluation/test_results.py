"""Figures of an evaluation: each with both counts, each computed from the records and from nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from eval_builders import IDENTITY, WON, a_folder, plans, record, records

from pirl.errors import ConfigError, EvidenceError, ExitCode, MismatchError
from pirl.evaluation.folder import EPISODES, INFO, SCHEDULE, create_folder
from pirl.evaluation.main import main
from pirl.evaluation.results import check_records, compute_results, suite_of
from pirl.evaluation.text import results_text
from pirl.evaluation.verify import compare_folders, verify_folder
from pirl.guard import run_guarded


def edit(root, name, change):
    """Apply `change` to the JSON value of a file of a folder."""
    path = root / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_counts_per_task_per_suite_and_overall_with_their_intervals():
    results = compute_results(records())
    counts = {f.name: (f.rate.successes, f.rate.episodes) for f in results.per_task}
    assert counts == {"libero_10/0": (2, 2), "libero_10/4": (1, 3), "libero_goal/1": (0, 1)}
    suites = {f.name: (f.rate.successes, f.rate.episodes) for f in results.per_suite}
    assert suites == {"libero_10": (3, 5), "libero_goal": (0, 1)}
    overall = results.overall.to_json()
    assert (overall["successes"], overall["episodes"]) == (3, 6)
    # Wilson for 3 of 6 by hand: centre 0.5, half 1.96 / (1 + 3.8415/6) * sqrt(0.25/6 + 3.8415/144).
    assert overall["wilson_95"] == pytest.approx([0.1876, 0.8124], abs=1e-4)
    assert overall["mean_env_steps"] == 450.0
    assert overall["mean_success_steps"] == 100.0
    assert [r.episode_id for r in results.failures] == [2, 3, 5]
    assert results.per_task[2].mean_success_steps is None


def test_a_metaworld_task_has_a_suite():
    assert suite_of("push-v3") == "metaworld"
    assert suite_of("libero_10/3") == "libero_10"


def test_no_episode_gives_no_figure():
    with pytest.raises(EvidenceError, match="no episode"):
        compute_results([])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"init_state_id": 41}, "init_state_id is 41, planned 40"),
        ({"seed": 1}, "seed is 1, planned 100"),
        ({"task_id": 2}, "task_id is 2, planned 0"),
        ({"truncated": True}, "neither or both"),
    ],
)
def test_a_record_that_is_not_of_its_plan_is_refused_by_name(change, named):
    done = records()
    done[0] = replace(done[0], **change)
    with pytest.raises(EvidenceError, match=named):
        check_records(plans(), done)


def test_an_episode_that_is_missing_is_refused():
    with pytest.raises(EvidenceError, match="5 records for 6 planned"):
        check_records(plans(), records()[:-1])


def test_the_report_shows_every_share_as_counts_and_never_a_percentage(tmp_path):
    info = dict(verify_folder(a_folder(tmp_path / "a")).info)
    text = results_text(info)
    assert "3/6 (0.19 to 0.81, 95 % Wilson)" in text
    assert "%" not in text.replace("95 % Wilson", "")
    assert "libero_goal/1, initial state 45, seed 105: time limit after 800 steps" in text
    assert "no performance claim" in text
    many = info["overall"] | {"episodes": 50, "successes": 3}
    assert "no performance claim" not in results_text(info | {"overall": many})
    assert not re.search(r"pc_success|percent|rate", json.dumps(info))


def test_a_folder_that_was_not_touched_holds(tmp_path):
    folder = verify_folder(a_folder(tmp_path / "a"))
    assert [r.success for r in folder.records] == [i in WON for i in range(6)]
    assert run_guarded(main, ["--verify", str(tmp_path / "a")]) == ExitCode.OK


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        (INFO, lambda v: v["overall"].update(successes=4), r"overall\.successes: recorded 4"),
        (INFO, lambda v: v["per_task"][1].update(wilson_95=[0.3, 1.0]), r"per_task\[1\]\.wilson"),
        (INFO, lambda v: v["per_suite"].pop(), "per_suite: recorded"),
        (INFO, lambda v: v["failures"].pop(), "failures: recorded"),
        (INFO, lambda v: v.update(method="as many as needed"), "method: recorded"),
        (INFO, lambda v: v.update(format=3), "format 3"),
        (INFO, lambda v: v["sha256"].update({EPISODES: "0"}), f"{EPISODES} is not the file"),
        (SCHEDULE, lambda v: v["plans"][0].update(init_state_id=3), "init_state_id is 40"),
        (SCHEDULE, lambda v: v.update(note="added"), f"{SCHEDULE} is not the file"),
        (SCHEDULE, lambda v: v["plans"][0].update(extra=3), "plan 1: unknown field 'extra'"),
        (SCHEDULE, lambda v: v["plans"][0].update(seed=True), "plan 1.seed: True is bool"),
    ],
)
def test_an_altered_figure_or_file_is_found_and_ends_with_1(tmp_path, capsys, name, change, named):
    root = a_folder(tmp_path / "a")
    edit(root, name, change)
    assert run_guarded(main, ["--verify", str(root)]) == ExitCode.CHECK_FAILED
    caught = capsys.readouterr()
    assert re.search(named, caught.err)
    assert caught.out == ""


def test_an_altered_record_is_found_by_the_figures_it_gives(tmp_path):
    root = a_folder(tmp_path / "a")
    lines = (root / EPISODES).read_text().splitlines()
    lines[2] = lines[2].replace('"success": false', '"success": true')
    lines[2] = lines[2].replace('"truncated": true', '"truncated": false')
    (root / EPISODES).write_text("\n".join(lines) + "\n")
    with pytest.raises(EvidenceError, match=r"overall\.successes: recorded 3, .* 4"):
        verify_folder(root)


def test_an_evaluation_that_did_not_end_has_no_figures(tmp_path):
    root = a_folder(tmp_path / "a")
    (root / INFO).unlink()
    with pytest.raises(EvidenceError, match="did not end"):
        verify_folder(root)


def test_a_result_folder_is_never_overwritten(tmp_path):
    root = a_folder(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="--out"):
        create_folder(root, plans())
    after = {path.name: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert after == before


def test_the_paired_test_counts_discordant_episodes(tmp_path):
    a = a_folder(tmp_path / "a", won={0, 1, 4})
    b = a_folder(tmp_path / "b", won={0, 2, 3, 4, 5})
    found = compare_folders(a, b)
    test = found.overall
    assert (test.both, test.only_a, test.only_b, test.neither) == (2, 1, 3, 0)
    # Two-sided exact binomial of 1 among 4: 2 * (1 + 4) / 16.
    assert test.p_value == pytest.approx(0.625)
    assert [r.episode_id for r in found.only_a] == [1]
    assert [r.episode_id for r in found.only_b] == [2, 3, 5]
    assert found.per_suite["libero_goal"].only_b == 1


def test_comparison_names_what_else_differs(tmp_path):
    sampler = IDENTITY["sampler"] | {"n_action_steps": 30}
    a = a_folder(tmp_path / "a")
    b = a_folder(tmp_path / "b", identity={"sampler": sampler, "versions": {"lerobot": "0.6.2"}})
    found = {d.field: (d.ours, d.theirs) for d in compare_folders(a, b).differences}
    assert found == {
        "sampler.n_action_steps": (10, 30),
        "versions.lerobot": ("0.6.1", "0.6.2"),
    }


def test_comparison_text_gives_counts_and_the_episodes_that_decide(tmp_path, capsys):
    a = a_folder(tmp_path / "a", won={0, 1, 4})
    b = a_folder(tmp_path / "b", won={0, 2, 4})
    assert run_guarded(main, ["--compare", str(a), str(b)]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.startswith("A 3/6 (0.19 to 0.81, 95 % Wilson), B 3/6")
    assert "only A 1, only B 1, exact McNemar p = 1" in out
    assert "only B succeeded: 1\n  libero_10/4, initial state 42, seed 102" in out


def test_other_schedules_are_refused_with_the_first_difference(tmp_path, capsys):
    a = a_folder(tmp_path / "a")
    other = plans()
    other[3] = replace(other[3], init_state_id=49)
    other[4] = replace(other[4], init_state_id=48)
    b = a_folder(tmp_path / "b", schedule=other)
    assert run_guarded(main, ["--compare", str(a), str(b)]) == ExitCode.MISMATCH
    err = capsys.readouterr().err
    assert "episode 3: init_state_id: A = 43, B = 49" in err
    assert "episode 4" not in err


def test_a_longer_schedule_is_refused(tmp_path):
    a = a_folder(tmp_path / "a")
    b = a_folder(tmp_path / "b", schedule=plans()[:-1])
    with pytest.raises(MismatchError, match="episodes: A = 6, B = 5"):
        compare_folders(a, b)


@pytest.mark.parametrize(
    "identity",
    [
        {"env": {"type": "libero", "episode_length": 520}},
        {"split": {"label": "train", "sha256": "1" * 64}},
        {"seed": 8},
    ],
)
def test_evaluations_under_another_protocol_are_refused(tmp_path, identity):
    a = a_folder(tmp_path / "a")
    b = a_folder(tmp_path / "b", identity=identity)
    with pytest.raises(MismatchError, match=next(iter(identity))):
        compare_folders(a, b)


def test_an_altered_folder_is_not_compared(tmp_path):
    a, b = a_folder(tmp_path / "a"), a_folder(tmp_path / "b")
    edit(b, INFO, lambda v: v["overall"].update(successes=6))
    with pytest.raises(EvidenceError, match="b does not hold"):
        compare_folders(a, b)


def test_records_of_one_task_under_another_name_are_not_compared(tmp_path):
    a, b = a_folder(tmp_path / "a"), tmp_path / "b"
    done = [record(plan, success=plan.episode_id in WON) for plan in plans()]
    renamed = [replace(r, task=r.task.replace("goal", "object")) for r in done]
    from pirl.evaluation.folder import finish_folder

    create_folder(b, plans())
    finish_folder(b, plans=plans(), records=renamed, identity=IDENTITY, videos=[])
    with pytest.raises(MismatchError, match="task: A = 'libero_goal/1', B = 'libero_object/1'"):
        compare_folders(a, b)
