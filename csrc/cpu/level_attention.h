// ESL's similarity: affinities of words and regions attended both ways (CrossmodalGroup/ESL).
#pragma once

#include "isa.h"
#include "tile.h"

namespace itm {

struct LevelAttention {
  double temperature;
};

// Scratch of one worker in numbers, for tiles of at most n_context x stride with n_groups query groups.
inline int64_t level_attention_scratch(int64_t n_context, int64_t stride, int64_t n_groups) {
  return 3 * n_context * stride + 6 * stride + 5 * n_context * n_groups;
}

#define ITM_DECLARE_LEVEL_ATTENTION(isa)                                \
  namespace isa {                                                       \
  template <class T>                                                    \
  void level_attention_forward(const Tile<T>&, const LevelAttention&);  \
  template <class T>                                                    \
  void level_attention_backward(const Tile<T>&, const LevelAttention&); \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_LEVEL_ATTENTION)
#undef ITM_DECLARE_LEVEL_ATTENTION

}  // namespace itm
