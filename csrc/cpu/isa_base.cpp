// Portable kernels: 16-byte vectors, the compiler's default target.
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

#define VEC_BYTES 16
namespace itm::base {
#include "kernels.inl"
}  // namespace itm::base
