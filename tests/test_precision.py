"""precision.py: when --bf16 computes in bfloat16, on which CPU, under which caps; resume, ranks."""

import importlib
import json
import platform
import re
import sys

import pytest
import torch
from helpers import ROOT, SAMPLES, assert_same_weights, losses, model_flags, run, run_ranks

import checkpoint
import precision
import run_classifier
import run_squad
from training import Runtime

AVX2 = {"avx2": True}
AVX512 = {**AVX2, "avx512_f": True}
AVX512_BF16 = {**AVX512, "avx512_bf16": True}
AMX = {**AVX512_BF16, "amx_tile": True, "amx_bf16": True}
NATIVE = ""
ON_X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the caps are those of x86")


@pytest.fixture
def machine(monkeypatch):
    """machine(kind, chip, level, onednn, **env): makes PyTorch describe another CPU."""

    def machine(kind="x86_64", chip=AVX512_BF16, level="AVX512", onednn=True, **env):
        for name in (precision.FORCE, "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA",
                     "DNNL_MAX_CPU_ISA"):  # fmt: skip
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(platform, "machine", lambda: kind)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: chip)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: level)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
        monkeypatch.setattr(torch._C, "_has_mkldnn", True)
        monkeypatch.setattr(precision, "product_seconds", lambda: pytest.fail("nothing is silent"))

    return machine


@pytest.mark.parametrize(
    "cpu, reason",
    (
        ({"chip": AVX2, "level": "AVX2", "onednn": False}, "AVX2 but neither AVX512_BF16 nor AMX"),
        ({"chip": {}, "level": "DEFAULT", "onednn": False}, "SSE but neither AVX512_BF16 nor AMX"),
        # oneDNN takes bfloat16 with any AVX-512 and computes it with float32's instructions.
        ({"chip": AVX512}, "AVX-512 but neither AVX512_BF16 nor AMX"),
        ({"chip": AVX512_BF16}, NATIVE),
        ({"chip": AMX}, NATIVE),
        ({"kind": "AMD64"}, NATIVE),
        ({"chip": AMX, "level": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, "ATEN_CPU_CAPABILITY=avx2"),
        ({"level": "DEFAULT", "ATEN_CPU_CAPABILITY": "default"}, "ATEN_CPU_CAPABILITY=default"),
        ({"level": "AVX2"}, "this PyTorch keeps"),
        ({"ATEN_CPU_CAPABILITY": "avx512"}, NATIVE),
        ({"onednn": False, "ONEDNN_MAX_CPU_ISA": "AVX2"}, "ONEDNN_MAX_CPU_ISA=AVX2"),
        ({"onednn": False, "ONEDNN_MAX_CPU_ISA": "sse41"}, "ONEDNN_MAX_CPU_ISA=SSE41"),
        ({"onednn": False, "DNNL_MAX_CPU_ISA": "AVX2"}, "DNNL_MAX_CPU_ISA=AVX2"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "ONEDNN_MAX_CPU_ISA=AVX512_CORE"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, NATIVE),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, NATIVE),
        ({"chip": AMX, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, NATIVE),
        ({"chip": {**AVX512, "amx_bf16": True}}, NATIVE),
        ({"chip": {**AVX512, "amx_bf16": True}, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
         "keeps oneDNN from AMX"),
        # oneDNN ignores what it does not know, and the older name where there is the newer one.
        ({"ONEDNN_MAX_CPU_ISA": "nonsense"}, NATIVE),
        ({"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"}, NATIVE),
        ({"onednn": False}, "oneDNN takes no bfloat16"),
        ({"kind": "aarch64", "chip": {"bf16": True}, "level": "DEFAULT"}, NATIVE),
        ({"kind": "arm64", "chip": {"neon": True}, "level": "DEFAULT", "onednn": False},
         "this CPU has no bfloat16 instructions"),
        # What is asked for is computed, wherever.
        ({"chip": AVX2, "level": "AVX2", "onednn": False, "BERT_FORCE_BF16": "1"}, NATIVE),
        ({"chip": AVX2, "level": "AVX2", "onednn": False, "BERT_FORCE_BF16": "0"}, "AVX2 but"),
    ),
)  # fmt: skip
def test_what_pytorch_and_onednn_will_use_decides(machine, cpu, reason):
    machine(**cpu)
    found = precision.emulation()
    assert reason in found if reason else found == ""
    assert "\n" not in found


def test_without_onednn_on_x86(machine, monkeypatch):
    machine()
    assert precision.emulation() == ""
    torch.backends.mkldnn.enabled = False
    try:
        assert "without oneDNN" in precision.emulation()
    finally:
        torch.backends.mkldnn.enabled = True
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    assert "without oneDNN" in precision.emulation()


def unknown():
    raise AttributeError("an older PyTorch")


@pytest.mark.parametrize("silent", ("other CPU", "ARM without oneDNN", "older PyTorch on x86"))
@pytest.mark.parametrize("slower, native", ((0.5, True), (1.9, True), (2.1, False), (15, False)))
def test_a_product_decides_where_nothing_is_said(machine, monkeypatch, silent, slower, native):
    machine({"other CPU": "ppc64le", "ARM without oneDNN": "arm64"}.get(silent, "x86_64"))
    if silent == "ARM without oneDNN":
        monkeypatch.setattr(torch._C, "_has_mkldnn", False)
    elif silent == "older PyTorch on x86":
        monkeypatch.setattr(torch.cpu, "get_capabilities", unknown)
        monkeypatch.delattr(torch.cpu, "_is_avx2_supported")
    seconds = {torch.float32: 1e-3, torch.bfloat16: slower * 1e-3}
    monkeypatch.setattr(precision, "product_seconds", lambda: seconds)
    wanted = "" if native else f"a bfloat16 product takes {slower:.1f} times as long as a float32"
    assert precision.emulation().startswith(wanted) and bool(precision.emulation()) != native


def test_older_functions_say_it_too(machine, monkeypatch):
    machine()
    monkeypatch.setattr(torch.cpu, "get_capabilities", unknown)
    flags = {"avx2": True, "avx512": True, "avx512_bf16": False, "amx_tile": False}
    for name, value in flags.items():
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda value=value: value)
    assert "AVX-512 but neither" in precision.emulation()
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert precision.emulation() == ""


def test_the_product_is_timed_in_both_precisions():
    precision.product_seconds.cache_clear()
    seconds = precision.product_seconds()
    assert seconds.keys() == {torch.float32, torch.bfloat16}
    assert all(0 < value < 0.5 for value in seconds.values())
    assert precision.product_seconds() is seconds  # a run does not change its mind


@ON_X86
@pytest.mark.parametrize("cap", ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"))
def test_flags_agree_with_a_product_on_this_machine(cap):
    """With oneDNN's cap bfloat16 is emulated, and is as slow as is said."""
    code = (
        "import precision, torch; s = precision.product_seconds(); "
        "print(s[torch.bfloat16] / s[torch.float32], bool(precision.emulation()))"
    )
    outcome = run("-c", code, env={cap: "AVX2", precision.FORCE: ""}).ok()
    slower, emulated = outcome.out.split()
    assert emulated == "True" and float(slower) > 2


@pytest.mark.parametrize("native", (True, False))
def test_on_a_gpu(monkeypatch, native):
    asked = []
    monkeypatch.delenv(precision.FORCE, raising=False)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda **kind: asked.append(kind) or native
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    wanted = "" if native else "Tesla T4 has no bfloat16 instructions"
    assert precision.emulation("cuda") == wanted and asked == [{"including_emulation": False}]


def test_instruction_sets_in_words(machine):
    machine(chip=AMX, ONEDNN_MAX_CPU_ISA="AVX2", level="AVX2")
    assert precision.instruction_sets() == (
        "PyTorch AVX2, oneDNN capped by ONEDNN_MAX_CPU_ISA=AVX2, CPU with AVX512_BF16 and AMX_BF16"
    )
    machine(chip=AVX2, level="AVX2")
    assert precision.instruction_sets() == (
        "PyTorch AVX2, oneDNN not capped, CPU without bfloat16 instructions"
    )


# --- what a run says and keeps -------------------------------------------------------------------

CAPS = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    precision.FORCE: "",
}  # fmt: skip
LINE = "--bf16: computing in float32, which is more exact and faster than emulated bfloat16: "


@pytest.fixture(scope="session")
def command(tiny_model, mrpc):
    """Six steps in bfloat16, if that is native."""
    return [
        "--task_name=MRPC", f"--data_dir={mrpc}", *model_flags(tiny_model), "--max_seq_length=24",
        "--train_batch_size=4", "--learning_rate=1e-3", "--num_train_epochs=2", "--do_train",
        "--do_eval", "--save_checkpoints_steps=2", "--bf16",
    ]  # fmt: skip


@ON_X86
def test_a_run_where_bfloat16_is_emulated(command, tmp_path):
    asked, plain, forced = (tmp_path / name for name in ("asked", "plain", "forced"))
    outcome = run("run_classifier.py", *command, f"--output_dir={asked}", env=CAPS).ok()
    assert outcome.out.count("--bf16: ") == 1 and LINE in outcome.out
    assert "1 rank, float32, " in outcome.out
    facts = json.loads((asked / "run.json").read_text("utf-8"))
    assert facts["precision"] == "float32" and facts["flags"]["bf16"] is True
    assert facts["why_not_bf16"] in outcome.out
    page = (asked / "report.html").read_text("utf-8")
    for name in ("precision", "evaluated_in"):
        assert f'<th scope="row">{name}</th><td>float32</td>' in page

    alone = [flag for flag in command if flag != "--bf16"]
    outcome = run("run_classifier.py", *alone, f"--output_dir={plain}", env=CAPS).ok()
    assert "--bf16" not in outcome.out
    assert_same_weights(asked, plain)
    assert losses(asked) == losses(plain)

    force = {**CAPS, precision.FORCE: "1"}
    outcome = run("run_classifier.py", *command, f"--output_dir={forced}", env=force).ok()
    assert "--bf16" not in outcome.out and "1 rank, bfloat16, " in outcome.out
    facts = json.loads((forced / "run.json").read_text("utf-8"))
    assert facts["precision"] == "bfloat16" and "why_not_bf16" not in facts
    assert losses(forced) != losses(plain)


@ON_X86
def test_extract_features_where_bfloat16_is_emulated(tiny_model, tmp_path):
    (tmp_path / "in.txt").write_text("A man came.\nWho is he? ||| The man.\n", "utf-8")
    outputs = {}
    for name, more, env in (
        ("plain", [], CAPS), ("asked", ["--bf16"], CAPS),
        ("forced", ["--bf16"], {**CAPS, precision.FORCE: "1"}),
    ):  # fmt: skip
        path = tmp_path / name
        outcome = run(
            "extract_features.py", f"--input_file={tmp_path / 'in.txt'}", f"--output_file={path}",
            *model_flags(tiny_model), "--max_seq_length=24", "--layers=-1", *more, env=env,
        ).ok()  # fmt: skip
        assert outcome.out.count(LINE) == (name == "asked")
        used = "bfloat16" if name == "forced" else "float32"
        assert f"CPU, 1 thread, 1 rank, {used}\n" in outcome.out
        outputs[name] = path.read_text("utf-8")
    assert outputs["plain"] == outputs["asked"] != outputs["forced"]


# --- resume --------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch):
    """here(reason): why bfloat16 is emulated on this machine; "" where it is native."""

    def here(reason):
        monkeypatch.delenv(precision.FORCE, raising=False)
        monkeypatch.setattr(precision, "emulation", lambda device: reason)

    return here


def stopped_after(step, out):
    """Leaves of a finished run what one that was killed after `step` would have left."""
    for path in out.glob("checkpoint-*.pt"):
        if path.name != f"checkpoint-{step}.pt":
            path.unlink()
    (out / "pytorch_model.bin").unlink()


def test_a_run_in_float32_goes_on_in_float32(here, command, call, tmp_path):
    out, plain = tmp_path / "out", tmp_path / "plain"
    alone = [flag for flag in command if flag != "--bf16"]
    call(run_classifier, *alone, f"--output_dir={plain}").ok()

    here("this CPU is old")
    first = call(run_classifier, *command, f"--output_dir={out}").ok()
    assert "--bf16: computing in float32" in first.out and "this CPU is old" in first.out
    stopped_after(4, out)

    here("")
    second = call(run_classifier, *command, f"--output_dir={out}").ok()
    path = out / "checkpoint-4.pt"
    assert second.out.count("--bf16: ") == 1
    assert f"--bf16: continuing in float32, as {path} was computed" in second.out
    assert "1 rank, float32, " in second.out and f"resuming from {path}" in second.out
    assert_same_weights(out, plain)
    assert losses(out) == losses(plain)
    facts = json.loads((out / "run.json").read_text("utf-8"))
    assert facts["precision"] == "float32"
    assert facts["why_not_bf16"] == f"{path} was computed in float32"


@pytest.mark.parametrize("older", (False, True))
def test_a_run_in_bfloat16_stops_where_it_is_emulated(here, command, call, tmp_path, older,
                                                      monkeypatch):  # fmt: skip
    out = tmp_path / "out"
    here("")
    first = call(run_classifier, *command, f"--output_dir={out}").ok()
    assert "1 rank, bfloat16, " in first.out and "--bf16" not in first.out
    assert "precision" in checkpoint.read_tensors(str(out / "checkpoint-4.pt"))
    whole = losses(out)
    stopped_after(4, out)
    path = out / "checkpoint-4.pt"
    if older:  # of a version that did not record it
        state = checkpoint.read_tensors(str(path))
        del state["precision"]
        checkpoint.save_tensors(state, str(path))

    here("this CPU is old")
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    stopped = call(run_classifier, *command, f"--output_dir={out}")
    assert stopped.status == 2
    assert stopped.err == (
        f"run_classifier.py: error: {path} was computed in bfloat16, but here --bf16 computes in "
        f"float32 (this CPU is old): resume where bfloat16 is native, emulate it with "
        f"BERT_FORCE_BF16=1, or start over with --overwrite_output_dir\n"
    )
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before

    monkeypatch.undo()
    monkeypatch.setenv(precision.FORCE, "1")
    last = call(run_classifier, *command, f"--output_dir={out}").ok()
    assert "1 rank, bfloat16, " in last.out and losses(out) == whole


def test_overwriting_and_evaluation_follow_no_checkpoint(here, command, call, tmp_path):
    out = tmp_path / "out"
    here("this CPU is old")
    call(run_classifier, *command, f"--output_dir={out}").ok()
    here("")
    alone = [flag for flag in command if flag != "--do_train"]
    outcome = call(run_classifier, *alone, f"--output_dir={out}").ok()
    assert "1 rank, bfloat16, " in outcome.out
    page = (out / "report.html").read_text("utf-8")
    assert '<th scope="row">precision</th><td>float32</td>' in page
    assert '<th scope="row">evaluated_in</th><td>bfloat16</td>' in page
    outcome = call(run_classifier, *command, "--overwrite_output_dir", f"--output_dir={out}").ok()
    assert "1 rank, bfloat16, " in outcome.out and "continuing" not in outcome.out


def test_other_flags_are_told_before_the_precision(here, command, call, tmp_path):
    """A checkpoint of a run without --bf16 says nothing about what --bf16 is."""
    alone = [flag for flag in command if flag != "--bf16"]
    call(run_classifier, *alone, f"--output_dir={tmp_path}").ok()
    stopped_after(4, tmp_path)
    here("")
    outcome = call(run_classifier, *command, f"--output_dir={tmp_path}")
    assert outcome.status == 2 and "bf16 was False, is True" in outcome.err
    assert "--bf16: " not in outcome.out


def test_the_precision_of_the_newest_checkpoint_that_opens(here, command, call, tmp_path):
    here("this CPU is old")
    call(run_classifier, *command, f"--output_dir={tmp_path}").ok()
    assert checkpoint.recorded_precision(str(tmp_path))[0] == str(tmp_path / "checkpoint-6.pt")
    (tmp_path / "checkpoint-6.pt").write_bytes(b"damaged")
    found = checkpoint.recorded_precision(str(tmp_path))
    assert found == (str(tmp_path / "checkpoint-4.pt"), "float32")
    (tmp_path / "checkpoint-4.pt").write_bytes(b"PK\3\4")
    assert checkpoint.recorded_precision(str(tmp_path)) is None
    assert checkpoint.recorded_precision(str(tmp_path / "nowhere")) is None


def test_squad_and_its_report(here, tiny_model, squad, call, tmp_path):
    here("this CPU is old")
    outcome = call(
        run_squad, *model_flags(tiny_model), "--max_seq_length=64", "--max_query_length=24",
        "--doc_stride=16", "--train_batch_size=3", "--bf16", "--num_train_epochs=2", "--do_train",
        f"--train_file={squad / 'train-v1.1.json'}", "--do_predict",
        f"--predict_file={squad / 'dev-v1.1.json'}", f"--output_dir={tmp_path}",
    ).ok()  # fmt: skip
    assert outcome.out.count("this CPU is old") == 1 and "1 rank, float32, " in outcome.out
    assert "<td>this CPU is old</td>" in (tmp_path / "report.html").read_text("utf-8")


# --- ranks ---------------------------------------------------------------------------------------

RANKS = """
import os, sys
sys.path.insert(0, os.getcwd())
import precision, run_classifier

precision.emulation = lambda device: "it is old" if os.environ["RANK"] == sys.argv[1] else ""
run_classifier.main(sys.argv[2:])
"""


def test_ranks_agree_on_float32(command, here, call, tmp_path):
    """Where one of two ranks would emulate bfloat16 both compute in float32."""
    (tmp_path / "ranks.py").write_text(RANKS, "utf-8")
    out, native, plain = (tmp_path / name for name in ("out", "native", "plain"))

    outcome = run_ranks(2, tmp_path / "ranks.py", "1", *command, f"--output_dir={out}").ok()
    assert outcome.out.count("bfloat16: rank 1: it is old\n") == 1
    assert "2 ranks, float32, " in outcome.out
    alone = [flag for flag in command if flag != "--bf16"]
    run_ranks(2, "run_classifier.py", *alone, f"--output_dir={plain}").ok()
    assert_same_weights(out, plain)  # were a rank in bfloat16, they would not be
    assert json.loads((out / "run.json").read_text("utf-8"))["precision"] == "float32"

    # Where bfloat16 is native on both they continue as they began, and alike.
    stopped_after(4, out)
    again = run_ranks(2, tmp_path / "ranks.py", "none", *command, f"--output_dir={out}").ok()
    assert again.out.count("--bf16: continuing in float32") == 1
    assert_same_weights(out, plain)

    # A run that began in bfloat16 stops on both, whichever is old.
    here("")
    call(run_classifier, *command, f"--output_dir={native}").ok()
    stopped_after(4, native)
    outcome = run_ranks(2, tmp_path / "ranks.py", "0", *command, f"--output_dir={native}")
    assert outcome.status
    assert (
        "checkpoint-4.pt was computed in bfloat16, but here --bf16 computes in float32 (rank 0"
        in (outcome.err)
    )


def test_one_rank_that_emulates_is_enough():
    runtime, said = Runtime(torch.device("cpu"), 0, 3), []
    runtime.print = said.append
    runtime.gather = lambda value: ["", "old", "older"]
    precision.choose(runtime)
    assert runtime.dtype is torch.float32 and runtime.why_not_bf16 == "rank 1: old"
    assert len(said) == 1 and said[0].endswith(": rank 1: old")
    assert Runtime(torch.device("cpu")).gather(3) == [3]


def test_rank_0_tells_which_checkpoint_counts():
    runtime = Runtime(torch.device("cpu"), 1, 2, torch.bfloat16)
    runtime.gather = lambda value: [("a.pt", "float32"), value]
    precision.follow_checkpoint(runtime, None)
    assert runtime.dtype is torch.float32


# --- what else asks ------------------------------------------------------------------------------


@pytest.fixture
def common(monkeypatch):
    """benchmarks/common.py"""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.delitem(sys.modules, "common", raising=False)
    return importlib.import_module("common")


def test_benchmarks_leave_bfloat16_out_where_it_is_emulated(machine, common, capsys):
    machine()
    assert common.precisions() == ["float32", "bfloat16"]
    assert common.precisions("bfloat16") == ["bfloat16"]
    assert capsys.readouterr().out == ""
    machine(chip=AVX2, level="AVX2", onednn=False)
    assert common.precisions() == common.precisions("float32") == ["float32"]
    assert capsys.readouterr().out == (
        "bfloat16 is left out: this CPU has AVX2 but neither AVX512_BF16 nor AMX "
        "(BERT_FORCE_BF16=1 measures it)\n"
    )
    with pytest.raises(SystemExit, match="nothing is left to measure"):
        common.precisions("bfloat16")
    machine(chip=AVX2, level="AVX2", onednn=False, BERT_FORCE_BF16="1")
    assert common.precisions() == ["float32", "bfloat16"]


def test_benchmarks_say_what_they_measure_and_where(machine, common, capsys, monkeypatch):
    machine(level="AVX2", chip=AVX2, onednn=False)
    clock = iter((0.0, 0.1, 40.0, 90.0))
    monkeypatch.setattr(common.time, "monotonic", lambda: next(clock))
    calls = []
    contenders = {name: lambda number, name=name: calls.append(name) for name in ("one", "other")}
    common.interleave(contenders, 1)
    assert calls == ["one", "other", "other", "one"]
    said = capsys.readouterr().err.splitlines()  # the second came too soon after the first
    assert said == ["… one, warm-up", "… other, round 1 of 1", "… one, round 1 of 1"]
    common.table("Title", ["a"], [[1]])
    assert ": PyTorch AVX2, oneDNN not capped, CPU without bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize("capped", (False, pytest.param(True, marks=ON_X86)))
def test_the_demo_says_how_long_it_will_take(capped):
    folders = SAMPLES / "MRPC", SAMPLES / "SQuAD"
    env = CAPS if capped else {precision.FORCE: "1"}
    outcome = run("samples/demo_time.py", folders[0], 3, folders[1], 4, env=env).ok()
    assert re.fullmatch(
        r"== The demo will take about \d+ (s|min) on this CPU "
        rf"\({'float32' if capped else 'bfloat16'}, 1 threads\)\n",
        outcome.out,
    )


def test_levels_of_make_test_isa(monkeypatch):
    levels = importlib.import_module("isa").levels
    x86 = {"architecture": "x86_64"}
    for chip, wanted in (
        (x86, ["default"]),
        ({**x86, **AVX2}, ["default", "avx2"]),
        ({**x86, **AMX}, ["default", "avx2", "avx512"]),
        ({"architecture": "ARM64", "bf16": True}, ["default", "this CPU's own"]),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda chip=chip: chip)
        assert list(levels()) == wanted
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {**x86, **AVX2})
    assert levels()["avx2"] == {name: CAPS[name] for name in CAPS if name != precision.FORCE}
