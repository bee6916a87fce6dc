"""TensorFlow's V2 checkpoints (tensor bundles) to NumPy arrays and back, without TensorFlow.

A checkpoint with the prefix P is P.index and the shards P.data-00000-of-0000N, which are nothing
but the variables' bytes. The index is a LevelDB table (its doc/table_format.md): sorted keys in
blocks, an index block that says where those are, a footer that says where that is. The key "" holds
a BundleHeaderProto, a variable's name its BundleEntryProto (TensorFlow's tensor_bundle.proto).
Every checksum is verified, every size held against the file's, no file but the prefix's opened.
"""

import io
import math
import os
import re
import tempfile

import crc32c
import numpy as np

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER_SIZE = 48
MAX_INDEX_SIZE = 2**24  # BERT-Large with its Adam slots needs 2**16.
RESTART_INTERVAL = 16  # In a block one key of so many is whole, the others lack what they share.

# Of tensorflow/core/framework/types.proto. NumPy lacks bfloat16, which stays its 16 bits.
NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bfloat16": 14, "float16": 19}
DTYPES = {name: np.dtype(name.replace("bfloat", "uint")).newbyteorder("<") for name in NUMBERS}
NAMES = {7: "string", 10: "bool", **{number: name for name, number in NUMBERS.items()}}


class Checkpoint:
    """A TensorFlow V2 checkpoint, opened for reading.

    `path` is the prefix (`bert_model.ckpt`), its .index or a .data file, or the folder.
    `variables` maps each name to (dtype name, shape). `checkpoint[name]` is a read-only array,
    verified, and mapped from the file: its memory is given back with the array.
    Raises FileNotFoundError where a file is missing, ValueError where one is not what it should be.
    """

    def __init__(self, path):
        self.prefix = find_prefix(path)
        self.variables, self._places, name = {}, {}, ""
        try:
            table = _read_table(self.prefix + ".index")
            header = _fields(table.pop(b"", b""))
            if header.get(0x10):
                raise ValueError("it is big-endian: not supported")
            for key, value in table.items():
                if key[0]:  # A leading 0 marks a slice of a variable that is listed as a whole too.
                    name = key.decode()
                    self.variables[name], self._places[name] = _entry(value, self.prefix, header)
        except ValueError as error:
            raise ValueError(f"{self.prefix}.index: {name!r}: {error}") from None

    def __getitem__(self, name):
        (dtype, shape), (shard, offset, size, crc) = self.variables[name], self._places[name]
        try:
            if dtype not in DTYPES:
                raise ValueError(f"type {dtype} is not supported")
            data = np.memmap(shard, "u1", "r", offset, size) if size else np.frombuffer(b"", "u1")
            if _masked_crc(data) != crc:
                raise ValueError("damaged: its checksum does not match")
            return data.view(np.ndarray).view(DTYPES[dtype]).reshape(shape)
        except ValueError as error:
            raise ValueError(f"{shard}: {name!r}: {error}") from None


def find_prefix(path):
    """The prefix of the checkpoint that `path` means: prefix, .index file, .data file or folder.

    In a folder with several, its file `checkpoint` says which is the latest. Raises
    FileNotFoundError, with those that do exist, or ValueError for another kind of file.
    """
    path = os.fspath(path)
    folder, name = (path, "") if os.path.isdir(path) else os.path.split(path)
    found = sorted(n[: -len(".index")] for n in os.listdir(folder or ".") if n.endswith(".index"))
    if name:
        name = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", name)
    elif len(found) == 1:
        name = found[0]
    elif os.path.isfile(os.path.join(folder, "checkpoint")):
        with open(os.path.join(folder, "checkpoint"), encoding="utf-8", errors="replace") as file:
            name = re.search(r'model_checkpoint_path: "(?:.*/)?(.*)"|$', file.read(2**16))[1]
    if name in found:
        return os.path.join(folder, name)
    if os.path.isfile(path) and os.path.getsize(path):
        raise ValueError(f"{path} is {_kind_of_file(path)}")
    found = ", ".join(found) or "none"
    raise FileNotFoundError(f"{path} is no checkpoint's prefix; {folder or '.'} holds: {found}")


def _kind_of_file(path):
    data = np.memmap(path, "u1", "r")
    head, tail = bytes(data[:512]), bytes(data[-8:])
    if head.startswith((b"PK", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar":
        return "an archive: unpack it, then give the prefix of the .index file in it"
    if path.endswith(".meta"):
        return f"a graph without weights: give {path[: -len('.meta')]}"
    if tail == MAGIC:
        return "a V1 checkpoint: load it in TensorFlow 1 and save it as V2 (.index and .data files)"
    return "no TensorFlow checkpoint with an .index file: give the prefix of such"


def _read_table(path):
    """The keys and values of a table, all of whose blocks are verified."""
    with open(path, "rb") as file:
        data = file.read(MAX_INDEX_SIZE + 1)
    if not FOOTER_SIZE <= len(data) <= MAX_INDEX_SIZE or not data.endswith(MAGIC):
        raise ValueError(f"{len(data)} bytes that do not end as an index: cut, or another file")
    footer = io.BytesIO(data[-FOOTER_SIZE:])
    numbers = [_varint(footer) for _ in range(4)]
    if not data.endswith(b"".join(map(_digits, numbers)).ljust(FOOTER_SIZE - 8, b"\0") + MAGIC):
        raise ValueError("the footer is damaged")
    list(_read_block(data, *numbers[:2]))  # the meta-index, which is always empty
    table, end = {}, 0
    for _, handle in _read_block(data, *numbers[2:]):
        handle = io.BytesIO(handle)
        offset, size = _varint(handle), _varint(handle)
        if offset < end:  # No block is read twice: the work stays within the size of the file.
            raise ValueError(f"the block at byte {offset} overlaps the one before it")
        end = offset + size
        table.update(_read_block(data, offset, size))
    return table


def _read_block(data, offset, size):
    """Yields the (key, value) pairs of a block, which a type byte and a checksum follow."""
    end = offset + size + 1
    block = data[offset:end]
    if _masked_crc(block) != data[end : end + 4]:
        raise ValueError(f"the block at byte {offset} is damaged: its checksum does not match")
    if block[-1]:
        raise ValueError(f"the block at byte {offset} is compressed (snappy): not supported")
    end = size - 4 * (1 + int.from_bytes(block[-5:-1], "little"))  # Restart points are not needed.
    stream, key, expanded = io.BytesIO(block[: max(0, end)]), b"", 0
    while stream.tell() != end:
        shared, unshared, value_size = (_varint(stream) for _ in range(3))
        key = _take(io.BytesIO(key), shared) + _take(stream, unshared)
        expanded += len(key)
        if expanded > RESTART_INTERVAL * size:
            raise ValueError(f"the names in a block of {size} bytes expand without end")
        yield key, _take(stream, value_size)


def _entry(value, prefix, header):
    """BundleEntryProto -> (dtype name, shape), (shard's path, offset, size, checksum)"""
    fields = _fields(value)
    dims = _fields(fields.get(0x12, [b""])[-1]).get(0x12, [])
    if len(dims) > 254:  # TensorFlow's limit; the product of many huge sizes would take long.
        raise ValueError(f"it has {len(dims)} dimensions")
    shape = tuple(_fields(dim).get(0x08, 0) for dim in dims)
    number, shard, offset, size, crc = (fields.get(t, 0) for t in (0x08, 0x18, 0x20, 0x28, 0x35))
    dtype = NAMES.get(number, f"number {number}")
    if 0x3A in fields:
        dtype += ", partitioned into slices,"
    elif dtype in DTYPES and size != (needed := math.prod(shape) * DTYPES[dtype].itemsize):
        raise ValueError(f"{dtype} {list(shape)} takes {needed} bytes, not {size}")
    # The path comes from the prefix and two numbers, so no index can point outside its folder.
    shard = f"{prefix}.data-{shard:05d}-of-{header.get(0x08, 0):05d}"
    if offset + size > (end := os.path.getsize(shard)):
        raise ValueError(f"it ends at byte {offset + size}, but {shard} has {end} bytes")
    return (dtype, shape), (shard, offset, size, crc)


def _fields(message):
    """A protobuf message -> {8 * field number + wire type: number, or list of bytes for parts}."""
    stream, fields = io.BytesIO(message), {}
    while stream.tell() < len(message):
        tag = _varint(stream)
        if tag & 7 == 0:
            fields[tag] = _varint(stream)
        elif tag & 7 == 2:
            fields.setdefault(tag, []).append(_take(stream, _varint(stream)))
        elif tag & 7 == 5:
            fields[tag] = _take(stream, 4)
        else:
            raise ValueError(f"unknown protobuf wire type {tag & 7}")
    return fields


def _varint(stream):
    """A natural number below 2**63 in base 128, lowest digit first."""
    value = 0
    for shift in range(0, 63, 7):
        digit = _take(stream, 1)[0]
        value |= (digit & 0x7F) << shift
        if digit < 0x80:
            return value
    raise ValueError("a number is damaged")


def _take(stream, size):
    data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"{size} bytes are claimed where {len(data)} are left")
    return data


def _masked_crc(data):
    """CRC-32C, rotated and shifted, as LevelDB stores it."""
    crc = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def write_checkpoint(prefix, variables, bfloat16=()):
    """Writes `variables`, a mapping or an iterable of (name, array), as a checkpoint of one shard.

    An iterable's pairs are taken one at a time, so that it may make its arrays on the way; uint16
    arrays that `bfloat16` names are the bits of such numbers. The files are written aside, renamed
    when whole. Raises ValueError for types that `Checkpoint` does not read, bad or repeated names.
    """
    folder, base = os.path.split(prefix)
    data_file, index_file = f"{base}.data-00000-of-00001", f"{base}.index"
    table = {b"": bytes([0x08, 1, 0x1A, 2, 0x08, 1])}  # header: 1 shard; version { producer: 1 }
    with tempfile.TemporaryDirectory(prefix=f".{base}.", dir=folder or ".") as aside:
        with open(os.path.join(aside, data_file), "wb") as file:
            for name, array in variables.items() if hasattr(variables, "items") else variables:
                key, array = name.encode(), np.asarray(array)
                dtype = "bfloat16" if name in bfloat16 and array.dtype == "u2" else array.dtype.name
                if dtype not in NUMBERS or key in table or key.startswith(b"\0"):
                    raise ValueError(f"{prefix}: {name!r}, {dtype}: bad type, bad name or twice")
                data = np.ascontiguousarray(array, DTYPES[dtype]).reshape(-1).view(np.uint8)
                dims = [b"\x08" + _digits(size) for size in array.shape]
                shape = b"".join(b"\x12" + _digits(len(dim)) + dim for dim in dims)
                entry = b"\x08" + _digits(NUMBERS[dtype]) + b"\x12" + _digits(len(shape)) + shape
                entry += b"\x20" + _digits(file.tell()) + b"\x28" + _digits(len(data))
                table[key] = entry + b"\x35" + _masked_crc(data)
                file.write(data)
        with open(os.path.join(aside, index_file), "wb") as file:
            pairs, step = sorted(table.items()), RESTART_INTERVAL
            blocks = [pairs[start : start + step] for start in range(0, len(pairs), step)]
            handles = [(block[-1][0], _write_block(file, block)) for block in blocks]
            footer = _write_block(file, []) + _write_block(file, handles)
            file.write(footer.ljust(FOOTER_SIZE - 8, b"\0") + MAGIC)
        for name in (data_file, index_file):
            os.replace(os.path.join(aside, name), os.path.join(folder, name))


def _write_block(file, pairs):
    """Writes (key, value) pairs, the keys whole; returns offset and size as a table stores them."""
    block = b"".join(b"\0" + _digits(len(k)) + _digits(len(v)) + k + v for k, v in pairs)
    block += bytes([0, 0, 0, 0, 1, 0, 0, 0, 0])  # one restart point, at 0; not compressed
    handle = _digits(file.tell()) + _digits(len(block) - 1)
    file.write(block + _masked_crc(block))
    return handle


def _digits(value):
    """A number as `_varint` reads it."""
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + _digits(value >> 7)
