// Products with frozen matrices: y = x Wᵀ + bias + z S, and their backward dx = dy W + dz A, from one copy of W.
//
// x, dy and W are bf16, everything else is f32. The low-rank side path is added in f32 by fused multiply-adds, rank
// by rank ascending, on top of the tensor cores' sum and the bias: a tiny adapter does not round away.
#include "product.cuh"
#include "tile.cuh"

DEVICE int side_at(const Side& side, int column) {
    return column < side.end0 ? side.at0 : column < side.end1 ? side.at1 : side.at2;
}

template <class S>
DEVICE void add_side(float (&acc)[S::MT][S::NT][4], const Operands& o, const Side& side, int m0, int n0) {
    if (!side.z) return;
    int warp = thread() / 32, lane = thread() % 32;
    int first_row = m0 + warp / S::WARPS_N * S::WM + lane / 4;
    int first_column = n0 + warp % S::WARPS_N * S::WN + lane % 4 * 2;
    int last_column = smaller(n0 + S::BN, o.columns) - 1;
    bool one = side_at(side, n0) == side_at(side, last_column);
    for (int s = 0; s < side.rank; s++) {
        float panel[S::NT][2];
#pragma unroll
        for (int j = 0; j < S::NT; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int column = first_column + j * 8 + e;
                panel[j][e] = column < o.columns ? side.panel[(size_t)s * o.columns + column] : 0.0f;
            }
#pragma unroll
        for (int i = 0; i < S::MT; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int row = first_row + i * 16 + half * 8;
                if (row >= o.rows) continue;
                const float* z = side.z + (size_t)row * side.stride + s;
                float shared = one ? z[side_at(side, n0)] : 0.0f;
#pragma unroll
                for (int j = 0; j < S::NT; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) {
                        int column = smaller(first_column + j * 8 + e, last_column);
                        float factor = one ? shared : z[side_at(side, column)];
                        acc[i][j][half * 2 + e] = fmaf(factor, panel[j][e], acc[i][j][half * 2 + e]);
                    }
            }
    }
}

template <class S, int STORE>
DEVICE void store_tile(const float (&acc)[S::MT][S::NT][4], const Operands& o, void* out, int out_row, int m0, int n0) {
    tile_pairs<S>(m0, n0, [&](int i, int j, int half, int row, int column) {
        if (row >= o.rows || column >= o.columns) return;
        float x = acc[i][j][half * 2], y = acc[i][j][half * 2 + 1];
        size_t at = (size_t)row * out_row + column;
        bool pair = column + 1 < o.columns;
        if (STORE == BF16) {
            bf16* to = (bf16*)out + at;
            if (pair && at % 2 == 0) {
                *(u32*)to = narrow2(x, y);
            } else {
                to[0] = narrow(x);
                if (pair) to[1] = narrow(y);
            }
        } else {
            float* to = (float*)out + at;
            to[0] = STORE == ADD_F32 ? to[0] + x : x;
            if (pair) to[1] = STORE == ADD_F32 ? to[1] + y : y;
        }
    });
}

template <class S, int STORE>
DEVICE void product(const Operands& o, const float* bias, const Side& side, void* out, int out_row) {
    u8* memory = dynamic_shared();
    int m0 = block_x() * S::BM, n0 = block_y() * S::BN;
    float acc[S::MT][S::NT][4];
    tile_product<S>(acc, o, m0, n0, memory);
    if (bias) {
        tile_pairs<S>(m0, n0, [&](int i, int j, int half, int, int column) {
            if (column < o.columns) acc[i][j][half * 2] += bias[column];
            if (column + 1 < o.columns) acc[i][j][half * 2 + 1] += bias[column + 1];
        });
    }
    add_side<S>(acc, o, side, m0, n0);
    store_tile<S, STORE>(acc, o, out, out_row, m0, n0);
}

#define PRODUCT(name, shape, store)                                                                       \
    KERNEL(name, shape::THREADS, Operands o, const float* bias, Side side, void* out, int out_row) {      \
        product<shape, store>(o, bias, side, out, out_row);                                               \
    }

PRODUCT(product_large_bf16, Large, BF16)
PRODUCT(product_large_f32, Large, F32)
PRODUCT(product_large_add, Large, ADD_F32)
PRODUCT(product_few_bf16, Few, BF16)
PRODUCT(product_few_f32, Few, F32)
PRODUCT(product_few_add, Few, ADD_F32)
PRODUCT(product_back_bf16, Back, BF16)
PRODUCT(product_back_f32, Back, F32)
PRODUCT(product_back_add, Back, ADD_F32)
