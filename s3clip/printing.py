"""Pictures need matplotlib, which is an extra."""

from typing import Any


def new_figure(width: float, height: float) -> Any:
    """Return an empty matplotlib figure, in inches; no screen is needed and no backend is chosen.

    Raises:
        ImportError: matplotlib is not installed; the message says how to get it.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 's3clip[plot]'") from error
    return Figure(figsize=(width, height), dpi=130, layout="constrained")
