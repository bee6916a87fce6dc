"""What the files of a folder say of its tokenizer, and words that are added to a vocabulary.

Casing, accents and tokens that stay whole lie in run.json, where a run of ours wrote the folder,
and in transformers' tokenizer_config.json, special_tokens_map.json, added_tokens.json and
tokenizer.json. Works without PyTorch.
"""

import os
from dataclasses import dataclass
from typing import NamedTuple

from files import TOKENIZER, TOKENIZER_CONFIG, VOCAB, read_json, read_lines, read_run
from tokenization import BRACKETED, CJK_CHAR, UNUSED, AddedToken, FullTokenizer, load_vocab

# The tokens that transformers always keeps whole. In a text they are split here, as in Google's.
SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}

# What tokenizers of transformers may say beside casing and accents, where it is as here.
TOKENIZER_VALUES = {
    "tokenizer_class": (
        None, "BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend",
        "DistilBertTokenizer", "DistilBertTokenizerFast", "ElectraTokenizer",
        "ElectraTokenizerFast",  # which split as BERT's does
    ),
    "do_basic_tokenize": (True, None), "tokenize_chinese_chars": (True, None),
    "clean_text": (True, None), "wordpieces_prefix": ("##", None), "auto_map": ({}, None),
    "normalizer": ("BertNormalizer", None), "pre_tokenizer": ("BertPreTokenizer", None),
    "word_tokenizer_type": ("basic", None), "subword_tokenizer_type": ("wordpiece", None),
    "unk_token": ("[UNK]", None), "cls_token": ("[CLS]", None), "sep_token": ("[SEP]", None),
    "pad_token": ("[PAD]", None), "mask_token": ("[MASK]", None),
}  # fmt: skip

# --- what a folder says --------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenizerFiles:
    """What a folder says of its tokenizer; `read_tokenizer_files` makes it.

    folder        the folder
    vocab_file    vocab.txt, else transformers' tokenizer.json; None without either
    run           run.json of the run that wrote the folder; {} in other folders
    values        what transformers' files say
    added_tokens  the tokens that stay whole, or that the vocabulary lacks, except SPECIAL
    """

    folder: str
    vocab_file: str | None
    run: dict
    values: dict
    added_tokens: tuple[AddedToken, ...]

    @property
    def casing(self) -> dict[str, bool]:
        """do_lower_case and strip_accents of the text, as far as the files say it.

        Of text that is not lower-cased nothing is said of accents: they stay.
        """
        said = {}
        for name in ("do_lower_case", "strip_accents"):
            value = self.run.get(name, self.values.get(name))
            if isinstance(value, bool):
                said[name] = value
        if not said.get("do_lower_case", True):
            said.pop("strip_accents", None)
        return said

    def refuse_others(self) -> None:
        """Raises ValueError if the tokenizer splits texts otherwise than ours can.

        Or if vocab.txt and tokenizer.json, which transformers prefers, contradict each other.
        """
        for name, allowed in TOKENIZER_VALUES.items():
            value = self.values.get(name)
            if isinstance(value, dict):  # a token with its properties
                value = value.get("content", value)
            if value not in allowed:
                raise ValueError(
                    f"the tokenizer in {self.folder} has {name} {value!r}, which is not supported: "
                    f"only {allowed[0] or allowed[1]!r} is"
                )
        if token := self._token_with_two_ids():
            raise ValueError(
                f"{VOCAB} and {TOKENIZER} in {self.folder} belong to different models, since "
                f"{token!r} has another number in each: remove the wrong one"
            )

    def _token_with_two_ids(self):
        """A token that vocab.txt and tokenizer.json have under different ids; None without any."""
        paths = [os.path.join(self.folder, name) for name in (VOCAB, TOKENIZER)]
        if not all(map(os.path.isfile, paths)):
            return None
        ids = load_vocab(paths[0])
        try:
            others = load_vocab(paths[1])
        except ValueError:  # a tokenizer without WordPieces
            return None
        return next(
            (token for token, index in others.items() if ids.get(token, index) != index), None
        )


def read_tokenizer_files(folder: str) -> TokenizerFiles:
    """What `folder` says of its tokenizer. Raises ValueError where a file is damaged."""

    def content(name):
        path = os.path.join(folder, name)
        return read_json(path) if os.path.isfile(path) else {}

    places = (VOCAB, os.path.join("assets", VOCAB), TOKENIZER)
    paths = [os.path.join(folder, place) for place in places]
    vocab_file = next(filter(os.path.isfile, paths), None)
    values = content("special_tokens_map.json") | content(TOKENIZER_CONFIG)
    whole = content(TOKENIZER)
    listed = content("added_tokens.json")
    normalizer = whole.get("normalizer")
    for name, key in (
        ("do_lower_case", "lowercase"), ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    ):  # fmt: skip
        if isinstance(normalizer, dict):
            values.setdefault(name, normalizer.get(key))
    model = whole.get("model")
    if isinstance(model, dict):
        values.setdefault("wordpieces_prefix", model.get("continuing_subword_prefix"))
    # Classes that do what tokenizer.json says; the others are BERT's, whatever it says.
    if values.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend") and whole:
        for name in ("normalizer", "pre_tokenizer"):
            part = whole.get(name)
            values[name] = part.get("type") if isinstance(part, dict) else "none"
    try:
        added = _added_tokens(values, whole, listed, vocab_file)
    except (TypeError, AttributeError, LookupError, ValueError) as error:
        raise ValueError(f"the added tokens in {folder} are damaged: {error}") from None
    return TokenizerFiles(folder, vocab_file, read_run(folder), values, added)


def _added_tokens(values, whole, listed, vocab_file):
    """The AddedTokens in the three places that transformers has for them, by their ids.

    `values` are tokenizer_config.json's, `whole` is tokenizer.json, `listed` added_tokens.json,
    which older versions wrote.
    """
    extra = values.get("additional_special_tokens") or values.get("extra_special_tokens") or []
    extra = extra.values() if isinstance(extra, dict) else extra
    extra = [token["content"] if isinstance(token, dict) else token for token in extra]
    # As transformers: where tokenizer_config.json has the tokens, the other files do not count.
    decoder = values.get("added_tokens_decoder")
    tokens = {}
    if decoder:
        for index, token in decoder.items():
            tokens[token["content"]] = _with_properties(token, index)
    else:
        for content, index in listed.items():
            tokens[content] = AddedToken(content, int(index), normalized=content not in extra)
        for token in whole.get("added_tokens") or []:
            tokens[token["content"]] = _with_properties(token, token["id"])

    missing = [content for content in extra if content not in {*tokens, *SPECIAL}]
    if missing and vocab_file:
        vocab = load_vocab(vocab_file)
        ids = [*vocab.values(), *(token.index for token in tokens.values())]
        for number, content in enumerate(missing):
            tokens[content] = AddedToken(content, vocab.get(content, max(ids) + 1 + number))
    kept = [token for token in tokens.values() if token.content not in SPECIAL and token.content]
    return tuple(sorted(kept, key=lambda token: token.index))


def _with_properties(token, index):
    """An AddedToken from its dictionary in transformers' files, whose defaults are these."""
    normalized = token.get("normalized", not token.get("special", False))
    return AddedToken(
        str(token["content"]), int(index), normalized, token.get("single_word", False)
    )


def tokenizer_config(tokenizer: FullTokenizer | None, casing: dict, max_length: int) -> dict:
    """The content of transformers' tokenizer_config.json: what stays whole here does there too."""
    values = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": casing["do_lower_case"],
        "strip_accents": bool(casing["do_lower_case"] and casing["strip_accents"]),
        "model_max_length": max_length,
    }
    tokens = [
        AddedToken(token, tokenizer.vocab[token]) if isinstance(token, str) else token
        for token in (tokenizer.never_split if tokenizer else ())
    ]
    if tokens:
        values["added_tokens_decoder"] = {
            str(token.index): {
                "content": token.content, "lstrip": False, "rstrip": False,
                "normalized": token.normalized, "single_word": token.single_word,
                "special": not token.normalized,
            }
            for token in tokens
        }  # fmt: skip
        as_written = [token.content for token in tokens if not token.normalized]
        values["additional_special_tokens"] = [t for t in as_written if t not in SPECIAL]
    return values


def vocab_content(vocab_file: str, tokenizer: FullTokenizer | None) -> bytes:
    """What vocab.txt has to hold for a model with this tokenizer, which read `vocab_file`.

    Tokens that transformers adds are not in it, but in tokenizer_config.json.
    """
    is_new = tokenizer is not None and tokenizer.has_new_entries
    if not is_new and os.path.basename(vocab_file) != TOKENIZER:
        with open(vocab_file, "rb") as file:
            return file.read()
    vocab = tokenizer.vocab if is_new else load_vocab(vocab_file)
    tokens = {index: token for token, index in vocab.items()}
    lines = [tokens.get(index, "") + "\n" for index in range(max(tokens) + 1)]
    return "".join(lines).encode()


# --- words that are added ------------------------------------------------------------------------


class NewTokens(NamedTuple):
    """What a file of words adds to a vocabulary.

    tokens   the AddedTokens, with entries that the vocabulary had and that now stay whole
    rows     {id: ids of the WordPieces that it was before} of those that are new
    summary  a line that says what became of the file's lines
    """

    tokens: tuple[AddedToken, ...]
    rows: dict[int, list[int]]
    summary: str


def read_new_tokens(path: str, tokenizer: FullTokenizer, num_rows: int = 0) -> NewTokens:
    """The words of a file, one a line, that the tokenizer's vocabulary lacks, with ids for them.

    They fill [unused…] entries first, then follow the last entry; `num_rows` is the number of rows
    of the word table, which may have a reserve. A word that becomes one basic token is an entry for
    WordPiece, in the form that casing and accents give it; a bracketed marker stays whole as it is
    written; other words with punctuation, and CJK ones, stay whole in that form. Raises OSError,
    or ValueError with file and line.
    """
    words, whole, notes = _new_words(path, tokenizer)
    taken = set() if tokenizer.keeps_all else tokenizer.whole
    unused = sorted(
        index
        for token, index in tokenizer.vocab.items()
        if UNUSED.fullmatch(token) and token not in taken
    )
    end = max(index for token, index in tokenizer.vocab.items() if token) + 1
    if len(words) > end:
        raise ValueError(
            f"--add_tokens {path} has {len(words):,} words that the vocabulary of {end:,} entries "
            f"lacks: is this a list of words to add?"
        )
    ids = [*unused, *range(end, end + len(words))][: len(words)]
    rows = {index: tokenizer.encode(word) for word, index in zip(words, ids)}
    tokens = [token._replace(index=index) for token, index in zip(words.values(), ids)]

    filled = min(len(unused), len(ids))
    reserve = min(max(num_rows - end, 0), len(ids) - filled)
    unknown = sum(tokenizer.vocab["[UNK]"] in pieces for pieces in rows.values())
    counts = [
        _counted(filled, "filled [unused] entry", "filled [unused] entries"),
        _counted(len(ids) - filled - reserve, "new row", "new rows"),
    ]
    if reserve:
        counts.append(_counted(reserve, "spare row of the table", "spare rows of the table"))
    if unknown:
        counts.append(f"{unknown} with [UNK] among their pieces before")
    summary = f"--add_tokens {path}: {', '.join(counts + notes)}"
    return NewTokens((*tokens, *whole), rows, summary)


def _counted(number, one, several):
    return f"{number} {one if number == 1 else several}"


def _new_words(path, tokenizer):
    """The words of a file as AddedTokens, and what to say of its other lines.

    Returns ({content: token without its id} of new ones, entries that are to stay whole, notes).
    """
    words = {}
    whole = []
    counts = {"in the vocabulary already": 0, "given twice": 0, "blank": 0}
    for number, line in enumerate(read_lines(path), start=1):
        word = line.strip()
        if not word:
            counts["blank"] += 1
            continue
        try:
            token = _new_token(word, tokenizer)
        except ValueError as error:
            raise ValueError(f"--add_tokens {path}:{number}: {word[:50]!r} {error}") from None
        if token.content in words:
            counts["given twice"] += 1
        elif token.content in tokenizer.vocab:
            counts["in the vocabulary already"] += 1
            if token.is_whole and token.content not in tokenizer.whole | SPECIAL:
                whole.append(token._replace(index=tokenizer.vocab[token.content]))
        else:
            words[token.content] = token
    return words, whole, [f"{number} {what}" for what, number in counts.items() if number]


def _new_token(word, tokenizer):
    """A word as an AddedToken, without its id. Raises ValueError with the rest of a sentence."""
    if len(word.split()) > 1:
        raise ValueError("has white space: give one word a line")
    if word.startswith("##"):
        raise ValueError("is a piece that continues a word: give whole words")
    if BRACKETED.fullmatch(word):
        return AddedToken(word, -1, is_entry=True)
    tokens = tokenizer.basic_tokenizer.tokenize(word)
    content = "".join(tokens)
    if not content:
        raise ValueError("has nothing that the tokenizer keeps: leave it out")
    limit = tokenizer.wordpiece_tokenizer.max_input_chars_per_word
    if len(content) > limit:
        raise ValueError(f"has more than {limit} characters, and longer words become [UNK]")
    if len(tokens) == 1 and content not in tokenizer.whole:
        return AddedToken(content, -1, is_whole=False, is_entry=True)
    # Signs stand beside letters, as in "a->b", and so do ideographs beside one another.
    is_word = any(char.isalnum() and not CJK_CHAR.match(char) for char in (content[0], content[-1]))
    return AddedToken(content, -1, normalized=True, single_word=is_word, is_entry=True)
