// Scores by tiles.cu: groups of at most 128 vectors on both sides, S on chip.
#pragma once

#include "groups.h"

namespace itm::cuda {

// Whether the kernels take them on this device.
bool tiles_fit(const Launch& launch, const Roles& roles);

void score_by_tiles(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores);

// Of each list's owner with its members, nothing of which is copied. candidates, scores: (n_lists, k), contiguous.
void score_lists_by_tiles(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& candidates,
                          bool contexts_own, const Tensor& scores);

}  // namespace itm::cuda
