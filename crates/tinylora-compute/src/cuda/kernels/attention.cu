// Attention over a paged KV cache with a shared beginning, forward and backward, on the tensor cores; compiled once for
// each padded head size HEAD.
//
// A query's result is a pure function of the query and of the keys and values it sees: its context is walked in tiles of
// KEYS tokens that begin at fixed places of the context, and a tile that it doesn't see leaves its state alone, bit
// for bit. So prefill, decode and training agree, whatever shares a block. Contexts of more than SPLIT tokens
// are walked in parts of SPLIT, which leave partial results; these are joined in order.
//
// A unit is up to ROWS queries of one key head that share the beginning of their context; a piece is a run of tokens
// of one sequence in it, each with all its query heads of that key head. Slots are tokens' places in the cache.
#include "prelude.cuh"

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAMED(name) JOIN(name, HEAD)

#define SPLIT 1024
constexpr int ROWS = HEAD > 128 ? 32 : 64;
constexpr int KEYS = HEAD > 128 ? 32 : 64;
constexpr int STEP_QUERIES = HEAD > 128 ? 16 : 32;  // queries at a time where keys stay
constexpr int STEP_KEYS = HEAD >= 128 ? 16 : 32;    // keys of a tile at a time where two kinds of scores are held
constexpr int ATTENTION_THREADS = ROWS * 2;
constexpr int PITCH = HEAD + 8;  // so that eight rows of one column fall on different banks
constexpr int TILES = HEAD / 8;

struct Attention {
    int queries, keys, size;  // heads, key heads, d
    int window;               // tokens that a token sees, itself included; 0: all
    float scale;
    int q_row, out_row;  // row lengths
};

struct Unit {
    int shared_at, shared;  // the common beginning: slots[shared_at .. + shared]
    int first_piece, pieces;
};

struct Piece {
    int own_at, own;      // the rest of the context: slots[own_at .. + own]
    int first_row, rows;  // rows of the batch
    int before;           // context of the first row, itself not included
    int first_query;      // within the unit
};

struct Query {
    int piece, row, head, first, limit;  // sees context first … limit - 1; piece -1: no query
};

// Copies a row of d numbers, zero up to HEAD; from null, zeros. `any` is a place in memory to name where nothing is read.
DEVICE void row_to_shared(bf16* to, const bf16* from, const bf16* any, int size, int piece) {
    int at = piece * 8, valid = from ? smaller(larger(size - at, 0), 8) : 0;
    if (size % 8 == 0) {
        copy_async(to + at, valid ? from + at : any, valid * 2);
    } else {
        for (int i = 0; i < 8; i++) to[at + i] = i < valid ? from[at + i] : (bf16)0;
    }
}

// Fills `queries` (ROWS) of a unit.
DEVICE void find_queries(const Attention& a, const Unit& unit, const Piece* pieces, int key_head, Query* queries) {
    int per_key = a.queries / a.keys;
    for (int n = thread(); n < ROWS; n += ATTENTION_THREADS) {
        Query query = {-1, 0, 0, 0, 0};
        for (int p = 0; p < unit.pieces; p++) {
            Piece piece = pieces[unit.first_piece + p];
            int at = n - piece.first_query;
            if (at < 0 || at >= piece.rows * per_key) continue;
            int limit = piece.before + at / per_key + 1;
            int first = a.window > 0 ? larger(limit - a.window, 0) : 0;
            query = {p, piece.first_row + at / per_key, key_head * per_key + at % per_key, first, limit};
        }
        queries[n] = query;
    }
}

// Loads the unit's rows of x (rows of the batch, heads · d) to (ROWS, PITCH).
DEVICE void rows_of_queries(bf16* to, const bf16* x, int x_row, int size, const Query* queries) {
    for (int i = thread(); i < ROWS * TILES; i += ATTENTION_THREADS) {
        Query query = queries[i / TILES];
        const bf16* from = query.piece < 0 ? 0 : x + (size_t)query.row * x_row + query.head * size;
        row_to_shared(to + i / TILES * PITCH, from, x, size, i % TILES);
    }
}

// Loads a tile of the context of one piece (any piece, where the tile lies in the shared beginning).
DEVICE void rows_of_context(bf16* to, const bf16* cache, const Attention& a, const Unit& unit, const Piece& piece,
                            const u32* slots, int key_head, int base) {
    for (int i = thread(); i < KEYS * TILES; i += ATTENTION_THREADS) {
        int at = base + i / TILES, own = at - unit.shared;
        const bf16* from = 0;
        if (own < piece.own) {
            u32 slot = own < 0 ? slots[unit.shared_at + at] : slots[piece.own_at + own];
            from = cache + ((size_t)slot * a.keys + key_head) * a.size;
        }
        row_to_shared(to + i / TILES * PITCH, from, cache, a.size, i % TILES);
    }
}

// s (16, 8 N) = rows of a, from `row` on, times rows of b, from 0 on, over HEAD.
template <int N>
DEVICE void scores_of(float (&s)[N][4], const bf16* a, int row, const bf16* b) {
    int lane = thread() % 32;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[j][e] = 0.0f;
#pragma unroll
    for (int k = 0; k < HEAD; k += 16) {
        u32 left[4], right[4];
        load_matrices(left, a + (row + lane % 16) * PITCH + k + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            load_matrices(right, b + (j * 8 + lane % 8 + lane / 16 * 8) * PITCH + k + lane / 8 % 2 * 8);
            mma(s[j], left, right[0], right[1]);
            mma(s[j + 1], left, right[2], right[3]);
        }
    }
}

// out (16, HEAD) += p (16, 8 N), rounded, times rows of b (8 N, HEAD).
template <int N>
DEVICE void add_weighted(float (&out)[TILES][4], const float (&p)[N][4], const bf16* b) {
    int lane = thread() % 32;
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        u32 left[4] = {narrow2(p[k][0], p[k][1]), narrow2(p[k][2], p[k][3]), narrow2(p[k + 1][0], p[k + 1][1]),
                       narrow2(p[k + 1][2], p[k + 1][3])};
#pragma unroll
        for (int j = 0; j < TILES; j += 2) {
            u32 right[4];
            load_matrices_turned(right, b + (k * 8 + lane % 16) * PITCH + j * 8 + lane / 16 * 8);
            mma(out[j], left, right[0], right[1]);
            mma(out[j + 1], left, right[2], right[3]);
        }
    }
}

DEVICE void clear(float (&x)[TILES][4]) {
#pragma unroll
    for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) x[j][e] = 0.0f;
}

// Walks the tiles of the unit's contexts in part `part`: calls use(piece, base) for each, all threads together; piece -1
// where the tile lies in the shared beginning, and all queries take part.
template <class F>
DEVICE void walk(const Unit& unit, const Piece* pieces, const Query* queries, int part, F use) {
    int low = 0x7fffffff, high = 0;
    for (int n = 0; n < ROWS; n++)
        if (queries[n].piece >= 0) {
            low = smaller(low, queries[n].first);
            high = larger(high, queries[n].limit);
        }
    low = larger(low, part * SPLIT);
    high = smaller(high, (part + 1) * SPLIT);
    for (int base = low / KEYS * KEYS; base < high; base += KEYS) {
        if (base + KEYS <= unit.shared || unit.pieces == 1) {
            use(unit.pieces == 1 ? 0 : -1, base);
            continue;
        }
        for (int p = 0; p < unit.pieces; p++)
            if (base < unit.shared + pieces[unit.first_piece + p].own) use(p, base);
    }
}

// Whether a query sees context `at` in a walk over `piece`.
DEVICE bool sees(const Query& query, int piece, int at) {
    return query.piece >= 0 && (piece < 0 || query.piece == piece) && at >= query.first && at < query.limit;
}

// Whether any of the warp's sixteen queries sees some of the tile.
DEVICE bool warp_sees(const Query* queries, int piece, int base) {
    for (int n = thread() / 32 * 16, end = n + 16; n < end; n++)
        if (queries[n].piece >= 0 && (piece < 0 || queries[n].piece == piece) && queries[n].first < base + KEYS &&
            queries[n].limit > base)
            return true;
    return false;
}

// out = softmax(scale q Kᵀ) V, as the operand of a product; lse (rows, H) = log2 Σ 2^(scaled score), for the backward
// pass. Queries with more than SPLIT tokens leave (acc, largest, sum) a part in `partial` (parts, rows, H, d + 2).
// grid (units, key heads, parts).
KERNEL(NAMED(attention_forward), ATTENTION_THREADS, Attention a, const bf16* q, const bf16* keys, const bf16* values,
       const Unit* units, const Piece* pieces, const u32* slots, bf16* out, float* lse, float* partial, int rows) {
    bf16* q_tile = (bf16*)dynamic_shared();
    bf16 *k_tile = q_tile + ROWS * PITCH, *v_tile = k_tile + KEYS * PITCH;
    SHARED Query queries[ROWS];
    Unit unit = units[block_x()];
    int lane = thread() % 32, warp_row = thread() / 32 * 16, key_head = block_y(), part = block_z();
    find_queries(a, unit, pieces, key_head, queries);
    block_barrier();
    rows_of_queries(q_tile, q, a.q_row, a.size, queries);
    copy_commit();
    Query mine[2] = {queries[warp_row + lane / 4], queries[warp_row + lane / 4 + 8]};
    float factor = a.scale * LOG2_E, acc[TILES][4];
    float largest[2] = {MINUS_INFINITY, MINUS_INFINITY}, sum[2] = {0.0f, 0.0f};
    clear(acc);
    walk(unit, pieces, queries, part, [&](int piece, int base) {
        const Piece& context = pieces[unit.first_piece + larger(piece, 0)];
        rows_of_context(k_tile, keys, a, unit, context, slots, key_head, base);
        rows_of_context(v_tile, values, a, unit, context, slots, key_head, base);
        copy_commit();
        copy_wait<0>();
        block_barrier();
        if (warp_sees(queries, piece, base)) {
            float s[KEYS / 8][4];
            scores_of<KEYS / 8>(s, q_tile, warp_row, k_tile);
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float top = largest[half], weight = 0.0f;
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        float& x = s[j][half * 2 + e];
                        bool seen = sees(mine[half], piece, base + j * 8 + lane % 4 * 2 + e);
                        x = seen ? x * factor : MINUS_INFINITY;
                        top = fmaxf(top, x);
                    }
                top = fmaxf(top, shuffle_xor(top, 1));
                top = fmaxf(top, shuffle_xor(top, 2));
                // A query that has seen nothing yet stays as it is.
                float safe = top == MINUS_INFINITY ? 0.0f : top;
                float shrink = exp2_fast(largest[half] - safe);
                if (largest[half] == top) shrink = 1.0f;
#pragma unroll
                for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        float& x = s[j][half * 2 + e];
                        x = x == MINUS_INFINITY ? 0.0f : exp2_fast(x - safe);
                        weight += x;
                    }
                weight += shuffle_xor(weight, 1);
                weight += shuffle_xor(weight, 2);
                sum[half] = fmaf(sum[half], shrink, weight);
                largest[half] = top;
#pragma unroll
                for (int j = 0; j < TILES; j++) {
                    acc[j][half * 2] *= shrink;
                    acc[j][half * 2 + 1] *= shrink;
                }
            }
            add_weighted<KEYS / 8>(acc, s, v_tile);
        }
        block_barrier();
    });
    copy_wait<0>();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        Query query = mine[half];
        if (query.piece < 0 || (query.limit <= SPLIT && part > 0)) continue;
        size_t index = (size_t)query.row * a.queries + query.head;
        bool whole = query.limit <= SPLIT;
        float* to_partial = partial + ((size_t)part * rows * a.queries + index) * (a.size + 2);
        bf16* to = out + (size_t)query.row * a.out_row + query.head * a.size;
        if (lane % 4 == 0 && whole && lse) lse[index] = largest[half] + log2f(sum[half]);
        if (lane % 4 == 0 && !whole) {
            to_partial[a.size] = largest[half];
            to_partial[a.size + 1] = sum[half];
        }
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = j * 8 + lane % 4 * 2 + e;
                if (column >= a.size) continue;
                if (whole) to[column] = narrow(acc[j][half * 2 + e] / sum[half]);
                else to_partial[column] = acc[j][half * 2 + e];
            }
    }
}

// Joins the parts of queries whose context (contexts[row]) is longer than SPLIT. A warp takes a query; grid
// (⌈rows · H / 4⌉).
KERNEL(NAMED(attention_join), 128, Attention a, const float* partial, const u32* contexts, int rows, bf16* out,
       float* lse) {
    int index = block_x() * 4 + thread() / 32, lane = thread() % 32;
    if (index >= rows * a.queries) return;
    int row = index / a.queries, head = index % a.queries, context = contexts[row];
    if (context <= SPLIT) return;
    int parts = (context + SPLIT - 1) / SPLIT, length = a.size + 2;
    float largest = MINUS_INFINITY, sum = 0.0f;
    for (int part = 0; part < parts; part++)
        largest = fmaxf(largest, partial[((size_t)part * rows * a.queries + index) * length + a.size]);
    for (int part = 0; part < parts; part++) {
        const float* from = partial + ((size_t)part * rows * a.queries + index) * length;
        sum = fmaf(from[a.size + 1], exp2_fast(from[a.size] - largest), sum);
    }
    for (int i = lane; i < a.size; i += 32) {
        float value = 0.0f;
        for (int part = 0; part < parts; part++) {
            const float* from = partial + ((size_t)part * rows * a.queries + index) * length;
            value = fmaf(from[i], exp2_fast(from[a.size] - largest), value);
        }
        out[(size_t)row * a.out_row + head * a.size + i] = narrow(value / sum);
    }
    if (lane == 0 && lse) lse[index] = largest + log2f(sum);
}

// delta (rows, H) = Σ do · o, of each head. A warp takes one.
KERNEL(NAMED(attention_delta), 128, Attention a, const bf16* out, const bf16* d_out, int rows, float* delta) {
    int index = block_x() * 4 + thread() / 32, lane = thread() % 32;
    if (index >= rows * a.queries) return;
    size_t at = (size_t)(index / a.queries) * a.out_row + index % a.queries * a.size;
    float sum = 0.0f;
    for (int i = lane; i < a.size; i += 32) sum = fmaf(widen(out[at + i]), widen(d_out[at + i]), sum);
    sum = warp_sum(sum);
    if (lane == 0) delta[index] = sum;
}

// dq (rows, H · d) = dS K with dS = scale · P ∘ (dO Vᵀ − delta). grid (units, key heads): all parts in one walk.
KERNEL(NAMED(attention_backward_queries), ATTENTION_THREADS, Attention a, const bf16* q, const bf16* keys,
       const bf16* values, const Unit* units, const Piece* pieces, const u32* slots, const bf16* d_out,
       const float* lse, const float* delta, int parts, float* dq) {
    bf16* q_tile = (bf16*)dynamic_shared();
    bf16 *d_tile = q_tile + ROWS * PITCH, *k_tile = d_tile + ROWS * PITCH, *v_tile = k_tile + KEYS * PITCH;
    SHARED Query queries[ROWS];
    Unit unit = units[block_x()];
    int lane = thread() % 32, warp_row = thread() / 32 * 16, key_head = block_y();
    find_queries(a, unit, pieces, key_head, queries);
    block_barrier();
    rows_of_queries(q_tile, q, a.q_row, a.size, queries);
    rows_of_queries(d_tile, d_out, a.out_row, a.size, queries);
    copy_commit();
    Query mine[2] = {queries[warp_row + lane / 4], queries[warp_row + lane / 4 + 8]};
    float factor = a.scale * LOG2_E, acc[TILES][4], normalizer[2], own_delta[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        size_t index = (size_t)mine[half].row * a.queries + mine[half].head;
        normalizer[half] = mine[half].piece < 0 ? 0.0f : lse[index];
        own_delta[half] = mine[half].piece < 0 ? 0.0f : delta[index];
    }
    clear(acc);
    for (int part = 0; part < parts; part++)
        walk(unit, pieces, queries, part, [&](int piece, int base) {
            const Piece& context = pieces[unit.first_piece + larger(piece, 0)];
            rows_of_context(k_tile, keys, a, unit, context, slots, key_head, base);
            rows_of_context(v_tile, values, a, unit, context, slots, key_head, base);
            copy_commit();
            copy_wait<0>();
            block_barrier();
            if (warp_sees(queries, piece, base)) {
                for (int at = 0; at < KEYS; at += STEP_KEYS) {
                    float s[STEP_KEYS / 8][4], d[STEP_KEYS / 8][4];
                    scores_of<STEP_KEYS / 8>(s, q_tile, warp_row, k_tile + at * PITCH);
                    scores_of<STEP_KEYS / 8>(d, d_tile, warp_row, v_tile + at * PITCH);
#pragma unroll
                    for (int j = 0; j < STEP_KEYS / 8; j++)
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            bool seen = sees(mine[e / 2], piece, base + at + j * 8 + lane % 4 * 2 + e % 2);
                            float p = seen ? exp2_fast(s[j][e] * factor - normalizer[e / 2]) : 0.0f;
                            s[j][e] = a.scale * p * (d[j][e] - own_delta[e / 2]);
                        }
                    add_weighted<STEP_KEYS / 8>(acc, s, k_tile + at * PITCH);
                }
            }
            block_barrier();
        });
    copy_wait<0>();
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (mine[half].piece < 0) continue;
        float* to = dq + ((size_t)mine[half].row * a.queries + mine[half].head) * a.size;
#pragma unroll
        for (int j = 0; j < TILES; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = j * 8 + lane % 4 * 2 + e;
                if (column < a.size) to[column] = acc[j][half * 2 + e];
            }
    }
}

// Keys of consecutive rows of one sequence, up to KEYS of them, and who sees them.
struct KeyTile {
    int first_row, rows;
    int first_run, runs;
};

// Consecutive rows whose context holds a key tile.
struct Run {
    int first_row, rows;
    int before;  // context of the first row, itself not included
    int at;      // place of the tile's first key in that context
};

// ∂L/∂k (DK) and ∂L/∂v (DV), (rows, K · d): keys stay, the queries that see them pass by in a fixed order, so that no
// two blocks add to one number. grid (tiles, key heads).
template <bool DK, bool DV>
DEVICE void backward_keys(const Attention& a, const bf16* q, const bf16* keys, const bf16* values, const KeyTile* tiles,
                          const Run* runs, const u32* row_slots, const bf16* d_out, const float* lse, const float* delta,
                          float* dk, float* dv) {
    bf16* k_tile = (bf16*)dynamic_shared();
    bf16 *v_tile = k_tile + KEYS * PITCH, *q_tile = v_tile + KEYS * PITCH, *d_tile = q_tile + STEP_QUERIES * PITCH;
    SHARED float normalizers[STEP_QUERIES], deltas[STEP_QUERIES];
    KeyTile tile = tiles[block_x()];
    int lane = thread() % 32, warp_row = thread() / 32 * 16, key_head = block_y(), per_key = a.queries / a.keys;
    for (int i = thread(); i < KEYS * TILES; i += ATTENTION_THREADS) {
        int row = i / TILES;
        size_t at = row < tile.rows ? ((size_t)row_slots[tile.first_row + row] * a.keys + key_head) * a.size : 0;
        row_to_shared(k_tile + row * PITCH, row < tile.rows ? keys + at : 0, keys, a.size, i % TILES);
        row_to_shared(v_tile + row * PITCH, row < tile.rows ? values + at : 0, values, a.size, i % TILES);
    }
    copy_commit();
    float factor = a.scale * LOG2_E, acc_k[TILES][4], acc_v[TILES][4];
    clear(acc_k);
    clear(acc_v);
    for (int r = 0; r < tile.runs; r++) {
        Run run = runs[tile.first_run + r];
        // The first token of the run that sees the tile's first key, and the first that sees none of it any more.
        int low = larger(run.at - run.before, 0);
        int high = a.window > 0 ? smaller(run.rows, run.at + tile.rows - 1 + a.window - run.before) : run.rows;
        for (int first = low * per_key; first < high * per_key; first += STEP_QUERIES) {
            block_barrier();
            for (int i = thread(); i < STEP_QUERIES * TILES; i += ATTENTION_THREADS) {
                int query = first + i / TILES, row = run.first_row + query / per_key;
                int head = key_head * per_key + query % per_key;
                bool there = query < run.rows * per_key;
                const bf16* from = there ? q + (size_t)row * a.q_row + head * a.size : 0;
                const bf16* d_from = there ? d_out + (size_t)row * a.out_row + head * a.size : 0;
                row_to_shared(q_tile + i / TILES * PITCH, from, q, a.size, i % TILES);
                row_to_shared(d_tile + i / TILES * PITCH, d_from, d_out, a.size, i % TILES);
            }
            for (int i = thread(); i < STEP_QUERIES; i += ATTENTION_THREADS) {
                int query = first + i, row = run.first_row + query / per_key;
                size_t index = (size_t)row * a.queries + key_head * per_key + query % per_key;
                bool there = query < run.rows * per_key;
                normalizers[i] = there ? lse[index] : 0.0f;
                deltas[i] = there ? delta[index] : 0.0f;
            }
            copy_commit();
            copy_wait<0>();
            block_barrier();
            float p[STEP_QUERIES / 8][4], d[STEP_QUERIES / 8][4];
            scores_of<STEP_QUERIES / 8>(p, k_tile, warp_row, q_tile);
            if (DK) scores_of<STEP_QUERIES / 8>(d, v_tile, warp_row, d_tile);
#pragma unroll
            for (int j = 0; j < STEP_QUERIES / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int column = j * 8 + lane % 4 * 2 + e % 2, query = first + column;
                    int key = warp_row + lane / 4 + e / 2 * 8, limit = run.before + query / per_key + 1;
                    int at = run.at + key;
                    bool seen = key < tile.rows && query < run.rows * per_key && at < limit &&
                                (a.window == 0 || at >= limit - a.window);
                    p[j][e] = seen ? exp2_fast(p[j][e] * factor - normalizers[column]) : 0.0f;
                    if (DK) d[j][e] = a.scale * p[j][e] * (d[j][e] - deltas[column]);
                }
            if (DV) add_weighted<STEP_QUERIES / 8>(acc_v, p, d_tile);
            if (DK) add_weighted<STEP_QUERIES / 8>(acc_k, d, q_tile);
        }
    }
    copy_wait<0>();
#pragma unroll
    for (int e = 0; e < 4; e++) {
        int row = warp_row + lane / 4 + e / 2 * 8;
        if (row >= tile.rows) continue;
        size_t at = ((size_t)(tile.first_row + row) * a.keys + key_head) * a.size;
#pragma unroll
        for (int j = 0; j < TILES; j++) {
            int column = j * 8 + lane % 4 * 2 + e % 2;
            if (column >= a.size) continue;
            if (DK) dk[at + column] = acc_k[j][e];
            if (DV) dv[at + column] = acc_v[j][e];
        }
    }
}

// Both at once where the registers hold both.
KERNEL(NAMED(attention_backward_keys), ATTENTION_THREADS, Attention a, const bf16* q, const bf16* keys,
       const bf16* values, const KeyTile* tiles, const Run* runs, const u32* row_slots, const bf16* d_out,
       const float* lse, const float* delta, float* dk, float* dv) {
    constexpr bool BOTH = HEAD <= 128;
    backward_keys<BOTH, true>(a, q, keys, values, tiles, runs, row_slots, d_out, lse, delta, dk, dv);
    if (!BOTH) {
        block_barrier();
        backward_keys<true, false>(a, q, keys, values, tiles, runs, row_slots, d_out, lse, delta, dk, dv);
    }
}
