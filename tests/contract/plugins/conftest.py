"""The two example distributions, installed as a package manager would: code on the path, metadata beside it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.rewards import RewardModelConfig
from lerobot.envs.configs import EnvConfig
from plugin_builders import install

from pirl import doors
from pirl.config import lerobot_fields

OURS = ("pirl_smolvla", "pirl_pointreach")
_MIRRORS = (
    *(lerobot_fields.PreTrainedConfig, lerobot_fields.EnvConfig, lerobot_fields.RewardModelConfig),
    *(PreTrainedConfig, EnvConfig, RewardModelConfig),
)


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Both plug-ins, for the tests of one file of this folder and for nobody after them."""
    before = [dict(mirror.get_known_choices()) for mirror in _MIRRORS]
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
    doors._load.cache_clear()
    for mirror, known in zip(_MIRRORS, before, strict=True):
        choices = mirror.get_known_choices()
        for name in choices.keys() - known.keys():
            # LeRobot's own classes stay where LeRobot registered them.
            if mirror.__module__.startswith("pirl") or choices[name].__module__.startswith("pirl"):
                del choices[name]
    for name in [name for name in sys.modules if name.startswith(OURS)]:
        # A class joins LeRobot's registry when its module is imported.
        del sys.modules[name]
