"""Parquet: one document for each row, a batch of rows at a time."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from openclara.data.rows import found, no_records
from openclara.data.sources import reason
from openclara.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openclara.data.sources import Found, SourceFile

BATCH_ROWS = 1024


def read_parquet(stream: IO[bytes], file: SourceFile) -> Iterator[Found | DataError]:
    """Read one document a row; columns are the fields of a JSON record."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise DataError(f"{file.name} needs pyarrow; run pip install 'openclara[ray]'") from error
    number = 0
    try:
        for batch in pq.ParquetFile(stream).iter_batches(batch_size=BATCH_ROWS):
            for fields in batch.to_pylist():
                number += 1
                # A column that this row leaves empty is one that a JSON record would not have.
                filled = {name: value for name, value in fields.items() if value is not None}
                try:
                    yield found(filled, file, number)
                except DataError as error:
                    yield error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{file.name} cannot be read as Parquet ({reason(error)}); write it again or leave it "
            "out"
        ) from error
    if not number:
        raise no_records(file)
