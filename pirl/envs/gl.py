"""Off-screen OpenGL: the back end is chosen and tried before any simulator needs it.

Owns the translation of a machine without a working back end into words. Refuses to know simulators.
Used by `pirl.envs.metaworld` and `pirl.envs.libero`.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from pirl.errors import EnvironmentNotReadyError


def require_gl() -> Any:
    """MuJoCo's module, after one GL context was opened and closed.

    `MUJOCO_GL` is set to `egl` unless the caller chose another back end.

    Raises:
        EnvironmentNotReadyError: MuJoCo is missing, or its back end cannot open a context.
    """
    # MuJoCo reads it at its first import.
    backend = os.environ.setdefault("MUJOCO_GL", "egl")
    try:
        mujoco: Any = importlib.import_module("mujoco")
        context = mujoco.GLContext(8, 8)
        context.make_current()
        context.free()
    # A missing libEGL is an AttributeError at import; no device is an ImportError; a wrong device
    # number or a display that does not open is a RuntimeError.
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise EnvironmentNotReadyError(
            f"MuJoCo cannot draw off screen (MUJOCO_GL={backend}): {error}",
            remedy="install libegl1 and libgl1-mesa-dri (software EGL) with MUJOCO_GL=egl, or"
            " libosmesa6 with MUJOCO_GL=osmesa; unset MUJOCO_EGL_DEVICE_ID if it names no device",
        ) from error
    return mujoco
