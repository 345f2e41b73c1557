"""`pirl gate --config FILE`: which file runs, what is put over it, what no gate can run with."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from pirl.audit.criteria.mismatch import CLASSES
from pirl.audit.outcomes import OWN_CONFIG
from pirl.errors import ConfigError
from pirl.gate import deadlines, main, profiles, session
from pirl.gate.peer_probe import CHANGES
from pirl.transport.identity import Identity, compare

REPO = Path(__file__).resolve().parents[3]
BASE = REPO / profiles.BASE_CONFIGS["embedded"]


@pytest.fixture
def choose(tmp_path, monkeypatch):
    """Chooses a profile; no simulator starts."""
    monkeypatch.chdir(REPO)
    monkeypatch.setattr(profiles, "first_look", lambda _: None)

    def chosen(wanted="own", *, config, variant=None, overrides=()):
        return profiles.choose_profile(
            wanted,
            variant=variant,
            overrides=overrides,
            target=tmp_path / "work" / "train_config.json",
            config=config,
        )

    return chosen


@pytest.fixture
def file(tmp_path):
    """A config of one's own: the embedded gate's, with another seed."""
    tree = json.loads(BASE.read_text()) | {"seed": 5}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize(
    ("wanted", "has_file", "field"),
    [
        ("own", False, "--config"),
        ("embedded", True, "--profile"),
        ("libero", True, "--profile"),
        ("auto", True, "--profile"),
    ],
)
def test_own_and_a_file_come_together(choose, file, wanted, has_file, field):
    with pytest.raises(ConfigError) as refused:
        choose(wanted, config=file if has_file else None)
    (error,) = refused.value.errors
    assert error.field == field
    assert error.fix
    assert int(refused.value.exit_code) == 2


def test_the_file_is_the_config_with_its_own_variant(choose, file):
    ready = choose(config=file)
    assert ready.profile == profiles.Profile(name="own", reason=OWN_CONFIG, config=file)
    assert (ready.loaded.cfg.seed, ready.loaded.cfg.pirl.variant) == (5, "flow-sde")
    other = choose(config=file, variant="flow-noise", overrides=["--seed=6"]).loaded.cfg
    assert (other.seed, other.pirl.variant, other.pirl.flow_sde) == (6, "flow-noise", None)


def test_what_the_file_breaks_is_told_of_the_file(choose, file):
    file.write_text(file.read_text().replace('"update_epochs": 2', '"update_epochs": 0'))
    with pytest.raises(ConfigError, match=r"mine\.json"):
        choose(config=file)
    with pytest.raises(ConfigError, match="an existing config file"):
        choose(config=file.with_name("none.json"))


def test_a_file_without_the_recipe_is_refused(choose, file):
    file.write_text("{}")
    with pytest.raises(ConfigError, match="recipe"):
        choose(config=file)


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("--runtime.mode=async", "runtime.mode"),
        ("--runtime.total_updates=1", "runtime.total_updates"),
        ("--runtime.split_file=null", "runtime.split_file"),
    ],
)
def test_what_no_gate_can_show_is_refused_before_anything_runs(choose, file, override, field):
    with pytest.raises(ConfigError) as refused:
        choose(config=file, overrides=[override])
    assert [error.field for error in refused.value.errors] == [field]


@pytest.mark.parametrize("has_file", [True, False])
def test_nothing_of_the_parameters_is_put_over_a_file(monkeypatch, tmp_path, file, has_file):
    given: dict = {}

    @contextmanager
    def open_gate(**arguments):
        given.update(arguments)
        raise KeyboardInterrupt
        yield

    monkeypatch.chdir(REPO)
    monkeypatch.setattr(main, "open_gate", open_gate)
    for name in ("configure_logging", "interrupt_on_signals"):
        monkeypatch.setattr(main, name, lambda *_: None)
    argv = ["--config_path", str(file)] if has_file else []
    main.main([*argv, "--out", str(tmp_path / "out"), "--pirl.gamma=0.9"])
    asked = {name: given[name] for name in ("profile", "variant", "config", "overrides")}
    assert asked == (
        {"profile": "own", "variant": None, "config": file, "overrides": ["--pirl.gamma=0.9"]}
        if has_file
        else {
            "profile": "auto",
            "variant": main.default_variant(),
            "config": None,
            "overrides": [*main.gate_overrides(), "--pirl.gamma=0.9"],
        }
    )


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ("/here/configs/mine.json", "configs/mine.json"),
        ("configs/mine.json", "configs/mine.json"),
        ("/elsewhere/mine.json", "/elsewhere/mine.json"),
    ],
)
def test_the_recorded_command_names_the_file_as_one_would_here(config, shown):
    assert session._seen_from(Path("/here"), Path(config)) == shown


def test_dvc_reads_the_file_from_the_parameters(tmp_path):
    params = tmp_path / "params.yaml"
    params.write_text("gate: {profile: own, config_path: mine.json, config: {seed: 1}}\n")
    assert main.own_config(params) == Path("mine.json")
    assert main.default_profile(params) == "own"
    assert main.own_config(REPO / "params.yaml") is None
    params.write_text("gate: {config_path: [mine.json]}\n")
    with pytest.raises(ConfigError, match=r"gate\.config_path"):
        main.own_config(params)


def test_a_config_of_ones_own_has_the_most_generous_deadlines():
    for phase, expected in deadlines.EXPECTED_S["own"].items():
        of = [deadlines.EXPECTED_S[name][phase] for name in ("libero", "embedded")]
        assert expected == max(of)


def test_every_class_that_needs_no_process_changes_its_field_alone_whatever_the_kinds():
    numbers = ("protocol_version", "denoising_steps", "executed_steps")
    before = Identity(**{f.name: 3 if f.name in numbers else "text" for f in fields(Identity)})
    for row in CLASSES:
        if row.name in CHANGES:
            theirs = CHANGES[row.name](before).claims()
            differing = [m.field for m in compare(before, theirs, config_identity="path")]
            assert differing == [row.fields[0]], row.name
    without = {row.name for row in CLASSES if not row.needs_process} - CHANGES.keys()
    assert without == {"package-version"}
