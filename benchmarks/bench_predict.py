"""Evaluation on MRPC and prediction on SQuAD end to end, and new text through a loaded model.

End to end, files go in, and answers and figures come out.

"ours" are our drivers as a user starts them (--do_eval, --do_predict). "transformers" is the
function `theirs` below: it reads the same files with the fast tokenizer, pads as run_glue.py and
run_qa.py do by default, and post-processes in the same way. Whole processes are timed; the
contenders take turns.

New text: 10,000 pairs and 1,000 questions through `predict.load(folder)`, against transformers'
pipeline("text-classification"), and, as it has no pipeline for questions any more, against a loop
of AutoModelForQuestionAnswering with the fast tokenizer's windows and the same n-best rule, padded
to the longest window of each batch. Both are given the batch size at which they are fastest.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(5, "timed runs of each"), shape=("", "384-wide or BERT-Base"),
    task=("", "MRPC or SQuAD"), part=("", "loaded or drivers"), child=("", "used by itself"),
)  # fmt: skip

import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402

BATCH = 8


def make_weights(folder, shape):
    """Writes random weights of one shape, configuration and vocabulary, for both libraries."""
    import torch

    from modeling import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

    config = BertConfig(vocab_size=30522, type_vocab_size=2, **common.SHAPES[shape])
    torch.manual_seed(0)
    for task, kind in (
        ("MRPC", BertForSequenceClassification),
        ("SQuAD", BertForQuestionAnswering),
    ):
        os.makedirs(f"{folder}/{task}")
        torch.save(kind(config).state_dict(), f"{folder}/{task}/pytorch_model.bin")
        for name in ("bert_config.json", "config.json"):
            with open(f"{folder}/{task}/{name}", "w", encoding="utf-8") as file:
                json.dump({**config.to_dict(), "model_type": "bert"}, file)
        shutil.copyfile(common.vocab_file(), f"{folder}/{task}/vocab.txt")


def ours(task, folder, output):
    """The command line of our driver."""
    model = ["--vocab_file", f"{folder}/{task}/vocab.txt", "--bert_config_file",
             f"{folder}/{task}/bert_config.json", "--init_checkpoint", f"{folder}/{task}",
             "--output_dir", output]  # fmt: skip
    if task == "MRPC":
        return ["run_classifier.py", "--task_name", "MRPC", "--do_eval", "--data_dir",
                common.mrpc_dir(), *model]  # fmt: skip
    return ["run_squad.py", "--do_predict", "--predict_file",
            f"{common.squad_dir()}/dev-v1.1.json", *model]  # fmt: skip


def theirs(task, folder, output):
    """The same with transformers, in this process."""
    import numpy as np
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    kind = "SequenceClassification" if task == "MRPC" else "QuestionAnswering"
    tokenizer = transformers.BertTokenizerFast.from_pretrained(f"{folder}/{task}")
    model = getattr(transformers, f"BertFor{kind}").from_pretrained(f"{folder}/{task}").eval()

    @torch.inference_mode()
    def outputs(encoded, *names):
        keys = ("input_ids", "token_type_ids", "attention_mask")
        tensors = {key: torch.tensor(encoded[key]) for key in keys}
        parts = [
            model(**{key: tensor[i : i + BATCH] for key, tensor in tensors.items()})
            for i in range(0, len(tensors["input_ids"]), BATCH)
        ]
        return [torch.cat([part[name] for part in parts]).numpy() for name in names]

    if task == "MRPC":
        with open(f"{common.mrpc_dir()}/dev.tsv", encoding="utf-8-sig") as file:
            rows = [line.rstrip("\n").split("\t") for line in file][1:]
        pairs = [row[3] for row in rows], [row[4] for row in rows]
        encoded = tokenizer(*pairs, padding="max_length", truncation=True, max_length=128)
        (logits,) = outputs(encoded, "logits")
        labels = np.array([int(row[0]) for row in rows])
        print("accuracy", (logits.argmax(1) == labels).mean())
        return
    from squad_metrics import evaluate

    path = f"{common.squad_dir()}/dev-v1.1.json"
    with open(path, encoding="utf-8-sig") as file:
        dataset = json.load(file)
    qas = questions_of(dataset)
    encoded = tokenizer(
        [qa["question"] for _, qa in qas], [context for context, _ in qas],
        truncation="only_second", max_length=384, stride=128, padding="max_length",
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    spans = best_spans(encoded, *outputs(encoded, "start_logits", "end_logits"))
    answers = {
        qa["id"]: context[slice(*spans[sample])] if sample in spans else ""
        for sample, (context, qa) in enumerate(qas)
    }
    with open(os.path.join(output, "predictions.json"), "w", encoding="utf-8") as file:
        json.dump(answers, file)
    print(evaluate(dataset, answers))


def questions_of(dataset):
    """(context, question) of a SQuAD file."""
    return [(p["context"], qa) for a in dataset["data"] for p in a["paragraphs"] for qa in p["qas"]]


def best_spans(encoded, starts, ends):
    """{sample: (start, end)} of the best answers by SQuAD's n-best rule, from all windows."""
    import numpy as np

    best = {}
    for window, sample in enumerate(encoded["overflow_to_sample_mapping"]):
        offsets, parts = encoded["offset_mapping"][window], encoded.sequence_ids(window)
        for start in np.argsort(starts[window])[-1:-21:-1].tolist():
            for end in np.argsort(ends[window])[-1:-21:-1].tolist():
                inside = parts[start] == parts[end] == 1
                if inside and start <= end < start + 30:
                    score = starts[window][start] + ends[window][end]
                    span = offsets[start][0], offsets[end][1]
                    best[sample] = max(best.get(sample, (-1e9, None)), (score, span))
    return {sample: span for sample, (_, span) in best.items()}


# --- new text through a loaded model -------------------------------------------------------------


def new_pairs(count):
    """`count` pairs of MRPC's, repeated as often as needed."""
    with open(f"{common.mrpc_dir()}/train.tsv", encoding="utf-8-sig") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    return [(rows[i % len(rows)][3], rows[i % len(rows)][4]) for i in range(count)]


def new_questions(count):
    """`count` pairs of question and context of SQuAD's, repeated as often as needed."""
    with open(f"{common.squad_dir()}/dev-v1.1.json", encoding="utf-8-sig") as file:
        qas = questions_of(json.load(file))
    chosen = (qas[i % len(qas)] for i in range(count))
    return [(qa["question"], context) for context, qa in chosen]


def their_pipeline(folder):
    """A function of pairs and a batch size: transformers' pipeline."""
    import transformers

    pipe = transformers.pipeline(
        "text-classification", model=f"{folder}/MRPC", device="cpu", top_k=None,
        tokenizer=transformers.BertTokenizerFast.from_pretrained(f"{folder}/MRPC"),
    )  # fmt: skip

    def classify(pairs, batch):
        texts = [{"text": first, "text_pair": second} for first, second in pairs]
        return pipe(texts, batch_size=batch, truncation=True, max_length=128)

    return classify


def their_loop(folder):
    """A function of pairs of question and context and a batch size: the answers."""
    import torch
    import transformers

    tokenizer = transformers.BertTokenizerFast.from_pretrained(f"{folder}/SQuAD")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(f"{folder}/SQuAD").eval()
    keys = ("input_ids", "token_type_ids", "attention_mask")

    @torch.inference_mode()
    def answer(pairs, batch):
        encoded = tokenizer(
            *map(list, zip(*pairs)), truncation="only_second", max_length=384, stride=128,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        starts, ends = [], []
        for first in range(0, len(encoded["input_ids"]), batch):
            part = {key: encoded[key][first : first + batch] for key in keys}
            outputs = model(**tokenizer.pad(part, return_tensors="pt"))
            for ids, start, end in zip(part["input_ids"], *outputs.to_tuple()[:2]):
                starts.append(start[: len(ids)].numpy())
                ends.append(end[: len(ids)].numpy())
        spans = best_spans(encoded, starts, ends)
        return [
            context[slice(*spans[sample])] if sample in spans else ""
            for sample, (_, context) in enumerate(pairs)
        ]

    return answer


def best_batch(function, inputs):
    """The batch size at which `function` is fastest on a few of the inputs."""
    sizes = (8, 32) if args.quick else (1, 4, 8, 16, 32, 64, 128)
    few = inputs[: max(16, len(inputs) // 20)]
    function(few[:8], 8)
    seconds = {}
    for size in sizes:
        start = time.perf_counter()
        function(few, size)
        seconds[size] = time.perf_counter() - start
    return min(seconds, key=seconds.get)


def compare_loaded(task, shape, rounds, bfloat16):
    """Rows of seconds for new text through a model that is loaded already."""
    import torch

    import predict

    torch.set_num_threads(args.threads)
    count = {"MRPC": 10000, "SQuAD": 1000}[task] // (100 if args.quick else 1)
    inputs = new_pairs(count) if task == "MRPC" else new_questions(count)
    with tempfile.TemporaryDirectory() as folder:
        make_weights(folder, shape)
        models = {"predict.py": predict.load(f"{folder}/{task}", "cpu")}
        if bfloat16:
            models["predict.py, bfloat16"] = predict.load(f"{folder}/{task}", "cpu", bf16=True)
        theirs = their_pipeline(folder) if task == "MRPC" else their_loop(folder)
    for model in models.values():
        model.max_seq_length = 128 if task == "MRPC" else 384
    batch = best_batch(theirs, inputs)
    peer = f"transformers, batches of {batch}"
    method = "classify" if task == "MRPC" else "answers"
    contenders = {
        name: lambda _, model=model: getattr(model, method)(inputs)
        for name, model in models.items()
    }
    contenders[peer] = lambda _: theirs(inputs, batch)
    seconds = common.interleave(contenders, rounds, warmup=0)
    ratio = common.ratios(seconds, peer)
    what = f"{count:,} {'pairs' if task == 'MRPC' else 'questions'}"
    return [
        [what, shape, name, f"{common.spread(times)['median']:.1f}", common.text(ratio[name])]
        for name, times in seconds.items()
    ]


# --- end to end ----------------------------------------------------------------------------------


def compare(task, shape, rounds, bfloat16):
    with tempfile.TemporaryDirectory() as folder:
        make_weights(folder, shape)
        output = f"{folder}/output"
        os.makedirs(output)
        default = [__file__, "--threads", str(args.threads), "--child", f"{task}:{folder}:{output}"]

        def start(*command):
            subprocess.run(
                [sys.executable, *command], cwd=common.ROOT, check=True,
                env=os.environ | {"OMP_NUM_THREADS": str(args.threads)},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip

        contenders = {
            "ours": lambda _: start(*ours(task, folder, output)),
            "ours, bfloat16": lambda _: start(*ours(task, folder, output), "--bf16"),
            "transformers by default": lambda _: start(*default),
        }
        if not bfloat16:
            del contenders["ours, bfloat16"]
        common.progress(f"{task}, {shape}")
        seconds = common.interleave(contenders, rounds)
    ratio = common.ratios(seconds, "transformers by default")
    return [
        [task, shape, name, f"{common.spread(times)['median']:.1f}", common.text(ratio[name])]
        for name, times in seconds.items()
    ]


def main():
    if args.child:
        theirs(*args.child.split(":"))
        return
    rounds, rows, loaded = 2 if args.quick else args.rounds, [], []
    bfloat16 = "bfloat16" in common.precisions()
    for shape in [args.shape] if args.shape else list(common.SHAPES)[: 1 if args.quick else 2]:
        for task in [args.task] if args.task else ["MRPC", "SQuAD"]:
            if args.part in ("", "loaded"):
                loaded += compare_loaded(task, shape, rounds, bfloat16)
            if args.part in ("", "drivers"):
                rows += compare(task, shape, rounds, bfloat16)
    header = ["", "shape", "", "seconds", "× transformers"]
    common.table("New text through a loaded model", header, loaded)
    common.table("End to end", header, rows)
    common.finish(args, loaded + rows)


if __name__ == "__main__":
    main()
