"""Encoders: from one observation to one vector of features, as Stable-Baselines3 features extractors."""

from typing import Any, Literal, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

Channels = Literal["auto", "first", "last"]

LARGEST_GRID = 40
"""Height and width up to which an image counts as small: GridEncoder keeps every pixel."""


class GridEncoder(BaseFeaturesExtractor):
    """Small images: two convolutions (12 and 24 kernels, 2 x 2, stride 1, ReLU), then x and y in [-1, 1] appended.

    The convolutions and the coordinates are those of the agent in Santoro et al. 2018 (arXiv 1806.01822, section 4.2).
    Features: [N, (24 + 2) * (H - 2) * (W - 2)], flattened channel by channel.

    Args:
        observation_space: a Box of three dimensions, from 3 x 3 to 40 x 40 pixels.
        channels: where the channels are: `"first"`, `"last"` or `"auto"`: of the two ends, the one that leaves a
            square image, else the smaller one.

    Raises:
        ValueError: another space, an image too small or too large, or `"auto"` where both ends would do.
    """

    def __init__(self, observation_space: spaces.Space[Any], channels: Channels = "auto") -> None:
        self.channels = _find_channels(observation_space, channels)
        shape = cast(tuple[int, int, int], observation_space.shape)
        num_channels, height, width = shape if self.channels == "first" else (shape[2], *shape[:2])
        if not 3 <= min(height, width) <= max(height, width) <= LARGEST_GRID:
            raise ValueError(
                f"GridEncoder takes images from 3 x 3 to {LARGEST_GRID} x {LARGEST_GRID} pixels, "
                f"got {height} x {width} (channels {self.channels})"
            )
        super().__init__(observation_space, features_dim=26 * (height - 2) * (width - 2))
        self.convolutions = nn.Sequential(nn.Conv2d(num_channels, 12, 2), nn.ReLU(), nn.Conv2d(12, 24, 2), nn.ReLU())
        y, x = torch.meshgrid(torch.linspace(-1, 1, height - 2), torch.linspace(-1, 1, width - 2), indexing="ij")
        self.coordinates: Tensor
        self.register_buffer("coordinates", torch.stack([x, y]), persistent=False)  # [2, H - 2, W - 2]

    def forward(self, observations: Tensor) -> Tensor:
        """observations [N, C, H, W] or [N, H, W, C], as the space says -> features [N, features_dim]."""
        if self.channels == "last":
            observations = observations.movedim(-1, 1)
        pixels = self.convolutions(observations)  # [N, 24, H - 2, W - 2]
        coordinates = self.coordinates.expand(len(pixels), -1, -1, -1)
        return torch.cat([pixels, coordinates], dim=1).flatten(1)


class FlatEncoder(BaseFeaturesExtractor):
    """Vectors and discrete values (one-hot): flattened and otherwise as they are, [N, size of the space]."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, features_dim=get_flattened_obs_dim(observation_space))

    def forward(self, observations: Tensor) -> Tensor:
        return observations.reshape(len(observations), -1)


class DictEncoder(BaseFeaturesExtractor):
    """Dict observations: each part through its own encoder, the features concatenated in the order of the keys."""

    def __init__(self, observation_space: spaces.Dict, encoder: str = "auto", **encoder_kwargs: Any) -> None:
        for space in observation_space.values():
            _check_space(space)
        has_image = any(map(_is_image, observation_space.values()))
        if not has_image and (encoder == "grid" or (encoder == "auto" and encoder_kwargs)):
            raise ValueError(f"encoder 'grid' and its arguments need an image in the Dict, got {observation_space}")
        encoders = {
            key: make_encoder(space, encoder, **encoder_kwargs)
            if _is_image(space) or encoder == "flat"
            else FlatEncoder(space)
            for key, space in observation_space.items()
        }
        super().__init__(observation_space, features_dim=sum(part.features_dim for part in encoders.values()))
        self.keys = list(encoders)
        self.encoders = nn.ModuleList(encoders.values())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        parts = [encoder(observations[key]) for key, encoder in zip(self.keys, self.encoders, strict=True)]
        return torch.cat(parts, dim=1)


ENCODERS: dict[str, type[BaseFeaturesExtractor]] = {"grid": GridEncoder, "flat": FlatEncoder}


def make_encoder(space: spaces.Space[Any], encoder: str = "auto", **encoder_kwargs: Any) -> BaseFeaturesExtractor:
    """The encoder called `encoder` for observations in `space`; a Dict's image parts get it, its other parts are flat.

    Args:
        space: Box, Discrete, MultiDiscrete of one dimension, MultiBinary, or a Dict of these.
        encoder: a key of ENCODERS, or `"auto"`: `"grid"` for images (a Box of three dimensions), `"flat"` otherwise.
        encoder_kwargs: passed to that encoder.

    Raises:
        ValueError: an unknown encoder, a space it cannot take, or an argument's value that it rejects.
        TypeError: the encoder has no such argument.
    """
    if encoder not in ("auto", *ENCODERS):
        raise ValueError(f"encoder must be one of {['auto', *ENCODERS]}, got {encoder!r}")
    if isinstance(space, spaces.Dict) and space.spaces:
        return DictEncoder(space, encoder, **encoder_kwargs)
    _check_space(space)
    if encoder == "auto":
        encoder = "grid" if _is_image(space) else "flat"
    return ENCODERS[encoder](space, **encoder_kwargs)


def _check_space(space: spaces.Space[Any]) -> None:
    """Raise a ValueError that says what to do, unless one encoder can take the space."""
    taken = isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
    if not taken or (isinstance(space, spaces.MultiDiscrete) and len(space.shape) != 1):
        raise ValueError(
            "observation_space must be Box, Discrete, MultiDiscrete of one dimension, MultiBinary or a flat Dict of "
            f"these, got {space}; gymnasium.wrappers.FlattenObservation turns any other into a Box"
        )


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _find_channels(space: spaces.Space[Any], channels: Channels) -> Literal["first", "last"]:
    if not _is_image(space):
        raise ValueError(f"GridEncoder takes a Box of three dimensions, got {space}")
    if channels == "first" or channels == "last":
        return channels
    if channels != "auto":
        raise ValueError(f"channels must be 'auto', 'first' or 'last', got {channels!r}")
    first, middle, last = cast(tuple[int, int, int], space.shape)
    if first == last:
        raise ValueError(f"channels='auto' cannot tell the channels in shape {space.shape}: say 'first' or 'last'")
    if first == middle:
        return "last"
    if middle == last:
        return "first"
    return "last" if last < first else "first"
