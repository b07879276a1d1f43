"""A trained model on disk: `openclara.json` and `adapters.safetensors`, nothing executable."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file

from openclara.errors import FormatError, ModelError
from openclara.model.adapters import ROLES, TARGETS, Role
from openclara.model.base import file_sha256
from openclara.model.memory import MemoryTable

if TYPE_CHECKING:
    from torch import Tensor

FORMAT: Final = "openclara-checkpoint"
VERSION: Final = 1
MANIFEST: Final = "openclara.json"
TENSORS: Final = "adapters.safetensors"

TOP_K: Final = 5
"""Documents in a prompt where a model does not say otherwise (paper, section 4)."""


@dataclass(frozen=True, slots=True)
class Card:
    """What `openclara.json` says of a checkpoint.

    Attributes:
        base: Name of the base model.
        base_sha256: Identity of its weights.
        n_memory: Memory tokens trained.
        default_n_memory: Memory tokens used when none are asked for.
        doc_max_length: Longest chunk, in tokens.
        rank: LoRA rank.
        alpha: LoRA alpha.
        latent_weight: Part of the latents in a hybrid search; how far its reasoner can be trusted.
        memory: `learned` rows, or rows `anchored` at tokens of the text.
        score: `flat` or `late`: how questions and documents are compared.
        query_n_memory: Latents of a question under the late score.
        latent_gain: Factor on spliced latents.
        latent_layer: Layers of the generator before the one that latents enter; 0 at the input.
        wording: Prompts the generator was trained on, `own` or `published` (`data/wording.py`).
        top_k: Documents that the model answers from unless told otherwise.
        stage: The last stage trained.
        training: How it was made, stage by stage.
        metrics: What it scored, and on what.
    """

    base: str
    base_sha256: str
    n_memory: int
    default_n_memory: int
    doc_max_length: int
    rank: int
    alpha: float
    latent_gain: float
    stage: str
    memory: str = "learned"
    score: Literal["flat", "late"] = "flat"
    query_n_memory: int = 16
    latent_weight: float = 0.5
    wording: str = "own"
    top_k: int = TOP_K
    latent_layer: int = 0
    training: list[dict[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A card and its tensors.

    Attributes:
        card: What the manifest says.
        roles: LoRA tensors of each role there is.
        memory: (rows, D) the memory table.
        token_weight: (V,) weights of tokens for anchored memory; empty for learned rows alone.
        salience: Tensors of `model.salience` for anchored memory; empty likewise.
        head: (O, D) rows of the model's own tokens in a published LM head, in the order of their
            published ids; empty for models trained here.
    """

    card: Card
    roles: dict[Role, dict[str, Tensor]]
    memory: Tensor
    token_weight: Tensor = field(default_factory=lambda: torch.empty(0))
    salience: dict[str, Tensor] = field(default_factory=dict)
    head: Tensor = field(default_factory=lambda: torch.empty(0))

    def fingerprint(self) -> str:
        """Identity of the latents: base, compressor, reasoner and memory table, not generator."""
        return self._identity(without=("generator.", "head"))

    def compressor_fingerprint(self) -> str:
        """Identity of the documents' latents alone: models that differ in the reasoner share it."""
        return self._identity(without=("generator.", "reasoner.", "head"))

    def identity(self) -> str:
        """Identity of all that was trained, the generator as well."""
        return self._identity(without=("head",))

    def depths(self) -> dict[Role, int | None]:
        """How many layers of the base each role uses, None for all."""
        n_layers = self.card.latent_layer or None
        return {"compressor": n_layers, "reasoner": n_layers, "generator": None}

    def _identity(self, *, without: tuple[str, ...]) -> str:
        card = self.card
        digest = hashlib.sha256(f"{card.base_sha256} {card.alpha / card.rank}".encode())
        if self.token_weight.numel():
            # Of anchored latents what the first coordinates say; once they held ranks.
            digest.update(b"places in the text")
        if card.latent_layer:
            digest.update(f"after layer {card.latent_layer}".encode())
        makers = {name: t for name, t in _flat(self).items() if not name.startswith(without)}
        digest.update(save(makers))
        return digest.hexdigest()


def _flat(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors under one set of names, rounded as they are stored."""
    flat = {"memory": checkpoint.memory}
    if checkpoint.head.numel():
        flat["head"] = checkpoint.head
    for role, state in checkpoint.roles.items():
        flat |= {f"{role}.{name}": tensor for name, tensor in state.items()}
    flat = {name: tensor.bfloat16() for name, tensor in flat.items()}
    # Not rounded: most rare tokens would tie, and other tokens be anchors than in training.
    flat["token_weight"] = checkpoint.token_weight.float()
    flat |= {f"salience.{name}": tensor for name, tensor in checkpoint.salience.items()}
    return {name: flat[name].detach().cpu().contiguous() for name in sorted(flat)}


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; one that was interrupted is noticed by its checksum when read."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / TENSORS
        save_file(_flat(checkpoint), made)
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            **asdict(checkpoint.card),
            "adapters_sha256": file_sha256(made),
        }
        described = Path(scratch) / MANIFEST
        described.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        made.replace(folder / TENSORS)
        described.replace(folder / MANIFEST)


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder looks like a checkpoint of this format."""
    return (folder / MANIFEST).is_file()


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: There is none.
        FormatError: It is of another format or version, or damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{folder} holds no trained model ({MANIFEST} is missing); give a zoo name such as "
            "smollm2-135m, or a run folder"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise FormatError(f"{folder / MANIFEST} is not valid JSON; restore the folder") from None
    found = (
        (manifest.get("format"), manifest.get("version")) if isinstance(manifest, dict) else None
    )
    if found != (FORMAT, VERSION):
        name, number = found or (None, None)
        raise FormatError(
            f"{folder} is a checkpoint of format {name!r} version {number!r}, this program reads "
            f"{FORMAT} version {VERSION}; use the program that wrote it, or train anew"
        )
    known = fields(Card)
    required = [f.name for f in known if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in (*required, "adapters_sha256") if name not in manifest]
    if missing:
        raise FormatError(
            f"{folder / MANIFEST} has no field `{missing[0]}`; restore it from where it came"
        )
    path = folder / TENSORS
    try:
        intact = file_sha256(path) == manifest["adapters_sha256"]
        tensors = load_file(path) if intact else {}
    except (OSError, SafetensorError):
        intact = False
    if not intact or not {"memory", "token_weight"} <= tensors.keys():
        raise FormatError(f"{path} is missing or damaged (checksum); restore it from where it came")
    roles: dict[Role, dict[str, Tensor]] = {}
    for role in ROLES:
        own = [name for name in tensors if name.startswith(f"{role}.")]
        if own:
            roles[role] = {name.removeprefix(f"{role}."): tensors[name] for name in own}
    card = Card(**{f.name: manifest[f.name] for f in known if f.name in manifest})
    own = [name for name in tensors if name.startswith("salience.")]
    salience = {name.removeprefix("salience."): tensors[name] for name in own}
    if card.memory == "anchored" and "spread_D" not in salience:
        raise FormatError(
            f"{folder} was trained by an earlier version, whose memory tokens carried other tokens "
            "of a text; train it anew"
        )
    head = tensors.get("head", torch.empty(0))
    return Checkpoint(card, roles, tensors["memory"], tensors["token_weight"], salience, head)


def export_peft(checkpoint: Checkpoint, role: Role, folder: Path) -> None:
    """Write one role as a standard PEFT adapter, loadable by peft and by serving engines.

    Raises:
        ModelError: The checkpoint has no such role.
    """
    if role not in checkpoint.roles:
        raise ModelError(f"this checkpoint has no {role}; it has {', '.join(checkpoint.roles)}")
    card = checkpoint.card
    shallow = card.latent_layer > 0 and role != "generator"
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": card.base,
        "r": card.rank,
        "lora_alpha": card.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": TARGETS,
        "inference_mode": True,
    }
    if shallow:
        # Layers are numbered for modules that are named, as peft has it.
        ends = {name.split(".lora_")[0].rpartition(".")[2] for name in checkpoint.roles[role]}
        config["target_modules"] = sorted(ends)
        config["layers_to_transform"] = [*range(card.latent_layer)]
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"base_model.model.{n}": t.contiguous() for n, t in checkpoint.roles[role].items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def memory_table(checkpoint: Checkpoint, vocabulary_VD: Tensor) -> MemoryTable:
    """The checkpoint's memory table on its base, in float32."""
    table = MemoryTable(
        checkpoint.card.n_memory,
        vocabulary_VD.shape[1],
        n_vocabulary=checkpoint.token_weight.shape[0],
        doc_max_length=checkpoint.card.doc_max_length,
    )
    state = {"weight": checkpoint.memory, "token_weight_V": checkpoint.token_weight}
    state |= {f"salience.{name}": tensor for name, tensor in checkpoint.salience.items()}
    # Of learned rows alone there is no salience to load; its rows are empty as well.
    table.load_state_dict(
        {name: tensor.float() for name, tensor in state.items()}, strict=table.anchored
    )
    return table
