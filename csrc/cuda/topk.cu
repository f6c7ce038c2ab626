// The k best of every query, exactly. A block keeps one query's list and goes through a row of new scores, 1024 at a
// time: what does not come before the list's last is dropped, the few others are collected behind the list, and when
// there might be no room for more, list and candidates are put in order together and cut to k.
#include "ranking.h"
#include "simt.h"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kNoItem = INT64_MAX;

struct KeepShared {
  int32_t n;  // of the list and its candidates
  int32_t unused[3];
  alignas(16) int64_t memory[1];  // on chip: capacity indices, then capacity values
};

template <class T>
struct List {
  T* values;
  int64_t* indices;

  SIMT_DEVICE bool before(int a, int b) const { return precedes(values[a], indices[a], values[b], indices[b]); }
  SIMT_DEVICE static bool precedes(T score, int64_t item, T other_score, int64_t other_item) {
    return (score > other_score) | ((score == other_score) & (item < other_item));
  }
  SIMT_DEVICE void exchange(int a, int b) const {
    const T value = values[a];
    const int64_t index = indices[a];
    values[a] = values[b], indices[a] = indices[b];
    values[b] = value, indices[b] = index;
  }
};

// All n entries, best first, for everyone after a barrier of the caller's; n is filled up to a power of two with
// entries that nobody has taken. (Batcher, 1968.)
template <class T>
SIMT_DEVICE void put_in_order(const List<T>& list, int n) {
  const int t = int(threadIdx.x);
  int size = 1;
  while (size < n) size *= 2;
  for (int i = n + t; i < size; i += kThreads) {
    list.values[i] = T(-INFINITY);
    list.indices[i] = kNoItem;
  }
  for (int run = 2; run <= size; run *= 2)
    for (int stride = run / 2; stride > 0; stride /= 2) {
      SYNC(1);
      for (int i = t; i < size / 2; i += kThreads) {
        const int a = 2 * i - (i & (stride - 1)), b = a + stride;
        const bool best_first = (a & run) == 0;
        if (best_first ? list.before(b, a) : list.before(a, b)) list.exchange(a, b);
      }
    }
}

template <class T, bool kOnChip>
SIMT_KERNEL(kThreads, 2)
keep_kernel(KeepArgs args) {
  auto& shared = simt::shared<KeepShared>();
  const int t = int(threadIdx.x), lane = t % 32, k = int(args.k);
  const int64_t query = args.tile.first_query + blockIdx.x;
  T* values = static_cast<T*>(args.values) + query * args.k;
  int64_t* indices = args.indices + query * args.k;
  List<T> list;
  if constexpr (kOnChip) {
    list.indices = shared.memory;
    list.values = reinterpret_cast<T*>(shared.memory + args.capacity);
  } else {
    list.indices = args.scratch_indices + int64_t(blockIdx.x) * args.capacity;
    list.values = static_cast<T*>(args.scratch_values) + int64_t(blockIdx.x) * args.capacity;
  }
  for (int i = t; i < k; i += kThreads) {
    list.values[i] = values[i];
    list.indices[i] = indices[i];
  }
  if (t == 0) shared.n = k;
  SYNC(3);
  const T* scores = static_cast<const T*>(args.tile.scores) + int64_t(blockIdx.x) * args.tile.stride;
  const int n_items = args.tile.columns;
  if (n_items == 0) {
    put_in_order(list, k);
    SYNC(2);
  }
  for (int first = 0; first < n_items; first += kCandidates) {
    const T worst = list.values[k - 1];
    const int64_t worst_index = list.indices[k - 1];
    for (int j = 0; j < kCandidates; j += kThreads) {
      const int item = first + j + t;
      const T x = __ldg(scores + (item < n_items ? item : n_items - 1));
      const bool take = item < n_items && List<T>::precedes(x, args.tile.first_item + item, worst, worst_index);
      const unsigned takers = __ballot_sync(0xffffffffu, take);
      if (takers == 0) continue;
      int place = 0;
      if (lane == 0) place = atomicAdd(&shared.n, __popc(takers));
      place = __shfl_sync(0xffffffffu, place, 0) + __popc(takers & ((1u << lane) - 1));
      if (take) {
        list.values[place] = x;
        list.indices[place] = args.tile.first_item + item;
      }
    }
    SYNC(4);
    const int n = shared.n;
    SYNC(5);
    if (n + kCandidates <= args.capacity && first + kCandidates < n_items) continue;
    if (n > k) put_in_order(list, n);
    if (t == 0) shared.n = k;
    SYNC(6);
  }
  for (int i = t; i < k; i += kThreads) {
    values[i] = list.values[i];
    indices[i] = list.indices[i];
  }
}

template <class T>
void launch(const KeepArgs& args, Number number, bool on_chip, void* stream) {
  const dim3 grid(unsigned(args.tile.rows)), block(kThreads);
  const size_t bytes = size_t(keep_shared_bytes(args, number, on_chip));
  if (on_chip)
    SIMT_LAUNCH((keep_kernel<T, true>), grid, block, bytes, stream, args);
  else
    SIMT_LAUNCH((keep_kernel<T, false>), grid, block, bytes, stream, args);
}

}  // namespace

int64_t keep_shared_bytes(const KeepArgs& args, Number number, bool on_chip) {
  const int64_t entry = 8 + (number == Number::kDouble ? 8 : 4);
  return int64_t(sizeof(KeepShared)) + (on_chip ? entry * args.capacity : 0);
}

void keep_topk(const KeepArgs& args, Number number, bool on_chip, void* stream) {
  number == Number::kDouble ? launch<double>(args, number, on_chip, stream)
                            : launch<float>(args, number, on_chip, stream);
}

}  // namespace itm::cuda
