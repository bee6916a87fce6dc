"""Hidden states of given texts as fixed feature vectors, as Google's extract_features.py.

    python extract_features.py --input_file=input.txt --output_file=output.jsonl …

The input has one text per line, or a pair separated by " ||| ". The output has one JSON object per
line, with the values of each chosen layer for each token; with --output_format npz it has one array
per text and layer. --help shows a whole command.
"""

import json
import os
import re
from dataclasses import dataclass

import flags

EXAMPLE = """  python extract_features.py --input_file=input.txt --output_file=output.jsonl \\
    --vocab_file=$BERT_BASE_DIR/vocab.txt --bert_config_file=$BERT_BASE_DIR/bert_config.json \\
    --init_checkpoint=$BERT_BASE_DIR/bert_model.ckpt --layers=-1,-2,-3,-4"""


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Write BERT's hidden states for a file of texts."
    args = flags.Parser("extract_features", description, EXAMPLE).parse_args(argv)
    if not re.fullmatch(r"-?\d+(,-?\d+)*", args.layers):
        raise ValueError(f"--layers {args.layers!r} is not a list of numbers, as in -1,-2,-3,-4")
    folder = os.path.dirname(args.output_file) or "."
    if os.path.isdir(args.output_file):
        raise ValueError(f"--output_file {args.output_file} is a folder: give a file to write")
    if not os.path.isdir(folder):
        raise ValueError(f"--output_file {args.output_file}: the folder {folder} does not exist")
    return args


# --help and a wrong flag are answered here, before the imports below load PyTorch.
ARGS = flags.run(parse_args) if __name__ == "__main__" else None

import numpy as np
import torch

import precision
import training
from checkpoint import find_start, refuse_contradictions, take_from_folder
from data import join_pair, model_inputs
from files import atomic_write, read_lines
from modeling import BertConfig, BertModel
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
    """An InputExample for each line. Raises ValueError if there are none."""
    lines = read_lines(input_file)
    if not lines:
        raise ValueError(f"{input_file} is empty")
    examples = []
    for unique_id, line in enumerate(lines):
        pair = re.fullmatch(r"(.*) \|\|\| (.*)", line.strip())
        texts = pair.groups() if pair else (line.strip(),)
        examples.append(InputExample(unique_id, *texts))
    return examples


def convert_examples_to_features(examples, max_seq_length, tokenizer):
    """An InputFeatures for each example, cut to `max_seq_length`."""
    cls_id = tokenizer.vocab["[CLS]"]
    sep_id = tokenizer.vocab["[SEP]"]
    features = []
    for example in examples:
        ids_a = tokenizer.encode(example.text_a)
        ids_b = tokenizer.encode(example.text_b) if example.text_b else []
        input_ids, segment_ids = join_pair(ids_a, ids_b, cls_id, sep_id, max_seq_length)
        features.append(InputFeatures(example.unique_id, input_ids, segment_ids))
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


def write_json_lines(path, features, tokens, outputs, layers):
    """A line for each text, as Google's."""
    with atomic_write(path) as file:
        for feature, words, states in zip(features, tokens, outputs):
            file.write(json.dumps(json_line(feature, words, states, layers)) + "\n")


def write_npz(path, features, tokens, outputs, layers):
    """NumPy arrays text{N}_tokens and text{N}_layer{L} [tokens, hidden]."""
    arrays = {}
    for feature, words, states in zip(features, tokens, outputs):
        name = f"text{feature.unique_id}"
        arrays[f"{name}_tokens"] = np.array(words)
        for layer, state in zip(layers, states):
            arrays[f"{name}_layer{layer}"] = state
    with atomic_write(path, "wb") as file:
        np.savez(file, **arrays)


def execute(args) -> None:
    """Does what the parsed flags ask for."""
    take_from_folder(args)
    config = BertConfig.from_json_file(args.bert_config_file)
    layers = [int(layer) for layer in args.layers.split(",")]
    for layer in layers:
        if not -config.num_hidden_layers <= layer < config.num_hidden_layers:
            raise ValueError(
                f"--layers: {layer} is not one of the model's {config.num_hidden_layers} layers"
            )
    tokenizer = FullTokenizer(
        args.vocab_file, args.do_lower_case, args.do_lower_case and args.strip_accents
    )
    flags.check_model(config, tokenizer.vocab, args)
    refuse_contradictions(args, find_start(args))
    examples = read_examples(args.input_file)
    features = convert_examples_to_features(examples, args.max_seq_length, tokenizer)

    cuda = torch.cuda.is_available() and not args.no_cuda
    runtime = training.Runtime(torch.device("cuda" if cuda else "cpu"))
    if args.bf16:
        precision.choose(runtime)
    runtime.print(training.device_summary(runtime))
    training.print_features(runtime, "texts", features, args.max_seq_length, tokenizer.vocab)
    model = BertModel(config)
    training.load_initial_weights(
        model, args.init_checkpoint, runtime, head_may_be_new=False, pooler_is_read=False
    )
    model.to(runtime.device)

    def states_of(model, batch):
        all_encoder_layers, _ = model(*batch)
        chosen = torch.stack([all_encoder_layers[layer] for layer in layers], dim=1).float().cpu()
        lengths = batch[2].sum(dim=1).tolist()
        return [one[:, :length].numpy() for one, length in zip(chosen, lengths)]

    outputs = training.predict(
        runtime, model, features, args.batch_size, model_inputs, states_of, "extract"
    )
    tokens = [tokenizer.convert_ids_to_tokens(f.input_ids.tolist()) for f in features]
    write = write_npz if args.output_format == "npz" else write_json_lines
    write(args.output_file, features, tokens, outputs, layers)
    print(f"{len(features)} texts: {args.output_file}")


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    execute(parse_args(argv))


if __name__ == "__main__":
    flags.run(execute, ARGS)
