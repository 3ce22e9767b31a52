"""Environments. Importing this module registers them and loads no more than Gymnasium."""

from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

if TYPE_CHECKING:
    from .mini_pacman.env import MiniPacmanEnv as MiniPacmanEnv
    from .mini_pacman.vector import MiniPacmanVectorEnv as MiniPacmanVectorEnv

__all__ = ["MiniPacmanEnv", "MiniPacmanVectorEnv"]

register(
    id="MiniPacman-v0",
    entry_point="envs.mini_pacman.env:MiniPacmanEnv",
    vector_entry_point="envs.mini_pacman.vector:MiniPacmanVectorEnv",
    # The environment counts its own frames, checks its own calls, and is checked by tests: it needs no wrapper.
    order_enforce=False,
    disable_env_checker=True,
)


def __getattr__(name: str) -> Any:
    if name == "MiniPacmanEnv":
        from .mini_pacman.env import MiniPacmanEnv

        return MiniPacmanEnv
    if name == "MiniPacmanVectorEnv":
        from .mini_pacman.vector import MiniPacmanVectorEnv

        return MiniPacmanVectorEnv
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
