"""Where weights come from, and every way in which they must not come from."""

import json
import shutil
import time

import pytest
import torch
from contract_builders import ALL_MODES, a_config, an_observation
from contract_builders import a_built_policy as a_policy
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from lerobot.utils.constants import OBS_LANGUAGE_TOKENS, OBS_STATE
from safetensors.torch import load_file, save_file

from pirl import doors
from pirl.contract.digests import architecture_digest, weights_digest
from pirl.contract.flow_policy import FlowPolicy
from pirl.contract.registry import build_flow_policy
from pirl.errors import (
    CheckpointError,
    ConfigError,
    ContractError,
    EnvironmentNotReadyError,
    ExitCode,
    MismatchError,
)
from pirl.policies.xvla import source
from pirl.policies.xvla.build import build_policy
from pirl.policies.xvla.domain import domain_id_of
from pirl.policies.xvla.starting import PREPROCESSOR_FILE
from pirl.policies.xvla.stock import stock_batch
from pirl.policies.xvla.tiny import tiny_xvla_config, write_tiny_checkpoint
from pirl.policies.xvla.tokenizer import tokenizer_source


def digest(policy):
    return weights_digest(policy.module.state_dict())


def test_random_weights_are_a_function_of_the_seed_and_the_global_generator_stays():
    before = torch.get_rng_state()
    one, two, other = a_policy(seed=1), a_policy(seed=1), a_policy(seed=2)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    assert digest(one) == digest(two) == digest(a_policy(seed=1))
    assert digest(one) != digest(other)


def test_building_does_not_alter_the_callers_config():
    config = a_config()
    features = dict(config.input_features)
    a_policy(config)
    assert config.input_features == features


@pytest.mark.parametrize("mode", ALL_MODES)
def test_the_tiny_policy_is_tiny_and_quick(mode):
    start = time.process_time()
    policy = a_policy(a_config(mode))
    assert time.process_time() - start < 2.0
    assert 2.5e5 < sum(p.numel() for p in policy.module.parameters()) < 5e5


def test_a_checkpoint_overrides_the_seed(tmp_path):
    config = a_config()
    write_tiny_checkpoint(tmp_path, config, 5)
    config.pretrained_path = tmp_path
    before = torch.get_rng_state()
    assert digest(a_policy(config, seed=1)) == digest(a_policy(a_config(), seed=5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "path", ["/no/such/folder", "./no_such_folder", "outputs/run/checkpoints/last", "owner/name"]
)
def test_a_checkpoint_that_is_not_there_is_never_random_weights(path):
    config = a_config()
    config.pretrained_path = path
    with pytest.raises(EnvironmentNotReadyError, match=path.replace(".", r"\.")) as caught:
        a_policy(config)
    assert caught.value.exit_code is ExitCode.NOT_READY


def test_a_folder_without_weights_is_refused(tmp_path):
    config = a_config()
    config.pretrained_path = tmp_path
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        a_policy(config)


def test_damaged_weights_are_refused(tmp_path):
    config = a_config()
    file = write_tiny_checkpoint(tmp_path, config, 0) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    config.pretrained_path = tmp_path
    with pytest.raises(CheckpointError, match="damaged"):
        a_policy(config)


def test_weights_that_do_not_fit_are_refused_with_their_names(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, a_config(), 0)
    wider = write_tiny_checkpoint(tmp_path / "wider", a_config(num_domains=3), 0)
    shutil.copy(wider / "model.safetensors", folder)
    config = a_config()
    config.pretrained_path = tmp_path
    with pytest.raises(CheckpointError, match="soft_prompt_hub"):
        a_policy(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_heads", 2), ("chunk_size", 11), ("action_mode", "agibot_ee6d"), ("dim_time", 8)],
)
def test_a_geometry_that_shapes_cannot_tell_is_compared_with_the_checkpoints_own(
    tmp_path, field, value
):
    config = a_config()
    config.pretrained_path = write_tiny_checkpoint(tmp_path, config, 0)
    ours = getattr(config, field)
    setattr(config, field, value)
    with pytest.raises(MismatchError) as caught:
        a_policy(config)
    assert [(f.field, f.ours, f.theirs) for f in caught.value.fields] == [
        (f"policy.{field}", value, ours)
    ]


def test_steps_may_differ_from_the_checkpoints_own(tmp_path):
    config = a_config()
    config.pretrained_path = write_tiny_checkpoint(tmp_path, config, 0)
    config.num_denoising_steps, config.n_action_steps = 3, 4
    spec = a_policy(config).spec
    assert (spec.denoising_steps, spec.executed_steps) == (3, 4)


@pytest.mark.parametrize("text", [None, "{"])
def test_a_checkpoint_without_a_readable_config_is_refused(tmp_path, text):
    config = a_config()
    config.pretrained_path = write_tiny_checkpoint(tmp_path, config, 0)
    (tmp_path / "config.json").unlink()
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        a_policy(config)


@pytest.mark.parametrize("change", ["missing", "surplus"])
def test_keys_are_strict(tmp_path, change):
    config = a_config()
    file = write_tiny_checkpoint(tmp_path, config, 0) / "model.safetensors"
    tensors = load_file(file)
    if change == "missing":
        del tensors["model.transformer.pos_emb"]
    else:
        tensors["model.transformer.value_head"] = torch.zeros(1)
    save_file(tensors, file)
    config.pretrained_path = tmp_path
    with pytest.raises(CheckpointError, match=r"pos_emb|value_head"):
        a_policy(config)


def test_a_config_without_geometry_is_refused_before_anything_is_built():
    config = a_config()
    config.florence_config = {}
    with pytest.raises(ConfigError, match=r"policy\.florence_config"):
        a_policy(config)


def vendored(tensors):
    """The same weights under the names of Florence's original remote-code layout."""
    old = {}
    for name, value in tensors.items():
        if not name.startswith("model.vlm."):
            old[name] = value
            continue
        part = name.removeprefix("model.vlm.")
        if part == "multi_modal_projector.image_projection.weight":
            old["model.vlm.image_projection"] = value.T.contiguous()
            continue
        part = part.replace("multi_modal_projector.image_position_embed.", "image_pos_embed.")
        part = part.replace("multi_modal_projector.", "")
        part = part.replace("language_model.", "language_model.model.", 1)
        if part.startswith("vision_tower.convs."):
            part = part.replace(".conv.", ".proj.")
        for new, kept in {
            "conv1.": "conv1.fn.dw.",
            "conv2.": "conv2.fn.dw.",
            "ffn.": "ffn.fn.net.",
            "norm2.": "ffn.norm.",
            "window_attn.": "window_attn.fn.",
            "channel_attn.": "channel_attn.fn.",
        }.items():
            part = part.replace(f"_block.{new}", f"_block.{kept}")
        part = part.replace("spatial_block.norm1.", "spatial_block.window_attn.norm.")
        part = part.replace("channel_block.norm1.", "channel_block.channel_attn.norm.")
        old[f"model.vlm.{part}"] = value
    return old


def test_the_old_florence_layout_loads_to_the_same_weights(tmp_path):
    config = a_config()
    file = write_tiny_checkpoint(tmp_path, config, 5) / "model.safetensors"
    old = vendored(load_file(file))
    assert "model.vlm.image_projection" in old
    save_file(old, file)
    config.pretrained_path = tmp_path
    assert digest(a_policy(config)) == digest(a_policy(a_config(), seed=5))


def test_domain_id_is_the_one_of_the_starting_checkpoint(tmp_path):
    config = a_config(num_domains=5)
    assert domain_id_of(config) == 0
    file = write_tiny_checkpoint(tmp_path, config, 0) / "policy_preprocessor.json"
    saved = json.loads(file.read_text())
    step = next(s for s in saved["steps"] if s.get("registry_name") == "xvla_add_domain_id")
    step["config"]["domain_id"] = 3
    file.write_text(json.dumps(saved))
    config.pretrained_path = tmp_path
    assert domain_id_of(config) == 3
    config.num_domains = 2
    with pytest.raises(CheckpointError, match="domain_id = 3"):
        domain_id_of(config)
    file.write_text("{}")
    with pytest.raises(CheckpointError, match="not a LeRobot preprocessor"):
        domain_id_of(config)


# Digests


def test_architecture_digest_sees_shapes_and_spec_but_not_values():
    one = architecture_digest(a_policy(seed=1))
    assert one == architecture_digest(a_policy(seed=2))
    others = [
        a_policy(executed_dims=range(10)),
        a_policy(a_config(num_denoising_steps=4)),
        a_policy(a_config(n_action_steps=5)),
        a_policy(a_config(num_domains=2)),
        a_policy(a_config("agibot_ee6d")),
    ]
    assert len({one, *map(architecture_digest, others)}) == 6


def test_weights_digest_sees_values_names_shapes_and_dtypes():
    a = torch.arange(4.0)
    base = weights_digest({"w": a, "b": a})
    assert base == weights_digest({"b": a.clone(), "w": a.clone()})
    flipped = a.clone()
    flipped[3] = -3.0
    others = [
        {"w": flipped, "b": a},
        {"w": a, "c": a},
        {"w": a.reshape(2, 2), "b": a},
        {"w": a.view(torch.int32), "b": a},
        {"w": a},
    ]
    assert base not in {weights_digest(tensors) for tensors in others}
    assert weights_digest({"s": torch.tensor(1.0)}) != weights_digest({"s": torch.tensor([1.0])})


# Which policies qualify


def test_the_registry_builds_xvla():
    policy = build_flow_policy(a_config(), executed_dims=None, device="cpu", seed=1)
    assert isinstance(policy, FlowPolicy)
    assert digest(policy) == digest(a_policy(seed=1))


@pytest.mark.parametrize(
    "policy_type", ["gaussian_actor", "sac", "smolvla", "pi0", "act", "diffusion"]
)
def test_other_policies_are_refused_with_the_list_of_those_allowed(policy_type):
    class Config:
        type = policy_type

    with pytest.raises(ConfigError) as caught:
        build_flow_policy(Config(), executed_dims=None, device="cpu", seed=0)
    (error,) = caught.value.errors
    assert error.field == "policy.type"
    assert error.value == policy_type
    assert "xvla" in error.expected


@pytest.mark.parametrize("name", ["pi-rl", "pi_rl", "pirl"])
def test_pi_rl_is_never_a_policy_type(name):
    assert not doors.is_installed(doors.POLICIES, name)


# Full size


def full_size_config():
    """Geometry of the 0.9 B LIBERO checkpoint: Florence-2-large and 24 blocks of width 1024."""
    config = tiny_xvla_config(chunk_size=30, n_action_steps=30, image_size=224, state_dim=20)
    config.florence_config = {
        "vision_config": {
            "depths": [1, 1, 9, 1],
            "patch_size": [7, 3, 3, 3],
            "patch_stride": [4, 2, 2, 2],
            "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True],
            "dim_embed": [256, 512, 1024, 2048],
            "num_heads": [8, 16, 32, 64],
            "num_groups": [8, 16, 32, 64],
            "window_size": 12,
            "projection_dim": 1024,
            "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 50},
            "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 100},
            "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
        },
        "text_config": {
            "vocab_size": 51289,
            "d_model": 1024,
            "encoder_layers": 12,
            "decoder_layers": 1,
            "encoder_ffn_dim": 4096,
            "decoder_ffn_dim": 64,
            "encoder_attention_heads": 16,
            "decoder_attention_heads": 16,
            "max_position_embeddings": 4096,
        },
    }
    config.hidden_size, config.depth, config.num_heads = 1024, 24, 16
    config.num_domains, config.len_soft_prompts, config.dim_time = 30, 32, 32
    config.max_len_seq, config.tokenizer_max_length = 512, 64
    return config


def test_the_full_size_policy_has_the_published_size_and_passes_the_adapter():
    with torch.device("meta"):
        policy = XVLAPolicy(full_size_config())
    total = sum(p.numel() for p in policy.parameters())
    assert total == pytest.approx(879e6, rel=0.01)
    built = build_on_meta(policy)
    trained = sum(p.numel() for p in built.trained_parameters().values())
    assert trained == pytest.approx(309e6, rel=0.01)
    assert built.primary_view_shape == (50, 1024)
    assert built.critic_width == 3 * 1024 + 20


def build_on_meta(policy):
    from pirl.policies.xvla.policy import XVLAFlowPolicy

    return XVLAFlowPolicy(policy, executed_dims=range(10))


def test_every_bad_part_of_a_config_is_found_before_weights_are_looked_for():
    config = a_config()
    config.dtype = "bfloat16"
    config.pretrained_path = "/no/such/folder"
    with pytest.raises(ContractError, match="precision"):
        build_policy(config, executed_dims=None, device="cpu", seed=0)


def test_a_path_that_is_no_hub_id_is_not_looked_for_on_the_hub(monkeypatch):
    def download(*_, **__):
        pytest.fail("asked the hub")

    monkeypatch.setattr(source, "hf_hub_download", download)
    config = a_config()
    for path in ("./no_such_folder", "outputs/run/checkpoints/last", "/no/such/folder"):
        config.pretrained_path = path
        with pytest.raises(EnvironmentNotReadyError, match="no such folder"):
            a_policy(config)


@pytest.mark.parametrize("key", [None, "embodiment"])
def test_a_stock_batch_has_the_observation_under_the_policys_keys(key):
    config = a_config()
    config.domain_feature_key = key
    policy = a_policy(config)
    observation = an_observation(config, domain_id=3)
    for batch in (stock_batch(policy.module, observation), policy.stock_batch(observation)):
        assert torch.equal(batch[key or "domain_id"], observation.inputs["domain_id"])
        assert torch.equal(batch[OBS_STATE], observation.state)
        assert torch.equal(batch[OBS_LANGUAGE_TOKENS], observation.inputs["input_ids"])
        assert len(batch) == 3 + len(observation.images)


@pytest.mark.parametrize(
    ("domain_id", "is_refused"), [(-1, True), (0, False), (1, False), (2, True)]
)
def test_the_domain_of_a_checkpoint_is_one_that_the_policy_has(tmp_path, domain_id, is_refused):
    config = a_config(num_domains=2)
    config.pretrained_path = tmp_path
    step = {"registry_name": "xvla_add_domain_id", "config": {"domain_id": domain_id}}
    (tmp_path / PREPROCESSOR_FILE).write_text(json.dumps({"steps": [step]}))
    if is_refused:
        with pytest.raises(CheckpointError, match=r"expected 0\.\.1"):
            domain_id_of(config)
    else:
        assert domain_id_of(config) == domain_id


def test_a_checkpoint_without_a_tokenizer_uses_the_one_that_the_config_names(tmp_path):
    config = a_config()
    config.pretrained_path = tmp_path
    assert tokenizer_source(config) == config.tokenizer_name
    (tmp_path / config.tokenizer_name).mkdir(parents=True)
    assert tokenizer_source(config) == str(tmp_path / config.tokenizer_name)
