"""Verdicts of Qwen2.5-Math's own grader on pairs, by its own code.

Pairs enter as JSON lines (see make_pairs.py), verdicts leave as JSON lines {"equal": true|false|null}, appended to
the output file, so that a run can be split: null is an item that took longer than three seconds, which the original
counts as wrong. QWEN_EVALUATION names the `evaluation` folder of a checkout of QwenLM/Qwen2.5-Math.

    python3 original_qwen.py pairs.jsonl verdicts-qwen.jsonl [SECONDS]
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["QWEN_EVALUATION"])
sys.path[:0] = [str(FOLDER), str(FOLDER / "latex2sympy")]

from grader import math_equal  # noqa: E402
from parser import extract_answer, strip_string  # noqa: E402


class Late(BaseException):
    pass


def late(*_):
    raise Late


def verdict(pair):
    # Data sets without a rule of their own: dollar signs go, then both sides are normalised with units removed.
    gold = strip_string(pair["gold"].replace("$", "").strip())
    prediction = strip_string(extract_answer(pair["prediction"], "math"))
    return bool(math_equal(prediction, gold))


def main():
    pairs = [json.loads(line) for line in open(sys.argv[1])]
    output = Path(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 1e9
    done = len(output.read_text().splitlines()) if output.exists() else 0
    signal.signal(signal.SIGALRM, late)
    begin = time.monotonic()
    with output.open("a") as out:
        for pair in pairs[done:]:
            if time.monotonic() - begin > seconds:
                break
            signal.alarm(3)
            try:
                equal = verdict(pair)
            except Late:
                equal = None
            except Exception:
                equal = False
            signal.alarm(0)
            print(json.dumps({"equal": equal}), file=out, flush=True)


if __name__ == "__main__":
    main()
