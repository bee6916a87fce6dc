"""Files of weights: what PyTorch and safetensors read in them, damage, hostile indexes."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from helpers import ROOT, run

from files import atomic_write
from weights import read_state_dict, write_bin, write_safetensors

SHAPES = {"a.weight": (3, 5), "b.weight": (5, 3), "c.weight": (15,), "d.bias": (), "e.é": (0, 4)}


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype("f4") for name, shape in SHAPES.items()}


def same(found, arrays):
    return found.keys() == arrays.keys() and all(
        found[name].shape == array.shape and found[name].numpy().tobytes() == array.tobytes()
        for name, array in arrays.items()
    )


def write(path, arrays):
    if path.suffix == ".safetensors":
        write_safetensors(path, arrays)
    else:
        write_bin(path, arrays.items(), 0)
    return path


# --- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_reads_it_as_its_own(tmp_path, arrays, mmap):
    write(tmp_path / "ours.bin", arrays)
    torch.save({name: torch.from_numpy(a) for name, a in arrays.items()}, tmp_path / "theirs.bin")
    found, theirs = (
        torch.load(tmp_path / name, weights_only=True, mmap=mmap)
        for name in ("ours.bin", "theirs.bin")
    )
    assert same(found, arrays) and type(found) is dict
    for name, tensor in theirs.items():
        ours = found[name]
        assert ours.dtype == tensor.dtype
        assert ours.stride() == tensor.stride() or not ours.numel()
        assert not ours.requires_grad and ours.is_contiguous()
    assert not mmap or all(t.data_ptr() % 64 == 0 for t in found.values() if t.numel())


def test_an_archive_is_whole(tmp_path, arrays):
    with zipfile.ZipFile(write(tmp_path / "w.bin", arrays)) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def test_more_tensors_than_a_byte_counts_and_large_shapes(tmp_path):
    arrays = {f"layer.{n}": np.full(n, n, "f4") for n in (0, 1, 255, 256, 65535, 65536)}
    arrays |= {f"many.{n}": np.full((1, n % 7), n, "f4") for n in range(300)}
    assert same(read_state_dict(write(tmp_path / "w.bin", arrays)), arrays)


def test_arrays_that_lie_otherwise(tmp_path, arrays):
    """Transposed, cut, big-endian, read-only: the values count."""
    table = np.arange(35, dtype="f4").reshape(5, 7)
    odd = {"t": table.T, "cut": table[::2, 1:4], "big": table.astype(">f4")}
    odd["fixed"] = np.frombuffer(table.tobytes(), "f4")
    expected = {name: np.ascontiguousarray(array, "f4") for name, array in odd.items()}
    assert same(read_state_dict(write(tmp_path / "w.bin", odd)), expected)
    pytest.importorskip("safetensors")
    assert same(read_state_dict(write(tmp_path / "w.safetensors", odd)), expected)


def test_safetensors_reads_it(tmp_path, arrays):
    library = pytest.importorskip("safetensors")
    with library.safe_open(write(tmp_path / "w.safetensors", arrays), "np") as file:
        assert file.metadata()["format"] == "pt"
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert found.keys() == arrays.keys()
    assert all(found[name].tobytes() == array.tobytes() for name, array in arrays.items())


def test_the_same_tensor_under_two_names(tmp_path, arrays):
    pytest.importorskip("safetensors")
    arrays["tied.weight"] = arrays["a.weight"]
    for name in ("w.bin", "w.safetensors"):
        assert same(read_state_dict(write(tmp_path / name, arrays)), arrays)


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
def test_what_cannot_be_written(tmp_path, arrays, name):
    (tmp_path / name).write_text("old")
    (tmp_path / f"{name}.tmp").mkdir()
    with pytest.raises(OSError, match=rf"{name} could not be written"):
        write(tmp_path / name, arrays)
    assert (tmp_path / name).read_text() == "old"


def test_an_error_of_something_else_is_not_the_files(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_write(tmp_path / "w.bin", "wb"):
        open(tmp_path / "nowhere")
    assert caught.value.filename == str(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_writing_needs_no_pytorch():
    code = "import sys, weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- what is read --------------------------------------------------------------------------------


def flips(data, path, bits):
    """Writes the file with each of some bits turned; yields after each, the file being there."""
    for bit in bits:
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        yield


@pytest.mark.parametrize("name", ["ours.bin", "theirs.bin", "w.safetensors"])
def test_no_flipped_bit_changes_a_weight(tmp_path, arrays, name):
    """Wherever it is, the file is refused by name, or the weights are the true ones."""
    path = tmp_path / name
    if name == "theirs.bin":
        torch.save({name: torch.from_numpy(a) for name, a in arrays.items()}, path)
    else:
        write(path, arrays)
    if name == "w.safetensors":
        pytest.importorskip("safetensors")
    data, refused = path.read_bytes(), 0
    bits = np.random.default_rng(1).choice(8 * len(data), 1200, replace=False)
    for _ in flips(data, path, bits.tolist()):
        try:
            assert same(read_state_dict(path), arrays)
        except ValueError as error:
            assert str(error).startswith(f"{path} is damaged or not a file of PyTorch weights: ")
            assert "\n" not in str(error)
            refused += 1
    assert refused > 500


def test_a_damaged_tensor_is_named(tmp_path, arrays):
    pytest.importorskip("safetensors")
    path = write(tmp_path / "w.safetensors", arrays)
    data = path.read_bytes()
    place = data.index(arrays["b.weight"].tobytes())
    for _ in flips(data, path, [8 * place, 8 * place + 479]):
        with pytest.raises(ValueError, match="the checksum of b.weight is wrong"):
            read_state_dict(path)
    path.write_bytes(data.replace(b'"b.weight":{', b'"B.weight":{'))
    with pytest.raises(ValueError, match="the checksum of B.weight is wrong"):
        read_state_dict(path)


def test_swapped_tensors_are_noticed(tmp_path, arrays):
    """a.weight and b.weight have as many values."""
    pytest.importorskip("safetensors")
    path = write(tmp_path / "w.safetensors", arrays)
    start = path.read_bytes().index(arrays["a.weight"].tobytes())
    first, second = slice(start, start + 60), slice(start + 60, start + 120)
    data = bytearray(path.read_bytes())
    data[first], data[second] = data[second], data[first]
    path.write_bytes(data)
    with pytest.raises(ValueError, match="the checksum of a.weight is wrong"):
        read_state_dict(path)


@pytest.mark.parametrize("name", ["w.bin", "w.safetensors"])
def test_cut_and_lengthened(tmp_path, arrays, name):
    pytest.importorskip("safetensors")
    path = write(tmp_path / name, arrays)
    data = path.read_bytes()
    for length in (0, 1, 7, 8, 40, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        problem = "damaged or not a file of PyTorch weights" if length else "empty: download"
        with pytest.raises(ValueError, match=f"{name} is {problem}"):
            read_state_dict(path)


@pytest.mark.parametrize("checksums", ["[]", "3", "{", '{"a.weight": "x"}', "{}"])
def test_odd_checksums(tmp_path, checksums):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({"a.weight": torch.ones(2)}, tmp_path / "w.safetensors", {"crc32c": checksums})
    with pytest.raises(ValueError, match="w.safetensors is damaged"):
        read_state_dict(tmp_path / "w.safetensors")


def test_another_librarys_file_needs_no_checksums(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    weights = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.arange(3)}
    for metadata in (None, {"format": "pt"}):
        save_file(weights, tmp_path / "w.safetensors", metadata)
        found = read_state_dict(tmp_path / "w.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


WRITE_LARGE = """
import resource, sys
import numpy as np
from weights import write_safetensors
arrays = {f"{n}.weight": np.ones((1024, 8192), "f4") for n in range(8)}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
try:
    write_safetensors(sys.argv[1], arrays)
except OSError as error:
    sys.exit(f"OSError: {error}")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_writing_safetensors_copies_nothing(tmp_path):
    """268 MB of weights; beside them only the library and its buffers."""
    outcome = run("-c", WRITE_LARGE, tmp_path / "w.safetensors").ok()
    assert int(outcome.out) < 60_000  # kilobytes
    assert (tmp_path / "w.safetensors").stat().st_size > 2**28


def test_a_disk_too_small_for_safetensors_is_reported(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"earlier")
    outcome = run("-c", WRITE_LARGE, tmp_path / "w.safetensors", "limited")
    assert outcome.status == 1
    assert "w.safetensors could not be written (268 MB): " in outcome.err
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"earlier"]


# --- files in parts ------------------------------------------------------------------------------


def test_no_index_leads_out_of_its_folder(tmp_path, arrays):
    (tmp_path / "inside").mkdir()
    write(tmp_path / "secret.bin", arrays)
    index = tmp_path / "inside" / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a.weight": "../secret.bin"}}))
    with pytest.raises(FileNotFoundError) as caught:
        read_state_dict(tmp_path / "inside")
    assert caught.value.filename == str(tmp_path / "inside" / "secret.bin")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}', "[" * 100000,
                '{"weight_map": {"a": 3}}', "\udcff"]
)  # fmt: skip
def test_odd_indexes(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content, "utf-8", errors="surrogateescape")
    with pytest.raises(
        ValueError, match="index.json is damaged or not an index of PyTorch weights"
    ):
        read_state_dict(tmp_path)
