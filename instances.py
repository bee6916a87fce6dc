"""Pre-training instances: an own file format, and Google's TFRecord files without TensorFlow.

A row is a dict under the names of Google's features, without their padding: input_ids, input_mask,
segment_ids [tokens], masked_lm_positions, masked_lm_ids, masked_lm_weights [masked],
next_sentence_labels [1]; int32, the weights float32. An instance file is, in little-endian:
HEADER; where each row's words begin, uint64 [rows + 1]; the CRC-32C of each BLOCK rows' words,
uint32; the words, uint16 or uint32, of each row: first token of segment B, next-sentence label,
number of masked positions, these positions, the ids that were there, the row's token ids.
"""

import itertools
import os
import struct

import numpy as np
from crc32c import crc32c

# MAGIC, rows, SETTINGS, bytes of a word, CRC-32C of all that stands before the words.
HEADER, MAGIC, BLOCK = struct.Struct("<8sQ5I"), b"BERTins1", 256
FEATURES = {"input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids",
            "masked_lm_weights", "next_sentence_labels"}  # fmt: skip
SETTINGS = ("max_seq_length", "max_predictions_per_seq", "vocab_size")


def pack_instance(input_ids, segment_ids, masked_lm_positions, masked_lm_ids, next_sentence_label):
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
    """Writes a list of `pack_instance`s; aside first, then renamed."""
    offsets = np.cumsum([0, *map(len, packed)], dtype="<u8")
    words = np.concatenate([np.zeros(0, "<u2"), *packed])
    crcs = [crc32c(block) for block in np.split(words, offsets[BLOCK:-1:BLOCK])]
    index = offsets.tobytes() + np.array(crcs, "<u4").tobytes()
    values = max_seq_length, max_predictions_per_seq, vocab_size
    head = HEADER.pack(MAGIC, len(packed), *values, words.itemsize, 0)[:-4]
    with open(f"{path}.partial", "wb") as file:
        file.write(head + crc32c(index, crc32c(head)).to_bytes(4, "little") + index)
        file.write(words)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{path}.partial", path)


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
        whole = crc32c(data[HEADER.size : start], crc32c(head[:-4])) == crc
        if not whole or start + int(data[crcs - 8 : crcs].view("<u8")[0]) * itemsize != len(data):
            raise ValueError(f"{path}: damaged or cut short; make it again")
        self.__dict__.update(zip(SETTINGS, values))
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
        first, label, masked = words[:3]
        positions, ids, input_ids = np.split(words[3:], [masked, 2 * masked])
        return {
            "input_ids": input_ids,
            "input_mask": np.ones_like(input_ids),
            "segment_ids": (np.arange(len(input_ids)) >= first).astype(np.int32),
            "masked_lm_positions": positions,
            "masked_lm_ids": ids,
            "masked_lm_weights": np.ones(masked, np.float32),
            "next_sentence_labels": np.array([label]),
        }


def read_tfrecord(path):
    """Yields the rows of an uncompressed TFRecord file of Google's create_pretraining_data.py.

    Raises OSError, or ValueError with the number of a record that is damaged or something else.
    """
    with open(path, "rb") as file:
        for number in itertools.count():
            try:
                if not (head := file.read(12)):
                    return
                size = int.from_bytes(_checked(head), "little")
                row = _example(_checked(file.read(size + 4)))
                if missing := FEATURES - row.keys():
                    raise ValueError(f"no pre-training instance: it has no {min(missing)}")
                masked, tokens = int(row["masked_lm_weights"].sum()), int(row["input_mask"].sum())
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}: record {number}: {error}") from None
            # Google pads both kinds at their ends.
            yield {k: v[: masked if k.startswith("masked") else tokens] for k, v in row.items()}


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
    ends = np.flatnonzero(packed < 128) + 1
    starts = np.append(0, ends[:-1])
    shifts = 7 * (np.arange(len(packed)) - np.repeat(starts, np.diff(ends, prepend=0)))
    return np.add.reduceat((packed & np.int64(127)) << shifts, starts).astype(np.int32)
