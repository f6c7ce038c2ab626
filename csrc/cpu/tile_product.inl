// C (+)= A . B: kRowsAtOnce rows by two vectors of columns of C stay in registers while the sum runs over k; a vector
// of B is loaded for all of these rows, a number of A broadcast for both vectors. No horizontal sums.

namespace tile_product_impl {

// Two vectors of B, a broadcast of A and the sums fill the registers: 16, or 32 of AVX-512 and NEON.
#if VEC_BYTES == 64 || defined(__aarch64__)
constexpr int kRowsAtOnce = 12;
#else
constexpr int kRowsAtOnce = 6;
#endif
constexpr int kVectorsAtOnce = 2;

// As many sums for other numbers of vectors: three, rather than two and one whose few sums would wait for each other.
constexpr int rows_beside(int vectors) { return vectors <= kVectorsAtOnce ? kRowsAtOnce : kRowsAtOnce * 2 / vectors; }

enum class Then { kStore, kAdd, kGoOn };  // what becomes of C: overwritten, added to, or the sums go on from it

// What is multiplied at each step of k: numbers.
template <class T>
struct Numbers {
  using Unit = T;
  using Sum = T;
  static ITM_INLINE Vec<T> row(const T* b) { return load(b); }
  static ITM_INLINE Vec<T> everywhere(const T* a) { return splat(*a); }
  static ITM_INLINE Vec<T> multiply_add(Vec<T> sum, Vec<T> left, Vec<T> right) { return sum + left * right; }
};

template <class Kind>
using Unit = typename Kind::Unit;
template <class Kind>
using Sum = typename Kind::Sum;

// kPacked: these rows of A lie side by side, [k, kRows]; otherwise one after the other, lda apart.
template <class Kind, int kRows, int kVectors, bool kPacked>
__attribute__((noinline)) void block(int64_t k, const Unit<Kind>* a, int64_t lda, const Unit<Kind>* b, int64_t ldb,
                                     Sum<Kind>* c, int64_t ldc, Then then) {
  using T = Sum<Kind>;
  Vec<T> sums[kRows][kVectors];
  ITM_UNROLL for (int i = 0; i < kRows; i++) ITM_UNROLL for (int j = 0; j < kVectors; j++) sums[i][j] =
      then == Then::kGoOn ? load(c + i * ldc + j * kLanes<T>) : Vec<T>{};
  for (int64_t p = 0; p < k; p++, a += kPacked ? kRows : 1, b += ldb) {
    decltype(Kind::row(b)) right[kVectors];
    ITM_UNROLL for (int j = 0; j < kVectors; j++) right[j] = Kind::row(b + j * kLanes<T>);
    ITM_UNROLL for (int i = 0; i < kRows; i++) {
      const auto left = Kind::everywhere(kPacked ? a + i : a + i * lda);
      ITM_UNROLL for (int j = 0; j < kVectors; j++) sums[i][j] = Kind::multiply_add(sums[i][j], left, right[j]);
    }
  }
  ITM_UNROLL for (int i = 0; i < kRows; i++) ITM_UNROLL for (int j = 0; j < kVectors; j++) {
    T* to = c + i * ldc + j * kLanes<T>;
    store(to, then == Then::kAdd ? load(to) + sums[i][j] : sums[i][j]);
  }
}

// At most kRows rows, of which there are `rows`.
template <class Kind, int kRows, int kVectors, bool kPacked>
void block_of(int64_t rows, int64_t k, const Unit<Kind>* a, int64_t lda, const Unit<Kind>* b, int64_t ldb, Sum<Kind>* c,
              int64_t ldc, Then then) {
  if (rows == kRows)
    block<Kind, kRows, kVectors, kPacked>(k, a, lda, b, ldb, c, ldc, then);
  else if constexpr (kRows > 1)
    block_of<Kind, kRows - 1, kVectors, kPacked>(rows, k, a, lda, b, ldb, c, ldc, then);
}

constexpr int64_t kPartRows = 144, kPartColumns = 256;  // of C at a time

// n cut into parts of at most `most`, all as large but the last, each a multiple of `unit`, which divides `most`.
template <int64_t unit>
int64_t part_of(int64_t n, int64_t most) {
  const int64_t n_parts = std::max<int64_t>((n + most - 1) / most, 1);
  return ((n + n_parts - 1) / n_parts + unit - 1) / unit * unit;
}

inline int64_t rows_at(int64_t i, int64_t m) { return std::min<int64_t>(kRowsAtOnce, m - i); }

// A over one run of k: as it lies, or packed in blocks of kRowsAtOnce rows, [numbers of the run, rows] each, the last
// one of fewer rows; the blocks of a run lie one after the other, as they are read.
template <class Kind, bool kPacked>
struct Left {
  static constexpr bool packed = kPacked;
  const Unit<Kind>* data;
  int64_t stride;  // from one row to the next; packed: numbers of the run

  const Unit<Kind>* at(int64_t i, int64_t p, int64_t m) const {
    return data + i * stride + (kPacked ? p * rows_at(i, m) : p);
  }
};

template <class Kind>
void pack_left(int64_t m, int64_t k, int64_t run, const Unit<Kind>* a, int64_t lda, Unit<Kind>* out) {
  for (int64_t first = 0; first < k; first += run)
    for (int64_t i = 0; i < m; i += kRowsAtOnce)
      for (int64_t p = first; p < std::min(first + run, k); p++)
        for (int64_t r = i; r < i + rows_at(i, m); r++) std::memcpy(out++, a + r * lda + p, sizeof(Unit<Kind>));
}

// The rest of the columns, fewer than a vector has lanes: through copies that are as wide as one.
template <class Kind, class Left>
void narrow(int64_t m, int64_t n, int64_t k, Left left, const Unit<Kind>* b, int64_t ldb, Sum<Kind>* c, int64_t ldc,
            Then then) {
  constexpr int64_t kDepth = 128, kWidth = kLanes<Sum<Kind>>;
  Unit<Kind> right[kDepth * kWidth] = {};
  Sum<Kind> sums[kRowsAtOnce * kWidth];
  for (int64_t i = 0; i < m; i += kRowsAtOnce) {
    std::fill_n(sums, kRowsAtOnce * kWidth, 0);
    for (int64_t p = 0; p < k; p += kDepth) {
      const int64_t depth = std::min(kDepth, k - p);
      if (i == 0 || k > kDepth)
        for (int64_t d = 0; d < depth; d++) std::copy_n(b + (p + d) * ldb, n, right + d * kWidth);
      block_of<Kind, kRowsAtOnce, 1, Left::packed>(rows_at(i, m), depth, left.at(i, p, m), left.stride, right, kWidth,
                                                   sums, kWidth, Then::kGoOn);
    }
    for (int64_t r = 0; r < rows_at(i, m); r++)
      for (int64_t j = 0; j < n; j++) {
        Sum<Kind>& to = c[(i + r) * ldc + j];
        to = then == Then::kAdd ? to + sums[r * kWidth + j] : sums[r * kWidth + j];
      }
  }
}

// At most kVectorsAtOnce vectors of columns (or one more, where A isn't packed): they stay in the first cache while A
// goes by.
template <class Kind, class Left>
void strip(int64_t m, int64_t n, int64_t k, Left left, const Unit<Kind>* b, int64_t ldb, Sum<Kind>* c, int64_t ldc,
           Then then) {
  constexpr int64_t kWidth = kLanes<Sum<Kind>>;
  auto columns = [&](auto vectors, int64_t j) {
    constexpr int most = rows_beside(vectors());
    // Blocks of about as many rows: one row alone takes as long as several.
    const int64_t n_blocks = (m + most - 1) / most;
    for (int64_t block = 0, i = 0, rows; block < n_blocks; block++, i += rows) {
      rows = Left::packed ? rows_at(i, m) : (m - i + n_blocks - block - 1) / (n_blocks - block);
      block_of<Kind, most, vectors(), Left::packed>(rows, k, left.at(i, 0, m), left.stride, b + j, ldb, c + i * ldc + j,
                                                    ldc, then);
    }
  };
  if (n == kVectorsAtOnce * kWidth) return columns(std::integral_constant<int, kVectorsAtOnce>(), 0);
  if constexpr (!Left::packed)
    if (n == (kVectorsAtOnce + 1) * kWidth) return columns(std::integral_constant<int, kVectorsAtOnce + 1>(), 0);
  int64_t j = 0;
  for (; j + kWidth <= n; j += kWidth) columns(std::integral_constant<int, 1>(), j);
  if (j < n) narrow<Kind>(m, n - j, k, left, b + j, ldb, c + j, ldc, then);
}

// left(top, p, depth): A from row `top` on, over the run from p on. right(j, width, p): number p of column j, where
// `width` columns lie together, and how far it is to number p + 1. takes_three: the last three vectors of columns are
// taken at once. C is made in parts of about equal size, which stay in the second cache, with what a run over k meets,
// until they are done.
template <class Kind, bool takes_three, class LeftOf, class RightOf>
ITM_INLINE void product(int64_t m, int64_t n, int64_t k, int64_t run, LeftOf left, RightOf right, Sum<Kind>* c,
                        int64_t ldc, bool accumulate) {
  constexpr int64_t kWide = kVectorsAtOnce * kLanes<Sum<Kind>>, kThree = kWide + kLanes<Sum<Kind>>;
  const int64_t rows = part_of<kRowsAtOnce>(m, kPartRows), columns = part_of<kWide>(n, kPartColumns);
  for (int64_t top = 0; top < m; top += rows)
    for (int64_t first = 0, end; first < n; first = end) {
      end = n - first < columns + kWide ? n : first + columns;
      for (int64_t p = 0; p < k; p += run) {
        const int64_t depth = std::min(run, k - p);
        const auto a = left(top, p, depth);
        for (int64_t j = first, width; j < end; j += width) {
          width = takes_three && end - j == kThree ? kThree : std::min(kWide, end - j);
          const auto [b, ldb] = right(j, width, p);
          strip<Kind>(std::min(rows, m - top), width, depth, a, b, ldb, c + top * ldc + j, ldc,
                      accumulate || p > 0 ? Then::kAdd : Then::kStore);
        }
      }
    }
}

template <class Kind>
struct Right {
  const Unit<Kind>* data;
  int64_t ldb;
};

template <class Kind>
void product_of_rows(int64_t m, int64_t n, int64_t k, int64_t run, const Unit<Kind>* a, int64_t lda,
                     const Unit<Kind>* b, int64_t ldb, Sum<Kind>* c, int64_t ldc, bool accumulate) {
  const auto left = [=](int64_t top, int64_t p, int64_t) { return Left<Kind, false>{a + top * lda + p, lda}; };
  const auto right = [=](int64_t j, int64_t, int64_t p) { return Right<Kind>{b + p * ldb + j, ldb}; };
  product<Kind, true>(m, n, k, run, left, right, c, ldc, accumulate);
}

template <class Kind, bool kPacked>
void product_of_panels(int64_t m, int64_t n, int64_t k, int64_t run, const Unit<Kind>* a, int64_t lda,
                       const Unit<Kind>* b, Sum<Kind>* c, int64_t ldc, bool accumulate) {
  const auto left = [=](int64_t top, int64_t p, int64_t depth) {
    return Left<Kind, kPacked>{kPacked ? a + p * m + top * depth : a + top * lda + p, kPacked ? depth : lda};
  };
  const auto right = [=](int64_t j, int64_t width, int64_t p) { return Right<Kind>{b + j * k + p * width, width}; };
  product<Kind, false>(m, n, k, run, left, right, c, ldc, accumulate);
}

}  // namespace tile_product_impl
