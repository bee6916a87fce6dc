"""Writes the wrong files that mistakes.tsv names, each made from a right one."""

import json
import pickle
import shutil
import tarfile
import zipfile

import torch
from helpers import write_tiny_model

import convert_pytorch_checkpoint_to_tf
import instances


class Code:
    """Calls a function when it is unpickled."""

    def __reduce__(self):
        return (print, ("this must never be printed",))


def write_data(folder, mrpc):
    """Folders of a classification task, each with one thing wrong in train.tsv."""
    good = (mrpc / "train.tsv").read_bytes().split(b"\n")
    wrong = {
        "good": good,
        "bad_label": [*good[:3], good[3].replace(good[3][:1], b"2", 1), *good[4:]],
        "headless": good[1:],
        "nul": [*good[:4], good[4].replace(b" ", b"\0", 1), *good[5:]],
        "latin1": [*good[:5], "0\t1\t2\tcaf\xe9\tx".encode("latin-1"), *good[6:]],
        "empty": [],
        "header_only": good[:1],
        "commas": [line.replace(b"\t", b",") for line in good],
        "cola": [b"gj04\t1\t\tThey drank.", b"gj04\t0\t*\tThey drank the", b""],
        "quoted": [b"\t".join(b'"%s"' % text for text in line.split(b"\t")) for line in good],
        "no_label": [*good[:2], good[2][1:], *good[3:]],
        "swapped": [b"\t".join(line.split(b"\t")[::-1]) for line in good],
        "mac": [b"\r".join(good)],
        "no_dev": good,
        "no_train": None,
    }
    for name, lines in wrong.items():
        (folder / name).mkdir()
        if lines is not None:
            (folder / name / "train.tsv").write_bytes(b"\n".join(lines))
    (folder / "good" / "dev.tsv").write_bytes((mrpc / "dev.tsv").read_bytes())


def write_configs(folder, model):
    """Configurations that do not fit the model, and files that are not configurations."""
    config = json.loads((model / "bert_config.json").read_text("utf-8"))
    changes = {
        "heads": {"num_attention_heads": 5},
        "other_vocab": {"vocab_size": 30522},
        "activation": {"hidden_act": "swish"},
        "layers": {"num_hidden_layers": 3},
        "fewer_layers": {"num_hidden_layers": 1},
        "narrow": {"hidden_size": 12},
        "dropout": {"hidden_dropout_prob": 1.5},
        "text_size": {"intermediate_size": "37"},
        "decoder": {"is_decoder": True},
        "relative": {"position_embedding_type": "relative_key"},
        "pruned": {"pruned_heads": {"0": [1]}},
        "roberta": {"model_type": "roberta"},
        "epsilon": {"layer_norm_eps": 1e-5},
        "two_heads": {"num_attention_heads": 2},
        "untied": {"tie_word_embeddings": False},
        "small_vocab": {"vocab_size": 150},
    }
    for name, change in changes.items():
        (folder / f"{name}.json").write_text(json.dumps({**config, **change}), "utf-8")
    (folder / "empty.json").write_bytes(b"")
    del config["vocab_size"]
    (folder / "no_vocab.json").write_text(json.dumps(config), "utf-8")
    (folder / "list.json").write_text("[1, 2]", "utf-8")
    (folder / "broken.json").write_text('{"vocab_size" 5}', "utf-8")


def write_vocabularies(folder, model):
    """Vocabularies that do not fit the model, and files that are not vocabularies."""
    words = (model / "vocab.txt").read_text("utf-8").split("\n")
    (folder / "cased.txt").write_text(
        "\n".join(w if w.startswith("[") else w.upper() for w in words), "utf-8"
    )
    (folder / "no_special.txt").write_text("\n".join(words[3:]), "utf-8")
    (folder / "blank.txt").write_text("\n\n", "utf-8")
    for name, text in (("spaces", "fine\ntwo words\n"), ("piece", "##ing\n"), ("new", "zzz\n")):
        (folder / f"{name}.words").write_text(text, "utf-8")
    (folder / "cased").mkdir()
    shutil.copy(model / "vocab.txt", folder / "cased")
    (folder / "cased/tokenizer_config.json").write_text('{"do_lower_case": false}')
    (folder / "latin1.txt").write_bytes("[UNK]\ncaf\xe9\n".encode("latin-1"))
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("vocab.txt", "[UNK]")
    with tarfile.open(folder / "archive.tar.gz", "w:gz") as archive:
        archive.add(folder / "blank.txt", "vocab.txt")
    uncased = write_tiny_model(folder / "uncased", vocab_size=len(words) - 1 + 1000)
    (uncased / "vocab.txt").write_text(
        "\n".join([*words[:-1], *(f"word{number}" for number in range(1000)), ""]), "utf-8"
    )


def write_weights(folder, model):
    """Weights that do not fit, damaged files, TensorFlow checkpoints and runs' output folders."""
    weights = torch.load(model / "pytorch_model.bin", weights_only=True)
    query = "bert.encoder.layer.1.attention.self.query.weight"
    nan = {**weights, query: torch.full((24, 24), float("nan"))}
    del (missing := dict(weights))[query]
    others = {
        "gpt2": {"wte.weight": torch.ones(187, 24), "h.0.attn.c_attn.weight": torch.ones(24, 72)},
        "answers": {
            **weights, "qa_outputs.weight": torch.ones(2, 24), "qa_outputs.bias": torch.ones(2)
        },
        "roberta": {name.replace("bert.", "roberta.", 1): w for name, w in weights.items()},
        "adapter": {**weights, f"{query[:-7]}.lora_A.weight": torch.ones(4, 24)},
        "twice": {**weights, **{f"model.{name}": w for name, w in weights.items()}},
        "untied": {**weights, "cls.predictions.decoder.weight": torch.ones(187, 24)},
        "nan": nan, "missing": missing, "list": [1, 2], "evil": {"weight": Code()},
        "three_labels": {
            **weights, "classifier.weight": torch.ones(3, 24), "classifier.bias": torch.ones(3)
        },
    }  # fmt: skip
    for name, values in others.items():
        torch.save(values, folder / f"{name}.bin")
    (folder / "evil_pickle.bin").write_bytes(pickle.dumps(Code(), protocol=2))
    content = bytearray((model / "pytorch_model.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "damaged.bin").write_bytes(content)
    (folder / "cut.bin").write_bytes(content[:1000])
    (folder / "text.bin").write_text("not weights\n")
    (folder / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\noid 1\n")
    (folder / "page.safetensors").write_text("<!DOCTYPE html>\n<html>")
    (folder / "error.bin").write_text('{"error": "Entry not found"}')
    (folder / "parts").mkdir()
    (folder / "parts/model.safetensors.index.json").write_text(
        '{"weight_map": {"bert.pooler.dense.bias": "model-1.safetensors"}}'
    )
    for name, file, content in (
        ("bare", "tokenizer_config.json", "{}"),
        ("japanese", "tokenizer_config.json", '{"tokenizer_class": "BertJapaneseTokenizer"}'),
        ("not_chinese", "tokenizer_config.json", '{"tokenize_chinese_chars": false}'),
        ("other_unknown", "special_tokens_map.json", '{"unk_token": "<unk>"}'),
        ("broken", "tokenizer_config.json", '{"do_lower_case"'),
    ):
        (folder / name).mkdir()
        shutil.copy(model / "pytorch_model.bin", folder / name)
        (folder / name / file).write_text(content, "utf-8")
    # Classifiers of two outputs, as that of a task of texts with two labels.
    classifier = {"classifier.weight": torch.ones(2, 24), "classifier.bias": torch.ones(2)}
    for name, values in (
        ("tagger", {"architectures": ["BertForTokenClassification"]}),
        ("several_labels", {"problem_type": "multi_label_classification"}),
    ):
        (folder / name).mkdir()
        torch.save({**weights, **classifier}, folder / name / "pytorch_model.bin")
        config = json.loads((model / "bert_config.json").read_text("utf-8"))
        (folder / name / "config.json").write_text(json.dumps({**config, **values}), "utf-8")
    (folder / "empty.bin").write_bytes(b"")
    (folder / "nothing").mkdir()
    (folder / "trainer/checkpoint-500").mkdir(parents=True)
    shutil.copy(model / "pytorch_model.bin", folder / "trainer/checkpoint-500")
    for name, text in (
        ("mrpc_run", '{"labels": ["0", "1"], "do_lower_case": true}'),
        ("cased_run", '{"labels": ["0", "1"], "do_lower_case": false}'),
        ("swapped_run", '{"labels": ["1", "0"]}'),
        ("damaged_run", '{"labels": ["0"'),
    ):
        (folder / name).mkdir()
        shutil.copy(model / "pytorch_model.bin", folder / name)
        (folder / name / "run.json").write_text(text, "utf-8")
    (folder / "tf").mkdir()
    convert_pytorch_checkpoint_to_tf.convert_pytorch_checkpoint_to_tf(
        str(model / "pytorch_model.bin"), str(model / "bert_config.json"), str(folder / "tf/a.ckpt")
    )
    (folder / "tf/a.ckpt.meta").write_bytes(b"a graph")
    for name in ("flipped", "cut", "no_data"):
        shutil.copytree(folder / "tf", folder / name)
    data = bytearray((folder / "tf/a.ckpt.data-00000-of-00001").read_bytes())
    data[-1] ^= 1
    (folder / "flipped/a.ckpt.data-00000-of-00001").write_bytes(data)
    (folder / "cut/a.ckpt.index").write_bytes((folder / "cut/a.ckpt.index").read_bytes()[:-9])
    (folder / "no_data/a.ckpt.data-00000-of-00001").unlink()


def write_squad(folder, squad):
    """SQuAD files with one thing wrong in each, and files of predictions for squad_metrics.py."""
    good = json.loads((squad / "train-v1.1.json").read_text("utf-8"))

    def write(name, change):
        dataset = json.loads(json.dumps(good))
        change(dataset["data"][0]["paragraphs"][0], dataset)
        (folder / f"{name}.json").write_text(json.dumps(dataset), "utf-8")

    def twice(paragraph, _):
        paragraph["qas"][1]["id"] = paragraph["qas"][0]["id"]

    def answers(change):
        return lambda paragraph, _: change(paragraph["qas"][2]["answers"])

    def impossible(paragraph, _):
        paragraph["qas"][2] |= {"is_impossible": True, "answers": []}

    write("good", lambda *_: None)
    write("twice", twice)
    write("several", answers(lambda given: given.append(given[0])))
    write("unanswered", answers(lambda given: given.clear()))
    write("impossible", impossible)
    write("no_context", lambda paragraph, _: paragraph.pop("context"))
    write("no_data", lambda _, dataset: dataset.pop("data"))
    write("no_articles", lambda _, dataset: dataset["data"].clear())
    write("number", lambda paragraph, _: paragraph["qas"][0].update(question=7))
    write("start_text", answers(lambda given: given[0].update(answer_start="3")))
    write("fake", lambda paragraph, _: [
        qa.update(answers=[{"text": "FAKE_ANSWER", "answer_start": -1}]) for qa in paragraph["qas"]
    ])  # fmt: skip
    write("columns", lambda paragraph, _: paragraph["qas"][2].update(
        answers={"text": ["a"], "answer_start": [3]}  # as the package datasets gives them
    ))  # fmt: skip
    write("plain_answers", lambda paragraph, _: paragraph["qas"][2].update(answers=["a"]))
    write("misplaced", lambda paragraph, _: paragraph.update(context="Nothing of it is here."))
    (folder / "broken.json").write_text('{"data": [', "utf-8")
    (folder / "empty.json").write_bytes(b"")
    (folder / "latin1.json").write_bytes('{"data": "caf\xe9"}'.encode("latin-1"))
    paragraph = good["data"][0]["paragraphs"][0]
    full = {qa["id"]: "some words" for qa in paragraph["qas"]}
    for name, values in (
        ("full", full),
        ("answers", {"1": "a"}),
        ("odds", {"1": 0.5}),
        ("numbers", {"1": 2}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(values), "utf-8")


def write_tagging(folder, tagging):
    """Folders of a tagging task, each with one thing wrong in one of its files."""
    good = {
        name: (tagging / f"{name}.txt").read_bytes().split(b"\n")
        for name in ("train", "dev", "test")
    }
    train = good["train"]
    assert train[2] == b"The O", "the first word"
    wrong = {
        "good": {},
        "no_train": {"train": None},
        "no_tags": {"train": [line.split(b" ")[0] for line in train]},
        "one_column": {"train": [*train[:4], train[4].split(b" ")[0], *train[5:]]},
        "three_columns": {"train": [*train[:4], train[4] + b" O", *train[5:]]},
        "no_word": {"train": [*train[:2], b"\tO", *train[3:]]},
        "empty": {"train": []},
        "blank": {"train": [b"", b" \t ", b"-DOCSTART- -X- O", b""]},
        "all_outside": {"train": [b"The O", b"train O", b"", b"It O"]},
        "no_prefix": {"train": [*train[:2], b"The PER", *train[3:]]},
        "two_schemes": {"train": [*train[:2], b"The U-PER", b"train S-PER", *train[4:]]},
        "nul": {"train": [*train[:4], b"a\0 O", *train[5:]]},
        "latin1": {"train": [*train[:4], "café O".encode("latin-1"), *train[5:]]},
        "mac": {"train": [b"\r".join(train)]},
        "unseen_dev": {"dev": [*good["dev"][:2], b"Rome B-GPE", *good["dev"][3:]]},
        "unseen_test": {"test": [*good["test"][:2], b"Rome B-GPE", *good["test"][3:]]},
    }
    for name, changes in wrong.items():
        (folder / name).mkdir()
        for file, lines in {**good, **changes}.items():
            if lines is not None:
                (folder / name / f"{file}.txt").write_bytes(b"\n".join(lines))


def write_texts(folder, model):
    """Texts and pre-training instances, right and wrong ones."""
    (folder / "good.txt").write_text("Some words.\nMore of them.\n\nAnother text.\nIts end.\n")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_text("\n\n \n")
    (folder / "latin1.txt").write_bytes("a\ncaf\xe9\n".encode("latin-1"))
    (folder / "nul.txt").write_bytes(b"a\0b\n")
    (folder / "mac.txt").write_bytes(b"a\rb\r")
    rows = [instances.encode_instance([2, 9, 3, 8, 3], [0, 0, 0, 1, 1], [1], [7], 1)] * 13
    far = instances.encode_instance([2, 187, 3, 8, 3], [0, 0, 0, 1, 1], [1], [7], 1)
    for name, packed, vocab_size in (
        ("good", rows, 187), ("other_vocab", rows, 30522), ("beyond", [far], 187), ("none", [], 187)
    ):  # fmt: skip
        instances.write_instances(folder / name, packed, 16, 2, vocab_size)
    content = bytearray((folder / "good").read_bytes())
    (folder / "cut").write_bytes(content[:-20])
    content[-1] ^= 1
    (folder / "flipped").write_bytes(content)


def write_tables(folder, _):
    """Folders of a task of one's own, each with one thing wrong in its training file."""
    good = "text,label\nIt rained.,no\nIt snowed.,yes\n"
    files = {
        "csv": ("train.csv", good),
        "both": ("train.tsv", "text\tlabel\n"),
        "none": ("train.xlsx", ""),
        "dev": ("dev.csv", good),
        "semicolons": ("train.csv", good.replace(",", ";")),
        "unquoted": ("train.csv", f"{good}It rained, and snowed.,yes\n"),
        "open": ("train.csv", good.replace("It snowed", '"It snowed')),
        "twice": ("train.csv", good.replace("text,", "text,label,")),
        "unlabelled": ("train.csv", good.replace("yes", "")),
        "headless": ("train.csv", good.removeprefix("text,label\n")),
        "broken": ("train.jsonl", '{"text": "a", "label": 1}\n{"text"\n'),
        "array": ("train.jsonl", '[{"text": "a", "label": 1}, {"text": "b", "label": 2}]'),
        "numbers": ("train.jsonl", '{"text": 5, "label": 1}\n'),
        "case": ("train.csv", f"{good}It hailed,Yes\n"),
        "scores": ("train.csv", good.replace("no", "0.5").replace("yes", "2")),
    }
    for name, (file, content) in files.items():
        (folder / name).mkdir()
        (folder / name / file).write_text(content, "utf-8")
    for name in ("both", "dev"):
        (folder / name / "train.csv").write_text(good, "utf-8")
