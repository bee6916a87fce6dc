"""Files: written whole or not at all, read as lines, found by pattern; an output folder's names."""

import contextlib
import glob
import os
from collections import Counter
from dataclasses import dataclass, field

# What lies in an --output_dir.
WEIGHTS = "pytorch_model.bin"
SAFETENSORS = "model.safetensors"
WEIGHT_FILES = (WEIGHTS, SAFETENSORS)
CONFIG = "bert_config.json"
VOCAB = "vocab.txt"
RUN = "run.json"
LOG = "training_log.jsonl"
EVAL_RESULTS = "eval_results.txt"
SEEDS_RESULTS = "seeds_results.json"
TEST_RESULTS = "test_results.tsv"
PREDICTIONS = "predictions.json"
NBEST_PREDICTIONS = "nbest_predictions.json"
NULL_ODDS = "null_odds.json"
REPORT = "report.html"


@contextlib.contextmanager
def atomic_write(path, mode="w", size=0):
    """Opens a temporary file that replaces `path` once it is complete and on the disk.

    After an error or a kill, `path` is what it was before. `size` is the number of bytes that will
    be needed, for the message about a full disk. Raises OSError where the file cannot be written.
    """
    temporary = f"{path}.tmp"
    try:
        with open(temporary, mode, **({} if "b" in mode else {"encoding": "utf-8"})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        # The new name is on the disk only once the folder is.
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            megabytes = f"{size / 1e6:.0f} MB"
            raise OSError(f"{path} could not be written ({megabytes}): {error}") from None
        raise


def read_lines(path):
    """The list of what `iter_lines` yields."""
    return list(iter_lines(path))


def iter_lines(path):
    """Yields the lines of a UTF-8 file, with or without a byte-order mark.

    A line ends with "\\n" or "\\r\\n" and nowhere else. Raises OSError, or ValueError with file and
    line where the file is not UTF-8, or where only carriage returns end its lines.
    """
    check_line_ends(path)
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
                if not line:  # the file has nothing but the mark
                    return
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number} is not UTF-8 ({error.reason})") from None
            yield text.removesuffix("\n").removesuffix("\r")


def check_line_ends(path):
    """Raises ValueError for a file in which carriage returns alone end the lines."""
    has_returns = False
    with open(path, "rb") as file:
        while block := file.read(2**20):
            if b"\n" in block:
                return
            has_returns |= b"\r" in block
    if has_returns:
        raise ValueError(
            f"{path}: its lines end with a carriage return alone, as on a classic Mac: convert "
            f"them to line feeds"
        )


@dataclass
class Tally:
    """What became of the rows of an input file, and what they come to as the model's inputs."""

    unit: str = "rows"  # what `read` counts
    read: int = 0
    skipped: Counter = field(default_factory=Counter)  # {why: number}
    cut: int = 0  # to the limit of WordPieces
    longest: int = 0  # WordPieces before cutting
    notes: list[str] = field(default_factory=list)
    inputs: int = 0
    tokens: int = 0
    unknown: int = 0

    def add_input(self, input_ids, num_tokens, unk_id) -> None:
        """Counts an input with the array `input_ids`, which had `num_tokens` before it was cut."""
        self.inputs += 1
        self.tokens += len(input_ids)
        self.unknown += int((input_ids == unk_id).sum())
        self.add_length(num_tokens, len(input_ids))

    def add_length(self, num_tokens, num_kept) -> None:
        """Counts a text of which `num_kept` of `num_tokens` WordPieces are left."""
        self.cut += num_tokens > num_kept
        self.longest = max(self.longest, num_tokens)

    def __str__(self) -> str:
        num_skipped = self.skipped.total()
        reasons = ", ".join(f"{number:,} {why}" for why, number in self.skipped.items() if number)
        text = f"{self.unit} read {self.read:,}, used {self.read - num_skipped:,}, "
        text += f"skipped {num_skipped:,}" + (f" ({reasons})" if num_skipped else "")
        text += f", cut {self.cut:,}"
        if self.cut:
            text += f" (the longest has {self.longest:,} WordPieces)"
        return ", ".join([text, *self.notes])


def find_input_files(patterns):
    """The paths that comma-separated file names or glob patterns mean, those of a pattern sorted.

    A name that exists is taken literally, whatever characters it has. Raises FileNotFoundError for
    a pattern without any file.
    """
    paths = []
    for pattern in patterns.split(","):
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        if not found:
            raise FileNotFoundError(f"--input_file {pattern}: no such file")
        paths += found
    return paths
