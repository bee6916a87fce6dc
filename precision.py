"""Whether bfloat16 is worth computing in on this machine.

Matrix products in bfloat16 are twice as fast as in float32 where the processor has instructions for
them, and up to fifteen times slower where PyTorch has to emulate them. What counts is what PyTorch
and oneDNN will use under their caps, not what the chip could do.
"""

import os
import platform
import time
from functools import cache

import torch

FORCE = "BERT_FORCE_BF16"  # "1": bfloat16 even where it is emulated, to test its arithmetic

# Values of ONEDNN_MAX_CPU_ISA below the first instruction set with bfloat16 products. oneDNN
# ignores values that it does not know, so other values do not cap anything.
WITHOUT_BF16 = (
    "SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI",
)  # fmt: skip
WITHOUT_AMX = ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512", "AVX10_2_512")


def choose(runtime) -> None:
    """Sets the precision of a run with --bf16, the same on all ranks; prints why it is float32.

    If one rank would emulate bfloat16, all use float32: the others would wait for it at each step.
    """
    for rank, reason in enumerate(runtime.gather(emulation(runtime.device.type))):
        if reason:
            runtime.why_not_bf16 = reason if runtime.world_size == 1 else f"rank {rank}: {reason}"
            runtime.print(
                f"--bf16: computing in float32, which is more exact and faster than emulated "
                f"bfloat16: {runtime.why_not_bf16}"
            )
            return
    runtime.dtype = torch.bfloat16


def follow_checkpoint(runtime, record: tuple[str, str] | None) -> None:
    """Makes a resumed run with --bf16 compute as its checkpoint did.

    `record` is the checkpoint's (path, precision), or None without one; rank 0's counts. Raises
    ValueError if the checkpoint was computed in bfloat16, which would be emulated here.
    """
    record = runtime.gather(record)[0]
    if record is None or record[1] == runtime.precision:
        return
    path, precision = record
    if precision != "float32":
        raise ValueError(
            f"{path} was computed in {precision}, but here --bf16 computes in float32 "
            f"({runtime.why_not_bf16}): resume where bfloat16 is native, emulate it with "
            f"{FORCE}=1, or start over with --overwrite_output_dir"
        )
    runtime.print(
        f"--bf16: continuing in float32, as {path} was computed, although bfloat16 is native"
    )
    runtime.dtype = torch.float32
    runtime.why_not_bf16 = f"{path} was computed in float32"


def emulation(device_type: str = "cpu") -> str:
    """Why bfloat16 products are emulated on a device, in words; "" where they are native.

    Also "" where BERT_FORCE_BF16 asks for them anyway.
    """
    if os.environ.get(FORCE, "") not in ("", "0"):
        return ""
    if device_type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return ""
        return f"{torch.cuda.get_device_name()} has no bfloat16 instructions"
    kind = platform.machine().lower()
    if kind in ("x86_64", "amd64", "i386", "i686"):
        return _emulation_on_x86()
    if kind in ("arm64", "aarch64"):
        return _emulation_on_arm()
    return _emulation_by_time()


def _emulation_on_x86():
    found = capabilities()
    if found is None:  # This PyTorch does not say what the chip has.
        return _emulation_by_time()
    if not (found.get("avx512_bf16") or found.get("amx_bf16")):
        best = "AVX-512" if found.get("avx512_f") else "AVX2" if found.get("avx2") else "SSE"
        return f"this CPU has {best} but neither AVX512_BF16 nor AMX"

    name, cap = onednn_cap()
    if cap in WITHOUT_BF16:
        return f"{name}={cap} keeps oneDNN from bfloat16 instructions"
    if cap in WITHOUT_AMX and not found.get("avx512_bf16"):
        return f"{name}={cap} keeps oneDNN from AMX, the CPU's only bfloat16 instructions"

    level = torch.backends.cpu.get_cpu_capability()
    if level in ("DEFAULT", "NO AVX", "AVX2"):
        asked = os.environ.get("ATEN_CPU_CAPABILITY")
        why = f"ATEN_CPU_CAPABILITY={asked} keeps" if asked else "this PyTorch keeps"
        return f"{why} PyTorch from AVX-512, and so from bfloat16 instructions"

    if not torch.backends.mkldnn.is_available() or not torch.backends.mkldnn.enabled:
        return "this PyTorch computes without oneDNN, which has the bfloat16 kernels"
    return "" if _onednn_takes_bf16() in (True, None) else "oneDNN takes no bfloat16 on this CPU"


def _emulation_on_arm():
    # Without oneDNN, as on macOS, the CPU's flag does not say what PyTorch makes of it.
    native = _onednn_takes_bf16() if torch.backends.mkldnn.is_available() else None
    if native is None:
        return _emulation_by_time()
    return "" if native else "this CPU has no bfloat16 instructions"


def _emulation_by_time():
    """Decides by a product in each precision: a factor of 2 is far above the noise of timing."""
    seconds = product_seconds()
    slower = seconds[torch.bfloat16] / seconds[torch.float32]
    if slower <= 2:
        return ""
    return f"a bfloat16 product takes {slower:.1f} times as long as a float32 one on this CPU"


def capabilities() -> dict[str, bool] | None:
    """The chip's features by name, or None where this PyTorch does not know them."""
    try:
        return torch.cpu.get_capabilities()
    except (AttributeError, RuntimeError):
        pass
    try:  # the functions that were there before
        return {
            "avx2": torch.cpu._is_avx2_supported(), "avx512_f": torch.cpu._is_avx512_supported(),
            "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
            "amx_bf16": torch.cpu._is_amx_tile_supported(),
        }  # fmt: skip
    except (AttributeError, RuntimeError):
        return None


def onednn_cap() -> tuple[str, str]:
    """(variable, value) of the cap on oneDNN's instructions; ("", "") without one."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):  # oneDNN reads them in this order
        if value := os.environ.get(name):
            return name, value.upper()
    return "", ""


def _onednn_takes_bf16():
    """What oneDNN says, True or False; None where this PyTorch cannot ask it.

    True is not the whole answer on x86: oneDNN takes bfloat16 with any AVX-512, and without
    AVX512_BF16 computes it at half of float32's speed.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):
        return None


@cache  # The same answer for a whole run.
def product_seconds() -> dict[torch.dtype, float]:
    """{precision: seconds of a matrix product of 17 MFLOP}, the best of a few."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(128, 256, dtype=dtype)
        weight = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(6):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times[1:])  # the first makes the kernel
    return seconds


def instruction_sets() -> str:
    """What PyTorch and oneDNN compute with on this CPU, in words, for tables of speed."""
    found = capabilities() or {}
    name, cap = onednn_cap()
    extra = [
        key.upper() for key in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16") if found.get(key)
    ]
    return ", ".join([
        f"PyTorch {torch.backends.cpu.get_cpu_capability()}",
        f"oneDNN capped by {name}={cap}" if cap else "oneDNN not capped",
        f"CPU with {' and '.join(extra)}" if extra else "CPU without bfloat16 instructions",
    ])  # fmt: skip
