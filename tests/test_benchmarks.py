"""benchmarks/: the one for a GPU runs, on a tiny model on the CPU."""

import json

import pytest
from helpers import run


def test_the_gpu_benchmark_runs_without_a_gpu(tmp_path):
    pytest.importorskip("transformers")
    cases = "BERT-Base:MRPC:32:training:bfloat16,BERT-Base:SQuAD:32:prediction:float32"
    path = tmp_path / "figures.json"
    outcome = run(
        "benchmarks/bench_gpu.py", "--device=cpu", "--quick", f"--cases={cases}",
        "--skip=eager", "--threads=1", f"--json={path}", timeout=600,
    ).ok()  # fmt: skip
    assert "BERT-Base:SQuAD:32:prediction:float32: " in outcome.out
    training, prediction = json.loads(path.read_text("utf-8"))["figures"]["results"]
    for result in (training, prediction):
        assert result["contenders"].keys() == {"ours", "default", "best"}
        assert all(figures["ms_a_step"] > 0 for figures in result["contenders"].values())
    without = run("benchmarks/bench_gpu.py").ok()
    assert without.out.startswith("bench_gpu.py: found no CUDA device")
