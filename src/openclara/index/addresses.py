"""Addresses of indexes: a folder, or `milvus:` and where Milvus is. Imports no torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from openclara.errors import ConfigError
from openclara.index.layout import Layout

if TYPE_CHECKING:
    from openclara.index.interface import Index
    from openclara.index.layout import Quantization
    from openclara.types import LatentSpec

PREFIX = "milvus:"


def shown(address: str) -> str:
    """An address, or a text with one in it, without the name and password that a URI may carry."""
    return re.sub(r"(://)[^/@\s]*@", r"\1***@", address)


def is_index(address: str) -> bool:
    """Whether an address is one of an index: `milvus:...`, or a folder that holds one."""
    return address.startswith(PREFIX) or Layout(Path(address)).manifest.is_file()


def open_index(
    address: str,
    spec: LatentSpec | None = None,
    *,
    quantization: Quantization | None = None,
    exact: bool = False,
) -> Index:
    """Open the index at an address.

    Args:
        address: A folder, or `milvus:` with the URI of a server or the path of embedded Milvus.
        spec: As `LatentIndex.open` takes it.
        quantization: Likewise.
        exact: Leave the coarse stage of a folder aside.

    Raises:
        ConfigError: Exact search is asked of Milvus.
        OpenClaraError: As `LatentIndex.open` and `MilvusIndex.open`.
    """
    if address.startswith(PREFIX):
        if exact:
            raise ConfigError(
                f"{shown(address)} is an index in Milvus, which always nominates by its own "
                "search: leave --exact out, or copy it with "
                f"`openclara convert {shown(address)} FOLDER`"
            )
        from openclara.index.milvus import MilvusIndex

        return MilvusIndex.open(address.removeprefix(PREFIX), spec, quantization=quantization)
    from openclara.index.coarse.settings import EXACT, Coarse
    from openclara.index.store import LatentIndex

    coarse = EXACT if exact else Coarse()
    return LatentIndex.open(address, spec, quantization=quantization, coarse=coarse)


def spec_at(address: str) -> LatentSpec | None:
    """What the latents of the index at an address were made with; None where there is none yet.

    Raises:
        OpenClaraError: There is one, and it cannot be opened.
    """
    if address.startswith(PREFIX):
        from openclara.index.milvus import MilvusIndex

        there = MilvusIndex.exists(address.removeprefix(PREFIX))
    else:
        there = Layout(Path(address)).manifest.exists()
    if not there:
        return None
    with open_index(address) as index:
        return index.spec


def folder_of(address: str) -> Path:
    """The folder at an address, for what only folders have.

    Raises:
        ConfigError: The index is in Milvus.
    """
    if address.startswith(PREFIX):
        raise ConfigError(
            f"{shown(address)} is an index in Milvus, and this works on folders only: "
            f"copy it into one with `openclara convert {shown(address)} FOLDER`"
        )
    return Path(address)
