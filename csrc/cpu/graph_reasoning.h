// Graph reasoning over the similarity vectors of a pair (SGR: Diao et al., AAAI 2021; Paranioar/SGRAF, model.py): what
// is done between the products. The driver is graph_reasoning_tiles.h.
#pragma once

#include <cstdint>

#include "isa.h"

namespace itm {

#define ITM_DECLARE_GRAPH_REASONING(isa)                                                                              \
  namespace isa {                                                                                                     \
  template <class T>                                                                                                  \
  void graph_edges(int64_t rows, int64_t nodes, int64_t width, const T* queries, const T* x, T* edges, T* mixed);     \
  template <class T>                                                                                                  \
  void graph_edges_backward(int64_t rows, int64_t nodes, int64_t width, const T* queries, const T* x, const T* edges, \
                            const T* grad_mixed, T* grad_queries, T* grad_x, T* scratch);                             \
  template <class T>                                                                                                  \
  void add_bias(int64_t rows, int64_t width, const T* bias, bool relu, T* x);                                         \
  template <class T>                                                                                                  \
  void relu_backward(int64_t rows, int64_t width, const T* x, T* grad, T* grad_bias);                                 \
  template <class T>                                                                                                  \
  void column_sums(int64_t rows, int64_t width, const T* x, T* sums);                                                 \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_GRAPH_REASONING)
#undef ITM_DECLARE_GRAPH_REASONING

}  // namespace itm
