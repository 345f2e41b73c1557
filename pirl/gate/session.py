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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from pirl.audit.bundle import BundleWriter, FinishedBundle, StepWriter, require_fresh
from pirl.audit.criterion import CriterionResult, Verdict, worst
from pirl.audit.records.files import STEPS
from pirl.audit.redact import Redactor
from pirl.config.secret import TOKEN_VARIABLE
from pirl.errors import ExitCode, PirlError
from pirl.files import writing
from pirl.foreign import as_pirl_error
from pirl.gate.deadlines import allowed_s
from pirl.gate.profiles import FirstLook, Profile, choose_profile, resolve_rewarded
from pirl.ownership import clear, owned
from pirl.resources import SHIPPED, checkout
from pirl.secrecy import secret_values

if TYPE_CHECKING:
    from pirl.config.check import CheckedConfig
    from pirl.config.load import LoadedConfig

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
    exit_code: ExitCode = ExitCode.OK
    """Of the error."""

    @property
    def ends_gate(self) -> bool:
        """Whether no further step may start.

        A step that failed by its numbers is over, and the next may still tell something. One that ended early
        could not do its work: what follows would wait for what it did not leave, or be about a broken machine.
        """
        return self.error != ""


@dataclass(slots=True, kw_only=True)
class GateSession:
    """The state that the four steps share."""

    profile: Profile
    variant: str
    work: Path
    """Run folders, logs and checkpoints; not part of the bundle."""
    bundle: BundleWriter
    loaded: LoadedConfig
    rewarded: CheckedConfig | None = None
    """Config of the second smoke run, where the profile has one."""
    look: FirstLook | None = None
    """The episode that the choice of the profile began; validate-config goes on with it."""
    outcomes: dict[str, StepOutcome] = field(default_factory=dict[str, StepOutcome])

    @property
    def config_path(self) -> str:
        """The one config every process is started with."""
        return str(self.loaded.source_path)

    @property
    def ended_by(self) -> StepOutcome | None:
        """The step after which no other may start."""
        return next((outcome for outcome in self.outcomes.values() if outcome.ends_gate), None)

    def allowed_s(self, phase: str) -> float:
        """How long a part of a step may take, seconds (`pirl.gate.deadlines`)."""
        return allowed_s(self.profile.name, phase)

    def run_step(self, step: str) -> StepOutcome:
        """Run one step and judge its records; one that fails leaves its records behind.

        A step out of order, or after one that ended the gate, is a programming error.
        """
        expected = STEPS[len(self.outcomes)]
        if step != expected:
            raise ValueError(f"step {step!r} where {expected!r} must follow")
        if self.ended_by is not None:
            raise ValueError(f"step {step!r} after {self.ended_by.step!r} ended the gate")
        module = import_module(_MODULES[step])
        run: Callable[[GateSession, StepWriter], None] = module.run
        error, code = "", ExitCode.OK
        logger.info("step %s begins", step)
        writer = self.bundle.step(step, config_hash=self.loaded.identity.hash, variant=self.variant)
        try:
            with writer:
                run(self, writer)
        except Exception as raised:
            # A full disk ends a step as any other failure does: its records are judged and sealed.
            if (ended := _ended_by(raised)) is None:
                raise
            error, code = ended
            logger.error("step %s ended early: %s", step, error)
        results = writer.results()
        verdict = worst({result.name: result.verdict for result in results})
        outcome = StepOutcome(
            step=step, verdict=verdict, results=results, error=error, exit_code=code
        )
        self.outcomes[step] = outcome
        for result in results:
            if result.verdict is not Verdict.PASSED:
                logger.error("%s: %s (%s)", result.name, result.verdict, result.detail)
        logger.info("step %s: %s", step, verdict)
        return outcome

    def finish(self) -> FinishedBundle:
        """Judge, report and seal the bundle; steps that never ran count as not run."""
        smoke = self.outcomes.get("smoke-run")
        # Every picture is of something that the smoke run measured.
        return self.bundle.finish(pictures=smoke is not None and not smoke.ends_gate)


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
    variant: str | None,
    out: Path,
    launched_by: str,
    config: Path | None = None,
    overrides: Sequence[str] = (),
    replace: bool = False,
    sign_with: Path | None = None,
) -> Generator[GateSession]:
    """Open a gate: lock, choose the profile, resolve the config, start the bundle.

    Args:
        profile: one of `profiles.PROFILES`.
        variant: None takes that of the base config.
        out: the bundle's folder; must not exist or be empty. Work goes to `<out>.work`.
        launched_by: `direct`, `dvc`, `prefect` or `test`.
        config: the base config of the profile `own`.
        overrides: dotted overrides of the config; part of its hash, hence of the evidence.
        replace: remove an earlier bundle from `out`.
        sign_with: PEM file of the Ed25519 key that signs the bundle.

    Raises:
        GateFailedError: another gate is running in this checkout.
        ConfigError, EnvironmentNotReadyError, EvidenceError: nothing was run, and no work folder is left;
            another process may own `out`, or it is not empty.
    """
    root = Path.cwd()
    # The bundle itself holds nothing but evidence, so the work folder beside it has the owner's lock.
    work = out.with_name(out.name + ".work")
    with owned(work, field="--out"), _only_gate(root / LOCK):
        if replace and out.exists():
            shutil.rmtree(out)
        require_fresh(out)
        clear(work)
        with ExitStack() as failed_start:
            failed_start.callback(clear, work)
            ready = choose_profile(
                profile,
                variant=variant,
                overrides=overrides,
                target=work / "train_config.json",
                config=config,
            )
            failed_start.callback(ready.look.env.close)
            chosen, loaded = ready.profile, ready.loaded
            variant = str(loaded.cfg.pirl.variant)
            if chosen.reason:
                logger.warning("profile %s: %s", chosen.name, chosen.reason)
            rewarded = resolve_rewarded(
                chosen.name, variant=variant, target=work / "rewarded_config.json"
            )
            named = [] if config is None else ["--config", _seen_from(root, config)]
            command = ["pirl", "gate", "--profile", chosen.name, *named, "--variant", variant]
            command += overrides
            bundle = _start_bundle(out, root, launched_by, command, sign_with)
            failed_start.pop_all()
        try:
            yield GateSession(
                profile=chosen,
                variant=variant,
                work=work,
                bundle=bundle,
                loaded=loaded,
                rewarded=rewarded,
                look=ready.look,
            )
        finally:
            ready.look.env.close()


def _seen_from(root: Path, config: Path) -> str:
    """The file as a command in `root` names it; a file elsewhere is a mark and its name in the evidence."""
    inside = config.is_absolute() and config.is_relative_to(root)
    return (config.relative_to(root) if inside else config).as_posix()


def _start_bundle(
    out: Path, root: Path, launched_by: str, command: Sequence[str], sign_with: Path | None
) -> BundleWriter:
    token = os.environ.get(TOKEN_VARIABLE)
    assets = os.environ.get(ASSETS_VARIABLE)
    folders = {str(Path(assets).resolve()): "<assets>"} if assets else {}
    return BundleWriter.start(
        out,
        repo_root=checkout() or SHIPPED,
        redactor=Redactor.for_this_machine(
            root, secrets=[*secret_values(command), *([token] if token else [])], folders=folders
        ),
        launched_by=launched_by,
        command=command,
        lock_files=LOCK_FILES,
        sign_with=sign_with,
    )


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


def _ended_by(raised: Exception) -> tuple[str, ExitCode] | None:
    """Text and exit code of an error that ends a step; None for one that is nobody's fault but pirl's.

    The error itself is not handed out: a variable of the frame that caught it would tie it, its frames and the
    policy in them to a cycle, and Python 3.12.1 crashed when it collected one of those.
    """
    problem = as_pirl_error(raised)
    return problem and (f"{type(problem).__name__}: {problem}", problem.exit_code)
