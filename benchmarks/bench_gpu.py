"""Training and prediction on a GPU, in bfloat16, on the lengths of MRPC and SQuAD.

    python benchmarks/bench_gpu.py --json gpu.json

It needs PyTorch with CUDA, and transformers. It needs no data: the lengths are built in and the
weights are random. Without a GPU it says so and stops; `--device cpu` runs everything except the
GPU's counters on a tiny model.

Each contender does whole steps from lists of ids (see contenders.py):

    ours      without padding, BERTAdam
    compiled  the same with --compile (on a GPU; --compile 0 leaves it out)
    default   transformers as its Trainer with --bf16 and its example scripts configure it: padded
              to the maximum, SDPA, fused AdamW
    best      transformers at its best: batches grouped by length and padded to their longest; for
              prediction, the weights are in bfloat16 too (--bf16_full_eval)

On a machine with one GPU, each within six minutes:

    CUDA_VISIBLE_DEVICES=0 python -m pytest -q tests/test_gpu.py
    python benchmarks/bench_gpu.py --quick --compile 0 --mode training --json gpu.json

They take turns; a turn is several steps without a pause, and then a wait for the device. The limit
is the best FLOP/s of a bfloat16 product of 8192³ in the same process, before and after; useful
FLOPs are those of tokens. Memory is the most that PyTorch had allocated during a turn, without the
other contenders' weights. One more turn runs under PyTorch's profiler, which gives the time of each
kind of kernel, and one more step under CUDA's check for operations that make the host wait
(prediction has one: it fetches its result).
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], device=("cuda", "cuda, or cpu to try the code"),
    rounds=(6, "timed turns of each"), steps=(8, "steps in a turn"),
    shape=("", "BERT-Base or BERT-Large; both"), task=("", "MRPC or SQuAD; both"),
    batch=(0, "examples in a batch; 12, 32 and 64"), mode=("", "training or prediction; both"),
    compile=(1, "whether to time --compile too"),
)  # fmt: skip

import gc  # noqa: E402
import itertools  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

CUDA = args.device == "cuda"
if CUDA and not torch.cuda.is_available():
    print("bench_gpu.py: found no CUDA device, so nothing is measured (try --device cpu)")
    sys.exit()

from contenders import SHAPES, WIDTH, batches_of, by_kind, ours, theirs, useful_flops  # noqa: E402

# Every twentieth of the sorted lengths of MRPC's 3,668 training pairs at 128, and of 1,538 windows
# of SQuAD's training questions at 384 with stride 128, with BERT-Base's uncased vocabulary.
LENGTHS = {
    "MRPC": [19, 32, 36, 39, 41, 44, 45, 47, 50, 51, 53, 55, 57, 59, 61, 62, 64, 67, 70, 74, 103],
    "SQuAD": [41, 58, 74, 83, 90, 96, 106, 116, 123, 130, 137, 146, 154, 164, 171, 184, 203, 218,
              234, 297, 384],
}  # fmt: skip

# Kinds of kernels, by patterns of their names on a GPU (or of PyTorch's operations on a CPU). The
# first pattern that matches decides.
KINDS = {
    "attention": r"flash|fmha|attention|sdpa",
    "optimizer": r"adam|multi_tensor_apply|foreach|lpnorm",
    "matmul": r"gemm|gemv|nvjet|cutlass|cublas|xmma|splitk|\bb?mm\b|addmm|linear",
    "copies": r"memcpy|memset|copy|catarray|\bcat\b|index|gather|scatter|embedding|grad_weight"
    r"|cub::|nonzero|jagged",
    "dropout, elementwise, norms": r"elementwise|dropout|norm|gammabeta|softmax|nll_loss|reduce"
    r"|gelu|threshold|triton|aten::(add|sub|mul|div|fill|zero|sum|random|bernoulli|native)",
    "other": "",
}


def synchronize():
    if CUDA:
        torch.cuda.synchronize()


def allocated():
    """Bytes that PyTorch has allocated on the device."""
    return torch.cuda.memory_allocated() if CUDA else 0


def make_features(task, count):
    """Random ids of the task's lengths."""
    rng, lengths = np.random.default_rng(0), LENGTHS[task]
    places = np.linspace(0, 1, len(lengths))
    return [
        SimpleNamespace(
            input_ids=rng.integers(1000, 30000, length, np.int32),
            segment_ids=np.repeat([0, 1], [length // 2, length - length // 2]).astype(np.int32),
            label_id=int(rng.integers(2)), start_position=length // 2, end_position=length - 1,
        )
        for length in np.interp(rng.random(count), places, lengths).round().astype(int)
    ]  # fmt: skip


def limit():
    """The best FLOP/s of a square bfloat16 product."""
    size, best = 8192 if CUDA else 256, 0.0
    one, other = (torch.randn(size, size, device=args.device).bfloat16() for _ in range(2))
    for _ in range(8):
        synchronize()
        start = time.perf_counter()
        for _ in range(8):
            one @ other
        synchronize()
        best = max(best, 8 * 2 * size**3 / (time.perf_counter() - start))
    return best


def make_steps(task, shape, training):
    """{contender: its step} and {contender: the bytes that it holds on the device}."""
    torch._dynamo.reset()  # Forget what was compiled for earlier models.
    kinds = {
        "ours": lambda *each: ours(*each),
        "compiled": lambda *each: ours(*each, compiled=True),
        "default": lambda *each: theirs(*each, width=WIDTH[task]),
        "best": lambda *each: theirs(*each, half_weights=not training),
    }
    if not (CUDA and args.compile):
        del kinds["compiled"]
    steps, held = {}, {}
    # With two sizes, so that it is compiled for any size.
    warm_up = make_features(task, 4), make_features(task, 5)
    for name, make in kinds.items():
        before = allocated()
        step = make(task, shape, torch.bfloat16, args.device, training)
        try:
            for features in warm_up:
                step(features)  # the optimizer's moments are made in the first step
        except RuntimeError as error:
            if name != "compiled":
                raise
            # E.g. there is no C compiler.
            print(f"compiled is left out: {error}", flush=True)
            continue
        steps[name] = step
        held[name] = allocated() - before
    return steps, held


def kernel_times(step, batches):
    """{kernel: seconds on the device} of several steps, and how often the host waited."""
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU, activity.CUDA] if CUDA else [activity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for batch in batches:
            step(batch)
        synchronize()
    times, waits = Counter(), 0
    for event in profiler.key_averages():
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device == CUDA and not event.is_user_annotation:
            spent = event.self_device_time_total if CUDA else event.self_cpu_time_total
            times[event.key] += spent / 1e6
        if event.key == "cudaStreamSynchronize":  # the wait after the last step is another call
            waits += event.count
    return times, waits


def waits_of(step, batch):
    """The places, file:line, where a step makes the host wait for the device, by CUDA's check."""
    if not CUDA:
        step(batch)
        return []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [
        f"{Path(each.filename).name}:{each.lineno}"
        for each in caught
        if "synchronizing CUDA operation" in str(each.message)
    ]


def compare(task, shape, size, mode):
    """The figures of the contenders on the same features."""
    rounds = 3 if args.quick else args.rounds
    features = make_features(task, size * args.steps * rounds)
    batches, grouped = batches_of(features, size)
    steps, held = make_steps(task, shape, mode == "training")
    data = {name: grouped if name == "best" else batches for name in steps}
    peak = dict.fromkeys(steps, 0)

    def turn(name, number):
        others = allocated() - held[name]
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        for batch in data[name][number * args.steps : (number + 1) * args.steps]:
            steps[name](batch)
        synchronize()
        if CUDA:
            peak[name] = max(peak[name], torch.cuda.max_memory_allocated() - others)

    common.progress(f"{shape} {task} {mode} {size}: the limit, then each contender in turn")
    ceiling = [limit()]
    seconds = common.interleave(
        {name: lambda number, name=name: turn(name, number) for name in steps}, rounds
    )
    ceiling.append(limit())
    flops = useful_flops(shape, features, mode == "training")
    ratios = common.ratios(seconds, "default")
    figures = {}
    for name, step in steps.items():
        common.progress(f"{name}, once more under the profiler")
        total = sum(seconds[name])
        times, waits = kernel_times(step, data[name][: args.steps])
        figures[name] = {
            "examples_per_second": len(features) / total,
            "useful_tflops": flops / total / 1e12,
            "share_of_limit": flops / total / max(ceiling),
            "times_default": ratios[name],
            "peak_memory_gb": peak[name] / 1e9,
            "busy": sum(times.values()) / seconds[name][0],
            "kinds": by_kind(times, KINDS),
            "kernels_ms_a_step": {
                kernel[:120]: 1e3 * spent / args.steps for kernel, spent in times.most_common(15)
            },
            "waits": waits_of(step, batches[0]),
            "waits_a_step_by_profiler": waits / args.steps,
        }
    # Grouped batches differ from turn to turn, so "best" is compared by its total time.
    best = {name: sum(seconds["best"]) / sum(each) for name, each in seconds.items()}
    return {
        "task": task, "shape": shape, "batch": size, "mode": mode, "times_best": best,
        "limit_tflops": max(ceiling) / 1e12, "tokens": sum(len(f.input_ids) for f in features),
        "seconds": seconds, "contenders": figures,
    }  # fmt: skip


def report(results):
    """Prints the tables."""
    speed, kinds = [], []
    for result in results:
        place = [result[key] for key in ("shape", "task", "mode", "batch")]
        for name, figures in result["contenders"].items():
            speed.append([
                *place, name, f"{figures['examples_per_second']:.1f}",
                common.text(figures["times_default"]), f"{result['times_best'][name]:.2f}",
                f"{figures['useful_tflops']:.1f}", f"{figures['share_of_limit']:.2f}",
                f"{figures['peak_memory_gb']:.1f}" if CUDA else "–",
                f"{figures['busy']:.0%}", len(figures["waits"]),
            ])  # fmt: skip
            shares = [f"{share:.0%}" for share in figures["kinds"].values()]
            kinds.append([*place, name, *shares, ", ".join(sorted(set(figures["waits"])))])
    place = ["shape", "task", "mode", "batch", ""]
    header = ["examples/s", "× default", "× best", "useful TFLOP/s", "share of limit",
              "peak memory GB", "device busy", "waits in a step"]  # fmt: skip
    common.table(f"Steps on {device_name()}", place + header, speed)
    common.table("Time on the device by kind of kernel", [*place, *KINDS, "waits at"], kinds)
    limits = [result["limit_tflops"] for result in results]
    size = "8192³" if CUDA else "256³"
    print(f"\nbfloat16 product of {size}: {min(limits):.2f} to {max(limits):.2f} TFLOP/s")


def device_name():
    return torch.cuda.get_device_name() if CUDA else "the CPU (these are not figures of a GPU)"


def main():
    shapes = [args.shape] if args.shape else ["BERT-Base", "BERT-Large"] if CUDA else ["tiny"]
    unknown = set(shapes) - SHAPES.keys()
    if unknown or args.task not in ("", *WIDTH) or args.mode not in ("", "training", "prediction"):
        print(
            f"bench_gpu.py: --shape is one of {', '.join(SHAPES)}; see --help for the others",
            file=sys.stderr,
        )
        sys.exit(2)
    sizes = [args.batch] if args.batch else [32] if args.quick else [12, 32, 64]
    tasks = [args.task] if args.task else list(WIDTH)
    modes = [args.mode] if args.mode else ["training", "prediction"]
    results = []
    for shape, task, mode, size in itertools.product(shapes, tasks, modes, sizes):
        place = f"{shape} {task} {mode} {size}"
        try:
            results.append(compare(task, shape, size, mode))
            ratio = results[-1]["contenders"]["ours"]["times_default"]["median"]
            best = results[-1]["times_best"]["ours"]
            print(f"{place}: {ratio:.2f} × default, {best:.2f} × best", flush=True)
        except torch.OutOfMemoryError:
            print(f"{place}: does not fit into the device's memory", flush=True)
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
    report(results)
    common.finish(args, {"device": device_name(), "results": results})


if __name__ == "__main__":
    main()
