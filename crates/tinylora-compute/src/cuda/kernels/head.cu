// The lm-head over chunks of 128 vocabulary entries: log-probs, entropy, sampling, and the gradient of a log-prob.
// An array (tokens, vocabulary) never exists: a tile's logits become three numbers a row before they leave the
// registers, sampling computes one chosen chunk's logits again, bit for bit, and the gradient goes slab by slab.
//
// M rows, D width, V vocabulary, C chunks. A row's logits are x · Eᵀ times its own 1/temperature.
#include "philox.cuh"
#include "tile.cuh"

#define CHUNK 128

// (largest, Σ e^(l − largest), Σ l e^(l − largest)) of a row in this chunk, joined over lanes and warps in one order.
struct Sums {
    float largest, weight, product;
};

template <class S>
DEVICE void statistics(const Operands& o, const float* inverse_temperature, const u32* targets, Sums* sums,
                       float* target_logits) {
    u8* memory = dynamic_shared();
    int m0 = block_x() * S::BM, n0 = block_y() * S::BN, chunks = (o.columns + CHUNK - 1) / CHUNK;
    float acc[S::MT][S::NT][4];
    tile_product<S>(acc, o, m0, n0, memory);
    Sums* parts = (Sums*)memory;  // (BM, WARPS_N)
    int warp = thread() / 32, lane = thread() % 32, first = n0 + warp % S::WARPS_N * S::WN + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < S::MT; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int local = warp / S::WARPS_N * S::WM + i * 16 + half * 8 + lane / 4, row = m0 + local;
            float factor = row < o.rows ? inverse_temperature[row] : 1.0f, largest = MINUS_INFINITY;
            u32 target = targets && row < o.rows ? targets[row] : 0xffffffffu;
#pragma unroll
            for (int j = 0; j < S::NT; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int column = first + j * 8 + e;
                    float l = column < o.columns ? acc[i][j][half * 2 + e] * factor : MINUS_INFINITY;
                    acc[i][j][half * 2 + e] = l;
                    largest = fmaxf(largest, l);
                    if ((u32)column == target) target_logits[row] = l;
                }
            largest = fmaxf(largest, shuffle_xor(largest, 1));
            largest = fmaxf(largest, shuffle_xor(largest, 2));
            float weight = 0.0f, product = 0.0f;
#pragma unroll
            for (int j = 0; j < S::NT; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float l = acc[i][j][half * 2 + e];
                    if (l == MINUS_INFINITY) continue;
                    float w = exp_fast(l - largest);
                    weight += w;
                    product = fmaf(w, l, product);
                }
            weight += shuffle_xor(weight, 1);
            weight += shuffle_xor(weight, 2);
            product += shuffle_xor(product, 1);
            product += shuffle_xor(product, 2);
            if (lane % 4 == 0) parts[local * S::WARPS_N + warp % S::WARPS_N] = {largest, weight, product};
        }
    block_barrier();
    for (int local = thread(); local < S::BM; local += S::THREADS) {
        if (m0 + local >= o.rows) continue;
        const Sums* part = parts + local * S::WARPS_N;
        Sums all = {part[0].largest, 0.0f, 0.0f};
        for (int w = 1; w < S::WARPS_N; w++) all.largest = fmaxf(all.largest, part[w].largest);
        for (int w = 0; w < S::WARPS_N; w++) {
            if (part[w].largest == MINUS_INFINITY) continue;
            float share = exp_fast(part[w].largest - all.largest);
            all.weight = fmaf(part[w].weight, share, all.weight);
            all.product = fmaf(part[w].product, share, all.product);
        }
        sums[(size_t)(m0 + local) * chunks + block_y()] = all;
    }
}

// grid (row tiles, chunks). targets and target_logits may be null.
KERNEL(head_statistics, Large::THREADS, Operands o, const float* inverse_temperature, const u32* targets, Sums* sums,
       float* target_logits) {
    statistics<Large>(o, inverse_temperature, targets, sums, target_logits);
}

KERNEL(head_statistics_few, FewWide::THREADS, Operands o, const float* inverse_temperature, const u32* targets,
       Sums* sums, float* target_logits) {
    statistics<FewWide>(o, inverse_temperature, targets, sums, target_logits);
}

// What log-probs need of a row: ln Σ e^l, the entropy, and the largest logit.
struct Distribution {
    float log_normalizer, entropy, largest;
};

// One warp a row; in f64, as beside one likely token the share of each of the many others is below f32's last digit.
KERNEL(head_distribution, 128, const Sums* sums, int rows, int chunks, Distribution* out) {
    int row = block_x() * 4 + thread() / 32, lane = thread() % 32;
    if (row >= rows) return;
    sums += (size_t)row * chunks;
    float largest = MINUS_INFINITY;
    for (int c = lane; c < chunks; c += 32) largest = fmaxf(largest, sums[c].largest);
    largest = warp_largest(largest);
    double weight = 0.0, product = 0.0;
    for (int c = lane; c < chunks; c += 32) {
        double share = exp_fast(sums[c].largest - largest);
        weight += (double)sums[c].weight * share;
        product += (double)sums[c].product * share;
    }
    weight = warp_sum(weight);
    product = warp_sum(product);
    if (lane == 0) {
        double log_normalizer = (double)largest + log(weight);
        out[row] = {(float)log_normalizer, (float)(log_normalizer - product / weight), largest};
    }
}

// A row's generator: key, stream, counter; and whether it takes the most probable token instead.
struct Draw {
    u32 key0, key1, stream_low, stream_high;
    u64 counter;
    u32 greedy, unused;
};

struct Choice {
    u32 token;
    float logit, logprob, entropy;
};

// Draws one token a row by inverting the distribution function: a chunk by its share, then a token in it. One block a
// row; sequential where the order matters.
KERNEL(head_pick, FewWide::THREADS, Operands o, const float* inverse_temperature, const Sums* sums,
       const Distribution* distributions, const Draw* draws, Choice* choices) {
    u8* memory = dynamic_shared();
    SHARED int chosen;
    SHARED double within;
    int row = block_x(), chunks = (o.columns + CHUNK - 1) / CHUNK;
    Draw draw = draws[row];
    sums += (size_t)row * chunks;
    float top = distributions[row].largest;
    if (thread() == 0) {
        int last = 0;
        if (draw.greedy) {
            for (int c = 1; c < chunks; c++)
                if (sums[c].largest > sums[last].largest) last = c;
            chosen = last;
        } else {
            double total = 0.0;
            for (int c = 0; c < chunks; c++) total += (double)sums[c].weight * (double)exp_fast(sums[c].largest - top);
            double left = total * philox_uniform(draw.key0, draw.key1, draw.stream_low, draw.stream_high, draw.counter);
            chosen = -1;
            for (int c = 0; c < chunks && chosen < 0; c++) {
                double share = (double)sums[c].weight * (double)exp_fast(sums[c].largest - top);
                if (share > 0.0) {
                    last = c;
                    // What is left, in units of this chunk's own sum.
                    if (left < share) {
                        chosen = c;
                        within = left / share * (double)sums[c].weight;
                    }
                }
                left -= share;
            }
            // Only rounding leads here.
            if (chosen < 0) {
                chosen = last;
                within = 1e300;
            }
        }
    }
    block_barrier();
    Operands one = o;
    one.a += (size_t)row * o.a_row;
    one.rows = 1;
    float acc[FewWide::MT][FewWide::NT][4];
    tile_product<FewWide>(acc, one, 0, chosen * CHUNK, memory);
    float* logits = (float*)memory;
    tile_pairs<FewWide>(0, 0, [&](int i, int j, int half, int at, int column) {
        if (at != 0) return;
        logits[column] = acc[i][j][half * 2] * inverse_temperature[row];
        logits[column + 1] = acc[i][j][half * 2 + 1] * inverse_temperature[row];
    });
    block_barrier();
    if (thread() == 0) {
        int count = smaller(o.columns - chosen * CHUNK, CHUNK), token = 0;
        double sum = 0.0;
        for (int i = 0; i < count; i++) {
            if (draw.greedy) {
                if (logits[i] > logits[token]) token = i;
                continue;
            }
            token = i;
            sum += (double)exp_fast(logits[i] - sums[chosen].largest);
            if (sum > within) break;
        }
        Distribution d = distributions[row];
        choices[row] = {(u32)(chosen * CHUNK + token), logits[token], logits[token] - d.log_normalizer, d.entropy};
    }
}

// Weights of the vocabulary entries first … first + width - 1 as bf16, zero beyond V: the operand of Σ_v w_v E_v.
// o.b is the slab's first row, o.columns what is left of V from there on; weight(row, column, x, entropy) is that of the entry
// with x = ln p. grid (row tiles, width / 128).
template <class F>
DEVICE void head_weights(const Operands& o, const float* inverse_temperature, const Distribution* distributions,
                         bf16* out, int width, F weight) {
    u8* memory = dynamic_shared();
    int m0 = block_x() * Large::BM, n0 = block_y() * Large::BN;
    float acc[Large::MT][Large::NT][4];
    tile_product<Large>(acc, o, m0, n0, memory);
    tile_pairs<Large>(m0, n0, [&](int i, int j, int half, int row, int column) {
        if (row >= o.rows || column >= width) return;
        float factor = inverse_temperature[row], normalizer = distributions[row].log_normalizer;
        float entropy = distributions[row].entropy, w[2] = {0.0f, 0.0f};
#pragma unroll
        for (int e = 0; e < 2; e++)
            if (column + e < o.columns)
                w[e] = weight(row, column + e, acc[i][j][half * 2 + e] * factor - normalizer, entropy);
        *(u32*)(out + (size_t)row * width + column) = narrow2(w[0], w[1]);
    });
}

// p (ln p + H), of a probability p = e^x.
DEVICE float by_entropy(float x, float entropy) {
    float p = exp_fast(x);
    return p > 0.0f ? p * (x + entropy) : 0.0f;
}

// In the gradient of a log-prob.
KERNEL(head_probabilities, Large::THREADS, Operands o, const float* inverse_temperature,
       const Distribution* distributions, bf16* out, int width) {
    auto weight = [](int, int, float x, float) { return exp_fast(x); };
    head_weights(o, inverse_temperature, distributions, out, width, weight);
}

// In that of the entropy.
KERNEL(head_entropies, Large::THREADS, Operands o, const float* inverse_temperature, const Distribution* distributions,
       bf16* out, int width) {
    auto weight = [](int, int, float x, float entropy) { return by_entropy(x, entropy); };
    head_weights(o, inverse_temperature, distributions, out, width, weight);
}

// The loss's slopes at a row, by the log-prob of its target and by the entropy; both times 1/temperature.
struct Slopes {
    float logprob, entropy;
};

// In the gradient of the head's matrix, dE_v = Σ_rows w_v x: w_v = a (1[v = target] − p_v) − b p_v (ln p_v + H).
KERNEL(head_slopes, Large::THREADS, Operands o, const float* inverse_temperature, const Distribution* distributions,
       const u32* targets, const Slopes* slopes, int first, bf16* out, int width) {
    auto weight = [&](int row, int column, float x, float entropy) {
        float is_target = (u32)(first + column) == targets[row] ? 1.0f : 0.0f;
        return slopes[row].logprob * (is_target - exp_fast(x)) - slopes[row].entropy * by_entropy(x, entropy);
    };
    head_weights(o, inverse_temperature, distributions, out, width, weight);
}

// ∂ ln p(target) / ∂x = (E_target − Σ_v p_v E_v) / temperature, where x holds the sum. One block a row.
KERNEL(head_directions, 256, const bf16* head, int head_row, const u32* targets, const float* inverse_temperature,
       int width, float* x) {
    const bf16* target = head + (size_t)targets[block_x()] * head_row;
    x += (size_t)block_x() * width;
    for (int i = thread(); i < width; i += 256) x[i] = (widen(target[i]) - x[i]) * inverse_temperature[block_x()];
}
