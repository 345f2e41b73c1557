"""Hundreds of broken configs, by category: each is refused with field, value, expected and fix."""

import json
from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest
from config_builders import (
    EMBEDDED,
    FLOW_NOISE,
    LIBERO,
    SECTIONS,
    bounds,
    leaves,
    outside,
    raw,
    resolved,
    with_value,
    write,
)
from config_builders import refused_by_command as refused

from pirl.config.bounds import FilledPath, Range, Words
from pirl.config.jsonfile import MAX_BYTES, MAX_DEPTH
from pirl.config.load import load_config
from pirl.errors import ConfigError

RANGES = {name: bound for name, (bound, _) in bounds().items() if isinstance(bound, Range)}
CHOICES = {
    name: bound.words
    for name, (bound, _) in bounds().items()
    if isinstance(bound, Words) and not bound.has_rule
}
PATHS = [name for name, (bound, _) in bounds().items() if isinstance(bound, FilledPath)]
FREE_TEXT = {
    f"runtime.{n}" for n in ("host", "token", "learner_device", "actor_device", "actor_devices")
}
"""Text without a bound; a rule judges each."""


@pytest.fixture(scope="module")
def tmp_path(tmp_path_factory):
    """One folder for all cases of this module: a fresh one per case costs more than the case."""
    return tmp_path_factory.mktemp("malformed")


def knobs():
    """Every knob of `pirl.config.recipe` that is not a section: dotted name and type."""
    for section, cls in SECTIONS.items():
        hints = get_type_hints(cls)
        for field in fields(cls):
            if not is_dataclass(hints[field.name]) and f"{section}.{field.name}" not in SECTIONS:
                yield f"{section}.{field.name}", str(hints[field.name])


def base_of(name):
    return FLOW_NOISE if name.startswith("pirl.flow_noise") else EMBEDDED


def numeric_knobs():
    return [name for name, kind in knobs() if "int" in kind or "float" in kind]


def unruled(name):
    # Free content (transformers, the environment), or keys with dots of their own.
    free = ("florence_config", "features", "features_map", "input_features", "output_features")
    return name.split(".")[1:2] in [[section] for section in free]


def wrong_type_cases() -> list:
    return list(_wrong_type_cases())


def _wrong_type_cases():
    for file in (EMBEDDED, LIBERO):
        for name, value in leaves(resolved(file)):
            section = name.split(".")[0]
            if section != "env" and file is LIBERO:
                continue
            if not unruled(name) and value != {}:
                yield pytest.param(file, name, id=f"{file.stem[18:]}-{name}")


@pytest.mark.parametrize(("file", "name"), wrong_type_cases())
def test_wrong_type_is_refused(file, name, tmp_path):
    errors = refused(write(tmp_path, with_value(resolved(file), name, {"surprise": [1]})))
    assert all(field == name or field.startswith(f"{name}.") for field in errors)


@pytest.mark.parametrize("name", numeric_knobs())
def test_true_is_no_number(name, tmp_path):
    tree = with_value(raw(base_of(name)), name, True)
    assert refused(write(tmp_path, tree))[name].value is True


@pytest.mark.parametrize("name", ["pirl.gamma", "runtime.actors", "seed", "policy.chunk_size"])
def test_a_text_is_no_number(name, tmp_path):
    assert refused(write(tmp_path, with_value(raw(), name, "1")))[name].value == "1"


@pytest.mark.parametrize("name", [n for n, kind in knobs() if kind == "<class 'int'>"])
def test_a_float_is_no_integer(name, tmp_path):
    assert "integer" in refused(write(tmp_path, with_value(raw(), name, 1.0)))[name].expected


def test_the_malformed_configs_are_more_than_two_hundred_of_every_kind():
    kinds = {
        "wrong type": [case.values for case in wrong_type_cases()],
        "near-miss spelling": [*RECIPES, *(name for name, _ in knobs())],
        "out of range": [(case.values[0], case.values[2]) for case in out_of_range_cases()],
        "not finite": not_finite_cases(),
        "other variant's knob": OTHER_VARIANT,
        "empty, deeply nested or no JSON object": NO_OBJECT,
    }
    for kind, cases in kinds.items():
        assert len({repr(case) for case in cases}) == len(cases) > 5, kind
    assert sum(len(cases) for cases in kinds.values()) >= 200


@pytest.mark.parametrize("name", [name for name, _ in knobs()])
def test_misspelt_knob_is_answered_with_its_name(name, tmp_path):
    section, _, leaf = name.rpartition(".")
    misspelt = f"{section}.{leaf[:-1]}{leaf[-1] * 2}"
    tree = with_value(raw(base_of(name)), misspelt, 1)
    assert repr(leaf) in refused(write(tmp_path, tree))[misspelt].fix


@pytest.mark.parametrize(
    "section",
    [
        "-",
        "pirl",
        "pirl.flow_sde",
        "pirl.last_step_std",
        "runtime",
        "env",
        "policy",
        "eval",
        "wandb",
        "job",
    ],
)
def test_unknown_key_is_refused_in_every_section(section, tmp_path):
    name = f"{section}.qqqq".removeprefix("-.")
    tree = resolved()
    assert list(refused(write(tmp_path, with_value(tree, name, None)))) == [name]


def test_knob_in_the_wrong_section_is_answered_with_its_place(tmp_path):
    errors = refused(write(tmp_path, with_value(raw(), "pirl.rollout_chunks", 8)))
    assert "runtime.rollout_chunks" in errors["pirl.rollout_chunks"].fix


def out_of_range_cases() -> list:
    return list(_out_of_range_cases())


def _out_of_range_cases():
    kinds = dict(knobs())
    for name, allowed in RANGES.items():
        for side, value in outside(allowed):
            number = int(value) if "int" in kinds[name] else float(value)
            yield pytest.param(name, kinds[name], number, id=f"{name}-{side}")


@pytest.mark.parametrize(("name", "kind", "value"), out_of_range_cases())
def test_number_out_of_range_is_refused(name, kind, value, tmp_path):
    is_list = "tuple" in kind
    shown = f"{name}.0" if is_list else name
    tree = with_value(raw(base_of(name)), name, [value, value] if is_list else value)
    error = refused(write(tmp_path, tree))[shown]
    assert error.value == value
    assert "value" in error.expected


@pytest.mark.parametrize("name", sorted(CHOICES))
@pytest.mark.parametrize("misspell", [str.upper, lambda word: "nonsense"], ids=["case", "other"])
def test_word_that_is_no_choice_is_refused(name, misspell, tmp_path):
    right = CHOICES[name][-1]
    wrong = [misspell(right)] if "tuple" in dict(knobs())[name] else misspell(right)
    error = refused(write(tmp_path, with_value(raw(base_of(name)), name, wrong)))[name]
    assert right in error.expected
    if misspell is str.upper:
        assert repr(right) in error.fix


@pytest.mark.parametrize("name", PATHS)
def test_an_empty_text_is_no_path(name, tmp_path):
    """As `--runtime.tls_cert=$CERT` of an unset variable; it served in plain text."""
    assert name in refused(write(tmp_path, with_value(raw(EMBEDDED), name, "")))


def test_every_knob_has_a_rule():
    for name, kind in knobs():
        ruled = name in bounds() or name in FREE_TEXT or "bool" in kind
        assert ruled, f"{name} has neither a range nor choices"


def not_finite_cases():
    names = [name for name in numeric_knobs() if "tuple" not in dict(knobs())[name]]
    return [(name, "NaN") for name in names] + [
        ("pirl.gamma", text) for text in ("Infinity", "-Infinity", "1e999", "-1e999")
    ]


@pytest.mark.parametrize(("name", "text"), not_finite_cases())
def test_number_that_is_not_finite_is_refused(name, text, tmp_path):
    tree = with_value(raw(base_of(name)), name, "@")
    file = write(tmp_path, json.dumps(tree).replace('"@"', text))
    assert "finite" in refused(file)[name].expected


@pytest.mark.parametrize("text", ["NaN", "[NaN]", '{"a": -Infinity}'])
def test_not_finite_hides_nowhere(text, tmp_path):
    tree = with_value(raw(), "policy.florence_config.zz", "@")
    errors = refused(write(tmp_path, json.dumps(tree).replace('"@"', text)))
    assert len(errors) == 1


NO_OBJECT = [
    "",
    "   \n",
    "{",
    "}",
    '{"recipe": }',
    '{"recipe": "pi-rl",}',
    "{'recipe': 'pi-rl'}",
    "recipe: pi-rl",
    '{"recipe": "pi-rl"} x',
    '// note\n{"recipe": "pi-rl"}',
    "null",
    "true",
    "7",
    '"pi-rl"',
    "[]",
    '[{"recipe": "pi-rl"}]',
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b'{"recipe": "\xff"}',
    b"\x89PNG\r\n\x1a\n\x00\x00",
    "[" * 100_000,
    '{"a":' * 100_000 + "1" + "}" * 100_000,
    '{"pirl":' * (MAX_DEPTH + 1) + "{}" + "}" * (MAX_DEPTH + 1),
    '{"seed": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("content", NO_OBJECT, ids=lambda content: repr(content[:24]))
def test_file_that_is_no_json_object_is_refused(content, tmp_path):
    assert list(refused(write(tmp_path, content))) == ["config_path"]


def test_huge_file_is_refused_before_it_is_parsed(tmp_path):
    file = write(tmp_path, '{"seed": "' + "x" * MAX_BYTES + '"}', "huge.json")
    assert "bytes" in refused(file)["config_path"].expected


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("", "config_path"),
        ("absent.json", "config_path"),
        ("folder", "config_path"),
        ("nul\0byte.json", "config_path"),
    ],
    ids=repr,
)
def test_path_without_a_config_is_refused(name, field, tmp_path):
    (tmp_path / "folder").mkdir(exist_ok=True)
    assert list(refused(f"{tmp_path}/{name}" if name else "")) == [field]


@pytest.mark.parametrize("section", ["", "pirl", "runtime", "policy", "env"])
def test_key_given_twice_is_refused(section, tmp_path):
    tree = with_value(raw(), f"{section}.qq" if section else "qq", 1)
    text = json.dumps(tree).replace('"qq": 1', '"seed": 1, "seed": 1')
    assert f"{section}.seed".lstrip(".") in refused(write(tmp_path, text))


def test_an_empty_object_names_no_recipe_and_so_no_run(tmp_path):
    assert load_config(write(tmp_path, {})).cfg.recipe is None


OTHER_VARIANT = [
    ("pirl.flow_noise", {}),
    ("pirl.flow_noise.noise_std_range", [0.1, 0.2]),
    ("pirl.flow_noise.noise_head_hidden", [8]),
    ("pirl.flow_noise.noise_head_detach", True),
    ("pirl.flow_noise.joint_reduction", "sum"),
    ("pirl.flow_noise.noise_lr", 1e-4),
]


@pytest.mark.parametrize(("name", "value"), OTHER_VARIANT)
def test_flow_noise_knob_under_flow_sde_is_refused(name, value, tmp_path):
    error = refused(write(tmp_path, with_value(raw(EMBEDDED), name, value)))["pirl.flow_noise"]
    assert "flow-noise" in error.expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pirl.flow_sde", {}),
        ("pirl.flow_sde.noise_method", "flow_sde"),
        ("pirl.flow_sde.noise_level", 0.5),
        ("pirl.flow_sde.w_rule", "sde"),
        ("pirl.flow_sde.stochastic_steps", "one"),
        ("pirl.flow_sde.step_sampling", "uniform"),
        ("pirl.flow_sde.step_weights", [1, 1]),
    ],
)
def test_flow_sde_knob_under_flow_noise_is_refused(name, value, tmp_path):
    error = refused(write(tmp_path, with_value(raw(FLOW_NOISE), name, value)))["pirl.flow_sde"]
    assert "flow-sde" in error.expected


RECIPES = ["pi_rl", "PI-RL", "pirl", "Pi-RL", "π-rl", "πRL", "pi rl", "pi-r1", " pi-rl", "pi--rl"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_near_miss_of_the_recipe_is_answered_with_its_spelling(recipe, tmp_path):
    error = refused(write(tmp_path, with_value(raw(), "recipe", recipe)))["recipe"]
    assert "canonical spelling is pi-rl" in error.fix


@pytest.mark.parametrize("recipe", ["sac", "ppo", "", "grpo", "none"])
def test_other_recipe_is_refused(recipe, tmp_path):
    error = refused(write(tmp_path, with_value(raw(), "recipe", recipe)))["recipe"]
    assert "SAC" in error.fix


@pytest.mark.parametrize(
    ("variant", "canonical"),
    [
        ("flow_sde", "flow-sde"),
        ("Flow-SDE", "flow-sde"),
        ("flowsde", "flow-sde"),
        ("sde", "flow-sde"),
        ("flow_noise", "flow-noise"),
        ("FLOW-NOISE", "flow-noise"),
        ("noise", "flow-noise"),
        ("flow-nois", "flow-noise"),
    ],
)
def test_near_miss_of_the_variant_is_answered_with_its_spelling(variant, canonical, tmp_path):
    error = refused(write(tmp_path, with_value(raw(), "pirl.variant", variant)))["pirl.variant"]
    assert f"canonical spelling is {canonical}:" in error.fix


@pytest.mark.parametrize("variant", [None, "", "ppo"], ids=repr)
def test_variant_has_no_default(variant, tmp_path):
    error = refused(write(tmp_path, with_value(raw(), "pirl.variant", variant)))["pirl.variant"]
    assert "flow-sde" in error.expected


@pytest.mark.parametrize("kind", ["pi-rl", "pi_rl", "pirl", "PI-RL"])
def test_recipe_is_not_a_policy_type(kind, tmp_path):
    error = refused(write(tmp_path, with_value(raw(), "policy.type", kind)))["policy.type"]
    assert "not a policy type" in error.fix


@pytest.mark.parametrize("kind", ["gaussian_actor", "act", "pi0", "smolvla", "diffusion"])
def test_other_policy_type_is_sent_to_lerobots_path(kind, tmp_path):
    error = refused(write(tmp_path, with_value(raw(), "policy", {"type": kind})))["policy.type"]
    assert "xvla" in error.expected
    assert "LeRobot's own learner and actor" in error.fix


@pytest.mark.parametrize("kind", ["x-vla", "XVLA", "xvla2"])
def test_near_miss_of_a_policy_type_is_answered_with_it(kind, tmp_path):
    error = refused(write(tmp_path, with_value(raw(), "policy.type", kind)))["policy.type"]
    assert "policy.type=xvla" in error.fix


@pytest.mark.parametrize("section", ["policy", "env"])
@pytest.mark.parametrize("value", [None, {}, {"type": None}], ids=repr)
def test_policy_and_environment_are_required(section, value, tmp_path):
    assert f"{section}.type" in refused(write(tmp_path, with_value(raw(), section, value)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("type", "PICTURE"),
        ("type", 7),
        ("shape", 64),
        ("shape", [3, "64", 64]),
        ("shape", [3.0, 64, 64]),
        ("size", 64),
    ],
)
def test_malformed_feature_is_refused(key, value, tmp_path):
    tree = raw()
    tree["policy"]["input_features"]["observation.images.image"][key] = value
    errors = refused(write(tmp_path, tree))
    assert all(field.startswith("policy.input_features.observation") for field in errors)


@pytest.mark.parametrize("text", ["[0.9, NaN]", "[0.9, 1e999]", "[0.9, Infinity]"])
def test_not_finite_does_not_hide_in_an_override(text):
    assert "finite" in refused(EMBEDDED, [f"--pirl.betas={text}"])["pirl.betas.1"].expected


def test_all_errors_are_reported_at_once(tmp_path):
    tree = raw()
    wrong = {
        "recipe": "pirl",
        "pirl.gamma": 1.5,
        "pirl.micro_batch": 7,
        "pirl.clip_lo": 0.2,
        "pirl.value_hidden": "wide",
        "runtime.mode": "synch",
        "policy.n_action_steps": 9,
        "env.task": "reach",
    }
    for name, value in wrong.items():
        tree = with_value(tree, name, value)

    errors = refused(write(tmp_path, tree), ["--pirl.betas=[0.9, NaN]", "--seed=1", "--seed=2"])
    assert set(errors) == {*wrong, "pirl.betas.1", "command line"}
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, tree))
    message = str(caught.value)
    assert message.startswith("config.json@")
    assert all(name in message for name in wrong)
    assert message.count("expected:") == message.count("fix:") == len(wrong)


@pytest.mark.parametrize(
    ("name", "value", "fields"),
    [
        ("runtime.actors", 10**9, ["runtime.actors"]),
        ("pirl.variant", "flow-noise", ["pirl.flow_sde"]),
        ("env.type", "libero", ["env.type"]),
        (
            "policy.input_features",
            {"observation.state": 1},
            ["policy.input_features.observation.state"],
        ),
    ],
)
def test_one_wrong_field_is_one_error(name, value, fields, tmp_path):
    assert list(refused(write(tmp_path, with_value(raw(), name, value)))) == fields
