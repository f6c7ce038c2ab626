// Kernels for processors with AVX2 and FMA.
// Standard headers come before the target pragma: nothing of theirs may be compiled for a set the processor lacks.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "attended_similarity.h"
#include "cider.h"
#include "cross_attention.h"
#include "generalised_pooling.h"
#include "gram_matrix.h"
#include "graph_reasoning.h"
#include "level_attention.h"
#include "max_similarity.h"
#include "patch_word_similarity.h"
#include "ranking.h"
#include "tile.h"
#include "tile_product.h"
#include "turn_block.h"

#if ITM_X86
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#define VEC_BYTES 32
namespace itm::avx2 {
#include "kernels.inl"
}  // namespace itm::avx2

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
