"""`openclara convert`: a trained model into another layout, or an index into another store."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

from pathlib import Path
from typing import Literal

from openclara.cli import render
from openclara.cli.options import Word
from openclara.index.addresses import is_index, shown


def convert(
    source: str,
    target: Word,
    /,
    *,
    to: Literal["openclara", "published", "peft", "merged"] | None = None,
    subfolder: str | None = None,
    base: str | None = None,
) -> None:
    """Write a trained model in another layout, or an index into another store.

    A folder with an index is copied into Milvus with a target such as milvus:docs.db (embedded) or
    milvus:http://localhost:19530 (a server), and back with such a source.

    Without --to, a published checkpoint becomes one of openclara and the other way round.

    Args:
        source: Zoo name, run folder, published checkpoint, hub id, or an index.
        target: New folder to write, or an index.
        to: openclara, published, peft (one adapter for each role), or merged (the base with the
            generator in it, as a plain causal LM).
        subfolder: Folder inside the source that holds the checkpoint.
        base: Folder or hub id of the base, where the one that the source names is not here.
    """
    if is_index(source):
        from openclara.index.migration import migrate

        with render.waiting(f"copying {shown(source)}"):
            report = migrate(source, target)
        render.result(
            f"{render.counted(report.added, 'document')} copied to {shown(target)}, "
            f"{report.updated:,} updated, {report.unchanged:,} there already"
        )
        return
    with render.waiting(f"reading {source} and its base"):
        from openclara.model.conversion import convert as carry_out

        notes = carry_out(source, Path(target), to=to, subfolder=subfolder, base=base)
    for note in notes:
        render.warning(note)
    render.result(f"written to {target}")
