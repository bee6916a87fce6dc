"""Training, prediction and a whole run on a GPU, against transformers.

Two commands for a machine with one GPU, each within six minutes:

    CUDA_VISIBLE_DEVICES=0 python benchmarks/bench_gpu.py --part fine-tuning --json gpu_1.json
    CUDA_VISIBLE_DEVICES=0 sh -c "python -m pytest -q tests/test_gpu.py;
        python benchmarks/bench_gpu.py --part rest --limit 230 --json gpu_2.json"

It needs PyTorch with CUDA, and transformers. It needs no data: the lengths of MRPC's and SQuAD's
examples are built in, and ids and weights are random. Without a GPU it says so and stops;
`--device cpu --quick` runs everything on a tiny model, to try the code.

    part         cases, each shape:task:batch:mode:precision
    fine-tuning  in bfloat16: BERT-Base on MRPC and SQuAD with 32 examples, BERT-Large on SQuAD with
                 32 and 64
    rest         run_classifier.py on MRPC as the README has it, from start to end; BERT-Base
                 pre-training with 256 instances of 128 tokens; prediction for SQuAD; training on
                 SQuAD in float32

Each contender does whole steps from lists of ids (see contenders.py):

    ours      as the drivers: packed, with CUDA graphs
    compiled  the same with --compile
    eager     ours with --no_cuda_graphs
    default   transformers as its Trainer and its example scripts configure it: padded to the
              maximum, SDPA, fused AdamW
    best      transformers at its best: batches grouped by length and padded to their longest row,
              rounded up to 8; without cuDNN's attention, which plans anew for each width; for
              prediction the weights are in bfloat16 too (--bf16_full_eval)

They take turns; a turn is several steps without a pause, and then a wait for the device. Capturing
and compiling come before: the first turn, which is not timed, has all shapes of the others. The
limit is the best FLOP/s of a bfloat16 product of 8192³ in the same process, before and after;
useful FLOPs are those of tokens. Memory is the most that PyTorch had allocated for a contender
while it was set up, with a step of every batch: later a graph's memory does not count as allocated.
One more turn runs under PyTorch's profiler, which gives the
time of each kind of kernel, and one more step under CUDA's check for operations that make the host
wait (prediction has one for each batch: it fetches its result).
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], device=("cuda", "cuda, or cpu to try the code"),
    part=("", "fine-tuning or rest; both"), cases=("", "cases of your own, separated by commas"),
    rounds=(3, "timed turns of each"), steps=(8, "steps in a turn"),
    limit=(345, "seconds after which no case is begun that would take as long as the longest yet"),
    skip=("", "contenders to leave out, separated by commas"),
)  # fmt: skip

import gc  # noqa: E402
import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import warnings  # noqa: E402
from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

START = time.monotonic()
CUDA = args.device == "cuda"
if CUDA and not torch.cuda.is_available():
    print("bench_gpu.py: found no CUDA device, so nothing is measured (try --device cpu --quick)")
    sys.exit()

from contenders import (  # noqa: E402
    MASKED,
    SHAPES,
    WIDTH,
    batches_of,
    by_kind,
    ours,
    theirs,
    useful_flops,
)

RUN = "MRPC command"  # the case that is a whole run
PARTS = {
    "fine-tuning": [
        "BERT-Base:MRPC:32:training:bfloat16", "BERT-Base:SQuAD:32:training:bfloat16",
        "BERT-Large:SQuAD:32:training:bfloat16", "BERT-Large:SQuAD:64:training:bfloat16",
    ],
    "rest": [
        RUN, "BERT-Base:pretraining:256:training:bfloat16",
        "BERT-Base:SQuAD:32:prediction:bfloat16", "BERT-Base:SQuAD:32:training:float32",
    ],
}  # fmt: skip
# Every twentieth of the sorted lengths of MRPC's 3,668 training pairs at 128, of 1,538 windows of
# SQuAD's training questions at 384 with stride 128, with BERT-Base's uncased vocabulary, and of
# pre-training instances at 128, of which a tenth are short.
LENGTHS = {
    "MRPC": [19, 32, 36, 39, 41, 44, 45, 47, 50, 51, 53, 55, 57, 59, 61, 62, 64, 67, 70, 74, 103],
    "SQuAD": [41, 58, 74, 83, 90, 96, 106, 116, 123, 130, 137, 146, 154, 164, 171, 184, 203, 218,
              234, 297, 384],
    "pretraining": [5, 60, 114, *[128] * 18],
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


# --- input ---------------------------------------------------------------------------------------


def make_features(task, count):
    """Random ids of the task's lengths, with targets."""
    rng, lengths = np.random.default_rng(0), LENGTHS[task]
    places = np.linspace(0, 1, len(lengths))
    features = []
    for length in np.interp(rng.random(count), places, lengths).round().astype(int):
        masked = np.sort(rng.permutation(length)[: min(MASKED, max(1, round(0.15 * length)))])
        features.append(
            SimpleNamespace(
                input_ids=rng.integers(1000, 30000, length, np.int32),
                segment_ids=np.repeat([0, 1], [length // 2, length - length // 2]).astype(np.int32),
                label_id=int(rng.integers(2)), start_position=length // 2,
                end_position=length - 1, masked_lm_positions=masked.astype(np.int32),
                masked_lm_ids=rng.integers(1000, 30000, len(masked), np.int32),
                masked_lm_weights=np.ones(len(masked), np.float32),
                next_sentence_labels=rng.integers(0, 2, 1, np.int32),
            )
        )  # fmt: skip
    return features


def turns_of(name, mode, features, size, rounds):
    """For each turn the lists of features that are handed to a contender's step, one by one."""
    batches, grouped = batches_of(features, size)
    data = grouped if name == "best" else batches
    turns = [data[start : start + args.steps] for start in range(0, len(data), args.steps)]
    if mode == "prediction" and name == "ours":  # which makes the batches itself
        turns = [[[feature for batch in turn for feature in batch]] for turn in turns]
    assert len(turns) == rounds
    return turns


# --- one case ------------------------------------------------------------------------------------


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


def flops_of(shape, task, features, training):
    """Useful FLOPs; in pre-training those of the masked words' scores too."""
    flops = useful_flops(shape, features, training)
    if task == "pretraining":
        hidden = SHAPES[shape]["hidden_size"]
        masked = sum(len(feature.masked_lm_ids) for feature in features)
        flops += 3 * masked * 2 * hidden * (hidden + 30522)
    return flops


def make_steps(shape, task, mode, dtype, turns):
    """{contender: its step}, {contender: the most bytes that it has held on the device}."""
    torch._dynamo.reset()  # Forget what was compiled for earlier models.
    each = task, shape, dtype, args.device, mode == "training"
    kinds = {
        "ours": lambda: ours(*each),
        "compiled": lambda: ours(*each, compiled=True),
        "eager": lambda: ours(*each, graphs=False),
        "default": lambda: theirs(*each, width=WIDTH[task]),
        "best": lambda: theirs(
            *each, half_weights=mode == "prediction", multiple=8, cudnn=False
        ),
    }  # fmt: skip
    skipped = args.skip.split(",") + ["compiled"] * (not CUDA)
    skipped += ["compiled", "eager"] * (mode == "prediction")
    steps, peak = {}, {}
    for name in (name for name in kinds if name not in skipped):
        common.progress(f"{name}, which is set up")
        before, start = allocated(), time.perf_counter()
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        try:
            step = kinds[name]()
            for turn in turns[name]:  # Graphs are captured for every shape, and layers compiled.
                for batch in turn:
                    step(batch)
            synchronize()
        except RuntimeError as error:
            # E.g. there is no C compiler, or not enough memory for one contender.
            print(f"{name} is left out: {str(error).partition(chr(10))[0]}", flush=True)
            continue
        print(f"{name}: set up in {time.perf_counter() - start:.1f} s", flush=True)
        steps[name] = step
        peak[name] = torch.cuda.max_memory_allocated() - before if CUDA else 0
    return steps, peak


def kernel_times(step, turn):
    """{kernel: seconds on the device} of a turn, and how often the host waited."""
    activity = torch.profiler.ProfilerActivity
    activities = [activity.CPU, activity.CUDA] if CUDA else [activity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        for batch in turn:
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


def compare(shape, task, size, mode, precision):
    """The figures of the contenders on the same features."""
    dtype = getattr(torch, precision)
    features = make_features(task, size * args.steps * args.rounds)
    names = "ours", "compiled", "eager", "default", "best"
    turns = {name: turns_of(name, mode, features, size, args.rounds) for name in names}
    steps, peak = make_steps(shape, task, mode, dtype, turns)

    def turn(name, number):
        for batch in turns[name][number]:
            steps[name](batch)
        synchronize()

    ceiling = [limit()]
    seconds = common.interleave(
        {name: lambda number, name=name: turn(name, number) for name in steps}, args.rounds
    )
    ceiling.append(limit())
    flops = flops_of(shape, task, features, mode == "training")
    ratios = common.ratios(seconds, "default") if "default" in steps else {}
    figures = {}
    for name, step in steps.items():
        common.progress(f"{name}, once more under the profiler")
        total = sum(seconds[name])
        times, waits = kernel_times(step, turns[name][0])
        figures[name] = {
            "examples_per_second": len(features) / total,
            "ms_a_step": 1e3 * total / args.steps / args.rounds,
            "useful_tflops": flops / total / 1e12,
            "share_of_limit": flops / total / max(ceiling),
            "times_default": ratios.get(name),
            "peak_memory_gb": peak[name] / 1e9,
            "busy": sum(times.values()) / seconds[name][0],
            "kinds": by_kind(times, KINDS),
            "kernels_ms_a_step": {
                kernel[:120]: 1e3 * spent / args.steps for kernel, spent in times.most_common(15)
            },
            "waits": waits_of(step, turns[name][0][0]),
            "waits_a_step_by_profiler": waits / args.steps,
        }
    # Grouped batches differ from turn to turn, so "best" is compared by its total time.
    best = sum(seconds["best"]) if "best" in steps else float("nan")
    return {
        "case": f"{shape} {task} {size} {mode} {precision}", "limit_tflops": max(ceiling) / 1e12,
        "tokens": sum(len(f.input_ids) for f in features), "seconds": seconds,
        "times_best": {name: best / sum(each) for name, each in seconds.items()},
        "contenders": figures,
    }  # fmt: skip


# --- a whole run ---------------------------------------------------------------------------------


def write_mrpc(folder, pairs):
    """Files in MRPC's format, of random words with its lengths, a vocabulary and a configuration.

    Every word is one token.
    """
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(30522 - 5)]
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    shape = SHAPES["BERT-Base" if CUDA else "tiny"]
    config = {"vocab_size": len(vocab), "type_vocab_size": 2, **shape}
    (folder / "bert_config.json").write_text(json.dumps(config), "utf-8")
    for name, count in {"train": pairs, "dev": pairs // 9}.items():
        lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
        for feature in make_features("MRPC", count):
            length = len(feature.input_ids) - 3
            texts = [
                " ".join(rng.choice(words, number))
                for number in (length // 2, length - length // 2)
            ]
            lines.append("\t".join([str(feature.label_id), "1", "2", *texts]))
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", "utf-8")


def time_command(*more):
    """Seconds of the README's command for MRPC, with random weights and evaluation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mrpc(folder, 3668 if CUDA else 72)
        command = [
            sys.executable, str(common.ROOT / "run_classifier.py"), "--task_name", "MRPC",
            "--do_train", "--do_eval", "--do_lower_case", "--data_dir", name,
            "--vocab_file", f"{name}/vocab.txt", "--bert_config_file", f"{name}/bert_config.json",
            "--max_seq_length", "128", "--train_batch_size", "32", "--learning_rate", "2e-5",
            "--num_train_epochs", "3.0", "--output_dir", f"{name}/output", *more,
        ]  # fmt: skip
        start = time.perf_counter()
        outcome = subprocess.run(command, capture_output=True, text=True)
        if outcome.returncode:
            print(outcome.stderr[-2000:], file=sys.stderr)
            raise RuntimeError(f"the command ended with {outcome.returncode}")
        return time.perf_counter() - start


def whole_run():
    """The times of the command, with graphs and without."""
    ways = {"ours": ["--bf16"], "eager": ["--bf16", "--no_cuda_graphs"]}
    seconds = {}
    for name, more in ways.items():
        common.progress(f"{RUN}, {name}")
        seconds[name] = time_command(*more)
        print(f"{RUN}, {name}: {seconds[name]:.1f} s", flush=True)
    return {"case": RUN, "seconds": seconds}


# --- all cases -----------------------------------------------------------------------------------


def report(results):
    """Prints the tables."""
    speed, kinds = [], []
    for result in results:
        for name, figures in result.get("contenders", {}).items():
            ratio = figures["times_default"]
            speed.append([
                result["case"], name, f"{figures['ms_a_step']:.2f}",
                f"{figures['examples_per_second']:.0f}", common.text(ratio) if ratio else "–",
                f"{result['times_best'][name]:.2f}", f"{figures['useful_tflops']:.1f}",
                f"{figures['share_of_limit']:.3f}",
                f"{figures['peak_memory_gb']:.1f}" if CUDA else "–",
                f"{figures['busy']:.0%}", len(figures["waits"]),
            ])  # fmt: skip
            shares = [f"{share:.0%}" for share in figures["kinds"].values()]
            kinds.append([result["case"], name, *shares, ", ".join(sorted(set(figures["waits"])))])
    header = ["case", "", "ms a step", "examples/s", "× default", "× best", "useful TFLOP/s",
              "share of limit", "peak memory GB", "device busy", "waits in a step"]  # fmt: skip
    common.table(f"Steps on {device_name()}", header, speed)
    common.table("Time on the device by kind of kernel", ["case", "", *KINDS, "waits at"], kinds)
    limits = [result["limit_tflops"] for result in results if "limit_tflops" in result]
    if limits:
        size = "8192³" if CUDA else "256³"
        print(f"\nbfloat16 product of {size}: {min(limits):.2f} to {max(limits):.2f} TFLOP/s")
    for result in results:
        if result["case"] == RUN:
            times = ", ".join(f"{name} {each:.1f} s" for name, each in result["seconds"].items())
            print(f"{RUN}, start-up and evaluation included: {times}")


def device_name():
    return torch.cuda.get_device_name() if CUDA else "the CPU (these are not figures of a GPU)"


def cases():
    """The cases that the flags ask for, split into their parts."""
    if args.part not in ("", *PARTS):
        sys.exit(f"bench_gpu.py: --part is one of {', '.join(PARTS)}, not {args.part}")
    chosen = [case for part in PARTS if args.part in ("", part) for case in PARTS[part]]
    for case in args.cases.split(",") if args.cases else chosen:
        parts = case.split(":")
        if case == RUN:
            yield case, None
            continue
        if len(parts) != 5 or parts[0] not in SHAPES or parts[1] not in WIDTH:
            sys.exit(f"bench_gpu.py: {case} is not a case: see the start of this file")
        if not CUDA:
            parts[0], parts[2] = "tiny", "4"
        shape, task, size, mode, precision = parts
        yield case, (shape, task, int(size), mode, precision)


def main():
    if args.quick:
        args.rounds, args.steps = 1, 2
    results, longest = [], 0.0
    for case, place in cases():
        begin = time.monotonic()
        if begin - START + longest > args.limit:
            print(f"{case}: left out, {args.limit} seconds would not suffice", flush=True)
            continue
        common.progress(case)
        try:
            results.append(compare(*place) if place else whole_run())
        except torch.OutOfMemoryError:
            print(f"{case}: does not fit into the device's memory", flush=True)
        gc.collect()
        if CUDA:
            torch.cuda.empty_cache()
        longest = max(longest, time.monotonic() - begin)
        print(f"{case}: {time.monotonic() - begin:.0f} s", flush=True)
    report(results)
    common.finish(args, {"device": device_name(), "results": results})


if __name__ == "__main__":
    main()
