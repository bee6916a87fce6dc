"""The documents: their commands and snippets run, their links lead somewhere, their claims hold.

A block of shell commands is run as it stands, on a tiny model, unless the paragraph before it says
when it was run ("run on 28 November 2026"): those blocks take a GPU, a cluster or an hour, and only
their scripts and flags are checked. Paths of the documents (/path/to/, /tmp/, ../) lie in a folder
of the test.
"""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ROOT, SAMPLES, run, warm_python, write_tiny_model

import flags
import run_classifier

README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", SAMPLES / "README.md", *DOCS]

DATE = r"\d{1,2} (?:January|February|March|April|May|June|July|August|September|October|November|December) \d{4}"  # noqa: E501
DATED = re.compile(rf"\b(?:run|checked)(?: by hand)? on\s+{DATE}")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE_COMMAND = re.compile(r"`((?:python|torchrun) [^`]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
SCRIPT = re.compile(r"(?<![\w./-])[\w/]+\.py\b")

# What a command of the documents needs beyond the flags shown, where it ends with "…".
LEFT_OUT = [
    "--task_name=MRPC", "--data_dir=D", "--vocab_file=V", "--bert_config_file=B",
    "--output_dir=O", "--input_file=I",
]  # fmt: skip
TYPED = "The mill opened in 1871. It closed in 1932.\nWhen did the mill open?\n\n"


@dataclass
class Block:
    """A fenced block: its language and text, and whether the paragraph before it has a date."""

    language: str
    text: str
    is_dated: bool


@cache
def blocks(path):
    """The fenced blocks of a document."""
    text = path.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        paragraph = text[: match.start()].rstrip().rpartition("\n\n")[2]
        found.append(Block(match[1], match[2], bool(DATED.search(paragraph))))
    return found


def to_run(path):
    """The blocks of a document that the tests run."""
    runnable = [block for block in blocks(path) if block.language in ("shell", "python")]
    return [block for block in runnable if not block.is_dated]


def name(path):
    return str(path.relative_to(ROOT))


def prose(path):
    return FENCE.sub("", path.read_text("utf-8"))


# --- commands -------------------------------------------------------------------------------------


class Sandbox:
    """A folder in which the commands of the documents run: data, a tiny model, the results."""

    def __init__(self, root):
        self.root = root
        self.clone = root / "clone"  # the current folder of all commands
        base = "uncased_L-12_H-768_A-12"
        self.google = root / "path/to/bert" / base
        self.pytorch = root / "path/to/pytorch" / base
        self.env = {
            "BERT_BASE_DIR": str(self.google),
            "BERT_PYTORCH_DIR": str(self.pytorch),
            "GLUE_DIR": str(root / "path/to/glue"),
            "SQUAD_DIR": str(root / "path/to/SQUAD"),
        }
        (root / "bin").mkdir()
        for command, arguments in (("python", ""), ("torchrun", "-m torch.distributed.run ")):
            path = root / "bin" / command
            path.write_text(f'#!/bin/sh\nexec {shlex.join(warm_python())} {arguments}"$@"\n')
            path.chmod(0o755)

    def localize(self, text):
        """The text with this folder's paths, and the project's scripts in the project."""

        def place(match):
            if match[0] == "/path/to/this/clone":
                return str(ROOT)
            return f"{self.root}{match[0]}"

        def script(match):
            return str(ROOT / match[0]) if (ROOT / match[0]).exists() else match[0]

        # Scripts last: the clone may lie in /tmp itself.
        text = re.sub(r"(?<![\w/.])(?:/path/to/this/clone|/tmp/|/path/to/)", place, text)
        return SCRIPT.sub(script, text)

    def bash(self, text):
        """Runs a block of shell commands. Fails where one of them does."""
        path = f"{self.root / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        env = {**os.environ, **self.env, "PATH": path, "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.localize(text)], cwd=self.clone, env=env,
            input=TYPED, text=True, capture_output=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, f"{text}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def python(self, text):
        """Runs a snippet as a program of its own in the current folder. Returns what it prints."""
        snippet = self.clone / "snippet.py"
        snippet.write_text(self.localize(text), "utf-8")
        env = {**os.environ, **self.env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        result = subprocess.run(
            [*warm_python(), snippet], cwd=self.clone, env=env, text=True, capture_output=True,
            timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, f"{text}\n{result.stderr}"
        return result.stdout

    def run(self, path):
        """Runs the blocks of a document in order. Returns what each printed."""
        printed = []
        for block in to_run(path):
            if block.language == "shell":
                printed.append(self.bash(block.text))
            else:
                printed.append(self.run_python(block.text))
        return printed

    def run_python(self, text):
        if "import transformers" in text and not can_import("transformers"):
            return ""
        if "DataProcessor" in text:  # a file that the commands after it start
            (self.clone / "reviews.py").write_text(text, "utf-8")
            return ""
        return self.python(text)


def can_import(module):
    return importlib.util.find_spec(module) is not None


def write_model(sandbox):
    """A tiny model as TensorFlow's checkpoint, where Google's archive would be unpacked."""
    size = {"num_hidden_layers": 4, "max_position_embeddings": 512}  # as many as the flags ask for
    model = write_tiny_model(sandbox.root / "model", **size)
    sandbox.google.mkdir(parents=True)
    for file in ("vocab.txt", "bert_config.json"):
        shutil.copy(model / file, sandbox.google)
    run(
        "convert_pytorch_checkpoint_to_tf.py", "--pytorch_model_path", model,
        "--bert_config_file", model / "bert_config.json",
        "--tf_checkpoint_path", sandbox.google / "bert_model.ckpt",
    ).ok()  # fmt: skip


def squad_sample(name, paragraphs):
    """The first paragraphs of a file of the samples, as a dataset."""
    dataset = json.loads((SAMPLES / f"SQuAD/{name}.json").read_text("utf-8"))
    found = [paragraph for article in dataset["data"] for paragraph in article["paragraphs"]]
    return {**dataset, "data": [{"title": "", "paragraphs": found[:paragraphs]}]}


def write_data(sandbox, mrpc):
    """The files that the documents' commands read."""
    folder = sandbox.root / "path/to"
    shutil.copytree(mrpc, folder / "glue/MRPC")

    datasets = {name: squad_sample(name, 3) for name in ("train-v1.1", "dev-v1.1", "dev-v2.0")}
    datasets["train-v2.0"] = squad_sample("dev-v2.0", 3)
    for paragraph in datasets["train-v2.0"]["data"][0]["paragraphs"]:
        for qa in paragraph["qas"]:
            qa["answers"] = qa["answers"][:1]  # as in a training file
    (folder / "SQUAD").mkdir()
    for name, dataset in datasets.items():
        (folder / f"SQUAD/{name}.json").write_text(json.dumps(dataset), "utf-8")

    shutil.copytree(SAMPLES / "tagging", sandbox.clone / "samples/tagging")
    rows = ["The soup was cold.\tnegative", "A fine evening.\tpositive"] * 16
    (folder / "reviews").mkdir()
    for file in ("train.tsv", "dev.tsv"):
        (folder / "reviews" / file).write_text("\n".join(rows) + "\n", "utf-8")

    (folder / "reviews_csv").mkdir()
    review = "text,sentiment,stars,topics\n"
    review += '"Cold, but good.",positive,4,soup|service\nNever again.,negative,1.5,\n' * 16
    (folder / "reviews_csv/train.csv").write_text(review, "utf-8")

    (sandbox.clone / "texts.txt").write_text("It rained.\nA bridge. ||| A river.\n", "utf-8")
    (sandbox.clone / "text").mkdir()
    (article,) = squad_sample("dev-v2.0", 8)["data"]
    documents = [p["context"].replace(". ", ".\n") for p in article["paragraphs"]]
    for number in range(2):
        text = "\n\n".join(documents[number::2]) + "\n"
        (sandbox.clone / f"text/{number}.txt").write_text(text, "utf-8")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory, mrpc):
    """The sandbox after the README's commands, on which the other documents build."""
    sandbox = Sandbox(tmp_path_factory.mktemp("documents"))
    sandbox.clone.mkdir()
    (sandbox.root / "tmp").mkdir()
    write_model(sandbox)
    write_data(sandbox, mrpc)
    sandbox.printed = sandbox.run(README)
    return sandbox


@pytest.mark.slow
def test_commands_of_the_readme(sandbox):
    convert, classify, squad, use, python, features = sandbox.printed
    assert "tensors" in convert and "skipped" in convert
    assert "eval_accuracy = " in classify and "exact_match = " in squad
    assert use.count('"label": ') > 1 and '"answer": ' in use
    assert re.fullmatch(r"[01] \{'0': 0\.\d+, '1': 0\.\d+\}\n", python)
    assert "2 texts: features.jsonl" in features
    assert (sandbox.root / "tmp/pretraining_output/pytorch_model.bin").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [p for p in DOCS if any(not b.is_dated for b in blocks(p))], ids=name
)
def test_commands_of(path, sandbox):
    sandbox.run(path)


def commands(text):
    """The argument lists of the commands of the project in a piece of shell text."""
    text = re.sub(r"\$\([^)]*\)", "SUBSTITUTED", text.replace("\\\n", " "))
    for line in text.split("\n"):
        words = shlex.split(line, comments=True)
        scripts = [i for i, word in enumerate(words) if word.endswith(".py")]
        if scripts and {"python", "torchrun"} & set(words[: scripts[0]]):
            words = words[scripts[0] :]
            yield words[: words.index(">")] if ">" in words else words


def all_commands():
    for path in DOCUMENTS:
        for block in blocks(path):
            if block.language in ("shell", ""):
                yield from ((path, command) for command in commands(block.text))
        for inline in INLINE_COMMAND.findall(prose(path)):
            yield from ((path, command) for command in commands(inline))


@cache
def help_of(script):
    return run(script, "--help", timeout=300).ok().out


@pytest.mark.parametrize("path, command", list(all_commands()), ids=lambda v: str(v)[-60:])
def test_script_and_flags_exist(path, command):
    script, *given = command
    assert (ROOT / script).exists(), f"{name(path)} names {script}, which does not exist"
    names = [word.partition("=")[0] for word in given if word.startswith("--")]
    known = help_of(script) if names else ""
    for flag in names:
        assert re.search(rf"{flag}\b", known) or f"--{flag[5:]}" in known, f"{script} has no {flag}"


@pytest.mark.parametrize(
    "script",
    ["run_classifier", "run_squad", "run_tagger", "run_pretraining", "extract_features"],
)
def test_flags_parse(script, monkeypatch):
    """Every command of a driver, with what "…" leaves out. The files need not exist."""
    check = flags.Flag.check

    def check_all_but_files(flag, value):
        with suppress(OSError):
            check(flag, value)

    monkeypatch.setattr(flags.Flag, "check", check_all_but_files)
    monkeypatch.setattr(run_classifier, "check_files", lambda args: None)
    monkeypatch.setattr(run_classifier, "load_processor", lambda text: SimpleNamespace(name=text))
    module = importlib.import_module(script)
    found = 0
    for _, (file, *given) in all_commands():
        if file != f"{script}.py":
            continue
        left_out = []
        if "…" in given:
            given.remove("…")
            known = help_of(file)
            left_out = [flag for flag in LEFT_OUT if flag.partition("=")[0] in known]
        module.parse_args([*left_out, *given])
        found += 1
    assert found


def test_what_is_not_run_has_a_date():
    """Commands in the text, as benchmarks, say when they were run."""
    for path in DOCUMENTS:
        for paragraph in re.split(r"\n\n|\n(?=\|)", prose(path)):
            inline = [command for command in INLINE_COMMAND.findall(paragraph) if ".py" in command]
            inline = [command for command in inline if "flags.py" not in command]  # test_flags.py's
            dated = re.search(DATE, paragraph) or "the same" in paragraph
            assert not inline or dated, f"{name(path)}: {inline}"


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for path in DOCUMENTS:
        mentioned = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", path.read_text("utf-8")))
        mentioned = {target for pair in mentioned for target in pair if target}
        assert mentioned <= targets | {"test-isa"}, name(path)


# --- links and claims -----------------------------------------------------------------------------


def anchors(path):
    """The anchors of a document's headings, as GitHub makes them."""
    headings = HEADING.findall(prose(path))
    cleaned = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in cleaned}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name)
def test_links_lead_somewhere(path):
    for target in LINK.findall(prose(path)):
        if target.startswith(("https://", "http://")):
            continue
        file, _, anchor = target.partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), f"{name(path)}: {target}"
        if anchor:
            assert anchor in anchors(other), f"{name(path)}: {target}"


def test_the_readme_is_short_and_has_an_index():
    text = README.read_text("utf-8")
    assert text.count("\n") <= 200
    linked = set(LINK.findall(text))
    missing = [name(path) for path in DOCS if name(path) not in linked]
    assert not missing


def test_size_in_the_readme():
    modules, lines = re.search(
        r"\*\*size\*\* \| (\d+) modules, about ([\d,]+) lines", README.read_text("utf-8")
    ).groups()
    files = list(ROOT.glob("*.py"))
    counted = sum(len(path.read_text("utf-8").splitlines()) for path in files)
    assert int(modules) == len(files)
    assert int(lines.replace(",", "")) == pytest.approx(counted, rel=0.1)


def test_every_module_is_in_the_plan_of_the_code():
    text = (ROOT / "docs/code.md").read_text("utf-8")
    mentioned = set(SCRIPT.findall(text))
    assert {path.name for path in ROOT.glob("*.py")} <= mentioned
    drawing = next(block.text for block in blocks(ROOT / "docs/code.md"))
    assert {path.name for path in ROOT.glob("*.py")} <= set(SCRIPT.findall(drawing))


def messages():
    """Every string of the modules, with "…" for what is filled in."""
    for path in ROOT.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_troubleshooting_quotes_real_messages():
    """The first column's code is part of a message, where "…" stands for anything."""
    text = (ROOT / "docs/troubleshooting.md").read_text("utf-8")
    cells = re.findall(r"^\| (?!message)(.+?) \| ", text, re.MULTILINE)
    quoted = [code for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    known = list(messages())
    unknown = []
    for code in quoted:
        pattern = re.compile(".*".join(map(re.escape, code.split("…"))), re.DOTALL)
        if not any(pattern.search(message) for message in known):
            unknown.append(code)
    assert len(quoted) > 30
    assert not unknown


def test_report_picture_is_small():
    assert 10_000 < (ROOT / "docs/report.png").stat().st_size < 200_000
