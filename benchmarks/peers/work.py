"""The work that every peer does, the same as `tinylora bench` does, and how it is timed.

Never: a model. Lengths are fixed and stop tokens are off, so that each program does the same number of tokens.
"""

import json
import resource
import statistics
import sys
import time

DECODE = (1, 8, 64)  # sequences; prompt and new tokens of each:
PROMPT, NEW = 64, 64
TRAIN = (8, 160)  # sequences, tokens of each
STEP = {"prompts": 12, "samples": 8, "prompt": 60, "new": 24}  # of the GRPO step


def median(run, repeats: int) -> dict:
    """Seconds of `run()`, which returns seconds itself or None, after one run that is not counted."""
    run()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        own = run()
        found.append(time.perf_counter() - start if own is None else own)
    return {"seconds": statistics.median(found), "range": [min(found), max(found)], "repeats": repeats}


def decode_row(batch: int, timing: dict) -> dict:
    return {"what": "decode", "batch": batch, "tokens_per_second": batch * NEW / timing["seconds"], **timing}


def report(name: str, versions: dict, rows: list) -> None:
    """One object on standard output: what run.py reads."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump({"peer": name, "versions": versions, "rows": rows, "peak_rss_bytes": peak}, sys.stdout)
    print()
