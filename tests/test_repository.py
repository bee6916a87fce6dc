"""Rules of the project that a reader relies on, held by looking at the source."""

import ast
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache

import pytest
from helpers import ROOT

import flags

CONVERT = "convert_tf_checkpoint_to_pytorch"
DATA = {"data", "instances", "tables", "glue_data", "squad_data", "tagging_data"}
# The floor plan: a module may import what stands on lower floors, and nothing else.
FLOORS = (
    {
        "tokenization", "configuration", "padding", "optimization", "tf_checkpoint",
        "squad_metrics", "glue_metrics", "tagging_metrics", "files", "flags", "precision",
    },
    {"modeling", "weights", "report", "vocabulary", *DATA},
    {CONVERT, "convert_pytorch_checkpoint_to_tf", "checkpoint", "progress", "inference"},
    {"cuda_graphs", "training", "create_pretraining_data"},
    {
        "run_classifier", "run_squad", "run_tagger", "run_pretraining", "extract_features",
        "predict",
    },
)  # fmt: skip
# Imports from the same floor, each for a reason: modeling re-exports load_weights, a task's files
# are read by tables.py and become pairs of data.py, one converter is the other's inverse, training
# replays graphs, and questions typed at the terminal are answered by one loop.
SAME_FLOOR = {
    "modeling": {"weights"},
    "glue_data": {"data", "tables"},
    "convert_pytorch_checkpoint_to_tf": {CONVERT},
    "training": {"cuda_graphs"},
    "run_squad": {"predict"},
}
FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}
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
    assert set(MODULES) <= FLOOR_OF.keys()
    assert sum(map(len, FLOORS)) == len(FLOOR_OF), "a module stands on two floors"


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_from_lower_floors(module):
    own = {name for name in imports(module) if name in FLOOR_OF}
    own -= SAME_FLOOR.get(module, set())
    assert not {name for name in own if FLOOR_OF[name] >= FLOOR_OF[module]}


def test_the_exceptions_make_no_circle():
    for module, others in SAME_FLOOR.items():
        for other in others:
            assert FLOOR_OF[module] == FLOOR_OF[other]
            assert module not in set(imports(other))


@pytest.mark.parametrize("module", ("flags", "tokenization", "squad_metrics", "tagging_metrics"))
def test_standard_library_only(module):
    assert set(imports(module)) <= sys.stdlib_module_names


def test_what_is_imported_is_required():
    required = {re.split(r"[<>=~! ]", line)[0].lower() for line in
                (ROOT / "requirements.txt").read_text("utf-8").splitlines()}  # fmt: skip
    foreign = {name for module in MODULES for name in imports(module)}
    foreign -= sys.stdlib_module_names | FLOOR_OF.keys()
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


def test_no_file_imports_a_test():
    """What test files share is in helpers.py and its neighbours, or a fixture in conftest.py."""
    tests = re.compile(r"test_|tests$|conftest$")
    importing = {
        path: [name for name in imports(path.removesuffix(".py")) if tests.match(name)]
        for path in EVERYTHING
    }
    assert not {path: names for path, names in importing.items() if names}


# --- flags ---------------------------------------------------------------------------------------


def is_args(node):
    return ast.unparse(node) in ("args", "self.args")


def attributes(nodes, context):
    """Names x of every args.x that is read (ast.Load) or assigned (ast.Store)."""
    for node in ast.walk(nodes):
        if not isinstance(node, ast.Attribute) or not is_args(node.value):
            continue
        if isinstance(node.ctx, context):
            yield node.attr


def reads(nodes):
    """Names x of every args.x and getattr(args, "x", …) that is read."""
    yield from attributes(nodes, ast.Load)
    for node in ast.walk(nodes):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            owner, name = node.args[:2]
            if is_args(owner) and isinstance(name, ast.Constant):
                yield name.value


def modules_under(script):
    """The modules that a script imports, and what they import; other scripts and flags.py aside."""
    found = set()
    waiting = [script]
    while waiting:
        for name in imports(waiting.pop()):
            if name in MODULES and name not in {*flags.SCRIPTS, "flags", *found}:
                found.add(name)
                waiting.append(name)
    return found


def unread_and_undeclared(script, nodes):
    """Flags that neither the script nor a module under it reads; what the script reads besides."""
    declared = {flag.name for _, flag in flags.flags_of(script)}
    read = set(reads(nodes))
    below = {name for module in modules_under(script) for name in reads(tree(f"{module}.py"))}
    return declared - read - below, read - declared - set(attributes(nodes, ast.Store))


@pytest.mark.parametrize("script", flags.SCRIPTS)
def test_every_flag_is_read_and_every_read_flag_declared(script):
    nodes = tree(f"{script}.py")
    unread, undeclared = unread_and_undeclared(script, nodes)
    assert not unread, "declared, but never read"
    assert not undeclared, "read, but never declared"
    assert f'flags.Parser("{script}", ' in ast.unparse(nodes).replace("'", '"')


def test_shared_modules_read_only_declared_flags():
    """What all scripts share may read what not all declare, as the two lengths of training."""
    declared = {flag.name for group in flags.FLAGS.values() for flag in group}
    for module in set(MODULES) - flags.SCRIPTS.keys() - {"squad_metrics"}:
        assert set(reads(tree(f"{module}.py"))) <= declared, module


def test_an_unread_and_an_undeclared_flag_are_noticed():
    """The two tests above can fail."""
    text = (ROOT / "run_squad.py").read_text("utf-8")
    assert "args.doc_stride" in text
    changed = ast.parse(text.replace("args.doc_stride", "args.doc_strides"))
    assert unread_and_undeclared("run_squad", changed) == ({"doc_stride"}, {"doc_strides"})


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
    texts = [path for path in tracked() if path.suffix != ".png"]
    assert not [path for path in texts if b"\r\n" in path.read_bytes()]


@pytest.mark.parametrize("command", (["check"], ["format", "--check"]), ids=" ".join)
def test_ruff(command):
    ruff = shutil.which("ruff")
    if not ruff:
        pytest.skip("ruff is not installed")
    outcome = subprocess.run([ruff, *command, "."], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout
