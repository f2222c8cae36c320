"""Which model is this? Every fingerprint and every key of a backbone is made here."""

import torch
from torch import Tensor

SAME_BACKBONE = 0.999
"""Least cosine between the fingerprints of one backbone: dtype and device may differ, weights may not."""


def check_fingerprint(saved: dict[str, Tensor], found: dict[str, Tensor], folder: str) -> None:
    """Compare the fingerprint of an artifact with that of a backbone; texts only where both have them.

    Raises:
        ValueError: another backbone made the artifact.
    """
    for part in saved.keys() & found.keys():
        if saved[part].shape[-1] != found[part].shape[-1]:
            raise ValueError(
                f"{folder}: made with a backbone of dimension {saved[part].shape[-1]}, this one has "
                f"{found[part].shape[-1]}; give the backbone it names, or fit the classes again"
            )
        cosine = torch.cosine_similarity(saved[part], found[part], dim=-1).min().item()
        if not cosine >= SAME_BACKBONE:
            raise ValueError(
                f"{folder}: made with another backbone: the {part} fingerprints agree to a cosine of "
                f"{cosine:.4f} only (at least {SAME_BACKBONE} expected); give the backbone it names, or fit "
                f"the classes again"
            )
