"""openclara models in EleutherAI's lm-evaluation-harness, and a command that runs it with them.

    python -m openclara.integrations.lm_eval                    # prints the folder of our tasks
    python -m openclara.integrations.lm_eval --model openclara \
        --model_args pretrained=smollm2-135m,context=latents \
        --tasks openclara_nq --metadata data_root=FOLDER --limit 10

The harness knows a model of another package only once that is imported, so the command registers
ours and hands its arguments on; `--include_path` with our tasks is added where none is given.
Releases of the harness that read the entry points of `lm_eval.models` need no such command.

Legend: L labelled positions, V vocabulary.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from openclara.errors import ConfigError, OpenClaraError
from openclara.types import Context, Document

try:
    # The built-in models: the harness leaves them out if ours is the first in its registry.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.model import LM
    from lm_eval.api.registry import model_registry
    from tqdm import tqdm
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lm_eval":
        raise
    missing = "this needs the lm-evaluation-harness; run `pip install 'openclara[lm-eval]'`"
    if __name__ == "__main__":
        sys.exit(f"error: {missing}")
    raise ConfigError(missing) from None

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from openclara.model.generator import Decoding
    from openclara.pipeline import Clara
    from openclara.types import Precision

TASKS = Path(__file__).with_name("lm_eval_tasks")
"""Folder of our tasks, for `--include_path`."""

NAME = "openclara"
"""What `--model` calls an openclara model."""

_HARNESS_DEVICE = "cuda:0"
"""What the harness's command line passes where no device is named, whatever machine it is on."""

_SETTINGS = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p", "seed"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request to write an answer.

    Attributes:
        question: What is asked.
        passages: (title, text) of its documents in order; None where it is asked closed book.
        decoding: Length, temperature, seed.
        stops: The answer ends before the first of these.
    """

    question: str
    passages: tuple[tuple[str, str], ...] | None
    decoding: Decoding
    stops: tuple[str, ...]


class ClaraLM(LM):  # type: ignore[misc]
    """An openclara model as the harness calls one.

    A request whose record has a `question` and `documents` (objects with `title` and `text`) is
    answered from these documents, all of them, in order. Every other request is answered closed
    book, its context being the question. Either way the model's own chat template is used.
    """

    def __init__(
        self,
        pretrained: str = "smollm2-135m",
        *,
        context: Context | None = "latents",
        n_memory: int | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        max_gen_toks: int = 64,
    ) -> None:
        """Load a trained model.

        Args:
            pretrained: A zoo name, the folder of a finished run, or a hub id.
            context: What to answer from: `latents` of the documents, their `text`, or `none`.
            n_memory: Latents for each stretch of a document; the model's default if None.
            device: `auto`, `cpu`, `cuda`, `mps`. The harness passes `cuda:0` where none is named;
                that is taken as `auto` on a machine without it.
            precision: As in `Clara.load`.
            batch_size: Requests run together; questions only where they share their documents.
            max_batch_size: Taken because the harness passes it; bounds `batch_size`.
            max_gen_toks: Most tokens of an answer where the task does not say.

        Raises:
            ConfigError: An argument is wrong.
            ModelError: The model is missing or damaged.
        """
        super().__init__()
        context = context or "none"  # the harness reads the word none as None
        if context not in get_args(Context):
            raise ConfigError(f"context is {context!r}; use one of {', '.join(get_args(Context))}")
        self.context: Context = context
        self.batch_size = _checked_batch_size(batch_size, max_batch_size)
        self.max_gen_toks = max_gen_toks

        import torch

        from openclara.pipeline import Clara

        if device == _HARNESS_DEVICE and not torch.cuda.is_available():
            device = "auto"
        # A folder may be named in digits, which the harness reads as a number.
        self.clara: Clara = Clara.load(
            str(pretrained), n_memory=n_memory, device=device, precision=precision
        )
        self._device = self.clara.model.memory.weight.device
        self._unknown: set[str] = set()

    # -- what the harness asks for ----------------------------------------------------------------

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, in order.

        Args:
            requests: Instances; their arguments are the context and the generation settings.
            disable_tqdm: No progress bar.

        Raises:
            DataError: A question is empty.
        """
        answers = [""] * len(requests)
        groups: dict[object, list[int]] = {}
        asked = [self._asked(request) for request in requests]
        for at, one in enumerate(asked):
            groups.setdefault((one.passages, one.decoding), []).append(at)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="answers") as bar:
            for group in groups.values():
                for batch in _batches(group, self.batch_size):
                    texts = self._answers([asked[at] for at in batch])
                    for at, text in zip(batch, texts, strict=True):
                        answers[at] = text
                        self.cache_hook.add_partial("generate_until", requests[at].args, text)
                    bar.update(len(batch))
        return answers

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation as the answer to its context, closed book.

        The context stands in the question's turn. The continuation starts the answer's turn, so
        the blank that parts it from the context is left out, as it is in training.

        Args:
            requests: Instances; their arguments are the context and the continuation.
            disable_tqdm: No progress bar.

        Returns:
            For each the log-probability, and whether greedy decoding writes just that.

        Raises:
            NotImplementedError: A request brings documents to be read.
        """
        for request in requests:
            if self.context != "none" and _passages(request.doc) is not None:
                raise NotImplementedError(
                    "likelihoods are computed closed book only; use context=none with this task"
                )
        scored: list[tuple[float, bool]] = [(0.0, True)] * len(requests)
        longest = sorted(range(len(requests)), key=lambda at: -sum(map(len, requests[at].args)))
        with tqdm(total=len(requests), disable=disable_tqdm, desc="likelihoods") as bar:
            for batch in _batches(longest, self.batch_size):
                pairs = [requests[at].args for at in batch]
                for at, result in zip(batch, self._likelihoods(pairs), strict=True):
                    scored[at] = result
                    self.cache_hook.add_partial("loglikelihood", requests[at].args, result)
                bar.update(len(batch))
        return scored

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Not to be had.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(
            "an openclara model answers questions and has no likelihood of running text; "
            "choose tasks that generate or that compare answers"
        )

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The turns without marks: the model's own template is put around them when asked."""
        return "\n\n".join(message["content"] for message in chat_history)

    @property
    def tokenizer_name(self) -> str:
        """What the harness tells prepared requests apart by."""
        return self.clara.latent_spec.fingerprint

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside the results."""
        spec = self.clara.latent_spec
        return {
            "base": self.clara.card.base,
            "fingerprint": spec.fingerprint,
            "context": self.context,
            "n_memory": spec.n_memory if self.context == "latents" else None,
            "max_gen_toks": self.max_gen_toks,
            "dtype": str(next(self.clara.model.lm.parameters()).dtype),
            "ran_on": str(self._device),
        }

    # -- how it is done ---------------------------------------------------------------------------

    def _asked(self, request: Any) -> _Asked:
        context, settings = request.args[:2]
        decoding, stops = self._decoding(settings)
        passages = _passages(request.doc)
        if passages is None:
            return _Asked(context, None, decoding, stops)
        read = passages if self.context != "none" else None
        return _Asked(request.doc["question"], read, decoding, stops)

    def _decoding(self, settings: Mapping[str, Any]) -> tuple[Decoding, tuple[str, ...]]:
        from openclara.model.generator import Decoding

        for name in sorted(set(settings) - _SETTINGS - self._unknown):
            self._unknown.add(name)
            _log.warning("the generation setting %r is not known to openclara; ignored", name)
        until = settings.get("until") or ()
        stops = (until,) if isinstance(until, str) else tuple(until)
        sampled, temperature = settings.get("do_sample"), settings.get("temperature")
        if temperature is None:
            temperature = 1.0 if sampled else 0.0
        decoding = Decoding(
            max_new_tokens=int(settings.get("max_gen_toks", self.max_gen_toks)),
            temperature=0.0 if sampled is False else float(temperature),
            top_p=float(settings.get("top_p", 1.0)),
            seed=settings.get("seed"),
        )
        return decoding, tuple(stop for stop in stops if stop)

    def _answers(self, batch: Sequence[_Asked]) -> list[str]:
        """Answers of one batch, which shares its documents and its decoding."""
        passages = batch[0].passages
        answers = self.clara.ask(
            [one.question for one in batch],
            documents=[
                Document(str(at), text, title) for at, (title, text) in enumerate(passages or ())
            ],
            context="none" if passages is None else self.context,
            decoding=batch[0].decoding,
        )
        return [_until(answer.text, one.stops) for answer, one in zip(answers, batch, strict=True)]

    def _likelihoods(self, pairs: Sequence[tuple[str, str]]) -> Iterator[tuple[float, bool]]:
        import torch

        from openclara.data.batches import prompt_batch

        tokenizer = self.clara.tokenizer
        asked = tokenizer.encode([context for context, _ in pairs])
        wanted = tokenizer.encode([continuation.removeprefix(" ") for _, continuation in pairs])
        batch = prompt_batch(
            [
                [(tokenizer.chat.question(question, closed=True), False), (answer, True)]
                for question, answer in zip(asked, wanted, strict=True)
            ]
        )
        with torch.inference_mode():
            logits_LV, targets_L = self.clara.model.answer_logits(batch.to(self._device), None)
            chosen_L = logits_LV.log_softmax(-1).gather(1, targets_L.unsqueeze(1)).squeeze(1)
            greedy_L = logits_LV.argmax(-1) == targets_L
        sizes = [len(answer) for answer in wanted]
        for own, greedy in zip(
            torch.split(chosen_L, sizes), torch.split(greedy_L, sizes), strict=True
        ):
            yield float(own.double().sum()), bool(greedy.all())


def _checked_batch_size(wanted: int | str, most: int | None) -> int:
    if not str(wanted).isdecimal() or int(wanted) < 1:
        raise ConfigError(f"batch_size is {wanted!r}; give a whole number from 1 on")
    return min(int(wanted), most or int(wanted))


def _passages(record: Any) -> tuple[tuple[str, str], ...] | None:
    """(title, text) of the documents that a record brings; None where it has not our form."""
    if not isinstance(record, Mapping) or not isinstance(record.get("question"), str):
        return None
    documents = record.get("documents")
    if not isinstance(documents, list) or not all(
        isinstance(one, Mapping) and isinstance(one.get("text"), str) for one in documents
    ):
        return None
    return tuple((one.get("title") or "", one["text"]) for one in documents)


def _until(text: str, stops: Iterable[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text


def _batches(positions: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(positions), size):
        yield positions[start : start + size]


def register() -> None:
    """Make `--model openclara` known to the harness; the import of this module does."""
    if NAME not in model_registry:
        # By name: run as a command, this module exists twice, and one class must be the model.
        model_registry.register(NAME, target="openclara.integrations.lm_eval:ClaraLM")


register()


def main(arguments: Sequence[str]) -> None:
    """Run the harness's own command line with our model and tasks known to it.

    Args:
        arguments: Those of `lm_eval`; without any, the folder of our tasks is printed.
    """
    if not arguments:
        sys.stdout.write(f"{TASKS}\n")
        return
    from lm_eval.__main__ import cli_evaluate

    given = any(one.partition("=")[0] == "--include_path" for one in arguments)
    added = () if given else ("--include_path", str(TASKS))
    sys.argv = ["lm_eval", *arguments, *added]
    try:
        cli_evaluate()
    except OpenClaraError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
