"""The command lines: every flag of every script, and users' mistakes as one line.

FLAGS declares each flag once: default, help, allowed values, whether a resumed run may change it,
and the defaults of Google's scripts and of the first PyTorch port. `python flags.py` prints the
table of docs/flags.md from it.

Imports only the standard library, so that --help and a wrong flag are answered before PyTorch is
loaded.
"""

import argparse
import atexit
import contextlib
import difflib
import glob
import os
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

CLASSIFIER = "run_classifier"
SQUAD = "run_squad"
TAGGER = "run_tagger"
PRETRAINING = "run_pretraining"
FEATURES = "extract_features"
PREDICT = "predict"
INSTANCES = "create_pretraining_data"
TO_PYTORCH = "convert_tf_checkpoint_to_pytorch"
TO_TENSORFLOW = "convert_pytorch_checkpoint_to_tf"

# Script -> its name in docs/flags.md.
SCRIPTS = {
    CLASSIFIER: "classifier",
    SQUAD: "squad",
    TAGGER: "tagger",
    PRETRAINING: "pretraining",
    FEATURES: "features",
    PREDICT: "predict",
    INSTANCES: "instances",
    TO_PYTORCH: "to PyTorch",
    TO_TENSORFLOW: "to TensorFlow",
}
FINE_TUNING = (CLASSIFIER, SQUAD, TAGGER)
TRAINING = (CLASSIFIER, SQUAD, TAGGER, PRETRAINING)
MODEL_USERS = (CLASSIFIER, SQUAD, TAGGER, PRETRAINING, FEATURES)
CONVERTERS = (TO_PYTORCH, TO_TENSORFLOW)

SCHEDULES = ("warmup_linear", "warmup_constant", "warmup_cosine")
REQUIRED = "required"  # instead of a default
ABSENT = "—"  # instead of a default of Google's or the port's, where they lack the flag

# Flags of Google's scripts and of the first PyTorch port that have no meaning here.
MEANINGLESS = (
    "use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master", "num_tpu_cores",
    "iterations_per_loop", "use_one_hot_embeddings", "optimize_on_cpu",
)  # fmt: skip


# For an unknown flag's message: names on the command lines of other BERTs -> flags here. Names that
# share words with a flag's own name, such as --warmup, are found without this table.
OTHER_NAMES = {
    "lr": "learning_rate", "batch_size": "train_batch_size", "batch": "train_batch_size",
    "bs": "train_batch_size", "epochs": "num_train_steps", "num_epochs": "num_train_steps",
    "grad_accum": "gradient_accumulation_steps", "max_len": "max_seq_length",
    "bert_model": "init_checkpoint", "model": "init_checkpoint", "weights": "init_checkpoint",
    "model_name_or_path": "init_checkpoint", "tokenizer_name": "vocab_file",
    "config_name": "bert_config_file",
    "per_gpu_train_batch_size": "train_batch_size",
    "per_device_train_batch_size": "train_batch_size",
    "per_gpu_eval_batch_size": "eval_batch_size", "per_device_eval_batch_size": "eval_batch_size",
    "warmup_steps": "warmup_proportion", "lr_scheduler_type": "schedule",
    "save_total_limit": "keep_checkpoints", "do_eval": "do_predict", "do_test": "do_predict",
    "validation_file": "predict_file", "dev_file": "predict_file", "data_dir": "input_file",
    "train_file": "input_file", "cpu": "no_cuda", "use_cpu": "no_cuda", "no_gpu": "no_cuda",
    "cased": "no_do_lower_case", "uncased": "do_lower_case", "resume": "output_dir",
    "resume_from_checkpoint": "output_dir",
}  # fmt: skip
# Words in the names of flags that alone do not say which one is meant.
VAGUE_WORDS = {"do", "no", "num", "max", "file", "dir", "name", "steps", "size", "per"}


@dataclass(frozen=True)
class Range:
    """The numbers that a flag allows. NaN is in no range, nor is infinity."""

    least: float
    most: float = float("inf")
    above: bool = False  # `least` itself is not allowed
    below: bool = False  # `most` itself is not allowed

    def __contains__(self, value: float) -> bool:
        if (self.above and value == self.least) or (self.below and value == self.most):
            return False
        return self.least <= value <= self.most and value != float("inf")

    def __str__(self) -> str:
        if self.above:
            return f"above {self.least}" + (f" and below {self.most}" if self.below else "")
        if self.most == float("inf"):
            return f"{self.least} or more"
        return f"{self.least} to {self.most}"


AT_LEAST_0 = Range(0)
AT_LEAST_1 = Range(1)
ABOVE_0 = Range(0, above=True)
SHARE = Range(0, 1)


@dataclass(frozen=True)
class Flag:
    """One flag. `default` and `help` may be {script: value} where scripts differ."""

    name: str
    scripts: tuple[str, ...]
    kind: type  # bool, int, float or str
    default: object
    help: str | dict[str, str]
    metavar: str | None = None  # what stands for the value in --help
    alias: str | None = None  # another spelling, which --help does not show
    allowed: Range | None = None
    choices: tuple[str, ...] = ()
    positional: bool = False  # given by its place, without a name
    must_exist: bool = False  # an input file or folder, looked for before any work
    must_be_writable: bool = False  # a folder that the run creates
    # Whether a resumed run may have another value: it does not change what training computes.
    may_differ: bool = False
    # Whether it decides what --keep_best and --patience choose, and so may not differ with them.
    decides_best: bool = False
    google: str = ABSENT
    port: str = ABSENT

    def default_of(self, script: str) -> object:
        return self.default[script] if isinstance(self.default, dict) else self.default

    def help_of(self, script: str) -> str:
        return self.help[script] if isinstance(self.help, dict) else self.help

    @property
    def spelling(self) -> str:
        """How a user writes it: --name, or the name of its place, as in FOLDER."""
        return str(self.metavar) if self.positional else f"--{self.name}"

    def check(self, value: object) -> None:
        """Raises ValueError, or OSError for a path, where the flag does not allow `value`."""
        if value is None:
            return
        if self.allowed and value not in self.allowed:
            raise ValueError(f"{self.spelling} is {value}, but must be {self.allowed}")
        if value != value:
            raise ValueError(f"{self.spelling} is {value}, but must be a number")
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.spelling} is {value!r}; use one of {', '.join(self.choices)}")
        if self.must_exist and value:
            self.check_input(value)
        if self.must_be_writable and value:
            check_output_dir(value, self.name)

    def check_input(self, path: str) -> None:
        """Raises OSError where no file, or no folder, can be read at `path`."""
        if not os.path.exists(path):
            advice = download_advice(path) if self.positional else ""
            raise FileNotFoundError(f"{self.spelling} {path} {advice or 'does not exist'}")
        if self.metavar == "FILE" and os.path.isdir(path):
            raise IsADirectoryError(f"{self.spelling} {path} is a folder: give a file in it")
        if self.metavar == "FOLDER" and not os.path.isdir(path):
            raise NotADirectoryError(f"{self.spelling} {path} is a file: give its folder")
        if not os.access(path, os.R_OK):
            raise PermissionError(f"{self.spelling} {path} may not be read by this user")


# Heading in --help -> its flags.
FLAGS = {
    "task": (
        Flag(
            "task_name", (CLASSIFIER,), str, None,
            "cola, mnli, mrpc, qnli, qqp, rte, sst-2, sts-b, wnli or xnli, in upper or lower "
            "case; tsv for a task of your own; required unless --processor is given",
            metavar="NAME", google=REQUIRED, port=REQUIRED,
        ),
        Flag(
            "processor", (CLASSIFIER,), str, None,
            "a task of your own as a class: FILE.py:CLASS, in the style of glue_data.py or of "
            "Google's processors",
            metavar="FILE.py:CLASS", may_differ=True,
        ),
        Flag(
            "language", (CLASSIFIER,), str, "zh", "for XNLI: the language, as its files name it",
            metavar="NAME",
        ),
        Flag(
            "data_dir", (CLASSIFIER, TAGGER), str, REQUIRED,
            {
                CLASSIFIER: "folder with the task's files",
                TAGGER: "folder with train.txt, dev.txt and test.txt in CoNLL columns: a line for "
                "each word, the word first and its tag last, a blank line between sentences",
            },
            metavar="FOLDER", must_exist=True, may_differ=True, google=REQUIRED, port=REQUIRED,
        ),
        Flag(
            "folder", (PREDICT,), str, REQUIRED,
            "--output_dir of a run, or a folder with a BERT model of Hugging Face's",
            metavar="FOLDER", positional=True, must_exist=True,
        ),
        Flag(
            "text", (PREDICT,), str, None,
            "a text, or a question; without it and without --input, texts are asked for",
            metavar="TEXT", positional=True,
        ),
        Flag(
            "pair", (PREDICT,), str, None, "the text's pair, or the question's context",
            metavar="PAIR", positional=True,
        ),
        Flag(
            "input", (PREDICT,), str, None,
            "file of texts: .txt (a text per line, or a pair separated by ' ||| '), .tsv, .csv or "
            ".jsonl; - reads stdin",
            metavar="FILE",
        ),
        Flag(
            "input_format", (PREDICT,), str, None,
            "txt, tsv, csv or jsonl (default: as the file's name ends; txt for stdin)",
            metavar="NAME", choices=("txt", "tsv", "csv", "jsonl"),
        ),
        Flag(
            "context", (PREDICT,), str, None, "text file about which all questions are",
            metavar="FILE", must_exist=True,
        ),
        Flag(
            "embed", (PREDICT,), str, None,
            "write a vector for each text: mean of the last layer over all WordPieces, or the last "
            "layer at [CLS]",
            metavar="mean|cls", choices=("mean", "cls"),
        ),
        Flag(
            "output", (PREDICT,), str, None, "file to write, instead of stdout", metavar="FILE",
        ),
        Flag(
            "format", (PREDICT,), str, None,
            "jsonl, tsv, table, or npz for vectors (default: as --output ends, else table on a "
            "terminal and jsonl elsewhere)",
            metavar="NAME", choices=("jsonl", "tsv", "table", "npz"),
        ),
        Flag(
            "input_file", (PRETRAINING,), str, REQUIRED,
            "instance files, of create_pretraining_data.py or Google's TFRecord files: names or "
            "patterns, separated by commas",
            metavar="FILES", may_differ=True, google=REQUIRED,
        ),
        Flag(
            "input_file", (FEATURES,), str, REQUIRED,
            "text file: one text per line, or a pair separated by ' ||| '",
            metavar="FILE", must_exist=True, google=REQUIRED, port=REQUIRED,
        ),
        Flag(
            "input_file", (INSTANCES,), str, REQUIRED,
            "text files, one sentence per line, a blank line between documents: names or "
            "patterns, separated by commas",
            metavar="FILES", google=REQUIRED,
        ),
        Flag(
            "eval_file", (PRETRAINING,), str, None,
            "instance files to evaluate on, named as those of --input_file",
            metavar="FILES", may_differ=True,
        ),
        Flag(
            "output_dir", TRAINING, str, REQUIRED, "folder for weights, results and checkpoints",
            metavar="FOLDER", must_be_writable=True, may_differ=True, google=REQUIRED,
            port=REQUIRED,
        ),
        Flag(
            "output_file", (FEATURES,), str, REQUIRED, "file to write",
            metavar="FILE", google=REQUIRED, port=REQUIRED,
        ),
        Flag(
            "output_file", (INSTANCES,), str, REQUIRED,
            "files to write, separated by commas; with --stream one name A.B, which becomes "
            "A-00000.B, A-00001.B, …",
            metavar="FILES", google=REQUIRED,
        ),
        Flag(
            "do_train", TRAINING, bool, False, "train the model",
            may_differ=True, google="false", port="false",
        ),
        Flag(
            "train_file", (SQUAD,), str, None, "SQuAD file to train on",
            metavar="FILE", must_exist=True, may_differ=True, google="none", port="none",
        ),
        Flag(
            "do_eval", (CLASSIFIER, TAGGER, PRETRAINING), bool, False,
            {
                CLASSIFIER: "evaluate on dev.tsv",
                TAGGER: "evaluate on dev.txt",
                PRETRAINING: "evaluate on the first instances of --eval_file, or without it of "
                "--input_file",
            },
            may_differ=True, google="false", port="false",
        ),
        Flag(
            "do_predict", FINE_TUNING, bool, False,
            {
                CLASSIFIER: "write the class probabilities of test.tsv",
                SQUAD: "answer the questions of --predict_file",
                TAGGER: "tag test.txt, and evaluate on it if it has tags",
            },
            may_differ=True, google="false", port="false, classifier —",
        ),
        Flag(
            "predict_file", (SQUAD,), str, None,
            "SQuAD file to answer; if it contains answers, EM and F1 are computed",
            metavar="FILE", must_exist=True, may_differ=True, google="none", port="none",
        ),
        Flag(
            "version_2_with_negative", (SQUAD,), bool, False,
            "the files are SQuAD 2.0: some questions have no answer",
            google="false",
        ),
        Flag(
            "null_score_diff_threshold", (SQUAD, PREDICT), float, {SQUAD: 0.0, PREDICT: None},
            {
                SQUAD: "for SQuAD 2.0: a question is left unanswered if the score of no answer "
                "exceeds that of the best answer by more than this",
                PREDICT: "leave a question unanswered if the score of no answer exceeds that of "
                "the best answer by more than this (default: that of the run)",
            },
            may_differ=True, decides_best=True, google="0.0",
        ),
        Flag(
            "doc_stride", (SQUAD,), int, 128,
            "WordPieces from the start of one window over a long paragraph to the next",
            allowed=AT_LEAST_1, google="128", port="128",
        ),
        Flag(
            "doc_stride", (CLASSIFIER,), int, None,
            "divide longer texts into windows of --max_seq_length that begin this number of "
            "WordPieces apart: each is trained on, and the mean of their logits is the text's; "
            "without this flag longer texts are cut, as Google does",
            allowed=AT_LEAST_1,
        ),
        Flag(
            "max_query_length", (SQUAD,), int, 64,
            "questions are cut to this number of WordPieces",
            allowed=AT_LEAST_0, google="64", port="64",
        ),
        Flag(
            "n_best_size", (SQUAD,), int, 20, "answers per question in nbest_predictions.json",
            allowed=AT_LEAST_1, may_differ=True, decides_best=True, google="20", port="20",
        ),
        Flag(
            "max_answer_length", (SQUAD,), int, 30, "length of the longest answer, in WordPieces",
            allowed=AT_LEAST_1, may_differ=True, decides_best=True, google="30", port="30",
        ),
        Flag(
            "interactive", (SQUAD,), bool, False,
            "answer questions typed at the terminal or read from a pipe",
            may_differ=True,
        ),
        Flag(
            "verbose_logging", (SQUAD,), bool, False,
            "explain each answer that could not be mapped back to the original text",
            may_differ=True, google="false", port="false",
        ),
        Flag(
            "seeds", (CLASSIFIER,), str, None,
            "train and evaluate once per seed, as in 1,2,3,4,5; each run has its own folder "
            "seed-N in --output_dir, which receives the mean, the standard deviation and the "
            "best run's files",
            metavar="N,N,…", may_differ=True,
        ),
        Flag(
            "eval_batch_size", (CLASSIFIER, TAGGER, PRETRAINING), int, 8,
            "examples per evaluation batch",
            allowed=AT_LEAST_1, may_differ=True, decides_best=True, google="8", port="8",
        ),
        Flag(
            "max_eval_steps", (PRETRAINING,), int, 100,
            "batches to evaluate; where the files end, evaluation starts over at the first one",
            allowed=AT_LEAST_1, may_differ=True, decides_best=True, google="100",
        ),
        Flag(
            "max_eval_examples", TRAINING, int, None,
            {
                CLASSIFIER: "evaluate on the first N examples of each dev file alone",
                SQUAD: "answer the first N questions of --predict_file alone",
                TAGGER: "evaluate on the first N sentences of dev.txt alone",
                PRETRAINING: "evaluate on the first N instances alone",
            },
            allowed=AT_LEAST_1, may_differ=True, decides_best=True,
        ),
        Flag(
            "predict_batch_size", FINE_TUNING, int, None,
            "inputs per prediction batch; by default as many as make a number of tokens",
            allowed=AT_LEAST_1, may_differ=True, google="8", port="8, classifier —",
        ),
        Flag(
            "batch_size", (FEATURES,), int, 32, "texts per batch",
            allowed=AT_LEAST_1, google="32", port="32",
        ),
        Flag(
            "layers", (FEATURES,), str, "-1,-2,-3,-4",
            "layers to write, counted from 0 for the first or from -1 for the last",
            metavar="N,N,…", google="-1,-2,-3,-4", port="-1,-2,-3,-4",
        ),
        Flag(
            "output_format", (FEATURES,), str, "jsonl",
            "jsonl: one JSON object per line, as Google's; or npz: NumPy arrays text{N}_layer{L} "
            "and the tokens as text{N}_tokens",
            metavar="jsonl|npz", choices=("jsonl", "npz"),
        ),
        Flag(
            "output_format", (INSTANCES,), str, "instances",
            "instances: a file that opens at once, read at random, or tfrecord: TFRecord files of "
            "tf.train.Example, which Google's run_pretraining.py reads; run_pretraining.py reads "
            "both",
            metavar="instances|tfrecord", choices=("instances", "tfrecord"),
        ),
        Flag(
            "align_answers", (SQUAD,), bool, False,
            "place answers by characters, for texts without spaces: learn the answer at its "
            "answer_start and return just the characters of the predicted tokens; without this "
            "flag as Google, by words",
        ),
        Flag(
            "compute_padding", FINE_TUNING, bool, False,
            "compute the padding positions too, as Google's graph does",
        ),
    ),
    "task of your own (--task_name tsv)": (
        Flag(
            "labels", (CLASSIFIER,), str, None,
            "names of the classes as they appear in the label column, as in no,yes; names with "
            'commas as a JSON list, as in \'["no, never","yes"]\'; none for a regression, whose '
            "labels are numbers (default: those of the training file, sorted)",
            metavar="NAME,NAME,…",
        ),
        Flag(
            "text_columns", (CLASSIFIER, PREDICT), str, None,
            {
                CLASSIFIER: "column of the text, or the two columns of a pair, by name or by "
                "number from 0, as in premise,hypothesis or 0,1",
                PREDICT: "column of the text, or the two columns of a pair, by name or by number "
                "from 0; needed where they have no usual names, as text or sentence1 and sentence2",
            },
            metavar="NAME[,NAME]",
            may_differ=True,
        ),
        Flag(
            "label_column", (CLASSIFIER,), str, None,
            "column of the label, by name or by number from 0; the test file may lack it, if by "
            "number it is the last one",
            metavar="NAME",
            may_differ=True,
        ),
        Flag(
            "multi_label", (CLASSIFIER,), bool, False,
            "an example may have several labels, separated by | in the label column (in a .jsonl "
            "also a list), or none; each label is a decision of its own",
        ),
        Flag(
            "dev_fraction", (CLASSIFIER,), float, None,
            "without a dev file: the share of the training file that is evaluated on and not "
            "trained on, chosen by --seed, of each label alike",
            allowed=Range(0, 1, above=True, below=True),
        ),
        Flag(
            "header", (CLASSIFIER, PREDICT), str, "auto",
            {
                CLASSIFIER: "whether the .tsv and .csv files begin with a header: true, false or "
                "auto. auto: all do if a column is given by name; else train and dev do if the "
                "label column of their first row is not a label (a near miss stops the run), and "
                "test if it begins as they do",
                PREDICT: "whether a .tsv or .csv file begins with a header: true, false or auto. "
                "auto: it does if --text_columns are names, or if usual names are in its first row",
            },
            metavar="true|false|auto", choices=("auto", "true", "false"),
            may_differ=True,
        ),
    ),
    "model": (
        Flag(
            "bert_config_file", (*MODEL_USERS, *CONVERTERS), str,
            {**dict.fromkeys(MODEL_USERS), **dict.fromkeys(CONVERTERS, REQUIRED)},
            "bert_config.json of the model, or transformers' config.json; not needed where it lies "
            "beside the weights of --init_checkpoint",
            metavar="FILE", must_exist=True, google=REQUIRED, port=REQUIRED,
        ),
        Flag(
            "vocab_file", (*MODEL_USERS, INSTANCES), str,
            {**dict.fromkeys(MODEL_USERS), INSTANCES: REQUIRED},
            "vocab.txt of the model; not needed where it lies beside the weights of "
            "--init_checkpoint",
            metavar="FILE", must_exist=True, google="required, pretraining —", port=REQUIRED,
        ),
        Flag(
            "init_checkpoint", MODEL_USERS, str,
            {**dict.fromkeys(TRAINING), FEATURES: REQUIRED},
            "weights to start from: a file or folder of PyTorch weights, or a TensorFlow "
            "checkpoint; without this flag, training starts from random weights",
            metavar="PATH", google="none, features required", port="none, features required",
        ),
        Flag(
            "do_lower_case", (*MODEL_USERS, INSTANCES), bool, True,
            "lower-case the text; give --no_do_lower_case for cased models; without this flag, as "
            "the files beside the weights of --init_checkpoint say",
            google="true, pretraining —", port="true and not switchable, classifier false",
        ),
        Flag(
            "strip_accents", (*MODEL_USERS, INSTANCES), bool, True,
            "strip accents from text that is lower-cased, as Google does; --no_strip_accents "
            "keeps them; without this flag, as the files beside the weights say",
        ),
        Flag(
            "never_split", (*MODEL_USERS, INSTANCES), str, None,
            "entries of the vocabulary that stay whole in texts, as in [E1],[/E1], or all: every "
            "bracketed entry; without this flag they are split, as Google does. Evaluation takes "
            "it from the run.json beside the weights",
            metavar="NAME,NAME,…|all",
        ),
        Flag(
            "add_tokens", (*TRAINING, INSTANCES), str, None,
            "file of words to add to the vocabulary, one a line: they fill [unused] entries first, "
            "then get new rows, and begin as the mean of their WordPieces; the output folder has "
            "them. Pre-training takes the same file in create_pretraining_data.py",
            metavar="FILE", must_exist=True, may_differ=True,
        ),
        Flag(
            "max_seq_length", (*MODEL_USERS, PREDICT), int,
            {**dict.fromkeys(MODEL_USERS, 128), SQUAD: 384, PREDICT: None},
            "WordPieces per input; longer inputs are cut, or in SQuAD and tagging divided into "
            "windows; predict.py does as training did by default",
            allowed=Range(3), google="128, squad 384", port="128, squad 384",
        ),
    ),
    "instances": (
        Flag(
            "max_seq_length", (INSTANCES,), int, 128, "most WordPieces per instance",
            allowed=Range(5, 65535), google="128",
        ),
        Flag(
            "max_predictions_per_seq", (PRETRAINING,), int, 20,
            "most masked WordPieces per instance, as the files were made",
            allowed=AT_LEAST_1, google="20",
        ),
        Flag(
            "max_predictions_per_seq", (INSTANCES,), int, 20, "most masked WordPieces per instance",
            allowed=Range(1, 65535), google="20",
        ),
        Flag(
            "masked_lm_prob", (INSTANCES,), float, 0.15, "share of the WordPieces to mask",
            allowed=SHARE, google="0.15",
        ),
        Flag(
            "do_whole_word_mask", (INSTANCES,), bool, False,
            "mask either all WordPieces of a word or none",
            google="false, since May 2019",
        ),
        Flag(
            "short_seq_prob", (INSTANCES,), float, 0.1,
            "probability that a document is made into shorter instances",
            allowed=SHARE, google="0.1",
        ),
        Flag(
            "dupe_factor", (INSTANCES,), int, 10,
            "passes over the text, each with other masks",
            allowed=Range(1, 1000000), google="10",
        ),
        Flag(
            "random_seed", (INSTANCES,), int, 12345,
            "seed of the random choices; the same seed gives the same instances",
            google="12345",
        ),
        Flag(
            "stream", (INSTANCES,), bool, False,
            "make each --shard_mb of text a corpus and a file of its own, which takes less memory",
        ),
        Flag(
            "shard_mb", (INSTANCES,), float, 8.0,
            "with --stream: megabytes (2**20 bytes) of text per file",
            allowed=Range(0.001, 1000000),
        ),
        Flag(
            "workers", (INSTANCES,), int, 1, "with --stream: number of processes",
            allowed=Range(1, 1024),
        ),
    ),
    "conversion": (
        Flag(
            "tf_checkpoint_path", CONVERTERS, str, REQUIRED,
            {
                TO_PYTORCH: "checkpoint to read: its prefix, its .index file or its folder",
                TO_TENSORFLOW: "prefix of the checkpoint to write",
            },
            metavar="PATH", port="required",
        ),
        Flag(
            "pytorch_dump_path", (TO_PYTORCH,), str, REQUIRED,
            "file to write, or a folder to write pytorch_model.bin to",
            metavar="PATH", port=REQUIRED,
        ),
        Flag(
            "pytorch_model_path", (TO_TENSORFLOW,), str, REQUIRED,
            "weights to read: a .bin or .safetensors file, or a folder with one",
            metavar="PATH", must_exist=True,
        ),
    ),
    "length of training": (
        Flag(
            "num_train_epochs", FINE_TUNING, float, 3.0, "passes over the training examples",
            allowed=ABOVE_0, google="3.0", port="3.0",
        ),
        Flag(
            "warmup_proportion", FINE_TUNING, float, 0.1,
            "share of the steps during which the learning rate rises",
            allowed=SHARE, google="0.1", port="0.1",
        ),
        Flag(
            "num_train_steps", (PRETRAINING,), int, 100000, "training steps",
            allowed=AT_LEAST_1, google="100000",
        ),
        Flag(
            "num_warmup_steps", (PRETRAINING,), int, 10000,
            "steps during which the learning rate rises",
            allowed=AT_LEAST_0, google="10000",
        ),
        Flag(
            "max_train_examples", TRAINING, int, None,
            {
                CLASSIFIER: "train on the first N examples of the training file alone",
                SQUAD: "train on the first N questions of --train_file alone",
                TAGGER: "train on the first N sentences of train.txt alone",
                PRETRAINING: "train on the first N instances alone",
            },
            allowed=AT_LEAST_1,
        ),
    ),
    "evaluation during training": (
        Flag(
            "eval_steps", TRAINING, int, None,
            {
                CLASSIFIER: "evaluate on the dev file every N steps and after the last one",
                SQUAD: "evaluate on --predict_file every N steps and after the last one",
                TAGGER: "evaluate on dev.txt every N steps and after the last one",
                PRETRAINING: "evaluate on --eval_file every N steps and after the last one",
            },
            allowed=AT_LEAST_1, may_differ=True, decides_best=True,
        ),
        Flag(
            "keep_best", TRAINING, bool, False,
            {
                CLASSIFIER: "end with the weights of the best evaluation, by accuracy, or F1 "
                "(MRPC, QQP), Matthews' (CoLA) or Pearson's correlation (regressions)",
                SQUAD: "end with the weights of the best evaluation, by F1",
                TAGGER: "end with the weights of the best evaluation, by F1, or accuracy for tags "
                "that mark no entities",
                PRETRAINING: "end with the weights of the best evaluation, by the loss of masked "
                "words",
            },
        ),
        Flag(
            "patience", TRAINING, int, None,
            "stop after N evaluations in a row without a better figure", allowed=AT_LEAST_1,
        ),
    ),
    "training": (
        Flag(
            "train_batch_size", TRAINING, int, 32,
            "examples per step, over all ranks and accumulation steps together",
            allowed=AT_LEAST_1, google="32", port="32",
        ),
        Flag(
            "learning_rate", TRAINING, float, 5e-5, "peak learning rate of BERT's Adam",
            allowed=ABOVE_0, google="5e-5", port="5e-5",
        ),
        Flag(
            "class_weights", (CLASSIFIER,), str, None,
            "weight of each label's examples in the loss, which is their weighted mean: balanced "
            "(n / (k * count), of n examples with k labels), or a number for each label, in the "
            "order of the labels",
            metavar="balanced|N,N,…",
        ),
        Flag(
            "schedule", TRAINING, str, "warmup_linear",
            "how the learning rate continues after warm-up: warmup_linear (falls to 0), "
            "warmup_constant or warmup_cosine",
            metavar="NAME", choices=SCHEDULES,
        ),
        Flag(
            "gradient_accumulation_steps", TRAINING, int, 1,
            "parts that a step's batch is computed in, to save memory",
            alias="accumulate_gradients", allowed=AT_LEAST_1, may_differ=True, port="1",
        ),
        Flag(
            "seed", TRAINING, int, 42, "seed of new weights, the order of examples and dropout",
            allowed=AT_LEAST_0, port="42",
        ),
        Flag(
            "save_checkpoints_steps", TRAINING, int, 1000,
            "steps between two checkpoints, from which the same command resumes a killed run",
            allowed=AT_LEAST_1, may_differ=True, google="1000", port="1000, unused",
        ),
        Flag(
            "keep_checkpoints", TRAINING, int, 2, "how many of the newest checkpoints to keep",
            allowed=AT_LEAST_1, may_differ=True,
        ),
        Flag(
            "overwrite_output_dir", TRAINING, bool, False,
            "start over if --output_dir holds an earlier run: removes all that a run writes; an "
            "unfinished run of the same command is resumed all the same",
            may_differ=True,
        ),
        Flag(
            "save_safetensors", TRAINING, bool, False,
            "write model.safetensors as well as pytorch_model.bin",
            may_differ=True,
        ),
        Flag(
            "tensorboard", TRAINING, str, None,
            "folder for TensorBoard's event files (needs the package tensorboard)",
            metavar="FOLDER", must_be_writable=True, may_differ=True,
        ),
    ),
    "device": (
        Flag(
            "no_cuda", (*MODEL_USERS, PREDICT), bool, False, "use the CPU even if there is a GPU",
            may_differ=True, port="false, features —",
        ),
        Flag(
            "bf16", (*MODEL_USERS, PREDICT), bool, False,
            "compute matrix products in bfloat16, on a GPU or CPU; a CPU without native bfloat16 "
            "computes in float32 instead",
        ),
        Flag(
            "fp16", TRAINING, bool, False,
            "compute matrix products in float16 with loss scaling (GPU only)",
        ),
        Flag(
            "loss_scale", TRAINING, float, 0.0,
            "fixed loss scale for --fp16; 0 adapts it during training",
            allowed=AT_LEAST_0,
        ),
        Flag(
            "compile", TRAINING, bool, False,
            "compile the layers with torch.compile, which takes about a minute at the start (GPU "
            "only)",
            may_differ=True,
        ),
        Flag(
            "cuda_graphs", TRAINING, bool, True,
            "on one GPU, capture a training step as a CUDA graph for each number of tokens, "
            "rounded up to 128, and replay it",
            may_differ=True,
        ),
        Flag(
            "local_rank", TRAINING, int, -1,
            "set by the launcher of distributed training, torchrun or torch.distributed.launch",
            alias="local-rank", may_differ=True, port="-1",
        ),
    ),
}  # fmt: skip

# What a resumed run may change, and what of it a run may not that chooses weights by evaluation.
MAY_DIFFER = {flag.name for flags in FLAGS.values() for flag in flags if flag.may_differ}
DECIDES_BEST = {flag.name for flags in FLAGS.values() for flag in flags if flag.decides_best}


def flags_of(script: str) -> Iterator[tuple[str, Flag]]:
    """Yields (heading, flag) for each flag of `script`."""
    for heading, flags in FLAGS.items():
        for flag in flags:
            if script in flag.scripts:
                yield heading, flag


class Args(argparse.Namespace):
    """The flags' values; beside them, and not in `vars`, what the functions below return."""

    __slots__ = ("given", "script", "tokenizer")

    def __init__(self, script: str):
        super().__init__()
        self.given = set()
        self.script = script
        self.tokenizer = None


def is_given(namespace: argparse.Namespace, name: str) -> bool:
    """Whether the command line named the flag."""
    return name in getattr(namespace, "given", ())


def script_of(namespace: argparse.Namespace) -> str | None:
    """The script whose flags `namespace` holds; None for one that no Parser made."""
    return getattr(namespace, "script", None)


def keep_tokenizer(namespace: argparse.Namespace, tokenizer) -> None:
    """Keeps the tokenizer of a run, whose files are written beside its weights."""
    namespace.tokenizer = tokenizer


def tokenizer_of(namespace: argparse.Namespace):
    """What `keep_tokenizer` kept; None before."""
    return getattr(namespace, "tokenizer", None)


def may_resume(namespace: argparse.Namespace) -> bool:
    """Whether a training run finds checkpoints, and with them its configuration and vocabulary."""
    folder = namespace.output_dir
    if namespace.overwrite_output_dir or not folder:
        return False
    return bool(glob.glob(os.path.join(glob.escape(folder), "checkpoint-*.pt")))


def default_value(namespace: argparse.Namespace, name: str) -> object:
    """The default of a flag in the script whose flags `namespace` holds. Raises LookupError."""
    script = script_of(namespace)
    return {flag.name: flag.default_of(script) for _, flag in flags_of(script)}[name]


class Store(argparse.Action):
    """Stores a flag's value and notes that it was given."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, self.const if self.nargs == 0 else values)
        if values is not None:  # None: nothing stands at the place of the flag
            namespace.given.add(self.dest)


class Parser(argparse.ArgumentParser):
    """The command line of `script`; raises ValueError or OSError for a user's mistake.

    A switch may be given as --flag, --flag=true, --flag true or --no_flag, as Google's and the
    first PyTorch port's command lines do.
    """

    def __init__(self, script: str, description: str, example: str):
        places = [
            flag.spelling if flag.default == REQUIRED else f"[{flag.spelling}]"
            for _, flag in flags_of(script)
            if flag.positional
        ]
        super().__init__(
            usage=" ".join(["%(prog)s", *places, "[flags]"]),
            description=description,
            epilog=f"example:\n{example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.script = script
        self._groups = {}

        for heading, flag in flags_of(script):
            if heading not in self._groups:
                self._groups[heading] = self.add_argument_group(heading)
            self._add(self._groups[heading], flag)
        for name in MEANINGLESS:
            self.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)

        other = self.add_argument_group("other")
        other.add_argument("-h", "--help", action="help", help="show this text")

    def _add(self, group, flag):
        default = flag.default_of(self.script)
        text = flag.help_of(self.script)
        if default is not None:
            text += f" ({REQUIRED})" if default == REQUIRED else f" (default: {shown(default)})"

        options = {"dest": flag.name, "type": PARSE[flag.kind], "action": Store}
        if flag.positional:
            group.add_argument(flag.name, nargs="?", metavar=flag.metavar, help=text, action=Store)
            return
        if flag.kind is bool:
            options |= {"nargs": "?", "const": True}
        group.add_argument(
            f"--{flag.name}",
            default=None if default == REQUIRED else default,
            metavar=flag.metavar or METAVAR[flag.kind],
            help=text.replace("%", "%%"),
            **options,
        )

        hidden = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        if flag.alias:
            group.add_argument(f"--{flag.alias}", **options, **hidden)
        if flag.kind is bool:
            group.add_argument(
                f"--no_{flag.name}", dest=flag.name, action=Store, nargs=0, const=False, **hidden
            )

    def parse_args(self, argv: list[str] | None = None) -> argparse.Namespace:
        """Parses `argv`, or else the process's command line, and checks each flag on its own."""
        flags = [flag for _, flag in flags_of(self.script)]
        namespace = Args(self.script)
        if any(flag.positional for flag in flags):
            # Flags may stand between what is given by its place, and a switch must not take that
            # for its value.
            switches = {flag.spelling for flag in flags if flag.kind is bool}
            words = sys.argv[1:] if argv is None else argv
            words = [f"{word}=true" if word in switches else word for word in words]
            args, rest = self.parse_known_intermixed_args(words, namespace)
        else:
            args, rest = self.parse_known_args(argv, namespace)
        if rest:
            raise ValueError(self._unknown(rest))
        self._refuse_missing(args, flags)

        for name in MEANINGLESS:
            if getattr(args, name) is not None:
                print(f"--{name} has no meaning here and is ignored", file=sys.stderr)
            delattr(args, name)

        for flag in flags:
            flag.check(getattr(args, flag.name))
        if getattr(args, "bf16", False) and getattr(args, "fp16", False):
            raise ValueError("--bf16 and --fp16 exclude each other: give one of them")
        for name in ("keep_best", "patience"):
            if getattr(args, name, None) and not args.eval_steps:
                raise ValueError(f"--{name} needs --eval_steps N: how often to evaluate")
        return args

    def _refuse_missing(self, namespace, flags):
        """Raises ValueError for required flags that are missing or empty."""
        required = {flag.name for flag in flags if flag.default_of(self.script) == REQUIRED}
        hint = "--help explains them"
        # Without weights to start from there is no folder that has these.
        trains = self.script in TRAINING and namespace.do_train
        if trains and not namespace.init_checkpoint and not may_resume(namespace):
            required.add("bert_config_file")
            if self.script != PRETRAINING:
                required.add("vocab_file")
            hint = "--init_checkpoint FOLDER can bring vocabulary and configuration"
        for name in sorted(required & namespace.given):
            if not getattr(namespace, name):
                raise ValueError(f"--{name} is empty: give a value after the =")
        missing = [flag.spelling for flag in flags if flag.name in required - namespace.given]
        if missing:
            raise ValueError(f"required flags are missing: {', '.join(missing)} ({hint})")

    def _unknown(self, rest):
        """The message for what argparse could not place."""
        names = [word.partition("=")[0] for word in rest if word.startswith("-")]
        if not names:
            return f"{rest[0]!r} does not belong to a flag"

        close = {name: self._suggestion(name) for name in names}
        if len(names) == 1:
            hint = f"did you mean {close[names[0]]}?" if close[names[0]] else "see --help"
            return f"unknown flag {names[0]}: {hint}"
        hinted = [
            f"{name} (did you mean {found}?)" if found else name for name, found in close.items()
        ]
        return f"unknown flags {', '.join(hinted)}"

    def _suggestion(self, given):
        """The flag that a user may have meant by the unknown one, or None.

        That is the one of OTHER_NAMES, or the most like among those that have all words of what was
        given, as --num_train_epochs has that of --epochs, or among those of like spelling.
        """
        known = [
            option
            for action in self._actions
            for option in action.option_strings
            if action.dest not in MEANINGLESS
        ]
        name = given.lstrip("-").replace("-", "_").lower()
        other = f"--{OTHER_NAMES.get(name)}"
        if other in known:
            return other
        words = set(name.split("_"))
        if words - VAGUE_WORDS:
            meant = [option for option in known if words <= set(option[2:].split("_"))]
            if meant:
                return difflib.get_close_matches(f"--{name}", meant, 1, 0)[0]
        return next(iter(difflib.get_close_matches(f"--{name}", known, 1, 0.75)), None)

    def error(self, message):
        """Raises argparse's own complaints as ValueError, in this module's words."""
        message = message.removeprefix("argument ")
        name, _, complaint = message.partition(": ")
        if complaint == "expected one argument":
            message = (
                f"{name} needs a value; join a value that begins with - by =, as in --layers=-1,-2"
            )
        elif complaint.startswith("ignored explicit argument"):
            message = f"{name} takes no value"
        raise ValueError(message) from None


def to_bool(text: str) -> bool:
    """What Google's and the first port's command lines write for a switch."""
    if text.lower() in ("true", "t", "1", "yes"):
        return True
    if text.lower() in ("false", "f", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def to_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


PARSE = {bool: to_bool, int: to_int, float: to_float, str: str}
METAVAR = {bool: "true|false", int: "N", float: "NUMBER"}


def shown(value: object) -> str:
    """A default as --help and docs/flags.md show it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("e-0", "e-")


def run(function: Callable, *arguments):
    """Returns `function(*arguments)`; a user's mistake becomes one line and exit status 2.

    A mistake is a ValueError or an OSError. BERT_DEBUG=1 in the environment shows its traceback.
    """
    script = os.path.basename(sys.argv[0])
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = uncaught  # in the seconds in which a script loads PyTorch
    try:
        return function(*arguments)
    except (ValueError, OSError) as error:
        if os.environ.get("BERT_DEBUG"):
            raise
        if isinstance(error, OSError) and error.filename is not None:
            error = f"{error.filename}: {error.strerror}"
        if sys.stdout:
            sys.stdout.flush()
        write_error(f"{script}: error: {error}")
        sys.exit(2)
    except KeyboardInterrupt as error:
        # PyTorch takes a moment to end, and a second Ctrl-C in it would print a traceback.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        uncaught(KeyboardInterrupt, error, None)
        sys.exit(130)


def uncaught(kind: type, error: BaseException, trace: TracebackType | None) -> None:
    """Reports an exception that ends the process: Ctrl-C in one line, others with a traceback."""
    if kind is KeyboardInterrupt:
        write_error(f"\n{os.path.basename(sys.argv[0])}: interrupted")
    else:
        sys.__excepthook__(kind, error, trace)


def write_error(line: str) -> None:
    """Writes a line to stderr at once, even while another one is being printed, as in a handler.

    The terminal may be gone; where stderr was closed from the start, 2 may be another file.
    """
    with contextlib.suppress(OSError):
        if sys.stderr:
            os.write(2, f"{line}\n".encode(errors="replace"))


def note(text: str) -> None:
    """Prints a line, in a run of several ranks on the first one alone."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def download_advice(path: str) -> str:
    """What to download for a path that is a model's name at Hugging Face; "" for another path."""
    name = path.removeprefix("google-bert/")
    if re.fullmatch(r"bert-(base|large|mini|tiny|small|medium)[\w-]*", name):
        name = f"google-bert/{name}"
    elif os.path.isdir(os.path.dirname(path)) or not re.fullmatch(
        r"[\w.-]+/[\w.-]*bert[\w.-]*", name, re.IGNORECASE
    ):
        return ""
    return (
        f"is not a folder or file here, and nothing is downloaded: put config.json, vocab.txt and "
        f"model.safetensors from https://huggingface.co/{name} into a folder, and give that folder"
    )


def check_output_dir(path: str, name: str = "output_dir") -> None:
    """Raises OSError where files could not be written to the folder `path`; creates nothing."""
    parent = os.path.abspath(path)
    while not os.path.exists(parent):
        if os.path.islink(parent):
            target = os.readlink(parent)
            raise FileNotFoundError(
                f"--{name} {path}: {parent} is a link to {target}, which does not exist"
            )
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise NotADirectoryError(f"--{name} {path}: {parent} is a file")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"--{name} {path}: {parent} is not writable")


def check_output_file(path: str, name: str, inputs: Iterable[str]) -> None:
    """Raises ValueError or OSError where the file `path` could not be written, or is an input."""
    if os.path.isdir(path):
        raise ValueError(f"--{name} {path} is a folder: give a file to write")
    if os.path.isfile(path) or not os.path.exists(path):  # else a device or a pipe
        check_output_dir(os.path.dirname(path) or ".", name)
    for other in filter(None, inputs):  # without flags that were not given
        if os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other):
            raise ValueError(f"--{name} {path} is one of the input files: pass another one")


def check_model(config, vocab: dict[str, int] | None, args: argparse.Namespace) -> None:
    """Raises ValueError where the flags or the vocabulary's size do not suit the configuration."""
    if args.max_seq_length > config.max_position_embeddings:
        raise ValueError(
            f"--max_seq_length {args.max_seq_length} exceeds the model's "
            f"{config.max_position_embeddings} positions"
        )
    if vocab is None:
        return

    # As Google counts: a line is an entry, even if it is blank or the same as another; but blank
    # lines at the end are none.
    size = max(index for word, index in vocab.items() if word) + 1
    if size > config.vocab_size:
        tokens = getattr(tokenizer_of(args), "never_split", ())
        added = [token for token in tokens if not isinstance(token, str)]
        if added and size - len(added) <= config.vocab_size:
            raise ValueError(
                f"with the tokens added beside it {args.vocab_file} has {size} entries, but "
                f"vocab_size in {args.bert_config_file} is {config.vocab_size}: resize the model's "
                f"embeddings for them, or remove them"
            )
        raise ValueError(
            f"{args.vocab_file} has {size} entries, but vocab_size in {args.bert_config_file} "
            f"is {config.vocab_size}: they belong to different models"
        )
    if size < config.vocab_size:
        note(
            f"{args.vocab_file} has {size} entries for the {config.vocab_size} rows of the word "
            f"table: right for a table with a reserve; the other rows are never read"
        )


def markdown() -> str:
    """The content of docs/flags.md."""
    flags = [flag for group in FLAGS.values() for flag in group]
    scripts = "\n".join(f"- {short}: `{script}.py`" for script, short in SCRIPTS.items())
    rows = "\n".join(_row(flag) for flag in flags)
    aliases = ", ".join(f"`--{flag.alias}` for `--{flag.name}`" for flag in flags if flag.alias)
    meaningless = ", ".join(f"`--{name}`" for name in MEANINGLESS)
    resumable = ", ".join(f"`--{flag.name}`" for flag in flags if flag.may_differ)
    deciding = ", ".join(f"`--{name}`" for name in sorted(DECIDES_BEST))
    paragraphs = [
        "Each script explains its own flags with `--help`. This table shows all of them, with the "
        "defaults of Google's scripts (google-research/bert, December 2018), of the first PyTorch "
        f'port (November 2018) and of the scripts here. "{ABSENT}" means that the flag does not '
        "exist there. A value holds for all scripts in the second column, except those that the "
        "cell names. The first port had no scripts for pre-training, and Google has no "
        "converters. The scripts are:",
        scripts,
        "A value follows its flag after a space or `=`. A value that begins with `-` needs the "
        "`=`, as in `--layers=-1,-2`, unless it is a number. A switch (true or false) is given as "
        "`--flag`, `--flag=true`, `--flag true` (not where texts may follow, as for `predict.py`) "
        "or `--no_flag`. Names cannot be abbreviated.",
        f"| flag | scripts | Google | first port | here | what it does |\n|{6 * '---|'}\n{rows}",
        f"Other spellings: {aliases}.",
        "These flags of Google's or the port's have no meaning here. They are accepted with a "
        f"line that says so: {meaningless}.",
        "A run that was stopped resumes when its command is given again. The following flags may "
        f"then differ, because they do not change what training computes: {resumable}. If "
        "another flag differs, the run stops and names it. With `--keep_best` or `--patience` the "
        "evaluations decide which weights a run ends with, so these may not differ then, nor the "
        f"examples that are evaluated: {deciding}.",
        "A mistake is reported in one line with exit status 2, before any work, and before "
        "PyTorch is loaded if the flags alone show it. `BERT_DEBUG=1` in the environment shows "
        "the traceback.",
        "`squad_metrics.py DATASET PREDICTIONS [--na-prob-file NULL_ODDS] [--characters]` takes "
        "its files by position; `--na-prob-file` is a flag of SQuAD's own evaluation script.",
    ]
    lines = [
        text if text[0] in "-|" else textwrap.fill(text, 100, break_on_hyphens=False)
        for text in (
            "# Flags",
            "<!-- Written by `python flags.py > docs/flags.md`. -->",
            *paragraphs,
        )
    ]
    return "\n\n".join(lines) + "\n"


def _row(flag):
    if flag.scripts == tuple(SCRIPTS):
        scripts = "all"
    else:
        scripts = ", ".join(SCRIPTS[script] for script in flag.scripts)

    here = shown(flag.default_of(flag.scripts[0]))
    for script in flag.scripts:
        value = shown(flag.default_of(script))
        if value != shown(flag.default_of(flag.scripts[0])):
            here += f", {SCRIPTS[script]} {value}"

    text = flag.help
    if isinstance(text, dict):
        text = "; ".join(f"{SCRIPTS[script]}: {sentence}" for script, sentence in text.items())
    text = text.replace("|", "\\|").replace("*", "\\*")
    return f"| `{flag.spelling}` | {scripts} | {flag.google} | {flag.port} | {here} | {text} |"


if __name__ == "__main__":
    print(markdown(), end="")
