"""Decodes every PNG below a folder once, in random order, as a training loader would; or compares two folders byte for byte.

epoch.py decode FOLDER SEED     -> one line of JSON: files, bytes, seconds
epoch.py verify FOLDER CONTROL  -> one line of JSON: files, different
"""

import json
import os
import random
import sys
import time
import warnings
from io import BytesIO
from multiprocessing import Pool

from PIL import Image

# The collection has a few drawings larger than what Pillow takes for an attack.
Image.MAX_IMAGE_PIXELS = None
warnings.simplefilter("ignore")
WORKERS = max(2, os.cpu_count() or 1)


def files_below(folder):
    found = []
    for place, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return sorted(found)


def decode(path):
    with open(path, "rb") as file:
        data = file.read()
    Image.open(BytesIO(data)).convert("RGB").resize((224, 224))
    return len(data)


def same(pair):
    with open(pair[0], "rb") as one, open(pair[1], "rb") as other:
        return one.read() == other.read()


def main():
    verb, folder, argument = sys.argv[1:4]
    names = files_below(folder)
    with Pool(WORKERS) as pool:
        if verb == "decode":
            random.Random(int(argument)).shuffle(names)
            begin = time.monotonic()
            sizes = pool.map(decode, [os.path.join(folder, name) for name in names], chunksize=8)
            print(json.dumps({"files": len(sizes), "bytes": sum(sizes), "seconds": time.monotonic() - begin}))
        else:
            control = files_below(argument)
            if names != control:
                sys.exit(f"{folder} has {len(names)} files, {argument} has {len(control)}: not the same names")
            pairs = [(os.path.join(folder, name), os.path.join(argument, name)) for name in names]
            different = [pair[0] for pair, equal in zip(pairs, pool.map(same, pairs, chunksize=16)) if not equal]
            if different:
                sys.exit(f"{len(different)} files differ, the first is {different[0]}")
            print(json.dumps({"files": len(pairs), "different": 0}))


main()
