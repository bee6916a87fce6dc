"""Training steps in memory that the tests of CUDA graphs share, for a recorder and for a GPU."""

import copy
from operator import attrgetter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from model_helpers import BATCH, TINY, WIDTH, tiny

import run_classifier
import run_pretraining
import run_squad
import run_tagger
import training
from data import packed_inputs
from instances import Instances
from modeling import (
    NO_LABEL,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from optimization import create_optimizer
from padding import BatchBuffer, PackedInputs, map_batch
from training import Runtime

MULTIPLE = 16  # rows of a bucket: 13 sequences of 1 to 7 tokens make several
STEPS = 8


def refuse(*_):
    raise RuntimeError("operation not permitted when stream is capturing\nand more lines")


def features(seed):
    """13 rows of 1 to 7 tokens with the targets of all tasks."""
    random = np.random.default_rng(seed)
    rows = []
    for length in random.integers(1, WIDTH + 1, BATCH):
        masked = random.permutation(length)[: random.integers(1, 4)]
        rows.append(
            SimpleNamespace(
                input_ids=random.integers(0, TINY["vocab_size"], length, np.int32),
                segment_ids=random.integers(0, TINY["type_vocab_size"], length, np.int32),
                label_id=int(random.integers(2)),
                weight=float(random.choice([0.5, 2.0])),
                token_labels=random.choice([0, 1, NO_LABEL], length),
                start_position=int(random.integers(length)),
                end_position=int(random.integers(length)),
                masked_lm_positions=masked,
                masked_lm_ids=random.integers(0, TINY["vocab_size"], len(masked)),
                masked_lm_weights=np.ones(len(masked), np.float32),
                next_sentence_labels=random.integers(0, 2, 1),
            )
        )
    return rows


def labels_of(rows, name="label_id", dtype=torch.int64):
    return torch.tensor([getattr(row, name) for row in rows], dtype=dtype)


def regression_model(config):
    return BertForSequenceClassification(config, num_labels=1)


def classifier_batch(rows, dtype=torch.int64):
    return packed_inputs(rows), labels_of(rows, dtype=dtype)


def weighted_batch(rows):
    return *classifier_batch(rows), labels_of(rows, "weight", torch.float32)


def tagging_batch(rows):
    labels = np.full((BATCH, TINY["max_position_embeddings"]), NO_LABEL)
    for own, row in zip(labels, rows):
        own[: len(row.token_labels)] = row.token_labels
    return packed_inputs(rows), torch.from_numpy(labels)


# {task: (model, batch of rows, loss, weight of a row in its step's mean)}
TASKS = {
    "classification": (
        BertForSequenceClassification,
        classifier_batch,
        run_classifier.compute_loss,
        None,
    ),
    "class weights": (
        BertForSequenceClassification,
        weighted_batch,
        run_classifier.compute_loss,
        attrgetter("weight"),
    ),
    "tagging": (
        BertForTokenClassification,
        tagging_batch,
        run_tagger.compute_loss,
        lambda row: (row.token_labels != NO_LABEL).sum(),
    ),
    "regression": (
        regression_model,
        lambda rows: classifier_batch(rows, torch.float32),
        run_classifier.compute_loss,
        None,
    ),
    "question answering": (
        BertForQuestionAnswering,
        lambda rows: (
            packed_inputs(rows),
            (labels_of(rows, "start_position"), labels_of(rows, "end_position")),
        ),
        run_squad.compute_loss,
        None,
    ),
    "pre-training": (
        BertForPreTraining,
        lambda rows: run_pretraining.make_batch(rows, width=3),
        run_pretraining.compute_loss,
        Instances.weight_of,
    ),
}


class TaskRun:
    """Steps of a task, captured and replayed, or eager; `capture` is a class of captures.

    like    a run whose state it goes on from
    padded  whether the model gets [B, S] inputs
    config  a configuration instead of the tiny one; rows() and width then give a step's rows and S
    """

    def __init__(
        self, task, capture, graphs=True, dropout=0.1, like=None, padded=False, device="cpu",
        dtype=torch.float32, config=None, rows=None, width=TINY["max_position_embeddings"],
    ):  # fmt: skip
        model_class, self.make_batch, compute_loss, self.weight_of = TASKS[task]
        self.graphs = graphs
        self.device = torch.device(device)
        self.rows, self.width = rows, width
        self.model = model_class(config) if config else tiny(model_class, dropout)
        self.model.train().to(self.device)
        self.optimizer = create_optimizer(self.model, 1e-2, 2 * STEPS, 3)
        if like:
            self.model.load_state_dict(like.model.state_dict())
            self.optimizer.load_state_dict(copy.deepcopy(like.optimizer.state_dict()))
        self.lines = []
        runtime = Runtime(self.device, dtype=dtype)
        runtime.print = self.lines.append
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "why_no_graphs", lambda *_: "" if graphs else "no GPU")
            patch.setattr(training, "Capture", capture)
            replica = training.PaddedForward(self.model) if padded else self.model
            self.step = training.make_train_step(
                SimpleNamespace(), runtime, replica, self.optimizer, None, compute_loss
            )

    def prepared(self, number):
        """What training.prepare_step makes, of other rows in each step."""
        rows = self.rows() if self.rows else features(number)
        batches = (self.make_batch(rows),)
        if self.graphs:
            batches = map_batch(
                lambda packed: packed.in_bucket(self.width, MULTIPLE if self.rows is None else 128),
                batches,
                PackedInputs,
            )
        totals = training.own_totals(self, [rows], len(rows))
        return [100 + number], BatchBuffer((batches, totals), self.device)

    def train(self, numbers):
        """The losses of these steps."""
        return [self.step(*self.prepared(number)).item() for number in numbers]


def assert_same_bits(one, other):
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name
    states = one.optimizer.state_dict(), other.optimizer.state_dict()
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for number, moments in states[0]["state"].items():
        for name, value in moments.items():
            assert torch.equal(value, states[1]["state"][number][name]), (number, name)
