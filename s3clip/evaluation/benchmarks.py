"""The benchmarks: a table in benchmarks.json, and what its columns mean."""

from pydantic import BaseModel


class Benchmark(BaseModel):
    """A row of the table."""

    name: str


def find_benchmark(name: str) -> Benchmark:
    """Return the row of this name, or the one in a user's own JSON file."""
    raise NotImplementedError
