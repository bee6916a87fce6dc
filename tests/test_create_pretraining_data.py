"""create_pretraining_data.py against Google's instances and records, and its command."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import create_pretraining_data
from create_pretraining_data import (
    create_instances_from_document,
    create_masked_lm_predictions,
    create_training_instances,
    read_documents,
    read_shards,
    read_stripped_lines,
    truncate_seq_pair,
)
from instances import (
    BLOCK,
    InstanceFile,
    TFRecordFile,
    encode_instance,
    write_instances,
    write_tfrecord,
)
from tokenization import FullTokenizer

SCRIPT = Path(create_pretraining_data.__file__)
WORDS = [f"w{index}" for index in range(61)]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##a", "##b", "."]


@pytest.fixture
def vocab_file(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    return tmp_path / "vocab.txt"


def text(documents, seed=0):
    """`documents` documents of 1 to 12 sentences of 2 to 15 words."""
    draw = random.Random(seed)
    lines = []
    for _ in range(documents):
        for _ in range(draw.randint(1, 12)):
            lines.append(" ".join(draw.choices(WORDS, k=draw.randint(1, 14))) + " .")
        lines.append("")
    return "\n".join(lines) + "\n"


def run(*arguments, **flags):
    """Runs the command, with `flags` as --name=value."""
    command = [sys.executable, SCRIPT, *arguments, *(f"--{k}={v}" for k, v in flags.items())]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


def padded(file, name, length):
    return np.array([np.pad(row[name], (0, length - len(row[name]))) for row in file])


@pytest.mark.parametrize("name", ["f39e881", "eedf571", "eedf571_wwm"])
def test_instances_are_googles(name, bert_dir, goldens, golden_tools):
    golden = golden_tools.load_json_gz(goldens / f"pretrain_instances_{name}.json.gz")
    tokenizer, rng = FullTokenizer(bert_dir / "vocab.txt"), random.Random(12345)
    files, whole_words = [goldens / "sample_text.txt"], golden["meta"]["do_whole_word_mask"]
    instances = create_training_instances(
        files, tokenizer, 128, 5, 0.1, 0.15, 20, rng, do_whole_word_mask=whole_words
    )
    assert len(instances) == golden["meta"]["n_instances"]
    for instance, row in zip(instances, golden["rows"]):
        wanted = dict(zip(golden["columns"], row))
        wanted["segment_ids"] = list(map(int, wanted["segment_ids"]))
        assert vars(instance) == wanted


@pytest.mark.parametrize("name", ["f39e881", "eedf571", "eedf571_wwm"])
@pytest.mark.parametrize("files", [1, 3])
def test_records_are_googles(name, files, bert_dir, goldens, tmp_path):
    outputs = [tmp_path / f"{index}.instances" for index in range(files)]
    flags = ["--do_lower_case=true", "--do_whole_word_mask"] if "wwm" in name else ["--no_stream"]
    result = run(
        *flags, "--dupe_factor", "5", input_file=goldens / "sample_text.txt",
        output_file=",".join(map(str, outputs)), vocab_file=bert_dir / "vocab.txt",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    records = np.load(goldens / f"pretrain_records_{name}.npz")
    for index, output in enumerate(outputs):
        file = InstanceFile(output)
        assert (file.max_seq_length, file.max_predictions_per_seq, file.vocab_size) == (
            128, 20, 30522,
        )  # fmt: skip
        for key in records:
            wanted = records[key][index::files]
            found = padded(file, key, wanted.shape[1])
            assert found.dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted, key)


def test_report(bert_dir, goldens, tmp_path):
    result = run(
        input_file=goldens / "sample_text.txt", output_file=tmp_path / "made" / "out",
        vocab_file=bert_dir / "vocab.txt", dupe_factor=5,
    )  # fmt: skip
    memory, report = result.stdout.splitlines()
    assert memory.startswith("0.0 MB of text will take about 40 MB of memory")
    assert report.startswith(
        "3 documents (0 cuts in long ones), 31 sentences (0 with bytes that are not UTF-8), "
        "1,019 tokens (0.00% [UNK]), 60 instances in 1 file(s), "
    )


def test_stream_does_not_depend_on_workers(vocab_file, tmp_path):
    (tmp_path / "a.txt").write_text(text(40), encoding="utf-8")
    (tmp_path / "b.txt").write_text(text(30, 1).strip(), encoding="utf-8")
    (tmp_path / "c.txt").write_text(text(30, 2), encoding="utf-8")
    contents = []
    for workers in (1, 3):
        flags = {"vocab_file": vocab_file, "output_file": tmp_path / str(workers) / "x.ins"}
        patterns = f"{tmp_path}/[ab].txt,{tmp_path}/c.txt"
        result = run("--stream", input_file=patterns, workers=workers, shard_mb=0.003, **flags)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.startswith("100 documents (0 cuts")
        paths = sorted((tmp_path / str(workers)).iterdir())
        assert [path.name for path in paths] == [f"x-{i:05}.ins" for i in range(len(paths))]
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert len(contents[0]) > 2
    assert len(set(contents[0])) == len(contents[0])
    result = run("--stream", input_file=patterns, shard_mb=0.003, **flags)
    assert result.returncode == 2
    assert "x-00000.ins already exists" in result.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux")
def test_ctrl_c_ends_the_workers(vocab_file, tmp_path):
    """A terminal sends it to all processes: none finishes its shard first."""
    (tmp_path / "a.txt").write_text(text(4000), encoding="utf-8")
    flags = {"input_file": tmp_path / "a.txt", "vocab_file": vocab_file, "workers": 2,
             "output_file": tmp_path / "x.ins", "shard_mb": 0.1, "dupe_factor": 1000}  # fmt: skip
    command = [sys.executable, SCRIPT, "--stream", *(f"--{k}={v}" for k, v in flags.items())]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in background
    )  # fmt: skip
    while len(os.listdir(f"/proc/{process.pid}/task")) < 2 and process.poll() is None:
        time.sleep(0.01)  # the thread that feeds the workers
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)  # a shard takes minutes
    assert process.returncode == 130
    assert err == "\ncreate_pretraining_data.py: interrupted\n"
    assert not list(tmp_path.glob("x-*"))


def test_a_stream_of_one_shard_is_googles_algorithm(vocab_file, tmp_path):
    (tmp_path / "a.txt").write_text(text(40), encoding="utf-8")
    flags = {"input_file": tmp_path / "a.txt", "output_file": tmp_path / "x", "dupe_factor": 3}
    assert run("--stream", vocab_file=vocab_file, **flags).returncode == 0
    tokenizer, rng = FullTokenizer(vocab_file), random.Random("12345 0")
    instances = create_training_instances(
        [tmp_path / "a.txt"], tokenizer, 128, 3, 0.1, 0.15, 20, rng
    )
    for row, instance in zip(InstanceFile(tmp_path / "x-00000"), instances, strict=True):
        assert tokenizer.convert_ids_to_tokens(row["input_ids"].tolist()) == instance.tokens
        assert row["segment_ids"].tolist() == instance.segment_ids
        labels = tokenizer.convert_ids_to_tokens(row["masked_lm_ids"].tolist())
        assert labels == instance.masked_lm_labels
        assert row["masked_lm_positions"].tolist() == instance.masked_lm_positions
        assert row["next_sentence_labels"].tolist() == [instance.is_random_next]


@given(st.lists(st.text("ab\u00e9", max_size=9)), st.integers(1, 40))
def test_shards_keep_every_line(lines, size):
    counts = Counter()
    shards = list(read_shards(lines, size, counts))
    kept = [line for shard in shards for line in shard if line]
    assert kept == [line for line in lines if line]
    assert sum(map(len, shards)) == len(lines) + counts["cuts"]
    for shard in shards[:-1]:
        assert len("".join(shard).encode()) >= size
        assert shard[-1] == ""


def test_a_long_document_is_cut():
    counts = Counter()
    shards = list(read_shards(["x" * 10] * 100, 100, counts))
    assert len(shards) == 8  # cut after every 3 lines, ended after 12; the last 4 lines join
    assert counts["cuts"] == 100 // 3
    assert max(sum(map(len, shard)) for shard in shards[:-1]) <= 125


def test_documents(vocab_file, tmp_path):
    # As Google: the end of a file does not end a document.
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfw1 w2\r\n\r\n \t\nw3\r\nw4")
    (tmp_path / "b").write_bytes(b"w5 \xffw6\n\xe2\x80\x8b\n\n\xef\xbb\xbf\n\nzz\n")
    counts, files = Counter(), [tmp_path / "a", tmp_path / "b"]
    documents = read_documents(read_stripped_lines(files), FullTokenizer(vocab_file), counts)
    assert documents == [[["w1", "w2"]], [["w3"], ["w4"], ["w5", "w6"]], [["[UNK]"]]]
    assert counts == {
        "documents": 3, "sentences": 5, "tokens": 7, "unknown": 1, "undecodable": 1, "lines": 11,
        "blank": 4, "without tokens": 2, "long words": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "flags, wanted",
    [([], "e"), (["--no_strip_accents"], "\u00e9"), (["--no_do_lower_case"], "\u00c9")],
)
def test_accents(flags, wanted, tmp_path):
    letters = ["e", "\u00e9", "\u00c9"]
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB + letters), encoding="utf-8")
    (tmp_path / "text").write_text("\u00c9\n\n\u00c9\n", encoding="utf-8")
    output = tmp_path / "out"
    result = run(
        *flags, input_file=tmp_path / "text", output_file=output,
        vocab_file=tmp_path / "vocab.txt", masked_lm_prob=0, dupe_factor=1,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    for row in InstanceFile(output):
        row["input_ids"][row["masked_lm_positions"]] = row["masked_lm_ids"]
        cls, first, sep, second, _ = row["input_ids"]
        assert first == second == (VOCAB + letters).index(wanted)


def test_a_document_of_one_sentence_has_a_random_next():
    documents = [[["a"]], [["b"], ["c"]]]
    (instance,) = create_instances_from_document(documents, 0, 8, 0, 0, 1, ["x"], random.Random(1))
    assert instance.is_random_next
    assert instance.segment_ids[:3] == [0, 0, 0]
    restored = dict(zip(instance.masked_lm_positions, instance.masked_lm_labels))
    tokens = [restored.get(i, token) for i, token in enumerate(instance.tokens)]
    assert tokens[:3] == ["[CLS]", "a", "[SEP]"]
    assert tokens[3:] in (["b", "c", "[SEP]"], ["c", "[SEP]"])
    assert len(instance.masked_lm_positions) == 1


@pytest.mark.parametrize("whole_words", [False, True])
def test_masks(whole_words):
    draw = random.Random(3)
    pieces = ["a", "b", "##a", "##b", "##c"]
    seen = Counter()
    for _ in range(300):
        tokens = ["[CLS]", *draw.choices(pieces, k=60), "[SEP]", *draw.choices(pieces, k=37)]
        masked, positions, labels = create_masked_lm_predictions(
            [*tokens, "[SEP]"], 0.15, 13, ["random"], draw, whole_words
        )
        assert 0 < len(positions) <= 13
        assert len(positions) == 13 or whole_words
        assert positions == sorted(set(positions))
        assert labels == [tokens[position] for position in positions]
        for position, token in enumerate(tokens):
            if position not in positions:
                assert masked[position] == token
            else:
                kinds = {"[MASK]": "mask", "random": "random", token: "kept"}
                seen[kinds[masked[position]]] += 1
                after = tokens[position + 1 : position + 2]
                if whole_words and after and after[0].startswith("##"):
                    assert position + 1 in positions
    total = sum(seen.values())
    assert 0.77 < seen["mask"] / total < 0.83
    assert 0.08 < seen["random"] / total < 0.12


def test_masking_draws_as_random_shuffle():
    # The shuffle that is written out gives the order of the standard library.
    for length in range(1, 140):
        tokens, words = [f"t{i}" for i in range(length)], [[i] for i in range(length)]
        rng, reference = random.Random(length), random.Random(length)
        _, positions, _ = create_masked_lm_predictions(tokens, 0, 1, ["x"], rng)
        reference.shuffle(words)
        assert positions == words[0]


def test_truncate_seq_pair():
    rng = random.Random(1)
    first = Counter()
    for _ in range(500):
        a, b = list(range(9)), list(range(100, 109))
        truncate_seq_pair(a, b, 13, rng)
        assert (len(a), len(b)) == (7, 6)  # from B where both are equally long
        assert a == list(range(a[0], a[0] + 7))
        first[a[0]] += 1
    assert set(first) == {0, 1, 2}  # binomial: 1/4, 1/2, 1/4
    assert 200 < first[1] < 300


def test_mistakes(vocab_file, tmp_path):
    paths = {name: tmp_path / name for name in ("good", "one", "empty", "zip")}
    paths["good"].write_text("w1\n\nw2\n")
    paths["one"].write_text("w1\nw2\n")
    paths["empty"].write_text("\n \n")
    paths["zip"].write_bytes(b"PK\x03\x04...")
    (tmp_path / "no_mask.txt").write_text("\n".join(VOCAB).replace("[MASK]", "mask"))
    cases = [
        ("--input_file nothing-*.x: no such file", {"input_file": "nothing-*.x"}),
        ("found 1 document(s)", {"input_file": paths["one"]}),
        ("found 1 document(s)", {"input_file": paths["one"], "stream": "true"}),
        ("found 0 document(s)", {"input_file": paths["empty"]}),
        ("zip is a zip archive", {"input_file": f"{paths['good']},{paths['zip']}"}),
        ("nowhere", {"vocab_file": "nowhere"}),
        ("has no [MASK]", {"vocab_file": tmp_path / "no_mask.txt"}),
        ("--max_seq_length is 4, but must be 5", {"max_seq_length": 4}),
        ("--masked_lm_prob is 15.0", {"masked_lm_prob": 15}),
        ("--workers 2 needs --stream", {"workers": 2}),
        ("--stream takes one --output_file, not 2", {"stream": 1, "output_file": "x,y"}),
        ("is one of the input files", {"output_file": f"{tmp_path}/./good"}),
        ("is a folder", {"output_file": tmp_path}),
        ("neither true nor false", {"do_lower_case": "maybe"}),
        ("unknown flag --max_seq", {"max_seq": 7}),
    ]
    for message, flags in cases:
        defaults = {"input_file": paths["good"], "output_file": tmp_path / "out"}
        result = run(**{**defaults, "vocab_file": vocab_file, **flags})
        assert result.returncode == 2, message
        assert result.stderr.startswith("create_pretraining_data.py: error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert not list(tmp_path.glob("out*"))
    assert paths["good"].read_text() == "w1\n\nw2\n"


# The files of instances, which instances.py reads and writes.


def instance_rows(number, seed=0):
    draw = np.random.RandomState(seed)
    for index in range(number):
        tokens, masked = draw.randint(5, 38), draw.randint(0, 7)
        yield {
            "input_ids": draw.randint(0, 30522, tokens),
            "segment_ids": (np.arange(tokens) >= draw.randint(2, tokens)).astype(int),
            "masked_lm_positions": np.sort(draw.randint(0, tokens, masked)),
            "masked_lm_ids": draw.randint(0, 30522, masked),
            "next_sentence_label": index % 2,
        }


def write(path, number, **changes):
    rows = [{**row, **changes} for row in instance_rows(number)]
    write_instances(path, [encode_instance(**row) for row in rows], 37, 7, 30522)
    return rows


@pytest.mark.parametrize("number", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_instance_file_round_trip(number, tmp_path):
    rows = write(tmp_path / "x", number)
    file = InstanceFile(tmp_path / "x")
    assert len(file) == number
    assert (file.max_seq_length, file.max_predictions_per_seq, file.vocab_size) == (37, 7, 30522)
    for index in np.random.RandomState(1).permutation(number):
        row, wanted = file[index], dict(rows[index])
        assert row["next_sentence_labels"].tolist() == [wanted.pop("next_sentence_label")]
        assert row["input_mask"].tolist() == [1] * len(wanted["input_ids"])
        assert row["masked_lm_weights"].tolist() == [1] * len(wanted["masked_lm_ids"])
        for name, values in wanted.items():
            assert row[name].tolist() == values.tolist()
    with pytest.raises(IndexError):
        file[number]


def test_large_ids_need_large_words(tmp_path):
    write(tmp_path / "small", 3)
    write(tmp_path / "large", 3, input_ids=[65536, 0, 70000], segment_ids=[0, 0, 1])
    assert InstanceFile(tmp_path / "large")[2]["input_ids"].tolist() == [65536, 0, 70000]
    for changes in ({"segment_ids": [0, 1, 0]}, {"masked_lm_positions": [-1]}):
        with pytest.raises(ValueError, match="needs segment ids 0, then 1"):
            encode_instance(**{**next(instance_rows(1)), **changes})


def test_every_damaged_byte_is_found(tmp_path):
    write(tmp_path / "x", 5)
    data = (tmp_path / "x").read_bytes()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 16
        (tmp_path / "y").write_bytes(damaged)
        with pytest.raises(ValueError, match="y is (damaged|not an instance file)"):
            list(InstanceFile(tmp_path / "y"))
    for length in range(0, len(data), 7):
        (tmp_path / "y").write_bytes(data[:length])
        with pytest.raises(ValueError, match="y is (damaged|not an instance file)"):
            list(InstanceFile(tmp_path / "y"))


def tf_record(path, rows):
    """As Google's writer, with 128 positions and 20 predictions."""
    tf = pytest.importorskip("tensorflow")
    with tf.io.TFRecordWriter(str(path)) as writer:
        for row in rows:
            example = tf.train.Example()
            values = {
                **row,
                "input_mask": [1] * len(row["input_ids"]),
                "masked_lm_weights": [1.0] * len(row["masked_lm_ids"]),
                "next_sentence_labels": [row["next_sentence_label"]],
            }
            del values["next_sentence_label"]
            for name, value in values.items():
                length = 1 if "next" in name else 20 if "masked" in name else 128
                kind = "float_list" if "weights" in name else "int64_list"
                filled = [*value, *[0] * (length - len(value))]
                getattr(example.features.feature[name], kind).value.extend(filled)
            writer.write(example.SerializeToString())


def test_tfrecord(tmp_path):
    rows = write(tmp_path / "x", 40)
    tf_record(tmp_path / "x.tfrecord", rows)
    read = list(TFRecordFile(tmp_path / "x.tfrecord"))
    for ours, theirs in zip(InstanceFile(tmp_path / "x"), read, strict=True):
        assert set(ours) == set(theirs)
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name])

    data = (tmp_path / "x.tfrecord").read_bytes()
    for position in (3, 9, 100, 1000, len(data) - 1):
        damaged = bytearray(data)
        damaged[position] ^= 1
        (tmp_path / "y").write_bytes(damaged)
        with pytest.raises(ValueError, match="y: record [0-9]+: damaged"):
            list(TFRecordFile(tmp_path / "y"))
    for cut in (data[:-1], data[:7], b"text that is not a record", data + b"\0"):
        (tmp_path / "y").write_bytes(cut)
        with pytest.raises(ValueError, match="y: record [0-9]+: "):
            list(TFRecordFile(tmp_path / "y"))


@pytest.mark.parametrize("name", ["f39e881", "eedf571_wwm"])
def test_tensorflow_reads_our_records_as_googles(name, bert_dir, goldens, tmp_path):
    """--output_format tfrecord: the features of Google's records, in the same files."""
    tf = pytest.importorskip("tensorflow")
    outputs = [tmp_path / f"{index}.tfrecord" for index in range(3)]
    result = run(
        *(["--do_whole_word_mask"] if "wwm" in name else []), "--output_format=tfrecord",
        dupe_factor=5, input_file=goldens / "sample_text.txt", vocab_file=bert_dir / "vocab.txt",
        output_file=",".join(map(str, outputs)),
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    records = np.load(goldens / f"pretrain_records_{name}.npz")
    wanted_types = {
        key: tf.io.FixedLenFeature(
            records[key].shape[1:], tf.float32 if "weights" in key else tf.int64
        )
        for key in records
    }
    for index, output in enumerate(outputs):
        # As Google's run_pretraining.py reads them, every feature of a fixed length.
        found = [
            tf.io.parse_single_example(record, wanted_types)
            for record in tf.data.TFRecordDataset(str(output))
        ]
        assert len(found) == len(records["input_ids"][index::3])
        for key in records:
            values = np.array([example[key].numpy() for example in found])
            np.testing.assert_array_equal(values, records[key][index::3], key)
        assert len(TFRecordFile(output)) == len(found)
    example = tf.train.Example.FromString(next(iter(tf.data.TFRecordDataset(str(output)))).numpy())
    assert set(example.features.feature) == set(records)


def test_our_records_are_what_they_were_made_from(tmp_path):
    """Large ids and a stream's shards, read again."""
    rows = [encode_instance(**row) for row in instance_rows(20)]
    rows += [encode_instance([70000, 1, 2**21], [0, 0, 1], [1], [2**28], 1)]
    write_tfrecord(tmp_path / "x", rows, 128, 20)
    write_instances(tmp_path / "y", rows, 128, 20, 2**29)
    file = TFRecordFile(tmp_path / "x")
    assert (file.max_seq_length, file.max_predictions_per_seq) == (128, 20)
    for ours, again in zip(InstanceFile(tmp_path / "y"), file, strict=True):
        for name, values in ours.items():
            np.testing.assert_array_equal(values, again[name])


def test_other_tfrecords(tmp_path):
    tf = pytest.importorskip("tensorflow")
    (row,) = instance_rows(1)
    tf_record(tmp_path / "good", [row, row])
    record = next(iter(tf.data.TFRecordDataset(str(tmp_path / "good")))).numpy()
    example = tf.train.Example.FromString(record)
    example.features.feature["comment"].bytes_list.value.append(b"\xff is not ours")
    with tf.io.TFRecordWriter(str(tmp_path / "more")) as writer:
        writer.write(example.SerializeToString())
    (read,) = TFRecordFile(tmp_path / "more")
    assert read["input_ids"].tolist() == row["input_ids"].tolist()
    assert "comment" not in read
    del example.features.feature["masked_lm_ids"]
    for wrong, missing in [(example.SerializeToString(), "masked_lm_ids"), (b"", "input_ids")]:
        with tf.io.TFRecordWriter(str(tmp_path / "x")) as writer:
            writer.write(record)
            writer.write(wrong)
        with pytest.raises(ValueError, match=f"x: record 1: .*{missing} is missing"):
            list(TFRecordFile(tmp_path / "x"))


# --- what is reported -----------------------------------------------------------------------------


def test_lines_are_accounted_for(vocab_file, tmp_path):
    (tmp_path / "text").write_text(f"w1 w2\n\x02\n\n{'w3 ' * 20}\nw4 {'x' * 201}\n")
    result = run(vocab_file=vocab_file, input_file=tmp_path / "text", max_seq_length=16,
                 output_file=tmp_path / "out")  # fmt: skip
    assert (
        "lines read 5, used 3, skipped 2 (1 blank, 1 without tokens), longer than an instance and "
        "cut 1 (the longest has 20 WordPieces), words over 200 characters that became one [UNK]: 1"
    ) in result.stdout


def test_a_rare_label_is_told(vocab_file, tmp_path):
    """Documents of one line have no next sentence."""
    (tmp_path / "text").write_text("".join(f"w{n}\n\n" for n in range(9)))
    given = {"vocab_file": vocab_file, "input_file": tmp_path / "text"}
    result = run(output_file=tmp_path / "a", **given)
    assert "warning: 100% of the instances have a random next sentence" in result.stdout
    result = run("--stream", shard_mb=0.001, output_file=tmp_path / "b.x", **given)
    assert "warning: 100% of the instances have a random next sentence" in result.stdout
    (tmp_path / "text").write_text(text(20))
    assert "random next sentence" not in run(output_file=tmp_path / "c", **given).stdout


def test_whole_words_that_are_single_pieces(vocab_file, bert_dir, tmp_path):
    (tmp_path / "text").write_text("w1 w2\n\nw3 unaffable\n")
    told = "warning: --do_whole_word_mask changes nothing: every word of the text is a single"
    given = {"input_file": tmp_path / "text", "output_file": tmp_path / "out"}
    assert told in run("--do_whole_word_mask", vocab_file=vocab_file, **given).stdout
    assert told not in run(vocab_file=vocab_file, **given).stdout
    flags = {**given, "vocab_file": bert_dir / "vocab.txt"}
    assert told not in run("--do_whole_word_mask", **flags).stdout


def test_markers_in_the_text(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", "[MASK]", "[E1]", "a", "b", "[", "]"]))
    (tmp_path / "text").write_text("a [E1]\n\nb b\n")
    given = {"vocab_file": vocab, "input_file": tmp_path / "text", "output_file": tmp_path / "out"}
    result = run(**given)
    assert "warning: the text holds [E1]: the vocabulary has this entry, but it is" in result.stdout
    result = run(never_split="all", **given)
    assert "the text holds" not in result.stdout and "(0.00% [UNK])" in result.stdout


def test_the_vocabulary_and_the_output_are_checked_first(vocab_file, tmp_path):
    (tmp_path / "text").write_text("w1\n\nw2\n")
    (tmp_path / "cased").write_text(
        "\n".join(["[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"Word{n}" for n in range(90)), "w1"])
    )
    (tmp_path / "link").symlink_to(tmp_path / "text")
    (tmp_path / "mac").write_bytes(b"w1\rw2\r")
    (tmp_path / "x-00003.y").write_text("mine")
    given = {"vocab_file": vocab_file, "input_file": tmp_path / "text"}
    given["output_file"] = tmp_path / "out"
    for changes, told in (
        ({"vocab_file": tmp_path / "cased"}, "belongs to a cased model (90 of 91 entries"),
        ({"output_file": tmp_path / "link"}, "is one of the input files"),
        ({"output_file": tmp_path / "cased", "vocab_file": tmp_path / "cased"}, "cased model"),
        ({"output_file": f"{tmp_path}/a,{tmp_path}/./a"}, "names a file twice"),
        ({"output_file": f"{tmp_path}/text/a"}, "is a file"),
        ({"input_file": tmp_path / "mac"}, "as on a classic Mac"),
    ):
        result = run(**{**given, **changes})
        assert result.returncode == 2 and told in result.stderr and "Traceback" not in result.stderr
        assert not (tmp_path / "out").exists() and not (tmp_path / "a").exists()
    result = run("--stream", **{**given, "output_file": tmp_path / "x.y"})
    assert "x-00003.y already exists" in result.stderr
    assert (tmp_path / "text").read_text() == "w1\n\nw2\n"
