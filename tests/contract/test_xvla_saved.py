"""A saved checkpoint folder: loads in stock LeRobot, acts alike, and travels."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from contract_builders import INSTRUCTION, a_config, a_policy, an_observation, noise
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from lerobot.policies.xvla.processor_xvla import make_xvla_libero_pre_post_processors
from safetensors.torch import load_file

from pirl.algorithm.chain import sample_chunk
from pirl.config.recipe import FlowSDEConfig, PiRLConfig
from pirl.envs.metaworld_config import instructions
from pirl.errors import EnvironmentNotReadyError
from pirl.policies.xvla.domain import domain_id_of
from pirl.policies.xvla.processors import (
    imagenet_normalize,
    make_saved_processors,
    tokenize_instruction,
)
from pirl.policies.xvla.starting import PREPROCESSOR_FILE
from pirl.policies.xvla.stock import stock_generate
from pirl.policies.xvla.tiny import (
    LIBERO_WORDS,
    METAWORLD_TOKENIZER_PATH,
    METAWORLD_WORDS,
    TOKENIZER_PATH,
    write_metaworld_tokenizer,
    write_tiny_checkpoint,
    write_tiny_tokenizer,
)

MAIN, WRIST = "observation.images.image", "observation.images.image2"


def step_names(folder):
    steps = json.loads((folder / PREPROCESSOR_FILE).read_text())["steps"]
    return [step["registry_name"] for step in steps]


@pytest.mark.parametrize("mode", ["ee6d", "auto"])
def test_a_saved_policy_acts_alike_in_stock_lerobot(tmp_path, mode):
    config = a_config(mode)
    policy = a_policy(config, seed=7)
    folder = policy.save(tmp_path, env_type="libero" if mode == "ee6d" else "pirl_metaworld")
    stock = XVLAPolicy.from_pretrained(folder, strict=True)
    observation, start = an_observation(config), noise(policy)
    assert torch.equal(
        stock_generate(stock, observation, start),
        stock_generate(policy.module, observation, start),
    )
    assert stock.config.num_denoising_steps == policy.spec.denoising_steps
    assert stock.config.n_action_steps == policy.spec.executed_steps


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10])
def test_a_chain_without_noise_is_what_stock_lerobot_acts_from_the_saved_policy(tmp_path, steps):
    config = a_config(num_denoising_steps=steps)
    policy = a_policy(config, seed=7)
    folder = policy.save(tmp_path, env_type="libero")
    observation, rows = an_observation(config), 2
    drawn = sample_chunk(
        policy,
        policy.encode(observation),
        pirl=PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig()),
        noise_head=None,
        rngs=[torch.Generator().manual_seed(row) for row in range(rows)],
        stochastic=False,
    )
    start = torch.stack(
        [
            torch.randn(drawn.chunk.shape[1:], generator=torch.Generator().manual_seed(row))
            for row in range(rows)
        ]
    )
    stock = XVLAPolicy.from_pretrained(folder, strict=True)
    assert torch.equal(policy.postprocess(drawn.chunk), stock_generate(stock, observation, start))


def test_loading_and_saving_again_changes_nothing(tmp_path):
    """LeRobot counts an empty camera again when its feature is in the config that it loads."""
    config = a_config()
    folder = write_tiny_checkpoint(tmp_path / "0", config, 7)
    views = []
    for turn in ("1", "2", "3"):
        loaded = PreTrainedConfig.from_pretrained(folder)
        loaded.pretrained_path = folder
        policy = a_policy(loaded)
        views.append(policy.module.config.num_image_views)
        folder = policy.save(tmp_path / turn, env_type="libero")
    assert views == [3, 3, 3]
    first, last = (json.loads((tmp_path / n / "config.json").read_text()) for n in "03")
    first.pop("pretrained_path"), last.pop("pretrained_path")
    assert first == last
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in "03"]
    assert weights[0] == weights[1]


def test_weights_file_holds_the_policy_and_nothing_of_pirl(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, a_config(), 0)
    names = load_file(folder / "model.safetensors")
    assert all(name.startswith(("model.vlm.", "model.transformer.")) for name in names)


def test_the_libero_preprocessor_leaves_out_exactly_the_two_image_steps(tmp_path):
    policy = a_policy()
    libero = policy.save(tmp_path / "libero", env_type="libero")
    other = policy.save(tmp_path / "other", env_type="pirl_metaworld")
    image_steps = ["xvla_image_to_float", "xvla_imagenet_normalize"]
    assert [n for n in step_names(other) if n in image_steps] == image_steps
    assert step_names(libero) == [n for n in step_names(other) if n not in image_steps]


def lerobot_eval_batch(folder, images, state_of_robot):
    """What `lerobot-eval` feeds a policy on LIBERO: environment processors, then the saved ones."""
    config = PreTrainedConfig.from_pretrained(folder)
    env_step, _ = make_xvla_libero_pre_post_processors()
    preprocessor, _ = make_pre_post_processors(config, pretrained_path=str(folder))
    observation = {key: image.float() / 255 for key, image in images.items()}
    observation["observation.robot_state"] = state_of_robot
    observation["task"] = [INSTRUCTION] * len(images[MAIN])
    return preprocessor(env_step(observation))


def robot_state(rows):
    return {
        "eef": {"pos": torch.rand(rows, 3), "mat": torch.eye(3).repeat(rows, 1, 1)},
    }


def test_saved_processors_feed_stock_lerobot_what_pirl_encodes(tmp_path):
    config = a_config()
    folder = write_tiny_checkpoint(tmp_path, config, 0)
    images = dict(an_observation(config).images)
    batch = lerobot_eval_batch(folder, images, robot_state(2))
    rotated = {MAIN: images[MAIN].flip(2, 3), WRIST: images[WRIST]}
    expected = imagenet_normalize(rotated)
    assert all(torch.equal(batch[key], expected[key]) for key in images)
    tokens = tokenize_instruction(config, INSTRUCTION)
    assert torch.equal(batch["observation.language.tokens"], tokens.expand(2, -1))
    assert batch["observation.state"].shape == (2, 20)
    assert batch["domain_id"].tolist() == [0, 0]
    assert XVLAPolicy.from_pretrained(folder).select_action(batch).shape == (2, 20)


def test_stock_image_steps_on_libero_would_normalise_twice(tmp_path):
    """The trap that `for_libero` avoids, in LeRobot's own words."""
    folder = a_policy().save(tmp_path, env_type="pirl_metaworld")
    images = dict(an_observation(a_config()).images)
    with pytest.raises(ValueError, match=r"outside \[0, 255\] range"):
        lerobot_eval_batch(folder, images, robot_state(2))


def test_saved_processors_carry_the_domain_id_of_the_starting_checkpoint(tmp_path):
    config = a_config(num_domains=5)
    pre, post = make_saved_processors(config, for_libero=True, domain_id=3)
    (tmp_path / "start").mkdir()
    write_tiny_checkpoint(tmp_path / "start", config, 0)
    pre.save_pretrained(tmp_path / "start")
    post.save_pretrained(tmp_path / "start")
    config.pretrained_path = tmp_path / "start"
    folder = a_policy(config).save(tmp_path / "next", env_type="libero")
    steps = json.loads((folder / PREPROCESSOR_FILE).read_text())["steps"]
    ids = [s["config"]["domain_id"] for s in steps if s["registry_name"] == "xvla_add_domain_id"]
    assert ids == [3]


# The tokenizer


def test_committed_tokenizer_is_what_the_generator_writes(tmp_path):
    written = write_tiny_tokenizer(tmp_path)
    committed = Path(TOKENIZER_PATH)
    names = sorted(file.name for file in written.iterdir())
    assert names == sorted(file.name for file in committed.iterdir())
    assert all((written / n).read_bytes() == (committed / n).read_bytes() for n in names)


def test_committed_metaworld_tokenizer_is_what_the_generator_writes(tmp_path):
    written = write_metaworld_tokenizer(tmp_path)
    committed = Path(METAWORLD_TOKENIZER_PATH)
    assert all((committed / n.name).read_bytes() == n.read_bytes() for n in written.iterdir())


def test_metaworld_tokenizer_knows_every_instruction_and_fits_the_tiny_policy():
    config = a_config()
    config.tokenizer_name = METAWORLD_TOKENIZER_PATH
    texts = set(instructions().values())
    ids = {tuple(tokenize_instruction(config, text)[0].tolist()) for text in texts}
    assert len(ids) == len(texts)
    assert all(3 not in row and max(row) < 128 for row in ids)


def test_vocabulary_has_128_entries_and_covers_libero():
    words = LIBERO_WORDS.split() + METAWORLD_WORDS.split()
    assert len(words) == len(set(words)) == 124
    ids = tokenize_instruction(a_config(), INSTRUCTION)
    assert ids.shape == (1, 24)
    assert ids[0, 0] == 0
    assert 3 not in ids
    assert tokenize_instruction(a_config(), "put the zebra on the plate")[0].tolist().count(3) == 1


def test_a_tokenizer_that_is_not_there_says_what_to_do():
    config = a_config()
    config.tokenizer_name = "no_such_owner/no_such_tokenizer"
    with pytest.raises(EnvironmentNotReadyError, match="no_such_tokenizer") as caught:
        tokenize_instruction(config, INSTRUCTION)
    assert "tokenizer_name" in caught.value.remedy


def test_pirl_finds_the_tokenizer_inside_a_moved_checkpoint_from_anywhere(tmp_path, monkeypatch):
    config = a_config()
    expected = tokenize_instruction(config, INSTRUCTION)
    write_tiny_checkpoint(tmp_path / "here", config, 0)
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir(tmp_path)
    config.pretrained_path = tmp_path / "there"
    assert torch.equal(tokenize_instruction(config, INSTRUCTION), expected)
    policy = a_policy(config)
    folder = policy.save(tmp_path / "again", env_type="libero")
    saved = json.loads((folder / PREPROCESSOR_FILE).read_text())["steps"]
    names = [s["config"].get("tokenizer_name") for s in saved]
    assert [name for name in names if name] == [TOKENIZER_PATH]
    assert str(tmp_path) not in (folder / PREPROCESSOR_FILE).read_text()


@pytest.mark.parametrize("style", ["absolute", "parent"])
def test_a_tokenizer_from_outside_is_copied_into_the_checkpoint_folder(
    tmp_path, monkeypatch, style
):
    outside = write_tiny_tokenizer(tmp_path / "words")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    config = a_config(tokenizer_name=str(outside) if style == "absolute" else "../words")
    folder = write_tiny_checkpoint(tmp_path / "cwd" / "checkpoint", config, 0)
    assert (folder / "tokenizer" / "tokenizer.json").is_file()
    shutil.rmtree(outside)
    config.pretrained_path = folder
    assert tokenize_instruction(config, INSTRUCTION).shape == (1, 24)


@pytest.mark.parametrize(("cwd", "works"), [("checkpoint", True), ("elsewhere", False)])
def test_stock_lerobot_finds_the_tokenizer_from_inside_the_checkpoint_only(
    tmp_path, monkeypatch, cwd, works
):
    """LeRobot's limit, stated: names are resolved against the working directory, then the hub."""
    folder = write_tiny_checkpoint(tmp_path / "checkpoint", a_config(), 0)
    (tmp_path / "elsewhere").mkdir()
    config = PreTrainedConfig.from_pretrained(folder)
    monkeypatch.chdir(tmp_path / cwd)
    if works:
        make_pre_post_processors(config, pretrained_path=str(folder))
    else:
        with pytest.raises(ValueError, match="tokenizer_processor"):
            make_pre_post_processors(config, pretrained_path=str(folder))


def test_a_preprocessor_that_the_hub_does_not_have_is_domain_0_and_an_unreachable_hub_is_an_error(
    monkeypatch,
):
    config = a_config()
    config.pretrained_path = "owner/name"

    def raising(error):
        def download(*_, **__):
            raise error

        monkeypatch.setattr("huggingface_hub.hf_hub_download", download)

    raising(EntryNotFoundError("no such file"))
    assert domain_id_of(config) == 0
    for error in (LocalEntryNotFoundError("not cached\nsecond line"), OSError("no network")):
        raising(error)
        with pytest.raises(EnvironmentNotReadyError, match=str(error).split("\n")[0]) as caught:
            domain_id_of(config)
        assert "second line" not in str(caught.value)
