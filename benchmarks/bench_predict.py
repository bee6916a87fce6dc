"""Evaluation on MRPC and prediction on SQuAD end to end: files in, answers and figures out.

"ours" are our drivers as a user starts them (--do_eval, --do_predict). "transformers" is the
function `theirs` below: it reads the same files with the fast tokenizer, pads as run_glue.py and
run_qa.py do by default, and post-processes in the same way. Whole processes are timed; the
contenders take turns.
"""

import common

args = common.parse_args(
    __doc__.split("\n")[0], rounds=(5, "timed runs of each"), shape=("", "384-wide or BERT-Base"),
    task=("", "MRPC or SQuAD"), child=("", "used by itself"),
)  # fmt: skip

import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402

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
    qas = [(p["context"], qa) for a in dataset["data"] for p in a["paragraphs"] for qa in p["qas"]]
    encoded = tokenizer(
        [qa["question"] for _, qa in qas], [context for context, _ in qas],
        truncation="only_second", max_length=384, stride=128, padding="max_length",
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    starts, ends = outputs(encoded, "start_logits", "end_logits")
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
    answers = {
        qa["id"]: context[slice(*best[sample][1])] if sample in best else ""
        for sample, (context, qa) in enumerate(qas)
    }
    with open(os.path.join(output, "predictions.json"), "w", encoding="utf-8") as file:
        json.dump(answers, file)
    print(evaluate(dataset, answers))


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
    rounds, rows = 2 if args.quick else args.rounds, []
    bfloat16 = "bfloat16" in common.precisions()
    for shape in [args.shape] if args.shape else list(common.SHAPES)[: 1 if args.quick else 2]:
        for task in [args.task] if args.task else ["MRPC", "SQuAD"]:
            rows += compare(task, shape, rounds, bfloat16)
    common.table("End to end", ["task", "shape", "", "seconds", "× transformers"], rows)
    common.finish(args, rows)


if __name__ == "__main__":
    main()
