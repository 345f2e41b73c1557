"""`pirl init` and `pirl doctor` with a policy and an environment from distributions of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugin_builders import a_config, write_config, write_vlm

from pirl import doors
from pirl.cli import main
from pirl.config.check import check_config
from pirl.config.kinds import EnvFacts, env_facts, policy_facts
from pirl.config.load import load_config
from pirl.contract.registry import build_flow_policy
from pirl.doctor import main as doctor
from pirl.doctor.sizes import Machine
from pirl.envs.kinds import env_kind
from pirl.gate.facts import environment_facts


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Machine, "here", staticmethod(lambda: Machine(cores=2, memory_gib=8.0)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of the plug-in as a run leaves it."""
    vlm = write_vlm(tmp_path_factory.mktemp("vlm"))
    folder = tmp_path_factory.mktemp("start")
    cfg = load_config(write_config(folder / "c.json", a_config(vlm))).cfg
    policy = build_flow_policy(
        cfg.policy, executed_dims=None, device="cpu", seed=0, train_scope="transformer"
    )
    return policy.save(folder / "pretrained_model", env_type="pointreach")


def init(checkpoint: Path, out: Path, *further: str, env: str = "pointreach") -> int:
    argv = ["--from", str(checkpoint), "--env", env, "--task", "reach-red", "--out", str(out)]
    return main(["init", *argv, *further])


def test_a_config_for_both_holds_and_asks_the_kinds(checkpoint, tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    assert init(checkpoint, out) == 0
    assert capsys.readouterr().err == ""
    cfg = check_config(out).cfg
    assert (cfg.policy.type, cfg.env.type, cfg.env.task) == ("smolvla", "pointreach", "reach-red")
    assert (cfg.env.image_size, cfg.env.episode_length) == (64, 15)
    assert (cfg.pirl.base_sampler, cfg.policy.num_steps) == ("euler", 3)
    assert cfg.runtime.rollout_chunks == cfg.runtime.envs_per_actor * 5 * 4
    assert main(["validate", "--config_path", str(out)]) == 0


def test_what_a_checkpoint_of_lerobots_has_otherwise_is_set(checkpoint, tmp_path):
    """LeRobot's own defaults pad by the batch and normalise nothing that the recipe could not use."""
    cfg = policy_facts("smolvla").config_class()(pad_language_to="longest", use_cache=False)
    rows = policy_facts("smolvla").template(cfg, without=[])
    assert ("pad_language_to", "max_length") in [row[:2] for row in rows["policy"]]
    assert ("use_cache", True) in [row[:2] for row in rows["policy"]]
    assert [row[:2] for row in rows["pirl"]] == [("base_sampler", "euler")]


def test_a_kind_without_a_template_of_its_own_gets_its_time_limit():
    found = EnvFacts.template(env_facts("pointreach"), cameras=(), picture=(64, 64))
    assert [row[:2] for row in found.env] == [("episode_length", 15)]
    assert found.control_steps == 15


def test_what_is_not_installed_is_refused_with_what_is(checkpoint, tmp_path, capsys):
    out = tmp_path / "mine.yaml"
    assert init(checkpoint, out, env="pointrich") == 2
    said = capsys.readouterr().err
    assert "none of libero, pirl_metaworld, pointreach; did you mean pointreach?" in said
    assert init(checkpoint, out, env="pirl_metaworld") == 2
    assert "reach-red" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"type": "act"}')
    assert init(tmp_path, out) == 2
    assert "a policy that the recipe trains: xvla, smolvla" in capsys.readouterr().err
    assert not out.exists()


def test_the_doctor_says_what_is_installed_and_by_whom():
    found = {check.name: check for check in doctor._kinds()}
    assert [n for n, c in found.items() if not c.ok] == []
    assert found["policy smolvla"].found == "pirl-smolvla 0.1.0: SmolVLAConfig"
    assert found["env pointreach"].found == "pirl-pointreach 0.1.0: PointReachConfig"
    assert found["env libero"].found == found["reward time_cost"].found == "built in"


def test_a_kind_that_cannot_be_imported_is_a_note_with_its_reason(monkeypatch):
    def broken() -> type:
        raise ImportError("No module named 'absent'")

    monkeypatch.setattr(
        type(doors.load(doors.ENVS, "pointreach")), "config_class", lambda _: broken()
    )
    (check,) = [c for c in doctor._kinds() if not c.ok]
    assert (check.name, check.required) == ("env pointreach", False)
    assert check.found == "pirl-pointreach 0.1.0 cannot be imported: No module named 'absent'"
    assert check.remedy == "install what pirl-pointreach 0.1.0 needs"


def test_evidence_says_where_an_environment_comes_from(checkpoint, tmp_path):
    out = tmp_path / "mine.yaml"
    init(checkpoint, out)
    cfg = load_config(out).cfg
    facts = environment_facts(cfg.env)
    assert (facts.name, facts.version) == ("pointreach", "pirl-pointreach 0.1.0")
    assert facts.assets["source"] == "the package pirl_pointreach"
    assert len(facts.assets["sha256"]) == len(facts.initial_states["split"]) == 64
    assert env_kind("pointreach").misled(cfg.env) is None
