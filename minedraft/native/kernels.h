// All that is compiled once for each instruction set, in the namespace SPACE. No include guard.
namespace minedraft {
namespace SPACE {
#include "vectors.h"
#include "product.h"
#include "attention.h"
#include "llama.h"
}  // namespace SPACE
}  // namespace minedraft
