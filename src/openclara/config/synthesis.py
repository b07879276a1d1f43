"""The recipe of a data synthesis: documents, teacher, quality, and what comes out."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - pydantic reads it
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from openclara.config.strict import Strict


class OpenAITeacher(Strict):
    """A model behind an endpoint that speaks the API of OpenAI, hosted or local."""

    kind: Literal["openai"]
    model: str
    """Name of the model at the endpoint."""
    base_url: str = "https://api.openai.com/v1"
    """Address of the endpoint, with its version."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; it is never written anywhere."""
    concurrency: int = Field(16, ge=1, le=1024)
    """Requests under way at once."""
    requests_per_minute: int | None = Field(None, ge=1)
    """Most requests in a minute; no limit if left out."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Most tokens in a minute, read and written; no limit if left out."""
    max_attempts: int = Field(6, ge=1, le=100)
    """Tries of one task before it counts as failed."""
    timeout_s: float = Field(120.0, gt=0)
    """Longest wait for one request."""
    budget_tokens: int | None = Field(None, ge=1)
    """Tokens after which it stops, to be continued; over all sittings."""
    budget_money: float | None = Field(None, gt=0)
    """Money after which it stops, likewise; needs the prices."""
    price_prompt: float = Field(0.0, ge=0)
    """Price of a million tokens read, in any currency."""
    price_completion: float = Field(0.0, ge=0)
    """Price of a million tokens written."""
    temperature: float = Field(0.7, ge=0, le=2)
    """Of questions and paraphrases; answers and verdicts are always the likeliest."""
    max_new_tokens: int = Field(1024, ge=16)
    """Longest reply, in tokens."""
    seed: int = 0
    """Sent with each request; many endpoints honour it."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Fields of a request that only this endpoint knows."""


class LocalTeacher(Strict):
    """A causal language model on this machine, through transformers."""

    kind: Literal["local"]
    base: str
    """Base model with a chat template: `smollm2-135m`, a folder, or a hub id."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `mps`."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic."""
    batch_size: int = Field(8, ge=1, le=1024)
    """Tasks decoded together; part of what a reply follows from, as rounding depends on it."""
    temperature: float = Field(0.0, ge=0, le=2)
    """Of questions and paraphrases; 0 always takes the likeliest token."""
    seed: int = 0
    """Of sampling."""
    max_new_tokens: int = Field(256, ge=16)
    """Longest reply, in tokens."""


class RulesTeacher(Strict):
    """Rules alone: free, fast and dull; to try things out, and where there is no model."""

    kind: Literal["rules"]


TeacherConfig = Annotated[OpenAITeacher | LocalTeacher | RulesTeacher, Field(discriminator="kind")]


class PassagesConfig(Strict):
    """How documents become passages, each of which the compressor reads whole."""

    base: str | None = None
    """Base model whose tokens are counted; an estimate that errs on the safe side if left out."""
    doc_max_length: int = Field(256, ge=8, le=8192)
    """Longest passage with its title, in tokens; as in the recipe of the training."""
    min_words: int = Field(12, ge=1)
    """Shorter passages are left out."""


class QualityConfig(Strict):
    """When it is enough, and what is good enough (paper, appendix on data synthesis)."""

    rounds: int = Field(10, ge=1, le=10)
    """Most rounds of questions on one passage."""
    coverage: float = Field(0.9, ge=0, le=1)
    """Part of a passage's facts that its pairs shall mention; rounds go on below it."""
    min_coverage: float = Field(0.5, ge=0, le=1)
    """Below this the pairs of a passage are rejected, however good each may be."""
    max_answer_words: int = Field(30, ge=1)
    """Longer answers are rejected."""
    duplicate: float = Field(0.8, gt=0, le=1)
    """Overlap of words from which two questions of a passage count as the same."""
    agreement: float = Field(0.6, ge=0, le=1)
    """F1 of words that the answer given a second time must reach with the first."""
    paraphrases: int = Field(3, ge=0, le=10)
    """Tries of a paraphrase; 0 asks for none."""
    max_copied: float = Field(0.7, gt=0, le=1)
    """Part of a paraphrase's runs of four words that may stand in the passage."""
    max_in_order: float = Field(0.6, gt=0, le=1)
    """Or that stand there in the same order: a paraphrase must say it in other words or in another
    order."""


class CandidatesConfig(Strict):
    """Other passages beside the one that answers, for the stages after the first."""

    k: int = Field(5, ge=1)
    """Passages of a record of stage 2."""
    n_candidates: int = Field(20, ge=2)
    """Passages of a record of stage 3."""
    per_passage: int = Field(4, ge=0)
    """Questions of one passage that become records of stages 2 and 3, drawn by seed."""
    duplicate: float = Field(0.7, gt=0, le=1)
    """Overlap of words from which a passage is too like the answering one to stand beside it."""
    model: str | None = None
    """Find candidates by latents and words with this model, not by words alone."""


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class SynthesisConfig(Strict):
    """A whole synthesis."""

    output: Path
    """Folder for records, rejected items, cache and report; run again, it goes on."""
    documents: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(min_length=1)
    """Files, folders and patterns, as `openclara index add` reads them."""
    limit: int | None = Field(None, ge=1)
    """Most passages, drawn by seed; all if left out."""
    held_out: float = Field(0.01, ge=0, lt=1)
    """Part of the documents whose records go to the held-out files, by hash of the document."""
    seed: int = 0
    """Draws the limit, candidates, their order, and the samples of the report."""
    shard_size: int = Field(256, ge=1)
    """Passages that are finished together."""
    cache: Path | None = None
    """File of replies, to share among folders; `cache.sqlite` in the output if left out."""
    retry_failed: bool = False
    """Ask again what the teacher failed on in an earlier sitting."""
    passages: PassagesConfig = PassagesConfig()
    """Cutting of documents."""
    quality: QualityConfig = QualityConfig()
    """Rounds and acceptance."""
    candidates: CandidatesConfig = CandidatesConfig()
    """Records of stages 2 and 3."""
    teacher: TeacherConfig
    """Who asks and answers."""
