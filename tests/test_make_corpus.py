"""samples/make_corpus.py: what it recognises as prose, and the files that it writes."""

import subprocess
import sys

import pytest
from helpers import ROOT

MODULE = '''"""A short module.  It has two sentences, e.g. this one, and does little.

Here is a paragraph of more lines
that uses ``code`` and :class:`~names.Name` and a [link](http://example.org/a.html).

    >>> not_prose(of_any, kind)
    And this line is what the example printed.

Args:
    size (int): The number of items that are kept in the box.
    other: Too short.

For example::

    This block looks like prose but it is indented code.

| Name of the thing | Another column of the table. |
+-----+ Not a sentence of any kind here either.
"""
# This comment has a single line and is not taken.
value = "This string is in one line and stays out."


def function():
    \'\'\'Return the box that was made last.\'\'\'
    # A longer comment says why something is done
    # in the way in which it is done here.


def copied():
    """Return the box that was made last."""
'''
WANTED = [
    "It has two sentences, e.g. this one, and does little.",
    "Here is a paragraph of more lines that uses code and names.Name and a link.",
    "The number of items that are kept in the box.",
    "Return the box that was made last.",
    "A longer comment says why something is done in the way in which it is done here.",
]
README = "# Title\n\n* The first of the points is made.\n* The second of the points is made.\n"


def run(folder, *arguments):
    command = [sys.executable, ROOT / "samples" / "make_corpus.py", folder / "corpus.txt"]
    command += ["--source", folder / "source", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    (source / "deeper").mkdir(parents=True)
    (source / "b.py").write_text(MODULE, encoding="utf-8")
    (source / "deeper" / "c.md").write_text(README, encoding="utf-8")
    (source / "LICENSE.txt").write_text("These are the terms of it. They are long and dull.\n")
    (source / "gone.txt").symlink_to(source / "nowhere")
    return tmp_path


def test_prose_is_kept(folder):
    result = run(folder)
    assert (result.returncode, result.stderr) == (0, "")
    first, second = (folder / "corpus.txt").read_text("utf-8").strip().split("\n\n")
    assert first.split("\n") == WANTED
    assert second.split("\n") == [line[2:] for line in README.split("\n")[2:4]]
    assert "2 documents, 7 sentences, " in result.stdout


def test_held_out_and_vocabulary(folder):
    pytest.importorskip("tokenizers")
    held_out, vocab = folder / "held_out.txt", folder / "vocab.txt"
    flags = ["--held_out", held_out, "--held_out_every", 2, "--vocab", vocab, "--vocab_size", 60]
    result = run(folder, *flags)
    assert (result.returncode, result.stderr) == (0, "")
    assert (folder / "corpus.txt").read_text("utf-8").split("\n") == [*WANTED, "", ""]
    assert held_out.read_text("utf-8").startswith("The first of the points")
    pieces = vocab.read_text("utf-8").split("\n")
    assert pieces[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(pieces) == 61 and not pieces[-1] and len(set(pieces)) == 61
    assert "##o" in pieces and "A" not in pieces


def test_a_missing_folder(folder):
    result = run(folder, folder / "nowhere")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "nowhere is not a folder" in result.stderr
    assert not (folder / "corpus.txt").exists()
