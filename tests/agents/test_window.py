"""The window: keys do what the help says, games keep their pace, and a missing display is an error."""

import itertools
from collections.abc import Iterator

import numpy as np
import pygame
import pytest

from agents.watch import Scene
from agents.window import FASTEST, SLOWEST, STATUS_HEIGHT, Controls, Keyboard, NoDisplayError, Window


def press(key: int) -> pygame.event.Event:
    return pygame.event.Event(pygame.KEYDOWN, key=key)


def release(key: int) -> pygame.event.Event:
    return pygame.event.Event(pygame.KEYUP, key=key)


def make_scenes(*posted: pygame.event.Event) -> Iterator[Scene]:
    """Scenes for ever; one of the events is posted before each of the later ones."""
    frame = np.full((30, 40, 3), 200, np.uint8)
    events = itertools.chain(posted, itertools.repeat(None))
    for step in itertools.count():
        yield Scene(frame, 1, step, 0.0, None, False)
        if event := next(events):
            pygame.event.post(event)


@pytest.fixture
def _display(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    yield
    pygame.display.quit()


def controls_after(*keys: int) -> Controls:
    controls = Controls(speed=8)
    for key in keys:
        controls.handle(press(key))
    return controls


@pytest.mark.parametrize(
    ("keys", "speed"),
    [
        ([pygame.K_PLUS], 16),
        ([pygame.K_EQUALS], 16),
        ([pygame.K_KP_PLUS, pygame.K_KP_PLUS], 32),
        ([pygame.K_MINUS], 4),
        ([pygame.K_KP_MINUS, pygame.K_PLUS], 8),
        ([pygame.K_PLUS] * 20, FASTEST),
        ([pygame.K_MINUS] * 20, SLOWEST),
    ],
)
def test_plus_and_minus_change_the_speed_within_limits(keys: list[int], speed: float) -> None:
    assert controls_after(*keys).speed == speed


def test_p_pauses_and_goes_on() -> None:
    assert controls_after(pygame.K_p).paused
    assert not controls_after(pygame.K_p, pygame.K_p).paused


def test_n_takes_one_step_and_pauses() -> None:
    controls = controls_after(pygame.K_n)
    assert controls.paused
    assert controls.takes_step()
    assert not controls.takes_step()


@pytest.mark.parametrize(
    "event", [press(pygame.K_q), press(pygame.K_ESCAPE), pygame.event.Event(pygame.QUIT)], ids=["Q", "Escape", "close"]
)
def test_q_escape_and_the_close_button_quit(event: pygame.event.Event) -> None:
    controls = Controls(speed=8)
    controls.handle(event)
    assert controls.closed


@pytest.fixture
def keyboard(_display: None) -> Keyboard:
    pygame.display.init()  # names of keys need it
    return Keyboard({"space": 0, "right": 1, "up": 2, "w": 2}, idle=0)


def test_a_held_key_acts_until_it_is_released(keyboard: Keyboard) -> None:
    keyboard.handle(press(pygame.K_UP))
    assert [keyboard.action() for _ in range(3)] == [2, 2, 2]
    keyboard.handle(release(pygame.K_UP))
    assert keyboard.action() == 0


def test_a_tap_between_two_steps_counts_once(keyboard: Keyboard) -> None:
    """At 8 steps a second many taps are shorter than a step: they must not be lost."""
    keyboard.handle(press(pygame.K_w))
    keyboard.handle(release(pygame.K_w))
    assert [keyboard.action(), keyboard.action()] == [2, 0]


def test_the_key_pressed_last_wins_and_the_other_comes_back(keyboard: Keyboard) -> None:
    """How one turns corners: hold the next direction early, without letting go of this one."""
    keyboard.handle(press(pygame.K_RIGHT))
    keyboard.handle(press(pygame.K_UP))
    assert keyboard.action() == 2
    keyboard.handle(release(pygame.K_UP))
    assert keyboard.action() == 1


def test_space_stays_while_a_direction_is_held(keyboard: Keyboard) -> None:
    keyboard.handle(press(pygame.K_RIGHT))
    keyboard.handle(press(pygame.K_SPACE))
    assert keyboard.action() == 0


def test_other_keys_are_no_actions(keyboard: Keyboard) -> None:
    keyboard.handle(press(pygame.K_F5))
    keyboard.handle(release(pygame.K_LEFT))
    keyboard.handle(pygame.event.Event(pygame.MOUSEMOTION))
    assert keyboard.action() == 0


class Clock:
    """Stands in for `time`, so that a busy machine changes nothing."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(_display: None, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("agents.window.time", clock)
    return clock


@pytest.mark.parametrize(("speed", "seconds"), [(0.5, 40), (8, 2.5), (100, 0.2)])
def test_games_keep_their_pace(clock: Clock, speed: float, seconds: float) -> None:
    Window("test", speed).show(itertools.islice(make_scenes(), 20))
    assert clock.now - 1000 == pytest.approx(seconds, abs=0.02)


def test_fast_games_are_not_held_back_by_the_screen(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """512 scenes take a second, though there is no time to draw more than a few of them."""
    drawn = []

    def draw(window: Window, scene: Scene, screen: pygame.Surface) -> None:
        drawn.append(scene.step)
        clock.sleep(0.01)

    monkeypatch.setattr(Window, "draw", draw)
    Window("test", speed=512).show(itertools.islice(make_scenes(), 512))
    assert clock.now - 1000 == pytest.approx(1, abs=0.05)
    assert 40 <= len(drawn) <= 61


def test_the_end_of_a_game_stays_for_a_second(clock: Clock) -> None:
    scene = next(make_scenes())
    Window("test", speed=100).show([scene, scene._replace(ended=True), scene])
    assert clock.now - 1000 == pytest.approx(1.02, abs=0.02)


@pytest.mark.usefixtures("_display")
def test_closing_the_window_ends_the_game_at_once() -> None:
    scenes = make_scenes(pygame.event.Event(pygame.QUIT))
    window = Window("test", speed=100)
    window.show(scenes)
    assert next(scenes).step == 2, "two scenes had been taken"
    assert not pygame.display.get_init()


def test_a_paused_game_goes_on_by_single_steps(clock: Clock) -> None:
    """N shows scene after scene without waiting for the clock."""
    events = [press(pygame.K_n), press(pygame.K_n), press(pygame.K_q)]
    scenes = make_scenes(*events)
    window = Window("test", speed=SLOWEST)
    window.controls.handle(press(pygame.K_n))
    window.show(scenes)
    assert next(scenes).step == 4
    assert clock.now - 1000 < 0.1


@pytest.mark.usefixtures("_display")
def test_the_window_feeds_the_players_keyboard() -> None:
    keyboard = Keyboard({"left": 3}, idle=0)
    Window("test", 100, keyboard).show(itertools.islice(make_scenes(press(pygame.K_LEFT)), 3))
    assert keyboard.action() == 3


@pytest.mark.parametrize("shape", [(15, 19), (528, 608), (700, 90)])
@pytest.mark.usefixtures("_display")
def test_the_picture_keeps_its_proportions_in_any_window(shape: tuple[int, int]) -> None:
    window = Window("test", 8)
    screen = pygame.Surface((900, 500))
    scene = Scene(np.full((*shape, 3), 255, np.uint8), 1, 0, 0.0, None, False)
    window.draw(scene, screen)
    pixels = pygame.surfarray.array3d(screen).transpose(1, 0, 2)[:-STATUS_HEIGHT]
    rows, columns = np.nonzero((pixels > 250).all(axis=2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.05)


@pytest.mark.parametrize("display", [None, ":4242"])
def test_without_a_display_it_says_what_to_do_instead(
    monkeypatch: pytest.MonkeyPatch, display: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """SDL would draw into memory, where nobody sees it."""
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if display:
        monkeypatch.setenv("DISPLAY", display)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(NoDisplayError, match=r"--record video\.mp4"):
        Window("test", 8)
    if display is None:
        assert capfd.readouterr().err == ""
