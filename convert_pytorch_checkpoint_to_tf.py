"""PyTorch state dicts of BERT to TensorFlow checkpoints under Google's names, without TensorFlow.

    python convert_pytorch_checkpoint_to_tf.py \\
        --pytorch_model_path=$BERT_PYTORCH_DIR/pytorch_model.bin \\
        --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
        --tf_checkpoint_path=$OUTPUT_DIR/bert_model.ckpt

The way back of convert_tf_checkpoint_to_pytorch.py: what that read comes out bit for bit.
"""

import os

from configuration import BertConfig
from convert_tf_checkpoint_to_pytorch import (
    match,
    print_summary,
    pytorch_name,
    run,
    variable_shapes,
)
from tf_checkpoint import write_checkpoint


def convert_pytorch_checkpoint_to_tf(pytorch_model_path, bert_config_file, tf_checkpoint_path):
    """Writes a state dict as a TensorFlow checkpoint of float32 variables; prints what is left out.

    `pytorch_model_path` is a .bin or .safetensors file, or a folder with one; `tf_checkpoint_path`
    the prefix to write. Raises ValueError or OSError, before it writes, where the state dict and
    the configuration do not fit.
    """
    from weights import read_state_dict, standard_state_dict

    config = BertConfig.from_json_file(bert_config_file)
    weights = standard_state_dict(read_state_dict(pytorch_model_path), pytorch_model_path)
    names = {pytorch_name(variable): variable for variable in variable_shapes(config)}
    found = {names[name]: tensor for name, tensor in weights.items() if name in names}
    variables = {}
    for variable, tensor in found.items():
        step = -1 if variable.endswith("/kernel") else 1
        variables[variable] = str(tensor.dtype), tuple(tensor.shape)[::step]
    match(variables, config, pytorch_model_path)

    def arrays():
        for variable in sorted(found):
            array = found[variable].detach().float().numpy()
            yield variable, array.T if variable.endswith("/kernel") else array

    os.makedirs(os.path.dirname(tf_checkpoint_path) or ".", exist_ok=True)
    write_checkpoint(tf_checkpoint_path, arrays())
    sizes = [tensor.numel() for tensor in found.values()]
    print_summary(tf_checkpoint_path, sizes, [name for name in weights if name not in names])


def main():
    run(
        convert_pytorch_checkpoint_to_tf,
        *__doc__.split("\n\n")[:2],
        pytorch_model_path="state dict to read: a .bin or .safetensors file, or its folder",
        bert_config_file="the bert_config.json of that model",
        tf_checkpoint_path="prefix of the checkpoint to write",
    )


if __name__ == "__main__":
    main()
