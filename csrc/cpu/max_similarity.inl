// The largest similarity of each query column; its gradient goes to the first context row that reaches it.

// NaN wins, as in torch.
template <class T>
ITM_INLINE Vec<T> larger_or_nan(Vec<T> x, Vec<T> max) {
  return ((x > max) | (x != x)) ? x : max;
}

template <class T>
void max_similarity_forward(const Tile<T>& tile, const MaxSimilarity& options) {
  T* best = tile.scratch;
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
    Vec<T> max = load(tile.sims + q);
    for (int64_t row = 1; row < tile.n_context; row++)
      max = larger_or_nan<T>(load(tile.sims + row * tile.stride + q), max);
    store(best + q, max);
  }
  aggregate<T>(tile, options.aggregation, T(options.lambda_lse), best, tile.scratch + tile.stride);
}

template <class T>
void max_similarity_backward(const Tile<T>& tile, const MaxSimilarity& options) {
  T* best = tile.scratch;
  T* grad = tile.scratch + tile.stride;
  T* maxima = tile.scratch + 2 * tile.stride;
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
    Vec<T> max = load(tile.sims + q);
    for (int64_t row = 1; row < tile.n_context; row++)
      max = larger_or_nan<T>(load(tile.sims + row * tile.stride + q), max);
    store(best + q, max);
  }
  aggregate_backward<T>(tile, options.aggregation, T(options.lambda_lse), best, grad, maxima);
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
    Vec<T> left = load(grad + q);
    const Vec<T> max = load(best + q);
    for (int64_t row = 0; row < tile.n_context; row++) {
      const Vec<T> s = load(tile.sims + row * tile.stride + q);
      const auto hit = (s == max) | (s != s);
      store(tile.grad_sims + row * tile.stride + q, hit ? left : Vec<T>{});
      left = hit ? Vec<T>{} : left;
    }
  }
}

template void max_similarity_forward<float>(const Tile<float>&, const MaxSimilarity&);
template void max_similarity_forward<double>(const Tile<double>&, const MaxSimilarity&);
template void max_similarity_backward<float>(const Tile<float>&, const MaxSimilarity&);
template void max_similarity_backward<double>(const Tile<double>&, const MaxSimilarity&);
