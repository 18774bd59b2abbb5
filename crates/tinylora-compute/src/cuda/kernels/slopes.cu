// Gradients of vectors that every row shares: biases, and weights of RMS norms of whole rows and of heads. A piece of rows
// becomes a row of parts, which side_join adds to the sums in order.
#include "prelude.cuh"

#define SLOPE_ROWS 512

// 1 / √(mean(x²) + ε) of each row; a warp a row.
KERNEL(norm_scales, 128, const float* x, float epsilon, int rows, int width, float* scales) {
    int row = block_x() * 4 + thread() / 32, lane = thread() % 32;
    if (row >= rows) return;
    x += (size_t)row * width;
    float squares = 0.0f;
    for (int i = lane; i < width; i += 32) squares = fmaf(x[i], x[i], squares);
    squares = warp_sum(squares);
    if (lane == 0) scales[row] = 1.0f / sqrtf(squares / (float)width + epsilon);
}

// parts[piece][column] = Σ dy x scale over the piece's rows, ascending. A thread takes a column; grid (columns / 128,
// pieces).
KERNEL(norm_slopes, 128, const float* x, const float* dy, const float* scales, int rows, int width, float* parts) {
    int column = block_x() * 128 + thread();
    if (column >= width) return;
    int first = block_y() * SLOPE_ROWS, last = smaller(first + SLOPE_ROWS, rows);
    double sum = 0.0;
    for (int row = first; row < last; row++) {
        size_t at = (size_t)row * width + column;
        sum += (double)dy[at] * (double)x[at] * (double)scales[row];
    }
    parts[(size_t)block_y() * width + column] = (float)sum;
}

// parts[piece][column] = Σ dy over the piece's rows, ascending; as norm_slopes.
KERNEL(column_sums, 128, const bf16* dy, int dy_row, int rows, int width, float* parts) {
    int column = block_x() * 128 + thread();
    if (column >= width) return;
    int first = block_y() * SLOPE_ROWS, last = smaller(first + SLOPE_ROWS, rows);
    double sum = 0.0;
    for (int row = first; row < last; row++) sum += (double)widen(dy[(size_t)row * dy_row + column]);
    parts[(size_t)block_y() * width + column] = (float)sum;
}

#define HEAD_PAIRS 4
#define HEAD_SLOPE_ROWS 64

// Of the norm of q or k heads, `heads` of `size` numbers from column `first` of qkv on: the gradient of what attention read,
// dy (rows, heads · size), is turned back by the position before. A warp goes through every fourth head of the piece's
// rows; a lane has the pairs of elements lane, lane + 32 …, of a head size of up to 256. One block a piece.
KERNEL(head_norm_slopes, 128, const bf16* qkv, int qkv_row, int first, int heads, int size, const u32* positions,
       const float* turns, float epsilon, const float* dy, int rows, float* parts) {
    SHARED float sums[4][2 * HEAD_PAIRS * 32];
    int warp = thread() / 32, lane = thread() % 32, half = size / 2;
    int begin = block_x() * HEAD_SLOPE_ROWS, count = smaller(rows - begin, HEAD_SLOPE_ROWS) * heads;
    float low[HEAD_PAIRS], high[HEAD_PAIRS];
#pragma unroll
    for (int pair = 0; pair < HEAD_PAIRS; pair++) low[pair] = high[pair] = 0.0f;
    for (int one = warp; one < count; one += 4) {
        int row = begin + one / heads, head = one % heads;
        const bf16* x = qkv + (size_t)row * qkv_row + first + head * size;
        const float* d = dy + ((size_t)row * heads + head) * size;
        const float* turn = turns + (size_t)positions[row] * size;
        float squares = 0.0f;
        for (int i = lane; i < size; i += 32) squares = fmaf(widen(x[i]), widen(x[i]), squares);
        float scale = 1.0f / sqrtf(warp_sum(squares) / (float)size + epsilon);
#pragma unroll
        for (int pair = 0; pair < HEAD_PAIRS; pair++) {
            int i = pair * 32 + lane;
            if (i >= half) continue;
            float cosine = turn[2 * i], sine = turn[2 * i + 1], a = d[i], b = d[i + half];
            low[pair] = fmaf((a * cosine + b * sine) * scale, widen(x[i]), low[pair]);
            high[pair] = fmaf((b * cosine - a * sine) * scale, widen(x[i + half]), high[pair]);
        }
    }
#pragma unroll
    for (int pair = 0; pair < HEAD_PAIRS; pair++) {
        int i = pair * 32 + lane;
        if (i >= half) continue;
        sums[warp][i] = low[pair];
        sums[warp][i + half] = high[pair];
    }
    block_barrier();
    for (int i = thread(); i < size; i += 128)
        parts[(size_t)block_x() * size + i] = ((sums[0][i] + sums[1][i]) + sums[2][i]) + sums[3][i];
}
