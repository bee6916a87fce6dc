"""PyTorch weights of BERT to TensorFlow checkpoints under Google's names, without TensorFlow.

    python convert_pytorch_checkpoint_to_tf.py \\
        --pytorch_model_path=$BERT_PYTORCH_DIR/pytorch_model.bin \\
        --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
        --tf_checkpoint_path=$OUTPUT_DIR/bert_model.ckpt

The inverse of convert_tf_checkpoint_to_pytorch.py: its output becomes the original variables again,
bit for bit if they were float32.
"""

import os

import flags
from configuration import BertConfig
from convert_tf_checkpoint_to_pytorch import (
    match,
    print_summary,
    pytorch_name,
    variable_shapes,
)
from tf_checkpoint import write_checkpoint

EXAMPLE = """  python convert_pytorch_checkpoint_to_tf.py \\
    --pytorch_model_path=$BERT_PYTORCH_DIR/pytorch_model.bin \\
    --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
    --tf_checkpoint_path=$OUTPUT_DIR/bert_model.ckpt"""


def convert_pytorch_checkpoint_to_tf(
    pytorch_model_path: str, bert_config_file: str, tf_checkpoint_path: str
) -> None:
    """Writes a state dict as a TensorFlow checkpoint of float32 variables; prints what is skipped.

    `pytorch_model_path` is a .bin or .safetensors file, or a folder with one; `tf_checkpoint_path`
    is the prefix to write. Raises ValueError or OSError, before anything is written, if the state
    dict does not fit the configuration.
    """
    from weights import read_state_dict, refuse_untied, standard_state_dict

    config = BertConfig.from_json_file(bert_config_file)
    weights = standard_state_dict(read_state_dict(pytorch_model_path), pytorch_model_path)
    refuse_untied(weights, pytorch_model_path)

    google_names = {pytorch_name(variable): variable for variable in variable_shapes(config)}
    found = {}  # {Google's name: tensor}
    skipped = []
    for name, tensor in weights.items():
        if name in google_names:
            found[google_names[name]] = tensor
        else:
            skipped.append(name)

    variables = {}  # {Google's name: (type, shape)}
    for variable, tensor in found.items():
        shape = tuple(tensor.shape)
        if variable.endswith("/kernel"):
            shape = shape[::-1]
        variables[variable] = str(tensor.dtype), shape
    match(variables, config, pytorch_model_path)

    def arrays():
        """One float32 array at a time, so that no second copy of the model is in memory."""
        for variable in sorted(found):
            array = found[variable].detach().float().numpy()
            yield variable, array.T if variable.endswith("/kernel") else array

    os.makedirs(os.path.dirname(tf_checkpoint_path) or ".", exist_ok=True)
    write_checkpoint(tf_checkpoint_path, arrays())
    sizes = [tensor.numel() for tensor in found.values()]
    print_summary(tf_checkpoint_path, sizes, skipped)


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Convert PyTorch weights of BERT to a TensorFlow checkpoint."
    args = flags.Parser("convert_pytorch_checkpoint_to_tf", description, EXAMPLE).parse_args(argv)
    prefix = args.tf_checkpoint_path
    if not os.path.basename(prefix) or os.path.isdir(prefix):
        raise ValueError(
            f"--tf_checkpoint_path {prefix} is a folder: give the prefix of the files to write, as "
            f"in {os.path.join(prefix, 'bert_model.ckpt')}"
        )
    flags.check_output_dir(os.path.dirname(prefix) or ".", "tf_checkpoint_path")
    return args


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    args = parse_args(argv)
    convert_pytorch_checkpoint_to_tf(
        args.pytorch_model_path, args.bert_config_file, args.tf_checkpoint_path
    )


if __name__ == "__main__":
    flags.run(main)
