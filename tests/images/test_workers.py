"""Workers end with the process that has them, also where it was killed before they had begun."""

import multiprocessing
import os
import sys
from multiprocessing.connection import Client
from multiprocessing.resource_sharer import DupFd
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from s3clip.images.workers import start_workers
from tests.processes import is_there, wait_for

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are read from /proc")


class Slow:
    """A dataset that takes a while to get into a worker, which says that it is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__dict__ = state
        (self.folder / "worker").write_text(str(os.getpid()))
        wait_for((self.folder / "go").exists)

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        return index


def load(folder: Path) -> None:
    loader = DataLoader(Slow(folder), num_workers=1, multiprocessing_context="spawn")
    for _ in start_workers(loader):
        pass


def test_a_worker_whose_parent_was_killed_while_it_began(tmp_path: Path):
    parent = multiprocessing.get_context("fork").Process(target=load, args=(tmp_path,))
    parent.start()
    worker = tmp_path / "worker"
    wait_for(lambda: worker.exists() and worker.read_text())
    parent.kill()
    parent.join()
    assert is_there(int(worker.read_text()))
    (tmp_path / "go").touch()
    wait_for(lambda: not is_there(int(worker.read_text())), seconds=60)


class Shared:
    """A dataset whose worker holds something out to a process that connects, and is gone."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        with (Path(__file__)).open() as file:
            held = DupFd(file.fileno())
        address, _ = held._id  # type: ignore[attr-defined]
        Client(address, authkey=multiprocessing.current_process().authkey).close()
        os.close(held.detach())  # to the next one it is given
        sys.excepthook(ValueError, ValueError("of something else"), None)
        return 7


def test_a_worker_says_nothing_of_a_process_that_takes_nothing(capfd: pytest.CaptureFixture[str]):
    loader = DataLoader(Shared(), num_workers=1, batch_size=None, multiprocessing_context="fork")
    assert list(start_workers(loader)) == [7]
    said = capfd.readouterr().err
    assert said.splitlines() == ["ValueError: of something else"]
