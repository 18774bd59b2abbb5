"""Data sets in parquet, for the reading of rows, with the same rows as JSON.

Out: `data/plain.COMPRESSION.parquet` and `data/plain.jsonl`, as the `datasets` library writes them (snappy) and as
pyarrow does; `data/types.parquet`
with a column of every type, and in `data/types.jsonl` the columns that can be read as text or numbers;
`data/chats.parquet` and `data/chats.jsonl` with conversations.

    python golden/parquet_files.py             writes
    python golden/parquet_files.py --check     compares the stored parquet files' rows with those that would be written
"""

import argparse
import datetime
import decimal
import json
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
from datasets import Dataset

FOLDER = Path(__file__).parent / "data"
COMPRESSIONS = ("none", "snappy", "gzip", "lz4", "zstd")
# Columns of types.parquet that hold no text or number.
OTHERS = ("list", "messages", "day", "price", "raw", "meta")


def plain() -> list:
    """Rows as a data set of word problems has them; more than one group of rows, and nulls at every level."""
    rows = []
    for i in range(70):
        meta = None if i % 23 == 5 else {"answer": None if i % 11 == 4 else i + 3, "level": f"level {i % 4}"}
        rows.append(
            {
                "question": f"Ada has {i} pens and buys 3 more. How many? – {'é🙂' * (i % 3)}",
                "answer": f"{i} + 3 = {i + 3}\n#### {i + 3}" if i != 41 else None,
                "meta": meta,
                "tags": [f"t{j}" for j in range(i % 3)],
            }
        )
    return rows


def types() -> pyarrow.Table:
    n = 5
    whole = list(range(-2, n - 2))
    columns = {
        "question": pyarrow.array([f"q{i}" for i in range(n)]),
        "large": pyarrow.array([f"l{i}" for i in range(n)], pyarrow.large_string()),
        "dictionary": pyarrow.array(["a", "b", "a", None, "b"]).dictionary_encode(),
        "bytes": pyarrow.array([b"text", b"", b"a", b"b", b"c"], pyarrow.binary()),
        "i8": pyarrow.array(whole, pyarrow.int8()),
        "i16": pyarrow.array(whole, pyarrow.int16()),
        "i32": pyarrow.array([2**31 - 1, -(2**31), 0, None, 1], pyarrow.int32()),
        "i64": pyarrow.array([2**63 - 1, -(2**63), 0, None, 1], pyarrow.int64()),
        "u8": pyarrow.array([255, 0, 1, 2, 3], pyarrow.uint8()),
        "u32": pyarrow.array([2**32 - 1, 0, 1, 2, 3], pyarrow.uint32()),
        "u64": pyarrow.array([2**64 - 1, 0, 1, 2, 3], pyarrow.uint64()),
        "f32": pyarrow.array([0.1, -1.5, None, 1e30, 0.0], pyarrow.float32()),
        "f64": pyarrow.array([0.1, -1.5, None, 1e300, 0.0], pyarrow.float64()),
        "truth": pyarrow.array([True, False, None, True, False]),
        "nothing_at_all": pyarrow.array([None] * n, pyarrow.string()),
        "required": pyarrow.array([f"r{i}" for i in range(n)]),
        "list": pyarrow.array([[1], [], None, [2, 3], [4]]),
        "messages": pyarrow.array([[{"role": "user", "content": f"m{i}"}] for i in range(n)]),
        "meta": pyarrow.array([{"answer": i, "level": "x"} for i in range(n)]),
        "day": pyarrow.array([datetime.date(2025, 1, 1 + i) for i in range(n)]),
        "price": pyarrow.array([decimal.Decimal("1.25")] * n, pyarrow.decimal128(7, 2)),
        "raw": pyarrow.array([b"\xff\xfe"] * n, pyarrow.binary()),
    }
    fields = [pyarrow.field(name, column.type, nullable=name != "required") for name, column in columns.items()]
    return pyarrow.table(columns, schema=pyarrow.schema(fields))


def chats() -> list:
    """Conversations of no, one and several turns, in more than one group of rows."""
    rows = []
    for i in range(40):
        turns = [{"role": "system", "content": "Be brief. 🙂"}] if i % 5 == 0 else []
        for j in range(i % 4):
            turns.append({"role": "user", "content": f"What is {i} + {j}?"})
            turns.append({"role": "assistant", "content": f"{i + j}"})
        rows.append({"messages": turns, "source": f"s{i}"})
    return rows


def readable(table: pyarrow.Table) -> list:
    rows = table.drop_columns(list(OTHERS)).to_pylist()
    for row in rows:
        row["bytes"] = row["bytes"].decode()
        # An f32 by its shortest decimal form.
        row["f32"] = None if row["f32"] is None else float(str(numpy.float32(row["f32"])))
    return rows


def lines(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write() -> None:
    FOLDER.mkdir(exist_ok=True)
    rows = plain()
    for compression in COMPRESSIONS:
        file = FOLDER / f"plain.{compression}.parquet"
        data = Dataset.from_list(rows)
        if compression == "snappy":
            data.to_parquet(file, batch_size=16)
        else:
            pyarrow.parquet.write_table(data.data.table, file, compression=compression, row_group_size=16)
    (FOLDER / "plain.jsonl").write_text(lines(rows))
    table = types()
    pyarrow.parquet.write_table(table, FOLDER / "types.parquet", compression="zstd")
    (FOLDER / "types.jsonl").write_text(lines(readable(table)))
    Dataset.from_list(chats()).to_parquet(FOLDER / "chats.parquet", batch_size=16)
    (FOLDER / "chats.jsonl").write_text(lines(chats()))


def check() -> None:
    rows = plain()
    for compression in COMPRESSIONS:
        file = FOLDER / f"plain.{compression}.parquet"
        groups = pyarrow.parquet.ParquetFile(file).num_row_groups
        assert pyarrow.parquet.read_table(file).to_pylist() == rows and groups > 3, f"{file}: other rows"
    assert (FOLDER / "plain.jsonl").read_text() == lines(rows)
    table = types()
    assert pyarrow.parquet.read_table(FOLDER / "types.parquet").equals(table), "types.parquet: other rows"
    assert (FOLDER / "types.jsonl").read_text() == lines(readable(table))
    assert pyarrow.parquet.read_table(FOLDER / "chats.parquet").to_pylist() == chats(), "chats.parquet: other rows"
    assert (FOLDER / "chats.jsonl").read_text() == lines(chats())
    print("data sets: as stored")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check() if parser.parse_args().check else write()
