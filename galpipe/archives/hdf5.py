"""HDF5 in the manner of Galaxy10_DECals.h5: a data set of images beside columns of its length."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galpipe.archives.images import Header, Image
from galpipe.archives.members import member_path, read_kept
from galpipe.archives.trouble import BadImageError, corrupt
from galpipe.errors import InputError
from galpipe.sample.table import IMAGE_REFERENCE
from galpipe.status import Status

LARGEST_BLOCK = 64 * 2**20  # bytes of images read at once
ROW = "row"  # the column made where the file has none of this name: the place along the images
MOST_BANDS = 16


@dataclass(frozen=True)
class StackRow:
    """One image of a data set of images."""

    member: str
    dataset: str
    row: int


def open_stack(root: str, member: str) -> Any:
    """The HDF5 file, for reading; raises InputError where it is none."""
    try:
        path = member_path(root, member)
        source = str(path) if path.is_file() and path.name == member.rsplit("/", 1)[-1] else None
        return h5py.File(source or io.BytesIO(read_kept(root, member)), "r")
    except BadImageError as error:
        raise InputError(f"{member}: {error.reason}.") from None
    except OSError as error:
        raise InputError(f"{member}: not a readable HDF5 file ({error}).") from None


def image_dataset(root: str, member: str) -> str | None:
    """The name of the one data set (N, y, x) or (N, y, x, band) of numbers; None without any."""
    with open_stack(root, member) as file:
        found = [name for name, data in _datasets(file) if data.ndim in (3, 4)]
    if len(found) > 1:
        raise InputError(
            f"{member}: {len(found)} data sets could be the images ({', '.join(found[:4])}); "
            "give a file with one."
        )
    return found[0] if found else None


def _datasets(file: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.dtype.kind in "iufSOb":
            found.append((name, item))

    file.visititems(visit)
    return sorted(found, key=lambda pair: pair[0])


def read_columns(root: str, member: str, dataset: str) -> pa.Table:
    """The data sets of one dimension and the images' length, as a table, with the row's number."""
    columns: dict[str, pa.Array] = {}
    with open_stack(root, member) as file:
        count = len(file[dataset])
        for name, data in _datasets(file):
            if data.shape == (count,):
                columns[name.rsplit("/", 1)[-1]] = _column(data)
    columns.setdefault(ROW, pa.array(np.arange(count, dtype=np.int64)))
    columns[IMAGE_REFERENCE] = pa.array([reference(member, row) for row in range(count)])
    return pa.table(columns)


def reference(member: str, row: int) -> str:
    """How a table names one image of a stack: `file.h5#12`."""
    return f"{member}#{row}"


def _column(data: Any) -> pa.Array:
    if data.dtype.kind in "SO":
        texts = [
            v.decode("utf-8", "replace").strip() if isinstance(v, bytes) else str(v)
            for v in data[:].tolist()
        ]
        return pa.array([text or None for text in texts], pa.string())
    values = data[:]
    return pa.array(np.ascontiguousarray(values, values.dtype.newbyteorder("=")))


def read_header(file: Any, source: StackRow, bands: int) -> Header:
    """Size and planes of one image of an open file; raises BadImageError."""
    data = _data(file, source)
    planes, ny, nx = _axes(data.shape[1:], bands)
    return Header(planes, ny, nx, "uint8" if data.dtype == np.uint8 else "float32")


class RowReader:
    """Rows of an open file's data set, read a whole chunk of rows at a time: each is decompressed
    once while rows are asked for in order.
    """

    def __init__(self, file: Any) -> None:
        self.file = file
        self._key: tuple[str, int] = ("", -1)
        self._block: NDArray[Any] = np.empty(0)

    def raw(self, source: StackRow) -> NDArray[Any]:
        """One image as the file holds it; raises BadImageError."""
        data = _data(self.file, source)
        weight = max(int(np.prod(data.shape[1:])) * data.dtype.itemsize, 1)
        length = data.chunks[0] if data.chunks else 1
        length = max(1, min(length, LARGEST_BLOCK // weight))
        key = (source.dataset, source.row // length)
        if key != self._key:
            first = key[1] * length
            try:
                self._block, self._key = np.asarray(data[first : first + length]), key
            except OSError as error:
                raise corrupt(error) from None
        return np.ascontiguousarray(self._block[source.row % length])


def decode(values: NDArray[Any], bands: int) -> Image:
    """One image (y, x) or (y, x, band) as (band, y, x)."""
    planes, ny, nx = _axes(values.shape, bands)
    if values.ndim == 3 and (ny, nx) == values.shape[:2]:
        values = np.moveaxis(values, -1, 0)
    pixels = values.reshape(planes, ny, nx)
    if pixels.dtype != np.uint8:
        with warnings.catch_warnings(), np.errstate(over="ignore", invalid="ignore"):
            warnings.simplefilter("ignore")
            pixels = pixels.astype(np.float32)
        pixels[~np.isfinite(pixels)] = np.nan
    return Image(np.ascontiguousarray(pixels))


def _axes(shape: tuple[int, ...], bands: int) -> tuple[int, int, int]:
    """(band, y, x) of one image: bands come last, or first where only that fits."""
    if len(shape) == 2:
        return 1, shape[0], shape[1]
    first, last = shape[0], shape[-1]
    if last != bands and (first == bands or (first <= MOST_BANDS < last)):
        return first, shape[1], shape[2]
    return last, shape[0], shape[1]


def _data(file: Any, source: StackRow) -> Any:
    data = file[source.dataset]
    if not 0 <= source.row < len(data):
        raise BadImageError(
            Status.MISSING_FILE, f"the file has {len(data)} images, none of number {source.row}"
        )
    return data
