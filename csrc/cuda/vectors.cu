// What every similarity needs of its two batches: norms, a zero-padded copy where the kernels cannot read the batch
// itself, and the cutting into tiles. Counts stay on the device: nobody waits for them.
#include "groups.cuh"
#include "similarity.h"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256;

// A warp a vector.
template <class In, class Out>
SIMT_KERNEL(kThreads, 4)
vectors_kernel(VectorsArgs args) {
  using Wide = decltype(widened(In()));
  const int lane = int(threadIdx.x) % 32;
  const int64_t v = int64_t(blockIdx.x) * (kThreads / 32) + int(threadIdx.x) / 32;
  if (v >= int64_t(args.n_groups) * args.pitch) return;
  const int group = int(v / args.pitch), vector = int(v % args.pitch);
  const bool valid = vector < size_of(args.counts, group, args.max);
  const In* from = static_cast<const In*>(args.data) + group * args.group_stride + vector * args.vector_stride;
  Out* to = static_cast<Out*>(args.copy);
  Wide sum = 0;
  for (int d = lane; d < args.padded_dim; d += 32) {
    Wide x = 0;
    if (valid && d < args.dim) x = widened(__ldg(from + d * args.number_stride));
    sum += x * x;
    if (to != nullptr) narrow(x, to[v * args.padded_dim + d]);
  }
  sum = simt::group_sum(sum, 32);
  if (lane == 0 && args.norms != nullptr) static_cast<Wide*>(args.norms)[v] = sqrt(sum);
}

template <class In, class Out>
void launch(const VectorsArgs& args, void* stream) {
  const int64_t vectors = int64_t(args.n_groups) * args.pitch;
  const dim3 grid(unsigned((vectors + kThreads / 32 - 1) / (kThreads / 32))), block(kThreads);
  if (vectors > 0) SIMT_LAUNCH((vectors_kernel<In, Out>), grid, block, 0, stream, args);
}

constexpr int kPlanThreads = 1024, kRun = 8 * kPlanThreads;

struct PlanShared {
  int32_t warps[32];
  uint8_t steps[kRun];  // groups in a tile that begins with this one
  int32_t group, tiles;
};

static_assert(sizeof(PlanShared) <= 9 * 1024);

// One block. Groups go to tiles in their order, each tile taking as many as fit: where every tile would begin is
// found for all groups at once, then one thread follows the chain.
SIMT_KERNEL(kPlanThreads, 1) plan_kernel(PlanArgs args) {
  auto& shared = simt::shared<PlanShared>();
  const int t = int(threadIdx.x), lane = t % 32, warp = t / 32;
  int before = 0;
  for (int first = 0; first < args.n_groups; first += kPlanThreads) {
    const int group = first + t;
    const int size = group < args.n_groups ? size_of(args.counts, group, args.max) : 0;
    int sum = size;  // of this and the earlier lanes
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, unsigned(offset));
      if (lane >= offset) sum += other;
    }
    SYNC(11);
    if (lane == 31) shared.warps[warp] = sum;
    SYNC(12);
    int earlier = before;
    for (int w = 0; w < 32; w++) {
      const int of_warp = shared.warps[w];
      earlier += w < warp ? of_warp : 0;
      before += of_warp;
    }
    if (group < args.n_groups) {
      args.sizes[group] = size;
      args.offsets[group] = earlier + sum - size;
    }
  }
  if (t == 0) {
    args.offsets[args.n_groups] = before;
    shared.group = shared.tiles = 0;
  }
  for (int first = 0; first < args.n_groups; first += kRun) {
    SYNC(13);
    for (int i = t; i < kRun && first + i < args.n_groups; i += kPlanThreads) {
      const int group = first + i, start = args.offsets[group];
      int step = 1;
      while (step < args.most_groups && group + step < args.n_groups &&
             args.offsets[group + step + 1] - start <= args.limit)
        step++;
      shared.steps[i] = uint8_t(step);
    }
    SYNC(14);
    if (t == 0) {
      int group = shared.group, tiles = shared.tiles;
      for (; group < args.n_groups && group < first + kRun; group += shared.steps[group - first])
        args.tile_begin[tiles++] = group;
      shared.group = group;
      shared.tiles = tiles;
    }
  }
  if (t == 0) {
    args.tile_begin[shared.tiles] = args.n_groups;
    *args.n_tiles = shared.tiles;
  }
}

// A list's tiles are counted, and what is known of its places is written; or the tiles are written, from first_tile on.
// A tile begins and ends with a member. A warp a list; all lanes return the number of tiles.
template <bool kCounts>
SIMT_DEVICE int cut_list(const ListsArgs& args, int list, int first_tile) {
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = int(threadIdx.x) % 32, start = list * args.length;
  int tiles = 0, before = 0, begin = -1, begun = 0, last = 0;  // begin: of the tile that is open, begun: offset there
  auto close = [&]() {
    if (!kCounts && lane == 0) {
      args.tile_begin[first_tile + tiles] = start + begin;
      args.tile_end[first_tile + tiles] = start + last + 1;
    }
    tiles++;
    begin = -1;
  };
  for (int first = 0; first < args.length; first += 32) {
    const int place = first + lane;
    const int64_t index = place < args.length ? __ldg(args.candidates + start + place) : -1;
    const bool there = index >= 0 && index < args.n_groups;
    const int size = there ? size_of(args.counts, int(index), args.max) : 0;
    int sum = size;  // of this and the earlier lanes
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(kAll, sum, unsigned(offset));
      if (lane >= offset) sum += other;
    }
    const int end = before + sum;
    if (kCounts && place < args.length) {
      args.groups[start + place] = there ? int(index) : -1;
      args.sizes[start + place] = size;
      args.offsets[start + place] = end - size;
      if (!there) args.scores[start + place] = index == -1 ? -INFINITY : NAN;
    }
    unsigned left = __ballot_sync(kAll, there);
    while (left != 0) {
      const int next = __ffs(left) - 1;
      const int offset = __shfl_sync(kAll, end - size, next);
      if (begin < 0) {
        begin = first + next;
        begun = offset;
      }
      const bool more = place > begin && (end - begun > args.limit || place - begin >= args.most_groups);
      const unsigned beyond = left & __ballot_sync(kAll, more);
      const unsigned taken = left & ~beyond;
      if (taken != 0) last = first + 31 - __clz(taken);
      if (beyond != 0) close();
      left = beyond;
    }
    before = __shfl_sync(kAll, end, 31);
  }
  if (begin >= 0) close();
  return tiles;
}

SIMT_KERNEL(kThreads, 4) lists_kernel(ListsArgs args) {
  const int list = int(blockIdx.x) * (kThreads / 32) + int(threadIdx.x) / 32;
  if (list >= args.n_lists) return;
  const int tiles = cut_list<true>(args, list, 0);
  int first_tile = 0;
  if (threadIdx.x % 32 == 0 && tiles > 0) first_tile = atomicAdd(args.n_tiles, tiles);
  cut_list<false>(args, list, __shfl_sync(0xffffffffu, first_tile, 0));
}

}  // namespace

void prepare_vectors(const VectorsArgs& args, Number from, Number to, void* stream) {
  if (from == Number::kFloat) launch<float, float>(args, stream);
  if (from == Number::kDouble) launch<double, double>(args, stream);
  if (from == Number::kBf16 && to == Number::kBf16) launch<simt::bf16, simt::bf16>(args, stream);
  if (from == Number::kBf16 && to == Number::kFloat) launch<simt::bf16, float>(args, stream);
  if (from == Number::kF16 && to == Number::kF16) launch<simt::f16, simt::f16>(args, stream);
  if (from == Number::kF16 && to == Number::kFloat) launch<simt::f16, float>(args, stream);
}

void plan_tiles(const PlanArgs& args, void* stream) {
  SIMT_LAUNCH(plan_kernel, dim3(1), dim3(kPlanThreads), sizeof(PlanShared), stream, args);
}

void plan_lists(const ListsArgs& args, void* stream) {
  const dim3 grid(unsigned((args.n_lists + kThreads / 32 - 1) / (kThreads / 32)));
  SIMT_LAUNCH(lists_kernel, grid, dim3(kThreads), 0, stream, args);
}

}  // namespace itm::cuda
