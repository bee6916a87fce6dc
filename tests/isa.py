"""Runs the tests marked numeric under several instruction sets, with one thread and with two.

    python tests/isa.py

Kernels for other CPUs sum in a different order, and so round differently. A level caps the
instructions of PyTorch, oneDNN and MKL alike, so that one CPU can stand in for older ones.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parent
# Level -> the CPU feature that it needs, and the values of VARIABLES.
LEVELS = {
    "default": (None, "default", "SSE41", "SSE4_2"),
    "avx2": ("avx2", "avx2", "AVX2", "AVX2"),
    "avx512": ("avx512_f", "avx512", "AVX512_CORE", "AVX512"),
}
VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")


def levels():
    """{level: {variable: value}} of the levels that this CPU can run."""
    found = torch.cpu.get_capabilities()
    if found.get("architecture") not in ("x86_64", "x86"):
        return {"default": {"ATEN_CPU_CAPABILITY": "default"}, "this CPU's own": {}}
    return {
        level: dict(zip(VARIABLES, caps))
        for level, (needed, *caps) in LEVELS.items()
        if needed is None or found.get(needed)
    }


def run_tests(caps, threads):
    """(number of tests that passed, seconds). Prints the output and exits if a test failed."""
    env = os.environ | caps | {"BERT_TEST_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    # The other files take longer to collect than some levels to run.
    files = [path for path in sorted(TESTS.glob("test_*.py")) if "mark.numeric" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "numeric", "-n", "2", *files]
    command += sys.argv[1:]
    start = time.monotonic()
    outcome = subprocess.run(
        command,
        cwd=TESTS.parent,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    passed = re.search(r"^(\d+) passed\b", outcome.stdout, re.MULTILINE)
    if outcome.returncode or not passed:
        print(outcome.stdout, flush=True)
        sys.exit(f"the tests failed under {caps} with {threads} threads")
    return int(passed[1]), time.monotonic() - start


def main():
    for level, caps in levels().items():
        for threads in (1, 2):
            passed, seconds = run_tests(caps, threads)
            words = "1 thread" if threads == 1 else f"{threads} threads"
            print(f"{level}, {words}: {passed} tests in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
