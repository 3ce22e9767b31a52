"""One game of Mini-Pacman as a Gymnasium environment."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np

from . import rendering
from .batch import NUM_ACTIONS, Array, GameBatch, Viewport
from .checks import integer, one_of
from .game import INFO_KEYS

if TYPE_CHECKING:
    from .drawing import Window

METADATA: dict[str, Any] = {"render_modes": ["human", "rgb_array", "ansi"], "render_fps": 8}


class MiniPacmanEnv(gymnasium.Env[Array, Any]):
    """Mini-Pacman (Weber et al. 2017, arXiv 1707.06203), seen as in Santoro et al. (2018, arXiv 1806.01822).

    Actions: 0 stay, 1 right, 2 up, 3 left, 4 down. `docs/mini_pacman.md` gives the rules and the modes. An episode is
    terminated by Pacman's death and truncated after `frame_cap` steps. `info` carries the `level`, the `score` (the sum
    of the rewards), the `power` (how many steps it lasts) and `food_left` (cells with food).

    Args:
        mode: "regular", "avoid", "hunt", "ambush" or "rush".
        viewport: The side of the square seen around Pacman, odd, from 5 to 37; None: the whole maze of 15 x 19 cells;
            "centred": the same, turned around its edges so that Pacman is in the middle.
        observation: "rgb", uint8 [height, width, 3]; or "planes", float32 [height, width, 6]: wall, food, Pacman, ghost
            (1 - power / 20), edible ghost (power / 20) and pill.
        frame_cap: After how many steps an episode is truncated; 0: never.
        render_mode: "human" (a window), "rgb_array" (uint8 [528, 608, 3]), "ansi" (text) or None.

    Raises:
        ValueError: An argument has none of these values.
    """

    metadata = METADATA

    def __init__(
        self,
        mode: str = "regular",
        viewport: Viewport = 5,
        observation: str = "rgb",
        frame_cap: int = 3000,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = one_of("render_mode", render_mode, (None, *METADATA["render_modes"]))
        self._batch = GameBatch(1, mode, viewport, observation, frame_cap)
        self.observation_space = self._batch.observation_space
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self._over = True
        self._window: Window | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode. Without a seed, the random numbers go on from where they are. There are no options."""
        super().reset(seed=seed)
        if seed is not None or not self._batch.is_seeded(0):
            self._batch.seed(0, self.np_random)
        self._batch.start(self._batch.rows)
        self._over = False
        return self._look()

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Play one step.

        Raises:
            gymnasium.error.ResetNeeded: There is no game, or it is over.
            ValueError: The action is no integer from 0 to 4.
        """
        if self._over:
            raise gymnasium.error.ResetNeeded("there is no game to play, or it is over: call reset() first")
        outcome = self._batch.step(np.array([integer("action", action, 0, NUM_ACTIONS - 1)]))
        self._over = len(outcome.ended) > 0
        observation, info = self._look()
        return observation, outcome.rewards.item(), outcome.terminated.item(), outcome.truncated.item(), info

    def _look(self) -> tuple[Array, dict[str, Any]]:
        """The present observation and info; in mode "human", the window shows the game, too."""
        if self.render_mode == "human":
            self._show()
        info = {name: self._batch.games[name].item() for name in INFO_KEYS}
        return self._batch.observe(self._batch.rows)[0], info

    def observe(self) -> Array:
        """The present observation, for example after `set_state`; raises ResetNeeded where there is no game yet."""
        self._batch.require_games()
        observation: Array = self._batch.observe(self._batch.rows)[0]
        return observation

    def get_state(self) -> dict[str, Any]:
        """The game as plain arrays and numbers (`docs/mini_pacman.md` lists them), its random state included.

        Raises:
            gymnasium.error.ResetNeeded: There is no game yet.
        """
        return self._batch.get_state(0)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state such as `get_state` gives; without `generator`, the random numbers go on as they are.

        No reset is needed, neither before nor after.

        Raises:
            ValueError: The state is impossible; the environment is then as it was.
        """
        self._batch.set_state(0, state)
        if not self._batch.is_seeded(0):
            self._batch.seed(0, self.np_random)
        self._over = False

    def render(self) -> Any:
        """The game as `render_mode` says: uint8 [528, 608, 3], text, or None where a window shows it or no mode is set.

        Raises:
            gymnasium.error.ResetNeeded: There is no game yet.
        """
        self._batch.require_games()
        if self.render_mode == "human":
            self._show()
            return None
        return rendering.render(self._batch.games[0], self._batch.viewport, self.render_mode)

    def _show(self) -> None:
        if self._window is None:
            self._window = rendering.open_window(METADATA["render_fps"])
        self._window.show(rendering.frame(self._batch.games[0], self._batch.viewport))

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._window is not None:
            self._window.close()
            self._window = None
