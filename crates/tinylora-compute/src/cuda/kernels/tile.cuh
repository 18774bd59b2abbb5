// The product of a tile on the tensor cores: acc (BM, BN) = a (rows, inner) times b, all of one block of threads.
//
// The order of summation is a part of the contract: sixteen inner indices an instruction, ascending, one accumulator.
// It depends neither on the tile's size nor on the other rows, so that decode, prefill and training give
// the same bits. b is a weight (columns, inner) for y = x Wᵀ, or, with INNER_ROWS, the same weight read as
// (inner, columns) for dx = dy W: one copy in memory serves both.
#pragma once
#include "prelude.cuh"

template <int BM_, int BN_, int BK_, int STAGES_, int WARPS_M_, int WARPS_N_, bool INNER_ROWS_, bool A_INNER_ROWS_ = false>
struct Shape {
    static constexpr int BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
    static constexpr bool INNER_ROWS = INNER_ROWS_, A_INNER_ROWS = A_INNER_ROWS_;
    static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
    static constexpr int WM = BM / WARPS_M, WN = BN / WARPS_N;
    static constexpr int MT = WM / 16, NT = WN / 8;
    // Rows of the tiles in shared memory, in pieces of 16 bytes.
    static constexpr int A_ROWS = A_INNER_ROWS ? BK : BM, A_PIECES = (A_INNER_ROWS ? BM : BK) / 8;
    static constexpr int B_ROWS = INNER_ROWS ? BK : BN, B_PIECES = (INNER_ROWS ? BN : BK) / 8;
    static constexpr int A_BYTES = A_ROWS * A_PIECES * 16, B_BYTES = B_ROWS * B_PIECES * 16;
    static constexpr int SHARED_BYTES = STAGES * (A_BYTES + B_BYTES);
};

// Many rows: prefill and training.
typedef Shape<128, 128, 32, 4, 2, 4, false> Large;
// At most 16 rows a block: decode. The slice of columns of a warp is that of Large, or half of it.
typedef Shape<16, 64, 64, 4, 1, 4, false> Few;
typedef Shape<16, 128, 64, 4, 1, 4, false> FewWide;
// dx = dy W.
typedef Shape<128, 128, 32, 4, 2, 4, true> Back;
// dW = dyᵀ x.
typedef Shape<128, 128, 32, 4, 2, 4, true, true> Outer;

struct Operands {
    const bf16* a;  // (rows, inner) or with A_INNER_ROWS (inner, rows), row length a_row
    const bf16* b;  // a weight, row length b_row
    int a_row, b_row;
    int rows, columns, inner;
};

// Where a piece of 16 bytes lies: rows are rotated so that eight rows of one column fall on different banks.
template <int PIECES>
DEVICE int piece_at(int row, int piece) {
    int turn = PIECES >= 8 ? (row & 7) : ((row >> 1) & 3);
    return (row * PIECES + (piece ^ turn)) * 16;
}

template <class S>
DEVICE void tile_load(const Operands& o, int m0, int n0, int k0, u8* to) {
    for (int i = thread(); i < S::A_ROWS * S::A_PIECES; i += S::THREADS) {
        int row = i / S::A_PIECES, piece = i % S::A_PIECES;
        int outer = (S::A_INNER_ROWS ? k0 : m0) + row, at = (S::A_INNER_ROWS ? m0 : k0) + piece * 8;
        int outer_end = S::A_INNER_ROWS ? o.inner : o.rows, end = S::A_INNER_ROWS ? o.rows : o.inner;
        int valid = smaller(larger(end - at, 0), 8);
        if (outer >= outer_end) valid = 0;
        const bf16* from = valid ? o.a + (size_t)outer * o.a_row + at : o.a;
        copy_async(to + piece_at<S::A_PIECES>(row, piece), from, valid * 2);
    }
    to += S::A_BYTES;
    for (int i = thread(); i < S::B_ROWS * S::B_PIECES; i += S::THREADS) {
        int row = i / S::B_PIECES, piece = i % S::B_PIECES;
        int outer = S::INNER_ROWS ? k0 + row : n0 + row, at = (S::INNER_ROWS ? n0 : k0) + piece * 8;
        int outer_end = S::INNER_ROWS ? o.inner : o.columns, end = S::INNER_ROWS ? o.columns : o.inner;
        int valid = smaller(larger(end - at, 0), 8);
        if (outer >= outer_end) valid = 0;
        const bf16* from = valid ? o.b + (size_t)outer * o.b_row + at : o.b;
        copy_async(to + piece_at<S::B_PIECES>(row, piece), from, valid * 2);
    }
}

template <class S>
DEVICE void tile_multiply(float (&acc)[S::MT][S::NT][4], const u8* a, int wm, int wn) {
    const u8* b = a + S::A_BYTES;
    int lane = thread() % 32;
#pragma unroll
    for (int step = 0; step < S::BK / 16; step++) {
        u32 left[S::MT][4];
#pragma unroll
        for (int i = 0; i < S::MT; i++) {
            if (S::A_INNER_ROWS) {
                int row = step * 16 + lane / 16 * 8 + lane % 8;
                load_matrices_turned(left[i], a + piece_at<S::A_PIECES>(row, (wm + i * 16) / 8 + lane / 8 % 2));
            } else {
                load_matrices(left[i], a + piece_at<S::A_PIECES>(wm + i * 16 + lane % 16, step * 2 + lane / 16));
            }
        }
#pragma unroll
        for (int j = 0; j < S::NT; j += 2) {
            u32 right[4];
            if (S::INNER_ROWS) {
                int row = step * 16 + lane % 16;
                load_matrices_turned(right, b + piece_at<S::B_PIECES>(row, (wn + j * 8) / 8 + lane / 16));
            } else {
                int row = wn + j * 8 + lane % 8 + lane / 16 * 8;
                load_matrices(right, b + piece_at<S::B_PIECES>(row, step * 2 + lane / 8 % 2));
            }
#pragma unroll
            for (int i = 0; i < S::MT; i++) {
                mma(acc[i][j], left[i], right[0], right[1]);
                mma(acc[i][j + 1], left[i], right[2], right[3]);
            }
        }
    }
}

// acc = the tile at rows m0 and columns n0. All threads of the block take part; `memory` has S::SHARED_BYTES.
// Element acc[i][j][e] is row wm + 16 i + lane / 4 + 8 (e / 2), column wn + 8 j + 2 (lane mod 4) + e mod 2.
template <class S>
DEVICE void tile_product(float (&acc)[S::MT][S::NT][4], const Operands& o, int m0, int n0, u8* memory) {
    int warp = thread() / 32, wm = warp / S::WARPS_N * S::WM, wn = warp % S::WARPS_N * S::WN;
    constexpr int BYTES = S::A_BYTES + S::B_BYTES;
    int steps = (o.inner + S::BK - 1) / S::BK;
#pragma unroll
    for (int i = 0; i < S::MT; i++)
#pragma unroll
        for (int j = 0; j < S::NT; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[i][j][e] = 0.0f;
    for (int stage = 0; stage < S::STAGES - 1; stage++) {
        if (stage < steps) tile_load<S>(o, m0, n0, stage * S::BK, memory + stage * BYTES);
        copy_commit();
    }
    for (int step = 0; step < steps; step++) {
        copy_wait<S::STAGES - 2>();
        // Everyone's copies of this step have come, and everyone is done with the step whose place is refilled.
        block_barrier();
        int next = step + S::STAGES - 1;
        if (next < steps) tile_load<S>(o, m0, n0, next * S::BK, memory + next % S::STAGES * BYTES);
        copy_commit();
        tile_multiply<S>(acc, memory + step % S::STAGES * BYTES, wm, wn);
    }
    copy_wait<0>();
    block_barrier();
}

// Calls use(i, j, half, row, column) for each pair of neighbouring accumulators acc[i][j][2 half], [2 half + 1].
template <class S, class F>
DEVICE void tile_pairs(int m0, int n0, F use) {
    int warp = thread() / 32, lane = thread() % 32;
    int wm = m0 + warp / S::WARPS_N * S::WM + lane / 4, wn = n0 + warp % S::WARPS_N * S::WN + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < S::MT; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int j = 0; j < S::NT; j++) use(i, j, half, wm + i * 16 + half * 8, wn + j * 8);
}
