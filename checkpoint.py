"""The files of a run: weights, results, and checkpoints from which a killed run resumes.

Every file is written under a temporary name, synced and renamed, so that it is complete or absent.
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

from files import CONFIG, RUN, SAFETENSORS, VOCAB, WEIGHTS, atomic_write
from flags import MAY_DIFFER
from weights import damage_named, read_archive, write_bin, write_safetensors

# --- the trained model ---------------------------------------------------------------------------


def save_model(args, runtime, model, config, **metadata) -> None:
    """Makes --output_dir self-contained: weights, configuration, vocabulary, flags, `metadata`.

    Rank 0 alone writes. Raises OSError.
    """
    if not runtime.is_main:
        return
    with atomic_write(os.path.join(args.output_dir, CONFIG)) as file:
        file.write(config.to_json_string())

    target = os.path.join(args.output_dir, VOCAB)
    # run_pretraining.py may have been given no vocabulary; a run's own needs no copy.
    if args.vocab_file and os.path.abspath(args.vocab_file) != os.path.abspath(target):
        with open(args.vocab_file, "rb") as source, atomic_write(target, "wb") as file:
            shutil.copyfileobj(source, file)

    metadata = {
        "script": os.path.basename(sys.argv[0]),
        "flags": vars(args),
        "do_lower_case": args.do_lower_case,
        "strip_accents": args.strip_accents,
        "never_split": args.never_split,
        "precision": runtime.precision,
        **({"why_not_bf16": runtime.why_not_bf16} if runtime.why_not_bf16 else {}),
        "torch": torch.__version__,
        **metadata,
    }
    json_files = {RUN: metadata, **transformers_files(model, config, metadata)}
    for name, values in json_files.items():
        with atomic_write(os.path.join(args.output_dir, name)) as file:
            json.dump(values, file, indent=2)

    arrays = {name: tensor.cpu().numpy() for name, tensor in model.state_dict().items()}
    size = sum(array.nbytes for array in arrays.values())
    write_bin(os.path.join(args.output_dir, WEIGHTS), arrays.items(), size)

    safetensors = os.path.join(args.output_dir, SAFETENSORS)
    if args.save_safetensors:
        write_safetensors(safetensors, arrays)
    else:
        # Other libraries would read an earlier run's weights instead of these.
        with contextlib.suppress(FileNotFoundError):
            os.remove(safetensors)


def transformers_files(model, config, metadata) -> dict[str, dict]:
    """{name: content} of the JSON files in which transformers looks for model and tokenizer."""
    labels = metadata.get("labels", ("LABEL_0", "LABEL_1"))
    if not labels:  # a regression has one output
        labels = ("LABEL_0",)
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
            "do_lower_case": metadata["do_lower_case"],
            "strip_accents": bool(metadata["do_lower_case"] and metadata["strip_accents"]),
            "model_max_length": config.max_position_embeddings,
        },
    }


def read_metadata(weights) -> dict:
    """What `save_model` wrote to run.json beside these weights (a file or its folder), or {}.

    `global_step` is that of the weights: for a checkpoint the step in its name. Without weights
    (None) the result is {}. Raises ValueError where run.json is damaged.
    """
    if weights is None:
        return {}
    folder = weights if os.path.isdir(weights) else os.path.dirname(weights)
    path = os.path.join(folder, RUN)
    metadata = {}
    try:
        with open(path, encoding="utf-8") as file:
            metadata = json.load(file)
        if not isinstance(metadata, dict):
            raise ValueError("not a JSON object")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
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


def save_tensors(values, path: str) -> None:
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


def read_tensors(path: str):
    """What `save_tensors` wrote, with its checksums verified. Raises ValueError where damaged."""
    with damage_named(path):
        return read_archive(path)


def resume_key(args, fingerprint) -> dict[str, str]:
    """Everything that decides the result of training, as text: a resumed run must have the same.

    `fingerprint` is a checksum of the training examples.
    """
    values = {name: value for name, value in vars(args).items() if name not in MAY_DIFFER}
    for name in ("bert_config_file", "vocab_file", "init_checkpoint"):
        values[name] = values[name] and os.path.abspath(values[name])
    with open(args.bert_config_file, "rb") as file:
        values["content of --bert_config_file"] = zlib.crc32(file.read())
    values["training examples"] = fingerprint
    return {name: str(value) for name, value in values.items()}


def step_of(path):
    """The step in a checkpoint's name; None for a file that is not a checkpoint."""
    name = re.fullmatch(r"checkpoint-([0-9]+)\.pt", os.path.basename(path))
    return int(name[1]) if name else None


def checkpoints(folder: str) -> dict[int, str]:
    """{step: path} of the checkpoints in `folder`, the newest first."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(folder), "checkpoint-*.pt")):
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


def resume_or_clear(args, runtime, key: dict[str, str]):
    """The state in the newest undamaged checkpoint of this run, or None where there is none.

    With --overwrite_output_dir the checkpoints are removed instead. Raises ValueError if they
    belong to a run with another resume key, if all are damaged, or if --output_dir holds weights
    that this script did not train.
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
                raise ValueError(f"{path} is not a checkpoint of this program")
        except ValueError as error:
            runtime.print(f"{error}; trying the checkpoint before it")
            continue
        saved = state["decisive"]
        changed = [
            f"{name} was {saved.get(name)}, is {value}"
            for name, value in key.items()
            if saved.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{path} belongs to a run with other settings ({'; '.join(changed)}): "
                f"use the same, another --output_dir, or --overwrite_output_dir"
            )
        runtime.print(f"resuming from {path}")
        return state

    if found:
        raise ValueError(
            f"every checkpoint in {args.output_dir} is damaged: --overwrite_output_dir starts over"
        )
    if os.path.exists(os.path.join(args.output_dir, WEIGHTS)):
        raise ValueError(
            f"--output_dir {args.output_dir} already holds a {WEIGHTS} that was not trained here: "
            f"use another folder, or replace it with --overwrite_output_dir"
        )
    return None


def save_checkpoint(args, runtime, model, optimizer, step, scale, key) -> None:
    """Writes checkpoint-`step`.pt and removes the oldest beyond --keep_checkpoints.

    Raises OSError, or ValueError if a weight is not finite; the checkpoints there are then kept.
    """
    if not runtime.is_main:
        return
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scale": scale.state_dict() if scale else None,
        "precision": runtime.precision,
        "decisive": key,  # the resume key, under its first name, so that old checkpoints resume
    }
    for name, tensor in state["model"].items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} is not finite after step {step}: stopped without saving")
    save_tensors(state, os.path.join(args.output_dir, f"checkpoint-{step}.pt"))

    old = list(checkpoints(args.output_dir).values())[args.keep_checkpoints :]
    # A run that is killed while it writes leaves a partial file.
    partial = glob.glob(f"{glob.escape(args.output_dir)}/checkpoint-*.pt.tmp")
    for path in old + partial:
        os.remove(path)
