"""Runs every kernel on the CPU and compares it with f64; then plants errors, each of which a check must find."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import check_attention
import check_product
import check_rows
import check_wgmma
from emulator import Emulator, build, compiler

# (check, file, from, to): what a kernel must not survive.
PLANTED = [
    (check_product, "tile.cuh", "        block_barrier();\n        int next", "        int next"),
    (check_product, "tile.cuh", "copy_wait<S::STAGES - 2>", "copy_wait<S::STAGES - 1>"),
    (check_product, "tile.cuh", "(right, b + piece_at<S::B_PIECES>(row, step * 2 + lane / 8 % 2))",
     "(right, b + piece_at<S::B_PIECES>(row, step * 2 + lane / 16))"),
    (check_product, "side.cu", "how ? own[j * m.rank + i]", "how ? own[i * m.rank + j]"),
    (check_product, "side.cu", "left_row + left_at + s0", "left_row + left_at"),
    # Gradients of weights: what is read turned round, what is added, the last row of a piece, a sign.
    (check_product, "tile.cuh", "lane / 16 * 8 + lane % 8;\n                load_matrices_turned(left", "lane % 16;\n                load_matrices_turned(left"),
    (check_product, "outer.cu", "to[1] +=", "to[1] ="),
    (check_rows, "slopes.cu", "smaller(first + SLOPE_ROWS, rows)", "smaller(first + SLOPE_ROWS - 1, rows)"),
    (check_rows, "head.cu", "- slopes[row].entropy * by_entropy", "+ slopes[row].entropy * by_entropy"),
    (check_rows, "optimizer.cu", "of_thread[i].at < own.at", "of_thread[i].at > own.at"),
    (check_attention, "attention.cu", "at < query.limit", "at <= query.limit"),
    (check_attention, "attention.cu", "        block_barrier();\n    });\n    copy_wait<0>();\n#pragma unroll\n    for (int half = 0; half < 2; half++) {\n        Query",
     "    });\n    copy_wait<0>();\n#pragma unroll\n    for (int half = 0; half < 2; half++) {\n        Query"),
    (check_attention, "attention.cu", "a.window - run.before", "a.window - 1 - run.before"),
    # A swizzle of 64 bytes, the way to the next sixteen inner indices, and its first half.
    (check_wgmma, "hopper.cuh", "(u64)1 << 62", "(u64)2 << 62"),
    (check_wgmma, "wgmma.cu", "S::TURNED ? 16 * 128 : 32", "S::TURNED ? 8 * 128 : 32"),
    (check_wgmma, "hopper.cuh", "(u64)(1024 >> 4) << 32", "(u64)(512 >> 4) << 32"),
    # Barriers: no wait for bytes, none for a free place, wrong parities, too few bytes, unknown to copies.
    (check_wgmma, "wgmma.cu", "        barrier_wait(p.full + p.next, p.parity);\n", ""),
    (check_wgmma, "wgmma.cu", "            barrier_wait(p.empty + p.next, p.parity ^ 1);\n", ""),
    (check_wgmma, "wgmma.cu", "barrier_wait(p.full + p.next, p.parity);", "barrier_wait(p.full + p.next, p.parity ^ 1);"),
    (check_wgmma, "wgmma.cu", "barrier_wait(p.empty + p.next, p.parity ^ 1);", "barrier_wait(p.empty + p.next, p.parity);"),
    (check_wgmma, "wgmma.cu", "        p.parity ^= 1;\n", ""),
    (check_wgmma, "wgmma.cu", "barrier_expect(full, S::BYTES);", "barrier_expect(full, S::BYTES - S::X_BYTES);"),
    (check_wgmma, "wgmma.cu", "        barriers_made();\n", ""),
    # Products: no wait for the last ones, one for a group too few, no fence, a place given back before it is read.
    (check_wgmma, "wgmma.cu", "    wgmma_wait<0>();\n", ""),
    (check_wgmma, "wgmma.cu", "wgmma_wait<1>();", "wgmma_wait<2>();"),
    (check_wgmma, "wgmma.cu", "    wgmma_fence();\n", ""),
    (check_wgmma, "wgmma.cu", "if (k0 > 0 && lane == 0) barrier_arrive(p.empty + before);",
     "if (lane == 0) barrier_arrive(p.empty + p.next);"),
    # The side path's stage.
    (check_wgmma, "wgmma.cu", "            part_barrier<S::CONSUMERS>();\n            for (int i", "            for (int i"),
    (check_wgmma, "wgmma.cu", "            part_barrier<S::CONSUMERS>();\n            for (int s = 0", "            for (int s = 0"),
    (check_rows, "head.cu", "if (sum > within) break;", "if (sum >= within * 0.9) break;"),
    (check_rows, "heads.cu", "da = scale * norm[i] * da - widen(raw[i]) * along", "da = scale * norm[i] * da"),
]


def run(emulator, module):
    module.check(emulator, np.random.default_rng(1))


def found(folder, number):
    """Plants an error; what the check says, or None if it sees nothing."""
    module, *change = PLANTED[number]
    planted = Emulator(build(folder / f"planted-{number}", [change], only=module.__name__))
    try:
        run(planted, module)
    except AssertionError as error:
        return str(error) or "other bits"
    return None


def host_side(folder, gpu):
    """gpu_check.py itself, with the emulated driver in the place of a GPU's. Machine code is only carried, not run."""
    environment = {**os.environ, "TINYLORA_CUDA_DRIVER": str(folder / "true/kernels.so"), "TINYLORA_GPU": gpu, "PATH": ""}
    command = [sys.executable, Path(__file__).parent / "gpu_check.py", "--out", folder / "gpu-check.json"]
    command += ["--images", folder.parent / "images"]
    if program := os.environ.get("TINYLORA_PROGRAM"):
        command += ["--tinylora", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"gpu_check.py fails on the emulated driver:\n{done.stdout}{done.stderr}")
    print(f"gpu_check.py: runs on the emulated driver's GPU {gpu}{'' if program else ' (without the engine: TINYLORA_PROGRAM names none)'}", flush=True)


def main(folder, few=False):
    if not compiler():
        print("no C++ compiler: kernels are not run on the CPU")
        return 0
    start = time.time()
    emulator = Emulator(build(folder / "true"))
    for module in (check_product, check_attention, check_rows, check_wgmma):
        run(emulator, module)
        print(f"{module.__name__}: agrees ({time.time() - start:.0f} s so far)", flush=True)
    # The last of the emulated driver's GPUs is a Hopper, on which the engine runs by either instruction.
    for gpu in ("2",) if few else ("0", "2"):
        host_side(folder, gpu)
    # Each in a library of its own, so that they can run beside each other.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        numbers = range(0, len(PLANTED), 4 if few else 1)
        for number, error in zip(numbers, pool.map(lambda number: found(folder, number), numbers)):
            if error is None:
                print(f"planted error {number} in {PLANTED[number][1]} was NOT found: {PLANTED[number][2]!r}")
                return 1
            print(f"planted error {number} found: {error}", flush=True)
    print(f"{time.time() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), few="--few" in sys.argv[2:]))
