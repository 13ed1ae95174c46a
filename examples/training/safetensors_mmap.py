#!/usr/bin/env python3
"""Maps the weights of a model and looks at every tensor: with `localCopy: Always` the file is whole on each node, and N processes share its pages.

    safetensors_mmap.py FILE
"""

import sys
import zlib

import safetensors


def main():
    with safetensors.safe_open(sys.argv[1], framework="numpy") as file:
        names, total, size = sorted(file.keys()), 0, 0
        for name in names:
            tensor = file.get_tensor(name)
            total, size = zlib.crc32(tensor.tobytes(), total), size + tensor.nbytes
    print(f"{len(names)} tensors, {size} bytes, sum {total:08x}")


if __name__ == "__main__":
    main()
