"""The state of a file: every change is seen, and a text of it is read back as it was."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3clip.files.state import END, FileState, file_state


@settings(deadline=None, max_examples=60)
@given(data=st.data(), size=st.integers(1, 5 * END))
def test_a_change_is_seen_even_where_size_and_time_stay(tmp_path_factory, data, size):
    file = tmp_path_factory.mktemp("state") / "file"
    file.write_bytes(bytes(size))
    os.utime(file, ns=(1, 10**18))
    before = file_state(file)
    assert before.agrees(file_state(file))
    change = data.draw(st.sampled_from(["first 64 KiB", "last 64 KiB", "length", "older", "newer"]))
    content = bytearray(size)
    if change == "first 64 KiB":
        content[data.draw(st.integers(0, min(END, size) - 1))] = 1
    elif change == "last 64 KiB":
        content[-1 - data.draw(st.integers(0, min(END, size) - 1))] = 1
    elif change == "length":
        content += b"\0"
    file.write_bytes(content)
    time = {"older": 10**18 - 1, "newer": 10**18 + 1}.get(change, 10**18)
    os.utime(file, ns=(1, time))
    now = file_state(file)
    assert not before.agrees(now)
    assert not now.agrees(before)
    if change in ("first 64 KiB", "last 64 KiB"):  # what an older run recorded has no digest
        assert FileState(before.size, before.version).agrees(now)


@given(st.builds(FileState, st.integers(0, 2**63), st.text(), st.none() | st.just("00ff")))
def test_a_state_is_read_back_from_its_text(state):
    assert FileState.parse(str(state)) == state


@pytest.mark.parametrize("text", ["", "12", "12 -", "x - 1", "-1 - 1", "² - 1"])
def test_what_is_no_state_is_refused(text):
    with pytest.raises(ValueError, match="expected 'size ends version'"):
        FileState.parse(text)


def test_of_a_file_that_is_not_there_and_of_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        file_state(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        file_state("memory://none")
    os.mkfifo(tmp_path / "pipe")
    assert file_state(tmp_path / "pipe").ends is None  # and it does not wait for a writer
    assert file_state(tmp_path).ends is None


def test_of_a_store_what_it_says():
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/state-of-a-store", b"123")
    before = file_state("memory://state-of-a-store")
    assert before.size == 3
    assert before.ends is None
    fs.pipe_file("/state-of-a-store", b"12345")
    assert not before.agrees(file_state("memory://state-of-a-store"))
