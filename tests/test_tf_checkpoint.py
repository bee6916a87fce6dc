"""TensorFlow's checkpoints: read and written as TensorFlow does, and never trusted blindly."""

import resource
import shutil
import struct
import tarfile
import zipfile

import crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tf_checkpoint
from tf_checkpoint import MAGIC, Checkpoint, find_prefix, write_checkpoint

RNG = np.random.default_rng(0)
VARIABLES = {
    "a/float32": RNG.standard_normal((13, 7)).astype(np.float32),
    "a/float64": RNG.standard_normal(37),
    "a/float16": RNG.standard_normal((3, 1, 5)).astype(np.float16),
    "a/bits": RNG.integers(0, 2**16, (7, 3), dtype=np.uint16),
    "b/int32": RNG.integers(-(2**31), 2**31, 11, dtype=np.int32),
    "b/int64": RNG.integers(-(2**62), 2**62, (2, 2), dtype=np.int64),
    "global_step": np.int64(-5),
    "nan": np.array([0x7FC00001, 0xFFFFFFFF, 0x80000000], np.uint32).view(np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "ünï/name": np.float32(1.5),
}
BFLOAT16 = {"a/bits"}


def same(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return (
        a.shape == b.shape and a.dtype.itemsize == b.dtype.itemsize and a.tobytes() == b.tobytes()
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The prefix of a checkpoint with every type."""
    prefix = tmp_path_factory.mktemp("small") / "model.ckpt"
    write_checkpoint(prefix, VARIABLES, BFLOAT16)
    return str(prefix)


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def copy(prefix, folder):
    for path in (f"{prefix}.index", f"{prefix}.data-00000-of-00001"):
        shutil.copy(path, folder)
    return str(folder / "model.ckpt")


# --- a writer of hostile indexes, independent of the code under test ---


def number(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def part(field, data):
    return number(8 * field + 2) + number(len(data)) + data


def checksum(data):
    crc = crc32c.crc32c(data)
    rotated = (crc >> 15) | (crc << 17 & 0xFFFFFFFF)
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def raw_block(pairs, kind=0, restarts=b"\0\0\0\0\1\0\0\0"):
    """(shared length, rest of the key, value) -> a block with a valid checksum."""
    data = b"".join(number(s) + number(len(k)) + number(len(v)) + k + v for s, k, v in pairs)
    data += restarts
    return data + bytes([kind]) + checksum(data + bytes([kind]))


def write_index(prefix, *blocks, handles=None, magic=MAGIC):
    """Writes a table of complete blocks."""
    data, places = b"", []
    for block in (*blocks, raw_block([])):
        places.append(number(len(data)) + number(len(block) - 5))
        data += block
    *places, meta = places
    index = raw_block([(0, b"\xff", place) for place in handles or places])
    footer = meta + number(len(data)) + number(len(index) - 5)
    with open(f"{prefix}.index", "wb") as file:
        file.write(data + index + footer.ljust(40, b"\0") + magic)


HEADER = (0, b"", b"\x08\x01")


def entry(dtype=1, shape=(2,), shard=0, offset=0, size=8, crc=b"\0\0\0\0", extra=b""):
    dims = b"".join(part(2, b"\x08" + number(n)) for n in shape)
    numbers = ((1, dtype), (3, shard), (4, offset), (5, size))
    message = b"".join(number(8 * field) + number(value) for field, value in numbers)
    return message + part(2, dims) + b"\x35" + crc + extra


@pytest.fixture
def hostile(tmp_path):
    """A function that opens a checkpoint of given entries, with a shard of 100 bytes."""
    (tmp_path / "m.data-00000-of-00001").write_bytes(bytes(range(100)))

    def opened(*entries, **options):
        write_index(tmp_path / "m", raw_block([HEADER, *entries]), **options)
        return Checkpoint(tmp_path / "m")

    return opened


# --- round trips ---


def test_round_trip(small):
    checkpoint = Checkpoint(small)
    assert checkpoint.prefix == small
    assert list(checkpoint.variables) == sorted(VARIABLES, key=str.encode)
    for name, array in VARIABLES.items():
        dtype = "bfloat16" if name in BFLOAT16 else array.dtype.name
        assert checkpoint.variables[name] == (dtype, array.shape)
        assert same(checkpoint[name], array), name
        assert checkpoint[name].dtype == array.dtype
        assert type(checkpoint[name]) is np.ndarray and not checkpoint[name].flags.writeable


def test_unknown_name(small):
    with pytest.raises(KeyError, match="no/such"):
        Checkpoint(small)["no/such"]


def test_lazy_pairs_in_any_order_and_layout(tmp_path):
    """Pairs are taken one by one; transposed and big-endian arrays are stored in plain layout."""
    array = RNG.standard_normal((13, 7)).astype(np.float32)
    taken = []

    def pairs():
        for name, value in (("z", array.T), ("a", array.astype(">f4")), ("m", array[::2])):
            taken.append(len(list(tmp_path.glob(".x.*/*.data*"))))
            yield name, value

    write_checkpoint(tmp_path / "x", pairs())
    assert taken == [1, 1, 1]  # The shard was already open when each pair was taken.
    checkpoint = Checkpoint(tmp_path / "x")
    assert same(checkpoint["z"], np.ascontiguousarray(array.T))
    assert same(checkpoint["a"], array) and same(checkpoint["m"], np.ascontiguousarray(array[::2]))


@pytest.mark.parametrize(
    "variables, bfloat16",
    [
        ({"a": np.zeros(3, np.uint16)}, ()),
        ({"a": np.zeros(3, np.int16)}, {"a"}),
        ({"a": np.array(["text"])}, ()),
        ({"a": np.zeros(3, np.complex64)}, ()),
        ({"": np.zeros(3)}, ()),
        ({"\0a": np.zeros(3)}, ()),
        ([("a", np.zeros(3)), ("a", np.ones(3))], ()),
    ],
)
def test_refuses_to_write(tmp_path, variables, bfloat16):
    with pytest.raises(ValueError, match="x: '"):
        write_checkpoint(tmp_path / "x", variables, bfloat16)
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_one(tmp_path, small):
    prefix = copy(small, tmp_path)

    def pairs():
        yield "a", np.zeros(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_checkpoint(prefix, pairs())
    assert len(list(tmp_path.iterdir())) == 2
    assert same(Checkpoint(prefix)["nan"], VARIABLES["nan"])


def test_many_blocks(tmp_path):
    names = [f"some/long/scope/of/layer_{n}/variable" for n in range(5000)]
    write_checkpoint(tmp_path / "x", ((n, np.int32(i)) for i, n in enumerate(names)))
    checkpoint = Checkpoint(tmp_path / "x")
    assert len(checkpoint.variables) == 5000
    assert all(checkpoint[n] == i for i, n in list(enumerate(names))[::501])


def test_memory_is_given_back(tmp_path):
    """Reading 20 variables of 16 MB one after the other keeps none of them in memory."""
    block = np.ones(2**22, np.float32)
    write_checkpoint(tmp_path / "x", ((f"v{n}", block) for n in range(20)))

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    checkpoint = Checkpoint(tmp_path / "x")
    before, most = resident(), 0
    for name in checkpoint.variables:
        array = checkpoint[name]
        most = max(most, resident() - before)
        del array
    # One variable at a time is in memory, and all of it, because of its checksum.
    assert 15e6 < most < 40e6


# --- against TensorFlow ---


def test_tensorflow_reads_ours(tf, small):
    reader = tf.train.load_checkpoint(small)
    shapes = reader.get_variable_to_shape_map()
    types = reader.get_variable_to_dtype_map()
    assert set(shapes) == set(VARIABLES)
    for name, array in VARIABLES.items():
        assert same(reader.get_tensor(name), array), name
        assert types[name].name == ("bfloat16" if name in BFLOAT16 else array.dtype.name)


def test_tensorflow_reads_many_blocks(tf, tmp_path):
    names = [f"scope/{n:04d}/variable" for n in range(3000)]
    write_checkpoint(tmp_path / "x", {n: np.float32(i) for i, n in enumerate(names)})
    reader = tf.train.load_checkpoint(str(tmp_path / "x"))
    assert len(reader.get_variable_to_shape_map()) == 3000
    assert [float(reader.get_tensor(n)) for n in names[::97]] == list(range(3000))[::97]
    assert not reader.has_tensor("scope/0005") and not reader.has_tensor("zzz")


def save(tf, prefix, names, slices=None):
    """Some of VARIABLES, written by TensorFlow."""
    tensors = [
        tf.bitcast(VARIABLES[n], tf.bfloat16) if n in BFLOAT16 else tf.constant(VARIABLES[n])
        for n in names
    ]
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=slices or [""] * len(names),
        tensors=tensors,
    )


def test_reads_tensorflow(tf, tmp_path, small):
    names = sorted(VARIABLES, key=str.encode)
    save(tf, tmp_path / "x", names)
    checkpoint = Checkpoint(tmp_path / "x")
    assert checkpoint.variables == Checkpoint(small).variables
    assert all(same(checkpoint[name], VARIABLES[name]) for name in names)


def test_reads_shards(tf, tmp_path):
    names = list(VARIABLES)
    for n in range(3):
        save(tf, tmp_path / f"part{n}", names[n::3])
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[str(tmp_path / f"part{n}") for n in range(3)],
        destination_prefix=str(tmp_path / "all"),
    )
    assert (tmp_path / "all.data-00002-of-00003").is_file()
    for path in ("all", "all.index", "all.data-00001-of-00003", ""):
        checkpoint = Checkpoint(tmp_path / path)
        assert all(same(checkpoint[name], VARIABLES[name]) for name in names)
    (tmp_path / "all.data-00001-of-00003").unlink()
    with pytest.raises(FileNotFoundError, match="all.data-00001-of-00003"):
        Checkpoint(tmp_path / "all")


def test_reads_a_table_of_many_blocks_from_tensorflow(tf, tmp_path):
    names = [f"scope/{n:05d}/{'long' * 20}" for n in range(6000)]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "x"),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(n) for n in range(6000)],
    )
    checkpoint = Checkpoint(tmp_path / "x")
    assert list(checkpoint.variables) == names
    assert [int(checkpoint[n]) for n in names[::601]] == list(range(6000))[::601]


def test_types_that_are_only_listed(tf, tmp_path):
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "x"),
        tensor_names=["bool", "float", "text", "uint8"],
        shape_and_slices=[""] * 4,
        tensors=[tf.constant([True]), tf.constant([2.0]), tf.constant(["a", "bc"]), np.uint8(3)],
    )
    checkpoint = Checkpoint(tmp_path / "x")
    assert checkpoint.variables["bool"] == ("bool", (1,))
    assert checkpoint.variables["text"] == ("string", (2,))
    assert checkpoint["float"] == 2
    for name in ("bool", "text", "uint8"):
        with pytest.raises(ValueError, match=f"{name}.*not supported"):
            checkpoint[name]


def test_slices_are_refused_by_name(tf, tmp_path):
    save(tf, tmp_path / "x", ["a/float32", "a/float64"], ["26 7 0,13:-", ""])
    checkpoint = Checkpoint(tmp_path / "x")
    assert list(checkpoint.variables) == ["a/float32", "a/float64"]
    assert same(checkpoint["a/float64"], VARIABLES["a/float64"])
    with pytest.raises(ValueError, match="'a/float32': .*slices"):
        checkpoint["a/float32"]


# --- what a path may be ---


def test_paths(tmp_path, small):
    prefix = copy(small, tmp_path)
    for path in (prefix, prefix + ".index", prefix + ".data-00000-of-00001", tmp_path):
        assert find_prefix(path) == prefix
    with pytest.raises(FileNotFoundError, match=r"bert\.ckpt.* holds: model\.ckpt$"):
        find_prefix(tmp_path / "bert.ckpt")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_prefix(tmp_path / "nowhere" / "model.ckpt")
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="holds: none"):
        find_prefix(tmp_path / "none")


def test_prefix_in_the_working_folder(tmp_path, small, monkeypatch):
    copy(small, tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_prefix("model.ckpt") == "model.ckpt"
    write_checkpoint("other", {"a": np.zeros(3)})
    assert list(Checkpoint("other.index").variables) == ["a"]


def test_state_file_names_the_latest(tmp_path, small):
    for step in (0, 343, 1000):
        for path in (f"{small}.index", f"{small}.data-00000-of-00001"):
            target = path.rsplit("/", 1)[1].replace("model.ckpt", f"model.ckpt-{step}")
            shutil.copy(path, tmp_path / target)
    with pytest.raises(FileNotFoundError, match="model.ckpt-0, model.ckpt-1000, model.ckpt-343"):
        find_prefix(tmp_path)
    state = tmp_path / "checkpoint"
    for latest in ("model.ckpt-343", "/moved/away/model.ckpt-343", "../../model.ckpt-343"):
        state.write_text(
            f'model_checkpoint_path: "{latest}"\nall_model_checkpoint_paths: "model.ckpt-0"\n'
        )
        assert find_prefix(tmp_path) == str(tmp_path / "model.ckpt-343")
    for text in ('model_checkpoint_path: "model.ckpt-5"', "", "\0\xff"):
        state.write_text(text)
        with pytest.raises(FileNotFoundError, match="model.ckpt-343"):
            find_prefix(tmp_path)


def test_other_kinds_of_files(tmp_path, small):
    with zipfile.ZipFile(tmp_path / "bert.zip", "w") as archive:
        archive.writestr("a", "b")
    for name in ("bert.tar.gz", "bert.tar"):
        with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as archive:
            archive.add(__file__, "a")
    shutil.copy(small + ".index", tmp_path / "v1.ckpt")  # A V1 checkpoint is such a table, too.
    shutil.copy(small + ".data-00000-of-00001", tmp_path / "x.data-00000-of-00001")
    (tmp_path / "x.meta").write_bytes(b"\x0a\x00graph")
    (tmp_path / "x.txt").write_bytes(b"text")
    for name, message in {
        "bert.zip": "archive",
        "bert.tar.gz": "archive",
        "bert.tar": "archive",
        "v1.ckpt": "V1 checkpoint",
        "x.meta": "graph.*x$",
        "x.txt": "not a TensorFlow checkpoint",
        "x.data-00000-of-00001": r"\.index",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            Checkpoint(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


def test_real_v1_checkpoint(tf, tmp_path):
    tf.raw_ops.SaveSlices(
        filename=str(tmp_path / "v1.ckpt"),
        tensor_names=["a"],
        shapes_and_slices=[""],
        data=[tf.constant([1.0])],
    )
    with pytest.raises(ValueError, match="V1 checkpoint"):
        Checkpoint(tmp_path / "v1.ckpt")


# --- damage and malice ---


def test_damage_names_the_variable(tmp_path, small):
    prefix = copy(small, tmp_path)
    shard = prefix + ".data-00000-of-00001"
    with open(shard, "r+b") as file:
        file.seek(5)  # inside the variable that was written first, a/float32
        byte = file.read(1)[0]
        file.seek(5)
        file.write(bytes([byte ^ 1]))
    checkpoint = Checkpoint(prefix)
    with pytest.raises(ValueError, match=f"{shard}: 'a/float32': damaged"):
        checkpoint["a/float32"]
    assert same(checkpoint["a/float64"], VARIABLES["a/float64"])


def test_shard_that_shrinks_after_opening(tmp_path, small):
    prefix = copy(small, tmp_path)
    checkpoint = Checkpoint(prefix)
    with open(prefix + ".data-00000-of-00001", "r+b") as file:
        file.truncate(10)
    with pytest.raises(ValueError, match="'b/int64'"):
        checkpoint["b/int64"]


def read_all(prefix):
    checkpoint = Checkpoint(prefix)
    return {name: checkpoint[name].copy() for name in checkpoint.variables}


flips = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 7)), min_size=1, max_size=4)
no_limits = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@no_limits
@given(flips=flips, in_index=st.booleans())
def test_flipped_bits_are_found(tmp_path, small, flips, in_index):
    prefix = copy(small, tmp_path)
    path = prefix + (".index" if in_index else ".data-00000-of-00001")
    with open(path, "rb") as file:
        original = file.read()
    data = bytearray(original)
    for position, bit in flips:
        data[position % len(data)] ^= 1 << bit
    with open(path, "wb") as file:
        file.write(data)
    if data == original:  # Two flips of one bit cancel out.
        assert len(read_all(prefix)) == len(VARIABLES)
    else:
        with pytest.raises((ValueError, OSError)) as caught:
            read_all(prefix)
        assert "\n" not in str(caught.value)


def test_every_single_bit_of_the_index_counts(tmp_path, small):
    prefix = copy(small, tmp_path)
    with open(prefix + ".index", "rb") as file:
        original = file.read()
    for position in range(8 * len(original)):
        data = bytearray(original)
        data[position // 8] ^= 1 << position % 8
        (tmp_path / "model.ckpt.index").write_bytes(data)
        with pytest.raises(ValueError):
            Checkpoint(prefix)


@no_limits
@given(kept=st.floats(0, 1, exclude_max=True), in_index=st.booleans())
def test_cut_files_are_refused(tmp_path, small, kept, in_index):
    prefix = copy(small, tmp_path)
    path = prefix + (".index" if in_index else ".data-00000-of-00001")
    with open(path, "r+b") as file:
        file.truncate(int(kept * file.seek(0, 2)))
    with pytest.raises(ValueError, match="bytes"):
        Checkpoint(prefix)


@no_limits
@given(data=st.binary(max_size=200), footer=st.booleans())
def test_garbage_as_index(tmp_path, data, footer):
    (tmp_path / "x.index").write_bytes(data + MAGIC * footer)
    with pytest.raises(ValueError):
        Checkpoint(tmp_path / "x")


@no_limits
@given(block=st.binary(max_size=80))
def test_garbage_in_a_block_with_a_valid_checksum(tmp_path, block):
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(100))
    write_index(tmp_path / "x", raw_block([HEADER], restarts=block))
    try:
        read_all(tmp_path / "x")
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)


@no_limits
@given(message=st.binary(max_size=60), is_header=st.booleans())
def test_garbage_in_a_message_with_a_valid_checksum(tmp_path, message, is_header):
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(100))
    pairs = [(0, b"", message), (0, b"a", entry())] if is_header else [HEADER, (0, b"a", message)]
    write_index(tmp_path / "x", raw_block(pairs))
    try:
        read_all(tmp_path / "x")
    except (ValueError, OSError) as error:
        assert "\n" not in str(error)


def test_hostile_but_true(hostile):
    """Valid indexes made by this section's writer are read, so the others are refused for cause."""
    crc = checksum(bytes(range(8)))
    checkpoint = hostile((0, b"a", entry(crc=crc)), (0, b"b", entry(offset=8, crc=crc)))
    assert same(checkpoint["a"], np.arange(8, dtype=np.uint8).view(np.float32))
    with pytest.raises(ValueError, match="'b': damaged"):
        checkpoint["b"]


@pytest.mark.parametrize(
    "pair, message",
    [
        (entry(shape=(2**38,), size=2**40), r"1099511627776, but .*data-00000-of-00001 has 100"),
        (entry(offset=93), "101, but .* 100 bytes"),
        (entry(offset=2**63 - 1), "but .* 100 bytes"),
        (entry(shape=(3,)), r"float32 \[3\] takes 12 bytes, not 8"),
        (entry(shape=(2**62, 2**62)), f"takes {2**126} bytes, not 8"),
        (entry(shape=(2**63,)), "damaged"),
        (entry(shape=[2**62] * 100_000), "100000 dimensions"),
        (entry(size=2**70), "damaged"),
        (entry(extra=b"\x3a\xff\xff\xff\x0f"), "expected 33554431 more bytes, found 0"),
        (entry(extra=b"\x3b"), "wire type 3"),
        (entry(extra=b"\x08"), "expected 1 more bytes, found 0"),
    ],
)
def test_hostile_entries(hostile, pair, message):
    with pytest.raises(ValueError, match=rf"m\.index: 'a/b': .*{message}") as caught:
        hostile((0, b"a/b", pair))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shape", [[1] * 100 + [2], [2**62, 2**62, 0]])
def test_shapes_beyond_numpy(hostile, shape):
    size = 0 if 0 in shape else 8
    crc = checksum(bytes(range(size)))
    checkpoint = hostile((0, b"a/b", entry(shape=shape, size=size, crc=crc)))
    with pytest.raises(ValueError, match="'a/b'"):
        checkpoint["a/b"]


def test_no_way_out_of_the_folder(hostile):
    """A shard is named by a number alone, so its file is always next to the index."""
    with pytest.raises(FileNotFoundError, match=r"m\.data-00007-of-00001"):
        hostile((0, b"../../a", entry(shard=7)))


def test_one_line_even_for_odd_names(hostile):
    with pytest.raises(ValueError, match=r"'a\\nb'") as caught:
        hostile((0, b"a\nb", entry(size=4)))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="utf-8"):
        hostile((0, b"a\xff", entry()))


def test_big_endian_and_compressed_and_headless(tmp_path):
    (tmp_path / "x.data-00000-of-00001").write_bytes(bytes(100))
    pairs = [HEADER, (0, b"a", entry())]
    for block, message in {
        raw_block([(0, b"", b"\x08\x01\x10\x01"), pairs[1]]): "big-endian",
        raw_block(pairs, kind=1): "compressed",
        raw_block(pairs, restarts=struct.pack("<I", 2**32 - 1)): "more bytes, found",
        raw_block([HEADER, (1, b"a", entry())]): "expected 1 more bytes, found 0",
        raw_block([HEADER, (0, b"a", entry() + b"\x2a\x05abc")]): "expected 5 more bytes, found 3",
    }.items():
        write_index(tmp_path / "x", block)
        with pytest.raises(ValueError, match=message):
            Checkpoint(tmp_path / "x")
    write_index(tmp_path / "x", raw_block(pairs[1:]))
    with pytest.raises((ValueError, OSError)):
        Checkpoint(tmp_path / "x")


def test_bombs(tmp_path):
    """Small files that would expand: copies of a long name, a block that is listed many times."""
    long_name = [(0, b"x" * 50_000, b"")]
    many = [(50_000, number(n).rjust(3), b"") for n in range(20_000)]
    write_index(tmp_path / "x", raw_block([HEADER]), raw_block(long_name + many))
    with pytest.raises(ValueError, match="expand"):
        Checkpoint(tmp_path / "x")
    big = raw_block([], restarts=bytes(2**20) + struct.pack("<I", 2**18))
    place = number(0) + number(len(big) - 5)
    write_index(tmp_path / "x", big, handles=[place] * 50_000)
    with pytest.raises(ValueError, match="overlaps"):
        Checkpoint(tmp_path / "x")
    write_index(tmp_path / "x", handles=[number(0) + number(2**60)])
    with pytest.raises(ValueError, match="damaged"):
        Checkpoint(tmp_path / "x")
    (tmp_path / "x.index").write_bytes(bytes(tf_checkpoint.MAX_INDEX_SIZE) + MAGIC)
    with pytest.raises(ValueError, match="bytes"):
        Checkpoint(tmp_path / "x")
