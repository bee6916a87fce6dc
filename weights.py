"""Files of weights, PyTorch's and safetensors': whole when written, verified when read.

They are written without PyTorch, a few tensors at a time, so that the converter needs neither its
second of start-up nor the memory of a model; it is imported where a file is read. Both formats are
short: an archive with a pickle and a file for each tensor's bytes (what `torch.save` writes), and
a JSON header with the bytes behind it (github.com/huggingface/safetensors).
"""

import contextlib
import json
import math
import os
import pickle
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import crc32c
import numpy as np

from files import WEIGHT_FILES, atomic_write

CHECKSUMS = "crc32c"  # where the metadata of our .safetensors holds each tensor's


# --- writing -------------------------------------------------------------------------------------


def write_bin(path, arrays, size):
    """Writes (name, float32 array) pairs as `torch.save` does the tensors {name: tensor}.

    Pairs may come from a generator, a few at a time; `size` in bytes is for a full disk's message.
    """
    tensors = b""
    with atomic_write(path, "wb", size) as file, zipfile.ZipFile(file, "w") as archive:

        def add(name, data):
            entry = zipfile.ZipInfo(f"weights/{name}")
            # As PyTorch, data begins at a multiple of 64 bytes, so that it can be mapped.
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
    """The same pairs, of which a thread makes up to `count` while another is in use.

    With one alone the two take turns: Linux wakes a thread on the core of the one that wakes it.
    """
    pairs = iter(pairs)
    with ThreadPoolExecutor(1) as thread:
        coming = deque(thread.submit(next, pairs, None) for _ in range(count))
        while pair := coming.popleft().result():
            coming.append(thread.submit(next, pairs, None))
            yield pair


def _bytes(array):
    """An array's values as plain bytes, copied only where they do not lie so already."""
    return memoryview(np.ascontiguousarray(array, "<f4").reshape(-1)).cast("B")


def _pickled(value):
    return pickle.dumps(value, 2)[2:-1]  # without the protocol before and the end behind


def _pickled_tensor(key, shape):
    """_rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks), called."""
    strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    storage = b"(" + _pickled("storage") + b"ctorch\nFloatStorage\n"
    storage += _pickled(key) + _pickled("cpu") + _pickled(math.prod(shape)) + b"tQ"
    arguments = storage + _pickled(0) + _pickled(tuple(shape)) + _pickled(strides)
    arguments += _pickled(False) + b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def write_safetensors(path, arrays):
    """Writes {name: float32 array}, with the checksum of each in the metadata."""
    header, end = {}, 0
    checksums = {name: _checksum(name, "float32", a.shape, _bytes(a)) for name, a in arrays.items()}
    # Other libraries want the format, which says that names and layout are PyTorch's.
    header["__metadata__"] = {"format": "pt", CHECKSUMS: json.dumps(checksums)}
    for name, array in arrays.items():
        start, end = end, end + 4 * array.size
        header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path, "wb", end) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(_bytes(array))


def _checksum(name, dtype, shape, data):
    """CRC-32C of a tensor's bytes and of what they mean."""
    return crc32c.crc32c(data, crc32c.crc32c(f"{name} {dtype} {list(shape)}".encode()))


# --- reading -------------------------------------------------------------------------------------


def read_state_dict(path):
    """Name -> tensor from a .bin or .safetensors file, a folder with one, or a resume checkpoint.

    Checksums are verified where there are any, and nothing but tensors is unpickled. Raises
    FileNotFoundError or ValueError, naming the file.
    """
    weights = {}
    for file in _find_files(os.fspath(path)):
        weights.update(_read_file(file))
    return weights


def _find_files(path):
    """The file that `path` means; or, of a large model, the parts that its index names."""
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
        # Names alone count, so no index can point outside its folder.
        return [os.path.join(os.path.dirname(path), os.path.basename(part)) for part in parts]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ValueError(f"{path} is damaged, or no index of PyTorch weights") from None


def _read_file(path):
    import torch

    with damage_named(path, "damaged, or no file of PyTorch weights"):
        if path.endswith(".safetensors"):
            weights = _read_safetensors(path)
        else:
            weights = read_archive(path, mmap=True)
    if isinstance(weights, dict) and {"model", "optimizer"} <= weights.keys():
        weights = weights["model"]  # of a checkpoint of ours, from which a run goes on
    values = weights.values() if isinstance(weights, dict) else [None]
    if not all(isinstance(value, torch.Tensor) for value in values):
        raise ValueError(f"{path} is not a state dict: it holds other things than tensors")
    return weights


@contextlib.contextmanager
def damage_named(path, what="damaged"):
    """Whatever a reader complains of becomes one line with the file: ValueError."""
    try:
        yield
    except ImportError:
        raise ValueError(f"{path} needs the package safetensors: pip install safetensors") from None
    except Exception as error:  # The readers raise nearly every type on damaged bytes.
        if isinstance(error, OSError) and error.filename is not None:  # It is not there, say.
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            reason = "nothing but plain tensors is unpickled"
        raise ValueError(f"{path} is {what}: {reason}") from None


def read_archive(path, mmap=False):
    """`torch.load` of plain values; ValueError where a checksum, which that ignores, is wrong."""
    import torch

    with open(path, "rb") as file:
        archived = file.read(4) == b"PK\3\4"  # Files of PyTorch before 1.6 are no archives.
    if archived:
        with zipfile.ZipFile(path) as archive:
            if sum(e.file_size for e in archive.infolist()) > os.path.getsize(path):
                raise ValueError("it claims more than it holds")
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of {damaged} is wrong")
            # PyTorch takes what memory holds for the content of an entry marked as a folder.
            if marked := [e.filename for e in archive.infolist() if e.external_attr & 0x10]:
                raise ValueError(f"{marked[0]} is marked as a folder")
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and archived)


def _read_safetensors(path):
    import torch
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        metadata = file.metadata() or {}
    checksums = json.loads(metadata.get(CHECKSUMS, "null"))
    for name in sorted(weights.keys() | checksums.keys()) if checksums is not None else ():
        tensor = weights.get(name, torch.empty(0))
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        dtype = str(tensor.dtype).removeprefix("torch.")
        if _checksum(name, dtype, tensor.shape, data) != checksums.get(name):
            raise ValueError(f"the checksum of {name} is wrong")
    return weights
