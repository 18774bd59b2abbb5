// From the product of q, k and v to attention and back: the norm of each head where a family has it, the turn by the
// position (rotate-half: element i with element i + d/2), and the writing of keys and values to their places.
// A warp takes one head of one row; all blocks have four warps.
//
// A row of `qkv` holds H query heads, K key heads, K value heads of size d. A place is a token's index in the cache,
// keys and values lie there as (places, K, d). turns is (positions, d/2) pairs of cosine and sine.
#include "prelude.cuh"

struct HeadShape {
    int queries, keys, size;
    int qkv_row;  // row length of qkv
    int rows;
};

DEVICE bool own_head(const HeadShape& s, int& row, int& head) {
    int heads = s.queries + 2 * s.keys, index = block_x() * 4 + thread() / 32;
    row = index / heads;
    head = index % heads;
    return row < s.rows;
}

DEVICE float head_scale(const bf16* x, int size, float epsilon) {
    float squares = 0.0f;
    for (int i = thread() % 32; i < size; i += 32) squares = fmaf(widen(x[i]), widen(x[i]), squares);
    return 1.0f / sqrtf(warp_sum(squares) / (float)size + epsilon);
}

// q is (rows, q_row). The norms' weights (d) are null where a family has none.
KERNEL(heads_forward, 128, HeadShape s, const bf16* qkv, const u32* positions, const u32* places, const float* turns,
       const float* q_norm, const float* k_norm, float epsilon, bf16* q, int q_row, bf16* keys, bf16* values) {
    int row, head, lane = thread() % 32, half = s.size / 2;
    if (!own_head(s, row, head)) return;
    const bf16* from = qkv + (size_t)row * s.qkv_row + head * s.size;
    bool is_query = head < s.queries;
    size_t place = (size_t)places[row] * s.keys;
    if (head >= s.queries + s.keys) {
        bf16* to = values + (place + head - s.queries - s.keys) * s.size;
        for (int i = lane; i < s.size; i += 32) to[i] = from[i];
        return;
    }
    bf16* to = is_query ? q + (size_t)row * q_row + head * s.size : keys + (place + head - s.queries) * s.size;
    const float* norm = is_query ? q_norm : k_norm;
    float scale = norm ? head_scale(from, s.size, epsilon) : 1.0f;
    const float* turn = turns + (size_t)positions[row] * s.size;
    for (int i = lane; i < half; i += 32) {
        float a = widen(from[i]), b = widen(from[i + half]);
        if (norm) {
            a = a * scale * norm[i];
            b = b * scale * norm[i + half];
        }
        float cosine = turn[2 * i], sine = turn[2 * i + 1];
        to[i] = narrow(a * cosine - b * sine);
        to[i + half] = narrow(b * cosine + a * sine);
    }
}

// From the gradients of what attention read, dq (rows, H · d), dk and dv (rows, K · d), to that of qkv.
KERNEL(heads_backward, 128, HeadShape s, const bf16* qkv, const u32* positions, const float* turns,
       const float* q_norm, const float* k_norm, float epsilon, const float* dq, const float* dk, const float* dv,
       bf16* d_qkv) {
    int row, head, lane = thread() % 32, half = s.size / 2;
    if (!own_head(s, row, head)) return;
    size_t at = (size_t)row * s.qkv_row + head * s.size;
    const bf16* raw = qkv + at;
    bf16* to = d_qkv + at;
    bool is_query = head < s.queries;
    if (head >= s.queries + s.keys) {
        const float* from = dv + ((size_t)row * s.keys + head - s.queries - s.keys) * s.size;
        for (int i = lane; i < s.size; i += 32) to[i] = narrow(from[i]);
        return;
    }
    const float* from = is_query ? dq + ((size_t)row * s.queries + head) * s.size
                                 : dk + ((size_t)row * s.keys + head - s.queries) * s.size;
    const float* norm = is_query ? q_norm : k_norm;
    const float* turn = turns + (size_t)positions[row] * s.size;
    float scale = 1.0f, along = 0.0f;
    if (norm) {
        scale = head_scale(raw, s.size, epsilon);
        for (int i = lane; i < half; i += 32) {
            float cosine = turn[2 * i], sine = turn[2 * i + 1], a = from[i], b = from[i + half];
            along = fmaf(widen(raw[i]), norm[i] * (a * cosine + b * sine), along);
            along = fmaf(widen(raw[i + half]), norm[i + half] * (b * cosine - a * sine), along);
        }
        along = scale * scale * scale * warp_sum(along) / (float)s.size;
    }
    for (int i = lane; i < half; i += 32) {
        float cosine = turn[2 * i], sine = turn[2 * i + 1], a = from[i], b = from[i + half];
        float da = a * cosine + b * sine, db = b * cosine - a * sine;
        if (norm) {
            da = scale * norm[i] * da - widen(raw[i]) * along;
            db = scale * norm[i + half] * db - widen(raw[i + half]) * along;
        }
        to[i] = narrow(da);
        to[i + half] = narrow(db);
    }
}
