"""The edge: every entry point is guarded, every kind of exception ends with a message and a code."""

from __future__ import annotations

import ast
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from pirl.errors import (
    ConfigError,
    EnvironmentNotReadyError,
    ExitCode,
    FieldError,
    FieldMismatch,
    MismatchError,
)
from pirl.foreign import as_pirl_error, machine_error
from pirl.guard import interrupt, run_guarded
from pirl.secrecy import hide, shown_command, without_secrets
from tasks.quiet import tell_in_one_line

ROOT = Path(__file__).parents[2]


def entry_points() -> list[Path]:
    """Modules of the shipped packages that somebody may start: `-m`, or a console script."""
    started = [
        path
        for package in ("pirl", "flows", "tasks")
        for path in sorted((ROOT / package).rglob("*.py"))
        if '__name__ == "__main__"' in path.read_text()
    ]
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    named = [
        ROOT / (target.partition(":")[0].replace(".", "/") + ".py") for target in scripts.values()
    ]
    return sorted({*started, *named})


def test_a_hub_that_does_not_answer_is_told_once_not_at_each_of_five_tries(caplog):
    hub = logging.getLogger("huggingface_hub.utils._http")

    def command(_argv: Sequence[str]) -> int:
        for tries in range(1, 6):
            hub.warning("'refused' thrown while requesting HEAD http://hub/a")
            hub.warning("Retrying in %ds [Retry %d/5].", tries, tries)
        return 0

    assert run_guarded(command, []) == 0
    assert [message.partition(" ")[0] for message in caplog.messages] == ["'refused'", "Retrying"]


@pytest.mark.parametrize("path", entry_points(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_entry_point_ends_at_the_guard(path: Path):
    """The last statement under `__main__` exits with what `run_guarded`, or the guarded `main`, returns."""
    tree = ast.parse(path.read_text())
    calls = [
        n.func.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    ]
    assert "run_guarded" in calls
    main = next(n for n in tree.body if isinstance(n, ast.If) and "__main__" in ast.unparse(n.test))
    assert ast.unparse(main.body[-1]).startswith(("sys.exit(run_guarded(", "sys.exit(main())"))


def test_every_entry_point_is_known():
    names = {str(path.relative_to(ROOT)) for path in entry_points()}
    assert {
        "pirl/cli.py",
        "pirl/learner.py",
        "pirl/actor.py",
        "pirl/envs/worker.py",
        "flows/serve.py",
    } <= names


class OutOfMemoryError(RuntimeError):
    """As torch names it."""


class SafetensorError(Exception):
    """As safetensors names it: no OSError."""


class AcceleratorError(RuntimeError):
    """As torch names it."""


def deep_json() -> None:
    json.loads("[" * 100_000)


def deep_yaml() -> None:
    yaml.safe_load("[" * 1_000)


def raising(error: BaseException) -> Callable[[Sequence[str]], int]:
    def command(argv: Sequence[str]) -> int:
        raise error

    return command


KNOWN: list[tuple[BaseException, ExitCode, str]] = [
    (OSError(errno.ENOSPC, "No space left on device", "/data/x"), ExitCode.NOT_READY, "/data/x"),
    (PermissionError(errno.EACCES, "Permission denied", "/data/x"), ExitCode.NOT_READY, "/data/x"),
    (OSError(errno.ENAMETOOLONG, "File name too long", "x"), ExitCode.NOT_READY, "shorter"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), ExitCode.NOT_READY, "memory"),
    (OSError(errno.EMFILE, "Too many open files"), ExitCode.NOT_READY, "Too many open files"),
    (MemoryError(), ExitCode.NOT_READY, "memory"),
    (
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        ExitCode.NOT_READY,
        "micro_batch",
    ),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ExitCode.NOT_READY, "memory"),
    (RuntimeError("Found no NVIDIA driver on your system."), ExitCode.NOT_READY, "learner_device"),
    (AcceleratorError("CUDA error: invalid device ordinal"), ExitCode.NOT_READY, "learner_device"),
    (AssertionError("Torch not compiled with CUDA enabled"), ExitCode.NOT_READY, "learner_device"),
    (SafetensorError("I/O error: File too large (os error 27)"), ExitCode.NOT_READY, "ulimit"),
    (SafetensorError("Error while deserializing header"), ExitCode.USAGE, "safetensors"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), ExitCode.USAGE, "UTF-8"),
    (json.JSONDecodeError("Expecting value", "x", 0), ExitCode.USAGE, "JSON"),
    (yaml.YAMLError("bad"), ExitCode.USAGE, "YAML"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), ExitCode.NOT_READY, "Broken pipe"),
    (
        ModuleNotFoundError("No module named 'metaworld'", name="metaworld"),
        ExitCode.NOT_READY,
        "pip install",
    ),
    (KeyboardInterrupt(), ExitCode.INTERRUPTED, "interrupted"),
]


@pytest.mark.parametrize(("error", "code", "word"), KNOWN, ids=lambda v: type(v).__name__)
def test_known_kinds_teach(error, code, word, capsys):
    assert run_guarded(raising(error), []) == code
    shown = capsys.readouterr().err
    assert word in shown
    assert "Traceback" not in shown
    assert "pirl-report" not in shown


@pytest.mark.parametrize("parse", [deep_json, deep_yaml])
def test_nesting_of_an_input_is_its_fault(parse, capsys):
    def command(argv: Sequence[str]) -> int:
        parse()
        return 0

    assert run_guarded(command, []) == ExitCode.USAGE
    assert "too deeply" in capsys.readouterr().err


def test_recursion_elsewhere_is_not_blamed_on_an_input(capsys):
    def endless(argv: Sequence[str]) -> int:
        return endless(argv)

    assert run_guarded(endless, []) == ExitCode.CHECK_FAILED
    assert "unexpected RecursionError" in capsys.readouterr().err


SECRETS = ("from-the-config", "key-from-environment", "on-the-line", "after-it")


def test_anything_else_leaves_a_report_without_secrets(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("SOME_API_KEY", "key-from-environment")
    monkeypatch.setattr(
        sys,
        "orig_argv",
        ["pirl", "x", "--runtime.token=on-the-line", "--runtime.token", "after-it"],
    )
    hide("from-the-config")

    def command(argv: Sequence[str]) -> int:
        raise KeyError(f"{' '.join(SECRETS)} token='in-the-text'")

    assert run_guarded(command, []) == ExitCode.CHECK_FAILED
    shown = capsys.readouterr().err
    (report,) = tmp_path.iterdir()
    assert str(report) in shown
    assert "gh issue create" in shown
    assert "Traceback" not in shown
    assert report.stat().st_mode & 0o077 == 0
    text = report.read_text()
    assert "Traceback (most recent call last)" in text
    assert "in-the-text" not in text
    assert not [secret for secret in SECRETS if secret in text or secret in shown]


def test_no_report_without_a_place_for_it(capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    assert run_guarded(raising(KeyError("x")), []) == ExitCode.CHECK_FAILED
    assert "no report could be written" in capsys.readouterr().err


def test_nothing_can_prompt(capsys):
    given = sys.stdin

    def command(argv: Sequence[str]) -> int:
        input("run the code? [y/N] ")
        return 0

    assert run_guarded(command, []) == ExitCode.CHECK_FAILED
    assert "EOFError" in capsys.readouterr().err
    assert sys.stdin is given


def run_with(command: str, *, out: str = "", err: str = "") -> tuple[int, str, str]:
    """Exit code, output and errors of a process whose streams are `full`, a `pipe` nobody reads, or `closed`."""
    reader, pipe = os.pipe()
    os.close(reader)
    targets = {"full": ">/dev/full", "pipe": f">&{pipe}", "closed": ">&-", "": ""}
    shell = f"exec '{sys.executable}' -c \"$0\" {targets[out]} {'2' * bool(err)}{targets[err]}"
    try:
        run = subprocess.run(
            ["bash", "-c", shell, command], capture_output=True, text=True, timeout=300,
            check=False, pass_fds=(pipe,),
        )  # fmt: skip
    finally:
        os.close(pipe)
    return run.returncode, run.stdout, run.stderr


CALL = "import sys; from pirl.cli import main; sys.exit(main({}))"


@pytest.mark.parametrize(("target", "code"), [("full", 3), ("pipe", 3), ("closed", 0)])
def test_an_answer_that_nobody_got_is_one_message_and_no_verdict(target, code):
    """In a process: the interpreter itself writes once more when it ends."""
    ended, _, err = run_with(CALL.format(["--help"]), out=target)
    assert ended == code
    assert err.count("error: ") == (code != 0)
    assert len(err.splitlines()) == 2 * (code != 0)


@pytest.mark.parametrize("target", ["full", "pipe", "closed"])
def test_a_terminal_that_went_away_changes_no_exit_code(target):
    """Without care the interpreter ends with 120, or the guard itself with a traceback."""
    assert run_with(CALL.format(["no-such-command"]), err=target)[0] == ExitCode.USAGE
    assert run_with(CALL.format(["validate"]), err=target)[0] == ExitCode.USAGE
    assert run_with(CALL.format(["no-such-command"]), out=target, err=target)[0] == ExitCode.USAGE
    ended, out, _ = run_with(CALL.format(["--version"]), err=target)
    assert (ended, out.split()[0]) == (0, "pirl")


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    """What a library writes to standard error would be in the middle of it."""
    command = (
        "import os, sys; from pirl.guard import run_guarded\n"
        "def work(argv):\n"
        f"    with open({str(tmp_path / 'metrics')!r}, 'w') as file:\n"
        "        os.write(2, b'noise')\n"
        "        file.write('row')\n"
        "    return 0\n"
        "sys.exit(run_guarded(work, []))"
    )
    assert run_with(command, out="closed", err="closed")[0] == 0
    assert (tmp_path / "metrics").read_text() == "row"


def test_what_no_encoding_can_carry_is_escaped():
    command = (
        "import sys; from pirl.guard import run_guarded\n"
        "sys.exit(run_guarded(lambda _: int(sys.stdout.write(chr(0xD800)) > 1), []))"
    )
    assert run_with(command)[:2] == (0, "\\ud800")


def test_an_interrupt_that_a_library_turned_into_an_error_is_an_interrupt(capsys):
    """PyOpenGL does; a run that was told to stop then ended as one without a graphics library."""

    def command(argv: Sequence[str]) -> int:
        try:
            interrupt(signal.SIGTERM, None)
        except KeyboardInterrupt:
            raise ImportError("no library") from None

    assert run_guarded(command, []) == ExitCode.INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    assert run_guarded(raising(ImportError("no library")), []) == ExitCode.CHECK_FAILED


def test_argparse_ends_as_it_likes():
    with pytest.raises(SystemExit):
        run_guarded(raising(SystemExit(2)), [])


def test_own_errors_keep_their_message(capsys):
    wrong = FieldError(field="a", value=1, expected="2", fix="set 2")
    assert run_guarded(raising(ConfigError([wrong])), []) == ExitCode.USAGE
    assert "fix: set 2" in capsys.readouterr().err


def test_errors_about_an_input_are_not_the_machines():
    assert machine_error(RuntimeError("Error(s) in loading state_dict for XVLAPolicy")) is None
    assert machine_error(ValueError("out of memory")) is None
    assert as_pirl_error(KeyError("x")) is None
    assert as_pirl_error(ModuleNotFoundError("no", name="pirl.gone")) is None
    assert isinstance(as_pirl_error(RuntimeError("CUDA out of memory")), EnvironmentNotReadyError)


def test_a_shown_command_hides_tokens_and_nothing_else():
    line = [
        "pirl",
        "learner",
        "--runtime.token=s3cret",
        "--policy.tokenizer_name=x",
        "--runtime.token",
        "s3cret2",
    ]
    shown = shown_command(line)
    assert "s3cret" not in shown
    assert "--policy.tokenizer_name=x" in shown
    assert without_secrets("tokens = 3, tokenizer: y", guess=True) == "tokens = 3, tokenizer: y"


def long_mismatch(argv: Sequence[str]) -> int:
    value = {f"field_{i}": i for i in range(200)}
    fields = [FieldMismatch(field=f"part_{i}", ours=value, theirs="other") for i in range(40)]
    raise MismatchError("two sides", fields)


def test_on_a_terminal_a_long_refusal_is_cut_and_says_how_to_have_it_whole(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run_guarded(long_mismatch, []) == ExitCode.MISMATCH
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2:] == ["  and 17 lines more", "  whole with --verbose"]
    assert all(len(line) < 260 for line in lines)
    assert lines[1].startswith("  part_0: ours = {'field_0': 0")
    assert lines[1].endswith("theirs = 'other'")


@pytest.mark.parametrize(("terminal", "argv"), [(False, []), (True, ["--verbose"])])
def test_a_log_and_verbose_have_the_whole_of_it(terminal, argv, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert run_guarded(long_mismatch, argv) == ExitCode.MISMATCH
    said = capsys.readouterr().err
    assert said.count("'field_199': 199") == 40


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EnvironmentNotReadyError("no assets", remedy="fetch them"), "no assets; fix: fetch them"),
        (TimeoutError("exceeded 1 s"), "TimeoutError: exceeded 1 s"),
        (RuntimeError("boom"), "Encountered exception during execution"),
    ],
)
def test_prefect_tells_a_deliberate_error_in_one_line(error, told, caplog):
    tell_in_one_line()
    try:
        raise error
    except Exception as caught:
        logger = logging.getLogger("prefect.flow_runs")
        logger.exception("Encountered exception during execution: %r", caught)
    (record,) = caplog.records
    assert told in record.getMessage()
    assert (record.exc_info is None) == (not isinstance(error, RuntimeError))
