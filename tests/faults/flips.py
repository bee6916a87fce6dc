"""Files of weights with flipped bits, cut ends and swapped pieces: refused, or harmless.

SILENT must never happen: wrong weights are loaded without an error.
"""

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jobs import Tally

import checkpoint
import tf_checkpoint
import weights

REFUSED, HARMLESS, SILENT = "refused", "harmless", "silently accepted"
SHAPES = {
    "bert.embeddings.word_embeddings.weight": (13, 7),
    "bert.encoder.layer.0.attention.self.query.weight": (7, 7),
    "bert.encoder.layer.0.attention.self.query.bias": (7,),
    "bert.encoder.layer.0.attention.self.key.weight": (7, 7),
    "bert.encoder.layer.0.attention.self.key.bias": (7,),
    "bert.encoder.layer.0.output.LayerNorm.weight": (7,),
    "bert.pooler.dense.bias": (7,),
    "classifier.bias": (1,),
}


@dataclass
class Kind:
    """A kind of file: its path, the function that reads it, and what must be read from it."""

    name: str
    path: Path
    load: object
    content: bytes = b""
    truth: object = None
    named: bool = False  # whether the error names the damaged tensor

    def __post_init__(self):
        self.content, self.truth = self.path.read_bytes(), flatten(self.load())


def flatten(values, name=""):
    """{path of names: type, shape and bytes} of every value in nested dictionaries and lists."""
    if isinstance(values, dict):
        return {k: v for key in values for k, v in flatten(values[key], f"{name}/{key!r}").items()}
    if isinstance(values, (list, tuple)):
        return flatten(dict(enumerate(values)), name)
    if isinstance(values, torch.Tensor):
        values = values.detach().numpy()
    if isinstance(values, np.ndarray):
        return {name: (values.dtype.str, values.shape, values.tobytes())}
    return {name: repr(values)}


def make_kinds(folder):
    """Writes a small file of each kind; returns the Kinds."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    prefix = folder / "bert_model.ckpt"
    tf_checkpoint.write_checkpoint(str(prefix), arrays)
    state = {"step": 3, "model": tensors, "optimizer": {"state": {0: {"exp_avg": tensors}}},
             "scale": None, "decisive": {"learning_rate": "0.001", "seed": "42"}}  # fmt: skip
    resume, ours, theirs, safe = (
        folder / name
        for name in ("checkpoint-3.pt", "pytorch_model.bin", "saved.bin", "model.safetensors")
    )
    checkpoint.save_tensors(state, str(resume))
    weights.write_bin(str(ours), arrays.items(), size=0)
    torch.save(tensors, theirs)

    def from_tensorflow():
        found = tf_checkpoint.Checkpoint(str(prefix))
        return {name: found[name] for name in found.variables}

    state_dict = lambda path: lambda: weights.read_state_dict(path)  # noqa: E731
    kinds = [
        Kind("TensorFlow's index", folder / f"{prefix.name}.index", from_tensorflow),
        Kind("TensorFlow's data", folder / f"{prefix.name}.data-00000-of-00001", from_tensorflow,
             named=True),
        Kind("resume checkpoint", resume, lambda: checkpoint.read_tensors(str(resume))),
        Kind("pytorch_model.bin", ours, state_dict(ours)),
        Kind("pytorch_model.bin of torch.save", theirs, state_dict(theirs)),
    ]  # fmt: skip
    try:
        import safetensors  # noqa: F401
    except ImportError:
        return kinds
    weights.write_safetensors(str(safe), arrays)
    return [*kinds, Kind("model.safetensors", safe, state_dict(safe))]


def flip(rng, content, parts):
    """Flips a random bit in place; returns a description, as cut and exchange do."""
    bit = rng.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    return f"bit {bit}"


def cut(rng, content, parts):
    """Cuts the content off at a random place."""
    size = rng.randrange(len(content))
    del content[size:]
    return f"cut at {size}"


def exchange(rng, content, parts):
    """Swaps the bytes of two tensors (parts), or any two pieces, that differ."""
    before = bytes(content)
    while content == before:
        if rng.random() < 0.5 and len(parts) > 1:
            (a, size), (b, other) = rng.sample(parts, 2)
            size = min(size, other)
        else:
            size = rng.choice((1, 4, 28, 64))
            a, b = (rng.randrange(len(content) - size) for _ in "ab")
        if abs(a - b) >= size:
            content[a : a + size], content[b : b + size] = (
                content[b : b + size], content[a : a + size],
            )  # fmt: skip
    return f"{size} bytes exchanged at {a} and {b}"


def tensors_in(kind):
    """(first byte, size) of each tensor whose bytes are in the file unchanged."""
    bits = [value[2] for value in kind.truth.values() if isinstance(value, tuple)]
    return [(kind.content.index(b), len(b)) for b in bits if len(b) > 4 and b in kind.content]


def judge(kind):
    """Reads a damaged file; returns (outcome, what is wrong with that outcome or None)."""
    try:
        found = flatten(kind.load())
    except (ValueError, OSError) as error:
        message = str(error)
        if "\n" in message or kind.path.name not in message:
            return REFUSED, f"badly told: {message!r}"
        if kind.named and "/" not in message and not any(name in message for name in SHAPES):
            return REFUSED, f"does not name the tensor: {message!r}"
        return REFUSED, None
    except Exception as error:
        return REFUSED, f"undocumented {type(error).__name__}: {error}"
    return (HARMLESS, None) if found == kind.truth else (SILENT, "other weights are loaded")


def attack(folder, seed, flips):
    """Damages every kind of file: `flips` flips in total, and a twentieth as many cuts and swaps.

    Returns a Tally of (kind, damage, outcome).
    """
    rng, tally, kinds = random.Random(seed), Tally(), make_kinds(folder)
    for kind in kinds:
        parts, number = tensors_in(kind), -(-flips // len(kinds))
        for damage, times in ((flip, number), (cut, number // 20), (exchange, number // 20)):
            for _ in range(times):
                content = bytearray(kind.content)
                what = damage(rng, content, parts)
                kind.path.write_bytes(content)
                outcome, wrong = judge(kind)
                tally.done[kind.name, damage.__name__, outcome] += 1
                if wrong:
                    tally.fail(outcome, [kind.name, what], wrong)
        kind.path.write_bytes(kind.content)
    return tally


def count(tally):
    """The Tally's counts as {(kind, damage): Counter of outcomes}."""
    table = {}
    for (kind, damage, outcome), number in tally.done.items():
        table.setdefault((kind, damage), Counter())[outcome] += number
    return table
