"""Conversion of a BERT-Large checkpoint: time and peak memory.

Against the same conversion through TensorFlow's reader, and against copying the bytes. Each is a
process of its own, started in turn; memory is the process's largest resident set.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(5, "timed runs of each"), child=("", "used by itself")
)

import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
         "intermediate_size": 4096}  # fmt: skip


def write_checkpoint(folder, sizes):
    """Random weights under Google's names; returns their size in bytes."""
    import numpy as np

    import tf_checkpoint
    from convert_tf_checkpoint_to_pytorch import variable_shapes
    from modeling import BertConfig

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
    return sum(4 * int(np.prod(shape)) for shape in shapes.values())


def through_tensorflow(folder):
    import numpy as np
    import tensorflow as tf
    import torch

    from convert_tf_checkpoint_to_pytorch import pytorch_name

    reader = tf.train.load_checkpoint(f"{folder}/bert_model.ckpt")
    tensors = {}
    for name in reader.get_variable_to_shape_map():
        array = reader.get_tensor(name)
        array = np.ascontiguousarray(array.T) if name.endswith("kernel") else array
        tensors[pytorch_name(name)] = torch.from_numpy(array)
    torch.save(tensors, f"{folder}/out.bin")


def main():
    if args.child:
        through_tensorflow(args.child)
        return
    rounds = 2 if args.quick else args.rounds
    with tempfile.TemporaryDirectory() as folder:
        size = write_checkpoint(folder, common.SHAPES["BERT-Base"] if args.quick else LARGE)
        peak = {}

        def start(name, *command):
            process = subprocess.Popen(
                [sys.executable, *command], cwd=common.ROOT,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                sys.exit(f"{name} failed")
            peak[name] = usage.ru_maxrss * 1024

        ours = ["convert_tf_checkpoint_to_pytorch.py", "--tf_checkpoint_path",
                f"{folder}/bert_model.ckpt", "--bert_config_file", f"{folder}/bert_config.json",
                "--pytorch_dump_path", f"{folder}/out.bin"]  # fmt: skip
        data = f"{folder}/bert_model.ckpt.data-00000-of-00001"
        seconds = common.interleave(
            {
                "ours": lambda _: start("ours", *ours),
                "through TensorFlow": lambda _: start(
                    "through TensorFlow", __file__, "--child", folder
                ),
                "copying the bytes": lambda _: shutil.copyfile(data, f"{folder}/copy"),
            },
            rounds,
        )
    ratio = common.ratios(seconds, "through TensorFlow")
    rows = [
        [
            name,
            f"{common.spread(times)['median']:.2f}",
            common.text(ratio[name]),
            f"{(peak[name] - size) / 1e6:+.0f} MB" if name in peak else "",
        ]
        for name, times in seconds.items()
    ]
    header = ["", "seconds", "× TensorFlow", "peak memory − model"]
    common.table(f"Conversion of {size / 1e6:.0f} MB", header, rows)
    common.finish(args, rows)


if __name__ == "__main__":
    main()
