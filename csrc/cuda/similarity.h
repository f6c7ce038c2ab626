// Arguments of the similarities' kernels; the launchers take raw pointers and a stream and know no torch.
//
// A similarity has a context and queries (t2i: regions and words; i2t: words and regions), both padded batches of
// groups of vectors. It is a function of S = context . queries^T, of the Gram matrix of each context group and of the
// queries' norms.
#pragma once

#include <cstdint>

#include "../options.h"
#include "number.h"

namespace itm::cuda {

// Attention, or the largest similarity of each query (`attends` false; the aggregation and its lambda count then).
struct SimilarityOptions {
  double lambda_softmax, lambda_lse;
  FeatureNorm feature_norm;
  Aggregation aggregation;
  int32_t attends;
};

// ---- vectors.cu

// Norms of the vectors of a batch and, where asked for, a copy of it: groups of `pitch` vectors of `padded_dim`
// numbers, zero where the batch has none. Nothing beyond a group's count is read.
struct VectorsArgs {
  const void* data;
  const int64_t* counts;  // (n_groups,), or null: all valid. A count that isn't 1 ... max leaves the group without any
  void* copy;             // (n_groups, pitch, padded_dim), type `to`; or null
  void* norms;            // (n_groups, pitch) float, double where the batch is; or null
  int64_t group_stride, vector_stride, number_stride;  // of data, in numbers
  int32_t n_groups, max, dim, pitch, padded_dim;
};
// to: the type of the data, or float for 16-bit data.
void prepare_vectors(const VectorsArgs& args, Number from, Number to, void* stream);

// Groups in their order, as many to a tile as fit.
struct PlanArgs {
  const int64_t* counts;
  int32_t* sizes;       // (n_groups,): the count, 0 where it isn't 1 ... max
  int32_t* offsets;     // (n_groups + 1,): vectors before each group, without padding
  int32_t* tile_begin;  // (n_groups + 1,): first group of each tile, then n_groups
  int32_t* n_tiles;     // 1
  int32_t n_groups, max;
  int32_t limit, most_groups;  // vectors and groups of a tile; max <= limit
};
void plan_tiles(const PlanArgs& args, void* stream);

// Lists of candidates: place list * length + i has the i-th member of a list, a group of the other side. Members go to
// tiles in their order, as many to a tile as fit, those of one list only; one beyond the limit has a tile by itself.
struct ListsArgs {
  const int64_t* candidates;       // (n_lists, length); -1: none
  const int64_t* counts;           // of the members, as in PlanArgs
  int32_t* groups;                 // (n_lists * length,): the member's group, -1 where there is none
  int32_t* sizes;                  // (n_lists * length,): its vectors
  int32_t* offsets;                // (n_lists * length,): vectors of the list before it
  int32_t *tile_begin, *tile_end;  // (n_lists * length,): places; a list's tiles follow each other
  int32_t* n_tiles;                // 1; counts on from what it is
  float* scores;  // (n_lists, length); written where there is no member: -inf, NaN where an index is out of range
  int32_t n_lists, length, n_groups, max;  // n_groups, max: of the members
  int32_t limit, most_groups;
};
void plan_lists(const ListsArgs& args, void* stream);

// ---- tiles.cu

constexpr int kTileVectors = 128, kTileContexts = 32, kTileQueries = 16;  // at most in a tile

enum class Product { kBf16, kF16, kTf32, kTf32x3 };  // float32 as one, or as three products of TF32

// Groups in the order of a plan, or the members of lists in theirs. A tile has the places tile_begin ... tile_end - 1.
struct Side {
  const void* data;  // (n_groups, max, dim) contiguous, rows of a multiple of 16 bytes, 16-byte aligned
  const int32_t *sizes, *offsets, *tile_begin, *tile_end, *n_tiles;  // of the plan
  const int32_t* groups;              // at each place; -1: none; or null: group and place are the same
  int32_t n_groups, max, most_tiles;  // most_tiles: bound of n_tiles that the host knows
  int32_t list_length;                // of lists whose owners are the other side, a tile each; or 0
};

// Scores of every context with every query group, or of the owners of lists with their members, by place. S of a tile
// of 128 x 128 vectors lives in shared memory only.
struct TilesArgs {
  Side context, query;
  const float* gram;   // of the context's groups, as gram_tiles writes them
  const float* norms;  // (n_groups, norm_pitch) of the queries
  float* scores;
  int64_t context_stride, query_stride;  // of scores
  SimilarityOptions options;
  int32_t dim, gram_blocks, norm_pitch;  // gram_blocks: of a context
  int32_t multiprocessors;               // for as many blocks as these run at a time
};
void score_tiles(const TilesArgs& args, Product product, void* stream);

// Gram matrices of the context groups, as score_tiles reads them: 8 x 8 blocks on and below the diagonal, row by row,
// in the order in which the lanes of a warp take them, each number in two parts.
constexpr int kGramBlock = 128;  // numbers
inline int64_t gram_blocks(int64_t pitch) { return pitch / 8 * (pitch / 8 + 1) / 2; }
struct GramArgs {
  Side context;
  float* gram;  // (n_groups, gram_blocks(pitch), kGramBlock); pitch: a multiple of 8
  int32_t dim, pitch, multiprocessors;
};
void gram_tiles(const GramArgs& args, Product product, void* stream);

// ---- largest.cu

// The largest similarity of each query vector with each of some context groups of any size, and the row that reaches
// it. Query vectors are counted without padding: vector i of group g is number offsets[g] + i. Of lists: where contexts
// own them, (n_contexts, pitch) with the vectors of a context's own list alone; where queries do, a row of what is
// written is a place of the lists, with the vectors of the list's owner.
struct LargestArgs {
  Side context, query;  // of the query's plan only sizes and offsets count
  float* largest;       // (n_contexts, pitch); NaN where the context has no vectors
  int32_t* rows;        // (n_contexts, pitch): the first row of the group that reaches it, -1 without any; or null
  int64_t pitch;
  int32_t dim, multiprocessors;
};
void find_largest(const LargestArgs& args, Product product, void* stream);

// From the largest similarities to scores (grad_scores null), or to their cotangents, which take their place.
struct PairsArgs {
  float* largest;
  int32_t* rows;                   // of the maximum's aggregation: becomes -1 but where the score is from; or null
  const int32_t *sizes, *offsets;  // of the queries; offsets null: of lists that queries own
  const int32_t* groups;           // of lists: at each of their n_contexts x n_queries places, -1: none; or null
  float* scores;                   // or null
  const float* grad_scores;
  int64_t pitch, context_stride, query_stride;  // of scores
  SimilarityOptions options;
  int32_t n_contexts, n_queries;
};
void score_largest(const PairsArgs& args, void* stream);

// ---- gather.cu

// Gradients from the rows of the largest similarities and their cotangents: sums in a fixed order, in float32.
struct GatherArgs {
  const void *context, *query;  // (n_groups, max, padded_dim), rows of a multiple of 16 bytes, 16-byte aligned
  const int32_t* rows;          // (n_contexts, pitch); what is no row of a context counts for nothing
  float* weights;               // (n_contexts, pitch): the cotangents; or null: those of the scores are theirs
  const float* grad_scores;
  int32_t* sources;                // (pitch,): the place of each query vector in the batch, as place_queries writes it
  const int32_t *sizes, *offsets;  // of the query groups
  void* out;    // gather_contexts: (n_contexts, context_max, dim); gather_queries: (n_queries, query_max, dim), on the
                // last of several rounds of contexts
  float* sums;  // gather_queries: (n_queries, query_max, padded_dim) between rounds; or null
  int64_t pitch, context_stride, query_stride;  // of the scores
  int32_t n_contexts, n_queries, context_max, query_max, dim, padded_dim, first_round, last_round;
  int32_t means;  // whether a score's cotangent is that of each of its query vectors times their number
};
void place_queries(const GatherArgs& args, void* stream);
// weights: the largest similarities themselves, from their rows; NaN without one.
void multiply_chosen(const GatherArgs& args, Number number, void* stream);
void gather_contexts(const GatherArgs& args, Number number, void* stream);
void gather_queries(const GatherArgs& args, Number number, void* stream);

// ---- chunks.cu

// Of the backward pass, where tensor cores make G a and a a^T: the weights before G a, or what comes after it.
enum class ChunkPart : int32_t { kWhole, kWeights, kRest };

// S of some contexts with all queries lies in memory, made by a matrix product of zero-padded copies: row
// context * context_pitch + vector, column query * query_pitch + vector. float, or double throughout.
struct ChunkArgs {
  const void* sims;
  const int64_t *context_counts, *query_counts;  // or null
  const void* gram;                              // (n_contexts, context_pitch, context_pitch)
  const void* norms;                             // (n_queries, query_pitch)
  void* scores;                                  // forward
  const void* grad_scores;                       // backward; strides as scores
  const float* scale;                            // backward: dS is written times this; or null: as it is
  void* grad_sims;                               // backward: of type grad_type; may be sims where the types agree
  // Backward but for kRest: (splits, n_contexts, gram_numbers), gram_numbers = lower_numbers(context_pitch).
  void* grad_gram;
  void* kappa;  // backward: (n_contexts, n_queries * query_pitch): the queries' gradient along themselves
  // Backward, not on chip: scratch of the shape of sims. kWeights writes `weights` as (n_contexts, columns,
  // context_pitch), where they must be zero; kRest takes G a as `products`, and leaves a in `weights`, and in
  // `products` a times the cotangent of a^T G a.
  void *weights, *products;
  int64_t context_stride, query_stride;  // of scores
  SimilarityOptions options;
  int32_t n_contexts, n_queries, context_max, query_max, context_pitch, query_pitch;  // pitches: multiples of 4 and 8
  int32_t queries_per_tile, splits,
      gram_numbers;  // a block goes through the tiles of one split; kChunkColumns bounds a tile
  ChunkPart part;    // backward, float, not on chip; else kWhole
};
// Of a symmetric matrix the 4 x 4 blocks on and below the diagonal are kept, row by row of blocks: so many numbers.
inline int32_t lower_numbers(int32_t pitch) { return pitch / 4 * (pitch / 4 + 1) / 2 * 16; }

constexpr int kChunkColumns = 64;  // of a tile of several query groups

// Bytes of shared memory with S of a pair in it (on_chip: float32 only), or without.
int64_t chunk_shared_bytes(const ChunkArgs& args, Number number, bool backward, bool on_chip);
void score_chunk(const ChunkArgs& args, Number number, bool on_chip, void* stream);
void gradient_chunk(const ChunkArgs& args, Number number, Number grad_type, bool on_chip, void* stream);

// ---- attention_chunks.cu

// Attention's scores on tensor cores where S of some contexts with some queries lies in memory, as ChunkArgs says, in
// float32. Query vectors are counted without padding in what is written, as largest.cu counts them.
struct AttentionArgs {
  const float* sims;
  const int64_t* context_counts;               // or null
  const int32_t *query_sizes, *query_offsets;  // of the queries' plan
  const float* norms;                          // (n_queries, query_pitch)
  float* numbers;    // scratch: (n_contexts, n_queries, context_pitch), the first normalisation's
  const void* gram;  // of these contexts, as split_gram writes them
  const float *powers, *units;
  float* values;  // (n_contexts, values_pitch): the query vectors' cosines with what they attend to
  int64_t values_pitch;
  SimilarityOptions options;
  int32_t n_contexts, n_queries, context_max, context_pitch, query_pitch;
};
// A block's columns of S and threads; no columns where shared memory has no room for as many rows. Two blocks of 256
// threads fit into a multiprocessor, or one of 512.
struct AttentionBlock {
  int32_t columns, threads;
};
AttentionBlock attention_block(int64_t context_pitch, int64_t shared_limit);
void attend_chunk(const AttentionArgs& args, AttentionBlock block, void* stream);

// Gram matrices as the tensor cores take them: lower tiles of 32 columns in steps of 16 rows, each number as the sum of
// two of float16, divided by powers of two near the norms of its row and column.
struct SplitGramArgs {
  const float* gram;  // (n_contexts, pitch, pitch)
  void* out;          // (n_contexts, attention_steps(pitch), kStepBytes)
  float* powers;      // (n_contexts, attention_rows(pitch)): of each row, relative to the largest
  float* units;       // (n_contexts,): what a square root of a^T G a by these is to be multiplied with
  int32_t n_contexts, pitch;
};
void split_gram(const SplitGramArgs& args, void* stream);

constexpr int kStepBytes = 2048;
inline int64_t attention_rows(int64_t pitch) { return (pitch + 15) / 16 * 16; }
inline int64_t attention_steps(int64_t pitch) {
  const int64_t blocks = (pitch + 15) / 16, tiles = (blocks + 1) / 2;
  return tiles * (tiles + 1) - blocks % 2;
}

// ---- gradients.cu

// A power of two for dS in float16 from all its cotangents: times it, the largest of them is in [16, 32). dS of unit
// vectors is then far from float16's largest number, and what is 2^-28 of the largest is not lost.
void scale_for_float16(const float* grad_scores, int64_t n, float* scale, void* stream);

// The gradient of one side from sums of products: out = product + square . vectors (context) or + kappa vectors
// (queries), in the type and layout of the input; 0 beyond the counts and where a vector is all zero.
struct GradientsArgs {
  const void* product;  // (n_groups, pitch, padded_dim), float or double
  const void* vectors;  // the prepared copy, same shape
  const void* square;   // (splits, n_groups, square_numbers), lower_numbers(pitch) of each, or pitch^2; or null
  const void* kappa;    // (n_groups, pitch); or null
  const void* norms;    // (n_groups, pitch): a vector of norm 0 has gradient 0; or null
  const float* scale;   // that `product` is divided by; or null
  const int64_t* counts;
  void* out;  // (n_groups, max, dim) contiguous
  int32_t n_groups, max, dim, pitch, padded_dim, splits, square_numbers;
};
// number: of product and sums; vectors: of the copy; out: of the result.
void finish_gradients(const GradientsArgs& args, Number number, Number vectors, Number out, void* stream);

}  // namespace itm::cuda
