"""Where the tests find what is not part of the project, and what they share.

A test that needs data asks for the fixture of its environment variable and is skipped, naming the
variable, where that is not set:

    GLUE_DIR          a folder with MRPC/{train,dev,test}.tsv
    SQUAD_DIR         a folder with train-v1.1.json, dev-v1.1.json, …
    BERT_BASE_DIR     a TensorFlow BERT checkpoint: bert_model.ckpt.*, bert_config.json, vocab.txt
    BERT_GOLDENS_DIR  what Google's own code computed (see README, "How the parity is proven")
"""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# Before PyTorch is loaded: what runs in this process has the bits of what `run` starts. Another
# number of threads is for the tests marked numeric (make test-isa).
os.environ["OMP_NUM_THREADS"] = os.environ.get("BERT_TEST_THREADS", "1")
# Only test_gpu.py wants a GPU, and says how: the others have the same bits on any machine.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

# Two threads that sleep while they wait: for the few runs of the real model.
TWO_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}


# The largest relative error of one rounding to float32, and to bfloat16.
ROUNDING, BF16_ROUNDING = 2.0**-24, 2.0**-9


def roundings(ours, wanted, scale=None):
    """The largest difference of two tensors, in float32 roundings of the largest value wanted.

    Or of `scale`, the largest of something else. No kernel is exact: a sum of n products may be
    added up in any order, with or without fused multiply-adds, and differs by about √n roundings of
    the largest term from another kernel's; errors of steps that follow each other add up.
    """
    import torch

    ours, wanted = (torch.as_tensor(x).detach().double() for x in (ours, wanted))
    assert ours.shape == wanted.shape and ours.isfinite().all()
    largest = float(wanted.abs().max() if scale is None else scale)
    return ((ours - wanted).abs().max() / largest / ROUNDING).item()


def assert_same_gradients(ours, wanted, limit=256):
    """{name: gradient} twice, each within `limit` roundings of its largest value.

    And within 1/16 of that of the largest of all: some gradients are 0 but for rounding, as that of
    the keys' bias, which moves all scores of a query alike.
    """
    assert ours.keys() == wanted.keys()
    largest = max(grad.abs().max() for grad in wanted.values())
    for name, grad in wanted.items():
        assert roundings(ours[name], grad, grad.abs().max() + largest / 16) < limit, name


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than half a minute")
    config.addinivalue_line("markers", "numeric: holds under any instructions, make test-isa")


def _folder(variable):
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"needs ${variable}, which is not set")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"${variable} is {value}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def glue_dir():
    return _folder("GLUE_DIR")


@pytest.fixture(scope="session")
def squad_dir():
    return _folder("SQUAD_DIR")


@pytest.fixture(scope="session")
def bert_dir():
    return _folder("BERT_BASE_DIR")


@pytest.fixture(scope="session")
def goldens():
    return _folder("BERT_GOLDENS_DIR")


@pytest.fixture(scope="session")
def golden_tools(goldens):
    """The reader of the golden files, which lies beside them."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("golden_tools", goldens / "golden_tools.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SAMPLES = ROOT / "samples"
TINY = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37,
    "max_position_embeddings": 64, "type_vocab_size": 2,
}  # fmt: skip


def write_tiny_model(folder, **config):
    """A folder with bert_config.json, a vocab.txt for the samples, and random encoder weights."""
    import torch

    from modeling import BertConfig, BertForPreTraining

    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(path.read_text("utf-8") for path in sorted(SAMPLES.glob("*/train*"))).lower()
    letters = [char for char, _ in Counter("".join(text.split())).most_common(70)]
    words = [word for word, _ in Counter(text.split()).most_common(60) if word.isalpha()]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = special + sorted({*letters, *words}) + sorted(f"##{letter}" for letter in letters)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    config = BertConfig(**{"vocab_size": len(vocab), **TINY, **config})
    (folder / "bert_config.json").write_text(config.to_json_string(), "utf-8")
    torch.manual_seed(7)
    weights = BertForPreTraining(config).bert.state_dict()
    torch.save(
        {f"bert.{name}": value for name, value in weights.items()}, folder / "pytorch_model.bin"
    )
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A tiny uncased BERT of random weights, without heads; dropout is 0.1."""
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_model_without_dropout(tmp_path_factory):
    return write_tiny_model(
        tmp_path_factory.mktemp("model_without_dropout"),
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


@pytest.fixture(scope="session")
def mrpc(tmp_path_factory):
    """A folder with 13 training, 7 dev and 5 test pairs in MRPC's format."""
    folder = tmp_path_factory.mktemp("MRPC")
    for name, rows in (("train", 13), ("dev", 7), ("test", 5)):
        lines = (SAMPLES / "MRPC" / f"{name}.tsv").read_text("utf-8").split("\n")
        (folder / f"{name}.tsv").write_text("\n".join(lines[: rows + 1]) + "\n", "utf-8")
    return folder


@pytest.fixture(scope="session")
def squad(tmp_path_factory):
    """A folder with the first paragraph of each of the sample's three SQuAD files."""
    folder = tmp_path_factory.mktemp("SQuAD")
    for name in ("train-v1.1.json", "dev-v1.1.json", "dev-v2.0.json"):
        dataset = json.loads((SAMPLES / "SQuAD" / name).read_text("utf-8"))
        article = dataset["data"][0]
        dataset["data"] = [{**article, "paragraphs": article["paragraphs"][:1]}]
        (folder / name).write_text(json.dumps(dataset), "utf-8")
    return folder


def model_flags(folder):
    return [
        f"--vocab_file={folder / 'vocab.txt'}",
        f"--bert_config_file={folder / 'bert_config.json'}",
        f"--init_checkpoint={folder / 'pytorch_model.bin'}",
    ]


@dataclass
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    def ok(self):
        assert self.status == 0, self.err or self.out
        return self


@pytest.fixture
def call(monkeypatch, capfd):
    """call(module, *flags): runs a script's command line in this process; returns an Outcome."""
    import flags

    def call(module, *argv):
        script = f"{module.__name__}.py"
        monkeypatch.setattr(sys, "argv", [script, *map(str, argv)])
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        capfd.readouterr()
        try:
            flags.run(module.main)
            status = 0
        except SystemExit as end:
            status = end.code or 0
        return Outcome(status, *capfd.readouterr())

    return call


def start(*command, **options):
    """Starts python with `command` on one thread; the project's folder is the current one."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", **options,
    )  # fmt: skip


def run(*command, timeout=120, **options):
    """Runs python with `command` to its end; returns an Outcome."""
    process = start(*command, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Outcome(process.returncode, out, err)


def losses(output_dir):
    """The loss of every step in the training log, whose steps are 1, 2, 3, …"""
    lines = (output_dir / "training_log.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    return [entry["loss"] for entry in entries]


def weights(output_dir):
    import torch

    return torch.load(output_dir / "pytorch_model.bin", weights_only=True)


def assert_same_weights(one, other):
    """Bit for bit."""
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    different = [name for name in one if not one[name].equal(other[name])]
    assert not different


def results(output_dir):
    """eval_results.txt as a dictionary of text."""
    lines = (output_dir / "eval_results.txt").read_text("utf-8").splitlines()
    return dict(line.split(" = ") for line in lines)
