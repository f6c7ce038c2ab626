// Gram matrices of few vectors: half of their products, and nothing turned or copied.
#pragma once

#include <cstdint>

#include "isa.h"

namespace itm {

constexpr int64_t kGramVectors = 64;  // of more, tile products: their parts stay in the cache

// gram [n, stride] = rows . rows^T; n is at most kGramVectors.
#define ITM_DECLARE(isa)                                                                   \
  namespace isa {                                                                          \
  template <class T>                                                                       \
  void gram_matrix(const T* const* rows, int64_t n, int64_t dim, T* gram, int64_t stride); \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE)
#undef ITM_DECLARE

}  // namespace itm
