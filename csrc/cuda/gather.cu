// Gradients of the largest similarities: a query vector's is a weighted sum of the context vectors that it chose, a
// context vector's of the query vectors that chose it. Each sum runs in the order of its terms, so that it has the same
// bits every time; there are no atomic operations. A warp works on 128 numbers of a vector, a lane on four.
#include <cstring>

#include "numbers.cuh"
#include "similarity.h"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kNumbers = 128, kRows = 32;
constexpr int kOfWarp = 2, kChosen = kWarps * kOfWarp;  // query vectors of a warp and of a block of chosen_kernel

SIMT_DEVICE void load_four(const float* from, float (&to)[4]) {
  const float4 x = __ldg(reinterpret_cast<const float4*>(from));
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
template <class T>  // of 16 bits
SIMT_DEVICE void load_four(const T* from, float (&to)[4]) {
  const float2 bits = __ldg(reinterpret_cast<const float2*>(from));
  T numbers[4];
  memcpy(numbers, &bits, sizeof bits);
  for (int i = 0; i < 4; i++) to[i] = widened(numbers[i]);
}

SIMT_DEVICE void store_four(const float (&from)[4], float* to) {
  simt::store16(float4{from[0], from[1], from[2], from[3]}, to);
}
template <class T>  // of 16 bits
SIMT_DEVICE void store_four(const float (&from)[4], T* to) {
  T numbers[4];
  for (int i = 0; i < 4; i++) narrow(from[i], numbers[i]);
  float2 bits;
  memcpy(&bits, numbers, sizeof bits);
  simt::store8(bits, reinterpret_cast<float*>(to));
}

// Numbers d ... d + 3 of a vector of the result, as far as it has them.
template <class T>
SIMT_DEVICE void store_result(const float (&sums)[4], const GatherArgs& args, int64_t vector, int d) {
  T* out = static_cast<T*>(args.out) + vector * args.dim;
  if (args.dim % 4 == 0) {
    if (d < args.dim) store_four(sums, out + d);
    return;
  }
  for (int i = 0; i < 4; i++)
    if (d + i < args.dim) narrow(sums[i], out[d + i]);
}

// Of a query vector's largest similarity with a context.
SIMT_DEVICE float cotangent(const GatherArgs& args, int context, int number, int group) {
  if (args.weights != nullptr) return __ldg(args.weights + context * args.pitch + number);
  const float grad = __ldg(args.grad_scores + context * args.context_stride + group * args.query_stride);
  return args.means != 0 ? grad / float(__ldg(args.sizes + group)) : grad;
}

SIMT_KERNEL(kThreads, 4) places_kernel(GatherArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  const int64_t place = int64_t(blockIdx.x) * kThreads + int(threadIdx.x), group = place / args.query_max;
  const int within = int(place % args.query_max);
  if (group < args.n_queries && within < args.sizes[group]) args.sources[args.offsets[group] + within] = int32_t(place);
}

// A warp: two query vectors of a context, a lane four of 128 numbers of each.
template <class T>
SIMT_KERNEL(kThreads, 4)
chosen_kernel(GatherArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  const int lane = int(threadIdx.x) % 32, bands = (int(args.pitch) + kChosen - 1) / kChosen;
  const int context = int(blockIdx.x) / bands;
  const int first = int(blockIdx.x) % bands * kChosen + int(threadIdx.x) / 32 * kOfWarp;
  const int n = args.offsets[args.n_queries];
  int32_t rows[kOfWarp], places[kOfWarp];  // places of the vectors in their batches
  float sums[kOfWarp] = {};
  unsigned chosen = 0;  // a bit each
  for (int k = 0; k < kOfWarp; k++) {
    const int number = first + k, row = number < n ? __ldg(args.rows + context * args.pitch + number) : -1;
    const bool chose = row >= 0 && row < args.context_max;
    rows[k] = context * args.context_max + (chose ? row : 0);
    places[k] = chose ? __ldg(args.sources + number) : 0;
    chosen |= unsigned(chose) << k;
  }
#pragma unroll 1
  for (int d = lane * 4; d < args.padded_dim; d += kNumbers)
    for (int k = 0; k < kOfWarp; k++) {
      float x[4], y[4];
      load_four(static_cast<const T*>(args.context) + int64_t(rows[k]) * args.padded_dim + d, x);
      load_four(static_cast<const T*>(args.query) + int64_t(places[k]) * args.padded_dim + d, y);
      for (int i = 0; i < 4; i++) sums[k] += x[i] * y[i];
    }
  for (int k = 0; k < kOfWarp; k++) {
    const float sum = simt::group_sum(sums[k], 32);
    if (lane == 0 && first + k < n) args.weights[context * args.pitch + first + k] = (chosen >> k & 1) != 0 ? sum : NAN;
  }
}

struct GatherShared {
  float weight[kThreads];
  int32_t row[kThreads], source[kThreads];
  float sums[kRows][kNumbers];
};

static_assert(sizeof(GatherShared) <= 19 * 1024);

// A block: some rows of a context, 128 of their numbers. It goes through the query vectors in their order; a row
// belongs to a warp, which finds the vectors that chose it by a vote.
template <class T>
SIMT_KERNEL(kThreads, 4)
contexts_kernel(GatherArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  auto& shared = simt::shared<GatherShared>();
  const int t = int(threadIdx.x), warp = t / 32, lane = t % 32;
  const int number_bands = (args.dim + kNumbers - 1) / kNumbers, row_bands = (args.context_max + kRows - 1) / kRows;
  const int d = int(blockIdx.x) % number_bands * kNumbers + lane * 4;
  const int first = int(blockIdx.x) / number_bands % row_bands * kRows,
            context = int(blockIdx.x) / number_bands / row_bands;
  const auto* queries = static_cast<const T*>(args.query) + d;
  const int n = args.offsets[args.n_queries];
  for (int row = warp; row < kRows; row += kWarps) simt::store16(float4{0, 0, 0, 0}, &shared.sums[row][lane * 4]);
  for (int begin = 0; begin < n; begin += kThreads) {
    SYNC(71);
    int row = -1;
    if (begin + t < n) {
      const int chosen = __ldg(args.rows + context * args.pitch + begin + t);
      const int source = __ldg(args.sources + begin + t);
      if (chosen >= first && chosen - first < kRows) {
        const float weight = cotangent(args, context, begin + t, source / args.query_max);
        if (weight != 0.0f) row = chosen - first;
        shared.weight[t] = weight;
        shared.source[t] = source;
      }
    }
    shared.row[t] = row;
    SYNC(72);
    for (int at = 0; at < kThreads; at += 32) {
      const int chosen = shared.row[at + lane];
      for (unsigned mine = __ballot_sync(0xffffffffu, chosen >= 0 && chosen % kWarps == warp); mine != 0;
           mine &= mine - 1) {
        const int i = at + __ffs(mine) - 1;
        if (d >= args.padded_dim) continue;
        float x[4];
        load_four(queries + int64_t(shared.source[i]) * args.padded_dim, x);
        float* to = &shared.sums[shared.row[i]][lane * 4];
        const float4 sum = simt::load16(to);
        const float weight = shared.weight[i];
        simt::store16(
            float4{sum.x + weight * x[0], sum.y + weight * x[1], sum.z + weight * x[2], sum.w + weight * x[3]}, to);
      }
    }
  }
  for (int row = warp; row < kRows && first + row < args.context_max; row += kWarps) {
    const float4 sum = simt::load16(&shared.sums[row][lane * 4]);
    store_result<T>({sum.x, sum.y, sum.z, sum.w}, args, int64_t(context) * args.context_max + first + row, d);
  }
}

struct ChosenShared {
  float weight[kThreads];  // [context][vector]
  int32_t row[kThreads];
};

static_assert(sizeof(ChosenShared) <= 19 * 1024);

// A block: eight query vectors, a warp each, and 128 of their numbers.
template <class T>
SIMT_KERNEL(kThreads, 4)
queries_kernel(GatherArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  auto& shared = simt::shared<ChosenShared>();
  const int t = int(threadIdx.x), warp = t / 32, lane = t % 32;
  const int number_bands = (args.dim + kNumbers - 1) / kNumbers;
  const int d = int(blockIdx.x) % number_bands * kNumbers + lane * 4;
  const int64_t first = int64_t(blockIdx.x) / number_bands * kWarps, vector = first + warp;
  const int64_t staged = first + t % kWarps, group = staged / args.query_max;
  int number = -1;  // of the vector whose choices this thread fetches
  if (group < args.n_queries && staged % args.query_max < args.sizes[group])
    number = args.offsets[group] + int(staged % args.query_max);
  const bool inside = vector < int64_t(args.n_queries) * args.query_max && d < args.padded_dim;
  float* between = args.sums + vector * args.padded_dim + d;
  float sums[4] = {};
  if (inside && args.first_round == 0) {
    const float4 sum = simt::load16(between);
    sums[0] = sum.x, sums[1] = sum.y, sums[2] = sum.z, sums[3] = sum.w;
  }
  for (int begin = 0; begin < args.n_contexts; begin += kThreads / kWarps) {
    SYNC(73);
    const int context = begin + t / kWarps;
    int row = -1;
    if (number >= 0 && context < args.n_contexts) {
      const int chosen = __ldg(args.rows + context * args.pitch + number);
      const float weight = cotangent(args, context, number, int(group));
      if (weight != 0.0f && chosen < args.context_max) row = chosen;
      shared.weight[t] = weight;
    }
    shared.row[t] = row;
    SYNC(74);
    if (!inside) continue;
    const auto* contexts =
        static_cast<const T*>(args.context) + int64_t(begin) * args.context_max * args.padded_dim + d;
#pragma unroll 4
    for (int i = 0; i < kThreads / kWarps; i++) {
      const int chosen = shared.row[i * kWarps + warp];
      if (chosen < 0) continue;
      float x[4];
      load_four(contexts + (int64_t(i) * args.context_max + chosen) * args.padded_dim, x);
      for (int k = 0; k < 4; k++) sums[k] += shared.weight[i * kWarps + warp] * x[k];
    }
  }
  if (!inside) return;
  if (args.last_round != 0)
    store_result<T>(sums, args, vector, d);
  else
    store_four(sums, between);
}

template <class T>
void launch_chosen(const GatherArgs& args, void* stream) {
  const int64_t bands = (args.pitch + kChosen - 1) / kChosen;
  SIMT_LAUNCH(chosen_kernel<T>, dim3(unsigned(args.n_contexts * bands)), dim3(kThreads), 0, stream, args);
}

template <class T>
void launch_contexts(const GatherArgs& args, void* stream) {
  const unsigned number_bands = unsigned((args.dim + kNumbers - 1) / kNumbers),
                 row_bands = unsigned((args.context_max + kRows - 1) / kRows);
  SIMT_LAUNCH(contexts_kernel<T>, dim3(unsigned(args.n_contexts) * row_bands * number_bands), dim3(kThreads),
              sizeof(GatherShared), stream, args);
}

template <class T>
void launch_queries(const GatherArgs& args, void* stream) {
  const int64_t vectors = int64_t(args.n_queries) * args.query_max;
  const unsigned number_bands = unsigned((args.dim + kNumbers - 1) / kNumbers);
  SIMT_LAUNCH(queries_kernel<T>, dim3(unsigned((vectors + kWarps - 1) / kWarps) * number_bands), dim3(kThreads),
              sizeof(ChosenShared), stream, args);
}

}  // namespace

void place_queries(const GatherArgs& args, void* stream) {
  const int64_t vectors = int64_t(args.n_queries) * args.query_max;
  SIMT_LAUNCH(places_kernel, dim3(unsigned((vectors + kThreads - 1) / kThreads)), dim3(kThreads), 0, stream, args);
}

void multiply_chosen(const GatherArgs& args, Number number, void* stream) {
  if (number == Number::kFloat) launch_chosen<float>(args, stream);
  if (number == Number::kBf16) launch_chosen<simt::bf16>(args, stream);
  if (number == Number::kF16) launch_chosen<simt::f16>(args, stream);
}

void gather_contexts(const GatherArgs& args, Number number, void* stream) {
  if (number == Number::kFloat) launch_contexts<float>(args, stream);
  if (number == Number::kBf16) launch_contexts<simt::bf16>(args, stream);
  if (number == Number::kF16) launch_contexts<simt::f16>(args, stream);
}

void gather_queries(const GatherArgs& args, Number number, void* stream) {
  if (number == Number::kFloat) launch_queries<float>(args, stream);
  if (number == Number::kBf16) launch_queries<simt::bf16>(args, stream);
  if (number == Number::kF16) launch_queries<simt::f16>(args, stream);
}

}  // namespace itm::cuda
