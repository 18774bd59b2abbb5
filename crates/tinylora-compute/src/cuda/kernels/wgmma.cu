// The products of product.cu on Hopper's own instructions: y = x Wᵀ + bias + z S, and dx = dy W + dz A, from one copy of W.
//
// W is always the first operand of wgmma and the rows are its second, so that 8 to 256 of them are one instruction's
// columns: a lane has few outputs of many rows. For an output the order is the same whatever the tile: sixteen inner
// indices an instruction, ascending, one accumulator, no split. So decode, prefill and training give the same bits.
//
// A thread behind the others fetches tiles of 64 inner indices into a ring; the others, four warps for each 64 outputs,
// multiply them. `full` tells of a place in the ring that its bytes are there, `empty` that every warp is done with it. The
// ring goes on from one tile of the product to the next, so that fetching begins while sums are stored.
#include "hopper.cuh"
#include "product.cuh"

// Inner indices of a place: what 128 bytes hold.
constexpr int INNER = 64;
// Tiles of rows that are gone through with all outputs before the next ones, so that the cache has them.
constexpr int BAND = 16;
// Ranks of the side path that are staged at once.
constexpr int RANKS = 8;

// TURNED: W lies with its outputs, not its inner indices, next to each other, as dx = dy W has it.
template <int TOKENS_, int GROUPS_, int STAGES_, bool TURNED_>
struct Ring {
    static constexpr int TOKENS = TOKENS_, GROUPS = GROUPS_, STAGES = STAGES_;
    static constexpr bool TURNED = TURNED_;
    // Two groups and a warp would have 168 registers each; with the warp in a group of its own, groups can trade them.
    static constexpr bool TRADE = GROUPS == 2;
    static constexpr int OUTPUTS = 64 * GROUPS, CONSUMERS = 128 * GROUPS, THREADS = CONSUMERS + (TRADE ? 128 : 32);
    static constexpr int SUMS = TOKENS / 2;
    static constexpr int W_BYTES = 64 * INNER * 2, X_BYTES = TOKENS * INNER * 2, BYTES = GROUPS * W_BYTES + X_BYTES;
};

struct Extent {
    int rows, columns, inner;
};

// What a block has in shared memory, and which place of the ring comes next.
struct Places {
    u8* ring;       // (STAGES, BYTES): of W (GROUPS, 64, 64), of the rows (TOKENS, 64)
    u64* full;      // (STAGES)
    u64* empty;     // (STAGES)
    float* staged;  // (RANKS, TOKENS)
    int next;
    u32 parity;
};

template <class S>
DEVICE Places places() {
    u8* memory = dynamic_shared();
    Places p;
    p.ring = memory + (1024 - shared_address(memory) % 1024) % 1024;
    p.full = (u64*)(p.ring + S::STAGES * S::BYTES);
    p.empty = p.full + S::STAGES;
    p.staged = (float*)(p.empty + S::STAGES);
    p.next = 0;
    p.parity = 0;
    return p;
}

template <class S>
DEVICE void advance(Places& p) {
    if (++p.next == S::STAGES) {
        p.next = 0;
        p.parity ^= 1;
    }
}

template <class S>
DEVICE int token_tiles(const Extent& o) {
    return (o.rows + S::TOKENS - 1) / S::TOKENS;
}

template <class S>
DEVICE int tiles(const Extent& o) {
    return token_tiles<S>(o) * ((o.columns + S::OUTPUTS - 1) / S::OUTPUTS);
}

// The first row and the first output of a tile.
template <class S>
DEVICE void tile_at(const Extent& o, int tile, int& m0, int& n0) {
    int rows = token_tiles<S>(o), band = BAND * ((o.columns + S::OUTPUTS - 1) / S::OUTPUTS);
    int first = tile / band * BAND, inside = tile % band, width = smaller(rows - first, BAND);
    m0 = (first + inside % width) * S::TOKENS;
    n0 = inside / width * S::OUTPUTS;
}

template <class S>
DEVICE void fetch(const TensorMap& w, const TensorMap& x, const Extent& o, Places p) {
    for (int tile = block_x(); tile < tiles<S>(o); tile += blocks_x()) {
        int m0, n0;
        tile_at<S>(o, tile, m0, n0);
        for (int k0 = 0; k0 < o.inner; k0 += INNER) {
            u8* to = p.ring + p.next * S::BYTES;
            u64* full = p.full + p.next;
            barrier_wait(p.empty + p.next, p.parity ^ 1);
            barrier_expect(full, S::BYTES);
            for (int group = 0; group < S::GROUPS; group++) {
                int n = n0 + 64 * group;
                tensor_copy(to + group * S::W_BYTES, w, S::TURNED ? n : k0, S::TURNED ? k0 : n, full);
            }
            tensor_copy(to + S::GROUPS * S::W_BYTES, x, k0, m0, full);
            advance<S>(p);
        }
    }
}

// Adds 64 inner indices; `w` and `x` are where they lie.
template <class S>
DEVICE void multiply(float (&acc)[S::SUMS], const u8* w, const u8* x) {
    u64 a = operand_at(w, S::W_BYTES), b = operand_at(x, S::X_BYTES);
    // Sixteen inner indices further, in the descriptor's unit: as many rows of 128 bytes, or 32 bytes in each.
    constexpr int STEP = (S::TURNED ? 16 * 128 : 32) >> 4;
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < INNER / 16; step++) wgmma<S::TURNED>(acc, a + STEP * step, b + (32 >> 4) * step);
    wgmma_commit();
}

// acc = the tile's product.
template <class S>
DEVICE void sums(float (&acc)[S::SUMS], const Extent& o, Places& p) {
    int group = thread() / 128, lane = thread() % 32;
#pragma unroll
    for (int i = 0; i < S::SUMS; i++) acc[i] = 0.0f;
    sums_settle(acc);
    int before = 0;
    for (int k0 = 0; k0 < o.inner; k0 += INNER) {
        u8* from = p.ring + p.next * S::BYTES;
        barrier_wait(p.full + p.next, p.parity);
        multiply<S>(acc, from + group * S::W_BYTES, from + S::GROUPS * S::W_BYTES);
        wgmma_wait<1>();
        // What was read before this is read to its end.
        if (k0 > 0 && lane == 0) barrier_arrive(p.empty + before);
        before = p.next;
        advance<S>(p);
    }
    wgmma_wait<0>();
    sums_settle(acc);
    if (lane == 0) barrier_arrive(p.empty + before);
}

// Of this lane's sums the first output; the other is eight further.
DEVICE int first_output(int n0) { return n0 + thread() / 32 * 16 + thread() % 32 / 4; }

template <class S>
DEVICE void add_bias(float (&acc)[S::SUMS], const Extent& o, const float* bias, int n0) {
    if (!bias) return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int output = first_output(n0) + 8 * half;
        if (output >= o.columns) continue;
        float b = bias[output];
#pragma unroll
        for (int j = 0; j < S::SUMS / 4; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) acc[4 * j + 2 * half + e] += b;
    }
}

// z of the tile's rows and of some ranks is staged for all warps, one member of the side path after the other.
template <class S>
DEVICE void add_side(float (&acc)[S::SUMS], const Extent& o, const Side& side, float* staged, int m0, int n0) {
    if (!side.z) return;
    int end = smaller(n0 + S::OUTPUTS, o.columns);
    for (int member = 0; member < 3; member++) {
        int from = member == 0 ? 0 : member == 1 ? side.end0 : larger(side.end0, side.end1);
        int to = member == 0 ? side.end0 : member == 1 ? side.end1 : o.columns;
        int at = member == 0 ? side.at0 : member == 1 ? side.at1 : side.at2;
        if (larger(from, n0) >= smaller(to, end)) continue;
        for (int s0 = 0; s0 < side.rank; s0 += RANKS) {
            int count = smaller(side.rank - s0, RANKS);
            // Nobody reads what was staged before.
            part_barrier<S::CONSUMERS>();
            for (int i = thread(); i < count * S::TOKENS; i += S::CONSUMERS) {
                int row = m0 + i % S::TOKENS, s = s0 + i / S::TOKENS;
                staged[i] = row < o.rows ? side.z[(size_t)row * side.stride + at + s] : 0.0f;
            }
            part_barrier<S::CONSUMERS>();
            for (int s = 0; s < count; s++) {
                const float* z = staged + s * S::TOKENS + thread() % 4 * 2;
                const float* panel = side.panel + (size_t)(s0 + s) * o.columns;
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int output = first_output(n0) + 8 * half;
                    if (output < from || output >= smaller(to, end)) continue;
                    float factor = panel[output];
#pragma unroll
                    for (int j = 0; j < S::SUMS / 4; j++)
#pragma unroll
                        for (int e = 0; e < 2; e++) {
                            float& sum = acc[4 * j + 2 * half + e];
                            sum = fmaf(z[8 * j + e], factor, sum);
                        }
                }
            }
        }
    }
}

// Two rows of one output are neighbours in a lane. For bf16, lanes of neighbouring outputs swap one, so that each has two
// outputs of one row: a word, as rows of bf16 are even numbers long.
template <class S, int STORE>
DEVICE void store_tile(const float (&acc)[S::SUMS], const Extent& o, void* out, int out_row, int m0, int n0) {
    int lane = thread() % 32, odd = lane / 4 % 2;
#pragma unroll
    for (int j = 0; j < S::SUMS / 4; j++) {
        int row = m0 + 8 * j + lane % 4 * 2;
        // The same for the whole warp, whose lanes swap.
        if (m0 + 8 * j >= o.rows) break;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int output = first_output(n0) + 8 * half;
            float x = acc[4 * j + 2 * half], y = acc[4 * j + 2 * half + 1];
            if (STORE == BF16) {
                float other = shuffle_xor(odd ? x : y, 4);
                int column = output - odd;
                if (row + odd >= o.rows || column >= o.columns) continue;
                float left = odd ? other : x, right = odd ? y : other;
                bf16* to = (bf16*)out + (size_t)(row + odd) * out_row + column;
                if (column + 1 < o.columns)
                    *(u32*)to = narrow2(left, right);
                else
                    *to = narrow(left);
            } else {
                if (output >= o.columns) continue;
                float* to = (float*)out + (size_t)row * out_row + output;
                if (row < o.rows) to[0] = STORE == ADD_F32 ? to[0] + x : x;
                if (row + 1 < o.rows) to[out_row] = STORE == ADD_F32 ? to[out_row] + y : y;
            }
        }
    }
}

template <class S, int STORE>
DEVICE void product(const TensorMap& w, const TensorMap& x, const Extent& o, const float* bias, const Side& side,
                    void* out, int out_row) {
    Places p = places<S>();
    if (thread() == 0) {
        for (int i = 0; i < S::STAGES; i++) {
            barrier_init(p.full + i, 1);
            barrier_init(p.empty + i, S::CONSUMERS / 32);
        }
        barriers_made();
    }
    block_barrier();
    if (thread() >= S::CONSUMERS) {
        if (S::TRADE) registers_fewer<40>();
        if (thread() == S::CONSUMERS) fetch<S>(w, x, o, p);
        return;
    }
    if (S::TRADE) registers_more<232>();
    for (int tile = block_x(); tile < tiles<S>(o); tile += blocks_x()) {
        int m0, n0;
        tile_at<S>(o, tile, m0, n0);
        float acc[S::SUMS];
        sums<S>(acc, o, p);
        add_bias<S>(acc, o, bias, n0);
        add_side<S>(acc, o, side, p.staged, m0, n0);
        store_tile<S, STORE>(acc, o, out, out_row, m0, n0);
    }
}

#define PRODUCT(name, ring, store)                                                                           \
    KERNEL(name, ring::THREADS, IN_PLACE TensorMap w, IN_PLACE TensorMap x, Extent o, const float* bias,     \
           Side side, void* out, int out_row) {                                                              \
        product<ring, store>(w, x, o, bias, side, out, out_row);                                             \
    }

// Shared memory lets two blocks of the small ones run at a time, and one of the largest.
typedef Ring<8, 1, 10, false> Ring8;
typedef Ring<16, 1, 10, false> Ring16;
typedef Ring<32, 1, 8, false> Ring32;
typedef Ring<64, 1, 6, false> Ring64;
typedef Ring<128, 1, 4, false> Ring128;
typedef Ring<256, 2, 4, false> Ring256;
typedef Ring<64, 1, 6, true> Back64;
typedef Ring<128, 1, 4, true> Back128;
typedef Ring<256, 2, 4, true> Back256;

PRODUCT(wgmma_8_bf16, Ring8, BF16)
PRODUCT(wgmma_8_f32, Ring8, F32)
PRODUCT(wgmma_8_add, Ring8, ADD_F32)
PRODUCT(wgmma_16_bf16, Ring16, BF16)
PRODUCT(wgmma_16_f32, Ring16, F32)
PRODUCT(wgmma_16_add, Ring16, ADD_F32)
PRODUCT(wgmma_32_bf16, Ring32, BF16)
PRODUCT(wgmma_32_f32, Ring32, F32)
PRODUCT(wgmma_32_add, Ring32, ADD_F32)
PRODUCT(wgmma_64_bf16, Ring64, BF16)
PRODUCT(wgmma_64_f32, Ring64, F32)
PRODUCT(wgmma_64_add, Ring64, ADD_F32)
PRODUCT(wgmma_128_bf16, Ring128, BF16)
PRODUCT(wgmma_128_f32, Ring128, F32)
PRODUCT(wgmma_128_add, Ring128, ADD_F32)
PRODUCT(wgmma_256_bf16, Ring256, BF16)
PRODUCT(wgmma_256_f32, Ring256, F32)
PRODUCT(wgmma_256_add, Ring256, ADD_F32)
PRODUCT(wgmma_back_64_bf16, Back64, BF16)
PRODUCT(wgmma_back_64_f32, Back64, F32)
PRODUCT(wgmma_back_64_add, Back64, ADD_F32)
PRODUCT(wgmma_back_128_bf16, Back128, BF16)
PRODUCT(wgmma_back_128_f32, Back128, F32)
PRODUCT(wgmma_back_128_add, Back128, ADD_F32)
PRODUCT(wgmma_back_256_bf16, Back256, BF16)
PRODUCT(wgmma_back_256_f32, Back256, F32)
PRODUCT(wgmma_back_256_add, Back256, ADD_F32)
