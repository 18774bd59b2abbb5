// The part of CUDA's driver interface that this project calls, over the emulated device: linked with the kernels it makes
// a library that a program loads in place of the driver's, so that host code can be proven without a GPU.
//
// What is queued on a stream is done as late as the driver may: when something that comes after it is waited for. A host that
// changes pinned memory too early, or reads a result before it is there, then computes with wrong numbers. With
// EMULATED_AT_ONCE in the environment it is done as early as may be: when it is queued. What goes into a graph keeps its
// arguments. Threads of the host wait for each other only where they use the same stream. Modules hold all kernels, whatever image is loaded. There are three GPUs: what is queued for one fails if it has an
// address of another. The first two are of the oldest kind that is served, the third is a Hopper.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

extern "C" {
int emulated_launch(const char* name, const int* blocks, int block_threads, int shared_bytes, void** params, int how);
int emulated_arguments(const char* name, const size_t** sizes);
void* emulated_allocate(size_t bytes);
void emulated_free(void* pointer, size_t bytes);
}

typedef uint64_t Address;
enum {
    OK = 0,
    INVALID = 1,
    OUT_OF_MEMORY = 2,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    NOT_WHILE_RECORDING = 900
};

typedef std::function<int()> Work;
typedef std::vector<Work> Recorded;

// Its own lock is held while its work is done; whoever holds it asks for no other.
struct Stream {
    int device = 0;
    std::recursive_mutex lock;
    std::deque<Work> queue;
    long queued = 0, done = 0;
    Recorded* recording = nullptr;
};
typedef std::lock_guard<std::recursive_mutex> Held;

struct Event {
    timespec when;
    Stream* stream = nullptr;
    long place = 0;
};

// Of the lists that follow. Streams are never freed, as another thread may be at one that is destroyed.
static std::recursive_mutex lists;
static std::map<void*, size_t> pinned;
static std::vector<Stream*> streams;
static Stream unnamed;
// (first byte, (bytes, GPU))
static std::map<Address, std::pair<size_t, int>> allocations;
static thread_local int current = 0;
// The first thing that failed, told by all that follows, as the driver does.
static std::atomic<int> failed{OK};

static Stream* stream_of(void* stream) { return stream ? (Stream*)stream : &unnamed; }

static int run_until(Stream* stream, long place) {
    Held held(stream->lock);
    while (stream->done < place) {
        Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->done++;
        int status = work();
        int none = OK;
        if (status) failed.compare_exchange_strong(none, status);
    }
    return failed;
}

// All that is queued so far.
static int run(Stream* stream) {
    Held held(stream->lock);
    return run_until(stream, stream->queued);
}

static int run_all() {
    std::vector<Stream*> all;
    {
        Held held(lists);
        all = streams;
    }
    for (Stream* stream : all) run(stream);
    return run(&unnamed);
}

static int queue(void* handle, Work work) {
    Stream* stream = stream_of(handle);
    if (handle && stream->device != current) return INVALID;
    Held held(stream->lock);
    if (stream->recording) return stream->recording->push_back(work), OK;
    static bool at_once = getenv("EMULATED_AT_ONCE");
    stream->queue.push_back(work);
    stream->queued++;
    // The stream without a name is for calls that wait.
    if (at_once || !handle) return run_until(stream, stream->queued);
    return failed;
}

// Whether a number is an address of another GPU than this.
static bool is_elsewhere(Address address, int device) {
    Held held(lists);
    auto after = allocations.upper_bound(address);
    if (after == allocations.begin()) return false;
    --after;
    return address < after->first + after->second.first && after->second.second != device;
}

static bool is_pinned(const void* pointer, size_t bytes) {
    Held held(lists);
    auto after = pinned.upper_bound((void*)pointer);
    if (after == pinned.begin()) return false;
    --after;
    return (char*)pointer + bytes <= (char*)after->first + after->second;
}

// A copy of numbers that begin with this NaN fails: so a test has the driver fail where it wants.
static bool fails(const void* from, size_t bytes) {
    uint32_t first = 0;
    return bytes >= 4 && (memcpy(&first, from, 4), first == 0x7fc0dead);
}

// The number of the GPU that is a Hopper.
const int HOPPER = 2;

// Shared memory that a block may ask for: of a Hopper, or the least of all GPUs.
static int shared_of_block(int device) { return device == HOPPER ? 232448 : 101376; }

extern "C" {
int cuInit(unsigned) { return OK; }
int cuDriverGetVersion(int* version) { return *version = 13000, OK; }
int cuDeviceGetCount(int* count) { return *count = 3, OK; }
int cuDeviceGet(int* device, int number) { return *device = number, number >= 0 && number < 3 ? OK : INVALID; }

int cuDeviceGetName(char* name, int length, int device) {
    strncpy(name, device == HOPPER ? "emulated Hopper" : "emulated", length);
    return OK;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    switch (attribute) {
        case 16: *value = 1; return OK;                              // multiprocessors
        case 75: *value = device == HOPPER ? 9 : 8; return OK;       // compute capability
        case 76: *value = 0; return OK;
        case 97: *value = shared_of_block(device); return OK;
        default: return INVALID;
    }
}

int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)(size_t)(1 + device), OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return run_all(); }
int cuCtxSetCurrent(void* context) { return current = (int)(size_t)context - 1, OK; }

int cuCtxSynchronize() { return run_all(); }

int cuStreamCreate(void** stream, unsigned) {
    Held held(lists);
    streams.push_back(new Stream);
    streams.back()->device = current;
    return *stream = streams.back(), OK;
}

int cuStreamDestroy_v2(void* handle) {
    Stream* stream = (Stream*)handle;
    int status = run(stream);
    Held held(lists);
    for (size_t i = 0; i < streams.size(); i++)
        if (streams[i] == stream) streams.erase(streams.begin() + i--);
    return status;
}

int cuStreamSynchronize(void* handle) {
    Stream* stream = stream_of(handle);
    Held held(stream->lock);
    return stream->recording ? NOT_WHILE_RECORDING : run(stream);
}

int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = *total = (size_t)1 << 30, OK; }

// The size stands before the address that is given.
int cuMemAlloc_v2(Address* address, size_t bytes) {
    if (bytes == 0) return INVALID;
    if (bytes > (size_t)1 << 30) return OUT_OF_MEMORY;
    Held held(lists);
    size_t all = (bytes + 15) / 16 * 16 + 16;
    size_t* memory = (size_t*)emulated_allocate(all);
    *memory = all;
    *address = (Address)memory + 16;
    allocations[*address] = {bytes, current};
    return OK;
}

int cuMemFree_v2(Address address) {
    int status = run_all();
    Held held(lists);
    allocations.erase(address);
    size_t* memory = (size_t*)(address - 16);
    emulated_free(memory, *memory);
    return status;
}

int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    Held held(lists);
    if (!(*pointer = malloc(bytes))) return OUT_OF_MEMORY;
    pinned[*pointer] = bytes;
    return OK;
}

int cuMemFreeHost(void* pointer) {
    Held held(lists);
    pinned.erase(pointer);
    return free(pointer), OK;
}

int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void* stream) {
    if (fails(from, bytes) || is_elsewhere(to, current)) return ILLEGAL_ADDRESS;
    if (is_pinned(from, bytes)) return queue(stream, [=] { return memcpy((void*)to, from, bytes), OK; });
    Held held(stream_of(stream)->lock);
    if (stream_of(stream)->recording) return NOT_WHILE_RECORDING;
    // The driver takes a copy of what isn't pinned before it returns.
    auto copy = std::make_shared<std::vector<char>>((char*)from, (char*)from + bytes);
    return queue(stream, [=] { return memcpy((void*)to, copy->data(), bytes), OK; });
}

int cuMemcpyDtoHAsync_v2(void* to, Address from, size_t bytes, void* stream) {
    if (is_elsewhere(from, current)) return ILLEGAL_ADDRESS;
    int status = queue(stream, [=] { return memcpy(to, (void*)from, bytes), OK; });
    // To memory that isn't pinned it returns when that is done.
    return status || is_pinned(to, bytes) ? status : cuStreamSynchronize(stream);
}

int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void* stream) {
    if (is_elsewhere(to, current) || is_elsewhere(from, current)) return ILLEGAL_ADDRESS;
    return queue(stream, [=] { return memmove((void*)to, (void*)from, bytes), OK; });
}

int cuMemsetD8Async(Address to, unsigned char value, size_t bytes, void* stream) {
    if (is_elsewhere(to, current)) return ILLEGAL_ADDRESS;
    return queue(stream, [=] { return memset((void*)to, value, bytes), OK; });
}

int cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr); }
int cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr); }

int cuModuleLoadData(void** module, const void*) { return *module = (void*)1, OK; }
int cuModuleUnload(void*) { return run_all(); }

int cuModuleGetFunction(void** function, void*, const char* name) {
    const size_t* sizes;
    if (emulated_arguments(name, &sizes) < 0) return NOT_FOUND;
    *function = strdup(name);
    return OK;
}

int cuFuncSetAttribute(void*, int, int) { return OK; }

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned shared_bytes, void* stream, void** parameters, void**) {
    if ((int)shared_bytes > shared_of_block(current) || x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535) return INVALID;
    const size_t* sizes;
    const char* name = (const char*)function;
    int count = emulated_arguments(name, &sizes);
    auto arguments = std::make_shared<std::vector<std::vector<uint64_t>>>();
    for (int i = 0; i < count; i++) {
        arguments->push_back(std::vector<uint64_t>((sizes[i] + 7) / 8));
        memcpy(arguments->back().data(), parameters[i], sizes[i]);
        for (uint64_t word : arguments->back())
            if (sizes[i] >= 8 && is_elsewhere(word, current)) return ILLEGAL_ADDRESS;
    }
    return queue(stream, [=]() -> int {
        int blocks[3] = {(int)x, (int)y, (int)z};
        std::vector<void*> pointers;
        for (auto& argument : *arguments) pointers.push_back(argument.data());
        return emulated_launch(name, blocks, threads, shared_bytes, pointers.data(), 0) ? LAUNCH_FAILED : OK;
    });
}

// Two dimensions of bf16 numbers alone, with the checks of the driver's own function; what hopper.cpp reads.
int cuTensorMapEncodeTiled(uint64_t* map, int type, unsigned rank, void* address, const uint64_t* sizes,
                           const uint64_t* strides, const unsigned* box, const unsigned* steps, int interleave,
                           int swizzle, int, int fill) {
    const int BF16 = 9;
    if (type != BF16 || rank != 2 || interleave != 0 || fill != 0 || steps[0] != 1 || steps[1] != 1) return INVALID;
    if ((size_t)map % 64 || (size_t)address % 16 || strides[0] % 16 || strides[0] >= 1ull << 40) return INVALID;
    if (is_elsewhere((Address)address, current)) return ILLEGAL_ADDRESS;
    for (int i = 0; i < 2; i++)
        if (sizes[i] == 0 || sizes[i] > 1ull << 32 || box[i] == 0 || box[i] > 256) return INVALID;
    // None, 32, 64 and 128 bytes, of which a row of the box has no more.
    if (swizzle < 0 || swizzle > 3 || box[0] * 2 % 16 || (swizzle && box[0] * 2 > 16u << swizzle)) return INVALID;
    const uint64_t words[16] = {0x74656e736f72ull, (uint64_t)address, sizes[0], sizes[1],
                                strides[0],        box[0],            box[1],   (uint64_t)swizzle};
    return memcpy(map, words, sizeof words), OK;
}

int cuStreamBeginCapture_v2(void* handle, int) {
    if (!handle || getenv("EMULATED_NO_GRAPHS")) return NOT_SUPPORTED;
    Stream* stream = (Stream*)handle;
    Held held(stream->lock);
    if (stream->recording) return INVALID;
    return stream->recording = new Recorded, OK;
}

int cuStreamEndCapture(void* handle, void** graph) {
    Stream* stream = (Stream*)handle;
    Held held(stream->lock);
    *graph = stream->recording;
    stream->recording = nullptr;
    return *graph ? OK : INVALID;
}

int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    return *executable = new std::shared_ptr<Recorded>(new Recorded(*(Recorded*)graph)), OK;
}

int cuGraphDestroy(void* graph) { return delete (Recorded*)graph, OK; }

int cuGraphLaunch(void* executable, void* stream) {
    auto recorded = *(std::shared_ptr<Recorded>*)executable;
    return queue(stream, [=]() -> int {
        for (const Work& work : *recorded)
            if (int status = work()) return status;
        return OK;
    });
}

int cuGraphExecDestroy(void* executable) { return delete (std::shared_ptr<Recorded>*)executable, OK; }

// Events are places in a stream, and times.
int cuEventCreate(void** event, unsigned) { return *event = new Event, OK; }

int cuEventRecord(void* handle, void* stream) {
    Event* event = (Event*)handle;
    event->stream = stream_of(stream);
    Held held(event->stream->lock);
    event->place = event->stream->queued;
    return clock_gettime(CLOCK_MONOTONIC, &event->when), OK;
}

int cuEventSynchronize(void* handle) {
    Event* event = (Event*)handle;
    return event->stream ? run_until(event->stream, event->place) : OK;
}

int cuEventDestroy_v2(void* event) { return delete (Event*)event, OK; }

int cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    timespec *a = &((Event*)from)->when, *b = &((Event*)to)->when;
    *milliseconds = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) * 1e-6f;
    return OK;
}
}
