"""run_classifier.py: the driver end to end, on every task of GLUE, a user's own, several seeds."""

import json
import math
import re

import numpy as np
import pytest
import torch
from glue_layouts import LAYOUTS, write, write_task
from helpers import (
    ROOT,
    ROUNDING,
    TWO_THREADS,
    Page,
    assert_same_weights,
    losses,
    model_flags,
    results,
    roundings,
    run,
    same_file,
    weights,
    write_tiny_model,
)
from model_helpers import with_head

import run_classifier
from convert_pytorch_checkpoint_to_tf import convert_pytorch_checkpoint_to_tf
from modeling import BertConfig, BertForSequenceClassification
from precision import FORCE
from run_classifier import PROCESSORS, MrpcProcessor, TsvProcessor, convert_examples_to_features
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


# --- end to end ----------------------------------------------------------------------------------


def test_output_dir_is_self_contained(trained, tiny_model):
    files = {path.name for path in trained.iterdir()}
    assert files == {
        "pytorch_model.bin", "bert_config.json", "vocab.txt", "run.json", "training_log.jsonl",
        "eval_results.txt", "test_results.tsv", "MRPC.tsv", "checkpoint-6.pt", "report.html",
        "config.json", "tokenizer_config.json",
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


@pytest.mark.numeric
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
        assert roundings(row, logits.softmax(1)[0]) < 64


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


def test_predictions_alone_have_a_page(trained, task, mrpc, tmp_path):
    run_classifier.main([*task, f"--init_checkpoint={trained}", "--do_predict",
                         f"--output_dir={tmp_path}"])  # fmt: skip
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert "Predictions for test.tsv" in page.text and "5 examples: " in page.text
    rows = [row.split("\t") for row in (mrpc / "test.tsv").read_text("utf-8").splitlines()[1:]]
    assert all(row[3] in page.text and row[4] in page.text for row in rows)
    assert {"date", "device"} <= {row[0] for row in page.rows}


def test_output_dir_as_init_checkpoint(trained, task, tmp_path):
    flags = [flag for flag in task if not flag.startswith("--init_checkpoint")]
    for given in (trained, trained / "pytorch_model.bin"):
        out = tmp_path / given.name
        run_classifier.main(
            [*flags, f"--init_checkpoint={given}", "--do_eval", "--do_predict",
             f"--output_dir={out}"]
        )  # fmt: skip
        assert same_file(trained, out, "test_results.tsv")
        assert results(out) == results(trained), "the step, too, is known from beside the file"


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
        written = {path.name for path in out.iterdir()}
        assert written == {"test_results.tsv", "MRPC.tsv", "report.html"}


def test_without_init_checkpoint_the_seed_decides(task, tmp_path, call):
    flags = [flag for flag in task if not flag.startswith("--init_checkpoint")]
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        outcome = call(run_classifier, *flags, "--do_train", "--num_train_epochs=0.4",
                       f"--seed={seed}", f"--output_dir={tmp_path / name}").ok()  # fmt: skip
        assert "the model starts from random weights" in outcome.out
    assert_same_weights(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a", tmp_path / "c")


@pytest.mark.numeric
def test_compute_padding_changes_nothing_but_rounding(trained, task, tmp_path):
    run_classifier.main(
        [*task, f"--init_checkpoint={trained}", "--do_predict", "--compute_padding",
         f"--output_dir={tmp_path}"]
    )  # fmt: skip
    one, other = (np.loadtxt(folder / "test_results.tsv") for folder in (trained, tmp_path))
    assert roundings(one, other) < 64


@pytest.mark.numeric
@pytest.mark.parametrize("batch_size", (1, 2, 7, 100))
def test_evaluation_does_not_depend_on_the_batch(trained, task, tmp_path, batch_size):
    run_classifier.main(
        [*task, f"--init_checkpoint={trained}", "--do_eval", f"--eval_batch_size={batch_size}",
         f"--output_dir={tmp_path}"]
    )  # fmt: skip
    one, other = results(trained), results(tmp_path)
    for key in ("eval_accuracy", "eval_loss", "eval_f1"):
        assert float(one[key]) == pytest.approx(float(other[key]), rel=64 * ROUNDING)


@pytest.mark.numeric
def test_bf16_trains_and_keeps_float32_weights(task, tmp_path, call, monkeypatch):
    monkeypatch.setenv(FORCE, "1")
    outcome = call(run_classifier, *task, "--do_train", "--bf16", f"--output_dir={tmp_path}").ok()
    assert "1 rank, bfloat16, " in outcome.out
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
    """--no_do_lower_case is remembered: it need not be given again, and another is refused."""
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
    call(run_classifier, *flags, "--do_eval").ok()
    refused = call(run_classifier, *flags, "--do_eval", "--do_lower_case")
    assert refused.status == 2
    assert "was trained with do_lower_case False, but this run has True" in refused.err


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
            assert float(got[key]) == pytest.approx(float(value), rel=64 * ROUNDING), key


@pytest.mark.parametrize("given", ([], ["--help"], ["--task_name=tsv", "--nonsense"]))
def test_flags_are_answered_without_pytorch(given):
    outcome = run("-X", "importtime", "run_classifier.py", *given)
    assert outcome.status == (0 if "--help" in given else 2)
    assert re.search(r"\| +glue_data$", outcome.err, re.M)
    assert not re.search(r"\| +torch$", outcome.err, re.M)


def test_where_everything_is_told(trained, task, call):
    outcome = call(run_classifier, *task, "--do_eval", f"--output_dir={trained}").ok()
    told = outcome.out[outcome.out.index(f"in {trained}:") :].splitlines()[1:]
    assert [line.split()[0] for line in told] == [
        "pytorch_model.bin", "eval_results.txt", "report.html", "test_results.tsv", "MRPC.tsv",
    ]  # fmt: skip


def test_names_of_the_tasks_are_public():
    for processor in PROCESSORS.values():
        assert getattr(run_classifier, processor.__name__) is processor
    public = ("DataProcessor", "InputExample", "InputFeatures", "convert_single_example")
    assert all(hasattr(run_classifier, name) for name in public)


def test_accents(tmp_path, call):
    """--no_strip_accents keeps "é" apart from "e", and is remembered with the weights."""
    folder = write_tiny_model(tmp_path / "model")
    words = (folder / "vocab.txt").read_text("utf-8").split("\n")
    words[words.index("z")] = "é"
    (folder / "vocab.txt").write_text("\n".join(words), "utf-8")
    for name in ("train", "dev", "test"):
        write(tmp_path / f"{name}.tsv", "É|yes", "E|no", "é|yes", "e|no")
    given = [
        "--task_name=tsv", "--labels=no,yes", "--text_columns=0", "--label_column=1",
        f"--data_dir={tmp_path}", *model_flags(folder), "--max_seq_length=8",
        "--train_batch_size=4", "--num_train_epochs=2", "--do_predict",
    ]  # fmt: skip
    for flag, apart in (("--no_strip_accents", True), ("--strip_accents", False)):
        out = tmp_path / flag
        call(run_classifier, *given, flag, "--do_train", f"--output_dir={out}").ok()
        accent, plain, *lower = (out / "test_results.tsv").read_text("utf-8").splitlines()
        assert lower == [accent, plain] and (accent != plain) == apart
        refused = call(
            run_classifier, *given, f"--strip_accents={str(apart).lower()}", f"--output_dir={out}"
        )
        assert refused.status == 2
        assert (
            f"was trained with strip_accents {not apart}, but this run has {apart}" in refused.err
        )


# --- every task of GLUE --------------------------------------------------------------------------

METRICS = {  # beside accuracy
    "cola": ["mcc"], "mrpc": ["f1"], "qqp": ["f1"], "sts-b": ["pearson", "spearman"]
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", LAYOUTS)
def test_metrics_equal_the_reference(name, seed):
    """The figures of eval_results.txt on random predictions."""
    sklearn = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    random, processor = np.random.RandomState(seed), PROCESSORS[name]()
    classes = len(processor.get_labels())
    logits = random.randn(137, classes or 1).astype(np.float32)
    labels = random.randint(classes, size=137) if classes else random.rand(137) * 5
    figures = run_classifier.evaluate(logits, labels, 8, processor.metrics, 7)
    given = logits.argmax(axis=1) if classes else logits[:, 0].astype(float)
    references = {
        "accuracy": lambda: sklearn.accuracy_score(labels, given),
        "f1": lambda: sklearn.f1_score(labels, given),
        "mcc": lambda: sklearn.matthews_corrcoef(labels, given),
        "pearson": lambda: stats.pearsonr(given, labels)[0],
        "spearman": lambda: stats.spearmanr(given, labels)[0],
    }
    wanted = {f"eval_{metric}": references[metric]()
              for metric in METRICS.get(name, []) + ["accuracy"] * bool(classes)}  # fmt: skip
    assert figures.keys() == wanted.keys() | {"eval_loss", "loss", "global_step"}
    for metric, value in wanted.items():
        assert figures[metric] == pytest.approx(value, abs=1e-12)
    assert processor.main_metric in wanted


SERVER_FILES = {
    "cola": ["CoLA"], "sst-2": ["SST-2"], "mrpc": ["MRPC"], "sts-b": ["STS-B"], "qqp": ["QQP"],
    "mnli": ["MNLI-m", "MNLI-mm"], "qnli": ["QNLI"], "rte": ["RTE"], "wnli": ["WNLI"], "xnli": [],
}  # fmt: skip


def check_server_file(path, labels, rows):
    """What the GLUE server asks of a file: a header, a row an example in order, known labels."""
    content = path.read_bytes()
    assert content.endswith(b"\n") and b"\r" not in content and not content.startswith(b"\xef")
    header, *lines = content.decode("utf-8").splitlines()
    assert header == "index\tprediction"
    indices, predictions = zip(*(line.split("\t") for line in lines))
    assert list(indices) == [str(index) for index in range(rows)]
    if labels:
        assert set(predictions) <= set(labels)
    else:
        assert all(re.fullmatch(r"\d\.\d{3}", text) and 0 <= float(text) <= 5
                   for text in predictions)  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_task_from_end_to_end(name, tmp_path, tiny_model, call):
    write_task(name, tmp_path)
    out, processor = tmp_path / "out", PROCESSORS[name]()
    call(run_classifier, f"--task_name={name.upper()}", f"--data_dir={tmp_path}",
         *model_flags(tiny_model), "--do_train", "--do_eval", "--do_predict",
         "--train_batch_size=2", "--max_seq_length=32", "--num_train_epochs=1",
         f"--output_dir={out}").ok()  # fmt: skip
    figures = results(out)
    files, wanted = processor.files, LAYOUTS[name][1]
    for metric in METRICS.get(name, []) + ["loss"] + ["accuracy"] * bool(processor.labels):
        assert math.isfinite(float(figures[f"eval_{metric}"]))
        assert (f"eval_{metric}_mismatched" in figures) == ("dev_mismatched" in files)
    assert len(weights(out)["classifier.bias"]) == (len(processor.labels) or 1)
    tests = [set_type for set_type in files if set_type.startswith("test")]
    for set_type in tests:
        rows = (out / f"{set_type.replace('test', 'test_results')}.tsv").read_text("utf-8")
        assert len(rows.splitlines()) == len(wanted[set_type])
        assert all(len(row.split("\t")) == (len(processor.labels) or 1)
                   for row in rows.splitlines())  # fmt: skip
    there = {path.stem for path in out.glob("*.tsv") if not path.stem.startswith("test_results")}
    assert there == set(SERVER_FILES[name])
    for file, set_type in zip(SERVER_FILES[name], tests):
        check_server_file(out / f"{file}.tsv", processor.labels, len(wanted[set_type]))


def test_server_file_is_in_words_and_in_range(tmp_path):
    logits = np.array([[0.1, 0.2, 0.3], [3.0, 1.0, 2.0]], np.float32)
    labels = PROCESSORS["mnli"]().get_labels()
    run_classifier.write_test_results(str(tmp_path), logits, labels, "", "MNLI-m.tsv")
    text = (tmp_path / "MNLI-m.tsv").read_text("utf-8")
    assert text == "index\tprediction\n0\tneutral\n1\tcontradiction\n"
    scores = np.array([[-0.2], [5.4], [2.71828]], np.float32)
    run_classifier.write_test_results(str(tmp_path), scores, [], "", "STS-B.tsv")
    text = (tmp_path / "STS-B.tsv").read_text("utf-8")
    assert text == "index\tprediction\n0\t0.000\n1\t5.000\n2\t2.718\n"
    assert np.loadtxt(tmp_path / "test_results.tsv") == pytest.approx(scores[:, 0])


def test_mnli_figures_are_of_their_own_sets(tmp_path, tiny_model, call):
    """An untrained head gives every example one label, of which the sets have different shares."""
    write_task("mnli", tmp_path)
    labels = PROCESSORS["mnli"]().get_labels()
    torch.manual_seed(0)
    values = torch.load(tiny_model / "pytorch_model.bin", weights_only=True)
    values |= {"classifier.weight": torch.zeros(3, 24), "classifier.bias": torch.eye(3)[0]}
    torch.save(values, tmp_path / "head.bin")
    out = tmp_path / "out"
    outcome = call(run_classifier, "--task_name=MNLI", f"--data_dir={tmp_path}", "--do_eval",
                   *model_flags(tiny_model), f"--init_checkpoint={tmp_path / 'head.bin'}",
                   "--max_seq_length=32", f"--output_dir={out}").ok()  # fmt: skip
    assert labels[0] == "contradiction"
    assert float(results(out)["eval_accuracy"]) == np.float32(1 / 2)
    assert results(out)["eval_accuracy_mismatched"] == str(np.float32(1 / 3))
    assert outcome.out.count("every example is given the same label") == 2


def test_regression(tmp_path, tiny_model_without_dropout, mrpc, call):
    """STS-B: scores are learned by their squared error, and Pearson's and Spearman's r told."""
    rows = (mrpc / "train.tsv").read_text("utf-8").splitlines()[1:]
    rows = ["|".join(["0", *"abcdef", *r.split("\t")[3:5], str(n % 6)]) for n, r in enumerate(rows)]
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.tsv", "header", *rows)
    out = tmp_path / "out"
    call(run_classifier, "--task_name=STS-B", f"--data_dir={tmp_path}",
         *model_flags(tiny_model_without_dropout), "--do_train", "--do_eval",
         "--train_batch_size=13", "--max_seq_length=48", "--num_train_epochs=150",
         "--learning_rate=3e-3", f"--output_dir={out}").ok()  # fmt: skip
    figures = results(out)
    assert losses(out)[0] > 5 and losses(out)[-1] < 0.2
    assert float(figures["eval_pearson"]) > 0.95 and float(figures["eval_spearman"]) > 0.9
    assert weights(out)["classifier.weight"].shape == (1, 24)


# --- a user's own task ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def own(tiny_model, mrpc, tmp_path_factory):
    """The flags of a run on MRPC's pairs as a user's own files: text, text, label; no header."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("train", "dev", "test"):
        rows = [row.split("\t") for row in (mrpc / f"{name}.tsv").read_text("utf-8").splitlines()]
        labels = [] if name == "test" else [["different", "same"][int(row[0])] for row in rows[1:]]
        texts = [f"{row[3]}|{row[4]}" for row in rows[1:]]
        write(folder / f"{name}.tsv", *(map("|".join, zip(texts, labels)) if labels else texts))
    return [
        "--task_name=tsv", "--labels=different,same", "--text_columns=0,1", "--label_column=2",
        f"--data_dir={folder}", *model_flags(tiny_model), "--max_seq_length=48",
        "--train_batch_size=4", "--eval_batch_size=3", "--num_train_epochs=2",
        "--learning_rate=1e-3",
    ]  # fmt: skip


def test_own_task_without_code(own, trained, tmp_path, call):
    """The same pairs under other names: the same bits."""
    call(run_classifier, *own, "--do_train", "--do_eval", "--do_predict",
         f"--output_dir={tmp_path}").ok()  # fmt: skip
    assert_same_weights(trained, tmp_path)
    assert same_file(trained, tmp_path, "test_results.tsv")
    figures = results(tmp_path)
    assert "eval_mcc" in figures
    assert all(figures[key] == value for key, value in results(trained).items())
    assert json.loads((tmp_path / "run.json").read_text("utf-8"))["labels"] == ["different", "same"]
    call(run_classifier, *own, "--do_eval", f"--output_dir={tmp_path}").ok()
    assert results(tmp_path) == figures
    swapped = call(run_classifier, *own, "--labels=same,different", "--do_eval",
                   f"--output_dir={tmp_path}").ok()  # fmt: skip
    assert f"['different', 'same'] of {tmp_path} are reordered as ['same', 'diff" in swapped.out
    assert results(tmp_path)["eval_accuracy"] == figures["eval_accuracy"]
    other = call(run_classifier, *own, "--labels=equal,different", "--do_eval",
                 f"--output_dir={tmp_path}")  # fmt: skip
    assert other.status == 2 and "was trained with labels ['different', 'same']" in other.err


@pytest.mark.parametrize(
    ("given", "told"),
    (
        ("--task_name=MRPC", "--labels is for --task_name tsv only: mrpc has its own"),
        ("--task_name=MRPC --header=true !labels !text_columns !label_column",
         "--header is for --task_name tsv only: mrpc has its own"),
        ("--label_column=1", "--label_column 1 is also one of --text_columns"),
        ("!label_column", "--task_name tsv needs --label_column, by name or by number from 0"),
        ("--text_columns=0,1,3", "--text_columns 0,1,3: give one column, or two for a pair"),
        ("--header=no", "--header is 'no'; use one of auto, true, false"),
        ("--labels=same", "--labels same must be two or more different names"),
        ("--labels=same,same", "--labels same,same must be two or more different names"),
        ("--labels=different,equal",
         "{train}:{line}: the label 'same' is not one of different, equal"),
        ("--text_columns=0,5", "{train}:1: expected at least 6 columns, found 3: columns are "
         "separated by tabs and counted from 0"),
        ("--seeds=1", "--seeds '1' is not a list of two or more numbers, as in 1,2,3,4,5"),
        ("--seeds=1,x", "--seeds '1,x' is not a list of two or more numbers, as in 1,2,3,4,5"),
        ("--seeds=1,2,1", "--seeds 1,2,1 names a seed twice"),
        ("--seeds=1,2 --no_do_eval", "--seeds needs --do_train and --do_eval"),
    ),
)  # fmt: skip
def test_mistakes(given, told, own, tmp_path, call):
    argv = [*own, "--do_train", "--do_eval"]
    for change in given.split():
        name = change.lstrip("-!").partition("=")[0]
        argv = [flag for flag in argv if not flag.startswith(f"--{name}=")]
        argv += [] if change.startswith("!") else [change]
    train = next(flag.partition("=")[2] for flag in own if "data_dir" in flag) + "/train.tsv"
    with open(train, encoding="utf-8") as file:
        line = next(n for n, row in enumerate(file, start=1) if row.endswith("same\n"))
    outcome = call(run_classifier, *argv, f"--output_dir={tmp_path / 'out'}")
    told = told.format(train=train, line=line)
    assert (outcome.status, outcome.err) == (2, f"run_classifier.py: error: {told}\n")
    assert not (tmp_path / "out").exists()


def test_own_processor_in_ten_lines(own, trained, tmp_path):
    """As docs/classify.md shows it: a file outside the project, which imports the project."""
    script = tmp_path / "my_task.py"
    script.write_text(
        "import run_classifier\n\n\n"
        "class MyProcessor(run_classifier.DataProcessor):\n"
        '    labels = ("different", "same")\n'
        "    text_columns, label_column = (0, 1), 2\n"
        "    headers = ()\n\n\n"
        'run_classifier.PROCESSORS["mine"] = MyProcessor\n'
        'if __name__ == "__main__":\n'
        "    run_classifier.main()\n"
    )
    given = [flag for flag in own if not flag.startswith(("--labels", "--text_", "--label_"))]
    outcome = run(script, *given, "--task_name=Mine", "--do_train", "--do_eval",
                  "--output_dir", tmp_path / "out", env={"PYTHONPATH": str(ROOT)}).ok()  # fmt: skip
    assert_same_weights(trained, tmp_path / "out")
    assert results(tmp_path / "out")["eval_accuracy"] == results(trained)["eval_accuracy"]
    assert "weights" in outcome.out


def test_a_line_of_output_for_each_row_of_the_test_file(own, tmp_path, call):
    """Blank rows too, the last one among them."""
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    write(folder / "train.tsv", *["a|b|same", "b|a|different"] * 4)
    (folder / "test.tsv").write_text("one\ttwo\n\n \nthree\tfour\n\n")
    outcome = call(run_classifier, *own, f"--data_dir={folder}", "--do_train", "--do_predict",
                   f"--output_dir={out}").ok()  # fmt: skip
    assert len((out / "test_results.tsv").read_text().splitlines()) == 5
    assert "blank rows read as empty: 3" in outcome.out
    assert (
        "; rows read 5, used 5, skipped 0, cut 0, blank or too short and read as empty texts 3\n"
        in (outcome.out)
    )


def test_figures_name_their_class(own, tmp_path, call):
    write(tmp_path / "train.tsv", *["a|b|same", "b|a|different"] * 4)
    write(tmp_path / "dev.tsv", "a|b|same", "b|a|different")
    given = [*own, f"--data_dir={tmp_path}", "--do_train", "--do_eval"]
    outcome = call(run_classifier, *given, f"--output_dir={tmp_path / 'out'}").ok()
    assert "eval_f1 is F1 of same\n" in outcome.out
    assert "eval_f1 (F1 of same)" in (tmp_path / "out" / "report.html").read_text("utf-8")
    outcome = call(run_classifier, *given, '--labels=["different","same","a, b"]',
                   f"--output_dir={tmp_path / 'three'}").ok()  # fmt: skip
    assert "eval_macro_f1 is the mean of every label's F1\n" in outcome.out
    assert "eval_macro_f1" in results(tmp_path / "three")
    run_json = json.loads((tmp_path / "three" / "run.json").read_text("utf-8"))
    assert run_json["labels"] == ["different", "same", "a, b"]


def test_markers_are_whole_in_evaluation_too(own, tmp_path, call):
    write(tmp_path / "train.tsv", *["a [MASK]b|b|same", "b|a|different"] * 4)
    write(tmp_path / "dev.tsv", "a [MASK]b|b|same", "b|a|different")
    given = [*own, f"--data_dir={tmp_path}", f"--output_dir={tmp_path / 'out'}"]
    warning = "warning: the text holds [MASK]: the vocabulary has this entry, but it is split"
    plain = call(run_classifier, *given[:-1], "--do_train", "--do_eval",
                 f"--output_dir={tmp_path / 'plain'}").ok()  # fmt: skip
    assert plain.out.count(warning) == 1
    trained = call(run_classifier, *given, "--do_train", "--never_split=[MASK]").ok()
    assert warning not in trained.out
    run_json = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert run_json["never_split"] == "[MASK]"
    evaluated = call(run_classifier, *given, "--do_eval").ok()
    assert warning not in evaluated.out
    other = call(run_classifier, *given, "--do_eval", "--never_split=all")
    assert other.status == 2 and "was trained with never_split [MASK], but this run" in other.err


PROCESSOR = """
from run_classifier import DataProcessor

class MyProcessor(DataProcessor):
    labels = ("different", "same")
    text_columns, label_column = (0, 1), 2
    headers = ()
"""


def test_a_processor_from_a_file(own, trained, tmp_path):
    """From another folder, with a data.py beside it: the same bits as the task without code."""
    (tmp_path / "data.py").write_text("raise SystemExit('the wrong data.py')")
    (tmp_path / "my_task.py").write_text(PROCESSOR)
    given = [
        flag for flag in own if not flag.startswith(("--labels", "--text_", "--label_", "--task"))
    ]
    outcome = run("run_classifier.py", *given, f"--processor={tmp_path}/my_task.py:MyProcessor",
                  "--do_train", "--do_eval", "--output_dir", tmp_path / "out").ok()  # fmt: skip
    assert "train: 13 inputs" in outcome.out
    assert_same_weights(trained, tmp_path / "out")

    (tmp_path / "my_task.py").write_text(PROCESSOR + "    rows = nothing\n")
    outcome = run("run_classifier.py", *given, f"--processor={tmp_path}/my_task.py:MyProcessor",
                  "--do_eval", "--output_dir", tmp_path / "out")  # fmt: skip
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err == (
        f"run_classifier.py: error: {tmp_path}/my_task.py:8: NameError: name 'nothing' is not "
        f"defined\n"
    )


def test_processors_by_any_case(own, tmp_path, call, monkeypatch):
    class Mine(TsvProcessor):
        def __init__(self):
            super().__init__(("different", "same"), (0, 1), 2)

    monkeypatch.setitem(PROCESSORS, "MyTask", Mine)
    given = [
        flag for flag in own if not flag.startswith(("--labels", "--text_", "--label_", "--task"))
    ]
    for name in ("MyTask", "mytask", "MYTASK"):
        assert run_classifier.parse_args([*given, "--do_eval", f"--task_name={name}",
                                          f"--output_dir={tmp_path}"])  # fmt: skip
    with pytest.raises(ValueError, match="'yourtask'; use one of cola, .*, MyTask$"):
        run_classifier.parse_args([*given, "--do_eval", "--task_name=YourTask",
                                   f"--output_dir={tmp_path}"])  # fmt: skip


# --- several seeds -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def seeds(task, tmp_path_factory):
    """The output folder of a run with three seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    run_classifier.main([*task, "--do_train", "--do_eval", "--do_predict", "--seeds=3,42,1",
                         f"--output_dir={folder}"])  # fmt: skip
    return folder


def test_a_seed_among_others_is_as_alone(seeds, trained):
    """`trained` has the default seed, 42, the second here."""
    alone, among = trained, seeds / "seed-42"
    assert {path.name for path in alone.iterdir()} == {path.name for path in among.iterdir()}
    assert_same_weights(alone, among)
    assert losses(alone) == losses(among)
    for name in ("eval_results.txt", "test_results.tsv", "MRPC.tsv", "bert_config.json"):
        assert same_file(alone, among, name)
    one, other = (json.loads((f / "run.json").read_text("utf-8")) for f in (alone, among))
    for facts in (one, other):
        del facts["flags"]["output_dir"], facts["script"], facts["flags"]["do_predict"]
    assert one == other


def test_figures_of_seeds(seeds):
    summary = json.loads((seeds / "seeds_results.json").read_text("utf-8"))
    assert summary["metric"] == "eval_f1" and list(summary["seeds"]) == ["3", "42", "1"]
    for name in ("eval_accuracy", "eval_f1", "eval_loss"):
        values = [figures[name] for figures in summary["seeds"].values()]
        told = [float(results(seeds / f"seed-{seed}")[name]) for seed in (3, 42, 1)]
        assert told == pytest.approx(values, abs=1e-6)
        assert summary["mean"][name] == pytest.approx(np.mean(values), abs=1e-12)
        assert summary["standard_deviation"][name] == pytest.approx(np.std(values, ddof=1))
    assert len({figures["eval_loss"] for figures in summary["seeds"].values()}) == 3


def test_the_best_seed_is_kept(seeds, task, tmp_path):
    best = seeds / f"seed-{json.loads((seeds / 'seeds_results.json').read_text())['best']}"
    kept = {path.name for path in best.iterdir()} - {"checkpoint-6.pt"}
    assert {p.name for p in seeds.iterdir() if p.is_file()} == kept | {"seeds_results.json"}
    assert all(same_file(best, seeds, name) for name in kept - {"report.html"})
    page = Page((seeds / "report.html").read_text("utf-8"))
    assert "standard deviation" in page.text and "Evaluation on dev.tsv" in page.text
    assert {"3", "42", "1", "mean"} <= {row[0] for row in page.rows}
    assert len([name for name, _ in page.curves() if name == "best"]) == 1
    run_classifier.main([*task, f"--init_checkpoint={seeds}", "--do_eval", "--do_predict",
                         f"--output_dir={tmp_path}"])  # fmt: skip
    assert same_file(seeds, tmp_path, "eval_results.txt")
    assert same_file(seeds, tmp_path, "test_results.tsv")

    # Evaluated and used later, in its own folder, it does not lose what the run has shown.
    run_classifier.main([*task, "--do_eval", f"--output_dir={seeds}"])
    later = Page((seeds / "report.html").read_text("utf-8"))
    assert later.rows[:2] == page.rows[:2] and "standard deviation" in later.text
    before = (seeds / "report.html").read_bytes()
    run_classifier.main([*task, "--do_predict", f"--output_dir={seeds}"])
    assert (seeds / "report.html").read_bytes() == before
    assert "Predictions for test.tsv" in (seeds / "predictions.html").read_text("utf-8")


def test_nothing_of_an_earlier_best_stays(tmp_path):
    """It had predictions, which the new best has not: a user's own notes stay."""
    for name, files in (("best", ("pytorch_model.bin", "run.json", "checkpoint-6.pt")),
                        ("out", ("pytorch_model.bin", "MRPC.tsv", "notes"))):  # fmt: skip
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text(name)
    names = run_classifier.files_of(MrpcProcessor()).keys()
    run_classifier.copy_best(str(tmp_path / "best"), str(tmp_path / "out"), names)
    left = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert left == {"pytorch_model.bin": "best", "run.json": "best", "notes": "out"}


def test_summary_by_hand(capsys):
    runs = {
        5: {"eval_accuracy": 0.5, "eval_loss": np.float32(0.5), "global_step": 3, "loss": 1.0},
        6: {"eval_accuracy": 0.75, "eval_loss": np.float32(0.75), "global_step": 3, "loss": 1.0},
        7: {"eval_accuracy": 0.75, "eval_loss": np.float32(0.25), "global_step": 3, "loss": 1.0},
    }
    summary = run_classifier.summary_of(runs, [5], "eval_accuracy")
    assert summary["best"] == 7  # of two as accurate, the one with the lower loss
    assert summary["mean"] == pytest.approx({"eval_accuracy": 2 / 3, "eval_loss": 0.5})
    assert summary["standard_deviation"]["eval_loss"] == 0.25
    run_classifier.print_table(summary)
    assert capsys.readouterr().out.split("\n")[1:-1] == [
        "     seed  eval_accuracy  eval_loss",
        "        5         0.5000     0.5000  one class for every example",
        "        6         0.7500     0.7500",
        "        7         0.7500     0.2500",
        "     mean         0.6667     0.5000",
        "deviation         0.1443     0.2500",
        "the best by eval_accuracy is kept: seed 7",
        "",
    ]
    for figures in (runs[7], runs[6]):  # a figure that is not one is never the best
        figures["eval_accuracy"] = float("nan")
        assert run_classifier.summary_of(runs, [], "eval_accuracy")["best"] in (6, 5)
    assert run_classifier.summary_of({7: runs[7], 5: runs[5]}, [], "eval_accuracy")["best"] == 5


def test_seeds_go_on_after_a_kill(task, tmp_path, call, monkeypatch):
    """Stopped in the second seed: the first is not trained again, the second goes on."""
    given = [*task, "--do_train", "--do_eval", "--seeds=1,2,3", "--save_checkpoints_steps=2"]
    true, steps = run_classifier.compute_loss, []

    def compute_loss(*batch):
        steps.append(batch)
        if len(steps) == dies_at:
            raise KeyboardInterrupt
        return true(*batch)

    monkeypatch.setattr(run_classifier, "compute_loss", compute_loss)
    dies_at = 6 + 4  # the second seed's fourth step: its third is lost
    assert call(run_classifier, *given, f"--output_dir={tmp_path / 'a'}").status == 130
    assert not (tmp_path / "a" / "seeds_results.json").exists()
    steps.clear()
    dies_at = None
    call(run_classifier, *given, f"--output_dir={tmp_path / 'a'}").ok()
    assert len(steps) == 0 + 4 + 6
    steps.clear()
    call(run_classifier, *given, f"--output_dir={tmp_path / 'a'}").ok()
    assert not steps  # all are there
    call(run_classifier, *given, f"--output_dir={tmp_path / 'b'}").ok()
    for name in ("", "seed-1", "seed-2", "seed-3"):
        assert_same_weights(tmp_path / "a" / name, tmp_path / "b" / name)
    assert same_file(tmp_path / "a", tmp_path / "b", "seeds_results.json")


def test_a_collapsed_seed_is_named(own, tmp_path, call):
    """All training examples are of one class, and so are soon the predictions."""
    write(tmp_path / "train.tsv", *["a|b|same"] * 8)
    write(tmp_path / "dev.tsv", "a|b|same", "b|a|different")
    outcome = call(run_classifier, *own, f"--data_dir={tmp_path}", "--do_train", "--do_eval",
                   "--num_train_epochs=10", "--learning_rate=1e-2", "--seeds=1,2",
                   f"--output_dir={tmp_path / 'out'}").ok()  # fmt: skip
    assert len(re.findall("^ +[12] .*one class for every example$", outcome.out, re.M)) == 2
    summary = json.loads((tmp_path / "out" / "seeds_results.json").read_text("utf-8"))
    assert summary["one_class"] == [1, 2] and summary["mean"]["eval_accuracy"] == 0.5


def test_seeds_do_not_replace_another_run(task, trained, call):
    before = {path: path.read_bytes() for path in trained.iterdir()}
    outcome = call(run_classifier, *task, "--do_train", "--do_eval", "--seeds=1,2",
                   f"--output_dir={trained}")  # fmt: skip
    assert outcome.status == 2
    assert "already holds a pytorch_model.bin that was not trained here" in outcome.err
    assert before == {path: path.read_bytes() for path in trained.iterdir()}


def test_seeds_need_a_metric_to_choose_by(task, mrpc, tmp_path, call, monkeypatch):
    class Scores(MrpcProcessor):
        main_metric = "eval_speed"

    monkeypatch.setitem(PROCESSORS, "scores", Scores)
    outcome = call(run_classifier, *task, "--task_name=scores", "--do_train", "--do_eval",
                   "--seeds=1,2", f"--output_dir={tmp_path / 'out'}")  # fmt: skip
    assert outcome.status == 2
    assert (
        "--seeds: the main_metric of Scores is eval_speed, but there is only eval_accuracy, "
        "eval_f1\n" in outcome.err
    )
    assert not (tmp_path / "out").exists()


def test_each_seed_has_curves_of_its_own(task, tmp_path, call):
    pytest.importorskip("tensorboard")
    curves, out = tmp_path / "curves", tmp_path / "out"
    call(run_classifier, *task, "--do_train", "--do_eval", "--num_train_epochs=0.4", "--seeds=1,2",
         f"--tensorboard={curves}", f"--output_dir={out}").ok()  # fmt: skip
    written = [path.parent for path in curves.rglob("*tfevents*")]
    assert sorted(written) == [curves / f"seed-{seed}" for seed in (1, 2)]


def test_labels_as_a_list_of_json():
    """Numbers, true and false are what they are as labels of a .jsonl."""
    parse = run_classifier.parse_labels
    assert parse('["no, never", true, 1.0, 2]') == ("no, never", "true", "1", "2")
    assert parse("[a], b") == ("[a]", "b")
