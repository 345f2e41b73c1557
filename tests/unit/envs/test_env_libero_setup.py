"""LIBERO's config is in place before its first import; the user's stays theirs."""

import json
import logging

import pytest
import yaml

from pirl.envs import libero_setup
from pirl.envs.libero_setup import CONFIG_VARIABLE, prepare_config
from pirl.errors import EnvironmentNotReadyError


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with nothing in it but folders, and a home of its own."""
    root = tmp_path / "site" / "libero" / "libero"
    for name in ("bddl_files", "init_files"):
        (root / name).mkdir(parents=True)
    monkeypatch.setattr(libero_setup, "package_root", lambda: root)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    # Set first, so that what prepare_config sets is undone.
    monkeypatch.setenv(CONFIG_VARIABLE, "")
    return root


def test_a_private_config_is_written_and_the_users_folder_left_alone(package, tmp_path):
    config = prepare_config()
    assert (tmp_path / "home" / ".cache" / "pirl") in config.parents
    assert not (tmp_path / "home" / ".libero").exists()
    content = yaml.safe_load(config.read_text())
    assert content["bddl_files"] == str(package / "bddl_files")
    assert content["init_states"] == str(package / "init_files")
    assert set(content) == {"assets", "bddl_files", "benchmark_root", "datasets", "init_states"}


def test_the_folder_is_given_to_libero_and_to_workers(package, monkeypatch):
    import os

    config = prepare_config()
    assert os.environ[CONFIG_VARIABLE] == str(config.parent)
    assert prepare_config() == config
    assert list(config.parent.iterdir()) == [config]


def test_a_folder_the_user_chose_keeps_its_config_byte_for_byte(package, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    text = "# mine\n" + yaml.dump(
        {"bddl_files": str(package / "bddl_files"), "init_states": str(package / "init_files")}
    )
    (folder / "config.yaml").write_text(text)
    monkeypatch.setenv(CONFIG_VARIABLE, str(folder))
    assert prepare_config() == folder / "config.yaml"
    assert (folder / "config.yaml").read_text() == text


def test_an_empty_folder_the_user_chose_gets_a_config(package, tmp_path, monkeypatch):
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "new"))
    assert json.loads(prepare_config().read_text())["benchmark_root"] == str(package)


def test_a_users_config_that_names_nothing_is_refused_with_the_key(package, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(yaml.dump({"bddl_files": str(tmp_path / "gone")}))
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path))
    with pytest.raises(EnvironmentNotReadyError, match="bddl_files") as caught:
        prepare_config()
    assert CONFIG_VARIABLE in caught.value.remedy


def test_a_users_config_that_is_no_yaml_is_refused(package, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("{: [")
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path))
    with pytest.raises(EnvironmentNotReadyError, match="cannot be read"):
        prepare_config()


def test_rewriting_pirls_own_config_is_said_aloud(package, caplog, monkeypatch):
    config = prepare_config()
    config.write_text("{}")
    monkeypatch.setenv(CONFIG_VARIABLE, "")
    with caplog.at_level(logging.WARNING):
        prepare_config()
    assert "rewriting" in caplog.text
    assert json.loads(config.read_text())["benchmark_root"] == str(package)


def test_two_installations_have_two_configs(package, tmp_path, monkeypatch):
    first = prepare_config()
    other = tmp_path / "other"
    for name in ("bddl_files", "init_files"):
        (other / name).mkdir(parents=True)
    monkeypatch.setattr(libero_setup, "package_root", lambda: other)
    monkeypatch.setenv(CONFIG_VARIABLE, "")
    assert prepare_config() != first


def test_a_folder_that_cannot_be_written_is_named_with_a_remedy(package, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CONFIG_VARIABLE, str(tmp_path / "file" / "below"))
    with pytest.raises(EnvironmentNotReadyError, match="cannot be written"):
        prepare_config()


def test_a_missing_package_is_said_with_the_extra(monkeypatch):
    monkeypatch.setattr(libero_setup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentNotReadyError, match=r"pirl\[libero\]"):
        prepare_config()
