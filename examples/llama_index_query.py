"""LlamaIndex: a query engine that answers from latents, at once and as a stream.

pip install 'openclara[llama-index]'
python examples/llama_index_query.py
"""

from __future__ import annotations

import tempfile

from openclara import Clara, LatentIndex
from openclara.corpus import passages
from openclara.integrations.llama_index import ClaraQueryEngine

with tempfile.TemporaryDirectory() as folder:
    clara = Clara.load("smollm2-135m")
    index = LatentIndex.open(f"{folder}/corpus.idx", clara.latent_spec)
    index.add(clara.compress(passages()[:30]))

    engine = ClaraQueryEngine(clara, index)
    response = engine.query("Which Ottoman sultan turned Hagia Sophia into a mosque?")
    print(response)
    for found in response.source_nodes:
        node = found.node
        title, start, end = node.metadata["title"], node.start_char_idx, node.end_char_idx
        print(f"{found.score:.3f}  {title}  {start}-{end}")

    streaming = ClaraQueryEngine(clara, index, streaming=True)
    streaming.query("Which pope consecrated the Sagrada Familia in 2010?").print_response_stream()
    print()
    index.close()
