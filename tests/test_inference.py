"""inference.py: the layers for prediction compute what those of modeling.py compute."""

import numpy as np
import pytest
import torch

import inference
from data import packed_inputs
from modeling import BertConfig, BertModel
from predict import Feature

pytestmark = pytest.mark.numeric

LENGTHS = (9, 9, 9, 4, 4, 1, 9)  # neighbours of equal length, and one that stands alone


def make_model(**changes):
    """A model of odd sizes whose outputs differ from each other by far more than rounding."""
    sizes = {
        "vocab_size": 50, "hidden_size": 39, "num_hidden_layers": 3, "num_attention_heads": 3,
        "intermediate_size": 37, "max_position_embeddings": 16, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    return BertModel(BertConfig(**{**sizes, **changes})).eval()


def make_features():
    numbers = np.random.default_rng(1)
    return [
        Feature(numbers.integers(50, size=length, dtype=np.int32), np.zeros(length, np.int32))
        for length in LENGTHS
    ]


def outputs_of(model, rows, dtype=torch.float32, round_up=False):
    """The layers' outputs, of the last one only the `rows`."""
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        unpadding = model.make_unpadding(*packed_inputs(make_features(), round_up))
        return model.encode(None, None, unpadding, rows)


@torch.inference_mode()
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu"])
@pytest.mark.parametrize("rows", [None, [0, 9, 30], [0, 9, 18, 27, 31, 35, 36]])
def test_float32(act, rows):
    rows = rows and torch.tensor(rows)
    model = make_model(hidden_act=act)
    wanted = outputs_of(model, rows)
    inference.pack_layers(model, torch.float32)
    assert inference.is_supported(torch.float32)
    assert isinstance(model.encoder.layer[0], inference.PackedLayer)
    for round_up in (False, True):
        for ours, plain in zip(outputs_of(model, rows, round_up=round_up), wanted):
            assert (ours[: len(plain)] - plain).abs().max() < 1e-5


@torch.inference_mode()
def test_bfloat16_is_as_exact_as_the_plain_layers():
    if not inference.is_supported(torch.bfloat16):
        pytest.skip("oneDNN has no bfloat16 weights on this CPU")
    model = make_model(hidden_size=96, intermediate_size=192, num_hidden_layers=4)
    exact = outputs_of(model, None)[-1]
    plain = outputs_of(model, None, torch.bfloat16)[-1]
    inference.pack_layers(model, torch.bfloat16)
    ours = outputs_of(model, None, torch.bfloat16)[-1][: len(exact)]
    error = (ours - exact).square().mean().sqrt()
    assert 0 < error < 1.25 * (plain[: len(exact)] - exact).square().mean().sqrt()
    assert ours.dtype == torch.float32


@torch.inference_mode()
def test_padded_and_hidden_positions():
    """Tensors with a mask, as anybody may give them to the network, [CLS] masked among them."""
    model = make_model()
    ids = torch.arange(21).view(3, 7)
    mask = torch.ones_like(ids)
    mask[0, 4:] = 0
    mask[1, 0] = 0
    unpadding = model.make_unpadding(ids, mask)
    every = (None, unpadding.cls_rows())
    wanted = [model.encode(ids, None, unpadding, rows)[-1] for rows in every]
    inference.pack_layers(model, torch.float32)
    found = [model.encode(ids, None, unpadding, rows)[-1] for rows in every]
    assert unpadding.hidden is not None
    for ours, plain in zip(found, wanted):
        assert (ours - plain).abs().max() < 1e-5


def test_a_pytorch_without_the_operations_keeps_the_layers(monkeypatch):
    monkeypatch.setattr(inference, "mkldnn", torch.ops.nothing_of_this_name)
    inference.is_supported.cache_clear()
    model = make_model()
    before = list(model.encoder.layer)
    inference.pack_layers(model, torch.float32)
    inference.is_supported.cache_clear()
    assert list(model.encoder.layer) == before
