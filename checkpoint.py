"""The files of a run: weights, results, and checkpoints from which a killed run resumes.

Every file is written under a temporary name, synced and renamed, so that it is complete or absent.
`inspect_folder` is the one answer to what a folder holds.
"""

import argparse
import contextlib
import glob
import json
import os
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import crc32c
import numpy as np
import torch

import flags
from configuration import BertConfig
from files import (
    CHECKPOINTS,
    CONFIG,
    LOG,
    RUN,
    SAFETENSORS,
    SEEDS_RESULTS,
    TOKENIZER_CONFIG,
    TRANSFORMERS_CONFIG,
    VOCAB,
    WEIGHT_FILES,
    WEIGHTS,
    WRITTEN,
    FolderLock,
    atomic_write,
    read_json,
    read_run,
)
from flags import DECIDES_BEST, MAY_DIFFER
from tf_checkpoint import find_prefix
from tokenization import AddedToken, load_vocab
from vocabulary import TokenizerFiles, read_tokenizer_files, tokenizer_config, vocab_content
from weights import (
    damage_named,
    find_weight_files,
    read_archive,
    weights_in,
    write_bin,
    write_safetensors,
)

# --- what a folder holds -------------------------------------------------------------------------

TENSORFLOW = "TensorFlow"  # the key of a TensorFlow checkpoint in Folder.weights

ADAPTER = "adapter_config.json"  # of PEFT: the rest of the model is in another folder

# Model classes, whose names are the same here and in transformers -> Folder.task.
TASKS = {
    "BertForSequenceClassification": "classification",
    "BertForQuestionAnswering": "questions",
    "BertForPreTraining": "pretraining",
    "BertForMaskedLM": "masked words",
    "BertForTokenClassification": "tagging",
    "BertForMultipleChoice": "multiple choice",
    "BertModel": "encoder",
}


@dataclass(frozen=True)
class Folder:
    """What a folder holds, or the folder of a file of weights; `inspect_folder` makes it.

    path           the folder, or a path that does not exist
    asked          the path that was inspected
    source         what a loader takes: the file that was asked for, else the folder's weights,
                   else its newest checkpoint; None without any
    is_tensorflow  whether `source` is a TensorFlow checkpoint
    weights        {name: path} of all weights but checkpoints, the preferred ones first; the name
                   is that of the file or index, or TENSORFLOW for a TensorFlow checkpoint's prefix
    checkpoints    {step: path} of a run's checkpoint-N.pt, the newest first
    foreign        names of files of weights that a run of ours never writes: parts of a model, a
                   TensorFlow checkpoint, Keras and Flax files
    config_file    bert_config.json, else config.json; None without either
    vocab_file     vocab.txt, else transformers' tokenizer.json; None without either
    run            what run.json says of the run that wrote the weights; {} in other folders
    configuration  the content of config.json, else bert_config.json; {} without either
    tokenizer      what the files say of the tokenizer
    """

    path: str
    asked: str
    source: str | None = None
    is_tensorflow: bool = False
    weights: dict[str, str] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    foreign: list[str] = field(default_factory=list)
    config_file: str | None = None
    vocab_file: str | None = None
    run: dict = field(default_factory=dict)
    configuration: dict = field(default_factory=dict)
    tokenizer: TokenizerFiles | None = None

    @property
    def script(self) -> str | None:
        """The script that wrote the folder, e.g. "run_squad.py"; None if it was not one of ours."""
        return self.run.get("script")

    @property
    def is_finished(self) -> bool:
        """Whether a run of ours ended here: its weights and run.json are written last."""
        return bool(self.run) and WEIGHTS in self.weights

    @property
    def task(self) -> str | None:
        """A value of TASKS, "regression" or "several scores"; None where no file says it."""
        names = self.configuration.get("architectures")
        known = [TASKS.get(name) for name in names] if isinstance(names, list) else []
        by_script = {
            "run_classifier.py": "classification",
            "run_squad.py": "questions",
            "run_pretraining.py": "pretraining",
        }
        task = next(filter(None, known), None) or self.run.get("task")
        task = task or by_script.get(self.script)
        if task == "classification" and self.problem_type == "regression":
            return "regression" if (self.num_labels or 1) == 1 else "several scores"
        is_regression = self.run.get("labels") == [] or self.num_labels == 1
        return "regression" if task == "classification" and is_regression else task

    @property
    def problem_type(self) -> str | None:
        """What transformers calls the kind of a classifier; None where no file says it."""
        kind = self.run.get("problem_type", self.configuration.get("problem_type"))
        return kind if isinstance(kind, str) else None

    @property
    def labels(self) -> list[str] | None:
        """The names of the classes in the order of the outputs; [] for a regression.

        None where no file says it, as with transformers' own names LABEL_0, LABEL_1, …, or with two
        outputs of one name.
        """
        if isinstance(self.run.get("labels"), list):
            return [str(label) for label in self.run["labels"]]
        names = self.configuration.get("id2label")
        numbers = self.configuration.get("label2id")
        if names is None and isinstance(numbers, dict):
            names = {number: name for name, number in numbers.items()}
        if isinstance(names, list):
            names = dict(enumerate(names))
        try:
            names = {int(number): name for number, name in names.items()}
        except (AttributeError, ValueError, TypeError):
            return None
        if sorted(names) != list(range(len(names))) or None in names.values():
            return None
        names = {number: str(name) for number, name in names.items()}
        if len(set(names.values())) < len(names):
            return None
        names = [names[number] for number in range(len(names))]
        generic = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
        return None if generic else names

    @property
    def num_labels(self) -> int | None:
        """The number of outputs of a classifier, as transformers reads it from config.json."""
        names = self.configuration.get("id2label")
        if isinstance(names, dict):
            return len(names)
        number = self.configuration.get("num_labels")
        return number if isinstance(number, int) else None

    @property
    def casing(self) -> dict[str, bool]:
        """do_lower_case and strip_accents of the text, as far as the files say it."""
        return self.tokenizer.casing if self.tokenizer else {}

    @property
    def added_tokens(self) -> tuple[AddedToken, ...]:
        """The tokens that the vocabulary has beside those of its file, or that stay whole."""
        return self.tokenizer.added_tokens if self.tokenizer else ()


def inspect_folder(path: str | os.PathLike) -> Folder:
    """What the folder `path`, or the folder of the weights `path`, holds.

    `path` is a folder, a file of weights, a checkpoint-N.pt, or a TensorFlow checkpoint's prefix.
    Weights are looked for and not read. Raises ValueError where a JSON file is damaged, OSError
    where the folder cannot be read.
    """
    path = os.fspath(path)
    is_prefix = re.search(r"\.(index|meta|data-\d+-of-\d+)$", path)
    is_prefix = is_prefix or os.path.exists(f"{path}.index")
    if not (os.path.exists(path) or is_prefix):
        return Folder(path, path)
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."

    def existing(*names):
        paths = [os.path.join(folder, name) for name in names]
        return next(filter(os.path.isfile, paths), None)

    weights = weights_in(folder)
    tensorflow = _tensorflow_in(folder)
    if tensorflow:
        weights[TENSORFLOW] = tensorflow
    found = checkpoints(folder)
    source = next(iter([*weights.values(), *found.values()]), None)
    if not os.path.isdir(path):
        tensorflow = path if is_prefix else None
        source = path

    configuration = existing(TRANSFORMERS_CONFIG, CONFIG)
    tokenizer = read_tokenizer_files(folder)
    return Folder(
        path=folder,
        asked=path,
        source=source,
        is_tensorflow=source is not None and source == tensorflow,
        weights=weights,
        checkpoints=found,
        foreign=_foreign_weights(folder),
        config_file=existing(CONFIG, TRANSFORMERS_CONFIG),
        vocab_file=tokenizer.vocab_file,
        run=tokenizer.run,
        configuration=read_json(configuration) if configuration else {},
        tokenizer=tokenizer,
    )


def _tensorflow_in(folder):
    """The TensorFlow checkpoint of a folder or hub module; the folder if it is not clear which."""
    for place in (folder, os.path.join(folder, "variables")):
        if glob.glob(os.path.join(glob.escape(place), "*.index")):
            try:
                return find_prefix(place)
            except FileNotFoundError:  # several, without a file that names the latest
                return place
    return None


def find_start(args: argparse.Namespace) -> Folder | None:
    """The folder of the weights that a run starts from, or evaluates; None for random ones.

    That is --init_checkpoint's, but for evaluation alone --output_dir where it holds weights and
    --init_checkpoint is not one of them. For a run that resumes, --init_checkpoint may be gone or
    not given: then it is --output_dir, without a `source`. Raises FileNotFoundError for weights
    that do not exist.
    """
    init = args.init_checkpoint
    trains = getattr(args, "do_train", False)
    out = inspect_folder(args.output_dir) if getattr(args, "output_dir", "") else Folder("", "")
    if out.source and not trains and not (init and _is_inside(init, args.output_dir)):
        return out
    resumes = trains and out.checkpoints
    if not init:
        resumes = resumes and not args.overwrite_output_dir
        return replace(out, source=None) if resumes else None
    start = inspect_folder(init)
    if os.path.isdir(init) and not start.source and os.path.exists(os.path.join(init, ADAPTER)):
        raise FileNotFoundError(
            f"--init_checkpoint {init} holds an adapter of PEFT and not the model that it adapts: "
            f"merge them (merge_and_unload) and save the model"
        )
    if not start.source and (inner := folders_of_weights(init)):
        raise FileNotFoundError(
            f"--init_checkpoint {init} holds no weights, but its folders do: give one of "
            f"{', '.join(inner)}"
        )
    if start.source or os.path.exists(init):
        return start
    if resumes:
        return replace(out, source=None)
    raise FileNotFoundError(_not_found(init))


def folders_of_weights(path: str | os.PathLike) -> list[str]:
    """The folders in a folder that hold weights, as checkpoint-500 of transformers' Trainer."""
    if not os.path.isdir(path):
        return []
    found = []
    for name in sorted(os.listdir(path)):
        folder = os.path.join(path, name)
        with contextlib.suppress(ValueError):  # damaged
            if os.path.isdir(folder) and inspect_folder(folder).source:
                found.append(folder)
    return found


def _is_same(path, other):
    return os.path.realpath(path) == os.path.realpath(other)


def _is_inside(path, folder):
    path = os.path.realpath(path)
    folder = os.path.realpath(folder)
    return os.path.commonpath([path, folder]) == folder


def _not_found(init):
    """The message for an --init_checkpoint that does not exist, with what to do instead."""
    if advice := flags.download_advice(init):
        return f"--init_checkpoint {init} {advice}"
    folder = os.path.dirname(init) or "."
    names = os.listdir(folder) if os.path.isdir(folder) else []
    found = sorted({re.sub(r"\.(index|meta|data-.*)$", "", name) for name in names})
    return (
        f"--init_checkpoint {init} does not exist; {folder} contains: "
        f"{', '.join(found) or 'nothing'}"
    )


def take_from_folder(args: argparse.Namespace) -> None:
    """Fills in the flags that were not given from the folder that the weights come from.

    These are --bert_config_file, --vocab_file, --do_lower_case and --strip_accents. Raises
    ValueError if there is nothing to evaluate, if a file is neither given nor there, or if the
    folder's tokenizer splits texts otherwise than ours.
    """
    start = find_start(args)
    if start is None:
        if not args.do_train:
            raise ValueError("there are no weights to use: give --init_checkpoint or --do_train")
        _require_files(args, "there is no --init_checkpoint to take it from")
        return
    # Of a run with --add_tokens the folder has what came of the files that were given.
    is_grown = getattr(args, "add_tokens", None) and _is_same(start.path, args.output_dir)
    if is_grown or not args.bert_config_file:
        args.bert_config_file = start.config_file
    if is_grown or not args.vocab_file:
        args.vocab_file = start.vocab_file
    _require_files(args, f"{start.path} has none")
    refuse_other_tokenizers(start)
    for name, value in start.casing.items():
        if not flags.is_given(args, name):
            setattr(args, name, value)


def _require_files(args, reason):
    """Raises ValueError if the configuration or the vocabulary is missing."""
    if not args.bert_config_file:
        raise ValueError(f"--bert_config_file is not given, and {reason}")
    if not args.vocab_file and flags.script_of(args) != flags.PRETRAINING:
        raise ValueError(f"--vocab_file is not given, and {reason}")


def refuse_other_tokenizers(folder: Folder) -> None:
    """Raises ValueError if a folder's tokenizer splits texts otherwise than ours can."""
    if folder.tokenizer:
        folder.tokenizer.refuse_others()


def refuse_contradictions(args: argparse.Namespace, start: Folder) -> None:
    """Raises ValueError if a flag contradicts what lies beside the weights.

    Compares casing, the vocabularies, and what the weights themselves do not show of the
    configurations. Entries [unusedN] may differ: users give them a meaning.
    """
    for name, value in start.casing.items():
        # Of text that is not lower-cased the accents stay, whatever the flag says.
        if name == "strip_accents" and not args.do_lower_case:
            continue
        if value != getattr(args, name):
            raise ValueError(
                f"{start.asked} was trained with {name} {value}, but this run has "
                f"{getattr(args, name)}"
            )
    given = getattr(args, "bert_config_file", None)
    if given and start.config_file and not os.path.samefile(given, start.config_file):
        config = BertConfig.from_json_file(given)
        other = BertConfig.from_json_file(start.config_file)
        for name in ("num_attention_heads", "hidden_act", "layer_norm_eps"):
            if getattr(config, name) != getattr(other, name):
                raise ValueError(
                    f"{given} has {name} {getattr(config, name)}, but {start.config_file} beside "
                    f"the weights has {getattr(other, name)}"
                )
    given = getattr(args, "vocab_file", None)
    if given and start.vocab_file and not os.path.samefile(given, start.vocab_file):
        tokens = {number: token for token, number in load_vocab(given).items()}
        for token, number in load_vocab(start.vocab_file).items():
            if tokens.get(number, token) != token and not token.startswith("[unused"):
                raise ValueError(
                    f"{given}:{number + 1} is {tokens[number][:40]!r}, but in {start.vocab_file} "
                    f"beside the weights it is {token!r}"
                )


def order_of_labels(folder: Folder, labels: Sequence[str] | None) -> list[int] | None:
    """For each of `labels`, the number of its output in the folder; None if they are in order.

    Names are compared without regard to case. Raises ValueError if they are other labels.
    """
    theirs = folder.labels
    if theirs is None or labels is None or list(labels) == theirs:
        return None
    ours = [label.casefold() for label in labels]
    found = [label.casefold() for label in theirs]
    if sorted(ours) != sorted(found) or len(set(ours)) < len(ours):
        raise ValueError(
            f"{folder.asked} was trained with labels {theirs}, but this run has {list(labels)}"
        )
    return [found.index(label) for label in ours]


def _foreign_weights(folder):
    """Names of the weights in a folder that a run of ours never writes."""
    patterns = (
        *(f"{name}.index.json" for name in WEIGHT_FILES),
        "pytorch_model-*-of-*.bin", "model-*-of-*.safetensors", "*.data-?????-of-?????",
        "tf_model.h5", "flax_model.msgpack", "adapter_model.bin", "adapter_model.safetensors",
    )  # fmt: skip
    found = {
        os.path.basename(path)
        for pattern in patterns
        for path in glob.glob(os.path.join(glob.escape(folder), pattern))
    }
    return sorted(found)


# --- the trained model ---------------------------------------------------------------------------


def save_model(
    args: argparse.Namespace, runtime, model: torch.nn.Module, config: BertConfig, **metadata
) -> None:
    """Makes --output_dir self-contained: weights, configuration, vocabulary, flags, `metadata`.

    Rank 0 alone writes. Raises OSError.
    """
    if not runtime.is_main:
        return
    _save_description(args, runtime, model, config, metadata)

    arrays = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
    size = sum(array.nbytes for array in arrays.values())
    safetensors = os.path.join(args.output_dir, SAFETENSORS)
    if args.save_safetensors:
        write_safetensors(safetensors, arrays)
    else:
        # Other libraries would read an earlier run's weights instead of these.
        with contextlib.suppress(FileNotFoundError):
            os.remove(safetensors)
    # Last, because this file marks the run as finished.
    write_bin(os.path.join(args.output_dir, WEIGHTS), arrays.items(), size)


def _save_description(args, runtime, model, config, metadata) -> None:
    """Writes all but the weights that `save_model` writes; run.json last."""
    # The model that is written ties its tables, whatever the one that was read did.
    config = replace(config, tie_word_embeddings=True)
    _save_config(args, config)

    # Its own name, whatever it was called by: a link, a notebook, another program.
    script = flags.script_of(args)
    metadata = {
        "script": f"{script}.py" if script else os.path.basename(sys.argv[0]),
        "flags": vars(args),
        "do_lower_case": args.do_lower_case,
        "strip_accents": args.strip_accents,
        "never_split": args.never_split,
        "precision": runtime.precision,
        **({"why_not_bf16": runtime.why_not_bf16} if runtime.why_not_bf16 else {}),
        "torch": torch.__version__,
        **metadata,
    }
    json_files = {TRANSFORMERS_CONFIG: transformers_config(model, config, metadata), RUN: metadata}
    for name, values in json_files.items():
        with atomic_write(os.path.join(args.output_dir, name)) as file:
            json.dump(values, file, indent=2)


def _save_config(args, config) -> None:
    """Writes configuration and tokenizer, so that the weights beside them can be used."""
    with atomic_write(os.path.join(args.output_dir, CONFIG)) as file:
        file.write(config.to_json_string())
    if not args.vocab_file:  # run_pretraining.py needs none
        return
    tokenizer = flags.tokenizer_of(args)
    content = vocab_content(args.vocab_file, tokenizer)
    with atomic_write(os.path.join(args.output_dir, VOCAB), "wb") as file:
        file.write(content)
    with atomic_write(os.path.join(args.output_dir, TOKENIZER_CONFIG)) as file:
        values = tokenizer_config(tokenizer, vars(args), config.max_position_embeddings)
        json.dump(values, file, indent=2)


def transformers_config(model, config, metadata) -> dict:
    """The content of config.json, in which transformers looks for the model."""
    values = {
        **config.to_dict(),
        "model_type": "bert",
        "architectures": [type(model).__name__],
        "layer_norm_eps": config.layer_norm_eps,
        "dtype": "float32",
    }
    labels = metadata.get("labels")
    if labels is not None:
        names = list(labels) or ["LABEL_0"]  # a regression has one output
        kind = "single_label_classification" if labels else "regression"
        values |= {
            "id2label": dict(enumerate(names)),
            "label2id": {label: number for number, label in enumerate(names)},
        }
        if metadata.get("task") != "tagging":
            values["problem_type"] = metadata.get("problem_type", kind)
    return values


def read_metadata(weights: str | None) -> dict:
    """What `save_model` wrote to run.json beside these weights (a file or its folder), or {}.

    `global_step` is that of the weights: for a checkpoint the step in its name. Without weights
    (None) the result is {}. Raises ValueError where run.json is damaged.
    """
    if weights is None:
        return {}
    folder = weights if os.path.isdir(weights) else os.path.dirname(weights)
    metadata = read_run(folder)
    step = step_of(weights)
    return metadata if step is None else metadata | {"global_step": step}


def write_results(path: str, results: dict) -> None:
    """Prints and writes `key = value` lines as in Google's eval_results.txt; floats as float32."""
    with atomic_write(path) as file:
        for key, value in results.items():
            text = str(value) if isinstance(value, int) else str(np.float32(value))
            print(f"{key} = {text}")
            file.write(f"{key} = {text}\n")


# --- checkpoints of a run in progress ------------------------------------------------------------


def save_tensors(values: dict, path: str) -> None:
    """`torch.save` to a temporary file that then replaces `path`. Raises OSError."""
    size = sum(tensor.nbytes for tensor in _tensors(values))
    with atomic_write(path, "wb", size) as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # PyTorch's writer turns a full disk into one.
            raise OSError(error.__context__ or error) from None


def _tensors(values):
    """Every tensor in a dictionary of dictionaries."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)


def read_tensors(path: str) -> dict:
    """What `save_tensors` wrote, with its checksums verified. Raises ValueError where damaged."""
    with damage_named(path):
        return read_archive(path)


START = "content of --init_checkpoint"  # in a resume key


def resume_key(args, config, fingerprint, evaluated=None) -> dict[str, str]:
    """Everything that decides the result of training, as text: a resumed run must have the same.

    `fingerprint` is a checksum of the training examples, `evaluated` of those that --keep_best and
    --patience evaluate. Of files the content counts, not the path, and of the configuration what it
    means; the content of --init_checkpoint is left out if it is gone, since a resumed run does not
    read it.
    """
    chooses = getattr(args, "keep_best", False) or getattr(args, "patience", None)
    may_differ = MAY_DIFFER - DECIDES_BEST if chooses else MAY_DIFFER
    values = {"script": flags.script_of(args)}
    values |= {name: value for name, value in vars(args).items() if name not in may_differ}
    init = values.pop("init_checkpoint")
    del values["bert_config_file"]
    values["meaning of --bert_config_file"] = zlib.crc32(config.to_json_string().encode())
    path = values.pop("vocab_file")
    content = None
    if path:
        # What ends its lines does not matter, nor blank lines at its end and a byte-order mark.
        lines = vocab_content(path, flags.tokenizer_of(args)).decode("utf-8-sig").split("\n")
        text = "\n".join(line.removesuffix("\r") for line in lines).rstrip("\n") + "\n"
        content = zlib.crc32(text.encode())
    values["content of --vocab_file"] = content
    if init is None:
        values[START] = None
    elif checksum := _checksum_of_weights(init):
        values[START] = checksum
    values["training examples"] = fingerprint
    if chooses:
        values["examples to evaluate"] = evaluated
    return {name: str(value) for name, value in values.items()}


def _checksum_of_weights(path):
    """A checksum of weights, the same wherever they lie; "" if they do not exist."""
    folder = inspect_folder(path)
    if folder.source is None:
        return ""
    files = [folder.source]
    if folder.is_tensorflow:  # Its index holds a checksum of every variable.
        files = [f"{find_prefix(folder.source)}.index"]
    elif folder.source.endswith(".index.json"):
        files = find_weight_files(folder.source)
    checksum = 0
    for file in sorted(files):
        if os.path.getsize(file):
            checksum = crc32c.crc32c(np.memmap(file, "u1", "r"), checksum)
    return f"{checksum:08x}"


def differences(args: argparse.Namespace, saved: dict[str, str], key: dict[str, str]) -> list[str]:
    """What in this run's resume key differs from the `saved` one, as text.

    A flag that the checkpoint lacks is newer than it and counts as its default. A checkpoint that
    lacks the contents of files is older than these, and they are not compared.
    """
    changed = []
    for name, value in key.items():
        # A run that resumes does not read its start, which need not be given again.
        if name == START and value == "None" and not args.overwrite_output_dir:
            continue
        was = saved.get(name)
        if was is None and name in DECIDES_BEST:
            continue  # It decided nothing in that run: --keep_best or --patience is new.
        if was is None:
            try:
                was = str(flags.default_value(args, name))
            except LookupError:
                continue
        if was != value:
            changed.append(f"{name} was {was}, is {value}")
    return changed


def step_of(path: str) -> int | None:
    """The step in a checkpoint's name; None for a file that is not a checkpoint."""
    name = re.fullmatch(r"checkpoint-([0-9]+)\.pt", os.path.basename(path))
    return int(name[1]) if name else None


def checkpoints(folder: str) -> dict[int, str]:
    """{step: path} of the checkpoints in `folder`, the newest first."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(folder), CHECKPOINTS)):
        step = step_of(path)
        if step is not None:
            found[step] = path
    return dict(sorted(found.items(), reverse=True))


def recorded_precision(folder: str) -> tuple[str, str] | None:
    """(path, "float32" or "bfloat16") of the newest checkpoint in `folder` that can be opened.

    None without a checkpoint of a run with --bf16. Nothing is verified: `resume_or_clear` does
    that, which reads the whole file.
    """
    for path in checkpoints(folder).values():
        with contextlib.suppress(Exception):  # PyTorch raises nearly every type on damaged bytes.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if state["decisive"].get("bf16") == "True":
                # An older checkpoint does not say; --bf16 always meant bfloat16 then.
                return path, str(state.get("precision", "bfloat16"))
            return None
    return None


def check_output_dir(args: argparse.Namespace) -> None:
    """Raises ValueError if a run that trains must not write to --output_dir, before any work.

    It must not replace weights that it did not train, nor remove the ones that it starts from.
    """
    folder = inspect_folder(args.output_dir)
    is_run = bool(folder.checkpoints)
    if getattr(args, "seeds", None):  # This folder receives the best seed's weights at the end.
        is_run = os.path.exists(os.path.join(args.output_dir, SEEDS_RESULTS))
    if not args.do_train or (is_run and not args.overwrite_output_dir):
        return  # `resume_or_clear` compares the run of the checkpoints with this one.

    if folder.foreign:
        raise ValueError(
            f"--output_dir {args.output_dir} holds {', '.join(folder.foreign[:3])}, which no run "
            f"writes and --overwrite_output_dir does not remove: use another folder"
        )
    if not args.overwrite_output_dir:
        if folder.weights:
            names = " and ".join(folder.weights)
            raise ValueError(
                f"--output_dir {args.output_dir} already holds a {names} that was not trained "
                f"here: use another folder, or replace it with --overwrite_output_dir"
            )
        refuse_users_files(args, folder)
        return
    if args.init_checkpoint:
        own = {os.path.realpath(path) for path in written_by_runs(args.output_dir)}
        init = inspect_folder(args.init_checkpoint)
        if init.source and os.path.realpath(init.source) in own:
            raise ValueError(
                f"--init_checkpoint {args.init_checkpoint} is in --output_dir {args.output_dir}, "
                f"which --overwrite_output_dir clears: use another --output_dir"
            )


def refuse_users_files(args: argparse.Namespace, folder: Folder) -> None:
    """Raises ValueError if the model's files would replace a user's, which this run does not read.

    Those of another model may be there, with its weights in another folder.
    """
    if folder.run or folder.checkpoints or os.path.exists(os.path.join(folder.path, LOG)):
        return
    inputs = {os.path.realpath(value) for value in vars(args).values() if isinstance(value, str)}
    for name in (CONFIG, TRANSFORMERS_CONFIG, VOCAB, TOKENIZER_CONFIG):
        path = os.path.join(folder.path, name)
        if os.path.exists(path) and os.path.realpath(path) not in inputs:
            raise ValueError(
                f"--output_dir {args.output_dir} holds a {name} that no run wrote: use another "
                f"folder, or replace it with --overwrite_output_dir"
            )


def written_by_runs(folder: str) -> list[str]:
    """The paths in `folder` of all that runs of ours write, half-written files included."""
    paths = []
    for pattern in WRITTEN:
        for ending in ("", ".tmp"):
            paths += glob.glob(os.path.join(glob.escape(folder), pattern + ending))
    return sorted(filter(os.path.isfile, paths))


def clear_output_dir(args: argparse.Namespace, runtime) -> None:
    """Removes all that an earlier run wrote to --output_dir, except files that this one reads."""
    values = [value for value in vars(args).values() if isinstance(value, str)]
    inputs = {os.path.realpath(value) for value in values}
    removed = []
    for path in written_by_runs(args.output_dir):
        if os.path.realpath(path) not in inputs:
            os.remove(path)
            removed.append(os.path.basename(path))
    if removed:
        runtime.print(f"removing an earlier run from {args.output_dir}: {', '.join(removed)}")


def read_resume_state(folder: Folder, runtime) -> tuple[str | None, dict | None]:
    """(path, state) of the newest checkpoint that is not damaged; (None, None) without one."""
    for path in folder.checkpoints.values():
        try:
            state = read_tensors(path)
            if not (isinstance(state, dict) and isinstance(state.get("decisive"), dict)):
                raise ValueError(f"{path} is not a checkpoint of this program")
        except ValueError as error:
            runtime.print(f"{error}; trying the checkpoint before it")
            continue
        return path, state
    return None, None


def resume_or_clear(args, runtime, key: dict[str, str]):
    """The state in the newest undamaged checkpoint of this run, or None where it starts anew.

    `key` is completed by what only the checkpoint knows: the content of a start that is gone.

    With --overwrite_output_dir a run of this very command that has not ended is resumed; what any
    other run left is removed. Locks the folder against other processes. Raises ValueError if the
    checkpoints belong to a run with another resume key, if all are damaged, if --output_dir holds
    weights that no run of this script trained, if another process trains there, or if ranks see
    different states.
    """
    runtime.lock = None  # of an earlier seed's folder
    if runtime.is_main and os.path.isdir(args.output_dir):
        runtime.lock = FolderLock(args.output_dir)
    check_output_dir(args)
    folder = inspect_folder(args.output_dir)
    path, state = read_resume_state(folder, runtime)
    changed = differences(args, state["decisive"], key) if state else []

    clear = False
    if args.overwrite_output_dir:
        if not state or changed or (folder.is_finished and not runtime.keep_finished):
            state = None
            clear = True
    elif changed:
        raise ValueError(
            f"{path} belongs to a run with other settings ({'; '.join(changed)}): "
            f"use the same, another --output_dir, or --overwrite_output_dir"
        )
    elif folder.checkpoints and not state:
        raise ValueError(
            f"every checkpoint in {args.output_dir} is damaged: --overwrite_output_dir starts over"
        )

    if not state and args.init_checkpoint and find_start(args).source is None:
        # Random weights are not what was asked for: the missing file is named.
        raise FileNotFoundError(_not_found(args.init_checkpoint))
    runtime.require_equal("--output_dir", {"step": state["step"] if state else 0})
    if state:
        note = ""
        if args.overwrite_output_dir:
            note = ", a run of this command that has not ended: to drop it, delete the folder"
        runtime.print(f"resuming from {path}{note}")
        if START in state["decisive"]:  # what was not read again is as it was
            key[START] = state["decisive"][START]
    if runtime.is_main and clear:
        clear_output_dir(args, runtime)
    if runtime.is_main and not runtime.lock:
        os.makedirs(args.output_dir, exist_ok=True)
        runtime.lock = FolderLock(args.output_dir)
    return state


def save_checkpoint(
    args, runtime, model, optimizer, step, scale, key, evaluation=None, metadata=None
) -> None:
    """Writes checkpoint-`step`.pt and removes the oldest beyond --keep_checkpoints.

    `evaluation` is the state of the run's Evaluator, with its best weights. `metadata` is that of
    `save_model`, all of which but the weights is written, too: of a run that is killed the
    checkpoint can be used as a finished run's weights. Raises OSError, or ValueError if a weight is
    not finite; the checkpoints there are then kept.
    """
    if not runtime.is_main:
        return
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scale": scale.state_dict() if scale else None,
        "precision": runtime.precision,
        "evaluation": evaluation,
        "decisive": key,  # the resume key, under its first name, so that old checkpoints resume
    }
    for name, tensor in state["model"].items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite after step {step}: stopped without saving")
    _save_description(args, runtime, model, getattr(model, "bert", model).config, metadata or {})
    save_tensors(state, os.path.join(args.output_dir, f"checkpoint-{step}.pt"))

    old = list(checkpoints(args.output_dir).values())[args.keep_checkpoints :]
    # A run that is killed while it writes leaves a partial file.
    partial = glob.glob(f"{glob.escape(args.output_dir)}/{CHECKPOINTS}.tmp")
    for path in old + partial:
        os.remove(path)
