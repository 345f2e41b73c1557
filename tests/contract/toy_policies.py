"""A toy flow policy that keeps every clause of the contract, and one that breaks each of them."""

import itertools
from contextlib import suppress
from dataclasses import replace

import torch
from torch import nn

from pirl.errors import ContractError, FieldError
from pirl.records import ActionSpec, Context, Observation, Prediction, TensorSpec

PADDED = "observation.images.empty_camera_0"
WIDTH = 6


def toy_spec():
    return ActionSpec(
        action_mode="toy",
        chunk_size=4,
        executed_steps=3,
        model_dim=5,
        env_dim=3,
        denoising_steps=2,
        executed_dims=(0, 1, 2),
        hidden_gripper_dims=(2,),
        group_of_dim=("xyz", "xyz", "gripper_logit", "other", "other"),
    )


def toy_observation(rows=2):
    rng = torch.Generator().manual_seed(0)
    return Observation(
        images={
            "observation.images.image": torch.randint(
                0, 256, (rows, 3, 8, 8), generator=rng, dtype=torch.uint8
            )
        },
        state=torch.randn(rows, 2, generator=rng),
        inputs={
            "input_ids": torch.ones(rows, 3, dtype=torch.int64),
            "domain_id": torch.zeros(rows, dtype=torch.int64),
        },
    )


def with_tensor(context, **changes):
    """A context with some of its tensors altered."""
    altered = {name: change(context.tensors[name]) for name, change in changes.items()}
    return replace(context, tensors={**context.tensors, **altered})


class ToyNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.vlm = nn.Linear(3, WIDTH)
        self.body = nn.Sequential(nn.Linear(5 + 1 + WIDTH + 2, WIDTH), nn.Tanh())
        self.head = nn.Linear(WIDTH, 5)


class ToyPolicy:
    """Keeps every clause."""

    cameras = ("observation.images.image",)
    sampler = "native"
    no_decay = frozenset()
    critic_width = WIDTH + 2
    feature_width = WIDTH
    primary_view_shape = (2, WIDTH)
    trains_encoder = False
    device = torch.device("cpu")

    def __init__(self):
        self.spec = toy_spec()
        self.inputs = {
            "input_ids": TensorSpec(dtype=torch.int64, shape=(1, 3), low=0, high=9),
            "domain_id": TensorSpec(dtype=torch.int64, shape=(1,), low=0, high=0),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = ToyNet().eval()
        self.module.vlm.requires_grad_(False)

    def guard(self):
        if any(m.training for m in self.module.modules()):
            raise ContractError(
                [FieldError(field="eval-mode", value="train", expected="eval", fix="eval()")]
            )

    def pooled(self, observation):
        return observation.images["observation.images.image"].float().mean(dim=(2, 3)) / 255

    @torch.no_grad()
    def encode(self, observation, *, gradient=False):
        self.guard()
        return self.context_of(observation)

    def context_of(self, observation):
        tokens = self.module.vlm(self.pooled(observation)).unsqueeze(1).repeat(1, 2, 1)
        return Context(
            tensors={
                "vlm_features": tokens,
                "aux_visual_inputs": tokens[:, :1],
                "proprio": observation.state,
                "domain_id": observation.inputs["domain_id"],
            },
            critic_features=torch.cat([tokens.mean(dim=1), observation.state], dim=1),
        )

    def visible(self, x):
        return torch.cat([x[..., :2], torch.zeros_like(x[..., 2:3]), x[..., 3:]], dim=-1)

    def predict(self, context, x, t):
        self.guard()
        rows, steps, _ = x.shape
        given = torch.cat(
            [context.tensors["vlm_features"].mean(dim=1), context.tensors["proprio"], t[:, None]],
            dim=1,
        )
        inputs = torch.cat([self.visible(x), given.unsqueeze(1).expand(rows, steps, -1)], dim=-1)
        features = self.module.body(inputs)
        return Prediction(clean=self.module.head(features), features=features)

    def postprocess(self, chunk):
        return chunk[..., :3].sigmoid()

    def trained_parameters(self):
        return {n: p for n, p in self.module.named_parameters() if not n.startswith("vlm.")}

    def frozen_parameters(self):
        return {n: p for n, p in self.module.named_parameters() if n.startswith("vlm.")}

    def demo_loss(self, batch, *, rng):
        return torch.zeros(())

    def primary_view(self, context):
        return context.tensors["vlm_features"]

    def prepare(self, raw, instruction):
        raise NotImplementedError

    def demo_batch(self, observation, actions):
        raise NotImplementedError

    def save(self, folder, *, env_type):
        raise NotImplementedError


class WithoutDemoLoss(ToyPolicy):
    @property
    def demo_loss(self):
        raise AttributeError("demo_loss")


class ExecutesMoreThanItPredicts(ToyPolicy):
    def __init__(self):
        super().__init__()
        self.spec = replace(toy_spec(), executed_steps=5)


class RestsInTrainMode(ToyPolicy):
    def __init__(self):
        super().__init__()
        self.module.body.train()


class HalfPrecisionParameter(ToyPolicy):
    """One idle bfloat16 parameter among the trained ones."""

    def __init__(self):
        super().__init__()
        self.module.scale = nn.Parameter(torch.zeros((), dtype=torch.bfloat16))

    def predict(self, context, x, t):
        got = super().predict(context, x, t)
        return replace(got, clean=got.clean + self.module.scale.float())


class ForgetsAParameter(ToyPolicy):
    def frozen_parameters(self):
        return {"vlm.weight": self.module.vlm.weight}


class WrongCriticWidth(ToyPolicy):
    critic_width = WIDTH


class FeaturesOfAnotherWidth(ToyPolicy):
    def predict(self, context, x, t):
        got = super().predict(context, x, t)
        return replace(got, features=got.features[..., :-1])


class NotFinite(ToyPolicy):
    def predict(self, context, x, t):
        got = super().predict(context, x, t)
        return replace(got, clean=got.clean / 0)


class RaisesInPredict(ToyPolicy):
    def predict(self, context, x, t):
        self.guard()
        raise IndexError("no such row")


class KeepsModelWidth(ToyPolicy):
    def postprocess(self, chunk):
        return chunk.sigmoid()


class SigmoidInPlace(ToyPolicy):
    def postprocess(self, chunk):
        chunk[..., 2] = torch.sigmoid(chunk[..., 2])
        return chunk[..., :3]


_CALLS = itertools.count()


def another() -> float:
    """Some few rounding errors, never those of the call before."""
    return 1e-6 * (1 + next(_CALLS) % 3)


class EncodesAtRandom(ToyPolicy):
    def encode(self, observation, *, gradient=False):
        got = super().encode(observation, gradient=gradient)
        return with_tensor(got, vlm_features=lambda v: v + another())


class PredictsAtRandom(ToyPolicy):
    def predict(self, context, x, t):
        got = super().predict(context, x, t)
        return replace(got, clean=got.clean + another())


class WorksInTrainMode(ToyPolicy):
    def guard(self):
        return


class DetachesTheHead(ToyPolicy):
    def predict(self, context, x, t):
        got = super().predict(context, x, t)
        head = self.module.head
        clean = nn.functional.linear(got.features, head.weight, head.bias.detach())
        return replace(got, clean=clean)


class LeavesTheVlmTrainable(ToyPolicy):
    def __init__(self):
        super().__init__()
        self.module.vlm.bias.requires_grad_(True)


class EncodesWithAGraph(ToyPolicy):
    """Its encoder has a trained gain, so that the features carry a graph."""

    def __init__(self):
        super().__init__()
        self.module.gain = nn.Parameter(torch.ones(()))

    def encode(self, observation, *, gradient=False):
        got = super().encode(observation, gradient=gradient)
        return with_tensor(got, vlm_features=lambda v: v * self.module.gain)


class ReadsTheGripper(ToyPolicy):
    def visible(self, x):
        return x


class IgnoresTheSecondArm(ToyPolicy):
    def visible(self, x):
        return torch.cat([super().visible(x)[..., :4], torch.zeros_like(x[..., 4:])], dim=-1)


class ValuesTheChain(ToyPolicy):
    """Its critic sees what the last prediction left behind."""

    def __init__(self):
        super().__init__()
        self.last = torch.zeros(())

    def encode(self, observation, *, gradient=False):
        got = super().encode(observation, gradient=gradient)
        return replace(got, critic_features=got.critic_features + self.last)

    def predict(self, context, x, t):
        self.last = x.mean()
        return super().predict(context, x, t)


class SeesPaddedViews(ToyPolicy):
    def pooled(self, observation):
        views = [v.float().mean(dim=(2, 3)) / 255 for v in observation.images.values()]
        return torch.stack(views).mean(dim=0)


class SharesFlowTime(ToyPolicy):
    """One flow time per batch, as samplers that loop over k would have it."""

    def predict(self, context, x, t):
        return super().predict(context, x, t.mean().expand_as(t))


class ReadsWhatNobodyPrepared(ToyPolicy):
    def __init__(self):
        super().__init__()
        self.inputs["words"] = self.inputs.pop("input_ids")


BROKEN = {
    WithoutDemoLoss: "protocol",
    ReadsWhatNobodyPrepared: "inputs",
    ExecutesMoreThanItPredicts: "spec",
    RestsInTrainMode: "eval-mode",
    HalfPrecisionParameter: "precision",
    ForgetsAParameter: "parameters",
    WrongCriticWidth: "encode",
    FeaturesOfAnotherWidth: "predict",
    NotFinite: "predict",
    RaisesInPredict: "predict",
    KeepsModelWidth: "postprocess",
    SigmoidInPlace: "postprocess-pure",
    EncodesAtRandom: "encode-deterministic",
    PredictsAtRandom: "predict-deterministic",
    WorksInTrainMode: "train-mode-refused",
    DetachesTheHead: "trained-gradient",
    LeavesTheVlmTrainable: "frozen",
    EncodesWithAGraph: "frozen",
    ReadsTheGripper: "hidden-gripper",
    IgnoresTheSecondArm: "visible-dims",
    ValuesTheChain: "critic-features",
    SeesPaddedViews: "padded-views",
    SharesFlowTime: "batching",
}
"""Broken policy -> the one clause that must name it."""


class TwiceBroken(SigmoidInPlace):
    """Breaks two independent clauses."""

    def __init__(self):
        super().__init__()
        with suppress(AttributeError):
            self.module.vlm.bias.requires_grad_(True)
