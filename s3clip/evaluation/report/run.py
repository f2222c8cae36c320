"""What a run found: written to `run.json`, tables and pictures, and read back."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import PrivateAttr

from s3clip.evaluation.report.comparison import SHOWN, Value, suffixes_text
from s3clip.evaluation.report.folder import check_report_folder, save_report
from s3clip.evaluation.report.picture import draw_run
from s3clip.evaluation.report.schema import (
    Benchmark,
    Mean,
    Measured,
    Model,
    Recognition,
    Segmentation,
    Settings,
    headline_of,
)
from s3clip.evaluation.report.tables import benchmark_table, benchmark_text, summary_table, title_of
from s3clip.files.folders import beside
from s3clip.files.json import checked, read_json
from s3clip.files.writing import write_atomically
from s3clip.printing import counted, markdown_text

FORMAT = "s3clip-run/2"


class Run(Value):
    """What `evaluate` found. Two runs are the same if all but `measured` is."""

    format: Literal["s3clip-run/2"]
    settings: Settings
    versions: dict[str, str]
    model: Model
    benchmarks: list[Benchmark]
    mean: list[Mean]
    measured: Measured
    _thumbnails: dict[str, bytes] = PrivateAttr(default_factory=dict)

    @classmethod
    def of(cls, thumbnails: Mapping[str, bytes], **found: Any) -> Self:
        """Return a run of all fields but the format and the means, with the JPEGs that it names."""
        run = cls.model_validate({"format": FORMAT, "mean": [], **found})
        run = run.model_copy(update={"mean": _means(run.benchmarks)})
        run._thumbnails = dict(thumbnails)
        return run

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the `run.json` of a folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is something else, of another version, or was edited to what no run is.
        """
        path = Path(folder) / "run.json"
        try:
            content = read_json(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{path}: no such file; expected a folder of `s3clip eval`{beside(folder)}"
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(
                f"{path}: expected the format {FORMAT!r}, as this version of `s3clip eval` writes it; "
                "evaluate again"
            )
        return checked(content, cls, str(path))

    @property
    def thumbnails(self) -> dict[str, bytes]:
        """The JPEGs that the run names, to be saved with it; none of a run that was read."""
        return self._thumbnails

    def to_dict(self) -> dict[str, Any]:
        """Return what `run.json` holds, ready for JSON."""
        return self.model_dump(mode="json", by_alias=True)

    def markdown(self) -> str:
        """Return the summary of all benchmarks, and a table for each."""
        control = self.settings.control
        lines = [
            f"# {markdown_text(str(self.model.name))}",
            markdown_text(self._about()),
            summary_table(self.benchmarks, self.mean, control).markdown(),
        ]
        for each in self.benchmarks:
            lines.append(f"## {markdown_text(title_of(each.name))}")
            lines += [f"**Warning: {markdown_text(warning)}**" for warning in each.warnings]
            lines += [markdown_text(benchmark_text(each)), benchmark_table(each, control).markdown()]
        lines.append(markdown_text(f"Revision {self.model.revision}, fingerprint {self.model.fingerprint}."))
        return "\n\n".join(lines) + "\n"

    def text(self, first: int | None = SHOWN) -> str:
        """Return the same for a terminal, of each benchmark the first methods, the default and the control.

        Args:
            first: how many methods; None: all.
        """
        control = self.settings.control
        lines = [f"{self.model.name}: {self._about()}"]
        lines.append(str(summary_table(self.benchmarks, self.mean, control)))
        for each in self.benchmarks:
            table, total = benchmark_table(each, control, first), len(each.scores)
            left = f" {len(table.rows)} of {counted(total, 'method')}." if len(table.rows) < total else ""
            lines.append(f"{title_of(each.name)}: {benchmark_text(each)}{left}\n{table}")
        return "\n\n".join(lines)

    def _about(self) -> str:
        names = dict.fromkeys(own.name for each in self.benchmarks for own in each.scores)
        return (
            f"{self.model.dtype}. Percent; differences from {self.settings.control} in points with 95 % "
            f"paired-bootstrap intervals. {suffixes_text(list(names))}"
        ).rstrip()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `run.json`, `run.md` and the thumbnails into a folder, made if need be, and return it."""
        place = check_report_folder(folder)
        for name, content in self._thumbnails.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place / name, content)
        return save_report(place, "run", self.to_dict(), self.markdown())

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Draw how far every method is from the control on every benchmark, and return the path.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return draw_run(self.benchmarks, self.settings.control, path)


def _means(benchmarks: Sequence[Recognition | Segmentation]) -> list[Mean]:
    """Return the mean headline of every method on all benchmarks of a task, the best of a task first."""
    found = []
    for task in dict.fromkeys(each.task for each in benchmarks):
        own = [each for each in benchmarks if each.task == task]
        rows = []
        for name in [scores.name for scores in own[0].scores]:
            values = [value for each in own if (value := headline_of(each, name)) is not None]
            if len(values) == len(own):
                rows.append(Mean(task=task, name=name, headline=sum(values) / len(values)))
        found += sorted(rows, key=lambda row: (-row.headline, row.name))
    return found
