// Blocks of numbers turned from one orientation to the other.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "isa.h"

namespace itm {

// to [4, to_stride] = transpose of four rows, four numbers of each.
template <class T>
inline __attribute__((always_inline)) void turn_four(const T* r0, const T* r1, const T* r2, const T* r3, T* to,
                                                     int64_t to_stride) {
  typedef T Four __attribute__((vector_size(4 * sizeof(T))));
#if defined(__clang__)
#define ITM_SHUFFLE __builtin_shufflevector
#else
  typedef std::conditional_t<sizeof(T) == 4, int32_t, int64_t> Lanes __attribute__((vector_size(4 * sizeof(T))));
#define ITM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Lanes{__VA_ARGS__})
#endif
  Four x[4];
  const T* rows[4] = {r0, r1, r2, r3};
  for (int i = 0; i < 4; i++) std::memcpy(&x[i], rows[i], sizeof(Four));
  const Four low_02 = ITM_SHUFFLE(x[0], x[2], 0, 4, 1, 5), high_02 = ITM_SHUFFLE(x[0], x[2], 2, 6, 3, 7);
  const Four low_13 = ITM_SHUFFLE(x[1], x[3], 0, 4, 1, 5), high_13 = ITM_SHUFFLE(x[1], x[3], 2, 6, 3, 7);
  const Four columns[4] = {ITM_SHUFFLE(low_02, low_13, 0, 4, 1, 5), ITM_SHUFFLE(low_02, low_13, 2, 6, 3, 7),
                           ITM_SHUFFLE(high_02, high_13, 0, 4, 1, 5), ITM_SHUFFLE(high_02, high_13, 2, 6, 3, 7)};
#undef ITM_SHUFFLE
  for (int i = 0; i < 4; i++) std::memcpy(to + i * to_stride, &columns[i], sizeof(Four));
}

#define ITM_DECLARE_TURN_BLOCK(isa)                                                                             \
  namespace isa {                                                                                               \
  template <class T>                                                                                            \
  void turn_block(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride); \
  /* to [n_units, to_stride] = unit u of vector v, which lies wherever bytes may. */                            \
  template <class T>                                                                                            \
  void turn_vectors(const char* const* vectors, int64_t n_vectors, int64_t n_units, T* to, int64_t to_stride);  \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_TURN_BLOCK)
#undef ITM_DECLARE_TURN_BLOCK

}  // namespace itm
