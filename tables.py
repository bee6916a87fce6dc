"""Tables of examples: .tsv, .csv and .jsonl files as rows that know their line.

Columns are named, or counted from 0. In a .tsv only tabs and line ends have a meaning, as in GLUE's
files. A .csv is what spreadsheets and pandas write: commas between the cells, or all over the file
semicolons or tabs; quoted cells may hold these, quotation marks and line breaks. A .jsonl has an
object per line. PyTorch is not imported.
"""

import contextlib
import csv
import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain

from files import iter_lines

FORMATS = ("tsv", "csv", "jsonl")  # what a file is, by the end of its name
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


def format_of(path: str) -> str:
    """The end of a file's name in lower case, e.g. "csv"."""
    return path.rpartition(".")[2].lower()


def find_table(folder: str, name: str) -> str | None:
    """The name of the folder's `name`.tsv, .csv or .jsonl; None where it has none of them.

    Raises ValueError if it has more than one.
    """
    names = [f"{name}.{ending}" for ending in FORMATS]
    found = [file for file in names if os.path.exists(os.path.join(folder, file))]
    if len(found) > 1:
        raise ValueError(f"{folder} has both {found[0]} and {found[1]}: leave one of them there")
    return found[0] if found else None


def read_tsv(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, cells) for every row; a blank one has the cells [""].

    Raises OSError, or ValueError with file and line if the file is not text.
    """
    for number, line in enumerate(iter_lines(path), start=1):
        if "\0" in line:
            raise ValueError(f"{path}:{number} has a NUL byte: is this a text file?")
        yield number, line.split("\t")


def read_csv(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, cells) for every row; the number is that of the line where it begins.

    A blank line is not a row. Raises OSError, or ValueError with file and line for a quotation mark
    that is not closed, and for anything else that is not CSV.
    """
    csv.field_size_limit(2**24)  # characters of a cell
    lines = iter_lines(path, keep_ends=True)
    first = next(lines, "")
    named = _named_separator(first)
    num_skipped = 1 if named else 0
    lines = lines if named else chain([first], lines)
    reader = csv.reader(lines, delimiter=named or csv_separator(path), strict=True)
    number = 1 + num_skipped
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            reason = str(error)
            if reason.startswith("new-line character"):  # and advice for a Python programmer
                reason = "a carriage return alone ends a row, as on a classic Mac"
            elif reason == "unexpected end of data":
                reason = "a cell begins with a quotation mark that is not closed"
            raise ValueError(f"{path}:{number} is not CSV: {reason}") from None
        if cells is None:
            return
        if any("\0" in cell for cell in cells):
            raise ValueError(f"{path}:{number} has a NUL byte: is this a text file?")
        if cells:
            yield number, cells
        number = reader.line_num + 1 + num_skipped


def csv_separator(path: str) -> str:
    """The character between the cells of a .csv: a comma, unless another one is it in every row.

    Where the comma is the decimal sign, spreadsheets write semicolons. Excel may begin a file with
    the line "sep=;", which then decides. Raises what `iter_lines` does.
    """
    if not os.path.isfile(path):  # stdin or a pipe, which can be read once only
        return ","
    if named := _named_separator(next(iter_lines(path), "")):
        return named

    def rows(separator):
        return filter(None, csv.reader(iter_lines(path, keep_ends=True), delimiter=separator))

    with contextlib.suppress(csv.Error):  # which the reader names
        possible = [separator for separator in ",;\t" if len(next(rows(separator), [])) > 1]
        for separator in possible:
            if possible == [","] or len({len(row) for row in rows(separator)}) == 1:
                return separator
    return ","


def _named_separator(line):
    """The separator that the first line of a .csv names; None if it is a row."""
    named = re.fullmatch(r'"?sep=(.)"?\r?\n?', line, re.IGNORECASE)
    return named and named[1]


def is_quoted(row: Sequence[str], width: int) -> bool:
    """Whether a row of a .tsv of `width` columns has quotes as a .csv: they are not part of texts.

    pandas writes them into a .tsv too: around a cell with quotes, which it doubles, with a tab or
    with a line break, which makes the row too long or too short; or around every cell.
    """
    if len(row) > 1 and all(re.fullmatch(r'".*"', cell) for cell in row):
        return True
    if any(re.fullmatch(r'"([^"]|"")*""([^"]|"")*"', cell) for cell in row):
        return True
    # The cells that may be the first part of one that a tab, or a line break, has parted.
    cut = row if len(row) > width else row[-1:] if len(row) < width else []
    return any(cell.startswith('"') and cell.count('"') % 2 for cell in cut)


READERS = {"tsv": read_tsv, "csv": read_csv}


def _constant(name):
    """NaN is null: so Python and pandas have a cell that is missing, and JSON does not know it."""
    return None if name == "NaN" else float(name)


def read_jsonl(path: str) -> Iterator[tuple[int, dict]]:
    """Yields (line number, object) for every line that is not blank; a text alone is its "text".

    Raises OSError, or ValueError with file and line for anything else.
    """
    for number, line in enumerate(iter_lines(path), start=1):
        where = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            value = json.loads(line, parse_constant=_constant)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{where} is not JSON ({error}): a .jsonl has an object per line"
            ) from None
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, dict):
            raise ValueError(f"{where} is not a JSON object, of which a .jsonl has one per line")
        yield number, value


# --- columns -------------------------------------------------------------------------------------


def parse_columns(text: str) -> list[str]:
    """The one or two columns of --text_columns, which a comma separates. Raises ValueError."""
    columns = [name.strip() for name in text.split(",")]
    if len(columns) > 2 or not all(columns):
        raise ValueError(f"--text_columns {text}: give one column, or two for a pair")
    if len(set(columns)) < len(columns):
        raise ValueError(f"--text_columns {text} gives the same column twice")
    return columns


def named_columns(
    wanted: Sequence[str | int], names: Sequence[str], where: str, flag: str = "text_columns"
) -> list[int]:
    """The numbers of the columns that a flag gives; a name counts before a number.

    Raises ValueError for one that is not there, or whose name two columns have.
    """
    found = []
    for column in map(str, wanted):
        if names.count(column) > 1:
            raise ValueError(f"{where} names two columns {column!r}: rename one")
        if column in names:
            found.append(names.index(column))
        elif column.isdecimal() and int(column) < len(names):
            found.append(int(column))
        else:
            there = ", ".join(name or "(unnamed)" for name in names) + other_separator(names)
            raise ValueError(f"{where}: there is no column {column} (--{flag}); there are {there}")
    return found


def other_separator(row: Sequence[str]) -> str:
    """What a user has to know about a row of one cell that other characters seem to divide."""
    advice = {
        ";": "semicolons seem to separate them: export the file with commas, as .csv",
        "\t": "tabs seem to separate them: name the file .tsv",
        ",": "commas seem to separate them: name the file .csv",
    }
    found = [text for character, text in advice.items() if len(row) == 1 and character in row[0]]
    return f": {found[0]}" if found else ""


def cell_text(value: object) -> str | None:
    """A value of JSON as a cell of a table would have it; None for a list or an object.

    null is an empty cell. JSON has one kind of number, so 1.0 is the same as 1.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, (str, int, float)) else None


def text_cells(value: dict, columns: Sequence[str], where: str) -> list[str]:
    """The texts of an object in a .jsonl; null is an empty one, as an empty cell of a table is.

    Raises ValueError, beginning with `where`.
    """
    texts = []
    for name in columns:
        if name not in value:
            raise ValueError(f'{where} has no "{name}"')
        text = "" if value[name] is None else value[name]
        if not isinstance(text, str):
            raise ValueError(f'{where}: "{name}" is {text!r}, not a text')
        texts.append(text)
    return texts
