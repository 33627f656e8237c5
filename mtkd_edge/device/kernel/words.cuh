// Reading features: as many neighbours in one load as alignment allows, in single or half precision.

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

// V neighbouring features as one word. A word of zeros adds nothing to any sum.
template <int V> using Packed = typename Word<V * sizeof(FEATURE)>::type;

template <int V> __device__ inline void unpack(const Packed<V> &word, float (&values)[V]) {
    FEATURE parts[V];
    memcpy(parts, &word, sizeof word);
    #pragma unroll
    for (int v = 0; v < V; v++) values[v] = number(parts[v]);
}

__device__ inline bool finite(float value) { return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u; }
