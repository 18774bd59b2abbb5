// What Hopper does beside its threads: barriers that count bytes, copies of tiles, products of a warpgroup. With bit 0 of
// `order` all of it is late: a copy comes when no thread can go on without it (the newest first where bit 1 is set, too), a
// product when it is waited for. Otherwise both are done at once. A missing wait, an early arrival or a wrong parity then
// changes the result, or nobody can go on.
//
// Descriptors are taken apart as the device does it: from start, strides and swizzle to addresses in shared memory, so
// that an operand that lies otherwise than its descriptor says gives wrong numbers.
#include "machine.h"

#include <map>

namespace emu {
struct Barrier {
    int arrivals, missing;
    long bytes;
    u32 phase;
    bool known;
    int owner;
};

// As driver.cpp writes it.
struct Map {
    u64 kind, address, columns, rows, stride, box_columns, box_rows, swizzle;
};

struct TileCopy {
    u8* to;
    Map map;
    int column, row;
    u64* barrier;
};

struct Product {
    float* d[32];
    u64 a, b;
    int columns;
    bool turned;
    int group;
};

// A warp's products, in order.
struct Products {
    std::vector<Product> issued;
    int groups;
    // All four warps of a group issue the same ones: how many this one did.
    size_t count;
    bool fenced;
};

// All of it of one block, and of the thread of the host that runs it.
struct Beside {
    std::map<u64*, Barrier> barriers;
    std::vector<TileCopy> copies;
    Products products[32];
    std::vector<Product> of_group[8];
};

static Beside& beside() {
    static thread_local Beside all;
    return all;
}

static bool late() { return order & 1; }

void begin_beside() {
    beside().barriers.clear();
    beside().copies.clear();
    for (Products& p : beside().products) p = Products();
    for (std::vector<Product>& log : beside().of_group) log.clear();
}

static Barrier& barrier_of(u64* at) {
    auto found = beside().barriers.find(at);
    if (found == beside().barriers.end()) fail("there is no barrier here");
    return found->second;
}

void barrier_init(u64* at, int arrivals) {
    if ((u8*)at < shared || (u8*)(at + 1) > shared_end || (size_t)at % 8) fail("a barrier lies outside shared memory");
    if (arrivals < 1) fail("a barrier that nobody arrives at");
    beside().barriers[at] = {arrivals, arrivals, 0, 0, false, current};
}

void barriers_made() {
    for (auto& b : beside().barriers)
        if (b.second.owner == current) b.second.known = true;
}

static void end_phase(Barrier& b) {
    if (b.bytes < 0) fail("more bytes come to a barrier than are expected");
    if (b.missing || b.bytes) return;
    b.phase++;
    b.missing = b.arrivals;
}

static void arrive(u64* at, int bytes) {
    Barrier& b = barrier_of(at);
    if (b.missing == 0) fail("more threads arrive at a barrier than it counts");
    b.missing--;
    b.bytes += bytes;
    end_phase(b);
}

void barrier_arrive(u64* at) { arrive(at, 0); }
void barrier_expect(u64* at, int bytes) { arrive(at, bytes); }

void barrier_wait(u64* at, u32 parity) {
    if (parity > 1) fail("a parity is 0 or 1");
    barrier_of(at);
    wait_until("a phase of a barrier", [at, parity] { return (barrier_of(at).phase & 1) != parity; });
}

// The 128-byte swizzle exchanges bits 4 … 6 of an address with what they are xor bits 7 … 9; the smaller ones fewer bits.
static u64 swizzled(u64 address, int bits) { return address ^ ((address >> 7 & ((1 << bits) - 1)) << 4); }

static void perform(const TileCopy& c) {
    const Map& m = c.map;
    u64 start = c.to - window;
    for (u64 r = 0; r < m.box_rows; r++)
        for (u64 i = 0; i < m.box_columns; i++) {
            long row = c.row + (long)r, column = c.column + (long)i;
            bool inside = row >= 0 && column >= 0 && row < (long)m.rows && column < (long)m.columns;
            bf16 x = inside ? *(const bf16*)(m.address + row * m.stride + column * 2) : 0;
            u64 address = swizzled(start + (r * m.box_columns + i) * 2, m.swizzle);
            *(bf16*)(window + address) = x;
        }
    Barrier& b = barrier_of(c.barrier);
    b.bytes -= m.box_rows * m.box_columns * 2;
    end_phase(b);
}

void tensor_copy(void* to, const TensorMap& map, int column, int row, u64* barrier) {
    TileCopy c;
    memcpy(&c.map, &map, sizeof(Map));
    c.to = (u8*)to;
    c.column = column;
    c.row = row;
    c.barrier = barrier;
    if (c.map.kind != TENSOR_MAP_KIND) fail("what is copied is no tensor that the driver described");
    size_t bytes = c.map.box_rows * c.map.box_columns * 2;
    if ((u8*)to < shared || (u8*)to + bytes > shared_end) fail("a tile leaves the shared memory that was asked for");
    if (((u8*)to - window) % 128) fail("a tile is not on a boundary of 128 bytes");
    if (!barrier_of(barrier).known) fail("a copy is given a barrier that it need not know yet");
    if (late())
        beside().copies.push_back(c);
    else
        perform(c);
}

bool one_beside() {
    if (beside().copies.empty()) return false;
    auto next = order & 2 ? beside().copies.end() - 1 : beside().copies.begin();
    TileCopy c = *next;
    beside().copies.erase(next);
    perform(c);
    return true;
}

void end_beside() {
    if (!beside().copies.empty()) fail("it ends with tiles under way");
    for (int warp = 0; warp < count / 32; warp++) {
        if (!beside().products[warp].issued.empty()) fail("it ends with products under way");
        if (beside().products[warp].count != beside().of_group[warp / 4].size()) fail("a warp leaves out a product of its group");
    }
}

// Eight numbers that lie next to each other where a descriptor and a place in the operand say: with `turned` those of rows
// `row` … `row` + 7 at inner index `inner`, else those of inner indices `inner` … at a row.
static const bf16* eight(u64 descriptor, int row, int inner, bool turned) {
    if (descriptor & 0x3ff1c000c000c000ull) fail("a descriptor has bits that are to be 0");
    if (descriptor >> 49 & 7) fail("a descriptor with a base offset: tiles begin on a boundary of their pattern here");
    u64 start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
    u64 stride = (descriptor >> 32 & 0x3fff) << 4, mode = descriptor >> 62;
    if (mode == 0) fail("a descriptor without a swizzle is not emulated");
    u64 width = 128 >> (mode - 1);
    u64 address = start;
    if (turned)
        address += row * 2 / width * leading + row * 2 % width + inner % 8 * width + inner / 8 * stride;
    else
        address += row % 8 * width + row / 8 * stride + inner * 2;
    u8* at = window + swizzled(address, 4 - mode);
    if (at < shared || at + 16 > shared_end) fail("an operand lies outside shared memory");
    return (const bf16*)at;
}

__attribute__((optimize("O3"))) static void multiply(const Product& p, int warp) {
    // Sums and numbers as the instruction has them: rows of this warp, all columns.
    float a[16][16], b[16][256], d[16][256];
    for (int k = 0; k < 16; k += p.turned ? 1 : 8)
        for (int r = 0; r < 16; r += p.turned ? 8 : 1) {
            const bf16* from = eight(p.a, warp % 4 * 16 + r, k, p.turned);
            for (int i = 0; i < 8; i++) (p.turned ? a[r + i][k] : a[r][k + i]) = widen(from[i]);
        }
    for (int c = 0; c < p.columns; c++)
        for (int k = 0; k < 16; k += 8) {
            const bf16* from = eight(p.b, c, k, false);
            for (int i = 0; i < 8; i++) b[k + i][c] = widen(from[i]);
        }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < p.columns / 2; i++)
            d[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2] = p.d[lane][i];
    // A product of two bf16 numbers is exact, so that this rounds once, as fmaf does.
    for (int r = 0; r < 16; r++)
        for (int k = 0; k < 16; k++)
            for (int c = 0; c < p.columns; c++) d[r][c] += a[r][k] * b[k][c];
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < p.columns / 2; i++)
            p.d[lane][i] = d[lane / 4 + i / 2 % 2 * 8][i / 4 * 8 + lane % 4 * 2 + i % 2];
}

void wgmma(float* d, int columns, u64 a, u64 b, bool turned) {
    Product own;
    own.d[0] = d;
    own.a = a;
    own.b = b;
    own.columns = columns;
    own.turned = turned;
    together("wgmma", &own, [](void** lanes) {
        int warp = current / 32;
        Products& mine = beside().products[warp];
        Product p = *(Product*)lanes[0];
        for (int lane = 0; lane < 32; lane++) {
            Product* other = (Product*)lanes[lane];
            if (other->a != p.a || other->b != p.b) fail("lanes of a warp give different descriptors");
            p.d[lane] = other->d[0];
        }
        if (warp / 4 * 4 + 4 > count / 32) fail("a product of a group that is not whole");
        if (!mine.fenced) fail("sums go into a product without a fence");
        std::vector<Product>& log = beside().of_group[warp / 4];
        if (mine.count == log.size()) log.push_back(p);
        const Product& same = log[mine.count++];
        if (same.a != p.a || same.b != p.b || same.columns != p.columns || same.turned != p.turned)
            fail("warps of a group do different products");
        p.group = mine.groups;
        mine.issued.push_back(p);
        if (!late()) multiply(p, warp);
    });
}

void trade_registers(int registers) {
    together("trade of registers", &registers, [](void** lanes) {
        int registers = *(int*)lanes[0];
        if (registers < 24 || registers > 256 || registers % 8) fail("so many registers can't be had");
        if (current / 128 * 128 + 128 > count) fail("a trade of registers by a group that is not whole");
    });
}

void wgmma_fence() {
    int none = 0;
    together("wgmma fence", &none, [](void**) { beside().products[current / 32].fenced = true; });
}

void wgmma_commit() {
    int none = 0;
    together("wgmma commit", &none, [](void**) { beside().products[current / 32].groups++; });
}

void wgmma_wait(int pending) {
    together("wgmma wait", &pending, [](void** lanes) {
        int pending = *(int*)lanes[0];
        Products& mine = beside().products[current / 32];
        std::vector<Product> left;
        for (const Product& p : mine.issued) {
            if (p.group >= mine.groups - pending)
                left.push_back(p);
            else if (late())
                multiply(p, current / 32);
        }
        mine.issued = left;
        // From here on the sums may be read and changed.
        mine.fenced = false;
    });
}
}  // namespace emu
