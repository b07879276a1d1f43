"""The one training loop, visible from first to last line.

A run is a function of its recipe: order, rates, candidates and dropout follow from the seed and the
number of a micro-batch alone, so a run that was killed and resumed continues bit for bit on a CPU.
An optimizer step takes `processes x accumulate` micro-batches in turn, each process every so many,
and its loss is the mean over all their target tokens (documents, questions). So how many processes
share them changes nothing but the order of sums.
"""

from __future__ import annotations

import math
import random
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from openclara.training.batches import PART_TERMS, Terms
from openclara.training.coupling import role_norms
from openclara.training.examples import epoch_order
from openclara.training.processes import whole
from openclara.training.stages import StageModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from openclara.config import OptimConfig, RunConfig
    from openclara.model.clara import ClaraModel
    from openclara.training.batches import StageBatch
    from openclara.training.examples import Example, Examples
    from openclara.training.processes import Processes
    from openclara.training.stages import Collator


@dataclass(slots=True)
class Progress:
    """Where a run stands: what is logged, shown and saved.

    Attributes:
        step: Optimizer steps done.
        micro_step: Micro-batches done, by all processes together.
        tokens: Positions processed, padding left out, likewise.
        metrics: The latest losses and rates, for the log.
        tokens_per_s: Over the steps since the last log line.
    """

    step: int = 0
    micro_step: int = 0
    tokens: int = 0
    tokens_per_s: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


def learning_rate(optim: OptimConfig, step: int) -> float:
    """Linear warm-up, then cosine decay to `min_lr_ratio` of the peak, for step 0, 1, ..."""
    warmup = math.ceil(optim.warmup_ratio * optim.steps)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    part = (step - warmup) / max(1, optim.steps - warmup)
    floor = optim.lr * optim.min_lr_ratio
    return floor + (optim.lr - floor) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """A batch with its place in the run.

    Attributes:
        number: Counted from 0 over the whole run.
        n_memory: Its rate.
        batch: What the stage computes on.
    """

    number: int
    n_memory: int
    batch: StageBatch


class Trainer:
    """One stage of training on one recipe.

    Args:
        recipe: The resolved recipe.
        model: Base, adapters and memory table.
        collator: Makes the batches of the recipe's stage.
        examples: What to train on.
        processes: Those that share the work.
    """

    def __init__(
        self,
        recipe: RunConfig,
        model: ClaraModel,
        collator: Collator,
        examples: Examples,
        processes: Processes,
    ) -> None:
        self.recipe = recipe
        self.examples = examples
        self.processes = processes
        self.accelerator = processes.accelerator
        self.collator = collator
        stage = StageModule(model, recipe.stage)
        self.loss_name, self.trained_roles = stage.loss_name, stage.trained_roles
        self.parameters = trained_parameters(stage)
        optim = recipe.optim
        optimizer = torch.optim.AdamW(
            list(self.parameters.values()),
            lr=optim.lr,
            betas=(optim.beta1, optim.beta2),
            weight_decay=optim.weight_decay,
        )
        # The stage itself: with several processes `self.stage` is a wrapper around it.
        self._watched = stage
        self.stage, self.optimizer = processes.prepare(stage, optimizer)
        # Where tensors are sharded, others have taken the place of those above.
        self.parameters = trained_parameters(stage)
        # Bases are loaded for inference; dropout and gradient checkpointing work in training only.
        self.stage.train()
        self.progress = Progress()

    def run(
        self,
        *,
        on_step: Callable[[Progress], None],
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Progress]:
        """Train to the recipe's last step, yielding after each step so the caller can save.

        Where one process is told to stop, all stop before the same step.
        """
        batches = self._batches(self.progress.micro_step)
        since, tokens_since = time.perf_counter(), 0
        while self.progress.step < self.recipe.optim.steps and not self.processes.any(stop()):
            n_tokens = self._step(batches)
            tokens_since += n_tokens
            if self.progress.step % self.recipe.runtime.log_every == 0:
                now = time.perf_counter()
                self.progress.tokens_per_s = tokens_since / (now - since)
                since, tokens_since = now, 0
            on_step(self.progress)
            yield self.progress

    def logs(self, step: int) -> bool:
        """Whether the metrics of a step are written down."""
        every = self.recipe.runtime.log_every
        return step % every == 0 or step == self.recipe.optim.steps

    def _step(self, batches: Iterator[MicroBatch]) -> int:
        """One optimizer step; returns its tokens, of all processes."""
        lr = learning_rate(self.recipe.optim, self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        own = [next(batches) for _ in range(self.recipe.optim.accumulate)]
        counts = [sum(one) for one in zip(*(micro.batch.terms for micro in own), strict=True)]
        *sums, n_tokens = self.processes.sums([*counts, sum(one.batch.n_tokens for one in own)])
        totals = Terms(*sums)
        logs = self.logs(self.progress.step + 1)
        losses: dict[str, float] = {}
        for micro in own:
            shares = micro.batch.terms.shares(totals, n_processes=self.processes.count)
            parts = self._learn(micro, shares, last=micro is own[-1], logs=logs)
            for name, value in parts.items():
                part = value * shares[PART_TERMS[name]] / self.processes.count
                losses[name] = losses.get(name, 0.0) + part
        losses = dict(zip(losses, self.processes.sums(list(losses.values())), strict=True))
        metrics = losses | self.processes.of_last({"n_memory": own[-1].n_memory})
        if logs:
            metrics |= self._coupling(shares.answers)
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), self.recipe.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.micro_step += len(own) * self.processes.count
        self.progress.tokens += int(n_tokens)
        metrics |= {"lr": lr, "gradient_norm": float(whole(torch.as_tensor(norm)))}
        self.progress.metrics = metrics
        return int(n_tokens)

    def _learn(
        self, micro: MicroBatch, shares: Terms, *, last: bool, logs: bool
    ) -> dict[str, float]:
        """Add the gradient of one micro-batch; the parts of its loss."""
        # Dropout is drawn by the number of the batch, whoever computes it.
        torch.manual_seed(self.recipe.runtime.seed * 1_000_003 + micro.number)
        self._watched.watching = logs and last
        # Gradients of all processes are summed once a step; DeepSpeed also takes its step then.
        self.accelerator.sync_gradients = last
        with nullcontext() if last else self.accelerator.no_sync(self.stage):
            loss = self.stage(micro.batch.to(self.accelerator.device), shares)
            self.accelerator.backward(loss.total)
        parts: dict[str, float] = loss.parts
        return parts

    def _coupling(self, share: float) -> dict[str, float]:
        """What taught the roles of the joint stage in the step's last micro-batch."""
        coupling = self._watched.coupling
        self._watched.watching, self._watched.coupling = False, None
        if coupling is None:
            return {}
        found = self.processes.of_last(coupling.metrics(scale=1 / share))
        return {**found, **role_norms(self.parameters)}

    def _batches(self, start: int) -> Iterator[MicroBatch]:
        """This process's micro-batches from number `start` on, without end."""
        seed = self.recipe.runtime.seed
        examples = [one for one in self.examples.training if self.collator.usable(one)]
        most = max(self.recipe.n_memory)
        costs = [self.collator.cost(example, most) for example in examples]
        number, epoch = 0, 0
        while True:
            order = epoch_order(
                costs, batch_cost=self.recipe.optim.batch_tokens, seed=seed, epoch=epoch
            )
            for positions in order:
                if number >= start and number % self.processes.count == self.processes.rank:
                    yield self._batch([examples[i] for i in positions], seed, number)
                number += 1
            epoch += 1

    def _batch(self, examples: Sequence[Example], seed: int, number: int) -> MicroBatch:
        rng = random.Random(seed * 1_000_003 + number)
        n_memory = rng.choice(self.recipe.n_memory)
        batch = self.collator.batch(examples, n_memory=n_memory, rng=rng)
        return MicroBatch(number, n_memory, batch)

    @torch.no_grad()
    def validate(self, *, n_memory: int) -> float | None:
        """Mean loss over the held-out examples at one rate; None without any."""
        examples = [one for one in self.examples.held_out if self.collator.usable(one)]
        if not examples:
            return None
        self.stage.eval()
        costs = [self.collator.cost(example, n_memory) for example in examples]
        order = epoch_order(costs, batch_cost=self.recipe.optim.batch_tokens, seed=0, epoch=0)
        total = n_losses = 0.0
        count = self.processes.count
        for first in range(0, len(order), count):
            # Where the last round has too few batches, some are computed twice and counted once:
            # processes that hold parts of each other's tensors must work side by side.
            at = first + self.processes.rank
            positions = order[min(at, len(order) - 1)]
            rng = random.Random(positions[0])
            chosen = [examples[i] for i in positions]
            batch = self.collator.batch(chosen, n_memory=n_memory, rng=rng)
            loss = self.stage(batch.to(self.accelerator.device))
            n_terms = batch.terms[PART_TERMS[self.loss_name]] if at < len(order) else 0
            total += loss.parts[self.loss_name] * n_terms
            n_losses += n_terms
        self.stage.train()
        total, n_losses = self.processes.sums([total, n_losses])
        return total / n_losses


def trained_parameters(stage: StageModule) -> dict[str, Any]:
    """Turn on the gradients of what the stage trains, off elsewhere; tensors by stable names."""
    roles: Any = stage.model.roles
    roles.train_only(stage.trained_roles)
    stage.model.memory.weight.requires_grad_(stage.trains_memory)
    named: dict[str, Any] = {}
    if stage.trains_memory:
        named["memory"] = stage.model.memory.weight
    for role in stage.trained_roles:
        for name, parameter in roles.named_parameters(role).items():
            named[f"{role}.{name}"] = parameter
    return named
