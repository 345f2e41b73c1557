"""Judging a learning run: counts decide, bounds are fixed, a control passes only by not learning."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from pirl.config.load import load_config
from pirl.errors import ConfigError
from pirl.journal.metric_log import MetricRow
from pirl.learning.judgement import Judgement, Spent, judge, judgement_record, spent
from pirl.learning.settings import PARAMS, Bounds, LearnSettings, read_settings, settings_from
from pirl.learning.study import row_settings, study_rows, table
from pirl.records import EpisodeRecord


def episodes(successes: int, count: int = 100) -> list[EpisodeRecord]:
    return [
        EpisodeRecord(
            task_id=0,
            task="button-press-topdown-v3",
            init_state_id=index,
            seed=index,
            episode_id=index,
            policy_version=0,
            env_steps=80 if index < successes else 95,
            decisions=5,
            reward=float(index < successes),
            success=index < successes,
            truncated=index >= successes,
        )
        for index in range(count)
    ]


def row(step: int, **metrics: float) -> MetricRow:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    return MetricRow(step=step, version=step, elapsed_s=1.0, metrics=named)


def costs(env_steps: int) -> dict[int, Spent]:
    nothing = Spent(env_steps=0, cpu_s=0.0, wall_s=0.0)
    return {0: nothing, 2: Spent(env_steps=env_steps, cpu_s=9.0, wall_s=6.0)}


def a_judgement(
    start: int,
    end: int,
    *,
    count: int = 100,
    env_steps: int = 100_000,
    bounds: Bounds | None = None,
    is_control: bool = False,
) -> Judgement:
    return judge(
        {0: episodes(start, count), 2: episodes(end, count)},
        costs(env_steps),
        bounds=bounds or Bounds(),
        is_control=is_control,
    )


def failing(judgement: Judgement) -> list[str]:
    return [criterion.name for criterion in judgement.criteria if not criterion.holds]


def test_a_run_within_all_bounds_passes():
    assert a_judgement(30, 95).passed
    assert a_judgement(25, 100, env_steps=120_000).passed


@pytest.mark.parametrize(
    ("start", "end", "options", "name"),
    [
        (30, 94, {}, "end-success"),
        (24, 99, {}, "start-success"),
        (51, 99, {}, "start-success"),
        (30, 99, {"env_steps": 120_001}, "env-steps"),
        (25, 99, {"count": 99}, "fresh-episodes"),
    ],
)
def test_each_bound_fails_on_its_own(start, end, options, name):
    assert failing(a_judgement(start, end, **options)) == [name]


def test_a_control_fails_as_soon_as_it_learned():
    assert a_judgement(30, 45, is_control=True).passed
    assert failing(a_judgement(30, 46, is_control=True)) == ["control-did-not-learn"]


def test_a_control_that_got_worse_did_not_learn():
    assert a_judgement(30, 2, is_control=True).passed


def test_figures_are_counts_with_intervals_by_env_steps():
    record = judgement_record(a_judgement(30, 95))
    first, last = record["points"]
    assert (first["successes"], first["episodes"], first["env_steps"]) == (30, 100, 0)
    assert (last["successes"], last["env_steps"]) == (95, 100_000)
    assert first["mean_env_steps"] == pytest.approx(90.5)
    assert "30/100" in str(record["paired"])
    assert "only B 65" in str(record["paired"])


def test_training_costs_add_up_over_processes_and_take_the_rollout_of_each_update():
    learner = [
        row(n, counters__env_steps=100 * n, system__cpu_s=10.0 * n, time__wall_s=4.0 * n)
        for n in (1, 2)
    ]
    actors = [[row(n, system__cpu_s=5.0 * n + rank) for n in (1, 2)] for rank in (0, 1)]
    assert spent(learner, actors) == {
        0: Spent(env_steps=0, cpu_s=0.0, wall_s=0.0),
        1: Spent(env_steps=100, cpu_s=21.0, wall_s=4.0),
        2: Spent(env_steps=200, cpu_s=41.0, wall_s=8.0),
    }


def test_an_update_without_its_rollout_has_no_cost():
    learner = [row(1, counters__env_steps=1, system__cpu_s=1.0, time__wall_s=1.0)]
    with pytest.raises(ValueError, match="shorter"):
        spent(learner, [[]])


def test_the_comparison_is_paired_by_episode():
    reversed_end = list(reversed(episodes(95)))
    judgement = judge(
        {0: episodes(5), 2: reversed_end}, costs(1000), bounds=Bounds(), is_control=False
    )
    assert (judgement.paired.only_a, judgement.paired.only_b) == (5, 95)


def two_tasks(opened: int, closed: int) -> list[EpisodeRecord]:
    return [replace(r, task="open") for r in episodes(opened)] + [
        replace(r, task="close", task_id=1) for r in episodes(closed)
    ]


def test_several_tasks_are_bounded_together_and_counted_apart():
    judgement = judge(
        {0: two_tasks(20, 50), 2: two_tasks(100, 92)},
        costs(1000),
        bounds=Bounds(),
        is_control=False,
    )
    assert judgement.passed
    last = judgement_record(judgement)["points"][-1]
    assert (last["successes"], last["episodes"]) == (192, 200)
    assert last["tasks"] == {
        "open": {"successes": 100, "episodes": 100},
        "close": {"successes": 92, "episodes": 100},
    }


def test_one_task_needs_no_counts_by_task():
    record = judgement_record(a_judgement(30, 95))
    assert "misled" not in record
    assert all("tasks" not in point for point in record["points"])


@pytest.mark.parametrize(("misled", "holds"), [(10, True), (11, False)])
def test_a_policy_that_succeeds_when_told_another_task_does_not_follow_language(misled, holds):
    judgement = judge(
        {0: two_tasks(20, 50), 2: two_tasks(100, 100)},
        costs(1000),
        bounds=Bounds(misled=0.05),
        is_control=False,
        misled=two_tasks(0, misled),
    )
    assert failing(judgement) == ([] if holds else ["misled-success"])
    assert judgement_record(judgement)["misled"]["close"] == {"successes": misled, "episodes": 100}


def test_without_a_bound_misled_episodes_are_only_counted():
    judgement = judge(
        {0: two_tasks(20, 50), 2: two_tasks(100, 100)},
        costs(1000),
        bounds=Bounds(),
        is_control=False,
        misled=two_tasks(100, 100),
    )
    assert judgement.passed


def test_settings_of_the_repository_are_read_and_given_values_win():
    settings = read_settings(PARAMS, seed=7, variant="flow-noise", actors=None)
    assert (settings.seed, settings.variant, settings.actors) == (7, "flow-noise", 1)
    assert settings.config_path == "configs/train_config_pirl_learn_flow_noise.json"
    assert settings.all_overrides[-1] == "--seed=7"


def test_settings_survive_the_record():
    from dataclasses import asdict

    settings = LearnSettings(seed=3, control="shuffled", overrides=("--pirl.gamma=0.9",))
    assert settings_from(asdict(settings)) == settings
    assert "--pirl.shuffle_advantages=true" in settings.all_overrides


@pytest.mark.parametrize(
    ("given", "field"),
    [({"variant": "flow-ode"}, "learn.variant"), ({"control": "luck"}, "learn.control")],
)
def test_unknown_choice_is_refused_by_name(given, field):
    with pytest.raises(ConfigError) as refused:
        read_settings(PARAMS, **given)
    assert refused.value.errors[0].field == field


def test_unknown_setting_is_refused(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("learn: {warmstart: {steps: 3}}\n")
    with pytest.raises(ConfigError):
        read_settings(path)


def test_every_study_of_the_repository_is_read_and_starts_from_the_learn_section():
    base = read_settings(PARAMS)
    document = yaml.safe_load(PARAMS.read_text())
    for name in document["studies"]:
        for row in study_rows(name).values():
            settings = row_settings(row, base)
            if "bounds" not in row:
                assert settings.bounds == base.bounds
            assert load_config(settings.config_path, settings.all_overrides).cfg.recipe == "pi-rl"


def test_a_row_goes_on_top_and_its_overrides_come_last():
    base = LearnSettings(seed=1, overrides=("--pirl.gamma=0.9",))
    row = {"seed": 2, "overrides": ["--pirl.gamma=0.8"], "warm_start": {"steps": 7}}
    settings = row_settings(row, base)
    assert settings.seed == 2
    assert settings.overrides == ("--pirl.gamma=0.9", "--pirl.gamma=0.8")
    assert settings.warm_start.steps == 7


def test_a_misspelt_row_is_refused():
    with pytest.raises(ConfigError):
        row_settings({"sed": 2}, LearnSettings())


def test_an_unknown_study_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError) as refused:
        study_rows("seedz")
    assert "seeds" in refused.value.errors[0].expected


def test_the_table_shows_counts_and_what_stopped_a_control():
    point = {"successes": 30, "episodes": 100, "env_steps": 0, "cpu_s": 0.0, "mean_env_steps": 90.0}
    ran = {
        "label": "a",
        "points": [point, {**point, "successes": 97, "env_steps": 5, "cpu_s": 12.4}],
        "env_steps_per_s": 801.5,
        "weights_sha256": "0123456789abcdef",
        "passed": True,
    }
    text = table([ran, {"label": "b", "stopped": "exit code 1", "last_line": "parity is off"}])
    assert "97/100 (0.92 to 0.99, 95 % Wilson)" in text
    assert "| 12 | 801.5 | `01234567` | passed |" in text
    assert "stopped: parity is off" in text
    assert "%" not in text.replace("95 % Wilson", "")


def test_the_table_counts_by_task_where_a_run_has_several():
    def counts(opened: int, closed: int) -> dict[str, dict[str, int]]:
        return {
            "open": {"successes": opened, "episodes": 100},
            "close": {"successes": closed, "episodes": 100},
        }

    point = {"successes": 70, "episodes": 200, "env_steps": 0, "cpu_s": 0.0, "mean_env_steps": 90.0}
    ran = {
        "label": "both",
        "points": [{**point, "tasks": counts(30, 40)}, {**point, "tasks": counts(97, 98)}],
        "misled": counts(0, 1),
        "env_steps_per_s": 801.5,
        "weights_sha256": "0123456789abcdef",
        "passed": True,
    }
    lines = table([ran]).splitlines()
    assert lines[-2].startswith("| both | open | 30/100 (")
    assert "| 98/100 (" in lines[-1]
    assert "| 1/100 (" in lines[-1]
