"""A Triton kernel of the default metric: product, pick and mean in one pass over the texts.

The products of images and texts, as many as (images, texts), are never in memory: a program multiplies some
images with the texts of some classes, and writes one score per image and class. Imported only where
`FoldedSpace.fused` asks for it, so that s3clip needs no Triton.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from s3clip.space.metrics import chosen_count, score_local_center

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError(
        "fused=True needs Triton, which comes with torch for CUDA on Linux: install that, or leave fused "
        "False to compute with torch alone"
    ) from error

MOST_TEXTS = 64
"""Larger classes go to torch: a program holds whole classes in its registers."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

BLOCK_IMAGES, BLOCK_ROWS, BLOCK_DIM = 64, 128, 32


def local_center(
    images: Tensor,
    rows: Tensor,
    tables: Mapping[str, Tensor],
    *,
    k: int | float | None,
    renormalize: bool,
    name_weight: float,
) -> Tensor:
    """Return what `score_local_center` returns on the products of images and rows.

    By the kernel, with float32 sums, where that can be: tables without a Gram matrix, at most `MOST_TEXTS`
    texts a class, a type of `DTYPES`, a GPU (or Triton's interpreter), and no gradients. Else by torch.

    Args:
        images: (b, dim).
        rows: (c, n, dim), those of `fold_local_center`.
        tables: its tables.
        k: an option of the metric, as are the others.
        renormalize: likewise.
        name_weight: likewise.

    Returns:
        (b, c).
    """
    classes, n, dim = rows.shape
    if set(tables) != {"weight"} or n > MOST_TEXTS or not _takes(images, rows):
        products = (images @ rows.flatten(0, 1).T).unflatten(1, (classes, n))
        return score_local_center(products, tables, k=k, renormalize=renormalize, name_weight=name_weight)
    slots = triton.next_power_of_2(n)
    block_classes = BLOCK_ROWS // slots
    scores = images.new_empty(len(images), classes)
    grid = (triton.cdiv(len(images), BLOCK_IMAGES), triton.cdiv(classes, block_classes))
    with torch.cuda.device_of(images):
        _local_center[grid](
            images.contiguous(),
            rows.contiguous(),
            tables["weight"].contiguous(),
            scores,
            len(images),
            classes,
            n,
            dim,
            chosen_count(k, n),
            BLOCK_IMAGES,
            block_classes,
            slots,
            BLOCK_DIM,
            INTERPRETED,
        )
    return scores


def _takes(images: Tensor, rows: Tensor) -> bool:
    """Whether the kernel may read them. What does not fit together is left to torch, which says so."""
    if images.dtype not in DTYPES or images.dtype != rows.dtype or images.device != rows.device:
        return False
    if images.ndim != 2 or images.shape[1] != rows.shape[2]:
        return False
    if not (images.is_cuda or (INTERPRETED and images.device.type == "cpu")):
        return False
    if torch.is_grad_enabled() and (images.requires_grad or rows.requires_grad):
        return False
    try:
        images.data_ptr()  # there is none inside of vmap and torch.func.grad
        return torch.autograd.forward_ad.unpack_dual(images).tangent is None
    except RuntimeError:
        return False


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _local_center(  # type: ignore[no-untyped-def]  # noqa: ANN202
    images,  # noqa: ANN001
    rows,  # noqa: ANN001
    weights,  # noqa: ANN001
    scores,  # noqa: ANN001
    batch,  # noqa: ANN001
    classes,  # noqa: ANN001
    n,  # noqa: ANN001
    dim,  # noqa: ANN001
    k,  # noqa: ANN001
    BLOCK_IMAGES: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    WIDE: tl.constexpr,
):
    # Programs of the same classes follow each other, so that texts are read from memory once.
    image = (tl.program_id(0) * BLOCK_IMAGES + tl.arange(0, BLOCK_IMAGES)).to(tl.int64)
    first_class = tl.program_id(1) * BLOCK_CLASSES
    column = tl.arange(0, BLOCK_CLASSES * SLOTS)  # SLOTS for each class, of which n hold a text
    text = column % SLOTS
    its_class = first_class + column // SLOTS
    row = (its_class * n + text).to(tl.int64)
    is_row = (text < n) & (its_class < classes)
    products = tl.zeros((BLOCK_IMAGES, BLOCK_CLASSES * SLOTS), dtype=tl.float32)
    for start in range(0, dim, BLOCK_DIM):
        at = start + tl.arange(0, BLOCK_DIM)
        left = tl.load(
            images + image[:, None] * dim + at[None, :],
            mask=(image < batch)[:, None] & (at < dim)[None, :],
            other=0.0,
        )
        right = tl.load(
            rows + row[None, :] * dim + at[:, None],
            mask=is_row[None, :] & (at < dim)[:, None],
            other=0.0,
        )
        if WIDE:  # exact; the interpreter would multiply the bits of bfloat16 as whole numbers
            left, right = left.to(tl.float32), right.to(tl.float32)
        products += tl.dot(left, right, input_precision="ieee")  # not in TF32
    products = tl.where((text < n)[None, :], products, -3e38)  # finite: 0 of them are counted below
    products = tl.reshape(products, (BLOCK_IMAGES, BLOCK_CLASSES, SLOTS))
    place = tl.arange(0, SLOTS)[None, None, :]
    own_name = tl.sum(tl.where(place == 0, products, 0.0), axis=2)
    # The largest of each class are taken away k times, equal ones together, and k of them counted.
    missing = tl.zeros((BLOCK_IMAGES, BLOCK_CLASSES), dtype=tl.int32) + k
    total = tl.zeros((BLOCK_IMAGES, BLOCK_CLASSES), dtype=tl.float32)
    for _ in range(0, k):
        largest = tl.max(products, axis=2)
        is_largest = products == largest[:, :, None]
        taken = tl.minimum(tl.sum(is_largest.to(tl.int32), axis=2), missing)
        total += taken * largest
        missing -= taken
        products = tl.where(is_largest, -3e38, products)
    mean = total / k
    at_class = first_class + tl.arange(0, BLOCK_CLASSES)
    weight = tl.load(weights + at_class, mask=at_class < classes, other=0.0).to(tl.float32)[None, :]
    # An image that is NaN gives NaN, whatever the maximum makes of it: so is its product with the name.
    score = (1 - weight) * mean + weight * own_name
    tl.store(
        scores + image[:, None] * classes + at_class[None, :],
        score,
        mask=(image < batch)[:, None] & (at_class < classes)[None, :],
    )


# TRITON_INTERPRET=1, when Triton is imported, makes the kernel run on the CPU, slowly: for tests.
INTERPRETED = not isinstance(_local_center, triton.JITFunction)
