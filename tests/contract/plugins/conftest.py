"""The two example distributions, installed as a package manager would: code on the path, metadata beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from lerobot.configs.policies import PreTrainedConfig
from lerobot.envs.configs import EnvConfig
from plugin_builders import install

from pirl import doors
from pirl.config import lerobot_fields

_MIRRORS = (lerobot_fields.PreTrainedConfig, lerobot_fields.EnvConfig, EnvConfig, PreTrainedConfig)
_taken_out: list[dict[str, type]] = [{} for _ in _MIRRORS]
"""Choices that the plug-ins added, between two files: a module registers once, when it is imported."""


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Both plug-ins, for the tests of a file of this folder and for nobody after them."""
    before = [dict(mirror.get_known_choices()) for mirror in _MIRRORS]
    for mirror, added in zip(_MIRRORS, _taken_out, strict=True):
        mirror.get_known_choices().update(added)
    places = install(tmp_path_factory.mktemp("site"))
    sys.path[:0] = places
    doors._offers.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        # For simulator workers and for learner and actors.
        patch.setenv("PYTHONPATH", os.pathsep.join(places), prepend=os.pathsep)
        yield places
    for place in places:
        sys.path.remove(place)
    doors._offers.cache_clear()
    for mirror, known, added in zip(_MIRRORS, before, _taken_out, strict=True):
        for name in mirror.get_known_choices().keys() - known.keys():
            added[name] = mirror.get_known_choices().pop(name)
