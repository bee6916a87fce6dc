"""Fine-tunes BERT on SQuAD and answers questions, as Google's run_squad.py.

    python run_squad.py --do_train --train_file $SQUAD_DIR/train-v1.1.json \\
        --do_predict --predict_file $SQUAD_DIR/dev-v1.1.json …

Writes to --output_dir the weights, predictions.json, nbest_predictions.json, for SQuAD 2.0
null_odds.json, and eval_results.txt where the predict file has answers; see the README.
"""

import json
import os

import torch

import checkpoint
import flags
import squad_metrics
import training
from convert_tf_checkpoint_to_pytorch import load_tf_weights
from data import model_inputs
from modeling import BertConfig, BertForQuestionAnswering, load_weights, span_loss
from squad_data import (
    InputFeatures,  # noqa: F401 (this and the next are part of this module's public names)
    RawResult,
    SquadExample,  # noqa: F401
    convert_examples_to_features,
    get_final_text,  # noqa: F401
    read_squad_examples,
    write_predictions,
)
from tokenization import FullTokenizer

EXAMPLE = """  python run_squad.py \\
    --vocab_file $BERT_BASE_DIR/vocab.txt \\
    --bert_config_file $BERT_BASE_DIR/bert_config.json \\
    --init_checkpoint $BERT_PYTORCH_DIR/pytorch_model.bin \\
    --do_train --train_file $SQUAD_DIR/train-v1.1.json \\
    --do_predict --predict_file $SQUAD_DIR/dev-v1.1.json \\
    --train_batch_size 12 --learning_rate 5e-5 --num_train_epochs 2.0 \\
    --max_seq_length 384 --doc_stride 128 --output_dir ../debug_squad/"""


def parse_args(argv=None):
    parser = flags.Parser("Fine-tune BERT to answer questions about a paragraph.", EXAMPLE)
    parser.flags(
        "task",
        output_dir=(..., "folder for weights, answers and checkpoints"),
        do_train=(False, "train on --train_file"),
        train_file=(None, "SQuAD json to train on"),
        do_predict=(False, "answer the questions of --predict_file"),
        predict_file=(None, "SQuAD json to answer; with answers in it, EM and F1 are computed"),
        version_2_with_negative=(False, "SQuAD 2.0: some questions have no answer"),
        null_score_diff_threshold=(
            0.0,
            'with 2.0, answer "" where its score exceeds the best answer\'s by more than this',
        ),
        doc_stride=(128, "WordPieces between the starts of two windows over a long paragraph"),
        max_query_length=(64, "longer questions are cut to so many WordPieces"),
        n_best_size=(20, "answers for each question in nbest_predictions.json"),
        max_answer_length=(30, "longest answer, in WordPieces"),
        predict_batch_size=(8, "windows in a batch of prediction"),
        verbose_logging=(False, "tell why an answer could not be mapped back to the text"),
        compute_padding=(False, "compute padding positions too, as Google's graph does"),
    )
    flags.add_model_flags(parser, max_seq_length=384)
    flags.add_training_flags(parser, train_batch_size=32, num_train_epochs=3.0)
    args = parser.parse_args(argv)
    if not (args.do_train or args.do_predict):
        raise ValueError("nothing to do: give --do_train or --do_predict")
    for flag, file in (("do_train", "train_file"), ("do_predict", "predict_file")):
        if getattr(args, flag) and not getattr(args, file):
            raise ValueError(f"--{flag} needs --{file}")
    if args.max_seq_length <= args.max_query_length + 3:  # as Google's
        raise ValueError(
            f"--max_seq_length {args.max_seq_length} must be greater than "
            f"--max_query_length {args.max_query_length} + 3"
        )
    if args.doc_stride < 1:
        raise ValueError(f"--doc_stride is {args.doc_stride}, but must be 1 or more")
    return args


def loss_of(model, batch):
    """A batch's share of its step's mean loss: the mean of the start's and the end's."""
    inputs, (starts, ends), total = batch
    start_logits, end_logits = model(*inputs)
    return (span_loss(start_logits, starts) + span_loss(end_logits, ends)).sum() / (2 * total)


def read_answers(path, version_2_with_negative):
    """The parsed dataset if every question has answers or is marked impossible, else None."""
    with open(path, encoding="utf-8-sig") as file:
        dataset = json.load(file)
    questions = [
        qa
        for article in dataset["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    if not version_2_with_negative and any(qa.get("is_impossible") for qa in questions):
        raise ValueError(f"{path} is SQuAD 2.0: pass --version_2_with_negative")
    answered = all(qa.get("answers") or qa.get("is_impossible") for qa in questions)
    return dataset if questions and answered else None


def answer(args, runtime, model, examples, features, dataset, make_batch):
    """Predicts, and writes the answers; returns the official figures, or {}."""

    def logits_of(model, batch):
        starts, ends = model(*batch[0])
        lengths = batch[0][2].sum(dim=1).tolist()
        if args.compute_padding:
            lengths = [args.max_seq_length] * len(lengths)
        pairs = torch.stack([starts, ends], dim=1).float().cpu().numpy()  # [B, 2, S]
        return [pair[:, :length] for pair, length in zip(pairs, lengths)]

    outputs = training.predict(
        runtime, model, features, args.predict_batch_size, make_batch, logits_of, "predict"
    )
    if outputs is None:
        return {}
    results = [RawResult(f.unique_id, *pair) for f, pair in zip(features, outputs)]
    path = lambda name: os.path.join(args.output_dir, name)  # noqa: E731
    answers, null_odds = write_predictions(
        examples, features, results, args.n_best_size, args.max_answer_length, args.do_lower_case,
        path("predictions.json"), path("nbest_predictions.json"), path("null_odds.json"),
        args.verbose_logging, args.version_2_with_negative, args.null_score_diff_threshold,
    )  # fmt: skip
    print(f"{len(answers)} answers: {path('predictions.json')}")
    if dataset is None:
        print("the predict file has no answers: no EM and F1")
        return {}
    return squad_metrics.evaluate(dataset, answers)


def main(argv=None):
    args = parse_args(argv)
    runtime = training.setup(args)
    config = BertConfig.from_json_file(args.bert_config_file)
    tokenizer = FullTokenizer(args.vocab_file, args.do_lower_case)
    flags.check_model(config, tokenizer.vocab, args)
    weights = training.initial_weights(args)

    model = BertForQuestionAnswering(config)
    training.load_initial(model, weights, load_weights, load_tf_weights, runtime, args.do_train)
    model.bert.compute_padding = args.compute_padding
    model.to(runtime.device)
    training.announce(args, runtime, model)

    def load(name, path, is_training):
        examples = read_squad_examples(
            path, is_training, args.version_2_with_negative, log=runtime.print
        )
        features = convert_examples_to_features(
            examples, tokenizer, args.max_seq_length, args.doc_stride, args.max_query_length,
            is_training,
        )  # fmt: skip
        if not features:
            raise ValueError(f"{path} has no question that can be used")
        training.describe(runtime, name, features, args.max_seq_length, tokenizer.vocab)
        return examples, features

    if args.do_train:
        train_examples, train_features = load("train", args.train_file, True)
    if args.do_predict:
        predict_examples, predict_features = load("predict", args.predict_file, False)
        dataset = read_answers(args.predict_file, args.version_2_with_negative)

    width = args.max_seq_length if args.compute_padding else 0

    def make_batch(rows, total):
        targets = [
            torch.tensor([position or 0 for position in positions])
            for positions in zip(*((row.start_position, row.end_position) for row in rows))
        ]
        return model_inputs(rows, width), targets, total

    global_step = checkpoint.read_run(weights).get("global_step", 0) if weights else 0
    if args.do_train:
        fields = ("input_ids", "segment_ids", "start_position", "end_position")
        global_step = training.train(
            args, runtime, model, train_features, make_batch, loss_of, fields,
            num_examples=len(train_examples),
        )  # fmt: skip
        checkpoint.save_model(args, runtime, model, config, global_step=global_step)
    if args.do_predict:
        os.makedirs(args.output_dir, exist_ok=True)
        figures = answer(
            args, runtime, model, predict_examples, predict_features, dataset, make_batch
        )
        if figures:
            path = os.path.join(args.output_dir, "eval_results.txt")
            checkpoint.write_results(path, {"global_step": global_step, **figures})


if __name__ == "__main__":
    flags.run(main)
