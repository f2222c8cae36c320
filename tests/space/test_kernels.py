"""The Triton kernel against the torch path, in Triton's interpreter, which needs a process of its own."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from torch.nn.functional import normalize

from s3clip.space.metrics import score_local_center

pytest.importorskip("triton", reason="Triton is not installed (extra `test`, Linux on x86_64)")


@pytest.fixture(scope="module")
def interpreter():
    """A process in which Triton, wherever it is imported first, interprets."""
    with (
        pytest.MonkeyPatch.context() as patch,
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        patch.setenv("TRITON_INTERPRET", "1")
        pool.submit(int).result()
        yield pool


def by_kernel(images, rows, weight, k):
    from s3clip.space import kernels

    assert kernels.INTERPRETED
    assert kernels._takes(images, rows)
    kernels.BLOCK_IMAGES = 16  # so that a small batch is several blocks
    return kernels.local_center(images, rows, {"weight": weight}, k=k, renormalize=False, name_weight=0)


def by_torch(images, rows, weight, k):
    products = torch.einsum("bd,crd->bcr", images.double(), rows.double())
    tables = {"weight": weight.double()}
    return score_local_center(products, tables, k=k, renormalize=False, name_weight=0)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 17, 33])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_the_kernel_is_product_and_score(interpreter, n, dtype, tolerance):
    torch.manual_seed(n)
    images = normalize(torch.randn(19, 50), dim=-1).to(dtype)
    rows = normalize(torch.randn(131 if n < 3 else 7, n, 50), dim=-1).to(dtype)
    rows[1, -1] = rows[1, 0]  # a tie
    rows[2] = rows[2, :1]  # nothing but ties
    weight = torch.full((len(rows),), 0.25, dtype=dtype)
    weight[3], weight[4] = 0, 1  # a class without its name; its name alone
    for k in (0.4, 3, None):
        got = interpreter.submit(by_kernel, images, rows, weight, k).result()
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), by_torch(images, rows, weight, k), atol=tolerance, rtol=0)


def test_an_image_that_is_nan_stays_so_and_no_images_are_no_scores(interpreter):
    images, rows = normalize(torch.randn(3, 8), dim=-1), normalize(torch.randn(2, 5, 8), dim=-1)
    images[1] = torch.nan
    got = interpreter.submit(by_kernel, images, rows, torch.zeros(2), 2).result()
    assert got.isnan().all(1).tolist() == [False, True, False]
    assert interpreter.submit(by_kernel, images[:0], rows, torch.zeros(2), 2).result().shape == (0, 2)


def by_head(texts, images, wanted):
    """Logits of a fitted head; its gradient through the same call shows that torch takes what needs one."""
    from s3clip import SynonymousSpaceHead

    head = SynonymousSpaceHead(fused=wanted)
    head.fit_embeddings(texts, [str(i) for i in range(len(texts))], logit_scale=1.0)
    assert head.folded.fused == wanted
    logits = head(image_embeds=images)
    needing = images.clone().requires_grad_()
    head(image_embeds=needing).sum().backward()
    return logits.detach(), needing.grad


def test_a_head_of_classes_of_many_sizes_uses_it_when_asked(interpreter):
    torch.manual_seed(0)
    texts = [normalize(torch.randn(n, 24), dim=-1) for n in (5, 1, 3, 70, 5, 2)]
    images = normalize(torch.randn(4, 24), dim=-1)
    logits, gradient = interpreter.submit(by_head, texts, images, True).result()
    expected, expected_gradient = by_head(texts, images, False)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, expected_gradient)
