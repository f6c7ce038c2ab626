// Tile products C = A . B: our own (tile_product.h), or oneDNN's micro-kernel where torch exports it (brgemm).
// ITM_FAST_GEMM=own|brgemm forces one, so that tests run both.
#pragma once

#include <cstdint>
#include <string>

#include "../ops/tensor.h"
#include "tile_product.h"

namespace itm {

enum class Multiplier { kOwn, kBrgemm, kWidened };  // kWidened: bfloat16 as float32

struct GemmChoice {
  Multiplier multiplier;
  std::string name, reason;
};

// How products of this operand type run now; asked once per operator call (torch.backends.mkldnn.flags may change it).
GemmChoice gemm_choice(ScalarType operands);

// Columns of B at a time: both kernels are at their best up to here, and such a panel stays in the L2 cache.
constexpr int64_t kPanelColumns = 64;
// Rows of A per call of brgemm; bounds the number of kernel shapes that are generated.
constexpr int64_t kChunkRows = 72;

// float32 products are summed over k in at least two runs of at most this many numbers, each from zero: the rounding
// error of S falls to about a third at k = 1024, for 3 % of the time. SCAN's l1norm needs it: it magnifies errors of S
// a hundredfold.
constexpr int64_t kSumRun = 128;

// C [m, n] (+)= A [m, k] . B [k, n], row major. bfloat16: k is even and B holds pairs of rows interleaved, [k / 2, ldb,
// 2].
template <class Op, class T>
class Gemm {
 public:
  Gemm();                        // as gemm_choice says; not of bfloat16 that is to be widened
  static Gemm own();             // our own whatever it says, for tiles of many shapes: not of bfloat16
  int64_t run(int64_t k) const;  // numbers that a sum over k runs over at a time
  void operator()(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, int64_t ldb, T* c,
                  int64_t ldc, bool accumulate = false) const;
  // The same with one sum over k, for a k that the caller has cut already.
  void in_one_run(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, int64_t ldb, T* c,
                  int64_t ldc, bool accumulate) const {
    product.rows(m, n, k, k, a, lda, b, ldb, c, ldc, accumulate);
  }
  // The same as operator(), with B in panels of panel() columns, [k, panel()] each, the last one narrower: as wide as
  // the kernel takes at once.
  void of_panels(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, T* c, int64_t ldc,
                 bool accumulate = false) const;
  int64_t panel() const { return product.panel; }
  int64_t lanes() const { return product.lanes; }
  // Columns that fill a part of a register as of_list takes it, n of them or a few more; as many as it has lanes: all.
  int64_t part_of_register(int64_t n) const {
    int64_t part = product.least;
    while (part < n) part *= 2;
    return part;
  }
  void of_list(int64_t m, int64_t n, int64_t k, const Op* const* rows, int64_t first, Ahead<Op> ahead, const Op* b,
               int64_t ldb, T* c, int64_t ldc, bool accumulate) const {
    product.listed(m, n, k, rows, first, ahead, b, ldb, c, ldc, accumulate);
  }
  // A [m, k] as of_left takes it: where it lies, or packed into `room` (m * k numbers), which pays for many columns.
  const Op* left(int64_t m, int64_t k, const Op* a, Op* room) const;
  bool packs_left() const { return product.pack_left != nullptr; }
  void of_left(int64_t m, int64_t n, int64_t k, const Op* left, const Op* b, T* c, int64_t ldc) const;
  // Gives the matrix unit back (AMX) at the end of a worker's tiles.
  void release() const;

 private:
  TileProduct<Op, T> product;
  explicit Gemm(TileProduct<Op, T> product) : product(product) {}
};

}  // namespace itm
