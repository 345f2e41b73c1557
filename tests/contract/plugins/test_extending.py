"""The page `docs/extending.md`: its code, installed as it says, keeps the contract and trains."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from pirl import doors
from pirl.config.load import load_config
from pirl.contract.check import check_flow_policy
from pirl.envs import load_split, make_vector_env
from pirl.runtime import check_policy
from pirl.runtime.batch import build_batch
from pirl.runtime.rewards import build_reward
from pirl.runtime.rollout import Placement, RolloutCollector
from pirl.runtime.session import build_session

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"
BLOCKS = dict(re.findall(r"```\w+ title=\"([\w.]+)\"\n(.*?)```", PAGE.read_text(), re.DOTALL))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The package of the page on the path, with its entry points; the config file of the page."""
    site = tmp_path_factory.mktemp("page")
    (site / "pirl_example").mkdir()
    (site / "pirl_example" / "__init__.py").touch()
    for name, code in BLOCKS.items():
        (site / "pirl_example" / name).write_text(code)
    info = site / "pirl_example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pirl-example\nVersion: 1.0\n")
    entries = BLOCKS["pyproject.toml"].replace('project.entry-points."', "").replace('"]', "]")
    (info / "entry_points.txt").write_text(entries.replace('"', ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        doors._offers.cache_clear()
        yield site / "pirl_example" / "config.json"
    doors._offers.cache_clear()
    for name in [name for name in sys.modules if name.startswith("pirl_example")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def session(config):
    return build_session(load_config(config), device="cpu", run_id="page")


def test_the_page_has_every_file_that_it_speaks_of():
    assert BLOCKS.keys() == {"pyproject.toml", "closer.py", "line.py", "policy.py", "config.json"}


def test_the_policy_of_the_page_keeps_every_clause_and_samples_as_its_stock_class(
    config, session, capsys
):
    observation = check_policy.artificial(
        session.policy, doors.load(doors.ENVS, "line").info(session.loaded.cfg.env)
    )
    report = check_flow_policy(session.policy, observation)
    assert [(r.name, r.detail) for r in report.results if r.detail] == []
    assert check_policy.main(["--config_path", str(config)]) == 0
    assert "stock-sampler" in capsys.readouterr().out


def test_a_policy_that_samples_otherwise_than_its_stock_class_fails_the_check(
    config, session, capsys, monkeypatch
):
    monkeypatch.setattr(type(session.policy), "sampler", "native")
    assert check_policy.main(["--config_path", str(config), "--json"]) == 1
    assert '"status": "broken"' in capsys.readouterr().out


def test_all_three_train_together(session, tmp_path):
    cfg, policy, algorithm = session.loaded.cfg, session.policy, session.algorithm
    split = load_split("line")
    assert session.identity.reward == "closer weight=0.25"
    assert session.schema.info["pirl_step_rewards"].high == 1.5
    with make_vector_env(
        cfg.env, num_envs=2, num_workers=0, image_keys=policy.cameras, split=split
    ) as env:
        collector = RolloutCollector(
            policy=policy,
            noise_head=algorithm.noise_head,
            env=env,
            pirl=cfg.pirl,
            placement=Placement(seed=1, rank=0, num_actors=1, split=split),
            reward=build_reward(cfg, env.info),
        )
        episodes = list(collector.collect(version=0, min_decisions=16))
    transitions = [t for episode in episodes for t in episode.transitions]
    for row, transition in enumerate(transitions):
        session.schema.check(transition, row)
    assert any(0 < abs(t["reward"]) < 1 for t in transitions)
    algorithm.make_optimizers_and_scheduler()
    before = algorithm.get_weights()
    algorithm.update(iter([build_batch(transitions, policy_version=0, inputs=policy.inputs)]))
    after = algorithm.get_weights()
    assert all(not before[name].equal(after[name]) for name in before)
    folder = policy.save(tmp_path / "saved", env_type="line")
    stock = doors.load(doors.POLICIES, "affine").load_stock(folder)
    assert stock.state_dict()["head.weight"].equal(policy.module.state_dict()["head.weight"])
