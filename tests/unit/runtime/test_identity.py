"""Which identity field names a difference between two configs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pirl.config.load import load_config
from pirl.runtime.identity import settings_of

EMBEDDED = "configs/train_config_pirl_embedded.json"
EMBEDDED_NOISE = "configs/train_config_pirl_embedded_flow_noise.json"
LIBERO = "configs/train_config_pirl_libero_smoke.json"
_SHOWN = 256 - len("''")
"""Characters of a value that a refusal shows (`pirl.transport.status`)."""


def settings(path: str, *overrides: str) -> dict[str, object]:
    return settings_of(load_config(path, list(overrides)).cfg)


@pytest.mark.parametrize(
    ("path", "override", "field"),
    [
        (EMBEDDED, "--env.task=drawer-close-v3", "environment"),
        (EMBEDDED, "--env.episode_length=100", "environment"),
        (LIBERO, "--env.task=libero_spatial", "environment"),
        (LIBERO, "--env.task_ids=[0]", "environment"),
        (LIBERO, "--env.episode_length=50", "environment"),
        (EMBEDDED, "--policy.num_image_views=7", "cameras"),
        (EMBEDDED, "--runtime.split=all", "state_split"),
        (EMBEDDED, "--pirl.last_step_rule=sde", "noise_settings"),
        (EMBEDDED, "--pirl.last_step_std.other=0.2", "noise_settings"),
        (EMBEDDED, "--pirl.flow_sde.noise_level=0.3", "noise_settings"),
        (EMBEDDED, "--pirl.base_sampler=euler", "noise_settings"),
        (EMBEDDED, "--pirl.precision=tf32", "noise_settings"),
        (EMBEDDED_NOISE, "--pirl.flow_noise.noise_std_range=[0.1,0.2]", "noise_settings"),
    ],
)
def test_a_setting_of_its_own_field_is_named_by_that_field_alone(path, override, field):
    before, after = settings(path), settings(path, override)
    assert [name for name in before if before[name] != after[name]] == [field]


@pytest.mark.parametrize("path", [EMBEDDED, EMBEDDED_NOISE, LIBERO])
def test_texts_are_short_enough_to_be_shown_whole_in_a_refusal(path):
    assert {name for name, value in settings(path).items() if len(str(value)) > _SHOWN} == set()


def test_libero_says_its_suite_and_control_mode():
    found = settings(LIBERO)
    assert str(found["environment"]).startswith("libero/libero_10")
    assert found["control_mode"] == "absolute"
    assert found["cameras"] == "image,image2 of 3 views"


def test_split_files_of_one_name_and_other_rules_are_told_apart(tmp_path: Path):
    path = tmp_path / "split.json"
    argument = f"--runtime.split_file={path}"
    texts: list[object] = []
    for train in ("1048576-1048600", "1048576-1048601"):
        rules = {"tasks": {"*": {"train": train, "heldout": "1073741824-1073741830"}}}
        path.write_text(json.dumps(rules))
        texts.append(settings(EMBEDDED, argument)["state_split"])
    assert texts[0] != texts[1]
