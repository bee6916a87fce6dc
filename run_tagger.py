"""Fine-tunes BERT to tag words: named entities, chunks, parts of speech (paper, section 5.3).

    python run_tagger.py --do_train --do_eval --do_predict --data_dir ner/ …

Reads train.txt, dev.txt and test.txt in CoNLL columns. Writes the weights, eval_results.txt,
test_predictions.txt (the lines of test.txt with a tag more), test_results.tsv (the tags'
probabilities) and report.html to --output_dir; --help shows a whole command.
"""

import os

import flags

EXAMPLE = """  python run_tagger.py --do_train --do_eval --do_predict \\
    --data_dir samples/tagging/ --vocab_file $BERT_BASE_DIR/vocab.txt \\
    --bert_config_file $BERT_BASE_DIR/bert_config.json \\
    --init_checkpoint $BERT_PYTORCH_DIR/pytorch_model.bin \\
    --max_seq_length 128 --train_batch_size 32 --learning_rate 5e-5 \\
    --num_train_epochs 3.0 --output_dir /tmp/tagging_output/"""


FILES = {"train": "train.txt", "dev": "dev.txt", "test": "test.txt"}


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Fine-tune BERT to tag the words of sentences."
    args = flags.Parser("run_tagger", description, EXAMPLE).parse_args(argv)
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    for name in wanted_sets(args):
        with open(path_of(args, name), "rb"):
            pass
    return args


def wanted_sets(args):
    """The sets that the run reads."""
    in_training = args.do_train and args.eval_steps
    wanted = {"train": args.do_train, "dev": args.do_eval or in_training, "test": args.do_predict}
    return [name for name in FILES if wanted[name]]


def path_of(args, name):
    """The path of a set's file."""
    return os.path.join(args.data_dir, FILES[name])


# --help and a wrong flag are answered here, before the imports below load PyTorch.
ARGS = flags.run(parse_args) if __name__ == "__main__" else None

import numpy as np
import torch

import checkpoint
import report
import tagging_metrics
import training
from data import TrainingExamples, batch_inputs, checksum_of
from files import (
    EVAL_RESULTS,
    TEST_EVAL_RESULTS,
    TEST_PREDICTIONS,
    TEST_RESULTS,
    WEIGHTS,
    atomic_write,
)
from modeling import (
    NO_LABEL,
    BertConfig,
    BertForTokenClassification,
    classification_loss,
    token_loss,
)
from tagging_data import (
    convert_examples_to_features,
    find_labels,
    join_windows,
    read_examples,
    read_rows,
    split_columns,
)

RESULTS = {"dev": EVAL_RESULTS, "test": TEST_EVAL_RESULTS}
FIELDS = ("input_ids", "positions", "label_ids")  # of the features: what the results depend on
CONTEXT = 20  # words of a sentence that the report shows on either side of a wrong one

# --- data ----------------------------------------------------------------------------------------


def load(args, runtime):
    """(tags in the order of the model's outputs, {set: (examples, tally)}) for what the run does.

    The tags are those of train.txt, or without training those of the folder of the weights.
    """
    sets = {}
    if args.do_train:
        path = path_of(args, "train")
        examples, tally = read_examples(path)
        labels, meaning = find_labels(examples, path)
        runtime.print(f"tags: {meaning}")
        examples = tally.first(examples, args.max_train_examples, "max_train_examples")
        sets["train"] = examples, tally
    else:
        start = checkpoint.find_start(args)
        labels = start.labels
        if start.task not in (None, "tagging"):
            raise ValueError(
                f"{start.path} is a model for {start.task}: fine-tune it for this task"
            )
        if not labels:
            raise ValueError(
                f"{start.path} does not name its tags: there is no run.json of run_tagger.py, nor "
                f"an id2label in config.json"
            )
    if "dev" in wanted_sets(args):
        examples, tally = read_examples(path_of(args, "dev"), labels)
        examples = tally.first(examples, args.max_eval_examples, "max_eval_examples")
        sets["dev"] = examples, tally
    if args.do_predict:
        sets["test"] = read_examples(path_of(args, "test"), labels, is_test=True)
    return labels, sets


def featurize(args, runtime, tokenizer, labels, name, examples, tally):
    """The windows of a set's sentences. Prints what became of these."""
    features = convert_examples_to_features(examples, labels, args.max_seq_length, tokenizer, tally)
    training.print_features(runtime, name, tally, args.max_seq_length, tokenizer)
    return features


# --- the model's loss and tags -------------------------------------------------------------------


def compute_loss(model, batch, totals):
    """A batch's share of its step's mean loss over all words."""
    inputs, labels = batch
    logits = model(*inputs)  # [B, S, labels]
    return token_loss(logits, labels[:, : logits.shape[1]]).sum() / totals.weight


def predict(args, runtime, model, name, examples, features, make_batch):
    """The logits of each sentence's words, [words, labels]; None on ranks other than 0."""

    def logits_of(model, batch):
        inputs, labels = batch
        logits = model(*inputs).float().cpu().numpy()  # [B, S, labels]
        labelled = labels.numpy()[:, : logits.shape[1]] != NO_LABEL
        return [own[row] for own, row in zip(logits, labelled)]

    batch_size = args.eval_batch_size if name == "dev" else args.predict_batch_size
    outputs = training.predict(runtime, model, features, batch_size, make_batch, logits_of, name)
    if outputs is None:
        return None
    return join_windows(examples, features, outputs, model.num_labels)


def evaluate(logits, examples, labels, batch_size, global_step):
    """Google's figures and the entities', from the logits of each sentence's words."""
    gold = [example.tags for example in examples]
    predicted = [tags_of(own, labels) for own in logits]
    losses = [
        classification_loss(torch.from_numpy(own), torch.from_numpy(ids)).numpy()
        for own, ids in zip(logits, label_ids_of(examples, labels))
    ]
    # As Google: "loss" is the mean of the batches' means, of which the last may be a smaller one.
    batches = [
        np.concatenate(losses[start : start + batch_size]).mean()
        for start in range(0, len(losses), batch_size)
    ]
    figures = {
        "eval_accuracy": tagging_metrics.accuracy(gold, predicted),
        "eval_loss": np.concatenate(losses).mean(dtype=np.float64),
        "global_step": global_step,
        "loss": np.mean(batches),
    }
    if tagging_metrics.has_entities(labels):
        found = tagging_metrics.evaluate(gold, predicted)
        figures |= {f"eval_{key}": value for key, value in found.items()}
    return figures


def label_ids_of(examples, labels):
    """The numbers of the tags of each sentence's words."""
    number_of = {label: number for number, label in enumerate(labels)}
    return [np.array([number_of[tag] for tag in example.tags]) for example in examples]


def mistakes(logits, examples, labels, file):
    """The report's section with the wrong words, each among those around it."""
    label_ids = np.concatenate(label_ids_of(examples, labels))
    texts = [
        (word, " ".join(example.words[max(0, place - CONTEXT) : place + CONTEXT + 1]))
        for example in examples
        for place, word in enumerate(example.words)
    ]
    places = [f"{file}:{line}" for example in examples for line in example.lines]
    title = f"Evaluation on {file}"
    return report.classification(labels, label_ids, np.concatenate(logits), texts, title, places)


def make_evaluator(args, runtime, model, labels, examples, features, make_batch):
    """The Evaluator of --eval_steps, on the dev set."""

    def figures_of():
        logits = predict(args, runtime, model, "dev", examples, features, make_batch)
        return logits and evaluate(logits, examples, labels, args.eval_batch_size, 0)

    metric = "eval_f1" if tagging_metrics.has_entities(labels) else "eval_accuracy"
    return training.Evaluator(args, figures_of, metric, checksum_of(features, FIELDS))


def tags_of(logits, labels):
    """The tags of a sentence from its words' logits."""
    return [labels[number] for number in logits.argmax(axis=1)]


def write_tags(args, logits, labels):
    """Writes the lines of test.txt with each word's tag at their ends, and all probabilities."""
    tags = iter([tag for own in logits for tag in tags_of(own, labels)])
    path = os.path.join(args.output_dir, TEST_PREDICTIONS)
    with atomic_write(path) as file:
        for _, line, columns in read_rows(path_of(args, "test")):
            # A -DOCSTART- line gets its last column once more: conlleval wants as many in each.
            added = [next(tags)] if columns else split_columns(line)[1:][-1:]
            if added:
                line = line.rstrip(" \t") + ("\t" if "\t" in line else " ") + added[0]
            file.write(f"{line}\n")
    print(f"the lines of {FILES['test']}, each with its tag: {path}")

    path = os.path.join(args.output_dir, TEST_RESULTS)
    probabilities = torch.from_numpy(np.concatenate(logits)).softmax(dim=1).numpy()
    with atomic_write(path) as file:
        file.writelines("\t".join(map(str, row)) + "\n" for row in probabilities)
    print(f"a row of probabilities for each word, of {', '.join(labels)}: {path}")


# --- the command ---------------------------------------------------------------------------------


def execute(args) -> None:
    """Does what the parsed flags ask for."""
    runtime = training.setup(args)
    labels, sets = load(args, runtime)
    config = BertConfig.from_json_file(args.bert_config_file)
    weights = training.resolve_init_checkpoint(args, labels=labels)
    tokenizer = training.make_tokenizer(args, weights)
    flags.check_model(config, tokenizer.vocab, args)

    model = BertForTokenClassification(config, len(labels))
    training.load_initial_weights(model, weights, runtime, args.do_train, labels)
    tokenizer = training.add_tokens(args, runtime, model, tokenizer)
    model.bert.compute_padding = args.compute_padding
    training.follow_checkpoint_precision(args, runtime)
    training.place_model(args, runtime, model)
    training.print_resources(args, runtime, model)
    features = {
        name: featurize(args, runtime, tokenizer, labels, name, examples, tally)
        for name, (examples, tally) in sets.items()
    }
    width = args.max_seq_length if args.compute_padding else 0

    def make_batch(rows):
        # Wider than the batch may be: a CUDA graph needs labels of the same shape in each step.
        label_ids = np.full((len(rows), args.max_seq_length), NO_LABEL)
        for own, row in zip(label_ids, rows):
            own[row.positions] = row.label_ids
        return batch_inputs(rows, width), torch.from_numpy(label_ids)

    global_step = checkpoint.read_metadata(weights).get("global_step", 0)
    if args.do_train:
        examples = TrainingExamples(
            features["train"], FIELDS, make_batch, weight_of=lambda row: len(row.words)
        )
        evaluator = None
        if args.eval_steps:
            dev_examples, _ = sets["dev"]
            evaluator = make_evaluator(
                args, runtime, model, labels, dev_examples, features["dev"], make_batch
            )
        examples.metadata = {"task": "tagging", "labels": labels}
        global_step = training.train(args, runtime, model, examples, compute_loss, evaluator)
        checkpoint.save_model(
            args, runtime, model, config, **examples.metadata, global_step=global_step
        )
        runtime.print(f"trained weights: {os.path.join(args.output_dir, WEIGHTS)}")

    os.makedirs(args.output_dir, exist_ok=True)
    results = {}
    sections = []
    for name, (examples, _) in sets.items():
        if name == "train" or (name == "dev" and not args.do_eval):
            continue
        logits = predict(args, runtime, model, name, examples, features[name], make_batch)
        if logits is None:
            continue
        if name == "test":
            write_tags(args, logits, labels)
        if examples[0].tags is not None:
            figures = evaluate(logits, examples, labels, args.eval_batch_size, global_step)
            print(f"{FILES[name]}:")
            checkpoint.write_results(os.path.join(args.output_dir, RESULTS[name]), figures)
            results |= figures if name == "dev" else {f"test: {k}": v for k, v in figures.items()}
            sections.append(mistakes(logits, examples, labels, FILES[name]))
    if runtime.is_main:
        evaluated_in = runtime.precision if sections else None
        facts = training.report_facts(runtime)
        path = report.write_report(
            args.output_dir, results, sections, evaluated_in, facts, is_trained=args.do_train
        )
        print(f"report: {path}")
    runtime.barrier()


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    execute(parse_args(argv))


if __name__ == "__main__":
    flags.run(execute, ARGS)
