"""The window in which games are watched and played. Only this module draws on a screen."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any

from .watch import Scene

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # standard output is for what was played
import pygame

SLOWEST, FASTEST = 0.5, 512.0  # steps per second
END_SECONDS = 1.0  # that the end of an episode stays, however fast the game
REFRESH_SECONDS, POLL_SECONDS = 1 / 60, 1 / 250
SMALLEST_PICTURE = (560, 400)  # what is smaller is pixel art
MARGIN, LINE_HEIGHT = 12, 22
SMOOTHING = 3  # letters are drawn so many times larger, then scaled down: they stand unevenly otherwise
STATUS_HEIGHT = 2 * (MARGIN + LINE_HEIGHT)
BACKGROUND, BRIGHT, DIM = (8, 9, 24), (240, 242, 255), (138, 144, 190)
HELP = "+ -  speed     P  pause     N  next step     Q  quit"


class NoDisplayError(ValueError):
    """There is no screen to open a window on."""


class Controls:
    """What the viewer has asked for: speed, pause, single steps, the end.

    Args:
        speed: steps per second to begin with.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.paused = self.closed = self._step = False

    def handle(self, event: pygame.event.Event) -> None:
        if event.type == pygame.QUIT:
            self.closed = True
        elif event.type == pygame.KEYDOWN:
            self._press(event.key)

    def _press(self, key: int) -> None:
        if key in (pygame.K_q, pygame.K_ESCAPE):
            self.closed = True
        elif key in (pygame.K_PLUS, pygame.K_EQUALS, pygame.K_KP_PLUS):  # + without shift is =
            self.speed = min(self.speed * 2, FASTEST)
        elif key in (pygame.K_MINUS, pygame.K_KP_MINUS):
            self.speed = max(self.speed / 2, SLOWEST)
        elif key == pygame.K_p:
            self.paused = not self.paused
        elif key == pygame.K_n:
            self.paused = self._step = True

    def takes_step(self) -> bool:
        """Whether a single step was asked for since the last call."""
        step, self._step = self._step, False
        return step

    def __str__(self) -> str:
        return "paused" if self.paused else f"{self.speed:g} steps/s"


class Keyboard:
    """A player's hands: the action of the key held down last, or tapped since the last step; else `idle`.

    Args:
        actions: of keys by their names in Pygame ("left", "a", "space").
        idle: the action when no key is down.
    """

    def __init__(self, actions: Mapping[str, Any], idle: Any) -> None:
        self._actions, self._idle = dict(actions), idle
        self._held: list[str] = []
        self._tapped: str | None = None  # a tap between two steps must count

    def handle(self, event: pygame.event.Event) -> None:
        if event.type not in (pygame.KEYDOWN, pygame.KEYUP):
            return
        key = pygame.key.name(event.key)
        if key in self._held:
            self._held.remove(key)
        if event.type == pygame.KEYDOWN and key in self._actions:
            self._held.append(key)
            self._tapped = key

    def action(self) -> Any:
        """The action of the next step."""
        key, self._tapped = self._tapped or (self._held[-1] if self._held else None), None
        return self._idle if key is None else self._actions[key]


class Window:
    """Shows scenes at the viewer's speed.

    Args:
        title: of the window.
        speed: steps per second to begin with.
        keyboard: of a person who plays.

    Raises:
        NoDisplayError: there is no display.
    """

    def __init__(self, title: str, speed: float, keyboard: Keyboard | None = None) -> None:
        self.controls, self.keyboard = Controls(speed), keyboard
        self._help = HELP if keyboard is None else f"arrows or WASD  move     {HELP}"
        _open_display()
        pygame.font.init()
        self._font = pygame.font.Font(None, SMOOTHING * LINE_HEIGHT)
        pygame.display.set_caption(title)
        self._due = self._drawn = 0.0

    def show(self, scenes: Iterable[Scene]) -> None:
        """Show scenes until they or the viewer end it, then close the window."""
        try:
            for scene in scenes:
                self._show(scene)
                if self.controls.closed:
                    break
        finally:
            pygame.display.quit()

    def _show(self, scene: Scene) -> None:
        """Show a scene until the next one is due, or the viewer steps on or closes the window."""
        if pygame.display.get_surface() is None:
            pygame.display.set_mode(_window_size(scene), pygame.RESIZABLE)
        begin = max(self._due, time.monotonic() - REFRESH_SECONDS)  # fast games skip pictures, not time
        while True:
            self._handle_events()
            self._refresh(scene)
            due = begin + self._duration(scene)
            if self.controls.closed or self.controls.takes_step():
                break
            if not self.controls.paused and time.monotonic() >= due:
                break
            time.sleep(POLL_SECONDS)
        self._due = min(due, time.monotonic())

    def _duration(self, scene: Scene) -> float:
        return max(1 / self.controls.speed, END_SECONDS if scene.ended else 0)

    def _handle_events(self) -> None:
        for event in pygame.event.get():
            self.controls.handle(event)
            if self.keyboard is not None:
                self.keyboard.handle(event)

    def _refresh(self, scene: Scene) -> None:
        if time.monotonic() - self._drawn >= REFRESH_SECONDS:
            self._drawn = time.monotonic()
            self.draw(scene, pygame.display.get_surface())
            pygame.display.flip()

    def draw(self, scene: Scene, screen: pygame.Surface) -> None:
        """Draw a scene as large as fits, with a status line and the keys below."""
        screen.fill(BACKGROUND)
        area = screen.get_rect()
        area.height -= STATUS_HEIGHT
        picture = pygame.image.frombuffer(scene.frame.tobytes(), _size(scene), "RGB")
        place = picture.get_rect().fit(area)
        resize = pygame.transform.scale if _is_pixel_art(scene) else pygame.transform.smoothscale
        screen.blit(resize(picture, place.size), place)
        status = f"{scene}     {'the end' if scene.ended else self.controls}"
        for line, (text, color) in enumerate([(status, BRIGHT), (self._help, DIM)]):
            position = (MARGIN, area.bottom + MARGIN + line * (LINE_HEIGHT + MARGIN // 2))
            letters = self._font.render(text, True, color)
            screen.blit(pygame.transform.smoothscale_by(letters, 1 / SMOOTHING), position)


def _open_display() -> None:
    chosen = os.environ.get("SDL_VIDEODRIVER")
    # Asked first: where there is no display, SDL complains on stderr and then draws where nobody sees it.
    found = chosen or sys.platform != "linux" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    try:
        if found:
            pygame.display.init()
    except pygame.error:
        found = False
    if not found or (not chosen and pygame.display.get_driver() in ("offscreen", "dummy")):
        raise NoDisplayError("there is no display for a window; record a video instead: --record video.mp4")


def _size(scene: Scene) -> tuple[int, int]:
    """Width and height of its frame."""
    height, width = scene.frame.shape[:2]
    return width, height


def _is_pixel_art(scene: Scene) -> bool:
    return any(side < least for side, least in zip(_size(scene), SMALLEST_PICTURE, strict=True))


def _window_size(scene: Scene) -> tuple[int, int]:
    """Room for the frame, enlarged by a whole factor if it is small, and for the status."""
    width, height = _size(scene)
    scale = max(1, min(SMALLEST_PICTURE[0] // width, SMALLEST_PICTURE[1] // height))
    return max(width * scale, SMALLEST_PICTURE[0]), height * scale + STATUS_HEIGHT
