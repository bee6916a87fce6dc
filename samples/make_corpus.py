"""A corpus of English prose, taken from the documentation of Python and its installed packages.

    python samples/make_corpus.py corpus.txt --held_out heldout.txt --vocab vocab.txt

In every folder given, it reads .rst, .md and .txt files, the descriptions of installed packages,
and the docstrings and longer comments of .py files. Every file becomes a document. Whatever is not
prose (code, tables, directives, signatures) is dropped, and so are repeated paragraphs. The rest is
written as create_pretraining_data.py expects it: one sentence a line, a blank line between
documents.
"""

import argparse
import importlib.util
import inspect
import os
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

KINDS = ".py", ".rst", ".md", ".txt", "METADATA"
NO_PROSE = re.compile("LICEN[CS]E|COPYING|NOTICE", re.IGNORECASE)
# Triple-quoted strings, and comments of two lines or more.
IN_PYTHON = re.compile(r"(\"\"\"|''')(.*?)\1|((?:^[ \t]*#[^\n]*\n){2,})", re.DOTALL | re.MULTILINE)
# The beginnings of lines of code or markup, of list items and explanations of a parameter, and of
# signatures and headings.
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
# After a full stop, unless it belongs to an abbreviation, an initial or an ellipsis, and before a
# capital letter.
NO_END = "".join(rf"(?<!\b{x}\.)" for x in (r"e\.g", r"i\.e", "vs", "cf", "Mr", "Dr", "[A-Z]"))
SENTENCE_END = re.compile(rf"(?<=[.!?])(?<!\.\.){NO_END}[\"')]*\s+(?=[\"'(]*[A-Z])")
WORD = re.compile(r"[(\"']*[A-Za-z]+([-'’][A-Za-z]+)*[.,;:!?)\"']*$")


def texts_of(path: str) -> Iterator[str]:
    """Yields the texts of a file, in order: the whole file, or a module's strings and comments."""
    text = Path(path).read_text("utf-8", "ignore")
    if path.endswith("METADATA"):  # The description follows the header.
        yield text.partition("\n\n")[2]
        return
    if not path.endswith(".py"):
        yield text
        return
    for _, string, comment in IN_PYTHON.findall(text.replace("\\\n", "\n")):
        yield inspect.cleandoc(string or re.sub(r"(?m)^[ \t]*#[#!:]* ?", "", comment))


def paragraphs_of(text: str) -> Iterator[str]:
    """Yields the paragraphs of prose, each as one line."""
    lines = []  # of the paragraph so far
    in_code = False
    code_indent = float("inf")
    for line in [*text.expandtabs().splitlines(), ""]:
        blank = not line.strip()
        indent = line.find(line.strip())
        code = CODE.match(line)
        bullet = BULLET.match(line)

        # Code extends to the next blank line, and over everything that is indented below it.
        in_code = not blank and bool(in_code or code)
        if not blank and (indent > code_indent or (in_code and not code)):
            continue
        if not blank:
            code_indent = indent if code or line.rstrip().endswith("::") else float("inf")

        # These lines end a paragraph; a list item begins the next one.
        if bullet or code or not re.search(r"\w", line) or (SIGNATURE.match(line) and not lines):
            yield " ".join(lines)
            lines = []
            line = line[bullet.end() :] if bullet and not code else ""
        if line.strip():
            lines.append(line.strip())


def sentences_of(paragraph: str) -> list[str]:
    """The sentences of prose in a paragraph: complete, and mostly made of words."""
    for pattern, replacement in MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    sentences = []
    for sentence in SENTENCE_END.split(paragraph.strip()):
        words = sentence.split(" ")
        complete = sentence[:1].isupper() and sentence.rstrip("\"')").endswith((".", "!", "?"))
        plain_words = sum(1 for word in words if WORD.match(word))
        if complete and plain_words >= 0.8 * len(words) >= 4:
            sentences.append(sentence)
    return sentences


def documents_of(folders: Iterable[str]) -> Iterator[list[str]]:
    """Yields the documents, lists of sentences, of all files in the order of their names."""
    known = set()  # hashes of the paragraphs so far, without case and punctuation
    for folder, subfolders, names in chain.from_iterable(map(os.walk, folders)):
        subfolders.sort()  # os.walk visits them in this order.
        for name in sorted(names):
            path = os.path.join(folder, name)
            document = []
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


def write_corpus(args: argparse.Namespace) -> None:
    """Writes the corpus and the held-out documents, and prints their sizes."""
    files = [open(path, "w", encoding="utf-8") for path in (args.corpus, args.held_out) if path]
    counts = [Counter() for _ in files]
    for number, document in enumerate(documents_of(args.source), start=1):
        held_out = args.held_out and number % args.held_out_every == 0
        target = 1 if held_out else 0
        text = "\n".join([*document, "", ""])
        files[target].write(text)
        sizes = {"documents": 1, "sentences": len(document), "words": len(text.split())}
        counts[target].update(sizes, bytes=len(text.encode()))
    for file, sizes in zip(files, counts):
        file.close()
        print(f"{file.name}:", ", ".join(f"{size:,} {what}" for what, size in sizes.items()))


def write_vocab(args: argparse.Namespace) -> None:
    """Learns WordPieces from the corpus with the package `tokenizers`, and writes vocab.txt."""
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train(args.corpus, args.vocab_size, special_tokens=special, show_progress=False)
    pieces = tokenizer.get_vocab()
    Path(args.vocab).write_text("\n".join([*sorted(pieces, key=pieces.get), ""]), "utf-8")
    print(f"{args.vocab}: {len(pieces):,} pieces")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    installed = [sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")]
    parser.add_argument("corpus", help="text file to write")
    parser.add_argument(
        "--source",
        nargs="+",
        default=installed,
        help="folders to read (default: those of this Python)",
    )
    parser.add_argument(
        "--held_out", help="text file for documents that are kept out of the corpus"
    )
    parser.add_argument(
        "--held_out_every", type=int, default=40, help="keep out every Nth document (default: 40)"
    )
    parser.add_argument("--vocab", help="vocabulary file to write, learned from the corpus")
    parser.add_argument(
        "--vocab_size", type=int, default=8000, help="its number of entries (default: 8000)"
    )
    args = parser.parse_args()
    try:
        if args.vocab and not importlib.util.find_spec("tokenizers"):
            raise ValueError("--vocab needs a package that is missing: pip install tokenizers")
        for folder in args.source:
            if not os.path.isdir(folder):
                raise ValueError(f"--source {folder} is not a folder")
        write_corpus(args)
        if args.vocab:
            write_vocab(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
