"""GLUE: the files of its tasks, and of a user's own, to examples and features.

A task is a DataProcessor. Labels are in Google's order where Google has the task; files and columns
are those of the GLUE benchmark's download, and of XNLI's. PyTorch, which takes seconds to load, is
not imported, so that a wrong flag is told at once.
"""

import math
import os
from collections import Counter
from dataclasses import dataclass

import numpy as np

import glue_metrics
from files import read_lines


@dataclass
class InputExample:
    """One example of a file: an id, one or two texts, and the label where there is one."""

    guid: str
    text_a: str
    text_b: str | None = None
    label: str | None = None


@dataclass(eq=False)
class InputFeatures:
    """The WordPieces of an example, int32 [length] without padding; its label's index or score."""

    input_ids: np.ndarray
    input_mask: np.ndarray
    segment_ids: np.ndarray
    label_id: int | float


def read_tsv(path):
    """Yields (line number, columns) of the rows that are not blank. Only tabs and line ends mean
    anything: quotes do not. Raises ValueError with file and line, OSError."""
    for number, line in enumerate(read_lines(path), start=1):
        if "\0" in line:
            raise ValueError(f"{path}:{number} has a NUL byte: is this a text file?")
        if line.strip():
            yield number, line.split("\t")


class DataProcessor:
    """Reads the files of one task. Give these class attributes, and it is done:

    labels         names in the order of the model's outputs; none for a regression
    files          {"train": …, "dev": …, "test": …}; more sets may follow
    text_columns   of the one or two texts in a row
    label_column
    headers        sets whose first row is a header
    test_columns   text columns of the test file, where they differ
    metrics        {name: function of (predictions, labels)}, after accuracy
    main_metric    the one by which the best of several seeds is chosen; more is better
    server_files   {test set: its name for the GLUE server}
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

    def get_labels(self):
        return list(self.labels)

    def get_train_examples(self, data_dir):
        return self.get_examples(data_dir, "train")

    def get_dev_examples(self, data_dir):
        return self.get_examples(data_dir, "dev")

    def get_test_examples(self, data_dir):
        return self.get_examples(data_dir, "test")

    def get_examples(self, data_dir, set_type, log=print):
        """The examples of one file, in its order. Blank rows are passed over. Rows with too few
        columns are counted and told to `log`: in a test file, whose predictions must line up with
        its rows, a missing text counts as an empty one; elsewhere the row is skipped. Raises
        ValueError with file and line.
        """
        path = os.path.join(data_dir, self.files[set_type])
        is_test = set_type.startswith("test")
        columns = self.test_columns if is_test and self.test_columns else self.text_columns
        needed = max(columns) if is_test else max(*columns, self.label_column)
        examples, short = [], []
        for number, row in read_tsv(path):
            if number == 1 and self._is_header(row, set_type, path):
                continue
            if len(row) <= needed:
                short.append(f"{path}:{number} has {len(row)} columns, not {needed + 1} or more")
                if not is_test:
                    continue
                row += [""] * (needed + 1 - len(row))
            if self.wants(row):
                label = None if is_test else self.label(row, f"{path}:{number}")
                texts = [row[column] for column in columns]
                examples.append(InputExample(self.guid(set_type, number, row), *texts, label=label))
        whole = len(examples) - (len(short) if is_test else 0)
        if short and len(short) >= whole:
            raise ValueError(f"{short[0]}: {self.doubt}")
        if not examples:
            raise ValueError(f"{path} has no examples")
        what = "read as empty" if is_test else "skipped"
        for line in short[:3]:
            log(f"{what}: {line}")
        if short:
            log(f"{path}: {len(short)} rows {what}, {whole} used")
        return examples

    def _is_header(self, row, set_type, path):
        if set_type not in self.headers:
            return False
        labelled = not set_type.startswith("test") and len(row) > self.label_column
        if labelled and row[self.label_column] in self.labels:
            raise ValueError(f"{path}:1 is an example, but the file should begin with a header")
        return True

    @property
    def doubt(self):
        """What to ask a user whose rows are too short."""
        return f"is this a file of {type(self).__name__}'s task?"

    def wants(self, row):
        """Whether a row belongs to the task."""
        return True

    def label(self, row, where):
        label = row[self.label_column]
        if not self.labels:
            try:
                score = float(label)
            except ValueError:
                score = math.nan
            if not math.isfinite(score):
                raise ValueError(f"{where}: the score {label!r} is no number")
            return score
        if label not in self.labels:
            raise ValueError(f"{where}: the label {label!r} is none of {', '.join(self.labels)}")
        return label

    def guid(self, set_type, number, row):
        return f"{set_type}-{number - 1}"


class MrpcProcessor(DataProcessor):
    text_columns, label_column = (3, 4), 0
    metrics = {"eval_f1": glue_metrics.f1}
    server_files = {"test": "MRPC.tsv"}


class MnliProcessor(DataProcessor):
    labels = ("contradiction", "entailment", "neutral")
    files = {
        "train": "train.tsv", "dev": "dev_matched.tsv", "test": "test_matched.tsv",
        "dev_mismatched": "dev_mismatched.tsv", "test_mismatched": "test_mismatched.tsv",
    }  # fmt: skip
    text_columns, label_column = (8, 9), -1
    headers = tuple(files)
    server_files = {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}

    def guid(self, set_type, number, row):
        return f"{set_type}-{row[0]}"


class ColaProcessor(DataProcessor):
    text_columns, label_column, test_columns = (3,), 1, (1,)
    headers = ("test",)
    metrics, main_metric = {"eval_mcc": glue_metrics.matthews}, "eval_mcc"
    server_files = {"test": "CoLA.tsv"}


class Sst2Processor(DataProcessor):
    text_columns, label_column, test_columns = (0,), 1, (1,)
    server_files = {"test": "SST-2.tsv"}


class StsbProcessor(DataProcessor):
    """Similarity from 0 to 5: a regression."""

    labels = ()
    text_columns, label_column = (7, 8), 9
    metrics = {"eval_pearson": glue_metrics.pearson, "eval_spearman": glue_metrics.spearman}
    main_metric = "eval_pearson"
    server_files = {"test": "STS-B.tsv"}


class QqpProcessor(DataProcessor):
    text_columns, label_column, test_columns = (3, 4), 5, (1, 2)
    metrics = {"eval_f1": glue_metrics.f1}
    server_files = {"test": "QQP.tsv"}


class RteProcessor(DataProcessor):
    labels = ("entailment", "not_entailment")
    text_columns, label_column = (1, 2), 3
    server_files = {"test": "RTE.tsv"}


class QnliProcessor(RteProcessor):
    server_files = {"test": "QNLI.tsv"}


class WnliProcessor(RteProcessor):
    labels = ("0", "1")
    server_files = {"test": "WNLI.tsv"}


class XnliProcessor(DataProcessor):
    """Chinese, as Google's: the machine-translated training set and the dev set's rows in "zh"."""

    language = "zh"
    labels = MnliProcessor.labels
    files = {"train": "multinli/multinli.train.zh.tsv", "dev": "xnli.dev.tsv",
             "test": "xnli.test.tsv"}  # fmt: skip

    def get_examples(self, data_dir, set_type, log=print):
        train = set_type == "train"
        self.text_columns, self.label_column = ((0, 1), 2) if train else ((6, 7), 1)
        return super().get_examples(data_dir, set_type, log)

    def wants(self, row):
        return self.label_column == 2 or row[0] == self.language

    def label(self, row, where):
        if row[self.label_column] == "contradictory":  # so in the training file
            return "contradiction"
        return super().label(row, where)


class TsvProcessor(DataProcessor):
    """A user's own task, told by flags: train.tsv, dev.tsv and test.tsv with the same columns,
    except that test.tsv may lack the label's where that comes last.

    The first row is a header where `header` is "true", or "auto" and its label column holds none
    of the labels. A test file, which may have no labels, begins as train.tsv, or dev.tsv, does.
    """

    doubt = "columns are parted by tabs and counted from 0"

    def __init__(self, labels, text_columns, label_column, header="auto"):
        self.labels, self.text_columns, self.label_column = labels, text_columns, label_column
        self.header = header
        if len(labels) == 2:
            self.metrics = {"eval_f1": glue_metrics.f1, "eval_mcc": glue_metrics.matthews}

    def get_examples(self, data_dir, set_type, log=print):
        self.headers = (set_type,) if self._has_header(data_dir, set_type, log) else ()
        return super().get_examples(data_dir, set_type, log)

    def _has_header(self, data_dir, set_type, log):
        if self.header != "auto":
            return self.header == "true"
        path = os.path.join(data_dir, self.files[set_type])
        for name in ("train", "dev") if set_type == "test" else (set_type,):
            model = os.path.join(data_dir, self.files[name])
            if name == set_type or os.path.exists(model):
                _, row = next(read_tsv(model), (1, []))
                label = row[self.label_column] if len(row) > self.label_column else None
                if label is None or label in self.labels:
                    return False
                _, first = next(read_tsv(path), (1, []))
                if any(first[n : n + 1] != row[n : n + 1] for n in self.text_columns):
                    raise ValueError(
                        f"{path}:1 is not the header of {model}: begin both files with the same "
                        f"header, or both with none"
                    )
                log(f"{path}:1 is taken for a header ({model}:1 has {label!r} for a label)")
                return True
        raise ValueError(
            f"whether {path} begins with a header cannot be told without train.tsv or dev.tsv "
            f"beside it: give --header true or --header false"
        )


def labels_found(path, column):
    """What a column of a file holds, for a user who has not named the labels: "a (12), b (7)"."""
    counts = Counter(row[column] for _, row in read_tsv(path) if len(row) > column)
    return ", ".join(f"{label} ({count})" for label, count in counts.most_common(9))


PROCESSORS = {
    "cola": ColaProcessor, "mnli": MnliProcessor, "mrpc": MrpcProcessor, "qnli": QnliProcessor,
    "qqp": QqpProcessor, "rte": RteProcessor, "sst-2": Sst2Processor, "sts-b": StsbProcessor,
    "tsv": TsvProcessor, "wnli": WnliProcessor, "xnli": XnliProcessor,
}  # fmt: skip


def convert_single_example(ex_index, example, label_list, max_seq_length, tokenizer):
    """An InputExample's features. An example without a label gets label_id 0, as Google's."""
    from data import join_pair  # loads PyTorch, which reading files and flags does not need

    vocab = tokenizer.vocab
    ids, segments = join_pair(
        tokenizer.encode(example.text_a),
        tokenizer.encode(example.text_b) if example.text_b else [],
        vocab["[CLS]"], vocab["[SEP]"], max_seq_length,
    )  # fmt: skip
    label_id = 0 if example.label is None else example.label
    if label_list and example.label is not None:
        label_id = label_list.index(example.label)
    return InputFeatures(ids, np.ones_like(ids), segments, label_id)


def convert_examples_to_features(examples, label_list, max_seq_length, tokenizer):
    return [
        convert_single_example(index, example, label_list, max_seq_length, tokenizer)
        for index, example in enumerate(examples)
    ]
