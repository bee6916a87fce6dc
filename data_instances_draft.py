"""Pre-training instances: a file format of our own, and Google's TFRecords, without TensorFlow.

An instance file is, in little-endian numbers:

    8 bytes              MAGIC
    uint16 or uint32     the rows' words, row after row: where segment B begins, 1 if B is a random
                         next, the number of masked positions, these positions, the ids that stood
                         there, and the row's token ids
    uint64 [rows + 1]    where each row begins, in words
    uint32 [blocks]      the CRC-32C of the words of each BLOCK rows
    JSON                 the words' dtype and what the writer said (max_seq_length, …)
    FOOTER               rows; size of the JSON; CRC-32C of all between words and footer; MAGIC

A row is a dict of arrays under the names of Google's features, without the padding: input_ids,
input_mask, segment_ids [tokens]; masked_lm_positions, masked_lm_ids, masked_lm_weights [masked];
next_sentence_labels [1]; int32, the weights float32. Padded with zeros it is Google's record.
"""

import json
import os
import struct

import numpy as np
from crc32c import crc32c

MAGIC = b"BERTins1"
FOOTER = struct.Struct("<QII8s")
BLOCK = 256  # Rows that are verified together, when one of them is first read: about 90 KB.


def pack_instance(row):
    """A row (its values may be lists) as a 1-D array of words: uint16, or uint32 where ids need it.

    Raises ValueError unless `segment_ids` is zeros, then ones, and every weight (if given) is 1.
    """
    first = list(row["segment_ids"]).count(0)
    words = [first, *row["next_sentence_labels"], len(row["masked_lm_ids"])]
    words += [*row["masked_lm_positions"], *row["masked_lm_ids"], *row["input_ids"]]
    if set(row["segment_ids"][first:]) - {1} or set(row.get("masked_lm_weights", ())) - {1}:
        raise ValueError("an instance has segment ids 0, then 1, and weights of 1; not so this one")
    if min(words) < 0 or max(words) >= 2**31:
        raise ValueError(f"an instance's ids are 0 to 2**31 - 1, not {min(words)} to {max(words)}")
    return np.array(words, "<u2" if max(words) < 2**16 else "<u4")


def write_instances(path, packed, **said):
    """Writes a list of `pack_instance`s, aside first, then renamed; `said` becomes `file.said`."""
    dtype = max((words.dtype for words in packed), default=np.dtype("<u2"))
    offsets = np.cumsum([0, *map(len, packed)], dtype="<u8")
    crcs, partial = [], f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(MAGIC)
            for start in range(0, len(packed), BLOCK):
                block = np.concatenate(packed[start : start + BLOCK]).astype(dtype).tobytes()
                crcs.append(crc32c(block))
                file.write(block)
            about = json.dumps({"dtype": dtype.str, **said}).encode()
            index = offsets.tobytes() + np.array(crcs, "<u4").tobytes() + about
            file.write(index + FOOTER.pack(len(packed), len(about), crc32c(index), MAGIC))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


class InstanceFile:
    """An instance file, memory-mapped: `len(file)` rows, `file[i]` is one of them.

    `said` is the dict that the writer added. Every checksum is verified: the index's at once, a
    block's with its first row. Raises OSError, or ValueError where a file is not what it should be.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ValueError(f"{path}: no instance file; create_pretraining_data.py makes them")
        data = np.memmap(path, "u1", "r").view(np.ndarray)
        body, footer = np.split(data, [max(len(data) - FOOTER.size, 0)])
        rows, said_size, crc, magic = FOOTER.unpack(footer.tobytes().rjust(FOOTER.size))
        said = len(body) - said_size
        crcs = said - 4 * -(-rows // BLOCK)
        start = crcs - 8 * (rows + 1)
        if magic != MAGIC or start < len(MAGIC) or crc32c(body[start:]) != crc:
            raise ValueError(f"{path}: damaged or cut short at {len(data)} bytes; make it again")
        self.said = json.loads(body[said:].tobytes())
        self._offsets, self._crcs = body[start:crcs].view("<u8"), body[crcs:said].view("<u4")
        dtype = np.dtype(self.said.pop("dtype"))
        if start - len(MAGIC) != self._offsets[-1] * dtype.itemsize:
            raise ValueError(f"{path}: damaged: its words are not as many as its index says")
        self._words = body[len(MAGIC) : start].view(dtype)
        self._verified = np.zeros(len(self._crcs), bool)

    def __len__(self):
        return len(self._offsets) - 1

    def __reduce__(self):  # Another process maps the file anew, instead of receiving its bytes.
        return InstanceFile, (self.path,)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path}: row {index} of {len(self)}")
        if not self._verified[index // BLOCK]:
            self._verify(index // BLOCK)
        words = self._words[slice(*self._offsets[index : index + 2].tolist())].astype(np.int32)
        first, label, masked = words[:3].tolist()
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

    def _verify(self, block):
        start, end = block * BLOCK, min((block + 1) * BLOCK, len(self))
        words = self._words[self._offsets[start] : self._offsets[end]]
        if crc32c(words.view("u1")) != self._crcs[block]:
            raise ValueError(f"{self.path}: rows {start} to {end - 1} are damaged; make it again")
        self._verified[block] = True


def read_tfrecord(path):
    """Yields the rows of a TFRecord file (not compressed) of Google's create_pretraining_data.py.

    Checksums are verified. Raises OSError, or ValueError with the number of the record.
    """
    with open(path, "rb") as file:
        number = 0
        while head := file.read(12):
            try:
                size, size_crc = struct.unpack("<QI", head)
                if _masked_crc(head[:8]) != size_crc:
                    raise ValueError("damaged, or no TFRecord file, or a compressed one")
                data, crc = file.read(size), file.read(4)
                if len(crc) < 4 or _masked_crc(data) != struct.unpack("<I", crc)[0]:
                    raise ValueError("damaged or cut short")
                row = _parse_example(memoryview(data))
                tokens, masked = (int(row[key].sum()) for key in ("input_mask", "masked_lm_weights"))
            except (IndexError, KeyError, struct.error) as error:
                raise ValueError(f"{path}: record {number}: no pre-training instance ({error!r})") from None
            except ValueError as error:
                raise ValueError(f"{path}: record {number}: {error}") from None
            yield row
            number += 1
