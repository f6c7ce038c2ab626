// C (+)= A . B: kRowsAtOnce rows by two vectors of columns of C stay in registers while the sum runs over k; a vector of B
// is loaded for all of these rows, a number of A broadcast for both vectors. No horizontal sums, no packing of A.

// Early, so that g++ finds an array of vectors to be registers.
#if defined(__clang__)
#define ITM_UNROLL _Pragma("unroll")
#else
#define ITM_UNROLL _Pragma("GCC unroll 16")
#endif

namespace tile_product_impl {

// Two vectors of B, a broadcast of A and the sums fill the registers: 16, or 32 of AVX-512 and NEON.
#if VEC_BYTES == 64 || defined(__aarch64__)
constexpr int kRowsAtOnce = 12;
#else
constexpr int kRowsAtOnce = 6;
#endif
constexpr int kVectorsAtOnce = 2;

enum class Then { kStore, kAdd, kGoOn };  // what becomes of C: overwritten, added to, or the sums go on from it

// What is multiplied at each step of k: numbers.
template <class T>
struct Numbers {
  using Unit = T;
  using Sum = T;
  static ITM_INLINE Vec<T> row(const Unit* b) { return load(b); }
  static ITM_INLINE Vec<T> everywhere(const Unit* a) { return splat(*a); }
  static ITM_INLINE Vec<T> multiply_add(Vec<T> sum, Vec<T> left, Vec<T> right) { return sum + left * right; }
};

template <class Kind, int kRows, int kVectors>
__attribute__((noinline)) void block(int64_t k, const typename Kind::Unit* a, int64_t lda,
                                     const typename Kind::Unit* b, int64_t ldb, typename Kind::Sum* c, int64_t ldc,
                                     Then then) {
  using T = typename Kind::Sum;
  Vec<T> sums[kRows][kVectors];
  ITM_UNROLL for (int i = 0; i < kRows; i++)
    ITM_UNROLL for (int j = 0; j < kVectors; j++)
      sums[i][j] = then == Then::kGoOn ? load(c + i * ldc + j * kLanes<T>) : Vec<T>{};
  for (int64_t p = 0; p < k; p++, a++, b += ldb) {
    decltype(Kind::row(b)) right[kVectors];
    ITM_UNROLL for (int j = 0; j < kVectors; j++) right[j] = Kind::row(b + j * kLanes<T>);
    ITM_UNROLL for (int i = 0; i < kRows; i++) {
      const auto left = Kind::everywhere(a + i * lda);
      ITM_UNROLL for (int j = 0; j < kVectors; j++) sums[i][j] = Kind::multiply_add(sums[i][j], left, right[j]);
    }
  }
  ITM_UNROLL for (int i = 0; i < kRows; i++)
    ITM_UNROLL for (int j = 0; j < kVectors; j++) {
      T* to = c + i * ldc + j * kLanes<T>;
      store(to, then == Then::kAdd ? load(to) + sums[i][j] : sums[i][j]);
    }
}

// At most kRows rows, of which there are `rows`.
template <class Kind, int kRows, int kVectors>
void rows_of_block(int64_t rows, int64_t k, const typename Kind::Unit* a, int64_t lda, const typename Kind::Unit* b,
                   int64_t ldb, typename Kind::Sum* c, int64_t ldc, Then then) {
  if (rows == kRows)
    block<Kind, kRows, kVectors>(k, a, lda, b, ldb, c, ldc, then);
  else if constexpr (kRows > 1)
    rows_of_block<Kind, kRows - 1, kVectors>(rows, k, a, lda, b, ldb, c, ldc, then);
}

// Fewer columns than a vector has lanes: through copies that are as wide as one.
template <class Kind>
void narrow(int64_t m, int64_t n, int64_t k, const typename Kind::Unit* a, int64_t lda, const typename Kind::Unit* b,
            int64_t ldb, typename Kind::Sum* c, int64_t ldc, Then then) {
  constexpr int64_t kDepth = 128, kWidth = kLanes<typename Kind::Sum>;
  typename Kind::Unit right[kDepth * kWidth] = {};
  typename Kind::Sum sums[kRowsAtOnce * kWidth];
  for (int64_t i = 0; i < m; i += kRowsAtOnce) {
    const int64_t rows = std::min<int64_t>(kRowsAtOnce, m - i);
    std::fill_n(sums, kRowsAtOnce * kWidth, 0);
    for (int64_t p = 0; p < k; p += kDepth) {
      const int64_t depth = std::min(kDepth, k - p);
      if (i == 0 || k > kDepth)
        for (int64_t d = 0; d < depth; d++) std::copy_n(b + (p + d) * ldb, n, right + d * kWidth);
      rows_of_block<Kind, kRowsAtOnce, 1>(rows, depth, a + i * lda + p, lda, right, kWidth, sums, kWidth, Then::kGoOn);
    }
    for (int64_t r = 0; r < rows; r++)
      for (int64_t j = 0; j < n; j++) {
        auto& to = c[(i + r) * ldc + j];
        to = then == Then::kAdd ? to + sums[r * kWidth + j] : sums[r * kWidth + j];
      }
  }
}

template <class Kind>
void product(int64_t m, int64_t n, int64_t k, int64_t run, const typename Kind::Unit* a, int64_t lda,
             const typename Kind::Unit* b, int64_t ldb, typename Kind::Sum* c, int64_t ldc, bool accumulate) {
  constexpr int64_t kWidth = kLanes<typename Kind::Sum>, kWide = kVectorsAtOnce * kWidth;
  for (int64_t p = 0; p < k; p += run, accumulate = true) {
    const int64_t depth = std::min(run, k - p);
    const auto* left = a + p;
    const auto* right = b + p * ldb;
    const Then then = accumulate ? Then::kAdd : Then::kStore;
    // Row by row of blocks: A's few rows stay in the first cache while B's panel goes by from the second.
    const int64_t whole = n / kWidth * kWidth;
    for (int64_t i = 0; i < m; i += kRowsAtOnce) {
      const int64_t rows = std::min<int64_t>(kRowsAtOnce, m - i);
      int64_t j = 0;
      for (; j + kWide <= n; j += kWide)
        rows_of_block<Kind, kRowsAtOnce, kVectorsAtOnce>(rows, depth, left + i * lda, lda, right + j, ldb,
                                                         c + i * ldc + j, ldc, then);
      if (j < whole)
        rows_of_block<Kind, kRowsAtOnce, 1>(rows, depth, left + i * lda, lda, right + j, ldb, c + i * ldc + j, ldc,
                                            then);
    }
    if (whole < n) narrow<Kind>(m, n - whole, depth, left, lda, right + whole, ldb, c + whole, ldc, then);
  }
}

}  // namespace tile_product_impl

#undef ITM_UNROLL
