// Normalised distances of one image -> its map: A_y @ m @ A_x^T of every level, added in the order of the levels.

constexpr int PIXELS = MAP_H * MAP_W;
constexpr int MET_BAD = 1, MET_ABOVE = 2;
constexpr int SIDE = 4;  // map rows a thread makes at once, so that it reads each weight once for them

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
                sum = fmaf(y_weight[L.y_table + k * MAP_H + y], from[k * L.width], sum);
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

// The image's map, in bands of rows that fit into shared memory. Returns what this thread met: NaN or infinity, and
// a pixel above the threshold.
__device__ inline int resample(const float *distances, float *map, float *kept, float *rows, double threshold) {
    int met = 0;
    // all of them: a down-sampled map does not look at every position. It also brings them into the L1 cache, where the
    // taps then find them.
    for (int i = threadIdx.x; i < POSITIONS; i += blockDim.x) met |= finite(distances[i]) ? 0 : MET_BAD;
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
                met |= (finite(totals[side]) ? 0 : MET_BAD) | (totals[side] > threshold ? MET_ABOVE : 0);
            }
        }
        __syncthreads();
    }
    return met;
}
