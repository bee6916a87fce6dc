"""The files of a run: weights, results, and checkpoints from which a killed run goes on.

Everything is written aside, synced and renamed, so that a file is whole or not there.
"""

import contextlib
import glob
import json
import os
import shutil
import sys
import zipfile
import zlib

import numpy as np
import torch

from flags import MEANINGLESS

WEIGHTS, CONFIG, VOCAB, RUN, LOG = (
    "pytorch_model.bin", "bert_config.json", "vocab.txt", "run.json", "training_log.jsonl"
)  # fmt: skip

# Flags that do not change what training computes: a run may be resumed with others.
NEUTRAL = {
    "do_train", "do_eval", "do_predict", "eval_batch_size", "predict_batch_size", "predict_file",
    "output_dir", "data_dir", "train_file", "overwrite_output_dir", "save_checkpoints_steps",
    "keep_checkpoints", "local_rank", "no_cuda", "gradient_accumulation_steps", "n_best_size",
    "max_answer_length", "null_score_diff_threshold", "verbose_logging",
    *MEANINGLESS,
}  # fmt: skip


@contextlib.contextmanager
def replacing(path, mode="w"):
    """A file to write that takes the place of `path` once it is whole and on the disk."""
    aside = f"{path}.tmp"
    try:
        with open(aside, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(aside)
        raise


def save_tensors(values, path):
    """torch.save, written aside. Raises OSError, with how much is needed where the disk is full."""
    try:
        with replacing(path, "wb") as file:
            torch.save(values, file)
    except (OSError, RuntimeError) as error:  # PyTorch's writer hides a full disk in the latter.
        cause = error if isinstance(error, OSError) else error.__context__ or error
        size = sum(t.nbytes for t in _tensors(values))
        raise OSError(f"{path} could not be written ({size / 1e6:.0f} MB): {cause}") from None


def _tensors(values):
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _tensors(value)


def read_tensors(path):
    """What `save_tensors` wrote, with its checksums verified. Raises ValueError where damaged."""
    try:
        damaged = zipfile.ZipFile(path).testzip()
        if damaged:
            raise ValueError(f"the checksum of {damaged} is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # The readers raise nearly every type on damaged bytes.
        raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def save_model(args, runtime, model, config, **facts):
    """Makes --output_dir self-contained: weights, configuration, vocabulary, flags and `facts`."""
    if not runtime.is_main:
        return
    path = lambda name: os.path.join(args.output_dir, name)  # noqa: E731
    with replacing(path(CONFIG)) as file:
        file.write(config.to_json_string())
    if os.path.abspath(args.vocab_file) != os.path.abspath(path(VOCAB)):
        with open(args.vocab_file, "rb") as source, replacing(path(VOCAB), "wb") as file:
            shutil.copyfileobj(source, file)
    facts = {
        "script": os.path.basename(sys.argv[0]),
        "flags": vars(args),
        "do_lower_case": args.do_lower_case,
        "torch": torch.__version__,
        **facts,
    }
    with replacing(path(RUN)) as file:
        json.dump(facts, file, indent=2)
    save_tensors(model.state_dict(), path(WEIGHTS))


def read_run(folder):
    """The facts that `save_model` wrote to `folder`, or {}."""
    try:
        with open(os.path.join(folder, RUN), encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError as error:
        raise ValueError(f"{os.path.join(folder, RUN)} is damaged: {error}") from None


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
    return {name: str(value) for name, value in flags.items()} | {
        "training examples": str(data_fingerprint)
    }


def checkpoints(folder):
    """{step: path} of the checkpoints in `folder`, the newest first."""
    found = {}
    for path in glob.glob(os.path.join(glob.escape(folder), "checkpoint-*.pt")):
        step = os.path.basename(path)[len("checkpoint-") : -len(".pt")]
        if step.isdigit():
            found[int(step)] = path
    return dict(sorted(found.items(), reverse=True))


def newest_checkpoint(args, runtime, decisive):
    """The newest whole checkpoint of this run, or None.

    Raises ValueError where it belongs to a run with other flags or examples, or where --output_dir
    holds a model that this script did not train.
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
    if not found and os.path.exists(os.path.join(args.output_dir, WEIGHTS)):
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
        }
        for name, tensor in state["model"].items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} is not finite after step {step}: stopped, not saved")
        save_tensors(state, os.path.join(args.output_dir, f"checkpoint-{step}.pt"))
        for path in list(checkpoints(args.output_dir).values())[args.keep_checkpoints :]:
            os.remove(path)
