// Gradients of the largest similarities: a query vector's is a weighted sum of the context vectors that it chose, a
// context vector's of the query vectors that chose it. Each sum runs in the order of its terms, so that it has the same
// bits every time; there are no atomic operations. A warp works on 128 numbers of a vector, a lane on four.
#include <cstring>

#include "numbers.cuh"
#include "similarity.h"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kNumbers = 128, kRows = 32;

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
      const int64_t at = context * args.pitch + begin + t;
      const float weight = __ldg(args.weights + at);
      row = __ldg(args.rows + at) - first;
      if (row >= kRows || weight == 0.0f) row = -1;
      shared.weight[t] = weight;
      shared.source[t] = __ldg(args.sources + begin + t);
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
      const float weight = __ldg(args.weights + context * args.pitch + number);
      if (weight != 0.0f) row = __ldg(args.rows + context * args.pitch + number);
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
