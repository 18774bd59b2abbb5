"""Attention: against a softmax in f64 over each query's own context, and its gradients against theirs."""

import numpy as np

from emulator import HEADS, close, from_bf16, rounded, struct, to_bf16

ATTENTION = [("queries", "i4"), ("keys", "i4"), ("size", "i4"), ("window", "i4"), ("scale", "f4"), ("q_row", "i4"),
             ("out_row", "i4")]
SPLIT = 1024


def padded_size(size):
    return next(h for h in HEADS if size <= h)


class Scene:
    """Sequences that share a beginning: segments of rows, each with its context as slots of a shuffled cache."""

    def __init__(self, random, heads, keys, size, window, shared, members, extra=0):
        self.heads, self.keys, self.size, self.window = heads, keys, size, window
        self.head, self.random = padded_size(size), random
        self.rows_a_block = 32 if self.head > 128 else 64
        self.shared = shared
        # The shared beginning is a segment of its own; `extra` cached tokens that are no rows stand before members' rows.
        self.segments, first = [], 0
        for length, shared_length, cached in [(shared, 0, 0)] + [(m, shared, extra) for m in members]:
            if length:
                self.segments.append((first, length, shared_length, cached))
            first += length
        self.rows = first
        total = self.rows + extra * len(members)
        order = random.permutation(total + 5).astype(np.uint32)
        self.row_slots = order[:self.rows]
        self.cached = [order[self.rows + i * extra:][:extra] for i in range(len(members))]
        draw = lambda *shape: rounded(random.normal(size=shape))
        self.q = draw(self.rows, heads, size)
        self.k, self.v = draw(total + 5, keys, size), draw(total + 5, keys, size)
        self.scale = float(np.float32(1 / np.sqrt(size)))

    def context(self, segment):
        """All slots that the segment's last row sees."""
        first, length, shared, cached = self.segments[segment]
        begin = self.row_slots[:shared]
        extra = self.cached[segment - (len(self.segments) - len(self.cached))] if cached else self.row_slots[:0]
        return np.concatenate([begin, extra, self.row_slots[first:first + length]])

    def argument(self):
        return struct(ATTENTION, (self.heads, self.keys, self.size, self.window, self.scale, self.heads * self.size,
                                  self.heads * self.size))

    def units(self, alone, most=64):
        """Units of pieces of at most `most` tokens: one piece each (`alone`), or as many as fit."""
        per_key, slots, units, pieces = self.heads // self.keys, [], [], []
        at = lambda values: (slots.extend(values), len(slots) - len(values))[1]
        fits = self.rows_a_block // per_key
        most = min(fits, most)
        shared_at = at(self.row_slots[:self.shared])
        open_unit, held = None, 0
        for segment, (first, length, shared, cached) in enumerate(self.segments):
            context = self.context(segment)
            own_at = at(context[shared:])
            for token in range(0, length, most):
                count = min(most, length - token)
                if open_unit is None or alone or units[open_unit][1] != shared or held + count > fits:
                    open_unit, held = len(units), 0
                    units.append([shared_at, shared, len(pieces), 0])
                pieces.append([own_at, len(context) - shared, first + token, count, len(context) - length + token,
                               held * per_key])
                units[open_unit][3] += 1
                held += count
        return [np.array(x, np.int32) for x in (units, pieces)] + [np.array(slots, np.uint32)]

    def expected(self, d_out=None):
        per_key = self.heads // self.keys
        out = np.zeros((self.rows, self.heads, self.size))
        dq, dk, dv = np.zeros_like(out), np.zeros(self.k.shape), np.zeros(self.v.shape)
        for segment, (first, length, _, _) in enumerate(self.segments):
            context = self.context(segment)
            for row in range(length):
                limit = len(context) - length + row + 1
                seen = context[max(limit - self.window, 0) if self.window else 0:limit]
                for head in range(self.heads):
                    k, v = (x[seen, head // per_key].astype(np.float64) for x in (self.k, self.v))
                    q = self.q[first + row, head].astype(np.float64)
                    s = self.scale * (k @ q)
                    p = np.exp(s - s.max())
                    p /= p.sum()
                    out[first + row, head] = p @ v
                    if d_out is None:
                        continue
                    d = d_out[first + row, head].astype(np.float64)
                    ds = self.scale * p * (v @ d - d @ out[first + row, head])
                    dq[first + row, head] = ds @ k
                    np.add.at(dk, (seen, head // per_key), np.outer(ds, q))
                    np.add.at(dv, (seen, head // per_key), np.outer(p, d))
        return out, dq, dk[self.row_slots], dv[self.row_slots]

    def contexts(self):
        out = np.zeros(self.rows, np.uint32)
        for segment, (first, length, _, _) in enumerate(self.segments):
            out[first:first + length] = np.arange(length) + len(self.context(segment)) - length + 1
        return out

    def forward(self, emulator, *how):
        units, pieces, slots = self.units(*how)
        parts = -(-int(self.contexts().max()) // SPLIT)
        name, rows = self.head, self.rows_a_block
        partial = np.full((parts if parts > 1 else 0, self.rows, self.heads, self.size + 2), np.nan, np.float32)
        if parts == 1:
            partial = np.zeros(1, np.float32)
        out, lse = np.zeros((self.rows, self.heads * self.size), np.uint16), np.zeros((self.rows, self.heads), np.float32)
        shared = (rows + 2 * rows) * (name + 8) * 2
        arguments = [self.argument(), to_bf16(self.q), to_bf16(self.k), to_bf16(self.v), units, pieces, slots, out, lse,
                     partial, self.rows]
        result = emulator.run(f"attention_forward_{name}", (len(units), self.keys, parts), rows * 2, shared, arguments)
        out, lse, partial = result[6:9]
        if parts > 1:
            arguments = [self.argument(), partial, self.contexts(), self.rows, out, lse]
            result = emulator.run(f"attention_join_{name}", (-(-self.rows * self.heads // 4),), 128, 0, arguments)
            out, lse = result[2:4]
        return out, lse

    def backward(self, emulator, out, lse, d_out):
        units, pieces, slots = self.units(False)
        name, rows = self.head, self.rows_a_block
        cache = [to_bf16(self.k), to_bf16(self.v)]
        flat = to_bf16(d_out).reshape(self.rows, -1)
        groups = -(-self.rows * self.heads // 4)
        zeros = lambda *shape: np.full(shape, np.nan, np.float32)
        delta = emulator.run(f"attention_delta_{name}", (groups,), 128, 0,
                             [self.argument(), out, flat, self.rows, zeros(self.rows, self.heads)])[2]
        parts = -(-int(self.contexts().max()) // SPLIT)
        arguments = [self.argument(), to_bf16(self.q), *cache, units, pieces, slots, flat, lse, delta, parts,
                     zeros(self.rows, self.heads, self.size)]
        dq = emulator.run(f"attention_backward_queries_{name}", (len(units), self.keys), rows * 2,
                          4 * rows * (name + 8) * 2, arguments)[9]
        tiles, runs = [], []
        for first, length, _, _ in self.segments:
            for at in range(0, length, rows):
                seen_by = []
                for other, other_length, shared, cached in self.segments:
                    if other == first:
                        seen_by.append([other, other_length, shared + cached, shared + cached + at])
                    elif shared and first == 0:
                        seen_by.append([other, other_length, shared + cached, at])
                tiles.append([first + at, min(rows, length - at), len(runs), len(seen_by)])
                runs += seen_by
        arguments = [self.argument(), to_bf16(self.q), *cache, np.array(tiles, np.int32), np.array(runs, np.int32),
                     self.row_slots, flat, lse, delta, zeros(self.rows, self.keys, self.size),
                     zeros(self.rows, self.keys, self.size)]
        result = emulator.run(f"attention_backward_keys_{name}", (len(tiles), self.keys), rows * 2,
                              (2 * rows + (32 if name > 128 else 64)) * (name + 8) * 2, arguments)
        return dq, result[9], result[10]


def check(emulator, random):
    # heads, key heads, d, window, shared, members, cached tokens before the members' rows
    for case in [
        (4, 2, 14, 0, 21, [5, 9, 1], 0), (6, 2, 24, 8, 70, [30, 3], 0), (7, 1, 80, 0, 66, [1] * 5, 40),
        (2, 2, 128, 0, 0, [100], 0), (2, 1, 128, 20, 90, [13, 70], 0), (2, 1, 256, 0, 40, [20, 1], 0),
        (4, 4, 32, 0, 65, [1, 1, 1], 90), (3, 1, 64, 40, 30, [70, 2], 0), (4, 1, 96, 0, 33, [17, 64], 0), (2, 1, 16, 0, 1100, [2, 1], 0), (2, 1, 12, 1050, 1020, [3, 40], 30),
    ]:
        heads, keys, size, window, shared, members, extra = case
        scene = Scene(random, *case)
        out, lse = scene.forward(emulator, False)
        # Each sequence alone, as in prefill; where that isn't long, each token alone or beside others, as in decode.
        for how in [(True,)] + [(True, 1), (False, 1)] * (scene.rows < 60):
            other = scene.forward(emulator, *how)
            if any(a.tobytes() != b.tobytes() for a, b in zip((out, lse), other)):
                raise AssertionError(f"attention {case}: a query depends on what shares its block")
        d_out = rounded(random.normal(size=scene.q.shape))
        want_out, *wanted = scene.expected(d_out)
        close(f"attention {case}", from_bf16(out).reshape(want_out.shape), want_out, 8e-3)
        if extra:
            continue  # only what has rows is trained on
        for what, found, expected in zip(("dq", "dk", "dv"), scene.backward(emulator, out, lse, d_out), wanted):
            close(f"attention {what} {case}", found, expected, 2e-2)
