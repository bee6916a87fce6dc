"""BERT's optimizer and learning-rate schedules, as optimization.py of google-research/bert.

The optimizer differs from Adam as textbooks have it in four points: there is no bias correction; ε
is added outside the root; weight decay is kept out of the moments and spares LayerNorm and biases;
and the gradients are clipped by one global norm over all parameters.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch.optim import Optimizer

# PyTorch's fused AdamW is the same formula except for the bias correction 1 - β^step, for which it
# has no switch. For a step number as large as this the correction is exactly 1, in float32 too.
NO_BIAS_CORRECTION = 1e8
UNUSED = {"weight_decay": 0.0, "amsgrad": False, "maximize": False, "found_inf": None}

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
        self.word_tables = list(word_tables)

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
        table_ids = {id(table.weight) for table in self.word_tables}
        params = [table.decoder_weight for table in self.word_tables]
        for group in self.param_groups:
            params += [p for p in group["params"] if id(p) not in table_ids]
        norms = torch._foreach_norm([p.grad for p in params if p.grad is not None])

        # The squared norm over looked-up rows is formed in the backward pass of the look-up.
        rows = [table.squared_norm.grad for table in self.word_tables]
        squares = [torch.stack(norms).square().sum(), *(x for x in rows if x is not None)]
        return torch.stack(squares).sum().sqrt()

    @torch.no_grad()
    def step(self, closure: None = None, loss_scale: float = 1.0) -> torch.Tensor:
        """One update; returns the global norm before clipping, as a tensor.

        The gradients must be those of `loss_scale` times the loss. The norm stays on its device:
        reading its value would wait for the device.
        """
        norm = self.global_norm() / loss_scale
        for table in self.word_tables:
            if table.decoder_weight.grad is not None:
                table.weight.grad.add_(table.decoder_weight.grad)

        # TensorFlow multiplies gradients by 1 / max(norm, limit); the kernel divides by this.
        divisor = torch.full_like(norm, loss_scale)
        if self.max_grad_norm > 0:
            divisor = divisor * (norm / self.max_grad_norm).clamp(min=1.0)

        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self.update(params, group, divisor)
            group["step"] += 1
        return norm

    def update(self, params: list, group: dict, divisor: torch.Tensor) -> None:
        """One fused call for parameters of a group; `divisor` divides their gradients."""
        for p in params:
            if not self.state[p]:
                self.state[p] = {"adam_m": torch.zeros_like(p), "adam_v": torch.zeros_like(p)}
        lr = float(self.get_lr(group))

        # The decay is not left to the kernel. Its CPU code multiplies by 1 - lr * decay, and near
        # 1 - 2e-7 float32 numbers are so sparse that the decay would be off by up to a fifth.
        if group["weight_decay_rate"]:
            torch._foreach_add_(params, params, alpha=-lr * group["weight_decay_rate"])

        grads = [p.grad for p in params]
        m = [self.state[p]["adam_m"] for p in params]
        v = [self.state[p]["adam_v"] for p in params]
        steps = [torch.full_like(divisor, NO_BIAS_CORRECTION)] * len(params)
        adam = {"lr": lr, "beta1": group["b1"], "beta2": group["b2"], "eps": group["e"]}
        torch._fused_adamw_(params, grads, m, v, [], steps, grad_scale=divisor, **adam, **UNUSED)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops all gradients, also those that only the norm and the word tables need."""
        for table in self.word_tables:
            # On a CPU the memory is kept for the next gradient, because new pages are slow.
            on_cpu = table.weight.device.type == "cpu"
            table.spare = table.weight.grad if on_cpu else None
            table.weight.grad = None
            table.squared_norm.grad = None
            table.decoder_weight.grad = None
        super().zero_grad(set_to_none)


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
    """BERTAdam with Google's settings for `model`, which must be on its device already."""
    word_tables = [module for module in model.modules() if hasattr(module, "track_row_norms")]
    for table in word_tables:
        table.track_row_norms()
    warmup = num_warmup_steps / num_train_steps if num_warmup_steps else -1
    groups = decay_groups(model)
    return BERTAdam(groups, init_lr, warmup, num_train_steps, schedule, word_tables=word_tables)
