"""What deserves a look in a fitted head, in order of weight."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from s3clip.inspection.neighbours import Neighbours
from s3clip.inspection.reports import ClassReport

WEIGHTS = {
    "same_name": 8,
    "name_dropped": 6,
    "shared_name": 6,
    "shared_text": 4,
    "stray_text": 3,
    "half_dropped": 2,
    "repeated_text": 1,
    "name_only": 1,
}
"""How much a finding matters, by kind; `docs/inspection.md` says what each is. A class weighs the sum of its
findings. The order is our judgement: what decides labels for certain comes before what may."""


@dataclass(frozen=True)
class SpaceFinding:
    """One thing to look at.

    Attributes:
        kind: a key of `WEIGHTS`.
        class_index: the class.
        row: the text among those of the class; None where it is about the whole class.
        message: what was found, in words.
    """

    kind: str
    class_index: int
    row: int | None
    message: str

    @property
    def weight(self) -> int:
        """How much it matters."""
        return WEIGHTS[self.kind]


def find_in_space(reports: Sequence[ClassReport], neighbours: Neighbours) -> list[SpaceFinding]:
    """Return everything found, the heaviest first, then in the order of the classes."""
    names = Counter(report.name.casefold() for report in reports)
    # NaN is neither: no other text, or no other class.
    strays = (neighbours.other > neighbours.own).tolist()
    found, start = [], 0
    for report in reports:
        rows = range(start, start + len(report.texts))
        found += _in_class(report, reports, names[report.name.casefold()])
        if any(strays[rows.start : rows.stop]):
            found += _strays(report, reports, neighbours, rows)
        start = rows.stop
    return sorted(found, key=lambda each: -each.weight)


def _in_class(report: ClassReport, reports: Sequence[ClassReport], namesakes: int) -> list[SpaceFinding]:
    found = []

    def add(kind: str, row: int | None, message: str) -> None:
        found.append(SpaceFinding(kind, report.index, row, message))

    if namesakes > 1:
        add("same_name", None, f"{namesakes} classes have this name")
    if report.texts[0].status == "dropped":
        add("name_dropped", 0, "its own name was dropped: another component is larger")
    for row, text in enumerate(report.texts):
        if text.status == "duplicate":
            add("repeated_text", row, f"{text.text!r} repeats {text.duplicate_of!r}")
        elif text.shared_with and text.status == "kept" and not (row == 0 and namesakes > 1):
            others = ", ".join(reports[i].name for i in text.shared_with[:3])
            more = len(text.shared_with) - 3
            others += f" and {more} more" if more > 0 else ""
            add("shared_text" if row else "shared_name", row, f"{text.text!r} is a text of {others} too")
    distinct = len(report.texts) - report.count("duplicate")
    if 2 * report.count("dropped") >= distinct:
        add("half_dropped", None, f"{report.count('dropped')} of {distinct} distinct texts were dropped")
    if distinct == 1:
        add("name_only", None, "it has no text but its name")
    return found


def _strays(
    report: ClassReport, reports: Sequence[ClassReport], neighbours: Neighbours, rows: range
) -> list[SpaceFinding]:
    found = []
    for row, (text, at) in enumerate(zip(report.texts, rows, strict=True)):
        own, other = float(neighbours.own[at]), float(neighbours.other[at])
        if text.status == "kept" and other > own:
            name = reports[int(neighbours.other_class[at])].name
            message = (
                f"{text.text!r} is nearer to {name} ({other:.2f}) than to the rest of its class ({own:.2f})"
            )
            found.append(SpaceFinding("stray_text", report.index, row, message))
    return found
