"""Bytes and seconds per published version and per transition: pirl's wire against stock LeRobot's.

    python benchmarks/wire.py --scale 0.02 --repeats 5 --out wire.json

Both sides run in this process, alternating, on the same tensors; the answer is a JSON object of
medians and of ratios stock / pirl (above one: pirl needs less). What is compared:

version     stock: `state_to_bytes` / `bytes_to_state_dict` of the whole state dict. pirl:
            `encode_parameters` / `decode_parameters` of the trained tensors, with identity and CRC.
            Sizes: the 879 M parameter X-VLA for LIBERO (309 M trained), times `--scale`.
delivery    seconds from a new version to its arrival at an actor over loopback gRPC, equal bytes.
            stock: its own `LearnerService` at its default push interval. pirl: `LearnerServer`.
transition  an episode of ten decisions, two 256 x 256 views. stock: float32 images, `next_state`
            its own copy. pirl: uint8, `next_state` shared with the following `state`, checked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import torch
from lerobot.rl.learner_service import LearnerService
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import (
    bytes_to_state_dict,
    bytes_to_transitions,
    grpc_channel_options,
    receive_bytes_in_chunks,
    state_to_bytes,
    transitions_to_bytes,
)
from lerobot.utils.transition import Transition

from pirl.config.recipe import FlowSDEConfig, PiRLConfig, RuntimeConfig
from pirl.records import ActionSpec
from pirl.transport import wire
from pirl.transport.client import ActorLink
from pirl.transport.identity import Identity
from pirl.transport.schema import TensorSpec, TransitionSchema, transition_schema
from pirl.transport.server import LearnerServer

TOTAL_PARAMETERS, TRAINED_PARAMETERS = 879_000_000, 309_000_000
STOCK_PUSH_INTERVAL_S = 4.0
"""Default of LeRobot's `policy_parameters_push_frequency`."""
DECISIONS = 10
SPEC = ActionSpec(
    action_mode="ee6d",
    chunk_size=32,
    executed_steps=32,
    model_dim=20,
    env_dim=20,
    denoising_steps=10,
    executed_dims=tuple(range(20)),
    hidden_gripper_dims=(9, 19),
    group_of_dim=("other",) * 20,
)
IDENTITY = Identity(
    recipe="pi-rl",
    variant="flow-sde",
    config_path="benchmark",
    config_hash="0" * 64,
    run_id="benchmark",
    policy_type="xvla",
    policy_architecture="0" * 64,
    action_mode=SPEC.action_mode,
    denoising_steps=SPEC.denoising_steps,
    executed_steps=SPEC.executed_steps,
    environment="none",
    control_mode="absolute",
    cameras="image,image2 of 3 views",
    policy_settings="domain_id=0",
    reward="success",
    state_split="none",
    noise_settings="none",
)


def seconds_of(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = function()
    return time.perf_counter() - start, value


def some_tensors(parameters: int, prefix: str) -> dict[str, torch.Tensor]:
    """float32 matrices of a transformer's size (1024 x 4096) that add up to `parameters`."""
    rng = torch.Generator().manual_seed(0)
    sizes = [2**22] * (parameters // 2**22) + [parameters % 2**22]
    return {
        f"{prefix}.{i}.weight": torch.randn(size, generator=rng) for i, size in enumerate(sizes)
    }


def compare(
    stock: Callable[[], dict[str, float]], pirl: Callable[[], dict[str, float]], repeats: int
) -> dict[str, Any]:
    """Medians of both, measured in alternation, and their ratios."""
    rows: dict[str, list[dict[str, float]]] = {"stock": [], "pirl": []}
    stock(), pirl()  # the first call pays for imports and page faults
    for _ in range(repeats):
        rows["stock"].append(stock())
        rows["pirl"].append(pirl())
    medians = {
        side: {name: statistics.median(row[name] for row in found) for name in found[0]}
        for side, found in rows.items()
    }
    ratios = {name: medians["stock"][name] / medians["pirl"][name] for name in medians["stock"]}
    return {**medians, "ratio_stock_over_pirl": ratios, "repeats": repeats}


def bench_version(scale: float, repeats: int) -> dict[str, Any]:
    trained = some_tensors(int(TRAINED_PARAMETERS * scale), "model.transformer")
    frozen = some_tensors(int((TOTAL_PARAMETERS - TRAINED_PARAMETERS) * scale), "model.vlm")

    def stock() -> dict[str, float]:
        encode_s, payload = seconds_of(lambda: state_to_bytes({"policy": trained | frozen}))
        decode_s, _ = seconds_of(lambda: bytes_to_state_dict(payload))
        return {"bytes": len(payload), "encode_s": encode_s, "decode_s": decode_s}

    def pirl() -> dict[str, float]:
        encode_s, payload = seconds_of(
            lambda: wire.encode_parameters(trained, 0, identity=IDENTITY)
        )
        message = bytearray(payload)  # a receiver assembles a bytearray in the first place
        decode_s, _ = seconds_of(lambda: wire.decode_parameters(message))
        return {"bytes": len(payload), "encode_s": encode_s, "decode_s": decode_s}

    return compare(stock, pirl, repeats) | {"scale": scale}


class NoSink:
    def on_transitions(self, *_: object) -> None: ...
    def on_interaction(self, *_: object) -> None: ...
    def on_actor_refused(self, *_: object) -> None: ...
    def on_actor_lost(self, *_: object) -> None: ...
    def wait_for_room(self, *_: object, **__: object) -> None: ...
    def owes_since(self, *_: object) -> None: ...


def bench_delivery(scale: float, versions: int) -> dict[str, Any]:
    weights = some_tensors(int(TRAINED_PARAMETERS * scale), "model.transformer")
    stock, pirl = stock_delivery_s(weights, versions), pirl_delivery_s(weights, versions)
    return {
        "stock": {"seconds": stock},
        "pirl": {"seconds": pirl},
        "ratio_stock_over_pirl": {"seconds": stock / pirl},
        "repeats": versions,
    }


def stock_delivery_s(weights: dict[str, torch.Tensor], versions: int) -> float:
    stop, parameters, arrived = threading.Event(), Queue(), Queue()
    service = LearnerService(stop, parameters, STOCK_PUSH_INTERVAL_S, Queue(), Queue())
    server = grpc.server(ThreadPoolExecutor(3), options=grpc_channel_options())
    services_pb2_grpc.add_LearnerServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    seconds: list[float] = []
    with grpc.insecure_channel(f"127.0.0.1:{port}", grpc_channel_options()) as channel:
        stub = services_pb2_grpc.LearnerServiceStub(channel)
        stream = stub.StreamParameters(services_pb2.Empty())
        receiver = threading.Thread(
            target=ignore_rpc_error, args=(receive_bytes_in_chunks, stream, arrived, stop)
        )
        receiver.start()
        for version in range(versions + 1):
            start = time.perf_counter()
            parameters.put(state_to_bytes({"policy": weights}))
            bytes_to_state_dict(arrived.get(timeout=120))
            if version > 0:  # the first push waits for no interval
                seconds.append(time.perf_counter() - start)
            # Updates do not end in step with the push interval.
            time.sleep(0.37 * (version + 1))
        stop.set()
        stream.cancel()
        receiver.join(10)
    server.stop(0).wait(10)
    return statistics.median(seconds)


def ignore_rpc_error(receive: Callable[..., Any], *args: Any) -> None:
    try:
        receive(*args)
    except grpc.RpcError:
        return


def pirl_delivery_s(weights: dict[str, torch.Tensor], versions: int) -> float:
    runtime = RuntimeConfig(port=0)
    server = LearnerServer(IDENTITY, runtime=runtime, schema=a_schema(), sink=NoSink())
    runtime = RuntimeConfig(port=server.start())
    seconds: list[float] = []
    with ActorLink(IDENTITY, runtime=runtime, rank=0).connect(30) as link:
        for version in range(versions + 1):
            start = time.perf_counter()
            server.publish(version, weights)
            if link.wait_for_version(version, 120) is None:
                raise TimeoutError(f"version {version} never arrived")
            if version > 0:
                seconds.append(time.perf_counter() - start)
            time.sleep(0.37 * (version + 1))
    server.stop()
    return statistics.median(seconds)


def a_schema() -> TransitionSchema:
    return transition_schema(
        SPEC,
        PiRLConfig(variant="flow-sde", flow_sde=FlowSDEConfig()),
        image_shapes={f"observation.images.image{i}": (3, 256, 256) for i in ("", "2")},
        state_dim=20,
        inputs={
            "domain_id": TensorSpec(dtype=torch.int64, shape=(1,), low=0, high=0),
            "input_ids": TensorSpec(dtype=torch.int64, shape=(1, 64), low=0, high=2**16),
        },
    )


def an_episode(schema: TransitionSchema) -> list[Transition]:
    rng = torch.Generator().manual_seed(0)

    def value(spec: TensorSpec) -> torch.Tensor:
        if spec.dtype.is_floating_point:
            return torch.randn(spec.shape, generator=rng)
        high = 1 if spec.dtype == torch.bool else min(255 if spec.high is None else spec.high, 255)
        low = max(spec.low or 0, 0)
        return torch.randint(low, high + 1, spec.shape, generator=rng).to(spec.dtype)

    states = [{n: value(s) for n, s in schema.state.items()} for _ in range(DECISIONS + 1)]
    return [
        Transition(
            state=states[i],
            action=value(schema.action),
            reward=0.0,
            next_state=states[i + 1],
            done=False,
            truncated=False,
            complementary_info={n: value(s) for n, s in schema.info.items()},
        )
        for i in range(DECISIONS)
    ]


def as_stock(transitions: list[Transition]) -> list[Transition]:
    """float32 images in [0, 1] and nothing shared, as LeRobot's processors and actor leave them."""

    def own(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {
            name: t.float() / 255 if t.dtype == torch.uint8 else t.clone()
            for name, t in state.items()
        }

    return [
        Transition(**{**t, "state": own(t["state"]), "next_state": own(t["next_state"])})
        for t in transitions
    ]


def bench_transition(repeats: int) -> dict[str, Any]:
    schema = a_schema()
    episode = an_episode(schema)
    copied = as_stock(episode)

    def per_decision(size: int, encode_s: float, decode_s: float) -> dict[str, float]:
        row = {"bytes": size, "encode_s": encode_s, "decode_s": decode_s}
        return {name: value / DECISIONS for name, value in row.items()}

    def stock() -> dict[str, float]:
        encode_s, payload = seconds_of(lambda: transitions_to_bytes(copied))
        decode_s, _ = seconds_of(lambda: bytes_to_transitions(payload))
        return per_decision(len(payload), encode_s, decode_s)

    def pirl() -> dict[str, float]:
        encode_s, payload = seconds_of(lambda: wire.encode_transitions(episode))
        message = bytearray(payload)
        decode_s, _ = seconds_of(lambda: wire.decode_transitions(message, schema))
        return per_decision(len(payload), encode_s, decode_s)

    return compare(stock, pirl, repeats)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=0.02, help="of the 879 M parameter policy")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--versions", type=int, default=5, help="deliveries measured on each side")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    args = parser.parse_args()
    result = {
        "benchmark": "wire",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "version": bench_version(args.scale, args.repeats),
        "delivery": bench_delivery(args.scale, args.versions),
        "transition": bench_transition(args.repeats),
    }
    text = json.dumps(result, indent=2)
    sys.stdout.write(text + "\n")
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
