"""Models and arrays in memory that several test files share: tiny random ones and Google's."""

import numpy as np
import torch

from convert_tf_checkpoint_to_pytorch import convert_tf_checkpoint_to_pytorch
from modeling import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    load_weights,
)

TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 11,
    "type_vocab_size": 3,
}
BATCH, WIDTH = 13, 7
HEADS = (
    BertForPreTraining, BertForSequenceClassification, BertForQuestionAnswering,
    BertForTokenClassification,
)  # fmt: skip
WITHOUT_POOLER = (BertForQuestionAnswering, BertForTokenClassification)


# How far an independent float32 implementation is from Google's: losses 16 roundings, norms 170,
# weights 1.2e-7 where steps are 1e-3. The limits are four times that, and for the norm six times,
# since a gradient has come back through all layers.
LOSS, NORM, WEIGHT = 64, 1024, 5e-7


def tiny(model=BertModel, dropout=0.0, seed=0, **changes):
    """A tiny model with random weights; changes: values of its configuration."""
    probabilities = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    torch.manual_seed(seed)
    return model(BertConfig(**{**TINY, **probabilities, **changes}))


def tiny_inputs(seed=0):
    """Ids, types and mask of 13 sequences of 1 to 7 tokens; there are 9 ids, so that they recur."""
    random = torch.Generator().manual_seed(seed)
    ids, types = (
        torch.randint(0, size, (BATCH, WIDTH), generator=random)
        for size in (9, TINY["type_vocab_size"])
    )
    lengths = torch.randint(1, WIDTH + 1, (BATCH, 1), generator=random)
    return ids, types, (torch.arange(WIDTH) < lengths).long()


def tiny_loss(model):
    """The loss of tiny_inputs; it depends on tokens only, at different positions per sequence."""
    inputs = tiny_inputs()
    targets = torch.arange(BATCH)
    if isinstance(model, BertForSequenceClassification):
        return model(*inputs, targets % model.num_labels)[0]
    if isinstance(model, BertForQuestionAnswering):
        return model(*inputs, targets % 2, targets % 3)[0]
    if isinstance(model, BertForTokenClassification):
        labels = torch.full(inputs[0].shape, -100)
        labels[:, 0], labels[::2, 1] = targets % 2, 1  # some of them on padding
        return model(*inputs, labels)[0]
    positions = torch.stack([targets % 2, targets % 3], 1)
    weights = inputs[2].gather(1, positions).float()
    return model(*inputs, positions, positions + 5, weights, targets % 2)[0]


def gradients(model):
    """{name: gradient} of the parameters that have one."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def ints(arrays, *names):
    """The named arrays as int64 tensors."""
    return [torch.from_numpy(arrays[name]).long() for name in names]


def worst(a, b):
    """The largest absolute difference between a, a tensor or an array, and b, an array."""
    a = a.detach().numpy() if isinstance(a, torch.Tensor) else a
    return np.abs(a - b).max()


def golden(goldens, name):
    """The arrays of a golden file, and the model's three inputs among them as tensors."""
    arrays = dict(np.load(goldens / f"{name}.npz"))
    return arrays, ints(arrays, "input_ids", "segment_ids", "input_mask")


def without_dropout(model_class, pretrained):
    """A model_class with the pretrained weights, in training mode but without dropout."""
    config = BertConfig(**{**vars(pretrained.bert.config), "hidden_dropout_prob": 0.0})
    config.attention_probs_dropout_prob = 0.0
    model = model_class(config)
    load_weights(model, pretrained.state_dict())
    return model.train()


def with_head(bert_dir, golden, head, folder):
    """Writes the weights of Google's end-to-end runs: the checkpoint's and a random head's.

    golden: the file's content, which holds the head's seed and scale; head: the head's name.
    Returns the path.
    """
    path = folder / "pytorch_model.bin"
    convert_tf_checkpoint_to_pytorch(str(bert_dir), str(bert_dir / "bert_config.json"), str(path))
    values = torch.load(path, weights_only=True)
    values = {name: tensor for name, tensor in values.items() if name.startswith("bert.")}
    random = np.random.RandomState(golden["head_seed"]).randn(2, 384) * golden["head_scale"]
    values[f"{head}.weight"] = torch.from_numpy(random.astype(np.float32))
    values[f"{head}.bias"] = torch.tensor([0.1, -0.1])
    torch.save(values, path)
    return path


class Replicas(torch.nn.Module):
    """Does what DataParallel does, one replica after another: scatter, forward, gather."""

    def __init__(self, module, devices):
        super().__init__()
        self.module, self.devices = module, devices

    def forward(self, *inputs, **more):
        chunks = zip(*(tensor.chunk(self.devices) for tensor in (*inputs, *more.values())))
        outputs = [
            self.module(*chunk[: len(inputs)], **dict(zip(more, chunk[len(inputs) :])))
            for chunk in chunks
        ]
        if isinstance(outputs[0], tuple):
            return tuple(map(torch.cat, zip(*outputs)))
        return torch.cat(outputs)
