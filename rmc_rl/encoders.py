"""Encoders: from one observation to one vector of features, as Stable-Baselines3 features extractors."""

from collections.abc import Iterable
from typing import Any, Literal, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import Tensor, nn

from .checkpoint import one_line
from .spaces import check_observation_space

Channels = Literal["auto", "first", "last"]

SMALLEST_GRID, LARGEST_GRID = 3, 40
"""Height and width between which an image counts as small: GridEncoder keeps every pixel."""
SMALLEST_NATURE = 36
"""Height and width of which NatureCNN's convolutions leave a single place."""


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
        self.channels, num_channels, height, width = _image_sides(observation_space, channels, type(self).__name__)
        if not SMALLEST_GRID <= min(height, width) <= max(height, width) <= LARGEST_GRID:
            raise ValueError(
                f"GridEncoder takes images from {SMALLEST_GRID} x {SMALLEST_GRID} to {LARGEST_GRID} x {LARGEST_GRID} "
                f"pixels, got {height} x {width} (channels {self.channels})"
            )
        super().__init__(observation_space, features_dim=26 * (height - 2) * (width - 2))
        self.convolutions = nn.Sequential(nn.Conv2d(num_channels, 12, 2), nn.ReLU(), nn.Conv2d(12, 24, 2), nn.ReLU())
        y, x = torch.meshgrid(torch.linspace(-1, 1, height - 2), torch.linspace(-1, 1, width - 2), indexing="ij")
        self.coordinates: Tensor
        self.register_buffer("coordinates", torch.stack([x, y]), persistent=False)  # [2, H - 2, W - 2]

    def forward(self, observations: Tensor) -> Tensor:
        """observations [N, C, H, W] or [N, H, W, C], as the space says -> features [N, features_dim]."""
        from .cores.native import path_here  # only now: the compiler behind it takes its time to import

        # By name: `parameters()` searches all modules, which takes half as long as what follows in an actor's step.
        first, _, second, _ = cast(Iterable[Any], self.convolutions)
        constants, parameters = self.coordinates.flatten(), (first.weight, first.bias, second.weight, second.bias)
        if observations.requires_grad or path_here(observations, constants, *parameters) == "loop":
            pixels = self.convolutions(_channels_first(observations, self.channels)).flatten(1)
            rows = pixels.shape[0]  # len() would be a constant to torch.export
            return torch.cat([pixels, constants.expand(rows, -1)], dim=1)
        if observations.shape[1:] != self._observation_space.shape:  # compiled code would read other memory
            raise ValueError(
                f"observations must be [N, *shape of the space], here [N, *{self._observation_space.shape}], "
                f"got {list(observations.shape)}"
            )
        from .cores.grid_convolutions import convolve

        return convolve(observations, self.channels, constants, *parameters)


class NatureEncoder(BaseFeaturesExtractor):
    """Large images: Stable-Baselines3's NatureCNN, the three convolutions of Mnih et al. 2015 and a layer of 512 units.

    Args:
        observation_space: a Box of three dimensions, of at least 36 x 36 pixels.
        channels: as for `GridEncoder`.

    Raises:
        ValueError: another space, an image too small, or `"auto"` where both ends would do.
    """

    def __init__(self, observation_space: spaces.Space[Any], channels: Channels = "auto") -> None:
        self.channels, *shape = _image_sides(observation_space, channels, type(self).__name__)
        _, height, width = shape
        if min(height, width) < SMALLEST_NATURE:
            raise ValueError(
                f"NatureEncoder takes images of at least {SMALLEST_NATURE} x {SMALLEST_NATURE} pixels, "
                f"got {height} x {width} (channels {self.channels})"
            )
        super().__init__(observation_space, features_dim=512)
        self.cnn = NatureCNN(spaces.Box(0, 1, shape, np.float32), self.features_dim, normalized_image=True)

    def forward(self, observations: Tensor) -> Tensor:
        """observations [N, C, H, W] or [N, H, W, C], as the space says -> features [N, 512]."""
        return cast(Tensor, self.cnn(_channels_first(observations, self.channels)))


class ResNetEncoder(BaseFeaturesExtractor):
    """Images of any size: the deep residual network of IMPALA (Espeholt et al. 2018, arXiv 1802.01561, figure 3).

    Three sections of 16, 32 and 32 channels, each a 3 x 3 convolution, 3 x 3 max pooling with stride 2 and two residual
    blocks; 15 convolutions in all. The paper's layer of 256 units after them is the network's embedding.
    Features: [N, 32 * (H / 8) * (W / 8)], rounded up.

    Args:
        observation_space: a Box of three dimensions.
        channels: as for `GridEncoder`.

    Raises:
        ValueError: another space, or `"auto"` where both ends would do.
    """

    def __init__(self, observation_space: spaces.Space[Any], channels: Channels = "auto") -> None:
        self.channels, num_channels, height, width = _image_sides(observation_space, channels, type(self).__name__)
        super().__init__(observation_space, features_dim=32 * -(-height // 8) * -(-width // 8))
        layers: list[nn.Module] = []
        for num_in, num_out in ((num_channels, 16), (16, 32), (32, 32)):
            layers += [nn.Conv2d(num_in, num_out, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [ResidualBlock(num_out), ResidualBlock(num_out)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())

    def forward(self, observations: Tensor) -> Tensor:
        """observations [N, C, H, W] or [N, H, W, C], as the space says -> features [N, features_dim]."""
        return cast(Tensor, self.layers(_channels_first(observations, self.channels)))


class ResidualBlock(nn.Module):
    """x [N, C, H, W] -> x + what two 3 x 3 convolutions, each after a ReLU, make of it."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(num_channels, num_channels, 3, padding=1) for _ in range(2)]
        self.layers = nn.Sequential(nn.ReLU(), convolutions[0], nn.ReLU(), convolutions[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.layers(x))


class FlatEncoder(BaseFeaturesExtractor):
    """Vectors and discrete values (one-hot): flattened and otherwise as they are, [N, size of the space]."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space, features_dim=get_flattened_obs_dim(observation_space))

    def forward(self, observations: Tensor) -> Tensor:
        return observations.reshape(observations.shape[0], -1)


class DictEncoder(BaseFeaturesExtractor):
    """Dict observations: each part through its own encoder, the features concatenated in the order of the keys."""

    def __init__(self, observation_space: spaces.Dict, encoder: str = "auto", **encoder_kwargs: Any) -> None:
        has_image = any(map(_is_image, observation_space.values()))
        if not has_image and (encoder in IMAGE_ENCODERS or (encoder == "auto" and encoder_kwargs)):
            raise ValueError(
                f"encoder {encoder!r} and its arguments {encoder_kwargs} need an image in the Dict, a Box of three "
                f"dimensions, got {one_line(observation_space)}"
            )
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


IMAGE_ENCODERS: dict[str, type[BaseFeaturesExtractor]] = {
    "grid": GridEncoder,
    "nature": NatureEncoder,
    "resnet": ResNetEncoder,
}
ENCODERS: dict[str, type[BaseFeaturesExtractor]] = {**IMAGE_ENCODERS, "flat": FlatEncoder}


def make_encoder(space: spaces.Space[Any], encoder: str = "auto", **encoder_kwargs: Any) -> BaseFeaturesExtractor:
    """The encoder called `encoder` for observations in `space`; a Dict's image parts get it, its other parts are flat.

    Args:
        space: Box, Discrete, MultiDiscrete of one dimension, MultiBinary, or a Dict of these.
        encoder: a key of ENCODERS, or `"auto"`, which goes by the size of images (a Box of three dimensions): `"grid"`
            up to 40 x 40, `"nature"` above, `"resnet"` for those above whose shorter side `"nature"` cannot take, and
            `"flat"` below 3 x 3; what is no image is `"flat"`.
        encoder_kwargs: passed to that encoder.

    Raises:
        ValueError: an unknown encoder, a space it cannot take, or an argument's value that it rejects.
        TypeError: the encoder has no such argument.
    """
    if encoder not in ("auto", *ENCODERS):
        raise ValueError(f"encoder must be one of {['auto', *ENCODERS]}, got {encoder!r}")
    check_observation_space(space)
    if isinstance(space, spaces.Dict):
        return DictEncoder(space, encoder, **encoder_kwargs)
    if encoder == "auto":
        encoder = _fitting_encoder(space, encoder_kwargs.get("channels", "auto"))
    return ENCODERS[encoder](space, **encoder_kwargs)


def _fitting_encoder(space: spaces.Space[Any], channels: Channels) -> str:
    if not _is_image(space):
        return "flat"
    _, _, height, width = _image_sides(space, channels, "auto")
    if min(height, width) < SMALLEST_GRID:
        return "flat"
    if max(height, width) <= LARGEST_GRID:
        return "grid"
    return "nature" if min(height, width) >= SMALLEST_NATURE else "resnet"


def _is_image(space: spaces.Space[Any]) -> bool:
    return isinstance(space, spaces.Box) and len(space.shape) == 3


def _image_sides(
    space: spaces.Space[Any], channels: Channels, encoder: str
) -> tuple[Literal["first", "last"], int, int, int]:
    """Where an image's channels are, and their number, its height and its width."""
    if not _is_image(space):
        raise ValueError(f"{encoder} takes images, a Box of three dimensions, got {one_line(space)}")
    shape = cast(tuple[int, int, int], space.shape)
    place = _find_channels(shape, channels)
    return ("first", *shape) if place == "first" else ("last", shape[2], *shape[:2])


def _find_channels(shape: tuple[int, int, int], channels: Channels) -> Literal["first", "last"]:
    if channels == "first" or channels == "last":
        return channels
    if channels != "auto":
        raise ValueError(f"channels must be 'auto', 'first' or 'last', got {channels!r}")
    first, middle, last = shape
    if first == last:
        raise ValueError(f"channels='auto' cannot tell the channels in shape {shape}: say 'first' or 'last'")
    if first == middle:
        return "last"
    if middle == last:
        return "first"
    return "last" if last < first else "first"


def _channels_first(observations: Tensor, channels: Literal["first", "last"]) -> Tensor:
    """[N, C, H, W]."""
    return observations.movedim(-1, 1) if channels == "last" else observations
