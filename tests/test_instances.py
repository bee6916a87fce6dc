"""instances.py: many files as one sequence, random access to TFRecord files, bad numbers.

Each format by itself is tested with the script that creates it, in test_create_pretraining_data.py.
"""

import numpy as np
import pytest
from instance_rows import random_rows, write_tfrecord

import instances
from instances import InstanceFile, Instances, TFRecordFile, encode_instance, write_instances

SIZES = (3, 0, 11, 1, 7)


@pytest.fixture
def files(tmp_path):
    """(paths, rows): files in our format and in Google's by turns, and the rows in all of them."""
    rows = list(random_rows(sum(SIZES), 37, 7, 500))
    paths = []
    start = 0
    for number, size in enumerate(SIZES):
        part = rows[start : start + size]
        path = tmp_path / str(number)
        if number % 2:
            write_tfrecord(path, part, 37, 7)
        else:
            write_instances(path, [encode_instance(**row) for row in part], 37, 7, 500)
        paths.append(path)
        start += size
    return paths, rows


def assert_row(found, row):
    for name, values in row.items():
        if name == "next_sentence_label":
            assert found.next_sentence_labels.tolist() == [values]
        else:
            assert getattr(found, name).tolist() == values
    assert found.masked_lm_weights.tolist() == [1.0] * len(row["masked_lm_ids"])


def test_many_files_are_one_sequence(files, monkeypatch):
    paths, rows = files
    opened = []
    open_file = instances.open_instances

    def recording(path):
        opened.append(path)
        return open_file(path)

    monkeypatch.setattr(instances, "open_instances", recording)
    monkeypatch.setattr(instances, "OPEN_FILES", 2)
    monkeypatch.setattr(instances, "SHARD", 4)
    sequence = Instances(paths, SIZES, range(5), 500)
    assert len(sequence) == 22 and not opened
    # Files longer than SHARD are split; a file without rows gives no shard.
    assert sequence.shards == [3, 4, 4, 3, 1, 4, 3]
    for index, row in enumerate(rows):
        assert_row(sequence[index], row)
    assert opened == [paths[0], paths[2], paths[3], paths[4]]
    assert_row(sequence[0], rows[0])
    assert opened[4:] == [paths[0]], "two files are open at a time"
    for index in (-1, 22):
        with pytest.raises(IndexError):
            sequence[index]


def test_the_fingerprint_is_that_of_the_content(files, tmp_path):
    paths, rows = files

    def checksums():
        return [instances.open_instances(path).checksum for path in paths]

    before = checksums()
    fingerprint = Instances(paths, SIZES, before, 500).fingerprint
    assert fingerprint == Instances(list(map(str, paths)), SIZES, before, 9).fingerprint
    rows[5]["masked_lm_ids"][0] += 1  # in a file of ours
    write_instances(paths[2], [encode_instance(**row) for row in rows[3:14]], 37, 7, 500)
    rows[14]["masked_lm_ids"][0] += 1  # in one of Google's
    write_tfrecord(paths[3], rows[14:15], 37, 7)
    after = checksums()
    assert [a != b for a, b in zip(before, after)] == [False, False, True, True, False]
    assert Instances(paths, SIZES, after, 500).fingerprint != fingerprint


def test_tfrecord_rows_at_random(tmp_path):
    rows = list(random_rows(20, 37, 7, 70000))
    write_tfrecord(tmp_path / "x", rows, 37, 7)
    file = TFRecordFile(tmp_path / "x")
    assert (len(file), file.max_seq_length, file.max_predictions_per_seq) == (20, 37, 7)
    for index in np.random.default_rng(0).permutation(20):
        assert_row(instances.checked_row(file, index, 70000), rows[index])
    for index in (-1, 20):
        with pytest.raises(IndexError):
            file[index]
    data = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(data[:-5])
    with pytest.raises(ValueError, match="x: record 19: cut short"):
        TFRecordFile(tmp_path / "x")


@pytest.mark.parametrize(
    "changes, message",
    (
        ({"input_ids": [2, 500, 3]}, "x: row 1: 500 in input_ids is not in 0..499: these instances "
         "were made for another model"),
        ({"masked_lm_ids": [500]}, "x: row 1: 500 in masked_lm_ids is not in 0..499"),
        ({"masked_lm_positions": [3]}, "x: row 1: 3 in masked_lm_positions is not in 0..2"),
        ({"next_sentence_label": 2}, "x: row 1: 2 in next_sentence_labels is not in 0..1"),
        ({"segment_ids": [0, 2, 1]}, "x: row 1: 2 in segment_ids is not in 0..1"),
        ({"masked_lm_ids": [2**32 - 1]}, "x: row 1: -1 in masked_lm_ids is not in 0..499"),
    ),
)  # fmt: skip
@pytest.mark.parametrize("ours", (True, False))
def test_numbers_out_of_range(changes, message, ours, tmp_path):
    good = {
        "input_ids": [2, 9, 3], "segment_ids": [0, 0, 1], "masked_lm_positions": [1],
        "masked_lm_ids": [5], "next_sentence_label": 1,
    }  # fmt: skip
    rows = [good, {**good, **changes}]
    if not ours:
        write_tfrecord(tmp_path / "x", rows, 37, 7)
        file = TFRecordFile(tmp_path / "x")
    elif "segment_ids" in changes:
        pytest.skip("our format cannot hold such segment ids")
    else:
        write_instances(tmp_path / "x", [encode_instance(**row) for row in rows], 37, 7, 500)
        file = InstanceFile(tmp_path / "x")
    assert_row(instances.checked_row(file, 0, 500), good)
    with pytest.raises(ValueError, match=message):
        instances.checked_row(file, 1, 500)
