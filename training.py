"""What the drivers share: device and ranks, first weights, the training loop, prediction.

Plain functions. A driver parses its flags, calls `setup`, builds its model and its features, and
hands both to `train` and `predict` with two functions of its own: one makes a batch of some
features, one gets loss or outputs from the model.
"""

import atexit
import glob
import inspect
import os
import re
import sys
from contextlib import closing, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from tqdm import tqdm

import precision
from checkpoint import (
    WEIGHTS,
    fingerprint,
    newest_checkpoint,
    read_run,
    recorded_precision,
    result_flags,
    save_checkpoint,
)
from data import length_sorted_batches, num_train_steps, step_examples
from flags import check_flags
from optimization import create_optimizer
from progress import Log, summary_writer


@dataclass
class Runtime:
    """Where and how a run computes."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    dtype: torch.dtype = torch.float32
    why_not_bf16: str = ""  # where --bf16 was given and float32 is computed in

    @property
    def is_main(self):
        return self.rank == 0

    @property
    def precision(self):
        return str(self.dtype).removeprefix("torch.")

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

    def gather(self, value):
        """The `value` of every rank, a list in the order of ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def leave_together(self):
        """The last call of a run: a rank that has nothing to write waits for the one that has.

        It might leave while a thread of its own still lets go of the last gradients, and abort;
        then the launcher would stop the one that writes.
        """
        if self.world_size > 1:
            dist.barrier()


def setup(args):
    """Chooses device, ranks and precision, and seeds the new weights. Returns a Runtime."""
    check_flags(args)
    if args.tensorboard:
        summary_writer()
    local_rank = int(os.environ.get("LOCAL_RANK", args.local_rank))
    if local_rank >= 0 and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            f"--local_rank {local_rank} needs a launcher: "
            f"torchrun --nproc_per_node=2 {' '.join(sys.argv[:1])} …"
        )
    cuda = torch.cuda.is_available() and not args.no_cuda
    if args.fp16 and not cuda:
        raise ValueError("--fp16 needs a GPU, and there is none here; use --bf16 on a CPU")
    if args.compile and not cuda:
        raise ValueError("--compile needs a GPU, and there is none here: leave it out")
    if args.compile and local_rank < 0 and (gpus := torch.cuda.device_count()) > 1:
        raise ValueError(
            f"--compile takes a process for each GPU: torchrun --nproc_per_node={gpus} …"
        )
    runtime = Runtime(torch.device("cuda", max(local_rank, 0)) if cuda else torch.device("cpu"))
    if local_rank >= 0:
        if cuda:
            torch.cuda.set_device(runtime.device)
        dist.init_process_group("nccl" if cuda else "gloo")
        atexit.register(dist.destroy_process_group)
        runtime.rank, runtime.world_size = dist.get_rank(), dist.get_world_size()
    if args.fp16:
        runtime.dtype = torch.float16
    elif args.bf16:
        precision.choose(runtime)
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
        names = ", ".join(sorted({re.sub(r"\.(index|meta|data-.*)$", "", name) for name in there}))
        raise FileNotFoundError(
            f"--init_checkpoint {weights} does not exist; {folder} holds: {names or 'nothing'}"
        )
    run = read_run(weights)
    casing = {"do_lower_case": args.do_lower_case}
    if args.do_lower_case:  # Otherwise accents stay, whatever the flag says.
        casing["strip_accents"] = args.strip_accents
    for name, value in {**casing, **facts}.items():
        # Not there: an older run's. None: pre-trained without a word about the text's casing.
        differs = run.get(name) not in (None, value)
        if differs and (name in casing or not args.do_train):
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
        re.search(r"\.(index|meta|data-\d+-of-\d+)$", name) or os.path.exists(f"{name}.index")
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


def place(args, runtime, model):
    """Moves `model` to its device; prints where and how the run computes, and in what memory."""
    if args.do_train and args.bf16 and not args.overwrite_output_dir:
        precision.go_on(runtime, recorded_precision(args.output_dir))
    model.to(runtime.device)
    if args.compile:
        compile_layers(model)
    size = sum(parameter.numel() for parameter in model.parameters())
    runtime.print(f"{where(runtime)}, {size:,} parameters")
    if args.do_train:
        # Weights, gradients and Adam's two moments, each a float32.
        rows = -(-args.train_batch_size // (runtime.world_size * args.gradient_accumulation_steps))
        words = getattr(args, "max_predictions_per_seq", 0)
        activations = activation_bytes(model.bert.config, rows, args.max_seq_length, words)
        runtime.print(
            f"training takes about {16 * size / 1e9:.2f} GB of memory in each process, and for a "
            f"part of {rows} examples, if none is short, {activations / 1e9:.2f} GB more"
        )


def where(runtime):
    """Device, threads, ranks and precision, as the start-up line of a run names them."""
    name = torch.cuda.get_device_name() if runtime.device.type == "cuda" else "CPU"
    ranks = runtime.world_size
    return f"{name}, {torch.get_num_threads()} threads, {ranks} ranks, {runtime.precision}"


def compile_layers(model):
    """Fuses the small operations of each layer, in place: one compilation serves all layers."""
    for layer in model.bert.encoder.layer:
        layer.compile(dynamic=True)  # No two batches have the same number of tokens.


def activation_bytes(config, rows, max_seq_length, masked_words=0):
    """About what a step keeps of its forward pass, in bytes, for `rows` without padding.

    Counted in what autograd saves, in float32: for a token 12 vectors of a layer and 2 of its
    intermediate part, attention's probabilities with their dropout, 3 vectors of the embeddings; a
    layer's three weights side by side; the masked words' scores, their softmax and its gradient.
    """
    hidden, tokens = config.hidden_size, rows * max_seq_length
    scores = 6 * config.num_attention_heads * max_seq_length
    token = 48 * hidden + 8 * config.intermediate_size + scores
    layers = config.num_hidden_layers * (tokens * token + 12 * hidden**2)
    return layers + tokens * 12 * hidden + rows * masked_words * 12 * config.vocab_size


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


def num_steps(args, num_examples):
    """Steps of training and of warm-up that --num_train_epochs and --warmup_proportion mean."""
    steps = num_train_steps(num_examples, args.train_batch_size, args.num_train_epochs)
    if not steps:
        raise ValueError(
            f"{num_examples} training examples and {args.num_train_epochs} epochs "
            f"make no batch of {args.train_batch_size}: lower --train_batch_size, or train longer"
        )
    return steps, int(steps * args.warmup_proportion)


def train(args, runtime, model, features, make_batch, loss_of, fields=(), num_examples=None,
          steps_and_warmup=None, weight_of=None):  # fmt: skip
    """Trains `model` in place, from the newest checkpoint on. Returns the number of steps.

    make_batch(features, total) makes a batch of one part of a step whose examples are `total` in
    all; loss_of(model, batch) is the part's share of the step's mean loss, so that parts and ranks
    add up to the loss of the whole batch. Where a loss is a mean of something else than examples,
    weight_of(feature) counts it, and `total` is the pair (examples, sum of these weights), both of
    the whole step.

    `features` is a list, of which training sees `fields`; or an object of which rows are asked one
    at a time, with `shards` (see data.step_examples) and a `fingerprint` of its own.
    The steps are counted in `num_examples`, or else in features: Google's run_squad.py counts
    questions, of which a long paragraph makes several features. Or they are given.
    """
    steps, warmup = steps_and_warmup or num_steps(args, num_examples or len(features))
    runtime.print(f"{steps:,} steps of {args.train_batch_size} examples, {warmup:,} of warm-up")
    shards = getattr(features, "shards", [len(features)])
    known = getattr(features, "fingerprint", None)
    optimizer = create_optimizer(model, args.learning_rate, steps, warmup, args.schedule)
    scale = LossScale(args.loss_scale) if args.fp16 else None
    decisive = result_flags(args, fingerprint(features, fields) if known is None else known)
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
            indices = step_examples(shards, args.train_batch_size, step, args.seed)
            parts = [[features[i] for i in part] for part in own_parts(args, runtime, indices)]
            total, loss = whole_step(runtime, parts, len(indices), weight_of), 0.0
            for micro_step, part in enumerate(parts):
                torch.manual_seed(dropout_seed(args.seed, step, micro_step, runtime.rank))
                last = micro_step == args.gradient_accumulation_steps - 1
                batch = make_batch(part, total)
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
        if log.signal:  # It came during the last checkpoint.
            log.stopped(steps)
    if scale:
        runtime.print(f"float16: {scale.skipped} steps skipped, scale {scale.value:g}")
    return steps


def own_parts(args, runtime, indices):
    """The parts of a step that this rank computes, one for each micro-step."""
    accumulation = args.gradient_accumulation_steps
    parts = np.array_split(indices, runtime.world_size * accumulation)
    return parts[runtime.rank * accumulation : (runtime.rank + 1) * accumulation]


def whole_step(runtime, parts, num_examples, weight_of):
    """What the losses of a step are divided by, over all its parts on all ranks."""
    if weight_of is None:
        return num_examples
    weight = sum(weight_of(row) for part in parts for row in part)
    return num_examples, runtime.sum(torch.full((), float(weight), device=runtime.device))


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


@torch.inference_mode()
def predict(runtime, model, features, batch_size, make_batch, outputs_of, title):
    """Outputs for every feature once, in the features' order: a list on rank 0, None elsewhere.

    outputs_of(model, batch) returns one output for each feature of the batch. There is no progress
    bar where `title` is None.
    """
    model.eval()
    quiet = title is None or not runtime.is_main
    batches = length_sorted_batches([len(f.input_ids) for f in features], batch_size)
    mine, outputs = batches[runtime.rank :: runtime.world_size], []
    for indices in tqdm(mine, title, unit="batch", disable=quiet, dynamic_ncols=True):
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
