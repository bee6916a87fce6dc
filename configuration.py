"""BERT's configuration, `bert_config.json`, read without PyTorch."""

import json
import os
from dataclasses import asdict, dataclass, field, fields

ACTIVATIONS = ("gelu", "gelu_new", "relu", "tanh", "linear")  # The functions are in modeling.py.


def check_activation(name: str) -> None:
    """Raises ValueError for an unknown activation."""
    if str(name).lower() not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: use one of {', '.join(ACTIVATIONS)}")


@dataclass
class BertConfig:
    """The shape of a BERT model, as in Google's `bert_config.json`.

    `extra` holds the keys of the file that are unknown here, so that they can be written back.
    Raises ValueError for values that are out of range or contradict one another.
    """

    vocab_size: int
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 16  # Google's default, but every configuration it released says 2.
    initializer_range: float = 0.02
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{item.name} is {value!r}, which is not a whole number above 0")
            is_number = type(value) in (int, float)
            if item.type is float and not (is_number and 0 <= value < 1):
                raise ValueError(f"{item.name} is {value!r}, which is not between 0 and 1")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if not callable(self.hidden_act):  # As in Google's code, it may be a function.
            check_activation(self.hidden_act)

    @classmethod
    def from_dict(cls, values: dict) -> "BertConfig":
        """A configuration from a dictionary; unknown keys go to `extra`. Raises ValueError."""
        if not isinstance(values, dict):
            raise ValueError(f"a configuration is a JSON object, not a {type(values).__name__}")
        if "vocab_size" not in values:
            raise ValueError("vocab_size is missing")
        names = {item.name for item in fields(cls)} - {"extra"}
        known = {key: value for key, value in values.items() if key in names}
        extra = {key: value for key, value in values.items() if key not in names}
        return cls(**known, extra=extra)

    @classmethod
    def from_json_file(cls, path: str | os.PathLike) -> "BertConfig":
        """Reads `bert_config.json`. Raises OSError, or ValueError for a file that is invalid."""
        try:
            with open(path, encoding="utf-8-sig") as file:
                return cls.from_dict(json.load(file))
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or invalid values
            raise ValueError(f"{path} is not a BERT configuration: {error}") from None

    def to_dict(self) -> dict:
        """All values, those of `extra` included, as in the file."""
        values = asdict(self)
        extra = values.pop("extra")
        return {**extra, **values}

    def to_json_string(self) -> str:
        """The contents of `bert_config.json`."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
