"""X-VLA folders as people have published them: each loads to what stock LeRobot computes, or its fix works.

The layouts are those seen on the hub and in LeRobot's issues (#2846, #2954, #3674, #4245): the files are
made here, with a tiny policy in them.
"""

from __future__ import annotations

import json
import re
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch
from contract_builders import an_observation, noise
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from safetensors.torch import load_file, save_file

from pirl.algorithm.chain import sample_chunk
from pirl.cli import main
from pirl.config.check import check_config
from pirl.config.load import load_config
from pirl.config.recipe import FlowSDEConfig, PiRLConfig
from pirl.errors import ConfigError, ContractError
from pirl.evaluation.checkpoint import Protocol, prepare
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.starting import no_domain_id
from pirl.policies.xvla.stock import stock_generate
from pirl.policies.xvla.tiny import tiny_xvla_config, write_tiny_checkpoint
from pirl.policies.xvla.views import count_views_once

SMOKE = Path("configs/train_config_pirl_libero_smoke.json")
PRE, POST = "policy_preprocessor.json", "policy_postprocessor.json"
IMAGES = "observation.images."
TWO = ("image", "image2")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """One folder for each number of real cameras."""

    @cache
    def write(views: int) -> Path:
        config = tiny_xvla_config(chunk_size=20, views=views, empty_cameras=3 - views)
        return write_tiny_checkpoint(tmp_path_factory.mktemp("hub") / "policy", config, seed=1)

    return write


@pytest.fixture
def folder(written, tmp_path):
    """A folder that a layout may change: two cameras and an empty one, or the number that is asked for."""
    return lambda views=2: Path(shutil.copytree(written(views), tmp_path / "policy"))


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def features(*names, size=64, state=8):
    shapes = {IMAGES + name: ("VISUAL", [3, size, size]) for name in names}
    shapes["observation.state"] = ("STATE", [state])
    return {name: {"type": kind, "shape": shape} for name, (kind, shape) in shapes.items()}


def change_step(folder, name, file=PRE, **values):
    saved = json.loads((folder / file).read_text())
    for step in saved["steps"]:
        if step["registry_name"] == name:
            step["config"] |= values
    edit(folder / file, **saved)


def normalize(folder, kind, *, measured=()):
    """Saved processors that name statistics for `kind`, and have them for the features of `measured`."""
    modes = dict.fromkeys(("VISUAL", "STATE", "ACTION"), "IDENTITY") | {kind: "MEAN_STD"}
    edit(folder / "config.json", normalization_mapping=modes)
    for file, name in ((PRE, "normalizer_processor"), (POST, "unnormalizer_processor")):
        change_step(folder, name, file, norm_map=modes)
        saved = json.loads((folder / file).read_text())
        step = next(s for s in saved["steps"] if s["registry_name"] == name)
        if measured:
            step["state_file"] = f"{name}.safetensors"
            ones = {
                f"{feature}.{stat}": torch.ones(1)
                for feature in measured
                for stat in ("mean", "std")
            }
            save_file(ones, folder / step["state_file"])
        edit(folder / file, **saved)


def half(folder):
    file = folder / "model.safetensors"
    save_file({n: t.bfloat16() for n, t in load_file(file).items()}, folder / "new")
    (folder / "new").replace(file)


def train_config(folder, tmp_path):
    file = tmp_path / "train.json"
    file.write_text(json.dumps(json.loads(SMOKE.read_text()) | {"policy": {}}))
    return file, [f"--policy.path={folder}"]


def assert_acts_as_stock(folder, cfg, cameras):
    """Equal bits: the chain without noise, and LeRobot's own sampler on LeRobot's own loading."""
    policy = build_policy(cfg.policy, executed_dims=cfg.pirl.executed_dims, device="cpu", seed=0)
    assert policy.cameras == tuple(IMAGES + name for name in cameras)
    config = PreTrainedConfig.from_pretrained(folder)
    config.dtype, config.device = "float32", "cpu"
    # LeRobot would count a listed empty camera twice (`pirl.policies.xvla.views`).
    count_views_once(config)
    stock = XVLAPolicy.from_pretrained(folder, config=config, strict=True)
    assert stock.config.num_image_views == policy.module.config.num_image_views
    plain = tiny_xvla_config(chunk_size=20, tokenizer_max_length=config.tokenizer_max_length)
    seen = an_observation(plain)
    extra = an_observation(plain, seed=1).images
    pixels = [*seen.images.values(), *extra.values()]
    observation = type(seen)(
        images=dict(zip(policy.cameras, pixels, strict=False)), state=seen.state, inputs=seen.inputs
    )
    sampled = sample_chunk(
        policy,
        policy.encode(observation),
        pirl=PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig()),
        noise_head=None,
        rngs=[torch.Generator().manual_seed(row) for row in range(2)],
        stochastic=False,
    )
    start = torch.stack(
        [torch.randn(20, 20, generator=torch.Generator().manual_seed(row)) for row in range(2)]
    )
    assert noise(policy).shape == start.shape
    assert torch.equal(policy.postprocess(sampled.chunk), stock_generate(stock, observation, start))


# Layouts that load as they are


def published_libero(folder):
    """`lerobot/xvla-libero`: a listed empty camera, a state of 8, statistics that are named and not there."""
    listed = features(*TWO, "empty_camera_0", size=256)
    edit(folder / "config.json", input_features=listed, device="cuda", push_to_hub=True)
    normalize(folder, "VISUAL")


def fine_tuned_half(folder):
    """`lerobot-train` with bf16 and LoRA merged."""
    edit(folder / "config.json", dtype="bfloat16", use_peft=True, use_amp=True)
    half(folder)


def statistics_that_do_nothing(folder):
    """Processors of a training with a data set, and modes that leave everything as it is."""
    normalize(folder, "VISUAL", measured=["observation.state", "action"])


def frozen_vision(folder):
    edit(folder / "config.json", freeze_vision_encoder=True, freeze_language_encoder=True)


def capital_letters(folder):
    edit(folder / "config.json", action_mode="EE6D")


def image_steps(folder):
    """LeRobot's factory saves the two image steps; pirl's own LIBERO folders leave them out."""
    saved = json.loads((folder / PRE).read_text())
    steps = [
        {"registry_name": f"xvla_{n}", "config": {}}
        for n in ("image_to_float", "imagenet_normalize")
    ]
    edit(folder / PRE, steps=[*saved["steps"][:3], *steps, *saved["steps"][3:]])


LOADS = [
    published_libero,
    fine_tuned_half,
    statistics_that_do_nothing,
    frozen_vision,
    capital_letters,
    image_steps,
]


@pytest.mark.parametrize("layout", LOADS, ids=lambda layout: layout.__name__)
def test_a_published_layout_trains_and_evaluates_as_stock_acts(layout, folder, tmp_path, capsys):
    place = folder()
    layout(place)
    file, overrides = train_config(place, tmp_path)
    check_config(file, overrides)
    cfg = load_config(file, overrides).cfg
    assert_acts_as_stock(place, cfg, TWO)
    protocol = Protocol(episodes_per_task=1, seed=0)
    assert prepare(place, cfg, protocol=protocol, device="cpu").policy.cameras
    out = tmp_path / "made.yaml"
    init = ["init", "--from", str(place), "--env", "libero", "--task", "libero_10"]
    assert main([*init, "--out", str(out)]) == 0
    assert check_config(out).cfg.policy.num_image_views == 3
    capsys.readouterr()


def test_lerobot_changes_nothing_that_it_has_no_statistics_for(folder):
    """Why the layout above loads, in LeRobot's own steps."""
    place = folder()
    published_libero(place)
    edit(place / "config.json", device="cpu")
    config = PreTrainedConfig.from_pretrained(place)
    change_step(place, "device_processor", device="cpu")
    pre, post = make_pre_post_processors(config, pretrained_path=str(place))
    picture = torch.rand(1, 3, 64, 64)
    batch = {f"{IMAGES}{name}": picture for name in TWO} | {"task": ["put the mug on the plate"]}
    seen = pre(batch)
    assert all(torch.equal(seen[f"{IMAGES}{name}"], picture) for name in TWO)
    action = torch.rand(1, 20)
    assert torch.equal(post(action), action)


# Layouts that are refused, and what the refusal says to do


def refusal(file, overrides):
    with pytest.raises(ConfigError) as caught:
        check_config(file, overrides)
    (error,) = caught.value.errors
    return error


def settings(fix):
    """The overrides that a fix names: `set A=B and C=D`."""
    told = fix.partition("; `pirl eval`")[0].removeprefix("set ")
    return [f"--{part.removeprefix('set ')}" for part in told.split(" and ")]


@pytest.mark.parametrize("declared", [3, None])
@pytest.mark.parametrize(
    ("names", "cameras"),
    [
        (("image", "image2", "image3"), TWO),
        (("image3", "image2", "image"), ("image2", "image")),
        (("top", "left", "right"), ("top", "left")),
    ],
    ids=lambda names: "-".join(names),
)
def test_three_cameras_where_the_environment_has_two(
    names, cameras, declared, folder, tmp_path, capsys
):
    place = folder(3)
    edit(place / "config.json", input_features=features(*names), num_image_views=declared)
    file, overrides = train_config(place, tmp_path)
    error = refusal(file, overrides)
    assert error.field == "policy.input_features"
    overrides += settings(error.fix)
    cfg = load_config(file, overrides).cfg
    assert cfg.policy.num_image_views == 3
    # Stock gets two pictures of three, and pads.
    assert_acts_as_stock(place, cfg, cameras)
    out = tmp_path / "made.yaml"
    init = ["init", "--from", str(place), "--env", "libero", "--task", "libero_10"]
    assert main([*init, "--out", str(out)]) == 0
    made = check_config(out).cfg
    assert [n for n in made.policy.input_features if n.startswith(IMAGES)] == [
        IMAGES + name for name in cameras
    ]
    assert made.policy.num_image_views == 3
    assert f"without {', '.join(n for n in names if n not in cameras)}" in out.read_text()
    capsys.readouterr()


def test_cameras_of_other_names_are_mapped_by_the_printed_setting(folder, tmp_path):
    place = folder()
    edit(place / "config.json", input_features=features("top", "wrist"))
    file, overrides = train_config(place, tmp_path)
    error = refusal(file, overrides)
    assert error.fix.startswith("set env.camera_name_mapping=")
    cfg = load_config(file, [*overrides, *settings(error.fix)]).cfg
    assert_acts_as_stock(place, cfg, ("top", "wrist"))


def test_evaluation_reads_the_cameras_in_the_checkpoint(folder, tmp_path):
    place = folder(3)
    file, overrides = train_config(place, tmp_path)
    fix = refusal(file, overrides).fix
    cfg = load_config(SMOKE).cfg
    protocol = Protocol(episodes_per_task=1, seed=0)
    with pytest.raises(ConfigError, match=r"config\.json"):
        prepare(place, cfg, protocol=protocol, device="cpu")
    for setting in settings(fix):
        name, _, value = setting.removeprefix("--policy.").partition("=")
        edit(place / "config.json", **{name: json.loads(value)})
    policy = prepare(place, cfg, protocol=protocol, device="cpu").policy
    assert policy.cameras == tuple(IMAGES + name for name in TWO)


def test_a_camera_that_was_trained_under_the_name_of_an_empty_one(folder, tmp_path):
    """`rename_map` with three real cameras and a base policy of two and an empty one (#2787)."""
    place = folder()
    named, third = f"{IMAGES}empty_camera_0", f"{IMAGES}wrist_right"
    edit(place / "config.json", input_features=features(*TWO, "empty_camera_0"))
    change_step(place, "rename_observations_processor", rename_map={third: named})
    file, overrides = train_config(place, tmp_path)
    error = refusal(file, overrides)
    assert (error.field, error.value) == ("policy.input_features", named)
    assert f"call it {third}" in error.fix
    for name in ("config.json", PRE):
        (place / name).write_text((place / name).read_text().replace(named, third))
    edit(place / "config.json", empty_cameras=0)
    # Three real cameras now, of which LIBERO has two: the next fix is the one above.
    error = refusal(file, overrides)
    assert error.value == [third]
    cfg = load_config(file, [*overrides, *settings(error.fix)]).cfg
    assert_acts_as_stock(place, cfg, TWO)


@pytest.mark.parametrize(("name", "value"), [("max_length", 20), ("padding_side", "left")])
def test_words_are_those_of_the_saved_preprocessor(name, value, folder, tmp_path):
    """LeRobot's default length is 64, X-VLA's 50: a config and its processor may differ."""
    place = folder()
    change_step(place, "tokenizer_processor", **{name: value})
    file, overrides = train_config(place, tmp_path)
    error = refusal(file, overrides)
    assert error.field == f"policy.tokenizer_{name}"
    told = re.fullmatch(r'write "(\w+)": (.+) into (.+)', error.fix)
    assert told is not None
    edit(Path(told[3]), **{told[1]: json.loads(told[2])})
    assert_acts_as_stock(place, load_config(file, overrides).cfg, TWO)


@pytest.mark.parametrize(
    ("kind", "feature"),
    [("VISUAL", f"{IMAGES}image2"), ("STATE", "observation.state"), ("ACTION", "action")],
)
def test_real_statistics_are_refused(kind, feature, folder, tmp_path):
    place = folder()
    normalize(place, kind, measured=[feature])
    error = refusal(*train_config(place, tmp_path))
    assert error.field == f"policy.normalization_mapping.{kind}"
    assert "without dataset statistics" in error.fix
    # Nor by hand: the processors still say what the weights saw.
    path, overrides = train_config(place, tmp_path)
    assert refusal(path, [*overrides, f"--policy.normalization_mapping.{kind}=IDENTITY"]).fix


@pytest.mark.parametrize("missing", [PRE, POST, "normalizer_processor.safetensors"])
def test_statistics_that_may_be_there_are_refused(missing, folder, tmp_path):
    place = folder()
    normalize(place, "VISUAL", measured=["action"])
    (place / missing).unlink()
    assert refusal(*train_config(place, tmp_path)).field == "policy.normalization_mapping.VISUAL"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("train_policy_transformer", False),
        ("train_soft_prompts", False),
        ("pad_language_to", "longest"),
    ],
)
def test_what_the_build_refuses_the_check_refuses_first_and_the_setting_helps(
    field, value, folder, tmp_path
):
    place = folder()
    edit(place / "config.json", **{field: value})
    file, overrides = train_config(place, tmp_path)
    error = refusal(file, overrides)
    assert error.field == f"policy.{field}"
    config = PreTrainedConfig.from_pretrained(place)
    with pytest.raises(ContractError, match=field):
        build_policy(config, executed_dims=None, device="cpu", seed=0)
    cfg = load_config(file, [*overrides, *settings(error.fix)]).cfg
    assert build_policy(cfg.policy, executed_dims=range(10), device="cpu", seed=0).cameras


def test_a_state_that_the_weights_cannot_hold_is_no_setting(folder, tmp_path):
    place = folder()
    edit(place / "config.json", max_state_dim=8)
    assert "another checkpoint" in refusal(*train_config(place, tmp_path)).fix


@pytest.mark.parametrize("is_adapter", [True, False])
def test_a_folder_without_whole_weights_is_refused_before_it_is_loaded(
    is_adapter, folder, tmp_path
):
    place = folder()
    weights = place / "model.safetensors"
    away = weights.rename(tmp_path / "merged.safetensors")
    if is_adapter:
        (place / "adapter_config.json").write_text("{}")
        edit(place / "config.json", use_peft=True)
    file, overrides = train_config(place, tmp_path)
    error = refusal(file, overrides)
    assert error.field == "policy.pretrained_path"
    assert ("merge the adapter" in error.fix) is is_adapter
    shutil.copy(away, weights)
    assert_acts_as_stock(place, load_config(file, overrides).cfg, TWO)


def test_a_config_without_a_type_loads_once_it_has_one(folder, tmp_path):
    place = folder()
    saved = json.loads((place / "config.json").read_text())
    saved.pop("type")
    (place / "config.json").write_text(json.dumps(saved))
    file, overrides = train_config(place, tmp_path)
    error = refusal(file, overrides)
    assert (error.field, 'write "type": "xvla"' in error.fix) == ("policy.path", True)
    edit(place / "config.json", type="xvla")
    assert_acts_as_stock(place, load_config(file, overrides).cfg, TWO)


def test_a_field_of_another_lerobot_is_named_and_may_be_taken_out(folder, tmp_path):
    place = folder()
    edit(place / "config.json", engram_path="x")
    file, overrides = train_config(place, tmp_path)
    error = refusal(file, overrides)
    assert "engram_path" in error.expected
    saved = json.loads((place / "config.json").read_text())
    saved.pop("engram_path")
    (place / "config.json").write_text(json.dumps(saved))
    assert_acts_as_stock(place, load_config(file, overrides).cfg, TWO)


def test_a_domain_that_a_hub_repository_does_not_state_is_added_in_a_copy():
    """Nobody can write into a repository of the hub; of a folder see `test_xvla_start`."""
    fix = no_domain_id("an-owner/a-policy", 30).fix
    assert "hf download an-owner/a-policy --local-dir a-policy" in fix
    assert "a-policy/policy_preprocessor.json" in fix
    assert "an-owner/a-policy/policy_preprocessor.json" not in fix
