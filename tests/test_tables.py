"""tables.py: .tsv, .csv and .jsonl files as pandas, spreadsheets and people write them."""

import csv
import io
import json
import math
import os
from threading import Thread

import pytest

from tables import (
    cell_text,
    find_table,
    is_quoted,
    named_columns,
    other_separator,
    parse_columns,
    read_csv,
    read_jsonl,
    read_tsv,
)


def rows(reader, tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    return list(reader(str(path)))


def test_csv_of_a_spreadsheet(tmp_path):
    """A byte-order mark, CRLF, line breaks in a cell, commas and doubled quotation marks.

    A row has the number of the line where it begins.
    """
    content = (
        b"\xef\xbb\xbftext,label\r\n"
        b'"one, two",a\r\n'
        b'"three\nlines\nhere",b\r\n'
        b'"She said ""no"".",a\r\n'
        b"\r\n"
        b"caf\xc3\xa9,\r\n"
    )
    assert rows(read_csv, tmp_path, content) == [
        (1, ["text", "label"]),
        (2, ["one, two", "a"]),
        (3, ["three\nlines\nhere", "b"]),
        (6, ['She said "no".', "a"]),
        (8, ["café", ""]),
    ]


def test_csv_is_what_pythons_writer_writes(tmp_path):
    texts = ['a "quoted" one', "a, b", "line\nbreak", "both\r\nends", "", " blanks ", "'", "\u2028"]
    table = [[text, str(number)] for number, text in enumerate(texts)]
    file = io.StringIO(newline="")
    csv.writer(file).writerows(table)
    found = rows(read_csv, tmp_path, file.getvalue().encode())
    assert [cells for _, cells in found] == table


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'a,b\nc,d\n"never closed\ne,f\n',
            r"file:3 is not CSV: a cell begins with a quotation mark that is not closed",
        ),
        (b'a,b\n"c" d,e\n', r"""file:2 is not CSV: ',' expected after '"'"""),
        (b'a,"x\ny"\rb,c\n', r"file:1 is not CSV: a carriage return alone ends a row, as on a cl"),
        (b"a,b\rc,d\r", r"file: its lines end with a carriage return alone, as on a classic Mac"),
        (b"a,b\nc\0,d\n", r"file:2 (has a NUL byte: is this a text file\?|is not CSV: line con)"),
        ("a,b\ncafé,d\n".encode("latin-1"), r"file:2 is not UTF-8 .*: save the file as UTF-8"),
        ("a,b\n".encode("utf-16"), r"file is UTF-16 text, as Excel's Unicode Text is: save it as"),
    ],
)
def test_what_is_not_csv(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        rows(read_csv, tmp_path, content)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("named", [False, True])
def test_what_separates_cells(separator, named, tmp_path):
    """Spreadsheets write semicolons where the comma is the decimal sign; Excel may name them."""
    table = [["text", "score"], ["a, b; c\td", "1,5"], ['"no"', "2"], ["line\nbreak", "0,5"]]
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=separator).writerows(table)
    head = f"\ufeffsep={separator}\r\n" if named else ""
    found = rows(read_csv, tmp_path, (head + file.getvalue()).encode())
    assert [cells for _, cells in found] == table
    assert [number for number, _ in found] == [n + named for n in (1, 2, 3, 4)]


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for content, cells in (("a;b\nc;d\n", ["c;d"]), ("sep=;\nc;d\n", ["c", "d"])):
        writer = Thread(target=(tmp_path / "pipe").write_text, args=[content])
        writer.start()
        assert list(read_csv(str(tmp_path / "pipe")))[-1] == (2, cells)
        writer.join()


def test_commas_separate_cells_unless_all_rows_show_another(tmp_path):
    assert rows(read_csv, tmp_path, b"He came, saw;1\nShe left;0\n") == [
        (1, ["He came, saw", "1"]), (2, ["She left", "0"])
    ]  # fmt: skip
    assert rows(read_csv, tmp_path, b"a;b,1\nc,0\n") == [(1, ["a;b", "1"]), (2, ["c", "0"])]
    assert rows(read_csv, tmp_path, b"text\nHe came; he saw\n")[1] == (2, ["He came; he saw"])


def test_quotes_of_a_csv_in_a_tsv():
    """What pandas writes into a .tsv, and texts with quotes that are their own."""
    for row in (
        ['"a ""b"" c"', "x"], ['"a', 'b"', "x"], ['"first line'], ['"a"', '"x"'], ['"""b"""', "x"],
    ):  # fmt: skip
        assert is_quoted(row, 2), row
    for row in (
        ['"Yes," she said.', "x"], ['"Never"', "x"], ['5" pipe', "x"], ['say "a" "b"', "x"],
        ["a", "b", "x"], ["short"], [""], ['"Yes" or "no"'],
    ):  # fmt: skip
        assert not is_quoted(row, 2), row


def test_tsv(tmp_path):
    """Quotation marks are ordinary characters, and a blank line is a row."""
    content = b'\xef\xbb\xbfa "b\tc\r\n\r\n"d\te"'
    assert rows(read_tsv, tmp_path, content) == [(1, ['a "b', "c"]), (2, [""]), (3, ['"d', 'e"'])]
    with pytest.raises(ValueError, match=r"file:2 has a NUL byte: is this a text file\?"):
        rows(read_tsv, tmp_path, b"a\nb\0\n")


def test_jsonl(tmp_path):
    content = (
        b'\xef\xbb\xbf{"text": "caf\\u00e9 \\ud83d\\ude00", "label": 1}\r\n\n"alone"\n{"b": null}'
        b'\n{"c": NaN, "d": [-Infinity]}'
    )
    assert rows(read_jsonl, tmp_path, content) == [
        (1, {"text": "café 😀", "label": 1}), (3, {"text": "alone"}), (4, {"b": None}),
        (5, {"c": None, "d": [-math.inf]}),
    ]  # fmt: skip
    for wrong, message in (
        (b'{"a": 1}\n{"a": 2\n{"a": 3}\n', r"file:2 is not JSON \(Expecting ',' delimiter"),
        (json.dumps([{"text": "a"}]).encode(), "file:1 is not a JSON object, of which a .jsonl ha"),
        (b'{\n"text": "a"\n}\n', r"file:1 is not JSON .*: a .jsonl has an object per line"),
        (b"[" * 100_000, r"file:1 is not JSON \("),
    ):
        with pytest.raises(ValueError, match=message):
            rows(read_jsonl, tmp_path, wrong)


def test_the_only_file_of_a_set(tmp_path):
    assert find_table(str(tmp_path), "train") is None
    (tmp_path / "train.csv").touch()
    assert find_table(str(tmp_path), "train") == "train.csv"
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(ValueError, match=r"has both train.csv and train.jsonl: leave one of them"):
        find_table(str(tmp_path), "train")


def test_columns():
    assert parse_columns("0, text") == ["0", "text"]
    for text in ("", "a,b,c", "a,", ","):
        with pytest.raises(ValueError, match="give one column, or two for a pair"):
            parse_columns(text)

    names = ["", "0", "text", "label", "x", "x"]
    assert named_columns(["label", 2, 0, "1", 3], names, "f:1") == [3, 2, 1, 1, 3]
    with pytest.raises(ValueError, match=r"f:1 names two columns 'x': rename one"):
        named_columns(["x"], names, "f:1")
    with pytest.raises(ValueError, match=r"f:1: there is no column 6 \(--label_column\); there ar"):
        named_columns([6], names, "f:1", "label_column")
    with pytest.raises(ValueError, match=r"there are text;label: semicolons seem to separate them"):
        named_columns(["text"], ["text;label"], "f:1")
    assert other_separator(["a;b", "c"]) == other_separator(["a"]) == other_separator([]) == ""
    assert other_separator(["a\tb"]).startswith(": tabs")


def test_values_of_json_as_cells():
    values = [None, True, False, 3, -0.5, 1.0, "x ", 1e16]
    wanted = ["", "true", "false", "3", "-0.5", "1", "x ", "10000000000000000"]
    assert list(map(cell_text, values)) == wanted
    assert cell_text([1]) is cell_text({}) is None
