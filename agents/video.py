"""Games as video files."""

import contextlib
import itertools
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from rmc_rl.files import replacing
from rmc_rl.policies import RecurrentPolicy

from .watch import Scene, cut, pace, watch

SMALLEST_SIDE = 480
"""Frames with shorter sides, in pixels, are enlarged by a whole factor up to this one."""
END_SECONDS = 1.0
"""How long the end of an episode stays in the picture."""
GIF_FPS = 50
"""Viewers show gifs of more frames per second slowly; they get fewer frames instead."""

EVEN = "pad=ceil(iw/2)*2:ceil(ih/2)*2"  # the colours have half the resolution
PALETTE = "split[frame][copy];[copy]palettegen=stats_mode=single[palette];[frame][palette]paletteuse=new=1:dither=none"
FORMATS = {
    ".mp4": (EVEN, ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-movflags", "+faststart"]),
    ".gif": (f"fps=min(source_fps\\,{GIF_FPS}),{PALETTE}", ["-loop", "0"]),
}
"""Of each suffix: ffmpeg's filter and options."""


class VideoError(ValueError):
    """A video that cannot be written; one line that names the file."""


def record_policy(
    policy: RecurrentPolicy,
    env: VecEnv,
    path: str | Path,
    seed: int,
    *,
    episodes: int = 1,
    seconds: float | None = None,
    deterministic: bool = False,
) -> list[Scene]:
    """Record an agent's games at the environment's own pace, without touching anyone else's random numbers.

    Args:
        policy: who plays.
        env: made by `agents.watch.make_watched_env`.
        path: the video, `.mp4` or `.gif`.
        seed: of the games and the sampled actions.
        episodes: how many games.
        seconds: length after which the video is cut; None for all of every game.
        deterministic: the most likely actions instead of sampled ones.

    Returns:
        Each game's last scene: its return, level and length.

    Raises:
        ValueError: the environment's spaces are not the policy's, or it draws no frames.
        VideoError: the file cannot be written.
    """
    fps = pace(env)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        scenes = watch(policy, env, seed, deterministic)
        return record(path, cut(scenes, episodes, video_length(seconds, fps)), fps)


def video_length(seconds: float | None, fps: float) -> int | None:
    """Frames, at least one; None for no limit."""
    return None if seconds is None else max(1, round(seconds * fps))


def record(path: str | Path, scenes: Iterable[Scene], fps: float) -> list[Scene]:
    """Write scenes to a video, each game's end held for a moment; returns each game's last scene.

    Raises:
        VideoError: as `write_video`.
    """
    last: dict[int, Scene] = {}

    def frames() -> Iterator[NDArray[np.uint8]]:
        for scene in scenes:
            last[scene.episode] = scene
            yield from itertools.repeat(scene.frame, 1 + round(END_SECONDS * fps) if scene.ended else 1)

    write_video(path, frames(), fps)
    return list(last.values())


def write_video(path: str | Path, frames: Iterable[NDArray[np.uint8]], fps: float) -> None:
    """Write frames, uint8 [height, width, 3] and all of one size, to an `.mp4` or `.gif`: whole or not at all.

    Frames are encoded as they come, so that a video of any length takes little memory. Small ones are enlarged without
    blurring, and gifs get a palette for each frame.

    Raises:
        VideoError: another suffix, no frames, frames of other shapes, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise VideoError(f"a video's name must end in {' or '.join(FORMATS)}, got {path}")
    try:
        with replacing(path) as file:  # opened before the first frame, which may take long to come
            _encode(file.name, path.suffix, iter(frames), fps)
    except OSError as error:
        raise VideoError(f"cannot write {path}: {error.strerror or error}") from error


def _encode(path: str, suffix: str, frames: Iterator[NDArray[np.uint8]], fps: float) -> None:
    """Pipe frames into ffmpeg, one by one."""
    first = next(frames, None)
    if first is None:
        raise VideoError("a video needs at least one frame, got none")
    _check_frame(first, (*first.shape[:2], 3))
    with tempfile.TemporaryFile("w+") as log:
        with subprocess.Popen(_command(path, suffix, first.shape, fps), stdin=subprocess.PIPE, stderr=log) as ffmpeg:
            try:
                _feed(ffmpeg, itertools.chain([first], frames), first.shape)
            except BaseException:
                ffmpeg.kill()
                raise
        if ffmpeg.returncode:
            log.seek(0)
            raise OSError(log.readline().rpartition("] ")[2].strip() or f"ffmpeg ended with status {ffmpeg.returncode}")


def _feed(ffmpeg: subprocess.Popen[bytes], frames: Iterable[NDArray[np.uint8]], shape: tuple[int, ...]) -> None:
    assert ffmpeg.stdin is not None
    with contextlib.suppress(BrokenPipeError), ffmpeg.stdin:  # a broken pipe: ffmpeg gave up, and its log says why
        for frame in frames:
            _check_frame(frame, shape)
            ffmpeg.stdin.write(frame.tobytes())


def _check_frame(frame: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
    if frame.shape != shape or frame.dtype != np.uint8:
        raise VideoError(f"frames must be uint8 of shape {shape}, got {frame.dtype} of shape {frame.shape}")


def _command(path: str, suffix: str, shape: tuple[int, ...], fps: float) -> list[str]:
    # Loaded when first used: what only trains needs no ffmpeg.
    from imageio_ffmpeg import get_ffmpeg_exe

    height, width = shape[:2]
    scale = max(1, SMALLEST_SIDE // min(height, width))
    filters, options = FORMATS[suffix]
    return [
        *(get_ffmpeg_exe(), "-v", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"),
        *("-vf", f"scale=iw*{scale}:ih*{scale}:flags=neighbor,{filters}", *options, "-f", suffix[1:], path),
    ]
