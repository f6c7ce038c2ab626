// Ranks by counting: every score is compared with the positives of its query. Counts are integers, so that atomic sums
// are exact and the same every time. And the look for NaN, and the transposition that lets columns be queries.
#include "ranking.h"
#include "simt.h"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRowRun = 4096, kColumnRun = 256;  // scores of a query in one block
constexpr int kSlots = 4;                        // positives at a time

using Count = unsigned long long;  // what atomicAdd takes; sums of negative numbers wrap around as they should
SIMT_DEVICE void add(int64_t* to, int64_t n) {
  if (n != 0) atomicAdd(reinterpret_cast<Count*>(to), Count(n));
}

template <class T>
SIMT_KERNEL(kThreads, 4)
nan_kernel(NanArgs args) {
  const T* scores = static_cast<const T*>(args.tile.scores);
  bool found = false;
  for (int64_t row = blockIdx.x; row < args.tile.rows; row += gridDim.x)
    for (int column = int(threadIdx.x); column < args.tile.columns; column += kThreads) {
      const T x = __ldg(scores + row * args.tile.stride + column);
      found |= x != x;
    }
  if (__any_sync(0xffffffffu, found) != 0 && threadIdx.x % 32 == 0) atomicMax(args.found, 1);
}

template <class T>
SIMT_DEVICE bool comes_before(T score, int64_t item, T other_score, int64_t other_item) {
  return (score > other_score) | ((score == other_score) & (item < other_item));
}

// Counts of one thread for some of a query's positives.
template <class T>
struct Counter {
  T limit[kSlots];
  int64_t index[kSlots];
  int before[kSlots] = {};
  int above = 0, at_least = 0;

  SIMT_DEVICE void look_at(T x, int64_t item) {
    above += x > limit[0];
    at_least += x >= limit[0];
    for (int p = 0; p < kSlots; p++) before[p] += comes_before(x, item, limit[p], index[p]);
  }
};

// A query's own positives, wherever they are in the tile, were counted with the rest.
template <class T>
SIMT_DEVICE void discount(const CountArgs& args, int64_t query, int n_slots, const T* scores, int64_t step,
                          int64_t n_items, int first, int n_threads) {
  const T* limits = static_cast<const T*>(args.scores) + query * args.slots;
  const int64_t* index = args.index + query * args.slots;
  for (int own = first; own < n_slots; own += n_threads) {
    const int64_t at = index[own] - args.tile.first_item;
    if (at < 0 || at >= n_items) continue;
    const T score = scores[at * step];
    add(args.n_above + query, -int64_t(score > limits[0]));
    add(args.n_at_least + query, -int64_t(score >= limits[0]));
    for (int p = 0; p < n_slots; p++)
      add(args.n_before + query * args.slots + p, -int64_t(comes_before(score, index[own], limits[p], index[p])));
  }
}

// A block: a run of one row, or of 32 columns whose lanes stand side by side.
template <class T, bool kRows>
SIMT_KERNEL(kThreads, 4)
count_kernel(CountArgs args) {
  const ScoreTile& tile = args.tile;
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const unsigned n_places = kRows ? unsigned(tile.rows) : (unsigned(tile.columns) + 31) / 32;
  const int run = int(blockIdx.x / n_places), beside = int(blockIdx.x % n_places);
  const int place = kRows ? beside : beside * 32 + lane;  // the query's row or column
  const int n_queries = kRows ? tile.rows : tile.columns, n_items = kRows ? tile.columns : tile.rows;
  const bool inside = place < n_queries;
  const int64_t query = tile.first_query + (inside ? place : 0);
  const int n_slots = inside ? int(args.n_slots[query]) : 0;
  const int64_t step = kRows ? 1 : tile.stride;
  const T* scores = static_cast<const T*>(tile.scores) + (inside ? place : 0) * (kRows ? tile.stride : 1);
  const int begin = run * (kRows ? kRowRun : kColumnRun) + (kRows ? int(threadIdx.x) : warp);
  const int limit = (run + 1) * (kRows ? kRowRun : kColumnRun), end = limit < n_items ? limit : n_items;
  for (int slot = 0; slot < n_slots; slot += kSlots) {
    Counter<T> counter;
    for (int p = 0; p < kSlots; p++) {
      const int64_t at = query * args.slots + (slot + p < n_slots ? slot + p : slot);
      counter.limit[p] = static_cast<const T*>(args.scores)[at];
      counter.index[p] = args.index[at];
    }
    for (int i = begin; i < end; i += kRows ? kThreads : kWarps)
      counter.look_at(__ldg(scores + i * step), tile.first_item + i);
    if (kRows) {
      counter.above = simt::group_sum(counter.above, 32);
      counter.at_least = simt::group_sum(counter.at_least, 32);
      for (int p = 0; p < kSlots; p++) counter.before[p] = simt::group_sum(counter.before[p], 32);
    }
    if (kRows && lane != 0) continue;
    if (slot == 0) {
      add(args.n_above + query, counter.above);
      add(args.n_at_least + query, counter.at_least);
    }
    for (int p = 0; p < kSlots && slot + p < n_slots; p++)
      add(args.n_before + query * args.slots + slot + p, counter.before[p]);
  }
  if (run == 0)
    discount(args, query, n_slots, scores, step, n_items, kRows ? int(threadIdx.x) : warp, kRows ? kThreads : kWarps);
}

template <class T>
struct TransposeShared {
  T tile[32][33];
};
static_assert(sizeof(TransposeShared<double>) <= 9 * 1024);
template <class T>
SIMT_KERNEL(kThreads, 4)
transpose_kernel(TransposeArgs args) {
  auto& shared = simt::shared<TransposeShared<T>>();
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  const unsigned across = (unsigned(args.tile.columns) + 31) / 32;
  const int left = int(blockIdx.x % across) * 32, top = int(blockIdx.x / across) * 32;
  const T* scores = static_cast<const T*>(args.tile.scores);
  for (int row = warp; row < 32; row += kWarps)
    if (top + row < args.tile.rows && left + lane < args.tile.columns)
      shared.tile[row][lane] = __ldg(scores + (top + row) * args.tile.stride + left + lane);
  SYNC(1);
  for (int column = warp; column < 32; column += kWarps)
    if (left + column < args.tile.columns && top + lane < args.tile.rows)
      static_cast<T*>(args.out)[int64_t(left + column) * args.tile.rows + top + lane] = shared.tile[lane][column];
}

int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }
// In one dimension: the others end at 65,535 blocks, which a tall tile exceeds.
dim3 blocks(int64_t across, int64_t down) { return dim3(unsigned(across * down)); }

template <class T>
void launch_nan(const NanArgs& args, void* stream) {
  const dim3 grid(unsigned(args.tile.rows < 4096 ? args.tile.rows : 4096));
  SIMT_LAUNCH(nan_kernel<T>, grid, dim3(kThreads), 0, stream, args);
}
template <class T>
void launch_count(const CountArgs& args, void* stream) {
  const ScoreTile& tile = args.tile;
  if (args.queries_are_rows != 0)
    SIMT_LAUNCH((count_kernel<T, true>), blocks(tile.rows, ceil_div(tile.columns, kRowRun)), dim3(kThreads), 0, stream,
                args);
  else
    SIMT_LAUNCH((count_kernel<T, false>), blocks(ceil_div(tile.columns, 32), ceil_div(tile.rows, kColumnRun)),
                dim3(kThreads), 0, stream, args);
}
template <class T>
void launch_transpose(const TransposeArgs& args, void* stream) {
  const dim3 grid = blocks(ceil_div(args.tile.columns, 32), ceil_div(args.tile.rows, 32));
  SIMT_LAUNCH(transpose_kernel<T>, grid, dim3(kThreads), sizeof(TransposeShared<T>), stream, args);
}

}  // namespace

void find_nan(const NanArgs& args, Number number, void* stream) {
  number == Number::kDouble ? launch_nan<double>(args, stream) : launch_nan<float>(args, stream);
}
void count_ranks(const CountArgs& args, Number number, void* stream) {
  number == Number::kDouble ? launch_count<double>(args, stream) : launch_count<float>(args, stream);
}
void transpose_scores(const TransposeArgs& args, Number number, void* stream) {
  number == Number::kDouble ? launch_transpose<double>(args, stream) : launch_transpose<float>(args, stream);
}

}  // namespace itm::cuda
