// What Python calls, by ctypes: see binding.py.
#include <cstring>

#include "common.h"

namespace minedraft {
namespace plain {
Runner* make(const MdModel&, int);
}
#if defined(__x86_64__)
namespace avx2 {
Runner* make(const MdModel&, int);
}
namespace avx512 {
Runner* make(const MdModel&, int);
}
#endif
#if HAS_DOTS
namespace avx512_bf16 {
Runner* make(const MdModel&, int);
}
#endif

namespace {

struct Kind {
  const char* name;
  int width;
  int panel;
  Runner* (*make)(const MdModel&, int);
};

// From the widest to the narrowest that this CPU can run.
std::vector<Kind> kinds() {
  std::vector<Kind> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
#ifdef LOWERED
  const bool avx512 = true, dots = true;
#else
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#if HAS_DOTS
  const bool dots = avx512 && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#endif
#endif
#if HAS_DOTS
  if (dots) found.push_back({"avx512_bf16", 16, 16, avx512_bf16::make});
#endif
  if (avx512) found.push_back({"avx512", 16, 0, avx512::make});
  if (avx2) found.push_back({"avx2", 8, 0, avx2::make});
#endif
  found.push_back({"plain", 4, 0, plain::make});
  return found;
}

}  // namespace
}  // namespace minedraft

#define EXPORT extern "C" __attribute__((visibility("default")))

// The name of kind number i, null past the last.
EXPORT const char* md_kind(int32_t i) {
  static const std::vector<minedraft::Kind> found = minedraft::kinds();
  return i >= 0 && i < (int32_t)found.size() ? found[i].name : nullptr;
}

// Floats in a vector of that kind, 0 for one that this CPU cannot run.
EXPORT int32_t md_width(const char* name) {
  for (const auto& kind : minedraft::kinds())
    if (!std::strcmp(kind.name, name)) return kind.width;
  return 0;
}

// Rows in a panel of its weights (panels.h), 0 where they lie row by row.
EXPORT int32_t md_panel(const char* name) {
  for (const auto& kind : minedraft::kinds())
    if (!std::strcmp(kind.name, name)) return kind.panel;
  return 0;
}

// A model to run, null when there is no memory or thread to be had. What it points to must stay where it is.
EXPORT void* md_open(const MdModel* model, const char* name, int32_t threads) {
  try {
    for (const auto& kind : minedraft::kinds())
      if (!std::strcmp(kind.name, name)) return kind.make(*model, threads);
  } catch (const std::exception&) {
  }
  return nullptr;
}

// Whether the pass was computed; otherwise there was no memory for it and nothing was written.
EXPORT int32_t md_run(void* runner, const MdBatch* batch) {
  try {
    static_cast<minedraft::Runner*>(runner)->run(*batch);
    return 1;
  } catch (const std::exception&) {
    return 0;
  }
}

EXPORT void md_close(void* runner) { delete static_cast<minedraft::Runner*>(runner); }

