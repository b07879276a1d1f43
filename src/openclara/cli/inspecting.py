"""`openclara inspect`: what the latents of documents and questions say."""

# Without `from __future__ import annotations`: cyclopts reads annotations when a command is called.

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import CycloptsError, Parameter

from openclara.cli import render
from openclara.cli.latents import inspection
from openclara.cli.loading import load_model, load_model_of
from openclara.cli.options import AtLeastOne, Json, ModelOptions, Words
from openclara.errors import DataError
from openclara.index.addresses import open_index
from openclara.types import Document

if TYPE_CHECKING:
    from openclara.pipeline import Clara
    from openclara.pipeline.inspecting import Inspection


def inspect(
    *texts: Words,
    question: str | None = None,
    index: str | None = None,
    id: Annotated[tuple[str, ...], Parameter(name="--id", negative="", show_default=False)] = (),
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    n_memory: AtLeastOne | None = None,
    top: AtLeastOne = 5,
    as_json: Json = False,
) -> None:
    """Show what latents say: the words they decode to, what they carry, where they look.

    Args:
        texts: Files, folders, patterns, - for standard input, or a text itself.
        question: A question to look into as well, as the reasoner reads it.
        index: Folder of an index, or milvus: and where Milvus is: its model is used, and stored
            documents can be named.
        id: Document of that index; give it several times for several.
        model: Which model.
        n_memory: Latents for each passage; the index's or the model's own number if left out.
        top: Words shown for each latent.
        as_json: Print JSON instead.
    """
    if id and index is None:
        raise CycloptsError(msg="inspect needs --index with --id")
    if not texts and question is None and not id:
        raise CycloptsError(msg="inspect needs a text, a file, --question, or --index with --id")
    if question is not None and not question.strip():
        raise DataError("the question is empty; ask something")
    documents = list(_documents(texts))
    if index is None:
        from openclara.model.zoo import DEFAULT_MODEL

        clara = load_model(model.model or DEFAULT_MODEL, model, n_memory=n_memory)
        found = _inspected(clara, documents, question, n_memory, top)
        _show(clara, found, as_json=as_json)
        return
    with open_index(index) as opened:
        clara = load_model_of(opened, model)
        from openclara.pipeline.inspecting import inspect_stored

        stored = inspect_stored(clara, opened, id, n_memory=n_memory, top=top)
        used = n_memory or opened.spec.n_memory
        fresh = _inspected(clara, documents, question, used, top)
        _show(clara, [*stored, *fresh], as_json=as_json)


def _inspected(
    clara: "Clara",
    documents: Sequence[Document],
    question: str | None,
    n_memory: int | None,
    top: int,
) -> "list[Inspection]":
    from openclara.pipeline.inspecting import inspect_document, inspect_question

    found = [
        one
        for document in documents
        for one in inspect_document(clara, document, n_memory=n_memory, top=top)
    ]
    if question is not None:
        found.append(inspect_question(clara, question, n_memory=n_memory, top=top))
    return found


def _documents(texts: Sequence[str]) -> Iterator[Document]:
    """Documents of files and texts, in the order given.

    Raises:
        DataError: A text is blank, or a file is missing or unreadable.
    """
    from openclara.data.reading import read_documents

    n_texts = 0
    for text in texts:
        if not text.strip():
            raise DataError("a text is empty; write something in it, or name a file")
        if _names_a_file(text):
            yield from read_documents(text)
            continue
        n_texts += 1
        yield Document(id=f"text {n_texts}", text=text)


def _names_a_file(text: str) -> bool:
    """Whether an argument stands for a file rather than for itself; misspelt names do as well."""
    if text == "-":
        return True
    try:
        if Path(text).exists():
            return True
    except (OSError, ValueError):  # too long for a name, or it holds a NUL
        return False
    # One word with a suffix, a folder or a wildcard in it was meant as a name.
    one_word = len(text.split()) == 1
    return one_word and bool(Path(text).suffix or os.sep in text or "*" in text)


def _show(clara: "Clara", found: "Sequence[Inspection]", *, as_json: bool) -> None:
    if as_json:
        from openclara.pipeline.inspection_record import inspection_record

        inspected = [inspection_record(one) for one in found]
        render.json_line({"model": clara.latent_spec.model, "inspected": inspected})
        return
    for at, one in enumerate(found):
        if at:
            render.blank()
        inspection(one)
