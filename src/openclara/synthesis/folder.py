"""The output folder of a synthesis: whose it is, what was read, and one writer at a time."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from openclara.errors import ConfigError, DataError
from openclara.synthesis.passages import Passage, Reading
from openclara.synthesis.shards import LineFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from openclara.config import SynthesisConfig

RECIPE, PASSAGES, LOCK = "recipe.json", "passages.jsonl.gz", ".lock"

_FREE = {
    "output",
    "cache",
    "retry_failed",
    "candidates",
}
"""Fields that change nothing that is kept: candidates are found anew each time."""

_FREE_OF_TEACHER = {
    "api_key_env",
    "concurrency",
    "requests_per_minute",
    "tokens_per_minute",
    "max_attempts",
    "timeout_s",
    "budget_tokens",
    "budget_money",
    "price_prompt",
    "price_completion",
    "device",
}
"""Fields of teachers that change how a reply comes, not what it says."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Be the one process that works in a folder, which is made if it is not there.

    Raises:
        ConfigError: Another one is.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=0):
            yield
    except Timeout:
        raise ConfigError(
            f"another process is working in {folder}; wait until it is done, or give another output"
        ) from None


def claim(folder: Path, recipe: SynthesisConfig, fingerprint: str) -> str:
    """See that a folder is of this recipe and teacher, or make it so; their identity.

    Raises:
        ConfigError: It is of others.
        DataError: Its recipe is damaged.
    """
    about = _essence(recipe) | {"teacher_fingerprint": fingerprint}
    path = folder / RECIPE
    if path.is_file():
        try:
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            differing = [name for name in about if known.get(name) != about[name]]
        except (ValueError, AttributeError):
            raise DataError(f"{path} is damaged; give another output folder") from None
        if differing:
            raise ConfigError(
                f"{folder} holds a synthesis of another recipe ({', '.join(differing)} differ); "
                "give another output folder, or delete that one"
            )
    else:
        part = path.with_name(f"{path.name}.part")
        part.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _essence(recipe: SynthesisConfig) -> dict[str, Any]:
    tree = recipe.model_dump(mode="json", exclude=_FREE)
    tree["teacher"] = {k: v for k, v in tree["teacher"].items() if k not in _FREE_OF_TEACHER}
    return tree


def kept_passages(
    folder: Path, read: Callable[[], tuple[list[Passage], Reading]]
) -> tuple[list[Passage], Reading]:
    """The passages of a folder: those of its first sitting, else as they are read now.

    They are kept because a run that is continued must not see documents that changed meanwhile.

    Raises:
        DataError: The file of them is damaged, or there is nothing to synthesize from.
    """
    path = folder / PASSAGES
    if path.is_file():
        return _load(path)
    passages, reading = read()
    if not passages:
        raise DataError(
            "the documents hold no passage of enough words; name others, or lower "
            "passages.min_words"
        )
    with LineFile(path) as file:
        file.write(asdict(reading))
        for passage in passages:
            file.write(asdict(passage))
    return passages, reading


def _load(path: Path) -> tuple[list[Passage], Reading]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            reading = Reading(**json.loads(next(lines)))
            return [Passage(**json.loads(line)) for line in lines], reading
    except (OSError, EOFError, zlib.error, ValueError, TypeError, StopIteration) as error:
        raise DataError(
            f"{path} is damaged ({error}); delete it to read the documents again"
        ) from None
