"""The split of initial states: built in, from a file, refused, digested."""

import json

import pytest

from pirl.envs.split import (
    DEMO_SEEDS,
    HELDOUT_SEEDS,
    TRAIN_SEEDS,
    assert_allowed,
    load_split,
    split_digest,
)
from pirl.errors import ConfigError
from pirl.records import EpisodePlan


def plan(state: int, *, seed: int = 7) -> EpisodePlan:
    return EpisodePlan(task_id=0, init_state_id=state, seed=seed, episode_id=0)


def refused(split, state: int, *, seed: int = 7) -> str:
    with pytest.raises(ConfigError) as caught:
        assert_allowed(plan(state, seed=seed), split=split, task="libero_10/0")
    return str(caught.value)


def write(tmp_path, content) -> str:
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_training_refuses_a_held_out_state_with_a_remedy():
    split = load_split("libero", mode="train")
    assert_allowed(plan(0), split=split, task="libero_10/0")
    assert_allowed(plan(39), split=split, task="libero_10/0")
    for state in (40, 49):
        text = refused(split, state)
        assert f"init_state_id = {state}" in text
        assert "0-39" in text
        assert "held-out states are for evaluation only" in text


def test_held_out_mode_refuses_a_training_state():
    split = load_split("libero", mode="heldout")
    assert_allowed(plan(40), split=split, task="libero_10/0")
    assert "init_state_id = 39" in refused(split, 39)


def test_mode_all_takes_every_state_and_is_labelled():
    split = load_split("libero", mode="all")
    for state in (0, 39, 40, 49):
        assert_allowed(plan(state), split=split, task="libero_10/0")
    assert "50" in refused(split, 50)
    assert "peer-comparable" in split.label
    assert load_split("libero", mode="train").label == "train"


@pytest.mark.parametrize("state", [-1, 50, 1000])
@pytest.mark.parametrize("mode", ["train", "heldout", "all"])
def test_states_that_do_not_exist_are_refused(mode, state):
    assert str(state) in refused(load_split("libero", mode=mode), state)


def test_metaworld_seed_ranges_are_disjoint_and_refused_across():
    assert DEMO_SEEDS.stop <= TRAIN_SEEDS.start
    assert TRAIN_SEEDS.stop <= HELDOUT_SEEDS.start
    split = load_split("pirl_metaworld", mode="train")
    for state in (DEMO_SEEDS[5], HELDOUT_SEEDS[0]):
        assert str(state) in refused(split, state, seed=state)
    inside = TRAIN_SEEDS[123]
    assert_allowed(plan(inside, seed=inside), split=split, task="push-v3")


def test_on_metaworld_a_seed_cannot_differ_from_its_state():
    split = load_split("pirl_metaworld", mode="train")
    assert "plan.seed" in refused(split, TRAIN_SEEDS[0], seed=HELDOUT_SEEDS[0])


def test_a_file_gives_rules_per_task(tmp_path):
    path = write(
        tmp_path,
        {
            "tasks": {
                "*": {"train": "0-9", "heldout": "10-19"},
                "libero_10/0": {"train": [3, 1], "heldout": [2]},
            }
        },
    )
    split = load_split("libero", mode="train", split_file=path)
    assert [split.state("libero_10/0", k) for k in range(split.count("libero_10/0"))] == [1, 3]
    assert split.count("libero_10/1") == 10
    assert "init_state_id = 2" in refused(split, 2)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ({"train": "0-40", "heldout": "40-49"}, "no state in both sets"),
        ({"train": [], "heldout": "40-49"}, "tasks.*.train"),
        ({"train": "0-39", "heldout": "40-50"}, "tasks.*.heldout"),
        ({"train": "0-39", "heldout": [True]}, "tasks.*.heldout"),
        ({"train": "0-39"}, "train and heldout"),
        ({"train": "0-39", "heldout": "40-49", "test": "1"}, "train and heldout"),
        ({"train": "39-0", "heldout": "40-49"}, "tasks.*.train"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, rules, named):
    with pytest.raises(ConfigError) as caught:
        load_split("libero", split_file=write(tmp_path, {"tasks": {"*": rules}}))
    assert named in str(caught.value)


def test_a_missing_file_and_a_missing_default_rule_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="split_file"):
        load_split("libero", split_file=str(tmp_path / "none.json"))
    with pytest.raises(ConfigError, match=r"'\*'"):
        load_split("libero", split_file=write(tmp_path, {"tasks": {}}))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="train, heldout, all"):
        load_split("libero", mode="test")


def test_all_problems_of_a_file_are_reported_together(tmp_path):
    wrong = {"train": [99], "heldout": "x"}
    with pytest.raises(ConfigError) as caught:
        load_split("libero", split_file=write(tmp_path, {"tasks": {"*": wrong, "a": wrong}}))
    assert len(caught.value.errors) == 4


def test_the_digest_names_the_rules_and_not_the_mode(tmp_path):
    train = load_split("libero", mode="train")
    assert split_digest(train) == split_digest(load_split("libero", mode="heldout"))
    path = write(tmp_path, {"tasks": {"*": {"train": "0-38", "heldout": "40-49"}}})
    assert split_digest(train) != split_digest(load_split("libero", split_file=path))
    path = write(tmp_path, {"tasks": {"*": {"train": "0-39", "heldout": "40-48"}}})
    assert split_digest(train) != split_digest(load_split("libero", split_file=path))
    same = write(
        tmp_path, {"tasks": {"*": {"train": list(range(40)), "heldout": list(range(40, 50))}}}
    )
    assert split_digest(train) == split_digest(load_split("libero", split_file=same))


def test_positions_enumerate_exactly_the_allowed_states():
    for mode, expected in (("train", 40), ("heldout", 10), ("all", 50)):
        split = load_split("libero", mode=mode)
        states = [split.state("t", k) for k in range(split.count("t"))]
        assert len(states) == len(set(states)) == expected
        assert all(split.is_allowed("t", state) for state in states)
