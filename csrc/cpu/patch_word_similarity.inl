// LAPS without any token of a pair. With a the weights of the kept patches in one aggregated token, [kept, aggregated],
//   <token, word> = a^T S,   |token|^2 = a^T G a,
// S of the kept rows and G their Gram matrix, both gathered; the token of what is left out likewise, with weights that
// have no gradient. Per pair that is four small products and as many again for the gradients.

namespace patch_word_impl {

constexpr double kEpsilon = 1e-12;  // below it a vector is not brought to unit length
constexpr double kNegativeSlope = 0.1;

// C [m, n] = A [m, k] . B [k, n]
template <class T>
ITM_INLINE void multiply(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
                         int64_t ldc) {
  tile_product_impl::product_of_rows<tile_product_impl::Numbers<T>>(m, n, k, k, a, lda, b, ldb, c, ldc, false);
}

// One image against one caption. Views into tile.scratch; "words" and "aggregated" are padded to whole vectors.
template <class T>
struct Pair {
  const Tile<T>& tile;
  const PatchWordSimilarity<T>& o;
  const int64_t begin, n_words, words, kept_stride, aggregated, n_context;
  const T *scores, *logits;
  int32_t *kept, *left_out;
  T* left_weights;              // [n_context] 0 but where a patch is left out, and padding
  T *weights, *gram_weights;    // [kept, aggregated] a, G a
  T* weights_transposed;        // [aggregated, kept_stride]
  T *sims, *gram;               // [kept, words], [kept, kept_stride] gathered
  T* cosines;                   // [n_tokens, words]
  T *token_size, *token_scale;  // [n_tokens] |token| and what brings it to unit length
  T* word_scale;                // [words]
  // backward only
  T *grad_cosines, *grad_transposed;  // [n_tokens, words]; of the aggregated, [words, aggregated]
  T *grad_weights, *grad_sims, *grad_gram;
  T *token_dot, *word_dot;  // of the cosines and their cotangents
  T* weight_dot;            // [aggregated] of a and its cotangent

  Pair(const Tile<T>& tile, const PatchWordSimilarity<T>& o, int64_t g)
      : tile(tile),
        o(o),
        begin(tile.columns[g]),
        n_words(tile.columns[g + 1] - begin),
        words((n_words + kLanes<T> - 1) / kLanes<T> * kLanes<T>),
        kept_stride(whole_vectors(o.n_kept)),
        aggregated(o.padded_aggregated()),
        n_context(tile.n_context),
        scores(o.scores + number(tile, o, g) * o.n_patches),
        logits(o.logits + tile.context * o.n_patches * aggregated) {
    T* next = tile.scratch;
    auto take = [&](int64_t n) { return (next += n) - n; };
    const int64_t tokens = whole_vectors(o.n_tokens() + aggregated);
    for (T** of_words : {&sims, &grad_sims}) *of_words = take(o.n_kept * words);
    for (T** of_kept : {&weights, &gram_weights, &grad_weights}) *of_kept = take(o.n_kept * aggregated);
    for (T** square : {&gram, &grad_gram}) *square = take(o.n_kept * kept_stride);
    weights_transposed = take(aggregated * kept_stride);
    for (T** of_tokens : {&cosines, &grad_cosines}) *of_tokens = take(o.n_tokens() * words);
    grad_transposed = take(words * aggregated);
    left_weights = take(whole_vectors(n_context));
    for (T** of_token : {&token_size, &token_scale, &token_dot, &weight_dot}) *of_token = take(tokens);
    for (T** of_word : {&word_scale, &word_dot}) *of_word = take(words);
    kept = reinterpret_cast<int32_t*>(take(o.n_patches));
    left_out = reinterpret_cast<int32_t*>(take(o.n_patches));
  }

  static int64_t number(const Tile<T>& tile, const PatchWordSimilarity<T>& o, int64_t g) {
    return tile.pairs != nullptr ? tile.pairs[g] : tile.context * o.n_captions + tile.first_group + g;
  }
  int64_t first_patch() const { return o.class_token; }
  int64_t n_left_out() const { return o.n_left_out(); }
  int64_t n_tokens() const { return o.n_tokens(); }
  int64_t extra() const { return n_tokens() - 1; }
  const T* sims_of(int64_t patch) const { return tile.sims + (first_patch() + patch) * tile.stride + begin; }
  T* grad_sims_of(int64_t row) const { return tile.grad_sims + row * tile.stride + begin; }
};

// Weights of the patches that are left out: softmax of their scores.
template <class T>
void weigh_left_out(const Pair<T>& x) {
  std::fill(x.left_weights, x.left_weights + x.n_context, T(0));
  if (x.n_left_out() == 0) return;
  T max = x.scores[x.left_out[0]], sum = 0;
  for (int64_t j = 1; j < x.n_left_out(); j++) max = std::max(max, x.scores[x.left_out[j]]);
  for (int64_t j = 0; j < x.n_left_out(); j++) {
    T& weight = x.left_weights[x.first_patch() + x.left_out[j]];
    weight = std::exp(x.scores[x.left_out[j]] - max);
    sum += weight;
  }
  for (int64_t row = 0; row < x.n_context; row++) x.left_weights[row] /= sum;
}

// a: softmax of the logits over the kept patches.
template <class T>
void weigh_kept(const Pair<T>& x) {
  for (int64_t m = 0; m < x.aggregated; m += kLanes<T>) {
    Vec<T> max = load(x.logits + x.kept[0] * x.aggregated + m), sum{};
    for (int64_t k = 1; k < x.o.n_kept; k++) max = larger<T>(load(x.logits + x.kept[k] * x.aggregated + m), max);
    for (int64_t k = 0; k < x.o.n_kept; k++) {
      const Vec<T> weight = exp<T>(load(x.logits + x.kept[k] * x.aggregated + m) - max);
      store(x.weights + k * x.aggregated + m, weight);
      sum += weight;
    }
    const Vec<T> scale = T(1) / sum;
    for (int64_t k = 0; k < x.o.n_kept; k++) {
      T* weight = x.weights + k * x.aggregated + m;
      store(weight, load(weight) * scale);
    }
  }
  for (int64_t k = 0; k < x.o.n_kept; k++)
    for (int64_t m = 0; m < x.o.n_aggregated; m++)
      x.weights_transposed[m * x.kept_stride + k] = x.weights[k * x.aggregated + m];
}

template <class T>
void gather(const Pair<T>& x) {
  for (int64_t k = 0; k < x.o.n_kept; k++) {
    std::copy_n(x.sims_of(x.kept[k]), x.n_words, x.sims + k * x.words);
    std::fill(x.sims + k * x.words + x.n_words, x.sims + (k + 1) * x.words, T(0));
    const T* row = x.tile.gram + (x.first_patch() + x.kept[k]) * x.tile.gram_stride + x.first_patch();
    for (int64_t l = 0; l < x.o.n_kept; l++) x.gram[k * x.kept_stride + l] = row[x.kept[l]];
  }
}

// <token, word> of all tokens, and |token|^2 in token_size.
template <class T>
void products_of_tokens(const Pair<T>& x) {
  T *of_aggregated = x.cosines + x.first_patch() * x.words, *of_extra = x.cosines + x.extra() * x.words;
  std::fill(x.cosines, x.cosines + x.n_tokens() * x.words, T(0));
  if (x.o.class_token) {
    std::copy_n(x.tile.sims + x.begin, x.n_words, x.cosines);
    x.token_size[0] = x.tile.gram[0];
  }
  multiply<T>(x.o.n_aggregated, x.words, x.o.n_kept, x.weights_transposed, x.kept_stride, x.sims, x.words,
              of_aggregated, x.words);
  multiply<T>(x.o.n_kept, x.o.n_aggregated, x.o.n_kept, x.gram, x.kept_stride, x.weights, x.aggregated, x.gram_weights,
              x.aggregated);
  T* squared = x.token_size + x.first_patch();
  std::fill(squared, squared + x.aggregated, T(0));
  for (int64_t k = 0; k < x.o.n_kept; k++)
    for (int64_t m = 0; m < x.o.n_aggregated; m++)
      squared[m] += x.weights[k * x.aggregated + m] * x.gram_weights[k * x.aggregated + m];
  T squared_extra = 0;
  for (int64_t j = 0; j < x.n_left_out(); j++) {
    const int64_t row = x.first_patch() + x.left_out[j];
    const T weight = x.left_weights[row], *gram = x.tile.gram + row * x.tile.gram_stride;
    const T* s = x.sims_of(x.left_out[j]);
    for (int64_t q = 0; q < x.n_words; q++) of_extra[q] += weight * s[q];
    Vec<T> partial{};
    int64_t c = 0;
    for (; c + kLanes<T> <= x.n_context; c += kLanes<T>) partial += load(gram + c) * load(x.left_weights + c);
    T sum = sum_of_lanes<T>(partial);
    for (; c < x.n_context; c++) sum += gram[c] * x.left_weights[c];
    squared_extra += weight * sum;
  }
  x.token_size[x.extra()] = squared_extra;
}

template <class T>
void cosines_of_tokens(const Pair<T>& x) {
  for (int64_t t = 0; t < x.n_tokens(); t++) {
    const T squared = x.token_size[t];
    x.token_size[t] = std::sqrt(squared < T(0) ? T(0) : squared);
    x.token_scale[t] = T(1) / (x.token_size[t] < T(kEpsilon) ? T(kEpsilon) : x.token_size[t]);
  }
  for (int64_t q = 0; q < x.words; q++) {
    const T size = q < x.n_words ? x.tile.query_norm[x.begin + q] : T(1);
    x.word_scale[q] = T(1) / (size < T(kEpsilon) ? T(kEpsilon) : size);
  }
  for (int64_t t = 0; t < x.n_tokens(); t++)
    for (int64_t q = 0; q < x.words; q += kLanes<T>) {
      T* cosine = x.cosines + t * x.words + q;
      store(cosine, load(cosine) * x.token_scale[t] * load(x.word_scale + q));
    }
}

template <class T>
Pair<T> compare(const Tile<T>& tile, const PatchWordSimilarity<T>& options, int64_t g) {
  const Pair<T> x(tile, options, g);
  select_patches<T>(x.scores, options.n_patches, options.n_kept, x.kept, x.left_out);
  weigh_left_out<T>(x);
  weigh_kept<T>(x);
  gather<T>(x);
  products_of_tokens<T>(x);
  cosines_of_tokens<T>(x);
  return x;
}

template <class T>
T activated(T cosine) {
  return cosine > T(0) ? cosine : cosine * T(kNegativeSlope);
}

// The first token of a word's largest cosine; NaN is passed over here, and found as its token's best word.
template <class T>
int64_t best_token(const Pair<T>& x, int64_t q) {
  int64_t best = 0;
  for (int64_t t = 1; t < x.n_tokens(); t++)
    if (x.cosines[t * x.words + q] > x.cosines[best * x.words + q]) best = t;
  return best;
}
template <class T>
int64_t best_word(const Pair<T>& x, int64_t t) {
  return argmax_of_group<T>(0, x.n_words, x.cosines + t * x.words);
}

// grad_cosines of the score's cotangent, and the products with the cosines in token_dot and word_dot.
template <class T>
void maxima_backward(const Pair<T>& x, T grad) {
  std::fill(x.grad_cosines, x.grad_cosines + x.n_tokens() * x.words, T(0));
  std::fill(x.token_dot, x.token_dot + x.n_tokens(), T(0));
  std::fill(x.word_dot, x.word_dot + x.words, T(0));
  const auto add = [&](int64_t t, int64_t q, T part) {
    const T cosine = x.cosines[t * x.words + q];
    const T grad_cosine = cosine > T(0) ? part : part * T(kNegativeSlope);
    x.grad_cosines[t * x.words + q] += grad_cosine;
    x.token_dot[t] += grad_cosine * cosine;
    x.word_dot[q] += grad_cosine * cosine;
  };
  for (int64_t q = 0; q < x.n_words; q++) add(best_token<T>(x, q), q, grad / T(x.n_words));
  for (int64_t t = 0; t < x.n_tokens(); t++) add(t, best_word<T>(x, t), grad / T(x.n_tokens()));
}

// kappa of the words; token_dot <- 2 d/d|token|^2; grad_cosines <- the cotangents of <token, word>.
template <class T>
void cosines_backward(const Pair<T>& x) {
  for (int64_t q = 0; q < x.n_words; q++) {
    const T size = x.tile.query_norm[x.begin + q];
    x.tile.grad_query[x.begin + q] -= size < T(kEpsilon) ? T(0) : x.word_dot[q] / (size * size);
  }
  for (int64_t t = 0; t < x.n_tokens(); t++) {
    const T size = x.token_size[t];
    x.token_dot[t] = size < T(kEpsilon) ? T(0) : -x.token_dot[t] / (size * size);
    for (int64_t q = 0; q < x.words; q += kLanes<T>) {
      T* grad = x.grad_cosines + t * x.words + q;
      store(grad, load(grad) * x.token_scale[t] * load(x.word_scale + q));
    }
  }
}

template <class T>
void sims_backward(const Pair<T>& x) {
  const T* of_aggregated = x.grad_cosines + x.first_patch() * x.words;
  multiply<T>(x.o.n_kept, x.words, x.o.n_aggregated, x.weights, x.aggregated, of_aggregated, x.words, x.grad_sims,
              x.words);
  for (int64_t k = 0; k < x.o.n_kept; k++)
    std::copy_n(x.grad_sims + k * x.words, x.n_words, x.grad_sims_of(x.first_patch() + x.kept[k]));
  const T* of_extra = x.grad_cosines + x.extra() * x.words;
  for (int64_t j = 0; j < x.n_left_out(); j++) {
    const int64_t row = x.first_patch() + x.left_out[j];
    for (int64_t q = 0; q < x.n_words; q++) x.grad_sims_of(row)[q] = x.left_weights[row] * of_extra[q];
  }
  if (x.o.class_token) std::copy_n(x.grad_cosines, x.n_words, x.grad_sims_of(0));
}

// The cotangent of a, and through the softmax that of the logits.
template <class T>
void logits_backward(const Pair<T>& x) {
  const T* of_aggregated = x.grad_cosines + x.first_patch() * x.words;
  for (int64_t q = 0; q < x.words; q++)
    for (int64_t m = 0; m < x.o.n_aggregated; m++)
      x.grad_transposed[q * x.aggregated + m] = of_aggregated[m * x.words + q];
  multiply<T>(x.o.n_kept, x.o.n_aggregated, x.words, x.sims, x.words, x.grad_transposed, x.aggregated, x.grad_weights,
              x.aggregated);
  const T* of_squared = x.token_dot + x.first_patch();
  std::fill(x.weight_dot, x.weight_dot + x.aggregated, T(0));
  for (int64_t k = 0; k < x.o.n_kept; k++)
    for (int64_t m = 0; m < x.o.n_aggregated; m++) {
      const int64_t at = k * x.aggregated + m;
      x.grad_weights[at] += of_squared[m] * x.gram_weights[at];
      x.weight_dot[m] += x.weights[at] * x.grad_weights[at];
    }
  T* grad_logits = x.o.grad_logits + x.tile.context * x.o.n_patches * x.aggregated;
  for (int64_t k = 0; k < x.o.n_kept; k++)
    for (int64_t m = 0; m < x.o.n_aggregated; m++) {
      const int64_t at = k * x.aggregated + m;
      grad_logits[x.kept[k] * x.aggregated + m] += x.weights[at] * (x.grad_weights[at] - x.weight_dot[m]);
    }
}

// tile.grad_gram += the sum over tokens of token_dot w w^T, w the weights of the context vectors in the token.
template <class T>
void gram_backward(const Pair<T>& x) {
  const T* of_squared = x.token_dot + x.first_patch();
  for (int64_t m = 0; m < x.o.n_aggregated; m++)
    for (int64_t k = 0; k < x.o.n_kept; k++) x.weights_transposed[m * x.kept_stride + k] *= of_squared[m];
  multiply<T>(x.o.n_kept, x.o.n_kept, x.o.n_aggregated, x.weights, x.aggregated, x.weights_transposed, x.kept_stride,
              x.grad_gram, x.kept_stride);
  const int64_t first = x.first_patch();
  for (int64_t k = 0; k < x.o.n_kept; k++) {
    T* row = x.tile.grad_gram + (first + x.kept[k]) * x.tile.gram_stride + first;
    for (int64_t l = 0; l < x.o.n_kept; l++) row[x.kept[l]] += x.grad_gram[k * x.kept_stride + l];
  }
  for (int64_t j = 0; j < x.n_left_out(); j++) {
    const int64_t at = first + x.left_out[j];
    const T weight = x.token_dot[x.extra()] * x.left_weights[at];
    T* row = x.tile.grad_gram + at * x.tile.gram_stride;
    for (int64_t c = 0; c < x.n_context; c++) row[c] += weight * x.left_weights[c];
  }
  if (x.o.class_token) x.tile.grad_gram[0] += x.token_dot[0];
}

}  // namespace patch_word_impl

template <class T>
void patch_word_similarity_forward(const Tile<T>& tile, const PatchWordSimilarity<T>& options) {
  using namespace patch_word_impl;
  for (int64_t g = 0; g < tile.n_groups; g++) {
    const Pair<T> x = compare<T>(tile, options, g);
    T of_words = 0, of_tokens = 0;
    for (int64_t q = 0; q < x.n_words; q++) of_words += activated<T>(x.cosines[best_token<T>(x, q) * x.words + q]);
    for (int64_t t = 0; t < x.n_tokens(); t++) of_tokens += activated<T>(x.cosines[t * x.words + best_word<T>(x, t)]);
    tile.scores[g * tile.score_stride] = of_words / T(x.n_words) + of_tokens / T(x.n_tokens());
  }
}

template <class T>
void patch_word_similarity_backward(const Tile<T>& tile, const PatchWordSimilarity<T>& options) {
  using namespace patch_word_impl;
  for (int64_t g = 0; g < tile.n_groups; g++) {
    const Pair<T> x = compare<T>(tile, options, g);
    maxima_backward<T>(x, tile.grad_scores[g * tile.score_stride]);
    cosines_backward<T>(x);
    sims_backward<T>(x);
    if (options.grad_logits != nullptr) logits_backward<T>(x);
    gram_backward<T>(x);
  }
}

template void patch_word_similarity_forward(const Tile<float>&, const PatchWordSimilarity<float>&);
template void patch_word_similarity_forward(const Tile<double>&, const PatchWordSimilarity<double>&);
template void patch_word_similarity_backward(const Tile<float>&, const PatchWordSimilarity<float>&);
template void patch_word_similarity_backward(const Tile<double>&, const PatchWordSimilarity<double>&);
