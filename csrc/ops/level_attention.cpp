// torch.ops.itm_fast.level_attention: schema and CPU registration. Contract: itm_fast/ops/level_attention.py.
#include "../cpu/level_attention.h"

#include "candidates.h"

namespace itm {
namespace {

auto similarity_of(const LevelAttention& options) {
  return [options](auto number) {
    using T = decltype(number);
    Similarity<T> similarity;
    similarity.forward = [options, kernel = ITM_PICK(level_attention_forward<T>)](const Tile<T>& tile) {
      kernel(tile, options);
    };
    similarity.backward = [options, kernel = ITM_PICK(level_attention_backward<T>)](const Tile<T>& tile) {
      kernel(tile, options);
    };
    similarity.scratch = level_attention_scratch;
    similarity.needs_gram = false;
    return similarity;
  };
}

LevelAttention options_of(const Tensor& temperature) {
  ITM_CHECK_VALUE(temperature.dim() == 0, "temperature must have shape (), got ", shape_of(temperature));
  const ScalarType type = temperature.scalar_type();
  ITM_CHECK_TYPE(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                     type == ScalarType::Half,
                 "temperature must be floating, got ", type);
  if (type == ScalarType::Float) return {*temperature.const_data_ptr<float>()};
  return {*as_type(temperature, ScalarType::Double).const_data_ptr<double>()};
}

// In a fixed order, whatever the number of threads.
Tensor sum_over_pairs(const Tensor& of_pairs, ScalarType type) {
  const Tensor doubles = as_type(of_pairs, ScalarType::Double);
  const double* values = doubles.const_data_ptr<double>();
  return scalar(std::accumulate(values, values + doubles.numel(), 0.0), type);
}

Tensor level_attention_cpu(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
                           const std::optional<Tensor>& region_counts, const Tensor& temperature) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, true);
  return similarity_forward(roles, similarity_of(options_of(temperature)));
}

std::tuple<Tensor, Tensor, Tensor> level_attention_backward_cpu(const Tensor& grad, const Tensor& regions,
                                                                const Tensor& words,
                                                                const std::optional<Tensor>& word_counts,
                                                                const std::optional<Tensor>& region_counts,
                                                                const Tensor& temperature, bool need_regions,
                                                                bool need_words, bool need_temperature) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, true);
  Tensor of_pairs;
  auto [grad_regions, grad_words] =
      similarity_backward(grad, regions, words, roles, similarity_of(options_of(temperature)), need_regions, need_words,
                          need_temperature ? &of_pairs : nullptr);
  const Tensor grad_temperature =
      need_temperature ? sum_over_pairs(of_pairs, temperature.scalar_type()) : empty({0}, temperature.scalar_type());
  return {grad_regions, grad_words, grad_temperature};
}

Tensor level_attention_candidates_cpu(const Tensor& regions, const Tensor& words,
                                      const std::optional<Tensor>& word_counts,
                                      const std::optional<Tensor>& region_counts, const Tensor& candidates,
                                      const Tensor& temperature, bool of_captions) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, true);
  return candidates_forward(GivenPairs(roles, candidates, of_captions), similarity_of(options_of(temperature)));
}

std::tuple<Tensor, Tensor, Tensor> level_attention_candidates_backward_cpu(
    const Tensor& grad, const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
    const std::optional<Tensor>& region_counts, const Tensor& candidates, const Tensor& temperature, bool of_captions,
    bool need_regions, bool need_words, bool need_temperature) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, region_counts, true);
  Tensor of_pairs;
  auto [grad_regions, grad_words] = candidates_backward(
      grad, regions, words, GivenPairs(roles, candidates, of_captions), similarity_of(options_of(temperature)),
      need_regions, need_words, need_temperature ? &of_pairs : nullptr);
  const Tensor grad_temperature =
      need_temperature ? sum_over_pairs(of_pairs, temperature.scalar_type()) : empty({0}, temperature.scalar_type());
  return {grad_regions, grad_words, grad_temperature};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "level_attention(Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, Tensor temperature) "
      "-> Tensor");
  m.def(
      "level_attention_backward(Tensor grad, Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, "
      "Tensor temperature, bool need_regions, bool need_words, bool need_temperature) -> (Tensor, Tensor, Tensor)");
  m.def(
      "level_attention_candidates(Tensor regions, Tensor words, Tensor? word_counts, Tensor? region_counts, "
      "Tensor candidates, Tensor temperature, bool of_captions) -> Tensor");
  m.def(
      "level_attention_candidates_backward(Tensor grad, Tensor regions, Tensor words, Tensor? word_counts, "
      "Tensor? region_counts, Tensor candidates, Tensor temperature, bool of_captions, bool need_regions, "
      "bool need_words, bool need_temperature) -> (Tensor, Tensor, Tensor)");
  // Of CUDA only: cuda/ops/listed_products.cpp.
  m.def("listed_products(Tensor owners, Tensor members, Tensor owner_numbers, Tensor member_numbers) -> Tensor");
  m.def(
      "listed_sums_(Tensor(a!) sums, Tensor left, Tensor right, Tensor? left_numbers, Tensor right_numbers, "
      "Tensor bounds, Tensor? scale) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("level_attention", TORCH_BOX(&level_attention_cpu));
  m.impl("level_attention_backward", TORCH_BOX(&level_attention_backward_cpu));
  m.impl("level_attention_candidates", TORCH_BOX(&level_attention_candidates_cpu));
  m.impl("level_attention_candidates_backward", TORCH_BOX(&level_attention_candidates_backward_cpu));
}

}  // namespace itm
