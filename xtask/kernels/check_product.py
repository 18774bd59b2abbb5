"""Products, side path, thin products: against sums in f64."""

import numpy as np

from emulator import close, from_bf16, rounded, struct, to_bf16

OPERANDS = [("a", "u8"), ("b", "u8"), ("a_row", "i4"), ("b_row", "i4"), ("rows", "i4"), ("columns", "i4"), ("inner", "i4")]
SIDE = [("z", "u8"), ("panel", "u8")] + [(n, "i4") for n in "stride rank end0 end1 at0 at1 at2".split()]
# kernel → (rows and columns of a block, threads, shared bytes)
SHAPES = {
    "large": (128, 128, 256, 65536), "few": (16, 64, 128, 40960), "back": (128, 128, 256, 65536),
    "wide": (16, 128, 128, 73728),
}


def padded(x):
    """bf16 with rows of a multiple of eight; what fills them up is NaN and must never be read."""
    rows, width = x.shape
    out = np.full((rows, -(-width // 8) * 8), 0x7FFF, np.uint16)
    out[:, :width] = to_bf16(x)
    return out


def operands(x, w, rows, columns, inner):
    return lambda a, b, *_: struct(OPERANDS, (a, b, x.shape[1], w.shape[1], rows, columns, inner))


def product(emulator, shape, store, x, w, bias=None, side=None, out=None):
    """x (M, K), w (N, K) or for "back" (K, N); side: (z, panel, members)."""
    (m, k), n = x.shape, w.shape[1] if shape == "back" else w.shape[0]
    bm, bn, threads, shared = SHAPES[shape]
    a, b = padded(x), padded(w)
    row = -(-n // 8) * 8 if store == "bf16" else n
    kind = np.uint16 if store == "bf16" else np.float32
    out = np.zeros((m, row), kind) if out is None else out.astype(np.float32)
    pointers, members = [a, b], (0, 0, 0, 0, 0, 0, 0)
    if side:
        pointers += [side[0].astype(np.float32), side[1].astype(np.float32)]
        members = side[2]
    side_of = lambda *at: struct(SIDE, ((*at[2:], *members) if side else (0, 0, *members)))
    arguments = [operands(a, b, m, n, k), None if bias is None else bias.astype(np.float32), side_of, out, row]
    result = emulator.run(f"product_{shape}_{store}", (-(-m // bm), -(-n // bn)), threads, shared, arguments, pointers)
    result = result[0 if bias is None else 1]
    return from_bf16(result[:, :n].copy()) if store == "bf16" else result


def check(emulator, random):
    for shape in ("large", "few", "back"):
        for m, n, k in [(1, 8, 16), (17, 70, 100), (5, 200, 36), (131, 136, 72)]:
            x, w = rounded(random.normal(size=(m, k))), rounded(random.normal(size=(n, k)))
            given = np.ascontiguousarray(w.T) if shape == "back" else w
            bias, rank = random.normal(size=n), 3
            z, panel = random.normal(size=(m, 2 * rank)), random.normal(size=(rank, n))
            cut = n // 3
            at = np.where(np.arange(n) < cut, 0, rank)
            added = np.stack([(z[:, at + s] * panel[s]) for s in range(rank)]).sum(0)
            members = (2 * rank, rank, cut, n, 0, rank, 0)
            exact = x.astype(np.float64) @ w.T.astype(np.float64)
            close(shape, product(emulator, shape, "f32", x, given), exact, 1e-5)
            full = product(emulator, shape, "f32", x, given, bias, (z, panel, members))
            close(f"{shape} with bias and side path", full, exact + bias + added, 1e-5)
            close(f"{shape} rounded", product(emulator, shape, "bf16", x, given, bias), exact + bias, 4e-3)
            start = random.normal(size=(m, n))
            close(f"{shape} added", product(emulator, shape, "add", x, given, out=start), exact + start, 1e-5)
    one_bits(emulator, random)
    side(emulator, random)
    outer(emulator, random)
    outer_products(emulator, random)
    thin(emulator, random)


def one_bits(emulator, random):
    """A row's bits are the same alone and among others, by either kernel."""
    x, w = random.normal(size=(40, 200)), random.normal(size=(96, 200))
    all_rows = product(emulator, "large", "f32", x, w)
    for rows in (slice(0, 40), slice(7, 8), slice(30, 37)):
        for shape in ("few", "large"):
            if product(emulator, shape, "f32", x[rows], w).tobytes() != all_rows[rows].tobytes():
                raise AssertionError(f"{shape}: rows {rows} depend on the batch")


def side(emulator, random):
    rows, inner, rank, modules, adapters = 21, 70, 5, 4, 2
    members = struct([("count", "i4"), ("rank", "i4"), ("module", "i4", 3)], (2, rank, [3, 1, 0]))
    x, a = rounded(random.normal(size=(rows, inner))), random.normal(size=(2 * rank, inner)).astype(np.float32)
    p = np.zeros((rows, 2 * rank), np.float32)
    arguments = [padded(x), 72, a, rows, inner, 2 * rank, p, 2 * rank, 0]
    p = emulator.run("side_project", (-(-rows // 4), 2), 128, 0, arguments)[2]
    close("side projection", p, x.astype(np.float64) @ a.T, 1e-5)
    r = random.normal(size=(adapters, modules, rank, rank)).astype(np.float32)
    of = random.integers(0, adapters, rows).astype(np.uint32)
    for turned in (0, 1):
        arguments = [members, turned, p, rows, of, r, modules * rank * rank, np.zeros_like(p)]
        z = emulator.run("side_apply", (-(-rows * 2 * rank // 128),), 128, 0, arguments)[3]
        matrix = lambda row, module: r[of[row], module].T if turned else r[of[row], module]
        expected = [np.concatenate([matrix(i, 3) @ p[i, :rank], matrix(i, 1) @ p[i, rank:]]) for i in range(rows)]
        close("R applied", z, np.array(expected), 1e-5)
    multiples = np.ascontiguousarray(r[:, :, 0, 0])
    arguments = [members, 2, p, rows, of, multiples, modules, np.zeros_like(p)]
    z = emulator.run("side_apply", (-(-rows * 2 * rank // 128),), 128, 0, arguments)[3]
    close("multiples applied", z, np.repeat(multiples[of][:, [3, 1]], rank, 1) * p, 1e-7)
    t, start = random.normal(size=p.shape).astype(np.float32), random.normal(size=r.shape)
    arguments = [members, t, p, rows, of, start, modules * rank * rank]
    dr = emulator.run("side_gradient", (rank * rank, 2, adapters), 128, 0, arguments)[3]
    expected, t, p = start.copy(), t.astype(np.float64), p.astype(np.float64)
    for row in range(rows):
        expected[of[row], 3] += np.outer(t[row, :rank], p[row, :rank])
        expected[of[row], 1] += np.outer(t[row, rank:], p[row, rank:])
    close("dL/dR", dr, expected, 1e-12)


def outer(emulator, random):
    for rows, rank, columns in [(1, 1, 9), (700, 11, 140), (1030, 3, 8)]:
        stride, at = rank + 5, 4
        left = random.normal(size=(rows, stride)).astype(np.float32)
        right, start = rounded(random.normal(size=(rows, columns))), random.normal(size=(rank, columns)).astype(np.float32)
        b, pieces = padded(right), -(-rows // 512)
        arguments = [left, stride, at, b, b.shape[1], rows, columns, rank, np.zeros((pieces, rank, columns), np.float32)]
        parts = emulator.run("side_outer", (-(-columns // 128), -(-rank // 8), pieces), 128, 0, arguments)[2]
        found = emulator.run("side_join", (-(-rank * columns // 128),), 128, 0, [parts, pieces, rank * columns, start])[1]
        exact = left[:, at:at + rank].astype(np.float64).T @ right + start
        close("outer products", found, exact, 2e-6)


PLACES = [("first", "u8", 3), ("end", "i4", 2)]


def outer_products(emulator, random):
    """Sums of up to three matrices, at places of their own."""
    _, _, threads, shared = SHAPES["back"]
    for rows, outputs, columns in [(1, (1,), 9), (77, (100, 30, 6), 140), (200, (131, 5), 40), (33, (8,), 129)]:
        n = sum(outputs)
        dy, x = rounded(random.normal(size=(rows, n))), rounded(random.normal(size=(rows, columns)))
        a, b = padded(dy), padded(x)
        starts = [random.normal(size=(count, columns)).astype(np.float32) for count in outputs]
        ends = [*np.cumsum(outputs), n, n]
        places = lambda *at: struct(PLACES, ([*at[2:], 0, 0][:3], ends[:2]))
        of = lambda a_at, b_at, *_: struct(OPERANDS, (a_at, b_at, a.shape[1], b.shape[1], n, columns, rows))
        found = emulator.run("outer_products", (-(-n // 128), -(-columns // 128)), threads, shared, [of, places],
                             [a, b, *starts])[2:]
        exact, first = dy.astype(np.float64).T @ x, 0
        for matrix, start in zip(found, starts):
            close("outer products of rows", matrix, exact[first:first + len(start)] + start, 2e-6)
            first += len(start)


def thin(emulator, random):
    for n, k, c in [(70, 33, 1), (300, 130, 4), (513, 40, 8)]:
        w, x, y = rounded(random.normal(size=(n, k))), random.normal(size=(c, k)), random.normal(size=(c, n))
        x, y = x.astype(np.float32), y.astype(np.float32)
        b = padded(w)
        found = emulator.run("thin_forward", (-(-n // 4),), 128, 0,
                             [b, b.shape[1], n, k, x, c, np.zeros((c, n), np.float32)])[2]
        close("thin product", found, x.astype(np.float64) @ w.T, 1e-6)
        pieces = -(-n // 256)
        parts = emulator.run("thin_back", (-(-k // 128), pieces), 128, 0,
                             [b, b.shape[1], n, k, y, c, np.zeros((pieces, c, k), np.float32)])[2]
        found = emulator.run("thin_join", (-(-c * k // 128),), 128, 0,
                             [parts, pieces, c * k, np.zeros((c, k), np.float32)])[1]
        close("thin product back", found, y.astype(np.float64) @ w, 1e-6)
