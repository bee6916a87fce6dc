"""The files of the GLUE tasks, and of a user's own task, to examples and features.

Each task is a DataProcessor. Labels are in Google's order where Google has the task. Files and
columns are those of the GLUE benchmark's download, and of XNLI's. PyTorch takes seconds to load, so
this module does not import it at the top: a wrong flag is reported at once.
"""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import glue_metrics
from files import read_lines
from tokenization import FullTokenizer

MAX_SHORT_ROWS_SHOWN = 3
MAX_LABELS_SHOWN = 9


@dataclass
class InputExample:
    """One example of a file: an id, one or two texts, and the label if there is one."""

    guid: str
    text_a: str
    text_b: str | None = None
    label: str | float | None = None


@dataclass(eq=False)
class InputFeatures:
    """An example as the model takes it.

    The three arrays are int32 [length], without padding. `label_id` is the index of the label, or
    the score in a regression.
    """

    input_ids: np.ndarray
    input_mask: np.ndarray
    segment_ids: np.ndarray
    label_id: int | float


def read_tsv(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, columns) for every row that is not blank.

    Only tabs and line ends have a meaning; quotation marks are ordinary characters. Raises OSError,
    or ValueError with file and line if the file is not text.
    """
    for number, line in enumerate(read_lines(path), start=1):
        if "\0" in line:
            raise ValueError(f"{path}:{number} has a NUL byte: is this a text file?")
        if line.strip():
            yield number, line.split("\t")


class DataProcessor:
    """Reads the files of one task. A new task is a subclass that sets these class attributes:

    labels         names in the order of the model's outputs; empty for a regression
    files          {"train": …, "dev": …, "test": …}, and further sets if the task has them
    text_columns   columns of the one or two texts, counted from 0
    label_column   column of the label
    headers        the sets whose file begins with a header
    test_columns   text columns of the test file, if they differ
    metrics        {name: function of (predictions, labels)}, in addition to accuracy
    main_metric    the metric that picks the best of several seeds; higher is better
    server_files   {test set: name of its file for the GLUE server}
    """

    labels = ("0", "1")
    files = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
    text_columns = (0,)
    label_column = 1
    headers = ("train", "dev", "test")
    test_columns = None
    metrics = {}
    main_metric = "eval_accuracy"
    server_files = {}

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

    def get_examples(
        self, data_dir: str, set_type: str, log: Callable[[str], object] = print
    ) -> list[InputExample]:
        """Returns the examples of one set ("train", "dev", "test", …), in the file's order.

        Blank rows are ignored. Rows with too few columns are counted and reported through `log`. In
        a test file, whose predictions must line up with its rows, a missing text is read as an
        empty one; in any other file the row is skipped.

        Raises OSError, or ValueError with file and line for a wrong label, a missing header, or a
        file with no more complete rows than short ones.
        """
        path = os.path.join(data_dir, self.files[set_type])
        is_test = set_type.startswith("test")

        columns = self.text_columns
        if is_test and self.test_columns:
            columns = self.test_columns
        last_column = max(columns) if is_test else max(*columns, self.label_column)
        num_columns = last_column + 1

        examples = []
        short_rows = []
        for number, row in read_tsv(path):
            if number == 1 and self._is_header(row, set_type, path):
                continue

            if len(row) < num_columns:
                found = f"expected at least {num_columns} columns, found {len(row)}"
                short_rows.append(f"{path}:{number}: {found}")
                if not is_test:
                    continue
                row += [""] * (num_columns - len(row))

            if self.wants(row, set_type):
                label = None if is_test else self.label(row, f"{path}:{number}")
                texts = [row[column] for column in columns]
                examples.append(InputExample(self.guid(set_type, number, row), *texts, label=label))

        num_complete = len(examples)
        if is_test:
            num_complete -= len(short_rows)
        if short_rows and len(short_rows) >= num_complete:
            raise ValueError(f"{short_rows[0]}: {self.short_row_hint}")
        if not examples:
            raise ValueError(f"{path} has no examples")

        treatment = "read as empty" if is_test else "skipped"
        for short_row in short_rows[:MAX_SHORT_ROWS_SHOWN]:
            log(f"{treatment}: {short_row}")
        if short_rows:
            log(f"{path}: rows {treatment}: {len(short_rows)}, complete rows: {num_complete}")
        return examples

    def _is_header(self, row, set_type, path):
        """Whether a file's first row is a header. Raises ValueError if it should be but is not."""
        if set_type not in self.headers:
            return False
        has_label = not set_type.startswith("test") and len(row) > self.label_column
        if has_label and row[self.label_column] in self.labels:
            raise ValueError(f"{path}:1 is an example, but the file should begin with a header")
        return True

    def wants(self, row: list[str], set_type: str) -> bool:
        """Whether a row belongs to the task."""
        return True

    def label(self, row: list[str], where: str) -> str | float:
        """The row's label, or its score as a float in a regression.

        Raises ValueError, beginning with `where`, if it is not one.
        """
        label = row[self.label_column]
        if self.labels:
            if label not in self.labels:
                allowed = ", ".join(self.labels)
                raise ValueError(f"{where}: the label {label!r} is not one of {allowed}")
            return label

        try:
            score = float(label)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(f"{where}: the score {label!r} is not a finite number")
        return score

    def guid(self, set_type: str, number: int, row: list[str]) -> str:
        """The example's id: as Google's, the set and the row's number from 0."""
        return f"{set_type}-{number - 1}"


class MrpcProcessor(DataProcessor):
    text_columns = (3, 4)
    label_column = 0
    metrics = {"eval_f1": glue_metrics.f1}
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
    """Chinese, as Google's: the machine-translated training set, and the dev set's "zh" rows."""

    language = "zh"
    labels = MnliProcessor.labels
    files = {
        "train": "multinli/multinli.train.zh.tsv",
        "dev": "xnli.dev.tsv",
        "test": "xnli.test.tsv",
    }

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
        """The training file is all Chinese; the others have 15 languages, named in column 0."""
        return set_type == "train" or row[0] == self.language

    def label(self, row: list[str], where: str) -> str:
        if row[self.label_column] == "contradictory":  # the training file's spelling
            return "contradiction"
        return super().label(row, where)


class TsvProcessor(DataProcessor):
    """A user's own task, described by flags.

    train.tsv, dev.tsv and test.tsv have the same columns, except that test.tsv may lack the label's
    column if that is the last one. `header` says whether the files begin with a header: "true",
    "false", or "auto": then train.tsv and dev.tsv have one if their first row has something other
    than a label in the label column. A test file may have no labels, so with "auto" it has a header
    if train.tsv (or else dev.tsv) has one.
    """

    short_row_hint = "columns are separated by tabs and counted from 0"

    def __init__(
        self,
        labels: Sequence[str],
        text_columns: Sequence[int],
        label_column: int,
        header: str = "auto",
    ):
        self.labels = labels
        self.text_columns = text_columns
        self.label_column = label_column
        self.header = header
        if len(labels) == 2:
            self.metrics = {"eval_f1": glue_metrics.f1, "eval_mcc": glue_metrics.matthews}

    def get_examples(
        self, data_dir: str, set_type: str, log: Callable[[str], object] = print
    ) -> list[InputExample]:
        self.headers = (set_type,) if self._has_header(data_dir, set_type, log) else ()
        return super().get_examples(data_dir, set_type, log)

    def _has_header(self, data_dir, set_type, log):
        """Whether the set's file begins with a header. Raises ValueError if that is not clear."""
        if self.header != "auto":
            return self.header == "true"

        path = os.path.join(data_dir, self.files[set_type])
        reference = path
        if set_type == "test":
            reference = self._labelled_file(data_dir, path)

        reference_row = _first_row(reference)
        label = None
        if len(reference_row) > self.label_column:
            label = reference_row[self.label_column]
        if label is None or label in self.labels:
            return False

        if self._texts(_first_row(path)) != self._texts(reference_row):
            raise ValueError(
                f"{path}:1 differs from the header in {reference}:1: begin both files with the "
                f"same header, or neither"
            )
        log(
            f"{path}:1 is treated as a header, because the label column of {reference}:1 holds "
            f"{label!r}, which is not one of the labels"
        )
        return True

    def _labelled_file(self, data_dir, test_file):
        """The path of train.tsv or else dev.tsv, which show whether `test_file` has a header."""
        for set_type in ("train", "dev"):
            path = os.path.join(data_dir, self.files[set_type])
            if os.path.exists(path):
                return path
        raise ValueError(
            f"without train.tsv or dev.tsv in its folder, it is not clear whether {test_file} "
            f"begins with a header: give --header true or --header false"
        )

    def _texts(self, row):
        """The row's text columns, without those that it lacks."""
        return [row[column] for column in self.text_columns if column < len(row)]


def _first_row(path):
    """The columns of a file's first row that is not blank; empty if there is none."""
    for _, row in read_tsv(path):
        return row
    return []


def labels_found(path: str, column: int) -> str:
    """The most frequent values of a column, for a user who has not named the labels.

    Returns text like "a (12), b (7)". Raises what `read_tsv` does.
    """
    counts = Counter(row[column] for _, row in read_tsv(path) if len(row) > column)
    most_common = counts.most_common(MAX_LABELS_SHOWN)
    return ", ".join(f"{label} ({count})" for label, count in most_common)


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


def convert_single_example(
    ex_index: int,
    example: InputExample,
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
) -> InputFeatures:
    """Returns an example's features: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], cut to fit.

    An example without a label gets label_id 0, as in Google's. An empty `label_list` means a
    regression. `ex_index` is not used; Google's function has it.
    """
    # data.py loads PyTorch, which reading files and flags does not need.
    from data import join_pair

    ids_a = tokenizer.encode(example.text_a)
    ids_b = []
    if example.text_b:
        ids_b = tokenizer.encode(example.text_b)
    cls_id = tokenizer.vocab["[CLS]"]
    sep_id = tokenizer.vocab["[SEP]"]
    ids, segments = join_pair(ids_a, ids_b, cls_id, sep_id, max_seq_length)

    if example.label is None:
        label_id = 0
    elif label_list:
        label_id = label_list.index(example.label)
    else:
        label_id = example.label
    return InputFeatures(ids, np.ones_like(ids), segments, label_id)


def convert_examples_to_features(
    examples: Iterable[InputExample],
    label_list: Sequence[str],
    max_seq_length: int,
    tokenizer: FullTokenizer,
) -> list[InputFeatures]:
    """Returns the features of all examples, in their order; see `convert_single_example`."""
    return [
        convert_single_example(index, example, label_list, max_seq_length, tokenizer)
        for index, example in enumerate(examples)
    ]
