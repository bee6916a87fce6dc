"""Figures of tagged words: precision, recall and F1 of entities, and accuracy of tags.

Entities are read from their tags as conlleval does, the script of the CoNLL shared tasks, and as
seqeval does in its default mode (not in its strict one): a tag that does not continue an entity
begins one, so every sequence of tags can be read. The last word of an entity is marked E or L, an
entity of one word S, U or W, and a word inside one I or M. conlleval and seqeval have no L, U, W
and M; they are read as E, S, S and I.

Standard library only.
"""

import re
from collections import Counter
from collections.abc import Sequence

OUTSIDE = "O"

# Scheme -> the letters before "-TYPE". In IOB1 a B stands only where two entities of a type touch.
SCHEMES = {
    "BIO": "BI", "IOB1": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEW": "BMEW",
}  # fmt: skip
_PREFIXED = re.compile(r"([BIESLUMW])-(.+)")
_SAME_AS = {"L": "E", "U": "S", "W": "S", "M": "I"}


def is_prefixed(tag: str) -> bool:
    """Whether a tag has the form of an entity's, e.g. "B-PER"."""
    return _PREFIXED.fullmatch(tag) is not None


def has_entities(labels: Sequence[str]) -> bool:
    """Whether tags mark entities: all but "O" have the form of "B-PER"."""
    inside = [label for label in labels if label != OUTSIDE]
    return bool(inside) and all(map(is_prefixed, inside))


def split_tag(tag: str) -> tuple[str, str]:
    """(B, I, E, S or O; type) of an entity's tag: ("E", "PER") for "L-PER", ("O", "") for "O"."""
    found = _PREFIXED.fullmatch(tag)
    if found is None:
        return OUTSIDE, ""
    prefix, kind = found.groups()
    return _SAME_AS.get(prefix, prefix), kind


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities of a sentence, in order: (type, first word, last word + 1)."""
    found = []
    start = None
    before = OUTSIDE, ""
    for position, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = split_tag(tag)
        if not (prefix in "IE" and before[0] in "BI" and kind == before[1]):
            if start is not None:
                found.append((before[1], start, position))
            start = None if prefix == OUTSIDE else position
        before = prefix, kind
    return found


def may_follow(tag: str, before: str, scheme: str) -> bool:
    """Whether a scheme has a tag, and allows it after the tag `before`.

    `scheme` is a key of SCHEMES. "O" stands for what comes before and after a sentence.
    """
    if tag != OUTSIDE and tag[0] not in SCHEMES[scheme]:
        return False
    prefix, kind = split_tag(tag)
    prefix_before, kind_before = split_tag(before)
    is_open = prefix_before in "BI"  # An entity may go on.
    is_same = is_open and kind == kind_before
    if scheme == "BIO":
        return prefix != "I" or is_same
    if scheme == "IOB1":
        return prefix != "B" or is_same
    # Every entity has its first and last word marked.
    return is_same if prefix in "IE" else not is_open


def evaluate(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of the entities in the tags of sentences, each from 0 to 1.

    The keys are `precision`, `recall` and `f1` of all entities together, then `precision_PER`, … of
    each type that either side has. A figure that is undefined is 0.0, as in seqeval. Raises
    ValueError if the sentences differ in number or length.
    """
    right = Counter()
    found = Counter()
    wanted = Counter()
    if len(gold) != len(predicted):
        raise ValueError(f"{len(gold)} sentences have gold tags, {len(predicted)} predicted ones")
    for number, (own, other) in enumerate(zip(gold, predicted)):
        if len(own) != len(other):
            raise ValueError(f"sentence {number} has {len(own)} gold tags, {len(other)} predicted")
        gold_entities = set(entities(own))
        for entity in entities(other):
            found[entity[0]] += 1
            right[entity[0]] += entity in gold_entities
        wanted.update(kind for kind, _, _ in gold_entities)

    figures = _figures("", right.total(), found.total(), wanted.total())
    for kind in sorted(found.keys() | wanted.keys()):
        figures |= _figures(f"_{kind}", right[kind], found[kind], wanted[kind])
    return figures


def _figures(suffix, right, found, wanted):
    """Precision, recall and F1 from numbers of entities."""
    return {
        f"precision{suffix}": right / found if found else 0.0,
        f"recall{suffix}": right / wanted if wanted else 0.0,
        f"f1{suffix}": 2 * right / (found + wanted) if found + wanted else 0.0,
    }


def accuracy(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> float:
    """The share of words whose predicted tag is the gold one; 0.0 without words."""
    pairs = [pair for own, other in zip(gold, predicted) for pair in zip(own, other)]
    return sum(one == other for one, other in pairs) / len(pairs) if pairs else 0.0
