"""squad_data.py: features and answers against Google's, and mistakes in users' files."""

import copy
import hashlib
import json
import pickle
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import squad_data
import tokenization
from files import Tally
from squad_data import (
    RawResult,
    SquadExample,
    best_answers,
    convert_examples_to_features,
    find_answer,
    get_final_text,
    read_squad_examples,
    write_predictions,
)

VOCAB = "[PAD] [UNK] [CLS] [SEP] a b c d e f ##a ##b ##c ##d . , ( ) - 1895 1943 who was ?"
WORDS = list("abcdef")


@pytest.fixture(scope="session")
def tokenizers(bert_dir):
    vocab = bert_dir / "vocab.txt"
    return {case: tokenization.FullTokenizer(vocab, case == "lower") for case in ("lower", "cased")}


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text(VOCAB.replace(" ", "\n") + "\n", encoding="utf-8")
    return tokenization.FullTokenizer(path)


def squad(context, *qas):
    """A dataset of one paragraph; each question is a dict, with an id if it has none: q0, q1, …."""
    qas = [{"id": f"q{index}", "question": "who was a?", **qa} for index, qa in enumerate(qas)]
    return {"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}


def answer(text, start):
    return {"answers": [{"text": text, "answer_start": start}]}


def save(tmp_path, dataset):
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(dataset), encoding="utf-8")
    return path


def padded(feature, max_seq_length):
    """The feature as Google's: lists, padded with zeros to `max_seq_length`."""
    fields = dict(vars(feature))
    for name in "input_ids", "input_mask", "segment_ids":
        row = fields[name].tolist()
        assert len(row) == len(feature.tokens)
        fields[name] = row + [0] * (max_seq_length - len(row))
    return SimpleNamespace(**fields)


# Google's features


@pytest.mark.parametrize("mode", ["train", "predict"])
@pytest.mark.parametrize("name", ["train", "dev"])
def test_feature_hashes(name, mode, goldens, golden_tools, squad_dir, tokenizers):
    hashes = golden_tools.load_json_gz(goldens / "squad_feature_hashes_f39e881.json.gz")
    hashes = {key: value for key, value in hashes.items() if key.startswith(f"{name}|{mode}|")}
    assert len(hashes) == 6
    examples = read_squad_examples(squad_dir / f"{name}-v1.1.json", mode == "train")
    for key, expected in hashes.items():
        case, sizes = key.split("|")[2:]
        sizes = [int(size) for size in sizes.split(",")]
        features = convert_examples_to_features(examples, tokenizers[case], *sizes, mode == "train")
        sha256 = hashlib.sha256()
        for feature in features:
            line = golden_tools.canonical(padded(feature, sizes[0])) + "\n"
            sha256.update(line.encode("ascii"))
        assert (len(features), sha256.hexdigest()) == (expected["n"], expected["sha256"]), key


@pytest.mark.parametrize("sizes", ["384_128_64", "64_16_12"])
@pytest.mark.parametrize("mode", ["train_{}_f39e881", "predict_{}_fe35475"])
@pytest.mark.parametrize("file", ["train", "dev"])
def test_feature_rows(file, mode, sizes, goldens, golden_tools, squad_dir, tokenizers):
    # For prediction, both of Google's commits give the same features.
    name = f"squad_features_{file}_{mode.format(sizes)}.json.gz"
    golden = golden_tools.load_json_gz(goldens / name)
    meta = golden["meta"]
    examples = read_squad_examples(squad_dir / meta["file"], meta["is_training"])
    assert [_example_row(example) for example in examples] == golden["examples"]
    sizes = [meta[size] for size in ("max_seq_length", "doc_stride", "max_query_length")]
    tokenizer = tokenizers["lower" if meta["do_lower_case"] else "cased"]
    features = convert_examples_to_features(examples, tokenizer, *sizes, meta["is_training"])
    assert len(features) == len(golden["rows"])
    for feature, row in zip(features, golden["rows"]):
        assert golden_tools.squad_row(padded(feature, sizes[0])) == row
        assert feature.is_impossible is False


def _example_row(example):
    words = len(example.doc_tokens)
    return [example.qas_id, words, example.start_position, example.end_position]


@pytest.mark.parametrize("mode", ["train", "predict"])
def test_nasty_features(mode, goldens, golden_tools, tokenizers):
    golden = golden_tools.load_json_gz(goldens / f"nasty_squad_features_{mode}_f39e881.json.gz")
    path = goldens / f"nasty_squad_{mode}.json"
    lines = []
    examples = read_squad_examples(path, mode == "train", log=lines.append)
    assert [_example_row(example) for example in examples] == golden["examples"]
    skipped = golden["meta"]["skipped_qas_ids"]
    if skipped:
        assert f"skipped {len(skipped)} of {golden['meta']['n_questions']} " in lines[-1]
        shown = squad_data.MAX_SKIPPED_SHOWN
        assert len(lines) == shown + 1
        assert all(qas_id in line for qas_id, line in zip(skipped[:shown], lines))
    for config, rows in golden["configs"].items():
        case, sizes = config.split("|")
        sizes = [int(size) for size in sizes.split(",")]
        features = convert_examples_to_features(examples, tokenizers[case], *sizes, mode == "train")
        assert [golden_tools.squad_row(padded(f, sizes[0])) for f in features] == rows, config


# Google's answers

RUNS = ["dev_lower_384", "dev_lower_64", "dev_cased_384", "nasty_lower_384", "nasty_cased_384"]


@pytest.mark.parametrize("run", RUNS)
def test_predictions(run, goldens, golden_tools, squad_dir, tokenizers, tmp_path):
    golden = golden_tools.load_json_gz(goldens / "squad_predictions_f39e881.json.gz")
    golden = {key: value for key, value in golden.items() if key.startswith(f"{run}|")}
    assert golden

    name, case, _ = run.split("_")
    files = {"dev": squad_dir / "dev-v1.1.json", "nasty": goldens / "nasty_squad_predict.json"}
    examples = read_squad_examples(files[name], is_training=False)
    sizes = next(iter(golden.values()))
    sizes = [sizes[size] for size in ("max_seq_length", "doc_stride", "max_query_length")]
    features = convert_examples_to_features(examples, tokenizers[case], *sizes, False)
    with_features = {examples[feature.example_index].qas_id for feature in features}
    blank = [example.qas_id for example in examples if example.qas_id not in with_features]
    for key, expected in golden.items():
        kind = key.split("|")[1]
        logits = _golden_logits(golden_tools, goldens, run, kind, expected["seed"], len(features))
        paths = [tmp_path / f"{output}.json" for output in ("predictions", "nbest", "null_odds")]
        lines = []
        returned = write_predictions(
            examples,
            features,
            [RawResult(feature.unique_id, *pair) for feature, pair in zip(features, logits)],
            expected["n_best_size"],
            expected["max_answer_length"],
            expected["do_lower_case"],
            *paths,
            version_2_with_negative=expected["version_2_with_negative"],
            null_score_diff_threshold=expected["null_score_diff_threshold"],
            log=lines.append,
        )
        assert len(lines) == (1 if blank else 0)
        predictions = json.loads(paths[0].read_text())
        assert {qas_id: answer.text for qas_id, answer in returned.items()} == predictions
        assert _as_google(paths[0], blank) == expected["predictions_text"], key
        nbest = _as_google(paths[1], blank)
        if expected.get("nbest_text"):
            _assert_same_nbest(json.loads(nbest), json.loads(expected["nbest_text"]))
        elif hashlib.sha256(nbest.encode()).hexdigest() != expected["nbest_sha256"]:
            pytest.fail(f"{key}: the n-best file differs")
        if expected["null_odds_text"] is not None:
            null_odds = json.loads(paths[2].read_text())
            assert null_odds == json.loads(expected["null_odds_text"])


def _golden_logits(golden_tools, goldens, run, kind, seed, num_features):
    seq = int(run.split("_")[2])
    if kind in ("random", "quantized"):
        logits = golden_tools.random_logits(seed, num_features, seq)
        return logits if kind == "random" else np.round(logits * 2) / 2
    gold = np.load(goldens / f"squad_gold_{run}.npz")
    if kind == "peaked":
        return golden_tools.peaked_logits(seed, gold["gold"], seq)
    return golden_tools.peaked_v2_logits(seed, gold["gold"], gold["example_index"], seq)


def _as_google(path, blank):
    """The file's text, with "empty" for the answer "" to a question whose context has no tokens.

    This is the one difference from Google's answers.
    """
    content = json.loads(path.read_text())
    for qas_id in blank:
        if isinstance(content[qas_id], str):
            assert content[qas_id] == ""
            content[qas_id] = "empty"
        else:
            (entry,) = content[qas_id]
            assert entry == {
                "text": "",
                "probability": 1.0,
                "start_logit": 0.0,
                "end_logit": 0.0,
            }
            entry["text"] = "empty"
    text = json.dumps(content, indent=4) + "\n"
    assert blank or text == path.read_text()
    return text


def _assert_same_nbest(nbest, expected):
    assert list(nbest) == list(expected)
    for qas_id, entries in expected.items():
        assert [entry["text"] for entry in nbest[qas_id]] == [entry["text"] for entry in entries]
        for key in "probability", "start_logit", "end_logit":
            ours = [entry[key] for entry in nbest[qas_id]]
            assert ours == pytest.approx([entry[key] for entry in entries], abs=1e-6)


def plain_logits(features, spans):
    """Results whose logits are 5 at each feature's (start, end) in `spans`, and 0 elsewhere."""
    results = []
    for feature, (start, end) in zip(features, spans):
        start_logits, end_logits = np.zeros((2, len(feature.tokens)))
        start_logits[start] = end_logits[end] = 5.0
        results.append(RawResult(feature.unique_id, start_logits, end_logits))
    return results


def predict(tmp_path, examples, features, results, n_best_size=20, **options):
    """Returns [answers, n-best lists, null odds], read from the files; None for an absent file."""
    paths = [tmp_path / f"{name}.json" for name in ("answers", "nbest", "odds")]
    options = {"max_answer_length": 30, "do_lower_case": True, "log": lambda line: None, **options}
    args = options.pop("max_answer_length"), options.pop("do_lower_case")
    write_predictions(examples, features, results, n_best_size, *args, *paths, **options)
    return [json.loads(path.read_text()) if path.exists() else None for path in paths]


def test_unpadded_logits_give_the_answers_of_padded_ones(tmp_path, small_tokenizer):
    examples = [SquadExample("q0", "who?", [*"abc", "(1895-1943).", *"def"])]
    features = convert_examples_to_features(examples, small_tokenizer, 13, 3, 5, False)
    assert len(features) > 2
    rng = np.random.RandomState(3)
    results = [RawResult(f.unique_id, *rng.randn(2, len(f.tokens))) for f in features]
    unpadded = predict(tmp_path, examples, features, results)
    for as_type in np.float64, list:
        low = [
            [as_type(np.pad(x, (0, 13 - len(x)), constant_values=-10000.0)) for x in r[1:]]
            for r in results
        ]
        wide = [RawResult(r.unique_id, *logits) for r, logits in zip(results, low)]
        assert predict(tmp_path, examples, features, wide) == unpadded


def test_padding_is_ranked_too(tmp_path, small_tokenizer):
    """As Google: the n_best_size best positions are taken, even if they are padding."""
    examples = [SquadExample("q0", "who?", ["a", "b"])]
    features = convert_examples_to_features(examples, small_tokenizer, 16, 3, 5, False)
    logits = np.zeros(16)
    logits[-3:] = 1.0
    results = [RawResult(features[0].unique_id, logits, logits)]
    assert predict(tmp_path, examples, features, results, n_best_size=3)[0] == {"q0": "empty"}


def test_results_in_any_order_and_as_float32(tmp_path, small_tokenizer):
    examples = [SquadExample(f"q{i}", "who?", WORDS) for i in range(3)]
    features = convert_examples_to_features(examples, small_tokenizer, 13, 3, 5, False)
    first = 4  # [CLS] who ? [SEP]
    results = plain_logits(features, [(first + i, first + i + 1) for i in range(3)])[::-1]
    answers, nbest, odds = predict(tmp_path, examples, features, results)
    assert answers == {"q0": "a b", "q1": "b c", "q2": "c d"}
    assert odds is None
    assert nbest["q1"][0]["start_logit"] == 5.0
    narrow = [RawResult(i, s.astype(np.float32), e.astype(np.float32)) for i, s, e in results]
    assert predict(tmp_path, examples, features, narrow) == [answers, nbest, odds]


def test_answers_longer_than_the_limit_are_not_candidates(tmp_path, small_tokenizer):
    examples = [SquadExample("q0", "who?", WORDS)]
    features = convert_examples_to_features(examples, small_tokenizer, 13, 3, 5, False)
    results = plain_logits(features, [(4, 8)])
    assert predict(tmp_path, examples, features, results)[0]["q0"] == "a b c d e"
    shorter = predict(tmp_path, examples, features, results, max_answer_length=4)[0]["q0"]
    assert len(shorter.split()) <= 4


def test_version_2_null_answers(tmp_path, small_tokenizer):
    examples = [SquadExample("q0", "who?", WORDS), SquadExample("blank", "who?", [])]
    features = convert_examples_to_features(examples, small_tokenizer, 13, 3, 5, False)
    results = plain_logits(features, [(0, 0)])
    options = {"version_2_with_negative": True}
    answers, nbest, odds = predict(tmp_path, examples, features, results, **options)
    assert answers == {"q0": "", "blank": ""}
    assert odds == {"q0": 10.0, "blank": squad_data.LARGE_SCORE}
    assert nbest["q0"][0]["text"] == "" and nbest["q0"][1]["text"] != ""
    answers = predict(
        tmp_path, examples, features, results, null_score_diff_threshold=10.0, **options
    )[0]
    assert answers["q0"] != ""

    # A window without any candidate, for which Google's code raises AttributeError.
    options["max_answer_length"], options["n_best_size"] = 1, 1
    results = plain_logits(features, [(5, 4)])
    answers, nbest, odds = predict(tmp_path, examples, features, results, **options)
    assert answers["q0"] == "" and odds["q0"] == squad_data.LARGE_SCORE
    assert [entry["text"] for entry in nbest["q0"]] == [""]


def test_version_2_can_list_one_more(tmp_path, small_tokenizer):
    """As Google: the null answer is added to the n_best_size best ones."""
    examples = [SquadExample("q0", "who?", WORDS)]
    features = convert_examples_to_features(examples, small_tokenizer, 13, 3, 5, False)
    start_logits, end_logits = np.zeros((2, len(features[0].tokens)))
    start_logits[4:8] = end_logits[4:8] = 3.0
    results = [RawResult(features[0].unique_id, start_logits, end_logits)]
    options = {"version_2_with_negative": True, "n_best_size": 4}
    nbest = predict(tmp_path, examples, features, results, **options)[1]["q0"]
    assert len(nbest) == 5 and nbest[-1]["text"] == ""


def test_missing_or_short_results(tmp_path, small_tokenizer):
    examples = [SquadExample("q0", "who?", ["a", "b"])]
    features = convert_examples_to_features(examples, small_tokenizer, 13, 3, 5, False)
    for results, found in ([], "0 logits"), ([RawResult(features[0].unique_id, [0], [0])], "1 log"):
        with pytest.raises(ValueError, match=f"{found}.* 7 tokens of feature 1000000000"):
            predict(tmp_path, examples, features, results)
    with pytest.raises(ValueError, match="--n_best_size 0"):
        predict(tmp_path, examples, features, results, n_best_size=0)
    assert not list(tmp_path.iterdir())


# get_final_text


@pytest.mark.parametrize(
    "pred_text, orig_text, lower, expected",
    [
        ("steve smith", "Steve Smith's", True, "Steve Smith"),
        ("steve smith ' s", "Steve Smith's", True, "Steve Smith's"),
        ("1895", "(1895-1943).", True, "1895"),
        ("steve", "Steve", False, "Steve"),  # not found: case is kept
        ("cafe", "the Caf\u00e9,", True, "Caf\u00e9"),
        ("cafe", "the Cafe\u0301,", True, "the Cafe\u0301,"),  # lengths differ
        ("", "Steve Smith", True, "Steve Smith"),
        ("smith ", "Steve Smith", True, "Steve Smith"),
        ("steve ", "Steve Smith", True, "Steve Smith"),
        ("\u4e00", "a\u4e00\u4e01", True, "\u4e00"),
        ("a", "\u200b", True, "\u200b"),
    ],
)
def test_get_final_text(pred_text, orig_text, lower, expected):
    assert get_final_text(pred_text, orig_text, lower) == expected


def test_get_final_text_strips_accents_like_the_tokenizer():
    for pred_text, strip_accents in (("cafe", None), ("cafe", True), ("café", False)):
        assert get_final_text(pred_text, "(Café)", True, strip_accents=strip_accents) == "Café"
        other = not (strip_accents is None or strip_accents)
        assert get_final_text(pred_text, "(Café)", True, strip_accents=other) == "(Café)"


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "😀.", "é+"]),
                          st.sampled_from([" ", "  ", "\t", "\n \u202f"])), min_size=1, max_size=9),
       st.data())  # fmt: skip
def test_find_answer(words, data):
    """Even if the words occur earlier too, and if the paragraph has other white space."""
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    text = " ".join(word for word, _ in words[first : last + 1])
    context = "\t" + "".join(word + space for word, space in words)
    start = 1 + sum(len(word + space) for word, space in words[:first])
    assert squad_data.find_answer(context, squad_data.Answer(text, first, [], None)) == start
    inside = squad_data.Answer(text[-1:], last, [], None)
    word = words[last][0]
    place = 1 + sum(len(word + space) for word, space in words[:last]) + word.index(text[-1:])
    assert squad_data.find_answer(context, inside) == place
    assert squad_data.find_answer(context, squad_data.Answer("empty", None, [], None)) is None


def test_get_final_text_prints_the_reason(capsys):
    for pred_text in "x", "steve ":
        get_final_text(pred_text, "Steve Smith", True)
        assert capsys.readouterr().out == ""
        get_final_text(pred_text, "Steve Smith", True, verbose_logging=True)
        assert "'Steve Smith'" in capsys.readouterr().out


def aligned_text(pred_text, orig_text, do_lower_case):
    """`get_final_text` in a slow way: matches the texts' characters other than spaces by index."""
    tokens = tokenization.BasicTokenizer(do_lower_case).tokenize(orig_text)
    tok_text = " ".join(tokens)
    first = tok_text.find(pred_text)
    last = first + len(pred_text) - 1
    in_tok = [index for index, char in enumerate(tok_text) if char != " "]
    in_orig = [index for index, char in enumerate(orig_text) if char != " "]
    if first < 0 or len(in_tok) != len(in_orig) or first not in in_tok or last not in in_tok:
        return orig_text
    return orig_text[in_orig[in_tok.index(first)] : in_orig[in_tok.index(last)] + 1]


@given(
    st.lists(
        st.text("aBc.,-'\u00e9\u0301\u4e00\u00a0\x85\u2028\u0130\u200b", max_size=5), max_size=5
    ),
    st.data(),
    st.booleans(),
)
@settings(deadline=None)
def test_get_final_text_is_the_alignment(words, data, lower):
    orig_text = " ".join(words)
    tok_text = " ".join(tokenization.BasicTokenizer(lower).tokenize(orig_text))
    start = data.draw(st.integers(0, len(tok_text)))
    pred_text = tok_text[start : data.draw(st.integers(start, len(tok_text)))]
    assert get_final_text(pred_text, orig_text, lower) == aligned_text(pred_text, orig_text, lower)


# Windows


def naive_max_context(spans, position):
    """The index of the window with the most context, as by Google's `_check_is_max_context`."""
    scores = {}
    for index, (start, length) in enumerate(spans):
        end = start + length - 1
        if start <= position <= end:
            scores[index] = min(position - start, end - position) + 0.01 * length
    return max(scores, key=scores.get)  # the first wins a tie


def test_max_context_is_the_definition():
    rng = random.Random(5)
    for _ in range(150):
        num_tokens, size, stride = rng.randint(1, 90), rng.randint(1, 40), rng.randint(1, 45)
        spans = squad_data._doc_spans(num_tokens, size, stride)
        for index, flags in enumerate(squad_data._max_context(spans, num_tokens)):
            start, length = spans[index]
            best = [naive_max_context(spans, start + offset) for offset in range(length)]
            assert flags == [other == index for other in best], (num_tokens, size, stride)


def test_improve_answer_span_is_the_definition():
    rng = random.Random(7)
    for _ in range(300):
        tokens = rng.choices("ab", k=rng.randint(0, 8))
        start = rng.randint(0, 8)
        end = rng.randint(-1, len(tokens) - 1)
        wanted = rng.choices("ab", k=rng.randint(0, 3))
        expected = start, end
        for first in range(end, start - 1, -1):
            for last in range(first, end + 1):
                if " ".join(tokens[first : last + 1]) == " ".join(wanted):
                    expected = first, last
        assert squad_data._improve_answer_span(tokens, start, end, wanted) == expected


def test_features_of_a_small_text(tmp_path, small_tokenizer):
    context = "abc d (1895-1943). e f"
    path = save(tmp_path, squad(context, answer("1895", context.index("1895"))))
    examples = read_squad_examples(path, is_training=True)
    features = convert_examples_to_features(examples, small_tokenizer, 12, 2, 3, True)
    first, second = features[:2]
    assert " ".join(first.tokens) == "[CLS] who was a [SEP] a ##b ##c d ( 1895 [SEP]"
    assert " ".join(second.tokens) == "[CLS] who was a [SEP] ##c d ( 1895 - 1943 [SEP]"
    assert (first.start_position, first.end_position) == (10, 10)
    assert (second.start_position, second.end_position) == (8, 8)
    assert " ".join(features[-1].tokens[5:-1]) == "- 1943 ) . e f"
    assert (features[-1].start_position, features[-1].end_position) == (0, 0)
    assert first.input_ids.tolist() == small_tokenizer.convert_tokens_to_ids(first.tokens)
    assert first.input_mask.tolist() == [1] * 12
    assert first.segment_ids.tolist() == [0] * 5 + [1] * 7
    assert [feature.unique_id for feature in features] == list(
        range(1000000000, 1000000000 + len(features))
    )
    assert [feature.doc_span_index for feature in features] == list(range(len(features)))

    # The maps behave like dicts.
    assert dict(second.token_to_orig_map) == {5: 0, 6: 1, 7: 2, 8: 2, 9: 2, 10: 2}
    assert 4 not in second.token_to_orig_map and 11 not in second.token_to_orig_map
    assert sorted(second.token_is_max_context) == list(range(5, 11))
    assert second.token_is_max_context.get(11, False) is False
    for missing in 4, 11, -1:
        with pytest.raises(KeyError):
            second.token_to_orig_map[missing]
    again = pickle.loads(pickle.dumps(second))
    assert again.token_to_orig_map == second.token_to_orig_map
    assert copy.copy(second).tokens is second.tokens


def test_a_paragraph_is_tokenized_once(small_tokenizer, monkeypatch):
    """Whatever the order of its questions; and its features share their arrays."""
    first, second = list("abc"), list("abc")
    examples = [SquadExample(str(i), "who?", (first, second)[i % 2]) for i in range(6)]
    tokenized = []
    document = squad_data._Document

    def counting(doc_tokens, *args):
        tokenized.append(doc_tokens)
        return document(doc_tokens, *args)

    monkeypatch.setattr(squad_data, "_Document", counting)
    features = convert_examples_to_features(examples, small_tokenizer, 20, 3, 5, False)
    assert len(features) == 6
    assert [id(doc_tokens) for doc_tokens in tokenized] == [id(first), id(second)]
    for name in "input_mask", "segment_ids":
        assert getattr(features[0], name).base is getattr(features[5], name).base
        assert not getattr(features[0], name).flags.writeable


def test_long_context_takes_linear_time(tmp_path, small_tokenizer):
    """100,000 words: Google's search for the window with the most context takes minutes."""
    words = ["abc", "d", "1895"] * 34000
    path = save(tmp_path, squad(" ".join(words), answer("1895", 6), {**answer("abc", 0)}))
    began = time.perf_counter()
    examples = read_squad_examples(path, is_training=True)
    features = convert_examples_to_features(examples, small_tokenizer, 384, 128, 64, True)
    assert time.perf_counter() - began < 10
    assert len(features) == 2 * (1 + -(-(5 * 34000 - 376) // 128))
    assert sum(map(sum, (f.token_is_max_context.values() for f in features))) == 2 * 5 * 34000


def question(name, start=24, **fields):
    answers = [{"text": "It closed", "answer_start": start}]
    return {"id": name, "question": "What then?", "answers": answers, **fields}


def dataset_of(*questions):
    context = "The mill opened in 1871.It closed in 1932."
    return {"data": [{"paragraphs": [{"context": context, "qas": list(questions)}]}]}


def test_questions_of_two_datasets_in_one_file():
    """Where only some questions say if they are impossible, the others have an answer."""
    both = dataset_of(question("a"), question("b", answers=[], is_impossible=True))
    examples = read_squad_examples("both.json", True, True, dataset=both)
    assert [example.is_impossible for example in examples] == [False, True]
    with pytest.raises(ValueError, match='b.*exactly 1 answer.*it needs "is_impossible": true'):
        bare = dataset_of(question("a", is_impossible=False), question("b", answers=[]))
        read_squad_examples("bare.json", True, True, dataset=bare)


def test_whole_numbers_with_a_point():
    """As pandas writes a column in which a value is missing."""
    examples = [
        read_squad_examples("x.json", True, dataset=dataset_of(question("a", start)))[0]
        for start in (24, 24.0)
    ]
    assert examples[0] == examples[1] and examples[0].orig_answer_text == "It closed"
    for start in (24.5, True, float("nan")):
        with pytest.raises(ValueError, match='"answer_start" is not a whole number'):
            read_squad_examples("x.json", True, dataset=dataset_of(question("a", start)))


def test_a_file_of_lines_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"id": "a"}\n{"id": "b"}\n')
    with pytest.raises(ValueError, match="x.json is not JSON in UTF-8: it has an object per line"):
        read_squad_examples(tmp_path / "x.json", True)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ((20, 0, 5), "--doc_stride 0 "),
        ((20, -3, 5), "--doc_stride -3 "),
        ((6, 3, 5), "--max_seq_length 6 .* 4 tokens of question 'q0'"),
        ((0, 3, 5), "--max_seq_length 0 "),
        ((-5, 3, 5), "--max_seq_length -5 "),
    ],
)
def test_impossible_sizes(small_tokenizer, sizes, message):
    examples = [SquadExample("q0", "who was a?", ["a", "b"])]
    with pytest.raises(ValueError, match=message) as error:
        convert_examples_to_features(examples, small_tokenizer, *sizes, False)
    assert "\n" not in str(error.value)
    assert len(convert_examples_to_features(examples, small_tokenizer, 8, 3, 5, False)) == 2


# The reader


def test_words_end_where_googles_do(tmp_path):
    context = " \u202fa\u00a0b\tc\r\n\u2003d\x0be  f\x00\u2028g "
    path = save(tmp_path, squad(context, {"answers": []}))
    (example,) = read_squad_examples(path, is_training=False)
    assert example.doc_tokens == ["a\u00a0b", "c", "\u2003d\x0be", "f\x00\u2028g"]
    assert example.start_position is None and example.orig_answer_text is None


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "dos.json"
    text = json.dumps(squad("a\r\nb", answer("b", 3)), indent=1).replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    (example,) = read_squad_examples(path, is_training=True)
    assert (example.doc_tokens, example.start_position) == (["a", "b"], 1)


def test_skipped_questions_are_reported(tmp_path):
    dataset = squad(
        "alpha beta gamma",
        answer("beta", 6),
        answer("beta", 12),  # another word is there
        answer("gamma", 11 + 10),  # begins beyond the context
        answer("gamma", 12),  # ends beyond it
        answer("beta", 10**30),
        answer("gamma", 11),
    )
    dataset["data"][0]["paragraphs"] += [
        {"context": context, "qas": [{"id": f"x{i}", "question": "?", **answer("", 0)}]}
        for i, context in enumerate(["", " \n"])
    ]
    path = save(tmp_path, dataset)
    lines = []
    examples = read_squad_examples(path, is_training=True, log=lines.append)
    assert [(e.qas_id, e.start_position, e.end_position) for e in examples] == [
        ("q0", 1, 1),
        ("q5", 2, 2),
    ]
    assert "'q1'" in lines[0] and "Could not find answer: 'gamma' vs. 'beta'" in lines[0]
    assert "'q2'" in lines[1] and "at 21 lies beyond the context's 16 characters" in lines[1]
    assert [line.split(": ")[0] == str(path) for line in lines] == [True] * 6
    assert lines[-1] == f"{path}: skipped 6 of 8 questions like these"
    assert len(read_squad_examples(path, is_training=False, log=lines.append)) == 8
    assert len(lines) == 6


def test_version_2_training(tmp_path, small_tokenizer):
    path = save(
        tmp_path,
        squad(
            "a b c",
            {"answers": [], "is_impossible": True},
            {**answer("b", 2), "is_impossible": False},
            {**answer("b", 0), "is_impossible": True},  # the plausible answer is ignored
        ),
    )
    examples = read_squad_examples(path, True, version_2_with_negative=True)
    assert [(e.start_position, e.is_impossible) for e in examples] == [
        (-1, True),
        (1, False),
        (-1, True),
    ]
    features = convert_examples_to_features(examples, small_tokenizer, 20, 3, 5, True)
    assert [(f.start_position, f.end_position) for f in features] == [(0, 0), (7, 7), (0, 0)]
    assert [f.is_impossible for f in features] == [True, False, True]


def test_blank_contexts_give_no_features(tmp_path, small_tokenizer):
    for context in "", " \t", "\u200b":
        path = save(tmp_path, squad(context, answer("a", 0)))
        examples = read_squad_examples(path, is_training=False)
        assert convert_examples_to_features(examples, small_tokenizer, 20, 3, 5, False) == []
    # The context has a word, but no tokens: the example is kept, and gives no features.
    path = save(tmp_path, squad("\u200b", answer("\u200b", 0)))
    examples = read_squad_examples(path, is_training=True)
    assert len(examples) == 1
    assert convert_examples_to_features(examples, small_tokenizer, 20, 3, 5, True) == []


ONE = squad("a b", answer("b", 2))


def changed(key, value, dataset=ONE):
    """The dataset with every `key` set to `value`, or removed if `value` is None."""
    if isinstance(dataset, list):
        return [changed(key, value, item) for item in dataset]
    if not isinstance(dataset, dict):
        return dataset
    dataset = {name: changed(key, value, item) for name, item in dataset.items()}
    if key in dataset:
        del dataset[key]
        if value is not None:
            dataset[key] = value
    return dataset


QA = "data[0].paragraphs[0].qas[0]"


@pytest.mark.parametrize(
    "dataset, message",
    [
        ([], 'not an object with "data"'),
        ({"version": "1.1"}, '"data" is missing'),
        ({"data": {}}, '"data" is not a list'),
        ({"data": [7]}, 'data[0]: not an object with "paragraphs"'),
        (changed("paragraphs", None), 'data[0]: "paragraphs" is missing'),
        (changed("context", None), 'data[0].paragraphs[0]: "context" is missing'),
        (changed("context", 5), 'data[0].paragraphs[0]: "context" is not a string'),
        (changed("qas", None), '"qas" is missing'),
        (changed("id", 5.5), f'{QA}: "id" is not a string'),
        (changed("id", True), f'{QA}: "id" is not a string'),
        (changed("question", ["x"]), f"{QA} (id 'q0'): \"question\" is not a string"),
        (changed("answers", None), f"{QA} (id 'q0'): \"answers\" is missing"),
        (changed("answers", []), "(id 'q0'): a question for training must have exactly 1 "),
        (changed("answers", ["b"]), '.answers[0]: not an object with "text"'),
        (changed("text", None), '.answers[0]: "text" is missing'),
        (changed("answer_start", "2"), '"answer_start" is not a whole number'),
        (changed("answer_start", 2.5), '"answer_start" is not a whole number'),
        (changed("answer_start", True), '"answer_start" is not a whole number'),
        (
            squad("a b", {"answers": 2 * answer("b", 2)["answers"]}),
            "exactly 1 answer, this one has 2",
        ),
        (
            squad("a b", {"answers": [], "is_impossible": True}),
            "exactly 1 answer, this one has 0; it is_impossible: pass --version_2_with_negative",
        ),
        (squad("a", {**answer("a", 0), "id": "x"}, {**answer("a", 0), "id": "x"}), "the same id"),
    ],
)
def test_mistakes_in_the_file(tmp_path, dataset, message):
    path = save(tmp_path, dataset)
    with pytest.raises(ValueError) as error:
        read_squad_examples(path, is_training=True)
    text = str(error.value)
    assert message in text
    assert text.startswith(str(path)) and "\n" not in text


def test_mistakes_of_version_2(tmp_path):
    for value, message in (None, "leave out --version_2_with_negative"), (1, "not true or false"):
        dataset = squad("a b", {**answer("b", 2), **({"is_impossible": value} if value else {})})
        with pytest.raises(ValueError, match=message):
            read_squad_examples(save(tmp_path, dataset), True, version_2_with_negative=True)
    assert len(read_squad_examples(save(tmp_path, dataset), True)) == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{}", b"[" * 100000, b"1" * 10000, b"\x80"]
)
def test_not_json(tmp_path, content):
    path = tmp_path / "squad.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_squad_examples(path, is_training=False)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="none.json"):
        read_squad_examples(tmp_path / "none.json", is_training=False)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "paragraphs", "qas", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def mostly(strategy):
    return st.integers(0, 9).flatmap(lambda dice: ANYTHING if dice == 0 else strategy)


def record(**fields):
    """An object with these fields, each usually valid and sometimes missing."""
    whole = st.fixed_dictionaries({name: mostly(value) for name, value in fields.items()})
    partial = st.fixed_dictionaries({}, optional={n: mostly(v) for n, v in fields.items()})
    return whole | whole | whole | partial


TEXT = st.text("ab \n\u202f\u00a0\ud800", max_size=8)
ANSWER = record(text=TEXT, answer_start=st.integers(-3, 9))
QUESTION = record(
    id=st.text(max_size=3),
    question=TEXT,
    answers=st.lists(mostly(ANSWER), max_size=2) | st.lists(ANSWER, min_size=1, max_size=1),
    is_impossible=st.booleans(),
)
PARAGRAPH = record(context=TEXT, qas=st.lists(mostly(QUESTION), max_size=3))
SQUAD = record(
    data=st.lists(record(paragraphs=st.lists(mostly(PARAGRAPH), max_size=3)), max_size=2)
)


@given(mostly(SQUAD), st.booleans(), st.booleans())
@settings(
    deadline=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_wrong_files_raise_only_value_errors(
    tmp_path, small_tokenizer, dataset, is_training, version_2
):
    path = save(tmp_path, dataset)
    lines = []
    try:
        examples = read_squad_examples(path, is_training, version_2, log=lines.append)
    except ValueError as error:
        assert str(error).startswith(str(path)) and "\n" not in str(error)
        return
    assert all("\n" not in line for line in lines)
    # What the reader returns can be used.
    features = convert_examples_to_features(examples, small_tokenizer, 9, 1, 2, is_training)
    for feature in features:
        assert (feature.start_position is not None) == is_training


# --- ids that are numbers; texts without spaces ---------------------------------------------------


def test_whole_numbers_as_ids(tmp_path):
    dataset = squad("a b", {**answer("b", 2), "id": 262}, {**answer("a", 0), "id": "263"})
    examples = read_squad_examples(save(tmp_path, dataset), True)
    assert [example.qas_id for example in examples] == ["262", "263"]
    dataset = squad("a b", {**answer("b", 2), "id": 262}, {**answer("a", 0), "id": "262"})
    with pytest.raises(ValueError, match="the same id as "):
        read_squad_examples(save(tmp_path, dataset), True)


def learned(example, feature):
    tokens = feature.tokens[feature.start_position : feature.end_position + 1]
    return " ".join(tokens)


@pytest.mark.parametrize(("context", "text", "start"), [
    ("a.b.a", "a", 4), ("a.\u200bb.a", "a", 5), ("(a.b.a)", "a", 5),
])  # fmt: skip
def test_the_answer_at_its_place_is_learned(context, text, start, small_tokenizer, tmp_path):
    path = save(tmp_path, squad(context, answer(text, start)))
    found = {}
    for align in (False, True):
        tally = Tally("questions")
        examples = read_squad_examples(path, True, tally=tally, align_answers=align)
        sizes = 24, 8, 5
        (feature,) = convert_examples_to_features(
            examples, small_tokenizer, *sizes, True, align, tally
        )
        found[align] = feature.start_position - feature.tokens.index("[SEP]") - 1
        assert ("answers learned at other tokens" in str(tally)) == (not align)
    visible = context[:start].replace("\u200b", "").replace(" ", "")
    assert found[True] == len(visible) > found[False]


def test_a_character_that_the_tokenizer_drops_does_no_harm(small_tokenizer, tmp_path):
    """The context has a zero-width space in the answer, which the answer's text lacks."""
    context = "a.b\u200b.c.d"
    path = save(tmp_path, squad(context, answer("b.c", 2)))
    lines = []
    assert read_squad_examples(path, True, log=lines.append) == []
    examples = read_squad_examples(path, True, align_answers=True)
    (feature,) = convert_examples_to_features(examples, small_tokenizer, 24, 8, 5, True, True)
    assert learned(examples[0], feature) == "b . c"


@pytest.mark.parametrize(
    ("context", "tokens", "aligned", "google"),
    [
        ("a\u200b.b.c", ("b",), "b", "a\u200b.b.c"),  # Google's gives the whole word
        ("a.b.a", (4,), "a", "a"),
        ("e\u0301.b e\u0301d", ("b",), "b", "e\u0301.b"),
        ("e\u0301.b c", (0,), "e\u0301", "e\u0301.b"),
        ("a b.c", ("b",), "b", "b"),
    ],
)
def test_text_by_characters(context, tokens, aligned, google, small_tokenizer, tmp_path):
    path = save(tmp_path, squad(context, {"answers": []}))
    examples = read_squad_examples(path, False)
    features = convert_examples_to_features(examples, small_tokenizer, 24, 8, 5, False)
    (feature,) = features
    first = feature.tokens.index("[SEP]") + 1
    (token,) = tokens
    position = feature.tokens.index(token, first) if isinstance(token, str) else first + token
    logits = np.zeros(len(feature.tokens))
    logits[position] = 9
    results = [RawResult(feature.unique_id, logits, logits)]
    for align_with, wanted in ((None, google), (small_tokenizer, aligned)):
        options = {"do_lower_case": True, "align_with": align_with}
        found = best_answers(examples, features, results, 1, 3, **options)["q0"]
        assert found.text == wanted
        assert found.is_widened == (wanted == google != aligned)
        begin = find_answer(context, found)
        assert context[begin:].startswith(found.text)
        if align_with:
            assert begin == context.index(aligned, 4 if token == 4 else 0)


def test_queries_that_were_cut_are_counted(small_tokenizer, tmp_path):
    dataset = squad("a b", {**answer("b", 2), "question": "who was a a a?"}, answer("a", 0))
    tally = Tally("questions")
    examples = read_squad_examples(save(tmp_path, dataset), True, tally=tally)
    convert_examples_to_features(examples, small_tokenizer, 24, 8, 4, True, tally=tally)
    assert str(tally) == (
        "questions read 2, used 2, skipped 0, cut 1 (the longest has 6 WordPieces)"
    )
