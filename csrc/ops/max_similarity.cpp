// torch.ops.itm_fast.max_similarity: schema and CPU registration. Contract: itm_fast/ops/max_similarity.py.
#include "../cpu/max_similarity.h"

#include "../cpu/max_similarity_gradients.h"
#include "candidates.h"

namespace itm {
namespace {

// Where the maxima of all pairs are, [context groups, places of query vectors]: those of a context group lie together,
// and what padding leaves over is 0. Their values only where the aggregation's gradient needs them.
struct KeptMaxima {
  Tensor rows, values;

  KeptMaxima(const Roles& roles, Aggregation aggregation)
      : rows(zeros({roles.context.n_groups, places(roles.query)}, ScalarType::Int)),
        values(zeros(needs_values(aggregation) ? rows.sizes() : Shape({0}),
                     score_type(roles.context.vectors.scalar_type()))) {}
  static int64_t places(const Batch& query) { return query.is_packed ? query.max : query.n_groups * query.max; }
  static bool needs_values(Aggregation aggregation) {
    return aggregation == Aggregation::kLogSumExp || aggregation == Aggregation::kMax;
  }
};

// kept: receives the maxima of all pairs; or null.
auto similarity_of(const MaxSimilarity& options, const Roles& roles, KeptMaxima* kept = nullptr) {
  return [options, &roles, kept](auto number) {
    using T = decltype(number);
    Maxima<T> all{};
    if (kept != nullptr) all.rows = kept->rows.template mutable_data_ptr<int32_t>();
    if (kept != nullptr && kept->values.numel() > 0) all.values = kept->values.template mutable_data_ptr<T>();
    Similarity<T> similarity;
    similarity.forward = [options, all, &query = roles.query,
                          kernel = ITM_PICK(max_similarity_forward<T>)](const Tile<T>& tile) {
      Maxima<T> of_tile{};
      const int64_t first = tile.context * KeptMaxima::places(query) + query.offset[tile.first_group];
      if (all.rows != nullptr) of_tile.rows = all.rows + first;
      if (all.values != nullptr) of_tile.values = all.values + first;
      kernel(tile, options, of_tile);
    };
    similarity.backward = [options, kernel = ITM_PICK(max_similarity_backward<T>)](const Tile<T>& tile) {
      kernel(tile, options);
    };
    similarity.scratch = max_similarity_scratch;
    similarity.needs_gram = false;
    return similarity;
  };
}

Tensor max_similarity_cpu(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
                          const std::optional<Tensor>& region_counts, std::string_view cross_attn,
                          std::string_view agg_func, double lambda_lse) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const MaxSimilarity options{aggregation_named(agg_func), lambda_lse};
  return similarity_forward(roles, similarity_of(options, roles));
}

std::tuple<Tensor, Tensor, Tensor> max_similarity_kept_cpu(const Tensor& regions, const Tensor& words,
                                                           const std::optional<Tensor>& word_counts,
                                                           const std::optional<Tensor>& region_counts,
                                                           std::string_view cross_attn, std::string_view agg_func,
                                                           double lambda_lse) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const MaxSimilarity options{aggregation_named(agg_func), lambda_lse};
  KeptMaxima kept(roles, options.aggregation);
  const Tensor scores = similarity_forward(roles, similarity_of(options, roles, &kept));
  return {scores, kept.rows, kept.values};
}

std::tuple<Tensor, Tensor> gradients_of_maxima(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                               const Roles& roles, const MaxSimilarity& options, const Tensor& rows,
                                               const Tensor& values, bool need_regions, bool need_words) {
  ITM_CHECK_VALUE(has_shape(grad, {roles.n_images, roles.n_captions}), "grad must have shape (", roles.n_images, ", ",
                  roles.n_captions, "), got ", shape_of(grad));
  const ScalarType type = score_type(regions.scalar_type());
  const std::vector<int64_t> shape{roles.context.n_groups, KeptMaxima::places(roles.query)};
  ITM_CHECK_VALUE(has_shape(rows, shape) && rows.scalar_type() == ScalarType::Int, "rows must be int32 of shape ",
                  as_text(shape), ", got ", rows.scalar_type(), " of ", shape_of(rows));
  const bool needs_values = KeptMaxima::needs_values(options.aggregation);
  ITM_CHECK_VALUE(!needs_values || (has_shape(values, shape) && values.scalar_type() == type), "values must be ", type,
                  " of shape ", as_text(shape), ", got ", values.scalar_type(), " of ", shape_of(values));
  auto gradient = [](const Tensor& of, bool needed) {
    return needed ? zeros(of.sizes(), of.scalar_type()) : empty({0}, of.scalar_type());
  };
  Tensor grad_regions = gradient(regions, need_regions), grad_words = gradient(words, need_words);
  if (grad.numel() == 0) return {grad_regions, grad_words};
  const Tensor cotangent = as_contiguous(as_type(grad, type)), all_rows = as_contiguous(rows),
               all_values = as_contiguous(values);
  auto run = [&](auto in, auto number) {
    using In = decltype(in);
    using T = decltype(number);
    In* of_regions = need_regions ? grad_regions.mutable_data_ptr<In>() : nullptr;
    In* of_words = need_words ? grad_words.mutable_data_ptr<In>() : nullptr;
    GradientsOfMaxima<In, T>{roles.context,
                             roles.query,
                             options,
                             all_rows.const_data_ptr<int32_t>(),
                             needs_values ? all_values.const_data_ptr<T>() : nullptr,
                             KeptMaxima::places(roles.query),
                             cotangent.const_data_ptr<T>(),
                             roles.context_stride,
                             roles.query_stride}
        .compute(roles.regions_query ? of_words : of_regions, roles.regions_query ? of_regions : of_words);
  };
  const ScalarType in = regions.scalar_type();
  if (in == ScalarType::Double) run(double(), double());
  if (in == ScalarType::Float) run(float(), float());
  if (in == ScalarType::Half) run(Half(), float());
  if (in == ScalarType::BFloat16) run(BFloat16(), float());
  return {grad_regions, grad_words};
}

std::tuple<Tensor, Tensor> max_similarity_kept_backward_cpu(
    const Tensor& grad, const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
    const std::optional<Tensor>& region_counts, const Tensor& rows, const Tensor& values, std::string_view cross_attn,
    std::string_view agg_func, double lambda_lse, bool need_regions, bool need_words) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const MaxSimilarity options{aggregation_named(agg_func), lambda_lse};
  return gradients_of_maxima(grad, regions, words, roles, options, rows, values, need_regions, need_words);
}

std::tuple<Tensor, Tensor> max_similarity_backward_cpu(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                                       const std::optional<Tensor>& word_counts,
                                                       const std::optional<Tensor>& region_counts,
                                                       std::string_view cross_attn, std::string_view agg_func,
                                                       double lambda_lse, bool need_regions, bool need_words) {
  const auto [scores, rows, values] =
      max_similarity_kept_cpu(regions, words, word_counts, region_counts, cross_attn, agg_func, lambda_lse);
  return max_similarity_kept_backward_cpu(grad, regions, words, word_counts, region_counts, rows, values, cross_attn,
                                          agg_func, lambda_lse, need_regions, need_words);
}

Tensor max_similarity_candidates_cpu(const Tensor& regions, const Tensor& words,
                                     const std::optional<Tensor>& word_counts,
                                     const std::optional<Tensor>& region_counts, const Tensor& candidates,
                                     bool of_captions, std::string_view cross_attn, std::string_view agg_func,
                                     double lambda_lse) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const MaxSimilarity options{aggregation_named(agg_func), lambda_lse};
  return candidates_forward(GivenPairs(roles, candidates, of_captions), similarity_of(options, roles));
}

std::tuple<Tensor, Tensor> max_similarity_candidates_backward_cpu(
    const Tensor& grad, const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
    const std::optional<Tensor>& region_counts, const Tensor& candidates, bool of_captions, std::string_view cross_attn,
    std::string_view agg_func, double lambda_lse, bool need_regions, bool need_words) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const MaxSimilarity options{aggregation_named(agg_func), lambda_lse};
  return candidates_backward(grad, regions, words, GivenPairs(roles, candidates, of_captions),
                             similarity_of(options, roles), need_regions, need_words);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "max_similarity(Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, str cross_attn, "
      "str agg_func, float lambda_lse) -> Tensor");
  m.def(
      "max_similarity_backward(Tensor grad, Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, "
      "str cross_attn, str agg_func, float lambda_lse, bool need_regions, bool need_words) -> (Tensor, Tensor)");
  m.def(
      "max_similarity_kept(Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, str cross_attn, "
      "str agg_func, float lambda_lse) -> (Tensor scores, Tensor rows, Tensor values)");
  m.def(
      "max_similarity_kept_backward(Tensor grad, Tensor regions, Tensor words, Tensor? word_counts, "
      "Tensor? region_counts, Tensor rows, Tensor values, str cross_attn, str agg_func, float lambda_lse, "
      "bool need_regions, bool need_words) -> (Tensor, Tensor)");
  m.def(
      "max_similarity_candidates(Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, "
      "Tensor candidates, bool of_captions, str cross_attn, str agg_func, float lambda_lse) -> Tensor");
  m.def(
      "max_similarity_candidates_backward(Tensor grad, Tensor regions, Tensor words, Tensor? word_counts, "
      "Tensor? region_counts, Tensor candidates, bool of_captions, str cross_attn, str agg_func, float lambda_lse, "
      "bool need_regions, bool need_words) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("max_similarity", TORCH_BOX(&max_similarity_cpu));
  m.impl("max_similarity_backward", TORCH_BOX(&max_similarity_backward_cpu));
  m.impl("max_similarity_kept", TORCH_BOX(&max_similarity_kept_cpu));
  m.impl("max_similarity_kept_backward", TORCH_BOX(&max_similarity_kept_backward_cpu));
  m.impl("max_similarity_candidates", TORCH_BOX(&max_similarity_candidates_cpu));
  m.impl("max_similarity_candidates_backward", TORCH_BOX(&max_similarity_candidates_backward_cpu));
}

}  // namespace itm
