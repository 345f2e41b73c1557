"""`pirl config --schema`: it takes every shipped config, and refuses what the rules refuse."""

import json
from functools import cache

import pytest
from config_builders import CONFIGS, EMBEDDED, FLOW_NOISE, bounds, outside, raw, with_value
from config_builders import refused_by_command as refused
from config_builders import write as write_config
from jsonschema import Draft202012Validator

from pirl.cli import main
from pirl.config.bounds import FilledPath, Range, Words
from pirl.config.fields import all_fields
from pirl.config.json_schema import SCHEMA_VERSION, train_config_schema
from pirl.config.rules_fields import LEROBOTS
from pirl.envs.metaworld import MAX_SIM_STEPS


@cache
def schema():
    return train_config_schema()


def fits(tree):
    return Draft202012Validator(schema()).is_valid(tree)


def nodes(name):
    """What the schema says of a dotted field, under each choice that has it."""
    found = [schema()]
    for part in name.split("."):
        inner = []
        for node in found:
            for one in alternatives(node):
                if part in one.get("properties", {}):
                    inner.append(one["properties"][part])
        found = inner
    return [one for node in found for one in alternatives(node)]


def defaulted(name):
    """The places that declare a field, before they branch."""
    *sections, leaf = name.split(".")
    holders = nodes(".".join(sections)) if sections else [schema()]
    return [h["properties"][leaf] for h in holders if leaf in h.get("properties", {})]


def alternatives(node):
    if "anyOf" not in node:
        return [node]
    return [one for inner in node["anyOf"] for one in alternatives(inner)]


def numbers(node):
    """The parts of a field's schema that hold the number itself: it, its items, its places."""
    parts = [node, node.get("items"), *node.get("prefixItems", [])]
    return [p for p in parts if isinstance(p, dict) and "array" not in p.get("type", "")]


def file_of(name):
    return FLOW_NOISE if name.startswith("pirl.flow_noise") else EMBEDDED


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("train_config*.json")), ids=lambda f: f.stem)
def test_every_shipped_config_fits(file):
    errors = Draft202012Validator(schema()).iter_errors(json.loads(file.read_text()))
    assert [(list(e.path), e.message) for e in errors] == []


def test_the_command_prints_a_schema_of_the_draft_that_it_names(capsys):
    assert main(["config", "--schema"]) == 0
    told = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(told)
    assert told["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    assert told["schema_version"] == SCHEMA_VERSION == 1
    assert told == json.loads(json.dumps(schema()))


def test_every_field_of_the_list_is_in_it_with_its_default_and_meaning():
    # A section that the recipe does not read is null as a whole.
    unread = ("peft.", "sample_weighting.", "optimizer.", "scheduler.", "algorithm.")
    # Its default is another one on another machine.
    machines = "dataset.video_backend"
    for field in all_fields():
        if field.name.startswith(unread) or field.name == "reward_model.type":
            continue
        found = nodes(field.name)
        assert found, field.name
        if field.default and field.name != machines:
            defaults = [n["default"] for n in defaulted(field.name) if "default" in n]
            assert json.loads(field.default) in defaults, field.name
        if field.meaning:
            assert field.meaning in [node.get("description") for node in defaulted(field.name)]


@pytest.mark.parametrize("name", sorted(bounds()))
def test_every_bound_of_a_field_is_in_it(name):
    bound, _ = bounds()[name]
    (node,) = [n for n in nodes(name) if n.get("type") != "null"]
    if isinstance(bound, FilledPath):
        assert node["minLength"] == 1
        return
    if isinstance(bound, Words):
        (part,) = [p for p in numbers(node) if "enum" in p]
        assert [word for word in part["enum"] if word is not None] == list(bound.words)
        return
    low = "exclusiveMinimum" if bound.low_open else "minimum"
    high = "exclusiveMaximum" if bound.high_open else "maximum"
    for part in numbers(node):
        assert part[low] == bound.low
        assert part.get(high, float("inf")) == bound.high
    assert node.get("unit", "") == bound.unit


@pytest.mark.parametrize("name", LEROBOTS)
def test_bounds_of_lerobots_fields_are_in_it(name):
    for node in nodes(name):
        assert isinstance(node["minimum"], int), name
        assert node["maximum"] > node["minimum"]


def outside_cases():
    for name, (bound, kind) in bounds().items():
        if isinstance(bound, Range):
            for side, value in outside(bound):
                number = int(value) if "int" in kind else float(value)
                wrong = [number, number] if "tuple" in kind else number
                yield pytest.param(file_of(name), name, wrong, id=f"{name}-{side}")
        elif isinstance(bound, Words):
            wrong = ["nonsense"] if "tuple" in kind else "nonsense"
            yield pytest.param(file_of(name), name, wrong, id=name)
        else:
            yield pytest.param(file_of(name), name, "", id=name)


@pytest.mark.parametrize(("file", "name", "wrong"), list(outside_cases()))
def test_a_value_outside_its_bound_does_not_fit(file, name, wrong):
    """`test_config_malformed` has the same values refused by the rules."""
    assert not fits(with_value(raw(file), name, wrong))


WRONG = [
    ("env.image_size", 15),
    ("env.image_size", 481),
    ("env.action_repeat", 0),
    ("env.action_repeat", 81),
    ("env.episode_length", MAX_SIM_STEPS + 1),
    ("env.episode_lengths", [MAX_SIM_STEPS + 1]),
    ("env.camera", "corner9"),
    ("recipe", "pi_rl"),
    ("steps", 5),
    ("pirl.gama", 0.9),
    ("pirl.gamma", "0.9"),
    ("runtime.actors", 1.5),
    ("env.type", "pusht"),
    ("policy.type", "act"),
    ("policy.push_to_hub", True),
    ("pirl.betas", [0.9, 0.9, 0.9]),
    ("pirl.flow_sde", []),
    *((name, int(value)) for name, bound in LEROBOTS.items() if name.startswith("policy.")
      for _, value in outside(bound)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_what_the_schema_refuses_the_rules_refuse(name, wrong, tmp_path):
    broken = with_value(raw(), name, wrong)
    assert not fits(broken)
    section = name.split(".")[0]
    assert any(field.startswith(section) for field in refused(write_config(tmp_path, broken)))


def test_a_config_that_is_not_of_the_recipe_does_not_fit():
    tree = raw()
    del tree["recipe"]
    assert not fits(tree)
    assert not fits({})
    assert fits(raw())
