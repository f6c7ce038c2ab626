// torch.ops.itm_fast.level_attention: schema and CPU registration. Contract: itm_fast/ops/level_attention.py.
#include "../cpu/level_attention.h"

#include <torch/library.h>

#include "operands.h"

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

LevelAttention options_of(const at::Tensor& temperature) {
  TORCH_CHECK_VALUE(temperature.dim() == 0, "temperature must have shape (), got ", temperature.sizes());
  TORCH_CHECK_TYPE(at::isFloatingType(temperature.scalar_type()), "temperature must be floating, got ",
                   temperature.scalar_type());
  return {temperature.item().toDouble()};
}

// In a fixed order, whatever the number of threads.
at::Tensor sum_over_pairs(const at::Tensor& of_pairs, const at::TensorOptions& options) {
  const at::Tensor doubles = of_pairs.to(at::kDouble);
  const double* values = doubles.const_data_ptr<double>();
  return at::scalar_tensor(std::accumulate(values, values + doubles.numel(), 0.0), options);
}

at::Tensor level_attention_cpu(const at::Tensor& regions, const at::Tensor& words,
                               const std::optional<at::Tensor>& word_counts, const at::Tensor& temperature) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, std::nullopt, true);
  return similarity_forward(roles, similarity_of(options_of(temperature)), {regions.size(0), words.size(0)});
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> level_attention_backward_cpu(
    const at::Tensor& grad, const at::Tensor& regions, const at::Tensor& words,
    const std::optional<at::Tensor>& word_counts, const at::Tensor& temperature, bool need_regions, bool need_words,
    bool need_temperature) {
  check_operands(regions, words);
  const Roles roles(regions, words, word_counts, std::nullopt, true);
  at::Tensor of_pairs;
  auto [grad_regions, grad_words] =
      similarity_backward(grad, regions, words, roles, similarity_of(options_of(temperature)), true, need_regions,
                          need_words, need_temperature ? &of_pairs : nullptr);
  const at::Tensor grad_temperature =
      need_temperature ? sum_over_pairs(of_pairs, temperature.options()) : at::empty({0}, temperature.options());
  return {grad_regions, grad_words, grad_temperature};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def("level_attention(Tensor regions, Tensor words, Tensor? word_counts, Tensor temperature) -> Tensor");
  m.def(
      "level_attention_backward(Tensor grad, Tensor regions, Tensor words, Tensor? word_counts, Tensor temperature, "
      "bool need_regions, bool need_words, bool need_temperature) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("level_attention", &level_attention_cpu);
  m.impl("level_attention_backward", &level_attention_backward_cpu);
}

}  // namespace itm
