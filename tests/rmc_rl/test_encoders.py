"""Encoders: which channels they see, what they compute, and which observations they take."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import preprocess_obs

from rmc_rl.encoders import DictEncoder, FlatEncoder, GridEncoder, NatureEncoder, ResNetEncoder, make_encoder
from rmc_rl.network import RecurrentActorCritic


def image(*shape: int, dtype: Any = np.uint8, high: float = 255) -> spaces.Box:
    return spaces.Box(0, high, shape, dtype)


@pytest.mark.parametrize(
    ("shape", "channels"),
    [
        ((5, 5, 6), "last"),  # square images: the end that leaves one
        ((6, 5, 5), "first"),
        ((5, 5, 3), "last"),
        ((3, 5, 5), "first"),
        ((5, 5, 19), "last"),
        ((19, 5, 5), "first"),
        ((15, 19, 6), "last"),  # others: the smaller end
        ((6, 15, 19), "first"),
        ((19, 15, 3), "last"),
        ((3, 19, 15), "first"),
    ],
)
def test_channels_are_found(shape: tuple[int, ...], channels: str) -> None:
    encoder = GridEncoder(image(*shape))
    assert encoder.channels == channels
    num_channels = shape[0] if channels == "first" else shape[2]
    height, width = shape[1:] if channels == "first" else shape[:2]
    assert encoder.convolutions[0].in_channels == num_channels
    assert encoder.features_dim == 26 * (height - 2) * (width - 2)
    assert encoder(torch.rand(4, *shape)).shape == (4, encoder.features_dim)


@pytest.mark.parametrize("shape", [(5, 5, 5), (5, 7, 5)])
def test_ambiguous_channels_must_be_said(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"cannot tell the channels in shape \(5, ., 5\): say 'first' or 'last'"):
        GridEncoder(image(*shape))
    assert GridEncoder(image(*shape), channels="first").channels == "first"
    assert GridEncoder(image(*shape), channels="last").channels == "last"


def test_what_is_said_goes_before_what_is_found() -> None:
    encoder = GridEncoder(image(5, 5, 6), channels="first")
    assert encoder.convolutions[0].in_channels == 5
    assert encoder.features_dim == 26 * 3 * 4


def test_first_and_last_see_the_same() -> None:
    """The same pixels give the same numbers wherever the channels stand: nothing is transposed on the way."""
    torch.manual_seed(1)
    last, first = GridEncoder(image(7, 9, 6)), GridEncoder(image(6, 7, 9))
    first.load_state_dict(last.state_dict())
    pixels = torch.rand(4, 7, 9, 6)
    torch.testing.assert_close(last(pixels), first(pixels.permute(0, 3, 1, 2)), rtol=0, atol=1e-6)


def test_coordinates_are_those_of_the_pixels() -> None:
    """x grows to the right and y downwards, from -1 to 1; they come after the 24 maps, in every row of the batch."""
    encoder = GridEncoder(image(6, 8, 3))
    features = encoder(torch.rand(5, 6, 8, 3)).view(5, 26, 4, 6)
    for row in features:
        for i in range(4):
            for j in range(6):
                assert row[24, i, j].item() == pytest.approx(-1 + 2 * j / 5, abs=1e-6)
                assert row[25, i, j].item() == pytest.approx(-1 + 2 * i / 3, abs=1e-6)


def test_maps_are_those_of_the_convolutions() -> None:
    torch.manual_seed(1)
    encoder = GridEncoder(image(3, 6, 8))
    pixels = torch.rand(5, 3, 6, 8)
    maps = encoder(pixels).view(5, 26, 4, 6)[:, :24]
    first, _, second, _ = encoder.convolutions
    assert (first.out_channels, second.out_channels) == (12, 24)
    assert (first.kernel_size, second.kernel_size, first.stride) == ((2, 2), (2, 2), (1, 1))
    torch.testing.assert_close(maps, torch.relu(second(torch.relu(first(pixels)))))


def test_coordinates_follow_the_module_and_are_no_weights() -> None:
    encoder = GridEncoder(image(5, 5, 6))
    assert "coordinates" not in encoder.state_dict()
    assert encoder.double()(torch.rand(2, 5, 5, 6, dtype=torch.float64)).dtype == torch.float64
    assert encoder.to("meta").coordinates.device.type == "meta"


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 5, 1), r"from 3 x 3 to 40 x 40 pixels, got 2 x 5 \(channels last\)"),
        ((5, 2, 1), r"got 5 x 2 \(channels last\)"),
        ((3, 41, 40), r"got 41 x 40 \(channels first\)"),
        ((84, 84, 3), r"got 84 x 84 \(channels last\)"),
        ((5, 5), r"GridEncoder takes images, a Box of three dimensions, got Box"),
        ((2, 5, 5, 3), r"GridEncoder takes images, a Box of three dimensions, got Box"),
    ],
)
def test_other_sizes_are_rejected(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GridEncoder(image(*shape))


@pytest.mark.parametrize("size", [3, 40])
def test_smallest_and_largest_images(size: int) -> None:
    encoder = GridEncoder(image(size, size, 2))
    assert encoder(torch.rand(1, size, size, 2)).isfinite().all()


def test_unknown_channels_are_rejected() -> None:
    with pytest.raises(ValueError, match="channels must be 'auto', 'first' or 'last', got 'middle'"):
        GridEncoder(image(5, 5, 6), channels="middle")  # type: ignore[arg-type]


# Large images

LARGE = pytest.mark.parametrize("kind", [NatureEncoder, ResNetEncoder])


@LARGE
def test_large_images_with_channels_at_either_end(kind: type[NatureEncoder | ResNetEncoder]) -> None:
    """The same pixels give the same numbers, and no pixel's place is mixed up with another's."""
    torch.manual_seed(1)
    last, first = kind(image(37, 44, 3)), kind(image(3, 37, 44))
    first.load_state_dict(last.state_dict())
    pixels = torch.rand(2, 37, 44, 3)
    features = last(pixels)
    assert features.shape == (2, last.features_dim)
    torch.testing.assert_close(features, first(pixels.permute(0, 3, 1, 2)), rtol=0, atol=1e-6)
    assert (last.channels, first.channels) == ("last", "first")
    with pytest.raises(ValueError, match=rf"{kind.__name__} takes images, a Box of three dimensions, got Box"):
        kind(image(50, 50))
    with pytest.raises(ValueError, match=r"cannot tell the channels in shape \(36, 50, 36\): say 'first' or 'last'"):
        kind(image(36, 50, 36))


def test_nature_is_that_of_the_library() -> None:
    """Numbers included; of floats as well, which it takes for what they are."""
    torch.manual_seed(1)
    encoder = NatureEncoder(spaces.Box(-1, 1, (40, 52, 2)), channels="last")
    pixels = torch.rand(3, 40, 52, 2)
    expected = encoder.cnn.linear(encoder.cnn.cnn(pixels.permute(0, 3, 1, 2)))
    assert torch.equal(encoder(pixels), expected)
    assert expected.shape == (3, 512)


def test_resnet_is_the_deep_one_of_the_paper() -> None:
    """Figure 3 (right): 15 convolutions of 16, then 32 channels; sides are halved three times and rounded up."""
    encoder = ResNetEncoder(image(72, 97, 3))
    convolutions = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [16] * 5 + [32] * 10
    assert {(layer.kernel_size, layer.stride) for layer in convolutions} == {((3, 3), (1, 1))}
    assert encoder.features_dim == 32 * 9 * 13
    assert encoder(torch.rand(2, 72, 97, 3)).shape == (2, encoder.features_dim)


def test_a_residual_block_adds_what_its_two_convolutions_make() -> None:
    torch.manual_seed(1)
    block = ResNetEncoder(image(9, 9, 2)).layers[2]
    _, first, _, second = block.layers
    x = torch.randn(3, 16, 5, 4)
    torch.testing.assert_close(block(x), x + second(torch.relu(first(torch.relu(x)))))


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 90, 1), (3, 41, 35)])
def test_resnet_takes_any_size(shape: tuple[int, ...]) -> None:
    encoder = ResNetEncoder(image(*shape))
    assert encoder(torch.rand(2, *shape)).shape == (2, encoder.features_dim)


@pytest.mark.parametrize(("shape", "size"), [((35, 84, 3), "35 x 84"), ((1, 84, 20), "84 x 20")])
def test_images_too_small_for_nature(shape: tuple[int, ...], size: str) -> None:
    with pytest.raises(ValueError, match=rf"NatureEncoder takes images of at least 36 x 36 pixels, got {size} \("):
        NatureEncoder(image(*shape))
    assert NatureEncoder(image(36, 36, 3))(torch.rand(1, 36, 36, 3)).isfinite().all()


@pytest.mark.parametrize("encoder", ["nature", "resnet"])
def test_features_of_large_images_begin_at_a_sane_scale(encoder: str) -> None:
    """And every layer learns from the second update on: at the first, residual blocks are the identity."""
    torch.manual_seed(1)
    network = RecurrentActorCritic(image(64, 61, 3), spaces.Discrete(4), "identity", encoder=encoder)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6)
    pixels, starts = torch.randint(0, 256, (1, 5, 64, 61, 3), dtype=torch.uint8), torch.zeros(1, 5).bool()
    for _ in range(2):
        features = network.encoder(pixels[0] / 255)
        assert 0.2 < features.std() < 2.0
        optimizer.zero_grad()
        network(pixels, (), starts)[0].value.square().sum().backward()
        optimizer.step()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.encoder.parameters())


# make_encoder


@pytest.mark.parametrize(
    ("space", "kind", "size"),
    [
        (image(5, 5, 6), GridEncoder, 26 * 9),
        (image(40, 3, 2), GridEncoder, 26 * 38),
        (image(41, 36, 3), NatureEncoder, 512),
        (image(3, 210, 160), NatureEncoder, 512),
        (image(35, 41, 3), ResNetEncoder, 32 * 5 * 6),
        (image(2, 5, 1), FlatEncoder, 10),
        (spaces.Box(-1, 1, (7,)), FlatEncoder, 7),
        (spaces.Box(-1, 1, (7, 3)), FlatEncoder, 21),
        (spaces.Box(-1, 1, ()), FlatEncoder, 1),
        (spaces.Discrete(5, start=-2), FlatEncoder, 5),
        (spaces.MultiDiscrete([2, 4]), FlatEncoder, 6),
        (spaces.MultiBinary(3), FlatEncoder, 3),
        (spaces.MultiBinary([3, 2]), FlatEncoder, 6),
        (spaces.Dict({"a": image(5, 5, 6), "b": spaces.Discrete(3)}), DictEncoder, 26 * 9 + 3),
    ],
    ids=str,
)
def test_automatic_choice(space: spaces.Space[Any], kind: type, size: int) -> None:
    encoder = make_encoder(space)
    assert type(encoder) is kind
    assert encoder.features_dim == size


def test_flat_keeps_every_number_of_an_image() -> None:
    encoder = make_encoder(image(5, 5, 6), "flat")
    pixels = torch.rand(4, 5, 5, 6)
    assert torch.equal(encoder(pixels), pixels.view(4, 150))


def test_arguments_reach_the_encoder() -> None:
    encoder = make_encoder(image(5, 5, 5), channels="first")
    assert isinstance(encoder, GridEncoder)
    assert encoder.channels == "first"
    inside = make_encoder(spaces.Dict({"view": image(5, 5, 5), "clock": spaces.Discrete(3)}), channels="first")
    assert isinstance(inside, DictEncoder)
    assert inside.encoders[inside.keys.index("view")].channels == "first"


def test_channels_that_are_said_count_for_the_choice_too() -> None:
    assert isinstance(make_encoder(image(41, 36, 36), channels="last"), NatureEncoder)
    assert isinstance(make_encoder(image(41, 36, 36), channels="first"), GridEncoder)


def test_images_of_a_dict_get_what_fits_each() -> None:
    space = spaces.Dict({"camera": image(64, 64, 3), "map": image(7, 7, 2), "speed": spaces.Box(-1, 1, (3,))})
    encoder = make_encoder(space)
    assert isinstance(encoder, DictEncoder)
    kinds = dict(zip(encoder.keys, map(type, encoder.encoders), strict=True))
    assert kinds == {"camera": NatureEncoder, "map": GridEncoder, "speed": FlatEncoder}
    assert [type(part) for part in make_encoder(space, "resnet").encoders] == [
        ResNetEncoder,
        ResNetEncoder,
        FlatEncoder,
    ]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="NatureEncoder takes images of at least 36 x 36 pixels, got 7 x 7"):
        make_encoder(space, "nature")


@pytest.mark.parametrize("keys", ["ab", "ba"])
def test_parts_of_a_dict_are_concatenated_in_the_order_of_the_space(keys: str) -> None:
    """Whatever the order in which an environment fills its observations."""
    parts = {"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3, 2))}
    encoder = make_encoder(spaces.Dict([(key, parts[key]) for key in keys]))
    values = {"a": torch.rand(4, 2), "b": torch.rand(4, 3, 2)}
    expected = torch.cat([values[key].flatten(1) for key in keys], dim=1)
    assert torch.equal(encoder(values), expected)
    assert torch.equal(encoder(dict(reversed(values.items()))), expected)


def test_every_image_of_a_dict_has_its_own_encoder() -> None:
    torch.manual_seed(1)
    encoder = make_encoder(spaces.Dict({"left": image(5, 5, 3), "right": image(5, 5, 3)}))
    pixels = torch.rand(2, 5, 5, 3)
    left, right = encoder({"left": pixels, "right": pixels}).chunk(2, dim=1)
    assert not torch.allclose(left, right)


def test_images_and_discrete_values_as_they_come_from_an_environment() -> None:
    """After Stable-Baselines3's preprocessing: bytes up to 255 become [0, 1], planes of 0 and 1 stay, one-hots."""
    space = spaces.Dict({"discrete": spaces.Discrete(4), "planes": image(3, 3, 2, high=1), "rgb": image(3, 3, 2)})
    ones = torch.ones(1, 3, 3, 2, dtype=torch.uint8)
    observation = {"discrete": torch.tensor([2]), "planes": ones, "rgb": 255 * ones}
    prepared = preprocess_obs(observation, space)
    features = make_encoder(space, "flat")(prepared)
    assert torch.equal(features, torch.cat([torch.tensor([[0.0, 0.0, 1.0, 0.0]]), torch.ones(1, 36)], dim=1))


FLATTEN, TRANSFORM = (
    r"FlattenObservation\(env\) makes one Box",
    r"TransformObservation\(env, function, space\) can make",
)
NUMBER = spaces.Discrete(2)


@pytest.mark.parametrize(
    ("space", "hint"),
    [
        (spaces.Tuple([NUMBER]), FLATTEN),
        (spaces.Text(3), FLATTEN),
        (spaces.Dict({}), FLATTEN),
        (spaces.Dict({"part": spaces.Text(3)}), FLATTEN),
        (spaces.Dict({"part": spaces.Dict({"inner": NUMBER})}), FLATTEN),
        (
            spaces.Dict(
                {"part": spaces.Tuple([NUMBER, spaces.Box(np.arange(40) - 50.0, np.ones(40), dtype=np.float64)])}
            ),
            FLATTEN,
        ),
        (spaces.MultiDiscrete([[2, 3], [4, 5]]), FLATTEN),
        (spaces.Graph(spaces.Box(-1, 1, (3,)), None), TRANSFORM),
        (spaces.Sequence(NUMBER), TRANSFORM),
        (spaces.Dict({"part": spaces.Sequence(NUMBER)}), TRANSFORM),
    ],
    ids=str,
)
def test_other_spaces_are_rejected(space: spaces.Space[Any], hint: str) -> None:
    """In one line that says how to make another of it; which is then taken."""
    with pytest.raises(
        ValueError, match=rf"^observation_space must be Box, .*, got .*; gymnasium.wrappers.{hint}"
    ) as error:
        make_encoder(space)
    assert "\n" not in str(error.value)
    if hint == FLATTEN and space != spaces.Dict({}):
        assert isinstance(make_encoder(spaces.flatten_space(space)), FlatEncoder)


def test_unknown_names_and_arguments_are_rejected() -> None:
    with pytest.raises(
        ValueError, match=r"encoder must be one of \['auto', 'grid', 'nature', 'resnet', 'flat'\], got 'cnn'"
    ):
        make_encoder(image(5, 5, 6), "cnn")
    with pytest.raises(TypeError, match="kernels"):
        make_encoder(image(5, 5, 6), kernels=3)
    with pytest.raises(ValueError, match="GridEncoder takes images, a Box of three dimensions"):
        make_encoder(spaces.Discrete(3), "grid")


@pytest.mark.parametrize(
    ("encoder", "arguments"), [("grid", {}), ("nature", {}), ("resnet", {}), ("auto", {"channels": "last"})]
)
def test_an_encoder_of_images_needs_an_image(encoder: str, arguments: dict[str, str]) -> None:
    """What would have no effect is refused."""
    space = spaces.Dict({"speed": spaces.Box(-1, 1, (3,)), "gear": spaces.Discrete(5)})
    with pytest.raises(ValueError, match="need an image in the Dict"):
        make_encoder(space, encoder, **arguments)
