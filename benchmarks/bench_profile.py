"""Where the time of a fine-tuning step goes, with one thread and with more.

The table shows the share of each kind of operation in the own time of all operations, as PyTorch's
profiler adds it up over several steps, with one thread / with more. In brackets is how many times
faster the threads make that kind, scaled by the time of steps without the profiler, because the
profiler makes small operations look slightly more expensive.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(6, "steps"), shape=("384-wide", "384-wide or BERT-Base"),
    task=("", "MRPC or SQuAD"), dtype=("", "float32 or bfloat16"),
)  # fmt: skip

import time  # noqa: E402

import torch  # noqa: E402
from contenders import by_kind, features_of, ours, training_batches  # noqa: E402

import modeling  # noqa: E402

# Kinds of operations, by patterns of their names. The first pattern that matches decides.
KINDS = {
    "products of the dense layers": r"^aten::(addmm|mm)$",
    "attention's products, softmax": r"^aten::(bmm|baddbmm)$|softmax",
    "GELU, LayerNorm, sums": r"^aten::(gelu|native_layer_norm|add_?$|sum$)",
    "dropout": r"^random words$|^aten::threshold_backward$",
    "copies and casts": r"^aten::(copy_|cat|clone|_to_copy)$",
    "optimizer": r"^aten::(_fused_adamw_|linalg_vector_norm)$",
    "other operations, Python": "",
}


def profiled(step, batches, threads):
    """({kind: share of the step}, seconds per step without the profiler)"""
    common.progress(f"{threads} threads" if threads > 1 else "one thread")
    torch.set_num_threads(threads)
    for batch in batches:  # Kernels are created on first use, and again for more threads.
        step(batch)
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    seconds = (time.perf_counter() - start) / len(batches)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for batch in batches:
            with torch.profiler.record_function("step"):
                step(batch)
    times = {event.key: event.self_cpu_time_total for event in profiler.key_averages()}
    return by_kind(times, KINDS), seconds


def measure(task, dtype, batches):
    common.progress(f"{task}, {dtype}")
    step = ours(task, args.shape, getattr(torch, dtype), "cpu")
    one, seconds_one = profiled(step, batches, 1)
    more, seconds_more = profiled(step, batches, args.threads)
    return {
        "task": task, "shape": args.shape, "dtype": dtype,
        "milliseconds": [seconds_one * 1e3, seconds_more * 1e3],
        "shares": {kind: [one[kind], more[kind]] for kind in KINDS},
        "gain": {
            kind: one[kind] * seconds_one / (more[kind] * seconds_more) for kind in KINDS
        },
    }  # fmt: skip


def main():
    words = modeling.random_int16

    def recorded(count):
        with torch.profiler.record_function("random words"):
            return words(count)

    modeling.random_int16 = recorded
    rounds, figures = 3 if args.quick else args.rounds, []
    names = common.precisions(args.dtype)
    for task in [args.task] if args.task else ["MRPC", "SQuAD"]:
        batches, _ = training_batches(task, features_of(task), rounds)
        for dtype in names:
            figures.append(measure(task, dtype, batches))
    rows = [
        [
            kind,
            *(
                "{:.0%} / {:.0%} ({:.1f})".format(*f["shares"][kind], f["gain"][kind])
                for f in figures
            ),
        ]
        for kind in KINDS
    ]
    rows.append(["milliseconds", *("{:.0f} / {:.0f}".format(*f["milliseconds"]) for f in figures)])
    title = f"{args.shape}, 1 thread / {args.threads} (gain), {rounds} steps"
    common.table(title, ["", *(f"{f['task']}, {f['dtype']}" for f in figures)], rows)
    common.finish(args, figures)


if __name__ == "__main__":
    main()
