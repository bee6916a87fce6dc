"""Fine-tunes BERT on sentence and sentence-pair classification, as Google's run_classifier.py.

    python run_classifier.py --task_name MRPC --do_train --do_eval --data_dir $GLUE_DIR/MRPC/ …

Writes the weights, eval_results.txt, test_results.tsv and report.html to --output_dir; --help
shows a whole command. The tasks and their files are in glue_data.py.
"""

import copy
import glob
import json
import math
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter

import flags
from glue_data import (  # noqa: F401 (all are part of this module's public names)
    PROCESSORS,
    ColaProcessor,
    DataProcessor,
    InputExample,
    InputFeatures,
    MnliProcessor,
    MrpcProcessor,
    QnliProcessor,
    QqpProcessor,
    RteProcessor,
    Sst2Processor,
    StsbProcessor,
    Task,
    TsvProcessor,
    WnliProcessor,
    XnliProcessor,
    class_weights,
    convert_examples_to_features,
    convert_single_example,
    find_processor,
    load_processor,
    reads_files,
)
from tables import cell_text, parse_columns

EXAMPLE = """  python run_classifier.py --task_name MRPC --do_train --do_eval \\
    --data_dir $GLUE_DIR/MRPC/ --vocab_file $BERT_BASE_DIR/vocab.txt \\
    --bert_config_file $BERT_BASE_DIR/bert_config.json \\
    --init_checkpoint $BERT_PYTORCH_DIR/pytorch_model.bin \\
    --max_seq_length 128 --train_batch_size 32 --learning_rate 2e-5 \\
    --num_train_epochs 3.0 --output_dir /tmp/mrpc_output/

a task of your own, from train.csv and dev.csv (or .tsv, .jsonl) with two texts and a label per row:
  python run_classifier.py --task_name tsv --text_columns premise,hypothesis \\
    --label_column label --data_dir my_task/ --do_train --do_eval …"""


def parse_args(argv: list[str] | None = None):
    """The flags as argparse's Namespace. Raises ValueError or OSError for a user's mistake."""
    description = "Fine-tune BERT to classify sentences or pairs of sentences."
    args = flags.Parser("run_classifier", description, EXAMPLE).parse_args(argv)
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")

    if bool(args.task_name) == bool(args.processor):
        raise ValueError("give --task_name, or --processor for a class of your own: one of them")
    if args.processor:
        args.task_name = load_processor(args.processor).name  # a mistake is reported at once
    args.task_name = args.task_name.lower()
    if not args.processor and not find_processor(args.task_name):
        raise ValueError(f"--task_name is {args.task_name!r}; use one of {', '.join(PROCESSORS)}")
    if args.task_name == "tsv":
        parse_own_task(args)
    else:
        refuse_own_task_flags(args)
    if args.language != "zh" and args.task_name != "xnli":
        raise ValueError(f"--language is for XNLI only, not for {args.task_name}")

    parse_class_weights(args)
    check_files(args)
    parse_seeds(args)
    return args


def check_files(args):
    """Raises FileNotFoundError if a file that the run will read is missing."""
    processor = make_task(args).processor
    for name, wanted in wanted_sets(args).items():
        if wanted and reads_files(processor, name):
            processor.require(args.data_dir, name)


def make_task(args):
    """The Task of --task_name or --processor."""
    if args.processor:
        return load_processor(args.processor)
    if args.task_name == "tsv":
        columns = args.text_columns, args.label_column
        kind = args.header, args.multi_label, args.dev_fraction, args.seed
        return Task(TsvProcessor(args.labels, *columns, *kind))
    if args.task_name == "xnli":
        return Task(XnliProcessor(args.language))
    return Task(find_processor(args.task_name)())


def wanted_sets(args):
    """{set: whether the run reads it}"""
    in_training = args.do_train and args.eval_steps
    return {"train": args.do_train, "dev": args.do_eval or in_training, "test": args.do_predict}


def parse_own_task(args):
    """Checks the flags of --task_name tsv; makes tuples of --text_columns and --labels."""
    if args.text_columns is None:
        raise ValueError(
            "--task_name tsv needs --text_columns: one column or two, as in text or 0,1"
        )
    if args.label_column is None:
        raise ValueError("--task_name tsv needs --label_column, by name or by number from 0")
    args.text_columns = tuple(map(number_or_name, parse_columns(args.text_columns)))
    args.label_column = number_or_name(args.label_column.strip())
    if args.label_column in args.text_columns:
        raise ValueError(f"--label_column {args.label_column} is also one of --text_columns")
    for column in (*args.text_columns, args.label_column):
        if isinstance(column, str) and args.header == "false":
            raise ValueError(f"--header false, but the column {column} is given by name")

    if args.labels is None:
        return  # see find_labels
    if args.labels.strip().lower() == "none":
        args.labels = ()
        if args.multi_label:
            raise ValueError("--multi_label needs labels, but --labels none is for a regression")
        return
    args.labels = parse_labels(args.labels)
    if len(args.labels) < 2 or len(set(args.labels)) < len(args.labels) or "" in args.labels:
        raise ValueError(f"--labels {','.join(args.labels)} must be two or more different names")
    if args.multi_label and any("|" in label for label in args.labels):
        raise ValueError("--labels: with --multi_label a name cannot have a |, which parts labels")


def number_or_name(column):
    """A column as a number if it is one."""
    return int(column) if column.isdecimal() else column


def parse_labels(text):
    """A tuple of the names in --labels, which commas separate, or which are a JSON list."""
    names = text.split(",")
    with suppress(ValueError):  # also a name may begin with "["
        value = json.loads(text)
        if isinstance(value, list):
            # As a label column of a .jsonl: true is "true", 1.0 is "1".
            names = [cell_text(name) or "" for name in value]
    return tuple(name.strip() for name in names)


def refuse_own_task_flags(args):
    """Raises ValueError for a flag of --task_name tsv that is given for another task."""
    given = {
        "labels": args.labels is not None,
        "text_columns": args.text_columns is not None,
        "label_column": args.label_column is not None,
        "header": args.header != "auto",
        "multi_label": args.multi_label,
        "dev_fraction": args.dev_fraction is not None,
    }
    for name, is_given in given.items():
        if is_given:
            raise ValueError(f"--{name} is for --task_name tsv only: {args.task_name} has its own")


def parse_class_weights(args):
    """Raises ValueError if --class_weights is neither "balanced" nor a list of weights."""
    if args.class_weights in (None, "balanced"):
        return
    try:
        weights = [float(number) for number in args.class_weights.split(",")]
    except ValueError:
        weights = []
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(
            f"--class_weights {args.class_weights!r} is neither balanced nor a number above 0 for "
            f"each label, as in 1,2.5"
        )


def parse_seeds(args):
    """Makes a list of the numbers in --seeds, or leaves None."""
    if args.seeds is None:
        return
    if not re.fullmatch(r"\d+(,\d+)+", args.seeds):
        raise ValueError(
            f"--seeds {args.seeds!r} is not a list of two or more numbers, as in 1,2,3,4,5"
        )
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    if len(set(args.seeds)) != len(args.seeds):
        raise ValueError(f"--seeds {','.join(map(str, args.seeds))} names a seed twice")
    if not (args.do_train and args.do_eval):
        raise ValueError("--seeds needs --do_train and --do_eval")


# --help and a wrong flag are answered here, before the imports below load PyTorch.
ARGS = flags.run(parse_args) if __name__ == "__main__" else None

import numpy as np
import torch

import checkpoint
import glue_metrics
import report
import training
from data import TrainingExamples, batch_inputs, checksum_of, mean_of_windows
from files import (
    EVAL_RESULTS,
    PREDICTIONS_REPORT,
    REPORT,
    SAFETENSORS,
    SEEDS_RESULTS,
    TEST_RESULTS,
    WEIGHTS,
    FolderLock,
    atomic_write,
)
from modeling import BertConfig, BertForSequenceClassification, classification_loss, to_device

FIELDS = ("input_ids", "segment_ids", "label_id")  # of the features: what the results depend on

# Name -> what it is, of the files in --output_dir that a user looks for.
FILES = {
    WEIGHTS: "weights; --init_checkpoint takes the folder",
    SAFETENSORS: "the same weights",
    EVAL_RESULTS: "figures of --do_eval",
    SEEDS_RESULTS: "figures of each seed, mean and standard deviation",
    REPORT: "curves, figures and mistakes, for a browser",
    PREDICTIONS_REPORT: "predictions, for a browser",
    TEST_RESULTS: "class probabilities for the test file",
    "test_results_mismatched.tsv": "class probabilities for the other test file",
}


# --- the task ------------------------------------------------------------------------------------


def complete_flags(args, runtime):
    """Fills in flags that were not given, from the folder of the weights or the training file.

    Raises ValueError for flags that contradict the folder, or where the labels cannot be found.
    """
    start = checkpoint.find_start(args)
    if start and not args.do_train:
        follow_folder(args, start)
    if args.task_name == "tsv" and args.labels is None:
        args.labels = find_labels(args, runtime, start)


def follow_folder(args, start):
    """Makes evaluation alone do as the run that trained the weights in the folder `start`."""
    trained = start.run.get("flags", {})
    if not flags.is_given(args, "doc_stride"):
        args.doc_stride = trained.get("doc_stride")

    several = start.problem_type == "multi_label_classification"
    if args.task_name == "tsv" and not flags.is_given(args, "multi_label"):
        args.multi_label = several
    if start.problem_type and args.multi_label != several and not args.processor:
        kinds = {True: "several labels an example", False: "one label an example"}
        raise ValueError(
            f"{start.asked} was trained with {kinds[several]}, but this run has "
            f"{kinds[args.multi_label]} (--multi_label)"
        )
    if args.dev_fraction and trained.get("dev_fraction"):
        for name in ("dev_fraction", "seed"):
            if getattr(args, name) != trained[name]:
                raise ValueError(
                    f"{start.asked} was trained with --{name} {trained[name]}, but this run has "
                    f"{getattr(args, name)}: it would be evaluated on examples that it has seen"
                )


def find_labels(args, runtime, start):
    """The labels of a user's own task: of the folder `start`, or of the training file.

    Training takes those of the folder if it names all that the file has.
    """
    named = start.labels if start else None
    if not args.do_train:
        if named is None:
            raise ValueError(
                f"--task_name tsv needs --labels, as in no,yes: {start.path} does not name them"
            )
        return tuple(named)
    found = make_task(args).processor.find_labels(args.data_dir, runtime.print)
    if named and set(found) <= set(named):
        runtime.print(f"--labels are in the order of {start.path}: {', '.join(named)}")
        return tuple(named)
    return found


def files_of(task):
    """FILES and those that the task's GLUE server takes."""
    server_files = task.server_files.values()
    return FILES | dict.fromkeys(server_files, "predictions for the GLUE server")


def load(args, runtime, task, tokenizer):
    """{set: (examples, features)} of the files that the run needs.

    A second dev or test set, MNLI's mismatched ones, is read only if its file exists.
    """
    wanted = wanted_sets(args)
    sets = {}
    for name, file in task.files.items():
        kind, _, variant = name.partition("_")
        if not wanted[kind]:
            continue
        if variant and not os.path.exists(os.path.join(args.data_dir, file)):
            continue
        examples, tally = task.get_examples(name, args.data_dir, runtime.print)
        if kind == "train":
            examples = tally.first(examples, args.max_train_examples, "max_train_examples")
        elif kind == "dev":
            examples = tally.first(examples, args.max_eval_examples, "max_eval_examples")
        if kind == "train":
            warn_of_labels_without_examples(runtime, task, examples)
        features = convert_examples_to_features(
            examples, task.labels, args.max_seq_length, tokenizer, args.doc_stride
        )
        for feature in features:
            tally.add_input(feature.input_ids, feature.num_tokens, tokenizer.vocab["[UNK]"])
        training.print_features(runtime, name, tally, args.max_seq_length, tokenizer)
        if args.doc_stride:
            print_windows(runtime, name, num_windows(features), args.max_seq_length)
        sets[name] = examples, features
    return sets


def warn_of_labels_without_examples(runtime, task, examples):
    """Prints the labels that no training example has: the model cannot learn them."""
    found = set()
    for example in examples:
        found.update(example.label if task.multi_label else [example.label])
    missing = [label for label in task.labels if label not in found]
    if missing:
        runtime.print(f"warning: no training example has the label {', '.join(missing)}")


def num_windows(features):
    """How many windows each text has, in the texts' order."""
    _, counts = np.unique([feature.example for feature in features], return_counts=True)
    return counts


def print_windows(runtime, name, counts, max_seq_length):
    """Prints how many of the texts are read through windows, and what becomes of these."""
    windowed = counts[counts > 1]
    use = "each is an example with its text's label"
    if name != "train":
        use = "the mean of their logits is their text's"
    runtime.print(
        f"{name}: {len(windowed):,} of {len(counts):,} texts are longer than {max_seq_length} "
        f"WordPieces and divided into {windowed.sum():,} windows; {use}"
    )


def weigh_classes(args, runtime, task, features):
    """Sets the weight of each feature in the loss by --class_weights, and prints the weights."""
    label_ids = [feature.label_id for feature in features]
    weights = class_weights(args.class_weights, label_ids, task.labels, task.multi_label)
    for feature in features:
        feature.weight = weights[feature.label_id]
    shown = ", ".join(f"{label} {weight:.4g}" for label, weight in zip(task.labels, weights))
    balanced = " (n / (k * count))" if args.class_weights == "balanced" else ""
    runtime.print(f"class weights{balanced}: {shown}")


def check_main_metric(task, flag):
    """Raises ValueError, naming the flag, if there is no figure by which something is the best."""
    figures = list(task.metrics)
    if task.labels and not task.multi_label:
        figures.insert(0, "eval_accuracy")
    if task.main_metric not in figures:
        raise ValueError(
            f"{flag}: the main_metric of {task.name} is {task.main_metric}, "
            f"but there is only {', '.join(figures) or 'the loss'}"
        )
    if "dev" not in task.files:
        raise ValueError(f"{flag} needs a dev file, which {task.name} does not have")


# --- losses and figures --------------------------------------------------------------------------


def compute_loss(model, batch, totals):
    """A batch's share of its step's mean loss, which --class_weights makes a weighted mean."""
    inputs, labels, *weights = batch
    losses = classification_loss(model(*inputs), labels)
    if totals.weight is None:
        return losses.sum() / totals.examples
    return (losses * to_device(weights[0], losses.device)).sum() / totals.weight


def logits_of(model, batch):
    """The logits of a batch as an array [B, labels]."""
    inputs, *_ = batch
    return model(*inputs).float().cpu().numpy()


def predictions_of(logits, multi_label):
    """The predicted classes [n], for several labels an example [n, labels] of bool; or scores."""
    if multi_label:
        return logits > 0  # a probability above 0.5
    return logits.argmax(axis=1) if logits.shape[1] > 1 else logits[:, 0]


def predict(runtime, model, features, batch_size, make_batch, name):
    """Of the set with this name the logits [texts, labels] and the label ids.

    These are [texts], or [texts, labels] for several labels a text. A text's logits are the mean of
    its windows'. None on ranks other than 0.
    """
    logits = training.predict(runtime, model, features, batch_size, make_batch, logits_of, name)
    if logits is None:
        return None
    counts = num_windows(features)
    last_windows = np.cumsum(counts) - 1
    label_ids = np.array([features[index].label_id for index in last_windows])
    return mean_of_windows(np.stack(logits), counts), label_ids


def evaluate(logits, label_ids, batch_size, metrics, global_step):
    """Google's figures and the task's own, from the logits [examples, labels].

    `label_ids` are [examples], or where these may have several labels [examples, labels].
    """
    losses = classification_loss(torch.from_numpy(logits), torch.from_numpy(label_ids)).numpy()
    # As Google: "loss" is the mean of the batches' means, of which the last may be a smaller one.
    batches = [losses[i : i + batch_size].mean() for i in range(0, len(losses), batch_size)]
    results = {}
    multi_label = label_ids.ndim == 2
    predictions = predictions_of(logits, multi_label)
    if logits.shape[1] > 1 and not multi_label:
        results["eval_accuracy"] = glue_metrics.accuracy(predictions, label_ids)
    results["eval_loss"] = losses.mean(dtype=np.float64)
    results["global_step"] = global_step
    results["loss"] = np.mean(batches)
    for name, metric in metrics.items():
        results[name] = metric(predictions, label_ids)
    return results


def make_evaluator(args, runtime, task, model, sets, make_batch):
    """The Evaluator of --eval_steps, on the dev set that `load` returned; None without the flag."""
    if not args.eval_steps:
        return None
    _, features = sets["dev"]
    batch_size = args.eval_batch_size

    def figures_of():
        predicted = predict(runtime, model, features, batch_size, make_batch, "dev")
        return predicted and evaluate(*predicted, batch_size, task.metrics, 0)

    return training.Evaluator(args, figures_of, task.main_metric, checksum_of(features, FIELDS))


def is_collapsed(logits, label_ids):
    """Whether the model gives all examples the same labels although these differ."""
    if logits.shape[1] == 1:
        return False
    predictions = predictions_of(logits, label_ids.ndim == 2)
    return len(np.unique(predictions, axis=0)) == 1 and len(np.unique(label_ids, axis=0)) > 1


def write_test_results(output_dir, logits, labels, variant, server_file, multi_label=False):
    """Writes test_results.tsv, as Google's: a row of class probabilities per example.

    With several labels an example each has a probability of its own. For a task of GLUE's also the
    file that its server takes: index and label, or score. Returns the name of the first file.
    """
    name = f"test_results_{variant}.tsv" if variant else TEST_RESULTS
    values = logits
    if labels:
        outputs = torch.from_numpy(logits)
        values = (outputs.sigmoid() if multi_label else outputs.softmax(dim=1)).numpy()
    with atomic_write(os.path.join(output_dir, name)) as file:
        for row in values:
            file.write("\t".join(map(str, row)) + "\n")
    print(f"{name}: {len(logits)} rows of {', '.join(labels) or 'scores'}")

    if not server_file:
        return name
    with atomic_write(os.path.join(output_dir, server_file)) as file:
        file.write("index\tprediction\n")
        for index, row in enumerate(logits):
            # The only scores, STS-B's, are from 0 to 5.
            value = labels[row.argmax()] if labels else f"{row[0].clip(0, 5):.3f}"
            file.write(f"{index}\t{value}\n")
    return name


# --- one run -------------------------------------------------------------------------------------


def train_and_evaluate(args, runtime):
    """Trains, evaluates and predicts, as the flags say. Returns an Outcome."""
    task = make_task(args)
    labels = task.labels
    if args.do_train and args.eval_steps:
        check_main_metric(task, "--eval_steps")
    config = BertConfig.from_json_file(args.bert_config_file)
    weights = training.resolve_init_checkpoint(args, labels=labels)
    tokenizer = training.make_tokenizer(args, weights)
    flags.check_model(config, tokenizer.vocab, args)

    model = BertForSequenceClassification(config, len(labels) or 1)
    training.load_initial_weights(model, weights, runtime, args.do_train, labels)
    tokenizer = training.add_tokens(args, runtime, model, tokenizer)
    model.bert.compute_padding = args.compute_padding
    training.follow_checkpoint_precision(args, runtime)
    training.place_model(args, runtime, model)
    training.print_resources(args, runtime, model)
    sets = load(args, runtime, task, tokenizer)
    width = args.max_seq_length if args.compute_padding else 0

    def make_batch(rows):
        label_ids = torch.from_numpy(np.array([row.label_id for row in rows]))
        labels = label_ids.float() if label_ids.is_floating_point() else label_ids
        batch = batch_inputs(rows, width), labels
        return (*batch, torch.tensor([row.weight for row in rows])) if args.class_weights else batch

    global_step = checkpoint.read_metadata(weights).get("global_step", 0)
    if args.do_train:
        _, features = sets.pop("train")
        weight_of = None
        if args.class_weights:
            weigh_classes(args, runtime, task, features)
            weight_of = attrgetter("weight")
        examples = TrainingExamples(features, FIELDS, make_batch, weight_of=weight_of)
        evaluator = make_evaluator(args, runtime, task, model, sets, make_batch)
        examples.metadata = {"labels": labels, "problem_type": task.problem_type}
        global_step = training.train(args, runtime, model, examples, compute_loss, evaluator)
        checkpoint.save_model(
            args, runtime, model, config, **examples.metadata, global_step=global_step
        )
        if not args.do_eval:
            sets.pop("dev", None)

    os.makedirs(args.output_dir, exist_ok=True)
    outcome = evaluate_and_predict(args, runtime, task, model, sets, make_batch, global_step)
    if not runtime.is_main:
        return outcome
    if args.do_eval:
        checkpoint.write_results(os.path.join(args.output_dir, EVAL_RESULTS), outcome.results)
        for name, meaning in task.meanings.items():
            print(f"{name} is {meaning}")
    write_report(args, runtime, task, outcome)
    return outcome


@dataclass
class Outcome:
    """What came out of evaluation and prediction; empty on ranks other than 0."""

    results: dict = field(default_factory=dict)  # what eval_results.txt holds
    sections: list = field(default_factory=list)  # of the report
    notes: dict = field(default_factory=dict)  # beside figures in the report
    is_collapsed: bool = False  # onto one class


def evaluate_and_predict(args, runtime, task, model, sets, make_batch, global_step):
    """Computes what `sets` ask for, and writes predictions. Returns an Outcome."""
    labels = task.labels
    outcome = Outcome()
    for name, (examples, features) in sets.items():
        kind, _, variant = name.partition("_")
        held_out = kind == "dev" and args.dev_fraction
        file = task.files["train" if held_out else name]
        batch_size = args.eval_batch_size if kind == "dev" else args.predict_batch_size
        predicted = predict(runtime, model, features, batch_size, make_batch, name)
        if predicted is None:
            continue
        logits, label_ids = predicted
        texts = [(example.text_a, example.text_b) for example in examples]
        if kind == "test":
            server_file = task.server_files.get(name)
            written = write_test_results(
                args.output_dir, logits, labels, variant, server_file, task.multi_label
            )
            title = f"Predictions for {file}"
            outcome.sections.append(
                report.predictions(labels, logits, texts, title, written, task.multi_label)
            )
            continue

        figures = evaluate(logits, label_ids, batch_size, task.metrics, global_step)
        suffix = f"_{variant}" if variant else ""
        outcome.results |= {f"{key}{suffix}": value for key, value in figures.items()}
        if labels and not task.multi_label:
            outcome.notes[f"eval_accuracy{suffix}"] = report.majority(labels, label_ids)
        # A processor of Google's style does not say where its examples stand.
        places = [
            f"{file}:{example.line}" if example.line else example.guid for example in examples
        ]
        title = f"Evaluation on {held_out:g} of {file}" if held_out else f"Evaluation on {file}"
        section = report.multi_label if task.multi_label else report.classification
        outcome.sections.append(section(labels, label_ids, logits, texts, title, places))
        if is_collapsed(logits, label_ids):
            outcome.is_collapsed = True
            print("warning: every example is given the same label; another --seed may do better")
    return outcome


def write_report(args, runtime, task, outcome):
    """Writes the report's page."""
    results = {
        f"{name} ({task.meanings[name]})" if name in task.meanings else name: value
        for name, value in outcome.results.items()
    }
    report.write_report(
        args.output_dir,
        results,
        outcome.sections,
        runtime.precision if outcome.sections else None,
        training.report_facts(runtime),
        outcome.notes,
        args.do_train,
    )


# --- several seeds -------------------------------------------------------------------------------


def train_seeds(args, runtime):
    """Trains and evaluates with each of --seeds; copies the best one's files to --output_dir.

    Each run is what `--seed N --output_dir …/seed-N` alone would be.
    """
    task = make_task(args)
    check_main_metric(task, "--seeds")
    # With --overwrite_output_dir all seeds are trained again once all have ended; until then the
    # same command, given again after a kill, spares those that have.
    runtime.keep_finished = not os.path.exists(os.path.join(args.output_dir, SEEDS_RESULTS))
    runtime.barrier()
    lock = None
    if runtime.is_main:
        os.makedirs(args.output_dir, exist_ok=True)
        lock = FolderLock(args.output_dir)
        if args.overwrite_output_dir:
            checkpoint.clear_output_dir(args, runtime)
    runs = {}
    for seed in args.seeds:
        own_args = copy.copy(args)
        own_args.seed = seed
        own_args.seeds = None
        own_args.output_dir = os.path.join(args.output_dir, f"seed-{seed}")
        if args.tensorboard:
            own_args.tensorboard = os.path.join(args.tensorboard, f"seed-{seed}")
        runtime.print(f"== seed {seed}: {own_args.output_dir}")
        torch.manual_seed(seed)  # as training.setup does: the new weights depend on it
        runs[seed] = train_and_evaluate(own_args, runtime)
    if not runtime.is_main:
        return

    collapsed = [seed for seed, outcome in runs.items() if outcome.is_collapsed]
    results = {seed: outcome.results for seed, outcome in runs.items()}
    summary = summary_of(results, collapsed, task.main_metric)
    print_table(summary)
    with atomic_write(os.path.join(args.output_dir, SEEDS_RESULTS)) as file:
        json.dump(summary, file, indent=2)
    best = os.path.join(args.output_dir, f"seed-{summary['best']}")
    copy_best(best, args.output_dir, files_of(task).keys() - {SEEDS_RESULTS})
    write_report(args, runtime, task, runs[summary["best"]])
    del lock


def copy_best(folder, output_dir, names):
    """Copies the files of `folder`, except its checkpoints, to `output_dir`.

    Removes from `output_dir` those of `names` that `folder` lacks: an earlier best seed left them.
    """
    for name in names:
        if not os.path.exists(os.path.join(folder, name)):
            with suppress(FileNotFoundError):
                os.remove(os.path.join(output_dir, name))
    for path in glob.glob(os.path.join(glob.escape(folder), "*")):
        if path not in checkpoint.checkpoints(folder).values():
            target = os.path.join(output_dir, os.path.basename(path))
            with open(path, "rb") as source, atomic_write(target, "wb") as file:
                shutil.copyfileobj(source, file)


def summary_of(runs, collapsed_seeds, metric):
    """The content of seeds_results.json, from {seed: figures}.

    The best seed has the highest `metric`, and among equals the lowest loss; a figure that is not
    finite is the worst. The standard deviation
    is that of a sample (n - 1).
    """
    names = [name for name in next(iter(runs.values())) if name.startswith("eval_")]
    seeds = {seed: {name: float(runs[seed][name]) for name in names} for seed in runs}
    columns = {name: [figures[name] for figures in seeds.values()] for name in names}

    def rank(seed):
        figures = [seeds[seed][metric], -seeds[seed]["eval_loss"]]
        return [figure if math.isfinite(figure) else -math.inf for figure in figures]

    return {
        "metric": metric,
        "best": max(seeds, key=rank),
        "one_class": collapsed_seeds,
        "mean": {name: float(np.mean(values)) for name, values in columns.items()},
        "standard_deviation": {n: float(np.std(values, ddof=1)) for n, values in columns.items()},
        "seeds": seeds,
    }


def print_table(summary):
    """Prints a row for each seed, mean and standard deviation, and which seed is kept."""
    names = list(summary["mean"])
    rows = {
        **summary["seeds"],
        "mean": summary["mean"],
        "deviation": summary["standard_deviation"],
    }
    print("\n" + "  ".join([f"{'seed':>9}", *names]))
    for row, figures in rows.items():
        values = [f"{figures[name]:>{len(name)}.4f}" for name in names]
        note = "  one class for every example" if row in summary["one_class"] else ""
        print("  ".join([f"{row:>9}", *values]) + note)
    print(f"the best by {summary['metric']} is kept: seed {summary['best']}\n")


# --- the command ---------------------------------------------------------------------------------


def execute(args) -> None:
    """Does what the parsed flags ask for."""
    runtime = training.setup(args)
    complete_flags(args, runtime)
    if args.seeds:
        train_seeds(args, runtime)
    else:
        train_and_evaluate(args, runtime)
    runtime.print(f"in {args.output_dir}:")
    for name, description in files_of(make_task(args)).items():
        if os.path.exists(os.path.join(args.output_dir, name)):
            runtime.print(f"  {name:<28}{description}")
    runtime.barrier()


def main(argv: list[str] | None = None) -> None:
    """Executes the command line `argv`, or else the process's."""
    execute(parse_args(argv))


if __name__ == "__main__":
    flags.run(execute, ARGS)
