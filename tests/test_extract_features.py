"""extract_features.py against the file that Google's script wrote, and its own promises."""

import gzip
import json
import os
import shutil
import weakref

import numpy as np
import pytest
from helpers import model_flags, write_tiny_model

import extract_features


def command(bert_dir, source, target, *extra):
    return [
        f"--input_file={source}",
        f"--output_file={target}",
        f"--vocab_file={bert_dir / 'vocab.txt'}",
        f"--bert_config_file={bert_dir / 'bert_config.json'}",
        f"--init_checkpoint={bert_dir / 'bert_model.ckpt'}",
        "--max_seq_length=32",
        *extra,
    ]


def read_jsonl(lines):
    return [json.loads(line) for line in lines]


def test_equals_the_golden_file(goldens, bert_dir, tmp_path):
    output = tmp_path / "output.jsonl"
    extract_features.main(
        command(bert_dir, goldens / "extract_input.txt", output, "--batch_size=8")
    )
    with gzip.open(goldens / "extract_features.jsonl.gz", "rt") as file:
        expected = read_jsonl(file)
    with open(output, encoding="utf-8") as file:
        found = read_jsonl(file)
    assert [one["linex_index"] for one in found] == [one["linex_index"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        for token, golden in zip(one["features"], other["features"], strict=True):
            assert token["token"] == golden["token"]
            assert [x["index"] for x in token["layers"]] == [-1, -2, -3, -4]
            values = np.array([x["values"] for x in token["layers"]])
            golden_values = np.array([x["values"] for x in golden["layers"]])
            # Four times Google's own noise, 3e-6, on either side of it; both rounded to 1e-6.
            assert np.abs(values - golden_values).max() <= 1.6e-5


def test_npz_holds_the_same(bert_dir, tmp_path):
    source = tmp_path / "input.txt"
    source.write_text("One text\nA first one ||| and a second\n\n", encoding="utf-8")
    extract_features.main(command(bert_dir, source, tmp_path / "a.jsonl", "--layers=-1,2"))
    extract_features.main(
        command(bert_dir, source, tmp_path / "a.npz", "--layers=-1,2", "--output_format=npz")
    )
    lines = read_jsonl((tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines())
    with np.load(tmp_path / "a.npz") as arrays:
        assert len(lines) == 3  # a blank line is a text: [CLS] [SEP]
        for n, line in enumerate(lines):
            tokens = [token["token"] for token in line["features"]]
            assert arrays[f"text{n}_tokens"].tolist() == tokens
            for i, layer in enumerate((-1, 2)):
                values = [token["layers"][i]["values"] for token in line["features"]]
                assert np.allclose(arrays[f"text{n}_layer{layer}"], values, atol=1e-6)


def test_mistakes_are_told_before_any_work(tmp_path):
    source = tmp_path / "input.txt"
    source.write_text("a\n")
    for name in ("bert_config.json", "vocab.txt"):
        (tmp_path / name).touch()
    needed = command(tmp_path, source, tmp_path / "out")
    with pytest.raises(ValueError, match="not a list of numbers"):
        extract_features.parse_args([*needed, "--layers=last"])
    with pytest.raises(ValueError, match="use one of jsonl, npz"):
        extract_features.parse_args([*needed, "--output_format=csv"])
    (tmp_path / "latin1.txt").write_bytes("fine\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin1.txt:2 is not UTF-8"):
        list(extract_features.read_examples(tmp_path / "latin1.txt"))
    assert not (tmp_path / "out").exists()


def test_accents_and_unknown_words(tmp_path, capsys):
    """--no_strip_accents keeps "é" apart from "e"; what the vocabulary lacks is counted."""
    folder = write_tiny_model(tmp_path / "model")
    words = (folder / "vocab.txt").read_text("utf-8").split("\n")
    words[words.index("z")] = "é"
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    source, target = tmp_path / "input.txt", tmp_path / "out.jsonl"
    source.write_text("É e ∮", "utf-8")
    given = [f"--input_file={source}", f"--output_file={target}", *model_flags(folder),
             "--max_seq_length=9", "--layers=-1"]  # fmt: skip
    for flags, letter in (([], "e"), (["--no_strip_accents"], "é"), (["--no_do_lower_case"], None)):
        extract_features.main([*given, *flags])
        (line,) = read_jsonl(target.read_text("utf-8").splitlines())
        wanted = ["[CLS]", letter or "[UNK]", "e", "[UNK]", "[SEP]"]
        assert [token["token"] for token in line["features"]] == wanted
        said = capsys.readouterr().out
        share = 1 / 5 if letter else 2 / 5
        assert "texts: 1 inputs, 5 tokens" in said and f"{share:.2%} [UNK]" in said
        assert f"warning: {share:.0%} of the tokens are [UNK]" in said


def test_lines_and_pairs(tmp_path):
    source = tmp_path / "input.txt"
    source.write_bytes("\ufeffa b ||| c\r\n d \r\n".encode())
    examples = list(extract_features.read_examples(source))
    assert [(e.unique_id, e.text_a, e.text_b) for e in examples] == [
        (0, "a b", "c"),
        (1, "d", None),
    ]


@pytest.fixture
def given(tiny_model, tmp_path):
    """The flags of a run on the tiny model; the texts are missing."""
    return [f"--input_file={tmp_path / 'in.txt'}", f"--output_file={tmp_path / 'out.jsonl'}",
            *model_flags(tiny_model), "--max_seq_length=32", "--layers=-1"]  # fmt: skip


@pytest.mark.parametrize("output_format", ["jsonl", "npz"])
def test_blocks_keep_the_order(output_format, given, tmp_path, monkeypatch):
    """However the texts are divided, the outputs are in the order of the file."""
    lengths = [1, 20, 3, 0, 9, 28, 2, 7, 0, 5, 30, 1, 4]
    (tmp_path / "in.txt").write_text("".join("the " * n + "\n" for n in lengths))
    argv = [*given, f"--output_format={output_format}", "--batch_size=2"]
    contents = []
    for values in (1, 500, 2**23):
        monkeypatch.setattr(extract_features, "VALUES_PER_BLOCK", values)
        extract_features.main(argv)
        if output_format == "npz":
            with np.load(tmp_path / "out.jsonl") as arrays:
                states = [arrays[f"text{n}_layer-1"] for n in range(len(lengths))]
                assert len(arrays.files) == 2 * len(lengths)
        else:
            lines = read_jsonl((tmp_path / "out.jsonl").read_text().splitlines())
            assert [line["linex_index"] for line in lines] == list(range(len(lengths)))
            states = [[t["layers"][0]["values"] for t in line["features"]] for line in lines]
        assert [len(rows) for rows in states] == [n + 2 for n in lengths]
        contents.append(np.concatenate([np.ravel(rows) for rows in states]))
    assert np.abs(contents[0] - contents[2]).max() <= 2e-6
    assert np.abs(contents[1] - contents[2]).max() <= 2e-6


def test_memory_does_not_grow_with_the_file(given, tmp_path, monkeypatch):
    """Outputs are written block by block: those of earlier blocks are freed."""
    true = extract_features.training.predict
    sizes = []
    earlier = []  # weak references to the outputs of each block

    def predict(runtime, model, block, *more):
        # The last block's may still be in a variable of the loop.
        assert not any(reference() is not None for ref in earlier[:-1] for reference in ref)
        outputs = true(runtime, model, block, *more)
        sizes.append(sum(output.size for output in outputs))
        earlier.append([weakref.ref(output) for output in outputs])
        return outputs

    monkeypatch.setattr(extract_features.training, "predict", predict)
    monkeypatch.setattr(extract_features, "VALUES_PER_BLOCK", 2000)
    (tmp_path / "in.txt").write_text("the of and\n" * 200)
    extract_features.main([*given, "--batch_size=4"])
    batch = 4 * 5 * 24  # texts, WordPieces, hidden_size
    assert sum(sizes) == 200 * 5 * 24 and max(sizes) < 2000 + batch


def test_texts_are_accounted_for(given, tmp_path, capsys):
    (tmp_path / "in.txt").write_text(f"the\n\n{'the ' * 40}\n{'x' * 201}")
    extract_features.main(given)
    said = capsys.readouterr().out
    assert (
        "; texts read 4, used 4, skipped 0, cut 1 (the longest has 42 WordPieces), words over 200 "
        "characters that became one [UNK]: 1\n"
    ) in said


def test_the_output_is_checked_before_any_work(given, tiny_model, tmp_path, monkeypatch):
    source = tmp_path / "in.txt"
    source.write_text("the\n")
    (tmp_path / "link").symlink_to(source)
    for path in (source, tmp_path / "link", f"{tmp_path}/./in.txt", tiny_model / "vocab.txt"):
        with pytest.raises(ValueError, match="is one of the input files: pass another one"):
            extract_features.parse_args([*given, f"--output_file={path}"])
    # An earlier output is replaced, also where the folder of the weights brings the other files.
    (tmp_path / "out.jsonl").write_text("old")
    extract_features.parse_args([
        f"--input_file={source}", f"--init_checkpoint={tiny_model}",
        f"--output_file={tmp_path / 'out.jsonl'}",
    ])  # fmt: skip
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(PermissionError, match="is not writable"):
        extract_features.parse_args(given)


def test_casing_beside_the_weights(given, tiny_model, tmp_path):
    (tmp_path / "in.txt").write_text("the\n")
    folder = tmp_path / "run"
    shutil.copytree(tiny_model, folder)
    (folder / "run.json").write_text('{"do_lower_case": false}')
    with pytest.raises(ValueError, match="was trained with do_lower_case False, but this run has"):
        extract_features.main([*given, f"--init_checkpoint={folder}", "--do_lower_case"])
    (folder / "run.json").write_text('{"do_lower_case": true, "never_split": "[MASK]"}')
    (tmp_path / "in.txt").write_text("the [MASK]\n")
    extract_features.main([*given, f"--init_checkpoint={folder}"])
    (line,) = read_jsonl((tmp_path / "out.jsonl").read_text().splitlines())
    assert [token["token"] for token in line["features"]] == ["[CLS]", "the", "[MASK]", "[SEP]"]
    with pytest.raises(
        ValueError, match=r"was trained with never_split \[MASK\], but this run has"
    ):
        extract_features.main([*given, f"--init_checkpoint={folder}", "--never_split=all"])


def test_classic_mac_line_ends(given, tmp_path):
    (tmp_path / "in.txt").write_bytes(b"a\rb\r")
    with pytest.raises(ValueError, match="in.txt: its lines end with a carriage return alone"):
        extract_features.main(given)
    assert not (tmp_path / "out.jsonl").exists()
