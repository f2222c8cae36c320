"""A job on a Ray of its own, for a test to kill: inputs, head, results, bytes of the object store."""

import sys

import torch

from s3clip.bulk import label
from s3clip.bulk.on_ray import start_ray

if __name__ == "__main__":
    torch.set_num_threads(1)
    inputs, head, out, store = sys.argv[1:]
    start_ray(2, int(store))
    label(inputs, head, out, engine="ray", workers=1, keep_embeddings=True, batch_size=8, part_size=16)
