"""Files are written whole or not at all, with the mode that any new file gets."""

import errno
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from s3clip.files import writing
from s3clip.files.writing import write_atomically


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_many_threads_get_the_mode_of_any_new_file(tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        threads = [
            threading.Thread(
                target=lambda i=i: [write_atomically(tmp_path / f"{i}-{j}", b"x") for j in range(40)]
            )
            for i in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        os.umask(before)
    modes = {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes == {0o666 & ~mask}
    assert len(list(tmp_path.iterdir())) == 640


def write_for_ever(path: Path):
    while True:
        write_atomically(path, os.urandom(1) * 100_000)


def test_killed_at_any_moment_the_file_is_whole_and_what_is_left_goes(tmp_path: Path, monkeypatch):
    path = tmp_path / "file"
    for _ in range(20):
        process = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(path,))
        process.start()
        while not path.exists():
            time.sleep(0.001)
        time.sleep(0.003 * os.urandom(1)[0] / 255)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        content = path.read_bytes()
        assert content == content[:1] * 100_000
    (tmp_path / ".notes.settings").write_text("somebody's own")
    (tmp_path / f".file.0{writing._UNFINISHED}").write_bytes(b"a part")
    new = tmp_path / f".file.1{writing._UNFINISHED}"
    for file in tmp_path.iterdir():
        os.utime(file, (1, 1))
    new.write_bytes(b"another process is writing it now")
    writing._remove_unfinished.cache_clear()
    write_atomically(path, b"whole")
    assert sorted(tmp_path.iterdir()) == [new, tmp_path / ".notes.settings", path]


def test_a_device_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As root, a rename would put a file into the place of /dev/null, for everybody."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        with pytest.raises(OSError, match="is no file that can be replaced"):
            write_atomically(path, b"x")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()
    # What lies in /dev is none even where it leads to a file, as /dev/stdout after "> file".
    (tmp_path / "dev").mkdir()
    (tmp_path / "file").write_bytes(b"what was printed")
    (tmp_path / "dev" / "stdout").symlink_to(tmp_path / "file")
    monkeypatch.setattr(writing, "_DEVICES", str(tmp_path / "dev"))
    with pytest.raises(OSError, match="is no file that can be replaced"):
        write_atomically(tmp_path / "dev" / "stdout", b"x")
    assert (tmp_path / "dev" / "stdout").is_symlink()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_system_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
):
    def full(*paths: object) -> None:
        raise OSError(
            errno.ENOSPC, "No space left on device", *(str(path) for path in paths[:1] if call != "fsync")
        )

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(tmp_path / "page.html", b"x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "page.html"))
    assert not list(tmp_path.iterdir())


def test_a_name_as_long_as_a_file_system_takes(tmp_path: Path):
    write_atomically(tmp_path / ("é" * 127), b"x")
    assert [len(file.name) for file in tmp_path.iterdir()] == [127]


def test_what_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        write_atomically(tmp_path, b"")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        write_atomically(tmp_path / "no" / "file", b"")
    with pytest.raises(TypeError):
        write_atomically(tmp_path / "file", "text")
    assert not list(tmp_path.iterdir())
