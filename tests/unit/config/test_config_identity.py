"""Identity: what the hash covers, and how a path is named without being shown."""

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import reduce
from pathlib import Path

import pytest
from config_builders import EMBEDDED, FLOW_NOISE, LIBERO

from pirl.config.identity import (
    HOST_LOCAL_FIELDS,
    canonical_json,
    config_hash,
    config_path_identity,
)
from pirl.config.load import load_config

HOST_LOCAL = {
    "output_dir",
    "dataset.root",
    "runtime.host",
    "runtime.port",
    "runtime.token",
    "runtime.token_file",
    "runtime.tls_cert",
    "runtime.tls_key",
    "runtime.tls_ca",
    "runtime.insecure",
    "runtime.version_timeout_s",
    "runtime.replica_timeout_s",
    "runtime.replacement_timeout_s",
    "runtime.keep_checkpoints",
    "runtime.keep_checkpoints_every",
    "runtime.pipeline",
    "runtime.learner_device",
    "runtime.actor_device",
    "runtime.actor_devices",
    "runtime.trackers",
    "runtime.video_every",
    "policy.device",
    "reward_model.device",
    "resume",
    "checkpoint_path",
}


def leaf_paths(node, path=()):
    """Every leaf of a config object: dataclass fields and dict keys, down to plain values."""
    if is_dataclass(node):
        for field in fields(node):
            yield from leaf_paths(getattr(node, field.name), (*path, field.name))
    elif isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaf_paths(value, (*path, key))
    else:
        yield path


def altered(value):
    """Another value that the same field could hold."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, Path):
        return value / "other"
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, (list, tuple)):
        return type(value)([altered(value[0]), *value[1:]]) if value else type(value)([1])
    if isinstance(value, dict):
        return {"new": "x"}
    return "x"


def get(node, part):
    return node[part] if isinstance(node, dict) else getattr(node, part)


def put(cfg, path, value):
    node = reduce(get, path[:-1], cfg)
    if isinstance(node, dict):
        node[path[-1]] = value
    else:
        setattr(node, path[-1], value)


def change(cfg, path):
    """Alter one leaf; returns what it held."""
    old = reduce(get, path, cfg)
    put(cfg, path, altered(old))
    return old


def is_host_local(path):
    return path[0] in ("job", "wandb") or ".".join(path) in HOST_LOCAL


@pytest.mark.parametrize(
    ("file", "sections", "at_least"),
    [(LIBERO, ("",), 200), (FLOW_NOISE, ("env.", "pirl.flow_noise."), 15)],
    ids=["libero", "flow_noise"],
)
def test_hash_changes_with_every_field_that_is_not_host_local(file, sections, at_least):
    cfg = load_config(file).cfg
    paths = [path for path in leaf_paths(cfg) if ".".join(path).startswith(sections)]
    before = config_hash(cfg)
    wrong = []
    for path in paths:
        old = change(cfg, path)
        if (config_hash(cfg) != before) is is_host_local(path):
            wrong.append(".".join(path))
        put(cfg, path, old)
    assert wrong == []
    assert len(paths) >= at_least
    assert config_hash(cfg) == before


def test_the_host_local_fields_are_these_and_no_others():
    assert set(HOST_LOCAL_FIELDS) == HOST_LOCAL | {"job", "wandb"}


def test_canonical_text_is_sorted_and_dense():
    text = canonical_json(load_config(EMBEDDED).cfg)
    assert text.isascii()
    assert ", " not in text
    assert text.index('"batch_size"') < text.index('"recipe"') < text.index('"seed"')
    assert '"actor_lr":0.0001,' in text


def test_order_of_the_file_does_not_matter(tmp_path):
    tree = json.loads(EMBEDDED.read_text())
    shuffled = dict(reversed(list(tree.items())))
    file = tmp_path / "shuffled.json"
    file.write_text(json.dumps(shuffled, indent=7))
    assert load_config(file).identity.hash == load_config(EMBEDDED).identity.hash


def test_path_inside_the_working_directory_is_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    ways = ["configs/a.json", "./configs/a.json", "configs/../configs/a.json"]
    ways.append(str(tmp_path / "configs" / "a.json"))
    assert {config_path_identity(Path(way)) for way in ways} == {"configs/a.json"}
    assert config_path_identity(Path("configs/b.json")) == "configs/b.json"


def test_path_outside_the_working_directory_is_named_and_digested(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    first = config_path_identity(there / "a.json")
    assert first.startswith("a.json@")
    assert "/" not in first
    assert config_path_identity(Path("../there/a.json")) == first
    assert config_path_identity(tmp_path / "a.json") != first
    assert config_path_identity(there / "b.json") != first


def test_moving_last_link_keeps_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in ("1", "2"):
        (tmp_path / step).mkdir()
        (tmp_path / step / "a.json").touch()
    link = tmp_path / "last"
    link.symlink_to("1")
    before = config_path_identity(Path("last/a.json"))
    link.unlink()
    link.symlink_to("2")
    assert config_path_identity(Path("last/a.json")) == before == "last/a.json"


def test_dots_after_a_link_are_resolved(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to("deep/er")
    assert config_path_identity(Path("link/../a.json")) == "deep/a.json"
