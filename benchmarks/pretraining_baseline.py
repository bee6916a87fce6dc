"""The score on pre-training instances of a model that reads nothing, as a baseline for training.

    python benchmarks/pretraining_baseline.py 'train-*.instances' heldout.instances

Predictions depend on the labels of the training instances alone. The masked word is the most
frequent one (unigram), or the most frequent one at [MASK] and the word in the input elsewhere
(unigram, copying); the next sentence is the more frequent class. The instances are those of
create_pretraining_data.py.
"""

import argparse
import glob
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from instances import InstanceFile  # noqa: E402


def labels_of(pattern):
    """The ids in the input at all masked positions, the labels there, the next-sentence labels.

    The first two are [masked], the last is [instances]. Raises FileNotFoundError, or ValueError for
    a file that is damaged or of another kind.
    """
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise FileNotFoundError(f"no file matches {pattern}")
    rows = [row for path in paths for row in InstanceFile(path)]
    inputs = [row["input_ids"][row["masked_lm_positions"]] for row in rows]
    labels = [row["masked_lm_ids"] for row in rows]
    following = [row["next_sentence_labels"] for row in rows]
    return tuple(map(np.concatenate, (inputs, labels, following)))


def baseline(training, evaluation):
    """{name: accuracy} on `evaluation`, predicted from `training`; both are from `labels_of`."""
    _, known, known_next = training
    inputs, labels, following = evaluation
    word, mask = (np.bincount(ids).argmax() for ids in (known, inputs))  # 80 % are [MASK]
    return {
        "masked LM, unigram": np.mean(labels == word),
        "masked LM, unigram, copying": np.mean(labels == np.where(inputs == mask, word, inputs)),
        "next sentence, majority": np.mean(following == np.bincount(known_next).argmax()),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("training", help="pattern of the files with training instances")
    parser.add_argument("evaluation", help="pattern of the files to score")
    args = parser.parse_args()
    try:
        evaluation = labels_of(args.evaluation)
        figures = baseline(labels_of(args.training), evaluation)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    for name, accuracy in figures.items():
        print(f"{name}: {accuracy:.4f}")
    print(f"of {len(evaluation[1]):,} masked positions in {len(evaluation[2]):,} instances")


if __name__ == "__main__":
    main()
