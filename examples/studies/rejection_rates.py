"""Does `fit_rejection` keep its rate? On unknowns like those it was shown, and on others.

    python examples/studies/rejection_rates.py --shared ../shared

Real embeddings of CLIP ViT-B/32. Half of the classes of a set are known; the others, the unknowns, are drawn
into two halves. A threshold is chosen at 5 % on images of the first half, and counted on other images of the
same classes ("alike") and on images of the second half ("others"). Ten draws; mean and range.
"""

import argparse
from pathlib import Path

import torch
from study_sets import LabelSet, clip_sets

from s3clip import SynonymousSpaceHead

RATE, DRAWS, LEAST_CLASSES = 0.05, 10, 8


def accepted(head: SynonymousSpaceHead, images: torch.Tensor) -> float:
    """Return the share of images whose best class is accepted."""
    answers = head.predict(image_embeds=images, top_k=1, batch_size=1024)
    return sum(own[0].accepted for own in answers) / len(answers)


def rates(given: LabelSet, seed: int) -> tuple[float, float, float]:
    """Return the shares accepted of unknowns alike, of other unknowns, and of the known classes' images."""
    generator = torch.Generator().manual_seed(seed)
    there = given.labels.unique()  # some classes have no images
    order = there[torch.randperm(len(there), generator=generator)]
    known, shown, others = order.tensor_split([len(order) // 2, 3 * len(order) // 4])
    head = SynonymousSpaceHead().fit_embeddings(
        [given.texts[i] for i in known.tolist()],
        [given.words[i][0] for i in known.tolist()],
        logit_scale=given.scale,
    )
    drawn = torch.randperm(len(given.labels), generator=generator)
    images, labels = given.images[drawn], given.labels[drawn]
    alike = images[torch.isin(labels, shown)]
    head.fit_rejection(image_embeds=alike[: len(alike) // 2], false_accept_rate=RATE)
    of_others, of_known = (images[torch.isin(labels, some)] for some in (others, known))
    return accepted(head, alike[len(alike) // 2 :]), accepted(head, of_others), accepted(head, of_known)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder of the measuring data")
    found = clip_sets(parser.parse_args().shared)
    print(f"accepted, %, at a rate of {RATE:.0%}: mean (least to most) of {DRAWS} draws")
    for given in (each for each in found if len(each.texts) >= LEAST_CLASSES):
        columns = torch.tensor([rates(given, seed) for seed in range(DRAWS)]).mul(100).T
        shown = [f"{own.mean():5.1f} ({own.min():.1f} to {own.max():.1f})" for own in columns]
        print(f"{given.name:24} unknowns alike {shown[0]}, others {shown[1]}, known {shown[2]}")


if __name__ == "__main__":
    main()
