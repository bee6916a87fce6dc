"""Conversion of a BERT-Large checkpoint: time and peak memory.

Our converter is compared with what a user would write otherwise: a script that imports TensorFlow
and PyTorch, takes every variable from tf.train.load_checkpoint's reader, transposes the kernels and
calls torch.save. It is also compared with copying the bytes.

Each run is a process of its own; the contenders take turns, with the checkpoint in the operating
system's cache. Memory is the largest resident set of the process. Only ours waits until its file is
on the disk (fsync). Both wall-clock time and processor time are shown; the latter excludes waiting
for disks and for other virtual machines. Before each run, another process fills memory and releases
it: a virtual machine may have returned free memory to its host, and getting it back takes seconds.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0],
    rounds=(5, "timed runs of each"),
    folder=("", "where to put the files, 5 GB; by default in a temporary folder"),
    child=("", "used by itself"),
)

import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096}  # fmt: skip


def write(folder):
    """Writes a checkpoint of random weights under Google's names."""
    import numpy as np

    import tf_checkpoint
    from configuration import BertConfig
    from convert_tf_checkpoint_to_pytorch import variable_shapes

    sizes = common.SHAPES["BERT-Base"] if args.quick else LARGE
    config = BertConfig(vocab_size=30522, type_vocab_size=2, **sizes)
    with open(f"{folder}/bert_config.json", "w", encoding="utf-8") as file:
        file.write(config.to_json_string())
    rng = np.random.default_rng(0)
    heads = ("cls/squad", "output_")
    shapes = {k: v for k, v in variable_shapes(config).items() if not k.startswith(heads)}
    tf_checkpoint.write_checkpoint(
        f"{folder}/bert_model.ckpt",
        ((name, rng.standard_normal(shapes[name], np.float32)) for name in sorted(shapes)),
    )


def through_tensorflow(folder):
    import tensorflow as tf
    import torch

    from convert_tf_checkpoint_to_pytorch import pytorch_name

    reader = tf.train.load_checkpoint(f"{folder}/bert_model.ckpt")
    tensors = {}
    for name in reader.get_variable_to_shape_map():
        tensor = torch.from_numpy(reader.get_tensor(name))
        # PyTorch transposes twice as fast as NumPy's ascontiguousarray.
        tensors[pytorch_name(name)] = tensor.t().contiguous() if name.endswith("kernel") else tensor
    torch.save(tensors, f"{folder}/theirs.bin")


def start(*command):
    """Runs python; returns (seconds of processor time, peak memory in bytes)."""
    # The memory that this process holds would count as the new process's, but it is small.
    process = subprocess.Popen(
        [sys.executable, *command], cwd=common.ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def main():
    if args.child:
        name, folder = args.child.split(":", 1)
        {"write": write, "tensorflow": through_tensorflow}[name](folder)
        return
    processor, peak = {}, {}
    with tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        child = [__file__, "--threads", str(args.threads), *(["--quick"] if args.quick else [])]
        common.progress("writing a checkpoint of random weights")
        start(*child, "--child", f"write:{folder}")
        data = f"{folder}/bert_model.ckpt.data-00000-of-00001"
        size = os.path.getsize(data)
        commands = {
            "ours": ["convert_tf_checkpoint_to_pytorch.py",
                     "--tf_checkpoint_path", f"{folder}/bert_model.ckpt",
                     "--bert_config_file", f"{folder}/bert_config.json",
                     "--pytorch_dump_path", f"{folder}/ours.bin"],
            "through TensorFlow": [*child, "--child", f"tensorflow:{folder}"],
        }  # fmt: skip

        def timed(name):
            used, peak[name] = start(*commands[name])
            processor.setdefault(name, []).append(used)

        contenders = {name: lambda _, name=name: timed(name) for name in commands}
        contenders["copying the bytes"] = lambda _: shutil.copyfile(data, f"{folder}/copy")
        rounds = 2 if args.quick else args.rounds
        fill = f"import numpy; numpy.ones({3 * size}, 'u1')"
        seconds = common.interleave(contenders, rounds, before=lambda: start("-c", fill))
    processor = {name: used[-rounds:] for name, used in processor.items()}
    clock = common.ratios(seconds, "through TensorFlow")
    work = common.ratios(processor, "through TensorFlow")
    rows = [
        [
            name,
            f"{common.spread(times)['median']:.2f}",
            common.text(clock[name]),
            f"{common.spread(processor[name])['median']:.2f}" if name in work else "",
            common.text(work[name]) if name in work else "",
            f"{peak[name] / 1e6:.0f} MB" if name in peak else "",
        ]
        for name, times in seconds.items()
    ]
    header = ["", "seconds", "× TensorFlow", "processor seconds", "× TensorFlow", "peak memory"]
    common.table(f"Conversion of {size / 1e6:.0f} MB", header, rows)
    common.finish(args, rows)


if __name__ == "__main__":
    main()
