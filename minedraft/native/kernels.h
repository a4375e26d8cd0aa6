// All that is compiled once for each instruction set, in the namespace SPACE. No include guard.
namespace minedraft {
namespace SPACE {
#include "numbers.h"
#include "vectors.h"
#include "operands.h"
#include "product.h"
#if DOTS
#include "panels.h"
#endif
#include "attention.h"
#include "llama.h"
}  // namespace SPACE
}  // namespace minedraft
