"""Training steps of pre-training, on instances that create_pretraining_data.py makes of text.

Each contender does whole steps (batch, forward, backward, clipping, optimizer) on the same
instances:

    ours      without padding; scores over the vocabulary at masked words only; BERTAdam
    default   transformers' BertForPreTraining as its users run it: padded to the maximum, label
              -100 for words that are not masked (as its DataCollatorForLanguageModeling sets it)
              and so scores over the vocabulary at every position; fused AdamW, gradient norm 1.0
    best      the same, padded to the longest row of a batch, and in bfloat16 where the CPU has
              instructions for it

The limit is the best FLOP/s of torch.nn.functional.linear in the same process, dtype and threads,
at the model's shapes, including the projection to the vocabulary. Useful FLOPs are those of the
tokens in the layers (after the attention of the last layer, only of the rows that the heads read)
and those of the heads at masked words; three times for a step. Memory is the largest resident set
of a separate process that does three steps.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(12, "timed steps of each"), shape=("384-wide", "or BERT-Base"),
    batch=(32, "instances in a step"), dtype=("", "float32 or bfloat16"),
    text=("", "a file of one sentence a line; without it the articles of SQuAD"),
    child=("", "used by itself"),
)  # fmt: skip

import random  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from types import SimpleNamespace  # noqa: E402

import numpy as np  # noqa: E402
import pretraining_text  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from contenders import INPUTS, limit, useful_flops  # noqa: E402

from create_pretraining_data import create_training_instances  # noqa: E402
from data import model_inputs, pad_rows  # noqa: E402
from modeling import BertConfig, BertForPreTraining  # noqa: E402
from optimization import create_optimizer  # noqa: E402
from tokenization import FullTokenizer  # noqa: E402

torch.set_num_threads(args.threads)
BEST = "float32" if common.why_not_bfloat16() else "bfloat16"  # what is fastest on this CPU
WIDTH, VOCAB, SHAPE = 128, 30522, common.SHAPES[args.shape]


def rows_of(number):
    """`number` instances, as rows with ids."""
    tokenizer = FullTokenizer(common.vocab_file())
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        pretraining_text.write(file.name, pretraining_text.documents(args.text), 1e6)
        instances = create_training_instances(
            [file.name], tokenizer, WIDTH, 1, 0.1, 0.15, 20, random.Random(12345)
        )
    rows = []
    for instance in instances[:number]:
        tokens, labels = instance.tokens, instance.masked_lm_labels
        ids, label_ids = map(tokenizer.convert_tokens_to_ids, (tokens, labels))
        arrays = map(np.array, (ids, instance.segment_ids, instance.masked_lm_positions, label_ids))
        names = "input_ids", "segment_ids", "positions", "labels"
        rows.append(
            SimpleNamespace(**dict(zip(names, arrays)), is_random_next=instance.is_random_next)
        )
    return rows


def ours(dtype):
    """A function of rows: one step of this project."""
    model = BertForPreTraining(BertConfig(VOCAB, type_vocab_size=2, **SHAPE)).train()
    optimizer = create_optimizer(model, 1e-4, 10000, 1000)

    def step(rows):
        positions, ids = ([getattr(row, name) for row in rows] for name in ("positions", "labels"))
        weights = pad_rows([np.ones(len(row)) for row in ids])
        labels = torch.tensor([int(row.is_random_next) for row in rows])
        targets = pad_rows(positions), pad_rows(ids), weights, labels
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss, _ = model(*model_inputs(rows), *targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def theirs(dtype, width):
    """A function of rows: one step of transformers, padded to `width` or to the longest."""
    config = transformers.BertConfig(vocab_size=VOCAB, **SHAPE)
    model = transformers.BertForPreTraining(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(rows):
        batch = dict(zip(INPUTS, model_inputs(rows, width)))
        labels = torch.full_like(batch["input_ids"], -100)
        for target, row in zip(labels, rows):
            target[row.positions] = torch.from_numpy(row.labels)
        batch["labels"] = labels
        batch["next_sentence_label"] = torch.tensor([int(row.is_random_next) for row in rows])
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def make_step(name, dtype):
    if name == "ours":
        return ours(dtype)
    return theirs(getattr(torch, BEST), 0) if name == "best" else theirs(torch.float32, WIDTH)


def matrix_shapes():
    """The model's kinds of products, as `limit` takes them."""
    hidden, wide = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    shapes = [(hidden, hidden), (hidden, 3 * hidden), (hidden, wide), (wide, hidden)]
    return [*((4096, *shape) for shape in shapes), (512, hidden, VOCAB)]


def flops(rows):
    """Useful FLOPs of all steps on these rows."""
    hidden, wide = SHAPE["hidden_size"], SHAPE["intermediate_size"]
    tokens = sum(len(row.input_ids) for row in rows)
    masked = sum(len(row.labels) for row in rows)
    unread = tokens - masked - len(rows)
    heads = 2 * masked * hidden * (hidden + VOCAB) + 2 * len(rows) * hidden * (hidden + 2)
    return useful_flops(args.shape, rows) + 3 * (heads - unread * (2 * hidden + 4 * wide) * hidden)


def peak_memory(name, dtype):
    """The largest resident set, in MB, of a process that does three steps of one contender."""
    common.progress(f"memory of {name}")
    command = [sys.executable, __file__, *sys.argv[1:], "--child", f"{name}:{str(dtype)[6:]}"]
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return float(output.split()[-1])


def child(name, dtype):
    step, rows = make_step(name, getattr(torch, dtype)), rows_of(3 * args.batch)
    for start in range(0, len(rows), args.batch):
        step(rows[start : start + args.batch])
    print(common.peak_memory())


def compare(dtype, rows):
    batches = [rows[start : start + args.batch] for start in range(0, len(rows), args.batch)]
    steps = {name: make_step(name, dtype) for name in ("ours", "default", "best")}
    for name, step in steps.items():  # All start with the loss of guessing.
        common.progress(f"{name}, {str(dtype)[6:]}, first step")
        assert abs(step(batches[0]).item() - np.log(VOCAB) - np.log(2)) < 0.5
    contenders = {
        name: lambda number, step=step: step(batches[number]) for name, step in steps.items()
    }
    ceiling = [limit(matrix_shapes(), dtype)]
    seconds = common.interleave(contenders, len(batches), warmup=0)
    ceiling.append(limit(matrix_shapes(), dtype))
    tokens = sum(len(row.input_ids) for row in rows)
    share = flops(rows) / sum(seconds["ours"]) / max(ceiling)
    memory = {name: peak_memory(name, dtype) for name in ("ours", "default")}
    return {
        "dtype": str(dtype)[6:], "seconds": seconds,
        "ratio": {
            name: common.spread([b / a for a, b in zip(seconds["ours"], seconds[name])])
            for name in ("default", "best")
        },
        "tokens_per_second": {name: tokens / sum(times) for name, times in seconds.items()},
        "limit_gflops": max(ceiling) / 1e9, "share_of_limit": share, "peak_memory_mb": memory,
    }  # fmt: skip


def main():
    if args.child:
        child(*args.child.split(":"))
        return
    common.progress("making instances")
    rows = rows_of((4 if args.quick else args.rounds) * args.batch)
    figures = [compare(getattr(torch, name), rows) for name in common.precisions(args.dtype)]
    table = [
        [
            f["dtype"], *(common.text(f["ratio"][name]) for name in ("default", "best")),
            *(f"{rate:.0f}" for rate in f["tokens_per_second"].values()),
            f"{f['limit_gflops']:.0f}", f"{f['share_of_limit']:.2f}",
            f"{f['peak_memory_mb']['ours'] / f['peak_memory_mb']['default']:.2f}",
        ]
        for f in figures
    ]  # fmt: skip
    header = ["ours in", "× default (float32)", f"× best ({BEST})", "tokens/s ours", "default",
              "best", "limit GFLOP/s", "share", "memory / default"]  # fmt: skip
    length = sum(len(row.input_ids) for row in rows) / len(rows)
    masked = sum(len(row.labels) for row in rows) / len(rows)
    title = f"{args.shape}, batches of {args.batch}, {length:.0f} tokens, {masked:.1f} masked"
    common.table(f"Pre-training steps: {title} of {WIDTH} a row", header, table)
    common.finish(args, figures)


if __name__ == "__main__":
    main()
