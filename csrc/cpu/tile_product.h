// Our own tile products C (+)= A . B, row major, compiled once per instruction set (tile_product.inl).
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

#include "isa.h"

namespace itm {

// The sum over k runs from zero over at most `run` numbers at a time, one number after the other, whatever m, n and the
// place in C: an element of C doesn't depend on the tile it was computed in.
template <class Op, class T>
using TileProduct = void (*)(int64_t m, int64_t n, int64_t k, int64_t run, const Op* a, int64_t lda, const Op* b,
                             int64_t ldb, T* c, int64_t ldc, bool accumulate);

#define ITM_DECLARE(isa)                                                                                           \
  namespace isa {                                                                                                  \
  template <class T>                                                                                               \
  void tile_product(int64_t m, int64_t n, int64_t k, int64_t run, const T* a, int64_t lda, const T* b, int64_t ldb, \
                    T* c, int64_t ldc, bool accumulate);                                                           \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE)
#undef ITM_DECLARE

#if ITM_X86
namespace avx512bf16 {
// k is even, B in pairs of rows, [k / 2, ldb, 2]; sums in float32.
void tile_product(int64_t m, int64_t n, int64_t k, int64_t run, const torch::headeronly::BFloat16* a, int64_t lda,
                  const torch::headeronly::BFloat16* b, int64_t ldb, float* c, int64_t ldc, bool accumulate);
}  // namespace avx512bf16
#endif

}  // namespace itm
