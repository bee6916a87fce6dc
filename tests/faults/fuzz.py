"""Hostile input for every parser: only ValueError and OSError may come out, with no side effects.

    python tests/faults/fuzz.py PARSER RUNS SEED FOLDER

feeds RUNS inputs to a parser and writes the outcome to FOLDER/result.json. The inputs come from
atheris (libFuzzer, guided by coverage). Checksums do not stop them: they are computed for the input
where a format has them, and the input's first byte chooses the depth at which it is inserted.
"""

import contextlib
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent.parent
FUZZING = __name__ == "__main__"
DOCUMENTED = ValueError, OSError
MEMORY = 2**30  # bytes that a parser may allocate
RESULT = "result.json"

if FUZZING:
    import atheris

    sys.path.insert(0, str(ROOT))
    instrumented = atheris.instrument_imports(include=[path.stem for path in ROOT.glob("*.py")])
else:
    instrumented = contextlib.nullcontext()
with instrumented:
    import checkpoint
    import glue_data
    import instances
    import run_pretraining
    import squad_data
    import squad_metrics
    import tf_checkpoint
    import tokenization
    import weights
    from configuration import BertConfig

import numpy as np  # noqa: E402
import torch  # noqa: E402
from crc32c import crc32c  # noqa: E402


@dataclass
class Parser:
    """A parser, the inputs to start from and its share of all inputs.

    seeds: right inputs, and a few wrong ones; parse(data, folder) reads one; share: in percent;
    is_json: the inputs are JSON, so that whole values are replaced too.
    """

    seeds: list
    parse: object
    share: int
    is_json: bool = False


def at_depth(data, depths):
    """Splits an input into the depth that its first byte chooses and the rest."""
    return (data[0] % depths, data[1:]) if data else (0, b"")


# --- TensorFlow's checkpoints ---------------------------------------------------------------------

VARIABLES = {"bert/pooler/dense/bias": np.arange(7, dtype="f4"), "global_step": np.int64(3)}
SHARD = ".data-00000-of-00001"
STATE = b'model_checkpoint_path: "fuzz.ckpt"\nall_model_checkpoint_paths: "fuzz.ckpt"\n'


def block(content):
    """A block of TensorFlow's table format with its checksum."""
    content += bytes([0, 0, 0, 0, 1, 0, 0, 0, 0])
    return content + tf_checkpoint._masked_crc(content)


def table(content):
    """A checkpoint's index file with one block."""
    digits = tf_checkpoint._digits
    parts = [block(content), block(b"")]
    handle = digits(0) + digits(len(parts[0]) - 5)
    parts.append(block(b"\0" + digits(1) + digits(len(handle)) + b"\xff" + handle))
    footer = digits(len(parts[0])) + digits(len(parts[1]) - 5)
    footer += digits(len(parts[0]) + len(parts[1])) + digits(len(parts[2]) - 5)
    return b"".join(parts) + footer.ljust(40, b"\0") + tf_checkpoint.MAGIC


def pairs(*keys_and_values):
    """The content of a block: keys, stored whole, and values."""
    digits = tf_checkpoint._digits
    return b"".join(b"\0" + digits(len(k)) + digits(len(v)) + k + v for k, v in keys_and_values)


def tensorflow_seeds():
    """(right inputs, the data shard that they refer to)."""
    with tempfile.TemporaryDirectory() as folder:
        tf_checkpoint.write_checkpoint(f"{folder}/fuzz.ckpt", VARIABLES)
        index = Path(folder, "fuzz.ckpt.index").read_bytes()
        shard = Path(f"{folder}/fuzz.ckpt{SHARD}").read_bytes()
        entries = dict(tf_checkpoint._read_table(f"{folder}/fuzz.ckpt.index"))
    entry = entries[b"bert/pooler/dense/bias"]
    return [b"\0" + index, b"\1" + pairs(*entries.items()), b"\2" + entry, b"\3" + STATE], shard


TENSORFLOW = tensorflow_seeds()


def parse_tensorflow(data, folder):
    """Depths: an index file; a block of it; one entry; the file naming the latest checkpoint."""
    depth, data = at_depth(data, 4)
    prefix = folder / "fuzz.ckpt"
    if not (shard := Path(f"{prefix}{SHARD}")).exists():
        shard.write_bytes(TENSORFLOW[1])
    index = data if depth == 0 else table(data) if depth == 1 else table(pairs((b"", b"\x08\1")))
    if depth == 2:
        index = table(pairs((b"", b"\x08\1"), (b"bert/pooler/dense/bias", data)))
    Path(f"{prefix}.index").write_bytes(index)
    if depth == 3:
        (folder / "checkpoint").write_bytes(data)
        (folder / "other.index").write_bytes(b"")
        tf_checkpoint.find_prefix(folder)
    found = tf_checkpoint.Checkpoint(prefix)
    for name in found.variables:
        found[name]


# --- PyTorch's weights, safetensors, resume checkpoints -------------------------------------------

TENSORS = {"bert.pooler.dense.bias": np.arange(7, dtype="f4"), "classifier.bias": np.ones(1, "f4")}
RUNTIME = SimpleNamespace(
    is_main=False, print=lambda *_: None, require_equal=lambda *_: None, keep_finished=False
)


class Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def archive_of(*names_and_contents):
    """A zip archive with right checksums, laid out as torch.save's."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names_and_contents:
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def around(pickled):
    """An archive that holds this pickle and the bytes of TENSORS."""
    data = ((f"data/{number}", array.tobytes()) for number, array in enumerate(TENSORS.values()))
    return archive_of(("data.pkl", pickled), ("byteorder", "little"), ("version", "3\n"), *data)


def saved(values, **options):
    """The bytes that torch.save writes."""
    file = io.BytesIO()
    torch.save(values, file, **options)
    return file.getvalue()


def pickle_in(content):
    """The pickle in an archive of torch.save."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return archive.read(next(name for name in archive.namelist() if "data.pkl" in name))


def bin_seeds():
    tensors = {name: torch.from_numpy(array) for name, array in TENSORS.items()}
    evil = pickle_in(saved({"weight": Code()}))
    return [b"\0" + saved(tensors), b"\1" + pickle_in(saved(tensors)), b"\1" + evil,
            b"\2" + saved(tensors, _use_new_zipfile_serialization=False)]  # fmt: skip


def parse_bin(data, folder):
    """Depths: an archive; the pickle in it; a file in the format used before PyTorch 1.6."""
    depth, data = at_depth(data, 3)
    path = folder / "pytorch_model.bin"
    path.write_bytes(around(data) if depth == 1 else data)
    for tensor in weights.read_state_dict(path).values():
        tensor.shape  # noqa: B018


def state_of(**changes):
    """The content of a resume checkpoint."""
    tensors = {name: torch.from_numpy(array) for name, array in TENSORS.items()}
    return {"step": 3, "model": tensors, "optimizer": {}, "scale": None,
            "decisive": {"seed": "42"}, **changes}  # fmt: skip


def resume_seeds():
    states = state_of(), state_of(decisive={"seed": "1"}), [state_of()], {"model": {}}
    return [b"\0" + saved(state_of()), *(b"\1" + pickle_in(saved(state)) for state in states)]


def parse_resume(data, folder):
    """Depths: an archive; the pickle in it."""
    depth, data = at_depth(data, 2)
    (folder / "checkpoint-3.pt").write_bytes(around(data) if depth else data)
    args = SimpleNamespace(
        output_dir=str(folder), overwrite_output_dir=False, do_train=True, init_checkpoint=None
    )
    checkpoint.resume_or_clear(args, RUNTIME, {"seed": "42"})


def safetensors_seeds():
    with tempfile.TemporaryDirectory() as folder:
        zeros = {name: 0 * array for name, array in TENSORS.items()}
        weights.write_safetensors(f"{folder}/a.safetensors", zeros)
        content = Path(folder, "a.safetensors").read_bytes()
    size = 8 + int.from_bytes(content[:8], "little")
    return [b"\0" + content, b"\1" + content[8:size]]


def parse_safetensors(data, folder):
    """Depths: a file; its header."""
    depth, data = at_depth(data, 2)
    if depth:
        data = len(data).to_bytes(8, "little") + data + bytes(32)
    (folder / "model.safetensors").write_bytes(data)
    weights.read_state_dict(folder / "model.safetensors")


def parse_weights_index(data, folder):
    """The JSON file that names the files of a large model's weights."""
    for place in (folder, folder.parent):
        if not (place / "part.bin").exists():
            (place / "part.bin").write_bytes(saved({"bert.pooler.dense.bias": torch.ones(7)}))
    (folder / "pytorch_model.bin.index.json").write_bytes(data)
    weights.read_state_dict(folder)


# --- text -----------------------------------------------------------------------------------------

WORDS = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nquick\nbrown\n##s\nfox\n.\n?\n"
CONFIG = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
          "intermediate_size": 16, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
          "max_position_embeddings": 32, "type_vocab_size": 2, "pooler": 3}  # fmt: skip
QUESTION = {"id": "1", "question": "What quick fox?", "is_impossible": False,
            "answers": [{"text": "brown fox", "answer_start": 10}]}  # fmt: skip
SQUAD = {"version": "v2.0", "data": [{"title": "Fox", "paragraphs": [
    {"context": "The quick brown foxes.\nThe\u00a0fox.", "qas": [
        QUESTION, {**QUESTION, "id": "2", "is_impossible": True, "answers": []}]}]}]}  # fmt: skip
DEEP = b"[" * 100_000
PROCESSORS = [glue_data.PROCESSORS[name] for name in sorted(glue_data.PROCESSORS) if name != "tsv"]
HEADLESS = [number for number, task in enumerate(PROCESSORS) if "train" not in task.headers]
PROCESSORS.append(lambda: glue_data.TsvProcessor(("0", "1"), (1,), 0))


def tokenizer_of(folder):
    """A tokenizer whose vocabulary file is in the folder."""
    path = folder / "words.txt"
    if not path.exists():
        path.write_bytes(WORDS)
    return tokenization.FullTokenizer(str(path))


def parse_vocabulary(data, folder):
    (folder / "vocab.txt").write_bytes(data)
    tokenizer = tokenization.FullTokenizer(str(folder / "vocab.txt"))
    tokenizer.tokenize("The quick [MASK] foxes \u4e2d\u0301.")


def parse_configuration(data, folder):
    (folder / "bert_config.json").write_bytes(data)
    BertConfig.from_json_file(folder / "bert_config.json").to_json_string()


def tsv_seeds():
    """Yields a header, if the file has one, and two rows for each file of each task."""
    for task, processor in enumerate(PROCESSORS):
        row = ["zh", "neutral", "neutral", *(f"The {word} fox" for word in "abcdefgh")]
        row[processor().label_column] = [*processor().labels, "2.5"][0]
        for kind in range(3):
            lines = "\t".join(map(str, range(11))), "\t".join(row), "\t".join(row)
            yield bytes([task, kind]) + "\n".join(lines[task in HEADLESS :]).encode()


def parse_tsv(data, folder):
    """The first byte chooses the task, the second train, dev or test."""
    task, data = at_depth(data, len(PROCESSORS))
    kind, data = at_depth(data, 3)
    processor, kind = PROCESSORS[task](), ("train", "dev", "test")[kind]
    path = folder / processor.files[kind]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    processor.get_examples(str(folder), kind, log=lambda *_: None)


def parse_squad(data, folder):
    """Depths: training or prediction with SQuAD 1.1 or 2.0, with features; the metric."""
    tokenizer = tokenizer_of(folder)
    depth, data = at_depth(data, 5)
    path = folder / "squad.json"
    path.write_bytes(data)
    if depth == 4:
        squad_metrics.evaluate(squad_metrics._load_json(path), {"1": "brown fox"})
        return
    examples = squad_data.read_squad_examples(path, depth % 2, depth > 1, log=lambda *_: None)
    squad_data.convert_examples_to_features(examples, tokenizer, 16, 4, 6, depth % 2)


def parse_run(data, folder):
    (folder / "run.json").write_bytes(data)
    checkpoint.read_metadata(folder).get("labels")


# --- pre-training instances -----------------------------------------------------------------------


def field(number, content):
    """A length-delimited field of a protocol buffer."""
    return bytes([8 * number + 2]) + tf_checkpoint._digits(len(content)) + content


def record(content):
    """A record of a TFRecord file with its checksums."""
    size, crc = len(content).to_bytes(8, "little"), tf_checkpoint._masked_crc
    return size + crc(size) + content + crc(content)


def example():
    """A tf.train.Example of a pre-training instance."""
    integers = {
        "input_ids": b"\2\3\3\0", "input_mask": b"\1\1\1\0", "segment_ids": b"\0\1\1\0",
        "masked_lm_positions": b"\1\0", "masked_lm_ids": b"\7\0", "next_sentence_labels": b"\1",
    }  # fmt: skip
    features = {name: field(3, field(1, packed)) for name, packed in integers.items()}
    features["masked_lm_weights"] = field(2, field(1, struct.pack("<2f", 1, 0)))
    entries = (field(1, k.encode()) + field(2, v) for k, v in features.items())
    return field(1, b"".join(field(1, entry) for entry in entries))


def instances_seeds():
    rows = [instances.encode_instance([2, 5, 3, 6, 3], [0, 0, 0, 1, 1], [1], [7], 1)] * 3
    with tempfile.TemporaryDirectory() as folder:
        instances.write_instances(f"{folder}/a", rows, 16, 2, 12)
        ours = Path(folder, "a").read_bytes()
    return [b"\0" + ours, b"\1" + ours, b"\0" + record(example()), b"\2" + example()]


def with_checksums(data):
    """An instance file of one block with its checksums corrected, if its sizes make sense."""
    header, data = instances.HEADER, bytearray(data)
    if len(data) < header.size:
        return data
    _, rows, *_, itemsize, _ = header.unpack(data[: header.size])
    crcs = header.size + 8 * (rows + 1)
    if crcs + 4 <= len(data):
        first, last = (int.from_bytes(data[at : at + 8], "little") * itemsize
                       for at in (header.size, crcs - 8))  # fmt: skip
        data[crcs : crcs + 4] = crc32c(data[crcs + 4 :][first:last]).to_bytes(4, "little")
    head = bytes(data[: header.size - 4])
    index = bytes(data[header.size : crcs + 4])
    data[header.size - 4 : header.size] = crc32c(index, crc32c(head)).to_bytes(4, "little")
    return data


def parse_instances(data, folder):
    """Depths: a file as it is; our format with right checksums; a record of a TFRecord file."""
    depth, data = at_depth(data, 3)
    path = folder / "text.instances"
    path.write_bytes((data, with_checksums(data), record(data))[depth])
    file = instances.open_instances(path)
    for index in range(min(10, len(file))):
        row = instances.checked_row(file, index, 12)
        (packed,), *masked, labels = run_pretraining.make_batch([row])
        assert packed.seqlens == [len(row.input_ids)] and labels.shape == (1,)
        assert {tensor.shape for tensor in masked} == {(1, len(row.masked_lm_ids))}


def as_json(*values):
    """Values as JSON, and JSON that is nested too deep."""
    return [json.dumps(value).encode() for value in values] + [DEEP]


PARSERS = {
    "TensorFlow index": Parser(TENSORFLOW[0], parse_tensorflow, 20),
    "vocabulary": Parser([WORDS, b"\xef\xbb\xbf" + WORDS.replace(b"\n", b"\r\n")],
                         parse_vocabulary, 10),
    "configuration": Parser(as_json(CONFIG), parse_configuration, 14, True),
    "TSV": Parser(list(tsv_seeds()), parse_tsv, 14),
    "SQuAD": Parser([bytes([depth]) + text for depth in range(5) for text in as_json(SQUAD)],
                    parse_squad, 12, True),
    "instances": Parser(instances_seeds(), parse_instances, 14),
    "weights (.bin)": Parser(bin_seeds(), parse_bin, 4),
    "weights (.safetensors)": Parser(safetensors_seeds(), parse_safetensors, 4),
    "weights (index)": Parser(
        as_json({"weight_map": {"bert.pooler.dense.bias": "part.bin"}},
                {"weight_map": {"bert.pooler.dense.bias": "../part.bin"}}),
        parse_weights_index, 3, True),
    "resume checkpoint": Parser(resume_seeds(), parse_resume, 3),
    "run.json": Parser(as_json({"labels": ["0", "1"], "do_lower_case": True}), parse_run, 2, True),
}  # fmt: skip


# --- feeding the parsers --------------------------------------------------------------------------

VALUES = ("null", "true", "false", "0", "-1", "7", "1" * 30, "1.5", "NaN", "Infinity", '""', '"x"',
          '"../x"', '"\\u0000"', '"\\ud800"', "[]", "{}", "[[]]", "[null]", '{"": []}',
          '{"text": 1}', "DELETE")  # fmt: skip
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "os.remove",
             "os.rename", "os.rmdir", "os.chmod", "socket.connect", "ctypes.dlopen")  # fmt: skip


def edit_bytes(data, edits):
    """Applies edits: (place, bytes to insert there, number of bytes to remove there)."""
    data = bytearray(data)
    for place, piece, removed in edits:
        place %= len(data) + 1
        data[place : place + removed] = piece
    return bytes(data)


def edit_json(data, edits):
    """Applies edits: (place, JSON to put there, or DELETE). Returns data as it is if not JSON."""
    try:
        root = [json.loads(data)]
    except (ValueError, RecursionError):
        return data
    for place, value in edits:
        holders, todo = [], [root]
        while todo:
            holder = todo.pop()
            keys = holder if isinstance(holder, dict) else range(len(holder))
            holders += [(holder, key) for key in keys]
            todo += [holder[key] for key in keys if isinstance(holder[key], (dict, list))]
        holder, key = holders[place % len(holders)]
        if value != "DELETE":
            holder[key] = json.loads(value)
        elif holder is not root:
            del holder[key]
    return json.dumps(root[0]).encode()


def edit(parser, data, byte_edits, json_edits):
    """An input made from a right one by both kinds of edits."""
    if parser.is_json:
        head, data = (data[:1], data[1:]) if parser.parse is parse_squad else (b"", data)
        data = head + edit_json(data, json_edits)
    return edit_bytes(data, byte_edits)


class Guard:
    """Feeds inputs to a parser in a folder of its own and watches what else the parser does."""

    def __init__(self, parser, folder):
        self.parser, self.folder, self.events = parser, folder / "inside", None
        self.folder.mkdir()
        self.failures, self.slowest = {}, 0.0
        libraries = {sys.prefix, sys.base_prefix, str(ROOT), str(Path(np.__file__).parent.parent)}
        self.allowed = (*libraries, f"{self.folder}{os.sep}", "/proc/", "/dev/", "/sys/")
        for seed in parser.seeds:  # modules that parsers import lazily are imported now, unwatched
            self.feed(seed)
        sys.addaudithook(self)

    def __call__(self, event, values):
        if self.events is None:
            return
        if event.startswith(FORBIDDEN):
            self.events.append(f"{event}{values}")
        elif event == "open" and isinstance(values[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(values[0]))
            if not path.startswith(self.allowed) and path != str(self.folder):
                self.events.append(f"opens {path}")

    def feed(self, data):
        """Parses an input; returns its failure or None. Keeps one failure of each kind."""
        self.events, began, failure = [], time.monotonic(), None
        try:
            self.parser.parse(data, self.folder)
        except DOCUMENTED:
            pass
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
            failure = f"undocumented {type(error).__name__} at {where}: {str(error)[:100]}"
        self.slowest = max(self.slowest, time.monotonic() - began)
        if self.events:
            failure = self.events[0]
        self.events = None
        if failure and len(self.failures) < 20:
            self.failures.setdefault(failure.partition(": ")[0], f"{failure}; input {data[:200]!r}")
        return failure


def memory(name):
    """A figure of /proc/self/status in MB, or 0 on systems without it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return int(status.partition(f"{name}:")[2].split()[0]) / 1e3


def fuzz(name, runs, seed, folder):
    """Feeds `runs` inputs to a parser and writes {"inputs", "failures", …}; does not return."""
    parser, folder = PARSERS[name], Path(folder).resolve()
    os.chdir(folder)
    guard, counts = Guard(parser, folder), {"inputs": 0}
    before = memory("VmHWM")
    limit = int(memory("VmSize") * 1e6) + MEMORY
    if memory("VmSize"):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def one_input(data):
        guard.feed(data)
        counts["inputs"] += 1
        if counts["inputs"] in (runs, 1):  # libFuzzer never returns; 1 in case it crashes
            executed = list(folder.rglob("executed"))
            facts = {**counts, "failures": [*guard.failures.values(), *map(str, executed)],
                     "slowest": guard.slowest, "memory": [before, memory("VmHWM")]}  # fmt: skip
            (folder / RESULT).write_text(json.dumps(facts))

    def mutate(data, max_size, seed):
        rng = random.Random(seed)
        if parser.is_json and rng.random() < 0.5:
            edits = [(rng.randrange(2**16), rng.choice(VALUES)) for _ in range(rng.randint(1, 3))]
            return edit(parser, data, [], edits)[:max_size]
        return atheris.Mutate(data, max_size)

    corpus = folder / "corpus"
    corpus.mkdir()
    for number, content in enumerate(parser.seeds):
        (corpus / str(number)).write_bytes(content)
    atheris.Setup(["fuzz.py", str(corpus), f"-runs={runs}", f"-seed={seed}", "-max_len=4096",
                   "-timeout=60", "-rss_limit_mb=0", "-verbosity=0"], one_input,
                  custom_mutator=mutate)  # fmt: skip
    atheris.Fuzz()


def attack(folder, seed, inputs):
    """Feeds `inputs` inputs to the parsers, by their shares; returns a Tally of {parser: facts}."""
    from jobs import ENVIRONMENT, Tally

    tally = Tally()
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("no fuzzing: it needs the package atheris: pip install atheris")
        return tally
    total = sum(parser.share for parser in PARSERS.values())
    for number, (name, parser) in enumerate(PARSERS.items()):
        place = folder / str(number)
        place.mkdir()
        runs = -(-inputs * parser.share // total)
        command = [sys.executable, __file__, name, str(runs), str(seed % 2**31 + 1), str(place)]
        ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True)
        facts = json.loads((place / RESULT).read_text())
        if ended.returncode or facts["inputs"] < runs:
            last = ended.stderr.decode(errors="replace").strip()[-300:]
            facts["failures"].append(f"it died with status {ended.returncode}: {last}")
        elif facts["memory"][1] - facts["memory"][0] > MEMORY / 8e6:
            facts["failures"].append("memory: {} MB grow to {}".format(*facts["memory"]))
        tally.done[name] = facts
        for failure in facts["failures"]:
            tally.fail("undocumented", [name], failure)
    return tally


if FUZZING:
    name, runs, seed, folder = sys.argv[1:]
    fuzz(name, int(runs), int(seed), folder)
