"""Several processes that save into one folder, and others that load from it meanwhile."""

import multiprocessing
from pathlib import Path

import torch

from s3clip import SynonymousSpaceHead

ROUNDS = 30


def save_often(folder: str, number: int) -> None:
    torch.set_num_threads(1)
    for i in range(ROUNDS):
        head = SynonymousSpaceHead().fit_embeddings(
            [torch.full((2, 8), float(number + 1)) + torch.eye(8)[:2], torch.eye(8)[i % 8][None]],
            [f"from {number}", f"{number} in round {i}"],
            logit_scale=1.0 + number,
        )
        head.save_pretrained(folder)


def test_savers_do_not_delete_each_others_files(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    savers = [context.Process(target=save_often, args=(str(tmp_path), number)) for number in range(3)]
    for saver in savers:
        saver.start()
    loaded = 0
    while any(saver.is_alive() for saver in savers):
        if (tmp_path / "config.json").exists():
            head = SynonymousSpaceHead.from_pretrained(tmp_path)
            assert head.class_names[0][-1] == head.class_names[1][0], "names of one, embeddings of another"
            assert float(head.logit_scale) == 1.0 + int(head.class_names[1][0])
            loaded += 1
    for saver in savers:
        saver.join()
        assert saver.exitcode == 0
    assert loaded
    SynonymousSpaceHead.from_pretrained(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
