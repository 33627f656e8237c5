// The fused anomaly score: feature pairs in; map [N, MAP_H, MAP_W], score [N] and verdict bits [N] out, in one launch.
// The definition is mtkd_edge/score.py. Its numbers come from header.py, put before this text; docs/kernel.md has a
// picture. Each block measures tiles of distances at the features' own size; whoever completes an image's last tile
// also resamples, adds and pools that image, while other blocks still read features.
//
// Results do not depend on the launch: every float is summed in an order that only the spec fixes, and the atomics are
// on integers. Nothing here is contracted by the compiler (-fmad=false), what should be fused says fmaf. So a GPU and
// the host build of this text (host_cuda.h) make the same bits.

constexpr unsigned ANOMALOUS = 1, INVALID = 2, REGION = 4;

extern "C" {
__constant__ unsigned long long spec_digest = DIGEST;  // the loader refuses a kernel made for another spec
}

// True in the block that completes the image. The counter wraps to 0, ready for the next launch. One thread orders
// memory for its block: barrier, fence, ticket, fence, barrier, as a barrier of the whole grid would.
__device__ inline bool completes(unsigned *ticket, int tiles, unsigned *turn) {
    __syncthreads();  // the block's distances are written ...
    if (threadIdx.x == 0) {
        __threadfence();  // ... before its ticket is drawn,
        *turn = atomicInc(ticket, tiles - 1);
        __threadfence();  // and those of earlier tickets are read after it
    }
    __syncthreads();
    return *turn == unsigned(tiles) - 1;
}

// features.student[I], features.reference[I]: [batch, C, h, w] of FEATURE. distances: scratch [batch, POSITIONS].
// tickets: [batch] zeros, and zeros again afterwards. verdicts: bit 0 score > threshold, bit 1 not finite, bit 2 some
// pixel > map_threshold: whoever has the bits knows which maps are worth copying.
// Two blocks a multiprocessor are promised: without that, ptxas aims at full occupancy, saves registers and waits for
// each pair of loads before it issues the next.
extern "C" __global__ void __launch_bounds__(MAX_BLOCK, 2)
score(Features features, float *distances, unsigned *tickets, float *map, float *scores, unsigned *verdicts,
      double threshold, double map_threshold, int batch) {
    extern __shared__ __align__(16) float shared[];
    float *work = shared + 4, *kept = work + WORK;  // 4: the ticket drawn, padded to 16 bytes
    const int tiles = tiles_from<0>();
    for (int item = blockIdx.x; item < batch * tiles; item += gridDim.x) {
        const int image = item / tiles;
        float *mine = distances + size_t(image) * POSITIONS, *pixels = map + size_t(image) * PIXELS;
        measure_from<0>(features, image, item % tiles, mine, work);
        if (completes(tickets + image, tiles, reinterpret_cast<unsigned *>(shared))) {
            const int met = resample(mine, pixels, kept, work, map_threshold);
            const int bad = __syncthreads_or(met & MET_BAD), above = __syncthreads_or(met & MET_ABOVE);
            // what pooling would not reach must not be hidden either
            const float value = bad ? __uint_as_float(0x7fc00000u) : pool(KEEPS_MAP ? kept : pixels, work);
            if (threadIdx.x == 0) {
                scores[image] = value;
                verdicts[image] =
                    (value > threshold ? ANOMALOUS : 0) | (finite(value) ? 0 : INVALID) | (above ? REGION : 0);
            }
        }
        __syncthreads();  // the next tile reuses shared memory
    }
}
