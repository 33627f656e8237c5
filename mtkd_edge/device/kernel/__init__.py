"""The fused scoring kernel: the score of `mtkd_edge.score` as one CUDA launch. docs/kernel.md explains it.

layout      a ScoreSpec as levels, tiles and tables        header, score.cu   the CUDA text with its numbers
compiler    nvcc or NVRTC -> cubin, kept by hash           launcher           a cubin -> launches, through pycuda
build       the cubin of an engine                         nvrtc              NVIDIA's compiler as a library
host        the same text by g++, for tests and reports    host_arena         its arrays, between NaN
"""
