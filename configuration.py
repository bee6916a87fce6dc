"""BERT's configuration, `bert_config.json`, read without PyTorch."""

import json
import os
from dataclasses import asdict, dataclass, field, fields

ACTIVATIONS = ("gelu", "gelu_new", "relu", "tanh", "linear")  # The functions are in modeling.py.
# Names of transformers for the same functions.
SAME_ACTIVATIONS = {
    "gelu_python": "gelu", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new",
}  # fmt: skip

# --- the keys of a configuration -----------------------------------------------------------------
# Every key of transformers' configuration of BERT is a field of BertConfig below, or is listed in
# one of the next three tables. Keys in none of them, such as those that Google added to its
# multilingual models, are kept and written back.

# Keys that change what a model computes, with the values that do not, and what others mean.
REFUSED = {
    "model_type": (("bert", None), "the configuration of another architecture"),
    "is_decoder": ((False, None), "a decoder, whose tokens see only those before them"),
    "add_cross_attention": ((False, None), "a decoder that attends an encoder"),
    "is_encoder_decoder": ((False, None), "an encoder with a decoder"),
    "position_embedding_type": (("absolute", None), "relative positions"),
    "pruned_heads": (({}, [], None), "a model without some of its heads"),
    "per_layer_config": (({}, None), "layers that differ from one another"),
    "quantization_config": (({}, None), "quantized weights"),
    "auto_map": (({}, None), "a model that is computed by code of its own"),
}

# Keys that describe the files, head or code of the model that was read, not the next one's.
# `checkpoint.inspect_folder` reads those of the labels; none is written.
DESCRIPTIVE = {
    "architectures", "id2label", "label2id", "num_labels", "problem_type", "dtype", "torch_dtype",
    "transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "finetuning_task",
    "task_specific_params", "custom_pipelines", "tokenizer_class", "vocab_size_or_config_json_file",
}  # fmt: skip

# Keys that do not change the function: what else transformers' models return, how it is computed
# there, and how text would be generated. They are kept.
HARMLESS = {
    "output_hidden_states", "output_attentions", "_output_attentions", "return_dict", "use_cache",
    "chunk_size_feed_forward", "cross_attention_hidden_size", "tie_encoder_decoder",
    "tie_last_hidden_states", "torchscript", "use_bfloat16", "gradient_checkpointing",
    "attn_implementation", "_attn_implementation", "_experts_implementation", "pad_token_id",
    "bos_token_id", "eos_token_id", "sep_token_id", "decoder_start_token_id", "prefix",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
    "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
    "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
    "num_return_sequences", "output_scores", "return_dict_in_generate", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens",
}  # fmt: skip

# What a transformers configuration means where it is silent, if not what Google's means.
TRANSFORMERS_DEFAULTS = {"vocab_size": 30522, "type_vocab_size": 2}
# Fields that Google's code does not know: written only where they differ from these.
NOT_GOOGLES = {"layer_norm_eps": 1e-12, "classifier_dropout": None, "tie_word_embeddings": True}


def check_activation(name: str) -> None:
    """Raises ValueError for an unknown activation."""
    if str(name).lower() not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: use one of {', '.join(ACTIVATIONS)}")


def check_keys(values: dict) -> None:
    """Raises ValueError for a key of REFUSED whose value changes what the model computes."""
    for name, (allowed, meaning) in REFUSED.items():
        if name in values and values[name] not in allowed:
            raise ValueError(f"{name} is {values[name]!r}, which is not supported: {meaning}")
    embedding_size = values.get("embedding_size")
    if embedding_size is not None and embedding_size != values.get("hidden_size"):
        raise ValueError(
            f"embedding_size is {embedding_size!r}, which is not supported: it is not hidden_size"
        )


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
    # Google's code has the first as a constant, the second equal to hidden_dropout_prob (None), and
    # the third always true. False is refused by BertForPreTraining alone, which has a decoder.
    layer_norm_eps: float = 1e-12
    classifier_dropout: float | None = None
    tie_word_embeddings: bool = True
    extra: dict = field(default_factory=dict)

    def __post_init__(self):
        for item in fields(self):
            value = getattr(self, item.name)
            if item.type is int and (type(value) is not int or value < 1):
                raise ValueError(f"{item.name} is {value!r}, which is not a whole number above 0")
            is_number = type(value) in (int, float)
            is_missing = value is None and item.type == float | None
            is_float = item.type in (float, float | None) and not is_missing
            if is_float and not (is_number and 0 <= value < 1):
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
        check_keys(values)
        if "model_type" in values:
            values = {**TRANSFORMERS_DEFAULTS, **values}
        if "vocab_size" not in values:  # the name in the oldest files of the first PyTorch port
            values = {**values, "vocab_size": values.get("vocab_size_or_config_json_file")}
        if values["vocab_size"] is None:
            raise ValueError("vocab_size is missing")
        activation = values.get("hidden_act")
        if isinstance(activation, str) and activation in SAME_ACTIVATIONS:
            values = {**values, "hidden_act": SAME_ACTIVATIONS[activation]}
        names = {item.name for item in fields(cls)} - {"extra"}
        known = {key: value for key, value in values.items() if key in names}
        extra = {
            key: value
            for key, value in values.items()
            if key not in names and key not in DESCRIPTIVE and key not in REFUSED
        }
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
        for name, default in NOT_GOOGLES.items():
            if values[name] == default:
                del values[name]
        return {**extra, **values}

    def to_json_string(self) -> str:
        """The contents of `bert_config.json`."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
