"""The passages of a corpus themselves, as records: the model learns to say them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openclara.synthesis.folder import kept_passages
from openclara.synthesis.passages import Reading
from openclara.synthesis.shards import LineFile

if TYPE_CHECKING:
    from pathlib import Path

PASSAGES = "passages.train.jsonl.gz"


def write_passages(records: Path) -> Path:
    """Write the passages of a finished synthesis that are not held out, as plain records.

    Args:
        records: Folder of the synthesis.

    Returns:
        The file, one `{"title", "text"}` a line.

    Raises:
        DataError: What the synthesis read is damaged.
    """
    passages, _ = kept_passages(records, lambda: ([], Reading()))
    with LineFile(records / PASSAGES) as file:
        for passage in passages:
            if not passage.held_out:
                file.write({"title": passage.title, "text": passage.text})
    return records / PASSAGES
