// Generalised pooling (GPO: Chen et al., CVPR 2021): every channel's numbers in decreasing order, weighted by rank.
#pragma once

#include <cstdint>

#include "isa.h"

namespace itm {

// Two places of a sorting network: the larger number comes to the first. Plain pointers pass it to the kernels: what
// the standard library instantiates there would be compiled for their instruction set.
struct Exchange {
  int32_t first, second;
};
struct Network {
  const Exchange* exchanges;
  int64_t n_exchanges;
};

#define ITM_DECLARE_GENERALISED_POOLING(isa)                                                                     \
  namespace isa {                                                                                                \
  template <class T>                                                                                             \
  void generalised_pooling(const Network& network, int64_t count, int64_t dim, const T* vectors, const T* theta, \
                           T* pooled, T* scratch);                                                               \
  template <class T>                                                                                             \
  void generalised_pooling_backward(const Network& network, int64_t count, int64_t dim, const T* vectors,        \
                                    const T* theta, const T* grad, T* grad_vectors, T* grad_theta, T* scratch);  \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_GENERALISED_POOLING)
#undef ITM_DECLARE_GENERALISED_POOLING

// Numbers of scratch for sets of at most `most` vectors: a vector of values and one of places for each.
constexpr int64_t generalised_pooling_scratch(int64_t most) { return 2 * most * 16; }

}  // namespace itm
