#include "batch.h"

namespace itm {

Batch::Batch(const at::Tensor& given, const std::optional<at::Tensor>& counts, const char* what)
    : n_groups(given.size(0)), max(given.size(1)), dim(given.size(2)), offset(n_groups + 1, 0) {
  vectors = given.stride(2) == 1 || dim <= 1 ? given : given.contiguous();
  dense = vectors.is_contiguous();
  if (!counts.has_value()) {
    for (int64_t g = 0; g < n_groups; g++) offset[g + 1] = offset[g] + max;
    TORCH_CHECK_VALUE(n_groups == 0 || max > 0, what, "s has max_", what, "s = 0; every group needs at least one ",
                      what);
    return;
  }
  TORCH_CHECK_VALUE(counts->dim() == 1 && counts->size(0) == n_groups, what, "_counts must have shape (", n_groups,
                    ",), one count per row of ", what, "s, got ", counts->sizes());
  TORCH_CHECK_TYPE(counts->scalar_type() == at::kLong, what, "_counts must be int64, got ", counts->scalar_type());
  const at::Tensor contiguous = counts->contiguous();
  const int64_t* count = contiguous.const_data_ptr<int64_t>();
  for (int64_t g = 0; g < n_groups; g++) {
    TORCH_CHECK_VALUE(count[g] >= 1, what, "_counts[", g, "] is ", count[g], "; every count must be at least 1");
    TORCH_CHECK_VALUE(count[g] <= max, what, "_counts[", g, "] is ", count[g], ", but ", what, "s has max_", what,
                      "s = ", max);
    offset[g + 1] = offset[g] + count[g];
    dense = dense && count[g] == max;
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
