// The tile product of bfloat16 for processors that multiply its pairs (AVX512_BF16).
// Standard headers come before the target pragma: nothing of theirs may be compiled for a set the processor lacks.
#include "tile_product.h"

#if ITM_X86
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")
#endif

#define VEC_BYTES 64
namespace itm::avx512bf16 {
// clang-format off
#include "vec.inl"
#include "tile_product.inl"
// clang-format on

namespace {

// Two neighbours along k in one lane: both products go to the lane's float32 sum.
struct Pairs {
  using Unit = int32_t;
  using Sum = float;
  static ITM_INLINE __m512i row(const int32_t* b) { return _mm512_loadu_si512(b); }
  static ITM_INLINE __m512i everywhere(const int32_t* a) {
    int32_t pair;
    std::memcpy(&pair, a, sizeof(pair));  // a row of somebody's tensor may start at any bfloat16
    return _mm512_set1_epi32(pair);
  }
  static ITM_INLINE Vec<float> multiply_add(Vec<float> sum, __m512i left, __m512i right) {
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)left, (__m512bh)right);
  }
};

using Number = torch::headeronly::BFloat16;

const int32_t* pairs(const Number* numbers) { return reinterpret_cast<const int32_t*>(numbers); }

void of_rows(int64_t m, int64_t n, int64_t k, int64_t run, const Number* a, int64_t lda, const Number* b, int64_t ldb,
             float* c, int64_t ldc, bool accumulate) {
  tile_product_impl::product_of_rows<Pairs>(m, n, k / 2, run / 2, pairs(a), lda / 2, pairs(b), ldb, c, ldc, accumulate);
}

template <bool kPacked>
void of_panels(int64_t m, int64_t n, int64_t k, int64_t run, const Number* a, int64_t lda, const Number* b, float* c,
               int64_t ldc, bool accumulate) {
  tile_product_impl::product_of_panels<Pairs, kPacked>(m, n, k / 2, run / 2, pairs(a), lda / 2, pairs(b), c, ldc,
                                                       accumulate);
}

void pack_left(int64_t m, int64_t k, int64_t run, const Number* a, int64_t lda, Number* out) {
  tile_product_impl::pack_left<Pairs>(m, k / 2, run / 2, pairs(a), lda / 2, reinterpret_cast<int32_t*>(out));
}

}  // namespace

TileProduct<Number, float> tile_product() {
  using namespace tile_product_impl;
  return {of_rows, of_panels<false>, of_panels<true>, pack_left, kVectorsAtOnce * kLanes<float>, kLanes<float>};
}

}  // namespace itm::avx512bf16

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
