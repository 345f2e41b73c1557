"""Whether LIBERO could run here, found out without importing torch, LeRobot or a simulator.

Owns the checks that cost no process, so that a refusal comes within seconds. Read `pirl.gate.profiles` next.
"""

from __future__ import annotations

import psutil

from pirl.envs.libero_assets import LiberoAssets, find_assets
from pirl.envs.libero_setup import prepare_config
from pirl.errors import EnvironmentNotReadyError

LIBERO_MEMORY_GIB = 10.0
"""Free memory for the LIBERO gate: two simulator workers, learner, actor and the gate itself."""


def check_libero() -> LiberoAssets:
    """Package, assets and memory; returns the assets.

    Raises:
        AlteredAssetsError: a file of the assets is not LIBERO's.
        EnvironmentNotReadyError: the first thing that is missing.
    """
    prepare_config()
    assets = find_assets()
    free = psutil.virtual_memory().available / 2**30
    if free < LIBERO_MEMORY_GIB:
        raise EnvironmentNotReadyError(
            f"{free:.1f} GiB of memory are free and the LIBERO gate needs {LIBERO_MEMORY_GIB:.0f}",
            remedy="end other programs, or run --profile embedded",
        )
    return assets
