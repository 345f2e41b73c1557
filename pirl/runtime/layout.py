"""Where everything of a run lies below its output folder, and whose that folder is.

Imports nothing heavy, so that a folder is refused before torch is loaded. Read `pirl.ownership` next.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pirl.errors import ConfigError, FieldError
from pirl.ownership import contents, disown, own


class Configured(Protocol):
    """A config that was checked, or loaded as well."""

    @property
    def cfg(self) -> Any:
        """With `output_dir` and `resume`."""
        ...


def run_root(output_dir: Path | None, run_id: str) -> Path:
    """The run's folder: `output_dir`, or one named after the run id that learner and actors share."""
    return Path("outputs/train") / f"pirl-{run_id[:12]}" if output_dir is None else Path(output_dir)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run; the learner owns the folder, each actor writes only below its own."""

    root: Path

    @property
    def learner_metrics(self) -> Path:
        """One row per update."""
        return self.root / "learner" / "metrics.jsonl"

    @property
    def episodes(self) -> Path:
        """One record per consumed episode."""
        return self.root / "learner" / "episodes.jsonl"

    @property
    def run_record(self) -> Path:
        """Identity, digests before and after, counters, exit reason."""
        return self.root / "learner" / "run.json"

    @property
    def launch_record(self) -> Path:
        """Processes of `pirl launch` and how the run ended."""
        return self.root / "launch" / "run.json"

    def process_record(self, role: str) -> Path:
        """Exit reason of a learner process that is not the first (`learner-1`)."""
        return self.root / role / "run.json"

    def effective_config(self, role: str) -> Path:
        """The canonical config that a process really ran with; its SHA-256 is the config hash."""
        return self.root / role / "config.json"

    def actor_video(self, rank: int) -> Path:
        """Frames [N, h, w, 3] of the first episode of an actor that was asked to record it."""
        return self.root / f"actor-{rank}" / "frames.npz"

    def actor_metrics(self, rank: int) -> Path:
        """One row per rollout of that actor."""
        return self.root / f"actor-{rank}" / "metrics.jsonl"

    def marks(self, role: str) -> Path:
        """Who every process was that played this role in the run (`pirl.runtime.mark`)."""
        return self.root / role / "processes.jsonl"

    def broken_off(self, rank: int) -> Path:
        """One record per episode of that actor that began and was not finished."""
        return self.root / f"actor-{rank}" / "broken_off.jsonl"

    def actor_record(self, rank: int) -> Path:
        """Handshake, versions acted with, counters, exit reason."""
        return self.root / f"actor-{rank}" / "run.json"


def open_run_folder(config: Configured, run_id: str) -> RunFolder:
    """The run's output folder, owned by this process from now on; `disown` gives it back.

    Raises:
        ConfigError: another process owns the folder, or it holds a run and this one does not resume.
        EnvironmentNotReadyError: it cannot be written.
    """
    folder = RunFolder(run_root(config.cfg.output_dir, run_id))
    own(folder.root, field="output_dir")
    if config.cfg.resume or not contents(folder.root):
        return folder
    disown(folder.root)
    error = FieldError(
        field="output_dir",
        value=str(folder.root),
        expected="a folder that does not exist yet, or --resume=true",
        fix="choose another output_dir, or resume with --resume=true "
        "--config_path RUN/checkpoints/last/pretrained_model/train_config.json",
    )
    raise ConfigError([error])
