// C (+)= A . B of rows that lie anywhere, and as many columns as a group has vectors: given pairs. Columns beyond whole
// vectors that fill half of one at most lie there twice, side by side: a vector then sums them for two rows at once.

namespace tile_product_impl {

// Rows are found by their addresses, which take registers of their own.
constexpr int rows_of_list(int vectors) { return std::min(rows_beside(vectors), 8); }

constexpr int64_t kLine = 64;

// kHalf: half a vector of columns more.
template <class T, int kRows, int kVectors, bool kHalf>
__attribute__((noinline)) void listed_block(int64_t k, const T* const* a, int64_t first, Ahead<T> ahead, const T* b,
                                            int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  constexpr int kPairs = kHalf ? (kRows + 1) / 2 : 1;
  constexpr int64_t kLanesOfHalf = kLanes<T> / 2, kStep = kLine / int64_t(sizeof(T));
  Vec<T> sums[kRows][kVectors] = {}, halves[kPairs] = {};
  const T* rows[kRows];
  ITM_UNROLL for (int i = 0; i < kRows; i++) rows[i] = a[i] + first;
  for (int64_t p = 0, end; p < k; p = end) {
    end = std::min(k, p + kStep);
    if (ahead.rows != nullptr)
      ITM_UNROLL for (int i = 0; i < kRows; i++) __builtin_prefetch(ahead.rows[i] + ahead.first + p);
    for (int64_t q = p; q < end; q++, b += ldb) {
      Vec<T> right[kVectors], twice{};
      ITM_UNROLL for (int j = 0; j < kVectors; j++) right[j] = load(b + j * kLanes<T>);
      if constexpr (kHalf) twice = load(b + kVectors * kLanes<T>);
      ITM_UNROLL for (int i = 0; i < kRows; i += 2) {
        const bool both = i + 1 < kRows;
        const Vec<T> low = splat(rows[i][q]), high = both ? splat(rows[i + both][q]) : low;
        ITM_UNROLL for (int j = 0; j < kVectors; j++) {
          sums[i][j] += low * right[j];
          if (both) sums[i + both][j] += high * right[j];
        }
        if constexpr (kHalf) halves[i / 2] += (both ? halves_of<T>(low, high) : low) * twice;
      }
    }
  }
  ITM_UNROLL for (int i = 0; i < kRows; i++) {
    T* to = c + i * ldc;
    ITM_UNROLL for (int j = 0; j < kVectors; j++, to += kLanes<T>)
        store(to, accumulate ? load(to) + sums[i][j] : sums[i][j]);
    if constexpr (kHalf) {
      T half[kLanes<T>];
      store(half, halves[i / 2]);
      const T* sum = half + i % 2 * kLanesOfHalf;
      for (int64_t j = 0; j < kLanesOfHalf; j++) to[j] = accumulate ? to[j] + sum[j] : sum[j];
    }
  }
}

template <class T, int kRows, int kVectors, bool kHalf>
void listed_block_of(int64_t rows, int64_t k, const T* const* a, int64_t first, Ahead<T> ahead, const T* b, int64_t ldb,
                     T* c, int64_t ldc, bool accumulate) {
  if (rows == kRows)
    listed_block<T, kRows, kVectors, kHalf>(k, a, first, ahead, b, ldb, c, ldc, accumulate);
  else if constexpr (kRows > 1)
    listed_block_of<T, kRows - 1, kVectors, kHalf>(rows, k, a, first, ahead, b, ldb, c, ldc, accumulate);
}

template <class T, int kVectors, bool kHalf>
void listed_strip(int64_t m, int64_t k, const T* const* a, int64_t first, Ahead<T> ahead, const T* b, int64_t ldb, T* c,
                  int64_t ldc, bool accumulate) {
  constexpr int most = rows_of_list(kVectors + kHalf);
  // Blocks of about as many rows: one row alone takes as long as several.
  const int64_t n_blocks = (m + most - 1) / most;
  for (int64_t block = 0, i = 0, rows; block < n_blocks; block++, i += rows) {
    rows = (m - i + n_blocks - block - 1) / (n_blocks - block);
    listed_block_of<T, most, kVectors, kHalf>(rows, k, a + i, first, ahead.from(i), b, ldb, c + i * ldc, ldc,
                                              accumulate);
  }
}

template <class T>
void product_of_list(int64_t m, int64_t n, int64_t k, const T* const* a, int64_t first, Ahead<T> ahead, const T* b,
                     int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  constexpr int64_t kHalf = kLanes<T> / 2;
  int64_t j = 0;
  auto strip = [&](auto vectors, auto half, Ahead<T> then) {
    listed_strip<T, vectors(), half()>(m, k, a, first, then, b + j, ldb, c + j, ldc, accumulate);
  };
  // Asked for by the last strip: the others' rows, which it still reads, stay in the first cache until then.
  for (; n - j > 3 * kLanes<T>; j += 2 * kLanes<T>) strip(std::integral_constant<int, 2>(), std::false_type(), {});
  const int64_t rest = (n - j + kHalf - 1) / kHalf;
  if (rest == 6) strip(std::integral_constant<int, 3>(), std::false_type(), ahead);
  if (rest == 5) strip(std::integral_constant<int, 2>(), std::true_type(), ahead);
  if (rest == 4) strip(std::integral_constant<int, 2>(), std::false_type(), ahead);
  if (rest == 3) strip(std::integral_constant<int, 1>(), std::true_type(), ahead);
  if (rest == 2) strip(std::integral_constant<int, 1>(), std::false_type(), ahead);
}

}  // namespace tile_product_impl
