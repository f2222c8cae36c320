"""One head in many processes, threads and workers of a data loader: each answers as one alone does."""

import asyncio
import multiprocessing
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from s3clip import Prediction, SynonymousSpaceHead
from s3clip.demo import held_out_digits, model_folder, synonym_file

PROCESSES, IMAGES, REQUESTS = 8, 12, 100
METHODS = ["spawn"] if sys.platform == "win32" else ["fork", "spawn"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on disk."""
    head = SynonymousSpaceHead.from_backbone(model_folder()).fit_classes(synonym_file())
    return head.save_pretrained(tmp_path_factory.mktemp("head"))


@pytest.fixture(scope="module")
def loaded(saved: Path) -> SynonymousSpaceHead:
    return SynonymousSpaceHead.from_pretrained(saved).eval()


@pytest.fixture(scope="module")
def pixels(loaded: SynonymousSpaceHead) -> Tensor:
    assert loaded.backbone is not None
    return loaded.backbone.preprocess(digits())["pixel_values"]


@pytest.fixture(scope="module")
def alone(loaded: SynonymousSpaceHead) -> list[list[Prediction]]:
    return loaded.predict(digits(), top_k=3)


def digits() -> list[Image.Image]:
    return list(held_out_digits()[0][:IMAGES])


def answer(saved: Path, barrier: object, pipe: object) -> None:
    torch.set_num_threads(1)
    barrier.wait(300)  # type: ignore[attr-defined]  # all load at the same time
    head = SynonymousSpaceHead.from_pretrained(saved)
    pipe.send(head.predict(digits(), top_k=3))  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS)
def test_processes_that_load_one_head_at_once(saved: Path, alone: list[list[Prediction]], method: str):
    # Each spawned process imports everything, which takes seconds of a core.
    count = PROCESSES if method == "fork" else 2
    context = multiprocessing.get_context(method)
    barrier = context.Barrier(count)
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    running = [context.Process(target=answer, args=(saved, barrier, theirs)) for _, theirs in pipes]
    for process in running:
        process.start()
    for _, theirs in pipes:
        theirs.close()
    found = [ours.recv() for ours, _ in pipes]
    for process in running:
        process.join()
        assert process.exitcode == 0
    assert found == [alone] * count


class Scored(Dataset[Tensor]):
    """Logits of images, computed where they are loaded."""

    def __init__(self, head: SynonymousSpaceHead, pixels: Tensor) -> None:
        self.head, self.pixels = head, pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        with torch.inference_mode():
            return self.head(self.pixels[index][None])[0]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("method", METHODS)
def test_workers_of_a_data_loader(loaded: SynonymousSpaceHead, pixels: Tensor, method: str):
    scored = Scored(loaded, pixels)
    expected = torch.stack([scored[i] for i in range(len(pixels))])
    workers = 3 if method == "fork" else 1
    found = DataLoader(scored, batch_size=4, num_workers=workers, multiprocessing_context=method)
    assert torch.equal(torch.cat(list(found)), expected)


def test_a_server_with_a_hundred_requests_in_flight(loaded: SynonymousSpaceHead):
    images = digits()
    alone = [loaded.predict([image], top_k=3) for image in images]

    async def serve() -> list[list[list[Prediction]]]:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(8) as pool:
            requests = [
                loop.run_in_executor(pool, lambda i=i: loaded.predict([images[i % IMAGES]], top_k=3))
                for i in range(REQUESTS)
            ]
            return await asyncio.gather(*requests)

    assert asyncio.run(serve()) == [alone[i % IMAGES] for i in range(REQUESTS)]
