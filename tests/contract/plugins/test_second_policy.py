"""The committed learning run of both plug-ins is one of the committed settings and config."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from plugin_builders import ROOT

from benchmarks.second_policy import PARAMS, STUDY, short
from pirl.config.check import check_config
from pirl.journal.fields import file_sha256
from pirl.learning.settings import read_settings
from pirl.learning.study import row_settings, study_rows

RECORDS = json.loads((ROOT / "reports" / "studies" / f"{STUDY}.json").read_text())


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["label"])
def test_the_record_is_of_this_config(record, monkeypatch):
    monkeypatch.chdir(ROOT)
    label = record["label"]
    settings = row_settings(study_rows(STUDY, PARAMS)[label], read_settings(PARAMS))
    # The hash has the place of the starting policy in it, as the study names it.
    start = f"runs/study-{STUDY}/{label.replace(' ', '-')}/warm_start/pretrained_model"
    overrides = [*settings.all_overrides, f"--policy.pretrained_path={start}"]
    assert record["config_hash"] == check_config(settings.config_path, overrides).identity.hash


def test_a_short_run_differs_in_size_alone(tmp_path):
    file = short(tmp_path / "learning.yaml")
    ((label, row),) = study_rows(STUDY, file).items()
    whole = row_settings(study_rows(STUDY, PARAMS)[label], read_settings(PARAMS))
    moment = row_settings(row, read_settings(file))
    assert (moment.bounds, moment.seed, moment.config) == (whole.bounds, whole.seed, whole.config)
    assert (moment.episodes, moment.warm_start.steps) == (2, 4)


def test_the_committed_start_is_one_of_the_committed_settings(monkeypatch):
    monkeypatch.chdir(ROOT)
    start = ROOT / "examples" / STUDY / "start"
    made = json.loads((start / "warm_start.json").read_text())
    settings = read_settings(PARAMS)
    assert made["seed"] == settings.seed
    assert asdict(settings.warm_start).items() <= made.items()
    assert file_sha256(start / "model.safetensors") in (start / "README.md").read_text()
    learned = check_config(settings.config_path).tree["policy"]
    gate = check_config(f"examples/{STUDY}/gate.json")
    assert {**gate.tree["policy"], "pretrained_path": None} == learned
    assert gate.cfg.env == check_config(settings.config_path).cfg.env
