"""run_squad.py end to end."""

import json

import numpy as np
import pytest
from helpers import (
    SAMPLES,
    Page,
    assert_same_weights,
    losses,
    model_flags,
    results,
    run,
    same_file,
    weights,
    write_tiny_model,
)
from model_helpers import with_head

import run_squad
import squad_data
import squad_metrics
import training
from convert_pytorch_checkpoint_to_tf import convert_pytorch_checkpoint_to_tf
from squad_data import Answer
from tokenization import FullTokenizer


@pytest.fixture(scope="session")
def task(tiny_model):
    """The flags of a run, without what to do, the files and --output_dir."""
    return [
        *model_flags(tiny_model), "--max_seq_length=64", "--max_query_length=24",
        "--doc_stride=16", "--train_batch_size=4", "--predict_batch_size=5",
        "--num_train_epochs=2", "--learning_rate=1e-3",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def trained(task, squad, tmp_path_factory):
    folder = tmp_path_factory.mktemp("squad_trained") / "out"
    run_squad.main([
        *task, "--do_train", f"--train_file={squad / 'train-v1.1.json'}", "--do_predict",
        f"--predict_file={squad / 'dev-v1.1.json'}", f"--output_dir={folder}",
    ])  # fmt: skip
    return folder


def questions(path):
    dataset = json.loads(path.read_text("utf-8"))
    paragraphs = [p for article in dataset["data"] for p in article["paragraphs"]]
    return [qa for paragraph in paragraphs for qa in paragraph["qas"]]


def test_output_dir_is_self_contained(trained, squad):
    steps = int(len(questions(squad / "train-v1.1.json")) / 4 * 2)
    files = {path.name for path in trained.iterdir()}
    assert files == {
        "pytorch_model.bin", "bert_config.json", "vocab.txt", "run.json", "training_log.jsonl",
        "eval_results.txt", "predictions.json", "nbest_predictions.json", f"checkpoint-{steps}.pt",
        "config.json", "tokenizer_config.json", "report.html",
    }  # fmt: skip
    assert len(losses(trained)) == steps  # counted in questions, as Google's, not in windows
    assert results(trained)["global_step"] == str(steps)


def test_every_question_is_answered_from_its_passage(trained, squad):
    asked = questions(squad / "dev-v1.1.json")
    answers = json.loads((trained / "predictions.json").read_text("utf-8"))
    assert list(answers) == [qa["id"] for qa in asked]
    dataset = json.loads((squad / "dev-v1.1.json").read_text("utf-8"))
    context = dataset["data"][0]["paragraphs"][0]["context"]
    assert all(answer and answer in " ".join(context.split()) for answer in answers.values())
    nbest = json.loads((trained / "nbest_predictions.json").read_text("utf-8"))
    for qas_id, candidates in nbest.items():
        assert candidates[0]["text"] == answers[qas_id] and 1 <= len(candidates) <= 20
        assert sum(candidate["probability"] for candidate in candidates) == pytest.approx(1)


def test_the_metric_as_a_command_gives_the_drivers_figures(trained, squad):
    outcome = run("squad_metrics.py", squad / "dev-v1.1.json", trained / "predictions.json").ok()
    figures, driver = json.loads(outcome.out), results(trained)
    assert figures.keys() == driver.keys() - {"global_step"}
    for name, value in figures.items():
        assert str(np.float32(value)) == driver[name] or str(value) == driver[name]


def test_prediction_alone_and_other_forms_of_the_weights(trained, task, squad, tmp_path):
    """From --output_dir, from it as --init_checkpoint, and from a TensorFlow checkpoint."""
    predict = [*task, "--do_predict", f"--predict_file={squad / 'dev-v1.1.json'}"]
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    run_squad.main([*predict, f"--output_dir={trained}"])
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before
    convert_pytorch_checkpoint_to_tf(
        str(trained), str(trained / "bert_config.json"), str(tmp_path / "tf" / "model.ckpt")
    )
    for number, given in enumerate((trained, tmp_path / "tf" / "model.ckpt")):
        out = tmp_path / str(number)
        run_squad.main([*predict, f"--init_checkpoint={given}", f"--output_dir={out}"])
        for name in ("predictions.json", "nbest_predictions.json"):
            assert same_file(trained, out, name)


def test_version_2(trained, task, squad, tmp_path, call):
    """Impossible questions: null odds are written, and the threshold moves the answers."""
    dataset = json.loads((squad / "dev-v2.0.json").read_text("utf-8"))
    qas = [
        qa for article in dataset["data"] for part in article["paragraphs"] for qa in part["qas"]
    ]
    del next(qa for qa in qas if qa["is_impossible"])["answers"]
    first, second = [qa["answers"][0] for qa in qas if not qa["is_impossible"]][:2]
    first["answer_start"] = None  # evaluation does without
    second["answer_start"] += 0.0
    path = tmp_path / "predict.json"
    path.write_text(json.dumps(dataset), "utf-8")
    predict = [*task, f"--init_checkpoint={trained}", "--do_predict", "--version_2_with_negative",
               f"--predict_file={path}"]  # fmt: skip
    asked = questions(path)
    for name, threshold, empty in (("always", "-1000.0", len(asked)), ("never", "1000.0", 0)):
        out = tmp_path / name
        flag = f"--null_score_diff_threshold={threshold}"
        call(run_squad, *predict, flag, f"--output_dir={out}").ok()
        answers = json.loads((out / "predictions.json").read_text("utf-8"))
        assert [*answers.values()].count("") == empty and len(answers) == len(asked)
        assert json.loads((out / "null_odds.json").read_text("utf-8")).keys() == answers.keys()
        figures = results(out)
        assert {"exact", "f1", "total", "HasAns_exact", "NoAns_f1"} <= figures.keys()
        assert float(figures["NoAns_exact"]) == (100 if name == "always" else 0)


def test_version_2_trains_on_impossible_questions(task, squad, tmp_path):
    dataset = json.loads((squad / "dev-v2.0.json").read_text("utf-8"))
    for qa in dataset["data"][0]["paragraphs"][0]["qas"]:
        qa["answers"] = qa["answers"][:1]
    (tmp_path / "train.json").write_text(json.dumps(dataset), "utf-8")
    run_squad.main([
        *task, "--do_train", "--version_2_with_negative",
        f"--train_file={tmp_path / 'train.json'}", f"--output_dir={tmp_path / 'out'}",
    ])  # fmt: skip
    assert np.isfinite(losses(tmp_path / "out")).all()


def test_without_answers_there_are_no_figures(trained, task, squad, tmp_path, call):
    """Nor are a byte-order mark, Windows line ends and a blank context mistakes."""
    dataset = json.loads((squad / "dev-v1.1.json").read_text("utf-8"))
    for qa in dataset["data"][0]["paragraphs"][0]["qas"]:
        del qa["answers"]
    blank = {"context": " \n", "qas": [{"id": "blank", "question": "What?"}]}
    dataset["data"][0]["paragraphs"].append(blank)
    (tmp_path / "predict.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps(dataset, indent=1).replace("\n", "\r\n").encode()
    )
    outcome = call(
        run_squad, *task, f"--init_checkpoint={trained}", "--do_predict",
        f"--predict_file={tmp_path / 'predict.json'}", f"--output_dir={tmp_path}",
    ).ok()  # fmt: skip
    assert "the predict file has no answers: no EM and F1" in outcome.out
    assert not (tmp_path / "eval_results.txt").exists()
    answers = json.loads((tmp_path / "predictions.json").read_text("utf-8"))
    assert answers.pop("blank") == ""
    assert answers == json.loads((trained / "predictions.json").read_text("utf-8"))
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert f"{len(answers) + 1} questions" in page.text and "gold" not in page.text
    assert all(qa["question"] in page.text for qa in questions(squad / "dev-v1.1.json"))


def test_answers_at_the_wrong_place_are_counted_shown_and_skipped(task, squad, tmp_path, call):
    dataset = json.loads((squad / "train-v1.1.json").read_text("utf-8"))
    asked = dataset["data"][0]["paragraphs"][0]["qas"]
    asked[1]["answers"][0]["text"] = "no such words"
    (tmp_path / "train.json").write_text(json.dumps(dataset), "utf-8")
    outcome = call(run_squad, *task, "--do_train", f"--train_file={tmp_path / 'train.json'}",
                   f"--output_dir={tmp_path / 'out'}").ok()  # fmt: skip
    assert "Could not find answer" in outcome.out
    assert f"skipped 1 of {len(asked)} questions like these" in outcome.out
    assert len(losses(tmp_path / "out")) == int((len(asked) - 1) / 4 * 2)


def test_compute_padding_trains_over_every_position(task, squad, tmp_path):
    """Google's loss is over the padding too, so it is another one, by a little."""
    train = ["--do_train", f"--train_file={squad / 'train-v1.1.json'}", "--num_train_epochs=1"]
    run_squad.main([*task, *train, f"--output_dir={tmp_path / 'tokens'}"])
    run_squad.main([*task, *train, "--compute_padding", f"--output_dir={tmp_path / 'all'}"])
    difference = np.subtract(losses(tmp_path / "tokens"), losses(tmp_path / "all"))
    assert np.all(np.abs(difference) < 0.5) and np.isfinite(difference).all()


@pytest.mark.parametrize("flag", ((), ("--compute_padding",)))
def test_answers_are_sought_where_google_does(trained, task, squad, tmp_path, flag, monkeypatch):
    """With --compute_padding the n-best search gets the padding's logits too."""
    seen = []

    def write_predictions(examples, features, results, **_):
        for feature, result in zip(features, results, strict=True):
            assert feature.unique_id == result.unique_id
            wanted = 64 if flag else len(feature.input_ids)
            assert len(result.start_logits) == len(result.end_logits) == wanted
            seen.append(len(feature.input_ids))
        return {example.qas_id: Answer("", None, [], 0.0) for example in examples}

    monkeypatch.setattr(run_squad, "write_predictions", write_predictions)
    run_squad.main([
        *task, *flag, f"--init_checkpoint={trained}", "--do_predict", "--version_2_with_negative",
        f"--predict_file={squad / 'dev-v2.0.json'}", f"--output_dir={tmp_path}",
    ])  # fmt: skip
    assert min(seen) < 64


# The report


def test_report_says_what_was_answered(trained, squad):
    """The spans that it marks are the answers, at their places in the paragraph."""
    page = Page((trained / "report.html").read_text("utf-8"))
    figures = {row[0]: row[1] for row in page.rows}
    for name, value in results(trained).items():
        assert float(figures[name]) == pytest.approx(float(value), rel=1e-6)
    assert len(page.curves()[0][1]) == len(losses(trained))
    answers = json.loads((trained / "predictions.json").read_text("utf-8"))
    marked = "".join(text for kinds, text in page.marks if "predicted" in kinds.split())
    for qa in questions(squad / "dev-v1.1.json"):
        assert qa["question"] in page.text and answers[qa["id"]] in " ".join(marked.split())
    right = len(page.all("li", **{"class": "right"}))
    assert 100 * right / len(answers) == pytest.approx(float(results(trained)["exact_match"]))


def test_score_question():
    context = "Jim \t 😀 Henson\nmade Kermit, and Jim  Henson knew."
    gold = {"text": "Jim  Henson", "answer_start": 32}
    answer = Answer("Jim Henson", 6, [], None)
    judged = run_squad.score_question(
        {"id": "a", "question": "Who?", "answers": [gold, {"text": "frog"}]}, context, answer
    )
    assert judged == {
        "id": "a", "question": "Who?", "context": context,
        "gold": [(32, "Jim  Henson"), (-1, "frog")],
        "predicted": "Jim Henson", "start": 32, "exact": True, "f1": 1.0,
    }  # fmt: skip
    assert context[judged["start"] :].startswith("Jim  Henson")
    impossible = {"id": "a", "question": "Who?", "answers": [], "is_impossible": True}
    judged = run_squad.score_question(impossible, context, answer)
    assert (judged["gold"], judged["exact"], judged["f1"]) == ([], False, 0.0)
    judged = run_squad.score_question(impossible, context, Answer("", None, [], 0.0))
    assert (judged["start"], judged["exact"], judged["f1"]) == (None, True, 1.0)


# Questions from the terminal


def typed(lines, *argv, tmp_path):
    (tmp_path / "typed.txt").write_text("\n".join(lines), "utf-8")
    with open(tmp_path / "typed.txt", encoding="utf-8") as stdin:
        return run("run_squad.py", "--interactive", *argv, stdin=stdin)


def test_interactive_answers_as_prediction_does(trained, task, squad, tmp_path):
    """The paragraph is longer than a window."""
    dataset = json.loads((squad / "dev-v1.1.json").read_text("utf-8"))
    (paragraph,) = dataset["data"][0]["paragraphs"]
    assert "\n" not in paragraph["context"] and len(paragraph["context"].split()) > 64
    asked = [qa["question"] for qa in paragraph["qas"]]
    lines = [paragraph["context"], *asked, "", "x" * 9000, asked[0], " ", "", paragraph["context"],
             asked[1]]  # fmt: skip
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    outcome = typed(lines, *task, f"--output_dir={trained}", tmp_path=tmp_path).ok()
    assert {path.name: path.read_bytes() for path in trained.iterdir()} == before
    nbest = json.loads((trained / "nbest_predictions.json").read_text("utf-8"))
    answers = json.loads((trained / "predictions.json").read_text("utf-8"))
    told = outcome.out.split("question: ")[1:]
    assert outcome.out.count("answer: ") == len(asked) + 2 == len(told) - 2
    for index, qa in enumerate(paragraph["qas"]):
        question, answer, *few = told[index].splitlines()
        assert (question, answer) == (qa["question"], f"answer: {answers[qa['id']]}")
        wanted = [f"{e['probability']:8.1%}  {e['text']}" for e in nbest[qa["id"]][:5]]
        assert few[: len(wanted)] == wanted
    assert told[-1] == told[1].rstrip() + "\n\n"
    assert "batch" not in outcome.err  # no progress bar between question and answer


def test_interactive_with_nothing_typed(trained, task, tmp_path):
    out = tmp_path / "out"
    argv = [*task, f"--init_checkpoint={trained}", f"--output_dir={out}"]
    for lines in ([], ["", "", "A paragraph.", ""]):
        outcome = typed(lines, *argv, tmp_path=tmp_path).ok()
        assert "answer:" not in outcome.out
    assert not out.exists()


def test_interactive_says_that_there_is_no_answer(trained, task, tmp_path):
    argv = [*task, "--version_2_with_negative", "--null_score_diff_threshold=-1000"]
    outcome = typed(["Jim made Kermit.", "Who made Kermit?", "?", "", "\u200b", "?"], *argv,
                    f"--output_dir={trained}", tmp_path=tmp_path).ok()  # fmt: skip
    assert outcome.out.count("answer: (none)") == 3 and "%  (none)" in outcome.out


def test_interactive_is_for_one_process(trained, task, monkeypatch, call):
    from training import setup

    def two_ranks(args):
        runtime = setup(args)
        runtime.world_size = 2
        return runtime

    monkeypatch.setattr(run_squad.training, "setup", two_ranks)
    outcome = call(run_squad, *task, "--interactive", f"--output_dir={trained}")
    assert outcome.status == 2 and "without a launcher" in outcome.err


# Accents


def test_accents_stay_where_they_are_asked_to(trained, task, squad, tmp_path, monkeypatch):
    seen = {}

    def tokenizer(vocab_file, do_lower_case, strip_accents, *more):
        seen["tokenizer"] = strip_accents
        return FullTokenizer(vocab_file, do_lower_case, strip_accents, *more)

    def write_predictions(*args, **options):
        seen["answers"] = options["strip_accents"]
        return squad_data.write_predictions(*args, **options)

    monkeypatch.setattr(training, "FullTokenizer", tokenizer)
    monkeypatch.setattr(run_squad, "write_predictions", write_predictions)
    says_how_it_was_trained = ("run.json", "tokenizer_config.json")
    for name in says_how_it_was_trained:
        (trained / name).rename(tmp_path / name)
    try:
        for flags, wanted in (
            ([], True), (["--no_strip_accents"], False), (["--no_do_lower_case"], False)
        ):  # fmt: skip
            out = tmp_path / f"out{len(flags)}{wanted}"
            run_squad.main([
                *task, *flags, f"--init_checkpoint={trained}", "--do_predict",
                f"--predict_file={squad / 'dev-v1.1.json'}", f"--output_dir={out}",
            ])  # fmt: skip
            assert seen == {"tokenizer": wanted, "answers": wanted}
    finally:
        for name in says_how_it_was_trained:
            (tmp_path / name).rename(trained / name)


@pytest.mark.parametrize("given", (["--help"], ["--do_train", "--nonsense"], ["--do_train"]))
def test_flags_are_answered_before_torch_is_loaded(given):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['run_squad.py', *{given}]\n"
        "try: runpy.run_path('run_squad.py', run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    status = 0 if given == ["--help"] else 2
    assert run("-c", code).out.endswith(f"{status} False False\n")


def test_pooler_is_kept_but_not_trained(trained, tiny_model):
    start, end = weights(tiny_model), weights(trained)
    for name in start:
        same = start[name].equal(end[name])
        assert same == name.startswith("bert.pooler."), name


def test_trained_to_the_end_it_answers_what_it_saw(tmp_path, call):
    """EM above 95 on the training questions; a label mistake would not get there."""
    model = write_tiny_model(
        tmp_path / "model", hidden_size=48, max_position_embeddings=256, intermediate_size=96,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    dataset = json.loads((SAMPLES / "SQuAD" / "train-v1.1.json").read_text("utf-8"))
    for paragraph in dataset["data"][0]["paragraphs"]:
        paragraph["context"] = paragraph["context"][:200]
        paragraph["qas"] = [
            qa
            for qa in paragraph["qas"]
            if qa["answers"][0]["answer_start"] + len(qa["answers"][0]["text"]) <= 200
        ]
    del dataset["data"][1:]
    (tmp_path / "train.json").write_text(json.dumps(dataset), "utf-8")
    outcome = call(
        run_squad, *model_flags(model), "--do_train", f"--train_file={tmp_path / 'train.json'}",
        "--do_predict", f"--predict_file={tmp_path / 'train.json'}", "--max_seq_length=256",
        "--max_query_length=60", "--train_batch_size=4", "--num_train_epochs=200",
        "--learning_rate=3e-3", f"--output_dir={tmp_path / 'out'}",
    ).ok()  # fmt: skip
    assert len(questions(tmp_path / "train.json")) >= 4
    assert float(results(tmp_path / "out")["exact_match"]) > 95, outcome.out
    answers = json.loads((tmp_path / "out" / "predictions.json").read_text("utf-8"))
    assert squad_metrics.evaluate(dataset, answers)["exact_match"] > 95


def test_resumed_squad_run_sees_the_same_questions(task, squad, tmp_path):
    train = [*task, "--do_train", f"--train_file={squad / 'train-v1.1.json'}",
             "--save_checkpoints_steps=1"]  # fmt: skip
    run_squad.main([*train, f"--output_dir={tmp_path / 'one'}"])
    run_squad.main([*train, f"--output_dir={tmp_path / 'two'}"])
    newest = max((tmp_path / "two").glob("checkpoint-*.pt"), key=lambda path: path.stat().st_mtime)
    newest.unlink()
    (tmp_path / "two" / "pytorch_model.bin").unlink()
    run_squad.main([*train, f"--output_dir={tmp_path / 'two'}"])
    assert_same_weights(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_google_main_gives_the_same_predictions(
    goldens, golden_tools, bert_dir, squad_dir, tmp_path
):
    """predictions.json of Google's own main() from the same weights, for every third paragraph.

    Slow, since every position of every window is computed, as Google's graph does.
    """
    golden = golden_tools.load_json_gz(goldens / "e2e_run_squad_predict.json.gz")
    dataset = json.loads((squad_dir / "dev-v1.1.json").read_text("utf-8"))
    for article in dataset["data"]:
        article["paragraphs"] = article["paragraphs"][::3]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(dataset), "utf-8")
    run(
        "run_squad.py", "--do_predict=true", f"--predict_file={path}",
        f"--vocab_file={bert_dir / 'vocab.txt'}",
        f"--bert_config_file={bert_dir / 'bert_config.json'}",
        f"--init_checkpoint={with_head(bert_dir, golden, 'qa_outputs', tmp_path)}",
        f"--output_dir={tmp_path / 'out'}", "--compute_padding", "--max_seq_length=384",
        "--doc_stride=128", timeout=600,
    ).ok()  # fmt: skip
    everything = json.loads(golden["predictions_text"])
    wanted = {qa["id"]: everything[qa["id"]] for qa in questions(path)}
    assert 100 < len(wanted) < len(everything) / 2
    got = (tmp_path / "out" / "predictions.json").read_text("utf-8")
    assert got == json.dumps(wanted, indent=4) + "\n"


# --- answers that are none, and texts without spaces ----------------------------------------------


def test_placeholder_answers(trained, task, squad, tmp_path, call):
    """As in files for blind tests: they are left out, and with nothing left there is no figure."""
    dataset = json.loads((squad / "dev-v1.1.json").read_text("utf-8"))
    qas = dataset["data"][0]["paragraphs"][0]["qas"]
    fake = [{"text": "FAKE_ANSWER", "answer_start": -1}]
    qas[0]["answers"] = fake
    path = tmp_path / "predict.json"
    given = [*task, f"--init_checkpoint={trained}", "--do_predict", f"--predict_file={path}"]
    path.write_text(json.dumps(dataset))
    outcome = call(run_squad, *given, f"--output_dir={tmp_path / 'some'}").ok()
    assert (
        f"questions without an answer that is in their context: 1 of {len(qas)}; EM and F1 leave"
    ) in outcome.out
    assert results(tmp_path / "some")["total"] == str(len(qas) - 1)
    assert len(json.loads((tmp_path / "some" / "predictions.json").read_text())) == len(qas)

    # An empty list is no answer either.
    qas[0]["answers"] = []
    path.write_text(json.dumps(dataset))
    outcome = call(run_squad, *given, f"--output_dir={tmp_path / 'empty'}").ok()
    assert f"in their context: 1 of {len(qas)}; EM and F1 leave them out" in outcome.out
    assert results(tmp_path / "empty")["total"] == str(len(qas) - 1)

    for qa in qas[1:]:
        qa["answers"] = fake
    path.write_text(json.dumps(dataset))
    outcome = call(run_squad, *given, f"--output_dir={tmp_path / 'none'}").ok()
    assert "the predict file has no answers: no EM and F1 (questions without" in outcome.out
    assert not (tmp_path / "none" / "eval_results.txt").exists()


def test_ids_that_are_numbers_and_texts_without_spaces(task, tmp_path, call):
    context = "the.of.the.and.the"
    qas = [
        {"id": 262, "question": "of?", "answers": [{"text": "the", "answer_start": 7}]},
        {"id": 263, "question": "?", "answers": [{"text": "of.the.and.the", "answer_start": 4}]},
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}))
    given = [*task, "--do_train", "--do_predict", f"--train_file={path}", f"--predict_file={path}",
             "--train_batch_size=2", "--max_answer_length=5"]  # fmt: skip
    said = call(run_squad, *given, f"--output_dir={tmp_path / 'plain'}").ok().out
    assert "answers learned at other tokens than those at their answer_start 1 (--align" in said
    assert (
        said.count("answers longer than the 5 WordPieces of --max_answer_length 1 (the longest")
        == 2
    )
    said = (
        call(run_squad, *given, "--align_answers", f"--output_dir={tmp_path / 'aligned'}").ok().out
    )
    assert "answers learned at other" not in said and "are whole words" not in said
    answers = json.loads((tmp_path / "aligned" / "predictions.json").read_text())
    assert set(answers) == {"262", "263"} and results(tmp_path / "aligned")["total"] == "2"
