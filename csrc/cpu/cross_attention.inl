// SCAN's cross attention without the attended context: everything follows from S, the Gram matrix of the context and
// the norms of the queries. With A the attention over the context rows of one query column,
//   <query, attended> = sum A S,   |attended|^2 = A^T G A.
// Cost per column: one exp and about n_context / 2 multiply-adds per row; all passes run down the columns but the first
// normalisation, which sums along the columns of a query group.

namespace cross_attention_impl {

constexpr double kEpsilon = 1e-8;

constexpr bool clips(FeatureNorm norm) {
  return norm == FeatureNorm::kClippedL2 || norm == FeatureNorm::kClippedL1 || norm == FeatureNorm::kClipped;
}
constexpr bool is_l2(FeatureNorm norm) { return norm == FeatureNorm::kClippedL2 || norm == FeatureNorm::kL2; }
constexpr bool is_l1(FeatureNorm norm) { return norm == FeatureNorm::kClippedL1 || norm == FeatureNorm::kL1; }

// Leaky ReLU of slope 0.1, as the original code has it (its paper clips at 0).
template <class T, FeatureNorm norm>
ITM_INLINE Vec<T> clip(Vec<T> s) {
  if constexpr (clips(norm)) return larger<T>(s, s * T(0.1));
  return s;
}
template <class T, FeatureNorm norm>
ITM_INLINE Vec<T> slope(Vec<T> s) {
  if constexpr (clips(norm)) return s > T(0) ? splat(T(1)) : splat(T(0.1));
  return splat(T(1));
}
template <class T>
ITM_INLINE Vec<T> absolute(Vec<T> x) {
  return larger<T>(x, -x);
}

// Views into tile.scratch; matrices are [context, stride], statistics [context, groups], the rest [stride].
template <class T>
struct Scratch {
  int64_t context, groups;
  T *attention, *gram_attention;
  T *sum, *dot, *quadratic, *cosine, *work, *grad, *grad_dot, *grad_quadratic;
  T *inverse,
      *size;  // of each context row within each query group: 1 / (norm + epsilon), and the norm (softmax: the maximum)

  explicit Scratch(const Tile<T>& tile)
      : context((tile.n_context + 3) / 4 * 4),
        groups((tile.n_groups + kColumnSlack - 1) / kColumnSlack * kColumnSlack) {
    T* next = tile.scratch;
    auto take = [&](int64_t n) { return (next += n) - n; };
    attention = take(context * tile.stride);
    gram_attention = take(context * tile.stride);
    for (T** column : {&sum, &dot, &quadratic, &cosine, &grad, &grad_dot, &grad_quadratic}) *column = take(tile.stride);
    work = take(context * tile.stride + tile.stride);  // aggregate: stride + groups; never more than this
    inverse = take(context * groups);
    size = take(context * groups);
  }
};

// attention <- lambda * P, P the first normalisation of S: per context row, over the columns of each query group.
template <class T, FeatureNorm norm>
void normalise_features(const Tile<T>& tile, T lambda, const Scratch<T>& x) {
  const bool sums = is_l1(norm) || is_l2(norm) || norm == FeatureNorm::kSoftmax;
  if constexpr (norm == FeatureNorm::kSoftmax) {
    for (int64_t row = 0; row < tile.n_context; row++) {
      const T* s = tile.sims + row * tile.stride;
      T* z = x.attention + row * tile.stride;
      for (int64_t g = 0; g < tile.n_groups; g++) {
        const int64_t begin = tile.columns[g], end = tile.columns[g + 1];
        const T max = max_over_group<T>(begin, end, s);
        x.size[row * x.groups + g] = max;
        for (int64_t q = begin; q < end; q += kLanes<T>) store(z + q, exp<T>(load(s + q) - max));
        x.inverse[row * x.groups + g] = T(1) / sum_over_group<T>(begin, end, [&](int64_t q) { return load(z + q); });
      }
    }
  } else if constexpr (sums) {
    for (int64_t row = 0; row < tile.n_context; row++) {
      const T* s = tile.sims + row * tile.stride;
      for (int64_t g = 0; g < tile.n_groups; g++)
        x.size[row * x.groups + g] = sum_over_group<T>(tile.columns[g], tile.columns[g + 1], [&](int64_t q) {
          const Vec<T> k = clip<T, norm>(load(s + q));
          return is_l2(norm) ? k * k : absolute<T>(k);
        });
    }
    for (int64_t row = 0; row < tile.n_context; row++)
      for (int64_t g = 0; g < tile.n_groups; g++) {
        T& size = x.size[row * x.groups + g];
        if (is_l2(norm)) size = std::sqrt(size);
        x.inverse[row * x.groups + g] = T(1) / (size + T(kEpsilon));
      }
  }
  for (int64_t row = 0; row < tile.n_context; row++) {
    const T* s = (norm == FeatureNorm::kSoftmax ? x.attention : tile.sims) + row * tile.stride;
    T* z = x.attention + row * tile.stride;
    if constexpr (sums) {
      // Ascending order: what a group's last vector writes too far, the next group overwrites.
      // softmax scales in place, so there the lanes of the next group must be left as they are.
      for (int64_t g = 0; g < tile.n_groups; g++) {
        const int64_t end = tile.columns[g + 1];
        const T scale = lambda * x.inverse[row * x.groups + g];
        for (int64_t q = tile.columns[g]; q < end; q += kLanes<T>) {
          const Vec<T> old = load(s + q);
          const Vec<T> scaled = scale * (norm == FeatureNorm::kSoftmax ? old : clip<T, norm>(old));
          store(z + q, norm == FeatureNorm::kSoftmax ? first_lanes<T>(scaled, end - q, old) : scaled);
        }
      }
      store(z + tile.n_columns, Vec<T>{});  // what another tile left there may be NaN, and 0 * NaN is not 0
    } else {
      for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) store(z + q, lambda * clip<T, norm>(load(s + q)));
    }
  }
}

// attention <- exp(attention - column maximum); sum and dot over the context rows; rows up to `context` are zeroed.
template <class T>
void attend(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
    T* z = x.attention + q;
    const T* s = tile.sims + q;
    Vec<T> max = load(z);
    for (int64_t row = 1; row < tile.n_context; row++) max = larger<T>(max, load(z + row * tile.stride));
    Vec<T> sum{}, dot{};
    for (int64_t row = 0; row < tile.n_context; row++) {
      const Vec<T> e = exp<T>(load(z + row * tile.stride) - max);
      store(z + row * tile.stride, e);
      sum += e;
      dot += e * load(s + row * tile.stride);
    }
    for (int64_t row = tile.n_context; row < x.context; row++) store(z + row * tile.stride, Vec<T>{});
    store(x.sum + q, sum);
    store(x.dot + q, dot);
  }
}

// cosine[q] between the query and its attended context; the clamp is on the product of the norms.
template <class T>
void cosines(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t q = 0; q < tile.n_columns; q++) {
    const T inverse = T(1) / x.sum[q];
    const T quadratic = x.quadratic[q] > T(0) ? x.quadratic[q] : T(0);
    const T norms = tile.query_norm[q] * (std::sqrt(quadratic) * inverse);
    x.cosine[q] = x.dot[q] * inverse / (norms > T(kEpsilon) ? norms : T(kEpsilon));
  }
}

template <class T, FeatureNorm norm>
void forward(const Tile<T>& tile, const CrossAttention& options) {
  const Scratch<T> x(tile);
  normalise_features<T, norm>(tile, T(options.lambda_softmax), x);
  attend<T>(tile, x);
  gram_quadratic<T>(tile, x.attention, x.context, x.quadratic, x.gram_attention);
  cosines<T>(tile, x);
  aggregate<T>(tile, options.aggregation, T(options.lambda_lse), x.cosine, x.work);
}

// Per column: grad_dot = d/d<query, attended>, grad_quadratic = 2 d/d|attended|^2, and kappa; `work` receives what the
// softmax over the context subtracts, which is 0 unless the clamp is active: the cosine does not change with the length
// of A.
template <class T>
void cosines_backward(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t q = 0; q < tile.n_columns; q++) {
    const T inverse = T(1) / x.sum[q];
    const T quadratic = (x.quadratic[q] > T(0) ? x.quadratic[q] : T(0)) * inverse * inverse;
    const T length = tile.query_norm[q];
    const T norms = length * std::sqrt(quadratic);
    const bool live = !(norms < T(kEpsilon));
    const T grad = x.grad[q];
    x.sum[q] = inverse;
    x.grad_dot[q] = grad / (live ? norms : T(kEpsilon));
    x.grad_quadratic[q] = live ? -grad * x.cosine[q] / quadratic : T(0);
    x.work[q] = live ? T(0) : x.grad_dot[q] * x.dot[q] * inverse;
    tile.grad_query[q] += live ? -grad * x.cosine[q] / (length * length) : T(0);
  }
}

// attention <- A; gram_attention <- lambda dz = lambda A (dA - ...), the cotangent of P; grad_sims <- grad_dot A.
template <class T>
void attend_backward(const Tile<T>& tile, T lambda, const Scratch<T>& x) {
  for (int64_t row = 0; row < tile.n_context; row++) {
    const int64_t at = row * tile.stride;
    for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
      const Vec<T> inverse = load(x.sum + q), grad_dot = load(x.grad_dot + q);
      const Vec<T> a = load(x.attention + at + q) * inverse;
      const Vec<T> gram_a = load(x.gram_attention + at + q) * inverse;
      const Vec<T> grad_a =
          grad_dot * load(tile.sims + at + q) + load(x.grad_quadratic + q) * gram_a - load(x.work + q);
      store(x.attention + at + q, a);
      store(x.gram_attention + at + q, lambda * a * grad_a);
      store(tile.grad_sims + at + q, grad_dot * a);
    }
  }
}

// grad_sims += transpose of the first normalisation applied to gram_attention. A row without any similarity gets
// nothing: the original divides by its norm, 0.
template <class T, FeatureNorm norm>
void normalise_features_backward(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t row = 0; row < tile.n_context; row++) {
    const T* s = tile.sims + row * tile.stride;
    const T* t = x.gram_attention + row * tile.stride;
    T* grad = tile.grad_sims + row * tile.stride;
    for (int64_t g = 0; g < tile.n_groups; g++) {
      const int64_t begin = tile.columns[g], end = tile.columns[g + 1];
      const T size = x.size[row * x.groups + g], inverse = x.inverse[row * x.groups + g];
      auto softmax = [&](int64_t q) { return exp<T>(load(s + q) - size) * inverse; };
      auto add = [&](int64_t q, Vec<T> d) {
        const Vec<T> old = load(grad + q);
        store(grad + q, first_lanes<T>(old + slope<T, norm>(load(s + q)) * d, end - q, old));
      };
      if constexpr (norm == FeatureNorm::kClipped || norm == FeatureNorm::kNone) {
        for (int64_t q = begin; q < end; q += kLanes<T>) add(q, load(t + q));
      } else if constexpr (norm == FeatureNorm::kSoftmax) {
        const T product = sum_over_group<T>(begin, end, [&](int64_t q) { return softmax(q) * load(t + q); });
        for (int64_t q = begin; q < end; q += kLanes<T>) add(q, softmax(q) * (load(t + q) - product));
      } else {
        if (size == T(0)) continue;
        const T product = inverse * inverse * sum_over_group<T>(begin, end, [&](int64_t q) {
                            return clip<T, norm>(load(s + q)) * load(t + q);
                          });
        for (int64_t q = begin; q < end; q += kLanes<T>) {
          const Vec<T> k = clip<T, norm>(load(s + q));
          const Vec<T> direction =
              is_l2(norm) ? k * (T(1) / size) : (k > T(0) ? splat(T(1)) : (k < T(0) ? splat(T(-1)) : Vec<T>{}));
          add(q, load(t + q) * inverse - direction * product);
        }
      }
    }
  }
}

template <class T, FeatureNorm norm>
void backward(const Tile<T>& tile, const CrossAttention& options) {
  const Scratch<T> x(tile);
  const T lambda = T(options.lambda_softmax);
  normalise_features<T, norm>(tile, lambda, x);
  attend<T>(tile, x);
  gram_product<T>(tile, x.attention, x.context, x.gram_attention, x.quadratic);
  cosines<T>(tile, x);
  aggregate_backward<T>(tile, options.aggregation, T(options.lambda_lse), x.cosine, x.grad, x.work);
  cosines_backward<T>(tile, x);
  for (int64_t q = tile.n_columns; q < tile.n_columns + kLanes<T>; q++) x.grad_quadratic[q] = T(0);
  attend_backward<T>(tile, lambda, x);
  normalise_features_backward<T, norm>(tile, x);
  gram_accumulate<T>(tile, x.attention, x.context, x.grad_quadratic, x.gram_attention, x.work);
}

}  // namespace cross_attention_impl

#define ITM_BY_FEATURE_NORM(function)                                                   \
  switch (options.feature_norm) {                                                       \
    case FeatureNorm::kClippedL2:                                                       \
      return cross_attention_impl::function<T, FeatureNorm::kClippedL2>(tile, options); \
    case FeatureNorm::kL2:                                                              \
      return cross_attention_impl::function<T, FeatureNorm::kL2>(tile, options);        \
    case FeatureNorm::kClippedL1:                                                       \
      return cross_attention_impl::function<T, FeatureNorm::kClippedL1>(tile, options); \
    case FeatureNorm::kL1:                                                              \
      return cross_attention_impl::function<T, FeatureNorm::kL1>(tile, options);        \
    case FeatureNorm::kClipped:                                                         \
      return cross_attention_impl::function<T, FeatureNorm::kClipped>(tile, options);   \
    case FeatureNorm::kNone:                                                            \
      return cross_attention_impl::function<T, FeatureNorm::kNone>(tile, options);      \
    case FeatureNorm::kSoftmax:                                                         \
      return cross_attention_impl::function<T, FeatureNorm::kSoftmax>(tile, options);   \
  }

template <class T>
void cross_attention_forward(const Tile<T>& tile, const CrossAttention& options) {
  ITM_BY_FEATURE_NORM(forward)
}
template <class T>
void cross_attention_backward(const Tile<T>& tile, const CrossAttention& options) {
  ITM_BY_FEATURE_NORM(backward)
}
#undef ITM_BY_FEATURE_NORM

template void cross_attention_forward<float>(const Tile<float>&, const CrossAttention&);
template void cross_attention_forward<double>(const Tile<double>&, const CrossAttention&);
template void cross_attention_backward<float>(const Tile<float>&, const CrossAttention&);
template void cross_attention_backward<double>(const Tile<double>&, const CrossAttention&);
