"""The files of the GLUE tasks, and of a user's own task, to examples and features.

Each task is a DataProcessor. Labels are in Google's order where Google has the task. Files and
columns are those of the GLUE benchmark's download, and of XNLI's. PyTorch takes seconds to load, so
this module does not import it at the top: a wrong flag is reported at once.
"""

import contextlib
import difflib
import errno
import functools
import importlib.util
import inspect
import math
import os
import re
import sys
import traceback
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

import glue_metrics
from files import Tally
from tables import (
    READERS,
    SEPARATORS,
    cell_text,
    csv_separator,
    find_table,
    format_of,
    is_quoted,
    named_columns,
    other_separator,
    read_jsonl,
    read_tsv,
    text_cells,
)
from tokenization import FullTokenizer

MAX_SHORT_ROWS_SHOWN = 3
MAX_LABELS_SHOWN = 9
MAX_LABEL_WIDTH = 40  # characters of a label in a list of them


@dataclass
class InputExample:
    """One example of a file: an id, one or two texts, and the label if there is one.

    In a regression the label is a score; where an example may have several labels, a tuple.
    """

    guid: str
    text_a: str
    text_b: str | None = None
    label: str | float | tuple[str, ...] | None = None
    line: int | None = field(default=None, compare=False)  # of its file, from 1


@dataclass(eq=False)
class InputFeatures:
    """An example as the model takes it.

    The three arrays are int32 [length], without padding. `label_id` is the index of the label, or
    the score in a regression, or where an example may have several labels a float32 [labels] of 1
    and 0. `num_tokens` is the length before the texts were cut to fit. `example` is the place of
    the example, which windows over a long text share. `weight` is that of its loss in the mean.
    """

    input_ids: np.ndarray
    input_mask: np.ndarray
    segment_ids: np.ndarray
    label_id: int | float | np.ndarray
    num_tokens: int = 0
    example: int = 0
    weight: float = 1.0


def is_blank(row: list[str]) -> bool:
    """Whether no column of a row has anything but white space."""
    return not any(map(str.strip, row))


class DataProcessor:
    """Reads the files of one task. A new task is a subclass that sets these class attributes:

    labels         names in the order of the model's outputs; empty for a regression
    files          {"train": …, "dev": …, "test": …}, and further sets if the task has them
    text_columns   columns of the one or two texts, counted from 0
    label_column   column of the label
    headers        the sets whose file begins with a header
    test_columns   text columns of the test file, if they differ
    metrics        {name: function of (predictions, labels)}, in addition to accuracy
    meanings       {name of a metric: what it is}, where the name does not say enough
    main_metric    the metric that picks the best of several seeds or evaluations; higher is better
    multi_label    whether an example may have several labels, as a tuple of names
    server_files   {test set: name of its file for the GLUE server}
    """

    labels = ("0", "1")
    files = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
    text_columns = (0,)
    label_column = 1
    headers = ("train", "dev", "test")
    test_columns = None
    metrics = {}
    meanings = {}
    main_metric = "eval_accuracy"
    multi_label = False
    server_files = {}

    # What became of the rows of the file that was read last.
    tally = None
    # Why `wants` turns down a row.
    unwanted = "of another kind"
    # Ends the message about a file with too few columns.
    short_row_hint = "is this the file of another task, or not separated by tabs?"

    def get_labels(self) -> list[str]:
        return list(self.labels)

    def get_train_examples(self, data_dir: str) -> list[InputExample]:
        return self.get_examples(data_dir, "train")

    def get_dev_examples(self, data_dir: str) -> list[InputExample]:
        return self.get_examples(data_dir, "dev")

    def get_test_examples(self, data_dir: str) -> list[InputExample]:
        return self.get_examples(data_dir, "test")

    def require(self, data_dir: str, set_type: str) -> None:
        """Raises FileNotFoundError where the folder has no file of the set."""
        path = os.path.join(data_dir, self.files[set_type])
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def get_examples(
        self, data_dir: str, set_type: str, log: Callable[[str], object] = print
    ) -> list[InputExample]:
        """Returns the examples of one set ("train", "dev", "test", …), in the file's order.

        A test file gives an example for each of its rows after the header, because predictions
        must line up with rows: a blank row and a missing column are read as empty texts. In any
        other file blank rows and rows with too few columns are skipped. Both are counted, in
        `tally` too, and reported through `log`.

        Raises OSError, or ValueError with file and line for a wrong label, a missing header, or a
        file with no more complete rows than short ones.
        """
        path = os.path.join(data_dir, self.files[set_type])
        is_test = set_type.startswith("test")
        rows = self.read_rows(path, set_type, log)

        columns = self.text_columns
        if is_test and self.test_columns:
            columns = self.test_columns
        last_column = max(columns) if is_test else max(*columns, self.label_column)
        num_columns = last_column + 1

        self.tally = Tally()
        num_blank = 0
        short_rows = []
        examples = []
        for number, row in rows:
            self.tally.read += 1
            blank = is_blank(row)
            num_blank += blank
            if blank and not is_test:
                self.tally.skipped["blank"] += 1
                continue

            if len(row) < num_columns:
                if not blank:
                    found = f"expected at least {num_columns} columns, found {len(row)}"
                    short_rows.append(f"{path}:{number}: {found}")
                if not is_test:
                    self.tally.skipped["with too few columns"] += 1
                    continue
                row += [""] * (num_columns - len(row))

            if not self.wants(row, set_type):
                self.tally.skipped[self.unwanted] += 1
                continue
            label = None if is_test else self.label(row, f"{path}:{number}")
            texts = [row[column] for column in columns]
            guid = self.guid(set_type, number, row)
            examples.append(InputExample(guid, *texts, label=label, line=number))

        num_complete = len(examples)
        if is_test:
            num_complete -= len(short_rows) + num_blank
        if short_rows and len(short_rows) >= num_complete:
            raise ValueError(f"{short_rows[0]}: {self.short_row_hint}")
        if not examples:
            raise ValueError(self.why_empty(path))

        treatment = "read as empty" if is_test else "skipped"
        for short_row in short_rows[:MAX_SHORT_ROWS_SHOWN]:
            log(f"{treatment}: {short_row}")
        if short_rows:
            log(f"{path}: rows {treatment}: {len(short_rows)}, complete rows: {num_complete}")
        if num_blank:
            log(f"{path}: blank rows {treatment}: {num_blank}")
        num_empty = len(short_rows) + num_blank
        if is_test and num_empty:
            self.tally.notes.append(f"blank or too short and read as empty texts {num_empty:,}")
        return examples

    def read_rows(
        self, path: str, set_type: str, log: Callable[[str], object]
    ) -> Iterator[tuple[int, list[str]]]:
        """(line number, columns) of the rows of a set's file, without its header.

        Raises what `get_examples` does.
        """
        rows = read_tsv(path)
        if set_type in self.headers:
            self._skip_header(rows, set_type, path)
        return rows

    def _skip_header(self, rows, set_type, path):
        """Takes the header, and blank rows before it, from the iterator `rows`.

        Raises ValueError if the first row is an example.
        """
        for number, row in rows:
            if is_blank(row):
                continue
            has_label = not set_type.startswith("test") and len(row) > self.label_column
            is_example = has_label and row[self.label_column].strip() in self.labels
            # An index, a label or a score; but a header of pandas may be numbers alone.
            numbers = [cell.strip().isdecimal() for cell in row]
            if is_example or (numbers[0] and not all(numbers)):
                raise ValueError(
                    f"{path}:{number} is an example, but the file should begin with a header"
                )
            return

    def why_empty(self, path: str) -> str:
        """The message about a file without examples."""
        return f"{path} has no examples"

    def wants(self, row: list[str], set_type: str) -> bool:
        """Whether a row belongs to the task."""
        return True

    def label(self, row: list[str], where: str) -> str | float | tuple[str, ...]:
        """The row's label, its labels as a tuple, or its score as a float in a regression.

        Raises ValueError, beginning with `where`, if it is not one.
        """
        label = row[self.label_column].strip()
        if self.labels:
            names = self._labels_in(label)
            for name in names:
                if name not in self.labels:
                    allowed = ", ".join(self.labels)
                    raise ValueError(f"{where}: the label {name!r} is not one of {allowed}")
            return names if self.multi_label else names[0]

        try:
            score = float(label)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(f"{where}: the score {label!r} is not a finite number")
        return score

    def _labels_in(self, cell):
        """The labels in a cell of the label column: one, or with `multi_label` any number."""
        return split_labels(cell) if self.multi_label else (cell,)

    def guid(self, set_type: str, number: int, row: list[str]) -> str:
        """The example's id: as Google's, the set and the row's number from 0."""
        return f"{set_type}-{number - 1}"


class MrpcProcessor(DataProcessor):
    text_columns = (3, 4)
    label_column = 0
    metrics = {"eval_f1": glue_metrics.f1}
    main_metric = "eval_f1"
    server_files = {"test": "MRPC.tsv"}


class MnliProcessor(DataProcessor):
    labels = ("contradiction", "entailment", "neutral")
    files = {
        "train": "train.tsv",
        "dev": "dev_matched.tsv",
        "test": "test_matched.tsv",
        "dev_mismatched": "dev_mismatched.tsv",
        "test_mismatched": "test_mismatched.tsv",
    }
    text_columns = (8, 9)
    label_column = -1  # column 11 in train.tsv, column 15 in the dev files
    headers = tuple(files)
    server_files = {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}

    def guid(self, set_type: str, number: int, row: list[str]) -> str:
        """As Google's, the set and the file's own index."""
        return f"{set_type}-{row[0]}"


class ColaProcessor(DataProcessor):
    text_columns = (3,)
    test_columns = (1,)
    label_column = 1
    headers = ("test",)
    metrics = {"eval_mcc": glue_metrics.matthews}
    main_metric = "eval_mcc"
    server_files = {"test": "CoLA.tsv"}


class Sst2Processor(DataProcessor):
    text_columns = (0,)
    test_columns = (1,)
    label_column = 1
    server_files = {"test": "SST-2.tsv"}


class StsbProcessor(DataProcessor):
    """Similarity from 0 to 5: a regression."""

    labels = ()
    text_columns = (7, 8)
    label_column = 9
    metrics = {"eval_pearson": glue_metrics.pearson, "eval_spearman": glue_metrics.spearman}
    main_metric = "eval_pearson"
    server_files = {"test": "STS-B.tsv"}


class QqpProcessor(DataProcessor):
    text_columns = (3, 4)
    test_columns = (1, 2)
    label_column = 5
    metrics = {"eval_f1": glue_metrics.f1}
    main_metric = "eval_f1"
    server_files = {"test": "QQP.tsv"}


class RteProcessor(DataProcessor):
    labels = ("entailment", "not_entailment")
    text_columns = (1, 2)
    label_column = 3
    server_files = {"test": "RTE.tsv"}


class QnliProcessor(RteProcessor):
    server_files = {"test": "QNLI.tsv"}


class WnliProcessor(RteProcessor):
    labels = ("0", "1")
    server_files = {"test": "WNLI.tsv"}


class XnliProcessor(DataProcessor):
    """One of XNLI's 15 languages, by default Chinese, as Google's.

    The training set of each is MultiNLI's, translated by machine; the dev and test files hold all.
    """

    labels = MnliProcessor.labels
    unwanted = "in other languages"

    def __init__(self, language: str = "zh"):
        self.language = language
        self.files = {
            "train": f"multinli/multinli.train.{language}.tsv",
            "dev": "xnli.dev.tsv",
            "test": "xnli.test.tsv",
        }
        self._languages = set()  # those met in the dev or test file

    def get_examples(
        self, data_dir: str, set_type: str, log: Callable[[str], object] = print
    ) -> list[InputExample]:
        if set_type == "train":
            self.text_columns = (0, 1)
            self.label_column = 2
        else:
            self.text_columns = (6, 7)
            self.label_column = 1
        return super().get_examples(data_dir, set_type, log)

    def wants(self, row: list[str], set_type: str) -> bool:
        """The training file has one language, the others name theirs in column 0."""
        if set_type != "train":
            self._languages.add(row[0])
        return set_type == "train" or row[0] == self.language

    def why_empty(self, path: str) -> str:
        found = ", ".join(sorted(filter(None, self._languages)))
        if not found:
            return super().why_empty(path)
        return f"{path} has no rows in {self.language!r}: give --language one of {found}"

    def label(self, row: list[str], where: str) -> str:
        if row[self.label_column].strip() == "contradictory":  # the training file's spelling
            return "contradiction"
        return super().label(row, where)


class TsvProcessor(DataProcessor):
    """A user's own task, described by flags.

    The files train, dev and test may each be a .tsv, .csv or .jsonl (see tables.py). They have the
    same columns, but test may lack the label's. Columns are names, or numbers from 0; a .jsonl has
    its first object's names. `labels` is empty for a regression, None where `find_labels` is to
    find them. `dev_fraction` is the share of the training file that makes the dev set, by `seed`.

    `header` says whether a .tsv or .csv begins with a header: "true", "false", or "auto". It does
    where a column is given by name. Else with "auto" train and dev have one if their first row has
    something in the label column that is not a label, is not much like one, and does not recur
    there. A test file may have no labels, so it has a header if train (or else dev) has one.
    """

    def __init__(
        self,
        labels: Sequence[str] | None,
        text_columns: Sequence[int | str],
        label_column: int | str,
        header: str = "auto",
        multi_label: bool = False,
        dev_fraction: float | None = None,
        seed: int = 0,
    ):
        self.labels = labels or ()
        self.labels_are_known = labels is not None
        self.wanted_texts = tuple(text_columns)
        self.wanted_label = label_column
        self.header = header
        self.multi_label = multi_label
        self.dev_fraction = dev_fraction
        self.seed = seed
        if multi_label:
            self.metrics = {
                "eval_micro_f1": glue_metrics.micro_f1,
                "eval_macro_f1": glue_metrics.multi_label_macro_f1,
                "eval_subset_accuracy": glue_metrics.subset_accuracy,
            }
            self.meanings = {
                "eval_micro_f1": "the F1 of all decisions on all labels",
                "eval_macro_f1": "the mean of every label's F1",
                "eval_subset_accuracy": "the share of examples with exactly the right labels",
            }
            self.main_metric = "eval_micro_f1"
        elif not self.labels:
            self.metrics = StsbProcessor.metrics
            self.main_metric = StsbProcessor.main_metric
        elif len(self.labels) == 2:
            self.metrics = {"eval_f1": glue_metrics.f1, "eval_mcc": glue_metrics.matthews}
            self.meanings = {"eval_f1": f"F1 of {self.labels[1]}"}
        else:
            self.metrics = {"eval_macro_f1": glue_metrics.macro_f1}
            self.meanings = {"eval_macro_f1": "the mean of every label's F1"}

    def find_files(self, data_dir: str) -> None:
        """Sets `files` to those in a folder. Raises ValueError where one set has two of them."""
        sets = ("train", "dev", "test")
        self.files = {name: find_table(data_dir, name) or f"{name}.tsv" for name in sets}

    def require(self, data_dir: str, set_type: str) -> None:
        """Raises FileNotFoundError where the folder has no file of the set.

        Raises ValueError if there are two, or a dev file besides `dev_fraction`.
        """
        self.find_files(data_dir)
        if self.dev_fraction is not None and set_type != "test":
            dev_file = os.path.join(data_dir, self.files["dev"])
            if os.path.exists(dev_file):
                raise ValueError(f"--dev_fraction {self.dev_fraction:g}, but there is {dev_file}")
            set_type = "train"
        if os.path.exists(os.path.join(data_dir, self.files[set_type])):
            return
        others = [name for name in os.listdir(data_dir) if name.startswith(f"{set_type}.")]
        hint = f", but {', '.join(sorted(others))}" if others else ""
        if set_type == "dev":
            hint += ": --dev_fraction 0.1 takes that part of the training file instead"
        raise FileNotFoundError(
            f"{data_dir} has no {set_type}.tsv, {set_type}.csv or {set_type}.jsonl{hint}"
        )

    def get_examples(
        self, data_dir: str, set_type: str, log: Callable[[str], object] = print
    ) -> list[InputExample]:
        self.require(data_dir, set_type)
        if self.dev_fraction is None or set_type == "test":
            return super().get_examples(data_dir, set_type, log)

        examples = super().get_examples(data_dir, "train", log)
        labels = [example.label for example in examples]
        held_out = dev_examples(labels, self.dev_fraction, self.seed)
        if self.labels and not self.multi_label:
            # A label's only example is trained on: held out, it could not be got right.
            counts = Counter(labels)
            held_out = {index for index in held_out if counts[labels[index]] > 1}
        path = os.path.join(data_dir, self.files["train"])
        share = f"--dev_fraction {self.dev_fraction:g}"
        if not 0 < len(held_out) < len(examples):
            empty = "train" if held_out else "dev"
            raise ValueError(
                f"{share} of the {len(examples)} examples of {path} leaves no {empty} set"
            )
        is_dev = set_type == "dev"
        chosen = [
            example for index, example in enumerate(examples) if (index in held_out) == is_dev
        ]
        other = "of the train set" if is_dev else "of the dev set"
        self.tally.skipped[other] += len(examples) - len(chosen)
        log(
            f"the {set_type} set is {len(chosen):,} of the {len(examples):,} examples of {path} "
            f"({share}, seed {self.seed}){self._counts_of(chosen)}"
        )
        return chosen

    def _counts_of(self, examples):
        """The number of each label in the examples, in words; "" in a regression."""
        if not self.labels:
            return ""
        counts = Counter()
        for example in examples:
            counts.update(example.label if self.multi_label else (example.label,))
        return f": {shown_counts({label: counts[label] for label in self.labels})}"

    # Rows of a file in any format.

    def read_rows(
        self, path: str, set_type: str, log: Callable[[str], object]
    ) -> Iterator[tuple[int, list[str]]]:
        """As DataProcessor's; sets `text_columns` and `label_column` to those in these rows."""
        is_test = set_type.startswith("test")
        kind = format_of(path)
        if kind == "jsonl":
            self.text_columns = tuple(range(len(self.wanted_texts)))
            self.label_column = len(self.wanted_texts)
            return self._read_objects(path, is_test)

        number, first = _first_row(path)
        if kind == "tsv":
            refuse_quoted(first, len(first), f"{path}:{number}")
        separator = csv_separator(path) if kind == "csv" else "\t"
        separator = SEPARATORS.get(separator, repr(separator))
        if kind == "csv" and separator != "comma":
            log(f"{path}: {separator}s separate the cells")
        hint = f"columns are separated by {separator}s and counted from 0"
        self.short_row_hint = hint + other_separator(first)
        has_header = self._has_header(path, set_type, log)
        if has_header and not first:
            raise ValueError(self.why_empty(path))
        self.text_columns = self.wanted_texts
        self.label_column = self.wanted_label
        rows = READERS[kind](path)
        if has_header:
            names = [name.strip() for name in first]
            where = f"{path}:{number}"
            self.text_columns = named_columns(self.wanted_texts, names, where)
            if not is_test:
                wanted = [self.wanted_label]
                (self.label_column,) = named_columns(wanted, names, where, "label_column")
            if self._has_names():  # of which the label column's may also be a label
                rows = ((row_number, row) for row_number, row in rows if row_number > number)
            else:
                self._skip_header(rows, set_type, path)
        advice = "no cell may hold a tab"
        if kind == "csv":
            advice = f"a cell with a {separator} in it must be quoted"
        return self._checked_rows(rows, path, kind, len(first), advice)

    def _checked_rows(self, rows, path, kind, width, advice):
        """The rows; raises ValueError for one that has more cells than the first, or quoted ones.

        Such a row has a separator in a text, so its label would be read from another column.
        """
        for number, row in rows:
            if kind == "tsv":
                refuse_quoted(row, width, f"{path}:{number}")
            if not is_blank(row[width:]):
                raise ValueError(
                    f"{path}:{number} has {len(row)} columns, the first row has {width}: {advice}"
                )
            yield number, row

    def _read_objects(self, path, is_test):
        """Yields (line number, texts and label) of a .jsonl, all as a table has them."""
        columns = None
        for number, value in read_jsonl(path):
            where = f"{path}:{number}"
            if columns is None:
                names = list(value)
                columns = [names[n] for n in named_columns(self.wanted_texts, names, where)]
                if not is_test:
                    wanted = [self.wanted_label]
                    (place,) = named_columns(wanted, names, where, "label_column")
                    label = names[place]
            row = text_cells(value, columns, where)
            if not is_test:
                if label not in value:
                    raise ValueError(f'{where} has no "{label}"')
                row.append(self._label_cell(value[label], where))
            yield number, row

    def _label_cell(self, value, where):
        """A label of JSON, or a list of several, as a cell has it."""
        names = value if isinstance(value, list) and self.multi_label else [value]
        cells = [cell_text(name) for name in names]
        if None in cells or (isinstance(value, list) and any("|" in cell for cell in cells)):
            kind = "labels" if self.multi_label else "a label"
            raise ValueError(f"{where}: {value!r} is not {kind}")
        return "|".join(cells)

    def _labels_in(self, cell):
        """As DataProcessor's; where the labels are numbers their values count, so 1.0 is 1.

        pandas writes whole numbers so in a column that lacks some.
        """
        names = super()._labels_in(cell)
        labels = self.labels or ()
        if all(name in labels for name in names) or not all(map(_is_number, labels)):
            return names
        by_value = {float(label): label for label in labels}
        return tuple(
            name if name in labels or not _is_number(name) else by_value.get(float(name), name)
            for name in names
        )

    # Whether a file begins with a header.

    def _has_names(self):
        """Whether a column is given by name, which only a header can hold."""
        return any(isinstance(column, str) for column in (*self.wanted_texts, self.wanted_label))

    def _has_header(self, path, set_type, log):
        """Whether the set's file begins with a header. Raises ValueError if that is not clear."""
        if self._has_names():
            return True
        if self.header != "auto":
            return self.header == "true"

        reference = path
        if set_type == "test":
            reference = self._labelled_file(path)

        number, reference_row = _first_row(reference)
        label = None
        if len(reference_row) > self.wanted_label:
            label = reference_row[self.wanted_label].strip()
        if label is None or self._is_label(label) or self._recurs(label, number, reference):
            return False
        if near := self._near_label(label):
            raise ValueError(
                f"{reference}:{number} has {label!r} in the label column, much like the label "
                f"{near!r}: give --header true if the row is a header, else --header false"
            )

        own_number, own_row = _first_row(path)
        if self._texts(own_row) != self._texts(reference_row):
            raise ValueError(
                f"{path}:{own_number} differs from the header in {reference}:{number}: begin both "
                f"files with the same header, or neither"
            )
        reason = "not one of the labels" if self.labels else "not a number"
        log(
            f"{path}:{own_number} is treated as a header, because the label column of "
            f"{reference}:{number} holds {label!r}, which is {reason}"
        )
        return True

    def _is_label(self, text):
        """Whether a cell of the label column is one; an empty one is not a header either."""
        if not self.labels:
            return not text or (self.labels_are_known and _is_number(text))
        return all(name in self.labels for name in self._labels_in(text))

    def _near_label(self, text):
        """The label that a cell of the label column may be meant for; None if there is none."""
        if not self.labels:
            return None
        names = self._labels_in(text)
        return next(filter(None, (near_label(name, self.labels) for name in names)), None)

    def _recurs(self, label, number, path):
        """Whether the label column of a row after row `number` holds this too, unlike a header."""
        names = set(self._labels_in(label))
        for row_number, row in READERS[format_of(path)](path):
            if row_number > number and len(row) > self.wanted_label:
                cell = row[self.wanted_label].strip()
                if not names.isdisjoint(self._labels_in(cell)):
                    return True
        return False

    def _labelled_file(self, test_file):
        """The path of train or else dev, which show whether `test_file` has a header."""
        for set_type in ("train", "dev"):
            path = os.path.join(os.path.dirname(test_file), self.files[set_type])
            if os.path.exists(path) and format_of(path) in READERS:
                return path
        raise ValueError(
            f"without train.tsv or dev.tsv (or .csv) in its folder, it is not clear whether "
            f"{test_file} begins with a header: give --header true or --header false"
        )

    def _texts(self, row):
        """The row's text columns, without those that it lacks."""
        return [row[column].strip() for column in self.wanted_texts if column < len(row)]

    # The labels of the training file.

    def count_labels(self, data_dir: str) -> Counter:
        """How often each label occurs in the training file. Raises what `get_examples` does."""
        self.require(data_dir, "train")
        path = os.path.join(data_dir, self.files["train"])
        counts = Counter()
        for number, row in self.read_rows(path, "train", lambda line: None):
            if is_blank(row) or len(row) <= max(*self.text_columns, self.label_column):
                continue
            cell = row[self.label_column].strip()
            names = self._labels_in(cell)
            if "" in names:
                raise ValueError(f"{path}:{number}: the label is empty")
            counts.update(names)
        return counts

    def find_labels(self, data_dir: str, log: Callable[[str], object] = print) -> tuple[str, ...]:
        """The labels of the training file, sorted; whole numbers by their value.

        Raises ValueError where these do not seem to be labels, and what `get_examples` does.
        """
        counts = self.count_labels(data_dir)
        where = f"the label column of {os.path.join(data_dir, self.files['train'])}"
        if len(counts) < 2:
            only = f"only {next(iter(counts))!r}" if counts else "nothing"
            raise ValueError(f"{where} holds {only}: two labels or more are needed")
        if name := _several_in_one(counts):
            advice = (
                "part them by |" if self.multi_label else "give --multi_label and part them by |"
            )
            raise ValueError(
                f"{where} holds {name!r}, which seems to be several labels: {advice}, or name the "
                f"labels with --labels if it is one"
            )
        if alike := _alike(counts):
            raise ValueError(
                f"{where} holds {alike[0]!r} and {alike[1]!r}, which differ in case or Unicode "
                f"form only: make them one, or name both with --labels"
            )
        fractions = [name for name in counts if _is_number(name) and not _is_whole(name)]
        if fractions and all(map(_is_number, counts)):
            raise ValueError(
                f"{where} holds numbers, as {fractions[0]}: give --labels none for a regression, "
                f"or name the labels with --labels"
            )
        if len(counts) > 5 and len(counts) > 0.8 * counts.total():
            raise ValueError(
                f"{where} holds {len(counts):,} different values in {counts.total():,} rows: is it "
                f"the right one? If so, name them with --labels"
            )
        is_whole = all(map(_is_whole, counts))
        labels = sorted(counts, key=lambda name: (int(name) if is_whole else 0, name))
        shown = shown_counts({label: counts[label] for label in labels})
        order = "as numbers" if is_whole else "by name"
        log(f"--labels are what {where} holds, sorted {order}: {shown}")
        return tuple(labels)


def split_labels(cell: str) -> tuple[str, ...]:
    """The labels in a cell with several, which | parts; each of them once."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, cell.split("|")))))


def _several_in_one(names: Iterable[str]) -> str | None:
    """The first name that seems to be several labels: all its parts are labels, or it is a list."""
    for name in names:
        parts = list(map(str.strip, re.split(r"[|,;]", name)))
        is_list = re.fullmatch(r"\[\s*(['\"].*['\"])?\s*\]", name)  # as pandas writes one
        if is_list or (len(parts) > 1 and all(part in names for part in parts)):
            return name
    return None


def _alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that are the same but for case and Unicode form; None if there are none."""
    seen = {}
    for name in names:
        other = seen.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            return other, name
    return None


def shown_counts(counts: dict[str, int]) -> str:
    """Labels and their numbers in words, e.g. "no 12, yes 7"."""
    shown = ", ".join(
        f"{' '.join(label.split())[:MAX_LABEL_WIDTH]} {count:,}"
        for label, count in [*counts.items()][:MAX_LABELS_SHOWN]
    )
    return shown + (f", … ({len(counts):,} labels)" if len(counts) > MAX_LABELS_SHOWN else "")


def dev_examples(labels: Sequence, fraction: float, seed: int) -> set[int]:
    """Which of the examples with these labels make the dev set: their places.

    They are every (1 / fraction)-th one in the order of labels, random within a label: each label
    and, in a regression, each range of scores has its share, to a single example.
    """
    order = np.random.Generator(np.random.PCG64([seed, len(labels)])).permutation(len(labels))
    order = sorted(order.tolist(), key=lambda index: labels[index])
    ends = [math.floor(place * fraction + 0.5) for place in range(len(labels) + 1)]
    return {index for place, index in enumerate(order) if ends[place + 1] > ends[place]}


def refuse_quoted(row: Sequence[str], width: int, where: str) -> None:
    """Raises ValueError, beginning with `where`, for a row of a .tsv that is quoted as a .csv."""
    if is_quoted(row, width):
        raise ValueError(
            f"{where} has cells in quotes, as in a .csv, but in a .tsv quotes are part of the "
            f"text: name the file .csv, in which tabs may separate the cells too"
        )


def _first_row(path):
    """The number and columns of a file's first row that is not blank; (1, []) if there is none."""
    rows = READERS[format_of(path)](path)
    return next((row for row in rows if not is_blank(row[1])), (1, []))


def near_label(text: str, labels: Sequence[str]) -> str | None:
    """The label that `text` may be meant for, though it is not the same; None if there is none."""

    def plain(label):
        return re.sub(r"[\W_]", "", label.casefold())

    plain_labels = {plain(label): label for label in labels}
    close = difflib.get_close_matches(plain(text), plain_labels, 1, 0.8)
    if close:
        return plain_labels[close[0]]
    if not plain(text) or (_is_number(text) and all(map(_is_number, labels))):
        return labels[0]
    return None


def _is_number(text):
    try:
        float(text)
    except (TypeError, ValueError):
        return False
    return True


def _is_whole(text):
    return re.fullmatch(r"-?\d+", text) is not None


def class_weights(
    text: str, label_ids: Sequence[int], labels: Sequence[str], multi_label: bool = False
) -> list[float]:
    """The weight of each label by --class_weights `text`: "balanced", or a number for each.

    Balanced is n / (k * count), of n examples with k labels. Raises ValueError where the weights do
    not suit the labels, or where no example has one of them.
    """
    if multi_label or not labels:
        kind = "several labels an example" if multi_label else "a regression"
        raise ValueError(f"--class_weights is for one label an example, not for {kind}")
    if text == "balanced":
        counts = Counter(label_ids)
        for index, label in enumerate(labels):
            if not counts[index]:
                raise ValueError(
                    f"--class_weights balanced: no training example has the label {label!r}"
                )
        return [len(label_ids) / (len(labels) * counts[index]) for index in range(len(labels))]
    weights = [float(number) for number in text.split(",")]
    if len(weights) != len(labels):
        raise ValueError(
            f"--class_weights {text} has {len(weights)} numbers, but there are {len(labels)} "
            f"labels: {', '.join(labels)}"
        )
    return weights


PROCESSORS = {
    "cola": ColaProcessor,
    "mnli": MnliProcessor,
    "mrpc": MrpcProcessor,
    "qnli": QnliProcessor,
    "qqp": QqpProcessor,
    "rte": RteProcessor,
    "sst-2": Sst2Processor,
    "sts-b": StsbProcessor,
    "tsv": TsvProcessor,
    "wnli": WnliProcessor,
    "xnli": XnliProcessor,
}


class Task:
    """A task as run_classifier.py uses it, from a processor in this module's style or in Google's.

    A processor of Google's style has get_train_examples(data_dir) and the like, and get_labels();
    where it overrides these methods of a DataProcessor, they count, not the class attributes. The
    attributes here are those of DataProcessor, with labels as str. `path` is the user's file that
    the processor comes from, if it does: a mistake in it is reported with its line there.

    Raises ValueError for labels that cannot be used.
    """

    def __init__(self, processor, path: str | None = None):
        self.processor = processor
        self.path = path
        self.name = type(processor).__name__
        for attribute in ("metrics", "meanings", "main_metric", "multi_label", "server_files"):
            default = getattr(DataProcessor, attribute)
            setattr(self, attribute, getattr(processor, attribute, default))

        with users_code(path):
            labels = processor.get_labels()
            if isinstance(labels, (set, frozenset)):  # whose order differs from run to run
                labels = sorted(labels, key=str)
            # Where a regression has no labels, transformers' processors return [None].
            labels = [] if labels is None else [name for name in labels if name is not None]
        if path:
            self.metrics = {
                name: self._checked_metric(name, metric) for name, metric in self.metrics.items()
            }
        self.labels = list(map(str, labels))
        if len(set(self.labels)) != len(labels) or len(labels) == 1:
            raise ValueError(
                f"{self.name}: the labels {labels} must be two or more different ones, or none for "
                f"a regression"
            )
        if not self.labels and not self.metrics:
            self.metrics = {"eval_pearson": glue_metrics.pearson}
            self.main_metric = "eval_pearson"

    @property
    def files(self) -> dict[str, str]:
        """{set: name of its file}; those of a user's own are known once one was read."""
        return getattr(self.processor, "files", DataProcessor.files)

    @property
    def problem_type(self) -> str:
        """What transformers calls the kind of the task in config.json."""
        if self.multi_label:
            return "multi_label_classification"
        return "single_label_classification" if self.labels else "regression"

    def get_examples(
        self, set_type: str, data_dir: str, log: Callable[[str], object] = print
    ) -> tuple[list[InputExample], Tally]:
        """The examples of a set, and their account.

        Labels are str, in a regression float, with several of them a tuple of str.
        """
        read = self._reader(set_type, log)
        with users_code(self.path):
            examples = read(data_dir)
        if examples is None:
            raise ValueError(f"{self.name}: get_{set_type}_examples returned None, not examples")
        with users_code(self.path):
            examples = list(examples)  # of a generator, whose code runs now
        if not examples:
            raise ValueError(f"{self.name} has no examples of the {set_type} set")
        examples = [
            self._checked(example, f"{self.name}: {set_type} example {number}", set_type)
            for number, example in enumerate(examples)
        ]
        tally = getattr(self.processor, "tally", None) or Tally("examples", len(examples))
        return examples, tally

    def _checked_metric(self, name, metric):
        """A user's metric as a function that returns a float, or raises ValueError."""

        def checked(predictions, labels):
            with users_code(self.path):
                value = metric(predictions, labels)
            try:
                return float(value)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{self.path}: {name} of {self.name} is {value!r}, not a number"
                ) from None

        return checked

    def _reader(self, set_type, log):
        """The function of the data folder that reads a set."""
        own = getattr(self.processor, f"get_{set_type}_examples", None)
        general = getattr(DataProcessor, f"get_{set_type}_examples", None)
        if own and getattr(own, "__func__", own) is not general:
            return own
        if not hasattr(self.processor, "get_examples"):
            raise ValueError(f"{self.name} has no method get_{set_type}_examples")

        parameters = inspect.signature(self.processor.get_examples).parameters.values()
        takes_log = len(parameters) > 2 or any(p.kind is p.VAR_POSITIONAL for p in parameters)
        more = (log,) if takes_log else ()
        return lambda data_dir: self.processor.get_examples(data_dir, set_type, *more)

    def _checked(self, example, where, set_type):
        """The example with its label as str or float. Raises ValueError if it is not an example."""
        guid, text_a, text_b, label = (
            getattr(example, name, None) for name in ("guid", "text_a", "text_b", "label")
        )
        if not isinstance(text_a, str) or not isinstance(text_b, str | None):
            raise ValueError(f"{where}: text_a must be a str, text_b a str or None: {example!r}")

        if set_type.startswith("test"):
            label = None  # Google's test examples have a label that means nothing
        elif label is None:
            raise ValueError(f"{where} has no label")
        elif not self.labels:
            if not _is_number(label):
                raise ValueError(f"{where}: the score {label!r} is not a number")
            label = float(label)
        else:
            names = label if self.multi_label else [label]
            if not isinstance(names, (tuple, list, set)):
                raise ValueError(f"{where}: {label!r} must be a tuple of labels")
            for name in names:
                if str(name) not in self.labels:
                    allowed = ", ".join(self.labels)
                    raise ValueError(f"{where}: the label {name!r} is not one of {allowed}")
            label = tuple(map(str, names)) if self.multi_label else str(label)
        return InputExample(guid, text_a, text_b, label, getattr(example, "line", None))


@contextlib.contextmanager
def users_code(path: str | None):
    """Makes an error that was raised in the user's file `path` a ValueError with its line there.

    Errors of this project, which say themselves what is wrong, pass as they are.
    """
    try:
        yield
    except Exception as error:
        trace = traceback.extract_tb(error.__traceback__)
        own_lines = [frame.lineno for frame in trace if path == os.path.realpath(frame.filename)]
        raised_in = os.path.dirname(os.path.realpath(trace[-1].filename))
        is_ours = raised_in == os.path.dirname(os.path.realpath(__file__))
        if isinstance(error, SyntaxError) and error.filename == path:
            message = f"{path}:{error.lineno}: {error.msg}"
        elif path is None or (isinstance(error, (ValueError, OSError)) and is_ours):
            raise
        else:
            place = f"{path}:{own_lines[-1]}" if own_lines else path
            reason = " ".join(str(error).split())
            message = f"{place}: {type(error).__name__}: {reason}"
        raise ValueError(message) from error


@functools.lru_cache
def _load_module(path):
    """Runs a user's file as a module. Its folder comes last on sys.path, so ours are not hidden."""
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.append(folder)
    # A name of its own: data.py of a user's must not become our module `data`.
    spec = importlib.util.spec_from_file_location(f"processor_in_{zlib.crc32(path.encode())}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        with users_code(path):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    return module


def load_processor(text: str) -> Task:
    """The Task of a user's class, from FILE.py:CLASS. Raises ValueError with what is wrong."""
    file, colon, name = text.rpartition(":")
    if not colon or not file.endswith(".py"):
        raise ValueError(f"--processor {text}: give a file and a class in it, as in task.py:MyTask")
    if not os.path.isfile(file):
        raise FileNotFoundError(f"--processor {text}: there is no file {file}")

    path = os.path.realpath(file)
    module = _load_module(path)
    found = getattr(module, name, None)
    if not isinstance(found, type) or not hasattr(found, "get_labels"):
        there = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        raise ValueError(
            f"--processor {text}: {file} has no class {name} with get_labels(); it has: "
            f"{', '.join(there) or 'no class'}"
        )
    with users_code(path):
        processor = found()
    return Task(processor, path)


def reads_files(processor: object, set_type: str) -> bool:
    """Whether a processor reads a set from its `files`.

    A user's class may read what it likes.
    """
    own = type(processor)
    if own.__module__ == __name__:
        return True
    methods = ("get_examples", f"get_{set_type}_examples")
    return all(getattr(own, name, None) is getattr(DataProcessor, name) for name in methods)


def find_processor(task_name: str) -> type | None:
    """The class of PROCESSORS whose name is this in upper or lower case."""
    return {name.lower(): found for name, found in PROCESSORS.items()}.get(task_name.lower())


def convert_single_example(
    ex_index: int,
    example: InputExample,
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
) -> InputFeatures:
    """Returns an example's features: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], cut to fit.

    An example without a label gets label_id 0, as in Google's. An empty `label_list` means a
    regression.
    """
    return convert_to_windows(ex_index, example, label_list, max_seq_length, tokenizer)[0]


def convert_to_windows(
    ex_index: int,
    example: InputExample,
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
    doc_stride: int | None = None,
) -> list[InputFeatures]:
    """The features of an example; with `doc_stride` one for each window (`data.windows_of_pair`).

    Every window has the example's label and, as its `example`, `ex_index`.
    """
    # data.py loads PyTorch, which reading files and flags does not need.
    from data import join_pair, windows_of_pair

    ids_a = tokenizer.encode(example.text_a)
    ids_b = []
    if example.text_b:
        ids_b = tokenizer.encode(example.text_b)
    cls_id = tokenizer.vocab["[CLS]"]
    sep_id = tokenizer.vocab["[SEP]"]
    label_id = _label_id(example, label_list)

    pairs = [(ids_a, ids_b)]
    num_lost = 0
    if doc_stride:
        pairs, num_lost = windows_of_pair(ids_a, ids_b, max_seq_length, doc_stride)
    features = []
    for part_a, part_b in pairs:
        ids, segments = join_pair(part_a, part_b, cls_id, sep_id, max_seq_length)
        num_tokens = len(part_a) + len(part_b) + (3 if part_b else 2)
        mask = np.ones_like(ids)
        features.append(InputFeatures(ids, mask, segments, label_id, num_tokens, ex_index))
    if num_lost:  # counted once
        features[0].num_tokens = len(ids_a) + len(ids_b) + 3
    return features


def _label_id(example, label_list):
    """The label_id of InputFeatures. Raises ValueError for a label that is not in the list."""
    if example.label is None:
        return 0
    if not label_list:
        return example.label
    if not isinstance(example.label, (tuple, list, set)):
        return _label_index(example, example.label, label_list)
    label_id = np.zeros(len(label_list), np.float32)
    for label in example.label:
        label_id[_label_index(example, label, label_list)] = 1
    return label_id


def _label_index(example, label, label_list):
    """The place of a label in the list; 1 and "1" are the same. Raises ValueError."""
    if label in label_list:
        return label_list.index(label)
    names = list(map(str, label_list))
    if str(label) not in names:
        raise ValueError(
            f"example {example.guid}: the label {label!r} is not one of {', '.join(names)}"
        )
    return names.index(str(label))


def convert_examples_to_features(
    examples: Iterable[InputExample],
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
    doc_stride: int | None = None,
) -> list[InputFeatures]:
    """Returns the features of all examples, in their order; see `convert_to_windows`."""
    return [
        feature
        for index, example in enumerate(examples)
        for feature in convert_to_windows(
            index, example, label_list, max_seq_length, tokenizer, doc_stride
        )
    ]
