"""Text to pre-training instances: masked words and a next sentence to judge.

    python create_pretraining_data.py --input_file 'text/*.txt' --output_file text.instances \\
        --vocab_file vocab.txt

The input is plain text, one sentence a line, a blank line between documents. Flags, algorithm and,
for the same seed, instances are those of google-research/bert's create_pretraining_data.py
(f39e881, with --do_whole_word_mask of eedf571). That one needs the whole corpus in memory;
--stream cuts it into shards, each made as if it were the corpus, in bounded memory and in
--workers processes. The output is a file (with --stream one a shard) of data.py's instances.
"""

import argparse
import collections
import glob
import itertools
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

from data_instances_draft import pack_instance, write_instances
from tokenization import FILE_SIGNATURES, FullTokenizer

SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[MASK]")
# Measured: what a byte of text takes as lists of tokens, and what each pass over it adds.
MEMORY_OF_DOCUMENTS, MEMORY_OF_INSTANCES = 3, 2


@dataclass
class TrainingInstance:
    """A pair of segments with masked words.

    tokens: list of str, [CLS] A [SEP] B [SEP], some replaced; segment_ids: 0 up to the first [SEP],
    then 1; masked_lm_positions: where tokens were chosen, ascending; masked_lm_labels: the tokens
    that stood there; is_random_next: whether B comes from elsewhere.
    """

    tokens: list
    segment_ids: list
    masked_lm_positions: list
    masked_lm_labels: list
    is_random_next: bool

    def __str__(self):
        return "\n".join(f"{name}: {value}" for name, value in vars(self).items())


def create_training_instances(
    input_files,
    tokenizer,
    max_seq_length,
    dupe_factor,
    short_seq_prob,
    masked_lm_prob,
    max_predictions_per_seq,
    rng,
    do_whole_word_mask=False,
):
    """All `TrainingInstance`s of the text in `input_files`, shuffled; `rng` is a `random.Random`.

    Raises OSError, or ValueError where there are not two documents.
    """
    documents = read_documents(read_lines(input_files), tokenizer, collections.Counter())
    instances = list(
        instances_of_documents(
            documents,
            tokenizer,
            rng,
            dupe_factor,
            max_seq_length=max_seq_length,
            short_seq_prob=short_seq_prob,
            masked_lm_prob=masked_lm_prob,
            max_predictions_per_seq=max_predictions_per_seq,
            do_whole_word_mask=do_whole_word_mask,
        )
    )
    rng.shuffle(instances)
    return instances


def instances_of_documents(documents, tokenizer, rng, dupe_factor, **settings):
    """Shuffles `documents` (lists of sentences, which are lists of tokens); yields instances.

    Each document is gone through `dupe_factor` times, with other chunks and masks.
    """
    if len(documents) < 2:
        raise ValueError(
            f"{len(documents)} document: a random next sentence must come from another one; "
            "put blank lines between documents"
        )
    rng.shuffle(documents)
    vocab_words = list(tokenizer.vocab)
    for _ in range(dupe_factor):
        for index in range(len(documents)):
            yield from create_instances_from_document(
                documents, index, vocab_words=vocab_words, rng=rng, **settings
            )


def create_instances_from_document(
    all_documents,
    document_index,
    max_seq_length,
    short_seq_prob,
    masked_lm_prob,
    max_predictions_per_seq,
    vocab_words,
    rng,
    do_whole_word_mask=False,
):
    """The list of `TrainingInstance`s of one pass over a document of `all_documents`.

    Sentences are gathered until they fill a sequence (with `short_seq_prob` one of random length,
    as fine-tuning will see). Some of them, at least one, are A; B are the rest, or, half the time,
    sentences of another document, and then the rest are gathered again.
    """
    document = all_documents[document_index]
    max_num_tokens = max_seq_length - len(["[CLS]", "[SEP]", "[SEP]"])
    target_seq_length = max_num_tokens
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
        if is_random_next:
            tokens_a = _joined(document[start:a_end])
            wanted = target_seq_length - len(tokens_a)
            tokens_b = _random_next(all_documents, document_index, wanted, rng)
            start = a_end
        else:
            tokens_a, tokens_b = _joined(document[start:a_end]), _joined(document[a_end:end])
            start = end
        truncate_seq_pair(tokens_a, tokens_b, max_num_tokens, rng)

        tokens = ["[CLS]", *tokens_a, "[SEP]", *tokens_b, "[SEP]"]
        segment_ids = [0] * (len(tokens_a) + 2) + [1] * (len(tokens_b) + 1)
        masked = create_masked_lm_predictions(
            tokens, masked_lm_prob, max_predictions_per_seq, vocab_words, rng, do_whole_word_mask
        )
        tokens, masked_lm_positions, masked_lm_labels = masked
        instances.append(
            TrainingInstance(
                tokens, segment_ids, masked_lm_positions, masked_lm_labels, is_random_next
            )
        )
    return instances


def _joined(sentences):
    return list(itertools.chain.from_iterable(sentences))


def _random_next(all_documents, document_index, target_length, rng):
    """Tokens of another document from a random sentence on: at least one sentence."""
    for _ in range(10):  # As Google: after ten draws of the document itself, it is taken.
        random_document_index = rng.randint(0, len(all_documents) - 1)
        if random_document_index != document_index:
            break
    random_document = all_documents[random_document_index]
    tokens = []
    for sentence in itertools.islice(
        random_document, rng.randint(0, len(random_document) - 1), None
    ):
        tokens.extend(sentence)
        if len(tokens) >= target_length:
            break
    return tokens


def create_masked_lm_predictions(
    tokens, masked_lm_prob, max_predictions_per_seq, vocab_words, rng, do_whole_word_mask=False
):
    """Chooses tokens to predict: (tokens with those replaced, their positions, the tokens there).

    `masked_lm_prob` of all, at most `max_predictions_per_seq`; of ten chosen, eight become [MASK],
    one stays, one becomes a random entry of `vocab_words`. With `do_whole_word_mask`, the pieces of
    a word are chosen together; a word that would be too many is left out.
    """
    words = []  # each the positions of what is chosen together
    for position, token in enumerate(tokens):
        if token in ("[CLS]", "[SEP]"):
            continue
        # As Google: where truncation cut a word's beginning off, its rest joins the word before.
        if do_whole_word_mask and words and token.startswith("##"):
            words[-1].append(position)
        else:
            words.append([position])
    rng.shuffle(words)

    num_to_predict = min(max_predictions_per_seq, max(1, round(len(tokens) * masked_lm_prob)))
    output_tokens, chosen = list(tokens), []
    for word in words:
        if len(chosen) >= num_to_predict:
            break
        if len(chosen) + len(word) > num_to_predict:
            continue
        for position in word:
            if rng.random() < 0.8:
                output_tokens[position] = "[MASK]"
            elif rng.random() >= 0.5:
                output_tokens[position] = vocab_words[rng.randint(0, len(vocab_words) - 1)]
            chosen.append(position)
    chosen.sort()
    return output_tokens, chosen, [tokens[position] for position in chosen]


def truncate_seq_pair(tokens_a, tokens_b, max_num_tokens, rng):
    """Shortens the two lists, in place, to `max_num_tokens` together.

    Of the longer (B where equal) a token at a random end goes, for no bias to beginnings. Not the
    rule of fine-tuning, which cuts at the end.
    """
    while len(tokens_a) + len(tokens_b) > max_num_tokens:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()


def read_lines(input_files):
    for path in input_files:
        with open(path, "rb") as reader:
            for line in reader:
                yield line.decode("utf-8", "ignore").strip()


def read_documents(lines, tokenizer, counts):
    documents = [[]]
    for line in lines:
        if not line:
            documents.append([])
        tokens = tokenizer.tokenize(line)
        if tokens:
            documents[-1].append(tokens)
    return [document for document in documents if document]
