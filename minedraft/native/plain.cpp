// For every other CPU: vectors of 4, which compilers have on all of them (SSE2, NEON).
#include "common.h"

#define WIDTH 4
#define DOTS 0
#define SPACE plain
#include "kernels.h"
