"""A small BERT with random weights as a TensorFlow checkpoint, which the notebook uses by default.

The vocabulary consists of the letters of the samples, so that their texts contain few [UNK].
"""

import json
from pathlib import Path

import numpy as np

from convert_tf_checkpoint_to_pytorch import variable_shapes
from modeling import BertConfig
from tf_checkpoint import write_checkpoint


def write_random_checkpoint(folder: Path, samples: Path) -> None:
    """Writes bert_model.ckpt.*, bert_config.json and vocab.txt to `folder`, which must exist.

    `samples` is the project's folder of that name. The values are the same every time.
    """
    texts = [path.read_text("utf-8").lower() for path in sorted(samples.glob("*/dev*"))]
    letters = sorted({letter for text in texts for letter in text if letter.isprintable()} - {" "})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{x}" for x in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=48, num_hidden_layers=4, num_attention_heads=3,
        intermediate_size=192, type_vocab_size=2,
    )  # fmt: skip
    (folder / "bert_config.json").write_text(json.dumps(config.to_dict()), "utf-8")

    rng = np.random.RandomState(0)

    def values(name, shape):
        if name.endswith("gamma"):
            return np.ones(shape, np.float32)
        deviation = (
            0.02 if len(shape) == 1 else config.hidden_size**-0.5
        )  # keeps activations near 1
        return (deviation * rng.standard_normal(shape)).astype(np.float32)

    variables = {
        name: values(name, shape)
        for name, shape in sorted(variable_shapes(config).items())
        if name.startswith("bert/")
    }
    write_checkpoint(str(folder / "bert_model.ckpt"), variables)
