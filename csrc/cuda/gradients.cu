// The last step of a backward pass: what the products with dS leave out is added, in float32 or float64, and the result
// written in the type and layout of the input.
#include "groups.cuh"
#include "similarity.h"

namespace itm::cuda {
namespace {

constexpr int kThreads = 128;
template <class T>
constexpr int kRowsOf = 128 / int(sizeof(T));  // vectors of a block: their sums fill 32 registers

template <class T>
struct GradientsShared {
  static constexpr int kRows = kRowsOf<T>;
  alignas(16) T square[kRows][kRows + 4];  // [vector that is added][vector whose gradient it is]
};

static_assert(sizeof(GradientsShared<float>) <= 5 * 1024 && sizeof(GradientsShared<double>) <= 5 * 1024);

// A block: some vectors of a group, 128 of their numbers, a thread a number of all vectors.
template <class T, class Vector, class Out>
SIMT_KERNEL(kThreads, 4)
gradients_kernel(GradientsArgs args) {
  constexpr bool kIs16Bit = sizeof(Vector) == 2, kWas16Bit = sizeof(Vector) > sizeof(Out);  // before it was widened
  if ((kIs16Bit && !SIMT_IS_SINCE_AMPERE) || (kWas16Bit && !SIMT_IS_BEFORE_AMPERE)) return;
  constexpr int kRows = kRowsOf<T>;
  auto& shared = simt::shared<GradientsShared<T>>();
  const int bands = (args.pitch + kRows - 1) / kRows, t = int(threadIdx.x);
  const int group = int(blockIdx.x) / bands, first = int(blockIdx.x) % bands * kRows,
            d = int(blockIdx.y) * kThreads + t;
  const int n = size_of(args.counts, group, args.max);
  const int64_t group_row = int64_t(group) * args.pitch;
  const auto* vectors = static_cast<const Vector*>(args.vectors) + group_row * args.padded_dim;
  const auto* square = static_cast<const T*>(args.square);

  const bool is_whole = args.square_numbers == args.pitch * args.pitch;
  T sums[kRows] = {};
  for (int begin = 0; square != nullptr && begin < n; begin += kRows) {
    SYNC(51);
    for (int i = t; i < kRows * kRows; i += kThreads) {
      const int side = kRows / 4, row_block = first / 4 + i / 16 / side, k_block = begin / 4 + i / 16 % side;
      const bool lower = row_block >= k_block;
      const int low = lower ? row_block : k_block, high = lower ? k_block : row_block;  // else from its mirror image
      const int row = i / 16 / side * 4 + (lower ? i % 16 / 4 : i % 4);
      const int k = i / 16 % side * 4 + (lower ? i % 4 : i % 16 / 4);
      const int64_t in_blocks = (low * (low + 1) / 2 + high) * 16 + i % 16,
                    in_rows = int64_t(first + row) * args.pitch + begin + k;
      const int64_t at = int64_t(group) * args.square_numbers + (is_whole ? in_rows : in_blocks);
      T sum = 0;
      for (int split = 0; split < args.splits && begin + k < n && first + row < n; split++)
        sum += square[int64_t(split) * args.n_groups * args.square_numbers + at];
      shared.square[k][row] = sum;
    }
    SYNC(52);
    if (d >= args.dim) continue;
    const int end = n - begin < kRows ? n - begin : kRows;
    for (int k = 0; k < end; k++) {
      const T x = T(widened(__ldg(vectors + int64_t(begin + k) * args.padded_dim + d)));
#pragma unroll
      for (int row = 0; row < kRows; row++) sums[row] += shared.square[k][row] * x;
    }
  }
  if (d >= args.dim) return;
  const auto* norms = static_cast<const T*>(args.norms);
  const auto* kappa = static_cast<const T*>(args.kappa);
  const auto* product = static_cast<const T*>(args.product);
  auto* out = static_cast<Out*>(args.out);
  const T inverse = args.scale != nullptr ? T(1) / T(*args.scale) : T(1);
#pragma unroll
  for (int row = 0; row < kRows; row++) {
    if (first + row >= args.max) continue;
    const int64_t v = group_row + first + row, at = v * args.padded_dim + d;
    T sum = 0;
    if (first + row < n && (norms == nullptr || norms[v] != T(0))) {
      sum = product[at] * inverse + sums[row];
      if (kappa != nullptr) sum += kappa[v] * T(widened(__ldg(vectors + at - group_row * args.padded_dim)));
    }
    narrow(sum, out[(int64_t(group) * args.max + first + row) * args.dim + d]);
  }
}

template <class T, class Vector, class Out>
void launch(const GradientsArgs& args, void* stream) {
  const unsigned bands = unsigned((args.pitch + kRowsOf<T> - 1) / kRowsOf<T>);
  const dim3 grid(unsigned(args.n_groups) * bands, unsigned((args.dim + kThreads - 1) / kThreads)), block(kThreads);
  SIMT_LAUNCH((gradients_kernel<T, Vector, Out>), grid, block, sizeof(GradientsShared<T>), stream, args);
}

constexpr int kScaleThreads = 1024;
struct ScaleShared {
  float largest[kScaleThreads / 32];
};

static_assert(sizeof(ScaleShared) <= 5 * 1024);

SIMT_KERNEL(kScaleThreads, 1) scale_kernel(const float* grad_scores, int64_t n, float* scale) {
  auto& shared = simt::shared<ScaleShared>();
  const int t = int(threadIdx.x);
  float largest = 0;
  for (int64_t i = t; i < n; i += kScaleThreads) {
    const float x = fabsf(__ldg(grad_scores + i));
    largest = x > largest && x < INFINITY ? x : largest;
  }
  largest = simt::group_max(largest, 32);
  if (t % 32 == 0) shared.largest[t / 32] = largest;
  SYNC(53);
  if (t != 0) return;
  for (float other : shared.largest) largest = other > largest ? other : largest;
  // The exponents' bits count from 127: 2^4 / 2^exponent.
  const int bits = 2 * 127 + 4 - int(__float_as_uint(largest) >> 23), highest = 2 * 127;
  *scale = largest > 0 ? __uint_as_float(unsigned(bits < highest ? bits : highest) << 23) : 1.0f;
}

}  // namespace

void finish_gradients(const GradientsArgs& args, Number number, Number vectors, Number out, void* stream) {
  if (number == Number::kDouble) launch<double, double, double>(args, stream);
  if (number != Number::kFloat) return;
  if (vectors == Number::kFloat && out == Number::kFloat) launch<float, float, float>(args, stream);
  if (vectors == Number::kFloat && out == Number::kF16) launch<float, float, simt::f16>(args, stream);
  if (vectors == Number::kFloat && out == Number::kBf16) launch<float, float, simt::bf16>(args, stream);
  if (vectors == Number::kBf16 && out == Number::kBf16) launch<float, simt::bf16, simt::bf16>(args, stream);
  if (vectors == Number::kF16 && out == Number::kF16) launch<float, simt::f16, simt::f16>(args, stream);
}

void scale_for_float16(const float* grad_scores, int64_t n, float* scale, void* stream) {
  SIMT_LAUNCH(scale_kernel, dim3(1), dim3(kScaleThreads), sizeof(ScaleShared), stream, grad_scores, n, scale);
}

}  // namespace itm::cuda
