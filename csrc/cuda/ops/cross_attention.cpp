// torch.ops.itm_fast.cross_attention on CUDA. Contract: itm_fast/ops/cross_attention.py.
#include "similarity.h"

namespace itm::cuda {
namespace {

SimilarityOptions options_of(std::string_view raw_feature_norm, std::string_view agg_func, double lambda_softmax,
                             double lambda_lse) {
  return {lambda_softmax, lambda_lse, option_named("raw_feature_norm", raw_feature_norm, kFeatureNorms),
          option_named("agg_func", agg_func, kAggregations), 1};
}

Tensor cross_attention(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
                       const std::optional<Tensor>& region_counts, std::string_view cross_attn,
                       std::string_view raw_feature_norm, std::string_view agg_func, double lambda_softmax,
                       double lambda_lse) {
  return similarity_forward("cross_attention_similarity", {regions, words, word_counts, region_counts, cross_attn},
                            options_of(raw_feature_norm, agg_func, lambda_softmax, lambda_lse));
}

Tensor cross_attention_candidates(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
                                  const std::optional<Tensor>& region_counts, const Tensor& candidates,
                                  bool of_captions, std::string_view cross_attn, std::string_view raw_feature_norm,
                                  std::string_view agg_func, double lambda_softmax, double lambda_lse) {
  return candidates_forward("cross_attention_similarity", {regions, words, word_counts, region_counts, cross_attn},
                            candidates, of_captions,
                            options_of(raw_feature_norm, agg_func, lambda_softmax, lambda_lse));
}

std::tuple<Tensor, Tensor> cross_attention_backward(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                                    const std::optional<Tensor>& word_counts,
                                                    const std::optional<Tensor>& region_counts,
                                                    std::string_view cross_attn, std::string_view raw_feature_norm,
                                                    std::string_view agg_func, double lambda_softmax, double lambda_lse,
                                                    bool need_regions, bool need_words) {
  return similarity_backward(
      "cross_attention_similarity", grad, {regions, words, word_counts, region_counts, cross_attn},
      options_of(raw_feature_norm, agg_func, lambda_softmax, lambda_lse), std::nullopt, need_regions, need_words);
}

}  // namespace

ITM_CUDA_OPERATORS(m) {
  m.impl("cross_attention", TORCH_BOX(&cross_attention));
  m.impl("cross_attention_candidates", TORCH_BOX(&cross_attention_candidates));
  m.impl("cross_attention_backward", TORCH_BOX(&cross_attention_backward));
}

}  // namespace itm::cuda
