"""BERT's optimizer and learning-rate schedules, as optimization.py of google-research/bert.

Adam without bias correction, ε outside the root, weight decay apart from the moments and not on
LayerNorm or biases, and one global gradient norm over all parameters. It differs from the Adam of
the textbooks in each of these points.
"""

import math

import numpy as np
import torch
from torch.optim import Optimizer

# PyTorch's fused AdamW is the same formula but for the bias correction 1 - β^step, for which it has
# no switch: with so large a step the correction is exactly 1, also in float32.
NO_BIAS_CORRECTION = 1e8
UNUSED = {"weight_decay": 0.0, "amsgrad": False, "maximize": False, "found_inf": None}
NO_DECAY = ("bias", "LayerNorm.weight")


def warmup_linear(x, warmup=0.002):
    """Share of the peak rate at x, the share of the training that is done, as float32.

    As all schedules it rises from 0 to 1 until `warmup`. Then it is 1 - x: as Google's, it jumps.
    """
    return np.float32(x / warmup) if x < warmup else np.float32(1) - np.float32(x)


def warmup_constant(x, warmup=0.002):
    """Rises, then stays."""
    return np.float32(x / warmup if x < warmup else 1)


def warmup_cosine(x, warmup=0.002):
    """Rises, then follows half a cosine to 0."""
    return np.float32(x / warmup if x < warmup else 0.5 * (1.0 + math.cos(math.pi * x)))


SCHEDULES = {f.__name__: f for f in (warmup_linear, warmup_constant, warmup_cosine)}


class BERTAdam(Optimizer):
    """BERT's Adam; `step()` clips the gradients, looks up the learning rate and updates.

    lr                 peak learning rate, which `schedule` (a name from SCHEDULES) shapes
    warmup             share of t_total over which the rate rises; -1 for none
    t_total            steps in all; -1 for a constant rate without a schedule
    b1, b2, e          β1, β2 and ε of Adam
    weight_decay_rate  decoupled decay; a parameter group may carry its own
    max_grad_norm      bound of the global norm; -1 for none
    tracked            word tables whose gradient is normed by its sources (see global_norm)

    A parameter without a gradient is left alone: neither moments nor decay, as in TensorFlow.
    """

    def __init__(self, params, lr, warmup=-1, t_total=-1, schedule="warmup_linear",
                 b1=0.9, b2=0.999, e=1e-6, weight_decay_rate=0.01, max_grad_norm=1.0,
                 tracked=()):  # fmt: skip
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
        self.max_grad_norm, self.tracked = max_grad_norm, list(tracked)

    def get_lr(self, group=None):
        """The learning rate of the coming step, as float32."""
        group = group or self.param_groups[0]
        lr = np.float32(group["lr"])
        if group["t_total"] <= 0:
            return lr
        step, total, warmup = group["step"], group["t_total"], group["warmup"]
        schedule = SCHEDULES[group["schedule"]]
        if step / total < warmup:
            return lr * schedule(step / total, warmup)
        # TensorFlow turns a division by a constant into a product with its reciprocal.
        progress = np.float32(min(step, total)) * (np.float32(1) / np.float32(total))
        return lr * schedule(progress, 0.0)

    def global_norm(self):
        """Norm of all gradients, a scalar tensor, as TensorFlow computes it.

        A word table's gradient counts as its single look-ups' rows, and apart from them the matrix
        that comes from a decoder which shares the table (quirk of optimization.py:74).
        """
        by_source = {id(words.weight) for words in self.tracked}
        params = [words.decoder_weight for words in self.tracked]
        for group in self.param_groups:
            params += [p for p in group["params"] if id(p) not in by_source]
        norms = torch._foreach_norm([p.grad for p in params if p.grad is not None])
        rows = [words.squared_norm.grad for words in self.tracked]
        squares = [torch.stack(norms).square().sum(), *(x for x in rows if x is not None)]
        return torch.stack(squares).sum().sqrt()

    @torch.no_grad()
    def step(self, closure=None, loss_scale=1.0):
        """One update; returns the global norm before clipping (a tensor: reading it would wait).

        The gradients are those of `loss_scale` times the loss.
        """
        norm = self.global_norm() / loss_scale
        for words in self.tracked:
            if words.decoder_weight.grad is not None:
                words.weight.grad.add_(words.decoder_weight.grad)
        # The kernel divides gradients by this; TensorFlow multiplies by 1 / max(norm, limit).
        divisor = torch.full_like(norm, loss_scale)
        if self.max_grad_norm > 0:
            divisor = divisor * (norm / self.max_grad_norm).clamp(min=1.0)
        for group in self.param_groups:
            if params := [p for p in group["params"] if p.grad is not None]:
                self.update(params, group, divisor)
            group["step"] += 1
        return norm

    def update(self, params, group, divisor):
        """One fused call for parameters of a group whose gradients are too large by `divisor`."""
        for p in params:
            if not self.state[p]:
                self.state[p] = {"adam_m": torch.zeros_like(p), "adam_v": torch.zeros_like(p)}
        lr = float(self.get_lr(group))
        # Not left to the kernel, whose CPU code multiplies by 1 - lr * decay: float32 has no number
        # near 1 - 2e-7, so that the decay would be off by up to a fifth.
        if group["weight_decay_rate"]:
            torch._foreach_add_(params, params, alpha=-lr * group["weight_decay_rate"])
        grads = [p.grad for p in params]
        m, v = ([self.state[p][moment] for p in params] for moment in ("adam_m", "adam_v"))
        steps = [torch.full_like(divisor, NO_BIAS_CORRECTION)] * len(params)
        adam = {"lr": lr, "beta1": group["b1"], "beta2": group["b2"], "eps": group["e"]}
        torch._fused_adamw_(params, grads, m, v, [], steps, grad_scale=divisor, **adam, **UNUSED)

    def zero_grad(self, set_to_none=True):
        for words in self.tracked:
            # On a CPU the memory is kept for the next gradient: new pages are slow.
            words.spare = words.weight.grad if words.weight.device.type == "cpu" else None
            words.weight.grad = words.squared_norm.grad = words.decoder_weight.grad = None
        super().zero_grad(set_to_none)


def decay_groups(model, weight_decay_rate=0.01):
    """Two parameter groups: what decays, and LayerNorm and biases, which do not."""
    groups = [{"params": [], "weight_decay_rate": rate} for rate in (weight_decay_rate, 0.0)]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[name.endswith(NO_DECAY)]["params"].append(parameter)
    return groups


def create_optimizer(model, init_lr, num_train_steps, num_warmup_steps, schedule="warmup_linear"):
    """BERTAdam with Google's settings for `model`; move the model to its device first."""
    tracked = [module for module in model.modules() if hasattr(module, "track_row_norms")]
    for words in tracked:
        words.track_row_norms()
    warmup = num_warmup_steps / num_train_steps if num_warmup_steps else -1
    groups = decay_groups(model)
    return BERTAdam(groups, init_lr, warmup, num_train_steps, schedule, tracked=tracked)
