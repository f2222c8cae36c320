"""The synonym sets that come with s3clip: one JSON file each, and the subsets made of them.

They are plain records here, which `SynonymSet.builtin` checks. The files are the source: edit them, then run
`s3clip synonyms check builtin:NAME`. `exceptions.json` lists what that check finds and why it stays.
docs/synonyms.md says how the sets were written.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from s3clip.arguments import did_you_mean
from s3clip.files.json import parse_json


@dataclass(frozen=True)
class NamesDigest:
    """What a benchmark fixes: how many classes, and their names in order.

    Attributes:
        classes: how many.
        names_sha256: the first 16 hex digits over the names, joined by line feeds, as UTF-8.
    """

    classes: int
    names_sha256: str

    @classmethod
    def of(cls, names: Sequence[str]) -> "NamesDigest":
        """Digest these names."""
        return cls(len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()[:16])


@dataclass(frozen=True)
class Subset:
    """A set made of another's classes.

    Attributes:
        of: the set.
        positions: the classes there, ascending: the order of the subset.
        digest: as for a whole set.
        description: as in a file.
    """

    of: str
    positions: tuple[int, ...]
    digest: NamesDigest
    description: str


# docs/synonyms.md says whose names and whose order these are.
SETS = {
    "imagenet1k": NamesDigest(1000, "571ae1c583b4be7d"),
    "cifar10": NamesDigest(10, "bb3914949cecedee"),
    "cifar100": NamesDigest(100, "60ae3a3ac1355fcf"),
    "caltech101": NamesDigest(102, "acab5878fda7c0c1"),
    "oxford_pets": NamesDigest(37, "50be1443390f8a02"),
    "stanford_cars": NamesDigest(196, "93d089469409bbd0"),
    "flowers102": NamesDigest(102, "5429e1ef6e0e5aa3"),
    "food101": NamesDigest(101, "9c0eeb5a368baacb"),
    "fgvc_aircraft": NamesDigest(100, "e1c9e72060e63d52"),
    "sun397": NamesDigest(397, "dd1277b1cfcf09ba"),
    "dtd": NamesDigest(47, "681d23b9cd3c2ede"),
    "eurosat": NamesDigest(10, "ee2e41b9973e7206"),
    "ucf101": NamesDigest(101, "4c5f54cb419a8393"),
    "voc20": NamesDigest(20, "21599be2669d4aea"),
    "voc21": NamesDigest(21, "18080eb2cbaa7dfb"),
    "pascal_context59": NamesDigest(59, "cd808465f06a1616"),
    "pascal_context60": NamesDigest(60, "e29ff1a0eaea71eb"),
    "coco_object": NamesDigest(81, "1f17b53017e44225"),
    "coco_stuff171": NamesDigest(171, "fb98709b9ab1baff"),
    "ade20k150": NamesDigest(150, "e53ded02c488bdb9"),
    "cityscapes": NamesDigest(19, "6f6782fc1bf92bfd"),
}


def _positions(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


# The positions are those of the evaluation scripts that came with the two sets.
SUBSETS = {
    "imagenet_a": Subset(
        "imagenet1k",
        _positions("""
            6 11 13 15 17 22 23 27 30 37 39 42 47 50 57 70 71 76 79 89 90 94 96 97 99 105 107 108 110 113
            124 125 130 132 143 144 150 151 207 234 235 254 277 283 287 291 295 298 301 306 307 308 309 310
            311 313 314 315 317 319 323 324 326 327 330 334 335 336 347 361 363 372 378 386 397 400 401 402
            404 407 411 416 417 420 425 428 430 437 438 445 456 457 461 462 470 472 483 486 488 492 496 514
            516 528 530 539 542 543 549 552 557 561 562 569 572 573 575 579 589 606 607 609 614 626 627 640
            641 642 643 658 668 677 682 684 687 701 704 719 736 746 749 752 758 763 765 768 773 774 776 779
            780 786 792 797 802 803 804 813 815 820 823 831 833 835 839 845 847 850 859 862 870 879 880 888
            890 897 900 907 913 924 932 933 934 937 943 945 947 951 954 956 957 959 971 972 980 981 984 986
            987 988
        """),
        NamesDigest(200, "4b36c17b1b1bba6c"),
        "ImageNet-A: photographs that fooled a ResNet-50, of 200 of the ImageNet classes",
    ),
    "imagenet_r": Subset(
        "imagenet1k",
        _positions("""
            1 2 4 6 8 9 11 13 22 23 26 29 31 39 47 63 71 76 79 84 90 94 96 97 99 100 105 107 113 122 125 130
            132 144 145 147 148 150 151 155 160 161 162 163 171 172 178 187 195 199 203 207 208 219 231 232
            234 235 242 245 247 250 251 254 259 260 263 265 267 269 276 277 281 288 289 291 292 293 296 299
            301 308 309 310 311 314 315 319 323 327 330 334 335 337 338 340 341 344 347 353 355 361 362 365
            366 367 368 372 388 390 393 397 401 407 413 414 425 428 430 435 437 441 447 448 457 462 463 469
            470 471 472 476 483 487 515 546 555 558 570 579 583 587 593 594 596 609 613 617 621 629 637 657
            658 701 717 724 763 768 774 776 779 780 787 805 812 815 820 824 833 847 852 866 875 883 889 895
            907 928 931 932 933 934 936 937 943 945 947 948 949 951 953 954 957 963 965 967 980 981 983 988
        """),
        NamesDigest(200, "79cac199a9146841"),
        "ImageNet-R: drawings, toys, sculptures and other renditions of 200 of the ImageNet classes",
    ),
}


def set_names() -> list[str]:
    """Return the names that `read_set` takes."""
    return [*SETS, *SUBSETS]


def read_set(name: str) -> dict[str, Any]:
    """Return the record of the set of this name, as a file would hold it.

    Raises:
        ValueError: for a name that is not there, with the nearest that are.
    """
    if name in SUBSETS:
        subset = SUBSETS[name]
        whole = read_set(subset.of)
        classes = [whole["classes"][position] for position in subset.positions]
        return {**whole, "description": subset.description, "classes": classes}
    if name not in SETS:
        near = did_you_mean(name, set_names(), f"there are {', '.join(set_names())}")
        raise ValueError(f"no builtin synonym set {name!r}; {near}")
    record: dict[str, Any] = _read(name)
    return record


def read_exceptions(name: str) -> list[dict[str, str]]:
    """Return what the check may find in the set of this name: records of rule, class, text and reason."""
    listed: dict[str, list[dict[str, str]]] = _read("exceptions")
    return listed.get(SUBSETS[name].of if name in SUBSETS else name, [])


def _read(name: str) -> Any:
    path = resources.files(__name__) / f"{name}.json"
    return parse_json(path.read_bytes(), str(path))
