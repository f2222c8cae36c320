"""Compare ways to classify on the same images. Nothing but the command imports this one.

Its rooms, each of which uses those before it: `report` (what is found: its JSON, tables, pictures, pages),
methods and scores, `benchmarks`, comparing, `runs`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s3clip.evaluation.comparison import compare, compare_embeddings
    from s3clip.evaluation.methods import METHODS
    from s3clip.evaluation.report.comparison import Comparison, Difference, MethodScores
    from s3clip.evaluation.report.words import WordComparison, WordEffect
    from s3clip.evaluation.words import compare_words

__all__ = [
    "METHODS",
    "Comparison",
    "Difference",
    "MethodScores",
    "WordComparison",
    "WordEffect",
    "compare",
    "compare_embeddings",
    "compare_words",
]

# Imported when they are used: reports need no torch, which takes seconds.
_HOMES = {
    "METHODS": "methods",
    "Comparison": "report.comparison",
    "Difference": "report.comparison",
    "MethodScores": "report.comparison",
    "compare": "comparison",
    "compare_embeddings": "comparison",
    "WordComparison": "report.words",
    "WordEffect": "report.words",
    "compare_words": "words",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
