"""Fine-tunes BERT on sentence and sentence-pair classification, as Google's run_classifier.py.

    python run_classifier.py --task_name MRPC --do_train --do_eval --data_dir $GLUE_DIR/MRPC/ …

Writes to --output_dir the weights, eval_results.txt and test_results.tsv; see the README.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch

import checkpoint
import flags
import glue_metrics
import training
from convert_tf_checkpoint_to_pytorch import load_tf_weights
from data import model_inputs, pack_pair
from modeling import BertConfig, BertForSequenceClassification, classification_loss, load_weights
from tokenization import FullTokenizer

EXAMPLE = """  python run_classifier.py --task_name MRPC --do_train --do_eval \\
    --data_dir $GLUE_DIR/MRPC/ --vocab_file $BERT_BASE_DIR/vocab.txt \\
    --bert_config_file $BERT_BASE_DIR/bert_config.json \\
    --init_checkpoint $BERT_PYTORCH_DIR/pytorch_model.bin \\
    --max_seq_length 128 --train_batch_size 32 --learning_rate 2e-5 \\
    --num_train_epochs 3.0 --output_dir /tmp/mrpc_output/"""


@dataclass
class InputExample:
    """One example of a file: an id, one or two texts, and the label where there is one."""

    guid: str
    text_a: str
    text_b: str | None = None
    label: str | None = None


@dataclass(eq=False)
class InputFeatures:
    """The WordPieces of an example, int32 [length] without padding; its label's index or score."""

    input_ids: np.ndarray
    input_mask: np.ndarray
    segment_ids: np.ndarray
    label_id: int | float


class DataProcessor:
    """Reads the files of one task. Give these class attributes, and it is done:

    labels         names in the order of the model's outputs; none for a regression
    files          {"train": …, "dev": …, "test": …}; more sets may follow
    text_columns   of the one or two texts in a row
    label_column
    headers        sets whose first row is a header
    test_columns   text columns of the test file, where they differ
    metrics        {name: function of (predictions, labels)}, after accuracy
    server_files   {test set: its name for the GLUE server}
    """

    labels = ("0", "1")
    files = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
    text_columns = (0,)
    label_column = 1
    headers = ("train", "dev", "test")
    test_columns = None
    metrics = {}
    server_files = {}

    def get_labels(self):
        return list(self.labels)

    def get_train_examples(self, data_dir):
        return self.get_examples(data_dir, "train")

    def get_dev_examples(self, data_dir):
        return self.get_examples(data_dir, "dev")

    def get_test_examples(self, data_dir):
        return self.get_examples(data_dir, "test")

    def get_examples(self, data_dir, set_type, log=print):
        """The examples of one file, in its order. Blank rows are passed over; rows with too few
        columns are counted and told to `log`. Raises ValueError with file and line.
        """
        path = os.path.join(data_dir, self.files[set_type])
        is_test = set_type.startswith("test")
        columns = self.test_columns if is_test and self.test_columns else self.text_columns
        needed = max(columns) if is_test else max(*columns, self.label_column)
        examples, short = [], []
        for number, row in self._read_tsv(path):
            if number == 1 and self._is_header(row, set_type, path):
                continue
            if len(row) <= needed:
                short.append(f"{path}:{number} has {len(row)} columns, not {needed + 1} or more")
            elif self.wants(row):
                label = None if is_test else self.label(row, f"{path}:{number}")
                texts = [row[column] for column in columns]
                examples.append(InputExample(self.guid(set_type, number, row), *texts, label=label))
        if short and len(short) >= len(examples):
            raise ValueError(f"{short[0]}: is this a file of {type(self).__name__}'s task?")
        if not examples:
            raise ValueError(f"{path} has no examples")
        for line in short[:3]:
            log(f"skipped: {line}")
        if short:
            log(f"{path}: {len(short)} rows skipped, {len(examples)} used")
        return examples

    def _read_tsv(self, path):
        """Yields (line number, columns). Only tabs and line ends mean anything: quotes do not."""
        with open(path, "rb") as file:
            try:
                lines = file.read().decode("utf-8-sig").split("\n")
            except UnicodeDecodeError as error:
                line = error.object[: error.start].count(b"\n") + 1
                raise ValueError(f"{path}:{line} is not UTF-8 ({error.reason})") from None
        for number, line in enumerate(lines, start=1):
            if "\0" in line:
                raise ValueError(f"{path}:{number} has a NUL byte: is this a text file?")
            if line.strip():
                yield number, line.removesuffix("\r").split("\t")

    def _is_header(self, row, set_type, path):
        if set_type not in self.headers:
            return False
        labelled = not set_type.startswith("test") and len(row) > self.label_column
        if labelled and row[self.label_column] in self.labels:
            raise ValueError(f"{path}:1 is an example, but the file should begin with a header")
        return True

    def wants(self, row):
        """Whether a row belongs to the task."""
        return True

    def label(self, row, where):
        label = row[self.label_column]
        if not self.labels:
            try:
                return float(label)
            except ValueError:
                raise ValueError(f"{where}: the score {label!r} is no number") from None
        if label not in self.labels:
            raise ValueError(f"{where}: the label {label!r} is none of {', '.join(self.labels)}")
        return label

    def guid(self, set_type, number, row):
        return f"{set_type}-{number - 1}"


class MrpcProcessor(DataProcessor):
    text_columns, label_column = (3, 4), 0
    metrics = {"eval_f1": glue_metrics.f1}
    server_files = {"test": "MRPC.tsv"}


class MnliProcessor(DataProcessor):
    labels = ("contradiction", "entailment", "neutral")
    files = {
        "train": "train.tsv", "dev": "dev_matched.tsv", "test": "test_matched.tsv",
        "dev_mismatched": "dev_mismatched.tsv", "test_mismatched": "test_mismatched.tsv",
    }  # fmt: skip
    text_columns, label_column = (8, 9), -1
    headers = tuple(files)
    server_files = {"test": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"}

    def guid(self, set_type, number, row):
        return f"{set_type}-{row[0]}"


class ColaProcessor(DataProcessor):
    text_columns, label_column, test_columns = (3,), 1, (1,)
    headers = ("test",)
    metrics = {"eval_mcc": glue_metrics.matthews}
    server_files = {"test": "CoLA.tsv"}


class Sst2Processor(DataProcessor):
    text_columns, label_column, test_columns = (0,), 1, (1,)
    server_files = {"test": "SST-2.tsv"}


class StsbProcessor(DataProcessor):
    """Similarity from 0 to 5: a regression."""

    labels = ()
    text_columns, label_column = (7, 8), 9
    metrics = {"eval_pearson": glue_metrics.pearson, "eval_spearman": glue_metrics.spearman}
    server_files = {"test": "STS-B.tsv"}


class QqpProcessor(DataProcessor):
    text_columns, label_column, test_columns = (3, 4), 5, (1, 2)
    metrics = {"eval_f1": glue_metrics.f1}
    server_files = {"test": "QQP.tsv"}


class RteProcessor(DataProcessor):
    labels = ("entailment", "not_entailment")
    text_columns, label_column = (1, 2), 3
    server_files = {"test": "RTE.tsv"}


class QnliProcessor(RteProcessor):
    server_files = {"test": "QNLI.tsv"}


class WnliProcessor(RteProcessor):
    labels = ("0", "1")
    server_files = {"test": "WNLI.tsv"}


class XnliProcessor(DataProcessor):
    """Chinese, as Google's: the machine-translated training set and the dev set's rows in "zh"."""

    language = "zh"
    labels = MnliProcessor.labels
    files = {"train": "multinli/multinli.train.zh.tsv", "dev": "xnli.dev.tsv",
             "test": "xnli.test.tsv"}  # fmt: skip

    def get_examples(self, data_dir, set_type, log=print):
        train = set_type == "train"
        self.text_columns, self.label_column = ((0, 1), 2) if train else ((6, 7), 1)
        return super().get_examples(data_dir, set_type, log)

    def wants(self, row):
        return self.label_column == 2 or row[0] == self.language

    def label(self, row, where):
        if row[self.label_column] == "contradictory":  # so in the training file
            return "contradiction"
        return super().label(row, where)


PROCESSORS = {
    "cola": ColaProcessor, "mnli": MnliProcessor, "mrpc": MrpcProcessor, "qnli": QnliProcessor,
    "qqp": QqpProcessor, "rte": RteProcessor, "sst-2": Sst2Processor, "sts-b": StsbProcessor,
    "wnli": WnliProcessor, "xnli": XnliProcessor,
}  # fmt: skip


def convert_single_example(ex_index, example, label_list, max_seq_length, tokenizer):
    """An InputExample's features. An example without a label gets label_id 0, as Google's."""
    vocab = tokenizer.vocab
    ids, segments = pack_pair(
        tokenizer.encode(example.text_a),
        tokenizer.encode(example.text_b) if example.text_b else [],
        vocab["[CLS]"], vocab["[SEP]"], max_seq_length,
    )  # fmt: skip
    label_id = 0 if example.label is None else example.label
    if label_list and example.label is not None:
        label_id = label_list.index(example.label)
    return InputFeatures(ids, np.ones_like(ids), segments, label_id)


def convert_examples_to_features(examples, label_list, max_seq_length, tokenizer):
    return [
        convert_single_example(index, example, label_list, max_seq_length, tokenizer)
        for index, example in enumerate(examples)
    ]


def parse_args(argv=None):
    parser = flags.Parser("Fine-tune BERT to classify sentences or pairs of sentences.", EXAMPLE)
    parser.flags(
        "task",
        task_name=(..., f"one of {', '.join(PROCESSORS)} (in any case)"),
        data_dir=(..., "folder with the task's .tsv files"),
        output_dir=(..., "folder for weights, results and checkpoints"),
        do_train=(False, "train on train.tsv"),
        do_eval=(False, "evaluate on dev.tsv"),
        do_predict=(False, "write class probabilities for test.tsv"),
        eval_batch_size=(8, "examples in a batch of evaluation"),
        predict_batch_size=(8, "examples in a batch of prediction"),
        compute_padding=(False, "compute padding positions too, as Google's graph does"),
    )
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
    return args


def losses_of(logits, labels):
    """Each example's loss, [B, labels], [B] -> [B]: the squared error where there is one output."""
    if logits.shape[1] > 1:
        return classification_loss(logits, labels)
    return (logits[:, 0] - labels.to(logits.device)) ** 2


def loss_of(model, batch):
    """A batch's share of its step's mean loss."""
    inputs, labels, total = batch
    return losses_of(model(*inputs), labels).sum() / total


def logits_of(model, batch):
    return model(*batch[0]).float().cpu().numpy()


def evaluate(logits, features, batch_size, metrics, global_step):
    """Google's figures, and the task's own, from the logits [examples, labels]."""
    labels = np.array([feature.label_id for feature in features])
    losses = losses_of(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    # As Google: "loss" is the mean of the batches' means, of which the last may be a smaller one.
    batches = [losses[i : i + batch_size].mean() for i in range(0, len(losses), batch_size)]
    results, predictions = {}, logits[:, 0]
    if logits.shape[1] > 1:
        predictions = logits.argmax(axis=1)
        results["eval_accuracy"] = glue_metrics.accuracy(predictions, labels)
        if len(set(predictions.tolist())) == 1 < len(set(labels.tolist())):
            print("warning: every example is given the same label; another --seed may do better")
    results |= {
        "eval_loss": losses.mean(dtype=np.float64),
        "global_step": global_step,
        "loss": np.mean(batches),
    }
    return results | {name: metric(predictions, labels) for name, metric in metrics.items()}


def write_test_results(output_dir, logits, labels, variant, server_file):
    """test_results.tsv as Google's, a row of class probabilities an example in file order; and,
    for a task of GLUE's, the file that its server takes: index and label, or score."""
    name = f"test_results_{variant}.tsv" if variant else "test_results.tsv"
    values = torch.from_numpy(logits).softmax(dim=1).numpy() if labels else logits
    with checkpoint.replacing(os.path.join(output_dir, name)) as file:
        for row in values:
            file.write("\t".join(map(str, row)) + "\n")
    print(f"{len(logits)} rows ({', '.join(labels) or 'score'}): {os.path.join(output_dir, name)}")
    if server_file:
        with checkpoint.replacing(os.path.join(output_dir, server_file)) as file:
            file.write("index\tprediction\n")
            for index, row in enumerate(logits):
                file.write(f"{index}\t{labels[row.argmax()] if labels else f'{row[0]:.3f}'}\n")


def main(argv=None):
    args = parse_args(argv)
    processor = PROCESSORS[args.task_name]()
    labels = processor.get_labels()
    runtime = training.setup(args)
    config = BertConfig.from_json_file(args.bert_config_file)
    tokenizer = FullTokenizer(args.vocab_file, args.do_lower_case)
    flags.check_model(config, tokenizer.vocab, args)
    weights = training.initial_weights(args, labels=labels)

    model = BertForSequenceClassification(config, len(labels) or 1)
    training.load_initial(model, weights, load_weights, load_tf_weights, runtime, args.do_train)
    model.bert.compute_padding = args.compute_padding
    model.to(runtime.device)
    training.announce(args, runtime, model)
    wanted = {"train": args.do_train, "dev": args.do_eval, "test": args.do_predict}
    features = {}
    for name, file in processor.files.items():
        kind, _, variant = name.partition("_")
        if wanted[kind] and (not variant or os.path.exists(os.path.join(args.data_dir, file))):
            examples = processor.get_examples(args.data_dir, name, runtime.print)
            features[name] = convert_examples_to_features(
                examples, labels, args.max_seq_length, tokenizer
            )
            training.describe(runtime, name, features[name], args.max_seq_length, tokenizer.vocab)

    width = args.max_seq_length if args.compute_padding else 0

    def make_batch(rows, total):
        return model_inputs(rows, width), torch.tensor([row.label_id for row in rows]), total

    global_step = checkpoint.read_run(weights).get("global_step", 0) if weights else 0
    if args.do_train:
        fields = ("input_ids", "segment_ids", "label_id")
        global_step = training.train(
            args, runtime, model, features["train"], make_batch, loss_of, fields
        )
        checkpoint.save_model(args, runtime, model, config, labels=labels, global_step=global_step)
    os.makedirs(args.output_dir, exist_ok=True)
    results = {}
    for name in [name for name in features if name != "train"]:
        kind, _, variant = name.partition("_")
        batch_size = args.eval_batch_size if kind == "dev" else args.predict_batch_size
        logits = training.predict(
            runtime, model, features[name], batch_size, make_batch, logits_of, name
        )
        if logits is None:
            continue
        logits = np.stack(logits)
        if kind == "dev":
            figures = evaluate(logits, features[name], batch_size, processor.metrics, global_step)
            suffix = f"_{variant}" if variant else ""
            results |= {f"{key}{suffix}": value for key, value in figures.items()}
        else:
            server_file = processor.server_files.get(name)
            write_test_results(args.output_dir, logits, labels, variant, server_file)
    if args.do_eval and runtime.is_main:
        checkpoint.write_results(os.path.join(args.output_dir, "eval_results.txt"), results)


if __name__ == "__main__":
    flags.run(main)
