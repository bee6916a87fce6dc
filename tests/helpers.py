"""Plain functions that several test files share: a tiny model on disk, commands, their output."""

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import warm

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "samples"
# Environment of the few runs of the real model: two threads, which sleep while they wait.
TWO_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
TINY = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37,
    "max_position_embeddings": 64, "type_vocab_size": 2,
}  # fmt: skip


def write_tiny_model(folder, **config):
    """Writes bert_config.json, a vocab.txt for the samples and random encoder weights.

    config: values that differ from TINY's. Returns the folder.
    """
    import torch

    from modeling import BertConfig, BertForPreTraining

    folder.mkdir(parents=True, exist_ok=True)
    texts = (SAMPLES / "MRPC/train.tsv", SAMPLES / "SQuAD/train-v1.1.json")
    text = "".join(path.read_text("utf-8") for path in texts).lower()
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


def model_flags(folder):
    """The flags that name a folder's vocabulary, configuration and weights."""
    return [
        f"--vocab_file={folder / 'vocab.txt'}",
        f"--bert_config_file={folder / 'bert_config.json'}",
        f"--init_checkpoint={folder / 'pytorch_model.bin'}",
    ]


# --- commands -------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """How a command ended: its exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    def ok(self):
        """Fails the test unless the command succeeded; returns itself."""
        assert self.status == 0, self.err or self.out
        return self


@cache
def warm_python():
    """What to put before the arguments of Python, so that they cost no import of PyTorch."""
    # With a GPU (conftest.py hides it from all tests but test_gpu.py) a fork would be lost if an
    # import had so much as counted the GPUs.
    if not warm.IS_POSSIBLE or os.environ.get("CUDA_VISIBLE_DEVICES"):
        return [sys.executable]
    folder = tempfile.mkdtemp()
    server = warm.Server(folder, {**os.environ, "OMP_NUM_THREADS": "1"})
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.close)
    return server.command


def start(*command, python=(sys.executable,), **options):
    """Starts python with the arguments `command`, on one thread, in the project's folder.

    Returns the Popen. options are Popen's; env adds to the environment. Only a process of its own
    receives signals: with warm_python() the process that is returned can only be killed.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    return subprocess.Popen(
        [*python, *map(str, command)], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, encoding="utf-8", **options,
    )  # fmt: skip


def run(*command, timeout=120, **options):
    """Runs python with the arguments `command` until it ends; returns an Outcome."""
    process = start(*command, python=warm_python(), **options)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Outcome(process.returncode, out, err)


def run_ranks(count, *command, timeout=120, **options):
    """Runs python with the arguments `command` as `count` ranks, as torchrun would.

    It saves the launcher's own import of PyTorch. Returns one Outcome: the largest exit status, and
    what all ranks printed, one after the other.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    more = options.pop("env", {})
    processes = [
        start(
            *command,
            python=warm_python(),
            env={"RANK": rank, "LOCAL_RANK": rank, **shared, **more},
            **options,
        )
        for rank in map(str, range(count))
    ]
    try:
        with ThreadPoolExecutor(count) as pool:
            printed = list(pool.map(lambda one: one.communicate(timeout=timeout), processes))
    finally:
        for process in processes:
            process.kill()
    out, err = map("".join, zip(*printed))
    return Outcome(max(abs(process.returncode) for process in processes), out, err)


# --- output folders -------------------------------------------------------------------------------


def losses(output_dir):
    """The loss of every step in the training log; fails unless the steps are 1, 2, 3, …"""
    lines = (output_dir / "training_log.jsonl").read_text("utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    assert [entry["step"] for entry in entries] == list(range(1, len(entries) + 1))
    return [entry["loss"] for entry in entries]


def weights(output_dir):
    """The state dict in the folder's pytorch_model.bin."""
    import torch

    return torch.load(output_dir / "pytorch_model.bin", weights_only=True)


def assert_same_weights(one, other):
    """Fails unless two output folders hold the same weights, bit for bit."""
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    different = [name for name in one if not one[name].equal(other[name])]
    assert not different


def results(output_dir):
    """The folder's eval_results.txt as {name: value}, both text."""
    lines = (output_dir / "eval_results.txt").read_text("utf-8").splitlines()
    return dict(line.split(" = ") for line in lines)


def same_file(one, other, name):
    """Whether two folders hold the same bytes under this name."""
    return (one / name).read_bytes() == (other / name).read_bytes()


# Elements that have no end tag.
VOID = {"meta", "input", "line", "circle", "polyline"}


class Page(HTMLParser):
    """A report as a reader sees it; fails if an element is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text, self.rows, self.marks = [], [], "", [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "mark":
            self.marks.append([dict(attrs)["class"], ""])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "mark" in self.open:
            self.marks[-1][1] += data

    def all(self, tag, **attrs):
        """The attributes of every element with this tag and these attributes."""
        return [own for name, own in self.elements if name == tag and attrs.items() <= own.items()]

    def curves(self):
        """(class, points) of each curve."""
        return [
            (own["class"], [tuple(map(float, point.split(","))) for point in own["points"].split()])
            for own in self.all("polyline")
        ]


# The largest relative error of one rounding to float32, and to bfloat16.
ROUNDING = 2.0**-24
BF16_ROUNDING = 2.0**-9


def roundings(ours, wanted, scale=None):
    """The largest difference of two tensors, in float32 roundings of `scale`.

    By default the scale is the largest value wanted. No kernel is exact: a sum of n products may be
    added up in any order, with or without fused multiply-adds, and then differs by about √n
    roundings of its largest term. The errors of steps that follow one another add up.
    """
    import torch

    ours = torch.as_tensor(ours).detach().double()
    wanted = torch.as_tensor(wanted).detach().double()
    assert ours.shape == wanted.shape and ours.isfinite().all()
    largest = float(wanted.abs().max() if scale is None else scale)
    return ((ours - wanted).abs().max() / largest / ROUNDING).item()


def assert_same_gradients(ours, wanted, limit=256):
    """Compares {name: gradient} twice, within `limit` roundings.

    The scale of a gradient is its own largest value plus 1/16 of the largest value of all: some
    gradients are 0 but for rounding, such as that of the keys' bias, which moves all scores of a
    query alike.
    """
    assert ours.keys() == wanted.keys()
    largest = max(grad.abs().max() for grad in wanted.values())
    for name, grad in wanted.items():
        scale = grad.abs().max() + largest / 16
        assert roundings(ours[name], grad, scale) < limit, name


def assert_close_runs(one, other, start):
    """Compares two runs from the weights in `start`: losses within some roundings, and weights to a
    thousandth of how far they moved.

    Single weights are not compared: Adam makes whole steps of noise where a gradient is 0 but for
    rounding, such as that of the keys' bias, on which no loss depends.
    """
    assert roundings(losses(one), losses(other)) < 256
    one, other, start = weights(one), weights(other), weights(start)
    apart = sum((one[name] - other[name]).square().sum() for name in one).sqrt()
    moved = sum((one[name] - start[name]).square().sum() for name in start).sqrt()
    assert apart < 1e-3 * moved
