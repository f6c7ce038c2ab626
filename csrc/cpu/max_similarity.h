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

inline int64_t max_similarity_scratch(int64_t, int64_t stride, int64_t n_groups) { return 4 * stride + n_groups; }

#define ITM_DECLARE_MAX_SIMILARITY(isa)                               \
  namespace isa {                                                     \
  template <class T>                                                  \
  void max_similarity_forward(const Tile<T>&, const MaxSimilarity&);  \
  template <class T>                                                  \
  void max_similarity_backward(const Tile<T>&, const MaxSimilarity&); \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_MAX_SIMILARITY)
#undef ITM_DECLARE_MAX_SIMILARITY

}  // namespace itm
