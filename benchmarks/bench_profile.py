"""Where the time of a fine-tuning step goes, with one thread and with more.

Each operation's own time, as PyTorch's profiler adds it up over some steps, in groups. Of a group
`gain` says how many times faster the threads make it: a group that gains little is not shared out.
The profiler itself takes about 2 µs an operation, so that many small ones look a little dearer than
they are; milliseconds without it stand in the line above the table.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(6, "steps"), shape=("384-wide", "384-wide or BERT-Base"),
    task=("", "MRPC or SQuAD"), dtype=("", "float32 or bfloat16"),
)  # fmt: skip

import time  # noqa: E402

import torch  # noqa: E402
from contenders import features_of, ours, training_batches, useful_flops  # noqa: E402
from torch.profiler import profile, record_function  # noqa: E402

import packing  # noqa: E402

GROUPS = {
    "dense layers' products": {"aten::addmm", "aten::mm"},
    "attention's products": {"aten::bmm", "aten::baddbmm"},
    "softmax": {"aten::_softmax", "aten::_softmax_backward_data"},
    "GELU": {"aten::gelu", "aten::gelu_backward"},
    "LayerNorm": {"aten::native_layer_norm", "aten::native_layer_norm_backward"},
    "dropout: random words": {"random words"},
    "dropout: applied": {"aten::threshold_backward"},
    "copies and casts": {"aten::copy_", "aten::cat", "aten::clone", "aten::_to_copy"},
    "sums of gradients and residuals": {"aten::add", "aten::add_", "aten::sum"},
    "optimizer": {"aten::_fused_adamw_", "aten::linalg_vector_norm"},
}
OTHER = "other operations, small ones and views"
PYTHON = "Python and autograd"


def group_of(name):
    found = [group for group, names in GROUPS.items() if name in names]
    return found[0] if found else OTHER if name.startswith("aten::") else PYTHON


def profiled(step, batches, threads):
    """({group: seconds a step}, seconds a step without the profiler)"""
    torch.set_num_threads(threads)
    for batch in batches:  # Kernels are made on first use, and again for more threads.
        step(batch)
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    wall = (time.perf_counter() - start) / len(batches)
    with profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for batch in batches:
            with record_function("step"):
                step(batch)
    seconds = dict.fromkeys([*GROUPS, OTHER, PYTHON], 0.0)
    for event in profiler.key_averages():
        seconds[group_of(event.key)] += event.self_cpu_time_total / 1e6 / len(batches)
    return seconds, wall


def measure(task, dtype):
    rounds = 3 if args.quick else args.rounds
    batches, _ = training_batches(task, features_of(task), rounds)
    step = ours(task, args.shape, getattr(torch, dtype), "cpu")
    one, wall_one = profiled(step, batches, 1)
    more, wall_more = profiled(step, batches, args.threads)
    flops = sum(useful_flops(args.shape, batch) for batch in batches) / len(batches)
    print(
        f"\n{task}, {dtype}: {wall_one * 1e3:.0f} ms a step with 1 thread, "
        f"{wall_more * 1e3:.0f} with {args.threads}; useful GFLOP/s {flops / wall_one / 1e9:.0f}, "
        f"{flops / wall_more / 1e9:.0f}"
    )
    figures = {
        group: {
            "share_1": one[group] / sum(one.values()),
            f"share_{args.threads}": more[group] / sum(more.values()),
            "gain": one[group] / more[group] if more[group] else 1.0,
        }
        for group in one
    }
    rows = [
        [group, *(f"{share:.1%}" for share in list(f.values())[:-1]), f"{f['gain']:.2f}"]
        for group, f in figures.items()
    ]
    common.table(
        f"{task}, {args.shape}, {dtype}",
        ["operations", "of the step, 1 thread", f"{args.threads} threads", "gain"],
        rows,
    )
    return {"task": task, "shape": args.shape, "dtype": dtype, "milliseconds_1": wall_one * 1e3,
            f"milliseconds_{args.threads}": wall_more * 1e3, "groups": figures}  # fmt: skip


def main():
    words = packing.random_words

    def recorded(count):
        with record_function("random words"):
            return words(count)

    packing.random_words = recorded
    common.finish(
        args,
        [
            measure(task, dtype)
            for task in ([args.task] if args.task else ["MRPC", "SQuAD"])
            for dtype in ([args.dtype] if args.dtype else ["float32", "bfloat16"])
        ],
    )


if __name__ == "__main__":
    main()
