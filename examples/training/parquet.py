#!/usr/bin/env python3
"""Reads some columns of a partitioned folder of Parquet files, batch by batch: the footers first, then only the pages that are needed.

    parquet.py FOLDER COLUMN...        FOLDER/<key>=<value>/*.parquet
"""

import sys

import pyarrow.compute
import pyarrow.dataset


def main():
    folder, columns = sys.argv[1], sys.argv[2:]
    table = pyarrow.dataset.dataset(folder, partitioning="hive")
    rows, sums = 0, dict.fromkeys(columns, 0)
    for batch in table.to_batches(columns=columns):
        rows += batch.num_rows
        for column in columns:
            sums[column] += pyarrow.compute.sum(batch[column]).as_py() or 0
    print(f"{rows} rows of {len(table.files)} files, sums {sums}")


if __name__ == "__main__":
    main()
