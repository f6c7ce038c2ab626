#include "batch.h"

namespace itm {

Batch::Batch(int64_t n_groups, int64_t max, const Tensor& given)
    : vectors(given), n_groups(n_groups), max(max), dim(given.size(given.dim() - 1)), offset(n_groups + 1, 0) {
  if (dim > 1 && given.stride(given.dim() - 1) != 1) vectors = torch::stable::contiguous(given);
  data = vectors.const_data_ptr();
  stride = vectors.stride(vectors.dim() - 2);
}

Batch::Batch(const Tensor& given, const std::optional<Tensor>& counts, const char* what)
    : Batch(given.size(0), given.size(1), given) {
  dense = vectors.is_contiguous();
  const int64_t group_stride = vectors.stride(0);
  for (int64_t g = 0; g < n_groups; g++) start.push_back(g * group_stride);
  if (!counts.has_value()) {
    for (int64_t g = 0; g < n_groups; g++) offset[g + 1] = offset[g] + max;
    ITM_CHECK_VALUE(n_groups == 0 || max > 0, what, "s has max_", what, "s = 0; every group needs at least one ", what);
    return;
  }
  ITM_CHECK_VALUE(counts->dim() == 1 && counts->size(0) == n_groups, what, "_counts must have shape (", n_groups,
                  ",), one count per row of ", what, "s, got ", shape_of(*counts));
  count_vectors(*counts, what);
  for (int64_t g = 0; g < n_groups; g++) {
    ITM_CHECK_VALUE(count(g) <= max, what, "_counts[", g, "] is ", count(g), ", but ", what, "s has max_", what,
                    "s = ", max);
    dense = dense && count(g) == max;
  }
}

Batch Batch::packed(const Tensor& given, const Tensor& counts, const char* what) {
  ITM_CHECK_VALUE(counts.dim() == 1, what, "_counts must have one dimension, got ", shape_of(counts));
  Batch batch(counts.size(0), given.size(0), given);
  batch.dense = false;
  batch.is_packed = true;
  batch.count_vectors(counts, what);
  ITM_CHECK_VALUE(batch.total() == batch.max, what, "_counts sum to ", batch.total(), ", but there are ", batch.max,
                  " ", what, "s");
  for (int64_t g = 0; g < batch.n_groups; g++) batch.start.push_back(batch.offset[g] * batch.stride);
  return batch;
}

Batch Batch::of(const Tensor& given, const std::optional<Tensor>& counts, const char* what) {
  if (given.dim() == 3) return Batch(given, counts, what);
  ITM_CHECK_VALUE(counts.has_value(), what, "s are packed, (total, dim), and need ", what, "_counts");
  return packed(given, *counts, what);
}

void Batch::count_vectors(const Tensor& counts, const char* what) {
  ITM_CHECK_TYPE(counts.scalar_type() == ScalarType::Long, what, "_counts must be int64, got ", counts.scalar_type());
  const Tensor contiguous = as_contiguous(counts);
  const int64_t *count = contiguous.const_data_ptr<int64_t>(), most = vectors.numel();
  for (int64_t g = 0; g < n_groups; g++) {
    ITM_CHECK_VALUE(count[g] >= 1, what, "_counts[", g, "] is ", count[g], "; every count must be at least 1");
    // No count can be above the number of vectors: the sum stays in range.
    ITM_CHECK_VALUE(count[g] <= most, what, "_counts[", g, "] is ", count[g], ", but ", what, "s has max_", what,
                    "s = ", max);
    offset[g + 1] = offset[g] + count[g];
  }
}

std::vector<Block> cut_blocks(const Batch& batch, int64_t begin, int64_t end, int64_t limit, int64_t multiple) {
  std::vector<Block> blocks;
  int64_t start = 0;
  for (int64_t g = begin; g < end;) {
    const int64_t next = std::min(end, take_groups(batch, g, limit));
    const int64_t vectors = batch.offset[next] - batch.offset[g];
    blocks.push_back({g, next, vectors, round_up(vectors, multiple), start});
    start += blocks.back().padded;
    g = next;
  }
  return blocks;
}

int64_t take_groups(const Batch& batch, int64_t begin, int64_t limit) {
  int64_t end = begin + 1;
  while (end < batch.n_groups && batch.offset[end + 1] - batch.offset[begin] <= limit) end++;
  return end;
}

}  // namespace itm
