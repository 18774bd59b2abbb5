// Gradients of matrices that are trained: dW += dyᵀ x over the rows of a batch, tokens ascending, in one accumulator that
// is added to f32 sums. dy (T, N) and x (T, K) are bf16.
#include "tile.cuh"

// Where the sums of up to three matrices begin, of which the second has rows from end0 on and the third from end1 on; each
// has rows of K numbers.
struct Places {
    float* first[3];
    int end0, end1;
};

DEVICE float* place_of(const Places& p, int row, int columns) {
    int matrix = row < p.end0 ? 0 : row < p.end1 ? 1 : 2;
    int begin = matrix == 0 ? 0 : matrix == 1 ? p.end0 : p.end1;
    return p.first[matrix] + (size_t)(row - begin) * columns;
}

// o.a is dy, o.b is x, o.rows is N, o.columns K, o.inner T. grid (N / 128, K / 128)
KERNEL(outer_products, Outer::THREADS, Operands o, Places places) {
    u8* memory = dynamic_shared();
    int m0 = block_x() * Outer::BM, n0 = block_y() * Outer::BN;
    float acc[Outer::MT][Outer::NT][4];
    tile_product<Outer>(acc, o, m0, n0, memory);
    tile_pairs<Outer>(m0, n0, [&](int i, int j, int half, int row, int column) {
        if (row >= o.rows || column >= o.columns) return;
        float* to = place_of(places, row, o.columns) + column;
        to[0] += acc[i][j][half * 2];
        if (column + 1 < o.columns) to[1] += acc[i][j][half * 2 + 1];
    });
}
