"""The starting checkpoint is read first: what its files say is compared before anything is built.

Its views and its dtype are the network's, whatever its config lists.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from contract_builders import a_config, a_policy
from lerobot.configs import PreTrainedConfig
from safetensors.torch import load_file, save_file

from pirl.config.check import check_config
from pirl.config.load import load_config
from pirl.config.policy_path import resolve_policy_path
from pirl.config.validate import main as validate
from pirl.config.weights_header import TensorHeader
from pirl.errors import CheckpointError, ConfigError
from pirl.evaluation.main import main as evaluate
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.domain import domain_id_of
from pirl.policies.xvla.processors import tokenize_instruction
from pirl.policies.xvla.starting import (
    Start,
    read_start,
    start_errors,
    start_table,
    weights_text,
)
from pirl.policies.xvla.tiny import TOKENIZER_PATH, _write_tokenizer, write_tiny_checkpoint
from pirl.policies.xvla.tokenizer import tokenizer_size
from pirl.policies.xvla.views import view_count
from pirl.runtime.identity import settings_of

SMOKE = "configs/train_config_pirl_libero_smoke.json"
EMPTY = "observation.images.empty_camera_0"
EMPTY_FEATURE = {"type": "VISUAL", "shape": [3, 64, 64]}


def starting_at(folder, tmp_path):
    """The smoke config with the policy of `folder` in place of its own."""
    tree = json.loads(Path(SMOKE).read_text()) | {"policy": {}}
    file = tmp_path / "train.json"
    file.write_text(json.dumps(tree))
    return file, [f"--policy.path={folder}"]


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def built(cfg):
    dims = cfg.pirl.executed_dims
    return build_policy(cfg.policy, executed_dims=dims, device="cpu", seed=0)


@pytest.mark.parametrize("saved_views", [3, 4, None])
def test_an_empty_camera_listed_and_counted_is_one_view(saved_views, tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "ft", a_config(chunk_size=20), seed=1)
    config = json.loads((folder / "config.json").read_text())
    features = config["input_features"] | {EMPTY: EMPTY_FEATURE}
    edit(folder / "config.json", input_features=features, num_image_views=saved_views)
    cfg = load_config(*starting_at(folder, tmp_path)).cfg
    wanted = saved_views or 3
    assert cfg.policy.num_image_views == wanted
    assert built(cfg).module.model.config.num_image_views == wanted
    assert settings_of(cfg)["cameras"] == f"image,image2 of {wanted} views"


def test_a_config_that_lists_the_empty_camera_itself_is_counted_alike(tmp_path):
    config = a_config()
    config.pretrained_path = write_tiny_checkpoint(tmp_path, config, seed=1)
    config.input_features[EMPTY] = config.input_features["observation.images.image"]
    assert view_count(config) == 3
    assert a_policy(config).module.model.config.num_image_views == 3


def test_an_empty_camera_that_nothing_counts_is_a_view_of_its_own():
    config = a_config(empty_cameras=0)
    config.input_features[EMPTY] = config.input_features["observation.images.image"]
    assert view_count(config) == 3
    assert a_policy(config).module.model.config.num_image_views == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"], ids=lambda d: f"config-{d}")
@pytest.mark.parametrize("weights", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_half_precision_checkpoint_is_cast_on_load_and_saved_in_float32(dtype, weights, tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "ft", a_config(chunk_size=20), seed=1)
    edit(folder / "config.json", dtype=dtype, use_amp=True)
    file = folder / "model.safetensors"
    cast = {name: tensor.to(weights) for name, tensor in load_file(file).items()}
    save_file(cast, file)
    path, overrides = starting_at(folder, tmp_path)
    assert check_config(path, overrides).cfg.policy.dtype == "float32"
    cfg = load_config(path, overrides).cfg
    assert cfg.policy.use_amp is False
    policy = built(cfg)
    assert all(p.dtype == torch.float32 for p in policy.module.parameters())
    again = policy.save(tmp_path / "again", env_type="libero")
    assert json.loads((again / "config.json").read_text())["dtype"] == "float32"
    saved = load_file(again / "model.safetensors")
    assert all(torch.equal(saved[name], tensor.float()) for name, tensor in cast.items())
    assert PreTrainedConfig.from_pretrained(again).num_image_views == 3


def test_asking_for_half_precision_is_not_answered_by_a_cast(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, a_config(), seed=1)
    asked = resolve_policy_path({"path": str(folder), "dtype": "bfloat16"})
    assert asked["dtype"] == "bfloat16"


# The files beside the weights


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    config = a_config(chunk_size=20)
    return write_tiny_checkpoint(tmp_path_factory.mktemp("start") / "ft", config, seed=1)


@pytest.fixture
def start(written, tmp_path):
    """A checkpoint folder of the smoke config's geometry, free to damage."""
    return shutil.copytree(written, tmp_path / "ft")


def check(folder, tmp_path):
    return check_config(*starting_at(folder, tmp_path)).cfg.policy


def refusal(folder, tmp_path):
    """The one error of a config that starts from `folder`; needs no torch."""
    with pytest.raises(ConfigError) as caught:
        check(folder, tmp_path)
    (error,) = caught.value.errors
    return error


def rewrite_weights(folder, change):
    file = folder / "model.safetensors"
    tensors = dict(change(name, tensor) for name, tensor in load_file(file).items())
    save_file(tensors, folder / "new")
    (folder / "new").replace(file)


def change_steps(folder, change, name="policy_preprocessor.json"):
    file = folder / name
    saved = json.loads(file.read_text())
    edit(file, steps=[s for step in saved["steps"] if (s := change(step)) is not None])


def test_facts_are_a_table(start, tmp_path):
    policy = check(start, tmp_path)
    count = len(load_file(start / "model.safetensors"))
    assert start_table(policy, read_start(policy)) == {
        "views": "3: image, image2 and 1 of padding",
        "action mode": "ee6d",
        "vocabulary": f"128 words, 128 embeddings ({TOKENIZER_PATH})",
        "domain id": "0 of 1",
        "weights": f"{count} float32 tensors (config: float32)",
        "normalisation": "IDENTITY",
    }


def test_a_cast_is_said(start, tmp_path):
    rewrite_weights(start, lambda name, tensor: (name, tensor.bfloat16()))
    edit(start / "config.json", dtype="bfloat16")
    policy = check(start, tmp_path)
    said = start_table(policy, read_start(policy))["weights"]
    assert said.endswith("bfloat16 tensors (config: bfloat16), cast to float32 on load")


def big_tokenizer(folder):
    words = [f"w{index}" for index in range(300)]
    return _write_tokenizer(folder, words)


def test_tokenizer_with_more_words_than_embeddings_is_refused_before_and_at_use(start, tmp_path):
    shutil.rmtree(start / TOKENIZER_PATH)
    big_tokenizer(start / TOKENIZER_PATH)
    error = refusal(start, tmp_path)
    assert error.field == "policy.tokenizer_name"
    assert "has 304" in error.expected
    assert "at most 128 words, policy.florence_config.text_config.vocab_size" in error.expected
    config = a_config()
    config.pretrained_path = start
    with pytest.raises(ConfigError, match="304"):
        tokenize_instruction(config, "put the mug on the plate")


@pytest.mark.parametrize("kind", ["tokenizer.json", "vocab.json", "added", "unigram", "decoder"])
def test_size_of_a_tokenizer_is_its_largest_id_and_one(kind, tmp_path):
    config = a_config(tokenizer_name=str(tmp_path))
    words = {"a": 0, "b": 6}
    files = {
        "tokenizer.json": {"tokenizer.json": {"model": {"vocab": words}}},
        "vocab.json": {"vocab.json": words, "tokenizer_config.json": {"model_max_length": 99}},
        "added": {"tokenizer.json": {"model": {"vocab": {"a": 0}}, "added_tokens": [{"id": 6}]}},
        "unigram": {"tokenizer.json": {"model": {"vocab": [["a", 0.1]] * 7}}},
        "decoder": {
            "vocab.json": {"a": 0},
            "tokenizer_config.json": {"added_tokens_decoder": {"6": {}}},
        },
    }
    for name, content in files[kind].items():
        (tmp_path / name).write_text(json.dumps(content))
    assert tokenizer_size(config) == 7


def test_size_of_a_damaged_tokenizer_is_left_to_its_loading(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    assert tokenizer_size(a_config(tokenizer_name=str(tmp_path))) is None


def several_domains(folder):
    """The same policy with three embodiments."""
    rewrite_weights(
        folder,
        lambda name, tensor: (
            name,
            torch.cat([tensor] * 3)
            if tensor.shape[:1] == (1,) and "pos_emb" not in name
            else tensor,
        ),
    )
    edit(folder / "config.json", num_domains=3)


@pytest.mark.parametrize("is_there", [True, False], ids=["no step", "no file"])
def test_domain_that_nobody_states_is_refused_and_the_fix_works(is_there, start, tmp_path):
    several_domains(start)
    change_steps(start, lambda s: None if s["registry_name"] == "xvla_add_domain_id" else s)
    file = start / "policy_preprocessor.json"
    if not is_there:
        file.unlink()
    error = refusal(start, tmp_path)
    assert error.field == "policy.pretrained_path"
    assert "policy.num_domains = 3" in error.expected
    config = a_config(num_domains=3)
    config.pretrained_path = start
    with pytest.raises(ConfigError, match="xvla_add_domain_id"):
        domain_id_of(config)
    step = {"registry_name": "xvla_add_domain_id", "config": {"domain_id": 2}}
    assert json.dumps(step).replace(": 2}", ": N}") in error.fix
    before = json.loads(file.read_text())["steps"] if is_there else []
    file.write_text(json.dumps({"name": "policy_preprocessor", "steps": [*before, step]}))
    policy = check(start, tmp_path)
    assert start_table(policy, read_start(policy))["domain id"] == "2 of 3"
    assert domain_id_of(policy) == 2


@pytest.mark.parametrize("value", [1, -1, 0.5, "0", True, None], ids=repr)
def test_domain_id_that_is_none_is_refused(value, start, tmp_path):
    def change(step):
        if step["registry_name"] == "xvla_add_domain_id":
            step["config"]["domain_id"] = value
        return step

    change_steps(start, change)
    with pytest.raises(CheckpointError, match="domain_id = "):
        check(start, tmp_path)


@pytest.mark.parametrize(
    ("before", "wrapped"),
    [("", "module."), ("", "_orig_mod."), ("model.", "_orig_mod.model.")],
)
def test_wrapped_names_are_one_sentence_with_a_fix_that_works(before, wrapped, start, tmp_path):
    rewrite_weights(start, lambda name, tensor: (wrapped + name.removeprefix(before), tensor))
    error = refusal(start, tmp_path)
    assert "plain policy" in error.expected
    assert len(error.expected) < 250
    config = a_config(chunk_size=20)
    config.pretrained_path = start
    with pytest.raises(CheckpointError, match="plain policy") as caught:
        a_policy(config)
    # The text names the folder three times, whose length is this machine's.
    assert len(str(caught.value).replace(str(start), "")) < 600


def test_quantised_weights_are_refused(start, tmp_path):
    rewrite_weights(start, lambda name, tensor: (name, tensor.to(torch.int8)))
    assert "I8" in refusal(start, tmp_path).expected


def test_config_with_another_vocabulary_than_the_weights_is_refused(start, tmp_path):
    florence = json.loads((start / "config.json").read_text())["florence_config"]
    florence["text_config"]["vocab_size"] = 200
    edit(start / "config.json", florence_config=florence)
    error = refusal(start, tmp_path)
    assert error.field == "policy.florence_config.text_config.vocab_size"
    assert "128" in error.fix


@pytest.mark.parametrize("size", [0, 4, 8, 500, -4])
def test_weights_file_that_is_cut_short_is_damaged(size, start, tmp_path):
    file = start / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match="damaged weights file"):
        check(start, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, start):
    name = "model.transformer.norm.weight"

    def spoil(key, tensor):
        if key == name:
            tensor = tensor.clone()
            tensor[3] = value
        return key, tensor

    rewrite_weights(start, spoil)
    config = a_config(chunk_size=20)
    config.pretrained_path = start
    with pytest.raises(CheckpointError, match="not finite") as caught:
        a_policy(config)
    assert caught.value.parts == (f"{name}: 1 of 64 values",)


def test_nothing_is_said_of_a_checkpoint_that_is_not_here():
    config = a_config()
    config.pretrained_path = Path("an-owner/a-policy")
    assert start_errors(config, read_start(config)) == []
    table = start_table(config, read_start(config))
    assert (table["weights"], table["domain id"]) == ("not on this machine", "0 of 1")
    # Of several embodiments it is not known which one.
    config.num_domains = 3
    assert start_table(config, read_start(config))["domain id"] == "not read yet of 3"


def a_start(**facts):
    nothing = dict(dtype=None, tensors=None, domain_id=None, has_preprocessor=False, norm_map={})
    nothing |= dict(words={}, seen_as_empty={})
    return Start(source="an-owner/a-policy", **{**nothing, **facts})


@pytest.mark.parametrize("has_preprocessor", [True, False])
def test_only_a_preprocessor_that_was_read_can_leave_the_domain_open(has_preprocessor):
    config = a_config(num_domains=3)
    found = start_errors(config, a_start(has_preprocessor=has_preprocessor))
    assert [error.field for error in found] == ["policy.pretrained_path"] * has_preprocessor


@pytest.mark.parametrize(
    ("dtypes", "dtype", "said"),
    [
        (("F32", "I64", "BOOL"), None, "1 float32, 1 " + "I64" + ", 1 BOOL tensors"),
        (("F32", "F32"), "float32", "2 float32 tensors (config: float32)"),
        (("F32",), "bfloat16", "1 float32 tensors (config: bfloat16), cast to float32 on load"),
        (("F32", "F16"), None, "1 float32, 1 float16 tensors, cast to float32 on load"),
    ],
)
def test_weights_that_are_float32_with_their_indices_are_not_cast(dtypes, dtype, said):
    headers = {f"t{i}": TensorHeader(dtype=one, shape=(1,)) for i, one in enumerate(dtypes)}
    assert weights_text(a_start(tensors=headers, dtype=dtype)) == said


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("config.json", "a policy config"),
        ("policy_preprocessor.json", "a LeRobot preprocessor"),
        ("policy_postprocessor.json", "a LeRobot preprocessor"),
    ],
)
def test_a_file_beside_the_weights_that_is_no_json_is_damaged(file, what, start):
    (start / file).write_text("{")
    config = a_config(chunk_size=20)
    config.pretrained_path = start
    with pytest.raises(CheckpointError, match=f"{file} is not {what}"):
        read_start(config)


def test_config_of_the_training_that_made_the_weights_says_what_to_pass(start, capsys):
    tree = {"policy": json.loads((start / "config.json").read_text()), "steps": 2, "seed": 1}
    (start / "train_config.json").write_text(json.dumps(tree))
    with pytest.raises(ConfigError, match="LeRobot training") as caught:
        check_config(start)
    assert f"pirl init --from {start}" in str(caught.value)
    with pytest.raises(ConfigError, match="LeRobot training"):
        evaluate(["--policy_path", str(start)])
    assert validate(["--config_path", str(start)]) == 0
    assert f"pirl init --from {start}" in capsys.readouterr().out
