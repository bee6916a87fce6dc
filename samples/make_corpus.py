"""A corpus of English prose out of what documents Python and its packages on this machine.

    python samples/make_corpus.py corpus.txt --held_out heldout.txt --vocab vocab.txt

Read are, of every folder given, .rst, .md and .txt files, the descriptions of installed packages,
and the docstrings and longer comments of .py files. Every file is a document: what is no prose
(code, tables, directives, signatures) is dropped, as are paragraphs met before; the rest is written
as create_pretraining_data.py wants it, one sentence a line, a blank line between documents.
"""

import argparse
import importlib.util
import inspect
import os
import re
import sysconfig
from collections import Counter
from itertools import chain
from pathlib import Path

KINDS = ".py", ".rst", ".md", ".txt", "METADATA"
NO_PROSE = re.compile("LICEN[CS]E|COPYING|NOTICE", re.IGNORECASE)
# Strings between three quotes, and comments of two lines or more.
IN_PYTHON = re.compile(r"(\"\"\"|''')(.*?)\1|((?:^[ \t]*#[^\n]*\n){2,})", re.DOTALL | re.MULTILINE)
# How lines begin: of code or markup; with a bullet or the parameter that they explain; headings.
CODE = re.compile(r"\s*(>>>|\.\.\.|\.\. |[|+>$%@{}<\\]|:[\w ]+:|```|~~~|import |from \S+ import )")
BULLET = re.compile(r"\s*([-*+•]|\d{1,2}[.)])\s+|\s*[`*]*\w+[`*]*( \([^)]*\))?\s*(:|--?|—)\s+")
SIGNATURE = re.compile(r"\s*[`*\w, .=\[\]]+\s:(\s.*|$)|[^.]*\w\(.*\)\s*(->.*|:)?$|\w+:$")
MARKUP = (
    (re.compile(r"!?\[([^\]]*)\]\([^)]*\)"), r"\1"),  # [text](address)
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_*"), r"\1"),  # `text <address>`_
    (re.compile(r"(:[\w:+-]+:)?`+[~!]?([^`]*)`+_*"), r"\2"),  # :role:`~code`, ``code``
    (re.compile(r"(\*\*?|__)(?=\S)([^*_]+)(?<=\S)\1"), r"\2"),  # **strong**, *emphasis*
    (re.compile(r"\s+"), " "),
)
# Between a full stop, though not that of an abbreviation, initial or ellipsis, and a capital.
NO_END = "".join(rf"(?<!\b{x}\.)" for x in (r"e\.g", r"i\.e", "vs", "cf", "Mr", "Dr", "[A-Z]"))
SENTENCE_END = re.compile(rf"(?<=[.!?])(?<!\.\.){NO_END}[\"')]*\s+(?=[\"'(]*[A-Z])")
WORD = re.compile(r"[(\"']*[A-Za-z]+([-'’][A-Za-z]+)*[.,;:!?)\"']*$")


def texts_of(path):
    """Yields the texts of a file, in their order."""
    text = Path(path).read_text("utf-8", "ignore")
    if not path.endswith(".py"):
        yield text.partition("\n\n")[2] if path.endswith("METADATA") else text
        return
    for _, string, comment in IN_PYTHON.findall(text.replace("\\\n", "\n")):
        yield inspect.cleandoc(string or re.sub(r"(?m)^[ \t]*#[#!:]* ?", "", comment))


def paragraphs_of(text):
    """Yields the paragraphs of prose, each as one line."""
    lines, in_code, code_indent = [], False, float("inf")
    for line in [*text.expandtabs().splitlines(), ""]:
        indent, code, bullet = line.find(line.strip()), CODE.match(line), BULLET.match(line)
        in_code = bool(line.strip() and (in_code or code))  # to the next blank line
        if line.strip() and (indent > code_indent or (in_code and not code)):
            continue
        if line.strip():  # What is indented below code belongs to it.
            code_indent = indent if code or line.rstrip().endswith("::") else float("inf")
        if bullet or code or not re.search(r"\w", line) or (SIGNATURE.match(line) and not lines):
            yield " ".join(lines)
            lines, line = [], line[bullet.end() :] if bullet and not code else ""
        if line.strip():
            lines.append(line.strip())


def sentences_of(paragraph):
    """The sentences of prose in a paragraph, a list of str."""
    for pattern, replacement in MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    sentences = []
    for sentence in SENTENCE_END.split(paragraph.strip()):
        words = sentence.split(" ")
        whole = sentence[:1].isupper() and sentence.rstrip("\"')").endswith((".", "!", "?"))
        if whole and sum(map(bool, map(WORD.match, words))) >= 0.8 * len(words) >= 4:
            sentences.append(sentence)
    return sentences


def documents_of(folders):
    """Yields the documents, lists of sentences, of all files in the order of their names."""
    known = set()
    for place, inner, names in chain.from_iterable(map(os.walk, folders)):
        inner.sort()
        for name in sorted(names):
            path, document = os.path.join(place, name), []
            if not name.endswith(KINDS) or NO_PROSE.match(name) or not os.access(path, os.R_OK):
                continue
            paragraphs = map(paragraphs_of, texts_of(path))
            for sentences in map(sentences_of, chain.from_iterable(paragraphs)):
                key = re.sub("[^a-z]", "", "".join(sentences).lower())
                if hash(key) not in known:
                    document += sentences
                known.add(hash(key))
            if len(document) > 1:
                yield document


def write_corpus(args):
    """Writes the corpus and what is held out, and says how much it is."""
    files = [open(path, "w", encoding="utf-8") for path in (args.corpus, args.held_out) if path]
    counts = [Counter() for _ in files]
    for number, document in enumerate(documents_of(args.source), start=1):
        held_out = len(files) > 1 and number % args.held_out_every == 0
        text = "\n".join([*document, "", ""])
        files[held_out].write(text)
        sizes = {"documents": 1, "sentences": len(document), "words": len(text.split())}
        counts[held_out].update(sizes, bytes=len(text.encode()))
    for file, sizes in zip(files, counts):
        file.close()
        print(f"{file.name}:", ", ".join(f"{size:,} {what}" for what, size in sizes.items()))


def write_vocab(args):
    """Learns WordPieces from the corpus, by the package tokenizers, and writes vocab.txt."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer, special = BertWordPieceTokenizer(), ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train(args.corpus, args.vocab_size, special_tokens=special, show_progress=False)
    pieces = tokenizer.get_vocab()
    Path(args.vocab).write_text("\n".join([*sorted(pieces, key=pieces.get), ""]), "utf-8")
    print(f"{args.vocab}: {len(pieces):,} pieces")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    installed = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")]
    parser.add_argument("corpus", help="text file to write")
    parser.add_argument("--source", nargs="+", default=installed, help="folders (this Python's)")
    parser.add_argument("--held_out", help="text file for documents left out of the corpus")
    parser.add_argument("--held_out_every", type=int, default=40, help="left out is each (40th)")
    parser.add_argument("--vocab", help="vocabulary to learn from the corpus")
    parser.add_argument("--vocab_size", type=int, default=8000, help="pieces in it (8000)")
    args = parser.parse_args()
    try:
        if args.vocab and not importlib.util.find_spec("tokenizers"):
            raise ValueError("--vocab needs the package tokenizers: pip install tokenizers")
        if missing := [folder for folder in args.source if not os.path.isdir(folder)]:
            raise ValueError(f"--source {missing[0]}: no such folder")
        write_corpus(args)
        if args.vocab:
            write_vocab(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
