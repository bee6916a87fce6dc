"""Uses a trained model on new text: classes, scores, tags, answers, masked words, vectors.

    python predict.py FOLDER "a text" ["its pair"]
    python predict.py FOLDER --input texts.csv --output predictions.jsonl

FOLDER is the --output_dir of a run, or a folder with a BERT model of Hugging Face's; it says what
the model is for. A terminal gets a table, everything else a JSON object per input. From Python:

    import predict
    model = predict.load("FOLDER")
    model.classify(["a text", ("a text", "its pair")])[0].label
"""

import os
import sys

import flags
from files import is_stream
from tables import FORMATS as TABLES
from tables import format_of, parse_columns

EXAMPLE = """  python predict.py /tmp/mrpc_output "It rained." "There was rain."
  python predict.py ../debug_squad "When did it close?" "The mill closed in 1932."
  python predict.py /tmp/pretraining_output "The capital of France is [MASK]."
  python predict.py /tmp/mrpc_output --input pairs.csv --output classes.jsonl"""

FORMATS = ("txt", *TABLES)  # of --input, by the end of its name


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Use a trained model on new text."
    args = flags.Parser("predict", description, EXAMPLE).parse_args(argv)
    if args.text is not None and args.input is not None:
        raise ValueError("give a text or --input, not both")
    has_terminal = sys.stdin and sys.stdin.isatty()
    if args.text is None and args.input is None and (args.embed or not has_terminal):
        raise ValueError("there is no text: give one, or --input FILE, where - is stdin")
    parse_input(args)
    parse_output(args)
    return args


def parse_input(args):
    """Completes --input_format and splits --text_columns; raises ValueError or OSError."""
    if args.input is None:
        for name in ("input_format", "text_columns"):
            if getattr(args, name):
                raise ValueError(f"--{name} is for --input")
        return
    if args.input != "-" and not os.path.exists(args.input):
        raise FileNotFoundError(f"--input {args.input} does not exist")
    if os.path.isdir(args.input):
        raise ValueError(f"--input {args.input} is a folder: give a file")

    if args.input_format is None:
        args.input_format = "txt" if args.input == "-" else format_of(args.input)
        if args.input_format not in FORMATS:
            raise ValueError(
                f"--input {args.input} ends with none of .{', .'.join(FORMATS)}: name its "
                f"--input_format (run_squad.py --do_predict reads SQuAD's .json)"
            )
    if args.text_columns is not None:
        if args.input_format == "txt":
            raise ValueError("--text_columns is for .tsv, .csv and .jsonl: a .txt has no columns")
        args.text_columns = parse_columns(args.text_columns)


def parse_output(args):
    """Completes --format; raises ValueError or OSError if --output could not be written."""
    if args.output is None and sys.stdout is None:
        raise ValueError("stdout is closed: give --output FILE")
    if args.output is not None:
        folder = os.path.dirname(args.output) or "."
        if os.path.isdir(args.output):
            raise ValueError(f"--output {args.output} is a folder: give a file to write")
        if not os.path.isdir(folder):
            raise ValueError(f"--output {args.output}: the folder {folder} does not exist")
        if not (os.access(folder, os.W_OK) or is_stream(args.output)):
            raise PermissionError(f"--output {args.output}: {folder} is not writable")
        sources = {"--input": args.input, "--context": args.context}
        for name, source in sources.items():
            both = source and os.path.exists(source) and os.path.exists(args.output)
            if both and os.path.samefile(source, args.output):
                raise ValueError(f"--output {args.output} is the file of {name}")

    if args.format is None:
        ending = (args.output or "").rpartition(".")[2].lower()
        if ending in ("tsv", "npz"):
            args.format = ending
        else:
            args.format = "table" if args.output is None and sys.stdout.isatty() else "jsonl"
    if args.format == "npz" and not args.embed:
        raise ValueError("npz is for vectors: give --embed mean or --embed cls")
    if args.format == "npz" and (not args.output or is_stream(args.output)):
        raise ValueError("npz needs --output FILE.npz, not a device or a pipe")
    if args.format == "tsv" and args.embed:
        raise ValueError("tsv is not for vectors: use --format jsonl, or --output FILE.npz")


# --help and a wrong flag are answered here, before the imports below load PyTorch.
ARGS = flags.run(parse_args) if __name__ == "__main__" else None

import contextlib
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

import inference
import precision
import squad_data
import tagging_data
import tagging_metrics
from checkpoint import Folder, folders_of_weights, inspect_folder, refuse_other_tokenizers
from convert_tf_checkpoint_to_pytorch import arrays, match, open_checkpoint
from data import (
    join_pair,
    mean_of_windows,
    packed_inputs,
    pad_rows,
    token_batches,
    windows_of_pair,
)
from files import atomic_write, errors_naming, iter_lines
from modeling import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    load_weights,
)
from tables import READERS, named_columns, other_separator, read_jsonl, text_cells
from tokenization import FullTokenizer
from training import memory_advice
from weights import read_state_dict, standard_names

MASK = "[MASK]"
CELL = 72  # characters of a table's widest cell
BEST_WORDS = 5  # shown for each [MASK]
TYPED_NBEST = 5  # answers shown for a question typed at the terminal

# Most tokens of a batch. Padding is not computed, so larger batches are hardly faster, and on a CPU
# they no longer fit into its caches.
TOKENS_ON_CPU = 2048
TOKENS_ON_GPU = 32768

# How much of the input is in memory at a time; the inputs of a chunk are sorted by length.
CHUNK_ROWS = 2048
CHUNK_CHARACTERS = 2**20

# What a head is for, and the method of `Model` that uses it.
CLASSES = "classification"
SEVERAL = "multi-label classification"
SCORES = "regression"
TAGS = "tagging"
QUESTIONS = "questions"
MASKS = "masked words"
METHODS = {
    CLASSES: "classify", SEVERAL: "classify", SCORES: "score", TAGS: "tag", QUESTIONS: "answer",
    MASKS: "fill_mask",
}  # fmt: skip

# A tensor of each head, as its file names it -> what the head is for.
HEADS = {
    "classifier.weight": CLASSES,
    "qa_outputs.weight": QUESTIONS,
    "cls.predictions.transform.dense.weight": MASKS,
}


# --- results -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classification:
    """The most probable class of a text, and the probability of each class by its name."""

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Labels:
    """The labels of a text that may have several, and the probability of each one by its name.

    The labels are those with a probability above 0.5.
    """

    labels: list[str]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Entity:
    """An entity of a text: `text[start:end]`."""

    type: str
    text: str
    start: int
    end: int


@dataclass(frozen=True)
class TaggedText:
    """The words of a text, a tag for each, and the entities that the tags mark.

    Tags that do not mark entities, such as parts of speech, give none.
    """

    words: list[str]
    tags: list[str]
    entities: list[Entity]


@dataclass(frozen=True)
class Answer:
    """An answer: `context[start:end]` where it comes from the context, else None for both.

    The text is "" where the model leaves the question unanswered. The probability is that among
    the best few answers.
    """

    text: str
    probability: float
    start: int | None
    end: int | None


@dataclass(frozen=True)
class Word:
    """A WordPiece in the place of a [MASK], and its probability."""

    word: str
    probability: float


# --- what a folder holds -------------------------------------------------------------------------


def read_folder(path: str) -> Folder:
    """What the folder holds. Raises OSError, or ValueError for a folder that cannot be used."""
    if not os.path.isdir(path):
        raise ValueError(f"{path} is not a folder: give the --output_dir of a run")
    folder = inspect_folder(path)
    if not folder.source and (inner := folders_of_weights(path)):
        raise ValueError(
            f"{path} has no weights, but its folders do: give one of {', '.join(inner)}"
        )
    for what, file, advice in (
        ("weights", folder.source, "give a folder with all that a model needs"),
        ("configuration", folder.config_file, "copy the model's config.json into it"),
        ("vocabulary", folder.vocab_file, "copy the model's vocab.txt into it"),
    ):
        if file is None:
            raise ValueError(f"{path} has no {what}: {advice}")
    refuse_other_tokenizers(folder)
    return folder


def read_tokenizer(folder: Folder, config: BertConfig) -> FullTokenizer:
    """The tokenizer of a folder. Raises ValueError where vocabulary and model do not agree."""
    lower = folder.casing.get("do_lower_case", True)
    accents = folder.casing.get("strip_accents", lower)
    never_split = folder.run.get("never_split") or ()
    tokenizer = FullTokenizer(folder.vocab_file, lower, accents, never_split, folder.added_tokens)
    size = max(index for word, index in tokenizer.vocab.items() if word) + 1
    if size > config.vocab_size:
        raise ValueError(
            f"{folder.vocab_file} has {size} entries, but vocab_size in {folder.config_file} is "
            f"{config.vocab_size}: they belong to different models"
        )
    return tokenizer


def read_weights(folder: Folder, config: BertConfig) -> dict[str, torch.Tensor]:
    """{name: tensor}. Raises OSError, or ValueError where a file is damaged."""
    if folder.is_tensorflow:
        checkpoint = open_checkpoint(folder.source)
        found = match(checkpoint.variables, config, checkpoint.prefix)
        return {name: torch.tensor(array) for name, array in arrays(checkpoint, found)}
    return read_state_dict(folder.asked if folder.weights else folder.source)


def make_network(
    folder: Folder, config: BertConfig
) -> tuple[torch.nn.Module, str | None, list[str]]:
    """The model with its weights, what its head is for, and the names of its classes.

    Without a head that can be used, that is None. Raises OSError, or ValueError where weights are
    damaged, missing or of another model.
    """
    state = read_weights(folder, config)
    names = standard_names(state, folder.asked)
    shapes = {name: list(state[given].shape) for name, given in names.items()}
    task = next((kind for tensor, kind in HEADS.items() if tensor in shapes), None)
    # Taggers and multiple choice have a head of the same name.
    if task == CLASSES and folder.task == TAGS:
        task = TAGS
    elif task == CLASSES and folder.task not in (None, CLASSES, SCORES):
        task = None

    labels = []
    if task in (CLASSES, TAGS):
        outputs = shapes["classifier.weight"][0]
        if task == TAGS:
            network = BertForTokenClassification(config, outputs)
        else:
            network = BertForSequenceClassification(config, outputs)
        if task == CLASSES and outputs == 1:
            task = SCORES
        else:
            labels = folder.labels or [f"LABEL_{number}" for number in range(outputs)]
            if len(labels) != outputs:
                raise ValueError(f"{folder.path} names {len(labels)} labels for {outputs} outputs")
            if folder.problem_type == "multi_label_classification":
                task = SEVERAL
    elif task == QUESTIONS:
        network = BertForQuestionAnswering(config)
    elif task == MASKS:
        network = BertForPreTraining(config)
    else:
        network = BertModel(config)
    load_weights(network, state, pooler_is_read=False, source=folder.source)
    return network.eval(), task, labels


def load(folder: str | os.PathLike, device: str | None = None, bf16: bool = False) -> "Model":
    """The model in `folder`, ready to use.

    `device` is "cpu", "cuda" or "cuda:N"; by default the GPU where there is one. `bf16` computes
    matrix products in bfloat16 where the hardware does. Raises OSError, or ValueError for a folder
    that cannot be used.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(
            f"device {device!r} is not available here; use cpu, cuda or cuda:N"
        ) from None
    found = read_folder(os.fspath(folder))
    config = BertConfig.from_json_file(found.config_file)
    tokenizer = read_tokenizer(found, config)
    network, task, labels = make_network(found, config)
    dtype = torch.float32
    if bf16:
        reason = precision.emulation(torch.device(device).type)
        if reason:
            note(f"computing in float32, which is faster here than bfloat16: {reason}")
        else:
            dtype = torch.bfloat16
    if torch.device(device).type == "cpu":
        inference.pack_layers(getattr(network, "bert", network), dtype)
    return Model(found, tokenizer, network.to(device), task, labels, dtype)


def kind_of(folder: Folder) -> str:
    """Describes a model that has no usable head."""
    names = folder.configuration.get("architectures")
    return ", ".join(map(str, names or ["an encoder without a head"]))


def note(line: str) -> None:
    """Prints a line for the user to stderr; stdout is for results alone."""
    print(line, file=sys.stderr, flush=True)


note_once = cache(note)  # for what is found both when rows are checked and when they are used


# --- the model -----------------------------------------------------------------------------------


class Feature(NamedTuple):
    """A text as the model takes it, without padding: int32 [length] each."""

    input_ids: np.ndarray
    segment_ids: np.ndarray


class Model:
    """A trained model and its tokenizer; `load` makes one.

    task            what its head is for: "classification", "multi-label classification",
                    "regression", "tagging", "questions", "masked words", or None for an encoder
                    alone
    labels          the names of its classes or tags
    max_seq_length  longer inputs are cut to this number of WordPieces
    num_cut         how many texts were cut so far; the longest would have had `longest` WordPieces
    num_windowed    how many were read through windows instead, as in training with --doc_stride

    A text is a str, or a tuple of two for a pair. Every method computes batches of similar lengths
    and returns results in the order of what it was given.
    """

    def __init__(self, folder, tokenizer, network, task, labels, dtype):
        self.folder = folder
        self.tokenizer = tokenizer
        self.network = network
        self.task = task
        self.dtype = dtype
        self.device = next(network.parameters()).device
        self.labels = labels
        self.config = getattr(network, "bert", network).config
        self.num_cut = 0
        self.longest = 0
        self.num_windowed = 0

        # What the run was given; another library's model gets the defaults of run_squad.py.
        squad_flags = [flag for _, flag in flags.flags_of(flags.SQUAD)]
        defaults = {flag.name: flag.default_of(flags.SQUAD) for flag in squad_flags}
        self.settings = {**defaults, **folder.run.get("flags", {})}
        self.max_seq_length = self.config.max_position_embeddings
        if folder.run or task == QUESTIONS:
            self.max_seq_length = min(self.settings["max_seq_length"], self.max_seq_length)

    def classify(
        self, texts: Sequence[str | tuple[str, str]]
    ) -> list[Classification] | list[Labels]:
        """The classes of texts or pairs; `Labels` for a model that gives a text several.

        Raises ValueError for a model without classes.
        """
        results = []
        if self.task == SEVERAL:
            for logits in self._logits(texts):
                probabilities = torch.from_numpy(logits).sigmoid().tolist()
                chosen = [label for label, logit in zip(self.labels, logits) if logit > 0]
                results.append(Labels(chosen, dict(zip(self.labels, probabilities))))
            return results
        self._require(CLASSES)
        for logits in self._logits(texts):
            probabilities = torch.from_numpy(logits).softmax(dim=0).tolist()
            label = self.labels[int(logits.argmax())]
            results.append(Classification(label, dict(zip(self.labels, probabilities))))
        return results

    def score(self, texts: Sequence[str | tuple[str, str]]) -> list[float]:
        """The scores of texts or pairs. Raises ValueError for a model without a single output."""
        self._require(SCORES)
        return [float(logits[0]) for logits in self._logits(texts)]

    def tag(self, texts: Sequence[str | Sequence[str]]) -> list[TaggedText]:
        """The tags of the words of texts of any length.

        The words of a str are found by `tagging_data.word_spans`. A list of words is taken as it
        is; its entities stand in the text that single spaces between the words would make. Raises
        ValueError for a model that does not tag.
        """
        self._require(TAGS)
        split = [_split_words(text, number) for number, text in enumerate(_listed(texts))]
        examples = [
            tagging_data.TaggingExample([text[start:end] for start, end in spans])
            for text, spans in split
        ]
        features = tagging_data.convert_examples_to_features(
            examples, self.labels, self.max_seq_length, self.tokenizer
        )
        outputs = self._outputs(features, self._word_logits)
        logits = tagging_data.join_windows(examples, features, outputs, len(self.labels))

        results = []
        has_entities = tagging_metrics.has_entities(self.labels)
        for example, (text, spans), own in zip(examples, split, logits):
            tags = [self.labels[number] for number in own.argmax(axis=1)]
            found = []
            for kind, first, last in tagging_metrics.entities(tags) if has_entities else ():
                start = spans[first][0]
                end = spans[last - 1][1]
                found.append(Entity(kind, text[start:end], start, end))
            results.append(TaggedText(example.words, tags, found))
        return results

    def answer(self, question: str, context: str) -> Answer:
        """The answer to a question from a text of any length. Raises as `answers`."""
        return self.answers([(question, context)])[0]

    def answers(self, questions: Sequence[tuple[str, str]]) -> list[Answer]:
        """The answers to pairs of question and context.

        A context may be longer than the model's input: it is read through overlapping windows.
        Raises ValueError for a model that does not answer questions.
        """
        questions = _listed(questions)
        results = []
        for (_, context), found in zip(questions, self.ranked_answers(questions)):
            start, end = squad_data.find_span(context, found) or (None, None)
            # Google answers "empty" where no span is allowed; that is not in the text.
            text = "" if start is None else found.text
            chosen = (entry for entry in found.nbest if entry["text"] == found.text)
            results.append(Answer(text, next(chosen)["probability"], start, end))
        return results

    def ranked_answers(self, questions: Sequence[tuple[str, str]]) -> list[squad_data.Answer]:
        """The same as run_squad.py computes them, with their n-best lists."""
        self._require(QUESTIONS)
        questions = _listed(questions)
        for number, question in enumerate(questions):
            if isinstance(question, str):
                raise ValueError(f"question {number}, {shorten(question, 60)!r}, has no context")
        pairs = self._pairs(questions)
        paragraphs = []
        for number, (question, context) in enumerate(pairs):
            # Questions about one context share its tokens.
            if not paragraphs or paragraphs[-1]["context"] != context:
                paragraphs.append({"context": context, "qas": []})
            paragraphs[-1]["qas"].append({"id": str(number), "question": question})
        dataset = {"data": [{"paragraphs": paragraphs}]}

        examples = squad_data.read_squad_examples("the input", False, dataset=dataset)
        features = squad_data.convert_examples_to_features(
            examples,
            self.tokenizer,
            self.max_seq_length,
            self.settings["doc_stride"],
            # A short model leaves half of its positions to the context.
            min(self.settings["max_query_length"], self.max_seq_length // 2),
            is_training=False,
        )
        results = (
            squad_data.RawResult(feature.unique_id, *logits)
            for feature, logits in zip(features, self._outputs(features, self._span_logits))
        )
        answers = squad_data.best_answers(
            examples,
            features,
            results,
            self.settings["n_best_size"],
            self.settings["max_answer_length"],
            self.tokenizer.basic_tokenizer.do_lower_case,
            version_2_with_negative=self.settings["version_2_with_negative"],
            null_score_diff_threshold=self.settings["null_score_diff_threshold"],
            log=note,
            strip_accents=self.tokenizer.basic_tokenizer.strip_accents,
            never_split=self.tokenizer.never_split,
        )
        return [answers[str(number)] for number in range(len(pairs))]

    def fill_mask(self, text: str | tuple[str, str]) -> list[list[Word]]:
        """The best words for each [MASK] of a text, in order. Raises as `fill_masks`."""
        return self.fill_masks([text])[0]

    def fill_masks(self, texts: Sequence[str | tuple[str, str]]) -> list[list[list[Word]]]:
        """The best five words for each [MASK] of each text.

        Raises ValueError for a text without a [MASK], or with one beyond the model's positions,
        and for a model without a head for masked words.
        """
        self._require(MASKS)
        pairs = self._pairs(texts)
        for number, pair in enumerate(pairs):
            if problem := self.mask_problem(pair):
                raise ValueError(f"text {number}, {shorten(pair[0], 60)!r}, {problem}")
        features = self._features(pairs)
        # Each [MASK] has a score for every entry of the vocabulary, so smaller batches are needed.
        return self._outputs(features, self._best_words, part=4)

    def mask_problem(self, texts: Sequence[str]) -> str:
        """Why a text or pair cannot be filled in, in words; "" if it can."""
        if MASK not in self.tokenizer.vocab:
            raise ValueError(f"{self.folder.vocab_file} has no {MASK}")
        wanted = sum(text.count(MASK) for text in texts)
        if not wanted:
            close = re.search(r"\[\s*mask\s*\]", " ".join(texts), re.IGNORECASE)
            return f"has no {MASK}" + (f", but {close[0]}: write {MASK}" if close else "")
        # A WordPiece has at least a byte, so that most texts need not be tokenized for this.
        num_bytes = sum(len(text.encode(errors="replace")) for text in texts)
        if num_bytes + 3 > self.max_seq_length:
            ids = [*map(self._encode, texts), []]
            input_ids, _ = join_pair(*ids[:2], 0, 0, self.max_seq_length)
            if np.count_nonzero(input_ids == self.tokenizer.vocab[MASK]) < wanted:
                return f"has a {MASK} beyond the model's {self.max_seq_length} WordPieces"
        return ""

    def embed(self, texts: Sequence[str | tuple[str, str]], how: str = "mean") -> np.ndarray:
        """A vector for each text, float32 [texts, hidden_size]; any model has them.

        "mean" is the mean of the last layer over all WordPieces, [CLS] and [SEP] among them; "cls"
        is the last layer at [CLS]. Raises ValueError for another `how`.
        """
        if how not in ("mean", "cls"):
            raise ValueError(f"how is {how!r}; use mean or cls")

        encoder = getattr(self.network, "bert", self.network)

        def vectors_of(rows):
            packed = encoder.make_unpadding(*self._inputs(rows))
            cls_rows = packed.cls_rows() if how == "cls" else None
            last = encoder.encode(None, None, packed, cls_rows)[-1].float()  # [B or P, hidden]
            if how == "mean":
                texts = last.split(packed.seqlens)[: len(rows)]  # without spare rows
                last = torch.stack([text.mean(dim=0) for text in texts])
            return last.cpu().numpy()

        vectors = self._outputs(self._features(self._pairs(texts)), vectors_of)
        return np.stack(vectors) if vectors else np.zeros((0, self.config.hidden_size), "f4")

    # What a batch of features becomes: an output for each of them.

    def _inputs(self, rows):
        """The network's inputs for a batch; on a CPU in one of few shapes."""
        return packed_inputs(rows, round_up=self.device.type == "cpu")

    def _logits(self, texts):
        """The logits [labels] of each text: the mean of its windows where the run had these."""
        doc_stride = self.folder.run.get("flags", {}).get("doc_stride")
        features, counts = self._windows(self._pairs(texts), doc_stride)
        logits = self._outputs(
            features, lambda rows: self.network(*self._inputs(rows)).float().cpu().numpy()
        )
        return mean_of_windows(np.stack(logits), counts) if counts else []

    def _word_logits(self, rows):
        """The logits of the windows' words: [words, labels] for each window."""
        logits = self.network(*self._inputs(rows)).float().cpu().numpy()  # [B, S, labels]
        return [own[row.positions] for own, row in zip(logits, rows)]

    def _span_logits(self, rows):
        """Start and end logits of the windows' tokens: a [2, length] for each window."""
        pairs = torch.stack(self.network(*self._inputs(rows)), dim=1).float().cpu().numpy()
        return [pair[:, : len(row.input_ids)] for row, pair in zip(rows, pairs)]

    def _best_words(self, rows):
        """The best `Word`s of each [MASK] of each text."""
        mask_id = self.tokenizer.vocab[MASK]
        positions = [np.flatnonzero(row.input_ids == mask_id) for row in rows]
        scores, _ = self.network(  # [B, M, vocab]
            *self._inputs(rows), masked_lm_positions=pad_rows(positions)
        )
        probabilities = scores.float().softmax(dim=-1)[:, :, : max(self.tokenizer.inv_vocab) + 1]
        best = probabilities.topk(min(BEST_WORDS, probabilities.shape[-1]))
        pieces = self.tokenizer.inv_vocab
        return [
            [
                [Word(pieces.get(index, "[UNK]"), value) for index, value in zip(*one)]
                for one in zip(ids[: len(places)], values[: len(places)])
            ]
            for ids, values, places in zip(best.indices.tolist(), best.values.tolist(), positions)
        ]

    # The steps between texts and outputs.

    def _require(self, task):
        """Raises ValueError if the model's head is for something else."""
        if self.task == task:
            return
        if self.task:
            held = f"a head for {self.task}: use {METHODS[self.task]}()"
        else:
            held = f"{kind_of(self.folder)}: only embed() is possible"
        raise ValueError(f"{self.folder.path} has no head for {task}, but holds {held}")

    def _pairs(self, texts):
        """(text, second text or "") of each text. Raises ValueError for anything else."""
        pairs = []
        for number, text in enumerate(_listed(texts)):
            parts = (text, "") if isinstance(text, str) else text
            is_pair = isinstance(parts, (tuple, list)) and len(parts) == 2
            if not is_pair or not all(isinstance(part, str) for part in parts):
                raise ValueError(f"text {number} is {text!r}, not a str or a tuple of two")
            pairs.append(tuple(parts))
        return pairs

    def _encode(self, text):
        """The ids of a text, in which every [MASK] is one."""
        ids = []
        for number, part in enumerate(text.split(MASK) if self.task == MASKS else [text]):
            if number:
                ids.append(self.tokenizer.vocab[MASK])
            ids += self.tokenizer.encode(part)
        return ids

    def _features(self, pairs):
        """A Feature for each pair; those that were cut are counted."""
        features, _ = self._windows(pairs, None)
        return features

    def _windows(self, pairs, doc_stride):
        """The Features of the pairs, one for each window, and the number of windows of each pair.

        Without a `doc_stride` that is one, which is cut to fit. Cut and windowed ones are counted.
        """
        cls_id, sep_id = self.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
        features = []
        counts = []
        for first, second in pairs:
            ids_a = self._encode(first)
            ids_b = self._encode(second) if second else []
            parts = [(ids_a, ids_b)]
            length = len(ids_a) + len(ids_b) + (3 if ids_b else 2)
            is_cut = length > self.max_seq_length
            if doc_stride:
                parts, num_lost = windows_of_pair(ids_a, ids_b, self.max_seq_length, doc_stride)
                self.num_windowed += len(parts) > 1
                is_cut = num_lost > 0
            if is_cut:
                self.num_cut += 1
                self.longest = max(self.longest, length)
            counts.append(len(parts))
            for part in parts:
                features.append(Feature(*join_pair(*part, cls_id, sep_id, self.max_seq_length)))
        return features, counts

    @torch.inference_mode()
    def _outputs(self, features, outputs_of, part=1):
        """outputs_of(batch) of all features, in their order, from batches of similar lengths.

        `part` divides the size of a batch.
        """
        max_tokens = (TOKENS_ON_GPU if self.device.type == "cuda" else TOKENS_ON_CPU) // part
        outputs = [None] * len(features)
        enabled = self.dtype is not torch.float32
        for indices in token_batches([len(row.input_ids) for row in features], max_tokens):
            with (
                torch.autocast(self.device.type, self.dtype, enabled=enabled),
                memory_advice("lower --max_seq_length, or use --no_cuda"),
            ):
                found = outputs_of([features[index] for index in indices])
            for index, output in zip(indices.tolist(), found):
                outputs[index] = output
        return outputs


def _listed(texts):
    """The texts as a list. Raises ValueError for one text, or where iterating gives names."""
    if isinstance(texts, (str, bytes)):
        raise ValueError("give a list of texts, not one text")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):  # as a DataFrame of pandas
        raise ValueError(f"give a list of texts, not a {type(texts).__name__}: one of its columns")
    return list(texts)


def _split_words(text, number):
    """(text, spans of its words) of a text, or of a list of words. Raises ValueError."""
    if isinstance(text, str):
        return text, tagging_data.word_spans(text)
    if not isinstance(text, (list, tuple)) or not all(isinstance(word, str) for word in text):
        raise ValueError(f"text {number} is {text!r}, not a str or a list of words")
    spans = []
    start = 0
    for word in text:
        spans.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(text), spans


# --- inputs --------------------------------------------------------------------------------------


@dataclass
class Row:
    """One input: where it stands, its fields as they are written back, its one or two texts."""

    where: str
    fields: dict
    texts: list[str]


# Usual names of the columns of one or two texts, in lower case.
USUAL_COLUMNS = (
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "context"),
    ("question", "sentence"),
    ("#1 string", "#2 string"),
    ("text", "pair"),
    ("text",),
    ("sentence",),
    ("question",),
)


def usual_columns(names: Sequence[str]) -> list[list[int]]:
    """The numbers of the columns with usual names; several lists where that is not clear."""
    lower = [name.strip().lower() for name in names]
    found = [usual for usual in USUAL_COLUMNS if {*usual} <= {*lower}]
    # A text alone does not count beside a pair with it.
    found = [usual for usual in found if not any({*usual} < {*other} for other in found)]
    return [[lower.index(name) for name in usual] for usual in found]


def read_txt(path: str, names: Sequence[str]) -> Iterator[Row]:
    """Yields a Row for each line; `names` are those of the fields of a pair."""
    for number, line in enumerate(iter_lines(path), start=1):
        texts = line.split(" ||| ", 1)
        yield Row(f"{path}:{number}", typed_fields(texts, names), texts)


def typed_fields(texts, names):
    """The fields of one or two texts that have no names of their own."""
    if len(texts) == 1:
        names = [names[0] if names[0] == "question" else "text"]
    return dict(zip(names, texts))


def read_cells(path: str, cells, text_columns, header: str) -> Iterator[Row]:
    """Yields a Row for each row of a table, whose header is found as --header says.

    Raises ValueError with file and line for a row that is too short, and where the columns of the
    text are not clear.
    """
    names = columns = None
    for number, row in cells:
        where = f"{path}:{number}"
        if names is None:
            names, columns = table_columns(row, text_columns, header, where)
            if names:
                continue
            names = [str(column) for column in range(len(row))]
        if row == [""]:  # one input for each line: a blank one is an empty text
            row = [""] * len(names)
        if len(row) != len(names):
            raise ValueError(f"{where} has {len(row)} columns, the first row has {len(names)}")
        yield Row(where, dict(zip(names, row)), [row[column] for column in columns])


def table_columns(row, text_columns, header, where):
    """(names of the columns, or None if `row` is not a header; the numbers of the text columns).

    Raises ValueError where they are not clear.
    """
    usual = usual_columns(row)
    by_name = any(not name.isdecimal() for name in text_columns or ())
    is_header = {"true": True, "false": False, "auto": by_name or bool(usual)}[header]
    # A column without a name, as the index that pandas writes, is called by its number.
    names = [(is_header and name) or str(number) for number, name in enumerate(row)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{where} names two columns {twice!r}: rename one")

    if text_columns is not None:
        columns = named_columns(text_columns, names, where)
    elif len(row) == 1:
        columns = [0]
        if not is_header:
            refuse_other_separator(row, where)
            if header == "auto" and row != [""]:
                note_once(f"{where} is used as a text: if it is a header, give --header true")
    else:
        columns = the_columns(usual if is_header else [], row, where)
    return (names if is_header else None), columns


def refuse_other_separator(row, where):
    """Raises ValueError if a row of one cell is a header with usual names, otherwise separated."""
    for separator in ";\t,":
        if usual_columns(row[0].split(separator)):
            raise ValueError(
                f"{where} has one column, {shorten(row[0], 60)!r}{other_separator(row)}"
            )


def the_columns(usual, names, where):
    """The only one of the `usual` columns. Raises ValueError where there is not exactly one."""
    if len(usual) == 1:
        return usual[0]
    found = [", ".join(names[column] for column in columns) for columns in usual]
    if found:
        raise ValueError(f"{where}: is the text in {' or in '.join(found)}? Give --text_columns")
    raise ValueError(
        f"{where}: which is the text? Give --text_columns, by name or by number from 0; the first "
        f"row has {shorten(', '.join(names), 80) or 'nothing'}"
    )


def read_objects(path: str, text_columns) -> Iterator[Row]:
    """Yields a Row for each line of a .jsonl. Raises ValueError with file and line."""
    chosen = None
    for number, value in read_jsonl(path):
        where = f"{path}:{number}"
        if chosen is None:
            chosen = object_columns(value, text_columns, where)
        yield Row(where, value, text_cells(value, chosen, where))


def object_columns(value, text_columns, where):
    """The names of the text fields of a file of objects, from its first one."""
    names = list(value)
    if text_columns is not None:
        columns = named_columns(text_columns, names, where)
    else:
        texts = [number for number, name in enumerate(names) if isinstance(value[name], str)]
        usual = usual_columns(names)
        columns = texts if len(texts) == 1 and not usual else the_columns(usual, names, where)
    return [names[column] for column in columns]


def read_rows(args, names: Sequence[str]) -> Iterator[Row]:
    """Yields the inputs that the flags give, one at a time; `names` as in `read_txt`.

    Raises OSError, or ValueError with file and line.
    """
    if args.input is None:
        texts = [args.text] if args.pair is None else [args.text, args.pair]
        return iter([Row("the text", typed_fields(texts, names), texts)])
    if args.input_format == "txt":
        return read_txt(args.input, names)
    if args.input_format == "jsonl":
        return read_objects(args.input, args.text_columns)
    cells = READERS[args.input_format](args.input)
    return read_cells(args.input, cells, args.text_columns, args.header)


def chunks_of(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Yields the rows in lists that are small enough to hold in memory."""
    chunk = []
    characters = 0
    for row in rows:
        chunk.append(row)
        characters += sum(map(len, row.texts))
        if len(chunk) == CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk = []
            characters = 0
    if chunk:
        yield chunk


# --- outputs -------------------------------------------------------------------------------------


def record_of(result) -> dict:
    """What a result is in JSON."""
    if isinstance(result, Answer):
        values = asdict(result)
        return {"answer": values.pop("text"), **rounded(values)}
    if isinstance(result, Classification):
        return {"label": result.label, "probabilities": rounded(result.probabilities)}
    if isinstance(result, Labels):
        return {"labels": result.labels, "probabilities": rounded(result.probabilities)}
    if isinstance(result, TaggedText):
        return asdict(result)
    if isinstance(result, float):
        return rounded({"score": result})
    if isinstance(result, np.ndarray):
        return {"vector": np.round(result.astype(float), 6).tolist()}
    return {"masks": [[rounded(asdict(word)) for word in words] for words in result]}


def rounded(values):
    """The same dictionary; floats with the six digits that float32 computes."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in values.items()
    }


def joined(fields: dict, record: dict) -> dict:
    """Fields of the input, then the result; a field of the same name becomes input_NAME."""
    own = {}
    for name, value in fields.items():
        while name in record or name in own:
            name = f"input_{name}"
        own[name] = value
    return {**own, **record}


def entities_in_words(result):
    return ", ".join(f"{entity.text} [{entity.type}]" for entity in result.entities)


def best_word_of(words):
    return ", ".join(f"{word.word} {word.probability:.1%}" for word in words)


def cells_of(result) -> dict[str, str]:
    """What a result is in a table: {column: text}."""
    if isinstance(result, (Classification, Labels)):
        shares = {name: f"{value:.1%}" for name, value in result.probabilities.items()}
        if isinstance(result, Labels):
            return {"labels": "|".join(result.labels) or "(none)", **shares}
        return {"label": result.label, **shares}
    if isinstance(result, Answer):
        return {"answer": result.text or "(none)", "probability": f"{result.probability:.1%}"}
    if isinstance(result, TaggedText):
        if result.entities or {*result.tags} <= {tagging_metrics.OUTSIDE}:
            return {"entities": entities_in_words(result) or "(none)"}
        return {"tags": " ".join(map("/".join, zip(result.words, result.tags)))}
    if isinstance(result, float):
        return {"score": f"{result:.4f}"}
    if isinstance(result, np.ndarray):
        few = " ".join(f"{value:.4f}" for value in result[:4])
        return {"vector": f"{few} … ({len(result)} values)"}
    return {f"mask {number}": best_word_of(words) for number, words in enumerate(result, start=1)}


def shorten(text: str, width: int) -> str:
    """A text in one line of at most `width` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


class JsonLines:
    """Writes an object per input."""

    def __init__(self, file):
        self.file = file

    def write(self, rows, results):
        for row, result in zip(rows, results):
            record = joined(row.fields, record_of(result))
            self.line(json.dumps(record, ensure_ascii=False))

    def line(self, text):
        # A lone surrogate, as an invalid byte of the command line becomes, has no UTF-8.
        self.file.write(f"{text}\n".encode(errors="backslashreplace"))

    def close(self):
        self.file.flush()


class Tsv(JsonLines):
    """Writes a row per input, below a header. Tabs and line breaks in a cell become spaces."""

    names = None

    def write(self, rows, results):
        for row, result in zip(rows, results):
            record = record_of(result)
            if isinstance(result, TaggedText):
                record = {"words": " ".join(result.words), "tags": " ".join(result.tags),
                          "entities": entities_in_words(result)}  # fmt: skip
            record = flat(joined(row.fields, record))
            if self.names is None:
                self.names = list(record)
                self.line("\t".join(map(cell, self.names)))
            if list(record) != self.names:
                raise ValueError(
                    f"{row.where} has other fields than the first input: use --format jsonl"
                )
            self.line("\t".join(map(cell, record.values())))


def flat(record):
    """{name: value} without objects and lists in it: probabilities become columns of their own."""
    columns = {}
    for name, value in record.items():
        if name == "masks":
            columns |= {
                f"mask_{number}": ", ".join(f"{w['word']} {w['probability']}" for w in words)
                for number, words in enumerate(value, start=1)
            }
        elif name == "labels" and isinstance(value, list):
            columns[name] = "|".join(map(str, value))  # as --multi_label reads it
        elif isinstance(value, dict):
            columns |= {f"{name}.{key}": part for key, part in value.items()}
        else:
            columns[name] = value
    return columns


def cell(value):
    """A value as a cell of a .tsv."""
    if value is None:
        return ""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return " ".join(value.replace("\t", "\n").splitlines())


class Table(JsonLines):
    """Writes a table for a reader: results first, then the text as far as the line is wide."""

    widths = None

    def write(self, rows, results):
        lines = [cells_of(result) for result in results]
        if self.widths is None:
            self.widths = {}
            for line in lines:
                for name, value in line.items():
                    width = max(len(name), len(shorten(value, CELL)))
                    self.widths[name] = max(width, self.widths.get(name, 0))
            self.row({name: name for name in self.widths}, "text")
        for row, line in zip(rows, lines):
            self.row(line, " ||| ".join(row.texts))

    def row(self, line, text):
        """Writes one line."""
        cells = [
            shorten(line.get(name, ""), CELL).ljust(width) for name, width in self.widths.items()
        ]
        room = shutil.get_terminal_size().columns - sum(len(cell) + 2 for cell in cells)
        self.line("  ".join([*cells, shorten(text, max(20, room))]))


class Npz(JsonLines):
    """Writes all vectors as one array, "vectors" [inputs, hidden_size], of a .npz file.

    The array's length, which comes first in the file, is known only at the end; until then the
    vectors lie in a temporary file.
    """

    def __init__(self, file):
        super().__init__(file)
        self.spool = tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(file.name)))
        self.shape = (0, 0)

    def write(self, rows, results):
        vectors = np.stack(results).astype("<f4")
        self.shape = self.shape[0] + len(vectors), vectors.shape[1]
        self.spool.write(vectors.tobytes())

    def close(self):
        header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
        self.spool.seek(0)
        with (
            zipfile.ZipFile(self.file, "w") as archive,
            archive.open("vectors.npy", "w", force_zip64=True) as member,
        ):
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(self.spool, member, 2**20)
        self.spool.close()
        super().close()


WRITERS = {"jsonl": JsonLines, "tsv": Tsv, "table": Table, "npz": Npz}


# --- questions and texts at the terminal ---------------------------------------------------------


def converse(answer: Callable[[str, str], squad_data.Answer], context: str | None = None) -> None:
    """Reads paragraphs and questions, one per line, and prints the answers until the input ends.

    With a `context`, all questions are about that. run_squad.py --interactive is this, too.
    """
    edit_lines()
    if context is None:
        print("Type a paragraph in one line, then questions about it.")
        print("An empty line starts another paragraph; Ctrl-D ends.")
    with contextlib.suppress(EOFError):
        while True:
            paragraph = read_line("\nparagraph: ") if context is None else context
            while paragraph.strip() and (question := read_line("question: ")).strip():
                found = answer(question, paragraph)
                print(f"answer: {found.text or '(none)'}")
                for entry in found.nbest[:TYPED_NBEST]:
                    print(f"{entry['probability']:8.1%}  {entry['text'] or '(none)'}")
    print()  # ends the line of the last prompt


def converse_about_texts(show: Callable[[list[str]], None]) -> None:
    """Reads texts, one per line, and shows what the model makes of each until the input ends."""
    edit_lines()
    print("Type a text, or a pair separated by ' ||| '; Ctrl-D ends.")
    with contextlib.suppress(EOFError):
        while True:
            line = read_line("\ntext: ")
            if line.strip():
                show(line.split(" ||| ", 1))
    print()


def edit_lines():
    """Makes typed lines editable, and longer than 4095 characters."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401


def read_line(prompt):
    """A line of the input; echoed if it comes from a pipe, as a terminal does."""
    if sys.stdin.isatty():
        return input(prompt)
    line = input()
    print(f"{prompt}{line}")
    return line


# --- the command ---------------------------------------------------------------------------------


class Use:
    """What is asked of a model: which task, from which texts, by which of its methods.

    Raises ValueError if the model cannot do it.
    """

    def __init__(self, args, model):
        self.model = model
        self.task = "vectors" if args.embed else model.task
        self.how = args.embed
        self.context = None
        if self.task is None:
            raise ValueError(
                f"{args.folder} holds {kind_of(model.folder)}, which gives only vectors here: use "
                f"--embed mean"
            )
        if args.context is not None:
            if self.task != QUESTIONS:
                raise ValueError(
                    f"--context is for questions, but {args.folder} is for {self.task}"
                )
            self.context = "".join(iter_lines(args.context, keep_ends=True))
            if not self.context.strip():
                raise ValueError(f"--context {args.context} is empty")
        self.names = ("question", "context") if self.task == QUESTIONS else ("text_a", "text_b")

    def check(self, row: Row) -> Row:
        """The row; raises ValueError with its place if the model cannot use it."""
        if self.task == MASKS and (problem := self.model.mask_problem(row.texts)):
            raise ValueError(f"{row.where} {problem}")
        if self.task == QUESTIONS and self.context is None and len(row.texts) == 1:
            raise ValueError(
                f"{row.where}: a question needs a context: give --context FILE, or both, "
                f"separated by ' ||| ' in a .txt"
            )
        if self.context is not None and len(row.texts) == 2:
            raise ValueError(f"{row.where} has a context of its own: leave out --context")
        if self.task == TAGS and len(row.texts) == 2:
            raise ValueError(f"{row.where} is a pair, but tags are for single texts")
        return row

    def results(self, rows: Sequence[Row]) -> Sequence:
        """The results for the rows, in their order."""
        texts = [tuple(row.texts) if len(row.texts) == 2 else row.texts[0] for row in rows]
        if self.task == "vectors":
            return self.model.embed(texts, self.how)
        if self.task in (CLASSES, SEVERAL):
            return self.model.classify(texts)
        if self.task == SCORES:
            return self.model.score(texts)
        if self.task == TAGS:
            return self.model.tag(texts)
        if self.task == MASKS:
            return self.model.fill_masks(texts)
        if self.context is not None:
            texts = [(question, self.context) for question in texts]
        return self.model.answers(texts)


def execute(args) -> None:
    """Does what the parsed flags ask for."""
    model = load(args.folder, "cpu" if args.no_cuda else None, args.bf16)
    set_lengths(args, model)
    use = Use(args, model)
    if args.text is None and args.input is None:
        ask(args, use)
        return

    total = None
    if args.input is None or os.path.isfile(args.input):
        # All rows are read once before anything is written, so that a mistake in one costs nothing.
        total = sum(1 for _ in map(use.check, read_rows(args, use.names)))
        if not total:
            raise ValueError(f"--input {args.input} has no texts")
    try:
        with open_output(args) as file:
            predict_all(args, use, WRITERS[args.format](file), total)
    except BrokenPipeError:  # The reader, as head, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if model.num_windowed:
        note(
            f"{model.num_windowed} of the texts are longer than {model.max_seq_length} WordPieces "
            f"and were read through windows"
        )
    if model.num_cut:
        note(
            f"{model.num_cut} of the texts were cut to {model.max_seq_length} WordPieces; the "
            f"longest has {model.longest}"
        )


def set_lengths(args, model):
    """Applies --max_seq_length and --null_score_diff_threshold. Raises ValueError."""
    positions = model.config.max_position_embeddings
    if args.max_seq_length is not None:
        if args.max_seq_length > positions:
            raise ValueError(
                f"--max_seq_length {args.max_seq_length} exceeds the model's {positions} positions"
            )
        model.max_seq_length = args.max_seq_length
    if args.null_score_diff_threshold is not None:
        if model.task != QUESTIONS:
            raise ValueError(
                f"--null_score_diff_threshold is for questions, but {args.folder} is not"
            )
        model.settings["version_2_with_negative"] = True
        model.settings["null_score_diff_threshold"] = args.null_score_diff_threshold


@contextlib.contextmanager
def open_output(args):
    """The binary file that the results go to: --output, or else stdout."""
    if args.output is None:
        with errors_naming("stdout"):
            yield sys.stdout.buffer
        return
    with atomic_write(args.output, "wb") as file:
        yield file


def predict_all(args, use, writer, total):
    """Reads, computes and writes one chunk of inputs after another."""
    rows = map(use.check, read_rows(args, use.names))
    # A bar would break up the lines of a table.
    quiet = args.input is None or not sys.stderr.isatty()
    quiet = quiet or (args.output is None and sys.stdout.isatty())
    with tqdm(total=total, unit="text", disable=quiet, dynamic_ncols=True) as bar:
        for chunk in chunks_of(rows):
            writer.write(chunk, use.results(chunk))
            bar.update(len(chunk))
    writer.close()


def ask(args, use):
    """Answers what is typed at the terminal."""
    if use.task == QUESTIONS:
        model = use.model
        converse(lambda *pair: model.ranked_answers([pair])[0], use.context)
        return

    def show(texts):
        row = Row("the text", typed_fields(texts, use.names), texts)
        try:
            use.check(row)
        except ValueError as error:  # Another text may do.
            print(error)
            return
        for line in cells_of(use.results([row])[0]).items():
            print("{:>12}  {}".format(*line))

    converse_about_texts(show)


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    execute(parse_args(argv))


if __name__ == "__main__":
    flags.run(execute, ARGS)
