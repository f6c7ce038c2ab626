// The largest similarity of each query column; its gradient goes to the first context row that reaches it.

namespace max_similarity_impl {

// Several columns' vectors at a time: one alone would wait for its own comparisons.
constexpr int kVectors = 4;

// The first NaN wins, as in torch.
template <class T, int vectors, bool keeps_rows>
ITM_INLINE void maxima_of_columns(const Tile<T>& tile, int64_t first, T* best, Lane<T>* rows) {
  Vec<T> max[vectors];
  Mask<T> of_row[vectors] = {};
  for (int v = 0; v < vectors; v++) max[v] = load(tile.sims + first + v * kLanes<T>);
  for (int64_t row = 1; row < tile.n_context; row++)
    for (int v = 0; v < vectors; v++) {
      const Vec<T> s = load(tile.sims + row * tile.stride + first + v * kLanes<T>);
      const Mask<T> wins = (s > max[v]) | ((s != s) & (max[v] == max[v]));
      max[v] = wins ? s : max[v];
      if constexpr (keeps_rows) of_row[v] = wins ? Mask<T>{} + Lane<T>(row) : of_row[v];
    }
  for (int v = 0; v < vectors; v++) {
    store(best + first + v * kLanes<T>, max[v]);
    if constexpr (keeps_rows) store_mask<T>(rows + first + v * kLanes<T>, of_row[v]);
  }
}

template <class T, bool keeps_rows>
void maxima(const Tile<T>& tile, T* best, Lane<T>* rows) {
  constexpr int64_t step = kVectors * kLanes<T>;
  int64_t q = 0;
  for (; q + step <= tile.n_columns; q += step) maxima_of_columns<T, kVectors, keeps_rows>(tile, q, best, rows);
  for (; q < tile.n_columns; q += kLanes<T>) maxima_of_columns<T, 1, keeps_rows>(tile, q, best, rows);
}

}  // namespace max_similarity_impl

template <class T>
void max_similarity_forward(const Tile<T>& tile, const MaxSimilarity& options, const Maxima<T>& kept) {
  T* best = tile.scratch;
  Lane<T>* rows = reinterpret_cast<Lane<T>*>(tile.scratch + tile.stride);
  if (kept.rows == nullptr)
    max_similarity_impl::maxima<T, false>(tile, best, rows);
  else
    max_similarity_impl::maxima<T, true>(tile, best, rows);
  if (kept.rows != nullptr) std::copy_n(rows, tile.n_columns, kept.rows);
  if (kept.values != nullptr) std::copy_n(best, tile.n_columns, kept.values);
  aggregate<T>(tile, options.aggregation, T(options.lambda_lse), best, tile.scratch + 2 * tile.stride);
}

template <class T>
void max_similarity_backward(const Tile<T>& tile, const MaxSimilarity& options) {
  T* best = tile.scratch;
  T* grad = tile.scratch + tile.stride;
  max_similarity_impl::maxima<T, false>(tile, best, nullptr);
  aggregate_backward<T>(tile, options.aggregation, T(options.lambda_lse), best, grad, tile.scratch + 2 * tile.stride);
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

// weights[q]: the cotangent of maximum q. Of the tile: columns, groups and cotangents; scratch: n_groups numbers.
template <class T>
void weights_of_maxima(const Tile<T>& tile, const MaxSimilarity& options, const T* values, T* weights, T* scratch) {
  aggregate_backward<T>(tile, options.aggregation, T(options.lambda_lse), values, weights, scratch);
}

template <class T>
void add_weighted_rows(const WeightedRows<T>& x) {
  for (int64_t i = 0; i < x.n; i++) {
    const T weight = x.weights[i];
    if (weight == T(0)) continue;
    const T* from = x.from + (x.from_row != nullptr ? x.from_row[i] : i) * x.from_stride;
    T* to = x.to + (x.to_row != nullptr ? x.to_row[i] : i) * x.dim;
    int64_t d = 0;
    for (; d + kLanes<T> <= x.dim; d += kLanes<T>) store(to + d, load(to + d) + weight * load(from + d));
    for (; d < x.dim; d++) to[d] += weight * from[d];
  }
}

template void max_similarity_forward(const Tile<float>&, const MaxSimilarity&, const Maxima<float>&);
template void max_similarity_forward(const Tile<double>&, const MaxSimilarity&, const Maxima<double>&);
template void max_similarity_backward(const Tile<float>&, const MaxSimilarity&);
template void max_similarity_backward(const Tile<double>&, const MaxSimilarity&);
template void weights_of_maxima(const Tile<float>&, const MaxSimilarity&, const float*, float*, float*);
template void weights_of_maxima(const Tile<double>&, const MaxSimilarity&, const double*, double*, double*);
template void add_weighted_rows(const WeightedRows<float>&);
template void add_weighted_rows(const WeightedRows<double>&);
