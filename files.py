"""Files: written whole or not at all, read as lines, found by pattern; an output folder's names."""

import contextlib
import glob
import os

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
    """The lines of a UTF-8 file, with or without a byte-order mark, as a list.

    A line ends with "\\n" or "\\r\\n" and nowhere else. Raises OSError, or ValueError with file and
    line where the file is not UTF-8.
    """
    with open(path, "rb") as file:
        try:
            lines = file.read().decode("utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ValueError(f"{path}:{line} is not UTF-8 ({error.reason})") from None
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


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
