"""LangChain: a chain that answers from latents, beside one that shows what it read.

pip install 'openclara[langchain]'
python examples/langchain_chain.py
"""

from __future__ import annotations

import tempfile

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel

from openclara import Clara, LatentIndex
from openclara.corpus import passages
from openclara.integrations.langchain import ChatClara, ClaraRetriever

with tempfile.TemporaryDirectory() as folder:
    clara = Clara.load("smollm2-135m")
    index = LatentIndex.open(f"{folder}/corpus.idx", clara.latent_spec)
    index.add(clara.compress(passages()[:30]))

    prompt = ChatPromptTemplate.from_template("{question}")
    answer = prompt | ChatClara(clara=clara, index=index) | StrOutputParser()
    sources = (lambda asked: asked["question"]) | ClaraRetriever(clara=clara, index=index, k=3)
    chain = RunnableParallel(answer=answer, sources=sources)

    result = chain.invoke({"question": "Which Ottoman sultan turned Hagia Sophia into a mosque?"})
    print(result["answer"])
    for document in result["sources"]:
        about = document.metadata
        print(f"{about['score']:.3f}  {about['title']}  {about['start']}-{about['end']}")

    for piece in answer.stream({"question": "Which pope consecrated the Sagrada Familia in 2010?"}):
        print(piece, end="", flush=True)
    print()
    index.close()
