// ESL's similarity. With t = tanh S and h = leaky ReLU(t), two attentions on the same numbers:
//   along: softmax along the columns of a query group, of temperature * h / |h down its column|
//   down:  softmax down the context rows, of temperature * h / |h along its row and group|
// and the score of a group is the mean over rows of sum_along S + the mean over columns of sum_down S. It is the same
// from both sides; with the fewer vectors (words) as the context there are the fewer sums along a group.
// Cost per number: one tanh and two exp; backward as many again, and no product that the engine does not make.

namespace level_attention_impl {

constexpr double kEpsilon = 1e-8;
constexpr double kNegativeSlope = 0.1;

template <class T>
ITM_INLINE Vec<T> activated(Vec<T> t) {
  return larger<T>(t, t * T(kNegativeSlope));
}

// Views into tile.scratch; matrices are [context, stride], those of rows [context, groups], those of columns [stride].
template <class T>
struct Scratch {
  T *tanh, *along, *down;           // tanh S, and the exponentials of both attentions
  T *column_size, *column_scale;    // |h|, temperature / (|h| + epsilon)
  T *row_size, *row_scale;          // the same
  T *row_factor, *row_mean;         // 1 / sum of `along`; sum_along S
  T *column_factor, *column_mean;   // the same of `down`
  T *row_product, *column_product;  // backward: of h and the cotangent of what it is normalised to
  T* logits;                        // of one row

  explicit Scratch(const Tile<T>& tile) {
    T* next = tile.scratch;
    auto take = [&](int64_t n) { return (next += n) - n; };
    for (T** matrix : {&tanh, &along, &down}) *matrix = take(tile.n_context * tile.stride);
    for (T** column : {&column_size, &column_scale, &column_factor, &column_mean, &column_product, &logits})
      *column = take(tile.stride);
    for (T** row : {&row_size, &row_scale, &row_factor, &row_mean, &row_product})
      *row = take(tile.n_context * tile.n_groups);
  }
};

template <class T>
void scales_from_squares(int64_t n, T temperature, T* size, T* scale) {
  for (int64_t i = 0; i < n; i++) {
    size[i] = std::sqrt(size[i]);
    scale[i] = temperature / (size[i] + T(kEpsilon));
  }
}

template <class T>
void activate(const Tile<T>& tile, T temperature, const Scratch<T>& x) {
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
    Vec<T> squares{};
    for (int64_t row = 0; row < tile.n_context; row++) {
      const Vec<T> t = tanh<T>(load(tile.sims + row * tile.stride + q));
      store(x.tanh + row * tile.stride + q, t);
      squares += activated<T>(t) * activated<T>(t);
    }
    store(x.column_size + q, squares);
  }
  scales_from_squares<T>(tile.n_columns, temperature, x.column_size, x.column_scale);
  for (int64_t row = 0; row < tile.n_context; row++)
    for (int64_t g = 0; g < tile.n_groups; g++)
      x.row_size[row * tile.n_groups + g] = sum_over_group<T>(tile.columns[g], tile.columns[g + 1], [&](int64_t q) {
        const Vec<T> h = activated<T>(load(x.tanh + row * tile.stride + q));
        return h * h;
      });
  scales_from_squares<T>(tile.n_context * tile.n_groups, temperature, x.row_size, x.row_scale);
}

template <class T>
void attend_along(const Tile<T>& tile, const Scratch<T>& x) {
  T* maxima = x.column_product;  // nothing is there before the backward pass
  for (int64_t row = 0; row < tile.n_context; row++) {
    const T* s = tile.sims + row * tile.stride;
    T* weights = x.along + row * tile.stride;
    for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>)
      store(x.logits + q, activated<T>(load(x.tanh + row * tile.stride + q)) * load(x.column_scale + q));
    shifted_exponentials<T>(tile, x.logits, T(1), weights, maxima);
    for (int64_t g = 0; g < tile.n_groups; g++) {
      const int64_t begin = tile.columns[g], end = tile.columns[g + 1], at = row * tile.n_groups + g;
      x.row_factor[at] = T(1) / sum_over_group<T>(begin, end, [&](int64_t q) { return load(weights + q); });
      const T dot = sum_over_group<T>(begin, end, [&](int64_t q) { return load(weights + q) * load(s + q); });
      x.row_mean[at] = dot * x.row_factor[at];
    }
  }
}

template <class T>
void attend_down(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t row = 0; row < tile.n_context; row++)
    for (int64_t g = 0; g < tile.n_groups;
         g++)  // ascending: what is written past a group's end, the next one overwrites
      for (int64_t q = tile.columns[g]; q < tile.columns[g + 1]; q += kLanes<T>)
        store(x.down + row * tile.stride + q,
              activated<T>(load(x.tanh + row * tile.stride + q)) * x.row_scale[row * tile.n_groups + g]);
  for (int64_t q = 0; q < tile.n_columns; q += kLanes<T>) {
    Vec<T> max = load(x.down + q), sum{}, dot{};
    for (int64_t row = 1; row < tile.n_context; row++) max = larger<T>(load(x.down + row * tile.stride + q), max);
    for (int64_t row = 0; row < tile.n_context; row++) {
      const Vec<T> weight = exp<T>(load(x.down + row * tile.stride + q) - max);
      store(x.down + row * tile.stride + q, weight);
      sum += weight;
      dot += weight * load(tile.sims + row * tile.stride + q);
    }
    store(x.column_factor + q, T(1) / sum);
    store(x.column_mean + q, dot / sum);
  }
}

template <class T>
Scratch<T> attend(const Tile<T>& tile, const LevelAttention& options) {
  const Scratch<T> x(tile);
  activate<T>(tile, T(options.temperature), x);
  attend_along<T>(tile, x);
  attend_down<T>(tile, x);
  return x;
}

// The means' cotangents go into the factors: from here `along * row_factor` is that of a row's attention times what
// the row counts for. Then the products of h with the cotangents of both normalised h, but for the temperature.
template <class T>
void products(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t g = 0; g < tile.n_groups; g++) {
    const int64_t begin = tile.columns[g], end = tile.columns[g + 1];
    const T grad = tile.grad_scores[g * tile.score_stride];
    for (int64_t q = begin; q < end; q++) x.column_factor[q] *= grad / T(end - begin);
    for (int64_t row = 0; row < tile.n_context; row++)
      x.row_factor[row * tile.n_groups + g] *= grad / T(tile.n_context);
  }
  std::fill(x.column_product, x.column_product + tile.stride, T(0));
  for (int64_t row = 0; row < tile.n_context; row++) {
    const int64_t first = row * tile.stride;
    for (int64_t g = 0; g < tile.n_groups; g++) {
      const int64_t end = tile.columns[g + 1], at = row * tile.n_groups + g;
      const T factor = x.row_factor[at], mean = x.row_mean[at];
      x.row_product[at] = sum_over_group<T>(tile.columns[g], end, [&](int64_t q) {
        const Vec<T> s = load(tile.sims + first + q), h = activated<T>(load(x.tanh + first + q));
        const Vec<T> of_column = load(x.along + first + q) * factor * (s - mean) * h;
        store(x.column_product + q, load(x.column_product + q) + first_lanes<T>(of_column, end - q, Vec<T>{}));
        return load(x.down + first + q) * load(x.column_factor + q) * (s - load(x.column_mean + q)) * h;
      });
    }
  }
}

// grad_parameter of the temperature: each product over the norm it was divided by.
template <class T>
void temperature_backward(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t g = 0; g < tile.n_groups; g++) {
    T sum = sum_over_group<T>(tile.columns[g], tile.columns[g + 1], [&](int64_t q) {
      return load(x.column_product + q) / (load(x.column_size + q) + T(kEpsilon));
    });
    for (int64_t at = g; at < tile.n_context * tile.n_groups; at += tile.n_groups)
      sum += x.row_product[at] / (x.row_size[at] + T(kEpsilon));
    tile.grad_parameter[g * tile.score_stride] = sum;
  }
}

// product <- the factor of h in its own cotangent, through the norm; NaN where the norm is 0, and not used.
template <class T>
void norms_backward(int64_t n, const T* size, const T* scale, T* product) {
  for (int64_t i = 0; i < n; i++) product[i] *= scale[i] / (size[i] * (size[i] + T(kEpsilon)));
}

// A row or column without any affinity gets gradient 0: the original divides by its norm, and has NaN there.
template <class T>
void sims_backward(const Tile<T>& tile, const Scratch<T>& x) {
  for (int64_t row = 0; row < tile.n_context; row++) {
    const int64_t first = row * tile.stride;
    for (int64_t g = 0; g < tile.n_groups; g++) {
      const int64_t at = row * tile.n_groups + g;
      const T factor = x.row_factor[at], mean = x.row_mean[at], scale = x.row_scale[at], product = x.row_product[at];
      const T live = x.row_size[at] == T(0) ? T(0) : T(1);
      for (int64_t q = tile.columns[g]; q < tile.columns[g + 1]; q += kLanes<T>) {
        const Vec<T> s = load(tile.sims + first + q), t = load(x.tanh + first + q);
        const Vec<T> along = load(x.along + first + q) * factor;
        const Vec<T> down = load(x.down + first + q) * load(x.column_factor + q);
        const Vec<T> grad_h = along * (s - mean) * load(x.column_scale + q) +
                              down * (s - load(x.column_mean + q)) * scale -
                              activated<T>(t) * (load(x.column_product + q) + product);
        const Vec<T> slope = (T(1) - t * t) * (t > T(0) ? splat(T(1)) : splat(T(kNegativeSlope)));
        const Vec<T> grad = along + down + grad_h * slope;
        store(tile.grad_sims + first + q, load(x.column_size + q) * live == T(0) ? Vec<T>{} : grad);
      }
    }
  }
}

}  // namespace level_attention_impl

template <class T>
void level_attention_forward(const Tile<T>& tile, const LevelAttention& options) {
  const auto x = level_attention_impl::attend<T>(tile, options);
  for (int64_t g = 0; g < tile.n_groups; g++) {
    const int64_t begin = tile.columns[g], end = tile.columns[g + 1];
    T of_rows = 0;
    for (int64_t row = 0; row < tile.n_context; row++) of_rows += x.row_mean[row * tile.n_groups + g];
    const T of_columns = sum_over_group<T>(begin, end, [&](int64_t q) { return load(x.column_mean + q); });
    tile.scores[g * tile.score_stride] = of_rows / T(tile.n_context) + of_columns / T(end - begin);
  }
}

template <class T>
void level_attention_backward(const Tile<T>& tile, const LevelAttention& options) {
  const auto x = level_attention_impl::attend<T>(tile, options);
  level_attention_impl::products<T>(tile, x);
  if (tile.grad_parameter != nullptr) level_attention_impl::temperature_backward<T>(tile, x);
  level_attention_impl::norms_backward<T>(tile.n_columns, x.column_size, x.column_scale, x.column_product);
  level_attention_impl::norms_backward<T>(tile.n_context * tile.n_groups, x.row_size, x.row_scale, x.row_product);
  level_attention_impl::sims_backward<T>(tile, x);
}

template void level_attention_forward<float>(const Tile<float>&, const LevelAttention&);
template void level_attention_forward<double>(const Tile<double>&, const LevelAttention&);
template void level_attention_backward<float>(const Tile<float>&, const LevelAttention&);
template void level_attention_backward<double>(const Tile<double>&, const LevelAttention&);
