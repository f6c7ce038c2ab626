// What every similarity operator does with its tensors before the engine: last-resort checks (the Python front has
// checked with better words), choice of the operand type, the two roles.
#pragma once

#include <ATen/ATen.h>

#include <string_view>

#include "../cpu/engine.h"
#include "../cpu/engine_backward.h"
#include "../options.h"

namespace itm {

inline void check_operands(const at::Tensor& regions, const at::Tensor& words) {
  TORCH_CHECK_VALUE(regions.dim() == 3, "regions must have shape (n_images, max_regions, dim), got ", regions.sizes());
  TORCH_CHECK_VALUE(words.dim() == 3, "words must have shape (n_captions, max_words, dim), got ", words.sizes());
  TORCH_CHECK_VALUE(regions.size(2) == words.size(2), "regions and words must have the same dim, got ", regions.size(2),
                    " and ", words.size(2));
  TORCH_CHECK_VALUE(regions.size(2) > 0, "regions and words have dim 0; vectors need at least one number");
  TORCH_CHECK_TYPE(regions.scalar_type() == words.scalar_type(), "regions and words must have the same dtype, got ",
                   regions.scalar_type(), " and ", words.scalar_type());
  const auto type = regions.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf,
                   "regions and words must be float32, float64, bfloat16 or float16, got ", type);
}

inline at::ScalarType score_type(at::ScalarType input) { return input == at::kDouble ? at::kDouble : at::kFloat; }

inline bool queries_are_regions(std::string_view cross_attn) {
  TORCH_CHECK_VALUE(cross_attn == "t2i" || cross_attn == "i2t", "cross_attn must be t2i or i2t, got ",
                    std::string(cross_attn));
  return cross_attn == "i2t";
}

// The two batches by role, and how the (n_images, n_captions) result is addressed by (context group, query group).
struct Roles {
  Batch context, query;
  int64_t context_stride, query_stride;

  Roles(const at::Tensor& regions, const at::Tensor& words, const std::optional<at::Tensor>& word_counts,
        const std::optional<at::Tensor>& region_counts, bool regions_query)
      : context(regions_query ? Batch(words, word_counts, "word") : Batch(regions, region_counts, "region")),
        query(regions_query ? Batch(regions, region_counts, "region") : Batch(words, word_counts, "word")),
        context_stride(regions_query ? 1 : words.size(0)),
        query_stride(regions_query ? words.size(0) : 1) {}
};

// make(T()) returns the Similarity<T>.
template <class Make>
at::Tensor similarity_forward(const Roles& roles, const Make& make, at::IntArrayRef shape) {
  const auto type = roles.context.vectors.scalar_type();
  at::Tensor scores = at::empty(shape, roles.context.vectors.options().dtype(score_type(type)));
  if (scores.numel() == 0) return scores;
  auto run = [&](auto in, auto op, auto accumulator, bool brgemm) {
    using T = decltype(accumulator);
    score_forward<decltype(in), decltype(op), T>(roles.context, roles.query, make(T()), brgemm,
                                                 scores.mutable_data_ptr<T>(), roles.context_stride,
                                                 roles.query_stride);
  };
  const bool brgemm = gemm_choice(at::kFloat).brgemm;
  if (type == at::kDouble) run(double(), double(), double(), false);
  if (type == at::kFloat) run(float(), float(), float(), brgemm);
  if (type == at::kHalf) run(at::Half(), float(), float(), brgemm);
  if (type == at::kBFloat16) {
    if (gemm_choice(at::kBFloat16).brgemm)
      run(at::BFloat16(), at::BFloat16(), float(), true);
    else
      run(at::BFloat16(), float(), float(), brgemm);
  }
  return scores;
}

// Gradients of regions and words in their own dtype; a gradient that is not needed is an empty tensor of shape (0,).
// grad_parameter: receives each pair's gradient in the similarity's learnt number, where it has one and it is needed.
template <class Make>
std::tuple<at::Tensor, at::Tensor> similarity_backward(const at::Tensor& grad, const at::Tensor& regions,
                                                       const at::Tensor& words, const Roles& roles, const Make& make,
                                                       bool regions_query, bool need_regions, bool need_words,
                                                       at::Tensor* grad_parameter = nullptr) {
  TORCH_CHECK_VALUE(grad.dim() == 2 && grad.size(0) == regions.size(0) && grad.size(1) == words.size(0),
                    "grad must have shape (", regions.size(0), ", ", words.size(0), "), got ", grad.sizes());
  const auto type = regions.scalar_type();
  auto gradient = [](const at::Tensor& of, bool needed) {
    return needed ? zeros(of.sizes(), of.options()) : at::empty({0}, of.options());
  };
  at::Tensor grad_regions = gradient(regions, need_regions), grad_words = gradient(words, need_words);
  if (grad_parameter != nullptr) *grad_parameter = at::empty(grad.sizes(), grad.options().dtype(score_type(type)));
  if (grad.numel() == 0) return {grad_regions, grad_words};
  const at::Tensor cotangent = grad.to(score_type(type)).contiguous();
  auto run = [&](auto in, auto accumulator) {
    using In = decltype(in);
    using T = decltype(accumulator);
    In* of_regions = need_regions ? grad_regions.mutable_data_ptr<In>() : nullptr;
    In* of_words = need_words ? grad_words.mutable_data_ptr<In>() : nullptr;
    score_backward<In, T>(roles.context, roles.query, make(T()), gemm_choice(score_type(type)).brgemm,
                          cotangent.const_data_ptr<T>(), roles.context_stride, roles.query_stride,
                          regions_query ? of_words : of_regions, regions_query ? of_regions : of_words,
                          grad_parameter != nullptr ? grad_parameter->mutable_data_ptr<T>() : nullptr);
  };
  if (type == at::kDouble) run(double(), double());
  if (type == at::kFloat) run(float(), float());
  if (type == at::kHalf) run(at::Half(), float());
  if (type == at::kBFloat16) run(at::BFloat16(), float());
  return {grad_regions, grad_words};
}

inline Aggregation aggregation_named(std::string_view name) {
  for (const auto& [known, value] : kAggregations)
    if (name == known) return value;
  TORCH_CHECK_VALUE(false, "agg_func ", std::string(name), " is not known");
}

}  // namespace itm
