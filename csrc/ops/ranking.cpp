// torch.ops.itm_fast.count_ranks_, keep_topk_ and sort_topk_: schemas and CPU registration. Contract:
// itm_fast/ops/ranking.py.
#include "../cpu/ranking.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "../cpu/parallel.h"

namespace itm {
namespace {

constexpr int64_t kRowQueries = 16;  // rows of a work item
constexpr double kSortWork = 512;    // of an item of a sorted list; see parallel.h

void check_state(const Tensor& state, ScalarType type, Shape shape, const char* name) {
  ITM_CHECK_TYPE(state.scalar_type() == type, name, " must be ", type, ", got ", state.scalar_type());
  ITM_CHECK_VALUE(state.is_contiguous() && has_shape(state, shape), name, " must be contiguous of shape ",
                  as_text(shape), ", got ", shape_of(state));
}

template <class T>
ScoreTile<T> score_tile(const Tensor& tile, int64_t first_query, int64_t first_item) {
  return {tile.const_data_ptr<T>(), tile.size(0), tile.size(1), tile.stride(0), first_query, first_item};
}

Tensor checked_tile(const Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
                    int64_t n_queries) {
  ITM_CHECK_VALUE(tile.dim() == 2, "tile must have two dimensions, got ", shape_of(tile));
  ITM_CHECK_TYPE(tile.scalar_type() == ScalarType::Float || tile.scalar_type() == ScalarType::Double,
                 "tile must be float32 or float64, got ", tile.scalar_type());
  ITM_CHECK_VALUE(first_query >= 0 && first_item >= 0 && first_query + tile.size(queries_are_rows ? 0 : 1) <= n_queries,
                  "tile of queries ", first_query, " ... exceeds the ", n_queries, " queries of the state");
  return tile.stride(1) == 1 || tile.size(1) == 1 ? tile : as_contiguous(tile);
}

// Calls rows(begin, end) or columns(begin, end) on pieces of the tile, in parallel; no two pieces share a query.
template <class Rows, class Columns>
void over_queries(const Tensor& tile, bool queries_are_rows, Rows&& rows, Columns&& columns) {
  const int64_t n = tile.size(queries_are_rows ? 0 : 1), piece = queries_are_rows ? kRowQueries : kColumnQueries;
  if (tile.numel() == 0) return;
  parallel_items((n + piece - 1) / piece, tile.numel() * kScanWork, [&](int64_t item) {
    const int64_t begin = item * piece, end = std::min(n, begin + piece);
    queries_are_rows ? rows(begin, end) : columns(begin, end);
  });
}

bool has_nan_cpu(const Tensor& tile) {
  const Tensor dense = checked_tile(tile, 0, 0, true, tile.size(0));
  std::atomic<bool> found{false};
  auto run = [&](auto number) {
    using T = decltype(number);
    const auto at_tile = score_tile<T>(dense, 0, 0);
    parallel_items((at_tile.rows + kRowQueries - 1) / kRowQueries, dense.numel() * kScanWork, [&](int64_t item) {
      const int64_t end = std::min(at_tile.rows, (item + 1) * kRowQueries);
      if (!found && ITM_PICK(nan_in_rows<T>)(at_tile, item * kRowQueries, end)) found = true;
    });
  };
  tile.scalar_type() == ScalarType::Double ? run(double()) : run(float());
  return found;
}

void count_ranks_cpu(const Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
                     const Tensor& scores, const Tensor& index, const Tensor& n_positives, const Tensor& n_above,
                     const Tensor& n_at_least, const Tensor& n_before) {
  const int64_t n = n_positives.numel(), slots = scores.dim() == 2 ? scores.size(1) : 0;
  const Tensor dense = checked_tile(tile, first_query, first_item, queries_are_rows, n);
  check_state(scores, tile.scalar_type(), {n, slots}, "scores");
  check_state(index, ScalarType::Long, {n, slots}, "index");
  check_state(n_positives, ScalarType::Long, {n}, "n_positives");
  check_state(n_above, ScalarType::Long, {n}, "n_above");
  check_state(n_at_least, ScalarType::Long, {n}, "n_at_least");
  check_state(n_before, ScalarType::Long, {n, slots}, "n_before");
  auto run = [&](auto number) {
    using T = decltype(number);
    const auto at_tile = score_tile<T>(dense, first_query, first_item);
    const RankCounts<T> ranks{scores.const_data_ptr<T>(),
                              index.const_data_ptr<int64_t>(),
                              n_positives.const_data_ptr<int64_t>(),
                              slots,
                              n_above.mutable_data_ptr<int64_t>(),
                              n_at_least.mutable_data_ptr<int64_t>(),
                              n_before.mutable_data_ptr<int64_t>()};
    over_queries(
        dense, queries_are_rows,
        [&](int64_t begin, int64_t end) { ITM_PICK(count_rows<T>)(at_tile, ranks, begin, end); },
        [&](int64_t begin, int64_t end) { ITM_PICK(count_columns<T>)(at_tile, ranks, begin, end); });
  };
  tile.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

void keep_topk_cpu(const Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
                   const Tensor& values, const Tensor& indices) {
  ITM_CHECK_VALUE(values.dim() == 2, "values must have shape (n_queries, k), got ", shape_of(values));
  const int64_t n = values.size(0), k = values.size(1);
  const Tensor dense = checked_tile(tile, first_query, first_item, queries_are_rows, n);
  check_state(values, tile.scalar_type(), {n, k}, "values");
  check_state(indices, ScalarType::Long, {n, k}, "indices");
  if (k == 0) return;
  auto run = [&](auto number) {
    using T = decltype(number);
    const auto at_tile = score_tile<T>(dense, first_query, first_item);
    const TopK<T> top{values.mutable_data_ptr<T>(), indices.mutable_data_ptr<int64_t>(), k};
    over_queries(
        dense, queries_are_rows, [&](int64_t begin, int64_t end) { ITM_PICK(keep_rows<T>)(at_tile, top, begin, end); },
        [&](int64_t begin, int64_t end) { ITM_PICK(keep_columns<T>)(at_tile, top, begin, end); });
  };
  tile.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

void sort_topk_cpu(const Tensor& values, const Tensor& indices) {
  ITM_CHECK_VALUE(values.dim() == 2, "values must have shape (n_queries, k), got ", shape_of(values));
  const int64_t n = values.size(0), k = values.size(1);
  ITM_CHECK_TYPE(values.scalar_type() == ScalarType::Float || values.scalar_type() == ScalarType::Double,
                 "values must be float32 or float64, got ", values.scalar_type());
  check_state(values, values.scalar_type(), {n, k}, "values");
  check_state(indices, ScalarType::Long, {n, k}, "indices");
  auto run = [&](auto number) {
    using T = decltype(number);
    T* value = values.mutable_data_ptr<T>();
    int64_t* index = indices.mutable_data_ptr<int64_t>();
    parallel_workers((n + kRowQueries - 1) / kRowQueries, n * k * kSortWork, [&](auto next) {
      std::vector<std::pair<T, int64_t>> pairs(k);
      for (int64_t item = next(); item >= 0; item = next())
        for (int64_t q = item * kRowQueries; q < std::min(n, (item + 1) * kRowQueries); q++) {
          for (int64_t i = 0; i < k; i++) pairs[i] = {value[q * k + i], index[q * k + i]};
          std::sort(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) {
            return a.first > b.first || (a.first == b.first && a.second < b.second);
          });
          for (int64_t i = 0; i < k; i++) std::tie(value[q * k + i], index[q * k + i]) = pairs[i];
        }
    });
  };
  values.scalar_type() == ScalarType::Double ? run(double()) : run(float());
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "count_ranks_(Tensor tile, int first_query, int first_item, bool queries_are_rows, Tensor scores, Tensor index, "
      "Tensor n_positives, Tensor(a!) n_above, Tensor(b!) n_at_least, Tensor(c!) n_before) -> ()");
  m.def(
      "keep_topk_(Tensor tile, int first_query, int first_item, bool queries_are_rows, Tensor(a!) values, "
      "Tensor(b!) indices) -> ()");
  m.def("has_nan(Tensor tile) -> bool");
  m.def("sort_topk_(Tensor(a!) values, Tensor(b!) indices) -> ()");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("count_ranks_", TORCH_BOX(&count_ranks_cpu));
  m.impl("keep_topk_", TORCH_BOX(&keep_topk_cpu));
  m.impl("has_nan", TORCH_BOX(&has_nan_cpu));
  m.impl("sort_topk_", TORCH_BOX(&sort_topk_cpu));
}

}  // namespace itm
