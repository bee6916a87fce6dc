"""One step of this project and of transformers, for training and for prediction, on any device.

A step is a function of a list of features. It packs or pads as its program does, moves the batch to
the device, computes and, for training, clips the gradients and updates the weights. Features have
input_ids, segment_ids, and the targets of their task, which for pre-training are named as those of
instances.py.
"""

import re
import time
from types import SimpleNamespace

import common
import numpy as np
import torch
import transformers

import run_classifier
import run_pretraining
import run_squad
import training as product
from data import model_inputs, packed_inputs
from modeling import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)
from optimization import create_optimizer
from tokenization import FullTokenizer

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
WIDTH = {"MRPC": 128, "SQuAD": 384, "pretraining": 128}
MASKED = 20  # words of an instance in pre-training
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


# Of this project: {task: (model, loss of a batch)}.
OURS = {
    "MRPC": (BertForSequenceClassification, run_classifier.compute_loss),
    "SQuAD": (BertForQuestionAnswering, run_squad.compute_loss),
    "pretraining": (BertForPreTraining, run_pretraining.compute_loss),
}


def make_batch(task, features):
    """A batch of this project, as its drivers make it."""
    if task == "pretraining":
        return run_pretraining.make_batch(features, MASKED)
    targets = tuple(targets_of(task, features).values())
    return packed_inputs(features), targets if len(targets) > 1 else targets[0]


def ours(task, shape, dtype, device, training=True, compiled=False, graphs=True):
    """A step of this project, as in its drivers: without padding, BERTAdam, autocast.

    On a GPU with CUDA graphs, unless they are switched off, and with --compile if `compiled`. For
    prediction a step takes any number of features and makes the batches itself.
    """
    kind, compute_loss = OURS[task]
    config = BertConfig(vocab_size=30522, type_vocab_size=2, **SHAPES[shape])
    runtime = product.Runtime(torch.device(device, 0) if device == "cuda" else torch.device(device))
    runtime.dtype = dtype
    args = SimpleNamespace(
        cuda_graphs=graphs, compile=compiled, gradient_accumulation_steps=1, fp16=False,
        max_seq_length=WIDTH[task],
    )  # fmt: skip
    with runtime.device:
        model = kind(config).train(training)
    product.place_model(args, runtime, model)

    def predict(features):
        def outputs_of(model, batch):
            outputs = model(*batch[0])
            outputs = outputs[:, None] if task == "MRPC" else torch.stack(outputs, dim=1)
            return list(outputs.float().cpu())

        return product.predict(
            runtime, model, features, None, lambda rows: make_batch(task, rows), outputs_of, None
        )

    if not training:
        return predict
    optimizer = create_optimizer(model, 2e-5, 1000, 100)
    step = product.make_train_step(args, runtime, model, optimizer, None, compute_loss)

    def train(features):
        totals = product.StepTotals(len(features))
        if task == "pretraining":
            weight = sum(len(row.masked_lm_ids) for row in features)
            totals = totals._replace(weight=torch.tensor(float(weight)))
        prepared = product.make_buffer(
            args, runtime, model, [features], totals, lambda rows: make_batch(task, rows)
        )
        return step([0], prepared)

    return train


def peer(task, shape, device="cpu", **options):
    """The model that transformers has for a task, with random weights."""
    config = transformers.BertConfig(vocab_size=30522, **SHAPES[shape], **options)
    kinds = {"MRPC": "SequenceClassification", "SQuAD": "QuestionAnswering"}
    with torch.device(device):
        return getattr(transformers, f"BertFor{kinds.get(task, 'PreTraining')}")(config)


def their_batch(task, features, width, multiple, with_targets):
    """{argument: tensor} for a model of transformers.

    Padded to `width`, or if that is 0 to the longest row, rounded up to a `multiple`. In
    pre-training the label of words that are not masked is -100, as its data collator sets it.
    """
    longest = max(len(feature.input_ids) for feature in features)
    batch = dict(zip(INPUTS, model_inputs(features, width or -(-longest // multiple) * multiple)))
    if not with_targets:
        return batch
    if task != "pretraining":
        return batch | targets_of(task, features)
    labels = torch.full_like(batch["input_ids"], -100)
    for target, feature in zip(labels, features):
        ids = torch.from_numpy(feature.masked_lm_ids)
        target[torch.from_numpy(feature.masked_lm_positions)] = ids.long()
    sentences = [int(feature.next_sentence_labels[0]) for feature in features]
    return batch | {"labels": labels, "next_sentence_label": torch.tensor(sentences)}


def theirs(
    task, shape, dtype, device, training=True, width=0, half_weights=False, multiple=1, cudnn=True
):
    """A step of transformers, as in its Trainer, but without the Trainer's own bookkeeping.

    Its default attention (SDPA), padded to `width` or the longest row, autocast or all weights in
    `dtype`, fused AdamW, gradient norm 1.0. On a GPU, SDPA without `cudnn` does not plan anew for
    each width, which takes 100 ms.
    """
    model = peer(task, shape, device).train(training)
    if half_weights:
        model.to(dtype)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=2e-5, fused=True) if training else None

    def outputs_of(features):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        batch = their_batch(task, features, width, multiple, training)
        if device == "cuda":  # as its DataLoader: pinned, then copied without waiting
            batch = {
                name: x.pin_memory().to(device, non_blocking=True) for name, x in batch.items()
            }
        enabled = dtype != torch.float32 and not half_weights
        with torch.autocast(device, dtype, enabled=enabled):
            return model(**batch)

    def train(features):
        outputs_of(features).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def predict(features):
        outputs = outputs_of(features)
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
