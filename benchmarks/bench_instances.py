"""Text to pre-training instances: speed against Google's algorithm in plain Python, and memory.

    plain    every sentence is split by BasicTokenizer and WordpieceTokenizer without a cache, and
             masked as Google's code does it: a list for each candidate, random.shuffle, a set of
             covered positions, and a sort of pairs; everything else is as in "ours"
    ours     create_training_instances of create_pretraining_data.py
    command  the same as a command, with start-up, encoding, checksums and writing the file

Speed is measured in processor time, so the figures are those of one core. The instances of "plain"
and "ours" are checked to be equal. Memory is the largest resident set of the command's process and,
with --stream, of its worker.

The formats of files are compared by their size, the time to open one, and the time to read rows at
random: this project's, TFRecord as Google writes it, and a plain .npy, in which every row has the
padded features side by side in int32. The files are in the page cache, and some rows are checked to
be equal. Reading ours and TFRecord verifies checksums, which a .npy has not.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(5, "timed passes of each"),
    text=("", "a file of one sentence a line; without it the articles of SQuAD"),
    dupe_factor=(10, "passes over the text"), large_mb=(1000, "size of the larger text, in MB"),
    child=("", "used by itself"),
)  # fmt: skip

import random  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pretraining_text  # noqa: E402

import create_pretraining_data  # noqa: E402
from instances import FEATURES, InstanceFile, TFRecordFile  # noqa: E402
from tokenization import BasicTokenizer, FullTokenizer, WordpieceTokenizer  # noqa: E402

SETTINGS = 128, args.dupe_factor, 0.1, 0.15, 20
WIDTHS = {name: 20 if "masked" in name else 128 for name in FEATURES} | {"next_sentence_labels": 1}
READS = 3000  # rows at random in each round
OURS = create_pretraining_data.create_masked_lm_predictions


class PlainTokenizer:
    def __init__(self, vocab):
        self.vocab, self.basic, self.pieces = vocab, BasicTokenizer(), WordpieceTokenizer(vocab)

    def tokenize(self, text):
        return [p for token in self.basic.tokenize(text) for p in self.pieces.tokenize(token)]


def plain_masking(tokens, probability, most, vocab_words, rng, do_whole_word_mask=False):
    """create_masked_lm_predictions as in Google's code."""
    candidates = []
    for index, token in enumerate(tokens):
        if token in ("[CLS]", "[SEP]"):
            continue
        if do_whole_word_mask and candidates and token.startswith("##"):
            candidates[-1].append(index)
        else:
            candidates.append([index])
    rng.shuffle(candidates)
    output, covered, masked = list(tokens), set(), []
    number = min(most, max(1, int(round(len(tokens) * probability))))
    for indexes in candidates:
        if len(masked) >= number:
            break
        if len(masked) + len(indexes) > number or any(index in covered for index in indexes):
            continue
        for index in indexes:
            covered.add(index)
            if rng.random() < 0.8:
                replacement = "[MASK]"
            elif rng.random() < 0.5:
                replacement = tokens[index]
            else:
                replacement = vocab_words[rng.randint(0, len(vocab_words) - 1)]
            output[index] = replacement
            masked.append((index, tokens[index]))
    masked.sort(key=lambda pair: pair[0])
    return output, [index for index, _ in masked], [label for _, label in masked]


def instances(path, tokenizer, masking):
    create_pretraining_data.create_masked_lm_predictions = masking
    rng = random.Random(12345)
    return create_pretraining_data.create_training_instances([path], tokenizer, *SETTINGS, rng)


def command(path, output, *flags):
    """The command's arguments."""
    return ["--input_file", str(path), "--vocab_file", common.vocab_file(), *flags,
            "--output_file", str(output), "--dupe_factor", str(args.dupe_factor)]  # fmt: skip


def speed(folder, chosen, size, rounds):
    path, vocab = folder / "text.txt", FullTokenizer(common.vocab_file()).vocab
    available = sum(len("\n".join(document).encode()) for document in chosen)
    pretraining_text.write(path, chosen, min(size, available))  # Repeated words would be fast.
    sentences = sum(bool(line.strip()) for line in path.read_text("utf-8").split("\n"))
    script = [sys.executable, create_pretraining_data.__file__]
    contenders = {
        "plain": lambda: instances(path, PlainTokenizer(vocab), plain_masking),
        "ours": lambda: instances(path, FullTokenizer(common.vocab_file()), OURS),
        "command": lambda: subprocess.run(
            script + command(path, folder / "x"), check=True, stdout=subprocess.DEVNULL
        ),
    }
    common.progress("plain and ours make the same instances")
    assert contenders["plain"]() == contenders["ours"]()
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, function in contenders.items():
            common.progress(name)
            start = processor_seconds()
            function()
            seconds[name].append(processor_seconds() - start)
    ratio = common.ratios(seconds, "plain")
    rows = [
        [name, f"{sentences / common.spread(times)['median']:,.0f}", common.text(ratio[name])]
        for name, times in seconds.items()
    ]
    header = ["", "sentences/s of a core", "× plain"]
    common.table(
        f"{sentences:,} sentences, {path.stat().st_size / 1e6:.1f} MB, {args.dupe_factor} passes",
        header, rows,
    )  # fmt: skip
    return {"sentences": sentences, "seconds": seconds}


def processor_seconds():
    """The processor time of this process and of its child processes that have ended."""
    return time.process_time() + sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])


def memory(folder, chosen, megabytes, *flags):
    """[MB of text, peak MB of the process, peak MB of its worker, seconds, MB written]"""
    path, output = folder / "text.txt", folder / f"{megabytes}{len(flags)}"
    pretraining_text.write(path, chosen, megabytes * 1e6)
    output.mkdir()
    common.progress(f"memory with {megabytes} MB of text {' '.join(flags)}")
    arguments = command(path, output / "x", *flags)
    start = time.perf_counter()
    own, workers = subprocess.run(
        [sys.executable, __file__, "--child=" + "\n".join(arguments)],
        check=True, stdout=subprocess.PIPE, text=True,
    ).stdout.split()[-2:]  # fmt: skip
    seconds = time.perf_counter() - start
    written = sum(file.stat().st_size for file in output.iterdir()) / 1e6
    return [megabytes, *map(round, (float(own), float(workers), seconds, written))]


def child(arguments):
    create_pretraining_data.main(arguments)
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(common.peak_memory(), workers)


class PlainFile:
    """Rows of a .npy file as an InstanceFile gives them."""

    def __init__(self, path):
        self.rows = np.load(path, mmap_mode="r")

    def __getitem__(self, index):
        parts = np.split(self.rows[index], np.cumsum(list(WIDTHS.values()))[:-1])
        row = dict(zip(WIDTHS, parts))
        masked = np.count_nonzero(row["masked_lm_weights"])
        tokens = np.count_nonzero(row["input_mask"])
        return {
            name: values[: masked if "masked" in name else tokens] for name, values in row.items()
        }


def formats(folder, chosen, size, rounds):
    """[format, MB, bytes per instance, ms to open, µs per random row] of each format."""
    text = folder / "text.txt"
    pretraining_text.write(text, chosen, size)
    paths = {name: folder / name for name in ("instances", "tfrecord", "npy")}
    for name in ("instances", "tfrecord"):
        common.progress(f"writing {name}")
        create_pretraining_data.main([*command(text, paths[name]), f"--output_format={name}"])
    ours = InstanceFile(paths["instances"])
    padded = np.zeros((len(ours), sum(WIDTHS.values())), "<i4")
    starts = dict(zip(WIDTHS, np.cumsum([0, *WIDTHS.values()])))
    for number, row in enumerate(ours):
        for name, values in row.items():
            padded[number, starts[name] : starts[name] + len(values)] = values
    with open(paths["npy"], "wb") as file:
        np.save(file, padded)

    openers = {"instances": InstanceFile, "tfrecord": TFRecordFile, "npy": PlainFile}
    files = {name: opener(paths[name]) for name, opener in openers.items()}
    order = np.random.default_rng(0).integers(0, len(ours), (rounds, READS)).tolist()
    for index in order[0][:100]:
        first, *others = [file[index] for file in files.values()]
        for name, values in first.items():
            assert all(values.tolist() == other[name].tolist() for other in others)

    def opening(name):
        return lambda _: openers[name](paths[name])

    def reading(name):
        return lambda number: [files[name][index] for index in order[number]]

    opened = common.interleave({name: opening(name) for name in openers}, rounds)
    read = common.interleave({name: reading(name) for name in openers}, rounds)
    rows = []
    for name, path in paths.items():
        written = path.stat().st_size
        times = 1e3 * common.spread(opened[name])["median"], common.spread(read[name])["median"]
        cells = [f"{written / 1e6:.1f}", f"{written / len(ours):.0f}", f"{times[0]:.2f}"]
        rows.append([name, *cells, f"{1e6 / READS * times[1]:.0f}"])
    return rows


def main():
    if args.child:
        child(args.child.split("\n"))
        return
    chosen = pretraining_text.documents(args.text)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size, rounds = (2e5, 3) if args.quick else (2e6, args.rounds)
        rows = formats(folder, chosen, size, rounds)
        header = ["format", "MB", "bytes per instance", "ms to open", "µs per random row"]
        common.table(f"Files of instances, {args.dupe_factor} passes", header, rows)
        figures = {"formats": rows, "speed": speed(folder, chosen, size, rounds)}
        large = min(args.large_mb, 30) if args.quick else args.large_mb
        cases = {"all at once": [memory(folder, chosen, 10)]}
        cases["--stream"] = [memory(folder, chosen, size, "--stream") for size in (10, large)]
    rows = [[row[0], mode, *row[1:]] for mode, cases in cases.items() for row in cases]
    header = ["MB of text", "mode", "peak MB", "peak MB of the worker", "seconds", "MB written"]
    common.table(f"Memory, {args.dupe_factor} passes", header, rows)
    common.finish(args, {**figures, "memory": rows})


if __name__ == "__main__":
    main()
