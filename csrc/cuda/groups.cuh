// Groups of vectors in padded batches.
#pragma once

#include "numbers.cuh"

namespace itm::cuda {

// Vectors of a group: its count, or 0 where that isn't 1 ... max; counts null: max.
SIMT_DEVICE int size_of(const int64_t* counts, int group, int max) {
  const int64_t count = counts == nullptr ? max : __ldg(counts + group);
  return count >= 1 && count <= max ? int(count) : 0;
}

}  // namespace itm::cuda
