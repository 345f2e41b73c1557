"""Both doors to structured files: bounded in size, depth and aliases; what is no file is not waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pirl.config.jsonfile import find_config_file, read_config
from pirl.config.routing import is_pi_rl
from pirl.config.strictjson import MAX_DEPTH, parse_json, read_json
from pirl.config.yamlfile import read_section, read_yaml
from pirl.errors import ConfigError

ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGE_BOMB = "a: &a {k: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{','.join([f'*{old}'] * 9)}]}}\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_YAML = {
    "a bomb of aliases": (ALIAS_BOMB.encode(), "aliases"),
    "a bomb of merged keys": (MERGE_BOMB.encode(), "aliases"),
    "an alias of itself": (b"a: &a [*a]", "alias of itself"),
    "deep": (b"[" * 200 + b"]" * 200, "deep"),
    "too deep to parse": (b"[" * 1000, "deep"),
    "not utf-8": (b"gate: \xff", "utf-8"),
    "not yaml": (b"gate: [", "expected"),
    "two documents": (b"--- 1\n--- 2\n", "document"),
    "an object": (b"!!python/object/apply:os.system ['true']", "constructor"),
    "large": (b"#" * (2**18 + 1), "larger"),
    "a control character": (b"gate: \x07", "special characters"),
}


@pytest.mark.parametrize("kind", BAD_YAML)
def test_yaml_that_no_one_meant_is_refused_with_the_reason(kind: str, tmp_path: Path):
    content, word = BAD_YAML[kind]
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=word):
        read_yaml(file)
    with pytest.raises(ConfigError, match="--params") as caught:
        read_section(file, "gate", field="--params")
    assert "params.yaml" in str(caught.value)


@pytest.mark.parametrize("content", ["", "[1, 2]", "3", "text", "gate: 3", "gate: [1]"])
def test_yaml_without_sections_is_refused(content: str, tmp_path: Path):
    file = tmp_path / "params.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match="--params"):
        read_section(file, "gate", field="--params")


def test_anchors_and_merged_keys_of_ordinary_size_work(tmp_path: Path):
    file = tmp_path / "params.yaml"
    file.write_text("gate: {a: &x {k: 1}, b: {<<: *x, l: 2}}\n")
    assert read_section(file, "gate", field="x") == {"a": {"k": 1}, "b": {"k": 1, "l": 2}}
    assert read_section(file, "absent", field="x") == {}
    file.write_text(f"gate: {{a: [{','.join('0' * 5000)}]}}\n")
    assert len(read_section(file, "gate", field="x")["a"]) == 5000


def test_parameters_that_are_not_there_are_an_error_with_what_to_do(tmp_path: Path):
    with pytest.raises(ConfigError, match="repository root"):
        read_section(tmp_path / "params.yaml", "gate", field="params")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), '{"a":1,"a":2}', "NaN",
     "-Infinity", "1e999", "1" * 10_000, b"\xff", '"\x01"'],
    ids=range(11),
)  # fmt: skip
def test_json_that_no_program_writes_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_of_ordinary_shape_is_read():
    assert parse_json('{"a": [1, 2.5, null, "x", {"b": true}]}')["a"][1] == 2.5
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@pytest.fixture(params=["pipe", "device", "folder"])
def no_file(request, tmp_path: Path) -> Path:
    if request.param == "device":
        return Path("/dev/zero")
    path = tmp_path / "config.json"
    if request.param == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    return path


def test_what_is_no_file_is_refused_and_not_waited_for(no_file: Path):
    with pytest.raises(ValueError, match="regular"):
        read_json(no_file)
    with pytest.raises(ValueError, match="regular"):
        read_yaml(no_file)
    assert is_pi_rl(["--config_path", str(no_file)])
    with pytest.raises(ConfigError):
        read_config(find_config_file(no_file))
