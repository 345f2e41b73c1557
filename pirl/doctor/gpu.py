"""The CUDA device that torch would find, asked of the driver: importing torch costs seconds."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

_DRIVER = "libcuda.so.1"
_NAME_BYTES = 256


def gpu_name() -> str | None:
    """Name of the first CUDA device that is visible here; None where torch could use none.

    The driver honours `CUDA_VISIBLE_DEVICES`, as torch does. A torch built for CPUs finds no device.
    """
    if not _torch_has_cuda():
        return None
    try:
        driver = ctypes.CDLL(_DRIVER)
    except OSError:
        return None
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    # Each call answers 0 when it worked; a driver without a device fails at the first.
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGetCount(ctypes.byref(count))
        or count.value == 0
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, _NAME_BYTES, device)
    )
    return None if failed else name.value.decode(errors="replace")


def _torch_has_cuda() -> bool:
    """Whether the installed torch brings its CUDA half, by its files."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    return (Path(spec.origin).parent / "lib" / "libtorch_cuda.so").is_file()
