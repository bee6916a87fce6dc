"""Hidden states of given texts as fixed feature vectors, as Google's extract_features.py.

    python extract_features.py --input_file=input.txt --output_file=output.jsonl …

The input has a text a line, or two parted by " ||| ". The output has a JSON object a line, for each
token the values of each chosen layer; or with --output_format npz one array a text and layer.
"""

import json
import os
import re
from dataclasses import dataclass

import flags

EXAMPLE = """  python extract_features.py --input_file=input.txt --output_file=output.jsonl \\
    --vocab_file=$BERT_BASE_DIR/vocab.txt --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
    --init_checkpoint=$BERT_BASE_DIR/bert_model.ckpt --layers=-1,-2,-3,-4"""


def parse_args(argv=None):
    parser = flags.Parser("Write BERT's hidden states for a file of texts.", EXAMPLE)
    parser.flags(
        "task",
        input_file=(..., "a text a line, or two parted by ' ||| '"),
        output_file=(..., "file to write"),
        output_format=("jsonl", "jsonl, as Google's, or npz: arrays text{N}_layer{L}, with the "
                       "tokens in text{N}_tokens"),
        layers=("-1,-2,-3,-4", "which layers, from the last, -1, or the first, 0"),
        batch_size=(32, "texts in a batch"),
        no_cuda=(False, "stay on the CPU where there is a GPU"),
        bf16=(False, "matrix products in bfloat16, where the device has instructions for them"),
    )  # fmt: skip
    flags.add_model_flags(parser, max_seq_length=128)
    args = parser.parse_args(argv)
    if not re.fullmatch(r"-?\d+(,-?\d+)*", args.layers):
        raise ValueError(f"--layers {args.layers!r} is not a list of numbers like -1,-2,-3,-4")
    if args.output_format not in ("jsonl", "npz"):
        raise ValueError(f"--output_format {args.output_format} is neither jsonl nor npz")
    if args.max_seq_length < 3 or args.batch_size < 1:
        raise ValueError("--max_seq_length must be 3 or more and --batch_size 1 or more")
    if not args.init_checkpoint:
        raise ValueError("--init_checkpoint is needed: random weights have no features")
    folder = os.path.dirname(args.output_file) or "."
    if os.path.isdir(args.output_file) or not os.path.isdir(folder):
        raise ValueError(f"--output_file {args.output_file} is no file in a folder that exists")
    return args


if __name__ == "__main__":  # --help and a wrong flag answer before PyTorch is loaded
    flags.run(parse_args)

import numpy as np
import torch

import checkpoint
import precision
import training
from convert_tf_checkpoint_to_pytorch import load_tf_weights
from data import model_inputs, pack_pair
from glue_data import read_lines
from modeling import BertConfig, BertModel, load_weights
from tokenization import FullTokenizer


@dataclass
class InputExample:
    """A line of the input: its number from 0, and one or two texts."""

    unique_id: int
    text_a: str
    text_b: str | None = None


@dataclass(eq=False)
class InputFeatures:
    """The WordPieces of an example, int32 [length] without padding."""

    unique_id: int
    input_ids: np.ndarray
    segment_ids: np.ndarray


def read_examples(input_file):
    """An InputExample for each line."""
    lines = read_lines(input_file)
    if not lines:
        raise ValueError(f"{input_file} is empty")
    examples = []
    for unique_id, line in enumerate(lines):
        pair = re.fullmatch(r"(.*) \|\|\| (.*)", line.strip())
        examples.append(InputExample(unique_id, *(pair.groups() if pair else (line.strip(),))))
    return examples


def convert_examples_to_features(examples, max_seq_length, tokenizer):
    cls_id, sep_id = tokenizer.vocab["[CLS]"], tokenizer.vocab["[SEP]"]
    features = []
    for example in examples:
        ids_b = tokenizer.encode(example.text_b) if example.text_b else []
        packed = pack_pair(tokenizer.encode(example.text_a), ids_b, cls_id, sep_id, max_seq_length)
        features.append(InputFeatures(example.unique_id, *packed))
    return features


def json_line(feature, tokens, hidden_states, layers):
    """Google's object for one text; "linex_index" is its spelling, which readers rely on."""
    values = np.round(hidden_states.astype(float), 6).tolist()  # [layers, length, hidden]
    return {
        "linex_index": feature.unique_id,
        "features": [
            {
                "token": token,
                "layers": [
                    {"index": layer, "values": values[i][position]}
                    for i, layer in enumerate(layers)
                ],
            }
            for position, token in enumerate(tokens)
        ],
    }


def main(argv=None):
    args = parse_args(argv)
    config = BertConfig.from_json_file(args.bert_config_file)
    layers = [int(layer) for layer in args.layers.split(",")]
    for layer in layers:
        if not -config.num_hidden_layers <= layer < config.num_hidden_layers:
            raise ValueError(f"--layers: {layer} is not one of {config.num_hidden_layers} layers")
    tokenizer = FullTokenizer(
        args.vocab_file, args.do_lower_case, args.do_lower_case and args.strip_accents
    )
    flags.check_model(config, tokenizer.vocab, args)
    features = convert_examples_to_features(
        read_examples(args.input_file), args.max_seq_length, tokenizer
    )
    cuda = torch.cuda.is_available() and not args.no_cuda
    runtime = training.Runtime(torch.device("cuda" if cuda else "cpu"))
    if args.bf16:
        precision.choose(runtime)
    runtime.print(training.where(runtime))
    training.describe(runtime, "texts", features, args.max_seq_length, tokenizer.vocab)
    model = BertModel(config)
    training.load_initial(
        model, args.init_checkpoint, load_weights, load_tf_weights, runtime, False
    )
    model.to(runtime.device)

    def make_batch(rows, total):
        return model_inputs(rows)

    def states_of(model, batch):
        all_encoder_layers, _ = model(*batch)
        chosen = torch.stack([all_encoder_layers[layer] for layer in layers], dim=1).float().cpu()
        lengths = batch[2].sum(dim=1).tolist()
        return [one[:, :length].numpy() for one, length in zip(chosen, lengths)]

    outputs = training.predict(
        runtime, model, features, args.batch_size, make_batch, states_of, "extract"
    )
    tokens = [tokenizer.convert_ids_to_tokens(f.input_ids.tolist()) for f in features]
    if args.output_format == "npz":
        arrays = {}
        for feature, words, states in zip(features, tokens, outputs):
            name = f"text{feature.unique_id}"
            arrays[f"{name}_tokens"] = np.array(words)
            arrays |= {f"{name}_layer{n}": state for n, state in zip(layers, states)}
        with checkpoint.replacing(args.output_file, "wb") as file:
            np.savez(file, **arrays)
    else:
        with checkpoint.replacing(args.output_file) as file:
            for feature, words, states in zip(features, tokens, outputs):
                file.write(json.dumps(json_line(feature, words, states, layers)) + "\n")
    print(f"{len(features)} texts: {args.output_file}")


if __name__ == "__main__":
    flags.run(main)
