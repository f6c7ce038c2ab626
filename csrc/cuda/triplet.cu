// VSE++'s triplet loss, with hardest negatives or with all; loss and gradient in one launch.
//
// Hardest: blocks of rows (a warp a row) and blocks of columns (a lane a column) read the scores once each, in whole
// lines, and leave the hardest negative and its hinge; row blocks also clear the gradient. The block that finishes last
// adds up the hinges, always in the same order, and writes the at most 4 n numbers of the gradient that are not zero.
// 256 threads; shared memory 4 kB; per score 2 reads and 1 write. For batches: at n = 4096 the last block's work is 64
// numbers a thread. All: the same blocks count and sum up instead of choosing, row blocks write the gradient, the last
// block its diagonal.
#include "hinge.cuh"
#include "hinge.h"

namespace itm::cuda {
namespace {

// A thread's share of the sum, always of the same numbers in the same order.
SIMT_DEVICE double sum_of_costs(const TripletArgs& args, int n_costs, int t) {
  double sum = 0;
  for (int q = t; q < n_costs; q += kThreads) sum += args.costs[q];
  return sum;
}

template <class Wide>
SIMT_DEVICE void finish(const TripletArgs& args, const double (&sums)[kThreads]) {
  *static_cast<Wide*>(args.loss) = Wide(total_of(sums) * args.scale);
  *args.finished = 0;
}

template <class Wide>
struct HardestShared {
  ColumnCandidates<Wide> columns;
  double sums[kThreads];
  int32_t last;
};

template <class T>
SIMT_KERNEL(kThreads, 4)
triplet_hardest_kernel(TripletArgs args, int row_blocks) {
  using Wide = decltype(widened(T()));
  auto& shared = simt::shared<HardestShared<Wide>>();
  const int n = args.n, t = int(threadIdx.x), lane = t % 32, warp = t / 32;
  const T* sims = static_cast<const T*>(args.sims);
  T* grad = static_cast<T*>(args.grad);
  const bool of_rows = int(blockIdx.x) < row_blocks;
  // The hinge of query q (a row, or n + a column) with its hardest negative; NaN stays.
  auto leave = [&](int q, Candidate<Wide> hardest, Wide own) {
    const Wide cost = hardest.index < 0 ? Wide(0) : Wide(args.margin) + hardest.score - own;
    const bool active = !(cost <= Wide(0));
    args.found[q] = active ? hardest.index : -1;
    args.costs[q] = active ? double(cost) : 0;
  };

  if (of_rows) {
    const int i = int(blockIdx.x) * kRows + warp;
    const Candidate<Wide> best = hardest_of_row(sims + i * n, args.image_ids, i, n, Wide(1));
    if (i < n) clear_row(grad + i * n, n);
    if (lane == 0 && i < n) leave(i, best, widened(sims[i * n + i]));
  } else {
    const int j = (int(blockIdx.x) - row_blocks) * kColumns + lane;
    shared.columns.put(hardest_of_column(sims, args.image_ids, j, n, Wide(1)));
    SYNC(1);
    if (warp == 0 && j < n) leave(n + j, shared.columns.hardest(), widened(sims[j * n + j]));
  }

  SYNC(2);
  if (t == 0) shared.last = is_last(args.finished);
  SYNC(3);
  if (!shared.last) return;
  __threadfence();
  shared.sums[t] = sum_of_costs(args, 2 * n, t);
  for (int q = t; q < 2 * n; q += kThreads) {
    const int negative = args.found[q];
    if (negative < 0) continue;
    // Where a row and a column chose the same pair, the row writes the 2.
    const int row = q < n ? q : negative, column = q < n ? negative : q - n;
    const bool both = args.found[q < n ? n + column : row] == (q < n ? row : column);
    if (both && q >= n) continue;
    narrow(Wide((both ? 2 : 1) * args.scale), grad[row * n + column]);
  }
  for (int i = t; i < n; i += kThreads) {
    const int active = (args.found[i] >= 0) + (args.found[n + i] >= 0);
    narrow(Wide(-active * args.scale), grad[i * n + i]);
  }
  SYNC(4);
  if (t == 0) finish<Wide>(args, shared.sums);
}

template <class Wide>
struct AllShared {
  Wide positive[kThreads];  // scores of a run of pairs
  int32_t counts[kRows][kColumns];
  double sums[kThreads];
  int32_t last;
};

template <class T>
SIMT_KERNEL(kThreads, 4)
triplet_all_kernel(TripletArgs args, int row_blocks) {
  using Wide = decltype(widened(T()));
  auto& shared = simt::shared<AllShared<Wide>>();
  const int n = args.n, t = int(threadIdx.x), lane = t % 32, warp = t / 32;
  const T* sims = static_cast<const T*>(args.sims);
  T* grad = static_cast<T*>(args.grad);
  const Wide margin = Wide(args.margin);

  if (int(blockIdx.x) < row_blocks) {
    const int i = int(blockIdx.x) * kRows + warp;
    const Wide own = i < n ? widened(__ldg(sims + i * n + i)) : Wide(0);
    double sum = 0;
    int active = 0;
    for (int first = 0; first < n; first += kThreads) {
      SYNC(5);
      if (first + t < n) shared.positive[t] = widened(__ldg(sims + (first + t) * (n + 1)));
      SYNC(6);
      for (int j = first + lane; i < n && j < n && j < first + kThreads; j += 32) {
        const Wide score = widened(__ldg(sims + i * n + j));
        const Wide of_row = margin + score - own, of_column = margin + score - shared.positive[j - first];
        const bool negative = negatives(args.image_ids, i, j);
        const bool row_active = negative & !(of_row <= Wide(0)), column_active = negative & !(of_column <= Wide(0));
        sum += (row_active ? double(of_row) : 0) + (column_active ? double(of_column) : 0);
        active += row_active;
        narrow(Wide((row_active + column_active) * args.scale), grad[i * n + j]);
      }
    }
    sum = simt::group_sum(sum, 32);
    active = simt::group_sum(active, 32);
    if (lane == 0 && i < n) {
      args.costs[i] = sum;
      args.found[i] = active;
    }
  } else {
    const int j = (int(blockIdx.x) - row_blocks) * kColumns + lane;
    int active = 0;
    if (j < n) {
      const Wide own = widened(__ldg(sims + j * n + j));
      for (int i = warp; i < n; i += kRows) {
        const Wide of_column = margin + widened(__ldg(sims + i * n + j)) - own;
        active += negatives(args.image_ids, i, j) & !(of_column <= Wide(0));
      }
    }
    shared.counts[warp][lane] = active;
    SYNC(7);
    if (warp == 0 && j < n) {
      for (int w = 1; w < kRows; w++) active += shared.counts[w][lane];
      args.found[n + j] = active;
    }
  }

  SYNC(8);
  if (t == 0) shared.last = is_last(args.finished);
  SYNC(9);
  if (!shared.last) return;
  __threadfence();
  shared.sums[t] = sum_of_costs(args, n, t);
  for (int i = t; i < n; i += kThreads)
    narrow(Wide(-double(args.found[i] + args.found[n + i]) * args.scale), grad[i * n + i]);
  SYNC(10);
  if (t == 0) finish<Wide>(args, shared.sums);
}

static_assert(sizeof(HardestShared<double>) <= 6 * 1024 && sizeof(AllShared<double>) <= 6 * 1024);

template <class T>
void launch(const TripletArgs& args, bool all, void* stream) {
  using Wide = decltype(widened(T()));
  const int row_blocks = (args.n + kRows - 1) / kRows, column_blocks = (args.n + kColumns - 1) / kColumns;
  const dim3 grid(unsigned(row_blocks + column_blocks)), block(kThreads);
  if (all)
    SIMT_LAUNCH(triplet_all_kernel<T>, grid, block, sizeof(AllShared<Wide>), stream, args, row_blocks);
  else
    SIMT_LAUNCH(triplet_hardest_kernel<T>, grid, block, sizeof(HardestShared<Wide>), stream, args, row_blocks);
}

void launch_for(const TripletArgs& args, Number sims, bool all, void* stream) {
  if (args.n == 0) return;
  if (sims == Number::kFloat) launch<float>(args, all, stream);
  if (sims == Number::kDouble) launch<double>(args, all, stream);
  if (sims == Number::kBf16) launch<simt::bf16>(args, all, stream);
  if (sims == Number::kF16) launch<simt::f16>(args, all, stream);
}

}  // namespace

void triplet_hardest(const TripletArgs& args, Number sims, void* stream) { launch_for(args, sims, false, stream); }
void triplet_all(const TripletArgs& args, Number sims, void* stream) { launch_for(args, sims, true, stream); }

}  // namespace itm::cuda
