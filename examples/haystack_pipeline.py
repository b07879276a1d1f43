"""Haystack: one pipeline fills an index, another answers from it after it was saved and loaded.

pip install 'openclara[haystack]'
python examples/haystack_pipeline.py
"""

from __future__ import annotations

import tempfile

from haystack import Document, Pipeline

from openclara.corpus import passages
from openclara.integrations.haystack import ClaraDocumentWriter, ClaraGenerator

with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/corpus.idx"
    indexing = Pipeline()
    indexing.add_component("writer", ClaraDocumentWriter(path))
    documents = [
        Document(id=passage.id, content=passage.text, meta={"title": passage.title})
        for passage in passages()[:30]
    ]
    print(indexing.run({"writer": {"documents": documents}}))

    asking = Pipeline()
    asking.add_component("generator", ClaraGenerator(path))
    saved = asking.dumps()  # names and settings, no model

    loaded = Pipeline.loads(saved, allowed_modules=["openclara.integrations.haystack"])
    question = "Which Ottoman sultan turned Hagia Sophia into a mosque?"
    (answer,) = loaded.run({"generator": {"query": question}})["generator"]["answers"]
    print(answer.data)
    for document in answer.documents:
        about = document.meta
        print(f"{document.score:.3f}  {about['title']}  {about['start']}-{about['end']}")
