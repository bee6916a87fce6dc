"""Fixtures that the test files share; plain functions are in helpers.py and its neighbours.

Some tests need data that is not part of the project. Each asks for the fixture of an environment
variable and is skipped, with the variable's name, if that is not set:

    GLUE_DIR          a folder with MRPC/{train,dev,test}.tsv
    SQUAD_DIR         a folder with train-v1.1.json, dev-v1.1.json, …
    BERT_BASE_DIR     a TensorFlow BERT checkpoint: bert_model.ckpt.*, bert_config.json, vocab.txt
    BERT_GOLDENS_DIR  numbers that Google's own code computed
"""

import json
import os
import sys
from pathlib import Path

import pytest

# So that a failed assertion in helpers.py shows the values, as one in a test does.
pytest.register_assert_rewrite("helpers")

from helpers import ROOT, SAMPLES, Outcome, write_tiny_model  # noqa: E402

sys.path.insert(0, str(ROOT))

# Set before PyTorch is loaded, so that a run in this process gives the same bits as one that
# helpers.run starts. `make test-isa` asks for another number of threads.
os.environ["OMP_NUM_THREADS"] = os.environ.get("BERT_TEST_THREADS", "1")
# Hides GPUs, so that the tests give the same bits on any machine. Only test_gpu.py needs one; its
# docstring says how to run it.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: takes more than half a minute")
    config.addinivalue_line("markers", "numeric: holds under any instructions, make test-isa")


def _folder(variable):
    """The folder that an environment variable names; skips the test if the variable is not set."""
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
    """The module that reads the golden files; it is stored beside them."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("golden_tools", goldens / "golden_tools.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pretrained(bert_dir):
    """$BERT_BASE_DIR's BertForPreTraining, in evaluation mode and without gradients."""
    from convert_tf_checkpoint_to_pytorch import load_tf_weights
    from modeling import BertConfig, BertForPreTraining

    model = BertForPreTraining(BertConfig.from_json_file(bert_dir / "bert_config.json"))
    unfilled, unused = load_tf_weights(model, str(bert_dir / "bert_model.ckpt"))
    assert not unfilled and not any(name.startswith("cls") for name in unused)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a tiny uncased BERT with random weights and no heads; dropout is 0.1."""
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def config(tiny_model):
    """The configuration of `tiny_model`."""
    from configuration import BertConfig

    return BertConfig.from_json_file(tiny_model / "bert_config.json")


@pytest.fixture(scope="session")
def tiny_model_without_dropout(tmp_path_factory):
    """The same with no dropout."""
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
    """A folder with three SQuAD files: the first paragraph of each file in samples/SQuAD."""
    folder = tmp_path_factory.mktemp("SQuAD")
    for name in ("train-v1.1.json", "dev-v1.1.json", "dev-v2.0.json"):
        dataset = json.loads((SAMPLES / "SQuAD" / name).read_text("utf-8"))
        article = dataset["data"][0]
        dataset["data"] = [{**article, "paragraphs": article["paragraphs"][:1]}]
        (folder / name).write_text(json.dumps(dataset), "utf-8")
    return folder


@pytest.fixture(scope="session")
def tagging(tmp_path_factory):
    """A folder with 13 training, 7 dev and 5 test sentences in CoNLL columns."""
    folder = tmp_path_factory.mktemp("tagging")
    for name, number in (("train", 13), ("dev", 7), ("test", 5)):
        text = (SAMPLES / "tagging" / f"{name}.txt").read_text("utf-8")
        sentences = text.split("\n\n")[: number + 1]  # and a -DOCSTART- line
        (folder / f"{name}.txt").write_text("\n\n".join(sentences) + "\n", "utf-8")
    return folder


@pytest.fixture
def call(monkeypatch, capfd):
    """call(module, *flags) runs a script in this process with these flags; returns an Outcome."""
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
