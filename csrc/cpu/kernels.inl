// Every kernel, in order of use; each instruction set compiles this list in a namespace of its own.
// clang-format off
#include "vec.inl"
#include "tile_product.inl"
#include "tile_product_listed.inl"
#include "tile_product_numbers.inl"
#include "turn_block.inl"
#include "groups.inl"
#include "gram_form.inl"
#include "cross_attention.inl"
#include "attended_similarity.inl"
#include "graph_reasoning.inl"
#include "generalised_pooling.inl"
#include "level_attention.inl"
#include "max_similarity.inl"
#include "patch_word_similarity.inl"
#include "cider.inl"
#include "ranking.inl"
// clang-format on
