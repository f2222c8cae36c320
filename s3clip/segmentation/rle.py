"""Masks in the compressed run-length encoding of COCO, as pycocotools writes it. Pure."""

import torch
from torch import Tensor


def encode_rle(mask: Tensor) -> dict[str, object]:
    """Return a mask as COCO's `{"size": [height, width], "counts": text}`.

    Runs of zeros and ones in turn, zeros first, down the columns; from the fourth run on the difference to
    the run two before; each number in groups of five bits, the lowest first, bit 5 for "more follows", as
    characters from 48 on.

    Args:
        mask: (height, width) bool.
    """
    height, width = mask.shape
    flat = mask.T.flatten().to(torch.int8).cpu()
    changes = torch.nonzero(flat.diff())[:, 0] + 1
    ends = torch.cat([changes, torch.tensor([len(flat)])])
    runs = ends.diff(prepend=torch.zeros(1, dtype=ends.dtype)).tolist()
    if len(flat) and flat[0]:
        runs.insert(0, 0)
    letters = []
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits = number & 31
            number >>= 5  # keeps the sign
            more = number != (-1 if bits & 16 else 0)
            letters.append(chr(48 + bits + (32 if more else 0)))
    return {"size": [height, width], "counts": "".join(letters)}
