"""Arrays of embeddings in files, read from one end to the other: .npy, .npz and .safetensors.

They are read, not mapped: mapped pages count as memory of the process, and an object store has none. So the
first rows come before the last have been fetched, and a file that is cut off gives what it has.
"""

import tokenize
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

import numpy as np
from pydantic import BaseModel, Field, NonNegativeInt

from s3clip.files.addresses import open_binary
from s3clip.files.json import checked, parse_json

SUFFIXES = frozenset({".npy", ".npz", ".safetensors"})

_SAFETENSORS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_LONGEST_HEADER = 100 * 2**20  # bytes; safetensors itself refuses more


@dataclass(frozen=True)
class FloatArray:
    """Rows of floats in an open file.

    Attributes:
        file: of which the first row is read next.
        rows: how many there are.
        dim: numbers in a row.
        dtype: of a number in the file.
        is_bfloat16: whether those are the upper halves of float32.
    """

    file: BinaryIO
    rows: int
    dim: int
    dtype: np.dtype
    is_bfloat16: bool = False

    def blocks(self, size: int, start: int = 0) -> Iterator[np.ndarray]:
        """Give (rows, dim) floats, `size` rows at a time from row `start` on. To be called once.

        Raises:
            EOFError: the file ends before.
        """
        row_bytes = self.dim * self.dtype.itemsize
        self.file.seek(start * row_bytes, 1)
        for first in range(start, self.rows, size):
            count = min(size, self.rows - first)
            block = np.empty((count, self.dim), self.dtype)
            content, done = memoryview(block.reshape(-1).view(np.uint8)), 0  # type: ignore[arg-type]
            while done < len(content) and (read := self.file.readinto(content[done:])):  # type: ignore[attr-defined]
                done += read
            if done < len(content):
                row = first + done // max(1, row_bytes)
                raise EOFError(f"ends inside row {row:,} of {self.rows:,}")
            yield (block.astype(np.uint32) << 16).view(np.float32) if self.is_bfloat16 else block


@contextmanager
def open_array(path: str, name: str | None = None) -> Iterator[FloatArray]:
    """Open the array of a .npy, or one of a .npz or .safetensors.

    Args:
        path: of this machine, or an address.
        name: of the array; None: the only one that is two-dimensional.

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the store cannot be reached.
        ValueError, OSError, EOFError: it is no such file, or has no such array, or not of floats.
    """
    with open_binary(path) as file:
        if path.lower().endswith(".npy"):
            yield _npy(file)
        elif path.lower().endswith(".safetensors"):
            yield _safetensors(file, name)
        else:
            with _npz_member(file, name) as member:
                yield _npy(member)


def _npy(file: Any) -> FloatArray:
    shape, fortran, dtype = _npy_header(file)
    # Objects among them: they would be pickles, which are never read.
    is_flat = len(shape) == 2 and min(shape) >= 0 and not (fortran and min(shape) > 1)
    if not is_flat or not np.issubdtype(dtype, np.floating):
        order = "Fortran order" if fortran else "C order"
        raise ValueError(
            f"expected floats of shape (rows, dim) in C order, got {dtype} of shape {shape} in {order}"
        )
    return FloatArray(file, shape[0], shape[1], dtype)


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:  # the third differs in names of fields alone, and no field is a float
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not read")
    try:
        return readers[version](file)
    except (
        SyntaxError,
        MemoryError,
        RecursionError,
        tokenize.TokenError,
    ) as error:  # of Python's own parser
        raise ValueError(f"its header is damaged ({error})") from error


@contextmanager
def _npz_member(file: BinaryIO, name: str | None) -> Iterator[Any]:
    """Open an array of a .npz as a stream; compressed or not, it is not held as a whole."""
    with _zip_errors():
        archive = zipfile.ZipFile(file)
        shapes = {}
        for each in archive.namelist():
            if each.endswith(".npy"):
                with archive.open(each) as member:
                    shapes[each.removesuffix(".npy")] = _npy_header(member)[0]
        chosen = archive.open(f"{_chosen(shapes, name)}.npy")
    with archive, chosen:
        yield chosen


@contextmanager
def _zip_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # encrypted, or compressed in a way that is not known
        raise ValueError(str(error)) from error


def _safetensors(file: BinaryIO, name: str | None) -> FloatArray:
    # The library's own reader maps, and reads files of this machine alone. The format is a length, a header
    # in JSON, and the numbers of one tensor after the other.
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST_HEADER:
        raise ValueError("its header is too long")
    content = file.read(length)
    if len(content) < length:
        raise EOFError("ends inside its header")
    header = parse_json(content, "its header")
    if isinstance(header, dict):
        header.pop("__metadata__", None)
    found = checked({"tensors": header}, _Header, "its header").tensors
    name = _chosen({key: each.shape for key, each in found.items()}, name)
    shape, dtype, (begin, end) = found[name].shape, found[name].dtype, found[name].data_offsets
    if len(shape) != 2 or dtype not in _SAFETENSORS:
        raise ValueError(f"expected floats of shape (rows, dim), got {dtype} of shape {tuple(shape)}")
    number = np.dtype(_SAFETENSORS[dtype])
    if end - begin != shape[0] * shape[1] * number.itemsize:
        raise ValueError(f"its header gives {end - begin:,} bytes to {dtype} of shape {tuple(shape)}")
    file.seek(8 + length + begin)
    return FloatArray(file, shape[0], shape[1], number, dtype == "BF16")


class _Tensor(BaseModel, strict=True):
    dtype: str
    shape: list[NonNegativeInt]
    data_offsets: Annotated[list[NonNegativeInt], Field(min_length=2, max_length=2)]


class _Header(BaseModel):
    tensors: dict[str, _Tensor]


def _chosen(shapes: Mapping[str, Sequence[int]], name: str | None) -> str:
    """Return which array to read, of those whose shapes are given by name."""
    if name is not None:
        if name not in shapes:
            raise ValueError(f"no array {name!r}; it has: {', '.join(shapes) or 'none'}")
        return name
    flat = [each for each, shape in shapes.items() if len(shape) == 2]
    if len(flat) != 1:
        said = ", ".join(f"{each} {tuple(shape)}" for each, shape in shapes.items())
        raise ValueError(f"expected one array of two dimensions, or its name (column), got: {said or 'none'}")
    return flat[0]
