"""The metrics of the GLUE benchmark: accuracy, F1, Matthews, Pearson and Spearman correlation.

Each function takes two sequences of n values and returns a Python float, computed in float64; where
an example may have several labels, two arrays [n, labels] of 0 and 1. The values are those of
scikit-learn, and of SciPy for the correlations. Where a metric is undefined, because there is
nothing to compare or an input is constant, it is 0.0; a correlation of values that are not finite
is NaN. There are no warnings. All raise ValueError if the sequences differ in length or dimensions.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The share of `predictions` that equal `labels`; 0.0 if there are none."""
    predictions, labels = _same_length(predictions, labels)
    if not len(labels):
        return 0.0
    return float(np.mean(predictions == labels))


def f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The harmonic mean of precision and recall of class 1; 0.0 if neither side has a 1."""
    predictions, labels = _same_length(predictions, labels)
    return _f1_of_class(predictions, labels, 1)


def macro_f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The mean of the F1 of every class that is predicted or a label; 0.0 if there are none."""
    predictions, labels = _same_length(predictions, labels)
    classes = np.unique(np.concatenate([predictions, labels]))
    if not len(classes):
        return 0.0
    return float(np.mean([_f1_of_class(predictions, labels, one) for one in classes]))


def _f1_of_class(predictions, labels, one):
    predicted = predictions == one
    wanted = labels == one

    num_same = np.count_nonzero(predicted & wanted)
    positives = np.count_nonzero(predicted) + np.count_nonzero(wanted)
    if not positives:
        return 0.0
    return float(2 * num_same / positives)


def micro_f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The F1 of all decisions on n examples and all labels together; 0.0 if none is positive."""
    predictions, labels = _same_table(predictions, labels)
    return _f1_of_class(predictions, labels, True)


def multi_label_macro_f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The mean of every label's F1, which is 0.0 for one that is neither predicted nor there."""
    predictions, labels = _same_table(predictions, labels)
    if not labels.shape[1]:
        return 0.0
    return float(np.mean([_f1_of_class(*column, True) for column in zip(predictions.T, labels.T)]))


def subset_accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The share of examples of which every label is right; 0.0 if there are none."""
    predictions, labels = _same_table(predictions, labels)
    if not len(labels):
        return 0.0
    return float(np.mean((predictions == labels).all(axis=1)))


def matthews(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Matthews' correlation of two or more classes; 0.0 if either side is all one class.

    For more than two classes this is R_K (Gorodkin, 2004), as in scikit-learn.
    """
    predictions, labels = _same_length(predictions, labels)
    n = len(labels)
    classes, index = np.unique(np.concatenate([predictions, labels]), return_inverse=True)

    # How often each class was predicted, and how often it is the label. These are Python integers,
    # because n**4 overflows int64 from n = 55,109.
    predicted = np.bincount(index[:n], minlength=len(classes)).tolist()
    wanted = np.bincount(index[n:], minlength=len(classes)).tolist()
    num_same = int(np.count_nonzero(predictions == labels))

    covariance = num_same * n - sum(p * w for p, w in zip(predicted, wanted))
    variance_predicted = n * n - sum(p * p for p in predicted)
    variance_wanted = n * n - sum(w * w for w in wanted)
    variances = variance_predicted * variance_wanted
    if not variances:
        return 0.0
    return covariance / math.sqrt(variances)


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of `x` and `y`, between -1 and 1; 0.0 if either is constant."""
    x, y = _same_length(x, y)
    x = x.astype(np.float64)
    y = y.astype(np.float64)

    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    # Not `var() == 0`: because of rounding, a constant can have a variance above 0.
    if not len(x) or x.min() == x.max() or y.min() == y.max():
        return 0.0
    return float(np.clip(_direction(x) @ _direction(y), -1, 1))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation; ties get their average rank; 0.0 if either is constant."""
    x, y = _same_length(x, y)
    x = x.astype(np.float64)
    y = y.astype(np.float64)

    if np.isnan(x).any() or np.isnan(y).any():
        return math.nan
    return pearson(_ranks(x), _ranks(y))


def _direction(x):
    """`x` minus its mean, scaled to length 1; divided by its maximum first to avoid overflow."""
    x = x / np.abs(x).max()
    x = x - x.mean()
    x /= np.abs(x).max()
    return x / np.sqrt(x @ x)


def _ranks(x):
    """The rank of each value from 1; equal values share the average of their ranks."""
    _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def _same_length(a, b):
    """Both as one-dimensional arrays of the same length. Raises ValueError."""
    a = np.asarray(a)
    b = np.asarray(b)
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(
            f"expected two one-dimensional sequences, found shapes {a.shape} and {b.shape}"
        )
    if len(a) != len(b):
        raise ValueError(f"expected two sequences of the same length, found {len(a)} and {len(b)}")
    return a, b


def _same_table(a, b):
    """Both as boolean arrays [n, labels]. Raises ValueError."""
    a = np.asarray(a).astype(bool)
    b = np.asarray(b).astype(bool)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"expected two [examples, labels], found shapes {a.shape} and {b.shape}")
    return a, b
