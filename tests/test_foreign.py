"""Models of other libraries and older times: configurations, tokenizers, labels, wrapped weights.

Each is read as it is meant, or refused by the name of what is not supported. What is written means
the same in transformers.
"""

import dataclasses
import json
import re
import types

import numpy as np
import pytest
import torch
from helpers import TINY, model_flags, roundings
from safetensors.torch import save_file

import checkpoint
import configuration
import convert_tf_checkpoint_to_pytorch as to_pytorch
import extract_features
import predict
import run_classifier
from configuration import BertConfig
from convert_pytorch_checkpoint_to_tf import convert_pytorch_checkpoint_to_tf
from modeling import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    get_activation,
    load_weights,
)
from tf_checkpoint import write_checkpoint
from tokenization import AddedToken, load_vocab
from training import Runtime, load_initial_weights
from weights import read_state_dict, write_safetensors

RUNTIME = Runtime(torch.device("cpu"))


def new(kind, config, *arguments, seed=1):
    """A model all of whose parameters are random."""
    torch.manual_seed(seed)
    model = kind(config, *arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def inputs(config):
    ids = torch.randint(5, config.vocab_size, (2, 11), generator=torch.Generator().manual_seed(3))
    segments = (torch.arange(11) > 5).long().expand(2, 11)
    return ids, segments, torch.ones_like(ids)


@torch.no_grad()
def logits(model, config):
    """All that one of our models computes for some tokens, as one vector."""
    found = model(*inputs(config))
    found = found if isinstance(found, tuple) else (found,)
    return torch.cat([tensor.flatten() for tensor in found])


@torch.no_grad()
def their_logits(model, config):
    names = ("input_ids", "token_type_ids", "attention_mask")
    found = model.eval()(**dict(zip(names, inputs(config)))).to_tuple()
    return torch.cat([tensor.flatten() for tensor in found])


# --- configurations ------------------------------------------------------------------------------


def test_every_key_of_transformers_has_a_row():
    """A key that a later version adds fails here until it is decided what it means."""
    transformers = pytest.importorskip("transformers")
    theirs = {field.name for field in dataclasses.fields(transformers.BertConfig)}
    theirs |= {field.name for field in dataclasses.fields(transformers.PreTrainedConfig)}
    theirs |= transformers.BertConfig().to_dict().keys()
    # What the constructor takes beside its fields.
    theirs |= {"num_labels", "torch_dtype", "name_or_path", "per_layer_config",
               "attn_implementation", "tie_last_hidden_states"}  # fmt: skip
    own = {field.name for field in dataclasses.fields(BertConfig)} - {"extra"}
    tables = (own, configuration.REFUSED.keys(), configuration.DESCRIPTIVE, configuration.HARMLESS)
    assert not theirs - set().union(*tables)
    assert sum(map(len, tables)) == len(set().union(*tables)), "a key is in two tables"


@pytest.mark.parametrize(
    "key, value",
    [
        ("model_type", "roberta"), ("is_decoder", True), ("add_cross_attention", True),
        ("is_encoder_decoder", True), ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "relative_key_query"), ("position_embedding_type", "alibi"),
        ("pruned_heads", {"0": [1]}), ("per_layer_config", {"0": {"hidden_act": "relu"}}),
        ("quantization_config", {"load_in_8bit": True}), ("embedding_size", 12),
        ("auto_map", {"AutoModel": "modeling.Model"}), ("hidden_act", "silu"),
        ("layer_norm_eps", -1.0), ("layer_norm_eps", "1e-5"), ("classifier_dropout", 2),
    ],
)  # fmt: skip
def test_keys_that_change_the_function_are_refused_by_name(tmp_path, tiny_model, key, value, call):
    content = json.loads((tiny_model / "bert_config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**content, key: value}), "utf-8")
    (tmp_path / "texts").write_text("a\n")
    outcome = call(
        extract_features, f"--input_file={tmp_path / 'texts'}", *model_flags(tiny_model),
        f"--bert_config_file={tmp_path / 'config.json'}", f"--output_file={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert f"{tmp_path}/config.json is not a BERT configuration: " in outcome.err
    assert (key in outcome.err or "unknown activation" in outcome.err) and str(value) in outcome.err


def test_values_that_change_nothing_are_read():
    neutral = {"is_decoder": False, "position_embedding_type": "absolute", "pruned_heads": {},
               "model_type": "bert", "add_cross_attention": None, "chunk_size_feed_forward": 4,
               "use_cache": True, "pad_token_id": 3, "auto_map": {}}  # fmt: skip
    config = BertConfig.from_dict({**TINY, "vocab_size": 9, **neutral})
    assert config.hidden_size == TINY["hidden_size"]
    assert config.extra == {"chunk_size_feed_forward": 4, "use_cache": True, "pad_token_id": 3}


def test_what_describes_the_old_model_is_not_carried_on():
    old = {
        "num_labels": 7, "dtype": "float16", "torch_dtype": "float16", "label2id": {"x": 0},
        "problem_type": "multi_label_classification", "id2label": {"0": "x"},
        "architectures": ["BertForMaskedLM"], "_name_or_path": "a/b",
        "transformers_version": "4.1", "finetuning_task": "mrpc", "directionality": "bidi",
    }  # fmt: skip
    config = BertConfig.from_dict({**TINY, "vocab_size": 9, **old})
    plain = BertConfig(**TINY, vocab_size=9)
    assert config.to_dict() == {**plain.to_dict(), "directionality": "bidi"}


def test_the_oldest_configurations():
    assert BertConfig.from_dict({"vocab_size_or_config_json_file": 9, **TINY}).vocab_size == 9
    transformers_own = BertConfig.from_dict({"model_type": "bert", "hidden_size": 24,
                                             "num_attention_heads": 3})  # fmt: skip
    assert transformers_own.vocab_size == 30522 and transformers_own.type_vocab_size == 2
    assert BertConfig.from_dict({"vocab_size": 9}).type_vocab_size == 16  # Google's


@pytest.mark.parametrize("name", configuration.SAME_ACTIVATIONS)
def test_other_names_of_the_same_activation(name):
    activations = pytest.importorskip("transformers.activations").ACT2FN
    x = torch.linspace(-8, 8, 999)
    config = BertConfig.from_dict({**TINY, "vocab_size": 9, "hidden_act": name})
    assert roundings(get_activation(config.hidden_act)(x), activations[name](x)) < 16


def test_weights_without_deviation():
    model = BertForSequenceClassification(BertConfig(**TINY, vocab_size=9, initializer_range=0.0))
    assert not any(weight.any() for name, weight in model.named_parameters() if "Norm" not in name)


def test_googles_file_stays_googles():
    """Keys that Google's code does not know are written only where they say something."""
    plain = BertConfig(**TINY, vocab_size=9).to_dict()
    assert not plain.keys() & configuration.NOT_GOOGLES.keys()
    other = BertConfig(**TINY, vocab_size=9, layer_norm_eps=1e-5, classifier_dropout=0.3)
    assert BertConfig.from_dict(other.to_dict()) == other
    assert other.to_dict()["layer_norm_eps"] == 1e-5


def test_dropout_of_a_classifier():
    config = BertConfig(**TINY, vocab_size=9, classifier_dropout=0.3)
    assert BertForSequenceClassification(config).dropout_prob == 0.3
    config.classifier_dropout = None
    assert BertForSequenceClassification(config).dropout_prob == config.hidden_dropout_prob


# --- there and back: transformers' models --------------------------------------------------------


def save(folder, model, config, tiny_model, **facts):
    folder.mkdir(exist_ok=True)
    args = types.SimpleNamespace(
        output_dir=str(folder), vocab_file=str(tiny_model / "vocab.txt"), do_lower_case=True,
        strip_accents=True, never_split=None, save_safetensors=False, keep_checkpoints=1,
    )  # fmt: skip
    checkpoint.save_model(args, RUNTIME, model, config, **facts)


FIVE = ["one star", "two", "three", "four", "five, the best"]
KINDS = {
    "two classes": (BertForSequenceClassification, (2,), {"labels": ["no", "yes"]}),
    "five classes": (BertForSequenceClassification, (5,), {"labels": FIVE}),
    "regression": (BertForSequenceClassification, (1,), {"labels": []}),
    "questions": (BertForQuestionAnswering, (), {}),
    "tags": (
        BertForTokenClassification,
        (3,),
        {"labels": ["O", "B-PER", "I-PER"], "task": "tagging"},
    ),
    "pretraining": (BertForPreTraining, (), {}),
}


@pytest.mark.parametrize("epsilon", [1e-12, 1e-5])
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path, tiny_model, kind, epsilon):
    """Our folder -> transformers -> our folder: the same logits, labels by name, in float32."""
    transformers = pytest.importorskip("transformers")
    values = json.loads((tiny_model / "bert_config.json").read_text("utf-8"))
    # As if read from a folder of transformers whose model was another one.
    old = {"num_labels": 7, "dtype": "float16", "problem_type": "multi_label_classification",
           "id2label": {"0": "a", "1": "b", "2": "c"}, "tie_word_embeddings": True}  # fmt: skip
    config = BertConfig.from_dict({**values, **old, "layer_norm_eps": epsilon})
    model_class, arguments, facts = KINDS[kind]
    model = new(model_class, config, *arguments)
    save(tmp_path / "ours", model, config, tiny_model, **facts)

    theirs = getattr(transformers, model_class.__name__).from_pretrained(tmp_path / "ours")
    assert theirs.dtype == torch.float32
    assert roundings(logits(model, config), their_logits(theirs, config)) < 64
    labels = facts.get("labels")
    if labels:
        assert theirs.config.id2label == dict(enumerate(labels))
        assert theirs.config.label2id == {label: number for number, label in enumerate(labels)}
        problem = None if kind == "tags" else "single_label_classification"
        assert theirs.config.problem_type == problem
    elif labels == []:
        assert theirs.num_labels == 1 and theirs.config.problem_type == "regression"

    theirs.save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(
        tmp_path / "theirs"
    )
    folder = checkpoint.inspect_folder(tmp_path / "theirs")
    assert folder.labels == (labels or None) and folder.casing == {
        "do_lower_case": True, "strip_accents": True
    }  # fmt: skip
    assert load_vocab(folder.vocab_file) == load_vocab(tiny_model / "vocab.txt")
    again = BertConfig.from_json_file(folder.config_file)
    assert again.layer_norm_eps == epsilon
    back = new(model_class, again, *arguments, seed=2)
    unfilled, unused = load_weights(back, folder.source)
    without_pooler = kind in ("questions", "tags")  # there
    assert unused == [] and (without_pooler or unfilled == [])
    if kind == "tags":
        assert folder.task == "tagging"
    assert torch.equal(logits(back, config), logits(model, config))


def test_masked_words_there_and_back(tmp_path, tiny_model, config):
    """transformers' masked-LM model has no pooler, and no other library's need one of it."""
    transformers = pytest.importorskip("transformers")
    model = new(BertForPreTraining, config)
    save(tmp_path / "ours", model, config, tiny_model)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "ours")
    ours, _ = model(*inputs(config))
    assert roundings(ours.flatten(), their_logits(theirs, config)) < 64
    theirs.save_pretrained(tmp_path / "theirs")
    assert checkpoint.inspect_folder(tmp_path / "theirs").task == "masked words"
    back = new(BertForPreTraining, config, seed=2)
    unfilled, unused = load_weights(back, tmp_path / "theirs")
    assert all("pooler" in name or "seq_relationship" in name for name in unfilled) and not unused
    assert torch.equal(back(*inputs(config))[0], ours)


def test_an_encoder_without_pooler_gives_features(tmp_path, tiny_model, config, call):
    """extract_features.py and the converter read it: nothing there needs a pooler."""
    transformers = pytest.importorskip("transformers")
    save(tmp_path / "ours", new(BertForPreTraining, config), config, tiny_model)
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    convert_pytorch_checkpoint_to_tf(
        str(tmp_path / "theirs"), str(tmp_path / "theirs/config.json"), str(tmp_path / "tf/a.ckpt")
    )
    (tmp_path / "texts").write_text("a text\n")
    given = [f"--vocab_file={tiny_model / 'vocab.txt'}", f"--input_file={tmp_path / 'texts'}"]
    config_file = f"--bert_config_file={tmp_path / 'ours/bert_config.json'}"
    for name in ("ours", "theirs", "tf/a.ckpt"):
        call(
            extract_features, *given, config_file, f"--init_checkpoint={tmp_path / name}",
            "--layers=-1", "--max_seq_length=24", f"--output_file={tmp_path / name}.jsonl",
        ).ok()  # fmt: skip
    content = (tmp_path / "ours.jsonl").read_bytes()
    assert content == (tmp_path / "theirs.jsonl").read_bytes()
    assert content == (tmp_path / "tf/a.ckpt.jsonl").read_bytes()
    with pytest.raises(ValueError, match="pooler.dense.bias is missing"):
        load_weights(BertModel(config), tmp_path / "theirs")  # Its user reads the pooled output.


# --- labels --------------------------------------------------------------------------------------


def classifier_folder(folder, tiny_model, config, id2label, **more):
    """A folder as transformers writes it, whose classifier has an output for each label."""
    model = new(BertForSequenceClassification, config, len(id2label))
    folder.mkdir(exist_ok=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    values = {**config.to_dict(), "model_type": "bert", "id2label": id2label,
              "architectures": ["BertForSequenceClassification"]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    (folder / "vocab.txt").write_bytes((tiny_model / "vocab.txt").read_bytes())
    for name, content in more.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return model


def test_outputs_in_another_order_are_reordered(tmp_path, tiny_model, config, capsys):
    names = {"0": "ENTAILMENT", "2": "Contradiction", "1": "neutral"}
    theirs = classifier_folder(tmp_path, tiny_model, config, names)
    labels = ["contradiction", "entailment", "neutral"]
    ours = new(BertForSequenceClassification, config, 3, seed=2)
    load_initial_weights(ours, str(tmp_path), RUNTIME, False, labels)
    assert torch.equal(ours(*inputs(config)), theirs(*inputs(config))[:, [2, 0, 1]])
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"the outputs ['ENTAILMENT', 'neutral', 'Contradiction'] of {tmp_path} are reordered as "
        f"{labels}"
    )


@pytest.mark.parametrize("kind", ["BertForTokenClassification", "BertForMultipleChoice"])
def test_a_classifier_of_something_else_is_a_new_head(kind, tmp_path, tiny_model, config, capsys):
    """It has the names, and here the shape, of a classifier of texts."""
    transformers = pytest.importorskip("transformers")
    getattr(transformers, kind)(transformers.BertConfig(**config.to_dict())).save_pretrained(
        tmp_path
    )
    ours = new(BertForSequenceClassification, config, 1 if "Choice" in kind else 2)
    before = ours.classifier.weight.clone()
    load_initial_weights(ours, str(tmp_path), RUNTIME, head_may_be_new=True)
    assert torch.equal(ours.classifier.weight, before), "it would fit, but says something else"
    assert re.search(r"; new: .*classifier \(2\).*; not used: classifier \(2\)\n$",
                     capsys.readouterr().out)  # fmt: skip
    with pytest.raises(ValueError, match=" is a model for (tagging|multiple choice): "):
        load_initial_weights(ours, str(tmp_path), RUNTIME, head_may_be_new=False)


def test_other_ways_to_name_labels(tmp_path, tiny_model, config):
    classifier_folder(tmp_path, tiny_model, config, {"0": "no", "1": "yes"})
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    del values["id2label"]
    values["label2id"] = {"yes": 1, "no": 0}
    (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
    assert checkpoint.inspect_folder(tmp_path).labels == ["no", "yes"]
    values["id2label"] = ["yes", "no"]
    (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
    assert checkpoint.inspect_folder(tmp_path).labels == ["yes", "no"]


@pytest.mark.parametrize(
    "names, labels, order",
    [
        ({"0": "LABEL_0", "1": "LABEL_1"}, ["0", "1"], None),
        ({"0": "0", "1": "1"}, ["0", "1"], None),
        ({"0": 1, "1": 0}, ["0", "1"], [1, 0]),
        ({"1": "yes", "0": "no"}, ["yes", "no"], [1, 0]),
        ({"0": "good", "1": "bad"}, ["0", "1"], "was trained with labels ['good', 'bad']"),
        ({"0": "a", "1": "b", "2": "c"}, ["a", "b"], "but this run has ['a', 'b']"),
        ({"0": "a", "1": "A"}, ["A", "a"], "was trained with"),
        ({"0": "a", "1": None}, ["b", "c"], None),
        ({"0": "a", "1": "a"}, ["b", "c"], None),
        ({"0": True, "1": False}, ["false", "true"], [1, 0]),
    ],
)
def test_labels_are_compared_by_name(tmp_path, tiny_model, config, names, labels, order):
    classifier_folder(tmp_path, tiny_model, config, names)
    folder = checkpoint.inspect_folder(tmp_path)
    if isinstance(order, str):
        with pytest.raises(ValueError) as caught:
            checkpoint.order_of_labels(folder, labels)
        assert order in str(caught.value)
    else:
        assert checkpoint.order_of_labels(folder, labels) == order


# --- tokenizers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content, casing",
    [
        ({"do_lower_case": False}, {"do_lower_case": False}),
        ({"do_lower_case": False, "strip_accents": None}, {"do_lower_case": False}),
        ({"do_lower_case": True, "strip_accents": False},
         {"do_lower_case": True, "strip_accents": False}),
        ({}, {}),
    ],
)  # fmt: skip
def test_casing_is_that_of_the_tokenizer(tmp_path, tiny_model, config, content, casing):
    classifier_folder(tmp_path, tiny_model, config, {"0": "a", "1": "b"}, tokenizer_config=content)
    assert checkpoint.inspect_folder(tmp_path).casing == casing


@pytest.mark.parametrize(
    "file, content, name",
    [
        ("tokenizer_config", {"tokenize_chinese_chars": False}, "tokenize_chinese_chars"),
        ("tokenizer_config", {"tokenizer_class": "BertJapaneseTokenizer"}, "tokenizer_class"),
        ("tokenizer_config", {"do_basic_tokenize": False}, "do_basic_tokenize"),
        ("special_tokens_map", {"unk_token": "<unk>"}, "unk_token"),
        ("special_tokens_map", {"cls_token": {"content": "<s>"}}, "cls_token"),
        ("tokenizer", {"normalizer": {"handle_chinese_chars": False}}, "tokenize_chinese_chars"),
        ("tokenizer", {"model": {"continuing_subword_prefix": "@@"}}, "wordpieces_prefix"),
        ("tokenizer", {"normalizer": {"type": "Sequence"}}, "normalizer"),
        ("tokenizer", {"normalizer": None}, "normalizer"),
        ("tokenizer", {"normalizer": {"type": "BertNormalizer"},
                       "pre_tokenizer": {"type": "Whitespace"}}, "pre_tokenizer"),
    ],
)  # fmt: skip
def test_other_tokenizers_are_refused_by_name(tmp_path, tiny_model, config, file, content, name):
    files = {file: content}
    if name in ("normalizer", "pre_tokenizer"):  # of classes that do what tokenizer.json says
        files["tokenizer_config"] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    classifier_folder(tmp_path, tiny_model, config, {"0": "a", "1": "b"}, **files)
    with pytest.raises(ValueError, match=f"the tokenizer in {tmp_path} has {name} "):
        checkpoint.refuse_other_tokenizers(checkpoint.inspect_folder(tmp_path))


def test_two_vocabularies_that_differ(tmp_path, tiny_model, config):
    """transformers would take the ids of tokenizer.json, the scripts here those of vocab.txt."""
    vocab = load_vocab(tiny_model / "vocab.txt")
    for ids, refused in ((vocab, False), ({**vocab, "the": 9}, True)):
        content = {"model": {"type": "WordPiece", "vocab": ids}}
        classifier_folder(tmp_path, tiny_model, config, {"0": "a", "1": "b"}, tokenizer=content)
        folder = checkpoint.inspect_folder(tmp_path)
        if refused:
            with pytest.raises(ValueError, match="'the' has another number in each: remove the wr"):
                checkpoint.refuse_other_tokenizers(folder)
        else:
            checkpoint.refuse_other_tokenizers(folder)


def test_added_tokens_are_found_in_all_three_places(tmp_path, tiny_model, config):
    word = (tiny_model / "vocab.txt").read_text("utf-8").split("\n")[20]
    classifier_folder(
        tmp_path, tiny_model, config, {"0": "a", "1": "b"}, added_tokens={"[E1]": 187},
        tokenizer={"added_tokens": [{"id": 189, "content": "[E3]"}, {"id": 20, "content": word}]},
        special_tokens_map={"additional_special_tokens": ["[E1]", "[E4]"]},
    )  # fmt: skip
    assert checkpoint.inspect_folder(tmp_path).added_tokens == (
        AddedToken(word, 20, True), AddedToken("[E1]", 187), AddedToken("[E3]", 189, True),
        AddedToken("[E4]", 190),
    )  # fmt: skip
    # As in transformers, the newest place for them counts alone.
    decoder = {"188": {"content": "[E2]", "special": True}, "0": {"content": "[PAD]"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    (tmp_path / "special_tokens_map.json").unlink()
    assert checkpoint.inspect_folder(tmp_path).added_tokens == (AddedToken("[E2]", 188),)


# --- wrapped weights -----------------------------------------------------------------------------


def prefixed(prefix):
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


def inside(key, prefix=""):
    return lambda state: {key: prefixed(prefix)(state), "epoch": 3, "optimizer_states": [1]}


def of_nvidia(state):
    names = ("intermediate", "pooler", "transform")
    state = {
        name.replace("dense.", "dense_act.") if any(n in name for n in names) else name: tensor
        for name, tensor in state.items()
    }
    assert "bert.pooler.dense_act.weight" in state
    return {"model": state, "optimizer": {"lr": 1.0}, "files": ["a"]}


WRAPPED = {
    "DataParallel": prefixed("module."),
    "DataParallel of DataParallel": prefixed("module.module."),
    "torch.compile": prefixed("_orig_mod."),
    "compiled and distributed": prefixed("module._orig_mod."),
    "Lightning": inside("state_dict", "model."),
    "Lightning, a user's name": inside("state_dict", "net."),
    "model_state_dict": inside("model_state_dict"),
    "DeepSpeed": inside("module", "module."),
    "NVIDIA": of_nvidia,
    "sentence-transformers": prefixed("0.auto_model."),
    "a user's own module": prefixed("text_encoder."),
    "an encoder in a user's own module": lambda state: {
        name.replace("bert.", "encoder_q.", 1): tensor for name, tensor in state.items()
    },
    "bert in bert": prefixed("bert."),
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForPreTraining])
def test_wrapped_weights_are_loaded(tmp_path, config, wrap, kind):
    source, target = new(kind, config), new(kind, config, seed=2)
    torch.save(WRAPPED[wrap](source.state_dict()), tmp_path / "w.bin")
    assert load_weights(target, tmp_path / "w.bin") == ([], [])
    assert torch.equal(logits(source, config), logits(target, config))


def roberta(state):
    return {name.replace("bert.", "roberta.", 1): tensor for name, tensor in state.items()}


def peft(state):
    query = "bert.encoder.layer.0.attention.self.query."
    return {
        "base_model.model." + name.replace(query, f"{query}base_layer."): tensor
        for name, tensor in state.items()
    }


def with_one_more(name):
    return lambda state: {**state, name: torch.ones(3)}


LAYER = "bert.encoder.layer.0"
NAMED = {
    "RoBERTa": (roberta, "holds roberta.embeddings.", "of RoBERTa, another architecture"),
    "PEFT": (peft, "base_model.model.bert.", "an adapter of PEFT: merge it first"),
    "relative positions": (
        with_one_more(f"{LAYER}.attention.self.distance_embedding.weight"),
        "distance_embedding.weight", "relative position embeddings, which are not supported"),
    "a decoder": (
        with_one_more(f"{LAYER}.crossattention.self.query.weight"), "crossattention",
        "a decoder's cross-attention"),
    "adapters": (
        with_one_more(f"{LAYER}.output.adapters.x.weight"), "adapters.x.weight", "an adapter"),
    "LoRA beside the base": (
        with_one_more(f"{LAYER}.attention.self.query.lora_A.weight"), "lora_A.weight", "PEFT"),
    "something unknown": (with_one_more("bert.more.weight"), "bert.more.weight",
                          "not a part of BERT"),
    "another layer": (with_one_more("bert.encoder.layer.2.output.dense.bias"), "layer.2.output",
                      "of a larger model than the configuration's"),
    "a number among the tensors": (
        lambda state: {**state, "global_step": 1000}, "not a state dict",
        "(global_step is of type int)"),
    "two models of a user's own": (
        lambda state: {**prefixed("query_model.")(state), **prefixed("text_model.")(state)},
        "is missing", "it holds query_model.bert."),
    "8 bits": (
        lambda state: {name: tensor.to(torch.float8_e4m3fn) for name, tensor in state.items()},
        "bert.embeddings.LayerNorm.bias", "is torch.float8_e4m3fn, the model's is"),
    "a sparse table": (
        lambda state: {name: tensor.to_sparse() if tensor.dim() == 2 else tensor
                       for name, tensor in state.items()},
        "bert.embeddings.position_embeddings.weight", "is torch.sparse_coo, the model's is"),
    "a number for a name": (lambda state: {**state, 3: torch.ones(1)}, "not a state dict",
                            "(3 is of type Tensor)"),
    "two models": (
        lambda state: {**prefixed("model.")(state), **prefixed("module.")(state)},
        "holds two models: both model.bert.", " and module.bert."),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_what_is_not_loaded_is_named(tmp_path, config, kind):
    change, name, meaning = NAMED[kind]
    torch.save(change(new(BertForSequenceClassification, config).state_dict()), tmp_path / "w.bin")
    with pytest.raises(ValueError) as caught:
        load_weights(BertForSequenceClassification(config), tmp_path / "w.bin")
    message = str(caught.value)
    assert str(tmp_path / "w.bin") in message and "\n" not in message
    assert name in message and meaning in message


def test_parts_without_their_index(tmp_path, config):
    state = new(BertForSequenceClassification, config).state_dict()
    part = tmp_path / "pytorch_model-00001-of-00002.bin"
    torch.save(dict([*state.items()][:9]), part)
    model = BertForSequenceClassification(config)
    with pytest.raises(ValueError, match="is missing, .*; it is one part of a model: give its fol"):
        load_weights(model, part)
    with pytest.raises(FileNotFoundError, match=r"whose pytorch_model.bin.index.json is missing:"):
        load_weights(model, tmp_path)


def test_an_archive_of_numpy_is_named(tmp_path, config):
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    with pytest.raises(ValueError, match=r"w.npz is .*: an archive of NumPy arrays \(.npz\)"):
        load_weights(BertModel(config), tmp_path / "w.npz")


def test_two_files_with_other_weights(tmp_path, config):
    """transformers would take model.safetensors, the scripts here pytorch_model.bin."""
    state = new(BertForSequenceClassification, config).state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    path = tmp_path / "model.safetensors"
    model = BertForSequenceClassification(config)
    halves = {name.removeprefix("bert."): tensor.half() for name, tensor in state.items()}
    save_file(halves, path, {"format": "pt"})
    assert load_weights(model, tmp_path) == ([], [])

    save_file(new(BertForSequenceClassification, config, seed=5).state_dict(), path)
    with pytest.raises(ValueError, match=r"holds two models: pytorch_model.bin and model.safetens"):
        load_weights(model, tmp_path)
    assert load_weights(model, path) == ([], [])
    path.write_bytes(POINTER)
    assert load_weights(model, tmp_path) == ([], [])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 440473133\n"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize(
    "content, problem",
    [
        (POINTER, "a git-lfs pointer, not the file itself: run git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page: download the file itself"),
        (b"<html lang=en>", "a web page"),
        (b"<?xml version='1.0'?><Error>", "an XML page"),
        (b'{"error": "Entry not found"}', "a JSON file, not weights"),
        (b"\x89HDF\r\n\x1a\n" + bytes(9), "a Keras file"),
        (b"", "empty"),
    ],
)
def test_files_that_are_not_weights(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError) as caught:
            read_state_dict(path)
        assert str(caught.value).startswith(f"{tmp_path / name} is {problem}")


@pytest.mark.parametrize("length", [b"{", b"<html>", b"\x1f\x8b", b"\n \t", b"GGUF"])
def test_no_length_of_a_header_looks_like_another_file(tmp_path, length):
    """The first 8 bytes of a .safetensors file are a number, which may look like anything."""
    size = int.from_bytes(length + bytes(2), "little") % 2**16 | length[0]
    head = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    content = size.to_bytes(8, "little") + head.ljust(size).encode() + np.float32(3).tobytes()
    if size > len(head):
        (tmp_path / "model.safetensors").write_bytes(content)
        assert read_state_dict(tmp_path)["a"].item() == 3


@pytest.mark.parametrize("name", ["tf_model.h5", "flax_model.msgpack", "model.onnx"])
def test_folders_of_other_libraries(tmp_path, name):
    (tmp_path / name).write_bytes(b"\0")
    with pytest.raises(FileNotFoundError, match=f"; {name} is of another library and not read"):
        read_state_dict(tmp_path)


def test_a_renamed_file_is_read_by_its_content(tmp_path, config):
    write_safetensors(tmp_path / "w.bin", {"a": np.float32([3, 4])})
    assert read_state_dict(tmp_path / "w.bin")["a"].tolist() == [3, 4]


def test_a_part_that_is_missing_is_called_missing(tmp_path, config):
    state = new(BertModel, config).state_dict()
    index = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(state)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(FileNotFoundError) as caught:
        read_state_dict(tmp_path)
    assert caught.value.filename == str(tmp_path / "model-0.safetensors")
    assert caught.value.strerror == (
        "missing, but model.safetensors.index.json lists it: download it too"
    )


def test_an_untied_decoder(tmp_path, config, capsys):
    """It is not used by tasks without a decoder, and an error for pre-training."""
    state = new(BertForSequenceClassification, config).state_dict()
    name = "cls.predictions.decoder.weight"
    state[name] = state["bert.embeddings.word_embeddings.weight"] + 1
    torch.save(state, tmp_path / "w.bin")
    load_initial_weights(
        BertForSequenceClassification(config), str(tmp_path / "w.bin"), RUNTIME, False
    )
    assert capsys.readouterr().out.endswith(f"not used: {name}\n")
    with pytest.raises(ValueError, match=f"{name} differs from bert.embeddings.word_embeddings"):
        load_weights(BertForPreTraining(config), tmp_path / "w.bin")
    untied = BertConfig.from_dict({**config.to_dict(), "tie_word_embeddings": False})
    BertForSequenceClassification(untied)
    with pytest.raises(ValueError, match="tie_word_embeddings is False"):
        BertForPreTraining(untied)


# --- TensorFlow ----------------------------------------------------------------------------------


def google_variables(config, tiny_model, folder):
    """{Google's name: array} of a whole model."""
    from tf_checkpoint import Checkpoint

    torch.save(new(BertForPreTraining, config).state_dict(), folder / "w.bin")
    convert_pytorch_checkpoint_to_tf(
        str(folder / "w.bin"), str(tiny_model / "bert_config.json"), str(folder / "tf/a.ckpt")
    )
    found = Checkpoint(folder / "tf/a.ckpt")
    return {name: np.array(found[name]) for name in found.variables}


def test_hub_modules_are_read(tmp_path, tiny_model, config, capsys):
    """Their variables begin with module/, and lie in the folder variables."""
    variables = google_variables(config, tiny_model, tmp_path)
    (tmp_path / "hub/variables").mkdir(parents=True)
    write_checkpoint(
        str(tmp_path / "hub/variables/variables"),
        {f"module/{name}": array for name, array in variables.items()},
    )
    folder = checkpoint.inspect_folder(tmp_path / "hub")
    assert folder.is_tensorflow and folder.source == str(tmp_path / "hub/variables/variables")
    target = new(BertForPreTraining, config, seed=2)
    assert to_pytorch.load_tf_weights(target, folder.source) == ([], [])
    assert torch.equal(logits(target, config), logits(new(BertForPreTraining, config), config))
    to_pytorch.convert_tf_checkpoint_to_pytorch(
        folder.source, str(tiny_model / "bert_config.json"), str(tmp_path / "converted.bin")
    )
    assert load_weights(target, tmp_path / "converted.bin") == ([], [])


@pytest.mark.parametrize("by_tensorflow", [False, True])
def test_object_checkpoints_are_named(tmp_path, tiny_model, config, by_tensorflow):
    name = "encoder/layer_with_weights-0/embeddings/.ATTRIBUTES/VARIABLE_VALUE"
    if by_tensorflow:
        tf = pytest.importorskip("tensorflow")
        place = tf.train.Checkpoint(embeddings=tf.Variable(tf.ones([187, 24])))
        layers = tf.train.Checkpoint(**{"layer_with_weights-0": place})
        tf.train.Checkpoint(encoder=layers).write(str(tmp_path / "a.ckpt"))
    else:
        write_checkpoint(str(tmp_path / "a.ckpt"), {name: np.ones((187, 24), np.float32)})
    with pytest.raises(ValueError) as caught:
        to_pytorch.load_tf_weights(BertModel(config), tmp_path / "a.ckpt")
    assert f"it holds {name}, of a TensorFlow 2 object checkpoint" in str(caught.value)
    assert "convert_bert_original_tf2_checkpoint_to_pytorch.py" in str(caught.value)


def test_a_pointer_instead_of_data(tmp_path, tiny_model, config):
    google_variables(config, tiny_model, tmp_path)
    (tmp_path / "tf/a.ckpt.data-00000-of-00001").write_bytes(POINTER)
    with pytest.raises(ValueError, match="data-00000-of-00001 is a git-lfs pointer"):
        to_pytorch.load_tf_weights(BertModel(config), tmp_path / "tf/a.ckpt")


def test_a_classifier_of_transformers_evaluates_as_it_is(tmp_path, tiny_model, config, mrpc, call):
    """A folder of theirs suffices, with labels, casing and vocabulary in its own files."""
    transformers = pytest.importorskip("transformers")
    values = {**config.to_dict(), "layer_norm_eps": 1e-5, "id2label": {0: "1", 1: "0"}}
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**values))
    theirs.save_pretrained(tmp_path / "theirs")
    transformers.BertTokenizer.from_pretrained(str(tiny_model)).save_pretrained(tmp_path / "theirs")
    outcome = call(
        run_classifier, "--task_name=MRPC", f"--data_dir={mrpc}", "--do_eval", "--do_predict",
        "--max_seq_length=32", f"--init_checkpoint={tmp_path / 'theirs'}",
        f"--output_dir={tmp_path / 'out'}",
    ).ok()  # fmt: skip
    assert "are reordered as ['0', '1']" in outcome.out


def test_added_tokens_without_rows_are_named(tmp_path, tiny_model, config, mrpc, call):
    """Whoever added them did not call resize_token_embeddings."""
    added = {"covid19": config.vocab_size}
    classifier_folder(tmp_path / "x", tiny_model, config, {"0": "0", "1": "1"}, added_tokens=added)
    outcome = call(
        run_classifier, "--task_name=MRPC", "--do_eval", f"--data_dir={mrpc}",
        "--max_seq_length=64", f"--init_checkpoint={tmp_path / 'x'}",
        f"--output_dir={tmp_path / 'out'}",
    )  # fmt: skip
    assert outcome.status == 2 and "with the tokens added beside it " in outcome.err
    assert "resize the model's embeddings for them, or remove them" in outcome.err


def test_another_number_of_labels_is_named(tmp_path, tiny_model, config):
    names = {"0": "a", "1": "b", "2": "c"}
    classifier_folder(tmp_path, tiny_model, config, names)
    model = new(BertForSequenceClassification, config, 2)
    with pytest.raises(ValueError, match=r"another number of labels than the 2 of this run \(a, b"):
        load_initial_weights(model, str(tmp_path), RUNTIME, False, ["a", "b"])


def test_a_regression_with_several_outputs_is_not_a_classifier(tmp_path, tiny_model, config):
    """transformers allows it; the softmax of its scores would mean nothing."""
    names = {str(number): f"LABEL_{number}" for number in range(3)}
    classifier_folder(tmp_path, tiny_model, config, names)
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**values, "problem_type": "regression"}))
    assert checkpoint.inspect_folder(tmp_path).task == "several scores"
    model = new(BertForSequenceClassification, config, 3)
    with pytest.raises(ValueError, match="is a model for several scores: fine-tune it for this ta"):
        load_initial_weights(model, str(tmp_path), RUNTIME, False, ["a", "b", "c"])
    with pytest.raises(ValueError, match="has no head for classification"):
        predict.load(str(tmp_path)).classify(["a text"])
