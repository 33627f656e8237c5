// The fused anomaly score: feature pairs in; map [N, MAP_H, MAP_W], score [N] and verdict bits [N] out, in one launch.
// The definition is mtkd_edge/score.py. Its numbers come from header.py, put before this text; docs/kernel.md has a
// picture. Each block measures tiles of distances at the features' own size; whoever completes an image's last tile
// also resamples, adds and pools that image, while other blocks still read features.
//
// Results do not depend on the launch: every float is summed in an order that only the spec fixes, and the atomics are
// on integers. Nothing here is contracted by the compiler (-fmad=false), what should be fused says fmaf. So a GPU and
// the host build of this text (host_cuda.h) make the same bits.

constexpr int PIXELS = MAP_H * MAP_W;
constexpr int SIDE = 4;                  // map rows a thread makes at once, so that it reads each weight once for them
constexpr int DIGIT = 4, BINS = 1 << DIGIT, COPIES = 32;  // a copy of the counts per lane: no two lanes meet in a bank
constexpr int STRANDS = 256, KNOTS = 16;  // the fixed shape of the final sum: pixels -> strands -> knots -> one
constexpr unsigned ANOMALOUS = 1, INVALID = 2;

extern "C" {
__constant__ unsigned long long spec_digest = DIGEST;  // the loader refuses a kernel made for another spec
}

struct Features { const void *student[LEVELS], *reference[LEVELS]; };

template <int BYTES> struct Word;
template <> struct Word<2> { typedef unsigned short type; };
template <> struct Word<4> { typedef unsigned type; };
template <> struct Word<8> { typedef uint2 type; };
template <> struct Word<16> { typedef uint4 type; };

#ifdef __CUDACC__  // without cuda_fp16.h, which NVRTC would have to be told where to find
__device__ inline float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
#endif

__device__ inline float number(float value) { return value; }
__device__ inline float number(unsigned short bits) { return half_to_float(bits); }

// V neighbouring features by one load, marked as read once only
template <int V> __device__ inline void read(const FEATURE *from, float (&values)[V]) {
    typedef typename Word<V * sizeof(FEATURE)>::type Whole;
    const Whole whole = __ldcs(reinterpret_cast<const Whole *>(from));
    FEATURE parts[V];
    memcpy(parts, &whole, sizeof(Whole));
    #pragma unroll
    for (int v = 0; v < V; v++) values[v] = number(parts[v]);
}

__device__ inline bool finite(float value) { return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u; }

// ---- distances, at the features' own size

template <int I> __device__ inline int tiles_of() {
    constexpr Level L = LEVEL[I];
    const int entries = blockDim.x / L.lanes * L.vector;
    return (L.entries + entries - 1) / entries;
}

template <int I> __device__ inline int tiles_from() {
    if constexpr (I < LEVELS) return tiles_of<I>() + tiles_from<I + 1>();
    return 0;
}

template <int I> __device__ inline float normalised(const float *sums, int position) {
    constexpr Level L = LEVEL[I];
    float d;
    if constexpr (L.kind == COSINE) {
        const float norms = sqrtf(sums[1]) * sqrtf(sums[2]);
        // a norm beyond float32 would give a quiet 1: inf - inf makes it NaN instead
        d = 1.f - sums[0] / (norms + EPSILON) + (norms - norms);
    } else {
        d = sums[0] / L.channels;
        if constexpr (L.kind == DISTANCE) d = sqrtf(d);
    }
    const int at = L.statistics + position * L.by_position;
    return (d - center[at]) * gain[at];
}

// One tile of level I: `lanes` threads share a word of neighbouring positions and add up a part of its channels each,
// then the lanes' sums are added in the order of the lanes.
template <int I>
__device__ inline void measure(const Features &features, int image, int tile, float *distances, float *partial) {
    constexpr Level L = LEVEL[I];
    constexpr int V = L.vector, TERMS = L.kind == COSINE ? 3 : 1;
    const int columns = blockDim.x / L.lanes, column = threadIdx.x % columns, lane = threadIdx.x / columns;
    const int begin = tile * columns * V, entry = begin + column * V;
    float sums[TERMS][V] = {};
    if (entry < L.entries && lane < L.lanes) {
        const size_t offset = size_t(image) * L.rows * L.entries + entry;
        const FEATURE *student = static_cast<const FEATURE *>(features.student[I]) + offset;
        const FEATURE *reference = static_cast<const FEATURE *>(features.reference[I]) + offset;
        #pragma unroll 4
        for (int row = lane; row < L.rows; row += L.lanes) {
            float s[V], t[V];
            read<V>(student + size_t(row) * L.entries, s);
            read<V>(reference + size_t(row) * L.entries, t);
            #pragma unroll
            for (int v = 0; v < V; v++) {
                if constexpr (L.kind == COSINE) {
                    sums[0][v] = fmaf(s[v], t[v], sums[0][v]);
                    sums[1][v] = fmaf(s[v], s[v], sums[1][v]);
                    sums[2][v] = fmaf(t[v], t[v], sums[2][v]);
                } else {
                    const float difference = s[v] - t[v];
                    sums[0][v] = fmaf(difference, difference, sums[0][v]);
                }
            }
        }
    }
    const int entries = columns * V;  // partial: [term][lane][entry of the tile]
    if (lane < L.lanes)
        for (int term = 0; term < TERMS; term++)
            for (int v = 0; v < V; v++)
                partial[(term * L.lanes + lane) * entries + column * V + v] = sums[term][v];
    __syncthreads();
    for (int p = threadIdx.x; p < entries / L.fold; p += blockDim.x) {
        const int position = begin / L.fold + p;
        if (position >= L.positions) break;
        float total[TERMS] = {};
        for (int term = 0; term < TERMS; term++)
            for (int l = 0; l < L.lanes; l++)
                for (int f = 0; f < L.fold; f++)
                    total[term] += partial[(term * L.lanes + l) * entries + p * L.fold + f];
        distances[L.offset + position] = normalised<I>(total, position);
    }
}

// the tile's level is a template argument, so that every size is known to the compiler
template <int I>
__device__ inline void measure_from(const Features &f, int image, int tile, float *distances, float *partial) {
    if constexpr (I < LEVELS) {
        const int mine = tiles_of<I>();
        if (tile < mine) measure<I>(f, image, tile, distances, partial);
        else measure_from<I + 1>(f, image, tile - mine, distances, partial);
    }
}

// True in the block that completes the image. The counter wraps to 0, ready for the next launch.
__device__ inline bool completes(unsigned *ticket, int tiles, unsigned *turn) {
    __syncthreads();  // the block's distances are written ...
    if (threadIdx.x == 0) {
        __threadfence();  // ... and seen by all others before the ticket is
        *turn = atomicInc(ticket, tiles - 1);
    }
    __syncthreads();
    const bool last = *turn == unsigned(tiles) - 1;
    if (last) __threadfence();
    return last;
}

// ---- map

// rows [y - top][x] of all levels: A_y @ m
template <int I> __device__ inline void blend_rows(const float *distances, int top, float *rows) {
    if constexpr (I < LEVELS) {
        constexpr Level L = LEVEL[I];
        const int count = min(BAND, MAP_H - top) * L.width;
        for (int i = threadIdx.x; i < count; i += blockDim.x) {
            const int y = top + i / L.width, x = i % L.width;
            const float *from = distances + L.offset + y_first[I * MAP_H + y] * L.width + x;
            float sum = 0.f;
            #pragma unroll
            for (int k = 0; k < L.y_taps; k++)
                sum = fmaf(y_weight[L.y_table + k * MAP_H + y], __ldcg(from + k * L.width), sum);
            rows[L.column * BAND + i] = sum;
        }
        blend_rows<I + 1>(distances, top, rows);
    }
}

// rows @ A_x^T for SIDE pixels of one column x, added to `totals` level by level
template <int I> __device__ inline void blend_columns(const float *rows, int y, int x, float (&totals)[SIDE]) {
    if constexpr (I < LEVELS) {
        constexpr Level L = LEVEL[I];
        const float *from = rows + L.column * BAND + y * L.width + x_first[I * MAP_W + x];
        float sums[SIDE] = {};
        #pragma unroll
        for (int k = 0; k < L.x_taps; k++) {
            const float weight = x_weight[L.x_table + k * MAP_W + x];
            #pragma unroll
            for (int side = 0; side < SIDE; side++) sums[side] = fmaf(weight, from[side * L.width + k], sums[side]);
        }
        #pragma unroll
        for (int side = 0; side < SIDE; side++) totals[side] += sums[side];
        blend_columns<I + 1>(rows, y, x, totals);
    }
}

// The image's map, in bands of rows that fit into shared memory. Returns whether this thread met NaN or infinity.
__device__ inline int resample(const float *distances, float *map, float *kept, float *rows) {
    int bad = 0;
    // all of them: a down-sampled map does not look at every position
    for (int i = threadIdx.x; i < POSITIONS; i += blockDim.x) bad |= !finite(__ldcg(distances + i));
    for (int top = 0; top < MAP_H; top += BAND) {
        blend_rows<0>(distances, top, rows);
        __syncthreads();
        for (int i = threadIdx.x; i < BAND / SIDE * MAP_W; i += blockDim.x) {
            const int y = i / MAP_W * SIDE, x = i % MAP_W;
            float totals[SIDE] = {};
            blend_columns<0>(rows, y, x, totals);
            for (int side = 0; side < SIDE && top + y + side < MAP_H; side++) {
                const int pixel = (top + y + side) * MAP_W + x;
                map[pixel] = totals[side];
                if (KEEPS_MAP) kept[pixel] = totals[side];
                bad |= !finite(totals[side]);
            }
        }
        __syncthreads();
    }
    return bad;
}

// ---- score

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

// features.student[I], features.reference[I]: [batch, C, h, w] of FEATURE. distances: scratch [batch, POSITIONS].
// tickets: [batch] zeros, and zeros again afterwards. verdicts: bit 0 score > threshold, bit 1 not finite.
extern "C" __global__ void __launch_bounds__(MAX_BLOCK)
score(Features features, float *distances, unsigned *tickets, float *map, float *scores, unsigned *verdicts,
      double threshold, int batch) {
    extern __shared__ __align__(16) float shared[];
    float *work = shared + 4, *kept = work + WORK;  // 4: the ticket drawn, padded to 16 bytes
    const int tiles = tiles_from<0>();
    for (int item = blockIdx.x; item < batch * tiles; item += gridDim.x) {
        const int image = item / tiles;
        float *mine = distances + size_t(image) * POSITIONS, *pixels = map + size_t(image) * PIXELS;
        measure_from<0>(features, image, item % tiles, mine, work);
        if (completes(tickets + image, tiles, reinterpret_cast<unsigned *>(shared))) {
            const int bad = __syncthreads_or(resample(mine, pixels, kept, work));
            // what pooling would not reach must not be hidden either
            const float value = bad ? __uint_as_float(0x7fc00000u) : pool(KEEPS_MAP ? kept : pixels, work);
            if (threadIdx.x == 0) {
                scores[image] = value;
                verdicts[image] = (value > threshold ? ANOMALOUS : 0) | (finite(value) ? 0 : INVALID);
            }
        }
        __syncthreads();  // the next tile reuses shared memory
    }
}
