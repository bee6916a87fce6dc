"""What the drivers share: device and ranks, the training loop, checkpoints, prediction, logs.

Plain functions. A driver parses its flags, calls `setup`, builds its model and its features, and
hands both to `train` and `predict` with two functions of its own: one makes a batch of some
features, one gets loss or outputs from the model.
"""

import atexit
import glob
import inspect
import json
import os
import re
import signal
import sys
import time
from contextlib import closing, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from checkpoint import (
    LOG,
    WEIGHTS,
    fingerprint,
    newest_checkpoint,
    read_run,
    result_flags,
    save_checkpoint,
)
from data import length_sorted_batches, num_train_steps, step_examples
from flags import check_flags
from optimization import create_optimizer


@dataclass
class Runtime:
    """Where and how a run computes."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    dtype: torch.dtype = torch.float32

    @property
    def is_main(self):
        return self.rank == 0

    def print(self, *parts):
        if self.is_main:
            print(*parts, flush=True)

    def autocast(self):
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def sum(self, tensor):
        """Adds `tensor` up over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor


def setup(args):
    """Chooses device, ranks and precision, and seeds the new weights. Returns a Runtime."""
    check_flags(args)
    local_rank = int(os.environ.get("LOCAL_RANK", args.local_rank))
    if local_rank >= 0 and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"--local_rank {local_rank} needs a launcher: "
            f"torchrun --nproc_per_node=2 {' '.join(sys.argv[:1])} …"
        )
    cuda = torch.cuda.is_available() and not args.no_cuda
    if args.fp16 and not cuda:
        raise ValueError("--fp16 needs a GPU, and there is none here; use --bf16 on a CPU")
    runtime = Runtime(torch.device("cuda", max(local_rank, 0)) if cuda else torch.device("cpu"))
    if args.bf16 or args.fp16:
        runtime.dtype = torch.bfloat16 if args.bf16 else torch.float16
    if local_rank >= 0:
        if cuda:
            torch.cuda.set_device(runtime.device)
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(dist.destroy_process_group)
        runtime.rank, runtime.world_size = dist.get_rank(), dist.get_world_size()
    parts = runtime.world_size * args.gradient_accumulation_steps
    if args.train_batch_size < parts:
        raise ValueError(
            f"--train_batch_size {args.train_batch_size} is less than {runtime.world_size} ranks × "
            f"{args.gradient_accumulation_steps} accumulation steps"
        )
    torch.manual_seed(args.seed)
    return runtime


def initial_weights(args, **facts):
    """What to load: --init_checkpoint, or for evaluation alone the weights in --output_dir.

    Raises ValueError where there is nothing to evaluate, or where the run that wrote the weights
    had another casing, or other `facts` (the labels, say).
    """
    weights = args.init_checkpoint
    if not args.do_train and os.path.exists(os.path.join(args.output_dir, WEIGHTS)):
        weights = args.output_dir
    if weights is None and not args.do_train:
        raise ValueError("there are no weights to use: give --init_checkpoint or --do_train")
    if weights and not (os.path.exists(weights) or os.path.exists(f"{weights}.index")):
        folder = os.path.dirname(weights) or "."
        there = os.listdir(folder) if os.path.isdir(folder) else []
        names = ", ".join(sorted({re.sub(r"\.(index|data-.*)$", "", name) for name in there}))
        raise FileNotFoundError(
            f"--init_checkpoint {weights} does not exist; {folder} holds: {names or 'nothing'}"
        )
    run = read_run(weights) if weights else {}
    for name, value in {"do_lower_case": args.do_lower_case, **facts}.items():
        if run.get(name, value) != value and (name == "do_lower_case" or not args.do_train):
            raise ValueError(f"{weights} was trained with {name} {run[name]}, but this is {value}")
    return weights


def load_initial(model, path, load_weights, load_tf_weights, runtime, new_head):
    """Fills `model` from PyTorch weights or a TensorFlow checkpoint and says what was left out.

    Raises ValueError where the head has no weights, unless it may be new.
    """
    if path is None:
        runtime.print("no --init_checkpoint: the model starts from random weights")
        return
    names = glob.glob(os.path.join(glob.escape(path), "*")) if os.path.isdir(path) else [path]
    tensorflow = any(
        re.search(r"\.(index|data-\d+-of-\d+)$", name) or os.path.exists(f"{name}.index")
        for name in names
    )
    if tensorflow and not any(name.endswith((".bin", ".safetensors")) for name in names):
        unfilled, unused = load_tf_weights(model, path)
    else:
        unfilled, unused = load_weights(model, path)
    if any(not name.startswith("bert.") for name in unfilled) and not new_head:
        raise ValueError(f"{path} has no {', '.join(unfilled)} for this task: fine-tune it first")
    runtime.print(
        f"weights from {path}; new: {', '.join(unfilled) or 'none'}; "
        f"not used: {', '.join(unused) or 'none'}"
    )


def describe(runtime, name, features, max_seq_length, vocab):
    """Prints what there is to compute, and warns where the vocabulary seems to be the wrong one."""
    ids = np.concatenate([feature.input_ids for feature in features])
    padded = len(features) * max_seq_length
    unknown = np.count_nonzero(ids == vocab["[UNK]"]) / len(ids)
    runtime.print(
        f"{name}: {len(features):,} inputs, {len(ids):,} tokens ({1 - len(ids) / padded:.0%} of "
        f"{max_seq_length} positions each would be padding), {unknown:.2%} [UNK]"
    )
    if unknown > 0.05:
        runtime.print(f"warning: {unknown:.0%} of the tokens are [UNK]: is this the vocabulary?")


def announce(args, runtime, model):
    """Prints where and how the run computes."""
    name = torch.cuda.get_device_name() if runtime.device.type == "cuda" else "CPU"
    size = sum(parameter.numel() for parameter in model.parameters())
    runtime.print(
        f"{name}, {torch.get_num_threads()} threads, {runtime.world_size} ranks, "
        f"{str(runtime.dtype).removeprefix('torch.')}, {size:,} parameters"
    )


def parallel(runtime, model):
    """`model` on several ranks, on several GPUs of one process, or as it is."""
    if runtime.world_size > 1:
        wrapper = torch.nn.parallel.DistributedDataParallel
        # The argument's name from PyTorch 2.13 on, and before.
        names = "forward_sync_buffers", "broadcast_buffers"
        buffers = next(name for name in names if name in inspect.signature(wrapper).parameters)
        replica = wrapper(model, gradient_as_bucket_view=True, **{buffers: False})
        # Every loss is divided by the examples of all ranks already: add, do not average.
        replica.register_comm_hook(None, add_gradients)
        return replica
    if runtime.device.type == "cuda" and torch.cuda.device_count() > 1:
        return torch.nn.DataParallel(model)
    return model


def add_gradients(_, bucket):
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])


def train(args, runtime, model, features, make_batch, loss_of, fields, num_examples=None):
    """Trains `model` in place, from the newest checkpoint on. Returns the number of steps.

    make_batch(features, total) makes a batch of one part of a step whose examples are `total` in
    all; loss_of(model, batch) is the part's share of the step's mean loss, so that parts and ranks
    add up to the loss of the whole batch. `fields` are those of a feature that training sees.
    The steps are counted in `num_examples`, or else in features: Google's run_squad.py counts
    questions, of which a long paragraph makes several features.
    """
    steps = num_train_steps(
        num_examples or len(features), args.train_batch_size, args.num_train_epochs
    )
    if not steps:
        raise ValueError(
            f"{num_examples or len(features)} training examples and {args.num_train_epochs} epochs "
            f"make no batch of {args.train_batch_size}: lower --train_batch_size, or train longer"
        )
    optimizer = create_optimizer(
        model, args.learning_rate, steps, int(steps * args.warmup_proportion), args.schedule
    )
    scale = LossScale(args.loss_scale) if args.fp16 else None
    decisive = result_flags(args, fingerprint(features, fields))
    first = 0
    state = newest_checkpoint(args, runtime, decisive)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        if scale:
            vars(scale).update(state["scale"])
        del state
    os.makedirs(args.output_dir, exist_ok=True)
    replica = parallel(runtime, model)
    model.train()
    with closing(Log(args, runtime, first, steps)) as log:
        for step in range(first, steps):
            indices = step_examples(len(features), args.train_batch_size, step, args.seed)
            loss = 0.0
            for micro_step, part in enumerate(own_parts(args, runtime, indices)):
                torch.manual_seed(dropout_seed(args.seed, step, micro_step, runtime.rank))
                last = micro_step == args.gradient_accumulation_steps - 1
                batch = make_batch([features[index] for index in part], len(indices))
                with nullcontext() if last or runtime.world_size == 1 else replica.no_sync():
                    with runtime.autocast():
                        part_loss = loss_of(replica, batch)
                    # Outside: what ran in float32 goes backward in float32 too.
                    (part_loss * scale.value if scale else part_loss).backward()
                loss += part_loss.detach()
            learning_rate = optimizer.get_lr()
            update(runtime, optimizer, scale)
            due = (step + 1) % args.save_checkpoints_steps == 0 or step + 1 == steps
            stop = log.add(step, loss, learning_rate, look=due)
            if due or stop:
                save_checkpoint(args, runtime, model, optimizer, step + 1, scale, decisive)
            if stop:
                log.stopped(step + 1)
    if scale:
        runtime.print(f"float16: {scale.skipped} steps skipped, scale {scale.value:g}")
    return steps


def own_parts(args, runtime, indices):
    """The parts of a step that this rank computes, one for each micro-step."""
    accumulation = args.gradient_accumulation_steps
    parts = np.array_split(indices, runtime.world_size * accumulation)
    return parts[runtime.rank * accumulation : (runtime.rank + 1) * accumulation]


def update(runtime, optimizer, scale):
    """One step of the optimizer from the gradients of all ranks."""
    for words in optimizer.tracked:  # what the clipping norm needs travels like a gradient
        for source in (words.squared_norm, words.decoder_weight):
            if source.grad is not None:
                runtime.sum(source.grad)
    # Reading the norm waits for the GPU; only float16, which may overflow, has to.
    if scale is None:
        optimizer.step()
    elif scale.allows(optimizer.global_norm()):
        optimizer.step(loss_scale=scale.used)
    optimizer.zero_grad()


def dropout_seed(*numbers):
    """A seed for torch from seed, step, micro-step and rank."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class LossScale:
    """Factor on a float16 loss that keeps small gradients above 0: halved when a gradient
    overflows, and that step is skipped; doubled after 2000 steps without."""

    def __init__(self, fixed=0.0):
        self.fixed, self.value = bool(fixed), fixed or 2.0**16
        self.used, self.good_steps, self.skipped = self.value, 0, 0

    def allows(self, norm):
        """Whether a step with gradients of this norm is to be taken; adapts the scale."""
        self.used, finite = self.value, bool(torch.isfinite(norm))
        self.good_steps = self.good_steps + 1 if finite else 0
        self.skipped += not finite
        if not self.fixed and (not finite or self.good_steps % 2000 == 0):
            self.value *= 2.0 if finite else 0.5
        return finite


class Log:
    """Progress bar, JSON-lines log, and what stops a run: a loss that is no number, or a signal."""

    EVERY = 10  # steps between two looks at a GPU, each of which waits for it

    def __init__(self, args, runtime, first, steps):
        self.runtime, self.batch_size, self.steps = runtime, args.train_batch_size, steps
        self.pending, self.signal, self.start = [], 0, time.monotonic()
        self.output_dir, self.file = args.output_dir, None
        self.handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        self.bar = tqdm(
            total=steps, initial=first, unit="step", disable=not runtime.is_main,
            dynamic_ncols=True, mininterval=0.5,
        )  # fmt: skip
        if runtime.is_main:
            path = os.path.join(args.output_dir, LOG)
            kept = []
            if first and os.path.exists(path):  # Steps after the checkpoint are done again.
                with open(path, encoding="utf-8") as file:
                    kept = file.readlines()[:first]
            self.file = open(path, "w", encoding="utf-8")
            self.file.writelines(kept)

    def _on_signal(self, number, _):
        if self.signal:  # asked twice
            raise KeyboardInterrupt
        self.signal = number

    def add(self, step, loss, learning_rate, look):
        """Notes a step; returns whether the run was asked to stop. Raises ValueError for a NaN."""
        self.pending.append((step, learning_rate, loss))
        if self.runtime.device.type == "cuda" and not look and (step + 1) % self.EVERY:
            return False
        numbers = torch.stack([loss for *_, loss in self.pending] + [loss.new_tensor(self.signal)])
        *losses, signals = self.runtime.sum(numbers).tolist()
        seconds = time.monotonic() - self.start
        self.start = time.monotonic()
        rate = len(losses) * self.batch_size / max(seconds, 1e-9)
        for (step, learning_rate, _), loss in zip(self.pending, losses):
            if loss != loss or loss in (float("inf"), -float("inf")):
                raise ValueError(
                    f"the loss at step {step + 1} is {loss}: stopped; the last checkpoint is kept. "
                    f"Lower --learning_rate, or use float32"
                )
            if self.file:
                line = {
                    "step": step + 1, "loss": loss, "learning_rate": float(learning_rate),
                    "examples_per_second": round(rate, 2),
                }  # fmt: skip
                self.file.write(json.dumps(line) + "\n")
        if self.file:
            self.file.flush()
        self.bar.set_postfix(
            loss=f"{losses[-1]:.4f}", lr=f"{learning_rate:.2e}", ex_s=f"{rate:.1f}", refresh=False
        )
        self.bar.update(len(losses))
        self.pending.clear()
        return signals > 0

    def stopped(self, step):
        """Ends the process that a signal asked to stop, with the conventional exit status."""
        self.close()
        self.runtime.print(
            f"stopped by a signal after step {step} of {self.steps}: "
            f"the same command goes on from {self.output_dir}"
        )
        sys.exit(128 + (self.signal or signal.SIGTERM))

    def close(self):
        self.bar.close()
        if self.file:
            self.file.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)


@torch.inference_mode()
def predict(runtime, model, features, batch_size, make_batch, outputs_of, title):
    """Outputs for every feature once, in the features' order: a list on rank 0, None elsewhere.

    outputs_of(model, batch) returns one output for each feature of the batch.
    """
    model.eval()
    batches = length_sorted_batches([len(f.input_ids) for f in features], batch_size)
    mine, outputs = batches[runtime.rank :: runtime.world_size], []
    for indices in tqdm(mine, title, unit="batch", disable=not runtime.is_main, dynamic_ncols=True):
        with runtime.autocast():
            batch = make_batch([features[i] for i in indices], len(indices))
            outputs += zip(indices.tolist(), outputs_of(model, batch))
    if runtime.world_size > 1:
        gathered = [None] * runtime.world_size if runtime.is_main else None
        dist.gather_object(outputs, gathered)
        outputs = [pair for part in gathered or [] for pair in part]
    if not runtime.is_main:
        return None
    by_index = dict(outputs)
    assert len(outputs) == len(by_index) == len(features)
    return [by_index[index] for index in range(len(features))]
