"""TensorFlow's V2 checkpoints (tensor bundles) to NumPy arrays and back, without TensorFlow.

A checkpoint with the prefix P consists of P.index and the shards P.data-00000-of-0000N, which hold
nothing but the variables' bytes. The index is a LevelDB table (doc/table_format.md in LevelDB):
sorted keys in blocks, an index block that locates these blocks, and a footer that locates the index
block. The key "" holds a BundleHeaderProto, the name of a variable holds its BundleEntryProto (both
in TensorFlow's tensor_bundle.proto).

A checkpoint is untrusted input: every checksum is verified, every size is compared with the size of
the file, and only files of the given prefix are opened.
"""

import io
import math
import os
import re
import tempfile
from collections.abc import Collection, Iterable, Mapping
from typing import BinaryIO

import crc32c
import numpy as np

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER_SIZE = 48
MAX_INDEX_SIZE = 2**24  # BERT-Large with its Adam slots needs 2**16.
RESTART_INTERVAL = 16  # The keys of a block are prefix-compressed; every 16th is stored whole.

# The numbers of tensorflow/core/framework/types.proto. NumPy has no bfloat16: such variables are
# read and written as their 16 bits.
NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "bfloat16": 14, "float16": 19}
DTYPES = {name: np.dtype(name.replace("bfloat", "uint")).newbyteorder("<") for name in NUMBERS}
NAMES = {7: "string", 10: "bool", **{number: name for name, number in NUMBERS.items()}}

# Tags of the fields that are used, 8 * field number + wire type, by message.
HEADER_NUM_SHARDS, HEADER_ENDIANNESS, HEADER_VERSION = 0x08, 0x10, 0x1A
ENTRY_DTYPE, ENTRY_SHAPE, ENTRY_SHARD, ENTRY_OFFSET = 0x08, 0x12, 0x18, 0x20
ENTRY_SIZE, ENTRY_CRC, ENTRY_SLICES = 0x28, 0x35, 0x3A
SHAPE_DIM, DIM_SIZE, VERSION_PRODUCER = 0x12, 0x08, 0x08


class Checkpoint:
    """A TensorFlow V2 checkpoint, opened for reading.

    `path` is the prefix (`bert_model.ckpt`), its .index file, one of its .data files, or the folder
    that holds them. `variables` maps each name to (dtype name, shape). `checkpoint[name]` is a
    read-only array whose checksum has been verified. It is mapped from the file, so its memory is
    released together with the array.

    Raises FileNotFoundError for a missing file, and ValueError for a file that is damaged or of
    another kind.
    """

    def __init__(self, path: str | os.PathLike):
        self.prefix = find_prefix(path)
        self.variables = {}
        self._locations = {}  # name: (shard's path, offset, size, checksum)
        place = f"{self.prefix}.index"
        try:
            table = _read_table(f"{self.prefix}.index")
            header = _fields(table.pop(b"", b""))
            if header.get(HEADER_ENDIANNESS):
                raise ValueError("big-endian checkpoints are not supported")
            for key, value in table.items():
                # A leading 0 marks a slice of a variable that is listed as a whole as well.
                if key[0]:
                    name = key.decode()
                    place = f"{self.prefix}.index: {name!r}"
                    self.variables[name], self._locations[name] = _entry(value, self.prefix, header)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, shape = self.variables[name]
        shard, offset, size, crc = self._locations[name]
        try:
            if dtype not in DTYPES:
                raise ValueError(f"type {dtype} is not supported")
            # An empty file range cannot be mapped.
            data = np.memmap(shard, "u1", "r", offset, size) if size else np.frombuffer(b"", "u1")
            if _masked_crc(data) != crc:
                raise ValueError("damaged: its checksum does not match")
            return data.view(np.ndarray).view(DTYPES[dtype]).reshape(shape)
        except ValueError as error:
            raise ValueError(f"{shard}: {name!r}: {error}") from None


def find_prefix(path: str | os.PathLike) -> str:
    """The prefix of the checkpoint at `path`: a prefix, an .index or .data file, or a folder.

    In a folder with several checkpoints, its file `checkpoint` says which one is the latest. Raises
    FileNotFoundError, which lists the checkpoints that exist, or ValueError for a file of another
    kind.
    """
    path = os.fspath(path)
    folder, name = (path, "") if os.path.isdir(path) else os.path.split(path)
    files = os.listdir(folder or ".")
    found = sorted(file.removesuffix(".index") for file in files if file.endswith(".index"))

    state_file = os.path.join(folder, "checkpoint")
    if name:
        name = re.sub(r"\.(index|data-\d{5}-of-\d{5})$", "", name)
    elif len(found) == 1:
        name = found[0]
    elif os.path.isfile(state_file):
        with open(state_file, encoding="utf-8", errors="replace") as file:
            latest = re.search(r'model_checkpoint_path: "(?:.*/)?(.*)"', file.read(2**16))
        name = latest[1] if latest else None
    if name in found:
        return os.path.join(folder, name)

    if os.path.isfile(path) and os.path.getsize(path):
        raise ValueError(f"{path} is {_kind_of_file(path)}")
    found = ", ".join(found) or "none"
    raise FileNotFoundError(f"{path} is not a checkpoint prefix; {folder or '.'} holds: {found}")


def _kind_of_file(path):
    """What a file that is not part of a V2 checkpoint seems to be, and what to pass instead."""
    data = np.memmap(path, "u1", "r")
    head = bytes(data[:512])
    tail = bytes(data[-8:])
    if head.startswith((b"PK", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")) or head[257:262] == b"ustar":
        return "an archive: unpack it, then pass the prefix of the .index file in it"
    if path.endswith(".meta"):
        return f"a graph without weights: pass {path.removesuffix('.meta')}"
    if tail == MAGIC:
        return "a V1 checkpoint: load it in TensorFlow 1 and save it as V2 (.index and .data files)"
    return "not a TensorFlow checkpoint: pass the prefix of an .index file"


def _read_table(path):
    """The keys and values of a table, {bytes: bytes}, all of whose blocks are verified."""
    with open(path, "rb") as file:
        data = file.read(MAX_INDEX_SIZE + 1)
    if len(data) > MAX_INDEX_SIZE:
        raise ValueError(f"more than {MAX_INDEX_SIZE} bytes, which is too large for an index")
    if len(data) < FOOTER_SIZE or not data.endswith(MAGIC):
        raise ValueError(
            f"its {len(data)} bytes do not end with the footer of an index: "
            "the file is cut short or of another kind"
        )

    # The footer: offset and size of the meta-index block, offset and size of the index block.
    footer = io.BytesIO(data[-FOOTER_SIZE:])
    numbers = [_varint(footer) for _ in range(4)]
    digits = b"".join(_digits(number) for number in numbers)
    if not data.endswith(digits.ljust(FOOTER_SIZE - len(MAGIC), b"\0") + MAGIC):
        raise ValueError("the footer is damaged")

    list(_read_block(data, *numbers[:2]))  # The meta-index is always empty; this verifies it.
    table = {}
    end = 0
    for _, handle in _read_block(data, *numbers[2:]):
        handle = io.BytesIO(handle)
        offset = _varint(handle)
        size = _varint(handle)
        # A block that is listed many times would be read many times, so that a small file could
        # take very long.
        if offset < end:
            raise ValueError(f"the block at byte {offset} overlaps the one before it")
        end = offset + size
        table.update(_read_block(data, offset, size))
    return table


def _read_block(data, offset, size):
    """Yields the (key, value) pairs of a block, after which come a type byte and a checksum."""
    end = offset + size + 1
    block = data[offset:end]
    if _masked_crc(block) != data[end : end + 4]:
        raise ValueError(f"the block at byte {offset} is damaged: its checksum does not match")
    if block[-1]:
        raise ValueError(f"the block at byte {offset} is compressed, which is not supported")

    # The pairs end where the restart points begin: 4 bytes each, then 4 bytes with their number.
    # Restart points are for binary search, which is not needed here.
    restarts = int.from_bytes(block[-5:-1], "little")
    end = size - 4 * (1 + restarts)
    stream = io.BytesIO(block[: max(0, end)])
    key = b""
    expanded = 0
    limit = RESTART_INTERVAL * size
    while stream.tell() != end:
        shared, unshared, value_size = (_varint(stream) for _ in range(3))
        key = _take(io.BytesIO(key), shared) + _take(stream, unshared)
        expanded += len(key)
        if expanded > limit:
            raise ValueError(f"the names in a block of {size} bytes expand to over {limit} bytes")
        yield key, _take(stream, value_size)


def _entry(value, prefix, header):
    """BundleEntryProto -> (dtype name, shape), (shard's path, offset, size, checksum)"""
    fields = _fields(value)
    dims = _fields(fields.get(ENTRY_SHAPE, [b""])[-1]).get(SHAPE_DIM, [])
    if len(dims) > 254:  # TensorFlow's limit; the product of many huge sizes would take long.
        raise ValueError(f"it has {len(dims)} dimensions, more than the 254 of TensorFlow")
    shape = tuple(_fields(dim).get(DIM_SIZE, 0) for dim in dims)
    offset = fields.get(ENTRY_OFFSET, 0)
    size = fields.get(ENTRY_SIZE, 0)
    number = fields.get(ENTRY_DTYPE, 0)
    dtype = NAMES.get(number, f"number {number}")

    if ENTRY_SLICES in fields:
        dtype += ", partitioned into slices,"
    elif dtype in DTYPES:
        needed = math.prod(shape) * DTYPES[dtype].itemsize
        if size != needed:
            raise ValueError(f"{dtype} {list(shape)} takes {needed} bytes, not {size}")

    # The path comes from the prefix and two numbers, so no index can point outside its folder.
    shards = header.get(HEADER_NUM_SHARDS, 0)
    shard = f"{prefix}.data-{fields.get(ENTRY_SHARD, 0):05d}-of-{shards:05d}"
    end = os.path.getsize(shard)
    if offset + size > end:
        raise ValueError(f"it ends at byte {offset + size}, but {shard} has {end} bytes")
    return (dtype, shape), (shard, offset, size, fields.get(ENTRY_CRC, 0))


def _fields(message):
    """A protobuf message as {tag: value}; the tag is 8 * field number + wire type.

    The value is a number for wire type 0, a list of the bytes of all occurrences for wire type 2,
    and 4 bytes for wire type 5.
    """
    stream = io.BytesIO(message)
    fields = {}
    while stream.tell() < len(message):
        tag = _varint(stream)
        wire_type = tag & 7
        if wire_type == 0:
            fields[tag] = _varint(stream)
        elif wire_type == 2:
            fields.setdefault(tag, []).append(_take(stream, _varint(stream)))
        elif wire_type == 5:
            fields[tag] = _take(stream, 4)
        else:
            raise ValueError(f"unknown protobuf wire type {wire_type}")
    return fields


def _varint(stream):
    """Reads a number below 2**63: 7 bits a byte, the lowest first, the last byte below 128."""
    value = 0
    for shift in range(0, 63, 7):
        digit = _take(stream, 1)[0]
        value |= (digit & 0x7F) << shift
        if digit < 0x80:
            return value
    raise ValueError("damaged: a number has more than 63 bits")


def _take(stream, size):
    """Reads exactly `size` bytes."""
    data = stream.read(size)
    if len(data) < size:
        raise ValueError(f"damaged: expected {size} more bytes, found {len(data)}")
    return data


def _masked_crc(data):
    """CRC-32C, rotated and shifted, as LevelDB stores it."""
    crc = crc32c.crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def write_checkpoint(
    prefix: str | os.PathLike,
    variables: Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]],
    bfloat16: Collection[str] = (),
) -> None:
    """Writes `variables`, a mapping or an iterable of (name, array), as a checkpoint of one shard.

    The pairs of an iterable are taken one at a time, so it may create its arrays on the fly.
    `bfloat16` names the uint16 arrays that hold the bits of bfloat16 numbers. The files are written
    to a temporary folder and renamed when they are complete. Raises ValueError for types that
    `Checkpoint` does not read, and for invalid or repeated names.
    """
    folder, base = os.path.split(prefix)
    data_file = f"{base}.data-00000-of-00001"
    index_file = f"{base}.index"
    pairs = variables.items() if hasattr(variables, "items") else variables

    # The header: 1 shard; version { producer: 1 }
    table = {b"": bytes([HEADER_NUM_SHARDS, 1, HEADER_VERSION, 2, VERSION_PRODUCER, 1])}
    with tempfile.TemporaryDirectory(prefix=f".{base}.", dir=folder or ".") as temporary:
        with open(os.path.join(temporary, data_file), "wb") as file:
            for name, array in pairs:
                key = name.encode()
                array = np.asarray(array)
                dtype = "bfloat16" if name in bfloat16 and array.dtype == "u2" else array.dtype.name
                if dtype not in NUMBERS:
                    raise ValueError(f"{prefix}: {name!r}: type {dtype} is not supported")
                if key in table or key.startswith(b"\0"):
                    raise ValueError(f"{prefix}: {name!r} is an invalid name or is given twice")
                data = np.ascontiguousarray(array, DTYPES[dtype]).reshape(-1).view(np.uint8)
                table[key] = _encode_entry(dtype, array.shape, file.tell(), data)
                file.write(data)

        with open(os.path.join(temporary, index_file), "wb") as file:
            _write_table(file, sorted(table.items()))

        # The index last: a checkpoint without it does not exist.
        for name in (data_file, index_file):
            os.replace(os.path.join(temporary, name), os.path.join(folder, name))


def _encode_entry(dtype, shape, offset, data):
    """The BundleEntryProto of an array whose bytes `data` lie at `offset` in shard 0."""
    dims = b""
    for size in shape:
        dim = bytes([DIM_SIZE]) + _digits(size)
        dims += bytes([SHAPE_DIM]) + _digits(len(dim)) + dim

    entry = bytes([ENTRY_DTYPE]) + _digits(NUMBERS[dtype])
    entry += bytes([ENTRY_SHAPE]) + _digits(len(dims)) + dims
    entry += bytes([ENTRY_OFFSET]) + _digits(offset)
    entry += bytes([ENTRY_SIZE]) + _digits(len(data))
    return entry + bytes([ENTRY_CRC]) + _masked_crc(data)


def _write_table(file: BinaryIO, pairs: list[tuple[bytes, bytes]]):
    """Writes sorted (key, value) pairs as a table."""
    handles = []
    for start in range(0, len(pairs), RESTART_INTERVAL):
        block = pairs[start : start + RESTART_INTERVAL]
        last_key = block[-1][0]
        handles.append((last_key, _write_block(file, block)))
    meta_index = _write_block(file, [])
    index = _write_block(file, handles)
    file.write((meta_index + index).ljust(FOOTER_SIZE - len(MAGIC), b"\0") + MAGIC)


def _write_block(file: BinaryIO, pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Writes (key, value) pairs with whole keys; returns the block's offset and size, encoded."""
    block = b""
    for key, value in pairs:
        block += _digits(0) + _digits(len(key)) + _digits(len(value)) + key + value
    block += bytes([0, 0, 0, 0, 1, 0, 0, 0])  # one restart point, at byte 0
    block += bytes([0])  # the type: not compressed
    handle = _digits(file.tell()) + _digits(len(block) - 1)
    file.write(block + _masked_crc(block))
    return handle


def _digits(value):
    """A number as `_varint` reads it."""
    if value < 0x80:
        return bytes([value])
    return bytes([value & 0x7F | 0x80]) + _digits(value >> 7)
