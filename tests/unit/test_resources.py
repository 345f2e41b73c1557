"""A checkout and an installed wheel find the same files; a wheel knows its commit and whether it was altered."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from pirl import resources
from pirl.config.load import load_config
from pirl.errors import EvidenceError
from pirl.journal import environment
from pirl.policies.xvla.tiny import TOKENIZER_PATH
from pirl.resources import locate

REPO = Path(__file__).parents[2]
CONFIG = "configs/train_config_pirl_embedded.json"


@pytest.fixture
def hook():
    """The build hook, which hatchling loads by its path."""
    spec = importlib.util.spec_from_file_location("hatch_build", REPO / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    """An installed wheel whose shipped files are in `shipped`, run in the empty folder `here`."""
    shipped = tmp_path / "site" / "shipped"
    shipped.mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(resources, "SHIPPED", shipped)
    monkeypatch.setattr(environment, "SHIPPED", shipped)
    return shipped


def test_a_file_that_is_here_wins_and_one_that_is_not_is_pirls_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resources.checkout() == REPO
    assert locate(CONFIG) == REPO / CONFIG
    mine = tmp_path / CONFIG
    mine.parent.mkdir()
    mine.write_text("{}")
    assert locate(CONFIG).resolve() == mine
    assert locate("configs/of_nobody.json") == Path("configs/of_nobody.json")
    assert locate(tmp_path / "nothing") == tmp_path / "nothing"


def test_a_wheel_looks_among_what_it_ships(wheel):
    assert resources.checkout() is None
    (wheel / "params.yaml").write_text("gate: {}")
    assert locate("params.yaml") == wheel / "params.yaml"


def test_configs_splits_and_tokenizers_work_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(REPO)
    at_home = load_config(CONFIG)
    monkeypatch.chdir(tmp_path)
    elsewhere = load_config(CONFIG)
    assert elsewhere.identity.hash == at_home.identity.hash
    assert locate(TOKENIZER_PATH).is_dir()
    assert locate(str(elsewhere.cfg.runtime.split_file)).is_file()


def test_the_wheel_carries_what_the_commands_look_for_and_an_editable_install_nothing(hook):
    built = SimpleNamespace(root=str(REPO))
    data = {"force_include": {}}
    hook.ShippedFiles.initialize(built, "editable", data)
    assert data["force_include"] == {}
    hook.ShippedFiles.initialize(built, "standard", data)
    targets = {
        Path(target).relative_to(hook.SHIPPED).as_posix()
        for target in data["force_include"].values()
    }
    assert {
        "configs",
        "params.yaml",
        "learning/settings.yaml",
        "constraints.txt",
        "pyproject.toml",
    } <= targets
    assert all(Path(source).exists() for source in data["force_include"])


def test_the_build_notes_the_commit_and_what_was_not_committed(hook, tmp_path):
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True
        )

    assert hook.source_of(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    clean = hook.source_of(tmp_path)
    assert (clean["git_dirty"], clean["patch_sha256"]) == (False, None)
    assert len(clean["git_commit"]) == 40
    (tmp_path / "a").write_text("2")
    first = hook.source_of(tmp_path)
    (tmp_path / "a").write_text("3")
    second = hook.source_of(tmp_path)
    assert first["git_dirty"]
    assert second["git_dirty"]
    assert first["patch_sha256"] != second["patch_sha256"]


def record_of(path: Path) -> SimpleNamespace:
    """A line of a wheel's RECORD."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=")
    return SimpleNamespace(
        hash=SimpleNamespace(mode="sha256", value=digest.decode()),
        locate=lambda: path,
        as_posix=lambda: path.name,
    )


def test_a_file_altered_after_the_build_makes_the_wheel_dirty(wheel, monkeypatch):
    (wheel / "constraints.txt").write_text("a==1\n")
    source = {"git_commit": "c" * 40, "git_dirty": False, "patch_sha256": None}
    (wheel / "source.json").write_text(json.dumps(source))
    module = wheel / "chain.py"
    module.write_text("x = 1\n")
    files = [record_of(module), SimpleNamespace(hash=None)]
    monkeypatch.setattr(environment, "distribution", lambda _name: SimpleNamespace(files=files))
    clean = environment.collect_source(wheel, lock_files=("constraints.txt",))
    assert (clean["git_commit"], clean["git_dirty"]) == ("c" * 40, False)
    assert set(clean["lock_files"]) == {"constraints.txt"}
    module.write_text("x = 2\n")
    altered = environment.collect_source(wheel)
    assert altered["git_dirty"]
    assert len(altered["patch_sha256"]) == 64


def test_a_wheel_that_does_not_know_its_commit_gives_no_evidence(wheel):
    with pytest.raises(EvidenceError, match="does not know its commit"):
        environment.collect_source(wheel)
