"""Fine-tunes BERT on sentence and sentence-pair classification, as Google's run_classifier.py.

    python run_classifier.py --task_name MRPC --do_train --do_eval --data_dir $GLUE_DIR/MRPC/ …

Writes to --output_dir the weights, eval_results.txt, test_results.tsv and report.html; see the
README. The tasks and their files are glue_data.py's.
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
    TsvProcessor,
    WnliProcessor,
    XnliProcessor,
    convert_examples_to_features,
    convert_single_example,
    labels_found,
)

EXAMPLE = """  python run_classifier.py --task_name MRPC --do_train --do_eval \\
    --data_dir $GLUE_DIR/MRPC/ --vocab_file $BERT_BASE_DIR/vocab.txt \\
    --bert_config_file $BERT_BASE_DIR/bert_config.json \\
    --init_checkpoint $BERT_PYTORCH_DIR/pytorch_model.bin \\
    --max_seq_length 128 --train_batch_size 32 --learning_rate 2e-5 \\
    --num_train_epochs 3.0 --output_dir /tmp/mrpc_output/

a task of your own, from tab-separated train.tsv and dev.tsv with text, text, label:
  python run_classifier.py --task_name tsv --labels no,yes --text_columns 0,1 \\
    --label_column 2 --data_dir my_task/ --do_train --do_eval …"""


def parse_args(argv=None):
    parser = flags.Parser("Fine-tune BERT to classify sentences or pairs of sentences.", EXAMPLE)
    parser.flags(
        "task",
        task_name=(..., f"one of {', '.join(PROCESSORS)} (in any case); tsv is a task of your own"),
        data_dir=(..., "folder with the task's .tsv files"),
        output_dir=(..., "folder for weights, results and checkpoints"),
        do_train=(False, "train on train.tsv"),
        do_eval=(False, "evaluate on dev.tsv"),
        do_predict=(False, "write class probabilities for test.tsv"),
        seeds=(None, "like 1,2,3,4,5: train and evaluate with each --seed, in seed-N of "
               "--output_dir; tell mean and standard deviation, and keep the best there"),
        eval_batch_size=(8, "examples in a batch of evaluation"),
        predict_batch_size=(8, "examples in a batch of prediction"),
        compute_padding=(False, "compute padding positions too, as Google's graph does"),
    )  # fmt: skip
    parser.flags(
        "task of your own (--task_name tsv)",
        labels=(None, "names of the classes, like no,yes: what stands in the label column"),
        text_columns=(None, "column of the text, or columns of the pair, counted from 0, like 0,1"),
        label_column=(None, "column of the label; test.tsv may lack it where it comes last"),
        header=("auto", "whether the files begin with a header: true, false, or auto, where the "
                "first row is one if its label column holds no label, and test.tsv begins as "
                "train.tsv or dev.tsv does"),
    )  # fmt: skip
    flags.add_model_flags(parser, max_seq_length=128)
    flags.add_training_flags(parser, train_batch_size=32, num_train_epochs=3.0)
    args = parser.parse_args(argv)
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    if args.task_name.lower() not in PROCESSORS:
        raise ValueError(f"--task_name {args.task_name} is none of {', '.join(PROCESSORS)}")
    args.task_name = args.task_name.lower()
    if args.max_seq_length < 3:
        raise ValueError(f"--max_seq_length is {args.max_seq_length}, but must be 3 or more")
    parse_own_task(args)
    parse_seeds(args)
    return args


def parse_own_task(args):
    """Makes lists and a number of the flags of --task_name tsv, and refuses them elsewhere."""
    if args.task_name != "tsv":
        for name in ("labels", "text_columns", "label_column"):
            if getattr(args, name) is not None:
                raise ValueError(f"--{name} is for --task_name tsv: {args.task_name} has its own")
        if args.header != "auto":
            raise ValueError(f"--header is for --task_name tsv: {args.task_name} has its own")
        return
    if not re.fullmatch(r"\d+(,\d+)?", args.text_columns or ""):
        raise ValueError("--task_name tsv needs --text_columns: one, or two like 0,1, from 0 on")
    if not re.fullmatch(r"\d+", args.label_column or ""):
        raise ValueError("--task_name tsv needs --label_column, counted from 0")
    args.text_columns = tuple(map(int, args.text_columns.split(",")))
    args.label_column = int(args.label_column)
    if args.label_column in args.text_columns:
        raise ValueError(f"--label_column {args.label_column} is one of --text_columns")
    if args.header not in ("auto", "true", "false"):
        raise ValueError(f"--header {args.header!r} is none of auto, true, false")
    if args.labels is None:
        train = os.path.join(args.data_dir, TsvProcessor.files["train"])
        found = os.path.exists(train) and labels_found(train, args.label_column)
        hint = f"; column {args.label_column} of {train} holds {found}" if found else ""
        raise ValueError(f"--task_name tsv needs --labels, like no,yes{hint}")
    args.labels = tuple(label.strip() for label in args.labels.split(","))
    if len(set(args.labels)) != len(args.labels) or len(args.labels) < 2 or "" in args.labels:
        raise ValueError(f"--labels {','.join(args.labels)} are not two or more different names")


def parse_seeds(args):
    """Makes a list of --seeds, or leaves None."""
    if args.seeds is None:
        return
    if not re.fullmatch(r"\d+(,\d+)+", args.seeds):
        raise ValueError(f"--seeds {args.seeds!r} is not a list of numbers like 1,2,3,4,5")
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    if len(set(args.seeds)) != len(args.seeds):
        raise ValueError(f"--seeds {','.join(map(str, args.seeds))} names a seed twice")
    if not (args.do_train and args.do_eval):
        raise ValueError("--seeds needs --do_train and --do_eval")


if __name__ == "__main__":  # --help and a wrong flag answer before PyTorch is loaded
    flags.run(parse_args)

import numpy as np
import torch

import checkpoint
import glue_metrics
import report
import training
from convert_tf_checkpoint_to_pytorch import load_tf_weights
from data import model_inputs
from modeling import (
    BertConfig,
    BertForSequenceClassification,
    classification_loss,
    load_weights,
    moved,
)
from tokenization import FullTokenizer

EVAL_RESULTS, SEEDS_RESULTS = "eval_results.txt", "seeds_results.json"
FILES = {
    checkpoint.WEIGHTS: "weights; --init_checkpoint takes the folder, which has all they need",
    checkpoint.SAFETENSORS: "the same weights",
    EVAL_RESULTS: "figures of --do_eval",
    SEEDS_RESULTS: "figures of each seed, mean and standard deviation",
    "report.html": "curves, figures and mistakes, for a browser",
    "test_results.tsv": "class probabilities for the test file",
    "test_results_mismatched.tsv": "class probabilities for the other test file",
}


def make_processor(args):
    if args.task_name == "tsv":
        return TsvProcessor(args.labels, args.text_columns, args.label_column, args.header)
    return PROCESSORS[args.task_name]()


def files_of(processor):
    """{name: what it is} of the files that a user looks for in --output_dir."""
    server_files = processor.server_files.values()
    return FILES | dict.fromkeys(server_files, "predictions for the GLUE server")


def losses_of(logits, labels):
    """Each example's loss, [B, labels], [B] -> [B]: the squared error where there is one output."""
    if logits.shape[1] > 1:
        return classification_loss(logits, labels)
    return (logits[:, 0] - moved(labels, logits.device)) ** 2


def loss_of(model, batch):
    """A batch's share of its step's mean loss."""
    inputs, labels, total = batch
    return losses_of(model(*inputs), labels).sum() / total


def logits_of(model, batch):
    return model(*batch[0]).float().cpu().numpy()


def evaluate(logits, label_ids, batch_size, metrics, global_step):
    """Google's figures, and the task's own, from the logits [examples, labels]."""
    losses = losses_of(torch.from_numpy(logits), torch.from_numpy(label_ids)).numpy()
    # As Google: "loss" is the mean of the batches' means, of which the last may be a smaller one.
    batches = [losses[i : i + batch_size].mean() for i in range(0, len(losses), batch_size)]
    results, predictions = {}, logits[:, 0]
    if logits.shape[1] > 1:
        predictions = logits.argmax(axis=1)
        results["eval_accuracy"] = glue_metrics.accuracy(predictions, label_ids)
    results |= {
        "eval_loss": losses.mean(dtype=np.float64),
        "global_step": global_step,
        "loss": np.mean(batches),
    }
    return results | {name: metric(predictions, label_ids) for name, metric in metrics.items()}


def is_collapsed(logits, label_ids):
    """Whether the model gives all examples one class, though they are of several."""
    predictions = np.unique(logits.argmax(axis=1))
    return logits.shape[1] > 1 and len(predictions) == 1 < len(np.unique(label_ids))


def write_test_results(output_dir, logits, labels, variant, server_file):
    """test_results.tsv as Google's, a row of class probabilities an example in file order; and,
    for a task of GLUE's, the file that its server takes: index and label, or score."""
    name = f"test_results_{variant}.tsv" if variant else "test_results.tsv"
    values = torch.from_numpy(logits).softmax(dim=1).numpy() if labels else logits
    with checkpoint.replacing(os.path.join(output_dir, name)) as file:
        for row in values:
            file.write("\t".join(map(str, row)) + "\n")
    print(f"{name}: {len(logits)} rows of {', '.join(labels) or 'scores'}")
    if server_file:
        with checkpoint.replacing(os.path.join(output_dir, server_file)) as file:
            file.write("index\tprediction\n")
            for index, row in enumerate(logits):
                # STS-B's scores, the only ones, are from 0 to 5.
                value = labels[row.argmax()] if labels else f"{row[0].clip(0, 5):.3f}"
                file.write(f"{index}\t{value}\n")


def load(args, runtime, processor, tokenizer):
    """{set: (examples, features)} of the files that the run needs; a further dev or test set,
    MNLI's mismatched ones, only where its file is there."""
    wanted = {"train": args.do_train, "dev": args.do_eval, "test": args.do_predict}
    sets = {}
    for name, file in processor.files.items():
        kind, _, variant = name.partition("_")
        if wanted[kind] and (not variant or os.path.exists(os.path.join(args.data_dir, file))):
            examples = processor.get_examples(args.data_dir, name, runtime.print)
            features = convert_examples_to_features(
                examples, processor.get_labels(), args.max_seq_length, tokenizer
            )
            training.describe(runtime, name, features, args.max_seq_length, tokenizer.vocab)
            sets[name] = examples, features
    return sets


def train_and_evaluate(args, runtime):
    """Trains, evaluates and predicts, as the flags say. Returns on the main rank the figures of
    evaluation, and whether the model gives all examples one class."""
    processor = make_processor(args)
    labels = processor.get_labels()
    config = BertConfig.from_json_file(args.bert_config_file)
    tokenizer = FullTokenizer(
        args.vocab_file, args.do_lower_case, args.do_lower_case and args.strip_accents
    )
    flags.check_model(config, tokenizer.vocab, args)
    weights = training.initial_weights(args, labels=labels)

    model = BertForSequenceClassification(config, len(labels) or 1)
    training.load_initial(model, weights, load_weights, load_tf_weights, runtime, args.do_train)
    model.bert.compute_padding = args.compute_padding
    training.place(args, runtime, model)
    sets = load(args, runtime, processor, tokenizer)
    width = args.max_seq_length if args.compute_padding else 0

    def make_batch(rows, total):
        return model_inputs(rows, width), torch.tensor([row.label_id for row in rows]), total

    global_step = checkpoint.read_run(weights).get("global_step", 0)
    if args.do_train:
        _, features = sets.pop("train")
        fields = ("input_ids", "segment_ids", "label_id")
        global_step = training.train(args, runtime, model, features, make_batch, loss_of, fields)
        checkpoint.save_model(args, runtime, model, config, labels=labels, global_step=global_step)
    os.makedirs(args.output_dir, exist_ok=True)
    results, sections, collapsed = {}, [], False
    for name, (examples, features) in sets.items():
        kind, _, variant = name.partition("_")
        batch_size = args.eval_batch_size if kind == "dev" else args.predict_batch_size
        logits = training.predict(runtime, model, features, batch_size, make_batch, logits_of, name)
        if logits is None:
            continue
        logits = np.stack(logits)
        if kind == "test":
            server_file = processor.server_files.get(name)
            write_test_results(args.output_dir, logits, labels, variant, server_file)
            continue
        label_ids = np.array([feature.label_id for feature in features])
        figures = evaluate(logits, label_ids, batch_size, processor.metrics, global_step)
        suffix = f"_{variant}" if variant else ""
        results |= {f"{key}{suffix}": value for key, value in figures.items()}
        texts = [(example.text_a, example.text_b) for example in examples]
        title = f"Evaluation on {processor.files[name]}"
        sections.append(report.classification(labels, label_ids, logits, texts, title))
        if is_collapsed(logits, label_ids):
            collapsed = True
            print("warning: every example is given the same label; another --seed may do better")
    if args.do_eval and runtime.is_main:
        checkpoint.write_results(os.path.join(args.output_dir, EVAL_RESULTS), results)
    if (args.do_train or args.do_eval) and runtime.is_main:
        evaluated_in = runtime.precision if sections else None
        report.write_report(args.output_dir, results, sections, evaluated_in)
    return results, collapsed


def train_seeds(args, runtime):
    """Trains and evaluates with each of --seeds, as `--seed N --output_dir …/seed-N` alone would,
    and puts the best one's files to --output_dir."""
    check_seeds(args)
    runs, collapsed = {}, []
    for seed in args.seeds:
        own = copy.copy(args)
        own.seed, own.seeds = seed, None
        own.output_dir = os.path.join(args.output_dir, f"seed-{seed}")
        own.tensorboard = args.tensorboard and os.path.join(args.tensorboard, f"seed-{seed}")
        runtime.print(f"== seed {seed}: {own.output_dir}")
        torch.manual_seed(seed)  # as training.setup: the new weights depend on it
        runs[seed], one_class = train_and_evaluate(own, runtime)
        collapsed += [seed] if one_class else []
    if runtime.is_main:
        summary = summary_of(runs, collapsed, make_processor(args).main_metric)
        print_table(summary)
        with checkpoint.replacing(os.path.join(args.output_dir, SEEDS_RESULTS)) as file:
            json.dump(summary, file, indent=2)
        keep_best(os.path.join(args.output_dir, f"seed-{summary['best']}"), args.output_dir,
                  files_of(make_processor(args)).keys() - {SEEDS_RESULTS})  # fmt: skip


def keep_best(folder, output_dir, names):
    """Copies the files of `folder`, but not its checkpoints, to `output_dir`. Of `names` nothing
    stays there that another seed has left, when it was the best."""
    for name in names:
        if not os.path.exists(os.path.join(folder, name)):
            with suppress(FileNotFoundError):
                os.remove(os.path.join(output_dir, name))
    for path in glob.glob(os.path.join(glob.escape(folder), "*")):
        if path not in checkpoint.checkpoints(folder).values():
            target = os.path.join(output_dir, os.path.basename(path))
            with open(path, "rb") as source, checkpoint.replacing(target, "wb") as file:
                shutil.copyfileobj(source, file)


def check_seeds(args):
    """Raises ValueError where the best of several seeds could not be told, or not be kept."""
    processor, path = make_processor(args), lambda name: os.path.join(args.output_dir, name)
    figures = [*(["eval_accuracy"] if processor.labels else []), *processor.metrics]
    if processor.main_metric not in figures:
        raise ValueError(
            f"--seeds: the main_metric of {type(processor).__name__} is {processor.main_metric}, "
            f"but there is only {', '.join(figures) or 'the loss'}"
        )
    if os.path.exists(path(checkpoint.WEIGHTS)) and not os.path.exists(path(SEEDS_RESULTS)):
        raise ValueError(
            f"--output_dir {args.output_dir} holds the {checkpoint.WEIGHTS} of another run, whose "
            f"place the best seed's would take: use another folder"
        )


def summary_of(runs, collapsed, metric):
    """What seeds_results.json holds, of {seed: figures}: the best seed has the most of `metric`,
    and among equals the least loss; the standard deviation is that of a sample (n - 1)."""
    names = [name for name in next(iter(runs.values())) if name.startswith("eval_")]
    seeds = {seed: {name: float(runs[seed][name]) for name in names} for seed in runs}
    columns = {name: [figures[name] for figures in seeds.values()] for name in names}
    return {
        "metric": metric,
        "best": max(seeds, key=lambda seed: (seeds[seed][metric], -seeds[seed]["eval_loss"])),
        "one_class": collapsed,
        "mean": {name: statistics.mean(values) for name, values in columns.items()},
        "standard_deviation": {name: statistics.stdev(values) for name, values in columns.items()},
        "seeds": seeds,
    }


def print_table(summary):
    names, spread = list(summary["mean"]), summary["standard_deviation"]
    print("\n" + "  ".join([f"{'seed':>9}", *names]))
    for row, figures in {**summary["seeds"], "mean": summary["mean"], "deviation": spread}.items():
        values = [f"{figures[name]:>{len(name)}.4f}" for name in names]
        note = "  one class for every example" if row in summary["one_class"] else ""
        print("  ".join([f"{row:>9}", *values]) + note)
    print(f"the best by {summary['metric']} is kept: seed {summary['best']}\n")


def main(argv=None):
    args = parse_args(argv)
    runtime = training.setup(args)
    if args.seeds:
        train_seeds(args, runtime)
    else:
        train_and_evaluate(args, runtime)
    runtime.print(f"in {args.output_dir}:")
    for name, what in files_of(make_processor(args)).items():
        if os.path.exists(os.path.join(args.output_dir, name)):
            runtime.print(f"  {name:<28}{what}")
    runtime.leave_together()


if __name__ == "__main__":
    flags.run(main)
