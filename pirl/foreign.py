"""What other libraries raise, in the words of a teaching error, where its kind is known.

Owns the kinds: file system, memory, accelerator, damaged input. Imports none of the libraries: their errors
are known by name. Refuses to guess: whatever is not in here is a fault of pirl. Read `pirl.guard` next.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pirl.errors import ConfigError, EnvironmentNotReadyError, FieldError, PirlError
from pirl.files import os_error_number, write_error

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|bad_?alloc|unable to allocate", re.I
)
_NO_DEVICE = re.compile(
    r"no nvidia driver|cuda driver|no cuda gpus|cuda error|cudnn|cublas|not compiled with cuda"
    r"|hip error|nccl|cuda-capable device|invalid device ordinal|device-side assert"
    r"|deserialize object on a cuda device|cuda initiali[sz]ation|mps backend",
    re.I,
)
_MEMORY_REMEDY = (
    "lower pirl.micro_batch, runtime.envs_per_actor or runtime.env_workers, end other processes, or use a "
    "machine with more memory"
)
_DEVICE_REMEDY = (
    "set runtime.learner_device and runtime.actor_device to cpu, or install the driver that this build of "
    "torch needs; `pirl doctor` shows what torch sees"
)
_PARSERS = ("json", "yaml", "draccus", "tokenizers", "tomllib")
"""Packages whose recursion follows the nesting of an input."""

_PARSE_ERRORS = {
    "YAMLError": "YAML",
    "JSONDecodeError": "JSON",
    "TOMLDecodeError": "TOML",
    "SafetensorError": "a whole safetensors file",
}


def as_pirl_error(error: BaseException) -> PirlError | None:
    """The teaching error for `error`; None when its kind is not known."""
    if isinstance(error, PirlError):
        return error
    machine = machine_error(error)
    if machine is not None:
        return machine
    if isinstance(error, OSError):
        return _os_error(error)
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("pirl"):
        return EnvironmentNotReadyError(
            f"the package {error.name} is not installed",
            remedy="install pirl with the extra that needs it (pip install 'pirl[metaworld]' or "
            "'pirl[libero]'), in the environment of this command",
        )
    return _input_error(error)


def machine_error(error: BaseException) -> EnvironmentNotReadyError | None:
    """The error of a machine that lacks memory, an accelerator or room; None for any other kind.

    For code that takes an error of torch for a statement about its own input.
    """
    first = str(error).strip().split("\n", 1)[0]
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return EnvironmentNotReadyError(f"out of memory: {first}", remedy=_MEMORY_REMEDY)
    if isinstance(error, (RuntimeError, AssertionError)):
        if _OUT_OF_MEMORY.search(str(error)):
            return EnvironmentNotReadyError(f"out of memory: {first}", remedy=_MEMORY_REMEDY)
        if "AcceleratorError" in names or _NO_DEVICE.search(str(error)):
            what = f"the accelerator cannot be used: {first}"
            return EnvironmentNotReadyError(what, remedy=_DEVICE_REMEDY)
    if isinstance(error, OSError):
        if error.errno == errno.ENOMEM:
            return EnvironmentNotReadyError(f"out of memory: {first}", remedy=_MEMORY_REMEDY)
        return None
    number = os_error_number(error)
    if number is None:
        return None
    # A Rust library (safetensors, tokenizers): it does not say which file.
    return write_error(Path(), error)


def _os_error(error: OSError) -> EnvironmentNotReadyError:
    if error.filename is not None:
        name = Path(str(error.filename))
        found = write_error(name, error)
        reason = error.strerror or type(error).__name__
        return EnvironmentNotReadyError(f"cannot use {name}: {reason}", remedy=found.remedy)
    return EnvironmentNotReadyError(
        f"the system refused: {error or type(error).__name__}",
        remedy="make room, raise the limit or free the resource that the message names",
    )


def _input_error(error: BaseException) -> ConfigError | None:
    if isinstance(error, UnicodeDecodeError):
        return _damaged(f"{error.reason} at byte {error.start}", "UTF-8 text")
    if isinstance(error, json.JSONDecodeError):
        return _damaged(str(error), "JSON")
    if isinstance(error, RecursionError) and _is_parsing(error.__traceback__):
        return _damaged("nested too deeply", "JSON or YAML of a moderate depth")
    for kind in type(error).__mro__:
        if kind.__name__ in _PARSE_ERRORS:
            return _damaged(str(error), _PARSE_ERRORS[kind.__name__])
    return None


def _damaged(found: str, expected: str) -> ConfigError:
    """An input that its reader did not expect to be damaged, so that no file name is at hand."""
    lines = [line.strip() for line in found.strip().splitlines()]
    wrong = FieldError(
        field="an input file",
        value=" ".join(lines)[:300],
        expected=expected,
        fix="restore the file from where it came from",
    )
    return ConfigError([wrong], source="input")


def _is_parsing(traceback: TracebackType | None) -> bool:
    return any(name.partition(".")[0] in _PARSERS for name in _modules(traceback))


def _modules(traceback: TracebackType | None) -> Iterator[str]:
    while traceback is not None:
        yield str(traceback.tb_frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
