"""How often the interval that `fit_few_shot` reports holds the gain there is, where images never run out.

    python examples/studies/few_labels_intervals.py --shared ../shared --photo-words FOLDER

The sets of few_labels.py have a few hundred to two thousand images. With 300 of them labelled, what is found
on the others is an estimate too, and a class may have none left. So here images are made: those of a class
are normal, with the mean and the covariance of its embeddings (the covariance of all classes where it has
fewer than 40), and classes are as common as in the set. FOLDER is as for few_labels.py. A few minutes on one
CPU core.

The gain of top-1 is that at the shares of classes among the labelled images, that of recall is over the
classes that were labelled: this is what the report says. "As they come" is top-1 at the shares of the set.
"""

import argparse
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from few_labels import Taught, sets
from torch import Tensor
from torch.nn.functional import normalize

NAMES = (
    "cifar10 in COCO's 80",
    "fashion13",
    "fashion13 in 5 groups",
    "article",
    "subcat",
    "gender",
    "photographs, CIFAR-10",
)
NUMBERS = (("random", 30), ("random", 100), ("random", 300), ("a class", 16))
ASKED, OWN_COVARIANCE = 6000, 40


class Outcome(NamedTuple):
    """What one draw reports and what is true: shares of images.

    Attributes:
        reported: (2, 3) gain, low and high of top-1 and of recall.
        true: (3,) top-1 at the shares of the labelled, recall of the classes labelled, top-1 as they come.
    """

    reported: Tensor
    true: Tensor


class Population:
    """Images without end that look like those of a set."""

    def __init__(self, given: Taught) -> None:
        images, labels = normalize(given.images.float(), dim=1), given.labels
        self.classes, counts = labels.unique(return_counts=True)
        self.shares = counts / counts.sum()
        self.means = torch.stack([images[labels == each].mean(0) for each in self.classes])
        away = images - self.means[torch.searchsorted(self.classes, labels)]
        pooled = away / math.sqrt(len(away) - len(self.classes))
        self.spreads = [
            away[labels == each] / math.sqrt(count - 1) if count >= OWN_COVARIANCE else pooled
            for each, count in zip(self.classes, counts.tolist(), strict=True)
        ]

    def draw(self, positions: Tensor, generator: torch.Generator) -> Tensor:
        """Return an image of each class. Args: positions: (images,) among `classes`."""
        images = torch.empty(len(positions), self.means.shape[1])
        for each in positions.unique().tolist():
            own = (positions == each).nonzero()[:, 0]
            noise = torch.randn(len(own), len(self.spreads[each]), generator=generator)
            images[own] = self.means[each] + noise @ self.spreads[each]
        return normalize(images, dim=1)

    def labelled(self, how: str, number: int, generator: torch.Generator) -> Tensor:
        """Return the positions among `classes` of images drawn as few_labels.py draws them."""
        if how == "random":
            return torch.multinomial(self.shares, number, replacement=True, generator=generator)
        every = torch.arange(len(self.classes)).repeat_interleave(number)
        return every[torch.randperm(len(every), generator=generator)]


@torch.no_grad()
def outcomes(given: Taught, how: str, number: int, draws: int) -> Iterator[Outcome]:
    """Yield one draw after the other."""
    population = Population(given)
    count = len(population.classes)
    asked = torch.arange(count).repeat_interleave(ASKED // count)
    images = population.draw(asked, torch.Generator().manual_seed(5))
    before = given.head.word_logits(image_embeds=images).argmax(1) == population.classes[asked]
    for seed in range(draws):
        generator = torch.Generator().manual_seed(77 * seed + number)
        shown = population.labelled(how, number, generator)
        head = given.head.fit_few_shot(
            image_embeds=population.draw(shown, generator), labels=population.classes[shown]
        )
        after = head(image_embeds=images).argmax(1) == population.classes[asked]
        change = (after.double() - before.double()).view(count, -1).mean(1)
        seen = torch.bincount(shown, minlength=count)
        report = head.few_shot
        assert report is not None  # it was just fitted
        yield Outcome(
            torch.tensor(
                [[each.gain, each.low, each.high] for each in (report.top1, report.recall)]
            ).double(),
            torch.stack(
                [
                    change @ (seen / seen.sum()).double(),
                    change[seen > 0].mean(),
                    change @ population.shares.double(),
                ]
            ),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder of the measuring data")
    parser.add_argument("--photo-words", type=Path, help="folder of the second encoder")
    parser.add_argument("--draws", type=int, default=40)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*texts found in two classes")
    print("| labels | set | reported | true | half of the interval | it holds | as they come | it holds |")
    print("|---|---|---|---|---|---|---|---|")
    chosen = [each for each in sets(given.shared, given.photo_words) if each.name in NAMES]
    for how, number in NUMBERS:
        held = []
        for each in chosen:
            found = list(outcomes(each, how, number, given.draws))
            reported = 100 * torch.stack([one.reported for one in found])
            true = 100 * torch.stack([one.true for one in found])
            gain, low, high = reported[:, [0, 1, 0]].unbind(2)
            share = 100 * ((low - 1e-7 <= true) & (true <= high + 1e-7)).double().mean(0)
            half, (at_shares, recall, plain) = ((high - low) / 2).mean(0), true.mean(0)
            held.append(share)
            print(
                f"| {number} {how} | {each.name} | {gain[:, 0].mean():+.1f} / {gain[:, 1].mean():+.1f} "
                f"| {at_shares:+.1f} / {recall:+.1f} | {half[0]:.1f} / {half[1]:.1f} "
                f"| {share[0]:.0f} / {share[1]:.0f} % | {plain:+.1f} | {share[2]:.0f} % |",
                flush=True,
            )
        share = torch.stack(held).mean(0)
        print(f"| {number} {how} | all | | | | {share[0]:.0f} / {share[1]:.0f} % | | {share[2]:.0f} % |")


if __name__ == "__main__":
    main()
