"""Verdicts of Math-Verify on pairs, by the package itself (math-verify 0.8.0, latex2sympy2_extended 1.10.2).

Pairs enter as JSON lines (see make_pairs.py), verdicts leave as JSON lines {"equal": true|false}, appended to the
output file, so that a run can be split. A gold without dollar signs or a box is put between dollar signs, which is
how the package wants it. Time is printed at the end.

    python3 original_math_verify.py pairs.jsonl verdicts-math-verify.jsonl [SECONDS]
"""

import json
import logging
import sys
import time
from pathlib import Path

from math_verify import parse, verify

logging.disable(logging.CRITICAL)


def verdict(pair):
    gold = pair["gold"]
    gold = gold if "$" in gold or "boxed" in gold else f"${gold}$"
    return bool(verify(parse(gold), parse(pair["prediction"])))


def main():
    pairs = [json.loads(line) for line in open(sys.argv[1])]
    output = Path(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 1e9
    done = len(output.read_text().splitlines()) if output.exists() else 0
    begin = time.monotonic()
    count = 0
    with output.open("a") as out:
        for pair in pairs[done:]:
            if time.monotonic() - begin > seconds:
                break
            try:
                equal = verdict(pair)
            except Exception:
                equal = False
            count += 1
            print(json.dumps({"equal": equal}), file=out, flush=True)
    spent = time.monotonic() - begin
    print(f"{count} pairs in {spent:.1f} s: {count / spent:.1f} a second", file=sys.stderr)


if __name__ == "__main__":
    main()
