// A similarity as the engine sees it, and what the engine does with one: for all pairs (engine.cpp) and for given pairs
// (pairs.cpp), which are compiled once for all similarities.
#pragma once

#include <cstdint>
#include <functional>

#include "batch.h"
#include "candidate_lists.h"
#include "tile.h"

namespace itm {

template <class T>
struct Similarity {
  std::function<void(const Tile<T>&)> forward, backward;
  std::function<int64_t(int64_t n_context, int64_t stride, int64_t n_groups)> scratch;
  bool needs_gram;  // Gram matrices of the context and norms of the queries
};

// scores[c * context_stride + q * query_stride] for every context group c and query group q.
template <class In, class Op, class T>
void score_forward(const Batch& context, const Batch& query, const Similarity<T>& similarity, T* scores,
                   int64_t context_stride, int64_t query_stride);

// Null outputs are not computed; grad_parameter is addressed as grad_scores is. A vector that is all zero gets gradient
// 0 from a similarity with norms (the originals: NaN).
template <class In, class T>
void score_backward(const Batch& context, const Batch& query, const Similarity<T>& similarity, const T* grad_scores,
                    int64_t context_stride, int64_t query_stride, In* grad_context, In* grad_query, T* grad_parameter);

// scores[i] of every candidate i that isn't -1. owners_list: see PairLists.
template <class In, class T>
void score_pairs(const Batch& owners, const Batch& others, bool owner_is_context, const Candidates& candidates,
                 bool owners_list, const Similarity<T>& similarity, T* scores);

// Null outputs are not computed; grad_scores and grad_parameter are addressed as the candidates are. What no list names
// is not written.
template <class In, class T>
void score_pairs_backward(const Batch& owners, const Batch& others, bool owner_is_context, const Candidates& candidates,
                          bool owners_list, const Similarity<T>& similarity, const T* grad_scores, In* grad_owner,
                          In* grad_member, T* grad_parameter);

}  // namespace itm
