// What every similarity operator does with its tensors before the engine: last-resort checks (the Python front has
// checked with better words), choice of the operand type, the two roles.
#pragma once

#include <string_view>

#include "../cpu/similarity.h"
#include "../option_names.h"

namespace itm {

inline void check_operands(const Tensor& regions, const Tensor& words) {
  ITM_CHECK_VALUE(regions.dim() == 2 || regions.dim() == 3,
                  "regions must have shape (n_images, max_regions, dim), or packed (total, dim), got ",
                  shape_of(regions));
  ITM_CHECK_VALUE(words.dim() == 2 || words.dim() == 3,
                  "words must have shape (n_captions, max_words, dim), or packed (total, dim), got ", shape_of(words));
  const int64_t dim = regions.size(regions.dim() - 1), other = words.size(words.dim() - 1);
  ITM_CHECK_VALUE(dim == other, "regions and words must have the same dim, got ", dim, " and ", other);
  ITM_CHECK_VALUE(dim > 0, "regions and words have dim 0; vectors need at least one number");
  ITM_CHECK_TYPE(regions.scalar_type() == words.scalar_type(), "regions and words must have the same dtype, got ",
                 regions.scalar_type(), " and ", words.scalar_type());
  const auto type = regions.scalar_type();
  ITM_CHECK_TYPE(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::BFloat16 ||
                     type == ScalarType::Half,
                 "regions and words must be float32, float64, bfloat16 or float16, got ", type);
}

inline ScalarType score_type(ScalarType input) { return input == ScalarType::Double ? input : ScalarType::Float; }

inline bool queries_are_regions(std::string_view cross_attn) {
  ITM_CHECK_VALUE(cross_attn == "t2i" || cross_attn == "i2t", "cross_attn must be t2i or i2t, got ",
                  std::string(cross_attn));
  return cross_attn == "i2t";
}

// The two batches by role, and how the (n_images, n_captions) result is addressed by (context group, query group).
struct Roles {
  bool regions_query;
  Batch context, query;
  int64_t n_images, n_captions, context_stride, query_stride;

  Roles(const Tensor& regions, const Tensor& words, const std::optional<Tensor>& word_counts,
        const std::optional<Tensor>& region_counts, bool regions_query)
      : regions_query(regions_query),
        context(regions_query ? Batch::of(words, word_counts, "word") : Batch::of(regions, region_counts, "region")),
        query(regions_query ? Batch::of(regions, region_counts, "region") : Batch::of(words, word_counts, "word")),
        n_images(regions_query ? query.n_groups : context.n_groups),
        n_captions(regions_query ? context.n_groups : query.n_groups),
        context_stride(regions_query ? 1 : n_captions),
        query_stride(regions_query ? n_captions : 1) {}
};

// make(T()) returns the Similarity<T>.
template <class Make>
Tensor similarity_forward(const Roles& roles, const Make& make) {
  const auto type = roles.context.vectors.scalar_type();
  Tensor scores = empty({roles.n_images, roles.n_captions}, score_type(type));
  if (scores.numel() == 0) return scores;
  auto run = [&](auto in, auto op, auto accumulator) {
    using T = decltype(accumulator);
    score_forward<decltype(in), decltype(op), T>(roles.context, roles.query, make(T()), scores.mutable_data_ptr<T>(),
                                                 roles.context_stride, roles.query_stride);
  };
  if (type == ScalarType::Double) run(double(), double(), double());
  if (type == ScalarType::Float) run(float(), float(), float());
  if (type == ScalarType::Half) run(Half(), float(), float());
  if (type == ScalarType::BFloat16) {
    if (gemm_choice(ScalarType::BFloat16).multiplier == Multiplier::kWidened)
      run(BFloat16(), float(), float());
    else
      run(BFloat16(), BFloat16(), float());
  }
  return scores;
}

// Gradients of regions and words in their own dtype; a gradient that is not needed is an empty tensor of shape (0,).
// grad_parameter: receives each pair's gradient in the similarity's learnt number, where it has one and it is needed.
template <class Make>
std::tuple<Tensor, Tensor> similarity_backward(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                               const Roles& roles, const Make& make, bool need_regions, bool need_words,
                                               Tensor* grad_parameter = nullptr) {
  ITM_CHECK_VALUE(has_shape(grad, {roles.n_images, roles.n_captions}), "grad must have shape (", roles.n_images, ", ",
                  roles.n_captions, "), got ", shape_of(grad));
  const auto type = regions.scalar_type();
  auto gradient = [](const Tensor& of, bool needed) {
    return needed ? zeros(of.sizes(), of.scalar_type()) : empty({0}, of.scalar_type());
  };
  Tensor grad_regions = gradient(regions, need_regions), grad_words = gradient(words, need_words);
  if (grad_parameter != nullptr) *grad_parameter = empty(grad.sizes(), score_type(type));
  if (grad.numel() == 0) return {grad_regions, grad_words};
  const Tensor cotangent = as_contiguous(as_type(grad, score_type(type)));
  auto run = [&](auto in, auto accumulator) {
    using In = decltype(in);
    using T = decltype(accumulator);
    In* of_regions = need_regions ? grad_regions.mutable_data_ptr<In>() : nullptr;
    In* of_words = need_words ? grad_words.mutable_data_ptr<In>() : nullptr;
    score_backward<In, T>(roles.context, roles.query, make(T()), cotangent.const_data_ptr<T>(), roles.context_stride,
                          roles.query_stride, roles.regions_query ? of_words : of_regions,
                          roles.regions_query ? of_regions : of_words,
                          grad_parameter != nullptr ? grad_parameter->mutable_data_ptr<T>() : nullptr);
  };
  if (type == ScalarType::Double) run(double(), double());
  if (type == ScalarType::Float) run(float(), float());
  if (type == ScalarType::Half) run(Half(), float());
  if (type == ScalarType::BFloat16) run(BFloat16(), float());
  return {grad_regions, grad_words};
}

inline Aggregation aggregation_named(std::string_view name) {
  for (const auto& [known, value] : kAggregations)
    if (name == known) return value;
  ITM_CHECK_VALUE(false, "agg_func ", std::string(name), " is not known");
}

}  // namespace itm
