"""What a model that reads nothing scores on pre-training instances, to compare its training with.

    python benchmarks/pretraining_baseline.py 'train-*.instances' heldout.instances

Each is predicted from the training instances' labels alone: the masked word by the most frequent
one (unigram), or that only at [MASK] and elsewhere what stands there (unigram, copying); the next
sentence by the more frequent class. Instances are those of create_pretraining_data.py.
"""

import argparse
import glob
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from instances import InstanceFile  # noqa: E402


def labels_of(pattern):
    """Of all masked positions: the input's id there and the label's, [masked]; next sentence, [n].

    Raises FileNotFoundError, or ValueError for a file that is damaged or of another kind.
    """
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise FileNotFoundError(f"{pattern}: no such file")
    rows = [row for path in paths for row in InstanceFile(path)]
    inputs = [row["input_ids"][row["masked_lm_positions"]] for row in rows]
    labels = [row["masked_lm_ids"] for row in rows]
    following = [row["next_sentence_labels"] for row in rows]
    return tuple(map(np.concatenate, (inputs, labels, following)))


def baseline(training, evaluation):
    """{name: accuracy} on `evaluation`, predicted from `training`; both are of `labels_of`."""
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
    parser.add_argument("training", help="pattern of the training instances' files")
    parser.add_argument("evaluation", help="pattern of the files to be scored")
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
