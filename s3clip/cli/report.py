"""`s3clip report`: runs of `s3clip eval` as a page."""

from pathlib import Path
from typing import Annotated

import typer

from s3clip.cli.common import keep_inputs, make_folder
from s3clip.printing import say


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `s3clip eval` wrote.")],
    out: Annotated[
        Path,
        typer.Option(
            help="The page, one HTML file that asks for nothing else; a .csv or .tex file has the scores as "
            "a table."
        ),
    ],
) -> None:
    """Put several runs side by side in one HTML page, or in a table for a spreadsheet or a paper."""
    from s3clip.evaluation.report.page import run_csv, run_latex, run_page
    from s3clip.evaluation.report.run import Run
    from s3clip.files.writing import write_atomically

    write = {".csv": run_csv, ".tex": run_latex}.get(out.suffix.lower(), run_page)
    keep_inputs([folder / "run.json" for folder in runs], {"--out": [out]})
    page = write([(folder, Run.read(folder)) for folder in runs])
    make_folder("out", out.absolute().parent)
    write_atomically(out, page.encode("utf-8", "backslashreplace"))
    say(f"Saved to {out}.")
