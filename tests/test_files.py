"""files.py: files are complete or absent; lines and patterns of files."""

import os

import pytest

from files import atomic_write, find_input_files, is_stream, read_lines, read_run


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(KeyError), atomic_write(str(tmp_path / "file")) as file:
        file.write("new")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


# --- accumulation, ranks, replicas ---------------------------------------------------------------


def test_the_new_content_replaces_the_old_at_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(str(path), "wb") as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["file"]


def test_what_cannot_be_written_is_named_with_its_size(tmp_path):
    with (
        pytest.raises(OSError, match=r"none/file could not be written \(5 MB\): "),
        atomic_write(str(tmp_path / "none" / "file"), "wb", 5_000_000),
    ):
        pass


def test_links_pipes_and_devices_stay(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for _ in range(2):  # the link points to nothing at first
        with atomic_write(tmp_path / "link") as file:
            file.write("new")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"

    reader, writer = os.pipe()
    with atomic_write(f"/dev/fd/{writer}", "wb") as file:
        file.write(b"through a pipe")
    assert os.read(reader, 99) == b"through a pipe"
    os.close(reader)
    os.close(writer)

    own, terminal = os.openpty()  # a device that nothing else depends on
    with atomic_write(os.ttyname(terminal)) as file:
        file.write("x")
    assert os.read(own, 9) == b"x" and is_stream(os.ttyname(terminal))
    os.close(own)
    os.close(terminal)


def test_lines(tmp_path):
    path = tmp_path / "file"
    for content, lines in (
        (b"", []),
        (b"\n", [""]),
        (b"a", ["a"]),
        (b"\xef\xbb\xbfa\r\n\r\nb\r\n", ["a", "", "b"]),
    ):
        path.write_bytes(content)
        assert read_lines(path) == lines

    path.write_bytes("fine\ncaf\xe9 x\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"file:2 is not UTF-8 \(invalid continuation byte\)"):
        read_lines(path)


def test_input_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.txt", "a.txt", "[x].txt", "other"):
        (tmp_path / name).touch()
    assert find_input_files("?.txt") == ["a.txt", "b.txt"]
    assert find_input_files("other,?.txt") == ["other", "a.txt", "b.txt"]
    assert find_input_files("[x].txt") == ["[x].txt"]  # a name that exists is not a pattern
    with pytest.raises(FileNotFoundError, match=r"--input_file \*\.tsv: no such file"):
        find_input_files("other,*.tsv")


def test_classic_mac_line_ends_are_named(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"a\rb\rc")
    with pytest.raises(ValueError, match="lines end with a carriage return alone, as on a classic"):
        read_lines(path)
    path.write_bytes(b"a\rb\n")  # part of a line
    assert read_lines(path) == ["a\rb"]


def test_values_of_run_json(tmp_path):
    """Null counts as absent; what no run writes is damage, and found when it is read."""
    path = tmp_path / "run.json"
    assert read_run(tmp_path) == {}
    path.write_text('{"flags": null, "labels": ["a"], "more": 1}')
    assert read_run(tmp_path) == {"labels": ["a"], "more": 1}
    for name, value in {
        "flags": "[]",
        "labels": '"a,b"',
        "never_split": "5",
        "do_lower_case": '"no"',
    }.items():
        path.write_text(f'{{"{name}": {value}}}')
        with pytest.raises(ValueError, match=f"run.json is damaged: {name} is "):
            read_run(tmp_path)
