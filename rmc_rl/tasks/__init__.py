"""The supervised tasks of the paper: Nth Farthest, program evaluation, language modelling."""

from .nth_farthest import NthFarthest
from .program_evaluation import ProgramEvaluation

__all__ = ["NthFarthest", "ProgramEvaluation"]
