"""What the kind of X-VLA answers about a config, of the class of either library and before it is decoded."""

from types import SimpleNamespace

import pytest
from contract_builders import a_config
from safetensors.torch import load_file, save_file

from pirl.config.kinds import ActionFacts
from pirl.config.view import View
from pirl.contract.registry import build_flow_policy
from pirl.errors import ConfigError
from pirl.policies.xvla.kind import KIND
from pirl.policies.xvla.tiny import write_tiny_checkpoint

IMAGES = ("observation.images.image", "observation.images.image2")
EMPTY = "observation.images.empty_camera_0"


def a_view(**policy):
    return View({"policy": policy})


@pytest.mark.parametrize(("mode", "space"), [("ee6d", "ee6d"), ("auto", "auto"), ("no", None)])
def test_the_space_of_actions_is_the_mode_where_there_is_one_of_the_name(mode, space):
    view = a_view(action_mode=mode, output_features={"action": {"type": "ACTION", "shape": [7]}})
    assert KIND.action(view) == ActionFacts(field="policy.action_mode", space=space, width=7)


def test_an_empty_camera_is_a_view_and_no_camera():
    config = a_config(empty_cameras=0)
    config.input_features[EMPTY] = config.input_features[IMAGES[0]]
    assert KIND.cameras(config) == IMAGES
    assert KIND.seen(a_view(input_features=dict.fromkeys(config.input_features))) == list(IMAGES)
    assert KIND.views(config) == 3


def test_a_config_that_lists_and_counts_an_empty_camera_is_settled():
    config = a_config(empty_cameras=1)
    before = dict(config.input_features)
    config.input_features[EMPTY] = config.input_features[IMAGES[0]]
    KIND.settle(config)
    assert config.input_features == before
    assert config.num_image_views == KIND.views(config)


@pytest.mark.parametrize("features", [None, {}, {"observation.state": "STATE", EMPTY: "STATE"}])
def test_a_config_without_a_camera_is_told_with_the_features_that_it_has(features):
    config = a_config()
    config.input_features = features and {
        name: SimpleNamespace(type=SimpleNamespace(name=kind)) for name, kind in features.items()
    }
    (error,) = KIND.start_errors(config)
    assert error.field == "policy.input_features"
    assert error.value == sorted(features or {})
    assert "VISUAL" in error.expected


def test_a_config_of_another_policy_is_refused_by_its_field():
    other = SimpleNamespace(type="xvla")
    with pytest.raises(ConfigError) as caught:
        build_flow_policy(other, executed_dims=None, device="cpu", seed=0)
    (error,) = caught.value.errors
    assert (error.field, error.value) == ("policy.type", "SimpleNamespace")


def test_the_stock_policy_is_not_loaded_from_weights_with_a_name_too_many(tmp_path):
    folder = write_tiny_checkpoint(tmp_path, a_config(), seed=1)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    save_file(tensors | {"model.extra": next(iter(tensors.values())).clone()}, weights)
    with pytest.raises(RuntimeError, match="extra"):
        KIND.load_stock(folder)
