"""Files: written whole or not at all, read as lines, found by pattern; an output folder's names."""

import contextlib
import fcntl
import glob
import json
import os
import socket
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Names of the files in an --output_dir.
WEIGHTS = "pytorch_model.bin"
SAFETENSORS = "model.safetensors"
WEIGHT_FILES = (WEIGHTS, SAFETENSORS)
CONFIG = "bert_config.json"
TRANSFORMERS_CONFIG = "config.json"
VOCAB = "vocab.txt"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER = "tokenizer.json"  # of transformers, which since version 5 writes no vocab.txt
RUN = "run.json"
LOG = "training_log.jsonl"
EVAL_RESULTS = "eval_results.txt"
SEEDS_RESULTS = "seeds_results.json"
TEST_RESULTS = "test_results.tsv"
TEST_PREDICTIONS = "test_predictions.txt"
TEST_EVAL_RESULTS = "test_eval_results.txt"
PREDICTIONS = "predictions.json"
NBEST_PREDICTIONS = "nbest_predictions.json"
NULL_ODDS = "null_odds.json"
REPORT = "report.html"
PREDICTIONS_REPORT = "predictions.html"  # of predictions alone, beside the report of a run
CHECKPOINTS = "checkpoint-*.pt"

# Patterns of everything that a run of ours writes to its --output_dir, and nothing else: what
# --overwrite_output_dir removes. The last ones are the files for the GLUE server.
WRITTEN = (
    *WEIGHT_FILES, CONFIG, TRANSFORMERS_CONFIG, VOCAB, TOKENIZER_CONFIG, RUN, LOG, EVAL_RESULTS,
    SEEDS_RESULTS, TEST_RESULTS, "test_results_mismatched.tsv", TEST_PREDICTIONS,
    TEST_EVAL_RESULTS, PREDICTIONS, NBEST_PREDICTIONS, NULL_ODDS, REPORT, PREDICTIONS_REPORT,
    CHECKPOINTS,
    "MRPC.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "CoLA.tsv", "SST-2.tsv", "STS-B.tsv", "QQP.tsv",
    "RTE.tsv", "QNLI.tsv", "WNLI.tsv",
)  # fmt: skip

# The first bytes of files that are mistaken for weights, and what such a file is.
WRONG_FILES = (
    (b"version https://git-lfs.github.com", "a git-lfs pointer, not the file itself: run git lfs "
     "pull in its folder"),
    (b"<!doctype html", "a web page: download the file itself, not the page that shows it"),
    (b"<html", "a web page: download the file itself, not the page that shows it"),
    (b"<?xml", "an XML page, as servers send it instead of a file: download the file again"),
    (b"\x89HDF\r\n\x1a\n", "a Keras file (HDF5), which is not read: take the same model's "
     "model.safetensors or pytorch_model.bin"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"GGUF", "a GGUF file, which is not read: take the same model's model.safetensors"),
    (b"{", "a JSON file, not weights"),
)  # fmt: skip


def wrong_file(path: str | os.PathLike) -> str:
    """What a file is instead of weights, judging by its first bytes; "" if nothing is wrong.

    Raises OSError.
    """
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        return "empty: download or copy it again"
    if head[7:9] == b"\0{":  # .safetensors: a length in 8 bytes, which may look like anything
        return ""
    text = b"" if b"\0" in head else head.lstrip().lower()
    for signature, kind in WRONG_FILES:
        if head.startswith(signature) or text.startswith(signature):
            return kind
    return ""


class FolderLock:
    """Keeps other processes from training in a folder, until it is deleted or the process ends.

    The lock is the system's, on the file .lock in the folder, so a killed process leaves none. It
    belongs to the process: the same one may take it again. Raises ValueError if another process
    has it, and OSError if the file cannot be written.
    """

    def __init__(self, folder: str):
        path = os.path.join(folder, ".lock")
        while True:
            file = open(path, "a+", encoding="utf-8")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                holder = file.read(200).strip() or "another process"
                file.close()
                raise ValueError(
                    f"--output_dir {folder} is in use by {holder}: wait for its end, or use "
                    f"another folder"
                ) from None
            except OSError:
                pass  # A file system without locks: nothing can be held there.
            # The last holder may have removed the file after it was opened here.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(path), os.fstat(file.fileno())):
                    break
            file.close()
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        weakref.finalize(self, _release, path, file)


def _release(path, file):
    """Removes the file of a lock, then frees it."""
    with contextlib.suppress(OSError):
        os.remove(path)
    file.close()


def is_stream(path: str | os.PathLike) -> bool:
    """Whether a path is a device or a pipe, which is written to and not replaced."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w", size: int = 0) -> Iterator[IO]:
    """Opens a temporary file that replaces `path` once it is complete and on the disk.

    After an error or a kill, `path` is what it was before. A link stays, and the file that it
    points to is replaced; a device or a pipe, as /dev/stdout may be, is written to directly. `size`
    is the number of bytes that will be needed, for the message about a full disk. Raises OSError
    where the file cannot be written.
    """
    encoding = None if "b" in mode else "utf-8"
    if is_stream(path):
        with errors_naming(path, path, size), open(path, mode, encoding=encoding) as file:
            yield file
        return

    target = os.path.realpath(path)
    temporary = f"{target}.tmp"
    try:
        with errors_naming(path, temporary, size):
            with open(temporary, mode, encoding=encoding) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
            # The new name is on the disk only once the folder is.
            folder = os.open(os.path.dirname(target), os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


@contextlib.contextmanager
def errors_naming(path: str | os.PathLike, opened: str | os.PathLike = "", size: int = 0):
    """Makes an OSError in its body, about `opened` or about no file, one that names `path`."""
    try:
        yield
    except BrokenPipeError:  # The reader of a pipe has seen enough.
        raise
    except OSError as error:
        if error.filename not in (None, opened):
            raise
        needed = f" ({size / 1e6:.0f} MB)" if size else ""
        raise OSError(f"{path} could not be written{needed}: {error.strerror or error}") from None


def read_lines(path: str | os.PathLike) -> list[str]:
    """The list of what `iter_lines` yields."""
    return list(iter_lines(path))


def iter_lines(path: str | os.PathLike, keep_ends: bool = False) -> Iterator[str]:
    """Yields the lines of a UTF-8 file, or of stdin for "-", with or without a byte-order mark.

    A line ends with "\\n" or "\\r\\n" and nowhere else; `keep_ends` leaves these at it. Raises
    OSError, or ValueError with file and line where the file is not UTF-8, where only carriage
    returns end its lines, or where stdin is closed.
    """
    if path == "-" and sys.stdin is None:
        raise ValueError("stdin is closed: there is nothing to read from -")
    with contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
        for number, line in enumerate(file, start=1):
            if number == 1:
                if b"\r" in line and not line.endswith(b"\n"):
                    raise ValueError(_mac_line_ends(path))
                if line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise ValueError(
                        f"{path} is UTF-16 text, as Excel's Unicode Text is: save it as UTF-8"
                    )
                line = line.removeprefix(b"\xef\xbb\xbf")
                if not line:  # the file has nothing but the mark
                    return
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}:{number} is not UTF-8 ({error.reason}): save the file as UTF-8"
                ) from None
            yield text if keep_ends else text.removesuffix("\n").removesuffix("\r")


def check_line_ends(path: str | os.PathLike) -> None:
    """Raises ValueError for a file in which carriage returns alone end the lines."""
    has_returns = False
    with open(path, "rb") as file:
        while block := file.read(2**20):
            if b"\n" in block:
                return
            has_returns |= b"\r" in block
    if has_returns:
        raise ValueError(_mac_line_ends(path))


def _mac_line_ends(path):
    return (
        f"{path}: its lines end with a carriage return alone, as on a classic Mac: convert them to "
        f"line feeds"
    )


def read_json(path) -> dict:
    """The object in a JSON file. Raises OSError, or ValueError where it is damaged."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            values = json.load(file)
        if not isinstance(values, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return values


# What run.json may hold under these names; any of them may be absent or null.
RUN_TYPES = {
    "flags": dict, "labels": list, "never_split": (str, list), "do_lower_case": bool,
    "strip_accents": bool, "global_step": int, "problem_type": str, "task": str, "script": str,
}  # fmt: skip


def read_run(folder: str | os.PathLike) -> dict:
    """What run.json in a folder says, without what is null; {} if there is none.

    Raises ValueError where it is damaged.
    """
    path = os.path.join(folder, RUN)
    if not os.path.isfile(path):
        return {}
    values = {name: value for name, value in read_json(path).items() if value is not None}
    for name, kind in RUN_TYPES.items():
        if name in values and not isinstance(values[name], kind):
            raise ValueError(f"{path} is damaged: {name} is {values[name]!r}")
    return values


@dataclass
class Tally:
    """How many rows of an input file were used, skipped and cut, and the inputs made of them."""

    unit: str = "rows"  # what `read` counts
    read: int = 0
    skipped: Counter = field(default_factory=Counter)  # {why: number}
    cut: int = 0  # to the limit of WordPieces
    longest: int = 0  # WordPieces before cutting
    notes: list[str] = field(default_factory=list)
    inputs: int = 0
    tokens: int = 0
    unknown: int = 0

    def add_input(self, input_ids: "np.ndarray", num_tokens: int, unk_id: int) -> None:
        """Counts an input with the array `input_ids`, which had `num_tokens` before it was cut."""
        self.inputs += 1
        self.tokens += len(input_ids)
        self.unknown += int((input_ids == unk_id).sum())
        self.add_length(num_tokens, len(input_ids))

    def add_length(self, num_tokens: int, num_kept: int) -> None:
        """Counts a text of which `num_kept` of `num_tokens` WordPieces are left."""
        self.cut += num_tokens > num_kept
        self.longest = max(self.longest, num_tokens)

    def first(self, examples, number, flag) -> list:
        """The first `number` of the examples, or all for None; `flag` is why others are skipped."""
        kept = examples[:number]
        self.skipped[f"beyond --{flag}"] += len(examples) - len(kept)
        return kept

    def __str__(self) -> str:
        num_skipped = self.skipped.total()
        reasons = ", ".join(f"{number:,} {why}" for why, number in self.skipped.items() if number)
        text = f"{self.unit} read {self.read:,}, used {self.read - num_skipped:,}, "
        text += f"skipped {num_skipped:,}" + (f" ({reasons})" if num_skipped else "")
        text += f", cut {self.cut:,}"
        if self.cut:
            text += f" (the longest has {self.longest:,} WordPieces)"
        return ", ".join([text, *self.notes])


def count(number: int, noun: str) -> str:
    """ "1 rank", "2 ranks" """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def find_input_files(patterns: str, flag: str = "input_file") -> list[str]:
    """The paths that comma-separated file names or glob patterns mean, those of a pattern sorted.

    A name that exists is taken literally, whatever characters it has. Raises OSError, naming the
    `flag`, for a pattern without any file, and for a folder.
    """
    paths = []
    for pattern in patterns.split(","):
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        if not found:
            raise FileNotFoundError(f"--{flag} {pattern}: no such file")
        for path in filter(os.path.isdir, found):
            raise IsADirectoryError(f"--{flag} {path} is a folder: give files, as in {path}/*")
        paths += found
    return paths
