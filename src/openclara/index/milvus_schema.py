"""Making the collections of an index in Milvus, and making them ready."""

from __future__ import annotations

from typing import Any

from openclara.index.milvus_rows import UNUSED

TEXT = 65_535
HASH = 128
KINDS = ("documents", "latents", "pieces")


def create(client: Any, name: str, width: int, manifest: str) -> None:
    """Make the collections; the manifest comes last.

    Args:
        client: Of `milvus_connection.connect`.
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
    for kind, fields in zip(KINDS, (documents, latents, pieces), strict=True):
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


def load(client: Any, name: str) -> None:
    """Make the collections ready to be read: embedded Milvus starts without any.

    Args:
        client: Of `milvus_connection.connect`.
        name: Of the index.
    """
    for kind in KINDS:
        client.load_collection(f"{name}_{kind}")
