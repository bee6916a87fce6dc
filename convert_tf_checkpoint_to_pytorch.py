"""Google's TensorFlow checkpoints of BERT to PyTorch state dicts, without TensorFlow.

    python convert_tf_checkpoint_to_pytorch.py \\
        --tf_checkpoint_path=$BERT_BASE_DIR/bert_model.ckpt \\
        --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
        --pytorch_dump_path=$BERT_PYTORCH_DIR/pytorch_model.bin

It reads what google-research/bert saves: the encoder, alone or with the heads of pre-training,
classification or SQuAD. Conversion does not even import PyTorch; only load_tf_weights does.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

import flags
from configuration import BertConfig
from files import WEIGHTS, wrong_file
from tf_checkpoint import Checkpoint, find_prefix
from weights import what_it_holds, write_bin

if TYPE_CHECKING:
    import torch

EXAMPLE = """  python convert_tf_checkpoint_to_pytorch.py \\
    --tf_checkpoint_path=$BERT_BASE_DIR/bert_model.ckpt \\
    --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
    --pytorch_dump_path=$BERT_PYTORCH_DIR/pytorch_model.bin"""


def pytorch_name(variable: str) -> str:
    """The name in PyTorch files of Google's `variable`; both converters use this rule alone."""
    scope, _, leaf = variable.rpartition("/")
    if not scope:  # create_model in Google's run_classifier.py opens no scope for its head.
        module = "classifier"
    elif scope == "cls/squad":
        module = "qa_outputs"
    else:
        module = scope.replace("/layer_", "/layer/").replace("/", ".")

    if leaf.endswith("_embeddings"):
        return f"{module}.{leaf}.weight"
    if leaf in ("bias", "beta", "output_bias"):
        return f"{module}.bias"
    return f"{module}.weight"


def variable_shapes(config: BertConfig, num_labels: int = 2) -> dict[str, tuple[int, ...]]:
    """{Google's name: shape} of all variables of the encoder and of every head.

    A kernel is the transpose of PyTorch's weight; all other variables have the same shape there.
    """
    hidden = config.hidden_size
    wide = config.intermediate_size
    vocab = config.vocab_size
    shapes = {
        "bert/embeddings/word_embeddings": (vocab, hidden),
        "bert/embeddings/position_embeddings": (config.max_position_embeddings, hidden),
        "bert/embeddings/token_type_embeddings": (config.type_vocab_size, hidden),
        "cls/predictions/output_bias": (vocab,),
    }

    # The scopes of the dense layers, with the shapes of their kernels, and of the layer norms.
    dense = {
        "bert/pooler/dense": (hidden, hidden),
        "cls/predictions/transform/dense": (hidden, hidden),
    }
    norms = ["bert/embeddings/LayerNorm", "cls/predictions/transform/LayerNorm"]
    for number in range(config.num_hidden_layers):
        layer = f"bert/encoder/layer_{number}"
        for part in ("self/query", "self/key", "self/value", "output/dense"):
            dense[f"{layer}/attention/{part}"] = (hidden, hidden)
        dense[f"{layer}/intermediate/dense"] = (hidden, wide)
        dense[f"{layer}/output/dense"] = (wide, hidden)
        norms += [f"{layer}/attention/output/LayerNorm", f"{layer}/output/LayerNorm"]
    for scope, shape in dense.items():
        shapes[f"{scope}/kernel"] = shape
        shapes[f"{scope}/bias"] = shape[1:]
    for scope in norms:
        shapes[f"{scope}/gamma"] = (hidden,)
        shapes[f"{scope}/beta"] = (hidden,)

    for scope, labels in (("cls/seq_relationship/", 2), ("cls/squad/", 2), ("", num_labels)):
        shapes[f"{scope}output_weights"] = (labels, hidden)
        shapes[f"{scope}output_bias"] = (labels,)
    return shapes


def google_name(variable: str) -> str:
    """Google's name of a variable: without the `module/` of hub modules, or a `model/`."""
    return re.sub(r"^(module/|model/)+(?=(bert|cls)/|output_)", "", variable)


def match(
    variables: Mapping[str, tuple[str, tuple[int, ...]]], config: BertConfig, source: str
) -> list[str]:
    """The names of those `variables`, {name: (type, shape)}, that belong to BERT.

    Raises ValueError, naming `source`, if a variable of the encoder is missing, if one has another
    shape than `config` says or is not floating-point, or if there are more layers. The pooler may
    be missing as a whole: `load_weights` knows whether it is read.
    """
    given = {google_name(name): name for name in variables}
    # A classifier's number of labels is not in the configuration.
    _, head_shape = variables.get(given.get("output_weights"), ("", ()))
    shapes = variable_shapes(config, *head_shape[:1])
    has_pooler = any(name.startswith("bert/pooler/dense/") for name in given)
    for variable, shape in shapes.items():
        if variable not in given:
            optional = variable.startswith("bert/pooler/") and not has_pooler
            if variable.startswith("bert/") and not optional:
                hint = "" if "bert/embeddings/word_embeddings" in given else _hint(variables)
                raise ValueError(f"{source}: {variable} is missing; the config says {shape}{hint}")
            continue
        dtype, found = variables[given[variable]]
        if found != shape or "float" not in dtype:
            raise ValueError(
                f"{source}: {variable} is {dtype} {found}, but the config says {shape}"
            )

    layers = config.num_hidden_layers
    if any(variable.startswith(f"bert/encoder/layer_{layers}/") for variable in given):
        raise ValueError(f"{source} holds more layers than num_hidden_layers, which is {layers}")
    return [given[variable] for variable in shapes if variable in given]


def _hint(variables):
    """What a checkpoint holds that has no BERT of Google's, for a message."""
    for name in variables:
        if ".ATTRIBUTES" in name:
            return (
                f"; it holds {name}, of a TensorFlow 2 object checkpoint, which is not read: take "
                f"the same model's TensorFlow 1 checkpoint or PyTorch weights, or convert it with "
                f"transformers 4: one of Google's model garden with its "
                f"convert_bert_original_tf2_checkpoint_to_pytorch.py, a TFBertModel with "
                f"save_pretrained and BertModel.from_pretrained(FOLDER, from_tf=True)"
            )
    return what_it_holds(variables)


def arrays(checkpoint: Checkpoint, variables: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (PyTorch's name, float32 array) for each of a checkpoint's `variables`.

    Raises ValueError for a variable that is damaged.
    """
    for variable in variables:
        array = checkpoint[variable]
        if checkpoint.variables[variable][0] == "bfloat16":  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
        array = array.astype(np.float32, copy=False)
        if variable.endswith("/kernel"):
            array = transposed(array)
        yield pytorch_name(google_name(variable)), array


def transposed(array: np.ndarray) -> np.ndarray:
    """A contiguous copy of the transpose of a matrix.

    16 rows at a time fit the cache, which makes it twice as fast as `array.T.copy()`.
    """
    copy = np.empty(array.shape[::-1], array.dtype)
    for row in range(0, len(array), 16):
        copy[:, row : row + 16] = array[row : row + 16].T
    return copy


def load_tf_weights(
    model: "torch.nn.Module", path: str | os.PathLike, pooler_is_read: bool = True
) -> tuple[list, list]:
    """Fills `model` from a TensorFlow checkpoint; returns (unfilled, unused) names.

    Raises as `modeling.load_weights`, and as `Checkpoint` for the files.
    """
    import torch

    from modeling import load_weights

    checkpoint = open_checkpoint(path)
    config = getattr(model, "bert", model).config
    found = match(checkpoint.variables, config, checkpoint.prefix)
    tensors = {name: torch.tensor(array) for name, array in arrays(checkpoint, found)}
    unfilled, unused = load_weights(model, tensors, pooler_is_read, checkpoint.prefix)
    return unfilled, unused + [name for name in checkpoint.variables if name not in found]


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
    """The checkpoint at `path`. Raises as `Checkpoint`, and ValueError for a git-lfs pointer."""
    prefix = find_prefix(path)
    for file in (f"{prefix}.index", *sorted(glob.glob(f"{glob.escape(prefix)}.data-*"))):
        with open(file, "rb") as opened:
            if opened.read(64).startswith(b"version https://git-lfs"):
                raise ValueError(f"{file} is {wrong_file(file)}")
    return Checkpoint(prefix)


def convert_tf_checkpoint_to_pytorch(
    tf_checkpoint_path: str, bert_config_file: str, pytorch_dump_path: str
) -> None:
    """Writes a checkpoint as a state dict of float32 tensors; prints what is skipped.

    `pytorch_dump_path` is the file to write, or a folder for `pytorch_model.bin`. Raises ValueError
    or OSError, before anything is written, if the checkpoint does not fit the configuration or one
    of the files is damaged.
    """
    checkpoint = open_checkpoint(tf_checkpoint_path)
    config = BertConfig.from_json_file(bert_config_file)
    found = match(checkpoint.variables, config, checkpoint.prefix)
    # Reading a variable verifies its checksum, so damage is found before anything is written.
    sizes = [checkpoint[variable].size for variable in found]

    path = pytorch_dump_path
    if os.path.isdir(path) or not os.path.basename(path):
        path = os.path.join(path, WEIGHTS)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    write_bin(path, arrays(checkpoint, found), 4 * sum(sizes))

    skipped = [variable for variable in checkpoint.variables if variable not in found]
    print_summary(path, sizes, skipped, checkpoint.variables)


def print_summary(
    path: str, sizes: list[int], skipped: list[str], variables: Iterable[str] = ()
) -> None:
    """Prints what was written to `path` and what was skipped.

    An optimizer's slots, such as x/adam_m for a variable x of `variables`, are counted by kind.
    """
    print(f"{path}: {len(sizes)} tensors, {sum(sizes):,} values")
    kinds = Counter()
    for name in skipped:
        parent, _, slot = name.rpartition("/")
        kinds[f"…/{slot}" if parent in variables else name] += 1
    print("skipped", ", ".join(f"{kind} ({n})" for kind, n in kinds.items()) or "nothing")


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Convert a TensorFlow checkpoint of BERT to PyTorch weights."
    args = flags.Parser("convert_tf_checkpoint_to_pytorch", description, EXAMPLE).parse_args(argv)
    path = args.pytorch_dump_path
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    flags.check_output_dir(folder, "pytorch_dump_path")
    return args


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    args = parse_args(argv)
    convert_tf_checkpoint_to_pytorch(
        args.tf_checkpoint_path, args.bert_config_file, args.pytorch_dump_path
    )


if __name__ == "__main__":
    flags.run(main)
