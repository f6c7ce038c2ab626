// Sums and maxima over the columns of one query group, and the aggregation of a group's values to its score.

template <class T, class F>
ITM_INLINE T sum_over_group(int64_t begin, int64_t end, F&& term) {
  Vec<T> sum{};
  int64_t q = begin;
  for (; q + kLanes<T> <= end; q += kLanes<T>) sum += term(q);
  if (q < end) sum += first_lanes<T>(term(q), end - q, Vec<T>{});
  return sum_of_lanes<T>(sum);
}

// NaN is passed over here; it reaches the score through the sums.
template <class T>
ITM_INLINE T max_over_group(int64_t begin, int64_t end, const T* x) {
  Vec<T> max = splat(x[begin]);
  int64_t q = begin;
  for (; q + kLanes<T> <= end; q += kLanes<T>) max = larger<T>(load(x + q), max);
  if (q < end) max = larger<T>(first_lanes<T>(load(x + q), end - q, max), max);
  return largest_of_lanes<T>(max);
}

// Index of the first maximum of x[begin:end); the first NaN counts as the maximum, as in torch.
template <class T>
ITM_INLINE int64_t argmax_of_group(int64_t begin, int64_t end, const T* x) {
  int64_t best = begin;
  for (int64_t q = begin; q < end; q++) {
    if (x[q] != x[q]) return q;
    if (x[q] > x[best]) best = q;
  }
  return best;
}

// weights[q] = exp(lambda (x[q] - max of its group)); maxima[g] = that maximum.
template <class T>
void shifted_exponentials(const Tile<T>& tile, const T* x, T lambda, T* weights, T* maxima) {
  for (int64_t g = 0; g < tile.n_groups; g++) {
    const int64_t begin = tile.columns[g], end = tile.columns[g + 1];
    maxima[g] = max_over_group<T>(begin, end, x);
    for (int64_t q = begin; q < end; q += kLanes<T>) store(weights + q, lambda * (load(x + q) - maxima[g]));
  }
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) store(weights + q, exp<T>(load(weights + q)));
}

// scores[g] from the values x[q] of its columns. scratch: stride + n_groups numbers.
template <class T>
void aggregate(const Tile<T>& tile, Aggregation aggregation, T lambda_lse, const T* x, T* scratch) {
  T* weights = scratch;
  T* maxima = scratch + tile.stride;
  if (aggregation == Aggregation::kLogSumExp) shifted_exponentials<T>(tile, x, lambda_lse, weights, maxima);
  for (int64_t g = 0; g < tile.n_groups; g++) {
    const int64_t begin = tile.columns[g], end = tile.columns[g + 1];
    T score;
    if (aggregation == Aggregation::kLogSumExp) {
      const T sum = sum_over_group<T>(begin, end, [&](int64_t q) { return load(weights + q); });
      score = maxima[g] + std::log(sum) / lambda_lse;
    } else if (aggregation == Aggregation::kMax) {
      score = x[argmax_of_group<T>(begin, end, x)];
    } else {
      score = sum_over_group<T>(begin, end, [&](int64_t q) { return load(x + q); });
      if (aggregation == Aggregation::kMean) score /= T(end - begin);
    }
    tile.scores[g * tile.score_stride] = score;
  }
}

// grad_x[q] = cotangent of the group's score times its derivative in x[q]. scratch as in aggregate.
template <class T>
void aggregate_backward(const Tile<T>& tile, Aggregation aggregation, T lambda_lse, const T* x, T* grad_x, T* scratch) {
  T* maxima = scratch;
  if (aggregation == Aggregation::kLogSumExp) shifted_exponentials<T>(tile, x, lambda_lse, grad_x, maxima);
  for (int64_t g = 0; g < tile.n_groups; g++) {
    const int64_t begin = tile.columns[g], end = tile.columns[g + 1];
    const T grad = tile.grad_scores[g * tile.score_stride];
    if (aggregation == Aggregation::kLogSumExp) {
      const T sum = sum_over_group<T>(begin, end, [&](int64_t q) { return load(grad_x + q); });
      for (int64_t q = begin; q < end; q++) grad_x[q] *= grad / sum;
    } else if (aggregation == Aggregation::kMax) {
      std::fill(grad_x + begin, grad_x + end, T(0));
      grad_x[argmax_of_group<T>(begin, end, x)] = grad;
    } else {
      std::fill(grad_x + begin, grad_x + end, aggregation == Aggregation::kMean ? grad / T(end - begin) : grad);
    }
  }
}
