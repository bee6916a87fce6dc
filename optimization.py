"""BERT's optimizer and learning-rate schedules, as optimization.py of google-research/bert.

The optimizer differs from Adam as textbooks have it in four points: there is no bias correction; ε
is added outside the root; weight decay is kept out of the moments and spares LayerNorm and biases;
and the gradients are clipped by one global norm over all parameters.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch.optim import Optimizer

# PyTorch's fused AdamW is the same formula except for the bias correction 1 - β^step, for which it
# has no switch. For a step number as large as this the correction is exactly 1, in float32 too.
NO_BIAS_CORRECTION = 1e8
UNUSED = {"amsgrad": False, "maximize": False, "found_inf": None}

PLAIN_NORM = (
    "BERTAdam clips by the plain norm of the word embeddings' gradient, not by TensorFlow's, "
    "because more than look-ups and decoder went into it (a gradient set by hand, another loss on "
    "the table, or gradients averaged over ranks more than once a step)"
)

# Parameters whose names end like this do not decay.
NO_DECAY = ("bias", "LayerNorm.weight")


def warmup_linear(x: float, warmup: float = 0.002) -> np.float32:
    """The factor of the peak learning rate at x, the completed fraction of the training.

    Like all schedules it rises from 0 to 1 until `warmup`. From there it is 1 - x, so it jumps down
    to 1 - warmup, as Google's does.
    """
    if x < warmup:
        return np.float32(x / warmup)
    return np.float32(1) - np.float32(x)


def warmup_constant(x: float, warmup: float = 0.002) -> np.float32:
    """Rises from 0 to 1 until `warmup`, then stays."""
    return np.float32(x / warmup if x < warmup else 1)


def warmup_cosine(x: float, warmup: float = 0.002) -> np.float32:
    """Rises from 0 to 1 until `warmup`, then follows half a cosine to 0."""
    return np.float32(x / warmup if x < warmup else 0.5 * (1.0 + math.cos(math.pi * x)))


SCHEDULES = {
    "warmup_linear": warmup_linear,
    "warmup_constant": warmup_constant,
    "warmup_cosine": warmup_cosine,
}


class BERTAdam(Optimizer):
    """BERT's Adam; `step()` clips the gradients, looks up the learning rate and updates.

    lr                 the peak learning rate
    warmup             the fraction of t_total over which the rate rises; -1 for no warm-up
    t_total            the total number of steps; -1 for a constant rate without a schedule
    schedule           how the rate changes, a name from SCHEDULES
    b1, b2, e          β1, β2 and ε of Adam
    weight_decay_rate  the decay, decoupled from the gradient; a parameter group may have its own
    max_grad_norm      the limit of the global norm; -1 for no clipping
    word_tables        WordEmbeddings whose gradient is normed by its sources (see global_norm)

    A parameter without a gradient is left alone: its moments do not change and it does not decay,
    as in TensorFlow. Raises ValueError for a setting out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        warmup: float = -1,
        t_total: int = -1,
        schedule: str = "warmup_linear",
        b1: float = 0.9,
        b2: float = 0.999,
        e: float = 1e-6,
        weight_decay_rate: float = 0.01,
        max_grad_norm: float = 1.0,
        word_tables: Iterable[torch.nn.Module] = (),
    ):
        if schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {schedule!r}: use one of {', '.join(SCHEDULES)}")
        for name, value, limit in (("lr", lr, math.inf), ("b1", b1, 1), ("b2", b2, 1), ("e", e, 1)):
            if not 0 <= value < limit:
                raise ValueError(f"{name} is {value}, which is not in [0, {limit})")
        if not (warmup == -1 or 0 <= warmup <= 1):
            raise ValueError(f"warmup is {warmup}, which is neither -1 nor in [0, 1]")

        rate = {"lr": lr, "warmup": warmup, "t_total": t_total, "schedule": schedule, "step": 0}
        adam = {"b1": b1, "b2": b2, "e": e, "weight_decay_rate": weight_decay_rate}
        super().__init__(params, rate | adam)
        self.max_grad_norm = max_grad_norm
        self.warned = False
        self.known_on_host = None
        self.word_tables = list(word_tables)

    # Without the wrapper that keeps torch.compile out of them: it imports torch._dynamo, which
    # takes as long as PyTorch itself, two seconds at the start of every run.
    add_param_group = inspect.unwrap(Optimizer.add_param_group)
    state_dict = inspect.unwrap(Optimizer.state_dict)
    load_state_dict = inspect.unwrap(Optimizer.load_state_dict)

    def __getstate__(self):
        own = ("max_grad_norm", "word_tables", "warned")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in own}}

    def __setstate__(self, state):
        super().__setstate__({**state, "known_on_host": None})

    def get_lr(self, group: dict | None = None) -> np.float32:
        """The learning rate of the next step, of the first parameter group by default."""
        group = group or self.param_groups[0]
        lr = np.float32(group["lr"])
        step = group["step"]
        total = group["t_total"]
        warmup = group["warmup"]
        schedule = SCHEDULES[group["schedule"]]

        if total <= 0:
            return lr
        if step / total < warmup:
            return lr * schedule(step / total, warmup)
        # TensorFlow turns a division by a constant into a product with its reciprocal.
        progress = np.float32(min(step, total)) * (np.float32(1) / np.float32(total))
        return lr * schedule(progress, 0.0)

    def global_norm(self) -> torch.Tensor:
        """The norm of all gradients, a scalar tensor, as TensorFlow computes it.

        In TensorFlow the gradient of the word embeddings is an IndexedSlices, with one row for each
        token that was looked up, and its norm is that of these rows before rows of the same word
        are added up. The gradient of a decoder that shares the table counts separately. This is a
        quirk of optimization.py:74 in Google's repository.
        """
        norm = self._norm()
        self._warn_if_dense()
        return norm

    def _norm(self):
        """The same, without a word about word tables that count with their plain norm."""
        sources = {table.weight: table.sources for table in self.word_tables}
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        tables = [sources[p].norms(p.grad) for p in params if sources.get(p)]
        norms = [decoder for _, decoder in tables if decoder is not None]
        grads = [p.grad for p in params if not sources.get(p)]
        norms += torch._foreach_norm(grads) if grads else []
        squares = [torch.stack(norms).square().sum()] if norms else []
        squares += [squared for squared, _ in tables]
        return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())

    def _warn_if_dense(self):
        """Says once that a word table counts with its plain norm."""
        for table in self.word_tables:
            known = table.sources.known
            if self.warned or known is None:
                continue
            seen = self.known_on_host
            if known.device.type == "cpu":
                seen = known
            else:
                # What the step before sent: to wait for this step's would cost the GPU's time.
                # It is 1 until that has arrived.
                self.known_on_host = torch.ones((), pin_memory=True)
                self.known_on_host.copy_(known, non_blocking=True)
            if seen is not None and not seen:
                self.warned = True
                warnings.warn(PLAIN_NORM, stacklevel=4)

    @torch.no_grad()
    def step(self, closure: Callable | None = None, loss_scale: float = 1.0) -> torch.Tensor:
        """One update; returns the global norm before clipping, as a tensor.

        The gradients must be those of `loss_scale` times the loss. The norm stays on its device:
        reading its value would wait for the device. A `closure` computes the loss and the gradients
        first, and its loss is returned. In a process group of several ranks every rank must call
        this. Raises ValueError for parameters in half precision.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        norm = self.apply([float(self.get_lr(group)) for group in self.param_groups], loss_scale)
        self._warn_if_dense()
        self.count_step()
        return norm if loss is None else loss

    def count_step(self) -> None:
        """Moves the schedule on by a step."""
        for group in self.param_groups:
            group["step"] += 1

    @torch.no_grad()
    def apply(self, rates: Sequence, loss_scale: float = 1.0) -> torch.Tensor:
        """One update at given learning rates, one for each group; returns the norm as `step` does.

        It does not look at the schedule and does not count as a step. On a GPU the rates may be
        scalar float32 tensors there: then all is done on the device, and a CUDA graph can hold it.
        """
        norm = self._norm() / loss_scale

        # TensorFlow multiplies gradients by 1 / max(norm, limit); the kernel divides by this.
        divisor = torch.full_like(norm, loss_scale)
        if self.max_grad_norm > 0:
            divisor = divisor * (norm / self.max_grad_norm).clamp(min=1.0)

        self.make_moments()
        for group, rate in zip(self.param_groups, rates):
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self.update(params, group, rate, divisor)
        return norm

    def make_moments(self) -> None:
        """Makes the moments of parameters that have a first gradient, 0 at the start.

        Raises ValueError for parameters in half precision.
        """
        params = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for p in params:
            if p.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"BERTAdam cannot update parameters in {str(p.dtype).removeprefix('torch.')}, "
                    f"whose rounding would swallow most of a step: keep the parameters in float32 "
                    f"and compute under torch.autocast"
                )
            if not self.state[p]:
                self.state[p] = {"adam_m": torch.zeros_like(p), "adam_v": torch.zeros_like(p)}

    def update(self, params: list, group: dict, rate, divisor: torch.Tensor) -> None:
        """One fused call for parameters of a group; `divisor` divides their gradients."""
        # The decay is not left to the kernel's CPU code, which multiplies by 1 - lr * decay: near
        # 1 - 2e-7 float32 numbers are so sparse that the decay would be off by up to a fifth. The
        # CUDA code subtracts lr * decay * p, computed in float64.
        decay = group["weight_decay_rate"]
        if decay and params[0].device.type == "cpu":
            torch._foreach_add_(params, params, alpha=-float(rate) * decay)
            decay = 0.0

        grads = [p.grad for p in params]
        m = [self.state[p]["adam_m"] for p in params]
        v = [self.state[p]["adam_v"] for p in params]
        steps = [torch.full_like(divisor, NO_BIAS_CORRECTION, dtype=torch.float32)] * len(params)
        if params[0].dtype == torch.float64:  # whose divisor the kernel would take in float32
            torch._foreach_div_(grads, divisor)
            divisor = None
        adam = {
            "lr": rate, "beta1": group["b1"], "beta2": group["b2"], "eps": group["e"],
            "weight_decay": decay, "grad_scale": divisor,
        }  # fmt: skip
        torch._fused_adamw_(params, grads, m, v, [], steps, **adam, **UNUSED)

    def zero_grad(self, set_to_none: bool = True, reuse_memory: bool = False) -> None:
        """Drops all gradients.

        With `reuse_memory` the next gradient of a word table is written where this one is, which is
        faster on a CPU. Nothing else may hold it then.
        """
        if reuse_memory:
            for table in self.word_tables:
                table.reuse_gradient()
        inspect.unwrap(Optimizer.zero_grad)(self, set_to_none)


def decay_groups(model: torch.nn.Module, weight_decay_rate: float = 0.01) -> list[dict]:
    """Two parameter groups: those that decay; LayerNorm and biases, which do not."""
    decaying = {"params": [], "weight_decay_rate": weight_decay_rate}
    others = {"params": [], "weight_decay_rate": 0.0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = others if name.endswith(NO_DECAY) else decaying
            group["params"].append(parameter)
    return [decaying, others]


def create_optimizer(
    model: torch.nn.Module,
    init_lr: float,
    num_train_steps: int,
    num_warmup_steps: int,
    schedule: str = "warmup_linear",
) -> BERTAdam:
    """BERTAdam with Google's settings for `model`."""
    word_tables = [m for m in model.modules() if hasattr(m, "track_gradient_sources")]
    for table in word_tables:
        table.track_gradient_sources()
    warmup = num_warmup_steps / num_train_steps if num_warmup_steps else -1
    groups = decay_groups(model)
    return BERTAdam(groups, init_lr, warmup, num_train_steps, schedule, word_tables=word_tables)
