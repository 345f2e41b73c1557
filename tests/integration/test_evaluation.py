"""Evaluation on the real MetaWorld: one schedule, one result, however the episodes are spread over slots."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace

import pytest
import torch

from pirl.config.load import load_config, write_resolved
from pirl.config.train import policy_of
from pirl.envs import make_vector_env
from pirl.errors import ExitCode
from pirl.evaluation import checkpoint as checkpoint_module
from pirl.evaluation import main as evaluation
from pirl.evaluation.checkpoint import Protocol, evaluate_checkpoint, prepare
from pirl.evaluation.crashes import is_crashed
from pirl.evaluation.main import main
from pirl.guard import run_guarded
from pirl.journal.media import BLANK_SPREAD, inspect_video
from pirl.policies.xvla.build import build_policy

pytestmark = pytest.mark.integration
CONFIG = "configs/train_config_pirl_embedded.json"
# Two decisions an episode.
PROTOCOL = Protocol(episodes_per_task=5, seed=3, num_envs=2, num_workers=0)


@pytest.fixture(scope="module")
def cfg():
    return load_config(CONFIG, ["--env.episode_length=40"]).cfg


@pytest.fixture(scope="module")
def checkpoint(cfg, tmp_path_factory):
    policy = build_policy(policy_of(cfg), executed_dims=None, device="cpu", seed=1)
    return policy.save(tmp_path_factory.mktemp("policy"), env_type="pirl_metaworld")


def run(checkpoint, cfg, **changes):
    """Records, and every action and final state bit by episode."""
    bits = {}

    def keep(episode):
        steps = episode.transitions
        last = steps[-1]["next_state"]["observation.state"]
        bits[episode.record.init_state_id] = torch.cat([s["action"] for s in steps]), last

    records = evaluate_checkpoint(
        checkpoint, cfg, protocol=replace(PROTOCOL, **changes), on_episode=keep
    )
    return records, bits


@pytest.fixture(scope="module")
def reference(checkpoint, cfg):
    return run(checkpoint, cfg)


@pytest.mark.parametrize(("num_envs", "num_workers"), [(1, 0), (3, 2)])
def test_slots_and_workers_change_no_bit_of_an_evaluation(
    checkpoint, cfg, reference, num_envs, num_workers
):
    records, bits = run(checkpoint, cfg, num_envs=num_envs, num_workers=num_workers)
    assert records == reference[0]
    for state, (actions, last) in reference[1].items():
        assert torch.equal(bits[state][0], actions)
        assert torch.equal(bits[state][1], last)


def test_a_killed_simulator_is_one_failed_episode_and_changes_no_other(
    checkpoint, cfg, reference, monkeypatch
):
    """Its process dies between the second and the third episode."""
    built, crashes = [], {}

    def remember(*args, **given):
        built.append(make_vector_env(*args, **given))
        return built[-1]

    def kill_once(episode):
        if len(built) == 1 and episode.record.episode_id == 1:
            os.kill(built[0]._hosts[0].pid, signal.SIGKILL)

    monkeypatch.setattr(checkpoint_module, "make_vector_env", remember)
    protocol = replace(PROTOCOL, num_envs=1, num_workers=1)
    records = checkpoint_module.run(
        prepare(checkpoint, cfg, protocol=protocol, device="cpu"),
        on_episode=kill_once,
        on_crash=lambda record, why: crashes.update({record.episode_id: why}),
    )
    assert [is_crashed(record) for record in records] == [False, False, True, False, False]
    others = [0, 1, 3, 4]
    assert [records[i] for i in others] == [reference[0][i] for i in others]
    assert list(crashes) == [2]
    assert crashes[2].startswith("simulator worker died while resetting task 'button-press")
    assert len(built) == 2


def test_an_episode_is_the_same_in_a_longer_schedule(checkpoint, cfg, reference):
    records, _ = run(checkpoint, cfg, episodes_per_task=2)
    assert records == reference[0][:2]


def test_another_seed_draws_other_start_noise_on_the_same_states(checkpoint, cfg, reference):
    records, bits = run(checkpoint, cfg, seed=4, episodes_per_task=1)
    assert records[0].init_state_id == reference[0][0].init_state_id
    state = records[0].init_state_id
    assert not torch.equal(bits[state][0], reference[1][state][0])


def command(capsys, *argv):
    """Exit code, and the answer as JSON."""
    code = run_guarded(main, [*argv, "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None


def test_two_checkpoints_are_evaluated_verified_and_compared_by_command(
    checkpoint, cfg, tmp_path, capsys
):
    # The other one has its own sampler settings, and the config lies beside the weights.
    other = shutil.copytree(checkpoint, tmp_path / "other")
    settings = json.loads((other / "config.json").read_text())
    settings |= {"n_action_steps": 2, "num_denoising_steps": 3}
    (other / "config.json").write_text(json.dumps(settings))
    infos = {}
    for name, policy in (("a", checkpoint), ("b", other)):
        write_resolved(cfg, policy / "train_config.json")
        arguments = ("--policy_path", str(policy), "--out", str(tmp_path / name))
        code, infos[name] = command(
            capsys, *arguments, "--episodes-per-task=2", "--num-workers=0", "--videos=1"
        )
        assert code == ExitCode.OK
    assert infos["a"]["overall"]["episodes"] == 2
    assert infos["a"]["identity"]["split"]["label"] == "heldout"
    # 40 simulator steps are 8 actions.
    assert [f["decisions"] for f in infos["a"]["failures"]] == [2, 2]
    assert [f["decisions"] for f in infos["b"]["failures"]] == [4, 4]
    assert infos["b"]["identity"]["sampler"]["denoising_steps"] == 3
    film = tmp_path / "a" / infos["a"]["videos"][0]["file"]
    assert inspect_video(film).spread > BLANK_SPREAD
    text = (tmp_path / "a" / "eval_info.json").read_text()
    assert str(tmp_path) not in text

    assert command(capsys, "--verify", str(tmp_path / "a"))[0] == ExitCode.OK
    code, compared = command(capsys, "--compare", str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == ExitCode.OK
    assert compared["overall"]["neither"] == compared["overall"]["pairs"] == 2
    assert compared["overall"]["p_value"] == 1.0
    assert {d["field"] for d in compared["differences"]} == {
        "sampler.denoising_steps",
        "sampler.n_action_steps",
    }
    film.write_bytes(film.read_bytes()[:-1])
    assert command(capsys, "--verify", str(tmp_path / "a"))[0] == ExitCode.CHECK_FAILED


def test_a_stopped_evaluation_keeps_its_records_and_says_so(
    checkpoint, cfg, tmp_path, capsys, monkeypatch
):
    write_resolved(cfg, tmp_path / "config.json")
    given = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    append = evaluation.append_record

    def append_and_stop(root, record):
        append(root, record)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(evaluation, "append_record", append_and_stop)
    arguments = ("--policy_path", str(checkpoint), "--config_path", str(tmp_path / "config.json"))
    try:
        code, _ = command(capsys, *arguments, "--out", str(tmp_path / "out"), "--num-workers=0")
    finally:
        for signum, handler in given.items():
            signal.signal(signum, handler)
    assert code == ExitCode.INTERRUPTED
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["role"], record["exit_reason"]) == ("eval", "interrupted")
    assert len((tmp_path / "out" / "episodes.jsonl").read_text().splitlines()) == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "episodes.jsonl",
        "run.json",
        "schedule.json",
    ]


def test_the_peer_comparable_split_is_labelled(checkpoint, cfg):
    evaluation = prepare(checkpoint, cfg, protocol=replace(PROTOCOL, split="all"), device="cpu")
    assert evaluation.split.label == "all (peer-comparable, overlaps training)"
    assert evaluation.plans[0].init_state_id < 2**30
