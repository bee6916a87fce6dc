"""flags.py: the table of flags, every way to write one, and values that are refused."""

import re
from types import SimpleNamespace

import pytest
from helpers import ROOT, SAMPLES, model_flags, run

import checkpoint
import convert_pytorch_checkpoint_to_tf
import convert_tf_checkpoint_to_pytorch
import create_pretraining_data
import extract_features
import flags
import optimization
import predict
import run_classifier
import run_pretraining
import run_squad
import run_tagger
from configuration import BertConfig

SCRIPTS = {
    module.__name__: module
    for module in (
        convert_pytorch_checkpoint_to_tf, convert_tf_checkpoint_to_pytorch,
        create_pretraining_data, extract_features, predict, run_classifier, run_pretraining,
        run_squad, run_tagger,
    )
}  # fmt: skip
# Files that exist are enough for parse_args.
NEEDED = [f"--vocab_file={__file__}", f"--bert_config_file={__file__}", "--output_dir=o"]


def parse(*argv):
    return run_classifier.parse_args(
        ["--task_name=MRPC", f"--data_dir={SAMPLES / 'MRPC'}", *NEEDED, *argv]
    )


@pytest.mark.parametrize(
    "given",
    (["--do_train"], ["--do_train=true"], ["--do_train", "true"], ["--do_train=True"],
     ["--do_train=1"], ["--do_train", "yes"], ["--do_train=t"], ["--no_do_train", "--do_train"]),
)  # fmt: skip
def test_true(given):
    args = parse("--do_eval", *given)
    assert args.do_train is True and args.do_eval is True and args.do_predict is False


@pytest.mark.parametrize(
    "given",
    (["--no_do_lower_case"], ["--do_lower_case=false"], ["--do_lower_case", "False"],
     ["--do_lower_case=0"], ["--do_lower_case", "--no_do_lower_case"], ["--do_lower_case=no"]),
)  # fmt: skip
def test_false(given):
    assert parse("--do_eval").do_lower_case is True
    assert parse("--do_eval", *given).do_lower_case is False


def test_numbers_and_text():
    args = parse("--do_train", "--learning_rate", "2e-5", "--num_train_epochs=3", "--seed", "7",
                 "--init_checkpoint=a=b")  # fmt: skip
    assert args.learning_rate == 2e-5 and args.num_train_epochs == 3.0 and args.seed == 7
    assert args.init_checkpoint == "a=b"


def test_both_spellings_of_local_rank():
    for given in (["--local_rank", "1"], ["--local-rank=1"], ["--local_rank=1"]):
        assert parse("--do_train", *given).local_rank == 1
    assert parse("--do_train").local_rank == -1


def test_the_first_ports_name_of_accumulation():
    assert parse("--do_train").gradient_accumulation_steps == 1
    assert parse("--do_train", "--accumulate_gradients=2").gradient_accumulation_steps == 2
    assert parse("--do_train", "--gradient_accumulation_steps=3").gradient_accumulation_steps == 3


def test_a_flag_is_not_guessed_from_its_beginning():
    with pytest.raises(ValueError, match="^unknown flag --do_t: did you mean --do_train[?]$"):
        parse("--do_t")


def test_what_is_given_by_its_place():
    folder = str(ROOT)
    for given in (
        [folder, "a text", "its pair", "--no_cuda"], [folder, "--no_cuda", "a text", "its pair"],
        ["--no_cuda", folder, "a text", "--max_seq_length", "8", "its pair"],
        ["--no_cuda=true", "--max_seq_length=8", "--", folder, "a text", "its pair"],
    ):  # fmt: skip
        args = predict.parse_args(given)
        assert (args.folder, args.text, args.pair) == (folder, "a text", "its pair")
        assert args.no_cuda is True and args.max_seq_length in (None, 8)
    assert predict.parse_args([folder, "-5 degrees"]).text == "-5 degrees"
    with pytest.raises(ValueError, match="^'four' does not belong to a flag$"):
        predict.parse_args([folder, "one", "two", "four"])


def test_an_unknown_flag_gets_a_suggestion():
    with pytest.raises(ValueError, match="^unknown flag --do_trian: did you mean --do_train[?]$"):
        parse("--do_trian", "true")
    with pytest.raises(ValueError) as error:
        parse("--learning_rat=1", "--x", "--no_do_lowercase", "--x=3")
    assert str(error.value) == (
        "unknown flags --learning_rat (did you mean --learning_rate?), --x, "
        "--no_do_lowercase (did you mean --no_do_lower_case?)"
    )
    # A flag without meaning is not suggested.
    with pytest.raises(ValueError, match="^unknown flag --tpu_nam: see --help$"):
        parse("--tpu_nam=3")


def test_a_negative_value_is_joined():
    needed = [*NEEDED[:2], "--init_checkpoint=w", f"--input_file={__file__}", "--output_file=out"]
    assert extract_features.parse_args([*needed, "--layers=-1,-2"]).layers == "-1,-2"
    with pytest.raises(ValueError, match="^--layers needs a value; join a value that begins with"):
        extract_features.parse_args([*needed, "--layers", "-1,-2"])


@pytest.mark.parametrize("name", flags.MEANINGLESS)
def test_flags_without_meaning(name, capsys):
    for given in ([f"--{name}"], [f"--{name}=8"], [f"--{name}", "False"]):
        args = parse("--do_train", *given)
        assert capsys.readouterr().err == f"--{name} has no meaning here and is ignored\n"
        assert not hasattr(args, name)


def test_defaults_are_googles():
    args = parse("--do_train")
    assert (args.max_seq_length, args.train_batch_size, args.num_train_epochs) == (128, 32, 3.0)
    assert (args.learning_rate, args.warmup_proportion) == (5e-5, 0.1)
    assert args.eval_batch_size == 8 and args.predict_batch_size is None
    assert args.save_checkpoints_steps == 1000 and args.init_checkpoint is None
    args = run_squad.parse_args([*NEEDED, "--do_train", f"--train_file={__file__}"])
    assert (args.max_seq_length, args.doc_stride, args.max_query_length) == (384, 128, 64)
    assert (args.n_best_size, args.max_answer_length) == (20, 30)
    assert args.null_score_diff_threshold == 0.0 and args.version_2_with_negative is False
    args = run_squad.parse_args(
        [*NEEDED, "--do_train", f"--train_file={__file__}", "--null_score_diff_threshold", "-2.5"]
    )
    assert args.null_score_diff_threshold == -2.5


def test_check_output_dir_creates_nothing(tmp_path):
    flags.check_output_dir(str(tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        flags.check_output_dir(str(tmp_path / "file" / "b" / "c"))


def model(vocab, size):
    config = SimpleNamespace(vocab_size=size, max_position_embeddings=16)
    args = SimpleNamespace(vocab_file="v", bert_config_file="c", max_seq_length=16)
    return config, {word: index for index, word in enumerate(vocab)}, args


def test_a_table_may_have_rows_in_reserve(capsys):
    """Many public models have: padded to a multiple of 8, or for words to come."""
    words = ["[UNK]", *(f"word{number}" for number in range(1200))]
    flags.check_model(*model(words, 1208))
    assert capsys.readouterr().out == (
        "v has 1201 entries for the 1208 rows of the word table: right for a table with a reserve; "
        "the other rows are never read\n"
    )
    # Blank lines at the end are no entries.
    flags.check_model(*model([*words, ""], 1201))
    assert capsys.readouterr().out == ""


def test_check_model_compares_sizes():
    """Blank lines and doubles count as lines do: the size is that of the last line's index."""
    args = SimpleNamespace(vocab_file="v", bert_config_file="c", max_seq_length=16)
    vocab = {word: index for index, word in enumerate(["[UNK]", "[PAD]", "a", "a", "b"])}
    config = SimpleNamespace(vocab_size=5, max_position_embeddings=16)
    flags.check_model(config, vocab, args)
    config.vocab_size = 4
    with pytest.raises(ValueError, match="v has 5 entries, but vocab_size in c is 4"):
        flags.check_model(config, vocab, args)


# --- the table -----------------------------------------------------------------------------------


def declared(script):
    return [flag for _, flag in flags.flags_of(script)]


def test_a_script_declares_a_flag_once():
    assert set(SCRIPTS) == set(flags.SCRIPTS)
    for script in SCRIPTS:
        names = [flag.name for flag in declared(script)]
        assert names and len(names) == len(set(names))
    for group in flags.FLAGS.values():
        for flag in group:
            assert flag.scripts and set(flag.scripts) <= set(SCRIPTS)


def test_defaults_are_allowed_and_of_their_kind():
    for script in SCRIPTS:
        for flag in declared(script):
            default = flag.default_of(script)
            assert default in (None, flags.REQUIRED) or type(default) is flag.kind, flag.name
            if default != flags.REQUIRED:
                flag.check(default)


def test_choices_are_those_of_the_code():
    assert tuple(optimization.SCHEDULES) == flags.SCHEDULES
    (task_name,) = (flag for flag in declared("run_classifier") if flag.name == "task_name")
    assert set(run_classifier.PROCESSORS) <= set(re.findall(r"[\w-]+", task_name.help))


@pytest.mark.parametrize("script", flags.SCRIPTS)
def test_help_shows_every_flag_with_its_default(script, capsys):
    with pytest.raises(SystemExit) as end:
        SCRIPTS[script].parse_args(["--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    places = {"predict": "FOLDER [TEXT] [PAIR] "}.get(script, "")
    assert re.match(rf"usage: \S+ {re.escape(places)}\[flags\]\n\n", text)
    words = " ".join(text.split())
    for heading, flag in flags.flags_of(script):
        assert f"\n{heading}:\n" in text
        assert re.search(rf"\n  {flag.spelling} ", text), flag.name
        assert flag.help_of(script) in words
        if flag.default_of(script) == flags.REQUIRED:
            assert f"{flag.help_of(script)} (required)" in words
        elif flag.default_of(script) is not None:
            shown = flags.shown(flag.default_of(script))
            assert f"{flag.help_of(script)} (default: {shown})" in words
    assert "None" not in text and "STR" not in text
    assert not any(name in text for name in (*flags.MEANINGLESS, "--no_do_train"))


# What a resumed run must have in common with the run that was stopped, beside the content of its
# files and the training examples.
DECIDE = {
    "bf16", "do_lower_case", "fp16", "keep_best", "learning_rate", "loss_scale",
    "max_seq_length", "max_train_examples", "never_split", "patience", "schedule", "seed",
    "strip_accents", "train_batch_size",
}  # fmt: skip
DECIDE_IN = {
    "run_classifier": {
        "class_weights", "compute_padding", "dev_fraction", "doc_stride",
        "labels", "language", "multi_label", "num_train_epochs", "task_name",
        "warmup_proportion",
    },
    "run_squad": {
        "align_answers", "compute_padding", "doc_stride", "max_query_length", "num_train_epochs",
        "version_2_with_negative", "warmup_proportion",
    },
    "run_tagger": {"compute_padding", "num_train_epochs", "warmup_proportion"},
    "run_pretraining": {"max_predictions_per_seq", "num_train_steps", "num_warmup_steps"},
}  # fmt: skip


@pytest.mark.parametrize("script", DECIDE_IN)
def test_flags_that_a_resumed_run_must_repeat(script):
    more = {
        "run_classifier": ["--task_name=MRPC", f"--data_dir={SAMPLES / 'MRPC'}"],
        "run_squad": [f"--train_file={__file__}"],
        "run_tagger": [f"--data_dir={SAMPLES / 'tagging'}"],
        "run_pretraining": ["--input_file=i"],
    }
    args = SCRIPTS[script].parse_args([*NEEDED, *more[script], "--do_train", "--use_tpu=False"])
    config = BertConfig(vocab_size=9)
    key = checkpoint.resume_key(args, config, 0).keys()
    assert key == {
        *DECIDE, *DECIDE_IN[script], "meaning of --bert_config_file", "content of --vocab_file",
        "content of --init_checkpoint", "training examples", "script",
    }  # fmt: skip
    # With --keep_best or --patience what is evaluated, and when, decides the result too.
    evaluation = {
        "run_classifier": {"eval_batch_size"},
        "run_squad": {"n_best_size", "max_answer_length", "null_score_diff_threshold"},
        "run_tagger": {"eval_batch_size"},
        "run_pretraining": {"eval_batch_size", "max_eval_steps"},
    }[script] | {"eval_steps", "max_eval_examples", "examples to evaluate"}
    for name, value in (("keep_best", True), ("patience", 3)):
        setattr(args, name, value)
        assert checkpoint.resume_key(args, config, 0, 0).keys() - key == evaluation
        setattr(args, name, None)
    # One flag's name stands for it in all scripts that train.
    for flag in declared(script):
        assert flag.may_differ == (flag.name in flags.MAY_DIFFER)


def test_the_document_is_what_the_table_says():
    assert (ROOT / "docs" / "flags.md").read_text("utf-8") == flags.markdown(), (
        "run: python flags.py > docs/flags.md"
    )


# --- before PyTorch is loaded --------------------------------------------------------------------


def test_flags_need_only_the_standard_library():
    outcome = run("-c", "import sys, flags; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert outcome.ok().out == "False False\n"


@pytest.mark.parametrize("script", flags.SCRIPTS)
@pytest.mark.parametrize(
    "given", (["--help"], ["--nonsense"], ["--max_seq_length=1", "--seed=-1"]), ids=" ".join
)
def test_a_wrong_flag_is_reported_before_pytorch_is_loaded(script, given):
    outcome = run("-X", "importtime", f"{script}.py", *given)
    assert outcome.status == (0 if given == ["--help"] else 2)
    assert re.search(r"\| +flags$", outcome.err, re.M)
    assert not re.search(r"\| +torch$", outcome.err, re.M)


def test_a_value_out_of_range_is_reported_before_pytorch_is_loaded(tiny_model):
    outcome = run("-X", "importtime", "run_pretraining.py", *model_flags(tiny_model),
                  "--input_file=i", "--output_dir=o", "--do_train", "--seed=-1")  # fmt: skip
    assert outcome.err.endswith("run_pretraining.py: error: --seed is -1, but must be 0 or more\n")
    assert not re.search(r"\| +torch$", outcome.err, re.M)


def test_flags_are_parsed_once(tiny_model, tmp_path):
    """What is noticed after PyTorch is loaded does not repeat the line about --use_tpu."""
    outcome = run("run_pretraining.py", *model_flags(tiny_model), "--input_file=i", "--do_eval",
                  f"--output_dir={tmp_path}", "--use_tpu=False", "--max_seq_length=65")  # fmt: skip
    assert outcome.status == 2
    assert outcome.err == (
        "--use_tpu has no meaning here and is ignored\n"
        "run_pretraining.py: error: --max_seq_length 65 exceeds the model's 64 positions\n"
    )


def test_run_hands_arguments_on_and_returns_the_result():
    assert flags.run(max, 2, 3) == 3


def test_interrupt_ends_with_130(monkeypatch, capfd):
    def main():
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["run_squad.py"])
    with pytest.raises(SystemExit) as end:
        flags.run(main)
    assert end.value.code == 130
    assert capfd.readouterr().err == "\nrun_squad.py: interrupted\n"


def test_a_second_interrupt_while_the_process_ends():
    """As while PyTorch is unloaded, which takes a moment: it prints nothing more."""
    outcome = run(
        "-c",
        "import atexit, os, signal, flags\n"
        "atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "flags.run(signal.default_int_handler, signal.SIGINT, None)",
    )
    assert (outcome.status, outcome.err) == (130, "\n-c: interrupted\n")


@pytest.mark.parametrize("error", ("KeyboardInterrupt", "ZeroDivisionError"))
def test_an_interrupt_while_pytorch_is_loaded(error):
    """A script has parsed its flags then, and has not begun; another error keeps its traceback."""
    outcome = run("-c", f"import flags; flags.run(int); raise {error}")
    assert outcome.status
    if error == "KeyboardInterrupt":
        assert outcome.err == "\n-c: interrupted\n"
    else:
        assert "Traceback" in outcome.err and outcome.err.endswith("ZeroDivisionError\n")
