"""Weights in every format: files written whole and verified when read, and filled into a model.

Writing needs no PyTorch: the converter then starts without PyTorch's second of import, and holds a
few tensors rather than a whole model in memory. PyTorch is imported where a file is read. Formats:
`pytorch_model.bin`, an archive with a pickle and one file of bytes for each tensor, as `torch.save`
writes it; and `model.safetensors` (github.com/huggingface/safetensors).
"""

import contextlib
import errno
import json
import math
import os
import pickle
import re
import zipfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import crc32c
import numpy as np

from files import WEIGHT_FILES, atomic_write, wrong_file

if TYPE_CHECKING:
    import torch

# Key in the metadata of our .safetensors files: a checksum for each tensor, which the format lacks.
CHECKSUMS = "crc32c"

# Copies that files of other libraries hold of tensors which two parts of the model share.
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
POOLER = ("bert.pooler.dense.bias", "bert.pooler.dense.weight")
ANCHOR = "bert.embeddings.word_embeddings.weight"

# What the parts of a model whose index is missing are called.
PART = r"-\d{5}-of-\d{5}\.(bin|safetensors)$"

# Constants in some files: 0, 1, 2, … and zeros.
CONSTANTS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")

# What is put before names by those who wrap a model: DataParallel, torch.compile, FSDP, Lightning
# modules, sentence-transformers, and users' own modules.
WRAPPERS = (
    "module.", "_orig_mod.", "_fsdp_wrapped_module.", "model.", "net.", "network.", "backbone.",
    "0.auto_model.", "auto_model.", "bert_model.",
)  # fmt: skip

# Keys under which files hold a state dict: ours, Lightning's, DeepSpeed's, users'.
CONTAINERS = ("model", "state_dict", "model_state_dict", "module", "net")

# What names mean that are not those of a plain BERT.
FOREIGN_NAMES = (
    (r"lora_[AB]\b|\.base_layer\.|^base_model\.model\.", "an adapter of PEFT: merge it first"),
    (r"\bparametrizations\.|weight_(orig|mask|g|v)$", "a weight that PyTorch reparametrizes or "
     "prunes: remove that first"),
    (r"_packed_params|zero_point|\.SCB$|absmax$|\.qweight$", "a quantized weight"),
    (r"\.distance_embedding\.", "relative position embeddings, which are not supported"),
    (r"\.crossattention\.", "a decoder's cross-attention, which is not supported"),
    (r"\.adapters?\b|prefix_encoder|prompt_encoder", "an adapter, which is not supported"),
    (r"\bbert\.encoder\.layers\.|\bmixer\.|Wqkv", "of flash-attention's BERT"),
    (r"^(encoder\.)?layers\.\d+\.(self_attn|norm)", "of torch.nn.TransformerEncoder"),
    (r"\b(xlm_)?roberta\.|\bcamembert\.", "of RoBERTa, another architecture"),
    (r"\bdistilbert\.", "of DistilBERT, another architecture"),
    (r"\balbert\b|albert_layer_groups", "of ALBERT, another architecture"),
    (r"\b(electra|deberta|nezha|mpnet|xlnet|longformer)\.", "of another architecture"),
    (r"(^|\.)wte\.|^transformer\.h\.|(^|\.)h\.\d+\.", "of GPT-2, another architecture"),
)  # fmt: skip


# --- filling a model -----------------------------------------------------------------------------


def standard_name(name: str) -> str:
    """The name of a tensor in the files in circulation: with `bert.`, `weight` and `bias`.

    Takes the names of wrapped models (see WRAPPERS), of a bare encoder, NVIDIA's `dense_act`, and
    TensorFlow's `gamma` and `beta`.
    """
    while wrapper := next((prefix for prefix in WRAPPERS if name.startswith(prefix)), None):
        name = name.removeprefix(wrapper)
    name = re.sub(r"^(embeddings|encoder|pooler)\.", r"bert.\1.", name)
    name = name.replace(".dense_act.", ".dense.")
    name = re.sub(r"gamma$", "weight", name)
    return re.sub(r"beta$", "bias", name)


def standard_names(names: Iterable[str], source: str) -> dict[str, str]:
    """{standard name: name} of the names in a file.

    What a user's own module puts before the names of its only BERT, e.g. "text_encoder.", is left
    out. Raises ValueError, naming `source`, where two names get the same standard name.
    """
    standard = {name: standard_name(name) for name in names}
    anchors = [name for name in standard.values() if name.endswith(ANCHOR.removeprefix("bert"))]
    if len(anchors) == 1 and anchors[0] != ANCHOR and not _meaning_of(anchors[0]):
        wrapper = anchors[0].removesuffix(ANCHOR.removeprefix("bert.")).removesuffix("bert.")
        standard = {
            name: standard_name(other.removeprefix(wrapper)) for name, other in standard.items()
        }
    found = {}
    for name, other in standard.items():
        if found.setdefault(other, name) != name:
            raise ValueError(f"{source} holds two models: both {found[other]} and {name}")
    return found


def standard_state_dict(state_dict: dict, source: str) -> dict:
    """The same tensors under their standard names, without copies of tied ones.

    An untied copy, which differs from its original, stays under its own name. Raises ValueError,
    naming `source`, where two tensors get the same name.
    """
    names = standard_names(state_dict, source)
    tensors = {name: state_dict[given] for name, given in names.items()}
    for copy, original in TIED.items():
        tensor = tensors.get(copy)
        # A file may hold the copy alone.
        if tensor is not None and tensor.equal(tensors.setdefault(original, tensor)):
            del tensors[copy]
    return tensors


def refuse_untied(tensors: Iterable[str], source: str | os.PathLike) -> None:
    """Raises ValueError for a masked-LM head that has a table of its own."""
    for copy, original in TIED.items():
        if copy in tensors:
            raise ValueError(f"{source}: {copy} differs from {original}, which BERT ties it to")


def what_it_holds(names: Iterable[str]) -> str:
    """A name that a file holds instead of those of BERT, and what it means, for a message."""
    for name in names:
        if meaning := _meaning_of(name):
            return f"; it holds {name}, {meaning}"
    first = next(iter(names), None)
    return f"; it holds {first}" if first else "; it holds nothing"


def _meaning_of(name):
    """What a name of FOREIGN_NAMES means; None for another name."""
    return next((text for pattern, text in FOREIGN_NAMES if re.search(pattern, name)), None)


def load_weights(
    model: "torch.nn.Module",
    path_or_state_dict: str | os.PathLike | dict[str, "torch.Tensor"],
    pooler_is_read: bool = True,
    source: str | os.PathLike = "the state dict",
) -> tuple[list[str], list[str]]:
    """Fills `model` from a file, a folder or a state dict; returns (unfilled, unused) names.

    Takes names as `standard_name` does, any floating-point type, and other heads. Only tensors of
    heads may stay unfilled, and the pooler if the head that reads it does, or if no head reads it;
    of a model without a head the pooler's output is read unless `pooler_is_read` is False. Errors
    name the file or folder, for a state dict its `source`. Raises ValueError if another tensor of
    the encoder is missing or has another shape or type, or has no place in the model, or if a value
    is not finite; the model is then unchanged. Raises as `read_state_dict` for files.
    """
    import torch

    given = path_or_state_dict
    if not isinstance(given, dict):
        source = given
        given = read_state_dict(given)
    held = list(given)
    given = standard_state_dict(given, source)
    for name in CONSTANTS:
        given.pop(name, None)

    targets = {standard_name(name): tensor for name, tensor in model.named_parameters()}
    if "cls.predictions.bias" in targets:
        refuse_untied(given, source)
    types = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    found = {
        name: list(tensor.shape) if tensor.dtype in types else str(tensor.dtype)
        for name, tensor in given.items()
    }
    found |= {
        name: str(tensor.layout)
        for name, tensor in given.items()
        if tensor.layout is not torch.strided
    }
    fitting = {name for name in targets if found.get(name) == list(targets[name].shape)}
    unfilled = sorted(targets.keys() - fitting)
    unused = sorted(given.keys() - fitting)

    # Other libraries save models for questions or masked words without a pooler.
    if any(not name.startswith("bert.") for name in targets):
        readers = fitting & {"classifier.weight", "cls.seq_relationship.weight"}
        pooler_is_read = bool(readers) and getattr(model, "reads_pooler", True)
    for name in unfilled:
        if not name.startswith("bert."):
            continue
        if name in POOLER and not pooler_is_read and not found.keys() & set(POOLER):
            continue
        needed = list(targets[name].shape)
        there = found.get(name, "missing")
        # A single tensor that is missing needs no hint at what the others are.
        hint = "" if ANCHOR in found else what_it_holds(held)
        if there == "missing" and re.search(PART, os.fspath(source)):
            hint = "; it is one part of a model: give its folder"
        raise ValueError(f"{source}: {name} is {there}, the model's is {needed}{hint}")
    _refuse_more(source, unused, model)
    for name in sorted(fitting):
        # The sum is fast to compute; it may also overflow, in float16.
        if not given[name].sum().isfinite() and not given[name].isfinite().all():
            raise ValueError(f"{source}: {name} holds values that are not finite numbers")

    with torch.no_grad():
        for name in fitting:
            targets[name].copy_(given[name])
    return unfilled, unused


def _refuse_more(source, unused, model):
    """Raises ValueError if a file has more in its encoder than the model: it computes more."""
    layers = getattr(model, "bert", model).config.num_hidden_layers
    for name in unused:
        if not name.startswith("bert."):
            continue
        layer = re.match(r"bert\.encoder\.layer\.(\d+)\.", name)
        if layer and int(layer[1]) >= layers:
            raise ValueError(f"{source}: {name} is of a larger model than the configuration's")
        meaning = what_it_holds([name]).removeprefix(f"; it holds {name}") or ", not a part of BERT"
        raise ValueError(f"{source} holds {name}{meaning}")


# --- writing -------------------------------------------------------------------------------------


def write_bin(path: str, arrays: Iterable[tuple[str, np.ndarray]], size: int) -> None:
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


def fingerprint(state_dict: dict[str, "torch.Tensor"]) -> str:
    """A checksum of a state dict's names and values."""
    checksum = 0
    for name, tensor in sorted(state_dict.items()):
        data = tensor.detach().cpu().contiguous().reshape(-1).numpy().view(np.uint8)
        checksum = crc32c.crc32c(data, crc32c.crc32c(name.encode(), checksum))
    return f"{checksum:08x}"


def _checksum(name, dtype, shape, data):
    """CRC-32C of a tensor's name, type, shape and bytes."""
    return crc32c.crc32c(data, crc32c.crc32c(f"{name} {dtype} {list(shape)}".encode()))


# --- reading -------------------------------------------------------------------------------------


def read_state_dict(path: str | os.PathLike) -> dict[str, "torch.Tensor"]:
    """{name: tensor} from a .bin or .safetensors file, a folder with one, or a checkpoint of ours.

    Checksums are verified where the file has any, and only tensors are unpickled. Raises
    FileNotFoundError, or ValueError naming the file, and for a folder in which two files hold
    different weights: other libraries prefer model.safetensors.
    """
    weights = _read_files(path)
    if os.path.isdir(path):
        first, *others = weights_in(path)
        for name in others:
            try:
                other = _read_files(os.path.join(path, name))
                different = _first_difference(weights, other, path)
            except (ValueError, FileNotFoundError):  # damaged, or a pointer to the file
                continue
            if different:
                raise ValueError(
                    f"{path} holds two models: {first} and {name} differ in {different}; give the "
                    f"file that is meant, as {os.path.join(path, first)}"
                )
    return weights


def _read_files(path):
    """{name: tensor} of the files that `path` means."""
    weights = {}
    for file in find_weight_files(os.fspath(path)):
        weights.update(_read_file(file))
    return weights


def _first_difference(weights, other, source):
    """The first tensor that two state dicts have both, with other values; None if all agree.

    One of them may be in half precision.
    """
    weights = standard_state_dict(weights, source)
    other = standard_state_dict(other, source)
    for name, tensor in weights.items():
        if name in other and not (
            tensor.shape == other[name].shape
            and tensor.float().allclose(other[name].float(), rtol=1e-2, atol=1e-4, equal_nan=True)
        ):
            return name
    return None


def weights_in(folder: str | os.PathLike) -> dict[str, str]:
    """{name: path} of the weights in a folder that PyTorch reads, the preferred ones first.

    A name is pytorch_model.bin, model.safetensors, or that of an index of several parts.
    """
    names = [*WEIGHT_FILES, *(f"{name}.index.json" for name in WEIGHT_FILES)]
    paths = {name: os.path.join(folder, name) for name in names}
    return {name: path for name, path in paths.items() if os.path.exists(path)}


def find_weight_files(path: str | os.PathLike) -> list[str]:
    """The files that `path` means: the file itself, a folder's, or the parts of a large model."""
    if os.path.isdir(path):
        found = weights_in(path)
        if not found:
            others = sorted(os.listdir(path))
            hint = f"; it contains: {', '.join(others[:9])}" if others else ""
            unread = [name for name in others if name.endswith((".h5", ".msgpack", ".onnx"))]
            if unread:
                hint = f"; {unread[0]} is of another library and not read"
            elif parts := [name for name in others if re.search(PART, name)]:
                index = re.sub(PART, r".\1.index.json", parts[0])
                hint = f"; {parts[0]} is a part of a model, whose {index} is missing: download it"
            raise FileNotFoundError(f"{path} holds neither {' nor '.join(WEIGHT_FILES)}{hint}")
        path = next(iter(found.values()))
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path} does not exist")
    if not path.endswith(".index.json"):
        return [path]

    try:
        with open(path, encoding="utf-8") as file:
            parts = sorted(set(json.load(file)["weight_map"].values()))
        # Only base names count, so an index cannot point outside its folder.
        parts = [os.path.join(os.path.dirname(path), os.path.basename(part)) for part in parts]
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise ValueError(f"{path} is damaged or not an index of PyTorch weights") from None
    for part in parts:
        if not os.path.exists(part):
            reason = f"missing, but {os.path.basename(path)} lists it: download it too"
            raise FileNotFoundError(errno.ENOENT, reason, part)
    return parts


def _read_file(path):
    """{name: tensor} of one file."""
    import torch

    if not os.path.isdir(path) and (problem := wrong_file(path)):
        raise ValueError(f"{path} is {problem}")
    with damage_named(path, "damaged or not a file of PyTorch weights"):
        with open(path, "rb") as file:
            head = file.read(9)
        # By content: files are renamed. A .safetensors file begins with a length in 8 bytes.
        is_archive = head.startswith(b"PK\3\4")
        if head[7:] == b"\0{" or (path.endswith(".safetensors") and not is_archive):
            weights = _read_safetensors(path)
        else:
            weights = read_archive(path, mmap=True)

    def is_state_dict(value):
        items = value.items() if isinstance(value, dict) else [(None, None)]
        return all(
            isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in items
        )

    if isinstance(weights, dict) and not is_state_dict(weights):
        for name in CONTAINERS:
            if weights.get(name) and is_state_dict(weights[name]):
                return weights[name]
    if not is_state_dict(weights):
        values = weights if isinstance(weights, dict) else {}
        others = [name for name, value in values.items() if not isinstance(value, torch.Tensor)]
        hint = f" (its keys: {', '.join(map(str, values))[:80]})" if values else ""
        others += [name for name in values if not isinstance(name, str)]
        if others and len(others) < len(values):
            hint = f" ({others[0]} is of type {type(values[others[0]]).__name__})"
        raise ValueError(f"{path} is not a state dict: not all of its values are tensors{hint}")
    return weights


@contextlib.contextmanager
def damage_named(path: str | os.PathLike, problem: str = "damaged") -> Iterator[None]:
    """Turns whatever a reader raises on damaged bytes into a ValueError that names the file."""
    try:
        yield
    except Exception as error:  # Readers raise nearly every type on damaged bytes.
        if isinstance(error, OSError) and error.filename is not None:
            raise  # not damage: the file does not exist or cannot be opened
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            other = re.search(r"GLOBAL (\S+)", str(error))
            reason = "only plain tensors are unpickled"
            if other and "Unsupported global" in str(error):
                reason += f", but it holds a {other[1]}: save its state dict alone"
        raise ValueError(f"{path} is {problem}: {reason}") from None


def read_archive(path: str | os.PathLike, mmap: bool = False) -> object:
    """`torch.load` of plain values, with the archive's checksums verified, which that ignores.

    Raises ValueError where one is wrong, and whatever `torch.load` raises.
    """
    import torch

    with open(path, "rb") as file:
        archived = file.read(4) == b"PK\3\4"  # Files of PyTorch before 1.6 are not archives.
    if archived:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if entries and all(entry.filename.endswith(".npy") for entry in entries):
                raise ValueError("an archive of NumPy arrays (.npz)")
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
