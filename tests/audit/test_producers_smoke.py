"""Every criterion of smoke-run fails when the processes of a real step do what it guards against.

`smoke_step.run` is the real one; only the processes are replaced by what they would have left on disk.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from bundle_builder import ROLES, RewardedStory, Story, step_writer
from fake_run import FakeRun, mark

from pirl.audit.criterion import Verdict
from pirl.audit.judge import judge_criterion, judge_step
from pirl.audit.policy import CRITERIA
from pirl.audit.raw import RawRecords
from pirl.audit.records import files
from pirl.gate import processes, segments, smoke_step
from pirl.journal import media
from pirl.journal.media import Clip

BY_NAME = {criterion.name: criterion for criterion in CRITERIA}


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """Makes the real step run over a bundle's copy, after a spoil changed what its processes did."""
    left = SimpleNamespace(processes=[], ports=[], segments=[])
    monkeypatch.setattr(processes.Watch, "_descendants", lambda _: left.processes)
    monkeypatch.setattr(processes, "_SETTLE_S", 0.0)
    monkeypatch.setattr(processes, "_is_open", lambda port: port in left.ports)
    monkeypatch.setattr(segments, "abandoned", lambda since: left.segments)
    clip = Clip(width=480, height=480, frames=6, spread=40.0)
    monkeypatch.setattr(media, "inspect_video", lambda _: clip)
    cfg = SimpleNamespace(runtime=SimpleNamespace(actors=1))

    def over(copy: Path, story: Story):
        run = FakeRun(tmp_path / "work" / "smoke", story)
        second = FakeRun(tmp_path / "work" / "rewarded", RewardedStory("libero"), first_pid=20)
        run.clip = clip
        rewarded = SimpleNamespace(cfg=cfg, source_path="r") if story.profile == "libero" else None
        gate = SimpleNamespace(
            work=tmp_path / "work", config_path="c", loaded=SimpleNamespace(cfg=cfg),
            allowed_s=lambda _: 1.0, rewarded=rewarded,
        )  # fmt: skip

        def launch(path, **given):
            return (second if path == "r" else run).launch(**given)

        def write_video(path, frames, *, fps):
            for name in ("rollout.mp4", "rollout.png"):
                shutil.copy(copy.parent / name, path.with_name(name))
            return run.clip

        for name in ("rollout.mp4", "rollout.png"):
            shutil.copy(copy / "media" / name, copy.parent / name)
        monkeypatch.setattr(smoke_step, "launch", launch)
        monkeypatch.setattr(smoke_step, "write_video", write_video)

        def execute(spoil=lambda run, left: None, *, of_second=False):
            spoil(second if of_second else run, left)
            smoke_step.run(gate, step_writer(copy, files.SMOKE))

        return execute

    return over


@pytest.fixture
def step(faked, bundle):
    """The step of the embedded profile."""
    return faked(bundle, Story())


@pytest.fixture
def libero_step(faked, libero_bundle):
    """The step of the profile with a second, rewarded run."""
    return faked(libero_bundle, Story(profile="libero"))


def drop_actor_mark(run, _):
    run.marks["actor-0"] = []


def one_process_in_all_roles(run, _):
    run.table[1]["pid"] = run.table[0]["pid"]
    run.marks["actor-0"] = [mark("actor-0", run.table[0]["pid"])]


def metric(name, value):
    return lambda run, _: run.metrics[2].update({name: value})


def no_tensor_moves(run, _):
    run.learner["tensors"]["after"]["trained"] = run.learner["tensors"]["before"]["trained"]


def counter(name, value):
    return lambda run, _: run.learner["counters"].update({name: value})


def simulator_dies(run, _):
    episode = {
        k: v
        for k, v in run.episodes[-1].items()
        if k not in ("success", "truncated", "update", "reward")
    }
    run.broken_off = [episode | {"episode_id": 999, "end": "env-error"}]


def in_another_suite(run, _):
    run.actor["met_identity"]["environment"] = "libero/libero_10, limit 95"


SPOILS = {
    "smoke/processes": one_process_in_all_roles,
    "smoke/checks_disabled": lambda run, _: run.marks["actor-0"][0].update(hooks=["parity"]),
    "smoke/handshakes_missing": lambda run, _: run.learner.update(handshakes=[]),
    "smoke/handshake_fields_differ": lambda run, _: run.actor["handshake"]["learner"].update(variant="x"),
    "smoke/effective_configs_differ": lambda run, _: run.configs.update({"actor-0": "{}"}),
    "smoke/decisions_unaccounted": counter("dropped_stale", 1),
    "smoke/decisions_consumed": counter("consumed", 0),
    "smoke/episodes_unaccounted": lambda run, _: run.episodes.pop(),
    "smoke/bytes_unaccounted": counter("bytes_received", 1),
    "smoke/versions_published": lambda run, _: run.learner["books"].update(versions_published=[0]),
    "smoke/versions_acted": lambda run, _: run.actor["totals"].update(versions_received=[0]),
    "smoke/exit_codes_nonzero": lambda run, _: run.table[1].update(exit_code=1),
    "smoke/processes_left": lambda _, left: left.processes.append("python"),
    "smoke/ports_left": lambda _, left: left.ports.append(4711),
    "smoke/shared_memory_left": lambda _, left: left.segments.append("psm_1"),
    "smoke/updates": lambda run, _: [run.metrics.pop(u) for u in (2, 3)],
    "smoke/metrics_missing": lambda run, _: run.metrics[2].pop("update/kl_first"),
    "smoke/non_finite": metric("update/value_loss", "NaN"),
    "smoke/parity_max_abs": metric("update/parity_max_abs", 0.002),
    "smoke/parity_mean_abs": metric("update/parity_mean_abs", 2e-4),
    "smoke/ratio_first_max_abs": metric("update/ratio_first_max_abs", 0.01),
    "smoke/clip_first_fraction": metric("update/clip_first_fraction", 0.01),
    "smoke/kl_first": metric("update/kl_first", 1e-4),
    "smoke/trained_unchanged": no_tensor_moves,
    "smoke/frozen_changed": lambda run, _: run.learner["tensors"]["after"]["frozen"].update(b="x"),
    "smoke/episodes": lambda run, _: [e.update(env_steps=0) for e in run.episodes],
    "smoke/wrong_env": in_another_suite,
    "smoke/heldout_states_used": lambda run, _: run.episodes[0].update(init_state_id=44),
    "smoke/success_count_gap": lambda run, _: run.episodes[0].update(success=False, truncated=True),
    "smoke/broken_off": simulator_dies,
    "smoke/video_shown": lambda run, _: setattr(run, "clip", Clip(width=480, height=480, frames=7, spread=1.0)),
    "smoke/stage_times_missing": lambda run, _: run.stage_times.clear(),
    "smoke/rewards_received": lambda run, _: [e.update(reward=0.0) for e in run.episodes],
    "smoke/endings_missing": lambda run, _: [e.update(success=True, truncated=False) for e in run.episodes],
    "smoke/ratio_moved": lambda run, _: run.metrics[2].update({"update/ratio_max": 1.0, "update/ratio_min": 1.0}),
    "smoke/policy_loss_zero": metric("update/policy_loss", 0.0),
    "smoke/kl_largest": metric("update/approx_kl", 0.3),
    "smoke/grad_norm_largest": metric("update/grad_norm_actor", 300.0),
    "smoke/grad_norm_rewarded": metric("update/grad_norm_actor", 3000.0),
}  # fmt: skip

SECOND_SPOILS = {
    **{f"smoke/{name}": SPOILS[f"smoke/{name}"] for name in (
        "processes", "checks_disabled", "handshakes_missing", "handshake_fields_differ",
        "exit_codes_nonzero", "updates", "metrics_missing", "non_finite", "parity_max_abs",
        "parity_mean_abs", "ratio_first_max_abs", "clip_first_fraction", "kl_first", "wrong_env",
        "heldout_states_used", "success_count_gap", "broken_off", "rewards_received",
        "endings_missing", "ratio_moved", "policy_loss_zero", "kl_largest", "grad_norm_rewarded",
    )},
    "smoke/effective_configs_differ": lambda run, _: run.configs.update(learner="{}"),
}  # fmt: skip
"""What the processes of the rewarded run may do; each is seen as in the other run."""


def test_the_real_step_on_a_perfect_run_passes_everything(step, raw):
    step()
    assert {r.name: r.verdict for r in judge_step(raw, files.SMOKE)} == dict.fromkeys(
        set(SPOILS) - {"smoke/grad_norm_rewarded"}, Verdict.PASSED
    )


def test_the_real_step_on_two_perfect_runs_passes_everything(libero_step, libero_bundle):
    libero_step()
    raw = RawRecords(libero_bundle)
    assert {r.name: r.verdict for r in judge_step(raw, files.SMOKE)} == dict.fromkeys(
        set(SPOILS) - {"smoke/grad_norm_largest"}, Verdict.PASSED
    )
    roles = (*ROLES, *files.REWARDED_ROLES)
    assert sorted(raw.one(files.LEFTOVERS).looked_for.processes) == sorted(roles)


@pytest.mark.parametrize("name", SECOND_SPOILS)
def test_criterion_sees_the_rewarded_run_too(libero_step, libero_bundle, name):
    libero_step(SECOND_SPOILS[name], of_second=True)
    verdict = judge_criterion(BY_NAME[name], RawRecords(libero_bundle)).verdict
    assert verdict is Verdict.FAILED


def test_rewards_of_the_first_run_do_not_stand_for_those_of_the_second(libero_step, libero_bundle):
    libero_step(SPOILS["smoke/rewards_received"])
    raw = RawRecords(libero_bundle)
    assert judge_criterion(BY_NAME["smoke/rewards_received"], raw).verdict is Verdict.PASSED


@pytest.mark.parametrize("name", SPOILS)
def test_criterion_fails_when_a_process_does_what_it_guards_against(step, raw, name):
    step(SPOILS[name])
    assert judge_criterion(BY_NAME[name], raw).verdict is Verdict.FAILED


def test_a_process_that_wrote_nothing_of_itself_is_nobody(step, raw):
    step(drop_actor_mark)
    for name in ("smoke/processes", "smoke/checks_disabled"):
        assert judge_criterion(BY_NAME[name], raw).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("success", "truncated", "end"),
    [(True, False, "success"), (True, True, "success"), (False, True, "timeout"), (False, False, "failure")],
)  # fmt: skip
def test_the_end_of_an_episode_is_the_simulators(success, truncated, end, step, raw):
    def spoil(run, _):
        run.episodes[0] |= {"success": success, "truncated": truncated}

    step(spoil)
    assert raw.all(files.EPISODES)[0].end == end


def test_roles_are_looked_for_after_the_run(step, raw):
    step()
    assert raw.one(files.LEFTOVERS).looked_for.processes == ROLES
