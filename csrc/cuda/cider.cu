// CIDEr and CIDEr-D of encoded captions: blocks of all pairs, or pairs one by one. Formula: csrc/cpu/cider.h.
//
// All pairs: a block takes an image and 256 captions. The n-grams of the image's references become a hash table in
// shared memory, with one weight for each of up to 5 references; which thread puts a key where does not change what
// is found. Then a warp takes a caption, a lane each of its n-grams (whole lines, 4 bytes an n-gram), and adds up in a
// fixed order. Images with more references or n-grams than fit are taken in several rounds. 256 threads; shared memory
// 25 kB.
// Pairs: a warp a pair; both lists of an order come in whole lines, and every lane compares its n-gram of the reference
// with those of the caption, which the lanes hand round. No table: it would be used once.
#include "cider.h"
#include "numbers.cuh"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kTile = kWarps * 32;  // captions of a block
constexpr int kReferences = 5, kEntries = 320, kSlots = 512;
constexpr unsigned kAll = 0xffffffffu;

SIMT_DEVICE double penalty(const CiderArgs& args, int64_t difference) {
  if (args.sigma == 0) return 1;
  return exp(-double(difference * difference) / (2 * args.sigma * args.sigma));
}

SIMT_DEVICE uint32_t hash_of(int32_t feature) { return uint32_t(feature) * 2654435769u; }
SIMT_DEVICE int slot_of(int32_t feature) { return int(hash_of(feature) >> 23); }
static_assert(kSlots == 1 << (32 - 23));

// Most n-grams of a caption are in no reference, and 32 lanes that look for theirs at random places meet in banks. So a
// bit of one of 32 words, a bank each, is asked first.
struct Filter {
  uint32_t word, bit;
  SIMT_DEVICE explicit Filter(int32_t feature)
      : word(hash_of(feature) >> 8 & 31), bit(1u << (hash_of(feature) >> 13 & 31)) {}
};

struct Shared {
  uint32_t filter[32];
  int32_t keys[kSlots];  // -1: free
  double weights[kSlots][kReferences];
  double penalties[kThreads];  // by difference of length
};

// Where a lane's feature is, -1 if it is not there or the lane doesn't look for one; called by a whole warp. Lanes that
// have finished read the first slot, all of them the same.
SIMT_DEVICE int find(const Shared& shared, int32_t feature, bool looks) {
  const Filter filter(feature);
  bool searching = looks & ((shared.filter[filter.word] & filter.bit) != 0);
  int slot = slot_of(feature), found = -1;
  while (__any_sync(kAll, searching) != 0) {
    const int32_t key = shared.keys[searching ? slot : 0];
    found = searching & (key == feature) ? slot : found;
    searching &= (key >= 0) & (key != feature);
    slot = (slot + 1) % kSlots;
  }
  return found;
}

SIMT_DEVICE int find_or_add(Shared& shared, int32_t feature) {
  int slot = slot_of(feature);
  for (;; slot = (slot + 1) % kSlots) {
    const int32_t key = atomicCAS(shared.keys + slot, -1, feature);
    if (key == -1 || key == feature) return slot;
  }
}

// The n-grams [entry, stop) of references that begin with `first` into the table.
SIMT_DEVICE void fill_table(const CiderArgs& args, Shared& shared, int64_t first, int64_t past, int64_t entry,
                            int64_t stop, double scale) {
  for (int64_t e = entry + threadIdx.x; e < stop; e += kThreads) {
    int64_t row = first * args.max_n, end = past * args.max_n;  // the row that e is in lies in [row, end)
    while (end - row > 1) {
      const int64_t middle = (row + end) / 2;
      if (__ldg(args.offsets + middle) <= e)
        row = middle;
      else
        end = middle;
    }
    const int32_t feature = __ldg(args.features + e);
    const double weight =
        scale * __ldg(args.inverse_norms + row) * __ldg(args.idf_squared + feature) * __ldg(args.counts + e);
    if (weight == 0) continue;  // a word of every image
    const Filter filter(feature);
    atomicOr(shared.filter + filter.word, filter.bit);
    shared.weights[find_or_add(shared, feature)][row / args.max_n - first] = weight;
  }
}

// What the table's references add to phi of a caption; called by a whole warp.
SIMT_DEVICE double phi_of_table(const CiderArgs& args, const Shared& shared, int64_t caption, int64_t first,
                                int64_t past, int lane) {
  const int64_t row = caption * args.max_n;
  const int64_t offset = __ldg(args.offsets + row + (lane < args.max_n ? lane : args.max_n));
  const double inverse_norm = __ldg(args.inverse_norms + row + (lane < args.max_n ? lane : 0));
  const int64_t begin = __shfl_sync(kAll, offset, 0);
  const int bound = int(offset - begin), length = __shfl_sync(kAll, bound, args.max_n);
  double penalties[kReferences];
#pragma unroll
  for (int r = 0; r < kReferences; r++) {
    penalties[r] = 0;
    if (first + r >= past) continue;
    const int64_t longer = int64_t(__ldg(args.bigrams + first + r)) - __ldg(args.bigrams + caption);
    const int64_t difference = longer < 0 ? -longer : longer;
    penalties[r] = difference < kThreads ? shared.penalties[difference] : penalty(args, difference);
  }
  double sum = 0;
  for (int at = 0; at < length; at += 32) {
    const int e = at + lane;
    int order = 0;
    for (int k = 1; k < args.max_n; k++) order += e >= __shfl_sync(kAll, bound, k);
    double factor = __shfl_sync(kAll, inverse_norm, order);
    const int64_t own = begin + (e < length ? e : length - 1);
    const int32_t feature = __ldg(args.features + own);
    if (!args.unary) factor *= __ldg(args.counts + own);
    const int slot = find(shared, feature, e < length);
    double of_references = 0;
#pragma unroll
    for (int r = 0; r < kReferences; r++) of_references += shared.weights[slot < 0 ? 0 : slot][r] * penalties[r];
    if (slot >= 0) sum += factor * of_references;
  }
  return simt::group_sum(sum, 32);
}

static_assert(sizeof(Shared) <= 28 * 1024);

template <class Out>
SIMT_KERNEL(kThreads, 3)
block_kernel(CiderArgs args, int tiles) {
  auto& shared = simt::shared<Shared>();
  const int t = int(threadIdx.x), lane = t % 32;
  const int64_t i = int(blockIdx.x) / tiles, left = int64_t(int(blockIdx.x) % tiles) * kTile + t - lane;
  const int64_t image = __ldg(args.image_ids + i);
  const bool known = image >= 0 && image < args.n_images;
  const int64_t caption = left + lane < args.m ? __ldg(args.caption_ids + left + lane) : -1;
  const int64_t begin = known ? __ldg(args.references + image) : 0,
                end = known ? __ldg(args.references + image + 1) : 0;
  const double scale = 10.0 / double(args.max_n * (end - begin));
  int64_t first = begin, entry = __ldg(args.offsets + begin * args.max_n);
  const int64_t last_entry = __ldg(args.offsets + end * args.max_n);
  shared.penalties[t] = penalty(args, t);
  double phi = 0;
  while (entry < last_entry) {
    while (__ldg(args.offsets + (first + 1) * args.max_n) <= entry) first++;
    const int64_t past = first + kReferences < end ? first + kReferences : end;
    int64_t stop = __ldg(args.offsets + past * args.max_n);
    if (stop > entry + kEntries) stop = entry + kEntries;
    SYNC(1);
    if (t < 32) shared.filter[t] = 0;
    for (int slot = t; slot < kSlots; slot += kThreads) shared.keys[slot] = -1;
    for (int k = t; k < kSlots * kReferences; k += kThreads) (&shared.weights[0][0])[k] = 0;
    SYNC(2);
    fill_table(args, shared, first, past, entry, stop, scale);
    SYNC(3);
    for (int k = 0; k < 32; k++) {
      const int64_t candidate = __shfl_sync(kAll, caption, k);
      if (candidate < 0 || candidate >= args.n_captions) continue;
      const double sum = phi_of_table(args, shared, candidate, first, past, lane);
      if (lane == k) phi += sum;
    }
    entry = stop;
  }
  if (left + lane >= args.m) return;
  const bool valid = known && caption >= 0 && caption < args.n_captions;
  static_cast<Out*>(args.phi)[i * args.m + left + lane] = Out(valid ? phi : double(NAN));
}

// What one reference adds to phi of a caption, but for its share of the mean: a lane's part of it.
SIMT_DEVICE double part_of_reference(const CiderArgs& args, int64_t reference, int64_t caption, int lane) {
  double sum = 0;
  for (int k = 0; k < args.max_n; k++) {
    const int64_t mine = caption * args.max_n + k, row = reference * args.max_n + k;
    const int64_t end = __ldg(args.offsets + mine + 1), row_end = __ldg(args.offsets + row + 1);
    double of_order = 0;
    for (int64_t at = __ldg(args.offsets + mine); at < end; at += 32) {
      const bool inside = at + lane < end;
      const int32_t own = inside ? __ldg(args.features + at + lane) : -1;
      const int32_t own_count = args.unary ? 1 : inside ? __ldg(args.counts + at + lane) : 0;
      const int length = end - at < 32 ? int(end - at) : 32;
      for (int64_t e = __ldg(args.offsets + row); e < row_end; e += 32) {
        const int32_t feature = e + lane < row_end ? __ldg(args.features + e + lane) : -2;
        int count = 0;
        for (int b = 0; b < length; b++) {
          const int32_t other = __shfl_sync(kAll, own, b), other_count = __shfl_sync(kAll, own_count, b);
          count = other == feature ? other_count : count;
        }
        if (count > 0) of_order += count * __ldg(args.idf_squared + feature) * __ldg(args.counts + e + lane);
      }
    }
    sum += of_order * __ldg(args.inverse_norms + row) * __ldg(args.inverse_norms + mine);
  }
  return sum;
}

template <class Out>
SIMT_KERNEL(kThreads, 4)
pairs_kernel(CiderArgs args) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t pair = int64_t(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (pair >= args.n) return;
  const int64_t image = __ldg(args.image_ids + pair), caption = __ldg(args.caption_ids + pair);
  double total = double(NAN);
  if (image >= 0 && image < args.n_images && caption >= 0 && caption < args.n_captions) {
    const int64_t begin = __ldg(args.references + image), end = __ldg(args.references + image + 1);
    total = 0;
    for (int64_t r = begin; r < end; r++)
      total += part_of_reference(args, r, caption, lane) *
               penalty(args, int64_t(__ldg(args.bigrams + r)) - __ldg(args.bigrams + caption));
    total = 10.0 / double(args.max_n * (end - begin)) * simt::group_sum(total, 32);
  }
  if (lane == 0) static_cast<Out*>(args.phi)[pair] = Out(total);
}

template <class Out>
void launch(const CiderArgs& args, bool pairs, void* stream) {
  const dim3 block(kThreads);
  if (pairs) {
    SIMT_LAUNCH(pairs_kernel<Out>, dim3(unsigned((args.n + kWarps - 1) / kWarps)), block, 0, stream, args);
  } else {
    const int tiles = int((args.m + kTile - 1) / kTile);
    SIMT_LAUNCH(block_kernel<Out>, dim3(unsigned(args.n * tiles)), block, sizeof(Shared), stream, args, tiles);
  }
}

void launch_for(const CiderArgs& args, Number phi, bool pairs, void* stream) {
  if (args.n == 0 || (!pairs && args.m == 0)) return;
  if (phi == Number::kFloat) launch<float>(args, pairs, stream);
  if (phi == Number::kDouble) launch<double>(args, pairs, stream);
}

}  // namespace

void cider_block(const CiderArgs& args, Number phi, void* stream) { launch_for(args, phi, false, stream); }
void cider_pairs(const CiderArgs& args, Number phi, void* stream) { launch_for(args, phi, true, stream); }

}  // namespace itm::cuda
