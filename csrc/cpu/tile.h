// What one similarity sees of the tile engine: plain pointers, no torch.
//
// A similarity compares a *query group* with a *context group* through S = context . query^T. For "t2i" a query group
// is a caption (its words) and a context group an image (its regions); for "i2t" the roles are swapped. A tile is one
// context group (rows) against the query groups of a column block (columns, side by side without padding between them),
// so that everything that works per query is vectorised down the columns.
#pragma once

#include <cstdint>

namespace itm {

// Columns are padded to this many numbers, and every row of a tile may be read up to kColumnSlack numbers past its end.
constexpr int64_t kColumnMultiple = 16;
constexpr int64_t kColumnSlack = 16;

template <class T>
struct Tile {
  int64_t context;         // number of the context group in its batch
  int64_t first_group;     // of the block's first query group in its batch
  const int64_t* pairs;    // [n_groups] of given pairs, where each is in the candidates; null: all pairs
  int64_t n_context;       // vectors of the context group
  int64_t n_columns;       // query vectors of all groups of the block
  int64_t n_groups;        // query groups of the block
  const int32_t* columns;  // [n_groups + 1] first column of each group
  const T* sims;           // S [n_context, stride]
  int64_t stride;          // numbers from one row of S (and of grad_sims) to the next
  const T* gram;           // G = context . context^T [n_context padded to 4, gram_stride]; null unless asked for
  int64_t gram_stride;     // multiple of 4; the padding is zero
  const T* query_norm;     // |query| [n_columns], readable up to the padded width
  T* scores;               // result of group g at scores[g * score_stride]
  int64_t score_stride;
  // backward only
  const T* grad_scores;  // cotangent of group g at grad_scores[g * score_stride]
  T* grad_sims;          // dS [n_context, stride], overwritten
  T* grad_gram;          // dG + dG^T [as gram], added to; both triangles
  T* grad_query;         // kappa [n_columns], added to: the factor of the query vector itself in its gradient
  T* grad_parameter;     // of group g in the similarity's learnt number at grad_parameter[g * score_stride]; or null
  T* scratch;            // scratch_numbers(...) of the similarity
};

}  // namespace itm
