"""Text for the benchmarks of pre-training: the articles of SQuAD, or a file of your own."""

import json
import os
import random
import re

import common


def documents(path):
    """The documents, lists of sentences, of `path` or else of $SQUAD_DIR/train-v1.1.json.

    `path` has one sentence a line and blank lines between documents.
    """
    if path:
        with open(path, encoding="utf-8") as file:
            return [document.splitlines() for document in file.read().strip().split("\n\n")]
    with open(os.path.join(common.squad_dir(), "train-v1.1.json"), encoding="utf-8") as file:
        articles = json.load(file)["data"]
    texts = (" ".join(p["context"] for p in article["paragraphs"]) for article in articles)
    return [re.split(r"(?<=[.!?])\s+", text.replace("\n", " ")) for text in texts]


def write(path, chosen, size):
    """Writes at least `size` bytes: the documents, repeated in other orders as often as needed."""
    written, order = 0, random.Random(0)
    with open(path, "wb") as file:
        while written < size:
            for document in order.sample(chosen, len(chosen)):
                if written < size:
                    written += file.write("\n".join([*document, "", ""]).encode())
