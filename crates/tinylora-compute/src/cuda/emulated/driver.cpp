// The part of CUDA's driver interface that this project calls, over the emulated device: linked with the kernels it makes
// a library that a program loads in place of the driver's, so that host code can be proven without a GPU.
// Everything happens at once and in order; modules hold all kernels, whatever image is loaded.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <mutex>

extern "C" {
int emulated_launch(const char* name, const int* blocks, int block_threads, int shared_bytes, void** params, int how);
void* emulated_allocate(size_t bytes);
void emulated_free(void* pointer, size_t bytes);

typedef uint64_t Address;
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719 };

// One launch at a time, whichever thread it comes from.
static std::mutex one_launch;

int cuInit(unsigned) { return OK; }
int cuDriverGetVersion(int* version) { return *version = 13000, OK; }
int cuDeviceGetCount(int* count) { return *count = 1, OK; }
int cuDeviceGet(int* device, int number) { return *device = 0, number == 0 ? OK : INVALID; }

int cuDeviceGetName(char* name, int length, int) {
    strncpy(name, "emulated", length);
    return OK;
}

int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: *value = 1; return OK;       // multiprocessors
        case 75: *value = 8; return OK;       // compute capability
        case 76: *value = 0; return OK;
        case 97: *value = 101376; return OK;  // shared memory a block may ask for: the least of all GPUs
        default: return INVALID;
    }
}

int cuDevicePrimaryCtxRetain(void** context, int) { return *context = (void*)1, OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxSetCurrent(void*) { return OK; }
int cuCtxSynchronize() { return OK; }
int cuStreamSynchronize(void*) { return OK; }

int cuMemGetInfo_v2(size_t* free, size_t* total) { return *free = *total = (size_t)1 << 30, OK; }

// The size stands before the address that is given.
int cuMemAlloc_v2(Address* address, size_t bytes) {
    if (bytes == 0) return INVALID;
    if (bytes > (size_t)1 << 30) return OUT_OF_MEMORY;
    size_t all = (bytes + 15) / 16 * 16 + 16;
    size_t* memory = (size_t*)emulated_allocate(all);
    *memory = all;
    *address = (Address)memory + 16;
    return OK;
}

int cuMemFree_v2(Address address) {
    size_t* memory = (size_t*)(address - 16);
    emulated_free(memory, *memory);
    return OK;
}

// A copy of numbers that begin with this NaN fails: so a test has the driver fail where it wants.
static bool fails(const void* from, size_t bytes) {
    uint32_t first = 0;
    return bytes >= 4 && (memcpy(&first, from, 4), first == 0x7fc0dead);
}

int cuMemcpyHtoD_v2(Address to, const void* from, size_t bytes) {
    return fails(from, bytes) ? ILLEGAL_ADDRESS : (memcpy((void*)to, from, bytes), OK);
}
int cuMemcpyDtoH_v2(void* to, Address from, size_t bytes) { return memcpy(to, (void*)from, bytes), OK; }
int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) { return (*pointer = malloc(bytes)) ? OK : OUT_OF_MEMORY; }
int cuMemFreeHost(void* pointer) { return free(pointer), OK; }
int cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t bytes, void*) { return memcpy((void*)to, from, bytes), OK; }
int cuMemcpyDtoD_v2(Address to, Address from, size_t bytes) { return memmove((void*)to, (void*)from, bytes), OK; }
int cuMemsetD8_v2(Address to, unsigned char value, size_t bytes) { return memset((void*)to, value, bytes), OK; }
int cuModuleLoadData(void** module, const void*) { return *module = (void*)1, OK; }
int cuModuleUnload(void*) { return OK; }

int cuModuleGetFunction(void** function, void*, const char* name) {
    int none[3] = {0, 0, 0};
    std::lock_guard<std::mutex> held(one_launch);
    if (emulated_launch(name, none, 32, 0, 0, 0) == 1) return NOT_FOUND;
    *function = strdup(name);
    return OK;
}

int cuFuncSetAttribute(void*, int, int) { return OK; }

int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned, unsigned,
                   unsigned shared_bytes, void*, void** parameters, void**) {
    int blocks[3] = {(int)x, (int)y, (int)z};
    if (shared_bytes > 101376 || x == 0 || y == 0 || z == 0 || y > 65535 || z > 65535) return INVALID;
    std::lock_guard<std::mutex> held(one_launch);
    return emulated_launch((const char*)function, blocks, threads, shared_bytes, parameters, 0) ? LAUNCH_FAILED : OK;
}

// Events are times.
int cuEventCreate(void** event, unsigned) { return *event = calloc(1, sizeof(timespec)), OK; }
int cuEventRecord(void* event, void*) { return clock_gettime(CLOCK_MONOTONIC, (timespec*)event), OK; }
int cuEventSynchronize(void*) { return OK; }
int cuEventDestroy_v2(void* event) { return free(event), OK; }

int cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    timespec *a = (timespec*)from, *b = (timespec*)to;
    *milliseconds = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) * 1e-6f;
    return OK;
}
}
