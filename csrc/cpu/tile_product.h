// Our own tile products C (+)= A . B, row major, compiled once per instruction set (tile_product.inl).
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

#include "isa.h"

namespace itm {

constexpr int64_t kListedRows = 24;  // at a time: a multiple of the rows of every block of a list

// Rows whose numbers from `first` on are read after a product of listed rows: asked for meanwhile, as far as the second
// cache, for there are other rows to come before them.
template <class T>
struct Ahead {
  const T* const* rows = nullptr;
  int64_t first = 0;

  Ahead from(int64_t row) const { return {rows == nullptr ? nullptr : rows + row, first}; }
};

// The sum over k runs from zero over at most `run` numbers at a time, one number after the other, whatever m, n and the
// place in C: an element of C doesn't depend on the tile it was computed in.
template <class Op, class T>
struct TileProduct {
  void (*rows)(int64_t m, int64_t n, int64_t k, int64_t run, const Op* a, int64_t lda, const Op* b, int64_t ldb, T* c,
               int64_t ldc, bool accumulate);
  // B in panels of `panel` columns, [k, panel] each, the last one narrower.
  void (*panels)(int64_t m, int64_t n, int64_t k, int64_t run, const Op* a, int64_t lda, const Op* b, T* c, int64_t ldc,
                 bool accumulate);
  // The same with an A [m, k] that pack_left has packed for that run; pack_left is null where A is best as it lies.
  void (*packed)(int64_t m, int64_t n, int64_t k, int64_t run, const Op* a, int64_t lda, const Op* b, T* c, int64_t ldc,
                 bool accumulate);
  void (*pack_left)(int64_t m, int64_t k, int64_t run, const Op* a, int64_t lda, Op* out);
  int64_t panel;
  int64_t lanes;  // columns of B in a register
  // A's rows, numbers `first` to first + k of each, lie anywhere. Of a register of columns that isn't whole, n > lanes,
  // n has a half or as few as `least`, and B has them as often as they fill the register. One sum over k. Null: of no
  // such type.
  void (*listed)(int64_t m, int64_t n, int64_t k, const Op* const* rows, int64_t first, Ahead<Op> ahead, const Op* b,
                 int64_t ldb, T* c, int64_t ldc, bool accumulate) = nullptr;
  int64_t least = 0;
};

#define ITM_DECLARE(isa)            \
  namespace isa {                   \
  template <class T>                \
  TileProduct<T, T> tile_product(); \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE)
#undef ITM_DECLARE

#if ITM_X86
namespace avx512bf16 {
// k is even, B in pairs of rows, [k / 2, ldb, 2]; sums in float32.
TileProduct<torch::headeronly::BFloat16, float> tile_product();
}  // namespace avx512bf16
#endif

}  // namespace itm
