"""Real learner and actor processes on loopback: wrong peers, a killed learner, a killed actor, `async` mode.

The processes are forked from one that has imported everything; only the simulator is a toy.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy_run import CONFIG, DEADLINE_S, UPDATES, Run, a_run, books_close, overrides, wait_for

from pirl.contract.precision import tolerances
from pirl.errors import ExitCode
from pirl.gate import forked
from pirl.journal.metric_log import read_metrics

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.usefixtures("in_repository")]


# -- wrong peers, then a valid pair ----------------------------------------------------------------


@dataclass(frozen=True)
class Refusal:
    """What a wrong actor must say: its exit code and texts that name field and both values."""

    argv: tuple[str, ...]
    code: ExitCode
    said: tuple[str, ...]


def other_variant(root: Path) -> str:
    raw = json.loads(Path(CONFIG).read_text())
    del raw["pirl"]["flow_sde"]
    raw["pirl"] |= {"variant": "flow-noise", "flow_noise": {}}
    path = root / "other_variant.json"
    path.write_text(json.dumps(raw))
    return str(path)


def refusals(root: Path) -> dict[str, Refusal]:
    elsewhere = root / "elsewhere.json"
    shutil.copy(CONFIG, elsewhere)
    common = overrides()
    same = ("--config_path", CONFIG, *common)
    mismatch, usage = ExitCode.MISMATCH, ExitCode.USAGE
    return {
        "hash": Refusal(
            (*same, "--pirl.gamma=0.5"), mismatch, ("config_hash: ours = ", ", learner = ")
        ),
        "path": Refusal(
            ("--config_path", str(elsewhere), *common),
            mismatch,
            ("config_path: ours = 'elsewhere.json@", f"learner = '{CONFIG}'"),
        ),
        "variant": Refusal(
            ("--config_path", other_variant(root), *common),
            mismatch,
            ("variant: ours = 'flow-noise', learner = 'flow-sde'",),
        ),
        "recipe": Refusal((*same, "--recipe=pi_rl"), usage, ("recipe = 'pi_rl'", "pi-rl")),
        "policy": Refusal(
            (*same, "--policy.type=gaussian_actor"),
            usage,
            ("policy.type = 'gaussian_actor'", "xvla"),
        ),
        "token": Refusal(
            (*same, "--runtime.token=not-the-token-of-this-run"),
            mismatch,
            ("runtime.token: ours = '<hidden>', theirs = '<hidden>'",),
        ),
    }


@dataclass(frozen=True)
class Baseline:
    """An uninterrupted run that wrong actors tried to join first."""

    run: Run
    codes: dict[str, int | None]
    said: dict[str, str]


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Baseline]:
    with a_run(tmp_path_factory.mktemp("runtime") / "baseline") as run:
        learner = run.learner()
        cases = refusals(run.root)

        def meet(name: str) -> int | None:
            argv = (*cases[name].argv, f"--runtime.port={run.port}")
            return forked.wait(run.start("pirl.actor", *argv, log=f"wrong-{name}"), DEADLINE_S)

        with ThreadPoolExecutor(2) as pool:
            codes = dict(zip(cases, pool.map(meet, cases), strict=True))
        said = {name: (run.root / f"wrong-{name}.log").read_text() for name in cases}
        run.expect_end(learner, *(run.actor(rank) for rank in range(2)))
        yield Baseline(run, codes, said)


@pytest.mark.parametrize("name", ["hash", "path", "variant", "recipe", "policy", "token"])
def test_a_wrong_actor_ends_with_its_code_and_names_the_field_with_both_values(
    baseline: Baseline, name: str
):
    wanted = refusals(baseline.run.root)[name]
    assert baseline.codes[name] == wanted.code, baseline.said[name]
    assert [text for text in wanted.said if text not in baseline.said[name]] == []
    assert "not-the-token" not in baseline.said[name]


def test_the_learner_that_refused_them_counts_them_and_trains_with_a_valid_pair(baseline: Baseline):
    record = baseline.run.record()
    # Recipe and policy never get as far as the learner.
    assert record["server"]["handshakes_refused_mismatch"] == 3
    assert record["server"]["handshakes_refused_token"] == 1
    assert record["books"]["updates"] == UPDATES
    actors = [baseline.run.actor_record(rank) for rank in range(2)]
    sent = sum(actor["totals"]["decisions_sent"] for actor in actors)
    assert sent == record["counters"]["received"] == record["counters"]["consumed"]


def test_each_version_is_published_once_with_trained_tensors_only(baseline: Baseline):
    record = baseline.run.record()
    assert record["books"]["versions_published"] == list(range(UPDATES))
    assert record["server"]["published_versions"] == UPDATES
    trained = record["tensors"]["before"]["trained"]
    assert record["tensors"]["before"]["frozen"] == record["tensors"]["after"]["frozen"]
    assert all(record["tensors"]["after"]["trained"][name] != trained[name] for name in trained)


def test_pictures_travel_as_uint8_and_one_time_each(baseline: Baseline):
    counters = baseline.run.record()["counters"]
    picture_bytes = 3 * 64 * 64
    # A second copy as `next_state` alone would reach this bound; float32 would be four times as much.
    assert counters["bytes_received"] < 2 * picture_bytes * counters["received"]


LEARNER_STAGES = ("wait", "preprocess", "update", "publish", "checkpoint")
ACTOR_STAGES = ("env_step", "render", "preprocess", "infer", "encode", "send", "wait", "reset")


def test_both_sides_time_every_stage(baseline: Baseline):
    folder = baseline.run.folder
    paths = [(folder.learner_metrics, LEARNER_STAGES)]
    paths += [(folder.actor_metrics(rank), ACTOR_STAGES) for rank in range(2)]
    for path, stages in paths:
        # Not every row has every stage: the last version is not published, a save is in the row after it.
        seen: set[str] = set().union(*(row.metrics for row in read_metrics(path)))
        assert [name for name in stages if f"time/{name}_s" not in seen] == [], path


# -- a learner that dies ---------------------------------------------------------------------------


def test_actors_outlive_a_killed_learner_and_the_resumed_run_is_bit_identical(
    baseline: Baseline, tmp_path: Path
):
    with a_run(tmp_path / "killed") as run:
        learner = run.learner()
        actors = [run.actor(rank, pace_s=0.3) for rank in range(2)]
        wait_for(lambda: run.has_checkpoint(2) or learner.poll() is not None)
        # The rollout of version 2 takes over a second: the learner dies in the middle of it.
        time.sleep(0.4)
        learner.kill()
        forked.exit_code(learner, 10.0)
        assert not run.folder.run_record.exists()
        run.expect_end(run.learner(resume=True), *actors)
        record = run.record()
        before = baseline.run.record()
        assert record["digests_after"] == before["digests_after"]
        assert run.exact_metrics() == baseline.run.exact_metrics()
        for rank in range(2):
            actor = run.actor_record(rank)
            assert actor["totals"]["reconnects"] == 1
            # The version under way is played again; the last one only says that the run is over.
            versions = actor["totals"]["versions_received"]
            assert sorted(set(versions)) == list(range(UPDATES + 1))
            assert len(versions) == UPDATES + 2
            assert actor["met_identity"] == record["identity"]
        assert record["identity"]["config_path"] == CONFIG


def test_an_actor_that_may_not_wait_for_its_learner_ends_with_the_reason(tmp_path: Path):
    with a_run(tmp_path / "lost", runtime_reconnect_s="0") as run:
        learner = run.learner()
        actors = [run.actor(rank, pace_s=0.3) for rank in range(2)]
        wait_for(lambda: run.has_checkpoint(1) or learner.poll() is not None)
        learner.kill()
        codes = [forked.wait(actor, DEADLINE_S) for actor in actors]
        assert codes == [ExitCode.CHECK_FAILED] * 2
        for rank in range(2):
            last = (run.root / f"actor-{rank}.log").read_text().splitlines()[-1]
            assert last.startswith("error: ")
            assert "died" in last


# -- an actor that dies ----------------------------------------------------------------------------


def test_a_killed_actor_is_replaced_by_hand_and_the_weights_are_the_same(
    baseline: Baseline, tmp_path: Path
):
    with a_run(tmp_path / "replaced") as run:
        learner = run.learner()
        survivor, victim = run.actor(0), run.actor(1, pace_s=0.3)
        wait_for(lambda: run.has_checkpoint(1) or learner.poll() is not None)
        time.sleep(0.7)
        victim.kill()
        forked.exit_code(victim, 10.0)
        run.expect_end(run.actor(1, log="replacement"), learner, survivor)
        record = run.record()
        counters = record["counters"]
        assert books_close(counters)
        after, wanted = record["digests_after"], baseline.run.record()["digests_after"]
        same = [name for name in wanted if name != "counters"]
        assert {name: after[name] for name in same} == {name: wanted[name] for name in same}
        # All that was dropped is what the victim had sent of its last version.
        assert counters["dropped"] == counters.get("dropped_actor_lost", 0)
        assert counters["consumed"] == baseline.run.record()["counters"]["consumed"]
        assert record["server"]["actors_lost"] == 3


@pytest.mark.parametrize(
    ("lie", "said"), [("env_steps", "env steps"), ("log_prob", "its recorded log-prob is")]
)
def test_a_lying_actor_costs_itself_and_its_replacement_gives_the_same_weights(
    baseline: Baseline, tmp_path: Path, lie: str, said: str
):
    with a_run(tmp_path / "liar") as run:
        learner, honest = run.learner(), run.actor(0)
        liar = run.actor(1, lies=lie, log="liar")
        # A refusal of its message is final: it does not come back although it may reconnect.
        assert forked.wait(liar, DEADLINE_S) == ExitCode.CHECK_FAILED
        assert said in (run.root / "liar.log").read_text()
        run.expect_end(run.actor(1, log="replacement"), learner, honest)
        record, before = run.record(), baseline.run.record()
        counters = record["counters"]
        assert books_close(counters)
        assert counters["dropped"] == counters[f"dropped_{lie}"] > 0
        assert counters["consumed"] == before["counters"]["consumed"]
        assert record["server"][f"messages_refused_{lie}"] == 1
        same = [name for name in before["digests_after"] if name != "counters"]
        after = record["digests_after"]
        assert {n: after[n] for n in same} == {n: before["digests_after"][n] for n in same}


def test_with_scope_all_the_vision_part_moves_and_the_actors_follow_it(tmp_path: Path):
    """The live parity check would end the run if an actor encoded with another vision part."""
    with a_run(tmp_path / "scope", pirl_train_scope="all", runtime_total_updates="2") as run:
        run.expect_end(run.learner(), *(run.actor(rank) for rank in range(2)))
        tensors = run.record()["tensors"]
        assert tensors["after"]["frozen"] == {}
        moved = [
            n
            for n, d in tensors["before"]["trained"].items()
            if tensors["after"]["trained"][n] != d
        ]
        assert set(moved) == set(tensors["before"]["trained"])
        assert any(name.startswith("model.vlm.vision_tower.") for name in moved)
        rows = [row.metrics for row in read_metrics(run.folder.learner_metrics)]
        assert all(row["update/parity_max_abs"] < 1e-3 for row in rows)


def test_with_the_frozen_part_in_bfloat16_log_probs_agree_and_nothing_frozen_moves(tmp_path: Path):
    with a_run(tmp_path / "half", pirl_precision="bf16-frozen", runtime_total_updates="2") as run:
        run.expect_end(run.learner(), *(run.actor(rank) for rank in range(2)))
        tensors = run.record()["tensors"]
        assert tensors["after"]["frozen"] == tensors["before"]["frozen"]
        rows = [row.metrics for row in read_metrics(run.folder.learner_metrics)]
        limit = tolerances("bf16-frozen", device="cpu")
        assert all(row["update/parity_max_abs"] <= limit.parity for row in rows)
        assert all(row["update/ratio_first_max_abs"] <= limit.ratio for row in rows)


# -- async mode ------------------------------------------------------------------------------------


def test_async_bounds_staleness_and_counts_what_is_too_old(tmp_path: Path):
    updates = 8
    with a_run(tmp_path / "async", runtime_mode="async", runtime_total_updates=f"{updates}") as run:
        # One quick actor drives the versions; an episode of the slow one outlasts several of them.
        run.expect_end(run.learner(), run.actor(0, pace_s=0.05), run.actor(1, pace_s=1.2))
        record = run.record()
        counters = record["counters"]
        rows = [row.metrics for row in read_metrics(run.folder.learner_metrics)]
        assert len(rows) == updates
        assert max(row["version/lag_max"] for row in rows) == 1.0
        assert all(row["update/behave_weight_mean"] > 0 for row in rows)
        assert any(row["update/behave_weight_max"] != 1.0 for row in rows)
        assert counters["dropped_stale"] > 0
        reasons = {name for name in counters if name.startswith("dropped_")}
        assert reasons <= {"dropped_stale", "dropped_run_ended"}
        assert books_close(counters)
        sent = [run.actor_record(rank)["totals"]["decisions_sent"] for rank in range(2)]
        assert sum(sent) == counters["received"]
        episodes = [json.loads(line) for line in run.folder.episodes.read_text().splitlines()]
        assert sum(e["decisions"] for e in episodes) == counters["consumed"]
        assert len({(e["policy_version"], e["episode_id"]) for e in episodes}) == len(episodes)
        assert all(0 <= e["update"] - 1 - e["policy_version"] <= 1 for e in episodes)
