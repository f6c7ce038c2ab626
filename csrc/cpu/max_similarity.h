// Late interaction (ColBERT, FILIP, CHAN's VHA and THA): each query vector's largest dot product with the context,
// aggregated.
#pragma once

#include "cross_attention.h"
#include "isa.h"
#include "tile.h"

namespace itm {

struct MaxSimilarity {
  Aggregation aggregation;
  double lambda_lse;
};

// Of a tile's columns: the context row that each maximum is in, and the maximum itself; null where nobody asks.
template <class T>
struct Maxima {
  int32_t* rows;
  T* values;
};

// Weighted rows added to others: to[to_row(i)] += weights[i] from[from_row(i)], one after another; a weight of 0 adds
// nothing. Null: row i.
template <class T>
struct WeightedRows {
  int64_t n, dim;
  const T* weights;
  const T* from;
  int64_t from_stride;
  const int32_t* from_row;
  T* to;
  const int32_t* to_row;
};

inline int64_t max_similarity_scratch(int64_t, int64_t stride, int64_t n_groups) { return 4 * stride + n_groups; }

#define ITM_DECLARE_MAX_SIMILARITY(isa)                                                                  \
  namespace isa {                                                                                        \
  template <class T>                                                                                     \
  void max_similarity_forward(const Tile<T>&, const MaxSimilarity&, const Maxima<T>&);                   \
  template <class T>                                                                                     \
  void max_similarity_backward(const Tile<T>&, const MaxSimilarity&);                                    \
  template <class T>                                                                                     \
  void weights_of_maxima(const Tile<T>&, const MaxSimilarity&, const T* values, T* weights, T* scratch); \
  template <class T>                                                                                     \
  void add_weighted_rows(const WeightedRows<T>&);                                                        \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_MAX_SIMILARITY)
#undef ITM_DECLARE_MAX_SIMILARITY

}  // namespace itm
