"""What a user gets wrong is told in one line, with exit status 2, and nothing is written.

TABLE has a row for each mistake: script, what differs from a right command, the line. In both,
{…} are paths; "!name" takes a flag of the right command away. A line that ends with "…" goes on
in the words of PyTorch.
"""

import json
import pickle
import shutil
import tarfile
import zipfile

import pytest
import torch
from conftest import assert_same_weights, model_flags, run, write_tiny_model

import convert_pytorch_checkpoint_to_tf
import convert_tf_checkpoint_to_pytorch
import create_pretraining_data
import extract_features
import instances
import run_classifier
import run_pretraining
import run_squad
import squad_metrics

SCRIPTS = {
    "run_classifier": run_classifier,
    "run_squad": run_squad,
    "run_pretraining": run_pretraining,
    "extract": extract_features,
    "make_data": create_pretraining_data,
    "to_pytorch": convert_tf_checkpoint_to_pytorch,
    "to_tf": convert_pytorch_checkpoint_to_tf,
    "metrics": squad_metrics,
}


class Code:
    """Runs something when it is unpickled."""

    def __reduce__(self):
        return (print, ("this must never be printed",))


def write_data(folder, mrpc):
    """Folders of a classification task with something wrong in train.tsv."""
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
        "no_train": None,
    }
    for name, lines in wrong.items():
        (folder / name).mkdir()
        if lines is not None:
            (folder / name / "train.tsv").write_bytes(b"\n".join(lines))
    (folder / "good" / "dev.tsv").write_bytes((mrpc / "dev.tsv").read_bytes())


def write_configs(folder, model):
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
    }
    for name, change in changes.items():
        (folder / f"{name}.json").write_text(json.dumps({**config, **change}), "utf-8")
    (folder / "empty.json").write_bytes(b"")
    del config["vocab_size"]
    (folder / "no_vocab.json").write_text(json.dumps(config), "utf-8")
    (folder / "list.json").write_text("[1, 2]", "utf-8")
    (folder / "broken.json").write_text('{"vocab_size" 5}', "utf-8")


def write_vocabularies(folder, model):
    words = (model / "vocab.txt").read_text("utf-8").split("\n")
    (folder / "cased.txt").write_text(
        "\n".join(w if w.startswith("[") else w.upper() for w in words), "utf-8"
    )
    (folder / "no_special.txt").write_text("\n".join(words[3:]), "utf-8")
    (folder / "blank.txt").write_text("\n\n", "utf-8")
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
    weights = torch.load(model / "pytorch_model.bin", weights_only=True)
    query = "bert.encoder.layer.1.attention.self.query.weight"
    nan = {**weights, query: torch.full((24, 24), float("nan"))}
    del (missing := dict(weights))[query]
    others = {
        "gpt2": {"wte.weight": torch.ones(187, 24), "h.0.attn.c_attn.weight": torch.ones(24, 72)},
        "answers": {
            **weights, "qa_outputs.weight": torch.ones(2, 24), "qa_outputs.bias": torch.ones(2)
        },
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
    (folder / "empty.bin").write_bytes(b"")
    (folder / "nothing").mkdir()
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


def write_texts(folder, model):
    """Texts, and instances for pre-training with something wrong."""
    (folder / "good.txt").write_text("Some words.\nMore of them.\n\nAnother text.\nIts end.\n")
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_text("\n\n \n")
    (folder / "latin1.txt").write_bytes("a\ncaf\xe9\n".encode("latin-1"))
    (folder / "nul.txt").write_bytes(b"a\0b\n")
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


@pytest.fixture(scope="module")
def paths(tiny_model, mrpc, squad, tmp_path_factory):
    """Name -> path of everything that a row of TABLE may mention."""
    root = tmp_path_factory.mktemp("mistakes")
    tasks = ", ".join(run_classifier.PROCESSORS)
    found = {"model": tiny_model, "out": root / "out", "root": root, "tasks": tasks}
    for name, write, source in (
        ("data", write_data, mrpc),
        ("config", write_configs, tiny_model),
        ("vocab", write_vocabularies, tiny_model),
        ("weights", write_weights, tiny_model),
        ("squad", write_squad, squad),
        ("text", write_texts, tiny_model),
    ):
        found[name] = root / name
        found[name].mkdir()
        write(found[name], source)
    (root / "a_file").write_text("mine")
    (root / "foreign").mkdir()
    shutil.copy(tiny_model / "pytorch_model.bin", root / "foreign")
    (root / "damaged").mkdir()
    (root / "damaged/checkpoint-3.pt").write_bytes(b"half")
    return found


def right_command(script, paths):
    data, out = paths["data"] / "good", f"--output_dir={paths['out']}"
    config = f"--bert_config_file={paths['model'] / 'bert_config.json'}"
    small = ["--train_batch_size=4", "--learning_rate=1e-3"]
    if script == "run_classifier":
        return ["--task_name=MRPC", f"--data_dir={data}", *model_flags(paths["model"]),
                "--max_seq_length=48", *small, out]  # fmt: skip
    if script == "run_squad":
        return [f"--train_file={paths['squad'] / 'good.json'}", *model_flags(paths["model"]),
                "--max_seq_length=64", "--max_query_length=24", "--doc_stride=16", *small,
                out]  # fmt: skip
    if script == "run_pretraining":
        return [f"--input_file={paths['text']}/good", *model_flags(paths["model"]),
                "--max_seq_length=16", "--max_predictions_per_seq=2", "--num_train_steps=2",
                "--num_warmup_steps=1", *small, out]  # fmt: skip
    if script == "extract":
        return [f"--input_file={paths['text']}/good.txt", *model_flags(paths["model"]),
                "--max_seq_length=16", "--layers=-1",
                f"--output_file={paths['out']}.jsonl"]  # fmt: skip
    if script == "make_data":
        return [f"--input_file={paths['text']}/good.txt", "--max_seq_length=16",
                f"--vocab_file={paths['model']}/vocab.txt",
                f"--output_file={paths['out']}.instances"]  # fmt: skip
    if script == "to_pytorch":
        return [f"--tf_checkpoint_path={paths['weights']}/tf/a.ckpt", config,
                f"--pytorch_dump_path={paths['out']}/new.bin"]  # fmt: skip
    if script == "to_tf":
        return [f"--pytorch_model_path={paths['model']}", config,
                f"--tf_checkpoint_path={paths['out']}/new.ckpt"]  # fmt: skip
    return []


def command(script, changes, paths):
    """The flags of the right command, changed."""
    given = right_command(script, paths)
    for change in changes.split():
        if change.startswith("!"):
            given = [flag for flag in given if not flag.startswith(f"--{change[1:]}=")]
        else:
            given.append(change.format(**paths))
    return given


def snapshot(root):
    return {path: path.is_file() and path.read_bytes() for path in sorted(root.rglob("*"))}


TABLE = [
    # the command line
    ("run_classifier", "", "nothing to do: give --do_train, --do_eval or --do_predict"),
    ("run_squad", "", "nothing to do: give --do_train, --do_predict or --interactive"),
    (
        "run_classifier",
        "--do_train !output_dir",
        "the following arguments are required: --output_dir",
    ),
    (
        "run_classifier",
        "--do_train !vocab_file !bert_config_file",
        "the following arguments are required: --bert_config_file, --vocab_file",
    ),
    ("run_classifier", "--do_trian", "unrecognized arguments: --do_trian"),
    (
        "run_classifier",
        "--do_train=maybe",
        "argument --do_train: 'maybe' is neither true nor false",
    ),
    (
        "run_classifier",
        "--do_train --train_batch_size=8.5",
        "argument --train_batch_size: invalid int value: '8.5'",
    ),
    (
        "run_classifier",
        "--do_train --learning_rate",
        "argument --learning_rate: expected one argument; one that begins "
        "with - is joined by =, as in --flag=-1,-2",
    ),
    (
        "run_classifier",
        "--do_train --task_name=MRCP",
        "--task_name MRCP is none of {tasks}",
    ),
    (
        "run_classifier",
        "--do_train --max_seq_length=65",
        "--max_seq_length 65 exceeds the model's 64 positions",
    ),
    (
        "run_classifier",
        "--do_train --max_seq_length=2",
        "--max_seq_length is 2, but must be 3 or more",
    ),
    (
        "run_squad",
        "--do_train --max_seq_length=27",
        "--max_seq_length 27 must be greater than --max_query_length 24 + 3",
    ),
    (
        "run_squad",
        "--do_train --max_seq_length=512",
        "--max_seq_length 512 exceeds the model's 64 positions",
    ),
    ("run_squad", "--do_train --doc_stride=0", "--doc_stride is 0, but must be 1 or more"),
    ("run_squad", "--do_train !train_file", "--do_train needs --train_file"),
    ("run_squad", "--do_predict", "--do_predict needs --predict_file"),
    ("run_squad", "--do_train --n_best_size=0", "--n_best_size is 0, but must be 1 or more"),
    (
        "run_classifier",
        "--do_train --train_batch_size=0",
        "--train_batch_size is 0, but must be 1 or more",
    ),
    (
        "run_classifier",
        "--do_train --eval_batch_size=-1",
        "--eval_batch_size is -1, but must be 1 or more",
    ),
    (
        "run_classifier",
        "--do_train --learning_rate=0",
        "--learning_rate is 0.0, but must be above 0",
    ),
    (
        "run_classifier",
        "--do_train --learning_rate=nan",
        "--learning_rate is nan, but must be above 0",
    ),
    (
        "run_classifier",
        "--do_train --num_train_epochs=-1",
        "--num_train_epochs is -1.0, but must be above 0",
    ),
    (
        "run_classifier",
        "--do_train --warmup_proportion=10",
        "--warmup_proportion is 10.0, but must be 0 to 1",
    ),
    (
        "run_classifier",
        "--do_train --schedule=linear",
        "--schedule is 'linear'; use one of warmup_linear, warmup_constant, warmup_cosine",
    ),
    ("run_classifier", "--do_train --seed=-1", "--seed is -1, but must be 0 or more"),
    (
        "run_classifier",
        "--do_train --keep_checkpoints=0",
        "--keep_checkpoints is 0, but must be 1 or more",
    ),
    ("run_classifier", "--do_train --bf16 --fp16", "--bf16 and --fp16 exclude each other"),
    (
        "run_classifier",
        "--do_train --fp16 --no_cuda",
        "--fp16 needs a GPU, and there is none here; use --bf16 on a CPU",
    ),
    (
        "run_classifier",
        "--do_eval --compile --no_cuda",
        "--compile needs a GPU, and there is none here: leave it out",
    ),
    (
        "run_classifier",
        "--do_train --local_rank=0",
        "--local_rank 0 needs a launcher: torchrun --nproc_per_node=2 run_classifier.py …",
    ),
    (
        "run_squad",
        "--do_train --local-rank 1",
        "--local_rank 1 needs a launcher: torchrun --nproc_per_node=2 run_squad.py …",
    ),
    (
        "run_classifier",
        "--do_train --gradient_accumulation_steps=8",
        "--train_batch_size 4 is less than 1 ranks × 8 accumulation steps",
    ),
    (
        "run_classifier",
        "--do_train --train_batch_size=100",
        "13 training examples and 3.0 epochs make no batch of 100: lower --train_batch_size, or "
        "train longer",
    ),
    (
        "run_classifier",
        "--do_train --num_train_epochs=0.1",
        "13 training examples and 0.1 epochs make no batch of 4: lower --train_batch_size, or "
        "train longer",
    ),
    # where it writes
    (
        "run_classifier",
        "--do_train --output_dir={root}/a_file",
        "--output_dir {root}/a_file: {root}/a_file is a file",
    ),
    (
        "run_classifier",
        "--do_train --output_dir={root}/a_file/out",
        "--output_dir {root}/a_file/out: {root}/a_file is a file",
    ),
    (
        "run_classifier",
        "--do_train --output_dir={root}/foreign",
        "--output_dir {root}/foreign already holds pytorch_model.bin of another origin: use "
        "another folder, or replace it with --overwrite_output_dir",
    ),
    # the task's files
    (
        "run_classifier",
        "--do_train --data_dir={root}/nowhere",
        "--data_dir {root}/nowhere does not exist",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/no_train",
        "{data}/no_train/train.tsv: No such file or directory",
    ),
    (
        "run_classifier",
        "--do_train --do_predict",
        "{data}/good/test.tsv: No such file or directory",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/bad_label",
        "{data}/bad_label/train.tsv:4: the label '2' is none of 0, 1",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/headless",
        "{data}/headless/train.tsv:1 is an example, but the file should begin with a header",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/nul",
        "{data}/nul/train.tsv:5 has a NUL byte: is this a text file?",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/latin1",
        "{data}/latin1/train.tsv:6 is not UTF-8 (invalid continuation byte)",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/empty",
        "{data}/empty/train.tsv has no examples",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/header_only",
        "{data}/header_only/train.tsv has no examples",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/commas",
        "{data}/commas/train.tsv:2 has 1 columns, not 5 or more: is this a file of "
        "MrpcProcessor's task?",
    ),
    (
        "run_classifier",
        "--do_train --task_name=CoLA",
        "{data}/good/train.tsv:1: the label '#1 ID' is none of 0, 1",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/cola",
        "{data}/cola/train.tsv:2 has 4 columns, not 5 or more: is this a file of MrpcProcessor's "
        "task?",
    ),
    (
        "run_classifier",
        "--do_train --task_name=MNLI",
        "{data}/good/train.tsv:2 has 5 columns, not 10 or more: is this a file of "
        "MnliProcessor's task?",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/nowhere.json",
        "--train_file {squad}/nowhere.json does not exist",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/broken.json",
        "{squad}/broken.json is not JSON in UTF-8: Expecting value: line 1 column 11 (char 10)",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/latin1.json",
        "{squad}/latin1.json is not JSON in UTF-8: 'utf-8' codec can't decode byte 0xe9 in "
        "position 13: invalid continuation byte",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/no_data.json",
        '{squad}/no_data.json: "data" is missing; is this a SQuAD file?',
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/no_articles.json",
        "{squad}/no_articles.json has no question that can be used",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/no_context.json",
        '{squad}/no_context.json: data[0].paragraphs[0]: "context" is missing; is this a SQuAD '
        "file?",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/number.json",
        "{squad}/number.json: data[0].paragraphs[0].qas[0] (id '291c252d276eab52b4b4a2ec'): "
        '"question" is not a string',
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/start_text.json",
        "{squad}/start_text.json: data[0].paragraphs[0].qas[2] (id "
        "'e74f4076736d57d4f842db3a').answers[0]: \"answer_start\" is not a whole number",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/twice.json",
        "{squad}/twice.json: data[0].paragraphs[0].qas[1] (id '291c252d276eab52b4b4a2ec'): the "
        "same id as {squad}/twice.json: data[0].paragraphs[0].qas[0] (id "
        "'291c252d276eab52b4b4a2ec'); ids must be unique",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/several.json",
        "{squad}/several.json: data[0].paragraphs[0].qas[2] (id 'e74f4076736d57d4f842db3a'): for "
        "training, each question should have exactly 1 answer, not 2; several are for evaluation",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/unanswered.json",
        "{squad}/unanswered.json: data[0].paragraphs[0].qas[2] (id 'e74f4076736d57d4f842db3a'): "
        "for training, each question should have exactly 1 answer, not 0; without one there is "
        "nothing to learn",
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/impossible.json",
        "{squad}/impossible.json: data[0].paragraphs[0].qas[2] (id 'e74f4076736d57d4f842db3a'): "
        "for training, each question should have exactly 1 answer, not 0; it is_impossible: pass "
        "--version_2_with_negative for SQuAD 2.0",
    ),
    (
        "run_squad",
        "--do_train --version_2_with_negative",
        "{squad}/good.json: data[0].paragraphs[0].qas[0] (id '291c252d276eab52b4b4a2ec'): "
        '"is_impossible" is missing; leave out --version_2_with_negative for SQuAD 1.1',
    ),
    (
        "run_squad",
        "--do_train --train_file={squad}/misplaced.json",
        "{squad}/misplaced.json has no question that can be used",
    ),
    ("run_squad", "--do_train --train_file={squad}", "{squad}: Is a directory"),
    # configuration and vocabulary
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/nowhere.json",
        "--bert_config_file {config}/nowhere.json does not exist",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/broken.json",
        "{config}/broken.json is not a BERT configuration: Expecting ':' delimiter: line 1 "
        "column 15 (char 14)",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/list.json",
        "{config}/list.json is not a BERT configuration: a configuration is a JSON object, not a "
        "list",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/no_vocab.json",
        "{config}/no_vocab.json is not a BERT configuration: vocab_size is missing",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/heads.json",
        "{config}/heads.json is not a BERT configuration: hidden_size 24 is not a multiple of "
        "num_attention_heads 5",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/activation.json",
        "{config}/activation.json is not a BERT configuration: unknown activation 'swish': use "
        "one of gelu, gelu_new, relu, tanh, linear",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/dropout.json",
        "{config}/dropout.json is not a BERT configuration: hidden_dropout_prob is 1.5, which is "
        "not between 0 and 1",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/text_size.json",
        "{config}/text_size.json is not a BERT configuration: intermediate_size is '37', which "
        "is not a whole number above 0",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/other_vocab.json",
        "{model}/vocab.txt has 187 entries, but vocab_size in {config}/other_vocab.json is "
        "30522: they belong to different models",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={vocab}/nowhere.txt",
        "--vocab_file {vocab}/nowhere.txt does not exist",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={vocab}",
        "{vocab}: a directory; pass the vocab.txt in it",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={vocab}/archive.zip",
        "{vocab}/archive.zip: a zip archive or a PyTorch or NumPy file, not text; unpack it and "
        "pass vocab.txt",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={vocab}/archive.tar.gz",
        "{vocab}/archive.tar.gz: a gzip archive, not text; unpack it and pass vocab.txt",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={weights}/tf/a.ckpt.index",
        "{weights}/tf/a.ckpt.index: a binary file, not text; pass the model's vocab.txt",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={vocab}/blank.txt",
        "{vocab}/blank.txt: empty; pass the model's vocab.txt, one token a line",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={vocab}/latin1.txt",
        "{vocab}/latin1.txt:2: not UTF-8; pass vocab.txt, as UTF-8",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={vocab}/no_special.txt",
        "{vocab}/no_special.txt: 184 tokens, but no [UNK], [CLS]; pass the vocab.txt of a BERT "
        "model",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={vocab}/cased.txt",
        "{vocab}/cased.txt is that of a cased model (114 of 181 entries have capitals): use "
        "--no_do_lower_case",
    ),
    (
        "run_classifier",
        "--do_train --no_do_lower_case --vocab_file={vocab}/uncased/vocab.txt "
        "--bert_config_file={vocab}/uncased/bert_config.json",
        "{vocab}/uncased/vocab.txt is that of an uncased model (no entry has capitals): drop "
        "--no_do_lower_case",
    ),
    # weights
    (
        "run_classifier",
        "--do_eval !init_checkpoint",
        "there are no weights to use: give --init_checkpoint or --do_train",
    ),
    (
        "run_classifier",
        "--do_eval",
        "{model}/pytorch_model.bin has no classifier.bias, classifier.weight for this task: "
        "fine-tune it first",
    ),
    (
        "run_classifier",
        "--do_eval --init_checkpoint={weights}/three_labels.bin",
        "{weights}/three_labels.bin has no classifier.bias, classifier.weight for this task: "
        "fine-tune it first",
    ),
    (
        "run_squad",
        "--do_predict --predict_file={squad}/good.json",
        "{model}/pytorch_model.bin has no qa_outputs.bias, qa_outputs.weight for this task: "
        "fine-tune it first",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/cased_run",
        "{weights}/cased_run was trained with do_lower_case False, but this is True",
    ),
    (
        "run_classifier",
        "--do_eval --init_checkpoint={weights}/damaged_run",
        "{weights}/damaged_run/run.json is damaged: Expecting ',' delimiter: line 1 column 16 "
        "(char 15)",
    ),
    (
        "run_classifier",
        "--do_eval --task_name=xnli --init_checkpoint={weights}/mrpc_run",
        "{weights}/mrpc_run was trained with labels ['0', '1'], but this is ['contradiction', "
        "'entailment', 'neutral']",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/tf/bert_model.ckpt",
        "--init_checkpoint {weights}/tf/bert_model.ckpt does not exist; {weights}/tf holds: a.ckpt",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={root}/nowhere/model.bin",
        "--init_checkpoint {root}/nowhere/model.bin does not exist; {root}/nowhere holds: nothing",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/nothing",
        "{weights}/nothing holds neither pytorch_model.bin nor model.safetensors",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={vocab}/archive.zip",
        "{vocab}/archive.zip is damaged, or no file of PyTorch weights: …",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={vocab}/archive.tar.gz",
        "{vocab}/archive.tar.gz is damaged, or no file of PyTorch weights: …",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/damaged.bin",
        "{weights}/damaged.bin is damaged, or no file of PyTorch weights: the checksum of "
        "pytorch_model/data/9 is wrong",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/cut.bin",
        "{weights}/cut.bin is damaged, or no file of PyTorch weights: …",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/empty.bin",
        "{weights}/empty.bin is damaged, or no file of PyTorch weights: …",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/text.bin",
        "{weights}/text.bin is damaged, or no file of PyTorch weights: …",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/list.bin",
        "{weights}/list.bin is not a state dict: it holds other things than tensors",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/evil.bin",
        "{weights}/evil.bin is damaged, or no file of PyTorch weights: …",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/evil_pickle.bin",
        "{weights}/evil_pickle.bin is damaged, or no file of PyTorch weights: …",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/missing.bin",
        "{weights}/missing.bin: bert.encoder.layer.1.attention.self.query.weight is missing, the "
        "model's is [24, 24]",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/narrow.json",
        "{model}/pytorch_model.bin: bert.embeddings.LayerNorm.bias is [24], the model's is [12]",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/layers.json",
        "{model}/pytorch_model.bin: bert.encoder.layer.2.attention.output.LayerNorm.bias is "
        "missing, the model's is [24]",
    ),
    (
        "run_squad",
        "--do_train --init_checkpoint={weights}/flipped",
        "{weights}/flipped/a.ckpt.data-00000-of-00001: 'bert/pooler/dense/kernel': damaged: its "
        "checksum does not match",
    ),
    (
        "run_squad",
        "--do_train --init_checkpoint={weights}/cut/a.ckpt.index",
        "{weights}/cut/a.ckpt.index: '': 2866 bytes that do not end as an index: cut, or another "
        "file",
    ),
    (
        "run_squad",
        "--do_train --init_checkpoint={weights}/no_data/a.ckpt",
        "{weights}/no_data/a.ckpt.data-00000-of-00001: No such file or directory",
    ),
    (
        "run_squad",
        "--do_train --init_checkpoint={weights}/tf/a.ckpt --bert_config_file={config}/narrow.json",
        "{weights}/tf/a.ckpt: bert/embeddings/word_embeddings is float32 (187, 24), but the "
        "config says (187, 12)",
    ),
    # the converters
    (
        "to_pytorch",
        "--tf_checkpoint_path={weights}/tf/b.ckpt",
        "{weights}/tf/b.ckpt is no checkpoint's prefix; {weights}/tf holds: a.ckpt",
    ),
    (
        "to_pytorch",
        "--tf_checkpoint_path={vocab}/archive.zip",
        "{vocab}/archive.zip is an archive: unpack it, then give the prefix of the .index file "
        "in it",
    ),
    (
        "to_pytorch",
        "--tf_checkpoint_path={weights}/flipped/a.ckpt",
        "{weights}/flipped/a.ckpt.data-00000-of-00001: 'bert/pooler/dense/kernel': damaged: its "
        "checksum does not match",
    ),
    (
        "to_pytorch",
        "--tf_checkpoint_path={weights}/cut/a.ckpt",
        "{weights}/cut/a.ckpt.index: '': 2866 bytes that do not end as an index: cut, or another "
        "file",
    ),
    (
        "to_pytorch",
        "--bert_config_file={config}/layers.json",
        "{weights}/tf/a.ckpt: bert/encoder/layer_2/attention/self/query/kernel is missing here, "
        "but the config says (24, 24)",
    ),
    (
        "to_pytorch",
        "--bert_config_file={config}/fewer_layers.json",
        "{weights}/tf/a.ckpt holds more layers than num_hidden_layers, which is 1",
    ),
    (
        "to_pytorch",
        "--bert_config_file={config}/nowhere.json",
        "{config}/nowhere.json: No such file or directory",
    ),
    (
        "to_tf",
        "--pytorch_model_path={weights}/damaged.bin",
        "{weights}/damaged.bin is damaged, or no file of PyTorch weights: the checksum of "
        "pytorch_model/data/9 is wrong",
    ),
    (
        "to_tf",
        "--pytorch_model_path={weights}/missing.bin",
        "{weights}/missing.bin: bert/encoder/layer_1/attention/self/query/kernel is missing "
        "here, but the config says (24, 24)",
    ),
    (
        "to_tf",
        "--pytorch_model_path={weights}/nothing",
        "{weights}/nothing holds neither pytorch_model.bin nor model.safetensors",
    ),
    (
        "to_tf",
        "--bert_config_file={config}/narrow.json",
        "{model}: bert/embeddings/word_embeddings is torch.float32 (187, 24), but the config "
        "says (187, 12)",
    ),
    # the metric
    (
        "metrics",
        "{squad}/nowhere.json {squad}/answers.json",
        "[Errno 2] No such file or directory: '{squad}/nowhere.json' ({squad}/nowhere.json, "
        "{squad}/answers.json)",
    ),
    (
        "metrics",
        "{squad}/broken.json {squad}/answers.json",
        "{squad}/broken.json is not JSON in UTF-8: Expecting value: line 1 column 11 (char 10) "
        "({squad}/broken.json, {squad}/answers.json)",
    ),
    (
        "metrics",
        "{squad}/answers.json {squad}/answers.json",
        "the dataset is not SQuAD with answers (KeyError('data')) ({squad}/answers.json, "
        "{squad}/answers.json)",
    ),
    (
        "metrics",
        "{squad}/no_articles.json {squad}/answers.json",
        "the dataset has no questions ({squad}/no_articles.json, {squad}/answers.json)",
    ),
    (
        "metrics",
        "{squad}/good.json {squad}/numbers.json",
        "the predictions must give each question id a text, as one JSON object "
        "({squad}/good.json, {squad}/numbers.json)",
    ),
    (
        "metrics",
        "{squad}/good.json {squad}/full.json --na-prob-file={squad}/odds.json",
        "null odds belong to SQuAD 2.0, and the dataset is SQuAD 1.1 ({squad}/good.json, "
        "{squad}/full.json, {squad}/odds.json)",
    ),
    # sentence pairs: files, tasks of one's own, weights
    (
        "run_classifier",
        "--do_train --data_dir={data}/quoted",
        "{data}/quoted/train.tsv:2: the label '\"1\"' is none of 0, 1",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/no_label",
        "{data}/no_label/train.tsv:3: the label '' is none of 0, 1",
    ),
    (
        "run_classifier",
        "--do_train --data_dir={data}/swapped",
        "{data}/swapped/train.tsv:2: the label 'The tax office will send back 2.4 million "
        "dollars to people who had paid too much.' is none of 0, 1",
    ),
    (
        "run_classifier",
        "--do_train --task_name=tsv",
        "--task_name tsv needs --text_columns: one, or two like 0,1, from 0 on",
    ),
    (
        "run_classifier",
        "--do_train --task_name=tsv --labels=0,1 --text_columns=3,4",
        "--task_name tsv needs --label_column, counted from 0",
    ),
    (
        "run_classifier",
        "--do_train --task_name=tsv --labels=0,1 --text_columns=3,4,1 --label_column=0",
        "--task_name tsv needs --text_columns: one, or two like 0,1, from 0 on",
    ),
    (
        "run_classifier",
        "--do_train --task_name=tsv --labels=a,b --text_columns=3,4 --label_column=0",
        "{data}/good/train.tsv:2: the label '1' is none of a, b",
    ),
    (
        "run_classifier",
        "--do_train --task_name=tsv --labels=0,0 --text_columns=3,4 --label_column=0",
        "--labels 0,0 are not two or more different names",
    ),
    (
        "run_classifier",
        "--do_train --task_name=tsv --labels=0 --text_columns=3 --label_column=0",
        "--labels 0 are not two or more different names",
    ),
    (
        "run_classifier",
        "--do_train --task_name=tsv --labels=0,1 --text_columns=3,9 --label_column=0",
        "{data}/good/train.tsv:2 has 5 columns, not 10 or more: columns are parted by tabs and "
        "counted from 0",
    ),
    (
        "run_classifier",
        "--do_train --task_name=tsv --labels=0,1 --text_columns=x --label_column=0",
        "--task_name tsv needs --text_columns: one, or two like 0,1, from 0 on",
    ),
    (
        "run_classifier",
        "--do_train --labels=0,1",
        "--labels is for --task_name tsv: mrpc has its own",
    ),
    (
        "run_classifier",
        "--do_train --seeds=1,x",
        "--seeds '1,x' is not a list of numbers like 1,2,3,4,5",
    ),
    (
        "run_classifier",
        "--do_train --seeds=1,2",
        "--seeds needs --do_train and --do_eval",
    ),
    (
        "run_classifier",
        "--do_train --do_eval --seeds=1,1",
        "--seeds 1,1 names a seed twice",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/empty.json",
        "{config}/empty.json is not a BERT configuration: Expecting value: line 1 column 1 "
        "(char 0)",
    ),
    (
        "run_classifier",
        "--do_train --bert_config_file={config}/fewer_layers.json",
        "{model}/pytorch_model.bin: bert.encoder.layer.1.attention.output.LayerNorm.bias is of "
        "a larger model than the configuration's",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/gpt2.bin",
        "{weights}/gpt2.bin: bert.embeddings.LayerNorm.bias is missing, the model's is [24]",
    ),
    (
        "run_classifier",
        "--do_eval --init_checkpoint={weights}/swapped_run",
        "{weights}/swapped_run was trained with labels ['1', '0'], but this is ['0', '1']",
    ),
    (
        "run_classifier",
        "--do_train --init_checkpoint={weights}/tf/a.ckpt.meta",
        "{weights}/tf/a.ckpt.meta is a graph without weights: give {weights}/tf/a.ckpt",
    ),
    (
        "run_classifier",
        "--do_train --output_dir={root}/damaged",
        "every checkpoint in {root}/damaged is damaged: --overwrite_output_dir starts anew",
    ),
    (
        "run_classifier",
        "--do_train --tensorboard={root}/a_file",
        "--tensorboard {root}/a_file: {root}/a_file is a file",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={text}/empty.txt",
        "{text}/empty.txt: empty; pass the model's vocab.txt, one token a line",
    ),
    (
        "run_classifier",
        "--do_train --vocab_file={text}/nul.txt",
        "{text}/nul.txt: a binary file, not text; pass the model's vocab.txt",
    ),
    # answers
    (
        "run_squad",
        "--do_train --train_file={squad}/empty.json",
        "{squad}/empty.json is not JSON in UTF-8: Expecting value: line 1 column 1 (char 0)",
    ),
    (
        "run_squad",
        "--do_predict --init_checkpoint={weights}/answers.bin "
        "--predict_file={squad}/impossible.json",
        "{squad}/impossible.json is SQuAD 2.0: pass --version_2_with_negative",
    ),
    (
        "run_squad",
        "--do_predict --init_checkpoint={weights}/answers.bin --predict_file={squad}/broken.json",
        "{squad}/broken.json is not JSON in UTF-8: Expecting value: line 1 column 11 (char 10)",
    ),
    (
        "run_squad",
        "--do_train --init_checkpoint={weights}/gpt2.bin",
        "{weights}/gpt2.bin: bert.embeddings.LayerNorm.bias is missing, the model's is [24]",
    ),
    # pre-training
    (
        "run_pretraining",
        "",
        "nothing to do: give --do_train or --do_eval",
    ),
    (
        "run_pretraining",
        "--do_train !input_file",
        "the following arguments are required: --input_file",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}/nowhere*",
        "--input_file {text}/nowhere*: no such file",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}/good.txt",
        "{text}/good.txt: record 0: damaged, cut short, or this is no uncompressed TFRecord file",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}/empty.txt",
        "--input_file {text}/empty.txt has no instance",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}/none",
        "--input_file {text}/none has no instance",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}/cut",
        "{text}/cut: damaged or cut short; make it again",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}/flipped",
        "{text}/flipped: damaged near row 0; make it again",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}/beyond",
        "{text}/beyond: row 0: 187 in input_ids is not in 0..186: these instances are of "
        "another model",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}/other_vocab",
        "{text}/other_vocab was made with a vocabulary of 30522 entries, but vocab_size in "
        "{model}/bert_config.json is 187",
    ),
    (
        "run_pretraining",
        "--do_train --input_file={text}",
        "{text}: Is a directory",
    ),
    (
        "run_pretraining",
        "--do_train --max_seq_length=32",
        "{text}/good was made with --max_seq_length 16, but here it is 32: give the same",
    ),
    (
        "run_pretraining",
        "--do_train --max_seq_length=128",
        "--max_seq_length 128 exceeds the model's 64 positions",
    ),
    (
        "run_pretraining",
        "--do_train --max_predictions_per_seq=5",
        "{text}/good was made with --max_predictions_per_seq 2, but here it is 5: give the same",
    ),
    (
        "run_pretraining",
        "--do_train --num_warmup_steps=3",
        "--num_warmup_steps is 3, but must be 0 to --num_train_steps, which is 2",
    ),
    (
        "run_pretraining",
        "--do_train --num_train_steps=0",
        "--num_train_steps is 0, but must be 1 or more",
    ),
    (
        "run_pretraining",
        "--do_eval --max_eval_steps=0",
        "--max_eval_steps is 0, but must be 1 or more",
    ),
    (
        "run_pretraining",
        "--do_eval",
        "{model}/pytorch_model.bin has no cls.predictions.bias, "
        "cls.predictions.transform.LayerNorm.bias, cls.predictions.transform.LayerNorm.weight, "
        "cls.predictions.transform.dense.bias, cls.predictions.transform.dense.weight, "
        "cls.seq_relationship.bias, cls.seq_relationship.weight for this task: fine-tune it "
        "first",
    ),
    (
        "run_pretraining",
        "--do_train --num_train_epochs=3",
        "unrecognized arguments: --num_train_epochs=3",
    ),
    # features
    (
        "extract",
        "!init_checkpoint",
        "--init_checkpoint is needed: random weights have no features",
    ),
    (
        "extract",
        "--layers=1,x",
        "--layers '1,x' is not a list of numbers like -1,-2,-3,-4",
    ),
    (
        "extract",
        "--layers=-3",
        "--layers: -3 is not one of 2 layers",
    ),
    (
        "extract",
        "--output_format=csv",
        "--output_format csv is neither jsonl nor npz",
    ),
    (
        "extract",
        "--input_file={text}/nowhere.txt",
        "{text}/nowhere.txt: No such file or directory",
    ),
    (
        "extract",
        "--input_file={text}/empty.txt",
        "{text}/empty.txt is empty",
    ),
    (
        "extract",
        "--input_file={text}/latin1.txt",
        "{text}/latin1.txt:2 is not UTF-8 (invalid continuation byte)",
    ),
    (
        "extract",
        "--output_file={root}/nowhere/out.jsonl",
        "--output_file {root}/nowhere/out.jsonl is no file in a folder that exists",
    ),
    (
        "extract",
        "--output_file={root}",
        "--output_file {root} is no file in a folder that exists",
    ),
    (
        "extract",
        "--max_seq_length=65",
        "--max_seq_length 65 exceeds the model's 64 positions",
    ),
    (
        "extract",
        "--init_checkpoint={weights}/gpt2.bin",
        "{weights}/gpt2.bin: bert.embeddings.LayerNorm.bias is missing, the model's is [24]",
    ),
    # pre-training data
    (
        "make_data",
        "--input_file={text}/nowhere.txt",
        "--input_file {text}/nowhere.txt: no such file",
    ),
    (
        "make_data",
        "--input_file={text}/empty.txt",
        "documents in the text: 0; a random next sentence comes from another document, so put "
        "blank lines between two or more",
    ),
    (
        "make_data",
        "--input_file={text}/blank.txt",
        "documents in the text: 0; a random next sentence comes from another document, so put "
        "blank lines between two or more",
    ),
    (
        "make_data",
        "--input_file={text}/nul.txt",
        "{text}/nul.txt: a binary file; pass UTF-8 text",
    ),
    (
        "make_data",
        "--input_file={vocab}/archive.zip",
        "{vocab}/archive.zip: a zip archive or a PyTorch or NumPy file; pass UTF-8 text",
    ),
    (
        "make_data",
        "--vocab_file={vocab}/nowhere.txt",
        "{vocab}/nowhere.txt: no such vocabulary; pass the model's vocab.txt",
    ),
    (
        "make_data",
        "--max_seq_length=3",
        "--max_seq_length is 3, but must be 5 to 65535",
    ),
    (
        "make_data",
        "--masked_lm_prob=2",
        "--masked_lm_prob is 2.0, but must be 0 to 1",
    ),
    (
        "make_data",
        "--output_file={text}/good.txt",
        "--output_file {text}/good.txt: an input or a folder; pass a file to write",
    ),
    (
        "make_data",
        "--workers=2",
        "--workers 2 needs --stream; Google's order takes one",
    ),
    (
        "make_data",
        "--dupe_factor=0",
        "--dupe_factor is 0, but must be 1 to 1000000",
    ),
    # the converters, once more
    (
        "to_pytorch",
        "--tf_checkpoint_path={weights}/tf/a.ckpt.meta",
        "{weights}/tf/a.ckpt.meta is a graph without weights: give {weights}/tf/a.ckpt",
    ),
]


@pytest.mark.parametrize("script, changes, line", TABLE, ids=lambda v: v[:60] or "nothing")
def test_mistake(script, changes, line, paths, call):
    before = snapshot(paths["root"])
    module = SCRIPTS[script]
    outcome = call(module, *command(script, changes, paths))
    wanted = f"{module.__name__}.py: error: {line.format(**paths)}"
    if line.endswith("…"):  # what follows are the words of PyTorch
        assert outcome.err.startswith(wanted.removesuffix("…")) and outcome.err.count("\n") == 1
    else:
        assert outcome.err == wanted + "\n"
    assert outcome.status == 2
    assert "must never be printed" not in outcome.out
    assert snapshot(paths["root"]) == before, "something was written"


def test_there_are_enough_mistakes():
    assert len({row[:2] for row in TABLE}) == len(TABLE) >= 190


@pytest.mark.parametrize("row", [TABLE[0], TABLE[9], TABLE[-1]], ids=lambda row: row[0])
def test_mistake_as_a_command(row, paths):
    """The same from a shell."""
    script, changes, line = row
    outcome = run(f"{SCRIPTS[script].__name__}.py", *command(script, changes, paths))
    assert outcome.status == 2 and outcome.out == ""
    assert outcome.err == f"{SCRIPTS[script].__name__}.py: error: {line.format(**paths)}\n"
    assert not paths["out"].exists()


def test_folder_that_cannot_be_written(paths, call, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    outcome = call(run_classifier, *command("run_classifier", "--do_train", paths))
    assert outcome.status == 2 and not paths["out"].exists()
    assert outcome.err == (
        f"run_classifier.py: error: --output_dir {paths['out']}: {paths['root']} is not writable\n"
    )


@pytest.mark.parametrize(
    ("flag", "gpus", "line"),
    [
        ("fp16", 0, "--fp16 needs a GPU, and there is none here; use --bf16 on a CPU"),
        ("compile", 0, "--compile needs a GPU, and there is none here: leave it out"),
        ("compile", 2, "--compile takes a process for each GPU: torchrun --nproc_per_node=2 …"),
    ],
)
def test_a_gpu_that_is_not_there(paths, call, monkeypatch, flag, gpus, line):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    outcome = call(run_squad, *command("run_squad", f"--do_train --{flag}", paths))
    assert outcome.status == 2 and not paths["out"].exists()
    assert outcome.err == f"run_squad.py: error: {line}\n"


def as_windows(source, folder):
    """A copy of a text file with a byte-order mark and Windows line ends."""
    text = source.read_bytes().replace(b"\n", b"\r\n")
    (folder / source.name).write_bytes(b"\xef\xbb\xbf" + text)
    return folder / source.name


@pytest.mark.parametrize("script", ("run_classifier", "run_squad"))
def test_windows_files_are_no_mistake(script, paths, call, tmp_path):
    """Nor is an empty context: training is the same, bit for bit."""
    (windows := tmp_path / "windows").mkdir()
    for source in (paths["data"] / "good").iterdir():
        as_windows(source, windows)
    dataset = json.loads((paths["squad"] / "good.json").read_text("utf-8"))
    qa = {"id": "none", "question": "?", "answers": [{"text": "a", "answer_start": 0}]}
    dataset["data"][0]["paragraphs"].append({"context": "", "qas": [qa]})
    (tmp_path / "good.json").write_text(json.dumps(dataset, indent=1), "utf-8")
    as_windows(tmp_path / "good.json", windows)
    train_file = f"--train_file={windows}/good.json"
    changes = train_file if script == "run_squad" else f"--data_dir={windows}"
    for flag, name in (("vocab_file", "vocab.txt"), ("bert_config_file", "bert_config.json")):
        changes += f" --{flag}={as_windows(paths['model'] / name, windows)}"
    for name, more in (("plain", ""), ("other", changes)):
        more += f" --do_train --output_dir={tmp_path / name}"
        call(SCRIPTS[script], *command(script, more, paths)).ok()
    assert_same_weights(tmp_path / "plain", tmp_path / "other")


def test_weights_that_are_not_numbers(paths, call, tmp_path):
    """Seen only when training begins: the run stops at the step and leaves no weights."""
    flags = f"--do_train --init_checkpoint={{weights}}/nan.bin --output_dir={tmp_path}"
    outcome = call(run_classifier, *command("run_classifier", flags, paths))
    assert outcome.status == 2 and "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1] == (
        "run_classifier.py: error: the loss at step 1 is nan: stopped; the last checkpoint is "
        "kept. Lower --learning_rate, or use float32"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["training_log.jsonl"]


def test_a_programming_error_keeps_its_traceback(paths, call, monkeypatch):
    """Only a user's mistake is told in one line."""
    monkeypatch.setattr(run_classifier, "BertConfig", None)
    with pytest.raises(AttributeError):
        call(run_classifier, *command("run_classifier", "--do_train", paths))


def test_bert_debug_shows_where_a_mistake_was_noticed(paths, call, monkeypatch):
    monkeypatch.setenv("BERT_DEBUG", "1")
    with pytest.raises(ValueError, match="exceeds the model's 64 positions"):
        call(run_classifier, *command("run_classifier", "--do_train --max_seq_length=65", paths))
