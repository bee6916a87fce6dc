"""Weights in every format: files written whole and verified when read, and filled into a model.

Writing needs no PyTorch: the converter then starts without PyTorch's second of import, and holds a
few tensors rather than a whole model in memory. PyTorch is imported where a file is read. Formats:
`pytorch_model.bin`, an archive with a pickle and one file of bytes for each tensor, as `torch.save`
writes it; and `model.safetensors` (github.com/huggingface/safetensors).
"""

import contextlib
import json
import math
import os
import pickle
import re
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import crc32c
import numpy as np

from files import WEIGHT_FILES, atomic_write

# Key in the metadata of our .safetensors files: a checksum for each tensor, which the format lacks.
CHECKSUMS = "crc32c"

# Copies that files of other libraries hold of tensors which two parts of the model share.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


# --- filling a model -----------------------------------------------------------------------------


def standard_name(name: str) -> str:
    """The name of a tensor in the files in circulation: with `bert.`, `weight` and `bias`.

    Takes names with DataParallel's `module.`, of a bare encoder, or with TensorFlow's `gamma` and
    `beta`.
    """
    name = re.sub(r"^module\.", "", name)
    name = re.sub(r"^(embeddings|encoder|pooler)\.", r"bert.\1.", name)
    name = re.sub(r"gamma$", "weight", name)
    return re.sub(r"beta$", "bias", name)


def standard_state_dict(state_dict: dict, source: str) -> dict:
    """The same tensors under their standard names, without copies of tied ones.

    Raises ValueError, naming `source`, where a tied copy differs from its original.
    """
    tensors = {standard_name(name): tensor for name, tensor in state_dict.items()}
    for copy, original in TIED.items():
        tensor = tensors.pop(copy, None)
        if tensor is None:
            continue
        # A file may hold the copy alone.
        if not tensor.equal(tensors.setdefault(original, tensor)):
            raise ValueError(f"{source}: {copy} differs from {original}, which BERT ties it to")
    return tensors


def load_weights(model, path_or_state_dict) -> tuple[list[str], list[str]]:
    """Fills `model` from a file, a folder or a state dict; returns (unfilled, unused) names.

    Takes names with or without `bert.`, `gamma` and `beta`, any floating-point type, and other
    heads. Only tensors of heads may stay unfilled, and the pooler if the head that reads it does
    (or if no head reads it). Raises ValueError if another tensor of the encoder is missing or has
    another shape or type; the model is then unchanged. Raises as `read_state_dict` for files.
    """
    import torch

    source = "the state dict"
    given = path_or_state_dict
    if not isinstance(given, dict):
        source = given
        given = read_state_dict(given)
    given = standard_state_dict(given, source)
    given.pop("bert.embeddings.position_ids", None)  # 0, 1, 2, …: a constant in some files

    targets = {standard_name(name): tensor for name, tensor in model.named_parameters()}
    found = {
        name: list(tensor.shape) if tensor.is_floating_point() else str(tensor.dtype)
        for name, tensor in given.items()
    }
    fitting = {name for name in targets if found.get(name) == list(targets[name].shape)}
    unfilled = sorted(targets.keys() - fitting)
    unused = sorted(given.keys() - fitting)

    # Other libraries save models for questions or masked words without a pooler.
    has_head = any(not name.startswith("bert.") for name in targets)
    reads_pooler = {"classifier.weight", "cls.seq_relationship.weight"}
    pooler_may_be_new = has_head and not fitting & reads_pooler
    for name in unfilled:
        if not name.startswith("bert."):
            continue
        if name.startswith("bert.pooler.") and name not in found and pooler_may_be_new:
            continue
        needed = list(targets[name].shape)
        raise ValueError(
            f"{source}: {name} is {found.get(name, 'missing')}, the model's is {needed}"
        )
    deeper = [name for name in unused if name.startswith("bert.encoder.layer.")]
    if deeper:
        raise ValueError(f"{source}: {deeper[0]} is of a larger model than the configuration's")

    with torch.no_grad():
        for name in fitting:
            targets[name].copy_(given[name])
    return unfilled, unused


# --- writing -------------------------------------------------------------------------------------


def write_bin(path: str, arrays, size: int) -> None:
    """Writes (name, float32 array) pairs as `torch.save` would write {name: tensor}.

    The pairs may come from a generator, which makes a few at a time. `size` is their number of
    bytes, for the message about a full disk. Raises OSError.
    """
    tensors = b""
    with atomic_write(path, "wb", size) as file, zipfile.ZipFile(file, "w") as archive:

        def add(name, data):
            entry = zipfile.ZipInfo(f"weights/{name}")
            # As in PyTorch's files, data begins at a multiple of 64 bytes, so it can be mapped.
            padding = -(file.tell() + zipfile.sizeFileHeader + len(entry.filename) + 4) % 64
            entry.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
            archive.writestr(entry, data)

        for number, (name, array) in enumerate(_ahead(arrays)):
            add(f"data/{number}", _bytes(array))
            tensors += _pickled(name) + _pickled_tensor(str(number), array.shape)
        add("data.pkl", b"\x80\x02}(" + tensors + b"u.")  # protocol 2: a dictionary of these
        add("byteorder", b"little")
        add("version", b"3\n")


def _ahead(pairs, count=4):
    """Yields the same pairs, while a thread makes up to `count` of those that follow.

    One alone would not do: Linux wakes the thread on the core of the one that waits for it, and
    the two would take turns.
    """
    pairs = iter(pairs)
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, pairs, None) for _ in range(count))
        while pair := coming.popleft().result():
            coming.append(thread.submit(next, pairs, None))
            yield pair


def _bytes(array):
    """An array's float32 values as plain bytes, copied only where the layout requires it."""
    return memoryview(np.ascontiguousarray(array, "<f4").reshape(-1)).cast("B")


def _pickled(value):
    """A value's pickle in protocol 2, without the header and the end."""
    return pickle.dumps(value, 2)[2:-1]


def _pickled_tensor(key, shape):
    """The pickle of a call of torch._utils._rebuild_tensor_v2, as `torch.save` writes it.

    Its arguments are storage, offset, shape, strides, requires_grad and hooks.
    """
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    storage = b"(" + _pickled("storage") + b"ctorch\nFloatStorage\n"
    storage += _pickled(key) + _pickled("cpu") + _pickled(math.prod(shape)) + b"tQ"
    arguments = storage + _pickled(0) + _pickled(tuple(shape)) + _pickled(strides)
    arguments += _pickled(False) + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def write_safetensors(path: str, arrays: dict[str, np.ndarray]) -> None:
    """Writes {name: float32 array}, with a checksum of each tensor in the metadata.

    Raises OSError.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # The library writes from an array's address, so its values must lie in one piece.
    arrays = {name: np.asarray(array, "<f4", order="C") for name, array in arrays.items()}
    checksums = {
        name: _checksum(name, "float32", array.shape, _bytes(array))
        for name, array in arrays.items()
    }
    # Other libraries ask for the format: names and layout are PyTorch's.
    metadata = {"format": "pt", CHECKSUMS: json.dumps(checksums)}
    with atomic_write(path, "wb", sum(array.nbytes for array in arrays.values())) as file:
        try:
            save_file(arrays, file.name, metadata)
        except SafetensorError as error:  # a full disk, for example
            raise OSError(str(error)) from None


def _checksum(name, dtype, shape, data):
    """CRC-32C of a tensor's name, type, shape and bytes."""
    return crc32c.crc32c(data, crc32c.crc32c(f"{name} {dtype} {list(shape)}".encode()))


# --- reading -------------------------------------------------------------------------------------


def read_state_dict(path) -> dict:
    """{name: tensor} from a .bin or .safetensors file, a folder with one, or a checkpoint of ours.

    Checksums are verified where the file has any, and only tensors are unpickled. Raises
    FileNotFoundError, or ValueError naming the file.
    """
    weights = {}
    for file in _find_files(os.fspath(path)):
        weights.update(_read_file(file))
    return weights


def _find_files(path):
    """The files that `path` means: the file itself, a folder's, or the parts of a large model."""
    if os.path.isdir(path):
        names = [*WEIGHT_FILES, *(f"{name}.index.json" for name in WEIGHT_FILES)]
        found = [name for name in names if os.path.exists(os.path.join(path, name))]
        if not found:
            raise FileNotFoundError(f"{path} holds neither {' nor '.join(WEIGHT_FILES)}")
        path = os.path.join(path, found[0])
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist")
    if not path.endswith(".index.json"):
        return [path]

    try:
        with open(path, encoding="utf-8") as file:
            parts = sorted(set(json.load(file)["weight_map"].values()))
        # Only base names count, so an index cannot point outside its folder.
        return [os.path.join(os.path.dirname(path), os.path.basename(part)) for part in parts]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ValueError(f"{path} is damaged or not an index of PyTorch weights") from None


def _read_file(path):
    """{name: tensor} of one file."""
    import torch

    with damage_named(path, "damaged or not a file of PyTorch weights"):
        if path.endswith(".safetensors"):
            weights = _read_safetensors(path)
        else:
            weights = read_archive(path, mmap=True)
    if isinstance(weights, dict) and {"model", "optimizer"} <= weights.keys():
        weights = weights["model"]  # a checkpoint of ours, for resuming
    values = weights.values() if isinstance(weights, dict) else [None]
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise ValueError(f"{path} is not a state dict: not all of its values are tensors")
    return weights


@contextlib.contextmanager
def damage_named(path, problem="damaged"):
    """Turns whatever a reader raises on damaged bytes into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # Readers raise nearly every type on damaged bytes.
        if isinstance(error, OSError) and error.filename is not None:
            raise  # not damage: the file does not exist or cannot be opened
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "only plain tensors are unpickled"
        raise ValueError(f"{path} is {problem}: {reason}") from None


def read_archive(path, mmap=False):
    """`torch.load` of plain values, with the archive's checksums verified, which that ignores.

    Raises ValueError where one is wrong, and whatever `torch.load` raises.
    """
    import torch

    with open(path, "rb") as file:
        archived = file.read(4) == b"PK\3\4"  # Files of PyTorch before 1.6 are not archives.
    if archived:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > os.path.getsize(path):
                raise ValueError("its entries claim more bytes than the file has")
            damaged = archive.testzip()
            if damaged:
                raise ValueError(f"the checksum of {damaged} is wrong")
            # For an entry marked as a folder PyTorch would return uninitialised memory.
            folders = [entry.filename for entry in entries if entry.external_attr & 0x10]
            if folders:
                raise ValueError(f"{folders[0]} is marked as a folder")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and archived)


def _read_safetensors(path):
    """{name: tensor}, verified where the file is one of ours."""
    import torch
    from safetensors import safe_open

    with safe_open(path, "pt") as file:  # NumPy has no bfloat16
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = file.metadata() or {}

    checksums = json.loads(metadata.get(CHECKSUMS, "null"))
    if checksums is None:
        return weights
    for name in sorted(weights.keys() | checksums.keys()):
        tensor = weights.get(name, torch.empty(0))
        dtype = str(tensor.dtype).removeprefix("torch.")
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        if _checksum(name, dtype, tensor.shape, data) != checksums.get(name):
            raise ValueError(f"the checksum of {name} is wrong")
    return weights
