"""BERT's configuration, `bert_config.json`; read without PyTorch."""

import json
from dataclasses import asdict, dataclass, field, fields

ACTIVATIONS = ("gelu", "gelu_new", "relu", "tanh", "linear")  # The functions are in modeling.py.


def check_activation(name):
    """Raises ValueError for the name of an activation that there is not."""
    if str(name).lower() not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: use one of {', '.join(ACTIVATIONS)}")


@dataclass
class BertConfig:
    """The shape of a BERT, as in Google's `bert_config.json`; ValueError where it is contradictory.

    `extra` holds the keys of the file that mean nothing here; they are written back.
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
    type_vocab_size: int = 16  # As Google's default; every released file says 2.
    initializer_range: float = 0.02
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{item.name} is {value!r}, which is not a whole number above 0")
            number = type(value) in (int, float)
            if item.type is float and not (number and 0 <= value < 1):
                raise ValueError(f"{item.name} is {value!r}, which is not between 0 and 1")
        if self.hidden_size % self.num_attention_heads:
            sizes = (
                f"hidden_size {self.hidden_size}",
                f"num_attention_heads {self.num_attention_heads}",
            )
            raise ValueError("{} is not a multiple of {}".format(*sizes))
        if not callable(self.hidden_act):  # Google's may be a function, too.
            check_activation(self.hidden_act)

    @classmethod
    def from_dict(cls, values):
        """A configuration from a dictionary; keys that it does not know go to `extra`."""
        if not isinstance(values, dict):
            raise ValueError(f"a configuration is a JSON object, not a {type(values).__name__}")
        if "vocab_size" not in values:
            raise ValueError("vocab_size is missing")
        known = {item.name for item in fields(cls)} - {"extra"}
        extra = {key: values[key] for key in values if key not in known}
        return cls(**{key: values[key] for key in values if key in known}, extra=extra)

    @classmethod
    def from_json_file(cls, path):
        """Reads `bert_config.json`. Raises ValueError with the file's name where it is unfit."""
        try:
            with open(path, encoding="utf-8-sig") as file:
                return cls.from_dict(json.load(file))
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, not fitting
            raise ValueError(f"{path} is not a BERT configuration: {error}") from None

    def to_dict(self):
        values = asdict(self)
        return {**values.pop("extra"), **values}

    def to_json_string(self):
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
