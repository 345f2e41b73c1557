"""One gate under way: its config, its bundle, its work folder, and the four steps in their order.

Owns the order, the lock ("one gate at a time") and what is done when a step ends early. `pirl gate`, DVC and
the Prefect flow all drive this class; none of them has an order of its own. Read `pirl.gate.validate_step`
next.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from pirl.config.load import LoadedConfig
from pirl.errors import PirlError
from pirl.evidence.bundle import BundleWriter, FinishedBundle, StepWriter
from pirl.evidence.criteria import STEPS, CriterionResult, Verdict, worst
from pirl.evidence.redact import Redactor
from pirl.files import writing
from pirl.gate.profiles import Profile, choose_profile, resolve_config
from pirl.ownership import clear, owned

logger = logging.getLogger(__name__)

LOCK = Path("runs/.gate.lock")
LOCK_FILES = ("constraints.txt", "pyproject.toml")
ASSETS_VARIABLE = "PIRL_LIBERO_ASSETS"


class GateFailedError(PirlError):
    """A step of the gate did not pass; exit code 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What a step is worth."""

    step: str
    verdict: Verdict
    results: list[CriterionResult]
    error: str
    """Why the step ended early; empty when it ran to its end."""


@dataclass(slots=True, kw_only=True)
class GateSession:
    """The state that the four steps share."""

    profile: Profile
    variant: str
    work: Path
    """Run folders, logs and checkpoints; not part of the bundle."""
    bundle: BundleWriter
    loaded: LoadedConfig
    outcomes: dict[str, StepOutcome] = field(default_factory=dict[str, StepOutcome])

    @property
    def config_path(self) -> str:
        """The one config every process is started with."""
        return str(self.loaded.source_path)

    def run_step(self, step: str) -> StepOutcome:
        """Run one step and judge its records.

        A step that fails leaves its records behind; the following steps still run where they can, so that a
        reviewer sees all that is wrong. A step out of order is a programming error.
        """
        expected = STEPS[len(self.outcomes)]
        if step != expected:
            raise ValueError(f"step {step!r} where {expected!r} must follow")
        module = import_module(_MODULES[step])
        run: Callable[[GateSession, StepWriter], None] = module.run
        error = ""
        logger.info("step %s begins", step)
        writer = self.bundle.step(step)
        try:
            with writer:
                run(self, writer)
        except PirlError as problem:
            error = f"{type(problem).__name__}: {problem}"
            logger.error("step %s ended early: %s", step, error)
        results = writer.results()
        verdict = worst({result.name: result.verdict for result in results})
        outcome = StepOutcome(step=step, verdict=verdict, results=results, error=error)
        self.outcomes[step] = outcome
        for result in results:
            if result.verdict is not Verdict.PASSED:
                logger.error("%s: %s (%s)", result.name, result.verdict, result.detail)
        logger.info("step %s: %s", step, verdict)
        return outcome

    def finish(self) -> FinishedBundle:
        """Judge, report and seal the bundle; steps that never ran count as not run."""
        return self.bundle.finish()


_MODULES = {
    "validate-config": "pirl.gate.validate_step",
    "smoke-run": "pirl.gate.smoke_step",
    "resume-roundtrip": "pirl.gate.resume_step",
    "mismatch-negative": "pirl.gate.mismatch_step",
}


@contextmanager
def open_gate(
    *,
    profile: str,
    variant: str,
    out: Path,
    launched_by: str,
    overrides: Sequence[str] = (),
    repo_root: Path | None = None,
    replace: bool = False,
) -> Generator[GateSession]:
    """Open a gate: lock, choose the profile, resolve the config, start the bundle.

    Args:
        out: the bundle's folder; must not exist or be empty. Work goes to `<out>.work`.
        launched_by: `direct`, `dvc`, `prefect` or `test`.
        overrides: dotted overrides of the config; part of its hash, hence of the evidence.
        replace: remove an earlier bundle from `out`.

    Raises:
        GateFailedError: another gate is running in this checkout.
        EvidenceError: `out` is not empty.
        ConfigError, EnvironmentNotReadyError: nothing was run; another process may own `out`.
    """
    root = repo_root or Path.cwd()
    # The bundle itself holds nothing but evidence, so the work folder beside it has the owner's lock.
    work = out.with_name(out.name + ".work")
    with owned(work, field="--out"), _only_gate(root / LOCK):
        if replace and out.exists():
            shutil.rmtree(out)
        BundleWriter.require_fresh(out)
        clear(work)
        chosen = choose_profile(profile)
        if chosen.reason:
            logger.warning("profile %s: %s", chosen.name, chosen.reason)
        loaded = resolve_config(
            chosen, variant=variant, overrides=overrides, target=work / "train_config.json"
        )
        assets = os.environ.get(ASSETS_VARIABLE)
        folders = {str(Path(assets).resolve()): "<assets>"} if assets else {}
        bundle = BundleWriter.start(
            out,
            repo_root=root,
            redactor=Redactor.for_this_machine(root, folders=folders),
            launched_by=launched_by,
            lock_files=LOCK_FILES,
            environment={"torch_threads": loaded.cfg.runtime.torch_threads},
        )
        bundle.command(
            ["pirl", "gate", "--profile", chosen.name, "--variant", variant, *overrides],
            comment="the whole gate; every door runs the same",
        )
        yield GateSession(profile=chosen, variant=variant, work=work, bundle=bundle, loaded=loaded)


@contextmanager
def _only_gate(path: Path) -> Generator[None]:
    """Hold the checkout's gate lock; the kernel frees it however this process ends."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a+", encoding="utf-8")
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise GateFailedError(
                f"another gate is running in this checkout: {file.read().strip() or 'unknown process'}"
            ) from error
        file.seek(0)
        file.truncate()
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield
