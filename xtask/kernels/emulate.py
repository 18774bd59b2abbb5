"""Runs every kernel on the CPU and compares it with f64; then plants errors, each of which a check must find."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import check_attention
import check_product
import check_rows
from emulator import Emulator, build, compiler

# (check, file, from, to): what a kernel must not survive.
PLANTED = [
    (check_product, "tile.cuh", "        block_barrier();\n        int next", "        int next"),
    (check_product, "tile.cuh", "copy_wait<S::STAGES - 2>", "copy_wait<S::STAGES - 1>"),
    (check_product, "tile.cuh", "(right, b + piece_at<S::B_PIECES>(row, step * 2 + lane / 8 % 2))",
     "(right, b + piece_at<S::B_PIECES>(row, step * 2 + lane / 16))"),
    (check_product, "side.cu", "how ? own[j * m.rank + i]", "how ? own[i * m.rank + j]"),
    (check_product, "side.cu", "left_row + left_at + s0", "left_row + left_at"),
    (check_attention, "attention.cu", "at < query.limit", "at <= query.limit"),
    (check_attention, "attention.cu", "        block_barrier();\n    });\n    copy_wait<0>();\n#pragma unroll\n    for (int half = 0; half < 2; half++) {\n        Query",
     "    });\n    copy_wait<0>();\n#pragma unroll\n    for (int half = 0; half < 2; half++) {\n        Query"),
    (check_attention, "attention.cu", "a.window - run.before", "a.window - 1 - run.before"),
    (check_rows, "head.cu", "if (sum > within) break;", "if (sum >= within * 0.9) break;"),
    (check_rows, "heads.cu", "da = scale * norm[i] * da - widen(raw[i]) * along", "da = scale * norm[i] * da"),
]


def run(emulator, module):
    module.check(emulator, np.random.default_rng(1))


def host_side(folder):
    """gpu_check.py itself, with the emulated driver in the place of a GPU's. Machine code is only carried, not run."""
    environment = {**os.environ, "TINYLORA_CUDA_DRIVER": str(folder / "true/kernels.so"), "PATH": ""}
    command = [sys.executable, Path(__file__).parent / "gpu_check.py", "--out", folder / "gpu-check.json"]
    command += ["--images", folder.parent / "images"]
    if program := os.environ.get("TINYLORA_PROGRAM"):
        command += ["--tinylora", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gpu_check.py fails on the emulated driver:\n{done.stdout}{done.stderr}")
    print(f"gpu_check.py: runs on the emulated driver{'' if program else ' (without the engine: TINYLORA_PROGRAM names none)'}", flush=True)


def main(folder):
    if not compiler():
        print("no C++ compiler: kernels are not run on the CPU")
        return 0
    start = time.time()
    emulator = Emulator(build(folder / "true"))
    for module in (check_product, check_attention, check_rows):
        run(emulator, module)
        print(f"{module.__name__}: agrees ({time.time() - start:.0f} s so far)", flush=True)
    host_side(folder)
    for number, (module, *change) in enumerate(PLANTED):
        planted = Emulator(build(folder / f"planted-{number}", [change], only=module.__name__))
        try:
            run(planted, module)
        except AssertionError as error:
            print(f"planted error {number} found: {error}", flush=True)
        else:
            print(f"planted error {number} in {change[0]} was NOT found: {change[2]!r}")
            return 1
    print(f"{time.time() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
