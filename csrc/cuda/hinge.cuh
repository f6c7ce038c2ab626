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

// What the lanes of a warp find for row i: the hardest negative of scores times `sign`.
template <class T, class Wide>
SIMT_DEVICE Candidate<Wide> hardest_of_row(const T* row, const int64_t* image_ids, int i, int n, Wide sign) {
  Candidate<Wide> best{0, -1};
  for (int j = int(threadIdx.x) % 32; i < n && j < n; j += 32)
    best = harder(best, {sign * widened(__ldg(row + j)), negatives(image_ids, i, j) ? j : -1});
  for (int offset = 16; offset > 0; offset /= 2) best = harder(best, from_lane(best, offset));
  return best;
}

// What a lane finds for column j, in every kRows-th row from its warp's on.
template <class T, class Wide>
SIMT_DEVICE Candidate<Wide> hardest_of_column(const T* sims, const int64_t* image_ids, int j, int n, Wide sign) {
  Candidate<Wide> best{0, -1};
  for (int i = int(threadIdx.x) / 32; j < n && i < n; i += kRows)
    best = harder(best, {sign * widened(__ldg(sims + int64_t(i) * n + j)), negatives(image_ids, i, j) ? i : -1});
  return best;
}

// What all warps found for 32 columns, a lane a column.
template <class Wide>
struct ColumnCandidates {
  Wide score[kRows][kColumns];
  int32_t index[kRows][kColumns];

  SIMT_DEVICE void put(Candidate<Wide> mine) {
    score[threadIdx.x / 32][threadIdx.x % 32] = mine.score;
    index[threadIdx.x / 32][threadIdx.x % 32] = mine.index;
  }
  // For the first warp, after a barrier.
  SIMT_DEVICE Candidate<Wide> hardest() const {
    const int lane = int(threadIdx.x) % 32;
    Candidate<Wide> best{score[0][lane], index[0][lane]};
    for (int w = 1; w < kRows; w++) best = harder(best, {score[w][lane], index[w][lane]});
    return best;
  }
};

template <class T>
SIMT_DEVICE void clear_row(T* row, int n) {
  T zero;
  narrow(decltype(widened(T()))(0), zero);
  for (int j = int(threadIdx.x) % 32; j < n; j += 32) row[j] = zero;
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
