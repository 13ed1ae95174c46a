#!/usr/bin/env python3
"""Trains nothing and reads everything: an epoch of pictures in folders by class, shuffled, with forked workers.

    imagefolder.py FOLDER [WORKERS]        FOLDER/<class>/<picture>
"""

import sys
import zlib

import torch
import torchvision


def main():
    folder, workers = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4
    pictures = torchvision.datasets.ImageFolder(folder, transform=torchvision.transforms.PILToTensor())
    # Pictures of different sizes are no batch: a real run would resize them in `transform` and leave `batch_size` to its default.
    loader = torch.utils.data.DataLoader(pictures, batch_size=None, shuffle=True, num_workers=workers, multiprocessing_context="fork")
    # The same for any order of the samples.
    total, labels = 0, 0
    for picture, label in loader:
        total = (total + zlib.crc32(picture.numpy().tobytes())) % (1 << 32)
        labels += label
    print(f"{len(pictures)} pictures of {len(pictures.classes)} classes, sum {total:08x} {labels}")


if __name__ == "__main__":
    main()
