// Blocks of S turned from one orientation to the other, for given pairs.
#pragma once

#include <cstdint>

#include "isa.h"

namespace itm {

#define ITM_DECLARE_TURN_BLOCK(isa)                                                                             \
  namespace isa {                                                                                               \
  template <class T>                                                                                            \
  void turn_block(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride); \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_TURN_BLOCK)
#undef ITM_DECLARE_TURN_BLOCK

}  // namespace itm
