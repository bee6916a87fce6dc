"""Pre-trains BERT on masked words and next sentences, as Google's run_pretraining.py.

    python run_pretraining.py --input_file 'text-*.instances' --do_train --do_eval …

Reads the files of create_pretraining_data.py, ours or Google's, of which a rank keeps no more than
its part of a step; writes to --output_dir the weights and eval_results.txt; see the README.
"""

import flags

EXAMPLE = """  python run_pretraining.py --do_train --do_eval \\
    --input_file 'text-*.instances' --bert_config_file $BERT_BASE_DIR/bert_config.json \\
    --vocab_file $BERT_BASE_DIR/vocab.txt --train_batch_size 32 --learning_rate 1e-4 \\
    --num_train_steps 100000 --num_warmup_steps 10000 --output_dir /tmp/pretraining_output/"""


def parse_args(argv=None):
    parser = flags.Parser("Pre-train BERT on instances of create_pretraining_data.py.", EXAMPLE)
    parser.flags(
        "task",
        input_file=(..., "files of instances, ours or Google's TFRecord: comma-separated patterns"),
        output_dir=(..., "folder for weights, results and checkpoints"),
        do_train=(False, "train"),
        do_eval=(False, "evaluate on the first rows of --input_file"),
        eval_batch_size=(8, "instances in a batch of evaluation"),
        max_eval_steps=(100, "batches of evaluation; from the end of the files it starts again"),
        max_predictions_per_seq=(20, "most masked words of an instance, as the files were made"),
        num_train_steps=(100000, "steps of training"),
        num_warmup_steps=(10000, "steps over which the learning rate rises"),
    )
    flags.add_model_flags(parser, max_seq_length=128, vocab_file=None)
    flags.add_step_flags(parser, train_batch_size=32)
    args = parser.parse_args(argv)
    if not (args.do_train or args.do_eval):
        raise ValueError("nothing to do: give --do_train or --do_eval")
    return args


if __name__ == "__main__":  # --help and a wrong flag answer before PyTorch is loaded
    flags.run(parse_args)

import glob
import os

import numpy as np
import torch

import checkpoint
import report
import training
from convert_tf_checkpoint_to_pytorch import load_tf_weights
from data import model_inputs, pad_rows
from instances import Instances, checked_row, open_instances
from modeling import (
    BertConfig,
    BertForPreTraining,
    classification_loss,
    load_weights,
    masked_lm_loss,
)
from tokenization import load_vocab


def find_input_files(input_file):
    """The files of comma-separated patterns; those of a pattern sorted by name."""
    paths = []
    for pattern in input_file.split(","):
        found = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern))
        if not found:
            raise FileNotFoundError(f"--input_file {pattern}: no such file")
        paths += found
    return paths


def open_input(args, runtime, config):
    """The Instances of --input_file, once they are known to fit the flags and the model.

    Each rank opens its share of the files, and they tell one another how long each is.
    """
    paths = find_input_files(args.input_file)
    wanted = {
        "max_seq_length": args.max_seq_length,
        "max_predictions_per_seq": args.max_predictions_per_seq,
    }
    facts = torch.zeros(2, len(paths), dtype=torch.int64)
    for number in range(runtime.rank, len(paths), runtime.world_size):
        file = open_instances(paths[number])
        for name, value in wanted.items() if len(file) else ():
            if getattr(file, name) != value:
                raise ValueError(
                    f"{file.path} was made with --{name} {getattr(file, name)}, but here it is "
                    f"{value}: give the same"
                )
        if file.vocab_size not in (None, config.vocab_size):
            raise ValueError(
                f"{file.path} was made with a vocabulary of {file.vocab_size} entries, but "
                f"vocab_size in {args.bert_config_file} is {config.vocab_size}"
            )
        for index in range(min(100, len(file))):  # An id of another vocabulary shows soon.
            checked_row(file, index, config.vocab_size)
        facts[:, number] = torch.tensor([len(file), file.checksum])
    rows, checksums = runtime.sum(facts.to(runtime.device)).tolist()
    if not sum(rows):
        raise ValueError(f"--input_file {args.input_file} has no instance")
    instances = Instances(paths, rows, checksums, config.vocab_size)
    epochs = args.num_train_steps * args.train_batch_size / len(instances)
    runtime.print(
        f"{len(instances):,} instances in {len(paths)} files"
        + f", which training reads {epochs:.2f} times" * args.do_train
    )
    return instances


def make_batch(rows, total):
    masked = [
        pad_rows([getattr(row, f"masked_lm_{name}") for row in rows])
        for name in ("positions", "ids", "weights")
    ]
    labels = torch.tensor([int(row.next_sentence_labels[0]) for row in rows])
    return model_inputs(rows), *masked, labels, total


def weight_of(row):
    return row.masked_lm_weights.sum()


def loss_of(model, batch):
    """A batch's share of its step's loss: masked words over their number, sentences over theirs."""
    inputs, positions, ids, weights, labels, (total, total_weight) = batch
    scores, next_scores = model(*inputs, positions)
    next_loss = classification_loss(next_scores, labels).sum() / total
    return masked_lm_loss(scores, ids, weights, total_weight) + next_loss


def judge(model, batch):
    """For each row [masked words + 1, 2]: loss, and 1 where the guess is right; the last line is
    the next sentence's."""
    inputs, positions, ids, weights, labels, _ = batch
    scores, next_scores = (scores.float() for scores in model(*inputs, positions))
    judged = []
    for logits, truth in ((scores, ids), (next_scores[:, None], labels[:, None])):
        losses = classification_loss(logits.flatten(0, 1), truth.flatten()).view(truth.shape)
        right = logits.argmax(dim=2) == truth.to(logits.device)
        judged.append(torch.stack([losses, right], dim=2))
    judged = torch.cat(judged, dim=1).cpu().numpy()  # [B, M + 1, 2]
    kept = np.append(weights.numpy() > 0, np.ones((len(labels), 1), bool), axis=1)
    return [rows[keep] for rows, keep in zip(judged, kept)]


def evaluate(judged, batch_size, num_batches, global_step):
    """Google's figures of `num_batches` batches, which start again where the rows end."""
    order = np.resize(np.arange(len(judged)), (num_batches, batch_size))
    masked = np.array([[len(rows) - 1, *rows[:-1].sum(axis=0)] for rows in judged])[order]
    sentence = np.array([rows[-1] for rows in judged])[order]  # [batches, rows, 2]
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


def main(argv=None):
    args = parse_args(argv)
    runtime = training.setup(args)
    config = BertConfig.from_json_file(args.bert_config_file)
    flags.check_model(config, args.vocab_file and load_vocab(args.vocab_file), args)
    weights = training.initial_weights(args)
    instances = open_input(args, runtime, config)

    model = BertForPreTraining(config)
    training.load_initial(model, weights, load_weights, load_tf_weights, runtime, args.do_train)
    training.place(args, runtime, model)
    global_step = checkpoint.read_run(weights).get("global_step", 0)
    if args.do_train:
        global_step = training.train(
            args, runtime, model, instances, make_batch, loss_of, weight_of=weight_of,
            steps_and_warmup=(args.num_train_steps, args.num_warmup_steps),
        )  # fmt: skip
        # Instances do not say what text they were made of; the vocabulary was checked against it.
        casing = {} if args.vocab_file else {"do_lower_case": None, "strip_accents": None}
        checkpoint.save_model(args, runtime, model, config, global_step=global_step, **casing)
    os.makedirs(args.output_dir, exist_ok=True)
    results = {}
    if args.do_eval:
        number = min(len(instances), args.max_eval_steps * args.eval_batch_size)
        judged = training.predict(
            runtime, model, [instances[i] for i in range(number)], args.eval_batch_size,
            make_batch, judge, "eval",
        )  # fmt: skip
        if runtime.is_main:
            results = evaluate(judged, args.eval_batch_size, args.max_eval_steps, global_step)
            checkpoint.write_results(os.path.join(args.output_dir, "eval_results.txt"), results)
    if runtime.is_main:
        evaluated_in = runtime.precision if results else None
        report.write_report(args.output_dir, results, evaluated_in=evaluated_in)
    runtime.leave_together()


if __name__ == "__main__":
    flags.run(main)
