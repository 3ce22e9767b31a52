"""Videos: what is shown is what was recorded, and a file is whole or not there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from agents import video
from agents.video import VideoError, record, record_policy, write_video
from agents.watch import Scene, make_watched_env
from rmc_rl.policies import GRUPolicy

Frame = NDArray[np.uint8]
COLORS = [(255, 214, 10), (255, 71, 87), (18, 22, 62), (74, 105, 255), (240, 242, 255)]


def make_frames(height: int, width: int, count: int = 7) -> list[Frame]:
    """Blocks of the colours, shifted by one colour from frame to frame."""
    columns = np.arange(width) * len(COLORS) // width
    return [np.tile(np.array(COLORS, np.uint8)[(columns + i) % len(COLORS)], (height, 1, 1)) for i in range(count)]


def read_mp4(path: Path) -> tuple[str, list[Frame]]:
    """What ffmpeg says of the video stream, and the frames."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    output = subprocess.run(command, capture_output=True, check=True)
    stream = next(line for line in output.stderr.decode().splitlines() if "Video:" in line)
    size = re.search(r"\b([1-9]\d*)x(\d+)\b", stream)
    assert size
    width, height = map(int, size.groups())
    return stream, list(np.frombuffer(output.stdout, np.uint8).reshape(-1, height, width, 3))


def distance(frame: Frame, expected: Frame) -> float:
    """The mean difference of colour values, counted from the corner of `expected`."""
    height, width = expected.shape[:2]
    return float(np.abs(frame[:height, :width].astype(int) - expected).mean())


def test_gifs_are_not_dithered(tmp_path: Path) -> None:
    """A shade that the palette lacks becomes another one, not a pattern of two."""
    columns = np.random.default_rng(0).integers(256, size=(600, 3), dtype=np.uint8)
    write_video(tmp_path / "video.gif", [np.tile(columns, (480, 1, 1))], fps=8)
    with Image.open(tmp_path / "video.gif") as image:
        shown = np.asarray(image.convert("RGB"))
    assert (shown == shown[0]).all()


@pytest.mark.parametrize(("height", "width"), [(481, 603), (528, 608), (15, 19)])
def test_mp4_shows_the_frames_in_a_form_that_every_player_takes(tmp_path: Path, height: int, width: int) -> None:
    """Odd sides get a line more, no frame is resized smoothly, small ones are enlarged by a whole factor."""
    frames = make_frames(height, width)
    write_video(tmp_path / "video.mp4", frames, fps=8)
    stream, shown = read_mp4(tmp_path / "video.mp4")
    assert all(word in stream for word in ("h264", "yuv420p", " 8 fps"))
    scale = max(1, 480 // min(height, width))
    assert shown[0].shape == (height * scale + height * scale % 2, width * scale + width * scale % 2, 3)
    assert len(shown) == len(frames)
    for frame, expected in zip(shown, frames, strict=True):
        assert distance(frame, expected.repeat(scale, 0).repeat(scale, 1)) < 3


def test_gif_colours_are_crisp(tmp_path: Path) -> None:
    """No dithering, no palette that is shared with other frames."""
    frames = make_frames(481, 603)
    write_video(tmp_path / "video.gif", frames, fps=8)
    with Image.open(tmp_path / "video.gif") as image:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        assert image.info["loop"] == 0
        assert image.info["duration"] in (120, 130)
    assert len(shown) == len(frames)
    for frame, expected in zip(shown, frames, strict=True):
        assert np.abs(frame.astype(int) - expected).max() <= 2


def test_a_fast_gif_drops_frames_and_keeps_its_speed(tmp_path: Path) -> None:
    """Viewers slow gifs down that want more than 50 frames a second."""
    write_video(tmp_path / "video.gif", make_frames(480, 480, count=40), fps=100)
    with Image.open(tmp_path / "video.gif") as image:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert set(durations) == {20}
    assert sum(durations) == 400


def broken_off() -> Iterator[Frame]:
    yield from make_frames(20, 20, count=3)
    raise KeyboardInterrupt


def test_a_recording_that_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    path.write_text("an older video")
    with pytest.raises(KeyboardInterrupt):
        write_video(path, broken_off(), fps=8)
    assert path.read_text() == "an older video"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        ("video.avi", make_frames(8, 8), r"must end in \.mp4 or \.gif, got .*video\.avi"),
        ("nowhere/video.mp4", make_frames(8, 8), r"cannot write .*nowhere.video\.mp4: No such file"),
        ("video.mp4", [], "at least one frame"),
        ("video.mp4", [*make_frames(8, 8), *make_frames(8, 9)], r"shape \(8, 8, 3\), got uint8 of shape \(8, 9, 3\)"),
        ("video.gif", [np.zeros((8, 8, 4), np.uint8)], r"shape \(8, 8, 3\), got uint8 of shape \(8, 8, 4\)"),
        ("video.gif", [np.zeros((8, 8, 3))], "got float64"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, frames: list[Frame], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        write_video(tmp_path / name, frames, fps=8)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, say: the file must not appear half-written."""
    monkeypatch.setitem(video.FORMATS, ".mp4", ("null", ["-c:v", "no_such_codec"]))
    with pytest.raises(VideoError, match=r"cannot write .*video\.mp4: .*no_such_codec"):
        write_video(tmp_path / "video.mp4", make_frames(64, 64, count=50), fps=8)
    assert not list(tmp_path.iterdir())


def test_the_end_of_a_game_stays_for_a_second(tmp_path: Path) -> None:
    frames = make_frames(480, 480, count=5)
    ends = [False, True, False, False, False]
    scenes = [
        Scene(frame, 1 + (i > 1), i, i, None, end) for i, (frame, end) in enumerate(zip(frames, ends, strict=True))
    ]
    assert record(tmp_path / "video.mp4", scenes, fps=6) == [scenes[1], scenes[4]]
    _, shown = read_mp4(tmp_path / "video.mp4")
    order = [0] + [1] * 7 + [2, 3, 4]
    assert len(shown) == len(order)
    assert all(distance(frame, frames[i]) < 3 for frame, i in zip(shown, order, strict=True))


def test_record_policy_is_cut_reproducible_and_leaves_training_alone(tmp_path: Path) -> None:
    env = make_watched_env("envs:MiniPacman-v0", {"observation": "planes"}, previous_action_reward=True)
    policy = GRUPolicy(env.observation_space, env.action_space, core_kwargs={"hidden_size": 6})
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = record_policy(policy, env, tmp_path / "first.mp4", seed=7, seconds=1)
    assert torch.rand(3).equal(expected)
    second = record_policy(policy, env, tmp_path / "second.mp4", seed=7, seconds=1)
    assert len(first) == len(second) == 1
    assert first[0].step == 7, "8 frames a second, the first of them before any step"
    assert (tmp_path / "first.mp4").read_bytes() == (tmp_path / "second.mp4").read_bytes()
