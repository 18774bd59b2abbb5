"""Products on Hopper's wgmma: against sums in f64, and a row's bits in every batch and by every kernel."""

import numpy as np

from check_product import SIDE, padded
from emulator import close, from_bf16, rounded, struct

EXTENT = [("rows", "i4"), ("columns", "i4"), ("inner", "i4")]
# rows of a tile → (groups of 64 outputs, places in the ring)
RINGS = {8: (1, 10), 16: (1, 10), 32: (1, 8), 64: (1, 6), 128: (1, 4), 256: (2, 4)}
BACK = (64, 128, 256)
# Numbers of a box: inner indices, and outputs of a group.
BOX = 64


def launch_of(tokens):
    """(outputs of a tile, threads, shared bytes)"""
    groups, stages = RINGS[tokens]
    return 64 * groups, 128 * groups + (32 if groups == 1 else 128), 1024 + stages * (groups * 8192 + tokens * 128 + 16) + 8 * tokens * 4


def tiles(tokens, rows, columns):
    return -(-rows // tokens) * -(-columns // launch_of(tokens)[0])


def product(emulator, tokens, back, store, x, w, bias=None, side=None, out=None, blocks=None):
    """x (M, K), w (N, K) or with `back` (K, N); side: (z, panel, members); `blocks` share the tiles."""
    (m, k), n = x.shape, w.shape[1] if back else w.shape[0]
    a, b = padded(x), padded(w)
    row = -(-n // 8) * 8 if store == "bf16" else n
    kind = np.uint16 if store == "bf16" else np.float32
    out = np.zeros((m, row), kind) if out is None else out.astype(np.float32)
    pointers, members = [a, b], (0,) * 7
    if side:
        pointers += [side[0].astype(np.float32), side[1].astype(np.float32)]
        members = side[2]
    side_of = lambda *at: struct(SIDE, ((*at[2:], *members) if side else (0, 0, *members)))
    w_map = lambda *at: emulator.tensor_map(at[1], w.shape[1], w.shape[0], b.shape[1], (BOX, BOX))
    x_map = lambda *at: emulator.tensor_map(at[0], k, m, a.shape[1], (BOX, tokens))
    bias = None if bias is None else bias.astype(np.float32)
    arguments = [w_map, x_map, struct(EXTENT, (m, n, k)), bias, side_of, out, row]
    _, threads, shared = launch_of(tokens)
    blocks = tiles(tokens, m, n) if blocks is None else blocks
    name = f"wgmma_{'back_' if back else ''}{tokens}_{store}"
    result = emulator.run(name, (blocks,), threads, shared, arguments, pointers)[0 if bias is None else 1]
    return from_bf16(result[:, :n].copy()) if store == "bf16" else result


def check(emulator, random):
    for tokens in RINGS:
        for back in (False, True) if tokens in BACK else (False,):
            # The last with more inner indices than the ring has places for.
            for m, n, k in [(1, 8, 16), (17, 70, 100), (5, 200, 36), (131, 136, 72), (9, 72, 700)]:
                values(emulator, random, tokens, back, m, n, k)
    one_bits(emulator, random)
    bands(emulator, random)


def values(emulator, random, tokens, back, m, n, k):
    what = f"wgmma, {tokens} rows{' back' if back else ''}, ({m}, {n}, {k})"
    x, w = rounded(random.normal(size=(m, k))), rounded(random.normal(size=(n, k)))
    given = np.ascontiguousarray(w.T) if back else w
    run = lambda store, *more, **named: product(emulator, tokens, back, store, x, given, *more, **named)
    bias, rank, cut = random.normal(size=n), 11, n // 3
    z, panel = random.normal(size=(m, 3 * rank)), random.normal(size=(rank, n))
    # Three members, of which the second has two columns.
    at = np.select([np.arange(n) < cut, np.arange(n) < cut + 2], [0, 2 * rank], rank)
    added = np.stack([(z[:, at + s] * panel[s]) for s in range(rank)]).sum(0)
    members = (3 * rank, rank, cut, cut + 2, 0, 2 * rank, rank)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    close(what, run("f32"), exact, 1e-5)
    close(f"{what} with bias and side path", run("f32", bias, (z, panel, members)), exact + bias + added, 1e-5)
    # One block has all tiles.
    close(f"{what} rounded", run("bf16", bias, blocks=1), exact + bias, 4e-3)
    start = random.normal(size=(m, n))
    close(f"{what} added", run("add", out=start), exact + start, 1e-5)


def one_bits(emulator, random):
    """A row's bits are the same alone and among others, by every kernel, however many blocks share the tiles."""
    rows, n, k = 200, 136, 200
    x, bias, rank = random.normal(size=(rows, k)), random.normal(size=n), 3
    z, panel = random.normal(size=(rows, rank)), random.normal(size=(rank, n))
    for back in (False, True):
        w = random.normal(size=(k, n) if back else (n, k))
        expected = None
        for count in (200, 1, 7, 64):
            for tokens in BACK if back else RINGS:
                if count == 200 and tokens < 64:
                    continue
                some = slice(rows - count, rows)
                side = (z[some], panel, (rank, rank, n, n, 0, 0, 0))
                found = product(emulator, tokens, back, "f32", x[some], w, bias, side, blocks=2 if count == 200 else None)
                expected = found if expected is None else expected
                if found.tobytes() != expected[some].tobytes():
                    raise AssertionError(f"wgmma, {tokens} rows: {count} rows depend on the batch")


def bands(emulator, random):
    """More tiles of rows than are gone through at a time, by few blocks."""
    x, w = rounded(random.normal(size=(150, 20))), rounded(random.normal(size=(130, 20)))
    close("wgmma in bands", product(emulator, 8, False, "f32", x, w, blocks=3), x.astype(np.float64) @ w.T, 1e-5)
