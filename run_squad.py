"""Fine-tunes BERT on SQuAD and answers questions, as Google's run_squad.py.

    python run_squad.py --do_train --train_file $SQUAD_DIR/train-v1.1.json \\
        --do_predict --predict_file $SQUAD_DIR/dev-v1.1.json …

Writes the weights, predictions.json, nbest_predictions.json, null_odds.json (SQuAD 2.0 only),
eval_results.txt (if the predict file contains answers) and report.html to --output_dir; --help
shows a whole command. With --interactive it answers questions typed at the terminal.
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


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Fine-tune BERT to answer questions about a paragraph."
    args = flags.Parser("run_squad", description, EXAMPLE).parse_args(argv)
    if not (args.do_train or args.do_predict or args.interactive):
        raise ValueError("nothing to do: give --do_train, --do_predict or --interactive")
    if args.do_train and not args.train_file:
        raise ValueError("--do_train needs --train_file")
    if args.do_predict and not args.predict_file:
        raise ValueError("--do_predict needs --predict_file")
    if args.do_train and args.eval_steps and not args.predict_file:
        raise ValueError("--eval_steps needs --predict_file, a file with answers")

    # As Google's validate_flags_or_throw: a window holds [CLS] question [SEP] text [SEP].
    if args.max_seq_length <= args.max_query_length + 3:
        raise ValueError(
            f"--max_seq_length {args.max_seq_length} must be greater than "
            f"--max_query_length {args.max_query_length} + 3"
        )
    return args


# --help and a wrong flag are answered here, before the imports below load PyTorch.
ARGS = flags.run(parse_args) if __name__ == "__main__" else None

import json
import re
import zlib
from itertools import repeat

import torch

import checkpoint
import report
import squad_metrics
import training
from data import TrainingExamples, batch_inputs
from files import EVAL_RESULTS, NBEST_PREDICTIONS, NULL_ODDS, PREDICTIONS, WEIGHTS, Tally
from modeling import BertConfig, BertForQuestionAnswering, span_loss
from predict import converse
from squad_data import (
    InputFeatures,  # noqa: F401 (a public name of this module)
    RawResult,
    SquadExample,  # noqa: F401 (a public name of this module)
    best_answers,
    convert_examples_to_features,
    find_answer,
    get_final_text,  # noqa: F401 (a public name of this module)
    read_dataset,
    read_squad_examples,
    write_predictions,
)
from squad_metrics import UNSPACED, question_id, select_questions, without_placeholders

# --- data ----------------------------------------------------------------------------------------


def load(args, runtime, tokenizer, name, path, is_training):
    """(examples, features, dataset) of a SQuAD file. Raises ValueError if no question is usable."""
    dataset = read_dataset(path)
    tally = Tally("questions")
    examples = read_squad_examples(
        path,
        is_training,
        args.version_2_with_negative,
        runtime.print,
        dataset,
        tally,
        args.align_answers,
    )
    if is_training:
        examples = tally.first(examples, args.max_train_examples, "max_train_examples")
    else:
        examples = tally.first(examples, args.max_eval_examples, "max_eval_examples")
        ids = {example.qas_id for example in examples}
        dataset = select_questions(dataset, lambda qa, _: question_id(qa) in ids)
    features = featurize(args, tokenizer, examples, is_training, tally)
    if not features:
        raise ValueError(f"{path} has no question that can be used")
    for feature in features:
        tally.add_input(feature.input_ids, 0, tokenizer.vocab["[UNK]"])

    texts = [[example.orig_answer_text] for example in examples if example.orig_answer_text]
    if not is_training:
        questions = [qa for qa, _ in questions_of(dataset) if qa.get("answers")]
        texts = [[answer["text"] for answer in qa["answers"]] for qa in questions]
    lengths = [min(len(tokenizer.encode(text)) for text in alike) for alike in texts]
    too_long = sum(length > args.max_answer_length for length in lengths)
    if too_long:
        tally.notes.append(
            f"answers longer than the {args.max_answer_length} WordPieces of --max_answer_length "
            f"{too_long:,} (the longest has {max(lengths):,})"
        )
    training.print_features(runtime, name, tally, args.max_seq_length, tokenizer)
    return examples, features, dataset


def featurize(args, tokenizer, examples, is_training, tally=None):
    """The windows of the examples, as the flags say."""
    return convert_examples_to_features(
        examples,
        tokenizer,
        args.max_seq_length,
        args.doc_stride,
        args.max_query_length,
        is_training,
        args.align_answers,
        tally,
    )


def questions_of(dataset):
    """Yields each question with its paragraph's context."""
    for article in dataset["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield qa, paragraph["context"]


def scorable_part(args, runtime, dataset):
    """The dataset without questions that have no answer to compare with; None if none is left.

    Raises ValueError for a file of SQuAD 2.0 without --version_2_with_negative.
    """
    questions = [qa for qa, _ in questions_of(dataset)]
    if not args.version_2_with_negative and any(qa.get("is_impossible") for qa in questions):
        raise ValueError(f"{args.predict_file} is SQuAD 2.0: pass --version_2_with_negative")

    scorable, num_left_out = without_placeholders(dataset)
    left_out = f"questions without an answer that is in their context: {num_left_out:,}"
    kept = [qa for qa, _ in questions_of(scorable)]
    unmarked = [qa for qa in kept if not (qa.get("answers") or qa.get("is_impossible"))]
    if len(unmarked) == len(kept):
        if args.do_train and args.eval_steps:
            raise ValueError(f"--eval_steps: {args.predict_file} has no answers to compare with")
        runtime.print(f"the predict file has no answers: no EM and F1 ({left_out})")
        return None
    if num_left_out:
        runtime.print(f"{left_out} of {len(questions):,}; EM and F1 leave them out")
    if unmarked:
        runtime.print(
            f"questions without an answer that are not marked impossible: {len(unmarked):,}; they "
            f"count as unanswerable, as in SQuAD's own evaluation"
        )
    return scorable


# --- the model's loss and answers ----------------------------------------------------------------


def compute_loss(model, batch, totals):
    """A batch's share of its step's mean loss: the mean of the start's and the end's."""
    inputs, (start_positions, end_positions) = batch
    start_logits, end_logits = model(*inputs)
    losses = span_loss(start_logits, start_positions) + span_loss(end_logits, end_positions)
    return losses.sum() / (2 * totals.examples)


def predict(args, runtime, model, features, make_batch, title):
    """A RawResult for each feature, with logits for its tokens; None on ranks other than 0."""

    def logits_of(model, batch):
        inputs, _ = batch
        start_logits, end_logits = model(*inputs)
        lengths = repeat(args.max_seq_length) if args.compute_padding else inputs[0].seqlens
        pairs = torch.stack([start_logits, end_logits], dim=1).float().cpu().numpy()  # [B, 2, S]
        return [pair[:, :length] for pair, length in zip(pairs, lengths)]

    outputs = training.predict(
        runtime, model, features, args.predict_batch_size, make_batch, logits_of, title
    )
    if outputs is None:
        return None
    return [RawResult(feature.unique_id, *pair) for feature, pair in zip(features, outputs)]


def answer_options(args, tokenizer):
    """What decides which answers are best, as keyword arguments of `best_answers`."""
    return {
        "n_best_size": args.n_best_size,
        "max_answer_length": args.max_answer_length,
        "do_lower_case": args.do_lower_case,
        "verbose_logging": args.verbose_logging,
        "strip_accents": args.do_lower_case and args.strip_accents,
        "version_2_with_negative": args.version_2_with_negative,
        "null_score_diff_threshold": args.null_score_diff_threshold,
        "never_split": tokenizer.never_split,
        "align_with": tokenizer if args.align_answers else None,
    }


def make_evaluator(args, runtime, model, tokenizer, prediction_set, make_batch):
    """The Evaluator of --eval_steps; `prediction_set` is (examples, features, scorable dataset)."""
    examples, features, dataset = prediction_set
    options = answer_options(args, tokenizer) | {"verbose_logging": False}

    def figures_of():
        results = predict(args, runtime, model, features, make_batch, "evaluation")
        if results is None:
            return None
        answers = best_answers(examples, features, results, **options)
        texts = {qas_id: answer.text for qas_id, answer in answers.items()}
        return squad_metrics.evaluate(dataset, texts)

    checksum = zlib.crc32(json.dumps(dataset).encode())
    return training.Evaluator(args, figures_of, "f1", checksum)


def write_answers(args, tokenizer, examples, features, results):
    """Writes the files of answers. Returns {question id: Answer}."""
    os.makedirs(args.output_dir, exist_ok=True)
    predictions = os.path.join(args.output_dir, PREDICTIONS)
    nbest_predictions = os.path.join(args.output_dir, NBEST_PREDICTIONS)
    answers = write_predictions(
        examples,
        features,
        results,
        output_prediction_file=predictions,
        output_nbest_file=nbest_predictions,
        output_null_log_odds_file=os.path.join(args.output_dir, NULL_ODDS),
        **answer_options(args, tokenizer),
    )
    num_widened = sum(answer.is_widened for answer in answers.values())
    if num_widened:
        print(
            f"{num_widened:,} answers are whole words although the model chose a part of them, as "
            f"Google does: --align_answers gives just the part"
        )
    print(f"{len(answers)} answers: {predictions}")
    print(f"the best few of each, with probabilities: {nbest_predictions}")
    return answers


def evaluate(args, dataset, answers, global_step):
    """Writes the official figures, and returns them."""
    texts = {qas_id: answer.text for qas_id, answer in answers.items()}
    figures = {"global_step": global_step, **squad_metrics.evaluate(dataset, texts)}
    path = os.path.join(args.output_dir, EVAL_RESULTS)
    checkpoint.write_results(path, figures)
    print(f"these figures: {path}")
    if is_unspaced(dataset):
        print(
            "F1 compares words, and most answers have no spaces between them: squad_metrics.py "
            "--characters compares characters"
        )
    return figures


def is_unspaced(dataset):
    """Whether most answers are in scripts that put no spaces between words."""
    texts = [answer["text"] for qa, _ in questions_of(dataset) for answer in qa["answers"]]
    return sum(bool(re.search(f"[{UNSPACED}]", text)) for text in texts) > len(texts) / 2


def score_question(qa, context, answer):
    """One question with its answers and figures, as `report.answers` takes it."""
    dataset = {"data": [{"paragraphs": [{"qas": [qa]}]}]}
    figures = squad_metrics.evaluate(dataset, {question_id(qa): answer.text})
    exact = figures.get("exact_match", figures.get("exact"))  # SQuAD 1.1, 2.0
    return {
        **answered_question(qa, context, answer),
        "gold": [(offset_of(gold), gold["text"]) for gold in qa["answers"]],
        "exact": exact > 0,
        "f1": figures["f1"] / 100,
    }


def offset_of(gold):
    """Where a gold answer begins; -1 where the file does not say it."""
    start = gold.get("answer_start")
    return -1 if start is None else int(start)


def answered_question(qa, context, answer):
    """One question with its answer, as `report.answers` takes it."""
    return {
        "id": question_id(qa),
        "question": qa["question"],
        "context": context,
        "predicted": answer.text,
        "start": find_answer(context, answer),
    }


def answer_typed(args, runtime, model, tokenizer, make_batch):
    """Answers the questions that are typed at the terminal."""

    def answer(question, context):
        paragraph = {"context": context, "qas": [{"id": "typed", "question": question}]}
        dataset = {"data": [{"paragraphs": [paragraph]}]}
        examples = read_squad_examples("the input", False, dataset=dataset)
        features = featurize(args, tokenizer, examples, False)
        results = predict(args, runtime, model, features, make_batch, None)
        return best_answers(examples, features, results, **answer_options(args, tokenizer))["typed"]

    converse(answer)


# --- the command ---------------------------------------------------------------------------------


def execute(args) -> None:
    """Does what the parsed flags ask for."""
    runtime = training.setup(args)
    if args.interactive and runtime.world_size > 1:
        raise ValueError("--interactive answers in one process: start it without a launcher")
    config = BertConfig.from_json_file(args.bert_config_file)
    weights = training.resolve_init_checkpoint(args)
    tokenizer = training.make_tokenizer(args, weights)
    flags.check_model(config, tokenizer.vocab, args)

    model = BertForQuestionAnswering(config)
    training.load_initial_weights(model, weights, runtime, head_may_be_new=args.do_train)
    tokenizer = training.add_tokens(args, runtime, model, tokenizer)
    model.bert.compute_padding = args.compute_padding
    training.follow_checkpoint_precision(args, runtime)
    training.place_model(args, runtime, model)
    training.print_resources(args, runtime, model)

    # Both files are read before any training, so that a mistake in one costs nothing.
    if args.do_train:
        train_examples, train_features, _ = load(
            args, runtime, tokenizer, "train", args.train_file, is_training=True
        )
    if args.do_predict or (args.do_train and args.eval_steps):
        predict_examples, predict_features, dataset = load(
            args, runtime, tokenizer, "predict", args.predict_file, is_training=False
        )
        scorable = scorable_part(args, runtime, dataset)

    width = args.max_seq_length if args.compute_padding else 0

    def make_batch(rows):
        # Without a target, as in prediction, the position is None.
        starts = torch.tensor([row.start_position or 0 for row in rows])
        ends = torch.tensor([row.end_position or 0 for row in rows])
        return batch_inputs(rows, width), (starts, ends)

    global_step = checkpoint.read_metadata(weights).get("global_step", 0)
    if args.do_train:
        examples = TrainingExamples(
            train_features,
            fields=("input_ids", "segment_ids", "start_position", "end_position"),
            make_batch=make_batch,
            num_examples=len(train_examples),  # questions, as Google counts
        )
        evaluator = None
        if args.eval_steps:
            prediction_set = predict_examples, predict_features, scorable
            evaluator = make_evaluator(args, runtime, model, tokenizer, prediction_set, make_batch)
        global_step = training.train(args, runtime, model, examples, compute_loss, evaluator)
        checkpoint.save_model(args, runtime, model, config, global_step=global_step)
        runtime.print(f"trained weights: {os.path.join(args.output_dir, WEIGHTS)}")

    figures = {}
    sections = []
    if args.do_predict:
        results = predict(args, runtime, model, predict_features, make_batch, "predict")
        if runtime.is_main:
            answers = write_answers(args, tokenizer, predict_examples, predict_features, results)
            if scorable:
                figures = evaluate(args, scorable, answers, global_step)
            shown = score_question if scorable else answered_question
            questions = [
                shown(qa, context, answers[question_id(qa)])
                for qa, context in questions_of(scorable or dataset)
            ]
            sections = [report.answers(questions)]
    if runtime.is_main and (args.do_train or args.do_predict):
        evaluated_in = runtime.precision if args.do_predict else None
        facts = training.report_facts(runtime)
        path = report.write_report(
            args.output_dir, figures, sections, evaluated_in, facts, is_trained=args.do_train
        )
        print(f"report: {path}")
    if args.interactive:
        answer_typed(args, runtime, model, tokenizer, make_batch)
    runtime.barrier()


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    execute(parse_args(argv))


if __name__ == "__main__":
    flags.run(execute, ARGS)
