"""The files of a run: weights, results, and checkpoints from which a killed run goes on.

Everything is written aside, synced and renamed, so that a file is whole or not there.
"""

import contextlib
import glob
import json
import os
import re
import shutil
import sys
import zlib

import numpy as np
import torch

from flags import MEANINGLESS
from weights import (
    WEIGHT_FILES,
    damage_named,
    read_archive,
    replacing,
    write_bin,
    write_safetensors,
)

WEIGHTS, SAFETENSORS = WEIGHT_FILES
CONFIG, VOCAB, RUN, LOG = "bert_config.json", "vocab.txt", "run.json", "training_log.jsonl"

# Flags that do not change what training computes: a run may be resumed with others.
NEUTRAL = {
    "do_train", "do_eval", "do_predict", "eval_batch_size", "predict_batch_size", "predict_file",
    "output_dir", "data_dir", "train_file", "overwrite_output_dir", "save_checkpoints_steps",
    "keep_checkpoints", "local_rank", "no_cuda", "gradient_accumulation_steps", "n_best_size",
    "max_answer_length", "null_score_diff_threshold", "verbose_logging", "save_safetensors",
    "tensorboard", "compile", "seeds", "interactive", "input_file", "max_eval_steps",
    *MEANINGLESS,
}  # fmt: skip


def save_tensors(values, path):
    """torch.save, written aside. Raises OSError, with how much is needed where the disk is full."""
    with replacing(path, "wb", sum(tensor.nbytes for tensor in _tensors(values))) as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # PyTorch's writer hides a full disk in one.
            raise OSError(error.__context__ or error) from None


def _tensors(values):
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)


def read_tensors(path):
    """What `save_tensors` wrote, with its checksums verified. Raises ValueError where damaged."""
    with damage_named(path):
        return read_archive(path)


def save_model(args, runtime, model, config, **facts):
    """Makes --output_dir self-contained: weights, configuration, vocabulary, flags and `facts`."""
    if not runtime.is_main:
        return
    path = lambda name: os.path.join(args.output_dir, name)  # noqa: E731
    with replacing(path(CONFIG)) as file:
        file.write(config.to_json_string())
    vocab_file = args.vocab_file  # None where run_pretraining.py was given none
    if vocab_file and os.path.abspath(vocab_file) != os.path.abspath(path(VOCAB)):
        with open(vocab_file, "rb") as source, replacing(path(VOCAB), "wb") as file:
            shutil.copyfileobj(source, file)
    facts = {
        "script": os.path.basename(sys.argv[0]),
        "flags": vars(args),
        "do_lower_case": args.do_lower_case,
        "strip_accents": args.strip_accents,
        "precision": runtime.precision,
        **({"why_not_bf16": runtime.why_not_bf16} if runtime.why_not_bf16 else {}),
        "torch": torch.__version__,
        **facts,
    }
    for name, values in {RUN: facts, **files_of_transformers(model, config, facts)}.items():
        with replacing(path(name)) as file:
            json.dump(values, file, indent=2)
    arrays = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
    write_bin(path(WEIGHTS), arrays.items(), sum(array.nbytes for array in arrays.values()))
    if args.save_safetensors:
        write_safetensors(path(SAFETENSORS), arrays)
    else:  # An earlier run's would be taken for this one's by other libraries.
        with contextlib.suppress(FileNotFoundError):
            os.remove(path(SAFETENSORS))


def files_of_transformers(model, config, facts):
    """{name: content} of the JSON files by which the transformers library knows model and text."""
    labels = facts.get("labels", ("LABEL_0", "LABEL_1")) or ("LABEL_0",)  # one score: a regression
    encoder = getattr(model, "bert", model)
    return {
        "config.json": {
            **config.to_dict(),
            "model_type": "bert",
            "architectures": [type(model).__name__],
            "layer_norm_eps": encoder.embeddings.LayerNorm.eps,
            "id2label": dict(enumerate(labels)),
            "label2id": {label: number for number, label in enumerate(labels)},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": facts["do_lower_case"],
            "strip_accents": bool(facts["do_lower_case"] and facts["strip_accents"]),
            "model_max_length": config.max_position_embeddings,
        },
    }


def read_run(weights):
    """The facts that `save_model` wrote beside these weights, a file or its folder; or {}.

    So for None, where there are no weights. The step of a checkpoint is in its name.
    """
    if weights is None:
        return {}
    folder, run = weights if os.path.isdir(weights) else os.path.dirname(weights), {}
    try:
        with open(os.path.join(folder, RUN), encoding="utf-8") as file:
            run = json.load(file)
            if not isinstance(run, dict):
                raise ValueError("it is no JSON object")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.path.join(folder, RUN)} is damaged: {error}") from None
    step = _step_of(weights)
    return run if step is None else run | {"global_step": step}


def write_results(path, results):
    """Prints and writes `key = value` lines, as Google's eval_results.txt; floats as float32."""
    with replacing(path) as file:
        for key, value in results.items():
            line = f"{key} = {value if isinstance(value, int) else str(np.float32(value))}"
            print(line)
            file.write(line + "\n")


def fingerprint(features, fields):
    """A checksum of the training examples: a resumed run must see the same ones."""
    value = 0
    for feature in features:
        for name in fields:
            value = zlib.crc32(np.asarray(getattr(feature, name)).tobytes(), value)
    return value


def result_flags(args, data_fingerprint):
    """What decides the result of training, as text."""
    flags = {name: value for name, value in vars(args).items() if name not in NEUTRAL}
    for name in ("bert_config_file", "vocab_file", "init_checkpoint"):
        flags[name] = flags[name] and os.path.abspath(flags[name])
    with open(args.bert_config_file, "rb") as file:
        flags["content of --bert_config_file"] = zlib.crc32(file.read())
    flags["training examples"] = data_fingerprint
    return {name: str(value) for name, value in flags.items()}


def _step_of(path):
    """The step in a checkpoint's name; None where the file is no checkpoint."""
    name = re.fullmatch(r"checkpoint-([0-9]+)\.pt", os.path.basename(path))
    return name and int(name[1])


def checkpoints(folder):
    """{step: path} of the checkpoints in `folder`, the newest first."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(folder), "checkpoint-*.pt")):
        step = _step_of(path)
        if step is not None:
            found[step] = path
    return dict(sorted(found.items(), reverse=True))


def recorded_precision(folder):
    """(path, "float32" or "bfloat16") of the newest checkpoint in `folder` that can be opened.

    None where there is none of a run with --bf16. Nothing is verified here: `newest_checkpoint`
    does that, which reads the whole file.
    """
    for path in checkpoints(folder).values():
        with contextlib.suppress(Exception):  # PyTorch raises nearly every type on damaged bytes.
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if state["decisive"].get("bf16") == "True":
                # An older checkpoint does not say: then --bf16 was always bfloat16.
                return path, str(state.get("precision", "bfloat16"))
            return None
    return None


def newest_checkpoint(args, runtime, decisive):
    """The newest whole checkpoint of this run, or None.

    Raises ValueError where it belongs to a run with other flags or examples, where all are damaged,
    or where --output_dir holds a model that this script did not train.
    """
    found = checkpoints(args.output_dir)
    if args.overwrite_output_dir:
        for path in found.values() if runtime.is_main else ():
            runtime.print(f"removing {path}")
            os.remove(path)
        return None
    for path in found.values():
        try:
            state = read_tensors(path)
            if not (isinstance(state, dict) and isinstance(state.get("decisive"), dict)):
                raise ValueError(f"{path} is no checkpoint of a run")
        except ValueError as error:
            runtime.print(f"{error}; going back to the checkpoint before it")
            continue
        changed = [
            f"{name} was {state['decisive'].get(name)}, is {value}"
            for name, value in decisive.items()
            if state["decisive"].get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{path} is of a run with other settings ({'; '.join(changed)}): "
                f"use the same, another --output_dir, or --overwrite_output_dir"
            )
        runtime.print(f"going on from {path}")
        return state
    if found:
        raise ValueError(
            f"every checkpoint in {args.output_dir} is damaged: --overwrite_output_dir starts anew"
        )
    if os.path.exists(os.path.join(args.output_dir, WEIGHTS)):
        raise ValueError(
            f"--output_dir {args.output_dir} already holds {WEIGHTS} of another origin: "
            f"use another folder, or replace it with --overwrite_output_dir"
        )
    return None


def save_checkpoint(args, runtime, model, optimizer, step, scale, decisive):
    """Writes a checkpoint. Raises ValueError, keeping those there, where a weight is no number."""
    if runtime.is_main:
        state = {
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scale": vars(scale) if scale else None,
            "decisive": decisive,
            "precision": runtime.precision,
        }
        for name, tensor in state["model"].items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} is not finite after step {step}: stopped, not saved")
        save_tensors(state, os.path.join(args.output_dir, f"checkpoint-{step}.pt"))
        old = list(checkpoints(args.output_dir).values())[args.keep_checkpoints :]
        # A run that was killed while it wrote leaves half a file.
        for path in old + glob.glob(f"{glob.escape(args.output_dir)}/checkpoint-*.pt.tmp"):
            os.remove(path)
