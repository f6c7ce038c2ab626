// torch.ops.itm_fast.cross_attention: schema and CPU registration. Contract: itm_fast/ops/cross_attention.py.
#include "../cpu/cross_attention.h"

#include "candidates.h"

namespace itm {
namespace {

CrossAttention options_of(std::string_view raw_feature_norm, std::string_view agg_func, double lambda_softmax,
                          double lambda_lse) {
  for (const auto& [name, norm] : kFeatureNorms)
    if (name == raw_feature_norm) return {norm, aggregation_named(agg_func), lambda_softmax, lambda_lse};
  ITM_CHECK_VALUE(false, "raw_feature_norm ", std::string(raw_feature_norm), " is not known");
}

auto similarity_of(const CrossAttention& options) {
  return [options](auto number) {
    using T = decltype(number);
    Similarity<T> similarity;
    similarity.forward = [options, kernel = ITM_PICK(cross_attention_forward<T>)](const Tile<T>& tile) {
      kernel(tile, options);
    };
    similarity.backward = [options, kernel = ITM_PICK(cross_attention_backward<T>)](const Tile<T>& tile) {
      kernel(tile, options);
    };
    similarity.scratch = cross_attention_scratch;
    similarity.needs_gram = true;
    return similarity;
  };
}

Tensor cross_attention_cpu(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
                           const std::optional<Tensor>& region_counts, std::string_view cross_attn,
                           std::string_view raw_feature_norm, std::string_view agg_func, double lambda_softmax,
                           double lambda_lse) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const auto options = options_of(raw_feature_norm, agg_func, lambda_softmax, lambda_lse);
  return similarity_forward(roles, similarity_of(options));
}

std::tuple<Tensor, Tensor> cross_attention_backward_cpu(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                                        const std::optional<Tensor>& word_counts,
                                                        const std::optional<Tensor>& region_counts,
                                                        std::string_view cross_attn, std::string_view raw_feature_norm,
                                                        std::string_view agg_func, double lambda_softmax,
                                                        double lambda_lse, bool need_regions, bool need_words) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const auto options = options_of(raw_feature_norm, agg_func, lambda_softmax, lambda_lse);
  return similarity_backward(grad, regions, words, roles, similarity_of(options), need_regions, need_words);
}

Tensor cross_attention_candidates_cpu(const Tensor& regions, const Tensor& words,
                                      const std::optional<Tensor>& word_counts,
                                      const std::optional<Tensor>& region_counts, const Tensor& candidates,
                                      bool of_captions, std::string_view cross_attn, std::string_view raw_feature_norm,
                                      std::string_view agg_func, double lambda_softmax, double lambda_lse) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const auto options = options_of(raw_feature_norm, agg_func, lambda_softmax, lambda_lse);
  return candidates_forward(GivenPairs(roles, candidates, of_captions), similarity_of(options));
}

std::tuple<Tensor, Tensor> cross_attention_candidates_backward_cpu(
    const Tensor& grad, const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
    const std::optional<Tensor>& region_counts, const Tensor& candidates, bool of_captions, std::string_view cross_attn,
    std::string_view raw_feature_norm, std::string_view agg_func, double lambda_softmax, double lambda_lse,
    bool need_regions, bool need_words) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const auto options = options_of(raw_feature_norm, agg_func, lambda_softmax, lambda_lse);
  return candidates_backward(grad, regions, words, GivenPairs(roles, candidates, of_captions), similarity_of(options),
                             need_regions, need_words);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "cross_attention(Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, str cross_attn, "
      "str raw_feature_norm, str agg_func, float lambda_softmax, float lambda_lse) -> Tensor");
  m.def(
      "cross_attention_backward(Tensor grad, Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, "
      "str cross_attn, str raw_feature_norm, str agg_func, float lambda_softmax, float lambda_lse, bool need_regions, "
      "bool need_words) -> (Tensor, Tensor)");
  m.def(
      "cross_attention_candidates(Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, "
      "Tensor candidates, bool of_captions, str cross_attn, str raw_feature_norm, str agg_func, float lambda_softmax, "
      "float lambda_lse) -> Tensor");
  m.def(
      "cross_attention_candidates_backward(Tensor grad, Tensor regions, Tensor words, Tensor? word_counts, "
      "Tensor? region_counts, Tensor candidates, bool of_captions, str cross_attn, str raw_feature_norm, str agg_func, "
      "float lambda_softmax, float lambda_lse, bool need_regions, bool need_words) -> (Tensor, Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("cross_attention", TORCH_BOX(&cross_attention_cpu));
  m.impl("cross_attention_backward", TORCH_BOX(&cross_attention_backward_cpu));
  m.impl("cross_attention_candidates", TORCH_BOX(&cross_attention_candidates_cpu));
  m.impl("cross_attention_candidates_backward", TORCH_BOX(&cross_attention_candidates_backward_cpu));
}

}  // namespace itm
