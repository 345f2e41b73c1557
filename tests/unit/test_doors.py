"""Kinds by name: built in, installed, registered, offered twice, broken or taken; and who knows X-VLA."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from pirl import doors
from pirl.config import overrides
from pirl.errors import ConfigError, EnvironmentNotReadyError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Install a distribution with entry points of `pirl.policies` in a folder of the path."""

    def install(distribution, **entries):
        info = tmp_path / f"{distribution}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        lines = "".join(f"{name} = {place}\n" for name, place in entries.items())
        (info / "entry_points.txt").write_text(f"[{doors.POLICIES}]\n{lines}")
        doors._offers.cache_clear()
        doors._load.cache_clear()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield install
    doors._offers.cache_clear()
    doors._load.cache_clear()


@pytest.fixture
def registered(monkeypatch):
    """A registry of the process that forgets what the test registers."""
    fresh = {group: {} for group in doors.FIELDS}
    monkeypatch.setattr(doors, "_registered", fresh)
    return fresh


@pytest.mark.parametrize("group", doors.FIELDS)
def test_built_in_kinds_are_loaded_by_name_and_listed_first(group):
    for name in doors.BUILT_IN[group]:
        assert doors.is_installed(group, name)
        assert doors.load(group, name) is doors.load(group, name)
    assert doors.installed(group)[: len(doors.BUILT_IN[group])] == tuple(doors.BUILT_IN[group])


def test_no_distribution_is_looked_for_where_a_name_is_built_in(monkeypatch):
    monkeypatch.setattr(doors, "_offers", None)
    assert doors.is_installed(doors.POLICIES, "xvla")
    doors.load(doors.ENVS, "libero")


def test_an_installed_kind_is_found_listed_and_loaded_once(offer):
    offer("one", toy="string:ascii_letters")
    assert doors.installed(doors.POLICIES) == ("xvla", "toy")
    assert doors.load(doors.POLICIES, "toy").startswith("abc")


def test_an_unknown_name_is_refused_with_the_list(offer):
    offer("one", toy="string:ascii_letters", alpha="string:digits")
    with pytest.raises(ConfigError) as caught:
        doors.load(doors.POLICIES, "tory")
    (error,) = caught.value.errors
    assert (error.field, error.value) == ("policy.type", "tory")
    assert "xvla, alpha, toy" in error.expected


def test_two_distributions_with_one_name_are_refused_by_their_names(offer):
    offer("one", toy="string:ascii_letters")
    offer("other", toy="string:digits")
    with pytest.raises(ConfigError, match="one, other"):
        doors.load(doors.POLICIES, "toy")


@pytest.mark.parametrize("place", ["no_such_module:KIND", "string:no_such_attribute"])
def test_a_distribution_that_cannot_be_imported_is_named(offer, place):
    offer("broken", toy=place)
    with pytest.raises(EnvironmentNotReadyError, match="toy of broken cannot be imported"):
        doors.load(doors.POLICIES, "toy")


def test_no_distribution_takes_the_name_of_a_built_in_kind(offer, registered):
    offer("thief", xvla="string:ascii_letters")
    assert not isinstance(doors.load(doors.POLICIES, "xvla"), str)
    assert doors.installed(doors.POLICIES) == ("xvla",)
    with pytest.raises(ConfigError, match="not taken"):
        doors.register(doors.POLICIES, "xvla", object())


def test_what_is_registered_is_found_and_registering_it_again_is_nothing(registered):
    kind = object()
    doors.register(doors.ENVS, "toy", kind)
    doors.register(doors.ENVS, "toy", kind)
    assert doors.load(doors.ENVS, "toy") is kind
    assert "toy" in doors.installed(doors.ENVS)
    with pytest.raises(ConfigError, match="not taken"):
        doors.register(doors.ENVS, "toy", object())


@pytest.mark.parametrize(
    "tokens",
    [
        ["--a=1", "--policy.discover_packages_path=brought", "--b"],
        ["--a=1", "--env.discover_packages_path", "brought", "--b"],
    ],
)
def test_a_package_of_the_command_line_is_imported_with_its_modules_and_taken_out(
    tmp_path, monkeypatch, tokens
):
    (tmp_path / "brought").mkdir()
    (tmp_path / "brought" / "__init__.py").touch()
    (tmp_path / "brought" / "inner.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert overrides.discover_packages(tokens) == ["--a=1", "--b"]
        assert "brought.inner" in sys.modules
    finally:
        for name in ("brought", "brought.inner"):
            sys.modules.pop(name, None)


def test_a_package_that_is_not_there_is_an_error_of_the_command_line():
    with pytest.raises(ConfigError, match="no_such_package"):
        overrides.discover_packages(["--policy.discover_packages_path=no_such_package"])


# Who knows X-VLA


def imports(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found.add(node.module)
    return found


def library() -> dict[str, Path]:
    """The files of pirl by their path in it, X-VLA's own package left out."""
    files = {path.relative_to(ROOT / "pirl").as_posix(): path for path in ROOT.glob("pirl/**/*.py")}
    return {name: path for name, path in files.items() if not name.startswith("policies/xvla/")}


def test_lerobots_xvla_is_imported_by_its_package_and_by_the_generator_of_config_fields():
    knowing = {
        name
        for name, path in library().items()
        if any(
            "policies.xvla" in module and module.startswith("lerobot") for module in imports(path)
        )
    }
    assert knowing == {"config/snapshot.py"}


def test_a_field_of_xvla_is_named_outside_its_package_in_these_places_only():
    fields = re.compile(
        r"domain_id|num_domains|soft_prompt|florence_config|vlm_features|aux_visual_inputs"
        r"|\binput_ids\b|tokenizer_name"
    )
    knowing = {
        name for name, path in library().items() if fields.search(path.read_text(encoding="utf-8"))
    }
    assert knowing == {"config/lerobot_fields.py", "doctor/profile.py"}
