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
    inputs = args.input_file, args.vocab_file, args.bert_config_file, args.init_checkpoint
    flags.check_output_file(args.output_file, "output_file", inputs)
    if not os.path.isdir(folder):
        raise ValueError(f"--output_file {args.output_file}: the folder {folder} does not exist")
    return args


# --help and a wrong flag are answered here, before the imports below load PyTorch.
ARGS = flags.run(parse_args) if __name__ == "__main__" else None

import contextlib
import zipfile
from collections.abc import Iterable, Iterator

import numpy as np
import torch

import precision
import training
from checkpoint import find_start, refuse_contradictions, take_from_folder
from data import join_pair, model_inputs
from files import Tally, atomic_write, iter_lines
from modeling import BertConfig, BertModel
from progress import Bar
from tokenization import FullTokenizer

# Texts are computed in blocks, so that their outputs, in the order of the file, need little memory:
# as many as fill this many values, but at least one batch.
VALUES_PER_BLOCK = 2**23


@dataclass
class InputExample:
    """A line of the input: its number from 0, and one or two texts."""

    unique_id: int
    text_a: str
    text_b: str | None = None


@dataclass(eq=False)
class InputFeatures:
    """The WordPieces of an example, int32 [length] without padding.

    `num_tokens` is the length before it was cut.
    """

    unique_id: int
    input_ids: np.ndarray
    segment_ids: np.ndarray
    num_tokens: int


def read_examples(input_file: str) -> Iterator[InputExample]:
    """Yields an InputExample for each line. Raises what `files.iter_lines` does."""
    for unique_id, line in enumerate(iter_lines(input_file)):
        pair = re.fullmatch(r"(.*) \|\|\| (.*)", line.strip())
        texts = pair.groups() if pair else (line.strip(),)
        yield InputExample(unique_id, *texts)


def convert_examples_to_features(
    examples: Iterable[InputExample], max_seq_length: int, tokenizer: FullTokenizer
) -> Iterator[InputFeatures]:
    """Yields an InputFeatures for each example, cut to `max_seq_length`."""
    cls_id = tokenizer.vocab["[CLS]"]
    sep_id = tokenizer.vocab["[SEP]"]
    for example in examples:
        ids_a = tokenizer.encode(example.text_a)
        ids_b = tokenizer.encode(example.text_b) if example.text_b else []
        input_ids, segment_ids = join_pair(ids_a, ids_b, cls_id, sep_id, max_seq_length)
        num_tokens = len(ids_a) + len(ids_b) + (3 if ids_b else 2)
        yield InputFeatures(example.unique_id, input_ids, segment_ids, num_tokens)


def tally_of(features: Iterable[InputFeatures], unk_id: int) -> Tally:
    """What the features come to. Reads them all, and keeps none."""
    tally = Tally("texts")
    for feature in features:
        tally.read += 1
        tally.add_input(feature.input_ids, feature.num_tokens, unk_id)
    return tally


def blocks_of(
    features: Iterable[InputFeatures], batch_size: int, values_per_token: int
) -> Iterator[list[InputFeatures]]:
    """Yields lists of features whose outputs take about VALUES_PER_BLOCK, of whole batches."""
    block = []
    num_values = 0
    for feature in features:
        block.append(feature)
        num_values += len(feature.input_ids) * values_per_token
        if num_values >= VALUES_PER_BLOCK and len(block) % batch_size == 0:
            yield block
            block = []
            num_values = 0
    if block:
        yield block


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


@contextlib.contextmanager
def json_lines_writer(path, layers):
    """Opens a file of a line for each text, as Google's; yields the function that adds a text."""
    with atomic_write(path) as file:

        def write(feature, tokens, hidden_states):
            file.write(json.dumps(json_line(feature, tokens, hidden_states, layers)) + "\n")

        yield write


@contextlib.contextmanager
def npz_writer(path, layers):
    """Opens a file of arrays text{N}_tokens and text{N}_layer{L} [tokens, hidden], for np.load.

    Yields the function that adds a text. np.savez would need all arrays at once.
    """
    with atomic_write(path, "wb") as file, zipfile.ZipFile(file, "w") as archive:

        def write_array(name, array):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)

        def write(feature, tokens, hidden_states):
            name = f"text{feature.unique_id}"
            write_array(f"{name}_tokens", np.array(tokens))
            for layer, state in zip(layers, hidden_states):
                write_array(f"{name}_layer{layer}", state)

        yield write


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
    tokenizer = training.make_tokenizer(args, args.init_checkpoint)
    flags.check_model(config, tokenizer.vocab, args)
    refuse_contradictions(args, find_start(args))

    def features():
        examples = read_examples(args.input_file)
        return convert_examples_to_features(examples, args.max_seq_length, tokenizer)

    # The texts are read twice: first to see that all can be read, and to say what they come to.
    tally = tally_of(features(), tokenizer.vocab["[UNK]"])
    if not tally.read:
        raise ValueError(f"{args.input_file} is empty")

    cuda = torch.cuda.is_available() and not args.no_cuda
    runtime = training.Runtime(torch.device("cuda" if cuda else "cpu"))
    if args.bf16:
        precision.choose(runtime)
    runtime.print(training.device_summary(runtime))
    training.print_features(runtime, "texts", tally, args.max_seq_length, tokenizer)
    model = BertModel(config)
    training.load_initial_weights(
        model, args.init_checkpoint, runtime, head_may_be_new=False, pooler_is_read=False
    )
    model.to(runtime.device)

    def states_of(model, batch):
        """[layers, tokens, hidden] of each text. Without padding it takes half the memory."""
        input_ids, token_type_ids, attention_mask = batch
        unpadding = model.make_unpadding(input_ids, attention_mask)
        encoded = model.encode(input_ids, token_type_ids, unpadding)
        lengths = attention_mask.sum(dim=1).tolist()
        chosen = torch.stack([encoded[layer][: sum(lengths)] for layer in layers])
        return [one.numpy() for one in chosen.float().cpu().split(lengths, dim=1)]

    writer = npz_writer if args.output_format == "npz" else json_lines_writer
    with Bar(tally.read, "text") as bar, writer(args.output_file, layers) as write:
        values_per_token = len(layers) * config.hidden_size
        for block in blocks_of(features(), args.batch_size, values_per_token):
            outputs = training.predict(
                runtime, model, block, args.batch_size, model_inputs, states_of, None
            )
            for feature, hidden_states in zip(block, outputs):
                tokens = tokenizer.convert_ids_to_tokens(feature.input_ids.tolist())
                write(feature, tokens, hidden_states)
            bar.update(len(block))
    print(f"{tally.read} texts: {args.output_file}")


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    execute(parse_args(argv))


if __name__ == "__main__":
    flags.run(execute, ARGS)
