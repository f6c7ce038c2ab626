// max_similarity by largest.cu and gather.cu: contexts of any size are streamed, S is never in memory.
#pragma once

#include "groups.h"

namespace itm::cuda {

// Of a padded batch, with its padding: so many numbers the rows of a context have.
int64_t query_vectors(const Roles& roles);

// rows: (context.n, query_vectors) int32, receives the row of each largest similarity, of the query vectors counted
// without padding; -1 without one, and where a maximum's score is from another. Beyond the vectors nothing is written.
void score_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores,
                      const std::optional<Tensor>& rows);

// (owner.n, k) scores of given pairs; -inf for -1, NaN for another index that is no group.
void score_lists_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& candidates,
                            bool contexts_own, const Tensor& scores);

// Writes the gradients that are asked for. cotangent: (n_images, n_captions) float32, contiguous; kept: the rows that
// the forward pass has kept, or nothing: they are found again.
void gradients_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& cotangent,
                          const std::optional<Tensor>& kept, const Tensor* grad_context, const Tensor* grad_query);

}  // namespace itm::cuda
