"""The reader of `torch.save` bytes: exact on what it should read, inert on everything else."""

from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch

from pirl.errors import TransportError
from pirl.transport.stream import read_archive

PLAIN = {"a": torch.arange(6.0).view(2, 3), "n": [torch.tensor(7), torch.tensor([True, False])]}


def saved(value: object) -> bytearray:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return bytearray(buffer.getvalue())


def read(message: bytes | bytearray, *, max_tensors: int = 64) -> object:
    return read_archive(bytearray(message), max_tensors=max_tensors, max_pickle_bytes=2**20)


def with_pickle(stream: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """An archive with correct CRCs around a hand-made data.pkl."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", stream)
        archive.writestr("archive/byteorder", b"little")
        for key, raw in (storages or {}).items():
            # Alignment as torch.save gives it: the reader refuses an unaligned storage.
            position = buffer.tell() + 30 + len(f"archive/data/{key}")
            info = zipfile.ZipInfo(f"archive/data/{key}")
            info.extra = struct.pack("<HH", 0x4246, 60 - position % 64) + b"Z" * (
                60 - position % 64
            )
            archive.writestr(info, raw)
    return buffer.getvalue()


def outcome(message: bytes | bytearray) -> object:
    """What was read, or the error; any other exception fails the test."""
    try:
        return read(message)
    except TransportError as error:
        return error


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([1.5, float("nan"), float("inf")]),
        torch.tensor([1.5], dtype=torch.float64),
        torch.tensor([1.5], dtype=torch.float16),
        torch.tensor([1.5], dtype=torch.bfloat16),
        torch.tensor([2**53 + 1, -(2**62)]),
        torch.tensor([2**31 - 1], dtype=torch.int32),
        torch.tensor([0, 255], dtype=torch.uint8),
        torch.tensor([[True], [False]]),
        torch.tensor(3.0),
        torch.empty(0, 4),
        torch.arange(12.0).view(3, 4)[1:],
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}",
)
def test_tensors_come_back_with_dtype_shape_and_bits(tensor: torch.Tensor):
    found = read(saved({"t": tensor}))["t"]
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    assert torch.equal(found, tensor) or tensor.isnan().any()
    assert found.contiguous().view(-1).view(torch.uint8).tolist() == (
        tensor.contiguous().view(-1).view(torch.uint8).tolist()
    )


def test_plain_values_and_containers_come_back():
    value = {"f": 0.5, "i": -3, "big": 2**40, "t": True, "none": None, "l": [1, [2]], "s": "é"}
    assert read(saved(value)) == value


def test_a_tensor_used_twice_is_one_memory():
    shared = torch.arange(4.0)
    found = read(saved([shared, shared, shared[:]]))
    assert found[0].data_ptr() == found[1].data_ptr() == found[2].data_ptr()


def test_tensors_are_views_of_the_message():
    message = saved({"t": torch.zeros(1000)})
    found = read_archive(message, max_tensors=1, max_pickle_bytes=2**20)["t"]
    found[0] = 1.0
    assert bytes(message).count(struct.pack("<f", 1.0)) >= 1


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (os.system, (f"touch {self.canary}",))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_runs_a_command_is_refused_and_never_run(tmp_path: Path, protocol: int):
    canary = tmp_path / "ran"
    stream = pickle.dumps({"policy": Bomb(canary)}, protocol=protocol)
    with pytest.raises(TransportError):
        read(with_pickle(stream))
    with pytest.raises(TransportError):
        read(stream)
    assert not canary.exists()


def test_a_global_is_named_in_the_refusal():
    stream = pickle.dumps({"x": os.getcwd}, protocol=2)
    with pytest.raises(TransportError, match=r"global 'posix getcwd'"):
        read(with_pickle(stream))


HOSTILE = {
    "calls a string": b"\x80\x02X\x01\x00\x00\x00x)R.",
    "calls a dtype": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "rebuild with wrong arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "ordered dict with content": b"\x80\x02ccollections\nOrderedDict\n(K\x01tR.",
    "sets the state of an object": b"\x80\x02}}b.",
    "instance by name": b"(S'echo'\nios\nsystem\n.",
    "new object": b"\x80\x02cbuiltins\nobject\n)\x81.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id of text": b"\x80\x02X\x01\x00\x00\x00xQ.",
    "bytes after the end": b"\x80\x02}.}",
    "persistent id that holds a tensor's place": b"\x80\x02}(X\x01\x00\x00\x00a)u\x85Q.",
    "number of ten bytes": b"\x80\x02\x8a\x0a" + b"\x01" * 10 + b".",
    "text that is cut off": b"\x80\x02X\xff\xff\xff\xffab.",
    "number that is cut off": b"\x80\x02J\x01",
    "global without lines": b"\x80\x02cos",
    "memo never set": b"\x80\x02h\x09.",
    "append to a dict": b"\x80\x02}K\x01a.",
    "number as key": b"\x80\x02}K\x01K\x02s.",
    "tuple as key": b"\x80\x02})K\x02s.",
    "odd pairs": b"\x80\x02}(X\x01\x00\x00\x00au.",
    "items into a list": b"\x80\x02](X\x01\x00\x00\x00aK\x01u.",
    "empty stack": b"\x80\x02.",
    "two objects": b"\x80\x02}}.",
    "mark never set": b"\x80\x02K\x01t.",
    "take from nothing": b"\x80\x02\x86.",
    "no stop": b"\x80\x02}",
    "bytes": b"\x80\x04C\x01a.",
    "frozen set": b"\x80\x04(\x91.",
    "duplicate": b"\x80\x02}2.",
}


@pytest.mark.parametrize("stream", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_streams_are_refused(stream: bytes):
    with pytest.raises(TransportError):
        read(with_pickle(stream))


def tensor_stream(
    *, storage: bytes = b"FloatStorage", count: int = 4, offset: int = 0,
    size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,), key: str = "0",
    location: str = "cpu", grad: bool = False,
) -> bytes:  # fmt: skip
    """A `_rebuild_tensor_v2` stream with every part open to lies."""

    def number(value: int) -> bytes:
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    reference = (
        b"(" + text("storage") + b"ctorch\n" + storage + b"\n" + text(key) + text(location)
        + number(count) + b"tQ"
    )  # fmt: skip
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + reference + number(offset)
        + numbers(size) + numbers(stride) + (b"\x88" if grad else b"\x89")
        + b"ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


def test_the_hand_made_stream_is_a_good_one_when_it_does_not_lie():
    raw = torch.arange(4.0).numpy().tobytes()
    assert torch.equal(read(with_pickle(tensor_stream(), {"0": raw})), torch.arange(4.0))


@pytest.mark.parametrize(
    "lie",
    [
        {"count": 5},
        {"count": -4},
        {"count": 2**62},
        {"offset": 1},
        {"offset": -1},
        {"size": (5,)},
        {"size": (2**62,)},
        {"size": (2**61, 2**61), "stride": (2**61, 1)},
        {"size": (-4,)},
        {"size": (2, 2), "stride": (1, 2)},
        {"size": (4,), "stride": (0,)},
        {"size": (2, 2), "stride": (1,)},
        {"size": (1,) * 9, "stride": (1,) * 9},
        {"key": "1"},
        {"key": "../0"},
        {"location": "cuda:0"},
        {"storage": b"DoubleStorage"},
        {"storage": b"UntypedStorage"},
        {"grad": True},
    ],
    ids=str,
)
def test_a_tensor_that_lies_about_itself_is_refused(lie: dict[str, object]):
    raw = torch.arange(4.0).numpy().tobytes()
    with pytest.raises(TransportError):
        read(with_pickle(tensor_stream(**lie), {"0": raw}))


def test_an_impossible_bool_is_refused():
    stream = tensor_stream(storage=b"BoolStorage", count=4)
    assert read(with_pickle(stream, {"0": b"\x00\x01\x01\x00"})).tolist() == [
        False, True, True, False,
    ]  # fmt: skip
    with pytest.raises(TransportError, match="bool"):
        read(with_pickle(stream, {"0": b"\x00\x02\x01\x00"}))


def test_a_compressed_member_is_refused_however_well_it_compresses():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", b"\x00" * 5_000_000)
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(TransportError, match="compressed"):
        read(buffer.getvalue())


def test_members_that_overlap_are_refused():
    message = bytearray(with_pickle(b"\x80\x02}.", {"0": b"abcd", "1": b"abcd"}))
    directory = message.index(b"PK\x01\x02")
    records = []
    while message[directory : directory + 4] == b"PK\x01\x02":
        records.append(directory)
        name, extra, comment = struct.unpack_from("<HHH", message, directory + 28)
        directory += 46 + name + extra + comment
    # The last record keeps its own name, but claims the place of the one before it.
    local = struct.unpack_from("<I", message, records[-2] + 42)
    struct.pack_into("<I", message, records[-1] + 42, *local)
    with pytest.raises(TransportError, match=r"two names|overlap"):
        read(message)


def test_a_member_named_twice_is_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", b"\x80\x02].")
    with pytest.raises(TransportError, match="twice"):
        read(buffer.getvalue())


def test_more_members_than_allowed_are_refused_before_they_are_read():
    message = saved([torch.zeros(1) for _ in range(200)])
    with pytest.raises(TransportError, match="at most 26"):
        read(message, max_tensors=10)


def test_a_description_longer_than_allowed_is_refused():
    with pytest.raises(TransportError, match="at most 100"):
        read_archive(saved(PLAIN), max_tensors=9, max_pickle_bytes=100)


def test_a_zip_with_a_comment_or_trailing_bytes_is_refused():
    message = saved(PLAIN)
    for tail in (b"x", b"\x00" * 22, bytes(message[-22:])):
        with pytest.raises(TransportError):
            read(message + tail)


def test_every_truncation_is_refused():
    message = saved(PLAIN)
    for length in range(0, len(message), 7):
        with pytest.raises(TransportError):
            read(message[:length])


def test_every_flipped_bit_is_refused_or_harmless():
    message = saved(PLAIN)
    rng = random.Random(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(message)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        found = outcome(damaged)
        if isinstance(found, TransportError):
            refused += 1
        else:
            # Only bytes that no reader looks at (padding, dates) may change without notice.
            assert torch.equal(found["a"], PLAIN["a"])
            assert torch.equal(found["n"][1], PLAIN["n"][1])
    assert refused > 200


def test_a_flipped_weight_bit_is_always_noticed():
    tensor = torch.arange(1000.0)
    message = saved(tensor)
    place = bytes(message).index(tensor.numpy().tobytes())
    for offset in range(0, 4000, 97):
        damaged = bytearray(message)
        damaged[place + offset] ^= 1
        with pytest.raises(TransportError, match="CRC"):
            read(damaged)


def test_random_bytes_never_raise_anything_else():
    rng = random.Random(1)
    for _ in range(300):
        assert isinstance(outcome(rng.randbytes(rng.randrange(400))), TransportError)


def test_mutated_streams_with_correct_checksums_never_raise_anything_else():
    archive = zipfile.ZipFile(io.BytesIO(saved(PLAIN)))
    stream = archive.read("archive/data.pkl")
    storages = {str(i): archive.read(f"archive/data/{i}") for i in range(3)}
    rng = random.Random(2)
    read_ones = 0
    for _ in range(500):
        mutated = bytearray(stream)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(mutated))
            match rng.randrange(3):
                case 0:
                    mutated[place] = rng.randrange(256)
                case 1:
                    del mutated[place]
                case _:
                    mutated.insert(place, rng.choice(b"(tR.Qsuae]})\x85\x86\x87h\x00q\x01K\x8aNc0"))
        read_ones += not isinstance(outcome(with_pickle(bytes(mutated), storages)), TransportError)
    assert read_ones < 500


@pytest.mark.parametrize("shape", [(2**40, 2**40, 0), (0, 2**61, 4), (2**61, 0, 4)])
def test_an_empty_tensor_of_an_impossible_shape_is_refused(shape: tuple[int, ...]):
    strides = b"".join(b"\x8a\x08" + struct.pack("<q", 1) for _ in shape)
    lengths = b"".join(b"\x8a\x08" + struct.pack("<q", length) for length in shape)
    stream = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x00tQK\x00"
        + (b"(" + lengths + b"t" + b"(" + strides + b"t")
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )
    with pytest.raises(TransportError, match="cannot exist"):
        read(with_pickle(stream, {"0": b""}))


@pytest.mark.parametrize("opcode", [b"}", b"]", b"(", b")", b"N", b"](", b"}q\x00"])
def test_a_description_of_many_objects_takes_little_memory(opcode: bytes):
    """16 MiB of `}` would be a gigabyte of dicts."""
    message = bytearray(with_pickle(b"\x80\x02" + opcode * (2**20 // len(opcode))))
    tracemalloc.start()
    with pytest.raises(TransportError, match=r"steps|once|more than it put|ends early"):
        read_archive(message, max_tensors=64, max_pickle_bytes=2**24)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * len(message) + 2**20
