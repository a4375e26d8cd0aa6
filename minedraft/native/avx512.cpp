// For x86-64 with AVX-512 (F, BW, DQ, VL).
#include "common.h"

#if defined(__x86_64__)
#ifndef LOWERED  // tests compile this file for less, to run its logic on any machine
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2,prefer-vector-width=512")
#endif
#endif
#define WIDTH 16
#define DOTS 0
#define SPACE avx512
#include "kernels.h"
#if defined(__clang__) && !defined(LOWERED)
#pragma clang attribute pop
#endif
#endif
