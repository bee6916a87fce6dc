"""glue_metrics.py against hand-worked values, scikit-learn and SciPy."""

import math
import warnings

import numpy as np
import pytest

from glue_metrics import (
    accuracy,
    f1,
    macro_f1,
    matthews,
    micro_f1,
    multi_label_macro_f1,
    pearson,
    spearman,
    subset_accuracy,
)

METRICS = [accuracy, f1, matthews, pearson, spearman]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_hand_worked():
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
    predictions = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    labels = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]
    assert accuracy(predictions, labels) == 0.7
    assert f1(predictions, labels) == 2 * 3 / (4 + 5)
    assert matthews(predictions, labels) == pytest.approx(10 / math.sqrt(600), abs=1e-15)
    # Deviations (-2, -1, 3) and (-1, -1, 2): 9 / sqrt(14 * 6).
    assert pearson([1, 2, 6], [3, 3, 6]) == pytest.approx(9 / math.sqrt(84), abs=1e-15)
    # Ranks (1.5, 1.5, 3, 4) and (2, 1, 4, 3), deviations (-1, -1, 0.5, 1.5) and
    # (-0.5, -1.5, 1.5, 0.5): products 3.5, squares 4.5 and 5.
    wanted = 3.5 / math.sqrt(22.5)
    assert spearman([0, 0, 7, 9], [-2, -3, 8, 5]) == pytest.approx(wanted, abs=1e-15)


def test_three_classes():
    # 6 values, 5 equal, class counts (3, 1, 2) and (2, 2, 2).
    value = matthews([0, 0, 1, 0, 2, 2], [0, 0, 1, 1, 2, 2])
    assert value == pytest.approx((5 * 6 - 12) / math.sqrt((36 - 14) * (36 - 12)), abs=1e-15)


def test_perfect_and_worst_agreement():
    for metric in METRICS:
        assert metric([0, 1, 1, 0], [0, 1, 1, 0]) == pytest.approx(1, abs=1e-15)
    for metric in (matthews, pearson, spearman):
        assert metric([1, 0, 0, 1], [0, 1, 1, 0]) == pytest.approx(-1, abs=1e-15)
    assert accuracy([1, 0], [0, 1]) == f1([1, 0], [0, 1]) == 0


@pytest.mark.parametrize("metric", METRICS)
def test_degenerate_inputs_give_0(metric):
    assert metric([], []) == 0
    assert metric([0, 0, 0], [0.1, 0.1, 0.1]) == 0
    assert metric([0, 0], [2, 1]) == 0
    assert metric([2, 1], [0, 0]) == 0


def test_constant_up_to_rounding_is_constant():
    assert sum([0.1] * 3) / 3 != 0.1
    assert pearson([0.1] * 3, [1, 2, 4]) == spearman([1, 2, 4], [0.1] * 3) == 0


def test_extreme_values():
    assert pearson([1e300, -1e300, 0], [1e-300, -1e-300, 0]) == pytest.approx(1, abs=1e-15)
    assert pearson([1, 2, math.nan], [1, 2, 3]) != pearson([1, 2, math.nan], [1, 2, 3])
    assert math.isnan(pearson([1, 2, math.inf], [1, 2, 3]))
    assert math.isnan(spearman([1, 2, 3], [math.nan, 2, 3]))
    assert spearman([1, 2, math.inf], [1, 2, 3]) == pytest.approx(1, abs=1e-15)


def test_many_rows_do_not_overflow():
    labels = np.arange(200_000) % 2
    predictions = np.where(np.arange(200_000) % 10 < 2, 1 - labels, labels)
    assert matthews(predictions, labels) == pytest.approx(0.6, abs=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_types_and_wrong_inputs(metric):
    for kind in (list, tuple, np.array, lambda values: np.array(values, np.float32)):
        assert type(metric(kind([1, 0, 1]), kind([1, 1, 0]))) is float
    with pytest.raises(ValueError, match="3 .*2"):
        metric([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        metric([[1, 0], [0, 1]], [1, 0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_equals_scikit_learn(seed, classes):
    reference = pytest.importorskip("sklearn.metrics")
    random = np.random.RandomState(seed)
    labels = random.randint(classes, size=137)
    predictions = np.where(random.rand(137) < 0.6, labels, random.randint(classes, size=137))
    wanted = reference.accuracy_score(labels, predictions)
    assert accuracy(predictions, labels) == pytest.approx(wanted, abs=1e-12)
    wanted = reference.matthews_corrcoef(labels, predictions)
    assert matthews(predictions, labels) == pytest.approx(wanted, abs=1e-12)
    wanted = reference.f1_score(labels == 1, predictions == 1)
    assert f1(predictions, labels) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("round_to", [0, 6])
def test_equals_scipy(seed, round_to):
    reference = pytest.importorskip("scipy.stats")
    random = np.random.RandomState(seed)
    x = random.randn(137).round(round_to)  # rounded to 0 digits, so that most values tie
    y = (x + random.randn(137)).round(round_to)
    assert pearson(x, y) == pytest.approx(reference.pearsonr(x, y)[0], abs=1e-12)
    assert spearman(x, y) == pytest.approx(reference.spearmanr(x, y)[0], abs=1e-12)


def test_macro_f1():
    """As scikit-learn's average="macro": the mean over the classes that occur on either side."""
    assert macro_f1([0, 1, 2, 2], [0, 2, 2, 2]) == pytest.approx((1 + 0 + 4 / 5) / 3)
    assert macro_f1([0, 0], [0, 0]) == 1.0
    assert macro_f1([], []) == 0.0


def test_several_labels_hand_worked():
    # Of three labels: 1 of 2 and 2 found, 1 of 1 and 1, none of 0 and 1.
    predictions = [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    labels = [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert micro_f1(predictions, labels) == 2 * 2 / (4 + 3)
    assert multi_label_macro_f1(predictions, labels) == pytest.approx((0.5 + 1 + 0) / 3)
    assert subset_accuracy(predictions, labels) == 1 / 3
    for metric in (micro_f1, multi_label_macro_f1, subset_accuracy):
        assert metric(np.zeros((0, 3)), np.zeros((0, 3))) == 0
        with pytest.raises(ValueError, match="expected two"):
            metric([[1, 0]], [[1, 0, 0]])
        with pytest.raises(ValueError, match="expected two"):
            metric([1, 0], [1, 0])


@pytest.mark.parametrize("seed", range(5))
def test_several_labels_equal_sklearn(seed):
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.RandomState(seed)
    predictions = random.rand(50, 7) > 0.7
    labels = random.rand(50, 7) > 0.7
    labels[:, 0] = predictions[:, 0] = False  # a label that is nowhere counts as 0
    found = [
        metric(predictions, labels) for metric in (micro_f1, multi_label_macro_f1, subset_accuracy)
    ]
    assert found == pytest.approx(
        [
            sklearn.f1_score(labels, predictions, average="micro"),
            sklearn.f1_score(labels, predictions, average="macro", zero_division=0),
            sklearn.accuracy_score(labels, predictions),
        ]
    )
