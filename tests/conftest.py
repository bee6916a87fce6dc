"""Where the tests find what is not part of the project, and what they share.

A test that needs data asks for the fixture of its environment variable and is skipped, naming the
variable, where that is not set:

    GLUE_DIR          a folder with MRPC/{train,dev,test}.tsv
    SQUAD_DIR         a folder with train-v1.1.json, dev-v1.1.json, …
    BERT_BASE_DIR     a TensorFlow BERT checkpoint: bert_model.ckpt.*, bert_config.json, vocab.txt
    BERT_GOLDENS_DIR  what Google's own code computed (see README, "How the parity is proven")
"""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


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
