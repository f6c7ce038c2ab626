// What the hinge losses' kernels share: who is a negative, which of two is harder, and the block that finishes last.
#pragma once

#include "numbers.cuh"

namespace itm::cuda {

constexpr int kThreads = 256, kRows = kThreads / 32, kColumns = 32;

template <class Wide>
struct Candidate {
  Wide score;
  int32_t index;  // -1: none
};

// The higher score, of equal ones the lower index; NaN is higher than anything, or lower. Without branches.
template <class Wide>
SIMT_DEVICE Candidate<Wide> harder(Candidate<Wide> a, Candidate<Wide> b, bool nan_is_highest = true) {
  const bool a_nan = a.score != a.score, b_nan = b.score != b.score;
  const bool higher = (b.score > a.score) | ((a_nan != b_nan) & (b_nan == nan_is_highest));
  const bool equal = (b.score == a.score) | (a_nan & b_nan);
  const bool take = (b.index >= 0) & ((a.index < 0) | higher | (equal & (b.index < a.index)));
  return {take ? b.score : a.score, take ? b.index : a.index};
}

template <class Wide>
SIMT_DEVICE Candidate<Wide> from_lane(Candidate<Wide> mine, int offset) {
  return {__shfl_xor_sync(0xffffffffu, mine.score, offset), __shfl_xor_sync(0xffffffffu, mine.index, offset)};
}

SIMT_DEVICE bool negatives(const int64_t* image_ids, int i, int j) {
  return image_ids == nullptr ? i != j : image_ids[i] != image_ids[j];
}

// Whether every other block has left its results; called by one thread, after a barrier.
SIMT_DEVICE bool is_last(uint32_t* finished) {
  __threadfence();
  return atomicAdd(finished, 1u) == gridDim.x - 1;
}

// Always in the same order.
SIMT_DEVICE double total_of(const double (&sums)[kThreads]) {
  double total = 0;
  for (int i = 0; i < kThreads; i++) total += sums[i];
  return total;
}

}  // namespace itm::cuda
