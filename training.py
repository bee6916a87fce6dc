"""What the drivers share: device and ranks, initial weights, the training loop, prediction.

Plain functions. A driver parses its flags, calls `setup`, builds its model and its features, and
hands both to `train` and `predict` with two functions of its own: one makes a batch of some
features, one computes the loss or the outputs of a batch.
"""

import argparse
import atexit
import contextlib
import inspect
import itertools
import math
import os
import platform
import re
import signal
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist

import flags
import precision
import tokenization
from checkpoint import (
    TASKS,
    Folder,
    check_output_dir,
    checkpoints,
    find_start,
    inspect_folder,
    order_of_labels,
    read_metadata,
    recorded_precision,
    refuse_contradictions,
    resume_key,
    resume_or_clear,
    save_checkpoint,
    take_from_folder,
)
from convert_tf_checkpoint_to_pytorch import load_tf_weights
from cuda_graphs import BUCKET, Capture, GraphedStep
from data import (
    length_sorted_batches,
    num_train_steps,
    prefetched,
    step_examples,
    token_batches,
)
from files import FolderLock, Tally, count
from modeling import BertConfig, add_word_rows
from optimization import BERTAdam, create_optimizer
from padding import BatchBuffer, PackedInputs, map_batch, to_device
from progress import Bar, Log, summary_writer
from tokenization import FullTokenizer
from vocabulary import read_new_tokens
from weights import TIED, fingerprint, load_weights, read_state_dict, standard_names

# --- device and ranks ----------------------------------------------------------------------------


@dataclass
class Runtime:
    """Where and how a run computes."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    dtype: torch.dtype = torch.float32
    why_not_bf16: str = ""  # the reason, if --bf16 was given and the run computes in float32
    lock: FolderLock | None = None  # of --output_dir, while a run trains there
    keep_finished: bool = False  # --overwrite_output_dir spares finished runs: those of --seeds

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def precision(self) -> str:
        """The type of matrix products by name, e.g. "float32"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def num_gpus(self) -> int:
        """How many GPUs this process uses: all that it sees, or one if a launcher started it."""
        if self.device.type != "cuda":
            return 0
        launched = dist.is_available() and dist.is_initialized()
        return 1 if launched else torch.cuda.device_count()

    def print(self, *values) -> None:
        """Prints on the main rank alone."""
        if self.is_main:
            print(*values, flush=True)

    def autocast(self) -> torch.autocast:
        """The context in which matrix products are computed in `dtype`."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums `tensor` over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value) -> list:
        """The `value` of every rank, in the order of ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def require_equal(self, what: str, values: dict) -> None:
        """Raises ValueError on every rank unless all ranks have the same `values` of `what`."""
        first, *others = self.gather(values)
        for rank, other in enumerate(others, start=1):
            for name in first:
                if other[name] != first[name]:
                    raise ValueError(
                        f"rank {rank} differs from rank 0 in {what}: {name} {other[name]}, not "
                        f"{first[name]}: all ranks must see the same files and --output_dir"
                    )

    def barrier(self) -> None:
        """Waits for all ranks; the last call of a run.

        A rank that left while another still writes could abort in a thread of the process group,
        and the launcher would then stop the one that writes.
        """
        if self.world_size > 1:
            dist.barrier()


def setup(args: argparse.Namespace) -> Runtime:
    """Chooses device, ranks and precision, and seeds the new weights.

    Flags that were not given are filled in from the folder of the weights. Raises ValueError for
    flags that this machine, the number of ranks or the folders do not allow.
    """
    take_from_folder(args)
    check_output_dir(args)
    if args.tensorboard:
        summary_writer()
    local_rank = int(os.environ.get("LOCAL_RANK", args.local_rank))
    if local_rank >= 0 and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"--local_rank {local_rank} needs a launcher: "
            f"torchrun --nproc_per_node=2 {' '.join(sys.argv[:1])} …"
        )

    cuda = torch.cuda.is_available() and not args.no_cuda
    num_gpus = torch.cuda.device_count() if cuda else 0
    if cuda and local_rank >= num_gpus:
        raise ValueError(
            f"local rank {local_rank} has no GPU, since there are only {num_gpus} here: start one "
            f"rank for each, with torchrun --nproc_per_node={num_gpus}, or give --no_cuda"
        )
    if args.fp16 and not cuda:
        raise ValueError("--fp16 needs a GPU, and there is none here; use --bf16 on a CPU")
    if args.compile and not cuda:
        raise ValueError("--compile needs a GPU, and there is none here: leave it out")
    if args.compile and local_rank < 0 and num_gpus > 1:
        raise ValueError(
            f"--compile needs one process for each GPU: torchrun --nproc_per_node={num_gpus} …"
        )

    runtime = Runtime(torch.device("cuda", max(local_rank, 0)) if cuda else torch.device("cpu"))
    if local_rank >= 0:
        if cuda:
            torch.cuda.set_device(runtime.device)
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(dist.destroy_process_group)
        runtime.rank = dist.get_rank()
        runtime.world_size = dist.get_world_size()
    if args.fp16:
        runtime.dtype = torch.float16
    elif args.bf16:
        precision.choose(runtime)

    if args.train_batch_size < runtime.world_size * args.gradient_accumulation_steps:
        raise ValueError(
            f"--train_batch_size {args.train_batch_size} is less than "
            f"{count(runtime.world_size, 'rank')} × {args.gradient_accumulation_steps} "
            f"accumulation steps"
        )
    torch.manual_seed(args.seed)
    return runtime


def follow_checkpoint_precision(args: argparse.Namespace, runtime: Runtime) -> None:
    """Makes a run with --bf16 that will resume compute as its checkpoint did.

    Raises ValueError if that is bfloat16 and this machine has no instructions for it.
    """
    if args.do_train and args.bf16 and not args.overwrite_output_dir:
        precision.follow_checkpoint(runtime, recorded_precision(args.output_dir))


def place_model(args: argparse.Namespace, runtime: Runtime, model: torch.nn.Module) -> None:
    """Moves `model` to the run's device, and compiles its layers where --compile asks for it."""
    with memory_advice("the model alone needs more; use --no_cuda, or a GPU with more memory"):
        model.to(runtime.device)
    if args.compile:
        compile_layers(model)


def compile_layers(model: torch.nn.Module) -> None:
    """Fuses the small operations of each layer, in place: one compilation serves all layers."""
    for layer in model.bert.encoder.layer:
        layer.compile(dynamic=True)  # Every batch has another number of tokens.


def rows_at_once(args: argparse.Namespace, runtime: Runtime) -> int:
    """The most examples of a step that a process computes at a time."""
    parts = runtime.world_size * args.gradient_accumulation_steps
    return math.ceil(args.train_batch_size / parts)


def print_resources(args: argparse.Namespace, runtime: Runtime, model: torch.nn.Module) -> None:
    """Prints where and how the run computes, and how much memory training will take."""
    size = sum(parameter.numel() for parameter in model.parameters())
    runtime.print(f"{device_summary(runtime)}, {size:,} parameters")
    if args.do_train:
        # Weights, gradients, Adam's two moments and the best weights, each a float32.
        state = (20 if getattr(args, "keep_best", False) else 16) * size
        rows = rows_at_once(args, runtime)
        masked = getattr(args, "max_predictions_per_seq", 0)
        activations = activation_bytes(model.bert.config, rows, args.max_seq_length, masked)
        runtime.print(
            f"training takes about {state / 1e9:.2f} GB of memory per process, plus at most "
            f"{activations / 1e9:.2f} GB for {rows} examples at a time"
        )


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Makes an allocation that fails in its body a ValueError of one line with this advice."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_gpu = isinstance(error, torch.OutOfMemoryError)
        # PyTorch's error where the CPU's memory is used up has no type of its own.
        if not (is_gpu or isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        where = "the GPU" if is_gpu else "this machine"
        raise ValueError(f"out of memory on {where}: {advice}") from None


def step_advice(args: argparse.Namespace, runtime: Runtime) -> str:
    """What to change if a step of training does not fit into memory."""
    parts = args.gradient_accumulation_steps
    rows = rows_at_once(args, runtime)
    more = min(2 * parts, args.train_batch_size // runtime.world_size)
    change = "lower --max_seq_length, or use a smaller model"
    if more > parts:
        change = (
            f"the same command with --gradient_accumulation_steps {more} (now {parts}) needs less "
            f"and learns the same"
        )
    return (
        f"a step computed {rows} of its {args.train_batch_size} examples at a time, each of up to "
        f"{args.max_seq_length} WordPieces; {change}"
    )


def device_summary(runtime: Runtime) -> str:
    """Device, threads, ranks and precision, as in the first line of a run."""
    device = torch.cuda.get_device_name() if runtime.device.type == "cuda" else "CPU"
    threads = count(torch.get_num_threads(), "thread")
    return f"{device}, {threads}, {count(runtime.world_size, 'rank')}, {runtime.precision}"


def report_facts(runtime) -> dict[str, str]:
    """When and on what this process computes, as lines of its report."""
    now = datetime.now(timezone.utc)
    return {
        "date": f"{now.day} {now:%B %Y, %H:%M} UTC",
        "device": f"{platform.machine()}: {device_summary(runtime)}",
    }


def activation_bytes(
    config: BertConfig, rows: int, max_seq_length: int, masked_words: int = 0
) -> int:
    """About how many bytes a step keeps of its forward pass, for `rows` without padding.

    Counts what autograd saves, in float32. For each token: 12 vectors of a layer's width and 2 of
    its intermediate width, attention's probabilities with their dropout, and 3 vectors of the
    embeddings. For each layer: the query, key and value weights side by side. For each masked word:
    the scores over the vocabulary, their softmax and its gradient.
    """
    hidden = config.hidden_size
    tokens = rows * max_seq_length
    scores = 6 * config.num_attention_heads * max_seq_length
    token = 48 * hidden + 8 * config.intermediate_size + scores
    layers = config.num_hidden_layers * (tokens * token + 12 * hidden**2)
    return layers + tokens * 12 * hidden + rows * masked_words * 12 * config.vocab_size


def parallel(runtime: Runtime, model: torch.nn.Module) -> torch.nn.Module:
    """`model` for several ranks, for several GPUs of one process, or as it is."""
    if runtime.world_size > 1:
        wrapper = torch.nn.parallel.DistributedDataParallel
        # Buffers are not synchronised; PyTorch 2.13 renamed the argument.
        names = ("forward_sync_buffers", "broadcast_buffers")
        argument = next(name for name in names if name in inspect.signature(wrapper).parameters)
        replica = wrapper(model, gradient_as_bucket_view=True, **{argument: False})
        # Each loss is divided by the examples of all ranks already: sum, do not average.
        replica.register_comm_hook(None, sum_gradients)
        return replica
    if runtime.num_gpus > 1:
        runtime.print(
            f"one process uses {runtime.num_gpus} GPUs; one process for each is faster: "
            f"torchrun --nproc_per_node={runtime.num_gpus} {' '.join(sys.argv)}"
        )
        return PaddedForward(torch.nn.DataParallel(AutocastForward(model, runtime)))
    return model


class PaddedForward(torch.nn.Module):
    """`module` with packed inputs padded, because DataParallel divides rows of [B, S] tensors."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs, **more):
        if isinstance(inputs[0], PackedInputs):
            inputs = inputs[0].padded()
        return self.module(*inputs, **more)


class AutocastForward(torch.nn.Module):
    """`module` with autocast opened in its forward pass, where every replica of it opens its own.

    DataParallel runs each replica in a thread, and autocast's type belongs to one thread: from
    outside the replicas would compute in float16.
    """

    def __init__(self, module, runtime):
        super().__init__()
        self.module = module
        self.runtime = runtime

    def forward(self, *inputs, **more):
        with self.runtime.autocast():
            return self.module(*inputs, **more)


def sum_gradients(_, bucket):
    """A communication hook for DistributedDataParallel."""
    return dist.all_reduce(bucket.buffer(), async_op=True).get_future().then(lambda f: f.value()[0])


# --- initial weights -----------------------------------------------------------------------------


def resolve_init_checkpoint(args: argparse.Namespace, **metadata) -> str | None:
    """The path of the weights to load, or None for random ones, by `checkpoint.find_start`.

    Raises ValueError if the weights were trained with another casing, other labels or other files
    than this run's; FileNotFoundError if they do not exist.
    """
    start = find_start(args)
    if start is None:
        return None
    refuse_contradictions(args, start)
    if not args.do_train:  # A new head may have other labels.
        order_of_labels(start, metadata.get("labels"))
    if not start.source:
        return args.init_checkpoint  # gone or not given, as the run resumes; or without weights
    if start.asked == args.output_dir and args.init_checkpoint not in (None, start.asked):
        flags.note(f"using the weights in {start.asked}, not those of --init_checkpoint")
    return start.asked if start.weights else start.source


def make_tokenizer(args: argparse.Namespace, weights: str | None) -> FullTokenizer:
    """The tokenizer of --vocab_file, of the flags about text, and of the folder's added tokens.

    Without --never_split it keeps the markers whole that were whole when the weights were trained,
    and `args` says so afterwards. Raises ValueError if the casing does not suit the vocabulary, or
    if evaluation alone is given another --never_split.
    """
    start = find_start(args)
    added_tokens = start.added_tokens if start else ()
    trained_with = read_metadata(weights).get("never_split")
    if args.never_split is None:
        args.never_split = trained_with
    elif not getattr(args, "do_train", False) and trained_with not in (None, args.never_split):
        raise ValueError(
            f"{weights} was trained with never_split {trained_with}, but this run has "
            f"{args.never_split}"
        )
    strip_accents = args.do_lower_case and args.strip_accents
    tokenizer = FullTokenizer(
        args.vocab_file, args.do_lower_case, strip_accents, args.never_split or (), added_tokens
    )
    tokenization.check_casing(args.vocab_file, tokenizer.vocab, args.do_lower_case, strip_accents)
    flags.keep_tokenizer(args, tokenizer)
    return tokenizer


def add_tokens(args, runtime, model, tokenizer) -> FullTokenizer:
    """The tokenizer with the words of --add_tokens, which get their rows in `model`, in place.

    Raises ValueError for a file that cannot be followed, and if there is something to add for
    evaluation alone.
    """
    if not args.add_tokens:
        return tokenizer
    num_rows = getattr(model, "bert", model).config.vocab_size
    new = read_new_tokens(args.add_tokens, tokenizer, num_rows)
    runtime.print(new.summary)
    if new.rows and not args.do_train:
        raise ValueError(
            f"--add_tokens {args.add_tokens}: the weights lack {count(len(new.rows), 'word')} of "
            f"it, which only training can add: leave it out, or train first"
        )
    tokenizer = tokenizer.with_tokens(new.tokens)
    add_word_rows(model, new.rows)
    flags.keep_tokenizer(args, tokenizer)
    return tokenizer


def load_initial_weights(
    model: torch.nn.Module,
    path: str | None,
    runtime: Runtime,
    head_may_be_new: bool,
    labels: Sequence[str] | None = None,
    pooler_is_read: bool = True,
) -> None:
    """Fills `model` from PyTorch weights or a TensorFlow checkpoint and prints what was left out.

    `labels` are those of a classifier's outputs, which are put into that order. Raises ValueError
    if the head has no weights or is for another task, unless `head_may_be_new`, and if ranks have
    loaded other weights.
    """
    if path is None:
        runtime.print("no --init_checkpoint: the model starts from random weights")
    elif not (os.path.exists(path) or inspect_folder(path).source):
        runtime.print(f"{path} is gone: a run that resumes does not read it")
    else:
        folder = inspect_folder(path)
        load = load_tf_weights if folder.is_tensorflow else load_weights
        if not has_head_of_another_task(folder, model):
            unfilled, unused = load(model, path, pooler_is_read)
        elif head_may_be_new:
            unfilled, unused = load_without_classifier(model, path)
        else:
            raise ValueError(f"{path} is a model for {folder.task}: fine-tune it for this task")
        if any(not name.startswith("bert.") for name in unfilled) and not head_may_be_new:
            if labels is not None and "classifier.weight" in unused:
                raise ValueError(
                    f"{path} was trained for another number of labels than the {len(labels)} of "
                    f"this run ({', '.join(labels)})"
                )
            raise ValueError(
                f"{path} has no {', '.join(unfilled)} for this task: fine-tune it first"
            )
        runtime.print(
            f"weights from {path}; new: {summary_of(unfilled)}; not used: {summary_of(unused)}"
        )
        if labels is not None and "classifier.weight" not in unfilled:
            order_outputs(model, folder, labels, runtime)
    if runtime.world_size > 1:
        config = getattr(model, "bert", model).config
        values = {"checksum": fingerprint(model.state_dict()), "configuration": config.to_dict()}
        runtime.require_equal("the weights", values)


def has_head_of_another_task(folder: Folder, model: torch.nn.Module) -> bool:
    """Whether the classifier in a folder has the model's names but classifies something else."""
    own = TASKS.get(type(model).__name__)
    theirs = "classification" if folder.task == "regression" else folder.task
    same_names = ("classification", "tagging", "multiple choice", "several scores")
    differs = own in same_names and theirs in same_names and own != theirs
    return differs and not folder.is_tensorflow


def load_without_classifier(model, path) -> tuple[list[str], list[str]]:
    """As `load_weights`, but leaves the classifier of the file out."""
    weights = read_state_dict(path)
    names = standard_names(weights, path)
    head = [name for other, name in names.items() if other.startswith("classifier.")]
    others = {name: tensor for name, tensor in weights.items() if name not in head}
    unfilled, unused = load_weights(model, others, source=path)
    return unfilled, unused + head


# What may be new or not used without surprise: the tensors of a head, the slots of an optimizer.
EXPECTED = r"(classifier|qa_outputs|cls\.predictions|cls\.seq_relationship)\.|.*/(adam_[mv])$"


def summary_of(names: Iterable[str]) -> str:
    """Names of tensors for one line: those of a head by its name alone, surprising ones in full."""
    groups = Counter()
    for name in names:
        known = None if name in TIED else re.match(EXPECTED, name)
        groups[(known[1] or f"…/{known[2]}") if known else name] += 1
    counted = [name if number == 1 else f"{name} ({number})" for name, number in groups.items()]
    return ", ".join(counted) or "none"


def order_outputs(
    model: torch.nn.Module, folder: Folder, labels: Sequence[str], runtime: Runtime
) -> None:
    """Puts the outputs of a classifier into the order of `labels`, where its folder names them."""
    try:
        order = order_of_labels(folder, labels)
    except ValueError:  # other labels: the head is trained on
        return
    if order is None:
        return
    for parameter in model.classifier.parameters():
        parameter.data = parameter.data[order]
    runtime.print(f"the outputs {folder.labels} of {folder.path} are reordered as {list(labels)}")


def print_features(
    runtime: Runtime, name: str, tally: Tally, max_seq_length: int, tokenizer: FullTokenizer
) -> None:
    """Prints what became of the rows of a file, and how much there is to compute.

    `tally` is a files.Tally. Warns if the vocabulary seems to be the wrong one, and once if markers
    in the texts were split.
    """
    padding = 1 - tally.tokens / (tally.inputs * max_seq_length)
    unknown = tally.unknown / tally.tokens
    text = (
        f"{name}: {tally.inputs:,} inputs, {tally.tokens:,} tokens ({padding:.0%} of "
        f"{max_seq_length} positions each would be padding), {unknown:.2%} [UNK]; {tally}"
    )
    long_words = tokenizer.take_num_long_words()
    if long_words:
        limit = tokenizer.wordpiece_tokenizer.max_input_chars_per_word
        text += f", words over {limit} characters that became one [UNK]: {long_words:,}"
    runtime.print(text)
    if unknown > 0.05:
        runtime.print(f"warning: {unknown:.0%} of the tokens are [UNK]: is this the vocabulary?")
    if warning := tokenizer.take_marker_warning():
        runtime.print(warning)


# --- training ------------------------------------------------------------------------------------


class StepTotals(NamedTuple):
    """What the losses of a step are divided by, summed over all its parts on all ranks."""

    examples: int
    weight: torch.Tensor | None = None  # of `weight_of` of the examples, where they have it


def train(args, runtime, model, examples, compute_loss, evaluator=None) -> int:
    """Trains `model` in place, from the newest checkpoint on. Returns the step of its weights.

    `examples` is a data.TrainingExamples or an instances.Instances, whose make_batch(rows) makes
    the batch of one part of a step, in a thread, while the step before runs. compute_loss(model,
    batch, totals) is that part's share of the step's mean loss, i.e. a sum divided by StepTotals,
    so that parts and ranks add up to the loss of the whole batch. `evaluator` is an Evaluator, for
    a run that evaluates while it trains.
    """
    steps, warmup = num_steps(args, examples)
    runtime.print(f"{steps:,} steps of {args.train_batch_size} examples, {warmup:,} of warm-up")
    optimizer = create_optimizer(model, args.learning_rate, steps, warmup, args.schedule)
    scale = LossScale(args.loss_scale) if args.fp16 else None

    evaluator = evaluator or Evaluator(args)
    config = getattr(model, "bert", model).config
    key = resume_key(args, config, examples.fingerprint, evaluator.fingerprint)
    done = start = resume(args, runtime, model, optimizer, scale, key, evaluator)
    replica = parallel(runtime, model)
    model.train()
    train_step = make_train_step(args, runtime, replica, optimizer, scale, compute_loss)
    if args.compile:
        train_step = time_first_step(runtime, train_step)
    prepare = partial(prepare_step, args, runtime, model, examples)
    batches = prefetched(prepare, range(start, steps))

    log = Log(args, runtime, start, steps, evaluator.evaluated)
    with (
        StopSignals(args, runtime) as signals,
        closing(log),
        closing(batches),
        memory_advice(step_advice(args, runtime)),
    ):
        if evaluator.is_due(start, steps):  # A signal came before it.
            evaluator.evaluate(runtime, model, start, log)
        unread = []
        for step in range(start, steps):
            if evaluator.out_of_patience:
                break
            learning_rate = optimizer.get_lr()
            loss = train_step(*next(batches))

            done = step + 1
            unread.append((done, loss, learning_rate))
            save = done == steps or done % args.save_checkpoints_steps == 0
            evaluate = evaluator.is_due(done, steps)
            stop = False
            if save or evaluate or may_read_losses(runtime, done):
                stop = read_losses(runtime, unread, log, signals)
            if evaluate and not stop:
                evaluator.evaluate(runtime, model, done, log)
            if save or stop or evaluator.out_of_patience:
                log.flush()
                evaluation = evaluator.state_dict()
                save_checkpoint(
                    args, runtime, model, optimizer, done, scale, key, evaluation, examples.metadata
                )
            if stop:
                end_stopped_run(args, runtime, log, signals, done)
        if signals.received:  # during the last checkpoint
            end_stopped_run(args, runtime, log, signals, done)

    if scale:
        runtime.print(f"float16: {scale.skipped} steps skipped, scale {scale.value:g}")
    return evaluator.finish(runtime, model, done, steps)


def num_steps(args: argparse.Namespace, examples) -> tuple[int, int]:
    """Steps of training and of warm-up, from the flags of steps or those of epochs."""
    if "num_train_steps" in args:
        return args.num_train_steps, args.num_warmup_steps
    number = examples.num_examples
    steps = num_train_steps(number, args.train_batch_size, args.num_train_epochs)
    if not steps:
        raise ValueError(
            f"{number} training examples and {args.num_train_epochs} epochs "
            f"make no batch of {args.train_batch_size}: lower --train_batch_size, or train longer"
        )
    return steps, int(steps * args.warmup_proportion)


def resume(args, runtime, model, optimizer, scale, key, evaluator) -> int:
    """Restores the newest checkpoint where there is one; returns how many steps are done.

    Raises ValueError if ranks would start from other weights, data or files.
    """
    if runtime.world_size > 1:
        runtime.require_equal("what it trains on", key)
    state = resume_or_clear(args, runtime, key)
    if state is None:
        return 0
    if args.bf16 and args.overwrite_output_dir:  # else `follow_checkpoint_precision` has done it
        precision.follow_checkpoint(
            runtime, (args.output_dir, str(state.get("precision", "bfloat16")))
        )
    if runtime.world_size > 1:
        runtime.require_equal("the checkpoint", {"checksum": fingerprint(state["model"])})
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if scale:
        scale.load_state_dict(state["scale"])
    if state.get("evaluation"):  # Older checkpoints have none.
        evaluator.load_state_dict(state["evaluation"])
    return state["step"]


def prepare_step(args, runtime, model, examples, step):
    """What a step needs, made on the host: the seed of each part, a BatchBuffer of (parts, totals).

    It depends on its arguments alone, so that it can be made ahead.
    """
    indices = step_examples(examples.shards, args.train_batch_size, step, args.seed)
    parts = own_parts(args, runtime, examples, indices)
    totals = own_totals(examples, parts, len(indices))
    seeds = [dropout_seed(args.seed, step, number, runtime.rank) for number in range(len(parts))]
    if runtime.device.type == "cuda":
        torch.cuda.set_device(runtime.device)  # of this thread
    return seeds, make_buffer(args, runtime, model, parts, totals, examples.make_batch)


def make_buffer(args, runtime, model, parts, totals, make_batch) -> BatchBuffer:
    """The batches of all `parts` of a step, and its totals, as `make_train_step` takes them.

    Raises ValueError for ids outside the model's tables.
    """
    with runtime.autocast():  # which decides how many rows a packed batch has
        batches = tuple(map(make_batch, parts))
    if not why_no_graphs(args, runtime):
        in_bucket = partial(PackedInputs.in_bucket, width=args.max_seq_length, multiple=BUCKET)
        batches = map_batch(in_bucket, batches, PackedInputs)
    prepared = BatchBuffer((batches, totals), runtime.device)
    for packed in prepared.packed:  # before they lie where a look would wait
        model.bert.check_ids(packed.input_ids, packed.token_type_ids)
    return prepared


def own_parts(args, runtime, examples, indices):
    """The parts of a step that this rank computes, one list of examples for each micro-step."""
    accumulation = args.gradient_accumulation_steps
    parts = np.array_split(indices, runtime.world_size * accumulation)
    first = runtime.rank * accumulation
    return [[examples[index] for index in part] for part in parts[first : first + accumulation]]


def own_totals(examples, parts, num_examples) -> StepTotals:
    """The StepTotals of a step of `num_examples`; the weight is that of this rank's `parts`."""
    if examples.weight_of is None:
        return StepTotals(num_examples)
    weight = float(sum(examples.weight_of(row) for rows in parts for row in rows))
    return StepTotals(num_examples, torch.tensor(weight))


def sum_totals(runtime, totals) -> StepTotals:
    """The StepTotals of all ranks, from this rank's."""
    if totals.weight is None:
        return totals
    return totals._replace(weight=runtime.sum(to_device(totals.weight, runtime.device)))


def make_train_step(args, runtime, replica, optimizer, scale, compute_loss):
    """The function that does a step, of what `prepare_step` returns; it returns this rank's loss.

    On a GPU it replays CUDA graphs, unless something in this run needs the host within a step.
    """

    def gradients(batch, totals):
        """Forward and backward pass of one part of a step."""
        with runtime.autocast():
            loss = compute_loss(replica, batch, totals)
        # Outside autocast, so that what ran in float32 goes backward in float32 too.
        backward(loss, scale)
        return loss.detach()

    def eager_step(seeds, prepared):
        parts, totals = prepared.load()
        totals = sum_totals(runtime, totals)
        loss = 0.0
        for micro_step, (seed, batch) in enumerate(zip(seeds, parts)):
            torch.manual_seed(seed)
            with sync_on_last(replica, micro_step, parts):
                loss += gradients(batch, totals)
        optimizer_step(optimizer, scale)
        return loss

    reason = why_no_graphs(args, runtime)
    if not reason:
        capture = Capture(runtime.device)
        return GraphedStep(gradients, optimizer, eager_step, capture, runtime.print)
    if runtime.device.type == "cuda":
        runtime.print(f"training without CUDA graphs, which is slower: {reason}")
    return eager_step


def time_first_step(runtime, train_step):
    """`train_step`, which prints how long its first call takes: the layers are compiled in it."""
    calls = itertools.count()

    def timed_step(*step):
        start = time.perf_counter()
        loss = train_step(*step)
        if next(calls) == 0:
            seconds = time.perf_counter() - start
            runtime.print(f"--compile: the first step took {seconds:.1f} s")
        return loss

    return timed_step


def why_no_graphs(args, runtime) -> str:
    """Why the steps of a run cannot be CUDA graphs, in words; "" if nothing speaks against them."""
    if runtime.device.type != "cuda":
        return "there is no GPU"
    if not args.cuda_graphs:
        return "--no_cuda_graphs"
    if args.gradient_accumulation_steps > 1:
        return "--gradient_accumulation_steps makes several parts of a step"
    if args.fp16:
        return "--fp16 decides on the host whether a step counts"
    if runtime.world_size > 1:
        return "several ranks exchange their gradients"
    if runtime.num_gpus > 1:
        return "one process uses several GPUs"
    return ""


def sync_on_last(replica, micro_step, parts):
    """The context of a micro-step: only the last one exchanges gradients between ranks."""
    is_last = micro_step == len(parts) - 1
    distributed = isinstance(replica, torch.nn.parallel.DistributedDataParallel)
    return replica.no_sync() if distributed and not is_last else contextlib.nullcontext()


def backward(loss: torch.Tensor, scale: "LossScale | None") -> None:
    """Adds the gradients of `loss`, scaled where there is a LossScale."""
    if scale:
        loss = loss * scale.value
    loss.backward()


def optimizer_step(optimizer: BERTAdam, scale: "LossScale | None") -> None:
    """One step of the optimizer from the gradients of all ranks, which it clears."""
    # Reading the norm waits for the GPU; only float16, which may overflow, has to.
    if scale is None:
        optimizer.step()
    elif scale.update_and_check(optimizer.global_norm()):
        optimizer.step(loss_scale=scale.used)
    optimizer.zero_grad(reuse_memory=True)


def dropout_seed(*numbers: int) -> int:
    """A seed for PyTorch from seed, step, micro-step and rank."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class LossScale:
    """Factor on a float16 loss that keeps small gradients above 0.

    It is halved when a gradient overflows, and that step is skipped; it is doubled after 2000 steps
    without an overflow. A `fixed` scale stays as it is.
    """

    def __init__(self, fixed: float = 0.0):
        self.fixed = bool(fixed)
        self.value = fixed or 2.0**16
        self.used = self.value  # by the gradients of this step
        self.good_steps = 0
        self.skipped = 0

    def update_and_check(self, norm: torch.Tensor) -> bool:
        """Adapts the scale to the gradients' `norm`; returns whether it is finite."""
        self.used = self.value
        finite = bool(torch.isfinite(norm))
        if finite:
            self.good_steps += 1
        else:
            self.good_steps = 0
            self.skipped += 1
        if not self.fixed:
            if not finite:
                self.value *= 0.5
            elif self.good_steps % 2000 == 0:
                self.value *= 2.0
        return finite

    def state_dict(self) -> dict:
        return dict(vars(self))

    def load_state_dict(self, state: dict) -> None:
        for name, value in state.items():
            setattr(self, name, value)


# --- evaluation during training ------------------------------------------------------------------


class Evaluator:
    """Evaluates a model every --eval_steps, and does what --keep_best and --patience ask for.

    figures_of()     {name: figure} of the model as it is, on rank 0; every rank calls it
    metric           the name of the figure by which weights are the best
    fingerprint      a checksum of the examples that are evaluated
    lower_is_better  whether the lowest `metric` is the best, not the highest

    Of equal figures the first is the best one; a figure that is not finite never is. Evaluation
    changes nothing that training computes, since every part of a step seeds its own dropout.
    """

    STATE = ("evaluated", "best_step", "best_figure", "best_weights", "num_since_best")

    def __init__(self, args, figures_of=None, metric="", fingerprint=None, lower_is_better=False):
        self.eval_steps = getattr(args, "eval_steps", None)
        self.keep_best = getattr(args, "keep_best", False)
        self.patience = getattr(args, "patience", None)
        self.figures_of = figures_of
        self.metric = metric
        self.fingerprint = fingerprint
        self.lower_is_better = lower_is_better
        self.evaluated = 0  # the last step after which there was an evaluation
        self.best_step = 0
        self.best_figure = None
        self.best_weights = None  # with --keep_best, on the CPU
        self.num_since_best = 0  # evaluations

    def is_due(self, done, steps) -> bool:
        """Whether to evaluate after `done` of `steps`."""
        if self.figures_of is None or done <= self.evaluated:
            return False
        return done == steps or done % self.eval_steps == 0

    def evaluate(self, runtime, model, done, log) -> None:
        """Evaluates and logs; keeps the weights if they are the best. Every rank must call it."""
        # Rank 0 decides for all, so that all stop after the same step with the same weights.
        figures = runtime.gather(self.figures_of())[0]
        model.train()
        figures = {
            name: value if isinstance(value, int) else float(value)
            for name, value in figures.items()
            if name not in ("global_step", "loss")  # Google's; the log has others of these names
        }
        figure = figures[self.metric]
        self.evaluated = done
        self.num_since_best += 1
        is_best = self.is_better(figure)
        if is_best:
            self.best_step = done
            self.best_figure = figure
            self.num_since_best = 0
            if self.keep_best:
                self.copy_weights(model)
        log.add_evaluation(done, figures, self.metric, "; the best so far" if is_best else "")

    def copy_weights(self, model) -> None:
        """Keeps a copy of the model's weights, in the memory of the last copy."""
        tensors = model.state_dict()
        if self.best_weights is None:
            self.best_weights = {n: torch.empty_like(t, device="cpu") for n, t in tensors.items()}
        for name, tensor in tensors.items():
            self.best_weights[name].copy_(tensor)

    def is_better(self, figure) -> bool:
        """Whether the figure is better than the best one so far."""
        if not math.isfinite(figure) or self.best_figure is None:
            return math.isfinite(figure)
        return figure < self.best_figure if self.lower_is_better else figure > self.best_figure

    @property
    def out_of_patience(self) -> bool:
        return bool(self.patience) and self.num_since_best >= self.patience

    def finish(self, runtime, model, done, steps) -> int:
        """Loads the best weights, if they are to be kept; returns the step of the weights."""
        best = ""
        if self.best_step:
            best = f"{self.metric} {self.best_figure:.6g} after step {self.best_step}"
        if done < steps:
            found = f"no better figure than {best}" if best else f"no finite {self.metric}"
            runtime.print(
                f"stopped early after step {done} of {steps}: {found} in "
                f"{count(self.num_since_best, 'evaluation')}"
            )
        if not self.keep_best:
            return done
        if self.best_weights is None:
            runtime.print(f"no evaluation gave a finite {self.metric}: the last weights are kept")
            return done
        model.load_state_dict(self.best_weights)
        runtime.print(f"the best weights are kept: {best}")
        return self.best_step

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: dict) -> None:
        for name in self.STATE:
            setattr(self, name, state[name])


# --- watching and stopping a run -----------------------------------------------------------------

STEPS_BETWEEN_READS = 10  # on a GPU, where reading a loss waits for it


def may_read_losses(runtime: Runtime, done: int) -> bool:
    """Whether the losses are read after this many steps even if no checkpoint is due."""
    return runtime.device.type != "cuda" or done % STEPS_BETWEEN_READS == 0


def read_losses(runtime, unread, log, signals) -> bool:
    """Logs the steps in `unread` and empties it; returns whether any rank was asked to stop.

    Raises ValueError for a loss that is not finite.
    """
    steps, losses, learning_rates = zip(*unread)
    unread.clear()
    # One exchange for both, so that all ranks stop after the same step.
    numbers = torch.stack([*losses, losses[0].new_tensor(signals.received)])
    *losses, received = runtime.sum(numbers).tolist()
    for step, loss in zip(steps, losses):
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss at step {step} is {loss}: stopped; earlier checkpoints stay. "
                f"Lower --learning_rate, or use float32"
            )
    log.add(steps, losses, learning_rates)
    return received > 0


class StopSignals:
    """Catches SIGTERM and SIGINT, so that a run can finish its step and save before it ends.

    `received` is the number of the first signal, 0 before it. A second one ends the run at once,
    with the conventional exit status and a line about what is kept in --output_dir. Both signals
    are answered on the main rank as soon as they come.
    """

    def __init__(self, args: argparse.Namespace, runtime: Runtime):
        self.received = 0
        self.output_dir = args.output_dir
        self.is_main = runtime.is_main
        self._handlers = {}

    def __enter__(self):
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets only the main thread catch signals.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, error_type, *_):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.received and error_type is KeyboardInterrupt:
            newest = next(iter(checkpoints(self.output_dir).values()), None)
            kept = "nothing was saved yet: the same command starts over"
            if newest:
                kept = f"{newest} is kept: the same command resumes from it"
            self._answer(f"stopped without saving; {kept}")
            sys.exit(128 + self.received)

    def _on_signal(self, number, _):
        if self.received:
            raise KeyboardInterrupt
        self.received = number
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        self._answer(
            f"{name}: finishing this step and saving; once more stops at once, without saving"
        )

    def _answer(self, line):
        if self.is_main:
            bars_end = "\n" if sys.stderr and sys.stderr.isatty() else ""
            flags.write_error(bars_end + line)


def end_stopped_run(args, runtime, log, signals, done) -> None:
    """Ends the process after a signal, with the conventional exit status."""
    log.close()
    runtime.print(
        f"stopped by a signal after step {done} of {log.steps}: "
        f"the same command resumes from {args.output_dir}"
    )
    sys.exit(128 + (signals.received or signal.SIGTERM))


# --- prediction ----------------------------------------------------------------------------------


# Tokens in a batch of prediction, where the number of examples is not given: enough to keep the
# device busy, and few enough for its caches or its memory.
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 16384}


@torch.inference_mode()
def predict(runtime, model, features, batch_size, make_batch, outputs_of, title):
    """Outputs for every feature, in the features' order: a list on rank 0, None elsewhere.

    A batch holds features of like length, `batch_size` of them, or if that is None as many as make
    TOKENS_PER_BATCH. outputs_of(model, batch) returns one output for each feature of the batch.
    Without a `title` there is no progress bar.
    """
    model.eval()
    if runtime.world_size > 1:
        ids = np.concatenate([np.empty(0, np.int32), *(feature.input_ids for feature in features)])
        values = {"number": len(features), "checksum": zlib.crc32(ids)}
        runtime.require_equal("the inputs to predict", values)
    lengths = [len(feature.input_ids) for feature in features]
    if batch_size is None:
        batches = token_batches(lengths, TOKENS_PER_BATCH[runtime.device.type])
    else:
        batches = length_sorted_batches(lengths, batch_size)
    own_batches = batches[runtime.rank :: runtime.world_size]
    quiet = title is None or not runtime.is_main
    largest = max(map(len, batches), default=0)
    advice = f"a batch held up to {largest} inputs: give a smaller batch size for prediction"

    outputs = []
    with Bar(len(own_batches), "batch", title, quiet=quiet) as bar, memory_advice(advice):
        for indices in own_batches:
            with runtime.autocast():
                batch = make_batch([features[index] for index in indices])
                outputs += zip(indices.tolist(), outputs_of(model, batch))
            bar.update(1)
    if runtime.world_size > 1:
        gathered = [None] * runtime.world_size if runtime.is_main else None
        dist.gather_object(outputs, gathered)
        outputs = [pair for part in gathered or [] for pair in part]
    if not runtime.is_main:
        return None

    by_index = dict(outputs)
    assert len(outputs) == len(by_index) == len(features)
    return [by_index[index] for index in range(len(features))]
