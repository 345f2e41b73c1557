"""What a rollout may mean: every decision and every record is checked before the learner keeps it.

Owns three tables of checks (one decision, one announcement, one complete episode) and the bounds they
need, which come from the config and the environment. Form (keys, dtypes, shapes, ranges) is
`pirl.transport.schema`. A check that fails costs the actor that sent the message and nobody else. Read
`pirl.runtime.store` next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.utils.transition import Transition
from torch import Tensor

from pirl.algorithm.log_prob import recorded_log_prob
from pirl.config.recipe import PiRLConfig
from pirl.config.train import PiRLTrainConfig
from pirl.decision import CHUNK_INDEX, EPISODE_ID, GROUP_ID, STEP_REWARDS, VALID_STEPS
from pirl.envs.base import EnvInfo
from pirl.envs.schedule import EPISODES_PER_VERSION, first_episode_id, plan_episode
from pirl.envs.split import StateSplit
from pirl.errors import ContractError
from pirl.records import FIELD_PREFIX, ActionSpec, EpisodePlan, EpisodeRecord
from pirl.transport.refusal import RefusedMessageError

SUM_TOLERANCE = 1e-5
"""Relative to the larger of 1 and the sum: float32 sums in another order differ by less."""


type PlanOf = Callable[[int, int, int], EpisodePlan]
"""The episode that the schedule names for (policy version, rank, number in that version)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutBounds:
    """How long rollouts and episodes of a config can be, and which episodes exist."""

    executed_steps: int
    """E: control actions of a decision that does not end its episode."""
    max_control_steps: Mapping[int, int]
    """Time limit in control actions by task id."""
    sim_steps_per_action: int
    is_async: bool
    """Episodes are reported one by one."""
    min_decisions: int
    """Every `sync` rollout of one actor has as many: its share of `runtime.rollout_chunks`."""
    max_decisions: int
    """No rollout of one actor has more: the share, and one episode more in every slot."""
    max_held: int
    """`async`: decisions of one actor that wait for an update before it is held up."""
    constant: Sequence[str]
    """Fields that no two decisions of an episode differ in: its group, and what the policy made of its
    instruction."""
    task_names: Sequence[str]
    plan: PlanOf
    require_scored: Callable[[Mapping[str, Tensor]], None]
    """Raises ContractError when the recorded log-prob lacks an element that the recipe counts."""


def bounds_of(
    cfg: PiRLTrainConfig,
    *,
    spec: ActionSpec,
    env: EnvInfo,
    split: StateSplit,
    inputs: Iterable[str],
) -> RolloutBounds:
    """The bounds of one actor's rollouts under `cfg`.

    Args:
        inputs: names of the policy's further inputs (`FlowPolicy.inputs`).
    """
    runtime, pirl = cfg.runtime, cfg.pirl
    share = -(-runtime.rollout_chunks // runtime.actors)
    longest = env.max_decisions(spec.executed_steps)

    def plan(version: int, rank: int, number: int) -> EpisodePlan:
        return plan_episode(
            seed=cfg.seed or 0,
            policy_version=version,
            rank=rank,
            env_index=number % runtime.envs_per_actor,
            episode_index=number // runtime.envs_per_actor,
            task_names=env.task_names,
            split=split,
            num_envs=runtime.envs_per_actor,
            num_actors=runtime.actors,
            group_size=pirl.group_size,
            adv_type=pirl.adv_type,
        )

    return RolloutBounds(
        executed_steps=spec.executed_steps,
        max_control_steps=env.max_control_steps,
        sim_steps_per_action=env.sim_steps_per_action,
        is_async=runtime.mode == "async",
        min_decisions=share,
        # A slot starts an episode only while fewer than the share were executed.
        max_decisions=share + runtime.envs_per_actor * longest,
        # One actor alone can fill an update while its other slots are in the middle of episodes.
        max_held=runtime.rollout_chunks + 2 * runtime.envs_per_actor * longest,
        constant=(GROUP_ID, *(FIELD_PREFIX + name for name in inputs)),
        task_names=env.task_names,
        plan=plan,
        require_scored=_scored_check(spec, pirl),
    )


def _scored_check(spec: ActionSpec, pirl: PiRLConfig) -> Callable[[Mapping[str, Tensor]], None]:
    def require_scored(info: Mapping[str, Tensor]) -> None:
        recorded_log_prob(spec, pirl, info)

    return require_scored


@dataclass(slots=True)
class Episode:
    """What has arrived of one episode."""

    rank: int
    version: int
    episode_id: int
    decisions: int = 0
    control_steps: int = 0
    reward: float = 0.0
    last: Transition | None = None

    @property
    def has_ended(self) -> bool:
        """Whether its last decision ended it."""
        return self.last is not None and (self.last["done"] or self.last["truncated"])

    def add(self, transition: Transition, bounds: RolloutBounds | None) -> None:
        """Append a decision.

        Raises:
            RefusedMessageError: the first check that fails.
        """
        decision = Decision(transition, info=_info(transition), before=self)
        for reason, check in DECISION_CHECKS:
            _require(reason, check(decision, bounds), f"episode {self.episode_id}")
        self.decisions += 1
        self.control_steps += decision.valid_steps
        self.reward += transition["reward"]
        self.last = transition


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision and the episode before it; schema-checked, so fields of the schema are there."""

    transition: Transition
    info: Mapping[str, Any]
    before: Episode

    @property
    def ends(self) -> bool:
        """Whether the episode ends with it."""
        return self.transition["done"] or self.transition["truncated"]

    @property
    def valid_steps(self) -> int:
        """Control actions executed."""
        return int(self.info[VALID_STEPS]) if VALID_STEPS in self.info else 0


@dataclass(slots=True)
class Rollout:
    """What one actor incarnation has delivered under one key: all of a version, or one episode."""

    rank: int
    version: int
    changed: float
    """Monotonic time of the last arrival."""
    transitions: list[Transition] = field(default_factory=list[Transition])
    arrived: dict[int, Episode] = field(default_factory=dict[int, Episode])
    records: list[EpisodeRecord] = field(default_factory=list[EpisodeRecord])
    announced: int | None = None

    @property
    def is_complete(self) -> bool:
        """Whether everything that was announced is there; then it has passed every check."""
        return self.announced == len(self.transitions)

    def add(self, transition: Transition, bounds: RolloutBounds | None) -> None:
        """Keep a decision.

        Raises:
            RefusedMessageError: it cannot belong to this rollout.
        """
        limit = None if bounds is None else bounds.max_decisions
        if self.announced is not None:
            limit = self.announced
        if limit is not None and len(self.transitions) >= limit:
            said = "announced" if self.announced is not None else "a rollout can have"
            raise RefusedMessageError("surplus", f"more than the {limit} decisions that {said}")
        number = int(_info(transition)[EPISODE_ID])
        episode = self.arrived.setdefault(number, Episode(self.rank, self.version, number))
        episode.add(transition, bounds)
        self.transitions.append(transition)
        try:
            self._check_complete(bounds)
        except RefusedMessageError:
            # Not kept, so that whoever counts what was refused counts it once.
            self.transitions.pop()
            raise

    def announce(
        self, decisions: int, records: Sequence[EpisodeRecord], bounds: RolloutBounds | None
    ) -> None:
        """Keep what the actor says about the rollout.

        Raises:
            RefusedMessageError: it cannot be true, or was said before.
        """
        if self.announced is not None:
            raise RefusedMessageError("repeat", "a rollout was announced twice")
        said = Announcement(self.rank, self.version, decisions, records)
        for reason, check in ANNOUNCEMENT_CHECKS:
            _require(reason, check(said, bounds), f"version {self.version}")
        if len(self.transitions) > decisions:
            text = f"announced {decisions} decisions, sent {len(self.transitions)}"
            raise RefusedMessageError("surplus", text)
        self.announced, self.records = decisions, list(records)
        self._check_complete(bounds)

    def _check_complete(self, bounds: RolloutBounds | None) -> None:
        if not self.is_complete:
            return
        told = {record.episode_id: record for record in self.records}
        if told.keys() != self.arrived.keys():
            raise RefusedMessageError(
                "records", f"{len(told)} episode records for {len(self.arrived)} episodes"
            )
        for number, episode in self.arrived.items():
            for reason, check in EPISODE_CHECKS:
                text = check(episode, told[number], bounds)
                _require(reason, text, f"record of episode {number}")


@dataclass(frozen=True, slots=True)
class Announcement:
    """The end of a rollout as its actor reports it."""

    rank: int
    version: int
    decisions: int
    records: Sequence[EpisodeRecord]


# -- one decision ----------------------------------------------------------------------------------


def _belongs(decision: Decision, bounds: RolloutBounds | None) -> str | None:
    episode = decision.before
    return _not_its_own(episode.episode_id, episode.rank, episode.version, bounds)


def _follows(decision: Decision, _: RolloutBounds | None) -> str | None:
    chunk, wanted = int(decision.info[CHUNK_INDEX]), decision.before.decisions
    return f"chunk {chunk} again" if chunk < wanted else None


def _has_no_gap(decision: Decision, _: RolloutBounds | None) -> str | None:
    chunk, wanted = int(decision.info[CHUNK_INDEX]), decision.before.decisions
    return f"chunk {chunk} where chunk {wanted} must follow" if chunk > wanted else None


def _is_inside(decision: Decision, _: RolloutBounds | None) -> str | None:
    return "a decision after the one that ended it" if decision.before.has_ended else None


def _ends_one_way(decision: Decision, _: RolloutBounds | None) -> str | None:
    both = decision.transition["done"] and decision.transition["truncated"]
    return "a decision is both done and truncated" if both else None


def _sums_up(decision: Decision, _: RolloutBounds | None) -> str | None:
    steps = decision.info.get(STEP_REWARDS)
    if steps is None:
        return None
    total, said = float(steps.double().sum()), decision.transition["reward"]
    return None if _agree(total, said) else f"reward {said:g}, its step rewards add up to {total:g}"


def _ran_its_rows(decision: Decision, bounds: RolloutBounds | None) -> str | None:
    steps = decision.info.get(STEP_REWARDS)
    if steps is None:
        return None
    valid, rows = decision.valid_steps, steps.shape[-1]
    if valid < rows and not decision.ends:
        return f"{valid} of {rows} rows ran, and the episode went on"
    if bool((steps[..., valid:] != 0).any()):
        return f"a reward after the {valid} rows that ran"
    if bounds is not None:
        limit = max(bounds.max_control_steps.values())
        taken = decision.before.control_steps + valid
        if taken > limit:
            return f"{taken} control steps, the time limit is {limit}"
    return None


def _goes_on(decision: Decision, bounds: RolloutBounds | None) -> str | None:
    last = decision.before.last
    if last is None:
        return None
    earlier = _info(last)
    for name in (GROUP_ID,) if bounds is None else bounds.constant:
        if name in earlier and not torch.equal(decision.info[name], earlier[name]):
            return f"{name} changes inside it"
    for name, tensor in decision.transition["state"].items():
        if not _same(tensor, last["next_state"][name]):
            return f"{name} is not what the decision before ended with"
    return None


def _is_scored(decision: Decision, bounds: RolloutBounds | None) -> str | None:
    if bounds is None:
        return None
    try:
        bounds.require_scored(decision.info)
    except ContractError as error:
        return str(error.clauses[0].value)
    return None


DECISION_CHECKS: tuple[tuple[str, Callable[[Decision, RolloutBounds | None], str | None]], ...] = (
    ("rank", _belongs),
    ("after_end", _is_inside),
    ("repeat", _follows),
    ("gap", _has_no_gap),
    ("ending", _ends_one_way),
    ("reward_sum", _sums_up),
    ("valid_steps", _ran_its_rows),
    ("continuity", _goes_on),
    ("scored", _is_scored),
)
"""Short name of the reason, and what says whether a decision breaks it."""


# -- one announcement ------------------------------------------------------------------------------


def _has_records(said: Announcement, _: RolloutBounds | None) -> str | None:
    ids = [record.episode_id for record in said.records]
    if not ids:
        return "no episode record"
    if len(set(ids)) != len(ids):
        return "several records of one episode"
    total = sum(record.decisions for record in said.records)
    if total != said.decisions or min(record.decisions for record in said.records) < 1:
        return f"announced {said.decisions} decisions, the records have {total}"
    return None


def _has_size(said: Announcement, bounds: RolloutBounds | None) -> str | None:
    low = 1 if bounds is None or bounds.is_async else bounds.min_decisions
    if bounds is None or low <= said.decisions <= bounds.max_decisions:
        return None
    return f"announced {said.decisions} decisions, a rollout has {low} to {bounds.max_decisions}"


def _is_of_run(said: Announcement, bounds: RolloutBounds | None) -> str | None:
    for record in said.records:
        text = _not_its_own(record.episode_id, said.rank, said.version, bounds)
        if record.policy_version != said.version:
            text = f"policy version {record.policy_version}"
        if text is None and bounds is not None:
            text = _not_planned(record, said, bounds)
        if text is not None:
            return f"record of episode {record.episode_id}: {text}"
    return None


def _not_planned(record: EpisodeRecord, said: Announcement, bounds: RolloutBounds) -> str | None:
    number = record.episode_id - first_episode_id(said.rank, said.version)
    if not 0 <= number < EPISODES_PER_VERSION:
        return f"no episode of version {said.version}"
    plan = bounds.plan(said.version, said.rank, number)
    wanted = {
        "task_id": plan.task_id,
        "task": bounds.task_names[plan.task_id],
        "init_state_id": plan.init_state_id,
        "seed": plan.seed,
    }
    for name, value in wanted.items():
        if getattr(record, name) != value:
            return f"{name} {getattr(record, name)!r}, the schedule says {value!r}"
    return None


ANNOUNCEMENT_CHECKS: tuple[
    tuple[str, Callable[[Announcement, RolloutBounds | None], str | None]], ...
] = (
    ("records", _has_records),
    ("size", _has_size),
    ("schedule", _is_of_run),
)
"""As `DECISION_CHECKS`, for the end of a rollout."""


# -- one complete episode --------------------------------------------------------------------------


def _is_whole(episode: Episode, record: EpisodeRecord, _: RolloutBounds | None) -> str | None:
    if record.decisions != episode.decisions:
        return f"{record.decisions} decisions, {episode.decisions} came"
    return None if episode.has_ended else "its last decision does not end it"


def _has_outcome(episode: Episode, record: EpisodeRecord, _: RolloutBounds | None) -> str | None:
    last = episode.last
    if last is None or (record.success, record.truncated) == (last["done"], last["truncated"]):
        return None
    return (
        f"success {record.success} and truncated {record.truncated}, its last decision is done "
        f"{last['done']} and truncated {last['truncated']}"
    )


def _has_reward(episode: Episode, record: EpisodeRecord, _: RolloutBounds | None) -> str | None:
    if _agree(episode.reward, record.reward):
        return None
    return f"reward {record.reward:g}, its decisions have {episode.reward:g}"


def _took_time(episode: Episode, record: EpisodeRecord, bounds: RolloutBounds | None) -> str | None:
    if bounds is None:
        return None
    low, limit = episode.control_steps, bounds.max_control_steps[record.task_id]
    high = low * bounds.sim_steps_per_action
    if low > limit:
        return f"{low} control steps, the time limit of its task is {limit}"
    if not low <= record.env_steps <= high:
        return f"{record.env_steps} env steps, {low} to {high} can be"
    return None


def _has_group(episode: Episode, record: EpisodeRecord, bounds: RolloutBounds | None) -> str | None:
    if bounds is None or episode.last is None:
        return None
    number = record.episode_id - first_episode_id(episode.rank, episode.version)
    wanted = bounds.plan(episode.version, episode.rank, number).group_id
    found = int(_info(episode.last)[GROUP_ID])
    return None if found == wanted else f"group {found}, the schedule says {wanted}"


EPISODE_CHECKS: tuple[
    tuple[str, Callable[[Episode, EpisodeRecord, RolloutBounds | None], str | None]], ...
] = (
    ("records", _is_whole),
    ("outcome", _has_outcome),
    ("reward_sum", _has_reward),
    ("env_steps", _took_time),
    ("schedule", _has_group),
)
"""As `DECISION_CHECKS`, for an episode and its record once both are there."""


# -- shared ----------------------------------------------------------------------------------------


def _not_its_own(
    episode_id: int, rank: int, version: int, bounds: RolloutBounds | None
) -> str | None:
    owner, rest = divmod(episode_id, 2**32)
    if owner != rank:
        return f"it belongs to rank {owner}, not to {rank}"
    named = rest // EPISODES_PER_VERSION
    if bounds is not None and named != version:
        return f"it belongs to version {named}, not to {version}"
    return None


def _agree(left: float, right: float) -> bool:
    return abs(left - right) <= SUM_TOLERANCE * max(1.0, abs(left))


def _same(left: Tensor, right: Tensor) -> bool:
    # Consecutive decisions of one message share the tensor's memory.
    return left.data_ptr() == right.data_ptr() or torch.equal(left, right)


def _info(transition: Transition) -> Mapping[str, Any]:
    return transition.get("complementary_info") or {}


def _require(reason: str, problem: str | None, where: str) -> None:
    if problem is not None:
        raise RefusedMessageError(reason, f"{where}: {problem}")
