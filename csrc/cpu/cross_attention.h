// SCAN's cross attention in its closed form (Lee et al., ECCV 2018; kuanghuei/SCAN, model.py): options and entry
// points.
#pragma once

#include "../options.h"
#include "isa.h"
#include "tile.h"

namespace itm {

struct CrossAttention {
  FeatureNorm feature_norm;
  Aggregation aggregation;
  double lambda_softmax;
  double lambda_lse;
};

// Scratch of one worker in numbers, for tiles of at most n_context x stride with n_groups query groups.
inline int64_t cross_attention_scratch(int64_t n_context, int64_t stride, int64_t n_groups) {
  const int64_t context = (n_context + 3) / 4 * 4;
  return 3 * context * stride + 8 * stride + 2 * context * (n_groups + kColumnSlack);
}

#define ITM_DECLARE_CROSS_ATTENTION(isa)                                \
  namespace isa {                                                       \
  template <class T>                                                    \
  void cross_attention_forward(const Tile<T>&, const CrossAttention&);  \
  template <class T>                                                    \
  void cross_attention_backward(const Tile<T>&, const CrossAttention&); \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_CROSS_ATTENTION)
#undef ITM_DECLARE_CROSS_ATTENTION

}  // namespace itm
