// Sums run along the vectors, a lane each, over at most kSteps numbers; then over the lanes.

namespace gram_matrix_impl {

constexpr int kRows = VEC_BYTES == 64 ? 4 : 3;  // and columns, of a block: its sums and rows fill the registers
constexpr int64_t kSteps = 128;

// The first n numbers, zeros behind them.
template <class T>
ITM_INLINE Vec<T> load_first(const T* p, int64_t n) {
  T numbers[kLanes<T>] = {};
  std::copy_n(p, n, numbers);
  return load(numbers);
}

// gram [kHigh, kWide] = high . wide^T
template <class T, int kHigh, int kWide>
__attribute__((noinline)) void block(const T* const* high, const T* const* wide, int64_t dim, T* gram, int64_t stride) {
  constexpr int64_t kRun = kSteps * kLanes<T>;
  const T *rows[kHigh], *columns[kWide];
  ITM_UNROLL for (int i = 0; i < kHigh; i++) rows[i] = high[i];
  ITM_UNROLL for (int j = 0; j < kWide; j++) columns[j] = wide[j];
  for (int64_t first = 0; first < dim; first += kRun) {
    Vec<T> sums[kHigh][kWide] = {};
    const int64_t end = std::min(dim, first + kRun);
    auto add = [&](auto&& numbers) {
      Vec<T> right[kWide];
      ITM_UNROLL for (int j = 0; j < kWide; j++) right[j] = numbers(columns[j]);
      ITM_UNROLL for (int i = 0; i < kHigh; i++) {
        const Vec<T> left = numbers(rows[i]);
        ITM_UNROLL for (int j = 0; j < kWide; j++) sums[i][j] += left * right[j];
      }
    };
    int64_t d = first;
    for (; d + kLanes<T> <= end; d += kLanes<T>) add([=](const T* row) { return load(row + d); });
    if (d < end) add([=](const T* row) { return load_first<T>(row + d, end - d); });
    ITM_UNROLL for (int i = 0; i < kHigh; i++) ITM_UNROLL for (int j = 0; j < kWide; j++) {
      T& to = gram[i * stride + j];
      to = (first > 0 ? to : T(0)) + sum_of_lanes<T>(sums[i][j]);
    }
  }
}

template <class T, int kHigh, int kWide>
void block_of(int64_t n_high, int64_t n_wide, const T* const* high, const T* const* wide, int64_t dim, T* gram,
              int64_t stride) {
  if (n_high < kHigh) {
    if constexpr (kHigh > 1) block_of<T, kHigh - 1, kWide>(n_high, n_wide, high, wide, dim, gram, stride);
  } else if (n_wide < kWide) {
    if constexpr (kWide > 1) block_of<T, kHigh, kWide - 1>(n_high, n_wide, high, wide, dim, gram, stride);
  } else {
    block<T, kHigh, kWide>(high, wide, dim, gram, stride);
  }
}

}  // namespace gram_matrix_impl

template <class T>
void gram_matrix(const T* const* rows, int64_t n, int64_t dim, T* gram, int64_t stride) {
  constexpr int64_t kRows = gram_matrix_impl::kRows;
  for (int64_t i = 0; i < n; i += kRows)
    for (int64_t j = 0; j <= i; j += kRows)
      gram_matrix_impl::block_of<T, kRows, kRows>(std::min(kRows, n - i), std::min(kRows, n - j), rows + i, rows + j,
                                                  dim, gram + i * stride + j, stride);
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < i; j++) gram[j * stride + i] = gram[i * stride + j];
}

template void gram_matrix<float>(const float* const*, int64_t, int64_t, float*, int64_t);
template void gram_matrix<double>(const double* const*, int64_t, int64_t, double*, int64_t);
