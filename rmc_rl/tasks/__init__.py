"""The supervised tasks of the paper: Nth Farthest, program evaluation, language modelling."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .language_modeling import LanguageModeling
    from .model import SequenceModel
    from .nth_farthest import NthFarthest
    from .program_evaluation import ProgramEvaluation

__all__ = ["LanguageModeling", "NthFarthest", "ProgramEvaluation", "SequenceModel"]

_MODULES = {
    "LanguageModeling": "language_modeling",
    "NthFarthest": "nth_farthest",
    "ProgramEvaluation": "program_evaluation",
    "SequenceModel": "model",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: reading a configuration must not wait for torch.
    if name in _MODULES:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
