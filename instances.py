"""Pre-training instances: an own file format, and Google's TFRecord files without TensorFlow.

A row is a dict under the names of Google's features, without their padding: input_ids, input_mask,
segment_ids [tokens], masked_lm_positions, masked_lm_ids, masked_lm_weights [masked],
next_sentence_labels [1]; int32, the weights float32. An instance file is, in little-endian:
HEADER; where each row's words begin, uint64 [rows + 1]; the CRC-32C of each BLOCK rows' words,
uint32; the words, uint16 or uint32, of each row: first token of segment B, next-sentence label,
number of masked positions, these positions, the ids that were there, the row's token ids.
"""

import contextlib
import mmap
import os
import struct
from array import array
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from crc32c import crc32c

from files import atomic_write

# MAGIC, rows, SETTINGS, bytes of a word, CRC-32C of all that stands before the words.
HEADER, MAGIC, BLOCK = struct.Struct("<8sQ5I"), b"BERTins1", 256
FEATURES = {"input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
            "masked_lm_weights", "next_sentence_labels"}  # fmt: skip
SETTINGS = ("max_seq_length", "max_predictions_per_seq", "vocab_size")
SHARD = 2**20  # rows whose order is drawn together: it takes 8 MB
OPEN_FILES = 4  # at a time


def encode_instance(
    input_ids, segment_ids, masked_lm_positions, masked_lm_ids, next_sentence_label
):
    """The words of a row, from lists or arrays: 1-D uint16, or uint32 where an id needs it."""
    first = list(segment_ids).count(0)
    words = [first, int(next_sentence_label), len(masked_lm_ids)]
    words += [*masked_lm_positions, *masked_lm_ids, *input_ids]
    if min(words) < 0 or 0 in segment_ids[first:]:
        raise ValueError(
            "an instance has segment ids 0, then 1, and no id below 0; not so this one"
        )
    return np.array(words, "<u2" if max(words) < 2**16 else "<u4")


def write_instances(path, packed, max_seq_length, max_predictions_per_seq, vocab_size):
    """Writes a list of `encode_instance`s; aside first, then renamed."""
    offsets = np.cumsum([0, *map(len, packed)], dtype="<u8")
    words = np.concatenate([np.zeros(0, "<u2"), *packed])
    crcs = [crc32c(block) for block in np.split(words, offsets[BLOCK:-1:BLOCK])]
    index = offsets.tobytes() + np.array(crcs, "<u4").tobytes()
    values = max_seq_length, max_predictions_per_seq, vocab_size
    head = HEADER.pack(MAGIC, len(packed), *values, words.itemsize, 0)[:-4]
    with atomic_write(path, "wb", len(head) + 4 + len(index) + words.nbytes) as file:
        file.write(head + crc32c(index, crc32c(head)).to_bytes(4, "little") + index)
        file.write(words)


class InstanceFile:
    """An instance file, memory-mapped: `len(file)` rows, `file[i]`, and the SETTINGS as attributes.

    Checksums are verified: the index's at once, a block's when its first row is read. Raises
    OSError, or ValueError for a file that is damaged or of another kind.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        with open(path, "rb") as file:
            head = file.read(HEADER.size)
        magic, rows, *values, itemsize, crc = HEADER.unpack(head.ljust(HEADER.size))
        if magic != MAGIC:
            raise ValueError(f"{path}: no instance file; create_pretraining_data.py makes them")
        data = np.memmap(path, "u1", "r").view(np.ndarray)
        crcs = HEADER.size + 8 * (rows + 1)
        start = crcs + 4 * (max(rows - 1, 0) // BLOCK + 1)
        whole = start <= len(data) and itemsize in (2, 4)
        whole = whole and crc32c(data[HEADER.size : start], crc32c(head[:-4])) == crc
        if not whole or start + int(data[crcs - 8 : crcs].view("<u8")[0]) * itemsize != len(data):
            raise ValueError(f"{path}: damaged or cut short; make it again")
        self.__dict__.update(zip(SETTINGS, values))
        self.checksum = crc  # of the index with the blocks' checksums, and so of all
        self._offsets = data[HEADER.size : crcs].view("<u8")
        self._crcs = data[crcs:start].view("<u4")
        self._words, self._verified = data[start:].view(f"<u{itemsize}"), set()

    def __len__(self):
        return len(self._offsets) - 1

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {index} of {len(self)}")
        block, offsets = index // BLOCK, self._offsets
        if block not in self._verified:
            end = min((block + 1) * BLOCK, len(self))
            if crc32c(self._words[offsets[block * BLOCK] : offsets[end]]) != self._crcs[block]:
                raise ValueError(f"{self.path}: damaged near row {index}; make it again")
            self._verified.add(block)
        words = self._words[offsets[index] : offsets[index + 1]].astype(np.int32)
        first, label, masked = words[:3].tolist() if len(words) > 2 else (0, 0, -1)
        if not 0 <= masked <= (len(words) - 3) // 2:
            raise ValueError(f"{self.path}: row {index} is no instance; make the file again")
        positions, ids, input_ids = np.split(words[3:], [masked, 2 * masked])
        return {
            "input_ids": input_ids,
            "input_mask": np.ones_like(input_ids),
            "segment_ids": (np.arange(len(input_ids)) >= first).astype(np.int32),
            "masked_lm_positions": positions,
            "masked_lm_ids": ids,
            "masked_lm_weights": np.ones(masked, np.float32),
            "next_sentence_labels": np.array([label], np.int32),
        }


class TFRecordFile:
    """An uncompressed TFRecord file of Google's create_pretraining_data.py, memory-mapped.

    As an InstanceFile; where its records begin is found by going from one to the next, at the
    start, and their checksums are verified when they are read. `vocab_size` is None: it is not
    known. Raises OSError, or ValueError with the number of a record that is damaged or of another
    kind.
    """

    def __init__(self, path):
        self.path, self.vocab_size = os.fspath(path), None
        with open(path, "rb") as file:
            empty = not os.fstat(file.fileno()).st_size
            self._data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._starts, self.checksum, start = array("Q"), 0, 0
        while start < len(self._data):
            with self._telling(len(self)):
                size = int.from_bytes(_checked(self._data[start : start + 12]), "little")
                if start + size + 16 > len(self._data):
                    raise ValueError("cut short")
            self._starts.append(start)
            start += size + 16
            self.checksum = crc32c(self._data[start - 4 : start], self.checksum)
        padded = self._padded(0) if len(self) else {}
        self.max_seq_length = len(padded.get("input_ids", ()))
        self.max_predictions_per_seq = len(padded.get("masked_lm_ids", ()))

    def __len__(self):
        return len(self._starts)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: record {index} of {len(self)}")
        row = self._padded(index)
        masked, tokens = (np.count_nonzero(row[k]) for k in ("masked_lm_weights", "input_mask"))
        # Google pads both kinds at their ends.
        return {k: v[: masked if k.startswith("masked") else tokens] for k, v in row.items()}

    def _padded(self, index):
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < len(self) else len(self._data)
        with self._telling(index):
            row = _example(_checked(self._data[start + 12 : end]))
            if missing := FEATURES - row.keys():
                raise ValueError(f"no pre-training instance: it has no {min(missing)}")
        return row

    @contextlib.contextmanager
    def _telling(self, number):
        try:
            yield
        except (ValueError, IndexError) as error:
            raise ValueError(f"{self.path}: record {number}: {error}") from None


def open_instances(path):
    """The InstanceFile or TFRecordFile that `path` is."""
    with open(path, "rb") as file:
        ours = file.read(len(MAGIC)) == MAGIC
    return InstanceFile(path) if ours else TFRecordFile(path)


class Instances:
    """The rows of many files as one sequence, of which only those asked for are read.

    paths, rows, checksums   of each file: its name, its number of rows, its `checksum`
    shards                   numbers of rows whose order is drawn together, at most SHARD
    fingerprint              a checksum of all
    self[i]                  the row, as `checked_row` gives it
    """

    def __init__(self, paths, rows, checksums, vocab_size):
        self.paths, self.vocab_size, self._ends = paths, vocab_size, np.cumsum(rows)
        self.shards = [
            min(SHARD, number - start) for number in rows for start in range(0, number, SHARD)
        ]
        self.fingerprint = crc32c(np.array([rows, checksums], "<u8").tobytes())
        self._open = lru_cache(OPEN_FILES)(open_instances)

    def __len__(self):
        return int(self._ends[-1])

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        file = self._open(self.paths[number])
        return checked_row(file, int(index - self._ends[number]) + len(file), self.vocab_size)


def checked_row(file, index, vocab_size):
    """Row `index` of an InstanceFile or TFRecordFile as a namespace of its features.

    Raises ValueError where a number in it is beyond its range, as an id of another vocabulary is,
    or where its features do not belong together.
    """
    row = SimpleNamespace(**file[index])
    tokens, masked = len(row.input_ids), len(row.masked_lm_ids)
    sizes = [len(values) for name, values in sorted(vars(row).items())]
    if sizes != [tokens, tokens, masked, masked, masked, 1, tokens] or not tokens:
        raise ValueError(f"{file.path}: row {index}: its features differ in length")
    limits = {
        "input_ids": vocab_size, "masked_lm_ids": vocab_size, "segment_ids": 2,
        "masked_lm_positions": len(row.input_ids), "next_sentence_labels": 2,
    }  # fmt: skip
    for name, limit in limits.items():
        values = getattr(row, name).view("u4")  # unsigned: what is below 0 is beyond too
        if len(values) and values.max() >= limit:
            worst = getattr(row, name)[values.argmax()]
            raise ValueError(
                f"{file.path}: row {index}: {worst} in {name} is not in 0..{limit - 1}: "
                f"these instances are of another model"
            )
    return row


def _checked(data):
    """`data` without its last four bytes, if these are TFRecord's masked checksum of the rest."""
    crc = crc32c(data[:-4])
    if int.from_bytes(data[-4:], "little") != ((crc >> 15 | crc << 17) + 0xA282EAD8) & (2**32 - 1):
        raise ValueError("damaged, cut short, or this is no uncompressed TFRecord file")
    return data[:-4]


def _example(data):
    """The FEATURES of a serialized tf.train.Example, a map of packed lists, as a dict of arrays."""
    row = {}
    for _, entry in [entry for _, features in _fields(data) for entry in _fields(features)]:
        (_, name), (_, feature) = _fields(entry)
        if name.decode() in FEATURES:
            ((kind, values),) = _fields(feature)  # 2: floats; 3: integers
            packed = b"".join(part for _, part in _fields(values))
            row[name.decode()] = np.frombuffer(packed, "<f4") if kind == 2 else _integers(packed)
    return row


def _fields(data):
    """Yields (number, bytes) for each field of a protobuf message whose fields are all bytes."""
    start = 0
    while start < len(data):
        end = start + 1
        while data[end] > 127:
            end += 1
        size = sum((byte & 127) << 7 * i for i, byte in enumerate(data[start + 1 : end + 1]))
        yield data[start] >> 3, data[end + 1 : end + 1 + size]
        start = end + 1 + size


def _integers(packed):
    """Protobuf's varints as int32: 7 bits a byte, the lowest first; a last byte is below 128."""
    packed = np.frombuffer(packed, "u1")
    if packed.max(initial=0) < 128:  # a byte each
        return packed.astype(np.int32)
    ends = np.flatnonzero(packed < 128) + 1
    starts = np.append(0, ends[:-1])
    shifts = 7 * (np.arange(len(packed)) - np.repeat(starts, np.diff(ends, prepend=0)))
    return np.add.reduceat((packed & np.int64(127)) << shifts, starts).astype(np.int32)
