// Feature pairs -> normalised distances at the features' own size, one tile of one level a call.

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

template <int I, int V, int TERMS>
__device__ inline void add(const Packed<V> &student, const Packed<V> &reference, float (&sums)[TERMS][V]) {
    float s[V], t[V];
    unpack<V>(student, s);
    unpack<V>(reference, t);
    #pragma unroll
    for (int v = 0; v < V; v++) {
        if constexpr (LEVEL[I].kind == COSINE) {
            sums[0][v] = fmaf(s[v], t[v], sums[0][v]);
            sums[1][v] = fmaf(s[v], s[v], sums[1][v]);
            sums[2][v] = fmaf(t[v], t[v], sums[2][v]);
        } else {
            const float difference = s[v] - t[v];
            sums[0][v] = fmaf(difference, difference, sums[0][v]);
        }
    }
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
        for (int row = lane; row < L.rows; row += L.lanes * L.at_once) {
            Packed<V> s[L.at_once] = {}, t[L.at_once] = {};
            #pragma unroll
            for (int i = 0; i < L.at_once; i++) {  // all loads leave before the first is waited for
                const int next = row + i * L.lanes;
                if (next >= L.rows) continue;
                s[i] = __ldcs(reinterpret_cast<const Packed<V> *>(student + size_t(next) * L.entries));
                t[i] = __ldcs(reinterpret_cast<const Packed<V> *>(reference + size_t(next) * L.entries));
            }
            #pragma unroll
            for (int i = 0; i < L.at_once; i++) add<I, V>(s[i], t[i], sums);
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
