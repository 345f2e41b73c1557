"""A train config in YAML means what the same text in JSON would mean, and is refused as strictly."""

import json
import math

import pytest
from config_builders import EMBEDDED, LIBERO, raw

from pirl.config.check import check_config
from pirl.config.jsonfile import JsonObject, NotFinite, read_config
from pirl.config.yamlconfig import parse_yaml_config
from pirl.errors import ConfigError


@pytest.mark.parametrize("base", [EMBEDDED, LIBERO])
def test_the_same_config_in_yaml_has_the_same_identity(base, tmp_path, monkeypatch):
    monkeypatch.chdir(base.parents[1])
    as_json, as_yaml = tmp_path / "config.json", tmp_path / "config.yaml"
    as_json.write_text(json.dumps(raw(base)))
    rows = [f"{key}: {json.dumps(value)}  # a comment" for key, value in raw(base).items()]
    as_yaml.write_text("# by hand\n" + "\n".join(rows) + "\n")
    assert (
        check_config(as_yaml).identity.hash
        == check_config(as_json).identity.hash
        != check_config(as_yaml, ["--seed=7"]).identity.hash
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-6", 1e-6),
        ("-0.5", -0.5),
        ("12", 12),
        ("null", None),
        ("", None),
        ("true", True),
        ("no", "no"),
        ("on", "on"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("'12'", "12"),
        ("[1, 2.5, x]", [1, 2.5, "x"]),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_a_plain_scalar_is_what_json_would_make_of_it(text, value):
    found = parse_yaml_config(f"key: {text}\n")["key"]
    assert found == value
    assert type(found) in (type(value), JsonObject)


@pytest.mark.parametrize("text", [".nan", "-.inf", "1e999"])
def test_a_number_that_is_not_finite_is_kept_to_be_refused(text):
    assert isinstance(parse_yaml_config(f"key: {text}\n")["key"], NotFinite)
    assert not math.isfinite(float(text.replace(".nan", "nan").replace(".inf", "inf")))


def test_a_key_that_is_given_twice_is_refused_with_its_name(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("recipe: pi-rl\nseed: 1\npirl:\n  gamma: 0.9\n  gamma: 0.8\n")
    with pytest.raises(ConfigError, match=r"pirl\.gamma = 0\.8\n  expected: each key once"):
        check_config(file)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system [echo]",
        "a: !!binary aGk=",
        "? [1, 2]\n: 3",
        "a: [",
        "- 1",
        "",
        "a: &x [*x]",
        "a: " + "[" * 50 + "]" * 50,
    ],
)
def test_what_is_no_config_of_plain_values_is_refused(text, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(text + "\n")
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert caught.value.errors[0].field == "config_path"
