"""The one training loop, visible from first to last line.

A run is a function of its recipe: order, rates and candidates follow from seed and step alone, so
a run that was killed and resumed continues bit for bit on a CPU.
"""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from openclara.training.coupling import role_norms
from openclara.training.examples import epoch_order
from openclara.training.stages import StageModule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from accelerate import Accelerator

    from openclara.config import OptimConfig, RunConfig
    from openclara.model.clara import ClaraModel
    from openclara.training.examples import Example, Examples
    from openclara.training.stages import Collator, StageBatch


@dataclass(slots=True)
class Progress:
    """Where a run stands: what is logged, shown and saved.

    Attributes:
        step: Optimizer steps done.
        micro_step: Micro-batches done.
        tokens: Positions processed, padding left out.
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


class Trainer:
    """One stage of training on one recipe.

    Args:
        recipe: The resolved recipe.
        model: Base, adapters and memory table.
        collator: Makes the batches of the recipe's stage.
        examples: What to train on.
        accelerator: Device, precision and processes.
    """

    def __init__(
        self,
        recipe: RunConfig,
        model: ClaraModel,
        collator: Collator,
        examples: Examples,
        accelerator: Accelerator,
    ) -> None:
        self.recipe = recipe
        self.examples = examples
        self.accelerator = accelerator
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
        self.stage, self.optimizer = accelerator.prepare(stage, optimizer)
        # Bases are loaded for inference; dropout and gradient checkpointing work in training only.
        self.stage.train()
        self.progress = Progress()

    def run(
        self,
        *,
        on_step: Callable[[Progress], None],
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Progress]:
        """Train to the recipe's last step, yielding after each step so the caller can save."""
        batches = self._batches(self.progress.micro_step)
        since, tokens_since = time.perf_counter(), 0
        while self.progress.step < self.recipe.optim.steps and not stop():
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

    def _step(self, batches: Iterator[tuple[StageBatch, int]]) -> int:
        """One optimizer step; the loss is the mean over its micro-batches."""
        lr = learning_rate(self.recipe.optim, self.progress.step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        metrics: dict[str, float] = {}
        n_tokens = 0
        accumulate = self.recipe.optim.accumulate
        logs = self.logs(self.progress.step + 1)
        for number in range(1, accumulate + 1):
            batch, n_memory = next(batches)
            self._watched.watching = logs and number == accumulate
            loss = self.stage(batch.to(self.accelerator.device))
            self.accelerator.backward(loss.total / accumulate)
            for name, value in loss.parts.items():
                metrics[name] = metrics.get(name, 0.0) + value / accumulate
            n_tokens += batch.n_tokens
            metrics["n_memory"] = n_memory
            self.progress.micro_step += 1
        metrics |= self._coupling(accumulate)
        norm = self.accelerator.clip_grad_norm_(self.parameters.values(), self.recipe.optim.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.progress.tokens += n_tokens
        self.progress.metrics = {**metrics, "lr": lr, "gradient_norm": float(norm)}
        return n_tokens

    def _coupling(self, accumulate: int) -> dict[str, float]:
        """What taught the roles of the joint stage in the last micro-batch, if it was watched."""
        coupling = self._watched.coupling
        self._watched.watching, self._watched.coupling = False, None
        if coupling is None:
            return {}
        return {**coupling.metrics(scale=accumulate), **role_norms(self.parameters)}

    def _batches(self, start: int) -> Iterator[tuple[StageBatch, int]]:
        """Micro-batches from number `start` on, without end."""
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
                if number >= start:
                    yield self._batch([examples[i] for i in positions], seed, number)
                number += 1
            epoch += 1

    def _batch(self, examples: Sequence[Example], seed: int, number: int) -> tuple[StageBatch, int]:
        rng = random.Random(seed * 1_000_003 + number)
        n_memory = rng.choice(self.recipe.n_memory)
        return self.collator.batch(examples, n_memory=n_memory, rng=rng), n_memory

    @torch.no_grad()
    def validate(self, *, n_memory: int) -> float | None:
        """Mean loss over the held-out examples at one rate; None without any."""
        examples = [one for one in self.examples.held_out if self.collator.usable(one)]
        if not examples:
            return None
        self.stage.eval()
        costs = [self.collator.cost(example, n_memory) for example in examples]
        order = epoch_order(costs, batch_cost=self.recipe.optim.batch_tokens, seed=0, epoch=0)
        total, n_losses = 0.0, 0
        for positions in order:
            rng = random.Random(positions[0])
            chosen = [examples[i] for i in positions]
            batch = self.collator.batch(chosen, n_memory=n_memory, rng=rng)
            loss = self.stage(batch.to(self.accelerator.device))
            total += loss.parts[self.loss_name] * batch.n_losses
            n_losses += batch.n_losses
        self.stage.train()
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
