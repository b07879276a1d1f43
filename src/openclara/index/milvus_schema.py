"""Connecting to Milvus and making the collections of an index."""

from __future__ import annotations

from typing import Any

from openclara.errors import OpenClaraError
from openclara.index.milvus_rows import UNUSED

TEXT = 65_535
HASH = 128


def connect(address: str) -> Any:
    """A client.

    Raises:
        OpenClaraError: Milvus cannot be reached, or its packages are not installed.
    """
    try:
        from pymilvus import MilvusClient
        from pymilvus.exceptions import MilvusException
    except ImportError as error:
        raise OpenClaraError(
            "an index in Milvus needs pymilvus: pip install 'openclara[milvus]'"
        ) from error
    try:
        return MilvusClient(address)
    except (MilvusException, OSError) as error:
        raise OpenClaraError(
            f"Milvus at {address} cannot be reached ({error}): check the address, or start it"
        ) from error


def create(client: Any, name: str, width: int, manifest: str) -> None:
    """Make the collections; the manifest comes last.

    Args:
        client: Of `connect`.
        name: Of the index.
        width: D.
        manifest: What `Manifest.to_json` made.
    """
    from pymilvus import DataType

    number, text = DataType.INT64, DataType.VARCHAR
    numbers = ("ordinal", "version", "latents", "pieces", "chunks")
    documents = {"name": (text, HASH), **dict.fromkeys(numbers, (number, 0))}
    documents |= {"framed": (text, HASH), "content": (text, HASH), "unused": (None, 2)}
    owner = {"key": (text, 2 * HASH), "name": (text, HASH), "version": (number, 0)}
    latents = {**owner, "chunk": (number, 0), "token": (number, 0), "vector": (None, width)}
    pieces = {**owner, "part": (text, TEXT), "unused": (None, 2)}
    for kind, fields in (("documents", documents), ("latents", latents), ("pieces", pieces)):
        collection = f"{name}_{kind}"
        if client.has_collection(collection):
            client.drop_collection(collection)  # of a creation that was interrupted
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        for position, (field, (type_, size)) in enumerate(fields.items()):
            if type_ is text:
                schema.add_field(field, text, max_length=size, is_primary=position == 0)
            elif type_ is number:
                schema.add_field(field, number)
            else:
                schema.add_field(field, DataType.FLOAT_VECTOR, dim=size)
        params = client.prepare_index_params()
        vector = list(fields)[-1]
        params.add_index(vector, index_type="AUTOINDEX", metric_type="COSINE")
        client.create_collection(
            collection, schema=schema, index_params=params, consistency_level="Strong"
        )
    row = {"key": "manifest", "name": "", "version": 0, "part": manifest, "unused": UNUSED}
    client.insert(f"{name}_pieces", [row])
