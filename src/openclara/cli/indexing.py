"""`openclara index ...`: documents into an index, and its upkeep."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import glob
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import CycloptsError, Parameter

from openclara.cli import render
from openclara.cli.engines import compressor
from openclara.cli.options import AtLeastOne, EngineOptions, Flag, Json, ModelOptions, Words
from openclara.errors import DataError
from openclara.index.addresses import folder_of, open_index
from openclara.index.layout import Quantization

if TYPE_CHECKING:
    from openclara.index import AddReport, IndexInfo
    from openclara.types import Document

SHOWN_PROBLEMS = 20
"""Skipped files that are named one by one; the rest is counted."""


def add(
    address: str,
    /,
    *files: Words,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    engine: EngineOptions = EngineOptions(),  # noqa: B008 - frozen
    n_memory: AtLeastOne | None = None,
    quantization: Quantization | None = None,
    on_unreadable: Literal["skip", "stop"] = "skip",
    as_json: Json = False,
) -> None:
    """Compress documents into an index, which is made where there is none.

    What the index holds already is not compressed again, so an interrupted run is continued by
    running it again.

    Args:
        address: Folder of the index, or milvus: and where Milvus is: milvus:docs.db (embedded) or
            milvus:http://localhost:19530 (a server).
        files: Files, folders, patterns, addresses such as s3://bucket/folder or
            hf://datasets/name, or - for standard input.
        model: Which model.
        engine: Who compresses.
        n_memory: Latents for each passage, in a new index; the model's own number if left out.
        quantization: How a new index stores latents; bf16 if left out.
        on_unreadable: What to do about a file that cannot be read.
        as_json: Print JSON instead.
    """
    from openclara.data.reading import count_files

    skipped: list[DataError] = []
    documents = _read(files, skipped if on_unreadable == "skip" else None)
    # Known before the model is loaded: is there anything, and whose index is it?
    first = next(documents, None)
    if first is None:
        raise _nothing_read(skipped)
    with (
        compressor(address, model, engine, n_memory=n_memory) as clara,
        open_index(address, clara.latent_spec, quantization=quantization) as index,
        render.adding(count_files(files)) as progress,
    ):
        stream = clara.compress(
            progress.reading(chain([first], documents)), on_progress=progress.compressed
        )
        report = index.add(stream, on_progress=progress.stored)
        rate = progress.rate
    _report_skipped(skipped)
    if as_json:
        render.json_line({**asdict(report), "skipped": [str(error) for error in skipped]})
        return
    if engine.engine == "ray" and report.chunks:
        render.note(f"compressed {rate:.1f} documents/s with the workers together")
    _report_added(report)


def join(
    address: str,
    parts: str,
    /,
    *,
    quantization: Quantization | None = None,
    as_json: Json = False,
) -> None:
    """Join finished parts of `index add --engine ray --parts PARTS` to an index.

    Parts come in the order in which their documents were read; what the index holds already is
    left as it is, so joining them again changes nothing.

    Args:
        address: As `index add` takes it; the index is made where there is none.
        parts: Folder or address of the parts.
        quantization: How a new index stores latents; bf16 if left out.
        as_json: Print JSON instead.
    """
    from openclara.index.parts import PartFolder

    folder = PartFolder(parts)
    with (
        open_index(address, folder.spec(), quantization=quantization) as index,
        render.waiting("joining"),
    ):
        report = index.add(folder.documents())
    if as_json:
        render.json_line(asdict(report))
    else:
        _report_added(report)


def info(address: str, /, *, as_json: Json = False) -> None:
    """Show an index in numbers.

    Args:
        address: Folder of the index, or milvus: and where Milvus is, such as milvus:docs.db.
        as_json: Print JSON instead.
    """
    from openclara.index import LatentIndex

    with open_index(address) as index:
        spec, quantization = index.spec, index.quantization
        documents, chunks = len(index), index.n_chunks
        about = index.info() if isinstance(index, LatentIndex) else None
    if as_json:
        record = {
            "path": str(index.path), "documents": documents, "chunks": chunks,
            "spec": asdict(spec), "quantization": quantization,
        }  # fmt: skip
        if about is not None:
            record |= {**asdict(about), "total_bytes": about.total_bytes}
        render.json_line(record)
        return
    rows = [
        ("index", str(index.path)),
        ("documents", f"{documents:,}"),
        ("chunks", f"{chunks:,} of at most {spec.doc_max_length} tokens"),
        ("model", f"{spec.model} ({spec.fingerprint[:12]})"),
        ("latents", f"{spec.n_memory} of width {spec.width} a chunk, as {quantization}"),
    ]
    if about is not None:
        rows += [
            ("bytes a chunk", f"{about.bytes_per_chunk:,}"),
            ("coarse stage", _coarse(about)),
            ("size", _sizes(about)),
            ("shards", f"{about.shards:,}, with {render.counted(about.dead_rows, 'dead row')}"),
            ("last change", about.updated),
        ]
    render.fields(rows)


def delete(
    address: str,
    /,
    *ids: str,
    where: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    as_json: Json = False,
) -> None:
    """Remove documents; in a folder `openclara index compact` wins their space back.

    Args:
        address: Folder of the index, or milvus: and where Milvus is, such as milvus:docs.db.
        ids: Documents to remove.
        where: Remove also what this filter holds for, such as year<2020; given several times, all
            must hold.
        as_json: Print JSON instead.
    """
    if not ids and not where:
        raise CycloptsError(msg="index delete needs IDS or --where")
    with open_index(address) as index:
        unknown = [name for name in ids if name not in index]
        removed = index.delete(ids, where=where)
        left = len(index)
    if unknown:
        render.warning(f"not in the index, so not removed: {', '.join(unknown)}")
    if as_json:
        render.json_line({"removed": removed, "unknown": unknown, "documents": left})
    else:
        render.result(f"removed {render.counted(removed, 'document')}, {left:,} left")


def compact(path: str, /, *, as_json: Json = False) -> None:
    """Rewrite the latents without those of removed documents, and shrink the database.

    Args:
        path: Folder of the index.
        as_json: Print JSON instead.
    """
    from openclara.index import LatentIndex

    with LatentIndex.open(folder_of(path)) as index, render.waiting("compacting"):
        report = index.compact()
    if as_json:
        render.json_line(asdict(report))
        return
    freed = report.freed_bytes
    render.result(
        f"removed {render.counted(report.removed_rows, 'dead row')}, shards "
        f"{report.shards_before:,} → {report.shards_after:,}, "
        f"{'freed' if freed >= 0 else 'grew by'} {render.size(abs(freed))}"
    )


def verify(path: str, /, *, repair: Flag = False, as_json: Json = False) -> int:
    """Compare everything with what was recorded when it was written.

    Args:
        path: Folder of the index.
        repair: Drop the documents that are damaged, so that adding their files again compresses
            only those.
        as_json: Print JSON instead.

    Returns:
        1 if damage is left, else 0.
    """
    from openclara.index import LatentIndex

    with LatentIndex.open(folder_of(path)) as index, render.waiting("verifying"):
        report = index.verify(repair=repair)
    if as_json:
        render.json_line({"ok": report.ok, **asdict(report)})
    else:
        for problem in report.problems:
            render.result(problem)
        if report.dropped:
            render.result(f"dropped, to be added again: {', '.join(report.dropped)}")
        elif report.ok:
            render.result("everything is as it was written")
    if report.ok or repair:
        return 0
    render.error(
        f"{render.counted(len(report.problems), 'problem')} found; run `openclara index verify "
        f"{path} --repair`, then add the files of the dropped documents again"
    )
    return 1


def _read(files: Sequence[str], skipped: list[DataError] | None) -> Iterator["Document"]:
    """Documents of some files; what cannot be read is collected, or with None stops the run."""
    from openclara.data.reading import read_documents
    from openclara.data.remote import is_address

    if not files:
        raise CycloptsError(msg="index add needs FILES: files, folders, patterns, or - for stdin")
    for name in files:
        # Skipping is for what cannot be read; a name that leads nowhere is a slip of the user's.
        local = name != "-" and not is_address(name)
        if local and not Path(name).exists() and not glob.has_magic(name):
            raise DataError(f"{name} does not exist; check the path")
    return read_documents(files, on_unreadable=None if skipped is None else skipped.append)


def _nothing_read(skipped: Sequence[DataError]) -> DataError:
    if len(skipped) == 1:
        return skipped[0]
    _report_skipped(skipped)
    return DataError(f"none of the {len(skipped)} files could be read; mend them, or give others")


def _report_skipped(skipped: Sequence[DataError]) -> None:
    for error in skipped[:SHOWN_PROBLEMS]:
        render.warning(f"skipped: {error}")
    if len(skipped) > SHOWN_PROBLEMS:
        render.warning(f"skipped: {len(skipped) - SHOWN_PROBLEMS:,} more")


def _sizes(about: "IndexInfo") -> str:
    parts = [
        f"latents {render.size(about.latent_bytes)}",
        f"texts and words {render.size(about.database_bytes)}",
    ]
    if about.coarse_bytes:
        parts.append(f"coarse stage {render.size(about.coarse_bytes)}")
    return f"{render.size(about.total_bytes)} ({', '.join(parts)})"


def _coarse(about: "IndexInfo") -> str:
    """Whether chunks are nominated before they are scored, and if not, why."""
    from openclara.index.coarse.settings import Coarse

    if about.coarse_segments:
        held = render.counted(about.coarse_segments, "file")
        return f"codes of {about.coarse_chunks:,} chunks in {held}"
    return f"none, made by the first change from {Coarse().from_chunks:,} chunks on"


def _report_added(report: "AddReport") -> None:
    nothing = " (nothing compressed for them)" if report.unchanged else ""
    render.result(
        f"added {report.added:,}, updated {report.updated:,}, unchanged {report.unchanged:,}"
        f"{nothing}, {render.counted(report.chunks, 'chunk')}"
    )
