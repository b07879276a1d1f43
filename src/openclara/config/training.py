"""The recipe of a training run.

Values are layered: field default < parent run (`init_from`) < recipe file < command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from openclara.config.strict import Strict


class ModelConfig(Strict):
    """What is fixed for the life of a model; later stages inherit it from their parent run."""

    base: str = "smollm2-135m"
    """Base model: `smollm2-135m`, a folder, or a hub id."""
    n_memory: int = Field(64, ge=1, le=1024)
    """Memory tokens trained; any prefix is a usable rate."""
    default_n_memory: int = Field(16, ge=1, le=1024)
    """Memory tokens used when none are asked for."""
    doc_max_length: int = Field(256, ge=8, le=8192)
    """Longest chunk, in tokens."""
    rank: int = Field(16, ge=1, le=512)
    """LoRA rank of every role (paper: 16)."""
    alpha: float = Field(32.0, gt=0)
    """LoRA alpha (paper: twice the rank)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """LoRA dropout in training (paper: 0.1)."""
    memory: Literal["learned", "anchored"] = "learned"
    """Memory tokens as learned rows alone (published), or each anchored at a token of the text."""
    score: Literal["flat", "late"] = "flat"
    """Cosine of the flattened latents (published), or the best cosine of each latent of a question,
    whichever memory token of the document it is with."""
    query_n_memory: int = Field(16, ge=1, le=1024)
    """Latents of a question under the late score; under the flat one as many as of a document."""
    latent_gain: float = Field(1.0, gt=0)
    """Factor on latents as they are spliced into a prompt (published code: 1)."""
    latent_layer: int = Field(0, ge=0)
    """Where latents enter the generator: after so many of its layers, which are all that compressor
    and reasoner use. 0 is at the input, after the whole compressor (published); others are for
    anchored memory. With `init_from` 0 may be raised: both roles then start as the generator."""


class DataConfig(Strict):
    """One file of training records."""

    path: Path
    """JSON Lines, plain or .gz; relative to `data_root`, or to where the command is run if there is
    no such file: what a synthesis made stands in a run folder."""
    sources: tuple[str, ...] = ()
    """Keep only records whose `source` starts with one of these; all if empty."""
    limit: int | None = Field(None, ge=1)
    """Keep at most this many examples, chosen by seed."""
    repeat: int = Field(1, ge=1, le=100)
    """How often an epoch goes through this file."""


class CompressStage(Strict):
    """Compressor and generator learn to carry a passage through latents (paper, section 3.1)."""

    kind: Literal["compress"]
    alignment: float = Field(0.1, ge=0)
    """Weight of the squared distance between mean text state and mean memory state."""
    max_pairs: int = Field(8, ge=1)
    """Question-answer pairs of one passage that share its compression."""
    question_targets: bool = True
    """The generator also learns to write the questions, as in the published code."""
    contrast: float = Field(0.0, ge=0)
    """Weight of a contrastive loss: the reasoner finds a question's passage among the batch's."""
    temperature: float = Field(0.05, gt=0)
    """Of that loss's softmax over the batch's scores."""


class InstructStage(Strict):
    """Compressor and generator learn to answer from k documents (paper, section 3.1)."""

    kind: Literal["instruct"]
    alignment: float = Field(0.1, ge=0)
    """As in the compress stage."""
    max_pairs: int = Field(1, ge=1)
    """As in the compress stage; the published code asks one question of each record."""
    k: int = Field(5, ge=1)
    """Documents in the prompt: the gold ones and distractors, in random order."""
    contrast: float = Field(0.0, ge=0)
    """As in the compress stage; the own distractors are among the batch's passages."""
    temperature: float = Field(0.05, gt=0)
    """As in the compress stage."""


class JointStage(Strict):
    """Reasoner and generator learn from the answer alone (paper, section 3.3)."""

    kind: Literal["joint"]
    k: int = Field(5, ge=1)
    """Documents chosen for the prompt."""
    n_candidates: int = Field(10, ge=1)
    """Candidates a question chooses from."""
    temperature: float = Field(0.02, gt=0)
    """Of the straight-through top-k (published code: 0.02)."""
    reasoner_from_compressor: bool = True
    """Start the reasoner as a copy of the compressor (paper, table 14), unless it is trained."""


class ReadStage(Strict):
    """The generator alone learns to read the latents of a frozen compressor.

    Nothing is propagated back through the documents, so a step takes less time than one of the
    compress stage, and stored latents stay valid unless [[salience]] is fitted anew.
    """

    kind: Literal["read"]
    max_pairs: int = Field(8, ge=1)
    """As in the compress stage."""
    k: int = Field(1, ge=1)
    """As in the instruct stage."""
    distractors: Literal["own", "batch"] = "own"
    """With `batch` every other prompt that has fewer than k documents gets some of the batch's
    other examples besides, their latents being there already: so a question on one passage is asked
    among several too."""


class TextStage(Strict):
    """Baseline: the generator learns to answer from the full text of k documents.

    The fair counterpart of the instruct stage, which the paper lacks: same records, same adapter,
    nothing compressed.
    """

    kind: Literal["text"]
    max_pairs: int = Field(8, ge=1)
    """Question-answer pairs of one example that share its reading, as in the compress stage."""
    k: int = Field(5, ge=1)
    """Documents in the prompt: the gold ones and distractors, in random order."""


class SupervisedStage(Strict):
    """Baseline: the reasoner learns from relevance labels (the paper's Sup rows, table 7)."""

    kind: Literal["supervised"]
    n_candidates: int = Field(10, ge=2)
    """Candidates of a question, the gold ones among them."""
    temperature: float = Field(0.02, gt=0)
    """Of the softmax over the candidates' cosines."""
    reasoner_from_compressor: bool = True
    """As in the joint stage."""


class OptimConfig(Strict):
    """AdamW with warm-up and cosine decay (paper, section 4 and published scripts)."""

    lr: float = Field(1e-4, gt=0)
    """Peak learning rate."""
    min_lr_ratio: float = Field(0.1, ge=0, le=1)
    """Learning rate at the end, as a part of the peak; 1 keeps it constant."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Linear warm-up, as a part of all steps."""
    steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    batch_tokens: int = Field(4096, ge=64)
    """Padded positions in one micro-batch, documents and prompts together."""
    accumulate: int = Field(1, ge=1)
    """Micro-batches of each process for one optimizer step."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """AdamW's first beta."""
    beta2: float = Field(0.95, ge=0, lt=1)
    """AdamW's second beta."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""
    clip: float = Field(1.0, gt=0)
    """Largest gradient norm."""


class RuntimeConfig(Strict):
    """What changes how a run is carried out, not what it learns."""

    seed: int = 42
    """Seeds initialisation, order, rates and candidates."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the base; adapters keep float32 masters. `auto`: bf16 where it is fast."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `mps` or `cuda:1`; of several GPUs the launcher says which."""
    attention: Literal["auto", "sdpa", "flash_attention_2"] = "auto"
    """Attention of the base; `auto` is our own on a CPU, else torch's (`sdpa`)."""
    quantization: Literal["none", "int4"] = "none"
    """`int4` keeps the base in 4 bits under the adapters (QLoRA); CUDA and bitsandbytes only."""
    gradient_checkpointing: bool = False
    """Recompute activations at backward: slower, less memory."""
    compile: Literal["auto"] | bool = False
    """Compile the layers: faster steps after a slower first one; `auto`: where that is possible."""
    save_every: int = Field(200, ge=1)
    """Steps between resumable states."""
    log_every: int = Field(10, ge=1)
    """Steps between lines of metrics.jsonl."""
    validate_every: int = Field(200, ge=1)
    """Steps between losses on the held-out part."""
    held_out: float = Field(0.01, ge=0, lt=0.5)
    """Part of the passages kept for validation, by hash of the passage."""
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Where metrics go besides metrics.jsonl; each needs its package."""


Stage = Annotated[
    CompressStage | InstructStage | JointStage | ReadStage | TextStage | SupervisedStage,
    Field(discriminator="kind"),
]


class RunConfig(Strict):
    """A whole run."""

    output: Path
    """Run folder: resolved recipe, metrics, resumable state, checkpoint."""
    init_from: str | None = None
    """Run folder or zoo name to start from; its [model] part is inherited."""
    generator_from: str | None = None
    """Run folder whose generator to start with where `init_from` is not given: a reader of text
    reads the tokens that anchored memory carries."""
    n_memory: tuple[int, ...] = Field((4, 8, 16, 32, 64), min_length=1)
    """Prefix lengths of the memory tokens, one drawn for each batch."""
    model: ModelConfig = ModelConfig()
    """Base, roles and memory tokens."""
    stage: Stage
    """What is trained, and on which loss."""
    data: tuple[DataConfig, ...] = Field(min_length=1)
    """Training records."""
    salience: tuple[DataConfig, ...] = ()
    """Records whose questions teach which tokens anchored memory carries, before the first step;
    where empty, those of [[data]] without `init_from`, and with it what is carried is inherited."""
    data_root: Path = Path("data")
    """Folder that the paths under [[data]] are relative to."""
    optim: OptimConfig = OptimConfig()
    """Optimizer and schedule."""
    runtime: RuntimeConfig = RuntimeConfig()
    """Device, precision, saving, logging."""
