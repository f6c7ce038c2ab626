// cross_attention_similarity of contexts or queries beyond a tile, forward, by attention_chunks.cu.
#pragma once

#include "groups.h"

namespace itm::cuda {

// Of S at a time in the forward pass: it stays in an L2 cache (A100: 40 MB) between the product that writes it and the
// kernel that reads it.
constexpr int64_t kCachedBytes = kScratchBytes < int64_t(24) << 20 ? kScratchBytes : int64_t(24) << 20;

// Whether a block has room for contexts of so many vectors.
bool attention_fits(const Launch& launch, int64_t max);

void score_by_attention(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores);

}  // namespace itm::cuda
