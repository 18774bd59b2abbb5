"""Norms, heads with rope, activations, rows, head, sampling, optimizer: against f64."""

import numpy as np

from check_product import OPERANDS, SHAPES, padded
from emulator import close, from_bf16, rounded, struct, to_bf16

f32 = lambda x: np.ascontiguousarray(x, np.float32)


def check(emulator, random):
    norms(emulator, random)
    activations(emulator, random)
    heads(emulator, random)
    rows(emulator, random)
    head(emulator, random)
    optimizer(emulator, random)
    slopes(emulator, random)
    joins(emulator, random)


def joined(emulator, parts, start):
    """What side_join makes of parts."""
    return emulator.run("side_join", (-(-start.size // 128),), 128, 0, [parts, len(parts), start.size, start])[1]


def slopes(emulator, random):
    """Gradients of the weights of norms and of biases, over one piece of rows and over several."""
    for rows, width in [(1, 7), (700, 130)]:
        x, dy = (f32(random.normal(size=(rows, width))) for _ in range(2))
        start, pieces = f32(random.normal(size=width)), -(-rows // 512)
        scales = emulator.run("norm_scales", (-(-rows // 4),), 128, 0, [x, 1e-5, rows, width, np.zeros(rows, np.float32)])[1]
        exact = 1 / np.sqrt((x.astype(np.float64) ** 2).mean(-1) + 1e-5)
        close("scales of a norm", scales, exact, 1e-6)
        grid, parts = (-(-width // 128), pieces), np.zeros((pieces, width), np.float32)
        found = emulator.run("norm_slopes", grid, 128, 0, [x, dy, scales, rows, width, parts])[3]
        close("gradient of a norm", joined(emulator, found, start), start + (dy * x * exact[:, None]).sum(0), 2e-6)
        d = rounded(dy)
        b = padded(d)
        found = emulator.run("column_sums", grid, 128, 0, [b, b.shape[1], rows, width, parts])[1]
        close("gradient of a bias", joined(emulator, found, start), start + d.astype(np.float64).sum(0), 2e-6)
    for rows, heads, size in [(3, 2, 14), (130, 3, 64), (70, 1, 256)]:
        first, half = 10, size // 2
        qkv, dy = rounded(random.normal(size=(rows, first + heads * size + 6))), f32(random.normal(size=(rows, heads, size)))
        positions, start = random.integers(0, 20, rows).astype(np.uint32), f32(random.normal(size=size))
        angle = np.arange(20)[:, None] * 10000.0 ** (-np.arange(half) / half)
        turns, pieces = f32(np.stack([np.cos(angle), np.sin(angle)], -1)), -(-rows // 64)
        arguments = [to_bf16(qkv), qkv.shape[1], first, heads, size, positions, turns, 1e-5, dy, rows,
                     np.zeros((pieces, size), np.float32)]
        found = emulator.run("head_norm_slopes", (pieces,), 128, 0, arguments)[-1]
        x = qkv[:, first:first + heads * size].reshape(rows, heads, size).astype(np.float64)
        c, s = (turns[positions][:, None, :, i].astype(np.float64) for i in (0, 1))
        low, high = dy[..., :half] * c + dy[..., half:] * s, dy[..., half:] * c - dy[..., :half] * s
        scaled = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
        exact = (np.concatenate([low, high], -1) * scaled).sum((0, 1))
        close("gradient of heads' norms", joined(emulator, found, start), start + exact, 4e-6)


def norm(x, w, epsilon=1e-5):
    return x * w / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + epsilon)


def norm_back(x, w, dy, epsilon=1e-5):
    x = x.astype(np.float64)
    s = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return s * w * dy - x * s**3 * (x * w * dy).mean(-1, keepdims=True)


def norms(emulator, random):
    for width in (1, 40, 257, 600):
        x, dy, start = (f32(random.normal(size=(3, width))) for _ in range(3))
        w, out = f32(random.normal(size=width)), np.zeros((3, width + 3), np.uint16)
        run = lambda name, *more: emulator.run(name, (3,), 256, 0, [x, w, 1e-5, width, *more])
        close("norm", from_bf16(run("rms_norm", out, width + 3)[2])[:, :width], norm(x, w), 4e-3)
        close("norm added", run("rms_norm_add", start)[2], start + norm(x, w), 1e-6)
        back = norm_back(x, w, dy)
        if width == 1:
            continue  # the true gradient is all but 0
        close("norm backward", run("rms_norm_backward_add", dy, start)[3], start + back, 1e-5)
        close("norm backward", from_bf16(run("rms_norm_backward", dy, out, width + 3)[3])[:, :width], back, 4e-3)


def activation(kind, x):
    if kind == 0:
        return x / (1 + np.exp(-x))
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def activations(emulator, random):
    rows, width = 3, 300
    for kind in (0, 1):
        both = rounded(random.normal(size=(rows, 2 * width)) * 3)
        d = rounded(random.normal(size=(rows, width)))
        gate, up = both[:, :width].astype(np.float64), both[:, width:].astype(np.float64)
        shape = [2 * width, rows, width]
        out = emulator.run("gated", (2, rows), 256, 0,
                           [kind, to_bf16(both), *shape, np.zeros((rows, width), np.uint16), width])[1]
        close("gated", from_bf16(out), activation(kind, gate) * up, 4e-3)
        slope = (activation(kind, gate + 1e-5) - activation(kind, gate - 1e-5)) / 2e-5
        found = from_bf16(emulator.run("gated_backward", (2, rows), 256, 0, [kind, to_bf16(both), *shape, to_bf16(d), width])[0])
        close("gated backward", found, np.concatenate([d * up * slope, d * activation(kind, gate)], 1), 4e-3)


def heads(emulator, random):
    for queries, keys, size, normed in [(4, 2, 14, True), (3, 1, 64, False), (2, 2, 80, True)]:
        rows, total, half = 7, queries + 2 * keys, size // 2
        width = total * size
        qkv = rounded(random.normal(size=(rows, total, size)))
        shape = struct([(n, "i4") for n in "queries keys size qkv_row rows".split()],
                       (queries, keys, size, width + 4, rows))
        wide = np.full((rows, width + 4), 0x7FFF, np.uint16)
        wide[:, :width] = to_bf16(qkv).reshape(rows, -1)
        positions, places = (random.permutation(20)[:rows].astype(np.uint32) for _ in range(2))
        angle = np.arange(20)[:, None] * 10000.0 ** (-np.arange(half) / half)
        turns = f32(np.stack([np.cos(angle), np.sin(angle)], -1))
        weights = [f32(random.normal(size=size)) if normed else None for _ in range(2)]
        blocks = (-(-rows * total // 4),)
        cache = np.zeros((20, keys, size), np.uint16)
        arguments = [shape, wide, positions, places, turns, *weights, 1e-5,
                     np.zeros((rows, queries * size), np.uint16), queries * size, cache, cache.copy()]
        q, k, v = emulator.run("heads_forward", blocks, 128, 0, arguments)[-3:]
        c, s = (turns[positions][:, None, :, i].astype(np.float64) for i in (0, 1))
        turn = lambda x: np.concatenate([x[..., :half] * c - x[..., half:] * s, x[..., half:] * c + x[..., :half] * s], -1)
        turn_back = lambda x: np.concatenate([x[..., :half] * c + x[..., half:] * s, x[..., half:] * c - x[..., :half] * s], -1)
        parts = [qkv[:, :queries], qkv[:, queries:queries + keys], qkv[:, queries + keys:]]
        ready = [norm(x, w) if normed else x for x, w in zip(parts, weights)]
        close("q", from_bf16(q).reshape(rows, queries, size), turn(ready[0]), 4e-3)
        close("k", from_bf16(k)[places], turn(ready[1]), 4e-3)
        close("v", from_bf16(v)[places], parts[2], 0)
        d = [f32(random.normal(size=x.shape)) for x in parts]
        arguments = [shape, wide, positions, turns, *weights, 1e-5, *d, np.zeros_like(wide)]
        found = from_bf16(emulator.run("heads_backward", blocks, 128, 0, arguments)[-1])[:, :width]
        wanted = [turn_back(d[0]), turn_back(d[1])]
        if normed:
            wanted = [norm_back(x, w, g) for x, w, g in zip(parts, weights, wanted)]
        wanted = np.concatenate([*wanted, d[2]], 1).reshape(rows, -1)
        close("gradient of qkv", found, wanted, 4e-3)


def rows(emulator, random):
    width, table = 300, random.normal(size=(9, 300))
    index = np.array([4, 0, 8, 4], np.uint32)
    found = emulator.run("embed", (4,), 256, 0, [padded(table), 304, index, 1.5, width, np.zeros((4, width), np.float32)])
    close("embedding", found[2], rounded(table)[index] * 1.5, 1e-7)
    x = f32(table)
    found = emulator.run("gather_rows", (4,), 256, 0, [x, index, width, np.zeros((4, width), np.float32)])[2]
    close("gathered", found, x[index], 0)
    for count in (3, 300):
        sources = random.integers(-1, 7, count, dtype=np.int32)
        choices, tokens = (random.integers(0, 1 << 30, n, dtype=np.uint32) for n in (28, count))
        found = emulator.run("next_tokens", (-(-count // 256),), 256, 0, [sources, choices, count, tokens])[2]
        close("next tokens", found, np.where(sources < 0, tokens, choices[sources * 4]), 0)
    out = f32(random.normal(size=(5, width)))
    distinct, begins, sources = (np.array(v, np.uint32) for v in ([3, 1], [0, 2, 3], [0, 7, 2]))
    found = emulator.run("scatter_rows", (2,), 256, 0, [x, distinct, begins, sources, width, out])[4]
    wanted = out.copy()
    wanted[3] += x[0] + x[7]
    wanted[1] += x[2]
    close("scattered", found, wanted, 1e-6)
    found = emulator.run("round_rows", (9,), 256, 0, [x, width, np.zeros((9, 304), np.uint16), 304])[1]
    close("rounded", from_bf16(found)[:, :width], rounded(x), 0)
    factors = f32(random.normal(size=9))
    close("scaled", emulator.run("scale_rows", (9,), 256, 0, [x, factors, width])[0], x * factors[:, None], 1e-7)


DRAW = [("key", "u4", 4), ("counter", "u8"), ("greedy", "u4"), ("unused", "u4")]
CHOICE = np.dtype([("token", "u4"), ("logit", "f4"), ("logprob", "f4"), ("entropy", "f4")])


def philox(key, counter):
    """As published: ten rounds on four words."""
    c, k = list(counter), list(key)
    for step in range(10):
        if step:
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
    return c


def joins(emulator, random):
    begun, x = (random.integers(0, 1 << 16, size).astype(np.uint16) for size in ((2, 48), (4, 56)))
    of = np.array([-1, 1, 0, -1], np.int32)
    found = emulator.run("join_rows", (4,), 256, 0, [begun, 48, of, 43, x, 56])[2]
    expected = x.copy()
    expected[1, :43], expected[2, :43] = begun[1, :43], begun[0, :43]
    if found.tobytes() != expected.tobytes():
        raise AssertionError("rows that join are not what they begin with")


def head(emulator, random):
    for m, v, d in [(5, 331, 40), (18, 1000, 72), (1, 5, 8)]:
        x, e = rounded(random.normal(size=(m, d))), rounded(random.normal(size=(v, d)))
        a, b = padded(x), padded(e)
        inverse = f32(random.uniform(0.5, 1.5, m))
        targets = random.integers(0, v, m).astype(np.uint32)
        of = lambda a, b: struct(OPERANDS, (a, b, a_row, b_row, m, v, d))
        a_row, b_row, chunks = a.shape[1], b.shape[1], -(-v // 128)
        sums = []
        for name, shape in (("head_statistics", "large"), ("head_statistics_few", "wide")):
            bm, bn, threads, shared = SHAPES[shape]
            arguments = [of, inverse, targets, np.zeros((m, chunks, 3), np.float32), np.zeros(m, np.float32)]
            sums.append(emulator.run(name, (-(-m // bm), chunks), threads, shared, arguments, [a, b])[2:4])
        if any(one.tobytes() != other.tobytes() for one, other in zip(*sums)):
            raise AssertionError("the head's statistics depend on the batch")
        (sums, target_logits) = sums[0]
        shares = emulator.run("head_distribution", (-(-m // 4),), 128, 0, [sums, m, chunks, np.zeros((m, 3), np.float32)])[1]
        logits = x.astype(np.float64) @ e.T * inverse[:, None]
        top = logits.max(1, keepdims=True)
        normalizer = (top + np.log(np.exp(logits - top).sum(1, keepdims=True)))[:, 0]
        p = np.exp(logits - normalizer[:, None])
        close("normalizer", shares[:, 0], normalizer, 1e-6)
        close("entropy", shares[:, 1], -(p * np.log(p)).sum(1), 1e-5)
        close("target logits", target_logits, logits[np.arange(m), targets], 1e-5)
        head_slopes(emulator, random, (a, b, m, v, d), inverse, targets, shares, p)
        sample(emulator, random, (a, b, of), inverse, sums, shares, logits, p)
        directions(emulator, (a, b, m, v, d), e, inverse, targets, shares, p)


def sample(emulator, random, operands, inverse, sums, shares, logits, p):
    a, b, of = operands
    m = len(p)
    draws = np.zeros(m, np.dtype(DRAW, align=True))
    draws["key"] = random.integers(0, 2**32, (m, 4))
    draws["counter"] = random.integers(0, 2**40, m)
    draws["greedy"][::3] = 1
    arguments = [of, inverse, sums, shares, draws, np.zeros(m, CHOICE)]
    choices = emulator.run("head_pick", (m,), 128, SHAPES["wide"][3], arguments, [a, b])[4]
    tokens = choices["token"].astype(np.int64)
    close("chosen logits", choices["logit"], logits[np.arange(m), tokens], 1e-5)
    # The logits that they are differences of are of the order of 10.
    close("chosen log-probs", choices["logprob"] - 10, np.log(p[np.arange(m), tokens]) - 10, 1e-6)
    for row, (draw, token) in enumerate(zip(draws, tokens)):
        if draw["greedy"]:
            assert token == p[row].argmax(), "greedy takes the most probable token"
            continue
        key, counter = [int(k) for k in draw["key"]], int(draw["counter"])
        words = philox(key[:2], [counter % 2**32, counter >> 32, key[2], key[3]])
        uniform = (((words[0] << 32) | words[1]) >> 11) / 2**53
        below = p[row, :token].sum()
        assert below - 1e-5 <= uniform <= below + p[row, token] + 1e-5, "the token that the uniform number points at"


def directions(emulator, shapes, e, inverse, targets, shares, p):
    a, b, m, v, d = shapes
    bm, bn, threads, shared = SHAPES["large"]
    out, slab = np.zeros((m, d), np.float32), 256
    for first in range(0, v, slab):
        left = np.ascontiguousarray(b[first:])
        of = lambda a, b: struct(OPERANDS, (a, b, shapes[0].shape[1], left.shape[1], m, v - first, d))
        arguments = [of, inverse, shares, np.zeros((m, slab), np.uint16), slab]
        chance = emulator.run("head_probabilities", (-(-m // bm), slab // 128), threads, shared, arguments, [a, left])[2]
        wanted = np.zeros((m, slab))
        wanted[:, :min(slab, v - first)] = p[:, first:first + slab]
        close("probabilities", from_bf16(chance), wanted, 4e-3)
        found = emulator.run("head_entropies", (-(-m // bm), slab // 128), threads, shared, arguments, [a, left])[2]
        surprise = np.log(np.maximum(wanted, 1e-300)) - (p * np.log(p)).sum(1)[:, None]
        close("weights of the entropy", from_bf16(found), wanted * np.where(wanted > 0, surprise, 0), 6e-3)
        count = min(slab, v - first)
        back = lambda a, b: struct(OPERANDS, (a, b, slab, left.shape[1], m, d, count))
        side = struct([("none", "u8", 2), ("zero", "i4", 7)], ([0, 0], [0] * 7))
        out = emulator.run("product_back_add", (-(-m // 128), -(-d // 128)), 256, 65536, [back, None, side, out, d],
                           [chance, left])[0]
    found = emulator.run("head_directions", (m,), 256, 0, [b, b.shape[1], targets, inverse, d, out])[3]
    close("directions", found, (e[targets] - p @ e) * inverse[:, None], 6e-3)


def head_slopes(emulator, random, shapes, inverse, targets, shares, p):
    """What rows weigh in the gradient of the head's matrix."""
    a, b, m, v, d = shapes
    bm, bn, threads, shared = SHAPES["large"]
    given, slab = f32(random.normal(size=(m, 2))), 256
    entropy = -(p * np.log(p)).sum(1, keepdims=True)
    exact = given[:, :1] * (np.eye(v)[targets] - p) - given[:, 1:] * p * (np.log(p) + entropy)
    for first in range(0, v, slab):
        left = np.ascontiguousarray(b[first:])
        of = lambda a_at, b_at: struct(OPERANDS, (a_at, b_at, a.shape[1], left.shape[1], m, v - first, d))
        arguments = [of, inverse, shares, targets, given, first, np.zeros((m, slab), np.uint16), slab]
        found = emulator.run("head_slopes", (-(-m // bm), slab // 128), threads, shared, arguments, [a, left])[4]
        wanted = np.zeros((m, slab))
        wanted[:, :min(slab, v - first)] = exact[:, first:first + slab]
        # A likely target's and the others' weights are differences of what exp gives, good to 1e-6.
        close("weights of the head's gradient", from_bf16(found), wanted, 6e-3)


STEP = [("count", "u8"), ("x", "f8", 8), ("nesterov", "i4"), ("unused", "i4")]
FIRST = np.dtype([("at", "i4"), ("value", "f4")])
SUM = np.dtype([("squares", "f8"), ("bad", FIRST)])


def optimizer(emulator, random):
    """Steps on more than a block of numbers, the formulas in f64; numbers that would not stay finite are found and nothing else."""
    n, block, lr, b1, b2, eps, keep, t = 65536 + 300, 65536, 1e-2, 0.9, 0.99, 1e-8, 0.999, 3
    g, m, p = (f32(random.normal(size=n)) for _ in range(3))
    s, blocks = f32(random.uniform(0, 1, n)), -(-n // block)
    count = struct([("n", "u8")], n)
    found = emulator.run("gradient_sums", (1,), 64, 0, [g, count, np.zeros(blocks, SUM)])[1]
    close("sums of squares", found["squares"], [(g[i:i + block].astype(np.float64) ** 2).sum() for i in (0, block)], 1e-12)
    assert (found["bad"]["at"] == -1).all(), "all numbers are finite"
    broken = g.copy()
    broken[[block + 7, block + 9]] = np.nan, np.inf
    found = emulator.run("gradient_sums", (1,), 64, 0, [broken, count, np.zeros(blocks, SUM)])[1]["bad"]
    assert list(found["at"]) == [-1, 7] and np.isnan(found["value"][1]), "the first number that is not finite"
    for factor, nesterov in [(1.0, 0), (0.3, 1)]:
        step = struct(STEP, (n, [lr, factor, keep, b1, b2, eps, 1 - b1**t, 1 - b2**t], nesterov, 0))
        clipped = f32(g * np.float64(factor)).astype(np.float64)
        grid = (-(-n // 256),)
        _, m2, s2, p2 = emulator.run("adamw_step", grid, 256, 0, [step, g, m, s, p])
        wm, ws = b1 * m + (1 - b1) * clipped, b2 * s + (1 - b2) * clipped**2
        moved = f32(wm) / (1 - b1**t) / (np.sqrt(f32(ws).astype(np.float64) / (1 - b2**t)) + eps)
        close("AdamW", p2, p * keep - lr * moved, 1e-6)
        close("AdamW's means", np.stack([m2, s2]), np.stack([wm, ws]), 1e-7)
        _, b, p2 = emulator.run("sgd_step", grid, 256, 0, [step, g, m, p])
        momentum = b1 * m + clipped
        close("SGD", p2, p * keep - lr * (clipped + b1 * momentum if nesterov else momentum), 1e-6)
        close("SGD's momentum", b, momentum, 1e-7)
        for name, lists in [("adamw_look", [m, s]), ("sgd_look", [m])]:
            for bad in ([], [1000, 999], [block + 299]):
                given = [x.copy() for x in lists]
                given[0][bad] = 3e38
                wild = g.copy()
                wild[bad] = 3e38
                big = struct(STEP, (n, [lr, 1.0, keep, 2.0, b2, eps, 0.5, 0.5], nesterov, 0))
                found = emulator.run(name, (blocks,), 256, 0, [big, wild, *given, p, np.zeros(blocks, FIRST)])[-1]
                first = [min((i - k * block for i in bad if i // block == k), default=-1) for k in range(blocks)]
                assert list(found["at"]) == first, f"{name}: the first numbers that are not finite are {first}, not {found}"
