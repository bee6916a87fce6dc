"""Rules of the project that a reader relies on, held by looking at the source."""

import ast
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache

import pytest
from conftest import ROOT

# The floor plan: module -> (most lines, the modules of ours that it may import).
BASE = {"modeling", "tokenization", "data", "training", "flags", "checkpoint"}
CONVERT = "convert_tf_checkpoint_to_pytorch"
PLAN = {
    "tokenization": (300, set()),
    "packing": (190, set()),
    "configuration": (90, set()),
    "weights": (230, set()),
    "modeling": (600, {"packing", "configuration", "weights"}),
    "optimization": (160, set()),
    "tf_checkpoint": (250, set()),
    "precision": (250, set()),
    "squad_metrics": (150, set()),
    "glue_metrics": (80, set()),
    "data": (120, set()),
    "instances": (270, {"weights"}),
    "flags": (230, set()),
    "checkpoint": (270, {"flags", "weights"}),
    "progress": (160, {"checkpoint"}),
    "training": (420, {"data", "optimization", "flags", "checkpoint", "progress", "precision"}),
    "squad_data": (600, {"tokenization", "weights"}),
    "glue_data": (350, {"glue_metrics", "data"}),
    CONVERT: (160, {"modeling", "tf_checkpoint", "flags", "configuration", "weights"}),
    "convert_pytorch_checkpoint_to_tf": (
        100,
        {"modeling", "tf_checkpoint", "configuration", "weights", CONVERT},
    ),
    "report": (260, {"weights"}),
    "run_classifier": (450, BASE | {"glue_data", "glue_metrics", CONVERT, "report"}),
    "run_squad": (300, BASE | {"squad_data", "squad_metrics", CONVERT, "report"}),
    "extract_features": (180, BASE | {"glue_data", CONVERT, "precision"}),
    "create_pretraining_data": (350, {"tokenization", "instances", "flags"}),
    "run_pretraining": (220, BASE | {CONVERT, "instances", "report"}),
}
MODULES = sorted(path.stem for path in ROOT.glob("*.py"))
EVERYTHING = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "tests", "tests/faults", "samples", "benchmarks", "notebooks")
    for path in (ROOT / folder).glob("*.py")
)


@cache
def tree(path):
    return ast.parse((ROOT / path).read_text("utf-8"))


def functions(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def imports(module):
    for node in ast.walk(tree(f"{module}.py")):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}.py imports relatively"
            yield node.module.partition(".")[0]


# --- floor plan ----------------------------------------------------------------------------------


def test_every_file_is_in_the_plan():
    assert set(MODULES) <= PLAN.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_and_size(module):
    ceiling, allowed = PLAN[module]
    own = {name for name in imports(module) if name in PLAN}
    assert own <= allowed
    assert len((ROOT / f"{module}.py").read_text("utf-8").splitlines()) <= ceiling


def test_the_plan_has_no_circle():
    placed = set()
    while placed < PLAN.keys():
        next_floor = {name for name, (_, below) in PLAN.items() if below <= placed} - placed
        assert next_floor
        placed |= next_floor


@pytest.mark.parametrize("module", ("flags", "tokenization", "squad_metrics"))
def test_standard_library_only(module):
    assert set(imports(module)) <= sys.stdlib_module_names


def test_what_is_imported_is_required():
    required = {re.split(r"[<>=~! ]", line)[0].lower() for line in
                (ROOT / "requirements.txt").read_text("utf-8").splitlines()}  # fmt: skip
    foreign = {name for module in MODULES for name in imports(module)}
    foreign -= sys.stdlib_module_names | PLAN.keys() | {"safetensors"}  # read where it is installed
    assert foreign <= required


# --- code ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVERYTHING)
def test_no_function_is_long(path):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path)}
    assert not {name: lines for name, lines in long.items() if lines > 80}


@pytest.mark.parametrize("path", EVERYTHING)
def test_a_file_says_what_it_is_for(path):
    assert ast.get_docstring(tree(path))


def body(function):
    """A function without its name, docstring and places; None where it is too short to matter."""
    nodes = function.body[1:] if ast.get_docstring(function) else function.body
    size = nodes[-1].end_lineno - nodes[0].lineno + 1 if nodes else 0
    return "".join(map(ast.dump, nodes)) if size >= 3 else None


def test_no_function_body_twice():
    places = defaultdict(list)
    for path in EVERYTHING:
        for function in functions(path):
            places[body(function)].append(f"{path}:{function.lineno} {function.name}")
    del places[None]
    assert len(places) > 300
    assert not [where for where in places.values() if len(where) > 1]


def test_assert_never_tells_a_user_something():
    """assert is for our own mistakes: it has no message for anybody."""
    told = [
        f"{module}.py:{node.lineno}"
        for module in MODULES
        for node in ast.walk(tree(f"{module}.py"))
        if isinstance(node, ast.Assert) and node.msg
    ]
    assert not told


# --- flags ---------------------------------------------------------------------------------------

DRIVERS = [name for name in MODULES if name.startswith("run_")]
SHARED = ("flags", "training", "progress", "checkpoint")


def declared(nodes):
    """The flags that calls of parser.flags(…, name=…) and add_argument("--name") declare."""
    names = set()
    for node in nodes:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == "flags":
            names |= {keyword.arg for keyword in node.keywords}
        elif node.func.attr == "add_argument":
            given = [a.value for a in node.args if isinstance(a, ast.Constant)]
            names |= {name.lstrip("-") for name in given}
    return names


def declared_by_driver(module):
    """With those of the functions of flags.py that it calls, and that these call."""
    shared = {function.name: [*ast.walk(function)] for function in functions("flags.py")}
    nodes = [*ast.walk(tree(f"{module}.py"))]
    for node in nodes:  # which grows meanwhile
        if isinstance(node, ast.Call):
            nodes += shared.pop(ast.unparse(node.func).removeprefix("flags."), ())
    return declared(nodes)


def reads(node):
    """Names x of every args.x under `node`; check_flags, which only judges them, aside."""
    if isinstance(node, ast.FunctionDef) and node.name == "check_flags":
        return
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("args", "self.args"):
        yield node.attr
    for child in ast.iter_child_nodes(node):
        yield from reads(child)


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_flag_is_read_and_every_read_flag_declared(driver):
    flags = declared_by_driver(driver)
    assert {"output_dir", "do_train", "learning_rate", "max_seq_length"} <= flags
    read = set(reads(tree(f"{driver}.py")))
    read_by_all = {name for module in SHARED for name in reads(tree(f"{module}.py"))}
    unread = flags - read - read_by_all - {"accumulate_gradients"}  # another name of a flag
    assert not unread, "declared, but never read"
    assert not read - flags, "read, but never declared"
    # What all share may read what not all declare, as the two ways to say how long to train.
    assert not read_by_all - set().union(*map(declared_by_driver, DRIVERS))


@pytest.mark.parametrize("driver", DRIVERS)
def test_help_shows_every_flag_with_its_default(driver, capsys, monkeypatch):
    module = __import__(driver)
    with pytest.raises(SystemExit) as end:
        module.parse_args(["--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    for name in declared_by_driver(driver) - {"accumulate_gradients"}:
        assert re.search(rf"--{name}\b", text), name
    assert text.count("(default: ") + text.count("(required)") >= 25
    assert "use_tpu" not in text and "no_do_train" not in text


# --- what goes into the repository ---------------------------------------------------------------


def tracked():
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("no git checkout")
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_path_of_a_machine():
    machine = re.compile(
        r"(?<![\w.}$*~-])/(?:" + "|".join(("work", "home", "root", "Users")) + r")/"
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in tracked()
        for line in path.read_bytes().decode("utf-8", "replace").splitlines()
        if machine.search(line)
    ]
    assert not found


def test_text_files_end_lines_as_unix():
    assert not [path for path in tracked() if b"\r\n" in path.read_bytes()]


@pytest.mark.parametrize("command", (["check"], ["format", "--check"]), ids=" ".join)
def test_ruff(command):
    ruff = shutil.which("ruff")
    if not ruff:
        pytest.skip("ruff is not installed")
    outcome = subprocess.run([ruff, *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout
