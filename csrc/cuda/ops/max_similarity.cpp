// torch.ops.itm_fast.max_similarity on CUDA. Contract: itm_fast/ops/max_similarity.py.
#include "similarity.h"

namespace itm::cuda {
namespace {

SimilarityOptions options_of(std::string_view agg_func, double lambda_lse) {
  return {1, lambda_lse, FeatureNorm::kNone, option_named("agg_func", agg_func, kAggregations), 0};
}

Tensor max_similarity(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
                      const std::optional<Tensor>& region_counts, std::string_view cross_attn,
                      std::string_view agg_func, double lambda_lse) {
  return similarity_forward("max_similarity", {regions, words, word_counts, region_counts, cross_attn},
                            options_of(agg_func, lambda_lse));
}

Tensor max_similarity_candidates(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
                                 const std::optional<Tensor>& region_counts, const Tensor& candidates, bool of_captions,
                                 std::string_view cross_attn, std::string_view agg_func, double lambda_lse) {
  return candidates_forward("max_similarity", {regions, words, word_counts, region_counts, cross_attn}, candidates,
                            of_captions, options_of(agg_func, lambda_lse));
}

std::tuple<Tensor, Tensor> max_similarity_backward(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                                   const std::optional<Tensor>& word_counts,
                                                   const std::optional<Tensor>& region_counts,
                                                   std::string_view cross_attn, std::string_view agg_func,
                                                   double lambda_lse, bool need_regions, bool need_words) {
  return similarity_backward("max_similarity", grad, {regions, words, word_counts, region_counts, cross_attn},
                             options_of(agg_func, lambda_lse), std::nullopt, need_regions, need_words);
}

// No values: the gradient makes those that it needs from their rows.
std::tuple<Tensor, Tensor, Tensor> max_similarity_kept(const Tensor& regions, const Tensor& words,
                                                       const std::optional<Tensor>& word_counts,
                                                       const std::optional<Tensor>& region_counts,
                                                       std::string_view cross_attn, std::string_view agg_func,
                                                       double lambda_lse) {
  const auto [scores, rows] = kept_forward("max_similarity", {regions, words, word_counts, region_counts, cross_attn},
                                           options_of(agg_func, lambda_lse));
  return {scores, rows, empty(regions, {0}, ScalarType::Float)};
}

std::tuple<Tensor, Tensor> max_similarity_kept_backward(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                                        const std::optional<Tensor>& word_counts,
                                                        const std::optional<Tensor>& region_counts, const Tensor& rows,
                                                        const Tensor&, std::string_view cross_attn,
                                                        std::string_view agg_func, double lambda_lse, bool need_regions,
                                                        bool need_words) {
  return similarity_backward("max_similarity", grad, {regions, words, word_counts, region_counts, cross_attn},
                             options_of(agg_func, lambda_lse), rows, need_regions, need_words);
}

}  // namespace

ITM_CUDA_OPERATORS(m) {
  m.impl("max_similarity", TORCH_BOX(&max_similarity));
  m.impl("max_similarity_candidates", TORCH_BOX(&max_similarity_candidates));
  m.impl("max_similarity_backward", TORCH_BOX(&max_similarity_backward));
  m.impl("max_similarity_kept", TORCH_BOX(&max_similarity_kept));
  m.impl("max_similarity_kept_backward", TORCH_BOX(&max_similarity_kept_backward));
}

}  // namespace itm::cuda
