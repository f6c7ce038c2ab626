// Columns of a tile put together from those of its members, and blocks turned from one orientation to the other.
#pragma once

#include <cstdint>

#include "isa.h"

namespace itm {

#define ITM_DECLARE_PAIR_COLUMNS(isa)                                                                             \
  namespace isa {                                                                                                 \
  template <class T>                                                                                              \
  void copy_columns(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride); \
  template <class T>                                                                                              \
  void turn_block(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride);   \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_PAIR_COLUMNS)
#undef ITM_DECLARE_PAIR_COLUMNS

}  // namespace itm
