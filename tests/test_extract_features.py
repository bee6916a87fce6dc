"""extract_features.py against the file that Google's script wrote, and its own promises."""

import gzip
import json

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
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        extract_features.read_examples(tmp_path / "empty.txt")
    (tmp_path / "latin1.txt").write_bytes("fine\ncaf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin1.txt:2 is not UTF-8"):
        extract_features.read_examples(tmp_path / "latin1.txt")
    assert not (tmp_path / "out").exists()


def test_accents_and_unknown_words(tmp_path, capsys):
    """--no_strip_accents keeps "é" apart from "e"; what the vocabulary lacks is told."""
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
    examples = extract_features.read_examples(source)
    assert [(e.unique_id, e.text_a, e.text_b) for e in examples] == [
        (0, "a b", "c"),
        (1, "d", None),
    ]
