"""Questions with their own passages, from record files, as the harness takes them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openclara.data.records import read_records
from openclara.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA_ROOT = "OPENCLARA_DATA"
"""Environment variable with the folder of the record files."""


def oracle(*, file: str, data_root: str | None = None, **metadata: object) -> dict[str, Any]:
    """The only split of a task: every question with all passages of its record, in order.

    Which passages are gold is left out: no model is handed labels.

    Args:
        file: Name of the record file; from the task's `dataset_kwargs`. Where only the unpacked
            file is there, without .gz, that is read.
        data_root: Its folder; from `--metadata data_root=FOLDER`, else from the environment.
        metadata: The rest of what the harness passes to every task.

    Raises:
        ConfigError: No folder is given.
        DataError: The file is missing or malformed.
    """
    folder = data_root or os.environ.get(DATA_ROOT)
    if not folder:
        raise ConfigError(
            f"say where {file} is: pass --metadata data_root=FOLDER, or set {DATA_ROOT}"
        )
    path = Path(folder) / file
    if not path.exists() and path.with_suffix("").exists():
        path = path.with_suffix("")
    if not path.is_file():
        raise DataError(f"there is no file {path}; pass --metadata data_root=FOLDER that holds it")
    questions = list(rows(path))
    if not questions:
        raise DataError(f"{path} holds no question; give a file of records")
    from datasets import Dataset

    return {"test": Dataset.from_list(questions)}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """A row for each question of a record file.

    Raises:
        DataError: Names file, line and field of the first record that cannot be read.
    """
    for record in read_records(path):
        documents = [{"title": one.title, "text": one.text} for one in record.passages]
        for pair in record.pairs:
            yield {
                "id": record.id,
                "question": pair.question,
                "answers": list(pair.answers),
                "documents": documents,
            }
