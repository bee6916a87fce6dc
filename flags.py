"""Command lines: flags as Google's scripts spell them, and a user's mistakes told in one line.

Imports nothing but the standard library, so that a wrong flag is answered, and --help printed,
before PyTorch is loaded.
"""

import argparse
import os
import sys
from functools import cache

SCHEDULES = ("warmup_linear", "warmup_constant", "warmup_cosine")

# Flags of Google's and of the first PyTorch port that have no meaning here.
MEANINGLESS = (
    "use_tpu", "tpu_name", "tpu_zone", "gcp_project", "master", "num_tpu_cores",
    "iterations_per_loop", "optimize_on_cpu",
)  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Flags as Google's command lines write them; a mistake is one line and exit status 2."""

    def __init__(self, description, example):
        super().__init__(
            description=description,
            epilog=f"example:\n{example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message):
        if message.endswith("expected one argument"):
            message += "; one that begins with - is joined by =, as in --flag=-1,-2"
        self.exit(2, f"{self.prog}: error: {message}\n")

    def flags(self, title, **flags):
        """Adds a group of flags: name=(default, help). The default's type is the flag's."""
        group = self.add_argument_group(title)
        for name, (default, text) in flags.items():
            shown = "required" if default is ... else f"default: {default}"
            options = {"dest": name, "help": f"{text} ({shown})".replace("%", "%%")}
            names = [f"--{name}"] + (["--local-rank"] if name == "local_rank" else [])
            if isinstance(default, bool):
                # --flag, --flag=true, --flag true, --no_flag: all that the originals understand.
                group.add_argument(
                    *names, type=boolean, nargs="?", const=True, default=default,
                    metavar="true|false", **options,
                )  # fmt: skip
                group.add_argument(
                    f"--no_{name}", dest=name, action="store_false", help=argparse.SUPPRESS
                )
                continue
            kind = str if default is ... or default is None else type(default)
            group.add_argument(
                *names, type=kind, default=None if default is ... else default,
                required=default is ..., metavar=kind.__name__.upper(), **options,
            )  # fmt: skip

    def parse_args(self, argv=None):
        for name in MEANINGLESS:
            self.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
        args = super().parse_args(argv)
        for name in MEANINGLESS:
            if getattr(args, name) is not None:
                note(f"--{name} has no meaning here and is ignored")
            delattr(args, name)
        return args


@cache  # Told once, though a script parses its flags twice: before PyTorch is loaded, and after.
def note(line):
    print(line, file=sys.stderr)


def boolean(text):
    values = {"true": True, "t": True, "1": True, "yes": True}
    values |= {"false": False, "f": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def add_model_flags(parser, max_seq_length, vocab_file=...):
    parser.flags(
        "model",
        bert_config_file=(..., "bert_config.json of the model"),
        vocab_file=(vocab_file, "vocab.txt of the model"),
        init_checkpoint=(None, "weights to start from: a file or folder of PyTorch weights, "
                         "or a TensorFlow checkpoint; without it they are random"),
        do_lower_case=(True, "lower-case the text and strip accents; --no_do_lower_case for "
                       "cased models"),
        strip_accents=(True, "strip accents from text that is lower-cased, as Google; "
                       "--no_strip_accents keeps them"),
        max_seq_length=(max_seq_length, "longer inputs are cut or windowed to so many WordPieces"),
    )  # fmt: skip


def add_training_flags(parser, train_batch_size, num_train_epochs):
    parser.flags(
        "length of training",
        num_train_epochs=(num_train_epochs, "passes over the training examples"),
        warmup_proportion=(0.1, "share of the steps over which the learning rate rises"),
    )
    add_step_flags(parser, train_batch_size)


def add_step_flags(parser, train_batch_size):
    parser.flags(
        "training",
        train_batch_size=(train_batch_size, "examples in a step, over all ranks and "
                          "accumulation steps together"),
        learning_rate=(5e-5, "peak learning rate of BERT's Adam"),
        schedule=("warmup_linear", f"learning-rate schedule: {', '.join(SCHEDULES)}"),
        gradient_accumulation_steps=(1, "parts into which a step's batch is cut to save memory"),
        seed=(42, "of the new weights, the order of examples and dropout"),
        save_checkpoints_steps=(1000, "steps between two checkpoints, from which the same "
                                "command goes on after a crash"),
        keep_checkpoints=(2, "how many of the newest checkpoints stay"),
        overwrite_output_dir=(False, "start anew where --output_dir holds an earlier run"),
        save_safetensors=(False, "write model.safetensors besides pytorch_model.bin"),
        tensorboard=(None, "folder for TensorBoard's event files (needs the package tensorboard)"),
    )  # fmt: skip
    parser.add_argument("--accumulate_gradients", dest="gradient_accumulation_steps", type=int,
                        default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # fmt: skip
    parser.flags(
        "device",
        no_cuda=(False, "stay on the CPU where there is a GPU"),
        bf16=(False, "matrix products in bfloat16 where the CPU or GPU has instructions for them, "
              "else in float32, which is faster there"),
        fp16=(False, "matrix products in float16 with loss scaling (GPU only)"),
        loss_scale=(0.0, "fixed loss scale for --fp16; 0 adapts it"),
        compile=(False, "compile the layers with torch.compile, which takes a minute at the start "
                 "(GPU only)"),
        local_rank=(-1, "set by the launcher of distributed training: torchrun, or "
                    "torch.distributed.launch"),
    )  # fmt: skip


def run(main):
    """Calls `main`, and turns a user's mistake into one line and exit status 2."""
    script = os.path.basename(sys.argv[0])
    try:
        main()
    except (ValueError, OSError) as error:
        if os.environ.get("BERT_DEBUG"):
            raise
        if isinstance(error, OSError) and error.filename is not None:
            error = f"{error.filename}: {error.strerror}"
        sys.stdout.flush()
        os.write(2, f"{script}: error: {error}\n".encode(errors="replace"))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def check_flags(args):
    """Raises ValueError for flags that cannot be meant."""
    for name in ("train_batch_size", "eval_batch_size", "predict_batch_size", "max_seq_length",
                 "gradient_accumulation_steps", "save_checkpoints_steps", "keep_checkpoints",
                 "n_best_size", "max_answer_length", "num_train_steps", "max_eval_steps",
                 "max_predictions_per_seq"):  # fmt: skip
        if getattr(args, name, 1) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, but must be 1 or more")
    for name in ("learning_rate", "num_train_epochs"):
        if not 0 < getattr(args, name, 1) < float("inf"):
            raise ValueError(f"--{name} is {getattr(args, name)}, but must be above 0")
    if not 0 <= getattr(args, "warmup_proportion", 0) <= 1:
        raise ValueError(f"--warmup_proportion is {args.warmup_proportion}, but must be 0 to 1")
    if not 0 <= getattr(args, "num_warmup_steps", 0) <= getattr(args, "num_train_steps", 0):
        raise ValueError(
            f"--num_warmup_steps is {args.num_warmup_steps}, but must be 0 to --num_train_steps, "
            f"which is {args.num_train_steps}"
        )
    if args.schedule not in SCHEDULES:
        raise ValueError(f"--schedule is {args.schedule!r}; use one of {', '.join(SCHEDULES)}")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}, but must be 0 or more")
    if args.bf16 and args.fp16:
        raise ValueError("--bf16 and --fp16 exclude each other")
    for name in ("bert_config_file", "vocab_file", "train_file", "predict_file", "data_dir"):
        path = getattr(args, name, None)
        if path and not os.path.exists(path):
            raise FileNotFoundError(f"--{name} {path} does not exist")
    check_output_dir(args.output_dir)
    if args.tensorboard:
        check_output_dir(args.tensorboard, "tensorboard")


def check_output_dir(path, name="output_dir"):
    """Raises OSError where files could not be written to `path`; creates nothing."""
    parent = os.path.abspath(path)
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    if not os.path.isdir(parent):
        raise NotADirectoryError(f"--{name} {path}: {parent} is a file")
    if not os.access(parent, os.W_OK):
        raise PermissionError(f"--{name} {path}: {parent} is not writable")


def check_model(config, vocab, args):
    """Raises ValueError where configuration, flags and vocabulary (or None) do not agree."""
    if args.max_seq_length > config.max_position_embeddings:
        raise ValueError(
            f"--max_seq_length {args.max_seq_length} exceeds the model's "
            f"{config.max_position_embeddings} positions"
        )
    if vocab is None:
        return
    size = max(vocab.values()) + 1
    if size != config.vocab_size:
        raise ValueError(
            f"{args.vocab_file} has {size} entries, but vocab_size in {args.bert_config_file} "
            f"is {config.vocab_size}: they belong to different models"
        )
    words = [word for word in vocab if not word.startswith("[")]
    capitals = sum(word != word.lower() for word in words)
    if args.do_lower_case and capitals > 0.05 * len(words):
        raise ValueError(
            f"{args.vocab_file} is that of a cased model ({capitals} of {len(words)} entries have "
            f"capitals): use --no_do_lower_case"
        )
    if not args.do_lower_case and not capitals and len(words) > 1000:
        raise ValueError(
            f"{args.vocab_file} is that of an uncased model (no entry has capitals): "
            f"drop --no_do_lower_case"
        )
