// torch.ops.itm_fast.max_similarity: schema and CPU registration. Contract: itm_fast/ops/max_similarity.py.
#include "../cpu/max_similarity.h"

#include "candidates.h"

namespace itm {
namespace {

auto similarity_of(const MaxSimilarity& options) {
  return [options](auto number) {
    using T = decltype(number);
    Similarity<T> similarity;
    similarity.forward = [options, kernel = ITM_PICK(max_similarity_forward<T>)](const Tile<T>& tile) {
      kernel(tile, options);
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
  return similarity_forward(roles, similarity_of(options));
}

std::tuple<Tensor, Tensor> max_similarity_backward_cpu(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                                       const std::optional<Tensor>& word_counts,
                                                       const std::optional<Tensor>& region_counts,
                                                       std::string_view cross_attn, std::string_view agg_func,
                                                       double lambda_lse, bool need_regions, bool need_words) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const MaxSimilarity options{aggregation_named(agg_func), lambda_lse};
  return similarity_backward(grad, regions, words, roles, similarity_of(options), need_regions, need_words);
}

Tensor max_similarity_candidates_cpu(const Tensor& regions, const Tensor& words,
                                     const std::optional<Tensor>& word_counts,
                                     const std::optional<Tensor>& region_counts, const Tensor& candidates,
                                     bool of_captions, std::string_view cross_attn, std::string_view agg_func,
                                     double lambda_lse) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const MaxSimilarity options{aggregation_named(agg_func), lambda_lse};
  return candidates_forward(GivenPairs(roles, candidates, of_captions), similarity_of(options));
}

std::tuple<Tensor, Tensor> max_similarity_candidates_backward_cpu(
    const Tensor& grad, const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
    const std::optional<Tensor>& region_counts, const Tensor& candidates, bool of_captions, std::string_view cross_attn,
    std::string_view agg_func, double lambda_lse, bool need_regions, bool need_words) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, queries_are_regions(cross_attn));
  const MaxSimilarity options{aggregation_named(agg_func), lambda_lse};
  return candidates_backward(grad, regions, words, GivenPairs(roles, candidates, of_captions), similarity_of(options),
                             need_regions, need_words);
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
  m.impl("max_similarity_candidates", TORCH_BOX(&max_similarity_candidates_cpu));
  m.impl("max_similarity_candidates_backward", TORCH_BOX(&max_similarity_candidates_backward_cpu));
}

}  // namespace itm
