"""Text to ids, and SQuAD features, against the Rust tokenizers library and against plain Python."""

import common

args = common.parse_args(__doc__, rounds=(7, "timed passes of each"))

import json  # noqa: E402
import os  # noqa: E402
import tempfile  # noqa: E402

import tokenizers  # noqa: E402
from transformers import BertTokenizerFast  # noqa: E402

import run_classifier  # noqa: E402
from squad_data import convert_examples_to_features, read_squad_examples  # noqa: E402
from tokenization import BasicTokenizer, FullTokenizer, WordpieceTokenizer  # noqa: E402

VOCAB = common.vocab_file()


def corpus():
    """All sentences of MRPC, all paragraphs and questions of SQuAD's training file."""
    examples = run_classifier.MrpcProcessor().get_train_examples(common.mrpc_dir())
    texts = [text for example in examples for text in (example.text_a, example.text_b)]
    for paragraph in paragraphs():
        texts += [paragraph["context"], *(qa["question"] for qa in paragraph["qas"])]
    return texts


def paragraphs():
    with open(os.path.join(common.squad_dir(), "train-v1.1.json"), encoding="utf-8") as file:
        return [p for article in json.load(file)["data"] for p in article["paragraphs"]]


def text_to_ids(rounds):
    texts = corpus()
    again, rust = FullTokenizer(VOCAB), tokenizers.BertWordPieceTokenizer(VOCAB)
    basic, wordpiece = BasicTokenizer(), WordpieceTokenizer(again.vocab)

    def first(_):
        tokenizer = fresh.pop()
        for text in texts:
            tokenizer.encode(text)

    def slow(_):
        for text in texts[::10]:
            for token in basic.tokenize(text):
                [again.vocab[piece] for piece in wordpiece.tokenize(token)]

    fresh = [FullTokenizer(VOCAB) for _ in range(rounds + 1)]
    seconds = common.interleave(
        {
            "ours, first pass": first,
            "ours, again": lambda _: [again.encode(text) for text in texts],
            "Rust, text by text": lambda _: [
                rust.encode(text, add_special_tokens=False).ids for text in texts
            ],
            "Rust, one batch": lambda _: [
                encoding.ids for encoding in rust.encode_batch(texts, add_special_tokens=False)
            ],
            "plain Python, a tenth": slow,
        },
        rounds,
    )
    seconds["plain Python"] = [10 * time for time in seconds.pop("plain Python, a tenth")]
    words = sum(len(text.split()) for text in texts)
    ratio = common.ratios(seconds, "Rust, text by text")
    rows = [
        [name, f"{words / common.spread(times)['median'] / 1e3:.0f}", common.text(ratio[name])]
        for name, times in seconds.items()
    ]
    common.table(
        f"Text to ids, {len(texts):,} texts, {words:,} words",
        ["", "thousand words/s", "× Rust, text by text"],
        rows,
    )
    return seconds


def transformers_features(tokenizer, questions, contexts, answers):
    """Does what run_qa.py in transformers' examples/pytorch/question-answering does to train."""
    batch = tokenizer(
        questions, contexts, truncation="only_second", max_length=384, stride=128,
        return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length",
    )  # fmt: skip
    starts, ends = [], []
    for window, offsets in enumerate(batch["offset_mapping"]):
        answer = answers[batch["overflow_to_sample_mapping"][window]]
        begin, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
        inside = [i for i, part in enumerate(batch.sequence_ids(window)) if part == 1]
        if offsets[inside[0]][0] > begin or offsets[inside[-1]][1] < end:
            starts.append(0)
            ends.append(0)
            continue
        starts.append(max(i for i in inside if offsets[i][0] <= begin))
        ends.append(min(i for i in inside if offsets[i][1] >= end))
    return batch["input_ids"], starts, ends


def squad_features(rounds):
    path = os.path.join(common.squad_dir(), "train-v1.1.json")
    examples = read_squad_examples(path, True, log=lambda line: None)
    qas = [(p["context"], qa) for p in paragraphs() for qa in p["qas"]]
    contexts, questions = [c for c, _ in qas], [qa["question"] for _, qa in qas]
    answers = [qa["answers"][0] for _, qa in qas]
    ours = FullTokenizer(VOCAB)
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "vocab.txt"), "wb") as copy, open(VOCAB, "rb") as file:
            copy.write(file.read())
        theirs = BertTokenizerFast.from_pretrained(folder)

    def convert(tokenizer):
        return convert_examples_to_features(examples, tokenizer, 384, 128, 64, True)

    seconds = common.interleave(
        {
            "ours": lambda _: convert(ours),
            "ours, new tokenizer": lambda _: convert(FullTokenizer(VOCAB)),
            "transformers": lambda _: transformers_features(theirs, questions, contexts, answers),
        },
        rounds,
    )
    ratio = common.ratios(seconds, "transformers")
    rows = [
        [
            name,
            f"{common.spread(times)['median'] / len(questions) * 1e3:.3f}",
            common.text(ratio[name]),
        ]
        for name, times in seconds.items()
    ]
    header = ["", "seconds per 1,000 questions", "× transformers"]
    common.table(f"SQuAD features, {len(questions):,} questions (384, 128, 64)", header, rows)
    return seconds


def main():
    rounds = 3 if args.quick else args.rounds
    common.finish(args, {"encode": text_to_ids(rounds), "squad": squad_features(rounds)})


if __name__ == "__main__":
    main()
