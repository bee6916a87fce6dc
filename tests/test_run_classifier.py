"""run_classifier.py: processors on files in the tasks' layouts, and the driver end to end."""

import json

import numpy as np
import pytest
import torch
from conftest import (
    TWO_THREADS,
    assert_same_weights,
    losses,
    model_flags,
    results,
    run,
    weights,
    write_tiny_model,
)

import run_classifier
from convert_pytorch_checkpoint_to_tf import convert_pytorch_checkpoint_to_tf
from convert_tf_checkpoint_to_pytorch import convert_tf_checkpoint_to_pytorch
from modeling import BertConfig, BertForSequenceClassification
from run_classifier import (
    ColaProcessor,
    InputExample,
    MnliProcessor,
    MrpcProcessor,
    XnliProcessor,
    convert_examples_to_features,
)
from tokenization import FullTokenizer


@pytest.fixture(scope="session")
def task(tiny_model, mrpc):
    """The flags of a run on a few pairs, without what to do and without --output_dir."""
    return [
        "--task_name=MRPC", f"--data_dir={mrpc}", *model_flags(tiny_model), "--max_seq_length=48",
        "--train_batch_size=4", "--eval_batch_size=3", "--num_train_epochs=2",
        "--learning_rate=1e-3",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def trained(task, tmp_path_factory):
    """The output folder of a run that trained, evaluated and predicted."""
    folder = tmp_path_factory.mktemp("trained") / "new" / "folder"
    run_classifier.main(
        [*task, "--do_train", "--do_eval", "--do_predict", f"--output_dir={folder}"]
    )
    return folder


def same_file(one, other, name):
    return (one / name).read_bytes() == (other / name).read_bytes()


# --- end to end ----------------------------------------------------------------------------------


def test_output_dir_is_self_contained(trained, tiny_model):
    files = {path.name for path in trained.iterdir()}
    assert files == {
        "pytorch_model.bin", "bert_config.json", "vocab.txt", "run.json", "training_log.jsonl",
        "eval_results.txt", "test_results.tsv", "MRPC.tsv", "checkpoint-6.pt",
    }  # fmt: skip
    assert same_file(trained, tiny_model, "vocab.txt")
    facts = json.loads((trained / "run.json").read_text("utf-8"))
    assert facts["script"] and facts["torch"] == torch.__version__
    assert facts["labels"] == ["0", "1"] and facts["do_lower_case"] is True
    assert facts["global_step"] == 6 and facts["flags"]["learning_rate"] == 1e-3
    config = BertConfig.from_json_file(trained / "bert_config.json")
    assert config == BertConfig.from_json_file(tiny_model / "bert_config.json")
    assert weights(trained).keys() == BertForSequenceClassification(config).state_dict().keys()


def test_results_of_training(trained):
    assert len(losses(trained)) == int(13 / 4 * 2) == 6
    figures = results(trained)
    assert list(figures) == ["eval_accuracy", "eval_loss", "global_step", "loss", "eval_f1"]
    assert figures["global_step"] == "6"
    right = 7 * float(figures["eval_accuracy"])
    assert right == pytest.approx(round(right))
    rows = (trained / "test_results.tsv").read_text("utf-8").splitlines()
    probabilities = np.array([row.split("\t") for row in rows], float)
    assert probabilities.shape == (5, 2)
    assert np.allclose(probabilities.sum(axis=1), 1) and np.all(probabilities > 0)


def test_probabilities_are_those_of_the_model_in_file_order(trained, mrpc):
    tokenizer = FullTokenizer(trained / "vocab.txt")
    model = BertForSequenceClassification(BertConfig.from_json_file(trained / "bert_config.json"))
    model.load_state_dict(weights(trained))
    model.eval()
    examples = MrpcProcessor().get_test_examples(mrpc)
    features = convert_examples_to_features(examples, ["0", "1"], 48, tokenizer)
    got = np.loadtxt(trained / "test_results.tsv")
    for row, feature in zip(got, features):
        with torch.inference_mode():
            logits = model(*(torch.tensor(values)[None].long() for values in (
                feature.input_ids, feature.segment_ids, feature.input_mask)))  # fmt: skip
        assert np.allclose(row, logits.softmax(1)[0], atol=1e-6)


def test_file_for_the_glue_server(trained):
    rows = np.loadtxt(trained / "test_results.tsv")
    lines = (trained / "MRPC.tsv").read_text("utf-8").splitlines()
    assert lines == ["index\tprediction", *(f"{n}\t{row.argmax()}" for n, row in enumerate(rows))]


def test_evaluation_alone_takes_the_weights_of_output_dir(trained, task, tmp_path):
    before = {name: (trained / name).read_bytes() for name in ("eval_results.txt", "run.json")}
    (trained / "eval_results.txt").unlink()
    run_classifier.main([*task, "--do_eval", f"--output_dir={trained}"])
    for name, content in before.items():
        assert (trained / name).read_bytes() == content


def test_output_dir_as_init_checkpoint(trained, task, tmp_path):
    flags = [flag for flag in task if not flag.startswith("--init_checkpoint")]
    for given in (trained, trained / "pytorch_model.bin"):
        out = tmp_path / given.name
        run_classifier.main(
            [*flags, f"--init_checkpoint={given}", "--do_eval", "--do_predict",
             f"--output_dir={out}"]
        )  # fmt: skip
        assert same_file(trained, out, "test_results.tsv")
        expected = results(trained)
        if given.name == "pytorch_model.bin":  # a file alone does not tell its step
            expected["global_step"] = "0"
        assert results(out) == expected


def test_tensorflow_checkpoint_as_init_checkpoint(trained, task, tmp_path):
    config = trained / "bert_config.json"
    convert_pytorch_checkpoint_to_tf(
        str(trained / "pytorch_model.bin"), str(config), str(tmp_path / "tf" / "model.ckpt")
    )
    flags = [flag for flag in task if not flag.startswith("--init_checkpoint")]
    names = ["model.ckpt", "model.ckpt.index", "model.ckpt.data-00000-of-00001", ""]
    for number, name in enumerate(names):
        out = tmp_path / str(number)
        run_classifier.main(
            [*flags, f"--init_checkpoint={tmp_path / 'tf' / name}", "--do_predict",
             f"--output_dir={out}"]
        )  # fmt: skip
        assert same_file(trained, out, "test_results.tsv")
        assert {path.name for path in out.iterdir()} == {"test_results.tsv", "MRPC.tsv"}


def test_without_init_checkpoint_the_seed_decides(task, tmp_path, call):
    flags = [flag for flag in task if not flag.startswith("--init_checkpoint")]
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        outcome = call(run_classifier, *flags, "--do_train", "--num_train_epochs=0.4",
                       f"--seed={seed}", f"--output_dir={tmp_path / name}").ok()  # fmt: skip
        assert "the model starts from random weights" in outcome.out
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c")


def test_compute_padding_changes_nothing_but_rounding(trained, task, tmp_path):
    run_classifier.main(
        [*task, f"--init_checkpoint={trained}", "--do_predict", "--compute_padding",
         f"--output_dir={tmp_path}"]
    )  # fmt: skip
    one, other = (np.loadtxt(folder / "test_results.tsv") for folder in (trained, tmp_path))
    assert np.abs(one - other).max() < 1e-6


@pytest.mark.parametrize("batch_size", (1, 2, 7, 100))
def test_evaluation_does_not_depend_on_the_batch(trained, task, tmp_path, batch_size):
    run_classifier.main(
        [*task, f"--init_checkpoint={trained}", "--do_eval", f"--eval_batch_size={batch_size}",
         f"--output_dir={tmp_path}"]
    )  # fmt: skip
    one, other = results(trained), results(tmp_path)
    for key in ("eval_accuracy", "eval_loss", "eval_f1"):
        assert float(one[key]) == pytest.approx(float(other[key]), abs=1e-6)


def test_bf16_trains_and_keeps_float32_weights(task, tmp_path, call):
    outcome = call(run_classifier, *task, "--do_train", "--bf16", f"--output_dir={tmp_path}").ok()
    assert "bfloat16" in outcome.out
    assert all(tensor.dtype == torch.float32 for tensor in weights(tmp_path).values())
    assert np.isfinite(losses(tmp_path)).all()


@pytest.mark.parametrize("form", ("equals", "space", "dash"))
def test_flags_as_the_originals_write_them(form, task, trained, tmp_path):
    """Real commands: Google's --flag=true, the first port's --flag value, and switches."""
    forms = {
        "equals": ["--do_eval=true", "--do_train=false", "--use_tpu=False", "--do_lower_case=True"],
        "space": ["--do_eval", "true", "--do_lower_case", "--no_cuda", "--local_rank", "-1"],
        "dash": ["--do_eval", "--no_do_train", "--local-rank", "-1", "--iterations_per_loop=1000"],
    }
    flags = task if form == "equals" else [part for flag in task for part in flag.split("=", 1)]
    outcome = run(
        "run_classifier.py", *flags, *forms[form], "--init_checkpoint", trained,
        "--output_dir", tmp_path,
    ).ok()  # fmt: skip
    assert results(tmp_path) == results(trained)
    for flag in ("use_tpu", "iterations_per_loop"):
        said = f"--{flag} has no meaning here and is ignored" in outcome.err
        assert said == any(flag in given for given in forms[form])


def test_cased_model(tmp_path, mrpc, call):
    """--no_do_lower_case is remembered: another casing is refused later."""
    folder = write_tiny_model(tmp_path / "model")
    words = (folder / "vocab.txt").read_text("utf-8").split("\n")
    capitals = iter("ABCDE")  # few, as in some cased vocabularies: they do not tell
    words = [next(capitals, w) if w.startswith("##") and w[2:].islower() else w for w in words]
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    flags = [
        "--task_name=mrpc", f"--data_dir={mrpc}", *model_flags(folder), "--max_seq_length=32",
        "--train_batch_size=8", "--num_train_epochs=1", f"--output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    call(run_classifier, *flags, "--do_train", "--no_do_lower_case").ok()
    call(run_classifier, *flags, "--do_eval", "--do_lower_case=false").ok()
    refused = call(run_classifier, *flags, "--do_eval")
    assert refused.status == 2
    assert "was trained with do_lower_case False, but this is True" in refused.err


def test_google_main_gives_the_same_eval_results(
    goldens, golden_tools, bert_dir, glue_dir, tmp_path
):
    """eval_results.txt of Google's own main() from the same weights, to float32's rounding."""
    golden = golden_tools.load_json_gz(goldens / "e2e_run_classifier_eval.json.gz")
    init = with_head(bert_dir, golden, "classifier", tmp_path)
    outcome = run(
        "run_classifier.py", "--task_name=MRPC", "--do_eval=true",
        f"--data_dir={glue_dir / 'MRPC'}", f"--vocab_file={bert_dir / 'vocab.txt'}",
        f"--bert_config_file={bert_dir / 'bert_config.json'}",
        f"--init_checkpoint={init}", "--max_seq_length=128", "--eval_batch_size=8",
        f"--output_dir={tmp_path / 'out'}", env=TWO_THREADS,
    ).ok()  # fmt: skip
    wanted = dict(line.split(" = ") for line in golden["eval_results_txt"].splitlines())
    got = results(tmp_path / "out")
    assert list(wanted) == list(got)[: len(wanted)], outcome.out
    for key, value in wanted.items():
        if key != "global_step":  # of the weights given; Google's checkpoint says 0 or its own
            assert float(got[key]) == pytest.approx(float(value), abs=5e-7), key


def with_head(bert_dir, golden, head, folder):
    """The weights of the end-to-end goldens: the converted checkpoint and a random head."""
    path = folder / "pytorch_model.bin"
    convert_tf_checkpoint_to_pytorch(str(bert_dir), str(bert_dir / "bert_config.json"), str(path))
    values = torch.load(path, weights_only=True)
    values = {name: tensor for name, tensor in values.items() if name.startswith("bert.")}
    random = np.random.RandomState(golden["head_seed"]).randn(2, 384) * golden["head_scale"]
    values[f"{head}.weight"] = torch.from_numpy(random.astype(np.float32))
    values[f"{head}.bias"] = torch.tensor([0.1, -0.1])
    torch.save(values, path)
    return path


# --- processors ----------------------------------------------------------------------------------


def write(path, *rows, end="\n", start=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = end.join("\t".join(row) for row in rows) + end
    path.write_bytes(start + lines.encode("utf-8"))
    return path.parent


MRPC_HEADER = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")


def test_mrpc(tmp_path):
    rows = [MRPC_HEADER, ("1", "7", "8", "One.", "Two."), ("0", "9", "10", "Three.", "Four.")]
    write(tmp_path / "train.tsv", *rows)
    write(tmp_path / "dev.tsv", *rows[:2])
    write(tmp_path / "test.tsv", ("index", *MRPC_HEADER[1:]), ("0", "7", "8", "Five.", "Six."))
    processor = MrpcProcessor()
    assert processor.get_labels() == ["0", "1"]
    assert processor.get_train_examples(tmp_path) == [
        InputExample("train-1", "One.", "Two.", "1"),
        InputExample("train-2", "Three.", "Four.", "0"),
    ]
    assert processor.get_dev_examples(tmp_path) == [InputExample("dev-1", "One.", "Two.", "1")]
    assert processor.get_test_examples(tmp_path) == [InputExample("test-1", "Five.", "Six.", None)]


def test_mnli(tmp_path):
    """Three label orders circulate; the label is the last of 12 or 16 columns."""

    def row(index, gold, columns):
        texts = f"premise {index}", f"hypothesis {index}"
        return (index, *"abcdefg", *texts, *["x"] * (columns - 11), gold)

    header = ("index", *"abcdefg", "sentence1", "sentence2", "label1", "gold_label")
    write(tmp_path / "train.tsv", header, row("0", "neutral", 12), row("1", "entailment", 12))
    write(tmp_path / "dev_matched.tsv", header, row("5", "contradiction", 16))
    write(tmp_path / "dev_mismatched.tsv", header, row("6", "neutral", 16))
    write(tmp_path / "test_matched.tsv", header[:10], row("7", "x", 12)[:10])
    processor = MnliProcessor()
    assert processor.get_labels() == ["contradiction", "entailment", "neutral"]
    assert processor.get_train_examples(tmp_path) == [
        InputExample("train-0", "premise 0", "hypothesis 0", "neutral"),
        InputExample("train-1", "premise 1", "hypothesis 1", "entailment"),
    ]
    assert [e.label for e in processor.get_dev_examples(tmp_path)] == ["contradiction"]
    mismatched = processor.get_examples(tmp_path, "dev_mismatched")
    assert mismatched == [InputExample("dev_mismatched-6", "premise 6", "hypothesis 6", "neutral")]
    assert processor.get_test_examples(tmp_path) == [
        InputExample("test-7", "premise 7", "hypothesis 7", None)
    ]


def test_mnli_evaluates_both_dev_sets(tmp_path, tiny_model, mrpc, call):
    rows = (mrpc / "train.tsv").read_text("utf-8").splitlines()[1:]
    labels = MnliProcessor.labels
    rows = [
        (str(n), *"abcdefg", *row.split("\t")[3:5], labels[n % 3]) for n, row in enumerate(rows)
    ]
    header = ["header"] * 11
    for name, some in (("train", rows), ("dev_matched", rows[:4]), ("dev_mismatched", rows[4:9]),
                       ("test_matched", rows[:3]), ("test_mismatched", rows[:2])):  # fmt: skip
        write(tmp_path / f"{name}.tsv", header, *some)
    out = tmp_path / "out"
    call(run_classifier, "--task_name=MNLI", f"--data_dir={tmp_path}", *model_flags(tiny_model),
         "--do_train", "--do_eval", "--do_predict", "--train_batch_size=6", "--max_seq_length=32",
         "--num_train_epochs=1", f"--output_dir={out}").ok()  # fmt: skip
    figures = results(out)
    assert {"eval_accuracy", "eval_accuracy_mismatched", "eval_loss_mismatched"} <= figures.keys()
    for suffix, size in (("", 4), ("_mismatched", 5)):
        right = size * float(figures[f"eval_accuracy{suffix}"])
        assert right == pytest.approx(round(right), abs=1e-5)
    assert weights(out)["classifier.weight"].shape == (3, 24)
    for name, rows in (("test_results", 3), ("test_results_mismatched", 2)):
        lines = (out / f"{name}.tsv").read_text("utf-8").splitlines()
        assert len(lines) == rows and all(len(line.split("\t")) == 3 for line in lines)


def test_cola(tmp_path):
    """No header but in the test file, whose columns are others; "*" marks are no text."""
    write(tmp_path / "train.tsv", ("gj04", "1", "", "They drank."), ("gj04", "0", "*", "They the."))
    write(tmp_path / "dev.tsv", ("l-93", "0", "*", "Drank they the."))
    write(tmp_path / "test.tsv", ("index", "sentence"), ("0", "Bill coughed."))
    processor = ColaProcessor()
    assert processor.get_train_examples(tmp_path) == [
        InputExample("train-0", "They drank.", None, "1"),
        InputExample("train-1", "They the.", None, "0"),
    ]
    assert processor.get_dev_examples(tmp_path) == [
        InputExample("dev-0", "Drank they the.", None, "0")
    ]
    assert processor.get_test_examples(tmp_path) == [
        InputExample("test-1", "Bill coughed.", None, None)
    ]


def test_xnli(tmp_path):
    """The translated training set says "contradictory"; of the dev set only Chinese counts."""
    write(tmp_path / "multinli" / "multinli.train.zh.tsv", ("premise", "hypo", "label"),
          ("前提", "假设", "contradictory"), ("一", "二", "neutral"))  # fmt: skip
    columns = ("language", "gold_label", *"abcd", "sentence1", "sentence2")
    write(tmp_path / "xnli.dev.tsv", columns, ("ar", "neutral", *"abcd", "x", "y"),
          ("zh", "entailment", *"abcd", "三", "四"))  # fmt: skip
    processor = XnliProcessor()
    assert processor.get_train_examples(tmp_path) == [
        InputExample("train-1", "前提", "假设", "contradiction"),
        InputExample("train-2", "一", "二", "neutral"),
    ]
    assert processor.get_dev_examples(tmp_path) == [InputExample("dev-2", "三", "四", "entailment")]
    assert processor.get_labels() == ["contradiction", "entailment", "neutral"]


@pytest.mark.parametrize("end", ("\n", "\r\n"))
@pytest.mark.parametrize("start", (b"", b"\xef\xbb\xbf"))
def test_windows_files_read_as_others(tmp_path, end, start):
    rows = [MRPC_HEADER, ("1", "7", "8", "One.", "Two."), ("0", "9", "10", "Three.", "Four.")]
    write(tmp_path / "a" / "train.tsv", *rows)
    write(tmp_path / "b" / "train.tsv", *rows, end=end, start=start)
    one, other = (MrpcProcessor().get_train_examples(tmp_path / name) for name in "ab")
    assert one == other and other[1].text_b == "Four."
    labelled = write(tmp_path / "c" / "train.tsv", ("x", "1", "", "Text."), end=end, start=start)
    assert ColaProcessor().get_train_examples(labelled)[0].text_a == "Text."


def test_quotes_mean_nothing(tmp_path):
    """An unpaired quote must not swallow the rows after it, nor a pair vanish."""
    texts = ['He said "no.', '"Quoted"', 'end"', '""', 'a "b" c', '"']
    rows = [("1", "7", "8", text, "Two.") for text in texts]
    write(tmp_path / "train.tsv", MRPC_HEADER, *rows)
    assert [e.text_a for e in MrpcProcessor().get_train_examples(tmp_path)] == texts


def test_odd_line_separators_are_part_of_a_text(tmp_path):
    texts = ["a\u2028b", "c\x85d", "e\x0bf", "g\x1ch", "x" * 200_000]
    write(tmp_path / "train.tsv", MRPC_HEADER, *(("1", "7", "8", text, "Two.") for text in texts))
    assert [e.text_a for e in MrpcProcessor().get_train_examples(tmp_path)] == texts


def test_blank_rows_and_missing_columns(tmp_path):
    """Blank rows are passed over; short ones are skipped, counted and shown."""
    write(
        tmp_path / "train.tsv", MRPC_HEADER, ("1", "7", "8", "One.", "Two."), ("",), ("0", "9"),
        ("0", "9", "10", "Three.", "Four."), (" ",), ("1", "5", "6", "Five.", "Six."),
    )  # fmt: skip
    said = []
    examples = MrpcProcessor().get_examples(tmp_path, "train", said.append)
    assert [e.guid for e in examples] == ["train-1", "train-4", "train-6"]
    assert [e.label for e in examples] == ["1", "0", "1"]
    path = tmp_path / "train.tsv"
    assert said == [
        f"skipped: {path}:4 has 2 columns, not 5 or more",
        f"{path}: 1 rows skipped, 3 used",
    ]


def test_an_empty_text_b_is_none(tiny_model, tmp_path):
    """As Google: [CLS] A [SEP], without a second separator."""
    tokenizer = FullTokenizer(tiny_model / "vocab.txt")
    examples = [InputExample("a", "the", "", "1"), InputExample("b", "the", None, "1")]
    one, other = convert_examples_to_features(examples, ["0", "1"], 16, tokenizer)
    assert one.input_ids.tolist() == other.input_ids.tolist() and len(one.input_ids) == 3
    assert one.label_id == 1 and one.input_mask.tolist() == [1, 1, 1]


TASKS = {  # task: a training file, a test file, and the examples that are in them
    "sst-2": (
        [("sentence", "label"), ("good film ", "1")], [("index", "sentence"), ("0", "bad film")],
        ("good film ", None, "1"), ("bad film", None),
    ),
    "sts-b": (
        [("index", *"abcdef", "text1", "text2", "score"), ("0", *"abcdef", "A", "B", "3.8")],
        [("index", *"abcdef", "text1", "text2"), ("0", *"abcdef", "C", "D")],
        ("A", "B", 3.8), ("C", "D"),
    ),
    "qqp": (
        [("id", "qid1", "qid2", "text1", "text2", "is_duplicate"), (*"123", "A?", "B?", "0")],
        [("id", "question1", "question2"), ("0", "C?", "D?")],
        ("A?", "B?", "0"), ("C?", "D?"),
    ),
    "rte": (
        [("index", "sentence1", "sentence2", "label"), ("0", "A", "B", "not_entailment")],
        [("index", "sentence1", "sentence2"), ("0", "C", "D")],
        ("A", "B", "not_entailment"), ("C", "D"),
    ),
    "qnli": (
        [("index", "question", "sentence", "label"), ("0", "A?", "B", "entailment")],
        [("index", "question", "sentence"), ("0", "C?", "D")],
        ("A?", "B", "entailment"), ("C?", "D"),
    ),
    "wnli": (
        [("index", "sentence1", "sentence2", "label"), ("0", "A", "B", "1")],
        [("index", "sentence1", "sentence2"), ("0", "C", "D")],
        ("A", "B", "1"), ("C", "D"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_other_tasks_of_glue(name, tmp_path):
    train_rows, test_rows, train, test = TASKS[name]
    write(tmp_path / "train.tsv", *train_rows)
    write(tmp_path / "test.tsv", *test_rows)
    processor = run_classifier.PROCESSORS[name]()
    assert processor.get_train_examples(tmp_path) == [InputExample("train-1", *train)]
    assert processor.get_test_examples(tmp_path) == [InputExample("test-1", *test)]


def test_regression(tmp_path, tiny_model_without_dropout, mrpc, call):
    """STS-B: scores are learned by their squared error, and Pearson's and Spearman's r told."""
    rows = (mrpc / "train.tsv").read_text("utf-8").splitlines()[1:]
    rows = [("0", *"abcdef", *row.split("\t")[3:5], str(n % 6)) for n, row in enumerate(rows)]
    header = ["header"] * 10
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.tsv", header, *rows)
    out = tmp_path / "out"
    call(run_classifier, "--task_name=STS-B", f"--data_dir={tmp_path}",
         *model_flags(tiny_model_without_dropout), "--do_train", "--do_eval",
         "--train_batch_size=13", "--max_seq_length=48", "--num_train_epochs=150",
         "--learning_rate=3e-3", f"--output_dir={out}").ok()  # fmt: skip
    figures = results(out)
    assert losses(out)[0] > 5 and losses(out)[-1] < 0.2
    assert float(figures["eval_pearson"]) > 0.95 and float(figures["eval_spearman"]) > 0.9
    assert weights(out)["classifier.weight"].shape == (1, 24)
