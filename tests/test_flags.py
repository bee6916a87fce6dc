"""flags.py: every way to write a flag, and what cannot be meant."""

from types import SimpleNamespace

import pytest
from helpers import run

import flags
import run_classifier
import run_squad

NEEDED = ["--vocab_file=v", "--bert_config_file=c", "--output_dir=o"]


def parse(*argv):
    return run_classifier.parse_args(["--task_name=MRPC", "--data_dir=d", *NEEDED, *argv])


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


def test_a_flag_is_not_guessed_from_its_beginning(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--do_t")
    assert end.value.code == 2
    err = capsys.readouterr().err
    assert err.endswith(": error: unrecognized arguments: --do_t\n") and err.count("\n") == 1


@pytest.mark.parametrize("name", flags.MEANINGLESS)
def test_flags_without_meaning(name, capsys):
    for given in ([f"--{name}"], [f"--{name}=8"], [f"--{name}", "False"]):
        flags.note.cache_clear()
        args = parse("--do_train", *given)
        assert capsys.readouterr().err == f"--{name} has no meaning here and is ignored\n"
        parse("--do_train", *given)
        assert not capsys.readouterr().err, "told twice"
        assert not hasattr(args, name)


def test_defaults_are_googles():
    args = parse("--do_train")
    assert (args.max_seq_length, args.train_batch_size, args.num_train_epochs) == (128, 32, 3.0)
    assert (args.learning_rate, args.warmup_proportion) == (5e-5, 0.1)
    assert (args.eval_batch_size, args.predict_batch_size) == (8, 8)
    assert args.save_checkpoints_steps == 1000 and args.init_checkpoint is None
    args = run_squad.parse_args([*NEEDED, "--do_train", "--train_file=t"])
    assert (args.max_seq_length, args.doc_stride, args.max_query_length) == (384, 128, 64)
    assert (args.n_best_size, args.max_answer_length) == (20, 30)
    assert args.null_score_diff_threshold == 0.0 and args.version_2_with_negative is False
    args = run_squad.parse_args(
        [*NEEDED, "--do_train", "--train_file=t", "--null_score_diff_threshold", "-2.5"]
    )
    assert args.null_score_diff_threshold == -2.5


def test_check_output_dir_creates_nothing(tmp_path):
    flags.check_output_dir(str(tmp_path / "a" / "b"))
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file is a file"):
        flags.check_output_dir(str(tmp_path / "file" / "b" / "c"))


def model(vocab, size, do_lower_case=True):
    config = SimpleNamespace(vocab_size=size, max_position_embeddings=16)
    args = SimpleNamespace(vocab_file="v", bert_config_file="c", max_seq_length=16,
                           do_lower_case=do_lower_case)  # fmt: skip
    return config, {word: index for index, word in enumerate(vocab)}, args


def test_check_model_knows_vocabularies():
    uncased = ["[UNK]", *(f"word{number}" for number in range(1200))]
    cased = [*uncased, *(f"Word{number}" for number in range(300))]
    flags.check_model(*model(uncased, 1201))
    flags.check_model(*model(cased, 1501, do_lower_case=False))
    # A small one without capitals, or one of Chinese characters, tells nothing.
    flags.check_model(*model(uncased[:500], 500, do_lower_case=False))
    with pytest.raises(ValueError, match="cased model .300 of 1500 entries have capitals"):
        flags.check_model(*model(cased, 1501))
    with pytest.raises(ValueError, match="uncased model .no entry has capitals"):
        flags.check_model(*model(uncased, 1201, do_lower_case=False))
    with pytest.raises(ValueError, match="v has 1201 entries, but vocab_size in c is 1200"):
        flags.check_model(*model(uncased, 1200))


def test_googles_multilingual_vocabulary_is_neither(tmp_path):
    """Blank lines and doubles count as lines do: the size is that of the last line's index."""
    words = ["[UNK]", "[PAD]", "中", "中", "文"]
    config, vocab, args = model(words, 5, do_lower_case=False)
    assert len(vocab) == 4
    flags.check_model(config, vocab, args)


def test_flags_are_answered_before_torch_is_loaded():
    """flags.py needs nothing but the standard library."""
    outcome = run("-c", "import sys, flags; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert outcome.ok().out == "False False\n"


def test_interrupt_ends_with_130(monkeypatch):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        flags.run(main)
    assert end.value.code == 130
