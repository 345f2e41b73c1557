"""Videos and frames: written small enough to travel, and looked at before they count as evidence.

Owns the H.264 file, its first-frame picture and the check that a frame is not blank. Refuses to
know where frames come from. Read `pirl.audit.pictures` next.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8

from pirl.errors import EvidenceError
from pirl.files import require_space, writing

MIN_WIDTH = 480
"""Pixels; smaller videos are unreadable in a browser."""

_PNG = b"\x89PNG\r\n\x1a\n"

type Frame = UInt8[np.ndarray[Any, Any], "h w 3"]
"""Red, green, blue, 0 to 255."""

BLANK_SPREAD = 1.0
"""Largest std of the pixel values (0 to 255) of a frame that counts as blank."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What a decoded video shows."""

    width: int
    height: int
    frames: int
    spread: float
    """Smallest std of the pixel values over the decoded frames, 0 to 255."""


def inside(name: str) -> Path:
    """`name` as a relative path that stays in the bundle.

    Raises:
        EvidenceError: the path is absolute or climbs out.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise EvidenceError(f"path {name!r} is not inside the bundle")
    return Path(path)


def spread(pixels: npt.ArrayLike) -> float:
    """Std of pixel values, 0 to 255."""
    return float(np.asarray(pixels, dtype=np.float64).std())


def write_video(path: Path, frames: Sequence[Frame], *, fps: int) -> Clip:
    """Write `frames` as H.264 and the first one as PNG beside it (`<name>.png`).

    Args:
        path: an `.mp4` file; overwritten.
        frames: two or more, all of one size. Enlarged by a whole factor (nearest neighbour) to at
            least `MIN_WIDTH` pixels; nothing is smoothed.
        fps: frames per second.

    Raises:
        EvidenceError: fewer than two frames, unequal frames, a blank first frame.
        EnvironmentNotReadyError: it cannot be written, or there is no room for it.
    """
    if len(frames) < 2:
        raise EvidenceError(f"{len(frames)} frames are not a video")
    shape = frames[0].shape
    if any(f.shape != shape or f.dtype != np.uint8 or f.ndim != 3 for f in frames):
        raise EvidenceError("frames must be uint8 [h, w, 3] and all of one size")
    if spread(frames[0]) <= BLANK_SPREAD:
        raise EvidenceError("the first frame is blank; check the rendering back end (MUJOCO_GL)")
    factor = -(-MIN_WIDTH // shape[1])
    enlarged = [_even(np.kron(f, np.ones((factor, factor, 1), dtype=np.uint8))) for f in frames]
    # ffmpeg does not say why it stopped; compressed, the frames take far less than this.
    require_space(path, sum(f.nbytes for f in enlarged) // 4, what="a video", fix="record fewer")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _encode(path, enlarged, fps=fps)
        write_png(path.with_suffix(".png"), enlarged[0])
    return inspect_video(path)


def _even(frame: Frame) -> Frame:
    """4:2:0 chroma needs even sides; an odd last row or column is repeated."""
    return np.pad(frame, ((0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)), mode="edge")


def _ffmpeg() -> Any:
    """Imageio's ffmpeg, started without code of ours between fork and exec.

    There it would leave our process group, and gRPC's own fork handlers would run: in a process with a server
    they write to the pipes that ffmpeg is to have.
    """
    os.environ["IMAGEIO_FFMPEG_NO_PREVENT_SIGINT"] = "1"
    import imageio_ffmpeg

    return imageio_ffmpeg


def _encode(path: Path, frames: Sequence[Frame], *, fps: int) -> None:
    height, width = frames[0].shape[:2]
    writer = _ffmpeg().write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        # Bit-exact output and no metadata: the file must not carry dates or version strings.
        output_params=["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    finally:
        writer.close()


def write_png(path: Path, frame: Frame) -> None:
    """Write a uint8 [h, w, 3] frame as PNG."""
    from PIL import Image

    Image.fromarray(frame).save(path, format="PNG")


def is_png(data: bytes) -> bool:
    """Whether the bytes are a PNG and nothing else: signature, chunks with their check sums, and the end."""
    at, kind, kinds = len(_PNG), b"", list[bytes]()
    while data.startswith(_PNG) and at + 12 <= len(data) and kind != b"IEND":
        size = int.from_bytes(data[at : at + 4])
        kind, end = data[at + 4 : at + 8], at + 8 + size
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        kinds.append(kind)
        at = end + 4
    return kinds[:1] == [b"IHDR"] and kind == b"IEND" and at == len(data)


def inspect_video(path: Path) -> Clip:
    """Decode a video and look at every frame.

    Raises:
        EvidenceError: the file cannot be decoded.
    """
    try:
        reader = _ffmpeg().read_frames(str(path), pix_fmt="gray", bits_per_pixel=8)
        width, height = next(reader)["size"]
        spreads = [spread(np.frombuffer(data, dtype=np.uint8)) for data in reader]
    except (OSError, RuntimeError, StopIteration) as error:
        raise EvidenceError(f"{path.name} is not a video that can be decoded") from error
    smallest = min(spreads, default=0.0)
    return Clip(width=width, height=height, frames=len(spreads), spread=smallest)
