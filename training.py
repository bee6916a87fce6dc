"""What the drivers share: device and ranks, the training loop, checkpoints, prediction, logs.

Plain functions. A driver parses its flags, calls `setup`, builds its model and its features, and
hands both to `train` and `predict` with two functions of its own: one makes a batch of some
features, one gets loss or outputs from the model.
"""

import atexit
import contextlib
import glob
import json
import os
import shutil
import signal
import sys
import time
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

from data import length_sorted_batches, num_train_steps, step_examples
from flags import MEANINGLESS, check_flags
from optimization import create_optimizer

WEIGHTS, CONFIG, VOCAB, RUN, LOG = (
    "pytorch_model.bin", "bert_config.json", "vocab.txt", "run.json", "training_log.jsonl"
)  # fmt: skip

# Flags that do not change what training computes: a run may be resumed with others.
NEUTRAL = {
    "do_train", "do_eval", "do_predict", "eval_batch_size", "predict_batch_size", "predict_file",
    "output_dir", "data_dir", "train_file", "overwrite_output_dir", "save_checkpoints_steps",
    "keep_checkpoints", "local_rank", "no_cuda", "gradient_accumulation_steps", "n_best_size",
    "max_answer_length", "null_score_diff_threshold", "verbose_logging", "loss_scale",
    *MEANINGLESS,
}  # fmt: skip


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
    tensorflow = any(name.endswith(".index") or os.path.exists(f"{name}.index") for name in names)
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


# Files


@contextlib.contextmanager
def replacing(path, mode="w"):
    """A file to write that takes the place of `path` once it is whole and on the disk."""
    aside = f"{path}.tmp"
    try:
        with open(aside, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(aside)
        raise


def save_tensors(values, path):
    """torch.save, written aside. Raises OSError, with how much is needed where the disk is full."""
    try:
        with replacing(path, "wb") as file:
            torch.save(values, file)
    except (OSError, RuntimeError) as error:  # PyTorch's writer hides a full disk in the latter.
        cause = error if isinstance(error, OSError) else error.__context__ or error
        size = sum(t.nbytes for t in _tensors(values))
        raise OSError(f"{path} could not be written ({size / 1e6:.0f} MB): {cause}") from None


def _tensors(values):
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)


def read_tensors(path):
    """What `save_tensors` wrote, with its checksums verified. Raises ValueError where damaged."""
    try:
        damaged = zipfile.ZipFile(path).testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # The readers raise nearly every type on damaged bytes.
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def save_model(args, runtime, model, config, **facts):
    """Makes --output_dir self-contained: weights, configuration, vocabulary, flags and `facts`."""
    if not runtime.is_main:
        return
    path = lambda name: os.path.join(args.output_dir, name)  # noqa: E731
    with replacing(path(CONFIG)) as file:
        file.write(config.to_json_string())
    if os.path.abspath(args.vocab_file) != os.path.abspath(path(VOCAB)):
        with open(args.vocab_file, "rb") as source, replacing(path(VOCAB), "wb") as file:
            shutil.copyfileobj(source, file)
    facts = {
        "script": os.path.basename(sys.argv[0]),
        "flags": vars(args),
        "do_lower_case": args.do_lower_case,
        "torch": torch.__version__,
        **facts,
    }
    with replacing(path(RUN)) as file:
        json.dump(facts, file, indent=2)
    save_tensors(model.state_dict(), path(WEIGHTS))


def read_run(folder):
    """The facts that `save_model` wrote to `folder`, or {}."""
    try:
        with open(os.path.join(folder, RUN), encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ValueError(f"{os.path.join(folder, RUN)} is damaged: {error}") from None


def write_results(path, results):
    """Prints and writes `key = value` lines, as Google's eval_results.txt; floats as float32."""
    with replacing(path) as file:
        for key, value in results.items():
            line = f"{key} = {value if isinstance(value, int) else str(np.float32(value))}"
            print(line)
            file.write(line + "\n")


# Training


def fingerprint(features, fields):
    """A checksum of the training examples: a resumed run must see the same ones."""
    value = 0
    for feature in features:
        for name in fields:
            value = zlib.crc32(np.asarray(getattr(feature, name)).tobytes(), value)
    return value


def result_flags(args, data_fingerprint):
    """What decides the result of training, as text."""
    flags = {name: value for name, value in vars(args).items() if name not in NEUTRAL}
    for name in ("bert_config_file", "vocab_file", "init_checkpoint"):
        flags[name] = flags[name] and os.path.abspath(flags[name])
    return {name: str(value) for name, value in flags.items()} | {
        "training examples": str(data_fingerprint)
    }


def checkpoints(folder):
    """{step: path} of the checkpoints in `folder`, the newest first."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(folder), "checkpoint-*.pt")):
        step = os.path.basename(path)[len("checkpoint-") : -len(".pt")]
        if step.isdigit():
            found[int(step)] = path
    return dict(sorted(found.items(), reverse=True))


def newest_checkpoint(args, runtime, decisive):
    """The newest whole checkpoint of this run, or None.

    Raises ValueError where it belongs to a run with other flags or examples, or where --output_dir
    holds a model that this script did not train.
    """
    found = checkpoints(args.output_dir)
    if args.overwrite_output_dir:
        runtime.print(*(f"removing {path}" for path in found.values()), sep="\n") if found else None
        if runtime.is_main:
            for path in found.values():
                os.remove(path)
        return None
    for path in found.values():
        try:
            state = read_tensors(path)
        except ValueError as error:
            runtime.print(f"{error}; going back to the checkpoint before it")
            continue
        changed = [
            f"{name} was {state['decisive'].get(name)}, is {value}"
            for name, value in decisive.items()
            if state["decisive"].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{path} is of a run with other settings ({'; '.join(changed)}): "
                f"use the same, another --output_dir, or --overwrite_output_dir"
            )
        runtime.print(f"going on from {path}")
        return state
    if not found and os.path.exists(os.path.join(args.output_dir, WEIGHTS)):
        raise ValueError(
            f"--output_dir {args.output_dir} already holds {WEIGHTS}, and this run would replace it: "
            f"use another folder, or --overwrite_output_dir"
        )
    return None


def save_checkpoint(args, runtime, model, optimizer, step, scale, decisive):
    if runtime.is_main:
        state = {
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scale": scale,
            "decisive": decisive,
        }
        save_tensors(state, os.path.join(args.output_dir, f"checkpoint-{step}.pt"))
        for path in list(checkpoints(args.output_dir).values())[args.keep_checkpoints :]:
            os.remove(path)


def parallel(runtime, model):
    """`model` on several ranks, on several GPUs of one process, or as it is."""
    if runtime.world_size > 1:
        replica = torch.nn.parallel.DistributedDataParallel(
            model, broadcast_buffers=False, gradient_as_bucket_view=True
        )
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
    batch_size, accumulation = args.train_batch_size, args.gradient_accumulation_steps
    steps = num_train_steps(num_examples or len(features), batch_size, args.num_train_epochs)
    if not steps:
        raise ValueError(
            f"{len(features)} training examples and {args.num_train_epochs} epochs make no "
            f"batch of {batch_size}: lower --train_batch_size"
        )
    optimizer = create_optimizer(
        model, args.learning_rate, steps, int(steps * args.warmup_proportion), args.schedule
    )
    decisive = result_flags(args, fingerprint(features, fields))
    state = newest_checkpoint(args, runtime, decisive)
    first, scale = 0, LossScale(args.loss_scale) if args.fp16 else None
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        if scale:
            scale.__dict__.update(state["scale"])
        del state
    os.makedirs(args.output_dir, exist_ok=True)
    replica = parallel(runtime, model)
    log = Log(args, runtime, first, steps)
    model.train()
    for step in range(first, steps):
        indices = step_examples(len(features), batch_size, step, args.seed)
        parts = np.array_split(indices, runtime.world_size * accumulation)
        mine = parts[runtime.rank * accumulation : (runtime.rank + 1) * accumulation]
        loss = torch.zeros((), device=runtime.device)
        for micro_step, part in enumerate(mine, start=1):
            torch.manual_seed(dropout_seed(args.seed, step, micro_step, runtime.rank))
            last = micro_step == accumulation
            with contextlib.nullcontext() if last or replica is model else replica.no_sync():
                with runtime.autocast():
                    batch = make_batch([features[i] for i in part], len(indices))
                    part_loss = loss_of(replica, batch)
                (part_loss * scale.value if scale else part_loss).backward()
            loss += part_loss.detach()
        for words in optimizer.tracked:
            for source in (words.squared_norm, words.decoder_weight):
                if source.grad is not None:
                    runtime.sum(source.grad)
        learning_rate = optimizer.get_lr()
        # Reading the norm waits for the GPU; only float16, which may overflow, has to.
        if scale is None or scale.update(optimizer.global_norm()):
            optimizer.step(loss_scale=scale.used if scale else 1.0)
        optimizer.zero_grad()
        due = (step + 1) % args.save_checkpoints_steps == 0 or step + 1 == steps
        stop = log.add(step, loss, learning_rate, flush=due)
        if due or stop:
            save_checkpoint(args, runtime, model, optimizer, step + 1,
                            vars(scale) if scale else None, decisive)  # fmt: skip
        if stop:
            raise SystemExit(log.stopped(step + 1))
    log.close(scale)
    return steps


def dropout_seed(*numbers):
    """A seed for torch from seed, step, micro-step and rank."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class LossScale:
    """Factor on a float16 loss that keeps small gradients above 0: halved when a gradient
    overflows, and that step is skipped; doubled after 2000 steps without."""

    def __init__(self, fixed=0.0):
        self.fixed, self.value = bool(fixed), fixed or 2.0**16
        self.used, self.good_steps, self.skipped = self.value, 0, 0

    def update(self, norm):
        """Whether the step with this gradient norm is to be taken."""
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
        self.signal = number

    def add(self, step, loss, learning_rate, flush):
        """Notes a step; returns whether the run was asked to stop. Raises ValueError for a NaN."""
        self.pending.append((step, learning_rate, loss))
        if self.runtime.device.type == "cuda" and not flush and (step + 1) % self.EVERY:
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
        """Says that a signal ended the run after `step`; returns the conventional exit status."""
        self.close()
        self.runtime.print(
            f"stopped by a signal after step {step} of {self.steps}: "
            f"the same command goes on from {self.output_dir}"
        )
        return 128 + (self.signal or signal.SIGTERM)

    def close(self, scale=None):
        self.bar.close()
        if self.file:
            self.file.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if scale:
            self.runtime.print(f"float16: {scale.skipped} steps skipped, scale {scale.value:g}")


# Prediction


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
