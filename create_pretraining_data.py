"""Text to pre-training instances: masked words, and a next sentence to judge.

The input is plain text, one sentence a line, a blank line between documents; the output an instance
file (see data.py). Flags, algorithm and, for the same seed, instances are those of google-research/
bert's create_pretraining_data.py (f39e881, and --do_whole_word_mask of eedf571), which needs the
whole corpus in memory. --stream makes a file of each few megabytes of text as if they were all:
random next sentences and the shuffle stay within them, and the end of a file ends a document.
"""

import os
import random
import time
from collections import Counter, deque
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import flags
from files import find_input_files
from instances import encode_instance, write_instances
from tokenization import FILE_SIGNATURES, FullTokenizer

EXAMPLE = """\
  python create_pretraining_data.py --input_file 'text/*.txt' --vocab_file vocab.txt \\
    --output_file text.instances"""
LIMITS = {
    "max_seq_length": (5, 2**16 - 1), "max_predictions_per_seq": (1, 2**16 - 1),
    "dupe_factor": (1, 10**6), "masked_lm_prob": (0, 1), "short_seq_prob": (0, 1),
    "shard_mb": (0.001, 10**6), "workers": (1, 1024),
}  # fmt: skip
load_tokenizer = lru_cache(FullTokenizer)  # once in each process


@dataclass
class TrainingInstance:
    """[CLS] A [SEP] B [SEP], masked; `masked_lm_labels` stood at the (ascending) positions."""

    tokens: list
    segment_ids: list
    masked_lm_positions: list
    masked_lm_labels: list
    is_random_next: bool


def create_training_instances(
    input_files, tokenizer, max_seq_length, dupe_factor, short_seq_prob, masked_lm_prob,
    max_predictions_per_seq, rng, do_whole_word_mask=False
):  # fmt: skip
    """The list of all `TrainingInstance`s. Raises OSError, or ValueError for a single document."""
    documents = read_documents(read_lines(input_files), tokenizer, Counter())
    settings = max_seq_length, short_seq_prob, masked_lm_prob, max_predictions_per_seq
    settings += list(tokenizer.vocab), rng, do_whole_word_mask
    return _instances_of_documents(documents, dupe_factor, rng, settings)


def _instances_of_documents(documents, dupe_factor, rng, settings, keep=lambda instance: instance):
    """The list of `keep(instance)`, shuffled, of `dupe_factor` passes over shuffled documents."""
    if len(documents) < 2:
        raise ValueError(
            f"documents in the text: {len(documents)}; a random next sentence comes from another "
            "document, so put blank lines between two or more"
        )
    rng.shuffle(documents)
    kept = []
    for _ in range(dupe_factor):
        for index in range(len(documents)):
            kept += map(keep, create_instances_from_document(documents, index, *settings))
    rng.shuffle(kept)
    return kept


def create_instances_from_document(
    all_documents, document_index, max_seq_length, short_seq_prob, masked_lm_prob,
    max_predictions_per_seq, vocab_words, rng, do_whole_word_mask=False
):  # fmt: skip
    """The list of `TrainingInstance`s of one pass over a document (sentences, lists of tokens).

    Sentences are taken until they fill a sequence, or, with `short_seq_prob`, one of random length;
    A is some first ones of them, B the rest, or, half the time, text of another document.
    """
    document = all_documents[document_index]
    max_num_tokens = target_seq_length = max_seq_length - 3  # [CLS], [SEP], [SEP]
    if rng.random() < short_seq_prob:
        target_seq_length = rng.randint(2, max_num_tokens)
    instances, start = [], 0
    while start < len(document):
        end, length = start, 0
        while end < len(document) and length < target_seq_length:
            length += len(document[end])
            end += 1
        a_end = rng.randint(start + 1, end - 1) if end - start > 1 else end
        is_random_next = end - start == 1 or rng.random() < 0.5
        tokens_a, tokens_b = list(chain.from_iterable(document[start:a_end])), []
        if not is_random_next:
            tokens_b.extend(chain.from_iterable(document[a_end:end]))
            start = end
        else:
            start = a_end  # What is not in this instance will be in the next.
            for _ in range(10):  # As Google: after ten draws of the document itself, it is taken.
                other = rng.randint(0, len(all_documents) - 1)
                if other != document_index:
                    break
            other_start = rng.randint(0, len(all_documents[other]) - 1)
            for sentence in all_documents[other][other_start:]:
                tokens_b.extend(sentence)
                if len(tokens_a) + len(tokens_b) >= target_seq_length:
                    break
        truncate_seq_pair(tokens_a, tokens_b, max_num_tokens, rng)
        segment_ids = [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1)
        tokens, positions, labels = create_masked_lm_predictions(
            ["[CLS]", *tokens_a, "[SEP]", *tokens_b, "[SEP]"],
            masked_lm_prob, max_predictions_per_seq, vocab_words, rng, do_whole_word_mask,
        )  # fmt: skip
        instances.append(TrainingInstance(tokens, segment_ids, positions, labels, is_random_next))
    return instances


def create_masked_lm_predictions(
    tokens, masked_lm_prob, max_predictions_per_seq, vocab_words, rng, do_whole_word_mask=False
):
    """Chooses tokens to predict: the tokens with those replaced, their positions, what was there.

    Of all, `masked_lm_prob`; of those, 80 % become [MASK], 10 % one of `vocab_words`, 10 % stay.
    With `do_whole_word_mask` the pieces of a word go together, or, where too many, not at all.
    """
    words, others = [], {}  # first positions of words; the others, which are chosen with a first
    for position, token in enumerate(tokens):
        # As Google: pieces whose word was cut at [SEP] join the word before it.
        if do_whole_word_mask and words and token.startswith("##"):
            others.setdefault(words[-1], []).append(position)
        elif token not in ("[CLS]", "[SEP]"):
            words.append(position)
    # As rng.shuffle(words), draw by draw, in half the time; `bits` are those of last + 1.
    getrandbits = rng.getrandbits
    for bits in range(len(words).bit_length(), 1, -1):
        for last in range(min(len(words), 2**bits - 1) - 1, 2 ** (bits - 1) - 2, -1):
            while (other := getrandbits(bits)) > last:
                pass
            words[last], words[other] = words[other], words[last]
    num_to_predict = min(max_predictions_per_seq, max(1, round(len(tokens) * masked_lm_prob)))
    output_tokens, positions = list(tokens), []
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


def truncate_seq_pair(tokens_a, tokens_b, max_num_tokens, rng):
    """Shortens the longer list (B where equal) at random ends, in place, to so many in all."""
    while len(tokens_a) + len(tokens_b) > max_num_tokens:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        longer.pop(0 if rng.random() < 0.5 else -1)


def read_lines(input_files):
    """Yields the files' lines, stripped."""
    for path in input_files:
        # Bytes that are not UTF-8 become U+FFFD, which the tokenizer drops, as Google drops both.
        with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as reader:
            for line in reader:
                yield line.strip()


def read_documents(lines, tokenizer, counts):
    """The documents, lists of sentences, lists of tokens, none of them empty; adds to `counts`."""
    documents = [[]]
    for line in lines:
        if not line:  # As Google: only this ends a document, not the end of a file.
            documents.append([])
        tokens = tokenizer.tokenize(line)
        if tokens:
            documents[-1].append(tokens)
        counts["undecodable"] += "\ufffd" in line
    documents = [document for document in documents if document]
    sentences = list(chain.from_iterable(documents))
    unknown = sum(sentence.count("[UNK]") for sentence in sentences)
    counts.update(documents=len(documents), sentences=len(sentences), unknown=unknown)
    counts["tokens"] += sum(map(len, sentences))
    return documents


def read_shards(lines, shard_size, counts):
    """Yields lists of lines of `shard_size` bytes or more that end with a document.

    A rest of less than half a shard joins the last. A document longer than a quarter of a shard is
    cut, which is counted.
    """
    earlier, shard, size, document_size = [], [], 0, 0
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
            earlier, shard, size = shard, [], 0
    if earlier and size >= shard_size / 2:
        yield earlier
        earlier = []
    yield earlier + shard


def write_shard(args, lines, rng, output_files):
    """Writes the instances of `lines` to the files, in turn as Google does; returns the counts."""
    counts, tokenizer = Counter(), load_tokenizer(*args.tokenizer)
    documents, vocab_words = read_documents(lines, tokenizer, counts), list(tokenizer.vocab)
    settings = args.max_seq_length, args.short_seq_prob, args.masked_lm_prob
    settings += args.max_predictions_per_seq, vocab_words, rng, args.do_whole_word_mask

    def pack(instance):  # The lists of an instance take six times the memory.
        tokens, positions = instance.tokens, instance.masked_lm_positions
        ids, labels = map(tokenizer.convert_tokens_to_ids, (tokens, instance.masked_lm_labels))
        return encode_instance(
            ids, instance.segment_ids, positions, labels, instance.is_random_next
        )

    packed = _instances_of_documents(documents, args.dupe_factor, rng, settings, pack)
    sizes = args.max_seq_length, args.max_predictions_per_seq, len(vocab_words)
    for index, path in enumerate(output_files):
        write_instances(path, packed[index :: len(output_files)], *sizes)
    return counts + Counter(instances=len(packed), files=len(output_files))


def write_shards(args, input_files, counts):
    """--stream: yields the counts of shards, which depend on text and seed, not on --workers."""
    lines = chain.from_iterable(chain(read_lines([path]), [""]) for path in input_files)
    running = deque()
    with ProcessPoolExecutor(args.workers) as executor:
        for index, shard in enumerate(read_shards(lines, args.shard_mb * 2**20, counts)):
            rng = random.Random(f"{args.random_seed} {index}")
            names = [shard_name(args, index)]
            running.append(executor.submit(write_shard, args, shard, rng, names))
            if len(running) > args.workers:  # No more text is read than soon needed.
                yield running.popleft().result()
        yield from (task.result() for task in running)


def shard_name(args, index):
    stem, extension = os.path.splitext(args.output_file)
    return f"{stem}-{index:05}{extension}"


def check_text_files(paths):
    """Raises ValueError for a file that is not text."""
    for path in paths:
        with open(path, "rb") as reader:
            head = reader.read(512)
        kinds = [kind for at, signature, kind in FILE_SIGNATURES if head.startswith(signature, at)]
        if kinds or b"\0" in head:
            raise ValueError(f"{path}: {(*kinds, 'a binary file')[0]}; pass UTF-8 text")


def check(args):
    """Returns the input files. Raises ValueError or OSError for flags that cannot be followed."""
    for name, (least, most) in LIMITS.items():
        if not least <= getattr(args, name) <= most:
            raise ValueError(f"--{name} is {getattr(args, name)}, but must be {least} to {most}")
    outputs = args.output_file.split(",")
    if args.workers > 1 and not args.stream:
        raise ValueError(f"--workers {args.workers} needs --stream; Google's order takes one")
    if args.stream and len(outputs) > 1:
        raise ValueError(f"--stream makes files of one name, not of the {len(outputs)} given")
    if args.stream and os.path.exists(shard_name(args, 0)):
        raise ValueError(f"{shard_name(args, 0)} is there already: remove it and its successors")
    if "[MASK]" not in load_tokenizer(*args.tokenizer).vocab:
        raise ValueError(f"{args.vocab_file}: no [MASK]; pass the vocab.txt of a BERT model")
    input_files = find_input_files(args.input_file)
    check_text_files(input_files)
    for path in outputs:
        if os.path.isdir(path) or os.path.realpath(path) in map(os.path.realpath, input_files):
            raise ValueError(f"--output_file {path}: an input or a folder; pass a file to write")
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return input_files


def parse_args(argv=None):
    parser = flags.Parser("Make pre-training instances of text.", EXAMPLE)
    parser.flags(
        "files",
        input_file=(..., "text files: comma-separated patterns"),
        output_file=(..., "files to write, comma-separated; with --stream A.B makes A-00000.B …"),
        vocab_file=(..., "vocab.txt of the model"),
        stream=(False, "make each --shard_mb of text a corpus and a file of its own: less memory"),
        shard_mb=(8.0, "with --stream, megabytes (2**20 bytes) of text in a shard"),
        workers=(1, "with --stream, processes"),
    )  # fmt: skip
    parser.flags(
        "instances",
        do_lower_case=(True, "lower-case the text; --no_do_lower_case for cased models"),
        strip_accents=(True, "strip accents from text that is lower-cased, as Google"),
        do_whole_word_mask=(False, "mask all pieces of a word, or none"),
        max_seq_length=(128, "most tokens of an instance"),
        max_predictions_per_seq=(20, "most masked tokens of an instance"),
        masked_lm_prob=(0.15, "share of the tokens that are masked"),
        short_seq_prob=(0.1, "share of the documents that make shorter instances"),
        dupe_factor=(10, "passes over the text, each with other masks"),
        random_seed=(12345, "the same makes the same instances"),
    )  # fmt: skip
    args = parser.parse_args(argv)
    strip_accents = args.do_lower_case and args.strip_accents
    args.tokenizer = args.vocab_file, args.do_lower_case, strip_accents
    return args


def main(argv=None):
    started, args, counts = time.monotonic(), parse_args(argv), Counter()
    input_files = check(args)
    if args.stream:
        try:
            for shard_counts in write_shards(args, input_files, counts):
                counts += shard_counts
        except BrokenExecutor:
            message = "a worker was killed, as when memory ends; lower --workers or --shard_mb"
            raise OSError(message) from None
    else:
        size = sum(map(os.path.getsize, input_files)) / 1e6
        needed = 40 + size * (4 + 2 * args.dupe_factor)  # Measured, with Python's own 40 MB.
        print(f"{size:,.1f} MB of text will take about {needed:,.0f} MB of memory", flush=True)
        rng, output_files = random.Random(args.random_seed), args.output_file.split(",")
        counts += write_shard(args, read_lines(input_files), rng, output_files)
    print(
        f"{counts['documents']:,} documents ({counts['cuts']:,} cuts in long ones), "
        f"{counts['sentences']:,} sentences ({counts['undecodable']:,} with bytes not UTF-8), "
        f"{counts['tokens']:,} tokens ({counts['unknown'] / counts['tokens']:.2%} [UNK]), "
        f"{counts['instances']:,} instances in {counts['files']:,} files, "
        f"{time.monotonic() - started:.1f} s"
    )


if __name__ == "__main__":
    flags.run(main)
