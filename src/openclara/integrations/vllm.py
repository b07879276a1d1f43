"""Answers from a stock vLLM server: latents are found here, the generator runs there.

The server is given prompts as embeddings (`vllm serve FOLDER --enable-prompt-embeds`, where FOLDER
is what `openclara convert MODEL FOLDER --to merged` wrote); it needs no code of ours. It counts the
positions of a prompt by one, so of anchored latents it does not see how far apart they stand.

Legend: T positions, D width.
"""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from openclara.errors import ConfigError, DataError, OpenClaraError
from openclara.model.generator import Decoding, embed_prompts
from openclara.types import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from openclara.pipeline import Clara
    from openclara.types import Hit

ADDRESS: Final = "http://127.0.0.1:8000/v1"
"""Where `vllm serve` listens unless told otherwise."""

MOST_CHARACTERS: Final = 300
"""Of a server's own explanation that is passed on."""


class ServerError(OpenClaraError):
    """The server is not there, or did not answer as it should."""


@torch.inference_mode()
def prompt_embeddings(clara: Clara, question: str, hits: Sequence[Hit]) -> Tensor:
    """What the generator reads for a question on latents, before its first layer.

    Args:
        clara: The model whose latents these are.
        question: What is asked.
        hits: Stretches with their latents, from `LatentIndex.hits`, `Clara.read` or a search.

    Returns:
        (T, D) in the dtype the model runs in, on the CPU.

    Raises:
        DataError: The question is empty, or a hit has no latents.
        ConfigError: The model's latents do not enter at the input.
    """
    if not question.strip():
        raise DataError("the question is empty; ask something")
    if any(hit.latents is None for hit in hits):
        raise DataError("hits without latents cannot be answered from; search with latents")
    if clara.model.latent_layer:
        raise ConfigError(
            "latents of this model enter the generator after layer "
            f"{clara.model.latent_layer}, and vLLM takes embeddings at the input alone; serve it "
            "with openclara serve"
        )
    embedded_BTD = embed_prompts(clara.model, [clara.prompt(question, hits)])[0]
    return embedded_BTD[0].cpu()


def encoded(embeddings_TD: Tensor) -> str:
    """A tensor as vLLM wants it: the bytes of `torch.save`, in base64."""
    buffer = io.BytesIO()
    # Cloned, or the whole storage of a larger tensor would travel with it.
    torch.save(embeddings_TD.detach().cpu().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def decoded(text: str) -> Tensor:
    """The tensor that `encoded` was given; nothing but a tensor is unpickled.

    Raises:
        DataError: It is something else.
    """
    try:
        raw = base64.b64decode(text, validate=True)
        tensor = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
    except Exception as error:  # base64 and torch raise many unrelated types
        raise DataError(
            f"no tensor in base64 ({type(error).__name__}); send torch.save's"
        ) from None
    if not isinstance(tensor, torch.Tensor) or tensor.dim() != 2:
        raise DataError("prompt embeddings must be one tensor of positions by width")
    return tensor


@dataclass(frozen=True, slots=True)
class VllmServer:
    """A server and the model it serves.

    Attributes:
        model: Name it serves the merged generator under.
        url: Address of its OpenAI-compatible interface.
        api_key: Key it was started with, if any.
        timeout_s: Longest wait for an answer.
    """

    model: str
    url: str = ADDRESS
    api_key: str | None = None
    timeout_s: float = 120.0

    def complete(
        self, embeddings: Sequence[Tensor], *, decoding: Decoding, stop_ids: Sequence[int] = ()
    ) -> list[str]:
        """Continue prompts that are given as (T, D) embeddings, all in one request.

        Args:
            embeddings: One tensor for each prompt.
            decoding: Length and choice of tokens.
            stop_ids: Tokens that end an answer besides the base's own.

        Raises:
            ServerError: The server is not there, refuses, or answers something else.
        """
        if not embeddings:
            return []
        request = {
            "model": self.model,
            # No `prompt` beside it: the server would answer that as well.
            "prompt_embeds": [encoded(own_TD) for own_TD in embeddings],
            "max_tokens": decoding.max_new_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "stop_token_ids": sorted(stop_ids),
        }
        if decoding.seed is not None:
            request["seed"] = decoding.seed
        answer = self._post("completions", request)
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            texts = [str(choice["text"]) for choice in choices]
        except (KeyError, TypeError, ValueError):
            raise ServerError(f"{self.url} answered no completions; is it a vLLM server?") from None
        if len(texts) != len(embeddings):
            raise ServerError(
                f"{self.url} gave {len(texts)} answers to {len(embeddings)} prompts; start it with "
                "--enable-prompt-embeds"
            )
        return texts

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"{self.url!r} is no address; give one such as {ADDRESS}")
        headers = {"Content-Type": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/{path}", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            reason = " ".join(error.read().decode("utf-8", "replace").split())[:MOST_CHARACTERS]
            raise ServerError(
                f"{self.url} refused ({error.code}: {reason}); it must serve the merged generator "
                f"as {self.model!r} with --enable-prompt-embeds"
            ) from None
        except OSError as error:
            raise ServerError(
                f"{self.url} does not answer ({getattr(error, 'reason', error)}); start the server "
                "there or give another address"
            ) from None
        except json.JSONDecodeError:
            raise ServerError(f"{self.url} answered no JSON; is it a vLLM server?") from None


def answer(
    server: VllmServer,
    clara: Clara,
    questions: Sequence[str],
    hits: Sequence[Sequence[Hit]],
    *,
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
) -> list[Answer]:
    """Answer questions from hits, as `Clara.answer` does, with the generator on a server.

    Args:
        server: Serves the generator of `clara`, merged.
        clara: Makes the prompts; its own generator is not used.
        questions: Several questions.
        hits: For each question the stretches to answer from, with latents.
        decoding: Length, temperature, seed.

    Raises:
        DataError: Counts differ, a question is empty, or a hit has no latents.
        ServerError: The server is not there, refuses, or answers something else.
    """
    if len(questions) != len(hits):
        raise DataError(
            f"{len(questions)} questions came with {len(hits)} lists of hits; give one for each"
        )
    embeddings = [
        prompt_embeddings(clara, question, own)
        for question, own in zip(questions, hits, strict=True)
    ]
    texts = server.complete(
        embeddings, decoding=decoding, stop_ids=sorted(clara.tokenizer.stop_ids)
    )
    return [
        Answer(question, text.strip(), tuple(own))
        for question, text, own in zip(questions, texts, hits, strict=True)
    ]
