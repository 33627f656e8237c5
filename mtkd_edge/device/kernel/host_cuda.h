// Just enough CUDA to run score.cu on a CPU, barriers included: every CUDA thread is a fiber with a stack of its own
// that gives way at __syncthreads(). `schedule` permutes the order in which threads and blocks run, so a missing
// barrier, or a result that depends on who came first, shows as other bits. What a GPU would punish is an error code:
// a barrier that only some threads reach, a write beyond the shared memory that was asked for, a load that is not aligned, an address that is nobody's.
#pragma once
#include <math.h>  // C's own headers: the tests compile this often, and <random> alone costs as much as the kernel
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __constant__
#define __device__ static
#define __global__
#define __shared__
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
static inline int min(int a, int b) { return a < b ? a : b; }

struct uint2 { unsigned x, y; };
struct uint4 { unsigned x, y, z, w; };
struct Dim { unsigned x; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

static bool misaligned;

template <class T> static inline T __ldcs(const T *from) {
    misaligned |= reinterpret_cast<size_t>(from) % sizeof(T) != 0;  // a CPU takes it, a GPU stops
    T value;
    memcpy(&value, from, sizeof value);
    return value;
}
static inline unsigned __float_as_uint(float value) { unsigned bits; memcpy(&bits, &value, 4); return bits; }
static inline float __uint_as_float(unsigned bits) { float value; memcpy(&value, &bits, 4); return value; }
static inline unsigned atomicAdd(unsigned *at, unsigned value) { const unsigned old = *at; *at += value; return old; }
static inline unsigned atomicInc(unsigned *at, unsigned top) {
    const unsigned old = *at;
    *at = old >= top ? 0 : old + 1;
    return old;
}
static inline void __threadfence() {}  // one CPU thread: what it cannot show is said in docs/kernel.md

static inline float half_to_float(unsigned short bits) {
    const unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float tiny = ldexpf(float(fraction), -24);
    return sign ? -tiny : tiny;
}

// ---- fibers

constexpr size_t STACK = 64 << 10, SHARED_FLOATS = 16 << 10;
alignas(16) float shared[SHARED_FLOATS];
static jmp_buf scheduler, wild, threads[1024];
static ucontext_t starting;
static bool done[1024], begun[1024];
static unsigned arrived, votes, verdict;
static void (*body)();

static void fiber() {
    body();
    done[threadIdx.x] = true;
    _longjmp(scheduler, 1);
}

static inline void __syncthreads() {
    arrived++;
    if (!_setjmp(threads[threadIdx.x])) _longjmp(scheduler, 1);
}

static inline int __syncthreads_or(int vote) {
    votes |= vote != 0;
    __syncthreads();
    return verdict;
}

static void resume(char *stacks) {
    if (begun[threadIdx.x]) _longjmp(threads[threadIdx.x], 1);
    begun[threadIdx.x] = true;
    getcontext(&starting);
    starting.uc_stack.ss_sp = stacks + threadIdx.x * STACK;
    starting.uc_stack.ss_size = STACK;
    starting.uc_link = nullptr;
    makecontext(&starting, fiber, 0);
    setcontext(&starting);
}

// The numbers from 0 to count - 1, in another order for every state but 0
static void deal(unsigned *order, unsigned count, unsigned *state) {
    for (unsigned i = 0; i < count; i++) order[i] = i;
    if (!*state) return;
    for (unsigned i = count - 1; i > 0; i--) {
        *state = *state * 1664525u + 1013904223u;
        const unsigned other = (*state >> 8) % (i + 1), kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
}

// 0, or 1: only some of the threads reached a barrier
static int run_block(char *stacks, unsigned *state) {
    static unsigned order[1024];
    memset(done, 0, sizeof done);
    memset(begun, 0, sizeof begun);
    for (;;) {
        deal(order, blockDim.x, state);
        arrived = votes = 0;
        for (unsigned i = 0; i < blockDim.x; i++) {
            if (done[order[i]]) continue;
            threadIdx.x = order[i];
            if (!_setjmp(scheduler)) resume(stacks);
        }
        verdict = votes;
        if (!arrived) return 0;
        if (arrived != blockDim.x) return 1;
    }
}

static void on_wild_access(int) { _longjmp(wild, 1); }

// 0; 1: divergent barrier; 2: shared memory overrun; 3: more than this file provides; 4: misaligned load; 5: wild access
static int run_grid(unsigned grid, unsigned block, unsigned shared_bytes, unsigned schedule, void (*kernel)()) {
    if (block > 1024 || shared_bytes > sizeof shared) return 3;
    unsigned *order = static_cast<unsigned *>(malloc(grid * sizeof(unsigned))), state = schedule;
    char *stacks = static_cast<char *>(malloc(block * STACK));
    body = kernel;
    gridDim.x = grid;
    blockDim.x = block;
    deal(order, grid, &state);
    misaligned = false;
    volatile int problem = order && stacks ? 0 : 3;
    struct sigaction ours = {}, theirs;
    ours.sa_handler = on_wild_access;
    ours.sa_flags = SA_NODEFER;
    sigaction(SIGSEGV, &ours, &theirs);
    if (_setjmp(wild)) problem = 5;
    for (unsigned number = 0; number < grid && !problem; number++) {
        // marked with a NaN: reading what was never written cannot pass
        for (size_t i = 0; i < SHARED_FLOATS; i++) shared[i] = __uint_as_float(0x7fdeadadu);
        blockIdx.x = order[number];
        problem = run_block(stacks, &state);
        for (size_t i = shared_bytes / 4; i < SHARED_FLOATS && !problem; i++)
            if (__float_as_uint(shared[i]) != 0x7fdeadadu) problem = 2;
    }
    sigaction(SIGSEGV, &theirs, nullptr);
    free(stacks);
    free(order);
    return problem ? problem : misaligned ? 4 : 0;
}
