// max_similarity by largest.cu and gather.cu: contexts of any size are streamed, S is never in memory.
#pragma once

#include "groups.h"

namespace itm::cuda {

void score_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores);

// Writes the gradients that are asked for. cotangent: (n_images, n_captions) float32, contiguous.
void gradients_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& cotangent,
                          const Tensor* grad_context, const Tensor* grad_query);

}  // namespace itm::cuda
