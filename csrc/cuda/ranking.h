// Arguments of the ranking kernels; the launchers take raw pointers and a stream and know no torch. A tile holds scores
// of some queries (its rows, or its columns) with some items of the gallery, float or double, without NaN. Order:
// higher score first, then lower index.
#pragma once

#include <cstdint>

#include "number.h"

namespace itm::cuda {

struct ScoreTile {
  const void* scores;  // [rows][stride], numbers of a row side by side
  int64_t stride, first_query, first_item;
  int32_t rows, columns;
};

struct NanArgs {
  ScoreTile tile;
  int32_t* found;  // zero before; becomes 1 where a score is NaN
};
void find_nan(const NanArgs& args, Number number, void* stream);

// Positives of every query, and what comes before them so far: as csrc/cpu/ranking.h has it.
struct CountArgs {
  ScoreTile tile;
  const void* scores;    // (n_queries, slots), type of the tile, best first
  const int64_t* index;  // (n_queries, slots)
  const int64_t* n_slots;
  int64_t *n_above, *n_at_least;  // (n_queries,)
  int64_t* n_before;              // (n_queries, slots)
  int32_t slots, queries_are_rows;
};
void count_ranks(const CountArgs& args, Number number, void* stream);

// The k best of every query so far, best first; places that nobody has taken are last, with index INT64_MAX.
struct KeepArgs {
  ScoreTile tile;        // queries are rows; no columns: the lists are only put in order
  void* values;          // (n_queries, k)
  int64_t* indices;      // (n_queries, k)
  void* scratch_values;  // not on chip: (rows, capacity) each
  int64_t* scratch_indices;
  int64_t k;
  int32_t capacity;  // of a list with its candidates: a power of two, at least k + kCandidates
};
constexpr int kCandidates = 1024;  // items that are looked at between two looks at the list
int64_t keep_shared_bytes(const KeepArgs& args, Number number, bool on_chip);
void keep_topk(const KeepArgs& args, Number number, bool on_chip, void* stream);

// out (columns, rows) = the tile's scores, transposed.
struct TransposeArgs {
  ScoreTile tile;
  void* out;
};
void transpose_scores(const TransposeArgs& args, Number number, void* stream);

}  // namespace itm::cuda
