"""Training steps of fine-tuning, on the length distribution of MRPC and SQuAD.

Each contender does whole steps (batch, forward, backward, clipping, optimizer) on the same
examples:

    ours          without padding, BERTAdam
    default       transformers as its examples/pytorch run_glue.py and run_qa.py and its Trainer
                  (training_args.py) configure it: padded to the maximum, its default attention
                  (SDPA), fused AdamW, gradient norm 1.0
    best          transformers at its best: batches grouped by length and padded to their longest,
                  fused AdamW, bfloat16 where the CPU has instructions for it, else float32
    first port    as the PyTorch port of November 2018, in float32: padded; attention, LayerNorm and
                  GELU written out in single operations; gradients clipped one by one; Adam in a
                  Python loop

The limit is the best FLOP/s of torch.nn.functional.linear in the same process, dtype and threads;
useful FLOPs are those of tokens: 8LH² + 4LHI + 4L²H per layer and example, three times for a step.
Memory is the largest resident set of a separate process that does three steps.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(12, "timed steps of each"), shape=("", "384-wide or BERT-Base"),
    task=("", "MRPC or SQuAD"), dtype=("", "float32 or bfloat16"),
    child=("", "used by itself"),
)  # fmt: skip

import math  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402

import torch  # noqa: E402
import transformers  # noqa: E402
from contenders import (  # noqa: E402
    INPUTS,
    WIDTH,
    features_of,
    limit,
    ours,
    peer,
    targets_of,
    theirs,
    training_batches,
    useful_flops,
)

from data import model_inputs  # noqa: E402

torch.set_num_threads(args.threads)
BEST = "float32" if common.why_not_bfloat16() else "bfloat16"  # what is fastest on this CPU


class WrittenLayerNorm(torch.nn.LayerNorm):
    def forward(self, x):
        x = x - x.mean(-1, keepdim=True)
        return self.weight * (x / torch.sqrt((x * x).mean(-1, keepdim=True) + self.eps)) + self.bias


class WrittenGELU(torch.nn.Module):
    def forward(self, x):
        return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def first_port(task, shape):
    """A function of features: a step of transformers' model, changed to work as the first port."""
    model = peer(task, shape, attn_implementation="eager").train()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.__class__ = WrittenLayerNorm
        if hasattr(module, "intermediate_act_fn"):
            module.intermediate_act_fn = WrittenGELU()
    parameters = list(model.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]

    def step(features):
        inputs = dict(zip(INPUTS, model_inputs(features, WIDTH[task])))
        model(**inputs, **targets_of(task, features)).loss.backward()
        first_port_adam(parameters, moments)
        model.zero_grad()

    return step


@torch.no_grad()
def first_port_adam(parameters, moments, lr=2e-5):
    for p, (m, v) in zip(parameters, moments):
        torch.nn.utils.clip_grad_norm_(p, 1.0)
        m.mul_(0.9).add_(p.grad, alpha=0.1)
        v.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
        p.sub_(lr * (m / (v.sqrt() + 1e-6) + 0.01 * p))


def matrix_shapes(shape):
    """The model's three kinds of products, as `limit` takes them."""
    hidden, wide = (common.SHAPES[shape][key] for key in ("hidden_size", "intermediate_size"))
    return [(4096, hidden, hidden), (4096, hidden, wide), (4096, wide, hidden)]


def make_step(name, task, shape, dtype):
    """The step of one contender."""
    if name == "ours":
        return ours(task, shape, dtype, "cpu")
    if name == "best":
        return theirs(task, shape, getattr(torch, BEST), "cpu")
    if name == "default":
        return theirs(task, shape, torch.float32, "cpu", width=WIDTH[task])
    return first_port(task, shape)


def peak_memory(name, task, shape, dtype):
    """The largest resident set, in MB, of a process that does three steps of one contender."""
    common.progress(f"memory of {name}")
    child = f"{name}:{task}:{shape}:{str(dtype)[6:]}"
    command = [sys.executable, __file__, "--threads", str(args.threads), "--child", child]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return float(output.split()[-1])


def child(name, task, shape, dtype):
    step = make_step(name, task, shape, getattr(torch, dtype))
    for batch in training_batches(task, features_of(task), 3)[0]:
        step(batch)
    print(common.peak_memory())


def compare(task, shape, dtype, features):
    rounds = max(4, args.rounds // 3) if args.quick or shape == "BERT-Base" else args.rounds
    batches, grouped = training_batches(task, features, rounds)
    chosen = [feature for batch in batches for feature in batch]
    steps = {
        name: (make_step(name, task, shape, dtype), grouped if name == "best" else batches)
        for name in ("ours", "default", "best", *["first port"] * (dtype == torch.float32))
    }
    contenders = {
        name: lambda number, step=step, data=data: step(data[number % len(data)])
        for name, (step, data) in steps.items()
    }
    common.progress(f"{task}, {shape}, {str(dtype)[6:]}: the limit, then each contender in turn")
    ceiling = [limit(matrix_shapes(shape), dtype)]
    seconds = common.interleave(contenders, len(batches))
    ceiling.append(limit(matrix_shapes(shape), dtype))
    tokens = sum(len(f.input_ids) for f in chosen)
    ratio = {
        name: common.spread([b / a for a, b in zip(seconds["ours"], times)])
        for name, times in seconds.items()
    }
    # Grouped batches differ from round to round, so "best" is compared by its total time.
    total = sum(seconds["best"]) / sum(seconds["ours"])
    ratio["best"] = {"median": total, "low": total, "high": total}
    memory = {name: peak_memory(name, task, shape, dtype) for name in ("ours", "default")}
    share = useful_flops(shape, chosen) / sum(seconds["ours"]) / max(ceiling)
    return {
        "task": task, "shape": shape, "dtype": str(dtype)[6:], "ratio": ratio,
        "tokens_per_second": {name: tokens / sum(times) for name, times in seconds.items()},
        "limit_gflops": max(ceiling) / 1e9, "share_of_limit": share, "peak_memory_mb": memory,
    }  # fmt: skip


def main():
    if args.child:
        child(*args.child.split(":"))
        return
    figures, names = [], common.precisions(args.dtype)
    print(
        f"transformers {transformers.__version__}; {args.threads} threads; ours is n times as fast"
    )
    for task in [args.task] if args.task else ["MRPC", "SQuAD"]:
        features = features_of(task)
        for shape in [args.shape] if args.shape else list(common.SHAPES)[: 1 if args.quick else 2]:
            for name in names:
                figures.append(compare(task, shape, getattr(torch, name), features))
    rows = [
        [
            f["task"], f["shape"], f["dtype"],
            *(
                common.text(f["ratio"][name]) if name in f["ratio"] else ""
                for name in ("default", "best", "first port")
            ),
            *(f"{f['tokens_per_second'][name]:.0f}" for name in ("ours", "default", "best")),
            f"{f['limit_gflops']:.0f}", f"{f['share_of_limit']:.2f}",
            f"{f['peak_memory_mb']['ours'] / f['peak_memory_mb']['default']:.2f}",
        ]
        for f in figures
    ]  # fmt: skip
    header = ["task", "shape", "ours in", "× default (float32)", f"× best ({BEST})",
              "× first port (float32)", "tokens/s ours", "default", "best", "limit GFLOP/s",
              "share", "memory / default"]  # fmt: skip
    common.table("Fine-tuning steps", header, rows)
    common.finish(args, figures)


if __name__ == "__main__":
    main()
