// Similarity vectors of words and what they attend to (SGR, SAF: Diao et al., AAAI 2021; Paranioar/SGRAF, model.py):
// the kernels of one tile, an image against a block of captions. The driver is attended_similarity_tiles.h.
#pragma once

#include "cross_attention.h"
#include "isa.h"
#include "tile.h"

namespace itm {

// A run of the dimension: a block of words, their attended contexts and a slice of the weight fit a cache together.
constexpr int64_t kDimensionRun = 64;

// What the attention of a tile is for; columns from tile.n_columns to the tile's width are 0 everywhere.
template <class T>
struct Attended {
  double lambda_softmax;
  T* weights;  // [columns, n_context]: the attended context at unit length is weights . context
  // backward only
  const T* dot;          // [columns] of context at unit length and its cotangent
  const T* projections;  // [columns, projections_stride] of that cotangent on the context vectors
  int64_t projections_stride;
  T* grad_sims_transposed;  // [columns, n_context], overwritten, as tile.grad_sims is
};

#define ITM_DECLARE_ATTENDED_SIMILARITY(isa)                                                                          \
  namespace isa {                                                                                                     \
  template <class T>                                                                                                  \
  void attended_weights(const Tile<T>&, const Attended<T>&);                                                          \
  template <class T>                                                                                                  \
  const T* attended_weights_kept(const Tile<T>&, const Attended<T>&);                                                 \
  template <class T>                                                                                                  \
  void attended_weights_backward(const Tile<T>&, const Attended<T>&);                                                 \
  template <class T>                                                                                                  \
  void squared_differences(int64_t n, T* contexts, const T* words);                                                   \
  template <class T>                                                                                                  \
  void squared_differences_backward(int64_t rows, int64_t width, const T* words, T* contexts, T* grad, T* grad_words, \
                                    T* dot);                                                                          \
  template <class T>                                                                                                  \
  void unit_rows(int64_t rows, int64_t width, int64_t stride, const T* vectors, const T* bias, T* out, T* lengths);   \
  template <class T>                                                                                                  \
  void unit_rows_backward(int64_t rows, int64_t padded_rows, int64_t width, int64_t stride, const T* grad,            \
                          const T* units, const T* lengths, T* out, T* transposed, T* grad_bias);                     \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_ATTENDED_SIMILARITY)
#undef ITM_DECLARE_ATTENDED_SIMILARITY

}  // namespace itm
