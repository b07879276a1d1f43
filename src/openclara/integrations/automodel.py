"""`AutoModel.from_pretrained` for exported folders: the published interface on top of `Clara`.

A folder that `openclara export hub` writes holds a module of two lines that names the classes here.
transformers runs such a module only for a user who says `trust_remote_code=True`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from transformers import PretrainedConfig, PreTrainedModel

from openclara.errors import ConfigError
from openclara.pipeline import Clara

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

MODEL_TYPE: Final = "openclara"
Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS: Final[dict[Any, Precision]] = {
    None: "auto",
    "auto": "auto",
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    "float32": "fp32",
    "bfloat16": "bf16",
}
OF_TRANSFORMERS: Final = (
    "config", "trust_remote_code", "adapter_kwargs", "code_revision", "token", "cache_dir",
    "force_download", "local_files_only", "proxies", "use_safetensors", "weights_only",
    "low_cpu_mem_usage",
)  # fmt: skip
"""Options of `from_pretrained` that say how transformers fetches files, which is not done here."""


class OpenClaraConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Enough of a config for transformers to find the class below."""

    model_type = MODEL_TYPE


class OpenClaraModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """The three published calls, by the names and with the return forms of the published code."""

    config_class = OpenClaraConfig

    def __init__(
        self,
        config: OpenClaraConfig,
        clara: Clara,
        *,
        base: str | None = None,
        generation_top_k: int | None = None,
    ) -> None:
        super().__init__(config)
        self.train(mode=False)
        self.clara = clara
        self._base = base
        self._top_k = generation_top_k

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str,
        *args: Any,
        subfolder: str | None = None,
        base: str | None = None,
        device_map: Any = None,
        dtype: Any = None,
        torch_dtype: Any = None,
        generation_top_k: int | None = None,
        **kwargs: Any,
    ) -> OpenClaraModel:
        """Load an exported folder, or a hub id of one.

        Args:
            pretrained_model_name_or_path: The folder or hub id.
            args: Nothing.
            subfolder: Folder inside it that holds the checkpoint.
            base: Folder or hub id of the base, where the named one is to be replaced.
            device_map: One device for all of it; the best there is if None or `auto`.
            dtype: float32, bfloat16 or `auto`.
            torch_dtype: The same, by its older name.
            generation_top_k: Documents that `generate_from_questions` answers from; as many as
                the model was trained with if None.
            kwargs: What transformers passes on its own account; anything else is warned of.

        Raises:
            ConfigError: `dtype` or `device_map` is something else.
        """
        if kwargs.get("revision") in (None, "main"):
            kwargs.pop("revision", None)
        ignored = [n for n in kwargs if n not in OF_TRANSFORMERS and not n.startswith("_")]
        if ignored:
            warnings.warn(f"{', '.join(sorted(ignored))} has no effect here", stacklevel=2)
        asked = torch_dtype if dtype is None else dtype
        if asked not in PRECISIONS:
            raise ConfigError(f"dtype is {asked}; use float32, bfloat16 or auto")
        if device_map is not None and not isinstance(device_map, (str, torch.device)):
            raise ConfigError(f"device_map is {device_map!r}; give one device, such as cuda")
        clara = Clara.load(
            pretrained_model_name_or_path,
            subfolder=subfolder,
            base=base,
            device=str(device_map or "auto"),
            precision=PRECISIONS[asked],
        )
        config = kwargs.get("config")
        if not isinstance(config, OpenClaraConfig):
            config = OpenClaraConfig()
        return cls(config, clara, base=base, generation_top_k=generation_top_k)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.clara.model.memory.weight.device

    def to(self, *args: Any, **kwargs: Any) -> OpenClaraModel:  # type: ignore[override]
        """Run on another device or in another precision; the model is loaded anew for it.

        Raises:
            ConfigError: The precision is neither float32 nor bfloat16.
        """
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        if dtype not in PRECISIONS:
            raise ConfigError(f"dtype is {dtype}; use float32 or bfloat16")
        now: torch.dtype = self.clara.model.vocabulary.weight.dtype  # type: ignore[assignment]
        stays = device is None or (
            device.type == self.device.type and device.index in (None, self.device.index)
        )
        if stays and dtype in (None, now):
            return self
        self.clara = Clara.load(
            self.clara.latent_spec.model,
            base=self._base,
            device=str(self.device if device is None else device),
            precision=PRECISIONS[now if dtype is None else dtype],
        )
        return self

    def cuda(self, device: int | str | None = None) -> OpenClaraModel:  # type: ignore[override]
        """As `to("cuda")`."""
        return self.to(f"cuda:{device}" if isinstance(device, int) else (device or "cuda"))

    def cpu(self) -> OpenClaraModel:
        """As `to("cpu")`."""
        return self.to("cpu")

    def float(self) -> OpenClaraModel:
        """As `to(torch.float32)`."""
        return self.to(torch.float32)

    def bfloat16(self) -> OpenClaraModel:
        """As `to(torch.bfloat16)`."""
        return self.to(torch.bfloat16)

    def half(self) -> OpenClaraModel:
        """Refused: float16 overflows on latents of several bases."""
        return self.to(torch.float16)

    def generate_from_questions(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = 128,
    ) -> tuple[list[str], Tensor]:
        """As `Clara.generate_from_questions`."""
        return self.clara.generate_from_questions(
            questions, documents, max_new_tokens, k=self._top_k
        )

    def generate_from_text(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = 128,
    ) -> list[str]:
        """As `Clara.generate_from_text`."""
        return self.clara.generate_from_text(questions, documents, max_new_tokens)

    def generate_from_paraphrase(
        self,
        questions: Sequence[str],
        documents: Sequence[Sequence[str]],
        max_new_tokens: int = 128,
    ) -> list[str]:
        """As `Clara.generate_from_paraphrase`."""
        return self.clara.generate_from_paraphrase(questions, documents, max_new_tokens)
