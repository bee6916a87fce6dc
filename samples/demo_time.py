"""Prints about how long `make demo` will take on this machine.

    python samples/demo_time.py MRPC_FOLDER MRPC_EPOCHS SQUAD_FOLDER SQUAD_EPOCHS

The estimate comes from the number of words to train on and the speed of a matrix product, measured
in the precision that --bf16 chooses on this machine.
"""

import json
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import precision  # noqa: E402
from progress import duration  # noqa: E402

TOKENS = 1.3  # WordPieces per word, with punctuation
# Per token: 6 layers, 384 wide, forward and backward.
FLOPS = 3 * 6 * (8 * 384**2 + 4 * 384 * 1536)
# The share of a product's speed that a training step reaches.
SHARE = {torch.float32: 0.65, torch.bfloat16: 0.45}
GPU_TOKENS = 20000  # per second; most GPUs are faster
STARTS = 25  # seconds for conversion, four starts of Python and evaluation


def words_of_mrpc(folder):
    lines = (Path(folder) / "train.tsv").read_text("utf-8-sig").splitlines()[1:]
    return sum(len(line.split()) for line in lines)


def words_of_squad(folder):
    """A paragraph counts once for each of its questions."""
    dataset = json.loads((Path(folder) / "train-v1.1.json").read_text("utf-8-sig"))
    paragraphs = (p for article in dataset["data"] for p in article["paragraphs"])
    return sum((len(p["context"].split()) + 10) * len(p["qas"]) for p in paragraphs)


def speed(dtype):
    """FLOP/s of a matrix product of the size that training uses."""
    x = torch.ones(1024, 384, dtype=dtype)
    weight = torch.ones(1536, 384, dtype=dtype)
    best = float("inf")
    for _ in range(8):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        best = min(best, time.perf_counter() - start)
    return 2 * x.numel() * len(weight) / best


def main():
    mrpc, mrpc_epochs, squad, squad_epochs = sys.argv[1:]
    words = words_of_mrpc(mrpc) * float(mrpc_epochs) + words_of_squad(squad) * float(squad_epochs)
    tokens = words * TOKENS
    if torch.cuda.is_available():
        time_text = duration(STARTS + tokens / GPU_TOKENS)
        print(f"== The demo will take about {time_text} on this GPU")
        return
    dtype = torch.float32 if precision.emulation("cpu") else torch.bfloat16
    time_text = duration(STARTS + tokens * FLOPS / (SHARE[dtype] * speed(dtype)))
    how = f"{str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads"
    print(f"== The demo will take about {time_text} on this CPU ({how})")


if __name__ == "__main__":
    main()
