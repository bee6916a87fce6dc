"""Random pre-training instances, and a writer of Google's TFRecord files."""

import numpy as np
from crc32c import crc32c


def random_rows(number, max_seq_length, max_predictions_per_seq, vocab_size, seed=0):
    """Yields keyword arguments of encode_instance; no two rows are equal."""
    draw = np.random.default_rng(seed)
    for index in range(number):
        tokens = draw.integers(5, max_seq_length + 1)
        masked = draw.integers(1, min(tokens, max_predictions_per_seq) + 1)
        ids = draw.integers(5, vocab_size, tokens)
        yield {
            "input_ids": [2, *ids[1:-1].tolist(), 3],
            "segment_ids": (np.arange(tokens) > draw.integers(1, tokens - 1)).astype(int).tolist(),
            "masked_lm_positions": np.sort(draw.permutation(tokens)[:masked]).tolist(),
            "masked_lm_ids": draw.integers(5, vocab_size, masked).tolist(),
            "next_sentence_label": index % 2,
        }


def varint(number):
    """A non-negative number as a protocol buffer's varint."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number, data):
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def checked(data):
    """Data followed by its masked CRC32C, as in a TFRecord."""
    crc = crc32c(data)
    return data + (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def write_tfrecord(path, rows, max_seq_length, max_predictions_per_seq):
    """Writes what Google's writer writes: records of tf.train.Example, padded with 0."""
    with open(path, "wb") as file:
        for row in rows:
            features = {
                **row,
                "input_mask": [1] * len(row["input_ids"]),
                "masked_lm_weights": [1] * len(row["masked_lm_ids"]),
                "next_sentence_labels": [row["next_sentence_label"]],
            }
            del features["next_sentence_label"]
            entries = b""
            for name, values in features.items():
                length = max_predictions_per_seq if "masked" in name else max_seq_length
                values = [*values, *[0] * ((1 if "next" in name else length) - len(values))]
                if name == "masked_lm_weights":
                    feature = field(2, field(1, np.array(values, "<f4").tobytes()))
                else:
                    feature = field(3, field(1, b"".join(map(varint, values))))
                entries += field(1, field(1, name.encode()) + field(2, feature))
            data = field(1, entries)
            file.write(checked(len(data).to_bytes(8, "little")) + checked(data))
