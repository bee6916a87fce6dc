"""Weights in and out: every format that --init_checkpoint reads, and every format that is written.

Weights that are read must give the logits of the model that they were saved from; weights that are
written must give the same logits in the libraries that read them.
"""

import json
import types

import numpy as np
import pytest
import torch
from helpers import TINY, model_flags, roundings

import checkpoint
import run_classifier
from convert_pytorch_checkpoint_to_tf import convert_pytorch_checkpoint_to_tf
from convert_tf_checkpoint_to_pytorch import pytorch_name
from modeling import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    load_weights,
)
from optimization import create_optimizer
from tokenization import FullTokenizer
from training import Runtime, load_initial_weights
from weights import write_bin, write_safetensors

LABELS = ["yes", "no", "perhaps"]
MODELS = {
    "classifier": lambda config: BertForSequenceClassification(config, len(LABELS)),
    "squad": BertForQuestionAnswering,
    "tagger": lambda config: BertForTokenClassification(config, len(LABELS)),
    "pretraining": BertForPreTraining,
    "bare": BertModel,
}
RUNTIME = Runtime(torch.device("cpu"))


def new(config, kind="classifier", seed=1):
    """A model in which all parameters are random, including biases and LayerNorm."""
    torch.manual_seed(seed)
    model = MODELS[kind](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def batch(config):
    """Two rows of unequal length: ids, segments, mask, each [2, 11]."""
    ids = torch.randint(5, config.vocab_size, (2, 11), generator=torch.Generator().manual_seed(3))
    segments = (torch.arange(11) > 5).long().expand(2, 11)
    return ids, segments, (torch.arange(11) < torch.tensor([[11], [7]])).long()


@torch.no_grad()
def outputs(model, config):
    """What the model computes for tokens, as one vector."""
    inputs = batch(config)
    found = model(*inputs)
    if isinstance(model, BertModel):
        found = found[0][-1], found[1]
    return on_tokens(found if isinstance(found, tuple) else (found,), inputs[2])


@torch.no_grad()
def their_outputs(model, config):
    inputs = dict(zip(("input_ids", "token_type_ids", "attention_mask"), batch(config)))
    return on_tokens(model.eval()(**inputs).to_tuple(), inputs["attention_mask"])


def on_tokens(tensors, mask):
    rows = [tensor[mask > 0] if tensor.shape[:2] == mask.shape else tensor for tensor in tensors]
    return torch.cat([tensor.flatten() for tensor in rows])


def save(folder, model, config, tiny_model, *, safetensors=False, lower=True, strip=True, **facts):
    folder.mkdir(exist_ok=True)
    args = types.SimpleNamespace(
        output_dir=str(folder), vocab_file=str(tiny_model / "vocab.txt"), do_lower_case=lower,
        strip_accents=strip, never_split=None, save_safetensors=safetensors, keep_checkpoints=1,
    )  # fmt: skip
    checkpoint.save_model(args, RUNTIME, model, config, **facts)
    return args


# --- in ------------------------------------------------------------------------------------------


def arrays(state):
    return {name: tensor.numpy() for name, tensor in state.items()}


def renamed(state, **words):
    """The state dict with other words in its names."""
    for old, new in words.items():
        state = {name.replace(old, new): tensor for name, tensor in state.items()}
    return state


def saved(folder, state):
    torch.save(state, folder / "pytorch_model.bin")
    return folder / "pytorch_model.bin"


def bare(folder, state):
    """The weights of a BertModel: without `bert.` in the names, and without a head."""
    names = [name for name in state if name.startswith("bert.")]
    return saved(folder, {name.removeprefix("bert."): state[name] for name in names})


def first_port(folder, state):
    state = renamed(state, **{"LayerNorm.weight": "LayerNorm.gamma"})
    return saved(folder, renamed(state, **{"LayerNorm.bias": "LayerNorm.beta"}))


def with_constants(folder, state):
    return saved(folder, {**state, "bert.embeddings.position_ids": torch.arange(64)[None]})


def of_data_parallel(folder, state):
    return saved(folder, {f"module.{name}": tensor for name, tensor in state.items()})


def of_an_old_pytorch(folder, state):
    path = folder / "pytorch_model.bin"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


def our_bin(folder, state):
    write_bin(folder / "pytorch_model.bin", arrays(state).items(), 0)
    return folder / "pytorch_model.bin"


def our_safetensors(folder, state):
    write_safetensors(folder / "model.safetensors", arrays(state))
    return folder / "model.safetensors"


def their_safetensors(folder, state):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file(state, folder / "model.safetensors")
    return folder


def in_parts(folder, state):
    """As large models are published: an index, and files that hold a share of the tensors each."""
    names, files = sorted(state), ("pytorch_model-1.bin", "pytorch_model-2.bin")
    for number, file in enumerate(files):
        torch.save({name: state[name] for name in names[number::2]}, folder / file)
    index = {"weight_map": {name: files[n % 2] for n, name in enumerate(names)}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def tensorflow(folder, state):
    config = {**TINY, "vocab_size": len(state["bert.embeddings.word_embeddings.weight"])}
    (folder / "bert_config.json").write_text(json.dumps(config))
    path = folder / "tf" / "bert_model.ckpt"
    convert_pytorch_checkpoint_to_tf(
        str(saved(folder, state)), str(folder / "bert_config.json"), str(path)
    )
    return path


def tensorflow_index(folder, state):
    return f"{tensorflow(folder, state)}.index"


def tensorflow_data(folder, state):
    return f"{tensorflow(folder, state)}.data-00000-of-00001"


def tensorflow_folder(folder, state):
    return tensorflow(folder, state).parent


FORMATS = (
    saved, bare, first_port, with_constants, of_data_parallel, of_an_old_pytorch, our_bin,
    our_safetensors, their_safetensors, in_parts, tensorflow, tensorflow_index, tensorflow_data,
    tensorflow_folder,
)  # fmt: skip


def load(model, path, new_head=False):
    load_initial_weights(model, str(path), RUNTIME, new_head)
    return model


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("kind", ["classifier", "squad", "tagger", "pretraining"])
def test_comes_in(tmp_path, config, form, kind):
    if form is our_safetensors:
        pytest.importorskip("safetensors")
    source, target = new(config, kind), new(config, kind, seed=2)
    given = form(tmp_path, {n: t.clone() for n, t in source.state_dict().items()})
    load(target, given, new_head=form is bare)
    if form is bare:
        source, target = source.bert, target.bert
    assert roundings(outputs(source, config), outputs(target, config)) < 64


def test_output_dir_comes_in(tmp_path, config, tiny_model):
    source = new(config)
    save(tmp_path / "out", source, config, tiny_model)
    assert torch.equal(
        outputs(load(new(config, seed=2), tmp_path / "out"), config), outputs(source, config)
    )


def test_a_checkpoint_to_resume_from_comes_in(tmp_path, config, tiny_model):
    source = new(config)
    args = save(tmp_path / "out", source, config, tiny_model)
    optimizer = create_optimizer(source, 1e-4, 10, 1)
    checkpoint.save_checkpoint(args, RUNTIME, source, optimizer, 3, None, {})
    target = load(new(config, seed=2), tmp_path / "out" / "checkpoint-3.pt")
    assert torch.equal(outputs(target, config), outputs(source, config))


HEADS = {
    "BertModel": BertModel, "BertForPreTraining": BertForPreTraining, "BertForMaskedLM": None,
    "BertLMHeadModel": None, "BertForNextSentencePrediction": None, "BertForMultipleChoice": None,
    "BertForSequenceClassification": MODELS["classifier"],
    "BertForTokenClassification": BertForTokenClassification,
    "BertForQuestionAnswering": BertForQuestionAnswering,
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_models_come_in(tmp_path, config, head, attention):
    """The encoder of every head fills ours; if we have that head too, its logits are the same."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(4)
    theirs = getattr(transformers, head)(
        transformers.BertConfig(
            **config.to_dict(), num_labels=len(LABELS) if "Sequence" in head else 2,
            attn_implementation=attention,
        )
    )  # fmt: skip
    theirs.save_pretrained(tmp_path)
    ours = load(BertForQuestionAnswering(config), tmp_path, new_head=True).eval()
    ids, segments, mask = batch(config)
    hidden = theirs.base_model.eval()(ids, mask, segments)[0]
    found = ours.bert(ids, segments, mask)[0][-1]
    assert roundings(found[mask > 0], hidden[mask > 0]) < 64
    load(MODELS["classifier"](config), tmp_path, new_head=True)  # some have no pooler
    if HEADS[head]:
        ours = load(HEADS[head](config), tmp_path).eval()
        assert roundings(outputs(ours, config), their_outputs(theirs, config)) < 64


# --- out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("safetensors", [False, True])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", MODELS)
def test_transformers_reads_an_output_dir(
    tmp_path, config, tiny_model, kind, attention, safetensors
):
    transformers = pytest.importorskip("transformers")
    model = new(config, kind)
    labels = {"labels": LABELS} if kind in ("classifier", "tagger") else {}
    save(tmp_path / "out", model, config, tiny_model, safetensors=safetensors, **labels)
    if safetensors:
        (tmp_path / "out" / "pytorch_model.bin").unlink()
    theirs, info = getattr(transformers, type(model).__name__).from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation=attention
    )
    no_pooler = kind in ("squad", "tagger")
    unread = {n for n in model.state_dict() if "pooler" in n and no_pooler}
    assert set(info["unexpected_keys"]) == unread
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert roundings(outputs(model, config), their_outputs(theirs, config)) < 64
    if labels:
        assert list(theirs.config.id2label.values()) == LABELS
        auto = "Sequence" if kind == "classifier" else "Token"
        auto = getattr(transformers, f"AutoModelFor{auto}Classification")
        assert auto.from_pretrained(tmp_path / "out")


def test_a_regression_has_one_label_there(tmp_path, config, tiny_model):
    transformers = pytest.importorskip("transformers")
    model = BertForSequenceClassification(config, 1).eval()
    save(tmp_path / "out", model, config, tiny_model, labels=[])
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert roundings(outputs(model, config), their_outputs(theirs, config)) < 64


@pytest.mark.parametrize("lower, strip", [(True, True), (True, False), (False, True)])
def test_transformers_tokenizes_alike(tmp_path, config, tiny_model, lower, strip):
    transformers = pytest.importorskip("transformers")
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab += [f"{start}{letter}" for letter in "ÉéEetT" for start in ("", "##")]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    save(tmp_path / "out", new(config), config, tmp_path, lower=lower, strip=strip)
    ours = FullTokenizer(tmp_path / "vocab.txt", lower, lower and strip)
    text = "Été ÉTÉ e Te tÉ"
    for kind in (transformers.AutoTokenizer, transformers.BertTokenizerFast):
        theirs = kind.from_pretrained(tmp_path / "out")
        assert theirs.tokenize(text) == ours.tokenize(text)
        ids = theirs(text)["input_ids"]
        assert [ours.inv_vocab[i] for i in ids] == ["[CLS]", *ours.tokenize(text), "[SEP]"]
        assert theirs.model_max_length == TINY["max_position_embeddings"]


def test_torch_and_safetensors_read_it(tmp_path, config, tiny_model):
    model = new(config)
    save(tmp_path / "out", model, config, tiny_model, safetensors=True, labels=LABELS)
    load_file = pytest.importorskip("safetensors.torch").load_file
    expected = model.state_dict()
    for found in (
        torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True),
        torch.load(tmp_path / "out" / "pytorch_model.bin", weights_only=True, mmap=True),
        load_file(tmp_path / "out" / "model.safetensors"),
    ):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_run_saves_what_others_read(tmp_path, tiny_model, mrpc, call):
    transformers = pytest.importorskip("transformers")
    call(
        run_classifier, *model_flags(tiny_model), "--task_name=MRPC", f"--data_dir={mrpc}",
        "--do_train", "--max_seq_length=32", "--train_batch_size=4", "--num_train_epochs=1",
        "--no_strip_accents", "--save_safetensors", f"--output_dir={tmp_path / 'out'}",
    ).ok()  # fmt: skip
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "pytorch_model.bin", "model.safetensors", "bert_config.json", "config.json", "vocab.txt",
        "tokenizer_config.json", "run.json",
    }  # fmt: skip
    run = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert run["do_lower_case"] is True and run["strip_accents"] is False
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    config = BertConfig.from_json_file(tmp_path / "out" / "config.json")
    ours = load(BertForSequenceClassification(config), tmp_path / "out" / "model.safetensors")
    assert roundings(outputs(ours.eval(), config), their_outputs(theirs, config)) < 64


def test_a_stale_safetensors_is_removed(tmp_path, config, tiny_model):
    """Other libraries would read it instead of pytorch_model.bin."""
    save(tmp_path / "out", new(config), config, tiny_model, safetensors=True)
    save(tmp_path / "out", new(config, seed=2), config, tiny_model)
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("kind", ["classifier", "squad", "pretraining"])
def test_tensorflow_reads_it(tmp_path, config, kind):
    tf = pytest.importorskip("tensorflow")
    source, target = new(config, kind), new(config, kind, seed=2)
    reader = tf.train.load_checkpoint(str(tensorflow(tmp_path, source.state_dict())))
    state = {}
    for name in reader.get_variable_to_shape_map():
        array = reader.get_tensor(name)
        array = array.T if name.endswith("/kernel") else array
        state[pytorch_name(name)] = torch.from_numpy(np.ascontiguousarray(array))
    assert load_weights(target, state) == ([], [])
    assert torch.equal(outputs(source, config), outputs(target, config))
