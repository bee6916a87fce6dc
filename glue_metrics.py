"""The metrics of the GLUE benchmark: accuracy, F1, Matthews, Pearson and Spearman correlation.

Each takes two sequences of n values and gives a Python float, computed in float64, equal to what
scikit-learn (the first three) and SciPy give. Where a metric is undefined (nothing to compare, or
an input that is constant) it is 0.0; a correlation of values that are not finite is NaN. Nothing
warns. ValueError where the two differ in length or are not one-dimensional.
"""

import math

import numpy as np


def accuracy(predictions, labels):
    """The share of `predictions` that equal `labels`; 0.0 for none at all."""
    predictions, labels = _same_length(predictions, labels)
    return float(np.mean(predictions == labels)) if len(labels) else 0.0


def f1(predictions, labels):
    """Harmonic mean of precision and recall of class 1; 0.0 where neither side has a 1."""
    predicted, wanted = (values == 1 for values in _same_length(predictions, labels))
    num_same = np.count_nonzero(predicted & wanted)
    positives = np.count_nonzero(predicted) + np.count_nonzero(wanted)
    return float(2 * num_same / positives) if positives else 0.0


def matthews(predictions, labels):
    """Matthews' correlation of classes, two or more; 0.0 where either side is all one class.

    For more than two classes this is R_K (Gorodkin, 2004), as in scikit-learn.
    """
    predictions, labels = _same_length(predictions, labels)
    classes, index = np.unique(np.concatenate([predictions, labels]), return_inverse=True)
    predicted = np.bincount(index[: len(labels)], minlength=len(classes)).tolist()
    wanted = np.bincount(index[len(labels) :], minlength=len(classes)).tolist()
    # Python's integers: n**4 would overflow from n = 55,109 on.
    n, num_same = len(labels), int(np.count_nonzero(predictions == labels))
    covariance = num_same * n - sum(p * w for p, w in zip(predicted, wanted))
    variances = (n * n - sum(p * p for p in predicted)) * (n * n - sum(w * w for w in wanted))
    return covariance / math.sqrt(variances) if variances else 0.0


def pearson(x, y):
    """Pearson's correlation of `x` and `y`, between -1 and 1; 0.0 where either is constant."""
    x, y = (np.asarray(values, np.float64) for values in _same_length(x, y))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return math.nan
    # Not by the variance: rounding can leave one to a constant.
    if not len(x) or x.min() == x.max() or y.min() == y.max():
        return 0.0
    return float(np.clip(_direction(x) @ _direction(y), -1, 1))


def spearman(x, y):
    """Spearman's rank correlation, ties by their average rank; 0.0 where either is constant."""
    x, y = (np.asarray(values, np.float64) for values in _same_length(x, y))
    return math.nan if np.isnan(x).any() or np.isnan(y).any() else pearson(_ranks(x), _ranks(y))


def _direction(x):
    """`x` without its mean, as a vector of length 1; scaled first, so that no square overflows."""
    x = x / np.abs(x).max()
    x = x - x.mean()
    x /= np.abs(x).max()
    return x / np.sqrt(x @ x)


def _ranks(x):
    _, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def _same_length(a, b):
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"two lists of values are compared, not arrays of {a.shape} and {b.shape}")
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values cannot be compared with {len(b)}: one of each is needed")
    return a, b
