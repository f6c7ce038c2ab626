// Kernels for processors with AVX-512.
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
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif

#define VEC_BYTES 64
namespace itm::avx512 {
#include "kernels.inl"
}  // namespace itm::avx512

#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
