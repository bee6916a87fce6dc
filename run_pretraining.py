"""Pre-trains BERT on masked words and next sentences, as Google's run_pretraining.py.

    python run_pretraining.py --input_file 'text-*.instances' --do_train --do_eval …

Reads instance files, of create_pretraining_data.py or Google's; a rank holds only its part of a
step in memory. Writes the weights and eval_results.txt to --output_dir; --help shows a whole
command.
"""

import flags

EXAMPLE = """  python run_pretraining.py --do_train --do_eval \\
    --input_file 'text-*.instances' --bert_config_file $BERT_BASE_DIR/bert_config.json \\
    --vocab_file $BERT_BASE_DIR/vocab.txt --train_batch_size 32 --learning_rate 1e-4 \\
    --num_train_steps 100000 --num_warmup_steps 10000 --output_dir /tmp/pretraining_output/"""


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Pre-train BERT on the instances that create_pretraining_data.py makes."
    args = flags.Parser("run_pretraining", description, EXAMPLE).parse_args(argv)
    if not (args.do_train or args.do_eval):
        raise ValueError("nothing to do: give --do_train or --do_eval")
    if args.num_warmup_steps > args.num_train_steps:
        raise ValueError(
            f"--num_warmup_steps is {args.num_warmup_steps}, but must be 0 to --num_train_steps, "
            f"which is {args.num_train_steps}"
        )
    if args.do_train and args.eval_steps and not args.eval_file:
        raise ValueError("--eval_steps needs --eval_file: instances that are not trained on")
    return args


# --help and a wrong flag are answered here, before the imports below load PyTorch.
ARGS = flags.run(parse_args) if __name__ == "__main__" else None

import os
from functools import partial

import numpy as np
import torch

import checkpoint
import report
import training
from data import packed_inputs, pad_rows
from files import EVAL_RESULTS, find_input_files
from instances import Instances, checked_row, open_instances
from modeling import BertConfig, BertForPreTraining, classification_loss, masked_lm_loss

ROWS_CHECKED = 100  # of each file before training: ids of another vocabulary show up soon


# --- data ----------------------------------------------------------------------------------------


def open_input(args, runtime, flag, config, tokenizer):
    """The Instances of --input_file or --eval_file, once they fit the flags and the model.

    `flag` is the name of one of the two. Each rank opens its share of the files, and the ranks
    exchange how long each file is. Raises ValueError if a file was made for other flags or another
    model, or if there are no instances.
    """
    patterns = args.eval_file if flag == "eval_file" else args.input_file
    paths = find_input_files(patterns, flag)
    sizes = torch.zeros(2, len(paths), dtype=torch.int64)
    for number in range(runtime.rank, len(paths), runtime.world_size):
        file = open_instances(paths[number])
        check_instances(args, file, config, tokenizer)
        sizes[:, number] = torch.tensor([len(file), file.checksum])
    rows, checksums = runtime.sum(sizes.to(runtime.device)).tolist()
    if not sum(rows):
        raise ValueError(f"--{flag} {patterns} contains no instances")
    instances = Instances(paths, rows, checksums, config.vocab_size)
    runtime.print(f"{flag}: {len(instances):,} instances in {len(paths)} files")
    return instances


def check_instances(args, file, config, tokenizer):
    """Raises ValueError if an instance file does not fit the flags or the model."""
    for name in ("max_seq_length", "max_predictions_per_seq"):
        made_with = getattr(file, name)
        if len(file) and made_with != getattr(args, name):
            raise ValueError(
                f"{file.path} was made with --{name} {made_with}, but here it is "
                f"{getattr(args, name)}: give the same"
            )
    # The word table may have more rows than the vocabulary has entries.
    num_entries = len(tokenizer.vocab) if tokenizer else config.vocab_size
    if file.vocab_size not in (None, num_entries, config.vocab_size):
        given = f"vocab_size in {args.bert_config_file} is {config.vocab_size}"
        if args.add_tokens:
            given = (
                f"with the words of --add_tokens the vocabulary has {num_entries}: give "
                f"create_pretraining_data.py the same"
            )
        raise ValueError(
            f"{file.path} was made with a vocabulary of {file.vocab_size} entries, but {given}"
        )
    for index in range(min(ROWS_CHECKED, len(file))):
        checked_row(file, index, config.vocab_size)


def make_batch(rows, width=0):
    """(model inputs, masked positions, ids and weights [B, M], next-sentence labels [B])

    M is the most masked positions of a row, or `width` if that is more.
    """
    positions = pad_rows([row.masked_lm_positions for row in rows], width)
    ids = pad_rows([row.masked_lm_ids for row in rows], width)
    weights = pad_rows([row.masked_lm_weights for row in rows], width)
    labels = torch.tensor([int(row.next_sentence_labels[0]) for row in rows])
    return packed_inputs(rows), positions, ids, weights, labels


# --- loss and figures ----------------------------------------------------------------------------


def compute_loss(model, batch, totals):
    """A batch's share of its step's loss: a mean over masked words plus one over sentences."""
    inputs, positions, ids, weights, labels = batch
    scores, next_scores = model(*inputs, masked_lm_positions=positions)
    next_loss = classification_loss(next_scores, labels).sum() / totals.examples
    return masked_lm_loss(scores, ids, weights, totals.weight) + next_loss


def score_instances(model, batch):
    """For each row [masked words + 1, 2]: the loss, and 1 where the guess is right.

    The last line of a row belongs to the next sentence.
    """
    inputs, positions, ids, weights, labels = batch
    scores, next_scores = model(*inputs, masked_lm_positions=positions)
    scored = []
    for logits, truth in ((scores, ids), (next_scores[:, None], labels[:, None])):
        logits = logits.float()
        losses = classification_loss(logits.flatten(0, 1), truth.flatten()).view(truth.shape)
        right = logits.argmax(dim=2) == truth.to(logits.device)
        scored.append(torch.stack([losses, right], dim=2))
    scored = torch.cat(scored, dim=1).cpu().numpy()  # [B, M + 1, 2]
    kept = np.append(weights.numpy() > 0, np.ones((len(labels), 1), bool), axis=1)
    return [rows[keep] for rows, keep in zip(scored, kept)]


def evaluate(scored, batch_size, num_batches, global_step):
    """Google's figures of `num_batches` batches, which start over where the rows end."""
    order = np.resize(np.arange(len(scored)), (num_batches, batch_size))
    # Of each row: masked words, their losses, right ones; and loss and right of the sentence.
    masked = np.array([[len(rows) - 1, *rows[:-1].sum(axis=0)] for rows in scored])[order]
    sentence = np.array([rows[-1] for rows in scored])[order]
    words, losses, right = masked.sum(axis=1).T  # of each batch
    return {
        "global_step": global_step,
        # As Google: the mean of the batches' losses, each divided as in training.
        "loss": np.mean(losses / (words + 1e-5) + sentence[..., 0].mean(axis=1)),
        "masked_lm_accuracy": right.sum() / words.sum(),
        "masked_lm_loss": losses.sum() / words.sum(),
        "next_sentence_accuracy": sentence[..., 1].mean(),
        "next_sentence_loss": sentence[..., 0].mean(),
    }


def evaluation(args, runtime, model, instances):
    """A function that returns the figures on the first rows, on rank 0 alone."""

    def figures_of(global_step=0):
        number = min(len(instances), args.max_eval_steps * args.eval_batch_size)
        rows = [instances[index] for index in range(number)]
        scored = training.predict(
            runtime, model, rows, args.eval_batch_size, make_batch, score_instances, "eval"
        )
        if scored is None:
            return None
        return evaluate(scored, args.eval_batch_size, args.max_eval_steps, global_step)

    return figures_of


# --- the command ---------------------------------------------------------------------------------


def execute(args) -> None:
    """Does what the parsed flags ask for."""
    runtime = training.setup(args)
    config = BertConfig.from_json_file(args.bert_config_file)
    weights = training.resolve_init_checkpoint(args)
    tokenizer = training.make_tokenizer(args, weights) if args.vocab_file else None
    flags.check_model(config, tokenizer and tokenizer.vocab, args)
    if args.add_tokens and not tokenizer:
        raise ValueError("--add_tokens needs --vocab_file: without it there is no vocabulary")

    model = BertForPreTraining(config)
    training.load_initial_weights(model, weights, runtime, head_may_be_new=args.do_train)
    if tokenizer:
        tokenizer = training.add_tokens(args, runtime, model, tokenizer)
    instances = to_evaluate = open_input(args, runtime, "input_file", config, tokenizer)
    if args.eval_file:
        to_evaluate = open_input(args, runtime, "eval_file", config, tokenizer)
    to_evaluate = to_evaluate.first(args.max_eval_examples)
    instances = instances.first(args.max_train_examples)
    training.follow_checkpoint_precision(args, runtime)
    training.place_model(args, runtime, model)
    training.print_resources(args, runtime, model)

    global_step = checkpoint.read_metadata(weights).get("global_step", 0)
    if args.do_eval or (args.do_train and args.eval_steps):
        figures_of = evaluation(args, runtime, model, to_evaluate)
    if args.do_train:
        epochs = args.num_train_steps * args.train_batch_size / len(instances)
        runtime.print(f"training reads {len(instances):,} instances {epochs:.2f} times")
        # CUDA graphs need the same number of masked positions in each step.
        width = args.max_predictions_per_seq if runtime.device.type == "cuda" else 0
        instances.make_batch = partial(make_batch, width=width)
        evaluator = None
        if args.eval_steps:
            evaluator = training.Evaluator(
                args, figures_of, "masked_lm_loss", to_evaluate.fingerprint, lower_is_better=True
            )
        # Instances do not say what casing their text had; the vocabulary was checked against it.
        if not args.vocab_file:
            instances.metadata = {"do_lower_case": None, "strip_accents": None}
        global_step = training.train(args, runtime, model, instances, compute_loss, evaluator)
        checkpoint.save_model(
            args, runtime, model, config, **instances.metadata, global_step=global_step
        )

    os.makedirs(args.output_dir, exist_ok=True)
    results = {}
    if args.do_eval:
        results = figures_of(global_step)
        if runtime.is_main:
            checkpoint.write_results(os.path.join(args.output_dir, EVAL_RESULTS), results)
    if runtime.is_main:
        evaluated_in = runtime.precision if results else None
        facts = training.report_facts(runtime)
        report.write_report(
            args.output_dir, results, (), evaluated_in, facts, is_trained=args.do_train
        )
    runtime.barrier()


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    execute(parse_args(argv))


if __name__ == "__main__":
    flags.run(execute, ARGS)
