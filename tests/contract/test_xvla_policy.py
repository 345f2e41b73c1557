"""X-VLA behind the protocol: what it reads, what it hides, what trains, and what it refuses."""

import pytest
import torch
from contract_builders import ALL_MODES, a_config, a_policy, an_observation, cameras, noise
from lerobot.policies.xvla.modeling_xvla import XVLAPolicy
from lerobot.policies.xvla.processor_xvla import (
    XVLAImageNetNormalizeProcessorStep,
    XVLAImageToFloatProcessorStep,
    make_xvla_libero_pre_post_processors,
)
from lerobot.utils.constants import ACTION

from pirl.errors import ConfigError, ContractError
from pirl.policies.xvla.policy import XVLAFlowPolicy
from pirl.policies.xvla.processors import imagenet_normalize
from pirl.policies.xvla.stock import stock_generate
from pirl.policies.xvla.tiny import tiny_xvla_config
from pirl.records import Observation

MAIN, WRIST = "observation.images.image", "observation.images.image2"
EMPTY = "observation.images.empty_camera_0"


def native_chunk(policy, observation, start):
    """X-VLA's sampler written out: x_t = t x_1 + (1 - t) clean, clean = f(x_t, t)."""
    context = policy.encode(observation)
    steps = policy.spec.denoising_steps
    clean = torch.zeros_like(start)
    with torch.no_grad():
        for i in range(steps, 0, -1):
            t = torch.full((len(start),), i / steps)
            x = start * t.view(-1, 1, 1) + clean * (1 - t).view(-1, 1, 1)
            clean = policy.predict(context, x, t).clean
    return clean


# Observations


def test_images_have_the_bits_of_lerobots_training_preprocessor():
    images = an_observation(a_config()).images
    stock = XVLAImageNetNormalizeProcessorStep()(
        XVLAImageToFloatProcessorStep()({"observation": dict(images)})
    )["observation"]
    ours = imagenet_normalize(images)
    assert all(torch.equal(ours[key], stock[key]) for key in images)


def test_images_have_the_bits_of_lerobots_libero_path():
    """That path: float / 255 in the environment, rotation of the main view, ImageNet step."""
    images = an_observation(a_config()).images
    scaled = {key: image.float() / 255 for key, image in images.items()}
    step, _ = make_xvla_libero_pre_post_processors()
    stock = step(dict(scaled))
    rotated = imagenet_normalize({MAIN: images[MAIN].flip(2, 3), WRIST: images[WRIST]})
    assert all(torch.equal(rotated[key], stock[key]) for key in images)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_encode_and_predict_repeat_lerobots_sampler_bit_for_bit(mode):
    config = a_config(mode)
    policy = a_policy(config, seed=3)
    observation, start = an_observation(config), noise(policy)
    stock = stock_generate(policy.module, observation, start)
    ours = policy.postprocess(native_chunk(policy, observation, start))
    assert torch.equal(ours, stock)


def test_stock_generation_is_driven_by_the_given_noise_and_draws_nothing():
    config = a_config()
    policy, observation = a_policy(config), an_observation(config)
    before = torch.get_rng_state()
    one = stock_generate(policy.module, observation, noise(policy, seed=1))
    two = stock_generate(policy.module, observation, noise(policy, seed=2))
    again = stock_generate(policy.module, observation, noise(policy, seed=1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    with pytest.raises(ContractError, match="stock-sampler"):
        stock_generate(policy.module, observation, noise(policy, rows=1))
    with pytest.raises(ContractError, match="stock-sampler"):
        stock_generate(policy.module, observation, noise(policy)[..., :-1])


def test_images_of_another_size_are_resized_as_lerobot_does():
    config = a_config()
    policy = a_policy(config)
    observation, start = an_observation(config, size=96), noise(policy)
    stock = stock_generate(policy.module, observation, start)
    assert torch.equal(policy.postprocess(native_chunk(policy, observation, start)), stock)


def test_float_images_are_refused():
    config = a_config()
    observation = an_observation(config)
    policy = a_policy(config)
    object.__setattr__(observation, "images", {k: v / 255 for k, v in observation.images.items()})
    with pytest.raises(ContractError, match="raw uint8"):
        policy.encode(observation)


def test_unknown_cameras_are_refused_by_name():
    config = a_config()
    observation = an_observation(config)
    images = {MAIN: observation.images[MAIN], "observation.images.front": observation.images[WRIST]}
    with pytest.raises(ContractError, match=r"observation\.images\.front"):
        a_policy(config).encode(
            Observation(
                images=images,
                state=observation.state,
                inputs={
                    "input_ids": observation.inputs["input_ids"],
                    "domain_id": observation.inputs["domain_id"],
                },
            )
        )


def test_a_state_that_lerobot_would_cut_is_refused():
    config = a_config()
    observation = an_observation(config)
    object.__setattr__(observation, "state", torch.zeros(2, 21))
    with pytest.raises(ContractError, match="max_state_dim"):
        a_policy(config).encode(observation)


def test_images_that_give_another_token_count_are_refused():
    config = a_config()
    config.resize_imgs_with_padding = None
    with pytest.raises(ContractError, match="image tokens"):
        a_policy(config).encode(an_observation(config, size=96))


# Hidden and visible channels (I17), stored chains (I19)


@pytest.mark.parametrize("mode", ["ee6d", "joint", "so101_bimanual"])
def test_hidden_gripper_entries_do_not_reach_the_network_and_others_do(mode):
    config = a_config(mode)
    policy = a_policy(config)
    context, x = policy.encode(an_observation(config)), noise(policy)
    t = torch.full((2,), 0.7)
    base = policy.predict(context, x, t).clean
    for dim in range(policy.spec.model_dim):
        moved = x.clone()
        moved[..., dim] += 1
        gap = (policy.predict(context, moved, t).clean - base).abs().max()
        assert (gap == 0) == (dim in policy.spec.hidden_gripper_dims), dim


@pytest.mark.parametrize("mode", ALL_MODES)
def test_postprocess_leaves_the_stored_chain_alone(mode):
    policy = a_policy(a_config(mode))
    chunk = noise(policy)
    kept = chunk.clone()
    env = policy.postprocess(chunk)
    assert torch.equal(chunk, kept)
    assert env.shape == (2, policy.spec.chunk_size, policy.spec.env_dim)
    shown = [d for d in policy.spec.hidden_gripper_dims if d < policy.spec.env_dim]
    assert torch.equal(env[..., shown], chunk[..., shown].sigmoid())


def test_lerobots_own_postprocess_does_alter_its_argument():
    """The trap itself: when this fails, the clone in `postprocess` has become superfluous."""
    policy = a_policy()
    chunk = noise(policy)
    kept = chunk.clone()
    policy.module.model.action_space.postprocess(chunk)
    assert not torch.equal(chunk, kept)


# The spec


@pytest.mark.parametrize(
    ("mode", "model", "env", "hidden", "executed"),
    [
        ("ee6d", 20, 20, (9, 19), tuple(range(20))),
        ("joint", 14, 14, (6, 13), tuple(range(14))),
        ("so101_bimanual", 20, 12, (5, 11), tuple(range(12))),
        ("agibot_ee6d", 20, 20, (), tuple(range(20))),
        ("franka_joint7", 20, 7, (), tuple(range(7))),
        ("auto", 4, 4, (), (0, 1, 2, 3)),
    ],
)
def test_spec_is_the_action_space_table(mode, model, env, hidden, executed):
    spec = a_policy(a_config(mode)).spec
    assert (spec.model_dim, spec.env_dim) == (model, env)
    assert spec.hidden_gripper_dims == hidden
    assert spec.executed_dims == executed
    assert len(spec.group_of_dim) == model


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_gripper_is_a_logit_exactly_where_it_is_hidden(mode):
    """What is no logit gets noise in action units at the last step, and reaches the network."""
    spec = a_policy(a_config(mode)).spec
    logits = tuple(d for d, group in enumerate(spec.group_of_dim) if group == "gripper_logit")
    assert logits == spec.hidden_gripper_dims


def test_spec_takes_chunk_and_steps_from_the_policy_config():
    config = a_config(chunk_size=9, n_action_steps=6, num_denoising_steps=3)
    spec = a_policy(config).spec
    assert (spec.chunk_size, spec.executed_steps, spec.denoising_steps) == (9, 6, 3)


def test_one_arm_of_ee6d_counts_nine_pose_dims_and_one_gripper():
    spec = a_policy(executed_dims=range(10)).spec
    assert spec.pose_dims == tuple(range(9))
    assert spec.gripper_dims == (9,)
    assert spec.group_of_dim[:10] == ("xyz",) * 3 + ("rot6d",) * 6 + ("gripper_logit",)


def test_auto_executes_real_dims_only_when_the_model_is_wider():
    config = tiny_xvla_config("auto", action_dim=7)
    config.max_action_dim = 20
    spec = a_policy(config).spec
    assert (spec.model_dim, spec.env_dim) == (20, 7)
    assert spec.executed_dims == tuple(range(7))


@pytest.mark.parametrize("dims", [(), (3, 1), (1, 1), (-1, 0), (0, 20)])
def test_executed_dims_that_do_not_fit_are_refused(dims):
    with pytest.raises(ConfigError, match=r"pirl\.executed_dims"):
        a_policy(executed_dims=dims)


def test_dummy_dims_of_so101_cannot_be_executed():
    with pytest.raises(ConfigError, match=r"0\.\.11"):
        a_policy(a_config("so101_bimanual"), executed_dims=range(13))


# What trains (I28)


def test_only_the_transformer_trains_and_every_one_of_its_tensors_gets_a_gradient():
    config = a_config()
    policy = a_policy(config)
    context = policy.encode(an_observation(config))
    policy.predict(context, noise(policy), torch.tensor([1.0, 0.4])).clean.square().sum().backward()
    trained, frozen = policy.trained_parameters(), policy.frozen_parameters()
    assert all(name.startswith("model.transformer.") for name in trained)
    assert all(name.startswith("model.vlm.") for name in frozen)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    assert all(p.grad is None for p in frozen.values())
    assert set(trained) <= set(policy.module.state_dict())


def test_lerobots_freeze_flags_leak_and_the_adapter_does_not():
    config = a_config()
    config.freeze_vision_encoder = config.freeze_language_encoder = True
    stock = XVLAPolicy(config)
    leaked = [n for n, p in stock.named_parameters() if "vlm." in n and p.requires_grad]
    assert leaked
    assert all("multi_modal_projector" in name for name in leaked)
    policy = XVLAFlowPolicy(stock)
    assert not any(p.requires_grad for p in policy.frozen_parameters().values())
    assert set(leaked) <= set(policy.frozen_parameters())


@pytest.mark.parametrize("flag", ["train_policy_transformer", "train_soft_prompts"])
def test_a_config_that_freezes_what_rl_trains_is_refused(flag):
    config = a_config()
    setattr(config, flag, False)
    with pytest.raises(ContractError, match=flag):
        a_policy(config)


# Eval mode and precision


@pytest.mark.parametrize("part", ["policy", "one block"])
def test_train_mode_is_refused_until_eval_mode_is_restored(part):
    config = a_config()
    policy = a_policy(config)
    context = policy.encode(an_observation(config))
    module = policy.module if part == "policy" else policy.module.model.transformer.blocks[1].mlp
    module.train()
    with pytest.raises(ContractError, match="eval-mode"):
        policy.encode(an_observation(config))
    with pytest.raises(ContractError, match="eval-mode"):
        policy.predict(context, noise(policy), torch.ones(2))
    policy.eval_mode()
    policy.predict(context, noise(policy), torch.ones(2))


def test_constructor_sets_eval_mode():
    stock = XVLAPolicy(a_config())
    stock.train()
    assert not any(m.training for m in XVLAFlowPolicy(stock).module.modules())


def test_half_precision_is_refused_by_config_and_after_a_cast():
    config = a_config()
    policy = a_policy(config)
    observation = an_observation(config)
    policy.module.to(torch.bfloat16)
    with pytest.raises(ContractError, match="precision"):
        policy.encode(observation)
    config.dtype = "bfloat16"
    with pytest.raises(ContractError, match=r"policy\.dtype"):
        a_policy(config)


def test_double_precision_serves_gradient_checks():
    config = a_config()
    policy = a_policy(config)
    policy.module.double()
    context = policy.encode(an_observation(config))
    got = policy.predict(context, noise(policy).double(), torch.ones(2, dtype=torch.float64))
    assert got.clean.dtype == torch.float64


def test_normalised_actions_are_refused():
    config = a_config()
    mapping = dict(config.normalization_mapping)
    config.normalization_mapping = mapping | {"ACTION": type(mapping["ACTION"]).MEAN_STD}
    with pytest.raises(ContractError, match=r"normalization_mapping\.ACTION"):
        a_policy(config)


def test_all_unfit_parts_of_a_config_are_refused_together():
    config = a_config()
    config.dtype, config.max_state_dim, config.pad_language_to = "bfloat16", 10, "longest"
    with pytest.raises(ContractError) as caught:
        a_policy(config)
    assert [clause.field.split(": ")[1] for clause in caught.value.clauses] == [
        "policy.dtype",
        "policy.max_state_dim",
        "policy.pad_language_to",
    ]


def test_hook_on_the_final_norm_is_removed_also_after_an_error():
    config = a_config()
    policy = a_policy(config)
    context = policy.encode(an_observation(config))
    with pytest.raises((RuntimeError, TypeError)):
        policy.predict(context, noise(policy), torch.ones(3))
    policy.predict(context, noise(policy), torch.ones(2))
    assert not policy.module.model.transformer.norm._forward_hooks


def test_features_are_the_input_of_the_action_decoder():
    config = a_config()
    policy = a_policy(config)
    context = policy.encode(an_observation(config))
    got = policy.predict(context, noise(policy), torch.tensor([0.9, 0.2]))
    decoder = policy.module.model.transformer.action_decoder
    assert torch.equal(decoder(got.features, context.tensors["domain_id"]), got.clean)


# Critic features (I44, algorithm.md 8.2)


def test_critic_features_are_the_stated_means():
    config = a_config()
    policy, observation = a_policy(config), an_observation(config)
    context = policy.encode(observation)
    tokens, width = policy.primary_view_shape
    words = observation.inputs["input_ids"][0] != 1
    expected = torch.cat(
        [
            context.tensors["vlm_features"][0, :tokens].mean(dim=0),
            context.tensors["vlm_features"][0, tokens:][words].mean(dim=0),
            context.tensors["aux_visual_inputs"][0, :tokens].mean(dim=0),
            observation.state[0],
        ]
    )
    assert policy.critic_width == 3 * width + 20 == context.critic_features.shape[1]
    torch.testing.assert_close(context.critic_features[0], expected, rtol=0, atol=1e-6)


def test_padded_views_do_not_change_critic_features():
    plain, padded = a_config(empty_cameras=0), a_config(empty_cameras=1)
    padded.max_len_seq = plain.max_len_seq
    one, two = a_policy(plain), a_policy(padded)
    two.module.load_state_dict(one.module.state_dict())
    observation = an_observation(plain)
    a, b = one.encode(observation), two.encode(observation)
    assert (
        b.tensors["aux_visual_inputs"].shape[1]
        == a.tensors["aux_visual_inputs"].shape[1] + one.primary_view_shape[0]
    )
    assert torch.equal(a.critic_features, b.critic_features)


def test_pixels_of_an_empty_camera_are_never_read():
    config = a_config()
    policy, observation = a_policy(config), an_observation(config)
    noisy = dict(observation.images) | {EMPTY: observation.images[MAIN].flip(0)}
    context = policy.encode(observation)
    object.__setattr__(observation, "images", noisy)
    assert torch.equal(
        policy.encode(observation).tensors["aux_visual_inputs"],
        context.tensors["aux_visual_inputs"],
    )


def test_a_missing_view_is_padded_with_zero_tokens_as_lerobot_pads_it():
    config = a_config()
    policy, observation = a_policy(config), an_observation(config)
    object.__setattr__(observation, "images", {MAIN: observation.images[MAIN]})
    context = policy.encode(observation)
    tokens, width = policy.primary_view_shape
    assert context.tensors["aux_visual_inputs"].shape[1] == 2 * tokens
    assert not context.tensors["aux_visual_inputs"].any()
    assert not context.critic_features[:, 2 * width : 3 * width].any()


def test_a_robot_with_one_camera_has_no_block_for_further_views():
    config = a_config("auto")
    policy = a_policy(config)
    assert cameras(config) == [MAIN]
    context = policy.encode(an_observation(config))
    assert policy.critic_width == 2 * 64 + 4 == context.critic_features.shape[1]


def test_padding_words_do_not_count():
    config = a_config()
    policy, observation = a_policy(config), an_observation(config)
    tokens, width = policy.primary_view_shape
    context = policy.encode(observation)
    everything = context.tensors["vlm_features"][:, tokens:].mean(dim=1)
    assert not torch.allclose(context.critic_features[:, width : 2 * width], everything)


def test_critic_features_carry_no_graph():
    config = a_config()
    policy = a_policy(config)
    assert not policy.encode(an_observation(config)).critic_features.requires_grad


# Demonstrations


def test_demo_loss_is_reproducible_differentiable_and_leaves_the_global_generator():
    config = a_config()
    policy, observation = a_policy(config), an_observation(config)
    batch = policy.stock_batch(observation) | {ACTION: noise(policy)}
    before = torch.get_rng_state()
    one, two, other = (
        policy.demo_loss(batch, rng=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    one.backward()
    assert policy.module.model.transformer.pos_emb.grad is not None
    policy.module.train()
    with pytest.raises(ContractError, match="eval-mode"):
        policy.demo_loss(batch, rng=torch.Generator())
