"""vocabulary.py: what a folder says of its tokenizer, and words that are added to a vocabulary."""

import json
import shutil
import types

import numpy as np
import pytest
import torch
from helpers import assert_same_weights, model_flags, write_tiny_model

import checkpoint
import create_pretraining_data
import predict
import run_classifier
import run_pretraining
import vocabulary
from instances import InstanceFile
from modeling import BertConfig, BertForPreTraining, BertModel, add_word_rows, load_weights
from tokenization import AddedToken, FullTokenizer, load_vocab
from vocabulary import read_new_tokens, read_tokenizer_files

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789é中国"
VOCAB = [
    "[PAD]", "[unused1]", "[unused2]", "[unused3]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    *LETTERS, *(f"##{letter}" for letter in LETTERS), *"-+>[]/.,<", "[E0]",
]  # fmt: skip
TEXTS = [
    "The COVID-19 wave, covid-19s, anti-covid-19; Covid–19 COVID- 19",
    "a[E1]b [e1] [E1][/E1] [E0] x<ent>y",
    "c++ C++11 (C++) a->b -> ABC++",
    "Tōkyō TOKYO tokyotokyo Tokyo. café CAFÉ",
    "我在中国人 中国 国中",
    "Bar bar BAR foo FOO foos a foo's",
    "\u200bfoo\u0301 co\x00vid-19 \u3000[E1]\n",
]


@pytest.fixture
def vocab_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n", "utf-8")
    return path


@pytest.fixture
def words(tmp_path):
    """A function that writes a file of words and returns its path."""

    def write(*lines):
        path = tmp_path / "words.txt"
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return path

    return write


def tokenizer_in(folder, lower=True):
    files = read_tokenizer_files(str(folder))
    return FullTokenizer(files.vocab_file, lower, None, (), files.added_tokens)


# --- tokens of other libraries -------------------------------------------------------------------


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("form", ["tokenizer.json", "added_tokens_decoder", "added_tokens.json"])
def test_added_tokens_are_as_in_transformers(vocab_file, tmp_path, form, lower):
    """Ids and texts, in each of the three forms in which transformers' folders have them."""
    transformers = pytest.importorskip("transformers")
    token = transformers.AddedToken
    theirs = transformers.BertTokenizer(str(vocab_file), do_lower_case=lower)
    theirs.add_tokens(["COVID-19", "C++", "中国", "Tokyo"])
    if form != "added_tokens.json":  # which has no properties
        theirs.add_tokens([token("Bar", normalized=False), token("foo", single_word=True)])
    theirs.add_special_tokens({"additional_special_tokens": ["[E1]", "[/E1]", "<ent>", "[E0]"]})
    folder = tmp_path / "theirs"
    theirs.save_pretrained(folder)
    if form != "tokenizer.json":
        listed = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
        (folder / "tokenizer.json").unlink()
        shutil.copy(vocab_file, folder)
        values = {"do_lower_case": lower, "tokenizer_class": "BertTokenizer"}
        if form == "added_tokens_decoder":
            values[form] = {str(token.pop("id")): token for token in listed}
        else:
            added = {token["content"]: token["id"] for token in listed if token["id"] >= len(VOCAB)}
            (folder / form).write_text(json.dumps(added), "utf-8")
            values["additional_special_tokens"] = ["[E1]", "[/E1]", "<ent>", "[E0]"]
        (folder / "tokenizer_config.json").write_text(json.dumps(values), "utf-8")

    theirs = transformers.BertTokenizer.from_pretrained(folder)
    ours = tokenizer_in(folder, lower)
    for text in TEXTS:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"], text
        for word in text.split():
            assert len(ours.char_spans(word)) == len(ours.encode(word)), word
    assert {"COVID-19", "[E1]", "[E0]"} <= ours.whole
    assert ours.vocab["[E0]"] == len(VOCAB) - 1 and ours.vocab["COVID-19"] >= len(VOCAB)


def test_markers_stay_whole_in_transformers(vocab_file, tmp_path):
    """What we write keeps whole there what is whole here."""
    transformers = pytest.importorskip("transformers")
    ours = FullTokenizer(vocab_file, never_split="[E0],[unused2]")
    added = [AddedToken("[E1]", len(VOCAB)), AddedToken("covid-19", len(VOCAB) + 1, True, True),
             AddedToken("bar", len(VOCAB) + 2, True, True)]  # fmt: skip
    ours = ours.with_tokens(added)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/vocab.txt").write_bytes(vocabulary.vocab_content(vocab_file, ours))
    casing = {"do_lower_case": True, "strip_accents": True}
    content = vocabulary.tokenizer_config(ours, casing, 64)
    (tmp_path / "out/tokenizer_config.json").write_text(json.dumps(content), "utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    again = tokenizer_in(tmp_path / "out")
    for text in [*TEXTS, "[unused2] x[unused2]y [unused1]"]:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text), text
        assert again.encode(text) == ours.encode(text)
    assert "[E1]" in theirs.all_special_tokens and "covid-19" not in theirs.all_special_tokens


@pytest.mark.parametrize(
    "content, problem",
    [
        ({"x": {"content": "[E1]"}}, "the added tokens in .* are damaged"),
        (["[E1]"], "the added tokens in .* are damaged"),
        ({"9": {"content": "[E1]"}}, r"added token \[E1\] has the id 9,"),
        ({"300": {"content": "[E0]"}}, r"added token \[E0\] has the id"),
    ],
)
def test_added_tokens_that_cannot_be(vocab_file, content, problem):
    values = {"added_tokens_decoder": content}
    (vocab_file.parent / "tokenizer_config.json").write_text(json.dumps(values), "utf-8")
    with pytest.raises(ValueError, match=problem):
        tokenizer_in(vocab_file.parent)


# --- a file of words -----------------------------------------------------------------------------


def test_words_fill_unused_entries_then_get_new_rows(vocab_file, words):
    base = FullTokenizer(vocab_file, never_split=["[unused2]"])
    path = words("Wörd", "[E1]", "", "word", "a", "[E0]", "COVID-19", "zyx", "中国", "->", "[E1]")
    new = read_new_tokens(path, base, len(VOCAB) + 1)
    assert new.summary == (
        f"--add_tokens {path}: 2 filled [unused] entries, 3 new rows, 1 spare row of the table,"
        f" 2 in the vocabulary already, 2 given twice, 1 blank"
    )
    size = len(VOCAB)
    found = [(token.content, token.index, token.is_whole) for token in new.tokens]
    assert found == [
        ("word", 1, False), ("[E1]", 3, True), ("covid-19", size, True), ("zyx", size + 1, False),
        ("中国", size + 2, True), ("->", size + 3, True), ("[E0]", size - 1, True),
    ]  # fmt: skip
    assert [token.content for token in new.tokens if token.normalized] == ["covid-19", "中国", "->"]
    assert [token.content for token in new.tokens if token.single_word] == ["covid-19"]
    assert new.rows[1] == base.encode("word") and len(new.rows[1]) == 4
    assert new.rows.keys() == {1, 3, size, size + 1, size + 2, size + 3}
    grown = base.with_tokens(new.tokens)
    assert grown.tokenize("WÖRDS word Covid-19, covid-19s a->b 我在中国 [E0][E1]") == [
        "word", "##s", "word", "covid-19", ",", *base.tokenize("covid-19s"), "a", "->", "b",
        "[UNK]", "[UNK]", "中国", "[E0]", "[E1]",
    ]  # fmt: skip
    assert list(grown.vocab.values()) == list(range(size + 4))
    assert grown.tokenize("[unused2]") == ["[unused2]"]

    # Nothing is added twice.
    again = read_new_tokens(path, grown, size + 4)
    assert not again.tokens and not again.rows and "10 in the vocabulary already" in again.summary
    # As written to a folder and read again.
    folder = path.parent / "out"
    folder.mkdir()
    (folder / "vocab.txt").write_bytes(vocabulary.vocab_content(vocab_file, grown))
    values = vocabulary.tokenizer_config(grown, {"do_lower_case": True, "strip_accents": True}, 9)
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    stored = tokenizer_in(folder)
    assert stored.vocab == grown.vocab and stored.whole == grown.whole
    assert not read_new_tokens(path, stored).tokens


def test_all_markers_and_cased_words(vocab_file, words):
    """With --never_split all an [unused] entry is still free; a cased word stays as it is."""
    base = FullTokenizer(vocab_file, do_lower_case=False, never_split="all")
    grown = base.with_tokens(read_new_tokens(words("Word", "word", "[X]", "[Y]"), base).tokens)
    assert [grown.vocab[word] for word in ("Word", "word", "[X]", "[Y]")] == [1, 2, 3, len(VOCAB)]
    assert grown.tokenize("Word word[X] [Y]") == ["Word", "word", "[X]", "[Y]"]
    assert "[unused1]" not in grown.vocab and grown.tokenize("[E0]") == ["[E0]"]


@pytest.mark.parametrize(
    "lines, problem",
    [
        (["fine", "two words"], ":2: 'two words' has white space: give one word a line"),
        (["##ing"], ":1: '##ing' is a piece that continues a word: give whole words"),
        (["\u200b"], ":1: '\\\\u200b' has nothing that the tokenizer keeps"),
        (["x" * 201], f":1: '{'x' * 50}' has more than 200 characters"),
        ([f"w{number}" for number in range(200)], "has 200 words that the vocabulary of 148 ent"),
    ],
)
def test_words_that_cannot_be_added(vocab_file, words, lines, problem):
    with pytest.raises(ValueError, match=problem) as error:
        read_new_tokens(words(*lines), FullTokenizer(vocab_file))
    assert "\n" not in str(error.value)


def test_rows_are_means():
    torch.manual_seed(0)
    config = BertConfig(vocab_size=13, hidden_size=6, num_attention_heads=3, num_hidden_layers=1)
    model = BertForPreTraining(config)
    torch.nn.init.normal_(model.cls.predictions.bias)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    add_word_rows(model, {2: [5, 6, 6], 13: [2], 15: [7, 8]})
    assert config.vocab_size == 16
    after = model.state_dict()
    for name, tensor in before.items():
        if name not in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
            assert torch.equal(after[name], tensor)
            continue
        assert len(after[name]) == 16 and not after[name][14].any()
        kept = [number for number in range(13) if number != 2]
        assert torch.equal(after[name][kept], tensor[kept])
        assert torch.equal(after[name][2], tensor[[5, 6, 6]].mean(dim=0))
        assert torch.equal(after[name][13], tensor[2])  # as it was before
        assert torch.equal(after[name][15], tensor[[7, 8]].mean(dim=0))
    # The grown decoder is the grown table.
    scores, _ = model(torch.tensor([[3, 15, 2]]))
    assert scores.shape == (1, 3, 16)
    scores.sum().backward()
    assert model.bert.embeddings.word_embeddings.weight.grad.shape == (16, 6)
    encoder = BertModel(BertConfig(vocab_size=13, hidden_size=6, num_attention_heads=3))
    add_word_rows(encoder, {13: [0, 1]})
    assert len(encoder.embeddings.word_embeddings.weight) == encoder.config.vocab_size == 14


# --- runs ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model with two unused entries, at 20 and 21."""
    folder = write_tiny_model(tmp_path_factory.mktemp("base"))
    entries = (folder / "vocab.txt").read_text("utf-8").split("\n")
    entries[20:22] = ["[unused0]", "[unused1]"]
    (folder / "vocab.txt").write_text("\n".join(entries), "utf-8")
    return folder


NEW = ["Amrozi", "[E1]", "witness", "per-share", "zzz"]


def command(data, words, *more):
    return [
        "--task_name=MRPC", f"--data_dir={data}", "--max_seq_length=24", "--train_batch_size=4",
        "--learning_rate=1e-3", "--num_train_epochs=2", "--save_checkpoints_steps=2",
        f"--add_tokens={words}", "--do_train", *more,
    ]  # fmt: skip


def test_a_run_with_new_words(base, words, mrpc, tmp_path, call):
    """Its folder alone suffices afterwards; resumed or started from it, nothing is added twice."""
    path, out = words(*NEW), tmp_path / "out"
    given = command(mrpc, path, *model_flags(base), f"--output_dir={out}")
    said = call(run_classifier, *given).ok().out
    assert f"--add_tokens {path}: 2 filled [unused] entries, 3 new rows" in said
    size = len(load_vocab(base / "vocab.txt"))
    vocab = load_vocab(out / "vocab.txt")
    ids = [vocab[word] for word in ("amrozi", "[E1]", "witness", "per-share", "zzz")]
    assert ids == [20, 21, size, size + 1, size + 2]
    assert len(vocab) == size + 3 and "[unused0]" not in vocab
    assert BertConfig.from_json_file(out / "bert_config.json").vocab_size == size + 3

    # Killed and given again, with and without its start: the same bits.
    for name, again in (("a", given), ("b", command(mrpc, path)), ("c", given[:-1])):
        folder = shutil.copytree(out, tmp_path / name)
        for file in ("checkpoint-6.pt", "pytorch_model.bin", "run.json"):
            (folder / file).unlink()
        if name == "c":
            again = [flag for flag in again if not flag.startswith("--init_checkpoint")]
        said = call(run_classifier, *again, f"--output_dir={folder}").ok().out
        assert f"resuming from {folder / 'checkpoint-4.pt'}" in said
        assert_same_weights(folder, out)
        assert load_vocab(folder / "vocab.txt") == vocab

    # Its own weights are evaluated by the same command, and as another run's start.
    evaluating = [flag for flag in given if flag != "--do_train"]
    call(run_classifier, *evaluating, "--do_eval").ok()
    said = call(
        run_classifier, *command(mrpc, path, f"--init_checkpoint={out}"),
        f"--output_dir={tmp_path / 'next'}",
    ).ok().out  # fmt: skip
    assert "0 filled [unused] entries, 0 new rows, 5 in the vocabulary already" in said
    assert load_vocab(tmp_path / "next/vocab.txt") == vocab

    theirs = pytest.importorskip("transformers")
    model = predict.load(out, "cpu")
    tokenizer = theirs.AutoTokenizer.from_pretrained(out)
    network = theirs.BertForSequenceClassification.from_pretrained(out).eval()
    for text in ["Amrozi's [E1] witness, per-share (zzz)", "superwitness per-shares [e1]zzz"]:
        inputs = tokenizer(text, return_tensors="pt")
        assert inputs["input_ids"][0].tolist()[1:-1] == model.tokenizer.encode(text)
        probabilities = list(model.classify([text])[0].probabilities.values())
        assert probabilities == pytest.approx(network(**inputs).logits.softmax(1)[0].tolist(), 1e-5)
    assert "[E1]" in model.tokenizer.tokenize("x[E1]y")


def test_new_words_are_for_training(base, words, mrpc, tmp_path, call):
    given = command(mrpc, words("zzz"), *model_flags(base))
    given.remove("--do_train")
    state = torch.load(base / "pytorch_model.bin", weights_only=True)
    state |= {"classifier.weight": torch.ones(2, 24), "classifier.bias": torch.ones(2)}
    torch.save(state, tmp_path / "w.bin")
    outcome = call(
        run_classifier, *given, "--do_eval", f"--init_checkpoint={tmp_path / 'w.bin'}",
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.status == 2 and "lack 1 word of it, which only training can add" in outcome.err
    assert not (tmp_path / "out").exists()


def test_pretraining_with_new_words(base, words, tmp_path, call):
    """The instances have the same ids; the decoder grows with the table."""
    path = words(*NEW)
    (tmp_path / "text").write_text(
        "the witness of [E1] zzz .\nzzz zzz amrozi\n\nthe per-share\na .\n"
    )
    given = [f"--add_tokens={path}", f"--vocab_file={base / 'vocab.txt'}"]
    said = call(
        create_pretraining_data, *given, f"--input_file={tmp_path / 'text'}", "--dupe_factor=3",
        "--max_seq_length=24", f"--output_file={tmp_path / 'x.instances'}",
    ).ok().out  # fmt: skip
    assert f"--add_tokens {path}: 2 filled [unused] entries, 3 new rows" in said
    size = len(load_vocab(base / "vocab.txt"))
    file = InstanceFile(tmp_path / "x.instances")
    ids = np.concatenate([row["input_ids"] for row in file])
    assert file.vocab_size == size + 3 and {21, size, size + 2} <= set(ids.tolist())

    training = ["--do_train", "--max_seq_length=24", "--train_batch_size=4", "--num_train_steps=2",
                "--num_warmup_steps=0", f"--input_file={tmp_path / 'x.instances'}"]  # fmt: skip
    out = tmp_path / "out"
    start = f"--init_checkpoint={base / 'pytorch_model.bin'}"
    call(run_pretraining, *training, *given, start, f"--output_dir={out}").ok()
    state = torch.load(out / "pytorch_model.bin", weights_only=True)
    assert len(state["cls.predictions.bias"]) == size + 3
    assert len(state["bert.embeddings.word_embeddings.weight"]) == size + 3
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertForPreTraining.from_pretrained(out)
    ours = BertForPreTraining(BertConfig.from_json_file(out / "bert_config.json"))
    assert load_weights(ours, out) == ([], [])
    inputs = torch.tensor([[2, 20, size + 2, 3]])
    ours = ours.eval()(inputs)[0]
    assert torch.allclose(ours, theirs.eval()(inputs).prediction_logits, atol=1e-5)

    # Without the words the instances are another vocabulary's; from the folder they suit.
    outcome = call(run_pretraining, *training, given[1], start, f"--output_dir={tmp_path / 'no'}")
    assert outcome.status == 2 and f"made with a vocabulary of {size + 3} entries" in outcome.err
    call(
        run_pretraining, *training, f"--init_checkpoint={out}", f"--output_dir={tmp_path / 'more'}"
    ).ok()


# --- files beside a vocabulary -------------------------------------------------------------------


def test_instances_follow_the_files_beside_the_vocabulary(base, tmp_path, call):
    """Casing and what stays whole, as runs from a folder do."""
    folder = shutil.copytree(base, tmp_path / "folder")
    values = {"do_lower_case": False, "added_tokens_decoder": {
        "20": {"content": "[E1]", "special": True}}}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    (tmp_path / "text").write_text("the The [E1]\n\nthe a[E1]\n")
    args = types.SimpleNamespace(
        vocab_file=str(folder / "vocab.txt"), do_lower_case=True, strip_accents=True,
        never_split=None, add_tokens=None,
    )  # fmt: skip
    create_pretraining_data.choose_tokenizer(args)
    assert args.do_lower_case is False
    tokenizer = FullTokenizer(*args.tokenizer)
    assert tokenizer.tokenize("the The[E1]") == ["the", "[UNK]", "[E1]"]
    given = [f"--input_file={tmp_path / 'text'}", "--max_seq_length=24",
             f"--vocab_file={folder / 'vocab.txt'}"]  # fmt: skip
    call(create_pretraining_data, *given, f"--output_file={tmp_path / 'x'}").ok()
    row = next(iter(InstanceFile(tmp_path / "x")))
    assert 20 in [*row["input_ids"], *row["masked_lm_ids"]]
    outcome = call(
        create_pretraining_data, *given, "--do_lower_case", f"--output_file={tmp_path / 'y'}"
    )
    assert outcome.status == 2 and not (tmp_path / "y").exists()
    assert outcome.err.endswith("say do_lower_case False, but --do_lower_case is True: leave the "
                                "flag out\n")  # fmt: skip


def test_a_folder_of_added_tokens_trains_and_is_whole(base, mrpc, tmp_path, call):
    """transformers' rows beyond vocab.txt: they are read, and stored where it stores them."""
    folder = shutil.copytree(base, tmp_path / "folder")
    size = len(load_vocab(folder / "vocab.txt"))
    config = json.loads((folder / "bert_config.json").read_text()) | {"vocab_size": size + 1}
    (folder / "bert_config.json").write_text(json.dumps(config))
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    name = "bert.embeddings.word_embeddings.weight"
    state[name] = torch.cat([state[name], torch.ones(1, 24)])
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "added_tokens.json").write_text(json.dumps({"per-share": size}))
    data = shutil.copytree(mrpc, tmp_path / "data")
    text = (data / "train.tsv").read_text("utf-8").replace("the", "per-share")
    (data / "train.tsv").write_text(text, "utf-8")
    call(
        run_classifier, "--task_name=MRPC", f"--data_dir={data}", "--do_train",
        "--max_seq_length=24", "--train_batch_size=4", "--num_train_epochs=1",
        f"--init_checkpoint={folder}", f"--output_dir={tmp_path / 'out'}",
    ).ok()  # fmt: skip
    assert (tmp_path / "out/vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    stored = checkpoint.inspect_folder(tmp_path / "out").added_tokens
    assert stored == (AddedToken("per-share", size, normalized=True),)
    rows = torch.load(tmp_path / "out/pytorch_model.bin", weights_only=True)[name]
    assert not torch.equal(rows[size], torch.ones(24)), "its row was trained"
