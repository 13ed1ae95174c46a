#!/usr/bin/env python3
"""Reads one data set through the libraries that people train with, from a mount and from a plain local copy, and compares what came out.

    readers.py --local COPY --mount MOUNT [--pass NAME] [--only NAME,...] [--torch]

A reader is a function below: it takes a folder that make_data.py filled and yields (label, value) pairs. The same function reads both folders;
labels and values must agree one by one. Knows the libraries and nothing of what serves the mount.
"""

import argparse
import ctypes
import errno
import fcntl
import hashlib
import io
import mmap
import os
import random
import socket
import sqlite3
import sys
import tarfile
import threading
import time
import traceback
import warnings
import zipfile
from itertools import zip_longest
from pathlib import Path

READERS = {}
PAGE = mmap.PAGESIZE


def reader(name, *, needs_torch=False):
    def register(function):
        READERS[name] = (function, needs_torch)
        return function

    return register


def digest(value):
    """What is compared and, in a complaint, shown: short for every kind of value."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes {hashlib.blake2b(value, digest_size=12).hexdigest()}"
    if hasattr(value, "tobytes") and hasattr(value, "dtype"):
        return f"{value.dtype}{tuple(value.shape)} {digest(value.tobytes())}"
    return repr(value)


def files_below(folder):
    """Paths of all files, relative, sorted: what `os.walk` finds."""
    found = [Path(at, name) for at, _, names in os.walk(folder) for name in names]
    return sorted(path.relative_to(folder) for path in found)


def drop_pages(folder):
    """Makes the kernel forget the pages of these files, and of no others on the machine."""
    for path in files_below(folder):
        with open(Path(folder, path), "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# --- formats -----------------------------------------------------------------------------------------------------------------------------------


@reader("images")
def images(root):
    """Decodes every picture as torchvision's ImageFolder does, without torch."""
    import numpy
    from PIL import Image

    for path in sorted((root / "images").glob("*/*.png")):
        with open(path, "rb") as file:
            yield path.name, numpy.asarray(Image.open(file).convert("RGB"))


@reader("parquet")
def parquet(root):
    """A whole file, one with a memory map, single columns and row groups out of order, a filter over a partitioned folder."""
    import pyarrow.dataset
    import pyarrow.parquet

    path = root / "tables" / "all.parquet"
    for mapped in (False, True):
        yield f"whole, memory_map={mapped}", ipc_bytes(pyarrow.parquet.read_table(path, memory_map=mapped))
    with pyarrow.parquet.ParquetFile(path, pre_buffer=True) as file:
        for group in reversed(range(file.num_row_groups)):
            yield f"row group {group}", ipc_bytes(file.read_row_group(group, columns=["value", "word"]))
    parts = pyarrow.dataset.dataset(root / "tables" / "parts", partitioning="hive")
    yield "files", sorted(os.path.relpath(path, root) for path in parts.files)
    filtered = parts.to_table(columns=["id", "bytes"], filter=(pyarrow.dataset.field("part") == 2) & (pyarrow.dataset.field("value") > 0))
    yield "filtered", ipc_bytes(filtered.sort_by("id"))


def ipc_bytes(table):
    import pyarrow.ipc

    sink = io.BytesIO()
    with pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table.combine_chunks())
    return sink.getvalue()


@reader("arrow")
def arrow(root):
    """IPC files by mmap: batches come out of order and without a copy."""
    import pyarrow
    import pyarrow.feather
    import pyarrow.ipc

    with pyarrow.memory_map(str(root / "arrow" / "all.arrow")) as source:
        file = pyarrow.ipc.open_file(source)
        for number in list(range(0, file.num_record_batches, 2)) + list(range(1, file.num_record_batches, 2)):
            yield f"batch {number}", ipc_bytes(pyarrow.Table.from_batches([file.get_batch(number)]))
    yield "feather", ipc_bytes(pyarrow.feather.read_table(root / "arrow" / "all.feather", memory_map=True))


@reader("safetensors")
def safetensors(root):
    """Tensors by mmap in an order of their own, slices of one, and the whole file."""
    import safetensors
    import safetensors.numpy

    path = root / "weights" / "model.safetensors"
    with safetensors.safe_open(path, framework="numpy") as file:
        yield "metadata", file.metadata()
        for name in sorted(file.keys(), key=lambda name: name[::-1]):
            yield name, file.get_tensor(name)
        yield "slice", file.get_slice("layer.7.weight")[100:103, 5:400]
    for name, tensor in sorted(safetensors.numpy.load_file(path).items()):
        yield f"load_file {name}", tensor


@reader("numpy")
def numpy_map(root):
    import numpy

    array = numpy.load(root / "weights" / "array.npy", mmap_mode="r")
    yield "columns", numpy.ascontiguousarray(array[:, ::97])
    yield "rows", numpy.ascontiguousarray(array[::-13])


@reader("lmdb")
def lmdb_read(root):
    """Read-only environments with and without locking, with a lock file in the bucket and without one."""
    import lmdb

    for name in ("train.lmdb", "unlocked.lmdb"):
        for lock in (False, True):
            with lmdb.open(str(root / "lmdb" / name), readonly=True, lock=lock, readahead=not lock, max_readers=8) as environment:
                with environment.begin() as transaction:
                    keys = [key for key in transaction.cursor().iternext(values=False)]
                    random.Random(7).shuffle(keys)
                    values = hashlib.blake2b(digest_size=16)
                    for key in keys:
                        values.update(transaction.get(key))
                    yield f"{name} lock={lock}", (len(keys), values.hexdigest())


@reader("hdf5")
def hdf5(root):
    """With locking asked for: the library takes a shared flock and fails where it can't have it."""
    import h5py

    for locking in (True, "best-effort", False):
        with h5py.File(root / "hdf5" / "train.h5", "r", locking=locking) as file:
            yield f"plain, locking={locking}", file["plain"][10:500:7]
            yield f"packed, locking={locking}", file["packed"][...]
            yield "attribute", file["packed"].attrs["made by"]


@reader("tar")
def tar(root):
    for path in sorted((root / "shards").glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive:
                yield member.name, archive.extractfile(member).read()


@reader("zip")
def zip_read(root):
    """The end of the file first, then its members out of order."""
    with zipfile.ZipFile(root / "other" / "texts.zip") as archive:
        for name in sorted(archive.namelist(), key=lambda name: name[::-1]):
            yield name, archive.read(name)


@reader("sqlite")
def sqlite(root):
    """Takes shared locks by fcntl, as a read-only connection does."""
    connection = sqlite3.connect(f"file:{root / 'other' / 'labels.sqlite'}?mode=ro", uri=True)
    try:
        yield "counts", connection.execute("select label, count(*), max(name) from labels group by label order by label").fetchall()
        yield "one", connection.execute("select label from labels where name = 'n012345'").fetchone()
    finally:
        connection.close()


# --- PyTorch -----------------------------------------------------------------------------------------------------------------------------------


@reader("imagefolder", needs_torch=True)
def imagefolder(root):
    """Forked workers, shuffled, two epochs; the second with workers that stay."""
    import torch
    import torchvision

    warnings.filterwarnings("ignore", "This DataLoader will create")  # three workers on two cores: the point is more workers than cores
    pictures = torchvision.datasets.ImageFolder(root / "images", transform=torchvision.transforms.PILToTensor())
    yield "classes", (pictures.classes, [os.path.relpath(path, root) for path, _ in pictures.samples])
    order = torch.Generator().manual_seed(5)
    loader = torch.utils.data.DataLoader(
        pictures, batch_size=None, shuffle=True, generator=order, num_workers=3, multiprocessing_context="fork", persistent_workers=True
    )
    for epoch in range(2):
        for at, (picture, label) in enumerate(loader):
            yield f"epoch {epoch} sample {at}", (digest(picture.numpy()), int(label))


@reader("webdataset", needs_torch=True)
def webdataset_read(root):
    import torch
    import webdataset

    warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # pictures are only read here
    shards = sorted(str(path) for path in (root / "shards").glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False, workersplitter=webdataset.split_by_worker).decode("rgb8").to_tuple("__key__", "png", "cls", "json")
    loader = torch.utils.data.DataLoader(samples, batch_size=None, num_workers=2, multiprocessing_context="fork")
    read = sorted(((key, digest(picture), label, meta["stem"]) for key, picture, label, meta in loader), key=lambda row: row[0])
    yield from ((row[0], row[1:]) for row in read)


@reader("torch-safetensors", needs_torch=True)
def torch_safetensors(root):
    import safetensors.torch

    for name, tensor in sorted(safetensors.torch.load_file(root / "weights" / "model.safetensors").items()):
        yield name, tensor.numpy()


# --- system calls ------------------------------------------------------------------------------------------------------------------------------


@reader("calls")
def calls(root):
    """Each way of reading a file that Linux has, around the sizes that are treated apart."""
    for path in sorted((root / "edges").iterdir(), key=lambda path: path.name):
        size = path.stat().st_size
        places = sorted({max(0, min(size, edge + delta)) for edge in (0, PAGE, 64 << 10, 128 << 10, 4 << 20, size) for delta in (-1, 0, 1)})
        descriptor = os.open(path, os.O_RDONLY)
        try:
            yield f"{path.name} pread", [digest(os.pread(descriptor, length, place)) for place in places for length in (1, PAGE + 1, 200_001)]
            buffers = [bytearray(3), bytearray(PAGE), bytearray(70_000)]
            yield f"{path.name} preadv", (os.preadv(descriptor, buffers, places[len(places) // 2]), [digest(buffer) for buffer in buffers])
            yield f"{path.name} sendfile", digest(through_sendfile(descriptor, size))
            yield f"{path.name} splice", digest(through_splice(descriptor, size))
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(descriptor, 0, size, os.POSIX_FADV_WILLNEED)
            yield f"{path.name} after fadvise", digest(os.pread(descriptor, size, 0))
            yield f"{path.name} lseek", [seek_or_error(descriptor, place, how) for place in (0, size // 2, size, size + 1) for how in (os.SEEK_DATA, os.SEEK_HOLE)]
            if size:
                with mmap.mmap(descriptor, size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as mapped:
                    yield f"{path.name} mmap", [mapped[place] for place in places if place < size]
                    mapped.madvise(mmap.MADV_DONTNEED)
                    yield f"{path.name} mmap again", digest(mapped[:])
                with mmap.mmap(descriptor, size, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE) as mapped:
                    mapped[0:1] = b"x"
                    yield f"{path.name} private mmap", digest(mapped[:])
                    yield f"{path.name} untouched", digest(os.pread(descriptor, 1, 0))
        finally:
            os.close(descriptor)


def seek_or_error(descriptor, place, how):
    """A hole may be anywhere or nowhere, but the end is where the size says: only that much is the same on every filesystem."""
    size = os.fstat(descriptor).st_size
    try:
        found = os.lseek(descriptor, place, how)
        return place <= found <= size
    except OSError as error:
        return errno.errorcode[error.errno]


def through_sendfile(descriptor, size):
    receiver, sender = socket.socketpair()

    def send():
        place = 0
        while place < size:
            place += os.sendfile(sender.fileno(), descriptor, place, size - place)
        sender.close()

    thread = threading.Thread(target=send)
    thread.start()
    got = b"".join(iter(lambda: receiver.recv(1 << 16), b""))
    thread.join()
    receiver.close()
    return got


def through_splice(descriptor, size):
    out, into = os.pipe()
    got = bytearray()
    try:
        while len(got) < size:
            moved = os.splice(descriptor, into, min(1 << 16, size - len(got)), offset_src=len(got))
            if moved == 0:
                break
            got += os.read(out, moved)
    finally:
        os.close(out)
        os.close(into)
    return got


@reader("errors")
def errors(root):
    """What must fail fails with the same errno as on a local folder that is mounted read-only."""
    file, folder = root / "other" / "texts.zip", root / "other"
    attempts = {
        "open to write": lambda: os.open(file, os.O_WRONLY),
        "open to read and write": lambda: os.open(file, os.O_RDWR),
        "open and truncate": lambda: os.open(file, os.O_RDONLY | os.O_TRUNC),
        "create": lambda: os.open(folder / "new", os.O_CREAT | os.O_WRONLY, 0o644),
        "create without a name": lambda: os.open(folder, os.O_TMPFILE | os.O_WRONLY),
        "create what is there": lambda: os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY),
        "open a folder to write": lambda: os.open(folder, os.O_WRONLY),
        "open a file as a folder": lambda: os.open(file, os.O_DIRECTORY),
        "read a folder": lambda: os.read(os.open(folder, os.O_RDONLY), 1),
        "truncate": lambda: os.truncate(file, 1),
        "unlink": lambda: os.unlink(file),
        "unlink what is absent": lambda: os.unlink(folder / "absent"),
        "rmdir": lambda: os.rmdir(folder),
        "rmdir a file": lambda: os.rmdir(file),
        "mkdir": lambda: os.mkdir(folder / "new"),
        "mkdir what is there": lambda: os.mkdir(folder),
        "mkfifo": lambda: os.mkfifo(folder / "new"),
        "symlink": lambda: os.symlink("target", folder / "new"),
        "link": lambda: os.link(file, folder / "new"),
        "rename": lambda: os.rename(file, folder / "new"),
        "rename across filesystems": lambda: os.rename(file, "/proc/self/new"),
        "chmod": lambda: os.chmod(file, 0o600),
        "chown": lambda: os.chown(file, os.getuid(), os.getgid()),
        "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.new", b"x"),
        "readlink": lambda: os.readlink(file),
        "stat what is absent": lambda: os.stat(folder / "absent"),
        "stat below what is absent": lambda: os.stat(folder / "absent" / "file"),
        "stat below a file": lambda: os.stat(file / "file"),
        "stat a name of 255 bytes": lambda: os.stat(folder / ("n" * 255)),
        "stat a name of 256 bytes": lambda: os.stat(folder / ("n" * 256)),
        "stat a path of 4096 bytes": lambda: os.stat(str(folder) + "/." * 2048),
        "seek before the begin": lambda: os.lseek(os.open(file, os.O_RDONLY), -1, os.SEEK_SET),
        "write to a mapping": lambda: mmap.mmap(os.open(file, os.O_RDONLY), 1, prot=mmap.PROT_WRITE),
    }
    before = len(os.listdir("/proc/self/fd"))
    for name, attempt in attempts.items():
        try:
            attempt()
            yield name, "no error"
        except OSError as error:
            yield name, errno.errorcode[error.errno]
    for leaked in range(before, before + len(attempts)):
        try:
            os.close(leaked)
        except OSError:
            pass
    yield "still as it was", (digest(file.read_bytes()), sorted(os.listdir(folder)))


@reader("locks")
def locks(root):
    """Locks are granted by this machine's kernel, and hold between its processes."""
    path = root / "hdf5" / "train.h5"
    with open(path, "rb") as first, open(path, "rb") as second:
        for kind, take in (("flock", fcntl.flock), ("lockf", fcntl.lockf)):
            take(first, fcntl.LOCK_SH)
            take(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield f"{kind} shared twice", True
            take(first, fcntl.LOCK_UN)
            take(second, fcntl.LOCK_UN)
        fcntl.flock(first, fcntl.LOCK_EX)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield "flock is exclusive", False
        except BlockingIOError:
            yield "flock is exclusive", True


@reader("forked")
def forked(root):
    """A descriptor and a mapping that were opened before fork are read by four children at once."""
    path = root / "weights" / "model.safetensors"
    size = path.stat().st_size
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped:
        children = []
        for child in range(4):
            out, into = os.pipe()
            pid = os.fork()
            if pid == 0:
                order = random.Random(child)
                sums = hashlib.blake2b(digest_size=16)
                for _ in range(300):
                    place, length = order.randrange(size), order.randrange(1, 90_000)
                    sums.update(os.pread(file.fileno(), length, place))
                    sums.update(mapped[place : place + length])
                os.write(into, sums.hexdigest().encode())
                os._exit(0)
            os.close(into)
            children.append((pid, out))
        for child, (pid, out) in enumerate(children):
            got = os.read(out, 100).decode()
            os.close(out)
            yield f"child {child}", (got, os.waitpid(pid, 0)[1])


@reader("tree")
def tree(root):
    """Names, sizes and bytes of everything, as `cp -r` and `sha256sum` see them."""
    for path in files_below(root):
        whole = root / path
        with open(whole, "rb") as file:
            yield str(path), (whole.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


# --- running -----------------------------------------------------------------------------------------------------------------------------------


def compare(function, local, mount):
    """Runs one reader on both folders; gives the seconds of each and how many values agreed, or raises at the first that don't."""
    begun = time.monotonic()
    expected = [(label, digest(value)) for label, value in function(local)]
    between = time.monotonic()
    got = [(label, digest(value)) for label, value in function(mount)]
    ended = time.monotonic()
    for ours, theirs in zip_longest(got, expected):
        if ours != theirs:
            raise AssertionError(f"the mount gave {ours}, the local copy {theirs}")
    if not expected:
        raise AssertionError("this reader read nothing")
    return between - begun, ended - between, len(expected)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--local", type=Path, required=True)
    arguments.add_argument("--mount", type=Path, required=True)
    arguments.add_argument("--only", help="names of readers, with commas")
    arguments.add_argument("--pass", dest="name_of_pass", default="", help="what to call this pass in the table")
    arguments.add_argument("--torch", action="store_true", help="also the readers that need PyTorch")
    given = arguments.parse_args()

    names = given.only.split(",") if given.only else [name for name, (_, needs_torch) in READERS.items() if given.torch or not needs_torch]
    unknown = [name for name in names if name not in READERS]
    if unknown:
        arguments.error(f"no such reader: {', '.join(unknown)}; there are {', '.join(READERS)}")
    failed = 0
    print(f"{given.name_of_pass or 'pass'}, as user {os.getuid()}\n  {'reader':18} {'values':>7} {'local s':>8} {'mount s':>8}")
    for name in names:
        try:
            local_seconds, mount_seconds, values = compare(READERS[name][0], given.local, given.mount)
            print(f"  {name:18} {values:7} {local_seconds:8.2f} {mount_seconds:8.2f}  equal", flush=True)
        except Exception as error:  # a reader may fail in any way: the others are still run, and the whole fails
            failed += 1
            print(f"  {name:18} FAILED: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
