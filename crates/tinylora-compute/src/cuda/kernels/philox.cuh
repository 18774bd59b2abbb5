// The counter-based generator of the engine, Philox4x32-10 (Salmon et al. 2011): a pure function.
#pragma once
#include "prelude.cuh"

// Uniform in [0, 1) with 53 bits at (counter, stream) of a key.
DEVICE double philox_uniform(u32 key0, u32 key1, u32 stream_low, u32 stream_high, u64 counter) {
    u32 c0 = (u32)counter, c1 = (u32)(counter >> 32), c2 = stream_low, c3 = stream_high;
    for (int round = 0; round < 10; round++) {
        if (round > 0) {
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        u64 a = (u64)0xD2511F53u * c0, b = (u64)0xCD9E8D57u * c2;
        u32 n0 = (u32)(b >> 32) ^ c1 ^ key0, n2 = (u32)(a >> 32) ^ c3 ^ key1;
        c0 = n0;
        c1 = (u32)b;
        c2 = n2;
        c3 = (u32)a;
    }
    u64 bits = ((u64)c0 << 32 | c1) >> 11;
    return (double)bits * (1.0 / 9007199254740992.0);
}
