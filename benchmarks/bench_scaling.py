"""How time and memory grow with sequence length, batch, layers, and the number of questions.

Each size runs in a process of its own. The exponent is the slope of log(time) over log(size) from
the smallest to the largest size. Memory is how much more the largest size takes than the smallest,
by their largest resident sets.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(3, "timed runs of each size"), child=("", "used by itself")
)

import json  # noqa: E402
import math  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

DEFAULT = {"length": 128, "batch": 16, "layers": 4}
SIZES = {
    "length": (64, 128, 256, 512),
    "batch": (4, 8, 16, 32),
    "layers": (2, 4, 8, 12),
    "questions": (500, 1000, 2000, 4000),
    "words of context": (1000, 10000, 100000),
}


def training_step(length, batch, layers):
    import torch

    from modeling import BertConfig, BertForSequenceClassification
    from optimization import create_optimizer

    torch.set_num_threads(args.threads)
    config = BertConfig(30522, 384, layers, 12, 1536, type_vocab_size=2)
    model = BertForSequenceClassification(config).train()
    optimizer = create_optimizer(model, 2e-5, 100, 0)
    ids, labels = torch.randint(1, 30000, (batch, length)), torch.zeros(batch, dtype=torch.long)
    seconds = []
    for _ in range(args.rounds + 1):
        start = time.perf_counter()
        model(ids, labels=labels)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def featurising(questions, words):
    """Seconds for the features of `questions`, five to a paragraph of `words` words."""
    from squad_data import convert_examples_to_features, read_squad_examples
    from tokenization import FullTokenizer

    vocabulary = ("time", "year", "people", "way", "day", "man", "thing")
    context = " ".join(vocabulary[i * i % 7] for i in range(words))
    qas = [{"id": str(i), "question": "who came first ?"} for i in range(questions)]
    paragraphs = [{"context": context, "qas": qas[i : i + 5]} for i in range(0, questions, 5)]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"version": "1.1", "data": [{"title": "", "paragraphs": paragraphs}]}, file)
        file.flush()
        tokenizer = FullTokenizer(common.vocab_file())
        start = time.perf_counter()
        examples = read_squad_examples(file.name, False)
        convert_examples_to_features(examples, tokenizer, 384, 128, 64, False)
        return time.perf_counter() - start


def child(what, size):
    if what == "questions":
        seconds = featurising(size, 120)
    elif what == "words of context":
        seconds = featurising(5, size)
    else:
        seconds = training_step(**{**DEFAULT, what: size})
    print(json.dumps([seconds, common.peak_memory()]))


def main():
    if args.child:
        what, _, size = args.child.rpartition(":")
        child(what, int(size))
        return
    rows, figures = [], {}
    for what, sizes in SIZES.items():
        sizes = sizes[:3] if args.quick else sizes
        figures[what] = []
        for size in sizes:
            common.progress(f"{what} {size}")
            command = [__file__, "--threads", str(args.threads), "--child", f"{what}:{size}"]
            output = subprocess.run([sys.executable, *command], capture_output=True, check=True)
            figures[what].append([size, *json.loads(output.stdout.splitlines()[-1])])
        (small, fast, low), (large, slow, high) = figures[what][0], figures[what][-1]
        exponent = math.log(slow / fast) / math.log(large / small)
        times = ", ".join(f"{seconds:.3g}" for _, seconds, _ in figures[what])
        rows.append([what, str(sizes)[1:-1], times, f"{exponent:.2f}", f"{high - low:.0f}"])
    header = ["size", "values", "seconds", "exponent", "MB more at the last than at the first"]
    common.table("Scaling", header, rows)
    common.finish(args, figures)


if __name__ == "__main__":
    main()
