"""Datasets: many examples, in shards, with a row for each.

`map` sorts by length so that little is padded, writes shards of Parquet as it goes, and goes on where a run was killed:
the files are the same, to the bit. `ledger_error` and `token_cancellation` stand in every row: they say which
explanations to read with care. A row that cannot be explained has its error in a column, and stops nobody.
[Data sets](../datasets.md) has the columns, files as input, several processes and machines.
"""

import sys
import tempfile
from pathlib import Path

import lrp_fx
from shipped import marks

model, tokenizer, texts = marks(40)
explainer = lrp_fx.convert(model, tokenizer=tokenizer)
folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()) / "run"

run = explainer.map([*texts, ""], save=folder, batch_size=8, rows=16)
print(run.rows, "rows in", run.shards, "shards,", run.errors, "in error")

rows = run.table().to_pylist()  # or .to_frame(), or whatever reads a folder of Parquet
most = max(zip(rows[0]["content"], rows[0]["tokens"], strict=True))
print("the first:", rows[0]["target_labels"], f"{rows[0]['score']:.3f}, most from {most[1]} ({most[0]:.3f})")
print("the last:", rows[-1]["error"])
print("books off by at most", f"{max(row['ledger_error'] for row in rows if row['error'] is None):.0e}")

for row in explainer.map(texts[:2], target="v0"):  # without a folder: one row after the other
    print(row["id"], row["target_labels"], f"{row['score']:.3f}")
