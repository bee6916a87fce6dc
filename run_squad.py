"""Fine-tunes BERT on SQuAD and answers questions, as Google's run_squad.py.

    python run_squad.py --do_train --train_file $SQUAD_DIR/train-v1.1.json \\
        --do_predict --predict_file $SQUAD_DIR/dev-v1.1.json …

Writes to --output_dir the weights, predictions.json, nbest_predictions.json, for SQuAD 2.0
null_odds.json, eval_results.txt where the predict file has answers, and report.html; see the
README. With --interactive it answers what is asked at the terminal.
"""

import os

import flags

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
        interactive=(False, "answer questions typed at the terminal, or piped in"),
        verbose_logging=(False, "tell why an answer could not be mapped back to the text"),
        compute_padding=(False, "compute padding positions too, as Google's graph does"),
    )
    flags.add_model_flags(parser, max_seq_length=384)
    flags.add_training_flags(parser, train_batch_size=32, num_train_epochs=3.0)
    args = parser.parse_args(argv)
    if not (args.do_train or args.do_predict or args.interactive):
        raise ValueError("nothing to do: give --do_train, --do_predict or --interactive")
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


if __name__ == "__main__":  # --help and a wrong flag answer before PyTorch is loaded
    flags.run(parse_args)

import sys
from contextlib import suppress

import torch

import checkpoint
import report
import squad_metrics
import training
from convert_tf_checkpoint_to_pytorch import load_tf_weights
from data import model_inputs
from modeling import BertConfig, BertForQuestionAnswering, load_weights, span_loss
from squad_data import (
    InputFeatures,  # noqa: F401 (this and the next are part of this module's public names)
    RawResult,
    SquadExample,  # noqa: F401
    best_answers,
    convert_examples_to_features,
    find_answer,
    get_final_text,  # noqa: F401
    read_dataset,
    read_squad_examples,
    write_predictions,
)
from tokenization import FullTokenizer

TYPED_NBEST = 5  # answers shown to a question typed at the terminal


def loss_of(model, batch):
    """A batch's share of its step's mean loss: the mean of the start's and the end's."""
    inputs, (starts, ends), total = batch
    start_logits, end_logits = model(*inputs)
    return (span_loss(start_logits, starts) + span_loss(end_logits, ends)).sum() / (2 * total)


def questions_of(dataset):
    """Pairs of a question and its paragraph's context."""
    for article in dataset["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield qa, paragraph["context"]


def has_answers(args, dataset):
    """Whether every question has answers or is marked impossible."""
    questions = [qa for qa, _ in questions_of(dataset)]
    if not args.version_2_with_negative and any(qa.get("is_impossible") for qa in questions):
        raise ValueError(f"{args.predict_file} is SQuAD 2.0: pass --version_2_with_negative")
    return all(qa.get("answers") or qa.get("is_impossible") for qa in questions)


def featurize(args, tokenizer, examples, is_training):
    return convert_examples_to_features(
        examples, tokenizer, args.max_seq_length, args.doc_stride, args.max_query_length,
        is_training,
    )  # fmt: skip


def predict(args, runtime, model, features, make_batch, title):
    """A RawResult for each feature, of logits as long as it; None on ranks other than 0."""

    def logits_of(model, batch):
        starts, ends = model(*batch[0])
        lengths = batch[0][2].sum(dim=1).tolist()
        if args.compute_padding:
            lengths = [args.max_seq_length] * len(lengths)
        pairs = torch.stack([starts, ends], dim=1).float().cpu().numpy()  # [B, 2, S]
        return [pair[:, :length] for pair, length in zip(pairs, lengths)]

    outputs = training.predict(
        runtime, model, features, args.predict_batch_size, make_batch, logits_of, title
    )
    if outputs is None:
        return None
    return [RawResult(feature.unique_id, *pair) for feature, pair in zip(features, outputs)]


def answer_options(args):
    """What decides which answers are best, for `best_answers`."""
    return {
        "n_best_size": args.n_best_size, "max_answer_length": args.max_answer_length,
        "do_lower_case": args.do_lower_case, "verbose_logging": args.verbose_logging,
        "strip_accents": args.do_lower_case and args.strip_accents,
        "version_2_with_negative": args.version_2_with_negative,
        "null_score_diff_threshold": args.null_score_diff_threshold,
    }  # fmt: skip


def write_answers(args, examples, features, results):
    """Writes the answers of prediction. Returns them, {question id: Answer}."""
    path = lambda name: os.path.join(args.output_dir, name)  # noqa: E731
    os.makedirs(args.output_dir, exist_ok=True)
    answers = write_predictions(
        examples, features, results, output_prediction_file=path("predictions.json"),
        output_nbest_file=path("nbest_predictions.json"),
        output_null_log_odds_file=path("null_odds.json"), **answer_options(args),
    )  # fmt: skip
    print(f"{len(answers)} answers: {path('predictions.json')}")
    print(f"the best few of each, with probabilities: {path('nbest_predictions.json')}")
    return answers


def evaluate(args, dataset, answers, global_step):
    """Writes the official figures; returns them and the section of the report with the answers."""
    figures = {"global_step": global_step}
    figures |= squad_metrics.evaluate(dataset, {key: a.text for key, a in answers.items()})
    path = os.path.join(args.output_dir, "eval_results.txt")
    checkpoint.write_results(path, figures)
    print(f"these figures: {path}")
    judged = [judge(qa, context, answers[qa["id"]]) for qa, context in questions_of(dataset)]
    return figures, [report.answers(judged)]


def judge(qa, context, answer):
    """One question with its answers, as `report.answers` takes it."""
    dataset = {"data": [{"paragraphs": [{"qas": [qa]}]}]}
    figures = squad_metrics.evaluate(dataset, {qa["id"]: answer.text})
    return {
        "id": qa["id"], "question": qa["question"], "context": context,
        "gold": [(gold.get("answer_start", -1), gold["text"]) for gold in qa["answers"]],
        "predicted": answer.text, "start": find_answer(context, answer),
        "exact": figures.get("exact_match", figures.get("exact")) > 0, "f1": figures["f1"] / 100,
    }  # fmt: skip


def converse(args, runtime, model, tokenizer, make_batch):
    """Reads paragraphs and questions, a line each, and prints the answers until the input ends."""
    with suppress(ImportError):  # lines that can be edited, and be longer than 4095 characters
        import readline  # noqa: F401
    print("A paragraph in one line, then questions; an empty line: another paragraph; Ctrl-D: end.")
    with suppress(EOFError):
        while True:
            context = read_line("\nparagraph: ")
            while context.strip() and (question := read_line("question: ")).strip():
                paragraph = {"context": context, "qas": [{"id": "typed", "question": question}]}
                dataset = {"data": [{"paragraphs": [paragraph]}]}
                examples = read_squad_examples("the input", False, dataset=dataset)
                features = featurize(args, tokenizer, examples, False)
                results = predict(args, runtime, model, features, make_batch, None)
                answer = best_answers(examples, features, results, **answer_options(args))["typed"]
                print(f"answer: {answer.text or '(none)'}")
                for entry in answer.nbest[:TYPED_NBEST]:
                    print(f"{entry['probability']:8.1%}  {entry['text'] or '(none)'}")
    print()  # after the prompt at which the input ended


def read_line(prompt):
    """A line of the input. Of a pipe it is shown, as a terminal shows what is typed."""
    if sys.stdin.isatty():
        return input(prompt)
    line = input()
    print(f"{prompt}{line}")
    return line


def main(argv=None):
    args = parse_args(argv)
    runtime = training.setup(args)
    if args.interactive and runtime.world_size > 1:
        raise ValueError("--interactive answers in one process: start it without a launcher")
    config = BertConfig.from_json_file(args.bert_config_file)
    tokenizer = FullTokenizer(
        args.vocab_file, args.do_lower_case, args.do_lower_case and args.strip_accents
    )
    flags.check_model(config, tokenizer.vocab, args)
    weights = training.initial_weights(args)

    model = BertForQuestionAnswering(config)
    training.load_initial(model, weights, load_weights, load_tf_weights, runtime, args.do_train)
    model.bert.compute_padding = args.compute_padding
    training.place(args, runtime, model)

    def load(name, path, is_training):
        dataset = read_dataset(path)
        examples = read_squad_examples(
            path, is_training, args.version_2_with_negative, runtime.print, dataset
        )
        features = featurize(args, tokenizer, examples, is_training)
        if not features:
            raise ValueError(f"{path} has no question that can be used")
        training.describe(runtime, name, features, args.max_seq_length, tokenizer.vocab)
        return examples, features, dataset

    if args.do_train:
        train_examples, train_features, _ = load("train", args.train_file, True)
    if args.do_predict:
        predict_examples, predict_features, dataset = load("predict", args.predict_file, False)
        answered = has_answers(args, dataset)

    width = args.max_seq_length if args.compute_padding else 0

    def make_batch(rows, total):
        targets = [
            torch.tensor([position or 0 for position in positions])
            for positions in zip(*((row.start_position, row.end_position) for row in rows))
        ]
        return model_inputs(rows, width), targets, total

    global_step = checkpoint.read_run(weights).get("global_step", 0)
    if args.do_train:
        fields = ("input_ids", "segment_ids", "start_position", "end_position")
        global_step = training.train(
            args, runtime, model, train_features, make_batch, loss_of, fields,
            num_examples=len(train_examples),
        )  # fmt: skip
        checkpoint.save_model(args, runtime, model, config, global_step=global_step)
        runtime.print(f"trained weights: {os.path.join(args.output_dir, checkpoint.WEIGHTS)}")
    figures, sections = {}, []
    if args.do_predict:
        results = predict(args, runtime, model, predict_features, make_batch, "predict")
        if runtime.is_main:
            answers = write_answers(args, predict_examples, predict_features, results)
            if answered:
                figures, sections = evaluate(args, dataset, answers, global_step)
            else:
                print("the predict file has no answers: no EM and F1")
    if runtime.is_main and (args.do_train or args.do_predict):
        evaluated_in = runtime.precision if args.do_predict else None
        path = report.write_report(args.output_dir, figures, sections, evaluated_in)
        print(f"report: {path}")
    if args.interactive:
        converse(args, runtime, model, tokenizer, make_batch)
    runtime.leave_together()


if __name__ == "__main__":
    flags.run(main)
