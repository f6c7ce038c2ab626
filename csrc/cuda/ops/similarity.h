// The host side that all similarities share: which side is the context, which path the shapes take, the products
// between the kernels.
#pragma once

#include <string_view>
#include <tuple>

#include "../../option_names.h"
#include "../similarity.h"
#include "host.h"

namespace itm::cuda {

struct SimilarityInputs {
  const Tensor &regions, &words;
  const std::optional<Tensor>&word_counts, &region_counts;
  std::string_view cross_attn;  // "t2i" or "i2t"
};

// (n_images, n_captions) float32, or float64 for float64 inputs.
Tensor similarity_forward(const char* op, const SimilarityInputs& inputs, const SimilarityOptions& options);

// Of the largest similarities: scores, and the rows that reach them (ops/largest.h), float32 and 16 bits only.
std::tuple<Tensor, Tensor> kept_forward(const char* op, const SimilarityInputs& inputs,
                                        const SimilarityOptions& options);

// (n_lists, k) float32, of given pairs: -inf for -1, NaN for another index that is no group. Attention: where tiles
// fit only; neither float64 nor before compute capability 8.0.
Tensor candidates_forward(const char* op, const SimilarityInputs& inputs, const Tensor& candidates, bool of_captions,
                          const SimilarityOptions& options);

// Gradients of regions and words in their type; of shape (0,) where not needed. kept: the rows of the forward pass.
std::tuple<Tensor, Tensor> similarity_backward(const char* op, const Tensor& grad, const SimilarityInputs& inputs,
                                               const SimilarityOptions& options, const std::optional<Tensor>& kept,
                                               bool need_regions, bool need_words);

template <class Enum, size_t kSize>
Enum option_named(const char* what, std::string_view given, const Names<Enum, kSize>& all) {
  for (const auto& [name, value] : all)
    if (name == given) return value;
  STD_TORCH_CHECK(false, what, " ", std::string(given), " is not known to this operator");
}

}  // namespace itm::cuda
