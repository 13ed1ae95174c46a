#!/usr/bin/env python3
"""Makes a small data set in every format that the readers read. The same seed gives the same values.

    make_data.py FOLDER [--scale N]

Sizes lie on both sides of what a cache node treats apart: 64 KiB (from here up a file of its own), 4 MiB (a block), 128 KiB (a read-ahead).
"""

import argparse
import io
import json
import shutil
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import h5py
import lmdb
import numpy
import pyarrow
import pyarrow.dataset
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import safetensors.numpy
from PIL import Image

SEED = 20240229
CLASSES = 8
# Around a page, a read-ahead, the smallest passthrough file and a block: one byte less, exact, one more.
EDGES = (0, 1, 4096, 64 << 10, 128 << 10, 4 << 20, 8 << 20)


def image(random, side):
    """A picture between flat and noise, so that files of one side differ in length as real ones do."""
    ramp = numpy.linspace(0, 255, side, dtype=numpy.uint8)
    pixels = numpy.stack([numpy.tile(ramp, (side, 1)), numpy.tile(ramp[:, None], (1, side)), numpy.full((side, side), 90, numpy.uint8)], axis=2)
    noisy = random.integers(0, side)
    pixels[:noisy] = random.integers(0, 256, (noisy, side, 3), dtype=numpy.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def images(folder, random, scale):
    for label in range(CLASSES):
        below = folder / "images" / f"class_{label}"
        below.mkdir(parents=True)
        for number in range(12 * scale):
            (below / f"{number:05}.png").write_bytes(image(random, int(random.integers(32, 256))))


def shards(folder, _random, _scale):
    """WebDataset's form: members of one sample share a stem and stand together."""
    (folder / "shards").mkdir()
    pictures = sorted((folder / "images").glob("*/*.png"))
    for shard in range(3):
        with tarfile.open(folder / "shards" / f"train-{shard:06}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for picture in pictures[shard::3]:
                stem = f"{picture.parent.name}-{picture.stem}"
                label = picture.parent.name.removeprefix("class_")
                members = {"png": picture.read_bytes(), "cls": label.encode(), "json": json.dumps({"stem": stem}).encode()}
                for ending, value in members.items():
                    member = tarfile.TarInfo(f"{stem}.{ending}")
                    member.size = len(value)
                    tar.addfile(member, io.BytesIO(value))


def table(random, rows):
    words = numpy.array(["forebay", "turbine", "weir", "sluice", "penstock"])
    return pyarrow.table(
        {
            "id": numpy.arange(rows, dtype=numpy.int64),
            "part": random.integers(0, 4, rows, dtype=numpy.int32),
            "value": random.normal(size=rows),
            "word": pyarrow.array(words[random.integers(0, len(words), rows)]).dictionary_encode(),
            "maybe": pyarrow.array(random.normal(size=rows), mask=random.random(rows) < 0.1),
            "list": pyarrow.array([list(range(int(n))) for n in random.integers(0, 6, rows)], pyarrow.list_(pyarrow.int32())),
            "bytes": pyarrow.array([random.bytes(24) for _ in range(rows)], pyarrow.binary()),
        }
    )


def tables(folder, random, scale):
    (folder / "tables").mkdir()
    rows = table(random, 60_000 * scale)
    pyarrow.parquet.write_table(rows, folder / "tables" / "all.parquet", row_group_size=5_000, compression="zstd")
    by_part = pyarrow.dataset.partitioning(pyarrow.schema([("part", pyarrow.int32())]), flavor="hive")
    pyarrow.dataset.write_dataset(rows, folder / "tables" / "parts", format="parquet", partitioning=by_part, max_rows_per_file=7_000, max_rows_per_group=7_000)
    (folder / "arrow").mkdir()
    plain = rows.set_column(3, "word", rows["word"].cast(pyarrow.string())).combine_chunks()
    with pyarrow.ipc.new_file(folder / "arrow" / "all.arrow", plain.schema) as out:
        out.write_table(plain, max_chunksize=8_000)
    pyarrow.feather.write_feather(plain, folder / "arrow" / "all.feather", compression="lz4")


def weights(folder, random, scale):
    (folder / "weights").mkdir()
    tensors = {f"layer.{n}.weight": random.standard_normal((256, 512 * scale), dtype=numpy.float32) for n in range(24)}
    tensors["bias"] = random.standard_normal(7, dtype=numpy.float32)
    safetensors.numpy.save_file(tensors, folder / "weights" / "model.safetensors", metadata={"made_by": "make_data.py"})
    numpy.save(folder / "weights" / "array.npy", random.integers(0, 1 << 40, (1000, 1100)))


def databases(folder, random, scale):
    (folder / "lmdb").mkdir()
    with lmdb.open(str(folder / "lmdb" / "train.lmdb"), map_size=256 << 20) as environment, environment.begin(write=True) as transaction:
        for number in range(2_000 * scale):
            transaction.put(f"{number:08}".encode(), random.bytes(int(random.integers(10, 9_000))))
    # LMDB leaves its lock file beside the data: a bucket has it or not, and a reader must cope with both.
    (folder / "lmdb" / "unlocked.lmdb").mkdir()
    shutil.copy(folder / "lmdb" / "train.lmdb" / "data.mdb", folder / "lmdb" / "unlocked.lmdb")
    (folder / "hdf5").mkdir()
    with h5py.File(folder / "hdf5" / "train.h5", "w") as file:
        file.create_dataset("plain", data=random.standard_normal((700, 900)))
        file.create_dataset("packed", data=random.integers(0, 99, (3_000, 400)), chunks=(64, 400), compression="gzip")
        file["packed"].attrs["made by"] = "make_data.py"
    (folder / "other").mkdir()
    with sqlite3.connect(folder / "other" / "labels.sqlite") as connection:
        connection.execute("create table labels (name text primary key, label integer)")
        connection.executemany("insert into labels values (?, ?)", ((f"n{n:06}", int(n * 7 % 13)) for n in range(20_000)))
    connection.close()
    with zipfile.ZipFile(folder / "other" / "texts.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(200):
            archive.writestr(f"texts/{number}.txt", f"text {number}\n" * number)


def edges(folder, random, _scale):
    (folder / "edges").mkdir()
    for size in sorted({max(0, edge + delta) for edge in EDGES for delta in (-1, 0, 1)}):
        (folder / "edges" / f"{size}.bin").write_bytes(random.bytes(size))


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--scale", type=int, default=1)
    given = arguments.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    random = numpy.random.default_rng(SEED)
    for make in (images, shards, tables, weights, databases, edges):
        make(given.folder, random, given.scale)


if __name__ == "__main__":
    main()
