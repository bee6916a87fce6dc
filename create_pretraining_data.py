"""Text to pre-training instances: masked words, and sentence pairs to judge.

The input is plain text with one sentence a line and a blank line between documents; the output is
an instance file (see instances.py). The flags and the algorithm are those of google-research/bert's
create_pretraining_data.py (f39e881, and --do_whole_word_mask of eedf571), and so are the instances
for the same seed.

Google's algorithm needs the whole corpus in memory. With --stream, every few megabytes of text are
treated as a corpus of their own and become a file: random next sentences and the final shuffle stay
within them, and the end of an input file ends a document.
"""

import glob
import multiprocessing
import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import flags
from files import TOKENIZER, VOCAB, check_line_ends, find_input_files
from instances import encode_instance, write_instances, write_tfrecord
from tokenization import FILE_SIGNATURES, FullTokenizer, check_casing, marker_warning
from vocabulary import read_new_tokens, read_tokenizer_files

EXAMPLE = """\
  python create_pretraining_data.py --input_file 'text/*.txt' --vocab_file vocab.txt \\
    --output_file text.instances"""
load_tokenizer = lru_cache(FullTokenizer)  # Once in each process.

# Below this share of the instances a next-sentence label is called rare.
RARE_LABEL = 0.1


@dataclass
class TrainingInstance:
    """[CLS] A [SEP] B [SEP], masked.

    `masked_lm_labels` are the original tokens at `masked_lm_positions`, which ascend.
    """

    tokens: list
    segment_ids: list
    masked_lm_positions: list
    masked_lm_labels: list
    is_random_next: bool


def create_training_instances(
    input_files: Iterable[str],
    tokenizer: FullTokenizer,
    max_seq_length: int,
    dupe_factor: int,
    short_seq_prob: float,
    masked_lm_prob: float,
    max_predictions_per_seq: int,
    rng: random.Random,
    do_whole_word_mask: bool = False,
) -> list[TrainingInstance]:
    """All instances of the files. Raises OSError, or ValueError for fewer than two documents."""
    documents = read_documents(read_stripped_lines(input_files), tokenizer, Counter())
    settings = {
        "max_seq_length": max_seq_length,
        "short_seq_prob": short_seq_prob,
        "masked_lm_prob": masked_lm_prob,
        "max_predictions_per_seq": max_predictions_per_seq,
        "vocab_words": list(tokenizer.vocab),
        "do_whole_word_mask": do_whole_word_mask,
    }
    return _instances_of_documents(documents, dupe_factor, rng, settings)


def _instances_of_documents(documents, dupe_factor, rng, settings, convert=None):
    """The shuffled instances of `dupe_factor` passes over shuffled documents, a list.

    `convert` is applied to each instance as soon as it is made. `settings` are the other arguments
    of create_instances_from_document.
    """
    if len(documents) < 2:
        raise ValueError(
            f"found {len(documents)} document(s), but at least 2 are needed, because a random next "
            "sentence comes from another document: separate documents with blank lines"
        )
    rng.shuffle(documents)
    converted = []
    for _ in range(dupe_factor):
        for index in range(len(documents)):
            instances = create_instances_from_document(documents, index, rng=rng, **settings)
            converted += map(convert, instances) if convert else instances
    rng.shuffle(converted)
    return converted


def create_instances_from_document(
    all_documents: list[list[list[str]]],
    document_index: int,
    max_seq_length: int,
    short_seq_prob: float,
    masked_lm_prob: float,
    max_predictions_per_seq: int,
    vocab_words: list[str],
    rng: random.Random,
    do_whole_word_mask: bool = False,
) -> list[TrainingInstance]:
    """The instances of one pass over a document, which is a list of sentences, lists of tokens.

    Sentences are collected until they fill a sequence or, with probability `short_seq_prob`, a
    shorter sequence of random length. A is the first one or more of them; B is the rest or, half of
    the time, text of another document.
    """
    document = all_documents[document_index]
    max_num_tokens = max_seq_length - 3  # [CLS], [SEP], [SEP]
    target_seq_length = max_num_tokens
    if rng.random() < short_seq_prob:
        target_seq_length = rng.randint(2, max_num_tokens)

    instances = []
    start = 0
    while start < len(document):
        # Collect sentences [start, end) up to the target length.
        end = start
        length = 0
        while end < len(document) and length < target_seq_length:
            length += len(document[end])
            end += 1

        # A is [start, a_end); B is [a_end, end), or random.
        a_end = rng.randint(start + 1, end - 1) if end - start > 1 else end
        is_random_next = end - start == 1 or rng.random() < 0.5
        tokens_a = list(chain.from_iterable(document[start:a_end]))
        if is_random_next:
            length_b = target_seq_length - len(tokens_a)
            tokens_b = _random_next(all_documents, document_index, length_b, rng)
            start = a_end  # The sentences that were not used begin the next instance.
        else:
            tokens_b = list(chain.from_iterable(document[a_end:end]))
            start = end

        truncate_seq_pair(tokens_a, tokens_b, max_num_tokens, rng)
        segment_ids = [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1)
        tokens, positions, labels = create_masked_lm_predictions(
            ["[CLS]", *tokens_a, "[SEP]", *tokens_b, "[SEP]"],
            masked_lm_prob,
            max_predictions_per_seq,
            vocab_words,
            rng,
            do_whole_word_mask,
        )
        instances.append(TrainingInstance(tokens, segment_ids, positions, labels, is_random_next))
    return instances


def _random_next(all_documents, document_index, length, rng):
    """Tokens of sentences from a random place in another document, `length` or more if it has them.

    At least one sentence is taken.
    """
    # As Google: after ten draws of the document itself, it is taken.
    for _ in range(10):
        other = rng.randint(0, len(all_documents) - 1)
        if other != document_index:
            break
    start = rng.randint(0, len(all_documents[other]) - 1)

    tokens = []
    for sentence in all_documents[other][start:]:
        tokens.extend(sentence)
        if len(tokens) >= length:
            break
    return tokens


def create_masked_lm_predictions(
    tokens: list[str],
    masked_lm_prob: float,
    max_predictions_per_seq: int,
    vocab_words: list[str],
    rng: random.Random,
    do_whole_word_mask: bool = False,
) -> tuple[list[str], list[int], list[str]]:
    """Chooses the tokens to predict, a share `masked_lm_prob` of all, and replaces them.

    Of those chosen, 80 % become [MASK], 10 % a random one of `vocab_words`, and 10 % stay. With
    `do_whole_word_mask` all pieces of a word are chosen, or none if they are too many. Returns the
    tokens after replacement, the positions of those chosen, and what was there before.
    """
    # `words` are the first positions of words; `others` maps them to the positions of the word's
    # other pieces, which are chosen together with the first.
    words = []
    others = {}
    for position, token in enumerate(tokens):
        # As Google: pieces whose word was cut off at [SEP] join the word before it.
        if do_whole_word_mask and words and token.startswith("##"):
            others.setdefault(words[-1], []).append(position)
        elif token not in ("[CLS]", "[SEP]"):
            words.append(position)
    _shuffle(words, rng)

    num_to_predict = min(max_predictions_per_seq, max(1, round(len(tokens) * masked_lm_prob)))
    output_tokens = list(tokens)
    positions = []
    for first in words:
        if len(positions) == num_to_predict:
            break
        word = [first, *others.get(first, ())]
        if len(positions) + len(word) > num_to_predict:
            continue
        positions += word
        for position in word:
            if rng.random() < 0.8:
                output_tokens[position] = "[MASK]"
            elif rng.random() >= 0.5:
                output_tokens[position] = vocab_words[rng.randint(0, len(vocab_words) - 1)]
    positions.sort()
    return output_tokens, positions, [tokens[position] for position in positions]


def _shuffle(items, rng):
    """rng.shuffle(items) of CPython, draw by draw, so that the order is the same for a seed.

    Written out because shuffling takes a large part of the time: create_training_instances is 1.25
    times as fast as with rng.shuffle (max_seq_length 128, dupe_factor 10, one core). It saves a
    method call for each item, and the bit length of each bound, which changes only at powers of 2.
    """
    getrandbits = rng.getrandbits
    for bits in range(len(items).bit_length(), 1, -1):
        # All `last` for which last + 1 has this number of bits.
        highest = min(len(items), 2**bits - 1) - 1
        lowest = 2 ** (bits - 1) - 1
        for last in range(highest, lowest - 1, -1):
            other = getrandbits(bits)
            while other > last:
                other = getrandbits(bits)
            items[last], items[other] = items[other], items[last]


def truncate_seq_pair(
    tokens_a: list[str], tokens_b: list[str], max_num_tokens: int, rng: random.Random
) -> None:
    """Shortens two lists in place until both together have at most `max_num_tokens`.

    One token at a time is removed, from a random end of the longer list, or of B if both are
    equally long.
    """
    while len(tokens_a) + len(tokens_b) > max_num_tokens:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        longer.pop(0 if rng.random() < 0.5 else -1)


def read_stripped_lines(input_files: Iterable[str]) -> Iterator[str]:
    """Yields the lines of all files without white space at their ends. Raises OSError."""
    for path in input_files:
        # Bytes that are not UTF-8 become U+FFFD, which the tokenizer drops: Google drops the bytes.
        with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as reader:
            for line in reader:
                yield line.strip()


def read_documents(
    lines: Iterable[str], tokenizer: FullTokenizer, counts: Counter
) -> list[list[list[str]]]:
    """The documents, which are lists of sentences, which are lists of tokens; none is empty.

    Adds the numbers of lines, blank ones, documents, sentences, tokens, [UNK], words that are too
    long, and lines without tokens and with bytes that are not UTF-8 to `counts`. Each marker that
    was split is a key "split …".
    """
    documents = [[]]
    for line in lines:
        counts["lines"] += 1
        counts["blank"] += not line
        if not line:  # As Google: only a blank line ends a document, the end of a file does not.
            documents.append([])
        tokens = tokenizer.tokenize(line)
        if tokens:
            documents[-1].append(tokens)
        counts["without tokens"] += bool(line) and not tokens
        counts["undecodable"] += "\ufffd" in line
    documents = [document for document in documents if document]

    sentences = list(chain.from_iterable(documents))
    counts["documents"] += len(documents)
    counts["sentences"] += len(sentences)
    counts["tokens"] += sum(len(sentence) for sentence in sentences)
    counts["unknown"] += sum(sentence.count("[UNK]") for sentence in sentences)
    counts["long words"] += tokenizer.take_num_long_words()
    counts.update(f"split {marker}" for marker in tokenizer.split_markers)
    return documents


def read_shards(lines: Iterable[str], shard_size: int, counts: Counter) -> Iterator[list[str]]:
    """Yields lists of lines that take `shard_size` bytes or more and end with a document.

    What remains at the end joins the last shard if it is less than half a shard. A document longer
    than a quarter of a shard is cut, which is counted in `counts`.
    """
    earlier = []  # The shard before, which is held back because the remaining lines may join it.
    shard = []
    size = 0
    document_size = 0
    for line in lines:
        shard.append(line)
        size += len(line.encode())
        document_size = document_size + len(line.encode()) if line else 0
        if document_size > shard_size / 4:
            shard.append("")
            document_size = 0
            counts["cuts"] += 1
        if size >= shard_size and not shard[-1]:
            if earlier:
                yield earlier
            earlier = shard
            shard = []
            size = 0

    if earlier and size >= shard_size / 2:
        yield earlier
        earlier = []
    yield earlier + shard


def write_shard(args, lines: Iterable[str], rng: random.Random, output_files: list[str]) -> Counter:
    """Writes the instances of `lines` to the files by turns, as Google does; returns the counts."""
    counts = Counter()
    tokenizer = load_tokenizer(*args.tokenizer)
    documents = read_documents(lines, tokenizer, counts)
    vocab_words = list(tokenizer.vocab)
    settings = {
        "max_seq_length": args.max_seq_length,
        "short_seq_prob": args.short_seq_prob,
        "masked_lm_prob": args.masked_lm_prob,
        "max_predictions_per_seq": args.max_predictions_per_seq,
        "vocab_words": vocab_words,
        "do_whole_word_mask": args.do_whole_word_mask,
    }

    room = args.max_seq_length - 3  # [CLS], [SEP], [SEP]
    lengths = [len(sentence) for document in documents for sentence in document]
    counts["cut"] = sum(length > room for length in lengths)
    counts["longest"] = max(lengths, default=0)
    if args.do_whole_word_mask:
        tokens = chain.from_iterable(chain.from_iterable(documents))
        counts["inner pieces"] = sum(token.startswith("##") for token in tokens)

    def encode(instance):  # At once, because the lists of an instance take six times the memory.
        counts["random next"] += instance.is_random_next
        return encode_instance(
            tokenizer.convert_tokens_to_ids(instance.tokens),
            instance.segment_ids,
            instance.masked_lm_positions,
            tokenizer.convert_tokens_to_ids(instance.masked_lm_labels),
            instance.is_random_next,
        )

    encoded = _instances_of_documents(documents, args.dupe_factor, rng, settings, encode)
    sizes = args.max_seq_length, args.max_predictions_per_seq, len(vocab_words)
    write = write_tfrecord if args.output_format == "tfrecord" else write_instances
    for index, path in enumerate(output_files):
        write(path, encoded[index :: len(output_files)], *sizes)
    return counts + Counter(instances=len(encoded), files=len(output_files))


# What a worker does with the Ctrl-C that a terminal sends to all processes: it ends at once.
AT_CTRL_C = signal.SIGINT, signal.SIG_DFL


def write_shards(args, input_files: list[str], counts: Counter) -> Iterator[Counter]:
    """--stream: writes a file for each shard and yields its counts.

    The files depend on the text and the seed, not on --workers. Cuts in long documents are counted
    in `counts`.
    """
    lines = chain.from_iterable(chain(read_stripped_lines([path]), [""]) for path in input_files)
    running = deque()
    with ProcessPoolExecutor(args.workers, None, signal.signal, AT_CTRL_C) as executor:
        try:
            for index, shard in enumerate(read_shards(lines, args.shard_mb * 2**20, counts)):
                rng = random.Random(f"{args.random_seed} {index}")
                names = [shard_name(args, index)]
                running.append(executor.submit(write_shard, args, shard, rng, names))
                # Hold no more text than the workers will soon need.
                if len(running) > args.workers:
                    yield running.popleft().result()
            for task in running:
                yield task.result()
        except KeyboardInterrupt as error:
            for worker in multiprocessing.active_children():
                worker.terminate()
            flags.uncaught(KeyboardInterrupt, error, None)
            os._exit(130)  # Python 3.11 may wait forever for a queue that lost its readers.


def shard_name(args, index: int) -> str:
    """The file of a shard: with --output_file A.B it is A-00000.B, A-00001.B, …"""
    stem, extension = os.path.splitext(args.output_file)
    return f"{stem}-{index:05}{extension}"


def existing_shards(args) -> list[str]:
    """The files that are named as shards of --output_file, in their order."""
    stem, extension = map(glob.escape, os.path.splitext(args.output_file))
    return sorted(glob.glob(f"{stem}-{'[0-9]' * 5}{extension}"))


def check_text_files(paths: Iterable[str]) -> None:
    """Raises ValueError for a file that is not text."""
    for path in paths:
        with open(path, "rb") as reader:
            head = reader.read(512)
        for at, signature, kind in FILE_SIGNATURES:
            if head.startswith(signature, at):
                raise ValueError(f"{path} is {kind}: pass UTF-8 text")
        if b"\0" in head:
            raise ValueError(f"{path} is a binary file: pass UTF-8 text")
        check_line_ends(path)


def check(args) -> list[str]:
    """Checks the flags and creates the output folders; returns the input files.

    Raises ValueError or OSError for flags that cannot be followed.
    """
    if args.workers > 1 and not args.stream:
        raise ValueError(
            f"--workers {args.workers} needs --stream: without it, one process makes all instances "
            "in Google's order"
        )
    outputs = args.output_file.split(",")
    if args.stream and len(outputs) > 1:
        raise ValueError(
            f"--stream takes one --output_file, not {len(outputs)}: {args.output_file}"
        )
    if args.stream and (found := existing_shards(args)):
        raise ValueError(f"{found[0]} already exists: remove it and the files numbered after it")
    if len(set(map(os.path.realpath, outputs))) < len(outputs):
        raise ValueError(f"--output_file {args.output_file} names a file twice")
    choose_tokenizer(args)

    input_files = find_input_files(args.input_file)
    check_text_files(input_files)
    for path in outputs:
        inputs = [*input_files, args.vocab_file, args.add_tokens]
        flags.check_output_file(path, "output_file", inputs)
    for path in outputs:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return input_files


def choose_tokenizer(args) -> None:
    """Sets `args.tokenizer`, the arguments of a FullTokenizer, which each process makes itself.

    Casing, accents and what stays whole are those of the files beside the vocabulary unless flags
    say it. Raises ValueError where both differ, and for a vocabulary that does not suit them.
    """
    added_tokens = ()
    if os.path.basename(args.vocab_file) in (VOCAB, TOKENIZER):
        files = read_tokenizer_files(os.path.dirname(args.vocab_file) or ".")
        files.refuse_others()
        added_tokens = files.added_tokens
        args.never_split = args.never_split or files.run.get("never_split")
        for name, value in files.casing.items():
            if not flags.is_given(args, name):
                setattr(args, name, value)
            elif getattr(args, name) != value and (name == "do_lower_case" or args.do_lower_case):
                raise ValueError(
                    f"the files beside {args.vocab_file} say {name} {value}, but --{name} is "
                    f"{getattr(args, name)}: leave the flag out"
                )
    strip_accents = args.do_lower_case and args.strip_accents
    markers = args.never_split or ()
    markers = tuple(markers) if isinstance(markers, list) else markers
    args.tokenizer = args.vocab_file, args.do_lower_case, strip_accents, markers, added_tokens

    tokenizer = load_tokenizer(*args.tokenizer)
    if "[MASK]" not in tokenizer.vocab:
        raise ValueError(f"{args.vocab_file} has no [MASK]: pass the vocab.txt of a BERT model")
    check_casing(args.vocab_file, tokenizer.vocab, args.do_lower_case, strip_accents)
    if args.add_tokens:
        new = read_new_tokens(args.add_tokens, tokenizer)
        print(new.summary)
        args.tokenizer = (*args.tokenizer[:-1], (*added_tokens, *new.tokens))


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Make pre-training instances from text."
    return flags.Parser("create_pretraining_data", description, EXAMPLE).parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    started = time.monotonic()
    args = parse_args(argv)
    input_files = check(args)
    counts = Counter()
    longest = 0
    if args.stream:
        try:
            for shard_counts in write_shards(args, input_files, counts):
                longest = max(longest, shard_counts.pop("longest", 0))
                counts += shard_counts
        except BrokenExecutor:
            raise OSError(
                "a worker process was killed, probably for lack of memory: lower --workers or "
                "--shard_mb"
            ) from None
    else:
        megabytes = sum(os.path.getsize(path) for path in input_files) / 1e6
        # Measured; 40 MB are Python's own.
        needed = 40 + megabytes * (4 + 2 * args.dupe_factor)
        print(f"{megabytes:,.1f} MB of text will take about {needed:,.0f} MB of memory", flush=True)
        rng = random.Random(args.random_seed)
        lines = read_stripped_lines(input_files)
        counts += write_shard(args, lines, rng, args.output_file.split(","))
        longest = counts["longest"]
    print_counts(args, counts, longest, time.monotonic() - started)


def print_counts(args, counts: Counter, longest: int, seconds: float) -> None:
    """Prints what became of the lines, what was made of them, and warnings."""
    skipped = counts["blank"] + counts["without tokens"]
    print(
        f"{counts['documents']:,} documents ({counts['cuts']:,} cuts in long ones), "
        f"{counts['sentences']:,} sentences ({counts['undecodable']:,} with bytes that are not "
        f"UTF-8), {counts['tokens']:,} tokens ({counts['unknown'] / counts['tokens']:.2%} [UNK]), "
        f"{counts['instances']:,} instances in {counts['files']:,} file(s), {seconds:.1f} s; "
        f"lines read {counts['lines']:,}, used {counts['lines'] - skipped:,}, skipped {skipped:,} "
        f"({counts['blank']:,} blank, {counts['without tokens']:,} without tokens), longer than an "
        f"instance and cut {counts['cut']:,} (the longest has {longest:,} WordPieces), words over "
        f"200 characters that became one [UNK]: {counts['long words']:,}"
    )
    for warning in warnings_of(args, counts):
        print(f"warning: {warning}")
    markers = {key.removeprefix("split ") for key in counts if key.startswith("split ")}
    if markers:
        print(marker_warning(markers))


def warnings_of(args, counts: Counter) -> Iterator[str]:
    """Yields what a model could not learn from the instances."""
    random_next = counts["random next"] / counts["instances"]
    if not RARE_LABEL <= random_next <= 1 - RARE_LABEL:
        yield (
            f"{random_next:.0%} of the instances have a random next sentence, so there is little "
            f"to learn from that label; a document of one line has no next sentence: write one "
            f"sentence per line"
        )
    if args.do_whole_word_mask and not counts["inner pieces"]:
        yield ("--do_whole_word_mask changes nothing: every word of the text is a single WordPiece")
    unknown = counts["unknown"] / counts["tokens"]
    if unknown > 0.05:
        yield f"{unknown:.0%} of the tokens are [UNK]: is this the vocabulary?"


if __name__ == "__main__":
    flags.run(main)
