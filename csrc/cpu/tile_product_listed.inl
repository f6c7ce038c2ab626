// C (+)= A . B of rows that lie anywhere, and as many columns as a group has vectors: given pairs. Columns beyond whole
// vectors that fill a half or, of 64 bytes, a quarter of one at most lie there twice or four times, side by side: a
// vector then sums them for so many rows at once.

namespace tile_product_impl {

// Rows are found by their addresses, which take registers of their own.
constexpr int rows_of_list(int vectors) { return std::min(rows_beside(vectors), 8); }

constexpr int64_t kLine = 64;
constexpr int kMostSharing = VEC_BYTES == 64 ? 4 : 2;  // rows in a vector

// The lanes of a vector, shared evenly among numbers that each fill one.
template <class T, int kSharing>
ITM_INLINE Vec<T> shared_by(const Vec<T>* everywhere) {
  if constexpr (kSharing == 2) {
    return halves_of<T>(everywhere[0], everywhere[1]);
  } else {
    constexpr Lane<T> kQuarter = kLanes<T> / 4;
    return first_lanes<T>(first_lanes<T>(everywhere[0], kQuarter, everywhere[1]), 2 * kQuarter,
                          first_lanes<T>(everywhere[2], 3 * kQuarter, everywhere[3]));
  }
}

// kSharing: rows that share a vector of the columns beyond whole ones; 1: there are none.
template <class T, int kRows, int kVectors, int kSharing>
__attribute__((noinline)) void listed_block(int64_t k, const T* const* a, int64_t first, Ahead<T> ahead, const T* b,
                                            int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  constexpr bool kShares = kSharing > 1;
  constexpr int kTogether = kShares ? kSharing : 2, kShared = kShares ? (kRows + kSharing - 1) / kSharing : 1;
  constexpr int64_t kRest = kLanes<T> / kSharing, kStep = kLine / int64_t(sizeof(T));
  Vec<T> sums[kRows][kVectors] = {}, shared[kShared] = {};
  const T* rows[kRows];
  ITM_UNROLL for (int i = 0; i < kRows; i++) rows[i] = a[i] + first;
  for (int64_t p = 0, end; p < k; p = end) {
    end = std::min(k, p + kStep);
    if (ahead.rows != nullptr)
      ITM_UNROLL for (int i = 0; i < kRows; i++) __builtin_prefetch(ahead.rows[i] + ahead.first + p, 0, 2);
    for (int64_t q = p; q < end; q++, b += ldb) {
      Vec<T> right[kVectors], rest{};
      ITM_UNROLL for (int j = 0; j < kVectors; j++) right[j] = load(b + j * kLanes<T>);
      if constexpr (kShares) rest = load(b + kVectors * kLanes<T>);
      ITM_UNROLL for (int i = 0; i < kRows; i += kTogether) {
        Vec<T> left[kTogether];
        ITM_UNROLL for (int r = 0; r < kTogether; r++) {
          const bool is_row = i + r < kRows;
          left[r] = is_row ? splat(rows[is_row ? i + r : 0][q]) : left[0];
          ITM_UNROLL for (int j = 0; j < kVectors; j++) if (is_row) sums[is_row ? i + r : 0][j] += left[r] * right[j];
        }
        if constexpr (kShares) shared[i / kTogether] += (i + 1 < kRows ? shared_by<T, kSharing>(left) : left[0]) * rest;
      }
    }
  }
  ITM_UNROLL for (int i = 0; i < kRows; i++) {
    T* to = c + i * ldc;
    ITM_UNROLL for (int j = 0; j < kVectors; j++, to += kLanes<T>)
        store(to, accumulate ? load(to) + sums[i][j] : sums[i][j]);
    if constexpr (kShares) {
      T all[kLanes<T>];
      store(all, shared[i / kSharing]);
      const T* sum = all + i % kSharing * kRest;
      for (int64_t j = 0; j < kRest; j++) to[j] = accumulate ? to[j] + sum[j] : sum[j];
    }
  }
}

template <class T, int kRows, int kVectors, int kSharing>
void listed_block_of(int64_t rows, int64_t k, const T* const* a, int64_t first, Ahead<T> ahead, const T* b, int64_t ldb,
                     T* c, int64_t ldc, bool accumulate) {
  if (rows == kRows)
    listed_block<T, kRows, kVectors, kSharing>(k, a, first, ahead, b, ldb, c, ldc, accumulate);
  else if constexpr (kRows > 1)
    listed_block_of<T, kRows - 1, kVectors, kSharing>(rows, k, a, first, ahead, b, ldb, c, ldc, accumulate);
}

template <class T, int kVectors, int kSharing>
void listed_strip(int64_t m, int64_t k, const T* const* a, int64_t first, Ahead<T> ahead, const T* b, int64_t ldb, T* c,
                  int64_t ldc, bool accumulate) {
  constexpr int most = rows_of_list(kVectors + (kSharing > 1));
  // Blocks of about as many rows: one row alone takes as long as several.
  const int64_t n_blocks = (m + most - 1) / most;
  for (int64_t block = 0, i = 0, rows; block < n_blocks; block++, i += rows) {
    rows = (m - i + n_blocks - block - 1) / (n_blocks - block);
    listed_block_of<T, most, kVectors, kSharing>(rows, k, a + i, first, ahead.from(i), b, ldb, c + i * ldc, ldc,
                                                 accumulate);
  }
}

template <class T>
void product_of_list(int64_t m, int64_t n, int64_t k, const T* const* a, int64_t first, Ahead<T> ahead, const T* b,
                     int64_t ldb, T* c, int64_t ldc, bool accumulate) {
  int64_t j = 0;
  auto strip = [&](auto vectors, auto sharing, Ahead<T> then) {
    listed_strip<T, vectors(), sharing()>(m, k, a, first, then, b + j, ldb, c + j, ldc, accumulate);
  };
  // Asked for by the last strip, once.
  for (; n - j > 3 * kLanes<T>; j += 2 * kLanes<T>)
    strip(std::integral_constant<int, 2>(), std::integral_constant<int, 1>(), {});
  const int64_t whole = (n - j) / kLanes<T>, rest = (n - j) % kLanes<T>;
  auto last = [&](auto vectors) {
    if (rest == 0) return strip(vectors, std::integral_constant<int, 1>(), ahead);
    if (rest == kLanes<T> / 2) return strip(vectors, std::integral_constant<int, 2>(), ahead);
    if constexpr (kMostSharing == 4) strip(vectors, std::integral_constant<int, 4>(), ahead);
  };
  if (whole == 3) strip(std::integral_constant<int, 3>(), std::integral_constant<int, 1>(), ahead);
  if (whole == 2) last(std::integral_constant<int, 2>());
  if (whole == 1) last(std::integral_constant<int, 1>());
}

}  // namespace tile_product_impl
