#!/usr/bin/env python3
"""Reads tar shards as WebDataset does: each worker its own shards, from the first byte to the last.

    webdataset_shards.py FOLDER [WORKERS]        FOLDER/*.tar with NAME.png, NAME.cls
"""

import sys
import zlib
from pathlib import Path

import torch
import webdataset


def main():
    folder, workers = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False, workersplitter=webdataset.split_by_worker).decode("rgb8").to_tuple("png", "cls")
    loader = torch.utils.data.DataLoader(samples, batch_size=None, num_workers=workers, multiprocessing_context="fork")
    count, total = 0, 0
    for picture, label in loader:
        count += 1
        total = (total + zlib.crc32(picture.tobytes() if hasattr(picture, "tobytes") else picture.numpy().tobytes()) + label) % (1 << 32)
    print(f"{count} samples of {len(shards)} shards, sum {total:08x}")


if __name__ == "__main__":
    main()
