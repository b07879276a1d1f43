"""Retrieval-augmented generation on compressed latents.

Documents are read once, kept as a few vectors each, found by these vectors and answered from them.

    clara = Clara.load("smollm2-135m")
    index = LatentIndex.open("my.index", clara.latent_spec)
    index.add(clara.compress(read_documents("docs/")))
    answer = clara.ask("Who designed the Sydney Opera House?", index)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openclara.data.reading import read_documents
    from openclara.index.store import LatentIndex
    from openclara.pipeline import Clara
    from openclara.training.run import train
    from openclara.types import Answer, Document, Hit, LatentSpec

    __version__: str

__all__ = [
    "Answer",
    "Clara",
    "Document",
    "Hit",
    "LatentIndex",
    "LatentSpec",
    "read_documents",
    "train",
]

_HOMES = {
    "Answer": "types",
    "Clara": "pipeline",
    "Document": "types",
    "Hit": "types",
    "LatentIndex": "index.store",
    "LatentSpec": "types",
    "read_documents": "data.reading",
    "train": "training.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch takes seconds, `--help` must not."""
    if name == "__version__":
        from importlib.metadata import version

        return version("openclara")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Public names, also those not imported yet."""
    return sorted({*globals(), *__all__, "__version__"})
