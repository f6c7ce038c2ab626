// torch.ops.itm_fast.count_ranks_, keep_topk_ and sort_topk_: schemas and CPU registration. Contract:
// itm_fast/ops/ranking.py.
#include "../cpu/ranking.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "../cpu/parallel.h"

namespace itm {
namespace {

constexpr int64_t kRowQueries = 16;  // rows of a work item
constexpr double kSortWork = 512;    // of an item of a sorted list; see parallel.h

void check_state(const at::Tensor& state, at::ScalarType type, at::IntArrayRef shape, const char* name) {
  TORCH_CHECK_TYPE(state.scalar_type() == type, name, " must be ", type, ", got ", state.scalar_type());
  TORCH_CHECK_VALUE(state.is_contiguous() && state.sizes() == shape, name, " must be contiguous of shape ", shape,
                    ", got ", state.sizes());
}

template <class T>
ScoreTile<T> score_tile(const at::Tensor& tile, int64_t first_query, int64_t first_item) {
  return {tile.const_data_ptr<T>(), tile.size(0), tile.size(1), tile.stride(0), first_query, first_item};
}

at::Tensor checked_tile(const at::Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
                        int64_t n_queries) {
  TORCH_CHECK_VALUE(tile.dim() == 2, "tile must have two dimensions, got ", tile.sizes());
  TORCH_CHECK_TYPE(tile.scalar_type() == at::kFloat || tile.scalar_type() == at::kDouble,
                   "tile must be float32 or float64, got ", tile.scalar_type());
  TORCH_CHECK_VALUE(
      first_query >= 0 && first_item >= 0 && first_query + tile.size(queries_are_rows ? 0 : 1) <= n_queries,
      "tile of queries ", first_query, " ... exceeds the ", n_queries, " queries of the state");
  return tile.stride(1) == 1 || tile.size(1) == 1 ? tile : tile.contiguous();
}

// Calls rows(begin, end) or columns(begin, end) on pieces of the tile, in parallel; no two pieces share a query.
template <class Rows, class Columns>
void over_queries(const at::Tensor& tile, bool queries_are_rows, Rows&& rows, Columns&& columns) {
  const int64_t n = tile.size(queries_are_rows ? 0 : 1), piece = queries_are_rows ? kRowQueries : kColumnQueries;
  if (tile.numel() == 0) return;
  parallel_items((n + piece - 1) / piece, tile.numel() * kScanWork, [&](int64_t item) {
    const int64_t begin = item * piece, end = std::min(n, begin + piece);
    queries_are_rows ? rows(begin, end) : columns(begin, end);
  });
}

bool has_nan_cpu(const at::Tensor& tile) {
  const at::Tensor dense = checked_tile(tile, 0, 0, true, tile.size(0));
  std::atomic<bool> found{false};
  auto run = [&](auto number) {
    using T = decltype(number);
    const auto at_tile = score_tile<T>(dense, 0, 0);
    parallel_items((dense.size(0) + kRowQueries - 1) / kRowQueries, dense.numel() * kScanWork, [&](int64_t item) {
      const int64_t end = std::min(dense.size(0), (item + 1) * kRowQueries);
      if (!found && ITM_PICK(nan_in_rows<T>)(at_tile, item * kRowQueries, end)) found = true;
    });
  };
  tile.scalar_type() == at::kDouble ? run(double()) : run(float());
  return found;
}

void count_ranks_cpu(const at::Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
                     const at::Tensor& scores, const at::Tensor& index, const at::Tensor& n_positives,
                     at::Tensor& n_above, at::Tensor& n_at_least, at::Tensor& n_before) {
  const int64_t n = n_positives.numel(), slots = scores.dim() == 2 ? scores.size(1) : 0;
  const at::Tensor dense = checked_tile(tile, first_query, first_item, queries_are_rows, n);
  check_state(scores, tile.scalar_type(), {n, slots}, "scores");
  check_state(index, at::kLong, {n, slots}, "index");
  check_state(n_positives, at::kLong, {n}, "n_positives");
  check_state(n_above, at::kLong, {n}, "n_above");
  check_state(n_at_least, at::kLong, {n}, "n_at_least");
  check_state(n_before, at::kLong, {n, slots}, "n_before");
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
  tile.scalar_type() == at::kDouble ? run(double()) : run(float());
}

void keep_topk_cpu(const at::Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
                   at::Tensor& values, at::Tensor& indices) {
  TORCH_CHECK_VALUE(values.dim() == 2, "values must have shape (n_queries, k), got ", values.sizes());
  const int64_t n = values.size(0), k = values.size(1);
  const at::Tensor dense = checked_tile(tile, first_query, first_item, queries_are_rows, n);
  check_state(values, tile.scalar_type(), {n, k}, "values");
  check_state(indices, at::kLong, {n, k}, "indices");
  if (k == 0) return;
  auto run = [&](auto number) {
    using T = decltype(number);
    const auto at_tile = score_tile<T>(dense, first_query, first_item);
    const TopK<T> top{values.mutable_data_ptr<T>(), indices.mutable_data_ptr<int64_t>(), k};
    over_queries(
        dense, queries_are_rows, [&](int64_t begin, int64_t end) { ITM_PICK(keep_rows<T>)(at_tile, top, begin, end); },
        [&](int64_t begin, int64_t end) { ITM_PICK(keep_columns<T>)(at_tile, top, begin, end); });
  };
  tile.scalar_type() == at::kDouble ? run(double()) : run(float());
}

void sort_topk_cpu(at::Tensor& values, at::Tensor& indices) {
  TORCH_CHECK_VALUE(values.dim() == 2, "values must have shape (n_queries, k), got ", values.sizes());
  const int64_t n = values.size(0), k = values.size(1);
  TORCH_CHECK_TYPE(values.scalar_type() == at::kFloat || values.scalar_type() == at::kDouble,
                   "values must be float32 or float64, got ", values.scalar_type());
  check_state(values, values.scalar_type(), {n, k}, "values");
  check_state(indices, at::kLong, {n, k}, "indices");
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
  values.scalar_type() == at::kDouble ? run(double()) : run(float());
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "count_ranks_(Tensor tile, int first_query, int first_item, bool queries_are_rows, Tensor scores, Tensor index, "
      "Tensor n_positives, Tensor(a!) n_above, Tensor(b!) n_at_least, Tensor(c!) n_before) -> ()");
  m.def(
      "keep_topk_(Tensor tile, int first_query, int first_item, bool queries_are_rows, Tensor(a!) values, "
      "Tensor(b!) indices) -> ()");
  m.def("has_nan(Tensor tile) -> bool");
  m.def("sort_topk_(Tensor(a!) values, Tensor(b!) indices) -> ()");
}
TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("count_ranks_", &count_ranks_cpu);
  m.impl("keep_topk_", &keep_topk_cpu);
  m.impl("has_nan", &has_nan_cpu);
  m.impl("sort_topk_", &sort_topk_cpu);
}

}  // namespace itm
