"""A short version of the attacks in tests/faults: kills, full disks, damage, hostile input."""

import contextlib
import gc
import json
import shutil
import signal
import sys
import zipfile

import pytest
import torch
from helpers import ROOT, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(ROOT / "tests" / "faults"))

import disk
import flips
import fuzz
import kills
import memory
from jobs import Tally, Zygote, losses, make_jobs
from zygote import BETWEEN, CHECKPOINT, EVALUATION, WEIGHTS

import checkpoint

# --- killed runs, signals, full disks -------------------------------------------------------------


@pytest.fixture(scope="module")
def zygote():
    with Zygote() as zygote:
        yield zygote


@pytest.fixture(scope="module")
def jobs(zygote, tmp_path_factory):
    """The drivers' commands, each already run once without an attack."""
    folder = tmp_path_factory.mktemp("jobs")
    jobs = make_jobs(folder)
    zygote.run_references(jobs, folder)
    return jobs


def test_every_phase_is_seen(jobs):
    for job in jobs:
        seen = [phase for phase, _ in job.phases]
        assert seen.count(CHECKPOINT) == 4 and seen.count(BETWEEN) == 2
        assert seen[-2:] == [WEIGHTS, EVALUATION] and set(kills.NAMED) <= set(seen)
        assert [step for step, _ in losses(job.reference)] == list(range(1, 13))


def test_killed_runs_end_as_if_nothing_had_happened(zygote, jobs, tmp_path):
    tally = kills.attack(zygote, jobs, tmp_path, seed=1, kills=12, each=2, interrupts=6, commands=0)
    assert not tally.failures
    assert min(tally.done[phase] for phase in kills.NAMED) >= 2
    assert tally.done[kills.SIGNALS] >= 1


def test_a_killed_command(zygote, jobs, tmp_path):
    """Without the zygote: the command as a user types it."""
    attack = kills.Attack(zygote, jobs[:1], tmp_path, seed=2)
    attack.kill_commands(1)
    assert not attack.tally.failures


def test_a_full_disk(zygote, jobs, tmp_path):
    tally = disk.attack(zygote, jobs, tmp_path, seed=3, times=1)
    assert not tally.failures
    assert tally.done[disk.LIMITS] >= 2


def test_a_difference_is_noticed(jobs, tmp_path):
    """The attacks rely on this."""
    job = jobs[0]
    copy = shutil.copytree(job.reference, tmp_path / "copy")
    assert job.differences(copy) == []
    values = torch.load(copy / "pytorch_model.bin", weights_only=True)
    values["classifier.bias"].view(torch.int32)[1] ^= 1  # the last bit
    torch.save(values, copy / "pytorch_model.bin")
    (copy / "test_results.tsv").write_text("")
    assert job.differences(copy) == ["classifier.bias", "test_results.tsv"]


@pytest.fixture
def stopped(zygote, jobs, tmp_path):
    """(job, output folder, two checkpoints) of the first job, killed at the end of training."""
    out = tmp_path / "stopped"
    ended = zygote.run(jobs[0].command(out), [(WEIGHTS, 1, 0.0, signal.SIGKILL)], hold=True)
    assert ended.status == -signal.SIGKILL
    return jobs[0], out, list(checkpoint.checkpoints(str(out)).values())


def damage(path):
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(bytes(100))


def test_the_checkpoint_before_a_damaged_one_is_used_and_that_is_said(zygote, stopped):
    job, out, (newest, before) = stopped
    damage(newest)
    tally = Tally()
    ended = zygote.finish(job, out, [], tally)
    assert not tally.failures
    assert f"{newest} is damaged: " in ended.output
    assert f"resuming from {before}" in ended.output


def test_damaged_checkpoints_alone_stop_the_run(zygote, stopped):
    job, out, paths = stopped
    for path in paths:
        damage(path)
    ended = zygote.run(job.command(out))
    assert ended.status == 2
    assert ended.last_line == (
        f"run_classifier.py: error: every checkpoint in {out} is damaged: --overwrite_output_dir "
        f"starts over"
    )
    assert "Traceback" not in ended.output and not (out / "pytorch_model.bin").exists()
    ended = zygote.run(job.command(out, "--overwrite_output_dir"))
    assert ended.status == 0 and job.differences(out) == []


def test_a_configuration_that_was_changed_stops_the_run(zygote, jobs, tmp_path):
    """The file has the same name; without this check another rate would go unnoticed."""
    config, out = tmp_path / "bert_config.json", tmp_path / "out"
    values = json.loads((jobs[0].reference / config.name).read_text("utf-8"))
    command = jobs[0].command(out, f"--bert_config_file={config}")
    config.write_text(json.dumps(values), "utf-8")
    zygote.run(command, [(WEIGHTS, 1, 0.0, signal.SIGKILL)], hold=True)
    config.write_text(json.dumps({**values, "hidden_dropout_prob": 0.2}), "utf-8")
    ended = zygote.run(command)
    assert ended.status == 2 and "(meaning of --bert_config_file was " in ended.last_line


def test_half_written_checkpoints_are_cleared_away(zygote, jobs, tmp_path):
    """They are left when a run is killed while it writes, perhaps more than once."""
    job, out = jobs[0], tmp_path / "out"
    out.mkdir()
    for step in (1, 2, 5):
        (out / f"checkpoint-{step}.pt.tmp").write_bytes(b"half")
    assert zygote.run(job.command(out)).status == 0
    assert not list(out.glob("*.tmp"))


# --- damaged weights ------------------------------------------------------------------------------


def test_no_damage_is_accepted_silently(tmp_path):
    tally = flips.attack(tmp_path, seed=4, flips=900)
    assert not tally.failures
    assert len(tally.done) >= 15
    refused = [key for key in tally.done if key[2] == flips.REFUSED]
    assert len({kind for kind, *_ in refused}) >= 5


def test_a_reader_that_does_not_look_is_found_out(tmp_path, monkeypatch):
    """Without our check of the archives' checksums, which PyTorch ignores, wrong weights load."""
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: None)
    tally = flips.attack(tmp_path, seed=5, flips=900)
    assert tally.failed(flips.SILENT) > 50


def test_an_entry_that_is_marked_as_a_folder(tmp_path):
    """PyTorch does not read such an entry and returns uninitialised memory."""
    kind = next(kind for kind in flips.make_kinds(tmp_path) if kind.name == "resume checkpoint")
    with zipfile.ZipFile(kind.path) as archive:
        place = kind.content.rindex(b"PK\1\2", 0, archive.start_dir + 2000)
    content = bytearray(kind.content)
    content[place + 38] |= 0x10  # external attributes
    kind.path.write_bytes(content)
    outcome, wrong = flips.judge(kind)
    assert outcome == flips.REFUSED and wrong is None


def test_an_archive_that_claims_more_than_it_holds(tmp_path):
    path = tmp_path / "bomb.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(
        ValueError, match=r"bomb\.bin is damaged.*claim more bytes than the file has"
    ):
        checkpoint.read_tensors(str(path))


# --- hostile input --------------------------------------------------------------------------------

byte_edits = st.lists(
    st.tuples(st.integers(0, 2**16), st.binary(max_size=6), st.integers(0, 6)), max_size=4
)
json_edits = st.lists(st.tuples(st.integers(0, 2**16), st.sampled_from(fuzz.VALUES)), max_size=4)


@pytest.fixture(scope="module")
def guards(tmp_path_factory):
    gc.collect()  # The lock of an earlier test's run must not be removed while a guard watches.
    return {
        name: fuzz.Guard(parser, tmp_path_factory.mktemp("fuzz"))
        for name, parser in fuzz.PARSERS.items()
    }


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", fuzz.PARSERS)
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_only_documented_exceptions_come_out(name, guards, data):
    parser = fuzz.PARSERS[name]
    seed = data.draw(st.sampled_from(parser.seeds))
    edits = data.draw(byte_edits), data.draw(json_edits)
    if parser.is_json and edits[1]:  # with both kinds of edits it would hardly ever be JSON
        edits = [], edits[1]
    assert guards[name].feed(fuzz.edit(parser, seed, *edits)) is None


@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_right_input_is_read_and_nothing_else_happens(name, guards):
    assert not guards[name].failures
    parser, folder, read = fuzz.PARSERS[name], guards[name].folder, 0
    for seed in parser.seeds:
        with contextlib.suppress(*fuzz.DOCUMENTED):
            parser.parse(seed, folder)
            read += 1
    assert read >= len(parser.seeds) // 4 + 1  # some are wrong on purpose
    assert not list(folder.rglob("executed"))


@pytest.mark.parametrize(
    "parse, failure",
    [
        (lambda data, folder: {}["missing"], "undocumented KeyError"),
        (lambda data, folder: open(folder.parent / "other", "wb"), "opens "),
        (lambda data, folder: fuzz.os.system("true"), "os.system"),
    ],
)
def test_the_guard_notices(tmp_path, parse, failure):
    guard = fuzz.Guard(fuzz.Parser([], parse, 1), tmp_path)
    assert guard.feed(b"").startswith(failure)


def test_an_index_of_weights_names_no_file_elsewhere(guards):
    """The file is taken from the index's folder, whatever path the index gives."""
    parser, folder = fuzz.PARSERS["weights (index)"], guards["weights (index)"].folder
    torch.save({"x": torch.zeros(3)}, folder.parent / "part.bin")
    parser.parse(parser.seeds[1], folder)
    assert guards["weights (index)"].feed(parser.seeds[1]) is None


# --- the command ----------------------------------------------------------------------------------


def test_command():
    outcome = run("tests/faults/run.py", "--only=flips", "--flips=60", "--seed=6").ok()
    assert outcome.out.startswith("seed 6\n") and outcome.out.endswith("\nnothing failed\n")
    assert "| model.safetensors " in outcome.out
    outcome = run("tests/faults/run.py", "--only=floods")
    assert outcome.status == 2 and "--only floods: one of kills, disk" in outcome.err


def test_growing_memory_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "figures", lambda *_: [(100.0, 4), (102.5, 5)])
    tally = memory.attack(tmp_path, 3, 5)
    assert tally.failed("memory") == tally.failed("open files") == len(make_jobs(tmp_path))
