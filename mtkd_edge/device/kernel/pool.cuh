// The map of one image -> its score: the mean of the POOLED largest pixels, exactly those, in one order.

constexpr int DIGIT = 4, BINS = 1 << DIGIT, COPIES = 32;  // a copy of the counts for each lane: no two meet in a bank
constexpr int STRANDS = 256, KNOTS = 16;  // the fixed shape of the sum: pixels -> strands -> knots -> one

// floats order like unsigned integers once negative ones are flipped; only finite values come here
__device__ inline unsigned key_of(float value) {
    const unsigned bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float value_of(unsigned key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The key of the rank-th largest pixel, found digit by digit from the top. Afterwards `rank` says how many of the
// pixels with exactly this key are among the largest.
__device__ inline unsigned select(const float *pixels, unsigned *counts, unsigned &rank) {
    unsigned *totals = counts + BINS * COPIES, prefix = 0, decided = 0;
    for (int shift = 32 - DIGIT; shift >= 0; shift -= DIGIT) {
        for (int i = threadIdx.x; i < BINS * COPIES; i += blockDim.x) counts[i] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < PIXELS; i += blockDim.x) {
            const unsigned key = key_of(pixels[i]);
            if ((key & decided) == prefix)
                atomicAdd(&counts[(key >> shift) % BINS * COPIES + threadIdx.x % COPIES], 1u);
        }
        __syncthreads();
        for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
            unsigned total = 0;
            for (int copy = 0; copy < COPIES; copy++) total += counts[bin * COPIES + (copy + bin) % COPIES];
            totals[bin] = total;
        }
        __syncthreads();
        unsigned digit = BINS - 1;
        for (; totals[digit] < rank; digit--) rank -= totals[digit];
        prefix |= digit << shift;
        decided |= (BINS - 1u) << shift;
    }
    return prefix;
}

// Sum of the pixels whose key is above `least`, or of all, in an order that no launch changes.
__device__ inline float sum_above(const float *pixels, unsigned least, bool all, float *strands) {
    float *knots = strands + STRANDS, total = 0.f;
    for (int strand = threadIdx.x; strand < STRANDS; strand += blockDim.x) {
        float sum = 0.f;
        for (int i = strand; i < PIXELS; i += STRANDS)
            if (all || key_of(pixels[i]) > least) sum += pixels[i];
        strands[strand] = sum;
    }
    __syncthreads();
    for (int knot = threadIdx.x; knot < KNOTS; knot += blockDim.x) {
        float sum = 0.f;
        for (int strand = knot; strand < STRANDS; strand += KNOTS) sum += strands[strand];
        knots[knot] = sum;
    }
    __syncthreads();
    for (int knot = 0; knot < KNOTS; knot++) total += knots[knot];
    return total;
}

__device__ inline float pool(const float *pixels, float *work) {
    if (POOLED == PIXELS) return sum_above(pixels, 0, true, work) / PIXELS;
    unsigned rank = POOLED;
    const unsigned least = select(pixels, reinterpret_cast<unsigned *>(work), rank);
    return (sum_above(pixels, least, false, work) + rank * value_of(least)) / POOLED;
}
