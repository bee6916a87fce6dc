"""Google's TensorFlow checkpoints of BERT to PyTorch state dicts, without TensorFlow.

    python convert_tf_checkpoint_to_pytorch.py \\
        --tf_checkpoint_path=$BERT_BASE_DIR/bert_model.ckpt \\
        --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
        --pytorch_dump_path=$BERT_PYTORCH_DIR/pytorch_model.bin

Takes what google-research/bert saves: the encoder, bare or with the heads of pre-training,
classification, SQuAD. It needs neither TensorFlow nor, but to fill a model, PyTorch.
"""

import os
from collections import Counter

import numpy as np

import flags
from configuration import BertConfig
from files import WEIGHTS
from tf_checkpoint import Checkpoint
from weights import write_bin


def pytorch_name(variable):
    """Google's name of a variable -> its name in PyTorch files; both converters' only rule."""
    scope, _, leaf = variable.rpartition("/")
    module = {"": "classifier", "cls/squad": "qa_outputs"}.get(scope)
    module = module or scope.replace("/layer_", "/layer/").replace("/", ".")
    name = f"{module}.{leaf}" if leaf.endswith("_embeddings") else module
    return f"{name}.bias" if leaf in ("bias", "beta", "output_bias") else f"{name}.weight"


def variable_shapes(config, num_labels=2):
    """{Google's name: shape} of all variables of the encoder and of every head.

    A kernel is the transpose of PyTorch's weight; the others are alike.
    """
    hidden, wide, vocab = config.hidden_size, config.intermediate_size, config.vocab_size
    shapes = {
        "bert/embeddings/word_embeddings": (vocab, hidden),
        "bert/embeddings/position_embeddings": (config.max_position_embeddings, hidden),
        "bert/embeddings/token_type_embeddings": (config.type_vocab_size, hidden),
        "cls/predictions/output_bias": (vocab,),
    }
    square = "bert/pooler/dense", "cls/predictions/transform/dense"
    dense = dict.fromkeys(square, (hidden, hidden))
    norms = ["bert/embeddings/LayerNorm", "cls/predictions/transform/LayerNorm"]
    for layer in (f"bert/encoder/layer_{n}" for n in range(config.num_hidden_layers)):
        for part in ("self/query", "self/key", "self/value", "output/dense"):
            dense[f"{layer}/attention/{part}"] = (hidden, hidden)
        dense[f"{layer}/intermediate/dense"] = (hidden, wide)
        dense[f"{layer}/output/dense"] = (wide, hidden)
        norms += [f"{layer}/attention/output/LayerNorm", f"{layer}/output/LayerNorm"]
    for scope, shape in dense.items():
        shapes[f"{scope}/kernel"], shapes[f"{scope}/bias"] = shape, shape[1:]
    for scope in norms:
        shapes[f"{scope}/gamma"] = shapes[f"{scope}/beta"] = (hidden,)
    for scope, labels in (("cls/seq_relationship/", 2), ("cls/squad/", 2), ("", num_labels)):
        shapes[f"{scope}output_weights"] = (labels, hidden)
        shapes[f"{scope}output_bias"] = (labels,)
    return shapes


def match(variables, config, source):
    """Which of `variables`, {Google's name: (type, shape)}, are BERT's: a list of names.

    Raises ValueError, blaming `source`, where one of the encoder is missing, one has another shape
    than `config` gives it, or there are more layers.
    """
    _, head = variables.get("output_weights", ("", ()))
    shapes = variable_shapes(config, *head[:1])
    for variable, shape in shapes.items():
        kind, found = variables.get(variable, ("missing", "here"))
        needed = variable in variables or variable.startswith("bert/")
        if needed and (found != shape or "float" not in kind):
            raise ValueError(f"{source}: {variable} is {kind} {found}, but the config says {shape}")
    layers = config.num_hidden_layers
    if any(variable.startswith(f"bert/encoder/layer_{layers}/") for variable in variables):
        raise ValueError(f"{source} holds more layers than num_hidden_layers, which is {layers}")
    return [variable for variable in shapes if variable in variables]


def arrays(checkpoint, variables):
    """Yields (PyTorch's name, float32 array) of each of a checkpoint's variables."""
    for variable in variables:
        array = checkpoint[variable]
        if checkpoint.variables[variable][0] == "bfloat16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        array = array.astype(np.float32, copy=False)
        yield pytorch_name(variable), transposed(array) if variable.endswith("/kernel") else array


def transposed(array):
    """A copy of the transpose. 16 rows at a time fit the cache: twice as fast as `.T.copy()`."""
    copy = np.empty(array.shape[::-1], array.dtype)
    for row in range(0, len(array), 16):
        copy[:, row : row + 16] = array[row : row + 16].T
    return copy


def load_tf_weights(model, path):
    """Fills `model` from a TensorFlow checkpoint; returns and raises as `modeling.load_weights`."""
    import torch

    from modeling import load_weights

    checkpoint = Checkpoint(path)
    found = match(checkpoint.variables, getattr(model, "bert", model).config, checkpoint.prefix)
    tensors = {name: torch.tensor(array) for name, array in arrays(checkpoint, found)}
    unfilled, unused = load_weights(model, tensors)
    return unfilled, unused + [name for name in checkpoint.variables if name not in found]


def convert_tf_checkpoint_to_pytorch(tf_checkpoint_path, bert_config_file, pytorch_dump_path):
    """Writes a checkpoint as a state dict of float32 tensors; prints what it left out.

    `pytorch_dump_path` is the file to write, or a folder for `pytorch_model.bin`. Raises ValueError
    or OSError, before it writes, where checkpoint and configuration do not fit, or one is damaged.
    """
    checkpoint = Checkpoint(tf_checkpoint_path)
    config = BertConfig.from_json_file(bert_config_file)
    found = match(checkpoint.variables, config, checkpoint.prefix)
    sizes = [checkpoint[variable].size for variable in found]  # verifies them, before it writes
    path = pytorch_dump_path
    if os.path.isdir(path) or not os.path.basename(path):
        path = os.path.join(path, WEIGHTS)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_bin(path, arrays(checkpoint, found), 4 * sum(sizes))
    skipped = [variable for variable in checkpoint.variables if variable not in found]
    print_summary(path, sizes, skipped, checkpoint.variables)


def print_summary(path, sizes, skipped, variables=()):
    """Prints what was written and what was not; an optimizer's slots (x/adam_m) only by kind."""
    print(f"{path}: {len(sizes)} tensors, {sum(sizes):,} values")
    kinds = Counter()
    for name in skipped:
        parent, _, slot = name.rpartition("/")
        kinds[f"…/{slot}" if parent in variables else name] += 1
    print("skipped", ", ".join(f"{kind} ({n})" for kind, n in kinds.items()) or "nothing")


def run(function, description, example, **files):
    """The command line of `function`, whose arguments are the flags. Mistakes end with status 2."""
    parser = flags.Parser(description, example)
    parser.flags("files", **{name: (..., text) for name, text in files.items()})
    flags.run(lambda: function(**vars(parser.parse_args())))


def main():
    run(
        convert_tf_checkpoint_to_pytorch,
        *__doc__.split("\n\n")[:2],
        tf_checkpoint_path="prefix of the checkpoint to read (or its .index file, or its folder)",
        bert_config_file="the bert_config.json of that checkpoint",
        pytorch_dump_path="file to write, or a folder for pytorch_model.bin",
    )


if __name__ == "__main__":
    main()
