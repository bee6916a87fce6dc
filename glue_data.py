"""The files of the GLUE tasks, and of a user's own task, to examples and features.

Each task is a DataProcessor. Labels are in Google's order where Google has the task. Files and
columns are those of the GLUE benchmark's download, and of XNLI's. PyTorch takes seconds to load, so
this module does not import it at the top: a wrong flag is reported at once.
"""

import contextlib
import difflib
import functools
import importlib.util
import inspect
import math
import os
import re
import sys
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import glue_metrics
from files import Tally, iter_lines
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
    line: int | None = None  # of its file, from 1


@dataclass(eq=False)
class InputFeatures:
    """An example as the model takes it.

    The three arrays are int32 [length], without padding. `label_id` is the index of the label, or
    the score in a regression. `num_tokens` is the length before the texts were cut to fit.
    """

    input_ids: np.ndarray
    input_mask: np.ndarray
    segment_ids: np.ndarray
    label_id: int | float
    num_tokens: int = 0


def read_tsv(path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields (line number, columns) for every row; a blank one has the columns [""].

    Only tabs and line ends have a meaning; quotation marks are ordinary characters. Raises OSError,
    or ValueError with file and line if the file is not text.
    """
    for number, line in enumerate(iter_lines(path), start=1):
        if "\0" in line:
            raise ValueError(f"{path}:{number} has a NUL byte: is this a text file?")
        yield number, line.split("\t")


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

        columns = self.text_columns
        if is_test and self.test_columns:
            columns = self.test_columns
        last_column = max(columns) if is_test else max(*columns, self.label_column)
        num_columns = last_column + 1

        rows = read_tsv(path)
        if set_type in self.headers:
            self._skip_header(rows, set_type, path)

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

    def _skip_header(self, rows, set_type, path):
        """Takes the header, and blank rows before it, from the iterator `rows`.

        Raises ValueError if the first row is an example.
        """
        for number, row in rows:
            if is_blank(row):
                continue
            has_label = not set_type.startswith("test") and len(row) > self.label_column
            if has_label and row[self.label_column].strip() in self.labels:
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

    def label(self, row: list[str], where: str) -> str | float:
        """The row's label, or its score as a float in a regression.

        Raises ValueError, beginning with `where`, if it is not one.
        """
        label = row[self.label_column].strip()
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

    train.tsv, dev.tsv and test.tsv have the same columns, except that test.tsv may lack the label's
    column if that is the last one. `header` says whether the files begin with a header: "true",
    "false", or "auto": then train.tsv and dev.tsv have one if their first row has something in the
    label column that is not a label, is not much like one, and does not recur there. A test file
    may have no labels, so with "auto" it has a header if train.tsv (or else dev.tsv) has one.
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
            self.meanings = {"eval_f1": f"F1 of {labels[1]}"}
        else:
            self.metrics = {"eval_macro_f1": glue_metrics.macro_f1}
            self.meanings = {"eval_macro_f1": "the mean of every label's F1"}

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

        number, reference_row = _first_row(reference)
        label = None
        if len(reference_row) > self.label_column:
            label = reference_row[self.label_column].strip()
        if label is None or label in self.labels or self._recurs(label, number, reference):
            return False
        if near := near_label(label, self.labels):
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
        log(
            f"{path}:{own_number} is treated as a header, because the label column of "
            f"{reference}:{number} holds {label!r}, which is not one of the labels"
        )
        return True

    def _recurs(self, label, number, path):
        """Whether the label column of a row after row `number` holds this too, unlike a header."""
        return any(
            row[self.label_column].strip() == label
            for row_number, row in read_tsv(path)
            if row_number > number and len(row) > self.label_column
        )

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
        return [row[column].strip() for column in self.text_columns if column < len(row)]


def _first_row(path):
    """The number and columns of a file's first row that is not blank; (1, []) if there is none."""
    return next((row for row in read_tsv(path) if not is_blank(row[1])), (1, []))


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


def labels_found(path: str, column: int) -> str:
    """The most frequent values of a column, for a user who has not named the labels.

    Returns text like "a (12), b (7)". Raises what `read_tsv` does.
    """
    rows = (row for _, row in read_tsv(path) if len(row) > column and not is_blank(row))
    most_common = Counter(row[column].strip() for row in rows).most_common(MAX_LABELS_SHOWN)
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
        for attribute in ("files", "metrics", "meanings", "main_metric", "server_files"):
            default = getattr(DataProcessor, attribute)
            setattr(self, attribute, getattr(processor, attribute, default))

        with users_code(path):
            labels = list(processor.get_labels())
        self.labels = list(map(str, labels))
        if len(set(self.labels)) != len(labels) or len(labels) == 1:
            raise ValueError(
                f"{self.name}: the labels {labels} must be two or more different ones, or none for "
                f"a regression"
            )
        if not self.labels and not self.metrics:
            self.metrics = {"eval_pearson": glue_metrics.pearson}
            self.main_metric = "eval_pearson"

    def get_examples(
        self, set_type: str, data_dir: str, log: Callable[[str], object] = print
    ) -> tuple[list[InputExample], Tally]:
        """The examples of a set, with labels as str (in a regression float), and their account."""
        read = self._reader(set_type, log)
        with users_code(self.path):
            examples = list(read(data_dir))
        if not examples:
            raise ValueError(f"{self.name} has no examples of the {set_type} set")
        examples = [
            self._checked(example, f"{self.name}: {set_type} example {number}", set_type)
            for number, example in enumerate(examples)
        ]
        tally = getattr(self.processor, "tally", None) or Tally("examples", len(examples))
        return examples, tally

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
        elif str(label) in self.labels:
            label = str(label)
        else:
            allowed = ", ".join(self.labels)
            raise ValueError(f"{where}: the label {label!r} is not one of {allowed}")
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
        elif not own_lines or (is_ours and isinstance(error, (ValueError, OSError))):
            raise
        else:
            message = f"{path}:{own_lines[-1]}: {type(error).__name__}: {error}"
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
    num_tokens = len(ids_a) + len(ids_b) + (3 if ids_b else 2)

    if example.label is None:
        label_id = 0
    elif label_list:
        label_id = _label_index(example, label_list)
    else:
        label_id = example.label
    return InputFeatures(ids, np.ones_like(ids), segments, label_id, num_tokens)


def _label_index(example, label_list):
    """The place of an example's label in the list; 1 and "1" are the same. Raises ValueError."""
    if example.label in label_list:
        return label_list.index(example.label)
    names = list(map(str, label_list))
    if str(example.label) not in names:
        raise ValueError(
            f"example {example.guid}: the label {example.label!r} is not one of {', '.join(names)}"
        )
    return names.index(str(example.label))


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
