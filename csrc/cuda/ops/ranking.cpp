// torch.ops.itm_fast.count_ranks_, keep_topk_, sort_topk_ and has_nan on CUDA. Contract: itm_fast/ops/ranking.py.
#include "../ranking.h"

#include <algorithm>

#include "host.h"

namespace itm::cuda {
namespace {

constexpr int64_t kMostOfASide = int64_t(1) << 30;  // kernels count them in 32 bits, a block's share beyond the end too

void check_state(const Tensor& state, ScalarType type, const std::vector<int64_t>& shape, const char* name) {
  STD_TORCH_CHECK(state.scalar_type() == type, name, " must be ", torch::headeronly::toString(type), ", got ",
                  torch::headeronly::toString(state.scalar_type()));
  bool fits = state.is_contiguous() && state.dim() == int64_t(shape.size());
  for (size_t d = 0; fits && d < shape.size(); d++) fits = state.size(int64_t(d)) == shape[d];
  STD_TORCH_CHECK(fits, name, " must be contiguous and fit the other arguments, got shape ", shape_of(state));
}

// The tile with the numbers of a row side by side, checked against the number of queries.
Tensor checked_tile(const Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
                    int64_t n_queries) {
  STD_TORCH_CHECK(tile.dim() == 2, "tile must have two dimensions, got shape ", shape_of(tile));
  STD_TORCH_CHECK(tile.scalar_type() == ScalarType::Float || tile.scalar_type() == ScalarType::Double,
                  "tile must be float32 or float64, got ", torch::headeronly::toString(tile.scalar_type()));
  STD_TORCH_CHECK(first_query >= 0 && first_item >= 0 && first_query + tile.size(queries_are_rows ? 0 : 1) <= n_queries,
                  "tile of queries ", first_query, " ... exceeds the ", n_queries, " queries of the state");
  STD_TORCH_CHECK(tile.size(0) <= kMostOfASide && tile.size(1) <= kMostOfASide, "tile must have at most ", kMostOfASide,
                  " rows and columns, got ", shape_of(tile));
  return tile.stride(1) == 1 || tile.size(1) == 1 ? tile : torch::stable::contiguous(tile);
}

ScoreTile score_tile(Launch& launch, const Tensor& tile, int64_t first_query, int64_t first_item) {
  return {launch.strided<void>(tile), tile.stride(0),       first_query, first_item,
          int32_t(tile.size(0)),      int32_t(tile.size(1))};
}

bool has_nan(const Tensor& tile) {
  const Tensor dense = checked_tile(tile, 0, 0, true, tile.size(0));
  if (dense.numel() == 0) return false;
  Launch launch("has_nan", dense);
  const Tensor found = zeros(dense, {1}, ScalarType::Int);
  find_nan({score_tile(launch, dense, 0, 0), launch.inout<int32_t>(found)}, number_of(dense), launch.stream());
  launch.check();
  const Tensor on_host =
      torch::stable::to(found, std::nullopt, std::nullopt, torch::stable::Device(torch::headeronly::DeviceType::CPU));
  return *static_cast<const int32_t*>(on_host.const_data_ptr()) != 0;
}

void count_ranks_(const Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
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
  if (dense.numel() == 0 || slots == 0) return;
  Launch launch("count_ranks_", dense);
  CountArgs args{};
  args.tile = score_tile(launch, dense, first_query, first_item);
  args.scores = launch.in<void>(scores);
  args.index = launch.in<int64_t>(index);
  args.n_slots = launch.in<int64_t>(n_positives);
  args.n_above = launch.inout<int64_t>(n_above);
  args.n_at_least = launch.inout<int64_t>(n_at_least);
  args.n_before = launch.inout<int64_t>(n_before);
  args.slots = int32_t(slots);
  args.queries_are_rows = queries_are_rows;
  count_ranks(args, number_of(dense), launch.stream());
  launch.check();
}

// Folds rows of scores into the lists, as many rows at a time as there is scratch memory for.
void keep(Launch& launch, const ScoreTile& tile, const Tensor& values, const Tensor& indices) {
  KeepArgs args{};
  args.k = values.size(1);
  const int64_t least = args.k + kCandidates;
  STD_TORCH_CHECK(least <= (int64_t(1) << 30), "k is too large, got ", args.k);
  args.capacity = 1;
  while (args.capacity < least) args.capacity *= 2;
  args.values = launch.inout<void>(values);
  args.indices = launch.inout<int64_t>(indices);
  const Number number = number_of(values);
  // On chip where two blocks fit into a multiprocessor.
  const bool on_chip = keep_shared_bytes(args, number, true) <= launch.shared_limit() / 2;
  const int64_t bytes = values.scalar_type() == ScalarType::Double ? 8 : 4, per_row = (8 + bytes) * args.capacity;
  const int64_t step = on_chip ? tile.rows : std::clamp<int64_t>(kScratchBytes / per_row, 1, tile.rows);
  Tensor scratch_values, scratch_indices;
  if (!on_chip) {
    scratch_values = empty(values, {step, args.capacity}, values.scalar_type());
    scratch_indices = empty(values, {step, args.capacity}, ScalarType::Long);
    args.scratch_values = launch.out<void>(scratch_values);
    args.scratch_indices = launch.out<int64_t>(scratch_indices);
  }
  for (int64_t first = 0; first < tile.rows; first += step) {
    args.tile = tile;
    if (tile.scores != nullptr) args.tile.scores = static_cast<const char*>(tile.scores) + first * tile.stride * bytes;
    args.tile.first_query += first;
    args.tile.rows = int32_t(std::min(step, tile.rows - first));
    keep_topk(args, number, on_chip, launch.stream());
    launch.check();
  }
}

void keep_topk_(const Tensor& tile, int64_t first_query, int64_t first_item, bool queries_are_rows,
                const Tensor& values, const Tensor& indices) {
  STD_TORCH_CHECK(values.dim() == 2, "values must have shape (n_queries, k), got ", shape_of(values));
  const int64_t n = values.size(0), k = values.size(1);
  const Tensor dense = checked_tile(tile, first_query, first_item, queries_are_rows, n);
  check_state(values, tile.scalar_type(), {n, k}, "values");
  check_state(indices, ScalarType::Long, {n, k}, "indices");
  if (k == 0 || dense.numel() == 0) return;
  Launch launch("keep_topk_", dense);
  ScoreTile by_row = score_tile(launch, dense, first_query, first_item);
  Tensor transposed;
  if (!queries_are_rows) {
    transposed = empty(dense, {dense.size(1), dense.size(0)}, dense.scalar_type());
    transpose_scores({by_row, launch.out<void>(transposed)}, number_of(dense), launch.stream());
    by_row = score_tile(launch, transposed, first_query, first_item);
  }
  keep(launch, by_row, values, indices);
}

void sort_topk_(const Tensor& values, const Tensor& indices) {
  STD_TORCH_CHECK(values.dim() == 2, "values must have shape (n_queries, k), got ", shape_of(values));
  const ScalarType type = values.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "values must be float32 or float64, got ",
                  torch::headeronly::toString(type));
  check_state(values, type, {values.size(0), values.size(1)}, "values");
  check_state(indices, ScalarType::Long, {values.size(0), values.size(1)}, "indices");
  if (values.numel() == 0) return;
  Launch launch("sort_topk_", values);
  keep(launch, {nullptr, 0, 0, 0, int32_t(values.size(0)), 0}, values, indices);
}

}  // namespace

ITM_CUDA_OPERATORS(m) {
  m.impl("has_nan", TORCH_BOX(&has_nan));
  m.impl("count_ranks_", TORCH_BOX(&count_ranks_));
  m.impl("keep_topk_", TORCH_BOX(&keep_topk_));
  m.impl("sort_topk_", TORCH_BOX(&sort_topk_));
}

}  // namespace itm::cuda
