"""Fine-tunes BERT on sentence and sentence-pair classification, as Google's run_classifier.py.

    python run_classifier.py --task_name MRPC --do_train --do_eval --data_dir $GLUE_DIR/MRPC/ …

Writes the weights, eval_results.txt, test_results.tsv and report.html to --output_dir; --help
shows a whole command. The tasks and their files are in glue_data.py.
"""

import copy
import glob
import json
import os
import re
import shutil
import statistics
from contextlib import suppress

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
    convert_examples_to_features,
    convert_single_example,
    find_processor,
    labels_found,
    load_processor,
)

EXAMPLE = """  python run_classifier.py --task_name MRPC --do_train --do_eval \\
    --data_dir $GLUE_DIR/MRPC/ --vocab_file $BERT_BASE_DIR/vocab.txt \\
    --bert_config_file $BERT_BASE_DIR/bert_config.json \\
    --init_checkpoint $BERT_PYTORCH_DIR/pytorch_model.bin \\
    --max_seq_length 128 --train_batch_size 32 --learning_rate 2e-5 \\
    --num_train_epochs 3.0 --output_dir /tmp/mrpc_output/

a task of your own, from a tab-separated train.tsv and dev.tsv with two texts and a label per row:
  python run_classifier.py --task_name tsv --labels no,yes --text_columns 0,1 \\
    --label_column 2 --data_dir my_task/ --do_train --do_eval …"""


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

    parse_seeds(args)
    return args


def parse_own_task(args):
    """Checks the flags of --task_name tsv; makes tuples of --text_columns and --labels."""
    if args.text_columns is None:
        raise ValueError("--task_name tsv needs --text_columns: one column or two, as in 0,1")
    if not re.fullmatch(r"\d+(,\d+)?", args.text_columns):
        raise ValueError(
            f"--text_columns {args.text_columns!r} is not a column or two, counted from 0, "
            f"as in 0,1"
        )
    args.text_columns = tuple(int(column) for column in args.text_columns.split(","))

    if args.label_column is None:
        raise ValueError("--task_name tsv needs --label_column, counted from 0")
    if args.label_column in args.text_columns:
        raise ValueError(f"--label_column {args.label_column} is also one of --text_columns")

    if args.labels is None:
        if args.do_train and not args.init_checkpoint:
            refuse_missing_labels(args)
        return  # The folder of the weights may name them: see take_labels.
    args.labels = parse_labels(args.labels)
    if len(args.labels) < 2 or len(set(args.labels)) < len(args.labels) or "" in args.labels:
        raise ValueError(f"--labels {','.join(args.labels)} must be two or more different names")


def refuse_missing_labels(args):
    """Raises ValueError, with the labels that training examples have."""
    train = os.path.join(args.data_dir, TsvProcessor.files["train"])
    found = os.path.exists(train) and labels_found(train, args.label_column)
    hint = f"; column {args.label_column} of {train} holds {found}" if found else ""
    raise ValueError(f"--task_name tsv needs --labels, as in no,yes{hint}")


def parse_labels(text):
    """A tuple of the names in --labels, which commas separate, or which are a JSON list."""
    names = text.split(",")
    with suppress(ValueError):  # also a name may begin with "["
        value = json.loads(text)
        if isinstance(value, list):
            names = map(str, value)
    return tuple(name.strip() for name in names)


def refuse_own_task_flags(args):
    """Raises ValueError for a flag of --task_name tsv that is given for another task."""
    given = {
        "labels": args.labels is not None,
        "text_columns": args.text_columns is not None,
        "label_column": args.label_column is not None,
        "header": args.header != "auto",
    }
    for name, is_given in given.items():
        if is_given:
            raise ValueError(f"--{name} is for --task_name tsv only: {args.task_name} has its own")


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
from data import TrainingExamples, model_inputs
from files import (
    EVAL_RESULTS,
    REPORT,
    SAFETENSORS,
    SEEDS_RESULTS,
    TEST_RESULTS,
    WEIGHTS,
    FolderLock,
    atomic_write,
)
from modeling import BertConfig, BertForSequenceClassification, classification_loss

# Name -> what it is, of the files in --output_dir that a user looks for.
FILES = {
    WEIGHTS: "weights; --init_checkpoint takes the folder",
    SAFETENSORS: "the same weights",
    EVAL_RESULTS: "figures of --do_eval",
    SEEDS_RESULTS: "figures of each seed, mean and standard deviation",
    REPORT: "curves, figures and mistakes, for a browser",
    TEST_RESULTS: "class probabilities for the test file",
    "test_results_mismatched.tsv": "class probabilities for the other test file",
}


# --- the task ------------------------------------------------------------------------------------


def take_labels(args):
    """Fills in --labels from the folder of the weights. Raises ValueError if it names none."""
    start = checkpoint.find_start(args)
    if start is None or not start.labels:
        refuse_missing_labels(args)
    args.labels = tuple(start.labels)


def make_task(args):
    """The Task of --task_name or --processor."""
    if args.processor:
        return load_processor(args.processor)
    if args.task_name == "tsv":
        columns = args.text_columns, args.label_column
        return Task(TsvProcessor(args.labels, *columns, args.header))
    if args.task_name == "xnli":
        return Task(XnliProcessor(args.language))
    return Task(find_processor(args.task_name)())


def files_of(task):
    """FILES and those that the task's GLUE server takes."""
    server_files = task.server_files.values()
    return FILES | dict.fromkeys(server_files, "predictions for the GLUE server")


def load(args, runtime, task, tokenizer):
    """{set: (examples, features)} of the files that the run needs.

    A second dev or test set, MNLI's mismatched ones, is read only if its file exists.
    """
    wanted = {"train": args.do_train, "dev": args.do_eval, "test": args.do_predict}
    sets = {}
    for name, file in task.files.items():
        kind, _, variant = name.partition("_")
        if not wanted[kind]:
            continue
        if variant and not os.path.exists(os.path.join(args.data_dir, file)):
            continue
        examples, tally = task.get_examples(name, args.data_dir, runtime.print)
        features = convert_examples_to_features(
            examples, task.labels, args.max_seq_length, tokenizer
        )
        for feature in features:
            tally.add_input(feature.input_ids, feature.num_tokens, tokenizer.vocab["[UNK]"])
        training.print_features(runtime, name, tally, args.max_seq_length, tokenizer)
        sets[name] = examples, features
    return sets


# --- losses and figures --------------------------------------------------------------------------


def compute_loss(model, batch, totals):
    """A batch's share of its step's mean loss."""
    inputs, labels = batch
    return classification_loss(model(*inputs), labels).sum() / totals.examples


def logits_of(model, batch):
    """The logits of a batch as an array [B, labels]."""
    inputs, _ = batch
    return model(*inputs).float().cpu().numpy()


def evaluate(logits, label_ids, batch_size, metrics, global_step):
    """Google's figures and the task's own, from the logits [examples, labels]."""
    losses = classification_loss(torch.from_numpy(logits), torch.from_numpy(label_ids)).numpy()
    # As Google: "loss" is the mean of the batches' means, of which the last may be a smaller one.
    batches = [losses[i : i + batch_size].mean() for i in range(0, len(losses), batch_size)]
    results = {}
    predictions = logits[:, 0]
    if logits.shape[1] > 1:
        predictions = logits.argmax(axis=1)
        results["eval_accuracy"] = glue_metrics.accuracy(predictions, label_ids)
    results["eval_loss"] = losses.mean(dtype=np.float64)
    results["global_step"] = global_step
    results["loss"] = np.mean(batches)
    for name, metric in metrics.items():
        results[name] = metric(predictions, label_ids)
    return results


def is_collapsed(logits, label_ids):
    """Whether the model gives all examples one class although they are of several."""
    if logits.shape[1] == 1:
        return False
    return len(np.unique(logits.argmax(axis=1))) == 1 and len(np.unique(label_ids)) > 1


def write_test_results(output_dir, logits, labels, variant, server_file):
    """Writes test_results.tsv, as Google's: a row of class probabilities per example.

    For a task of GLUE's also the file that its server takes: index and label, or score.
    """
    name = f"test_results_{variant}.tsv" if variant else TEST_RESULTS
    values = torch.from_numpy(logits).softmax(dim=1).numpy() if labels else logits
    with atomic_write(os.path.join(output_dir, name)) as file:
        for row in values:
            file.write("\t".join(map(str, row)) + "\n")
    print(f"{name}: {len(logits)} rows of {', '.join(labels) or 'scores'}")

    if not server_file:
        return
    with atomic_write(os.path.join(output_dir, server_file)) as file:
        file.write("index\tprediction\n")
        for index, row in enumerate(logits):
            # The only scores, STS-B's, are from 0 to 5.
            value = labels[row.argmax()] if labels else f"{row[0].clip(0, 5):.3f}"
            file.write(f"{index}\t{value}\n")


# --- one run -------------------------------------------------------------------------------------


def train_and_evaluate(args, runtime):
    """Trains, evaluates and predicts, as the flags say.

    Returns on the main rank the figures of evaluation and whether the model collapsed.
    """
    task = make_task(args)
    labels = task.labels
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
        return model_inputs(rows, width), torch.tensor([row.label_id for row in rows])

    global_step = checkpoint.read_metadata(weights).get("global_step", 0)
    if args.do_train:
        _, features = sets.pop("train")
        examples = TrainingExamples(features, fields=("input_ids", "segment_ids", "label_id"))
        global_step = training.train(args, runtime, model, examples, make_batch, compute_loss)
        checkpoint.save_model(args, runtime, model, config, labels=labels, global_step=global_step)

    os.makedirs(args.output_dir, exist_ok=True)
    results = {}
    sections = []
    collapsed = False
    for name, (examples, features) in sets.items():
        kind, _, variant = name.partition("_")
        batch_size = args.eval_batch_size if kind == "dev" else args.predict_batch_size
        logits = training.predict(runtime, model, features, batch_size, make_batch, logits_of, name)
        if logits is None:
            continue
        logits = np.stack(logits)
        if kind == "test":
            server_file = task.server_files.get(name)
            write_test_results(args.output_dir, logits, labels, variant, server_file)
            continue

        label_ids = np.array([feature.label_id for feature in features])
        figures = evaluate(logits, label_ids, batch_size, task.metrics, global_step)
        suffix = f"_{variant}" if variant else ""
        results |= {f"{key}{suffix}": value for key, value in figures.items()}
        texts = [(example.text_a, example.text_b) for example in examples]
        title = f"Evaluation on {task.files[name]}"
        sections.append(report.classification(labels, label_ids, logits, texts, title))
        if is_collapsed(logits, label_ids):
            collapsed = True
            print("warning: every example is given the same label; another --seed may do better")

    if args.do_eval and runtime.is_main:
        checkpoint.write_results(os.path.join(args.output_dir, EVAL_RESULTS), results)
        for name, meaning in task.meanings.items():
            print(f"{name} is {meaning}")
    if (args.do_train or args.do_eval) and runtime.is_main:
        evaluated_in = runtime.precision if sections else None
        results_shown = {
            f"{name} ({task.meanings[name]})" if name in task.meanings else name: value
            for name, value in results.items()
        }
        report.write_report(args.output_dir, results_shown, sections, evaluated_in)
    return results, collapsed


# --- several seeds -------------------------------------------------------------------------------


def train_seeds(args, runtime):
    """Trains and evaluates with each of --seeds; copies the best one's files to --output_dir.

    Each run is what `--seed N --output_dir …/seed-N` alone would be.
    """
    task = make_task(args)
    check_seeds(task)
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
    collapsed_seeds = []
    for seed in args.seeds:
        own_args = copy.copy(args)
        own_args.seed = seed
        own_args.seeds = None
        own_args.output_dir = os.path.join(args.output_dir, f"seed-{seed}")
        if args.tensorboard:
            own_args.tensorboard = os.path.join(args.tensorboard, f"seed-{seed}")
        runtime.print(f"== seed {seed}: {own_args.output_dir}")
        torch.manual_seed(seed)  # as training.setup does: the new weights depend on it
        runs[seed], collapsed = train_and_evaluate(own_args, runtime)
        if collapsed:
            collapsed_seeds.append(seed)
    if not runtime.is_main:
        return

    summary = summary_of(runs, collapsed_seeds, task.main_metric)
    print_table(summary)
    with atomic_write(os.path.join(args.output_dir, SEEDS_RESULTS)) as file:
        json.dump(summary, file, indent=2)
    best = os.path.join(args.output_dir, f"seed-{summary['best']}")
    copy_best(best, args.output_dir, files_of(task).keys() - {SEEDS_RESULTS})
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


def check_seeds(task):
    """Raises ValueError if the best of several seeds could not be determined."""
    figures = list(task.metrics)
    if task.labels:
        figures.insert(0, "eval_accuracy")
    if task.main_metric not in figures:
        raise ValueError(
            f"--seeds: the main_metric of {task.name} is {task.main_metric}, "
            f"but there is only {', '.join(figures) or 'the loss'}"
        )


def summary_of(runs, collapsed_seeds, metric):
    """The content of seeds_results.json, from {seed: figures}.

    The best seed has the highest `metric`, and among equals the lowest loss. The standard deviation
    is that of a sample (n - 1).
    """
    names = [name for name in next(iter(runs.values())) if name.startswith("eval_")]
    seeds = {seed: {name: float(runs[seed][name]) for name in names} for seed in runs}
    columns = {name: [figures[name] for figures in seeds.values()] for name in names}
    return {
        "metric": metric,
        "best": max(seeds, key=lambda seed: (seeds[seed][metric], -seeds[seed]["eval_loss"])),
        "one_class": collapsed_seeds,
        "mean": {name: statistics.mean(values) for name, values in columns.items()},
        "standard_deviation": {name: statistics.stdev(values) for name, values in columns.items()},
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
    if args.task_name == "tsv" and args.labels is None:
        take_labels(args)
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
