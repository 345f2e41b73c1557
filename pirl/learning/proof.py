"""One learning run from nothing to a judged record: warm start, piRL over the real runtime, fresh episodes.

Owns the order and what is written where. The runtime is `pirl.runtime.launch`, the episodes are
`pirl.evaluation`'s; nothing here trains or counts on its own. Read `pirl.learning.judgement` next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

from pirl.checkpoint.locate import resolve_checkpoint, step_folders
from pirl.config.demonstrations import require_demonstrations
from pirl.config.load import LoadedConfig, load_config
from pirl.config.train import PiRLTrainConfig, env_of
from pirl.envs import describe_env
from pirl.envs.kinds import env_kind
from pirl.errors import ExitCode, PirlError
from pirl.evaluation.checkpoint import Protocol, evaluate_checkpoint
from pirl.files import copy_tree
from pirl.journal.fields import mapping, read_object, text
from pirl.journal.metric_log import JsonLines, MetricRow, read_json_lines, read_metrics
from pirl.learning.settings import LearnSettings
from pirl.learning.warm_start import warm_start
from pirl.records import EpisodeRecord
from pirl.runtime.launch import launch
from pirl.runtime.layout import RunFolder
from pirl.runtime.metrics import cpu_seconds

logger = logging.getLogger(__name__)

PRETRAINED = "pretrained_model"
_LEARNERS = {"dropout": "pirl.learning.dropout_learner"}
"""Controls that are another program than `pirl.learner`."""


class LearningRunError(PirlError):
    """The run itself failed; there is nothing to judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnFolder:
    """Where everything of one learning run lies."""

    root: Path

    @property
    def warm_start(self) -> Path:
        """`pretrained_model/` of the starting policy, and how it was made."""
        return self.root / "warm_start"

    @property
    def record(self) -> Path:
        """How the process that ran it ended."""
        return self.root / "run.json"

    @property
    def run(self) -> RunFolder:
        """Learner and actors: metrics, episodes, checkpoints."""
        return RunFolder(self.root / "run")

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.root / "logs"

    def episodes(self, update: int) -> Path:
        """Evaluation episodes of the policy after `update` updates; 0 is the warm start."""
        return self.root / "evaluation" / f"update-{update:06d}.jsonl"

    @property
    def misled(self) -> Path:
        """Episodes of the last policy told another task's instruction; several tasks only."""
        return self.root / "evaluation" / "misled.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a part of the run took on this machine."""

    wall_s: float
    cpu_s: float
    """Of all processes of the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRun:
    """What happened; `pirl.learning.judgement` says what it is worth."""

    folder: LearnFolder
    config_hash: str
    weights_sha256: str
    """Of the trained tensors after the last update."""
    evaluations: dict[int, list[EpisodeRecord]]
    """Episode records by number of updates."""
    misled: list[EpisodeRecord]
    """The last policy told another task's instruction; empty for one task."""
    rows: list[MetricRow]
    """The learner's metrics, one row per update."""
    actor_rows: list[list[MetricRow]]
    """Each actor's metrics, one row per rollout."""
    costs: dict[str, Cost]


def run_learning(settings: LearnSettings, *, folder: LearnFolder) -> LearningRun:
    """Warm start, evaluate, train, evaluate the checkpoints on the same held-out episodes.

    Raises:
        ConfigError: settings and config do not fit; nothing was run.
        LearningRunError: learner or actor did not end well; logs are in the folder.
        EnvError: the simulator failed.
    """
    loaded = load_config(settings.config_path, settings.all_overrides)
    # Before the start is evaluated: the learner would say so minutes later.
    require_demonstrations(loaded.cfg, source=loaded.identity.path)
    clock = _Clock()
    with clock.part("warm_start"):
        policy = _starting_policy(settings, loaded, folder)
    evaluations = {0: evaluate_at(settings, loaded, policy, folder=folder, update=0)}
    with clock.part("training"):
        _train(settings, policy, folder)
    with clock.part("evaluation"):
        for update, step_dir in _checkpoints(folder.run.root).items():
            evaluations[update] = evaluate_at(
                settings, loaded, step_dir / PRETRAINED, folder=folder, update=update
            )
        _mislead(settings, loaded, folder)
    return load_run(folder, costs=clock.costs)


def load_run(folder: LearnFolder, *, costs: Mapping[str, Cost] | None = None) -> LearningRun:
    """A finished run from its files; `costs` are known only to the process that ran it.

    Raises:
        EvidenceError: a file is missing or malformed.
    """
    learner = read_object(folder.run.run_record)
    evaluations = {
        int(path.stem.removeprefix("update-")): [
            EpisodeRecord(**record) for record in read_json_lines(path)
        ]
        for path in sorted((folder.root / "evaluation").glob("update-*.jsonl"))
    }
    misled = read_json_lines(folder.misled) if folder.misled.exists() else []
    actors = sorted((folder.run.root).glob("actor-*/metrics.jsonl"))
    return LearningRun(
        folder=folder,
        config_hash=text(mapping(learner, "identity"), "config_hash"),
        weights_sha256=text(mapping(learner, "digests_after"), "trained"),
        evaluations=evaluations,
        misled=[EpisodeRecord(**record) for record in misled],
        rows=read_metrics(folder.run.learner_metrics),
        actor_rows=[read_metrics(path) for path in actors],
        costs=dict(costs or {}),
    )


def evaluate_at(
    settings: LearnSettings, loaded: LoadedConfig, policy: Path, *, folder: LearnFolder, update: int
) -> list[EpisodeRecord]:
    """Held-out episodes with the stock sampler; every policy of the run meets the same ones."""
    return _evaluate(
        settings, loaded.cfg, policy, path=folder.episodes(update), label=f"after {update} updates"
    )


def _mislead(settings: LearnSettings, loaded: LoadedConfig, folder: LearnFolder) -> None:
    """The same episodes, each told the next task's instruction: success must come from the words."""
    env_cfg = env_of(loaded.cfg)
    misled = env_kind(env_cfg.type).misled(env_cfg)
    if misled is None or len(describe_env(env_cfg).task_names) < 2:
        return
    cfg = deepcopy(loaded.cfg)
    cfg.env = misled
    policy = resolve_checkpoint(folder.run.root) / PRETRAINED
    _evaluate(settings, cfg, policy, path=folder.misled, label="told another task")


def _evaluate(
    settings: LearnSettings, cfg: PiRLTrainConfig, policy: Path, *, path: Path, label: str
) -> list[EpisodeRecord]:
    records = evaluate_checkpoint(
        policy,
        cfg,
        protocol=Protocol(
            episodes_per_task=settings.episodes,
            seed=settings.seed,
            num_envs=settings.evaluation_envs,
            num_workers=settings.evaluation_workers,
        ),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with JsonLines(path) as lines:
        for record in records:
            lines.write(asdict(record))
    logger.info(
        "%s: %d of %d held-out episodes succeeded",
        label,
        sum(record.success for record in records),
        len(records),
    )
    return records


def _starting_policy(settings: LearnSettings, loaded: LoadedConfig, folder: LearnFolder) -> Path:
    if settings.start_from is None:
        return warm_start(
            loaded.cfg, settings.warm_start, seed=settings.seed, folder=folder.warm_start
        )
    target = folder.warm_start / PRETRAINED
    return copy_tree(Path(settings.start_from), target)


def _train(settings: LearnSettings, policy: Path, folder: LearnFolder) -> None:
    result = launch(
        settings.config_path,
        actors=settings.actors,
        overrides=[
            *settings.all_overrides,
            f"--policy.pretrained_path={policy}",
            f"--output_dir={folder.run.root}",
            "--runtime.port=0",
        ],
        log_dir=folder.logs,
        quiet=False,
        deadline_s=settings.deadline_s,
        learner_module=_LEARNERS.get(settings.control or "", "pirl.learner"),
    )
    if result.exit_code is not ExitCode.OK:
        raise LearningRunError(
            f"training ended with exit code {int(result.exit_code)}; see {folder.logs.as_posix()}/"
        )


def _checkpoints(run_dir: Path) -> dict[int, Path]:
    """Step folders by update, the last one verified."""
    resolve_checkpoint(run_dir)
    return dict(sorted(step_folders(run_dir / "checkpoints").items()))


class _Clock:
    """Wall and CPU seconds of named parts, child processes included once they ended."""

    def __init__(self) -> None:
        self.costs: dict[str, Cost] = {}

    @contextmanager
    def part(self, name: str) -> Generator[None]:
        """Measure the body as the part `name`."""
        wall, cpu = time.monotonic(), cpu_seconds()
        yield
        self.costs[name] = Cost(
            wall_s=round(time.monotonic() - wall, 2), cpu_s=round(cpu_seconds() - cpu, 2)
        )
