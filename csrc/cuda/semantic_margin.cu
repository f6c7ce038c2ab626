// The semantic margin loss: negatives, margins, hinges, their sum and its gradient in one launch.
//
// One negative of each kind for a pair: blocks of rows (a warp a row) and, where columns choose too, blocks of columns
// (a lane a column) read the scores once each, in whole lines, and leave negative, score and margin of every query; row
// blocks also clear the gradient. The margin of one query may enter the hinge of another (variants literal and
// released), so the block that finishes last forms the hinges, adds them up in a fixed order and writes the at most
// 4 n numbers of the gradient that are not zero. All negatives: a block reads 8 rows of scores and relevance, and the
// 8 columns of relevance that belong to them through shared memory, so that those too are whole sectors. What is added
// by atomic operations are integers: results have the same bits every time.
#include "hinge.cuh"
#include "semantic_margin.h"

namespace itm::cuda {
namespace {

constexpr int kOutside = -2;  // a given negative that is neither a pair nor -1

SIMT_DEVICE double phi_at(const SemanticMarginArgs& args, int64_t i, int64_t j) {
  const int64_t place = i * args.down + j * args.across;
  if (args.relevance_is_double) return __ldg(static_cast<const double*>(args.relevance) + place);
  return double(__ldg(static_cast<const float*>(args.relevance) + place));
}

template <class Number>
SIMT_DEVICE Number margin_of(const SemanticMarginArgs& args, double difference) {
  Number margin = Number(difference) / Number(args.temperature);
  margin = margin < Number(args.margin_min) ? Number(args.margin_min) : margin;  // NaN stays
  return margin > Number(args.margin_max) ? Number(args.margin_max) : margin;
}

// The negative of query q (row i, or n + column i), its score and the margin that it gives.
template <class T>
SIMT_DEVICE void leave(const SemanticMarginArgs& args, int q, int64_t negative) {
  using Wide = decltype(widened(T()));
  const int n = args.n, i = q < n ? q : q - n;
  args.chosen[q] = negative;
  if (args.loss == nullptr) return;
  const T* sims = static_cast<const T*>(args.sims);
  const bool inside = negative >= 0 && negative < n, released = args.variant == MarginVariant::kReleased;
  const int64_t e = inside ? negative : i, own = i;
  args.found[q] = inside ? int32_t(negative) : negative == -1 ? -1 : kOutside;
  const Wide score = widened(q < n || released ? __ldg(sims + own * n + e) : __ldg(sims + e * n + own));
  const bool of_column = q >= n && args.column;
  const double phi_own = args.relevance_of_pairs ? phi_at(args, 0, own) : phi_at(args, own, own);
  const double phi_other = args.relevance_of_pairs ? phi_at(args, q < n ? 1 : 2, own)
                                                   : phi_at(args, of_column ? e : own, of_column ? own : e);
  const double margin = released ? double(margin_of<float>(args, phi_own - phi_other))
                                 : double(Wide(margin_of<double>(args, phi_own - phi_other)));
  args.numbers[q] = inside ? margin : double(NAN);
  args.numbers[2 * int64_t(n) + q] = double(score);
  if (q < n) args.numbers[4 * int64_t(n) + i] = double(widened(__ldg(sims + own * n + own)));
}

struct Hinge {
  double cost;
  int32_t row, column, own;  // where the gradient has 1, and the pair where it has -1; row -1: nowhere
};

// The hinge of query q.
template <class Wide>
SIMT_DEVICE Hinge hinge_of(const SemanticMarginArgs& args, int q) {
  const int n = args.n, i = q < n ? q : q - n, e = args.found[q];
  const bool released = args.variant == MarginVariant::kReleased;
  if (e == -1) return {0, -1, -1, -1};
  if (e == kOutside) return {double(NAN), -1, -1, -1};
  const int own = released && q >= n ? e : i;
  const int across = (released ? e : i) + (q < n ? n : 0);  // the query whose margin counts in the swapped variants
  const int source = args.variant == MarginVariant::kFixed ? q : across;
  const int other = args.found[source];
  if (other == -1) return {0, -1, -1, -1};
  const double* scores = args.numbers + 2 * int64_t(n);
  const double* positives = args.numbers + 4 * int64_t(n);
  const Wide margin = Wide(args.numbers[source]), score = Wide(scores[q]), positive = Wide(positives[own]);
  const Wide cost = released ? (score - positive) + margin : margin + score - positive;
  if (released ? cost < Wide(0) : cost <= Wide(0)) return {0, -1, -1, -1};
  if (other == kOutside) return {double(cost), -1, -1, -1};
  return {double(cost), q < n || released ? i : e, q < n || released ? e : i, own};
}

struct LastShared {
  double sums[kThreads];
  int32_t last;
};

template <class T>
SIMT_DEVICE void finish_chosen(const SemanticMarginArgs& args, LastShared& shared) {
  using Wide = decltype(widened(T()));
  const int n = args.n, t = int(threadIdx.x);
  T* grad = static_cast<T*>(args.grad);
  int32_t* live = args.found + 2 * int64_t(n);  // the negative where the hinge of a query passes a gradient, or -1
  SYNC(2);
  if (t == 0) shared.last = is_last(args.finished);
  SYNC(3);
  if (!shared.last) return;
  __threadfence();
  double sum = 0;
  for (int q = t; q < 2 * n; q += kThreads) {
    const Hinge hinge = hinge_of<Wide>(args, q);
    sum += hinge.cost;
    live[q] = hinge.row < 0 ? -1 : args.found[q];
    if (hinge.row < 0) continue;
    atomicAdd(args.counts + hinge.own, 1);
    if (hinge.row == hinge.column) atomicAdd(args.counts + hinge.row, -1);
  }
  shared.sums[t] = sum;
  SYNC(4);
  const bool released = args.variant == MarginVariant::kReleased;
  for (int q = t; q < 2 * n; q += kThreads) {
    const int e = live[q], i = q < n ? q : q - n;
    if (e < 0 || e == i) continue;
    // Where both queries chose the same pair, the first one writes the 2.
    const bool both = released ? live[q < n ? n + i : i] == e : live[q < n ? n + e : e] == i;
    if (both && q >= n) continue;
    const int64_t row = q < n || released ? i : e, column = q < n || released ? e : i;
    narrow(Wide(both ? 2 : 1) / Wide(args.divisor), grad[row * n + column]);
  }
  for (int64_t i = t; i < n; i += kThreads)
    narrow(Wide(-atomicExch(args.counts + i, 0)) / Wide(args.divisor), grad[i * n + i]);
  if (t == 0) {
    *static_cast<Wide*>(args.loss) = Wide(total_of(shared.sums) / args.divisor);
    *args.finished = 0;
  }
}

// The first two in order.
template <class Wide>
struct Two {
  Candidate<Wide> first{0, -1}, second{0, -1};

  SIMT_DEVICE void add(Candidate<Wide> other, bool nan_is_highest) {
    const bool leads = harder(first, other, nan_is_highest).index != first.index;
    second = leads ? first : harder(second, other, nan_is_highest);
    first = leads ? other : first;
  }
  SIMT_DEVICE void merge(bool nan_is_highest) {
    for (int offset = 16; offset > 0; offset /= 2) {
      const Candidate<Wide> other_first = from_lane(first, offset), other_second = from_lane(second, offset);
      add(other_first, nan_is_highest);
      add(other_second, nan_is_highest);
    }
  }
};

// The negatives of a pair: in its row, and in its column.
struct Chosen {
  int64_t of_row, of_column;
};

// The released code's choice: the second highest (lowest) of both differences, along rows.
template <class T>
SIMT_DEVICE Chosen second_negatives(const SemanticMarginArgs& args, int i, int lane) {
  using Wide = decltype(widened(T()));
  const int n = args.n;
  const T* sims = static_cast<const T*>(args.sims);
  const T* row = sims + int64_t(i) * n;
  const bool highest = args.sampling == MarginSampling::kSoft;
  const Wide sign = highest ? Wide(1) : Wide(-1);
  Two<Wide> of_row, of_column;
  if (i < n) {
    const Wide own = widened(__ldg(row + i));
    for (int j = lane; j < n; j += 32) {
      const Wide score = widened(__ldg(row + j));
      const Wide other = widened(__ldg(sims + int64_t(j) * (n + 1)));
      of_row.add({sign * (score - own), j}, highest);
      of_column.add({sign * (score - other), j}, highest);
    }
  }
  of_row.merge(highest);
  of_column.merge(highest);
  return {of_row.second.index, of_column.second.index};
}

// The negative of pair i that a number in [0, 1) stands for; what lies outside is brought to the first or the last.
// Called by a whole warp.
SIMT_DEVICE int64_t drawn_negative(const SemanticMarginArgs& args, int i, int count, double uniform, int lane) {
  const double index = uniform * count;
  int wanted = !(index > 0) ? 0 : index >= double(count - 1) ? count - 1 : int(index);
  if (count == 0) return -1;
  if (args.image_ids == nullptr) return wanted + (wanted >= i);
  for (int first = 0; first < args.n; first += 32) {
    const int j = first + lane;
    const unsigned found =
        __ballot_sync(0xffffffffu, j < args.n && __ldg(args.image_ids + j) != __ldg(args.image_ids + i));
    const int here = __popc(found);
    if (wanted < here) {
      const bool mine = (found >> lane & 1) && __popc(found & ((1u << lane) - 1)) == wanted;
      return first + __ffs(int(__ballot_sync(0xffffffffu, mine))) - 1;
    }
    wanted -= here;
  }
  return -1;
}

// Negatives that were given, or drawn.
SIMT_DEVICE Chosen known_negatives(const SemanticMarginArgs& args, int i, int lane) {
  const int n = args.n;
  if (i >= n) return {-1, -1};
  if (args.sampling == MarginSampling::kGiven) return {__ldg(args.given + i), __ldg(args.given + n + i)};
  int count = 0;
  for (int j = lane; args.image_ids != nullptr && j < n; j += 32)
    count += __ldg(args.image_ids + j) != __ldg(args.image_ids + i);
  count = args.image_ids == nullptr ? n - 1 : simt::group_sum(count, 32);
  return {drawn_negative(args, i, count, __ldg(args.uniform + i), lane),
          drawn_negative(args, i, count, __ldg(args.uniform + n + i), lane)};
}

template <class Wide>
struct ChosenShared {
  ColumnCandidates<Wide> columns;
  LastShared of_last;
};

// One negative of each kind. Hardest and easiest are found by blocks of rows and blocks of columns, any others by rows.
template <class T>
SIMT_KERNEL(kThreads, 4)
chosen_kernel(SemanticMarginArgs args, int row_blocks) {
  using Wide = decltype(widened(T()));
  auto& shared = simt::shared<ChosenShared<Wide>>();
  const int n = args.n, t = int(threadIdx.x), lane = t % 32, warp = t / 32;
  const T* sims = static_cast<const T*>(args.sims);
  const bool extreme = row_blocks < int(gridDim.x);
  const Wide sign = args.sampling == MarginSampling::kHardest ? Wide(1) : Wide(-1);
  int q = 2 * n;  // the query whose negative this lane leaves
  int64_t negative = -1;
  if (int(blockIdx.x) < row_blocks) {
    const int i = int(blockIdx.x) * kRows + warp;
    Chosen chosen;
    if (extreme)
      chosen = {hardest_of_row(sims + int64_t(i) * n, args.image_ids, i, n, sign).index, -1};
    else if (args.sampling == MarginSampling::kSoft || args.sampling == MarginSampling::kHard)
      chosen = second_negatives<T>(args, i, lane);
    else
      chosen = known_negatives(args, i, lane);
    if (i < n && args.loss != nullptr) clear_row(static_cast<T*>(args.grad) + int64_t(i) * n, n);
    if (i < n && lane < (extreme ? 1 : 2)) {
      q = lane * n + i;
      negative = lane == 0 ? chosen.of_row : chosen.of_column;
    }
  } else {
    const int j = (int(blockIdx.x) - row_blocks) * kColumns + lane;
    shared.columns.put(hardest_of_column(sims, args.image_ids, j, n, sign));
    SYNC(1);
    if (warp == 0 && j < n) {
      q = n + j;
      negative = shared.columns.hardest().index;
    }
  }
  if (q < 2 * n) leave<T>(args, q, negative);
  if (args.loss != nullptr) finish_chosen<T>(args, shared.of_last);
}

struct AllShared {
  // Relevance of images first ... first + 255 with captions of 8 rows, as [row][image]; 258: no bank is hit twice.
  double transposed[kRows][kThreads + 2];
  LastShared of_last;
};

template <class T>
SIMT_KERNEL(kThreads, 4)
all_kernel(SemanticMarginArgs args) {
  using Wide = decltype(widened(T()));
  auto& shared = simt::shared<AllShared>();
  const int n = args.n, t = int(threadIdx.x), top = int(blockIdx.x) * kRows;
  const T* sims = static_cast<const T*>(args.sims);
  T* grad = static_cast<T*>(args.grad);
  const Wide once = Wide(1) / Wide(args.divisor), twice = Wide(2) / Wide(args.divisor);
  double sum = 0;
  int row_active[kRows] = {};
  for (int first = 0; first < n; first += kThreads) {
    SYNC(5);
    if (!args.column)
      for (int e = t; e < kRows * kThreads; e += kThreads) {
        const int k = e % kRows, j = e / kRows;
        if (first + j < n && top + k < n) shared.transposed[k][j] = phi_at(args, first + j, top + k);
      }
    SYNC(6);
    const int j = first + t;
    if (j >= n) continue;
    const Wide positive = widened(__ldg(sims + int64_t(j) * (n + 1)));
    const double phi_positive = phi_at(args, j, j);
    int column_active = 0;
#pragma unroll
    for (int k = 0; k < kRows; k++) {
      const int i = top + k;
      if (i >= n) continue;
      const int64_t place = int64_t(i) * n + j;
      const Wide score = widened(__ldg(sims + place));
      const Wide own = widened(__ldg(sims + int64_t(i) * (n + 1)));
      const double phi = phi_at(args, i, j), phi_own = phi_at(args, i, i);
      const double phi_of_column = args.column ? phi : shared.transposed[k][t];
      const Wide of_row = Wide(margin_of<double>(args, phi_own - phi)) + score - own;
      const Wide of_column = Wide(margin_of<double>(args, phi_positive - phi_of_column)) + score - positive;
      const bool negative = negatives(args.image_ids, i, j);
      const bool by_row = negative & !(of_row <= Wide(0)), by_column = negative & !(of_column <= Wide(0));
      sum += (by_row ? double(of_row) : 0) + (by_column ? double(of_column) : 0);
      row_active[k] += by_row;
      column_active += by_column;
      narrow(by_row & by_column ? twice : by_row | by_column ? once : Wide(0), grad[place]);
    }
    if (column_active > 0) atomicAdd(args.counts + j, column_active);
  }
#pragma unroll
  for (int k = 0; k < kRows; k++) {
    const int active = simt::group_sum(row_active[k], 32);
    if (t % 32 == 0 && active > 0) atomicAdd(args.counts + top + k, active);
  }
  shared.of_last.sums[t] = sum;
  SYNC(7);
  if (t == 0) {
    args.numbers[blockIdx.x] = total_of(shared.of_last.sums);
    shared.of_last.last = is_last(args.finished);
  }
  SYNC(8);
  if (!shared.of_last.last) return;
  __threadfence();
  sum = 0;
  for (int b = t; b < int(gridDim.x); b += kThreads) sum += args.numbers[b];
  shared.of_last.sums[t] = sum;
  for (int64_t i = t; i < n; i += kThreads)
    narrow(Wide(-atomicExch(args.counts + i, 0)) / Wide(args.divisor), grad[i * n + i]);
  SYNC(9);
  if (t == 0) {
    *static_cast<Wide*>(args.loss) = Wide(total_of(shared.of_last.sums) / args.divisor);
    *args.finished = 0;
  }
}

static_assert(sizeof(ChosenShared<double>) <= 20 * 1024 && sizeof(AllShared) <= 20 * 1024);

template <class T>
void launch(const SemanticMarginArgs& args, bool all, void* stream) {
  using Wide = decltype(widened(T()));
  const int row_blocks = (args.n + kRows - 1) / kRows, column_blocks = (args.n + kColumns - 1) / kColumns;
  const bool columns_too =
      !all && (args.sampling == MarginSampling::kHardest || args.sampling == MarginSampling::kEasiest);
  const dim3 grid(unsigned(columns_too ? row_blocks + column_blocks : row_blocks)), block(kThreads);
  if (all)
    SIMT_LAUNCH(all_kernel<T>, grid, block, sizeof(AllShared), stream, args);
  else
    SIMT_LAUNCH(chosen_kernel<T>, grid, block, sizeof(ChosenShared<Wide>), stream, args, row_blocks);
}

void launch_for(const SemanticMarginArgs& args, Number sims, bool all, void* stream) {
  if (args.n == 0) return;
  if (sims == Number::kFloat) launch<float>(args, all, stream);
  if (sims == Number::kDouble) launch<double>(args, all, stream);
  if (sims == Number::kBf16) launch<simt::bf16>(args, all, stream);
  if (sims == Number::kF16) launch<simt::f16>(args, all, stream);
}

}  // namespace

void semantic_margin_chosen(const SemanticMarginArgs& args, Number sims, void* stream) {
  launch_for(args, sims, false, stream);
}
void semantic_margin_all(const SemanticMarginArgs& args, Number sims, void* stream) {
  launch_for(args, sims, true, stream);
}

}  // namespace itm::cuda
