// Attention over the regions as in cross_attention.inl (clipped_l2norm), and the elementwise parts between the
// products:
//   unit context u = weights . regions,   x = (u - word)^2,   y = M x + bias,   similarity vector = y / (|y| +
//   epsilon).
// A vector of length 0 gets gradient 0 (the original: NaN).

namespace attended_similarity_impl {

using cross_attention_impl::Scratch;
constexpr double kEpsilon = 1e-8;

template <class T>
int64_t width_of(const Tile<T>& tile) {
  return tile.stride - kColumnSlack;
}

// From here on x.sum holds 1 / sum of exponentials, x.quadratic |context| and x.dot 1 / (|context| + epsilon).
template <class T>
void context_lengths(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t q = 0; q < tile.n_columns; q++) {
    const T inverse = T(1) / x.sum[q];
    const T length = (x.quadratic[q] > T(0) ? std::sqrt(x.quadratic[q]) : T(0)) * inverse;
    x.sum[q] = inverse;
    x.quadratic[q] = length;
    x.dot[q] = length > T(0) ? T(1) / (length + T(kEpsilon)) : T(0);
  }
}

// attention <- A, gram_attention (where it is made) <- G A, work <- A / (|context| + epsilon).
template <class T>
void attend(const Tile<T>& tile, const Attended<T>& attended, const Scratch<T>& x, bool gram_attention) {
  cross_attention_impl::normalise_features<T, FeatureNorm::kClippedL2>(tile, T(attended.lambda_softmax), x);
  cross_attention_impl::attend<T>(tile, x);
  if (gram_attention)
    gram_product<T>(tile, x.attention, x.context, x.gram_attention, x.quadratic);
  else
    gram_quadratic<T>(tile, x.attention, x.context, x.quadratic, x.gram_attention);
  context_lengths<T>(tile, x);
  for (int64_t row = 0; row < tile.n_context; row++) {
    const int64_t at = row * tile.stride;
    for (int64_t q = 0; q < width_of(tile); q += kLanes<T>) {
      const Vec<T> inverse = load(x.sum + q);
      const Vec<T> a = first_lanes<T>(load(x.attention + at + q) * inverse, tile.n_columns - q, Vec<T>{});
      store(x.attention + at + q, a);
      store(x.work + at + q, first_lanes<T>(a * load(x.dot + q), tile.n_columns - q, Vec<T>{}));
      if (gram_attention)
        store(x.gram_attention + at + q,
              first_lanes<T>(load(x.gram_attention + at + q) * inverse, tile.n_columns - q, Vec<T>{}));
    }
  }
  turn_block<T>(tile.n_context, width_of(tile), x.work, tile.stride, attended.weights, tile.n_context);
}

}  // namespace attended_similarity_impl

template <class T>
void attended_weights(const Tile<T>& tile, const Attended<T>& attended) {
  attended_similarity_impl::attend<T>(tile, attended, cross_attention_impl::Scratch<T>(tile), false);
}

// The same, keeping in tile.scratch what the backward pass needs; returns the weights as [n_context, tile.stride].
template <class T>
const T* attended_weights_kept(const Tile<T>& tile, const Attended<T>& attended) {
  const cross_attention_impl::Scratch<T> x(tile);
  attended_similarity_impl::attend<T>(tile, attended, x, true);
  return x.work;
}

// With d the cotangent of the unit context and w = <unit context, d> / |context|:
//   d context = (d - w context / ...) = d / (|context| + epsilon) - context w / (|context| + epsilon),
// so that dA = projections / (|context| + epsilon) - G A w / (|context| + epsilon), and the part of the regions'
// gradient that is along the contexts is one symmetric matrix times the regions: tile.grad_gram.
template <class T>
void attended_weights_backward(const Tile<T>& tile, const Attended<T>& attended) {
  using namespace attended_similarity_impl;
  const Scratch<T> x(tile);
  const int64_t width = width_of(tile);
  turn_block<T>(width, tile.n_context, attended.projections, attended.projections_stride, x.work, tile.stride);
  for (int64_t q = 0; q < width + kColumnSlack; q++) {
    const bool live = q < tile.n_columns && x.dot[q] > T(0);
    x.grad_quadratic[q] = live ? -attended.dot[q] * x.dot[q] / x.quadratic[q] : T(0);
  }
  const T lambda = T(attended.lambda_softmax);
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
    const Vec<T> inverse = load(x.dot + q), along = load(x.grad_quadratic + q);
    Vec<T> mean{};
    for (int64_t row = 0; row < tile.n_context; row++) {
      const int64_t at = row * tile.stride + q;
      const Vec<T> grad = load(x.work + at) * inverse + along * load(x.gram_attention + at);
      store(x.work + at, grad);
      mean += load(x.attention + at) * grad;
    }
    for (int64_t row = 0; row < tile.n_context; row++) {
      const int64_t at = row * tile.stride + q;
      store(x.gram_attention + at, lambda * load(x.attention + at) * (load(x.work + at) - mean));
    }
  }
  std::fill(tile.grad_sims, tile.grad_sims + tile.n_context * tile.stride, T(0));
  cross_attention_impl::normalise_features_backward<T, FeatureNorm::kClippedL2>(tile, x);
  gram_accumulate<T>(tile, x.attention, x.context, x.grad_quadratic, x.gram_attention, x.work);
  turn_block<T>(tile.n_context, width, tile.grad_sims, tile.stride, attended.grad_sims_transposed, tile.n_context);
}

// contexts <- (contexts - words)^2
template <class T>
void squared_differences(int64_t n, T* contexts, const T* words) {
  for (int64_t i = 0; i < n; i++) {
    const T difference = contexts[i] - words[i];
    contexts[i] = difference * difference;
  }
}

// contexts <- (contexts - words)^2; grad, its cotangent <- that of the contexts; grad_words -= that; dot[row] += its
// dot product with the contexts.
template <class T>
void squared_differences_backward(int64_t rows, int64_t width, const T* words, T* contexts, T* grad, T* grad_words,
                                  T* dot) {
  for (int64_t row = 0; row < rows; row++) {
    Vec<T> sum{};
    int64_t d = row * width;
    const int64_t end = d + width;
    for (; d + kLanes<T> <= end; d += kLanes<T>) {
      const Vec<T> context = load(contexts + d), difference = context - load(words + d);
      const Vec<T> cotangent = T(2) * difference * load(grad + d);
      store(contexts + d, difference * difference);
      store(grad + d, cotangent);
      store(grad_words + d, load(grad_words + d) - cotangent);
      sum += context * cotangent;
    }
    T total = sum_of_lanes<T>(sum);
    for (; d < end; d++) {
      const T context = contexts[d], difference = context - words[d], cotangent = T(2) * difference * grad[d];
      contexts[d] = difference * difference;
      grad[d] = cotangent;
      grad_words[d] -= cotangent;
      total += context * cotangent;
    }
    dot[row] += total;
  }
}

template <class T, class F>
ITM_INLINE T sum_over_width(int64_t width, F&& term) {
  T partial[16] = {};
  int64_t d = 0;
  for (; d + 16 <= width; d += 16)
    for (int64_t j = 0; j < 16; j++) partial[j] += term(d + j);
  for (; d < width; d++) partial[d % 16] += term(d);
  T sum = 0;
  for (T value : partial) sum += value;
  return sum;
}

// out [rows, width] = (vectors + bias) / (length + epsilon); vectors [rows, stride].
template <class T>
void unit_rows(int64_t rows, int64_t width, int64_t stride, const T* vectors, const T* bias, T* out, T* lengths) {
  for (int64_t row = 0; row < rows; row++, vectors += stride, out += width) {
    for (int64_t d = 0; d < width; d++) out[d] = vectors[d] + bias[d];
    const T length = std::sqrt(sum_over_width<T>(width, [&](int64_t d) { return out[d] * out[d]; }));
    const T inverse = T(1) / (length + T(attended_similarity_impl::kEpsilon));
    for (int64_t d = 0; d < width; d++) out[d] *= inverse;
    lengths[row] = length;
  }
}

// out [padded_rows, stride] and transposed [stride, padded_rows] = cotangent of what was normalised; added to
// grad_bias.
template <class T>
void unit_rows_backward(int64_t rows, int64_t padded_rows, int64_t width, int64_t stride, const T* grad, const T* units,
                        const T* lengths, T* out, T* transposed, T* grad_bias) {
  std::fill(out + rows * stride, out + padded_rows * stride, T(0));
  for (int64_t row = 0; row < rows; row++) {
    const T *g = grad + row * width, *u = units + row * width;
    T* to = out + row * stride;
    const T length = lengths[row], longer = length + T(attended_similarity_impl::kEpsilon);
    const T inverse = length == T(0) ? T(0) : T(1) / longer;
    const T along =
        length == T(0) ? T(0) : sum_over_width<T>(width, [&](int64_t d) { return g[d] * u[d]; }) * longer / length;
    for (int64_t d = 0; d < width; d++) {
      to[d] = (g[d] - u[d] * along) * inverse;
      grad_bias[d] += to[d];
    }
    std::fill(to + width, to + stride, T(0));
  }
  turn_block<T>(padded_rows, stride, out, stride, transposed, padded_rows);
}

#define ITM_INSTANTIATE(T)                                                                   \
  template void attended_weights<T>(const Tile<T>&, const Attended<T>&);                     \
  template const T* attended_weights_kept<T>(const Tile<T>&, const Attended<T>&);            \
  template void attended_weights_backward<T>(const Tile<T>&, const Attended<T>&);            \
  template void squared_differences<T>(int64_t, T*, const T*);                               \
  template void squared_differences_backward<T>(int64_t, int64_t, const T*, T*, T*, T*, T*); \
  template void unit_rows<T>(int64_t, int64_t, int64_t, const T*, const T*, T*, T*);         \
  template void unit_rows_backward<T>(int64_t, int64_t, int64_t, int64_t, const T*, const T*, const T*, T*, T*, T*);
ITM_INSTANTIATE(float)
ITM_INSTANTIATE(double)
#undef ITM_INSTANTIATE
