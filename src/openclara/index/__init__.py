"""The index: documents, their latents and their words, in one folder. Knows no model code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openclara.index.layout import Quantization
    from openclara.index.milvus import MilvusIndex
    from openclara.index.reports import AddReport, CompactReport, IndexInfo, VerifyReport
    from openclara.index.store import LatentIndex

__all__ = [
    "AddReport",
    "CompactReport",
    "IndexInfo",
    "LatentIndex",
    "MilvusIndex",
    "Quantization",
    "VerifyReport",
]

_HOMES = {
    "AddReport": "reports",
    "CompactReport": "reports",
    "IndexInfo": "reports",
    "LatentIndex": "store",
    "MilvusIndex": "milvus",
    "Quantization": "layout",
    "VerifyReport": "reports",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the store needs torch, the layout does not."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
