"""Time of H0 and of the largest components of many classes, against loops over ripser and over gudhi.

    python examples/h0_cost.py                          # 1,000 classes x 50 texts x 512, float32, 2 threads

All begin with the embeddings: distances are included, for the others by the same function. ripser and gudhi
give the death times alone, without the components. Medians of interleaved repeats; what is not installed is
left out.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import normalize

from s3clip.rips import chordal_distances, chosen_component, kept_share, minimum_spanning_tree


def batched(texts: Tensor) -> Tensor:
    """Return the death times by s3clip, and choose components, in chunks that stay in the cache."""
    deaths = []
    for chunk in texts.split(64):
        distances = chordal_distances(chunk)
        tree = minimum_spanning_tree(distances)
        chosen_component(distances, tree, kept_share(tree.lengths, share=0.75))
        deaths.append(tree.lengths.sort(-1).values)
    return torch.cat(deaths)


def loop_over_ripser(texts: Tensor) -> Tensor:
    """Return the death times by ripser, one class at a time."""
    from ripser import ripser

    deaths = []
    for own in texts:
        pairs = ripser(chordal_distances(own).numpy(), maxdim=0, distance_matrix=True)["dgms"][0]
        deaths.append(torch.from_numpy(pairs[:-1, 1]).sort().values)
    return torch.stack(deaths)


def loop_over_gudhi(texts: Tensor) -> Tensor:
    """Return the death times by gudhi, one class at a time."""
    import gudhi

    deaths = []
    for own in texts:
        rips = gudhi.RipsComplex(distance_matrix=chordal_distances(own).numpy())
        complex_ = rips.create_simplex_tree(max_dimension=1)
        complex_.compute_persistence(homology_coeff_field=2, min_persistence=-1)
        pairs = complex_.persistence_intervals_in_dimension(0)
        deaths.append(torch.from_numpy(pairs[:, 1]).sort().values[:-1])
    return torch.stack(deaths)


def main() -> None:
    """Print the times, and the largest difference between the death times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = {"classes": 1000, "texts": 50, "dim": 512, "repeats": 3, "threads": 2}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    texts = normalize(torch.randn(given.classes, given.texts, given.dim), dim=-1)
    calls: dict[str, Callable[[Tensor], Tensor]] = {"s3clip": batched}
    calls |= {"ripser": loop_over_ripser} if find_spec("ripser") else {}
    calls |= {"gudhi": loop_over_gudhi} if find_spec("gudhi") else {}
    batched(texts[:64])
    taken: dict[str, list[float]] = {name: [] for name in calls}
    deaths = {}
    for _ in range(given.repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            deaths[name] = call(texts)
            taken[name].append(time.perf_counter() - start)
    print(", ".join(f"{getattr(given, name)} {name}" for name in sizes), "float32, torch", torch.__version__)
    floor = statistics.median(taken["s3clip"])
    for name, values in taken.items():
        median = statistics.median(values)
        gap = (deaths[name].double() - deaths["s3clip"].double()).abs().max().item()
        print(f"{name:<8} {median * 1e3:9.1f} ms  {median / floor:6.1f} x  death times differ by {gap:.1e}")


if __name__ == "__main__":
    main()
