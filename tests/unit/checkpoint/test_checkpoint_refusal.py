"""A checkpoint that is damaged, edited or of another run is refused, and nothing of it is used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_builders import (
    Run,
    a_config,
    a_run,
    canonical_hash,
    edit_json,
    load,
    resign,
    save,
    train,
)

from pirl.checkpoint import load as load_module
from pirl.checkpoint import resume_differences, state_digests
from pirl.checkpoint.layout import (
    ALGORITHM_STATE,
    ALGORITHM_WEIGHTS,
    OPTIMIZER_GROUPS,
    OPTIMIZER_TENSORS,
    POLICY_WEIGHTS,
    RNG_FILE,
    RUN_STATE,
    TRAIN_CONFIG,
)
from pirl.errors import CheckpointError, ExitCode, FieldMismatch, MismatchError
from pirl.hooks import VARIABLE

PARTS = (
    "pretrained_model/model.safetensors",
    "pretrained_model/config.json",
    "pretrained_model/train_config.json",
    "algorithm/model.safetensors",
    "algorithm/config.json",
    "training_state/training_step.json",
    "training_state/rng_state.safetensors",
    "training_state/run_state.json",
    "training_state/algorithm_state.safetensors",
    "training_state/pi_rl/optimizer_state.safetensors",
    "training_state/pi_rl/optimizer_param_groups.json",
)
"""Written out: a part that the code forgot must still be asked for here."""

TENSOR_FILES = (POLICY_WEIGHTS, ALGORITHM_WEIGHTS, OPTIMIZER_TENSORS, ALGORITHM_STATE, RNG_FILE)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid checkpoint of step 2, to be copied, never altered."""
    run = a_run()
    for step in (1, 2):
        train(run, step)
    return save(run, tmp_path_factory.mktemp("run"), 2).path


@pytest.fixture(scope="module")
def other() -> Run:
    """A process that wants to resume; a refusal leaves it as it was."""
    return a_run(seed=99)


@pytest.fixture
def fresh(other: Run) -> Run:
    """The same, with a state that is surely not the checkpoint's; for loads that go through."""
    other.algorithm.make_optimizers_and_scheduler()
    train(other, 77)
    return other


@pytest.fixture
def step_dir(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "checkpoints" / "000002"))


def refused(step_dir: Path, run: Run, error: type[Exception]) -> Any:
    """The error of the refused load, after a look that nothing at all was restored."""
    before = fingerprint(run)
    with pytest.raises(error) as caught:
        load(run, step_dir, run_dir=step_dir.parent)
    assert fingerprint(run) == before
    assert not (step_dir.parent / "resume_log.jsonl").exists()
    return caught.value


def fingerprint(run: Run) -> list[object]:
    """Changes with every write to a tensor in place, every new moment and every random draw."""
    optimizer = run.algorithm.get_optimizers()["pi_rl"]
    owned = [*run.policy.module.parameters(), *run.algorithm.critic.parameters()]
    moments = [value for entry in optimizer.state.values() for value in entry.values()]
    return [
        *((id(tensor), tensor._version) for tensor in (*owned, *moments)),
        run.algorithm.updates,
        torch.get_rng_state().tolist(),
    ]


def differing(error: MismatchError) -> dict[str, tuple[object, object]]:
    return {field.field: (field.ours, field.theirs) for field in error.fields}


def test_the_template_is_accepted(step_dir: Path, fresh: Run) -> None:
    """The positive control: without it, every refusal below could be a refusal of everything."""
    assert load(fresh, step_dir).step == 2


@pytest.mark.parametrize("part", [*PARTS, "pretrained_model/policy_preprocessor.json"])
def test_one_altered_byte_is_refused(step_dir: Path, other: Run, part: str) -> None:
    content = bytearray((step_dir / part).read_bytes())
    content[len(content) // 2] ^= 1
    (step_dir / part).write_bytes(content)
    error = refused(step_dir, other, CheckpointError)
    assert [named.split(":")[0] for named in error.parts] == [part]
    assert "altered" in error.parts[0]
    assert error.exit_code is ExitCode.CHECK_FAILED


@pytest.mark.parametrize("part", [POLICY_WEIGHTS, OPTIMIZER_TENSORS, RUN_STATE])
def test_a_truncated_file_is_refused(step_dir: Path, other: Run, part: str) -> None:
    content = (step_dir / part).read_bytes()
    (step_dir / part).write_bytes(content[: len(content) // 2])
    error = refused(step_dir, other, CheckpointError)
    assert [named.split(":")[0] for named in error.parts] == [part]
    assert "truncated" in error.parts[0]


def test_every_missing_part_is_named(step_dir: Path, other: Run) -> None:
    for part in PARTS:
        (step_dir / part).unlink()
    error = refused(step_dir, other, CheckpointError)
    assert sorted(error.parts) == sorted(f"{part}: missing" for part in PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_a_manifest_that_omits_a_part_does_not_make_it_optional(
    step_dir: Path, other: Run, part: str
) -> None:
    (step_dir / part).unlink()
    resign(step_dir)
    assert refused(step_dir, other, CheckpointError).parts == (f"{part}: missing",)


def test_an_extra_file_is_refused(step_dir: Path, other: Run) -> None:
    (step_dir / "algorithm" / "notes.txt").write_text("x")
    assert refused(step_dir, other, CheckpointError).parts == ("algorithm/notes.txt: extra",)


def test_a_folder_without_a_manifest_is_refused(step_dir: Path, other: Run) -> None:
    (step_dir / "manifest.json").unlink()
    assert refused(step_dir, other, CheckpointError).parts == ("manifest.json: missing",)


def test_an_edited_manifest_is_a_mismatch_with_both_digests(step_dir: Path, other: Run) -> None:
    recorded = json.loads((step_dir / "manifest.json").read_text())["digest"]
    edit_json(
        step_dir / "manifest.json",
        lambda m: m["files"][RNG_FILE].update(sha256="0" * 64),
    )
    error = refused(step_dir, other, MismatchError)
    assert error.exit_code is ExitCode.MISMATCH
    ((field, (now, checkpoint)),) = differing(error).items()
    assert field.startswith("manifest.json")
    assert checkpoint == recorded != now
    assert "checkpoint = " in str(error)


def altered(change: Callable[[Any], None]) -> Any:
    """A config that differs from the saved one by `change`."""
    cfg = a_config()
    change(cfg)
    return cfg


@pytest.mark.parametrize(
    ("field", "change", "values"),
    [
        ("pirl.gamma", lambda c: setattr(c.pirl, "gamma", 0.5), (0.5, 0.99)),
        ("recipe", lambda c: setattr(c, "recipe", None), (None, "pi-rl")),
        ("seed", lambda c: setattr(c, "seed", 4), (4, 3)),
        ("runtime.rollout_chunks", lambda c: setattr(c.runtime, "rollout_chunks", 7), (7, 24576)),
        ("env.task", lambda c: setattr(c.env, "task", "door-open-v3"), None),
        ("policy.n_action_steps", lambda c: setattr(c.policy, "n_action_steps", 3), (3, 4)),
    ],
)
def test_another_config_is_a_mismatch_that_names_field_and_values(
    step_dir: Path, other: Run, field: str, change: Any, values: tuple[object, object] | None
) -> None:
    error = refused(step_dir, other.with_cfg(altered(change)), MismatchError)
    assert error.exit_code is ExitCode.MISMATCH
    found = differing(error)
    assert set(found) <= {field, "identity.recipe"}
    assert values is None or found[field] == values


def test_a_resume_under_another_variant_is_refused(step_dir: Path) -> None:
    error = refused(step_dir, a_run("flow-sde"), MismatchError)
    found = differing(error)
    assert found["pirl.variant"] == ("flow-sde", "flow-noise")
    assert found["identity.variant"] == ("flow-sde", "flow-noise")


def test_another_policy_under_the_same_config_is_refused(step_dir: Path, other: Run) -> None:
    """The config may say one thing while the policy in memory is another."""
    run = a_run(denoising_steps=3).with_cfg(other.cfg)
    found = differing(refused(step_dir, run, MismatchError))
    assert found["policy.denoising_steps"] == (3, 2)
    assert "policy.architecture" in found


def test_another_library_version_is_refused(
    step_dir: Path, other: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_json(step_dir / RUN_STATE, lambda r: r["versions"].update(torch="2.0.0"))
    resign(step_dir)
    found = differing(refused(step_dir, other, MismatchError))
    assert set(found) == {"versions.torch"}
    assert found["versions.torch"] == (torch.__version__, "2.0.0")


class Shown:
    """Demonstrations of which only the content counts here."""

    def __init__(self, sha256: str) -> None:
        self.facts = {"sha256": sha256, "frames": 3}


def test_other_demonstrations_than_the_run_began_with_are_refused(
    tmp_path: Path, other: Run
) -> None:
    run = a_run()
    run.algorithm.demonstrations = Shown("a" * 64)
    saved = save(run, tmp_path, 2)
    run.algorithm.demonstrations = Shown("b" * 64)
    error = refused(saved.path, run, MismatchError)
    assert differing(error) == {"demonstrations.sha256": ("b" * 64, "a" * 64)}
    assert "set dataset.root to theirs" in str(error)
    found = differing(refused(saved.path, other, MismatchError))
    assert found == {"demonstrations": (None, {"sha256": "a" * 64, "frames": 3})}
    run.algorithm.demonstrations = Shown("a" * 64)
    assert load(run, saved.path).step == 2


@pytest.mark.parametrize(
    ("field", "edit"),
    [
        ("identity.config_hash", lambda r: r["identity"].update(config_hash="0" * 64)),
        ("identity.variant", lambda r: r["identity"].update(variant="flow-sde")),
        ("identity.recipe", lambda r: r["identity"].update(recipe="sac")),
        ("policy.architecture", lambda r: r["policy"].update(architecture="0" * 64)),
        ("policy.action_mode", lambda r: r["policy"].update(action_mode="joint")),
        ("identity.config_hash", lambda r: r["config"]["runtime"].update(total_updates=9)),
    ],
)
def test_an_edited_identity_is_refused_even_under_a_manifest_that_fits(
    step_dir: Path, other: Run, field: str, edit: Any
) -> None:
    edit_json(step_dir / RUN_STATE, edit)
    resign(step_dir)
    assert set(differing(refused(step_dir, other, MismatchError))) == {field}


def test_a_record_and_hash_edited_together_still_differ_from_this_process(
    step_dir: Path, other: Run
) -> None:
    def edit(record: Any) -> None:
        record["config"]["pirl"]["gamma"] = 0.5
        record["identity"]["config_hash"] = canonical_hash(record["config"])

    edit_json(step_dir / RUN_STATE, edit)
    resign(step_dir)
    found = differing(refused(step_dir, other, MismatchError))
    assert found == {"pirl.gamma": (0.99, 0.5)}


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda r: r.update(record_version=2), f"{RUN_STATE}: record_version is 2, expected 1"),
        (lambda r: r.pop("digests"), f"{RUN_STATE}: no field digests"),
    ],
)
def test_a_record_of_another_format_is_refused(
    step_dir: Path, other: Run, edit: Any, part: str
) -> None:
    edit_json(step_dir / RUN_STATE, edit)
    resign(step_dir)
    assert refused(step_dir, other, CheckpointError).parts == (part,)


def test_allowed_changes_go_through_and_are_recorded(step_dir: Path, fresh: Run) -> None:
    def change(cfg: Any) -> None:
        cfg.runtime.total_updates = 20
        cfg.runtime.checkpoint_every_updates = 1
        cfg.log_freq = 1
        cfg.runtime.port = 1
        cfg.output_dir = Path("elsewhere")

    run_dir = step_dir.parent.parent
    load(fresh.with_cfg(altered(change)), step_dir, run_dir=run_dir)
    load(fresh, step_dir, run_dir=run_dir)
    lines = [json.loads(line) for line in (run_dir / "resume_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 2]
    assert lines[0]["changed"] == [
        {"field": "log_freq", "checkpoint": 200, "now": 1},
        {"field": "runtime.checkpoint_every_updates", "checkpoint": 10, "now": 1},
        {"field": "runtime.total_updates", "checkpoint": 8, "now": 20},
    ]
    assert lines[1]["changed"] == []


def test_differences_are_sorted_into_allowed_and_forbidden_and_host_local_ones_ignored() -> None:
    def change(cfg: Any) -> None:
        cfg.runtime.total_updates = 20
        cfg.pirl.clip_low = 0.1
        cfg.runtime.host = "0.0.0.0"
        cfg.runtime.learner_device = "cuda"

    found = resume_differences(a_config(), altered(change))
    assert found.allowed == (FieldMismatch(field="runtime.total_updates", ours=20, theirs=8),)
    assert found.forbidden == (FieldMismatch(field="pirl.clip_low", ours=0.1, theirs=0.2),)


def test_a_forbidden_change_beside_an_allowed_one_is_still_fatal(
    step_dir: Path, other: Run
) -> None:
    def change(cfg: Any) -> None:
        cfg.runtime.total_updates = 20
        cfg.pirl.actor_lr = 1.0

    error = refused(step_dir, other.with_cfg(altered(change)), MismatchError)
    assert set(differing(error)) == {"pirl.actor_lr"}


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("load_model", "policy"),
        ("load_optimizer_state", "optimizer"),
        ("algorithm.load_state_dict", "critic"),
        ("algorithm.load_training_state", "scheduler"),
        ("restore_rng", "rng"),
    ],
)
def test_a_part_that_is_silently_not_restored_ends_the_resume(
    step_dir: Path, fresh: Run, monkeypatch: pytest.MonkeyPatch, name: str, component: str
) -> None:
    owner = fresh.algorithm if name.startswith("algorithm.") else load_module
    monkeypatch.setattr(owner, name.removeprefix("algorithm."), lambda *_, **__: {})
    with pytest.raises(CheckpointError, match="not the saved one") as caught:
        load(fresh, step_dir)
    assert component in {part.split(":")[0] for part in caught.value.parts}


@pytest.mark.parametrize("part", TENSOR_FILES)
def test_a_tensor_file_of_another_shape_is_refused_by_name(
    step_dir: Path, fresh: Run, part: str
) -> None:
    """Damage that a manifest made afterwards does not show."""
    (step_dir / part).write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    resign(step_dir)
    with pytest.raises((CheckpointError, MismatchError)) as caught:
        load(fresh, step_dir)
    if isinstance(caught.value, CheckpointError):
        assert caught.value.parts


def test_optimiser_groups_of_another_shape_are_refused(step_dir: Path, other: Run) -> None:
    edit_json(step_dir / OPTIMIZER_GROUPS, lambda groups: groups.pop())
    resign(step_dir)
    with pytest.raises(CheckpointError, match="does not fit") as caught:
        load(other, step_dir)
    assert "training_state/pi_rl" in caught.value.parts[0]


def test_an_algorithm_without_an_optimiser_cannot_resume(step_dir: Path, fresh: Run) -> None:
    fresh.algorithm._optimizer = None
    with pytest.raises(CheckpointError, match="no optimiser"):
        load(fresh, step_dir)


def test_with_the_manifest_check_off_damage_gets_through(
    step_dir: Path, fresh: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teeth of the gate's case: it must be the check, and nothing else, that refuses."""
    content = bytearray((step_dir / POLICY_WEIGHTS).read_bytes())
    content[-1] ^= 1
    (step_dir / POLICY_WEIGHTS).write_bytes(content)
    monkeypatch.setenv(VARIABLE, "manifest")
    assert load(fresh, step_dir).step == 2


def test_with_the_optimiser_left_out_the_digests_of_the_run_tell(
    step_dir: Path, template: Path, fresh: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = json.loads((template / RUN_STATE).read_text())["digests"]
    monkeypatch.setenv(VARIABLE, "resume-optimizer")
    state = load(fresh, step_dir)
    now = state_digests(fresh.policy, fresh.algorithm, state)
    assert {name for name in saved if now[name] != saved[name]} == {"optimizer"}


def test_the_token_is_not_needed_and_not_compared(step_dir: Path, fresh: Run) -> None:
    cfg = a_config()
    cfg.runtime.token = None
    assert json.loads((step_dir / TRAIN_CONFIG).read_text())["runtime"]["token"] is None
    assert load(fresh.with_cfg(cfg), step_dir).step == 2
