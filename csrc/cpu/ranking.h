// Ranks and top-k lists of queries, folded tile by tile. A tile holds scores of some queries (its rows or its columns)
// with some items of the gallery. Order: higher score first, then lower index. Scores hold no NaN.
#pragma once

#include <cstdint>

#include "isa.h"

namespace itm {

template <class T>
struct ScoreTile {
  const T* scores;  // [rows, stride]
  int64_t rows, columns, stride;
  int64_t first_query, first_item;
};

// Positives of every query and what came before them so far. "Before positive p": a higher score, or the same and a
// lower index. Positives themselves are never counted.
template <class T>
struct RankCounts {
  const T* scores;         // [n_queries, slots], best first
  const int64_t* index;    // [n_queries, slots] items, in the order of `scores`
  const int64_t* n_slots;  // [n_queries] how many of the slots are used
  int64_t slots;
  int64_t* n_above;     // [n_queries] scores above the best positive's
  int64_t* n_at_least;  // [n_queries] scores at least the best positive's
  int64_t* n_before;    // [n_queries, slots]
};

// The k best of every query so far: a heap whose root is the worst.
template <class T>
struct TopK {
  T* values;         // [n_queries, k]
  int64_t* indices;  // [n_queries, k]
  int64_t k;
};

// Queries begin ... end - 1 of the tile: rows, or columns. The numbers of a column call are bounded by kColumnQueries.
constexpr int64_t kColumnQueries = 256;

#define ITM_DECLARE_RANKING(isa)                                                             \
  namespace isa {                                                                            \
  template <class T>                                                                         \
  bool nan_in_rows(const ScoreTile<T>&, int64_t begin, int64_t end);                         \
  template <class T>                                                                         \
  void count_rows(const ScoreTile<T>&, const RankCounts<T>&, int64_t begin, int64_t end);    \
  template <class T>                                                                         \
  void count_columns(const ScoreTile<T>&, const RankCounts<T>&, int64_t begin, int64_t end); \
  template <class T>                                                                         \
  void keep_rows(const ScoreTile<T>&, const TopK<T>&, int64_t begin, int64_t end);           \
  template <class T>                                                                         \
  void keep_columns(const ScoreTile<T>&, const TopK<T>&, int64_t begin, int64_t end);        \
  }
ITM_FOR_EACH_ISA(ITM_DECLARE_RANKING)
#undef ITM_DECLARE_RANKING

}  // namespace itm
