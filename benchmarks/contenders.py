"""One step of this project and of transformers, for training and for prediction, on any device.

A step is a function of a list of features. It pads as its program does, moves the batch to the
device, computes and, for training, clips the gradients and updates the weights. Features have
input_ids, segment_ids, and the targets of their task.
"""

import re
import time

import common
import numpy as np
import torch
import transformers

import run_classifier
import run_squad
from data import model_inputs
from modeling import BertConfig, BertForQuestionAnswering, BertForSequenceClassification
from optimization import create_optimizer
from tokenization import FullTokenizer
from training import compile_layers

SHAPES = {
    "tiny": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    **common.SHAPES,
    "BERT-Large": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}  # fmt: skip
INPUTS = ("input_ids", "token_type_ids", "attention_mask")
WIDTH = {"MRPC": 128, "SQuAD": 384}
BATCH = {"MRPC": 32, "SQuAD": 12}
TARGETS = {
    "MRPC": {"labels": "label_id"},
    "SQuAD": {"start_positions": "start_position", "end_positions": "end_position"},
}


def features_of(task):
    """Features of the task's training file."""
    tokenizer = FullTokenizer(common.vocab_file())
    if task == "MRPC":
        processor = run_classifier.MrpcProcessor()
        return run_classifier.convert_examples_to_features(
            processor.get_train_examples(common.mrpc_dir()), processor.get_labels(), 128, tokenizer
        )
    examples = run_squad.read_squad_examples(
        f"{common.squad_dir()}/train-v1.1.json", True, log=lambda line: None
    )
    return run_squad.convert_examples_to_features(examples, tokenizer, 384, 128, 64, True)


def batches_of(features, size):
    """Batches in the order of the features, and shuffled batches of features of similar length."""
    starts = range(0, len(features), size)
    by_length = sorted(features, key=lambda feature: len(feature.input_ids))
    order = np.random.default_rng(1).permutation(len(starts))
    grouped = [by_length[start : start + size] for start in starts]
    return [features[start : start + size] for start in starts], [grouped[i] for i in order]


def training_batches(task, features, rounds):
    """batches_of for `rounds` batches of the task's size, of randomly chosen features."""
    size = BATCH[task]
    chosen = np.random.default_rng(0).permutation(len(features))[: rounds * size]
    return batches_of([features[i] for i in chosen], size)


def targets_of(task, features):
    """{argument of the model: tensor [B]}"""
    return {
        argument: torch.tensor([getattr(feature, field) for feature in features])
        for argument, field in TARGETS[task].items()
    }


def ours(task, shape, dtype, device, training=True, compiled=False):
    """A step of this project, as in its drivers: without padding, BERTAdam, autocast, --compile."""
    config = BertConfig(vocab_size=30522, type_vocab_size=2, **SHAPES[shape])
    kind = BertForSequenceClassification if task == "MRPC" else BertForQuestionAnswering
    with torch.device(device):
        model = kind(config).train(training)
    if compiled:
        compile_layers(model)
    optimizer = create_optimizer(model, 2e-5, 1000, 100) if training else None

    def train(features):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            loss, _ = model(*model_inputs(features), **targets_of(task, features))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def predict(features):
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            outputs = model(*model_inputs(features))
        outputs = outputs if task == "MRPC" else torch.stack(outputs)
        return outputs.float().cpu()

    return train if training else predict


def peer(task, shape, device="cpu", **options):
    """The model that transformers has for a task, with random weights."""
    config = transformers.BertConfig(vocab_size=30522, **SHAPES[shape], **options)
    kind = "SequenceClassification" if task == "MRPC" else "QuestionAnswering"
    with torch.device(device):
        return getattr(transformers, f"BertFor{kind}")(config)


def theirs(task, shape, dtype, device, training=True, width=0, half_weights=False):
    """A step of transformers, as in its Trainer, but without the Trainer's own bookkeeping.

    Its default attention (SDPA), padded to `width` or the longest row, autocast or all weights in
    `dtype`, fused AdamW, gradient norm 1.0.
    """
    model = peer(task, shape, device).train(training)
    if half_weights:
        model.to(dtype)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=2e-5, fused=True) if training else None

    def outputs_of(features, targets):
        batch = dict(zip(INPUTS, model_inputs(features, width))) | targets
        if device == "cuda":  # as its DataLoader: pinned, then copied without waiting
            batch = {
                name: x.pin_memory().to(device, non_blocking=True) for name, x in batch.items()
            }
        enabled = dtype != torch.float32 and not half_weights
        with torch.autocast(device, dtype, enabled=enabled):
            return model(**batch)

    def train(features):
        outputs_of(features, targets_of(task, features)).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def predict(features):
        outputs = outputs_of(features, {})
        pair = ("logits",) if task == "MRPC" else ("start_logits", "end_logits")
        return torch.stack([outputs[name] for name in pair]).float().cpu()

    return train if training else predict


def limit(shapes, dtype):
    """The best FLOP/s of F.linear on the CPU; `shapes` are its sizes (rows, inner, outer)."""
    best = 0.0
    for rows, inner, outer in shapes:
        x, weight = torch.randn(rows, inner).to(dtype), torch.randn(outer, inner).to(dtype)
        for _ in range(23):
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            best = max(best, 2 * rows * inner * outer / (time.perf_counter() - start))
    return best


def useful_flops(shape, features, training=True):
    """FLOPs of the tokens: 8LH² + 4LHI + 4L²H per layer and example, three times for training."""
    layers, hidden, wide = (
        SHAPES[shape][key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    length = np.array([len(feature.input_ids) for feature in features], dtype=float)
    forward = 8 * length * hidden**2 + 4 * length * hidden * wide + 4 * length**2 * hidden
    return (3 if training else 1) * layers * forward.sum()


def by_kind(times, kinds):
    """{kind: share of all time}, from {operation: time} and {kind: pattern}.

    The first pattern that matches the name of an operation decides its kind.
    """
    total, shares = sum(times.values()), dict.fromkeys(kinds, 0.0)
    for name, time_of_it in times.items():
        kind = next(k for k, pattern in kinds.items() if re.search(pattern, name, re.IGNORECASE))
        shares[kind] += time_of_it / total
    return shares
