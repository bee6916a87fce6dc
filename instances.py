"""Pre-training instances in files: this project's format, and Google's TFRecord files.

Reading either format takes no TensorFlow. A row is a dict under the names of Google's features,
without their padding, int32 except for the weights, which are float32:

    input_ids, input_mask, segment_ids                      [tokens]
    masked_lm_positions, masked_lm_ids, masked_lm_weights   [masked]
    next_sentence_labels                                    [1]

An instance file is little-endian and consists of:

    HEADER
    where the numbers of each row begin, uint64 [rows + 1]
    the CRC-32C of the numbers of each BLOCK rows, uint32
    the numbers of each row, uint16 or uint32: the first position of segment B, the next-sentence
    label, the number of masked positions, these positions, the original ids at these positions,
    and the token ids of the row
"""

import contextlib
import mmap
import os
import struct
from array import array
from collections.abc import Iterable, Sequence
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
from crc32c import crc32c

from files import atomic_write

# MAGIC, number of rows, max_seq_length, max_predictions_per_seq, vocab_size, bytes per number, and
# the CRC-32C of everything before the numbers (without these four bytes).
HEADER = struct.Struct("<8sQ5I")
MAGIC = b"BERTins1"
BLOCK = 256  # rows under one checksum
FEATURES = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
            "masked_lm_weights", "next_sentence_labels")  # fmt: skip
SHARD = 2**20  # rows that are shuffled together; their order takes 8 MB
OPEN_FILES = 4  # files of `Instances` that are open at the same time


def encode_instance(
    input_ids: Sequence[int],
    segment_ids: Sequence[int],
    masked_lm_positions: Sequence[int],
    masked_lm_ids: Sequence[int],
    next_sentence_label: int,
) -> np.ndarray:
    """The numbers of a row as they are written: 1-D uint16, or uint32 where an id needs it.

    Raises ValueError for numbers that the format cannot hold.
    """
    start_of_b = list(segment_ids).count(0)
    numbers = [start_of_b, int(next_sentence_label), len(masked_lm_ids)]
    numbers += [*masked_lm_positions, *masked_lm_ids, *input_ids]
    if min(numbers) < 0 or 0 in segment_ids[start_of_b:]:
        raise ValueError("an instance needs segment ids 0, then 1, and no number below 0")
    return np.array(numbers, "<u2" if max(numbers) < 2**16 else "<u4")


def write_instances(
    path: str | os.PathLike,
    encoded: list[np.ndarray],
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
) -> None:
    """Writes rows from `encode_instance` as an instance file, completely or not at all.

    Raises OSError where the file cannot be written.
    """
    offsets = np.cumsum([0, *map(len, encoded)], dtype="<u8")
    numbers = np.concatenate([np.zeros(0, "<u2"), *encoded])  # uint32 if one of the rows is
    blocks = np.split(numbers, offsets[BLOCK:-1:BLOCK])
    checksums = np.array([crc32c(block) for block in blocks], "<u4")
    index = offsets.tobytes() + checksums.tobytes()

    settings = max_seq_length, max_predictions_per_seq, vocab_size
    head = HEADER.pack(MAGIC, len(encoded), *settings, numbers.itemsize, 0)[:-4]
    crc = crc32c(index, crc32c(head)).to_bytes(4, "little")
    with atomic_write(path, "wb", len(head + crc + index) + numbers.nbytes) as file:
        file.write(head + crc + index)
        file.write(numbers)


def write_tfrecord(
    path: str | os.PathLike,
    encoded: Iterable[np.ndarray],
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int | None = None,
) -> None:
    """Writes rows from `encode_instance` as Google's create_pretraining_data.py does.

    Each is a record with a tf.train.Example, whose features are padded with 0 (its
    write_instance_to_example_files). The format has no place for `vocab_size`. Raises OSError where
    the file cannot be written.
    """
    lengths = dict.fromkeys(FEATURES, max_seq_length) | {"next_sentence_labels": 1}
    lengths |= {name: max_predictions_per_seq for name in FEATURES if name.startswith("masked")}
    with atomic_write(path, "wb") as file:
        for numbers in encoded:
            data = _serialized(_features_of(numbers), lengths)
            size = len(data).to_bytes(8, "little")
            file.write(size + _masked_crc(size) + data + _masked_crc(data))


class InstanceFile:
    """An instance file, memory-mapped: `len(file)` is its number of rows, `file[i]` is a row.

    `max_seq_length`, `max_predictions_per_seq` and `vocab_size` are those it was made with;
    `checksum` covers the index, which holds the checksums of all blocks, and thus the whole file.
    The index is verified when the file is opened, a block when its first row is read. Raises
    OSError, or ValueError for a file that is damaged or of another kind.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        with open(path, "rb") as file:
            head = file.read(HEADER.size)
        magic, rows, *settings, itemsize, crc = HEADER.unpack(head.ljust(HEADER.size))
        if magic != MAGIC:
            raise ValueError(
                f"{path} is not an instance file: create one with create_pretraining_data.py"
            )

        data = np.memmap(path, "u1", "r").view(np.ndarray)
        end_of_offsets = HEADER.size + 8 * (rows + 1)
        num_blocks = max(rows - 1, 0) // BLOCK + 1  # A file without rows has one empty block.
        start = end_of_offsets + 4 * num_blocks

        # Verify the index before any number in it is used.
        whole = start <= len(data) and itemsize in (2, 4)
        whole = whole and crc32c(data[HEADER.size : start], crc32c(head[:-4])) == crc
        if whole:
            num_numbers = int(data[end_of_offsets - 8 : end_of_offsets].view("<u8")[0])
            whole = start + num_numbers * itemsize == len(data)
        if not whole:
            raise ValueError(f"{path} is damaged or cut short: create it again")

        self.max_seq_length, self.max_predictions_per_seq, self.vocab_size = settings
        self.checksum = crc
        self._offsets = data[HEADER.size : end_of_offsets].view("<u8")
        self._checksums = data[end_of_offsets:start].view("<u4")
        self._numbers = data[start:].view(f"<u{itemsize}")
        self._verified = set()  # the numbers of the blocks that have been read

    def __len__(self):
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {index} of {len(self)}")
        offsets = self._offsets
        block = index // BLOCK
        if block not in self._verified:
            end = min((block + 1) * BLOCK, len(self))
            numbers = self._numbers[offsets[block * BLOCK] : offsets[end]]
            if crc32c(numbers) != self._checksums[block]:
                raise ValueError(f"{self.path} is damaged near row {index}: create it again")
            self._verified.add(block)

        try:
            return _features_of(self._numbers[offsets[index] : offsets[index + 1]])
        except ValueError as error:
            raise ValueError(f"{self.path}: row {index} {error}: create the file again") from None


def _features_of(numbers):
    """The FEATURES of a row from `encode_instance`. Raises ValueError if it is not one."""
    numbers = numbers.astype(np.int32)
    start_of_b, label, masked = numbers[:3].tolist() if len(numbers) > 2 else (0, 0, -1)
    if not 0 <= masked <= (len(numbers) - 3) // 2:
        raise ValueError("is not an instance")
    positions, ids, input_ids = np.split(numbers[3:], [masked, 2 * masked])
    return {
        "input_ids": input_ids,
        "input_mask": np.ones_like(input_ids),
        "segment_ids": (np.arange(len(input_ids)) >= start_of_b).astype(np.int32),
        "masked_lm_positions": positions,
        "masked_lm_ids": ids,
        "masked_lm_weights": np.ones(masked, np.float32),
        "next_sentence_labels": np.array([label], np.int32),
    }


class TFRecordFile:
    """An uncompressed TFRecord file of Google's create_pretraining_data.py, memory-mapped.

    It is used like an InstanceFile. The format has no index, so opening a file walks through its
    records to find where each one begins; the checksum of a record is verified when it is read.
    `vocab_size` is None, because the file does not say it. Raises OSError, or ValueError with the
    number of a record that is damaged or of another kind.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        self.vocab_size = None
        with open(path, "rb") as file:
            empty = not os.fstat(file.fileno()).st_size  # An empty file cannot be mapped.
            self._data = b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

        # A record: the size of its data, 8 bytes; their checksum, 4; the data; their checksum, 4.
        self._starts = array("Q")
        self.checksum = 0  # of the records' own checksums
        start = 0
        while start < len(self._data):
            with self._naming_record(len(self)):
                size = int.from_bytes(_verified(self._data[start : start + 12]), "little")
                if start + size + 16 > len(self._data):
                    raise ValueError("cut short")
            self._starts.append(start)
            start += size + 16
            self.checksum = crc32c(self._data[start - 4 : start], self.checksum)

        # Google pads all records alike, so the first one shows the lengths.
        first = self._padded_row(0) if len(self) else {}
        self.max_seq_length = len(first.get("input_ids", ()))
        self.max_predictions_per_seq = len(first.get("masked_lm_ids", ()))

    def __len__(self):
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: record {index} of {len(self)}")
        row = self._padded_row(index)
        masked = np.count_nonzero(row["masked_lm_weights"])
        tokens = np.count_nonzero(row["input_mask"])
        # Google pads both kinds of features at their ends.
        return {
            name: values[: masked if name.startswith("masked") else tokens]
            for name, values in row.items()
        }

    def _padded_row(self, index):
        """Record `index` as it was written."""
        start = self._starts[index]
        end = self._starts[index + 1] if index + 1 < len(self) else len(self._data)
        with self._naming_record(index):
            row = _example(_verified(self._data[start + 12 : end]))
            missing = set(FEATURES) - row.keys()
            if missing:
                raise ValueError(f"not a pre-training instance: {min(missing)} is missing")
        return row

    @contextlib.contextmanager
    def _naming_record(self, number):
        """Adds the file and the record to errors."""
        try:
            yield
        except (ValueError, IndexError) as error:
            raise ValueError(f"{self.path}: record {number}: {error}") from None


def open_instances(path: str | os.PathLike) -> InstanceFile | TFRecordFile:
    """Opens a file of instances in either format. Raises as its class does."""
    with open(path, "rb") as file:
        magic = file.read(len(MAGIC))
    return InstanceFile(path) if magic == MAGIC else TFRecordFile(path)


class Instances:
    """The rows of many files as one sequence, read only as far as they are asked for.

    paths, rows, checksums   each file's name, number of rows, and `checksum`
    shards                   the sizes of the runs of rows that are shuffled together, at most SHARD
    fingerprint              a checksum of all files
    num_examples             the number of rows
    self[i]                  a row, as `checked_row` returns it
    make_batch, metadata     as of data.TrainingExamples; set by who trains on them
    """

    make_batch = None

    def __init__(
        self,
        paths: Sequence[str],
        rows: Sequence[int],
        checksums: Iterable[int],
        vocab_size: int,
    ):
        self.paths = paths
        self.rows = rows
        self.checksums = list(checksums)
        self.vocab_size = vocab_size
        self.shards = [
            min(SHARD, number - start) for number in rows for start in range(0, number, SHARD)
        ]
        self.fingerprint = crc32c(np.array([rows, self.checksums], "<u8").tobytes())
        self.metadata = {}
        self._ends = np.cumsum(rows)
        self._open = lru_cache(OPEN_FILES)(open_instances)

    def __len__(self):
        return int(self._ends[-1])

    @property
    def num_examples(self) -> int:
        return len(self)

    def first(self, number: int | None) -> "Instances":
        """The first `number` rows alone; all of them for None."""
        if number is None:
            return self
        rows = []
        for size in self.rows:
            rows.append(min(size, number - sum(rows)))
        return Instances(self.paths, rows, self.checksums, self.vocab_size)

    @staticmethod
    def weight_of(row: SimpleNamespace) -> float:
        """The masked positions of a row, over which the masked-LM loss is a mean."""
        return row.masked_lm_weights.sum()

    def __getitem__(self, index: int) -> SimpleNamespace:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        file = self._open(self.paths[number])
        start = self._ends[number] - self.rows[number]
        return checked_row(file, int(index - start), self.vocab_size)


def checked_row(file: InstanceFile | TFRecordFile, index: int, vocab_size: int) -> SimpleNamespace:
    """Row `index` of a file as a namespace of its features.

    Raises ValueError for a number that is out of range, such as an id of another vocabulary, and
    for features whose lengths do not match.
    """
    row = SimpleNamespace(**file[index])
    tokens = len(row.input_ids)
    masked = len(row.masked_lm_ids)
    lengths = [len(values) for _, values in sorted(vars(row).items())]
    # In alphabetical order: input_ids, input_mask, masked_lm_ids, masked_lm_positions,
    # masked_lm_weights, next_sentence_labels, segment_ids.
    if lengths != [tokens, tokens, masked, masked, masked, 1, tokens] or not tokens:
        raise ValueError(f"{file.path}: row {index}: the lengths of its features do not match")

    limits = {
        "input_ids": vocab_size,
        "masked_lm_ids": vocab_size,
        "segment_ids": 2,
        "masked_lm_positions": tokens,
        "next_sentence_labels": 2,
    }
    for name, limit in limits.items():
        values = getattr(row, name).view("u4")  # Unsigned, so that negative numbers are too large.
        if len(values) and values.max() >= limit:
            worst = getattr(row, name)[values.argmax()]
            raise ValueError(
                f"{file.path}: row {index}: {worst} in {name} is not in 0..{limit - 1}: "
                f"these instances were made for another model"
            )
    return row


def _verified(data):
    """`data` without its last four bytes, which must be TFRecord's masked checksum of the rest."""
    if data[-4:] != _masked_crc(data[:-4]):
        raise ValueError("damaged, cut short, or not of an uncompressed TFRecord file")
    return data[:-4]


def _masked_crc(data):
    """TFRecord's checksum: CRC-32C, rotated and shifted."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def _serialized(features, lengths):
    """The bytes of a tf.train.Example with these features, padded with 0; see `_example`."""
    entries = b""
    for name, values in features.items():
        padding = lengths[name] - len(values)
        if values.dtype == np.float32:
            packed = values.astype("<f4").tobytes() + bytes(4 * padding)
            feature = _field(2, _field(1, packed))
        else:
            packed = b"".join(map(_varint, values.tolist())) + bytes(padding)
            feature = _field(3, _field(1, packed))
        entries += _field(1, _field(1, name.encode()) + _field(2, feature))
    return _field(1, entries)


def _field(number, data):
    """A protobuf field of bytes, as `_fields` reads it."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


@lru_cache(2**17)
def _varint(number):
    """A number as `_integers` reads it."""
    digit = number & 127
    return bytes([digit | 128]) + _varint(number >> 7) if number > 127 else bytes([digit])


def _example(data):
    """The FEATURES of a serialized tf.train.Example, as a dict of arrays.

    An Example contains Features, a map, whose entries are fields 1 (name) and 2 (Feature). A
    Feature is a list in field 2 (floats) or 3 (integers); the values in it are packed.
    """
    row = {}
    for _, features in _fields(data):
        for _, entry in _fields(features):
            (_, name), (_, feature) = _fields(entry)
            name = name.decode()
            if name in FEATURES:
                ((kind, values),) = _fields(feature)
                packed = b"".join(part for _, part in _fields(values))
                row[name] = np.frombuffer(packed, "<f4") if kind == 2 else _integers(packed)
    return row


def _fields(data):
    """Yields (number, bytes) for each field of a protobuf message whose fields are all bytes."""
    start = 0
    while start < len(data):
        # The tag is one byte here: the numbers of the fields are small.
        end = start + 1
        while data[end] > 127:
            end += 1
        size = sum((byte & 127) << 7 * i for i, byte in enumerate(data[start + 1 : end + 1]))
        yield data[start] >> 3, data[end + 1 : end + 1 + size]
        start = end + 1 + size


def _integers(packed):
    """Protobuf's varints as int32: 7 bits a byte, the lowest first, the last byte below 128."""
    packed = np.frombuffer(packed, "u1")
    if packed.max(initial=0) < 128:  # All numbers are of one byte, as in masks and segment ids.
        return packed.astype(np.int32)
    ends = np.flatnonzero(packed < 128) + 1
    starts = np.append(0, ends[:-1])
    # The place of each byte within its number decides how far it is shifted.
    shifts = 7 * (np.arange(len(packed)) - np.repeat(starts, np.diff(ends, prepend=0)))
    return np.add.reduceat((packed & np.int64(127)) << shifts, starts).astype(np.int32)
