// For x86-64 with AVX-512 and its dot instructions for bfloat16 and 8 bits (BF16, VNNI): AMD since Zen 4, Intel since
// Cooper Lake.
#include "common.h"

#if HAS_DOTS
#ifndef LOWERED  // tests compile this file for less, to run its logic on any machine
#if defined(__clang__)
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni,avx2,fma,bmi2,prefer-vector-width=512")
#include <immintrin.h>
#endif
#endif
#define WIDTH 16
#define DOTS 1
#define SPACE avx512_bf16
#include "kernels.h"
#if defined(__clang__) && !defined(LOWERED)
#pragma clang attribute pop
#endif
#endif
