"""tagging_metrics.py, against figures by hand, a plain reference, and seqeval."""

import random
import warnings

import pytest

from tagging_metrics import accuracy, entities, evaluate, has_entities, may_follow

TYPES = ("PER", "LOC", "ORG")
LETTERS = {"BIO": "BI", "IOB1": "BI", "BIOES": "BIES", "BILOU": "BILU", "BMES": "BMES"}


@pytest.mark.parametrize(
    "tags, wanted",
    [
        ("O O", []),
        ("B-A I-A O", [("A", 0, 2)]),
        ("B-A B-A", [("A", 0, 1), ("A", 1, 2)]),
        ("I-A I-A B-A I-B", [("A", 0, 2), ("A", 2, 3), ("B", 3, 4)]),
        ("O I-A", [("A", 1, 2)]),
        ("B-A I-A E-A S-A S-B", [("A", 0, 3), ("A", 3, 4), ("B", 4, 5)]),
        ("E-A I-A E-A O", [("A", 0, 1), ("A", 1, 3)]),
        ("B-A L-A U-A", [("A", 0, 2), ("A", 2, 3)]),
        ("B-A M-A E-A W-A", [("A", 0, 3), ("A", 3, 4)]),
        ("B-very-odd I-very-odd", [("very-odd", 0, 2)]),
        ("", []),
    ],
)
def test_entities(tags, wanted):
    assert entities(tags.split()) == wanted


def test_figures_by_hand():
    """Two of four entities are found; one has a wrong type, one a wrong end."""
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "I-ORG", "O", "B-LOC", "O"]]
    predicted = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "O", "O", "B-LOC", "O"]]
    found = evaluate(gold, predicted)
    assert found == {
        "precision": 2 / 4, "recall": 2 / 4, "f1": 0.5,
        "precision_LOC": 1.0, "recall_LOC": 0.5, "f1_LOC": pytest.approx(2 / 3),
        "precision_ORG": 0.0, "recall_ORG": 0.0, "f1_ORG": 0.0,
        "precision_PER": 1.0, "recall_PER": 1.0, "f1_PER": 1.0,
    }  # fmt: skip
    assert accuracy(gold, predicted) == 7 / 9
    assert evaluate([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert accuracy([], []) == 0.0
    for own, other in (([["O"]], []), ([["O"]], [["O", "O"]])):
        with pytest.raises(ValueError, match="1 "):
            evaluate(own, other)


def test_which_tags_mark_entities():
    assert has_entities(["O", "B-PER", "I-PER"]) and has_entities(["U-X", "L-X"])
    for labels in (["O"], [], ["NN", "VB"], ["O", "PER"], ["B-PER", "PER"], ["B", "I"], ["B-"]):
        assert not has_entities(labels)


def broken(tags, scheme):
    """The places of a sentence, and of its end, at which the scheme allows no such tag."""
    pairs = zip([*tags, "O"], ["O", *tags])
    return [place for place, pair in enumerate(pairs) if not may_follow(*pair, scheme)]


@pytest.mark.parametrize(
    "scheme, tags, places",
    [
        ("BIO", "I-A O B-A I-B I-B S-A", [0, 3, 5]),
        ("IOB1", "B-A O I-A B-A I-B B-A", [0, 5]),
        ("BIOES", "I-A B-A O E-A S-A B-A", [0, 1, 2, 3, 6]),
        ("BIOES", "B-A I-B E-B", [1]),
        ("BILOU", "B-A I-A L-A U-B O", []),
        ("BMES", "B-A E-A M-A", [2, 3]),
    ],
)
def test_tags_that_break_a_scheme(scheme, tags, places):
    assert broken(tags.split(), scheme) == places


# --- random sequences ----------------------------------------------------------------------------


def well_formed(rng, scheme):
    """The tags of a random sentence, as the scheme has them."""
    tags = []
    for _ in range(rng.randint(0, 6)):
        kind = rng.choice(TYPES)
        length = rng.randint(1, 3)
        if rng.random() < 0.4:
            tags += ["O"] * length
            continue
        touches = tags and tags[-1][2:] == kind
        begin, inside, *ends = LETTERS[scheme]
        if scheme == "IOB1" and not touches:
            begin = "I"
        letters = [begin, *inside * (length - 1)]
        if ends:
            letters[-1] = (ends if scheme != "BMES" else ("E", "S"))[length == 1]
        tags += [f"{letter}-{kind}" for letter in letters]
    return tags


def random_pairs(scheme, number=1000):
    """Yields gold and predicted tags: a third are right, a third random, the others between."""
    rng = random.Random(scheme)
    choices = ["O", *(f"{letter}-{kind}" for letter in LETTERS[scheme] for kind in TYPES)]
    for _ in range(number):
        gold = well_formed(rng, scheme)
        wrong = rng.choice((0.0, 0.2, 1.0))
        yield gold, [rng.choice(choices) if rng.random() < wrong else tag for tag in gold]


def renamed(tags):
    """Tags of BILOU and BMES as those of BIOES."""
    return [f"{tag[0].translate(str.maketrans('LUM', 'ESI'))}{tag[1:]}" for tag in tags]


def reference(tags):
    """conlleval's entities, by a table of which pairs of letters lie within one."""
    inside = {("B", "I"), ("B", "E"), ("I", "I"), ("I", "E")}
    found, current = [], []
    for place, tag in enumerate(tags):
        letter, _, kind = tag.partition("-")
        if current and ((current[-1][0], letter) not in inside or current[-1][1] != kind):
            found.append(current)
            current = []
        if letter != "O":
            current.append((letter, kind, place))
    found += [current] if current else []
    return {(entity[0][1], entity[0][2], entity[-1][2]) for entity in found}


@pytest.mark.parametrize("scheme", LETTERS)
def test_a_plain_reference_gives_the_same_figures(scheme):
    pairs = list(random_pairs(scheme))
    assert not any(broken(gold, scheme) for gold, _ in pairs)
    right = found = wanted = 0
    for gold, predicted in pairs:
        own, other = reference(renamed(gold)), reference(renamed(predicted))
        right, found, wanted = right + len(own & other), found + len(other), wanted + len(own)
    assert 300 < right < found and right < wanted
    figures = evaluate(*zip(*pairs))
    assert figures["precision"] == right / found and figures["recall"] == right / wanted
    assert figures["f1"] == pytest.approx(2 * right / (found + wanted), abs=1e-15)


@pytest.mark.parametrize("scheme", LETTERS)
def test_seqeval_gives_the_same_figures(scheme):
    """Its default mode, on 1,000 sentences: all together, and each type. Accuracy as well."""
    metrics = pytest.importorskip("seqeval.metrics")
    gold, predicted = zip(*random_pairs(scheme))
    figures = evaluate(gold, predicted)
    assert accuracy(gold, predicted) == pytest.approx(metrics.accuracy_score(gold, predicted))
    gold, predicted = [[*map(renamed, side)] for side in (gold, predicted)]
    theirs = metrics.classification_report(gold, predicted, output_dict=True, zero_division=0)
    for kind, suffix in {"micro avg": "", **{kind: f"_{kind}" for kind in TYPES}}.items():
        assert figures[f"precision{suffix}"] == pytest.approx(theirs[kind]["precision"], abs=1e-12)
        assert figures[f"recall{suffix}"] == pytest.approx(theirs[kind]["recall"], abs=1e-12)
        assert figures[f"f1{suffix}"] == pytest.approx(theirs[kind]["f1-score"], abs=1e-12)


@pytest.mark.parametrize("scheme", ["BIO", "IOB1", "BIOES", "BILOU"])
def test_seqeval_in_strict_mode_agrees_on_well_formed_tags(scheme):
    metrics = pytest.importorskip("seqeval.metrics")
    from seqeval import scheme as schemes

    names = {"BIO": "IOB2", "BIOES": "IOBES"}
    rng = random.Random(scheme)
    pairs = []
    for gold, _ in random_pairs(scheme, 300):
        other = well_formed(rng, scheme)
        length = min(len(gold), len(other))
        # Half of them are cut where no entity is cut off, and compared with another sentence.
        whole = all(
            length == len(tags) or "O" in (tags[length], tags[length - 1]) for tags in (gold, other)
        )
        pairs.append((gold[:length], other[:length]) if length and whole else (gold, gold))
    gold, predicted = zip(*pairs)
    options = {"mode": "strict", "scheme": getattr(schemes, names.get(scheme, scheme))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = metrics.f1_score(gold, predicted, **options)
    assert 0.2 < theirs < 1 and evaluate(gold, predicted)["f1"] == pytest.approx(theirs, abs=1e-12)
