#include "batch.h"

namespace itm {

Batch::Batch(const at::Tensor& given, const std::optional<at::Tensor>& counts, const char* what)
    : n_groups(given.size(0)), max(given.size(1)), dim(given.size(2)), offset(n_groups + 1, 0), start(n_groups) {
  vectors = given.stride(2) == 1 || dim <= 1 ? given : given.contiguous();
  dense = vectors.is_contiguous();
  for (int64_t g = 0; g < n_groups; g++) start[g] = g * vectors.stride(0);
  if (!counts.has_value()) {
    for (int64_t g = 0; g < n_groups; g++) offset[g + 1] = offset[g] + max;
    TORCH_CHECK_VALUE(n_groups == 0 || max > 0, what, "s has max_", what, "s = 0; every group needs at least one ",
                      what);
    return;
  }
  TORCH_CHECK_VALUE(counts->dim() == 1 && counts->size(0) == n_groups, what, "_counts must have shape (", n_groups,
                    ",), one count per row of ", what, "s, got ", counts->sizes());
  count_vectors(*counts, what);
  for (int64_t g = 0; g < n_groups; g++) {
    TORCH_CHECK_VALUE(count(g) <= max, what, "_counts[", g, "] is ", count(g), ", but ", what, "s has max_", what,
                      "s = ", max);
    dense = dense && count(g) == max;
  }
}

Batch Batch::packed(const at::Tensor& given, const at::Tensor& counts, const char* what) {
  TORCH_CHECK_VALUE(counts.dim() == 1, what, "_counts must have one dimension, got ", counts.sizes());
  Batch batch;
  batch.n_groups = counts.size(0);
  batch.max = given.size(0);
  batch.dim = given.size(1);
  batch.offset.resize(batch.n_groups + 1);
  batch.dense = false;
  batch.vectors = given.stride(1) == 1 || batch.dim <= 1 ? given : given.contiguous();
  batch.count_vectors(counts, what);
  TORCH_CHECK_VALUE(batch.total() == given.size(0), what, "_counts sum to ", batch.total(), ", but there are ",
                    given.size(0), " ", what, "s");
  for (int64_t g = 0; g < batch.n_groups; g++) batch.start.push_back(batch.offset[g] * batch.vectors.stride(0));
  return batch;
}

void Batch::count_vectors(const at::Tensor& counts, const char* what) {
  TORCH_CHECK_TYPE(counts.scalar_type() == at::kLong, what, "_counts must be int64, got ", counts.scalar_type());
  const at::Tensor contiguous = counts.contiguous();
  const int64_t* count = contiguous.const_data_ptr<int64_t>();
  for (int64_t g = 0; g < n_groups; g++) {
    TORCH_CHECK_VALUE(count[g] >= 1, what, "_counts[", g, "] is ", count[g], "; every count must be at least 1");
    // No count can be above the number of vectors: the sum stays in range.
    TORCH_CHECK_VALUE(count[g] <= vectors.numel(), what, "_counts[", g, "] is ", count[g], ", but ", what, "s has max_",
                      what, "s = ", max);
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
