// to [columns, rows] = transpose of from [rows, columns]
template <class T>
void turn_block(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  const int64_t fours = rows / 4 * 4, whole = columns / 4 * 4;
  for (int64_t r = 0; r < fours; r += 4) {
    const T* row = from + r * from_stride;
    auto at = [&](int64_t i, int64_t c) { return row + i * from_stride + c; };
    for (int64_t c = 0; c < whole; c += 4)
      turn_four(at(0, c), at(1, c), at(2, c), at(3, c), to + c * to_stride + r, to_stride);
    for (int64_t c = whole; c < columns; c++)
      for (int64_t i = 0; i < 4; i++) to[c * to_stride + r + i] = *at(i, c);
  }
  for (int64_t r = fours; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
}

template void turn_block<float>(int64_t, int64_t, const float*, int64_t, float*, int64_t);
template void turn_block<double>(int64_t, int64_t, const double*, int64_t, double*, int64_t);

namespace turn_block_impl {

// To the lanes of a, where the number of the lane has the bit, those of b that are `step` lanes below; and the reverse.
template <class T, int step>
ITM_INLINE void swap_lanes(Vec<T>& a, Vec<T>& b) {
#if defined(__clang__)
  Vec<T> low = a, high = b;
  for (int64_t i = 0; i < kLanes<T>; i++)
    if (i & step)
      low[i] = b[i - step];
    else
      high[i] = a[i + step];
#else
  constexpr Lane<T> kOther = Lane<T>(kLanes<T> - step);
  const Mask<T> lane = lane_numbers<T>(), of_low = lane - ((lane & Lane<T>(step)) != 0) * kOther;
  const Vec<T> low = __builtin_shuffle(a, b, of_low), high = __builtin_shuffle(a, b, of_low + Lane<T>(step));
#endif
  a = low, b = high;
}

// As many rows as a vector has lanes, as many numbers of each.
template <class T, int step = 1>
ITM_INLINE void turn_lanes(Vec<T>* x) {
  if constexpr (step < kLanes<T>) {
    ITM_UNROLL for (int i = 0; i < kLanes<T>; i++) if (!(i & step)) swap_lanes<T, step>(x[i], x[i + step]);
    turn_lanes<T, step * 2>(x);
  }
}

}  // namespace turn_block_impl

template <class T>
void turn_vectors(const char* const* vectors, int64_t n_vectors, int64_t n_units, T* to, int64_t to_stride) {
  constexpr int64_t kAtOnce = kLanes<T>;
  // Of each vector at a time: long enough for the prefetcher, short enough for the first cache.
  constexpr int64_t kRun = 64;
  auto unit = [&](int64_t v, int64_t u) { return reinterpret_cast<const T*>(vectors[v]) + u; };
  auto one_by_one = [&](int64_t v, int64_t end_v, int64_t u, int64_t end_u) {
    for (; u < end_u; u++)
      for (int64_t i = v; i < end_v; i++) std::memcpy(to + u * to_stride + i, unit(i, u), sizeof(T));
  };
  for (int64_t first = 0; first < n_units; first += kRun) {
    const int64_t end = std::min(n_units, first + kRun);
    // The last ones once more, rather than a few of them one by one.
    for (int64_t v = 0; v < n_vectors && n_vectors >= kAtOnce; v += kAtOnce) {
      v = std::min(v, n_vectors - kAtOnce);
      for (int64_t i = v; i < v + kAtOnce; i++)  // vectors may lie far apart
        for (int64_t u = end; u < std::min(end + kRun, n_units); u += 64 / int64_t(sizeof(T)))
          __builtin_prefetch(unit(i, u));
      int64_t u = first;
      for (; u + kAtOnce <= end; u += kAtOnce) {
        Vec<T> x[kAtOnce];
        ITM_UNROLL for (int i = 0; i < kAtOnce; i++) std::memcpy(&x[i], unit(v + i, u), sizeof(x[i]));
        turn_block_impl::turn_lanes<T>(x);
        ITM_UNROLL for (int i = 0; i < kAtOnce; i++) store(to + (u + i) * to_stride + v, x[i]);
      }
      one_by_one(v, v + kAtOnce, u, end);
    }
    if (n_vectors >= kAtOnce) continue;
    const int64_t fours = n_vectors / 4 * 4, end_of_fours = first + (end - first) / 4 * 4;
    for (int64_t v = 0; v < fours; v += 4)
      for (int64_t u = first; u < end_of_fours; u += 4)
        turn_four(unit(v, u), unit(v + 1, u), unit(v + 2, u), unit(v + 3, u), to + u * to_stride + v, to_stride);
    one_by_one(0, fours, end_of_fours, end);
    one_by_one(fours, n_vectors, first, end);
  }
}

template void turn_vectors<float>(const char* const*, int64_t, int64_t, float*, int64_t);
template void turn_vectors<double>(const char* const*, int64_t, int64_t, double*, int64_t);
