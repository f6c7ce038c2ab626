// Attention's scores on tensor cores where S of some contexts with some queries lies in memory, and contexts or query
// groups have more vectors than a tile. A block takes one context and 64 (32, 16) columns of S, whatever groups they
// belong to, which it reads once: S, then the weights, stay in shared memory. The Gram matrix comes from memory in the
// order in which lanes take it, its lower half only, a step of 16 rows and 32 columns once for a block.
//
// Weights and Gram matrix are sums of two numbers of float16 each, of which three products are made: what is left out
// is 2^-22 of a number. Rows are scaled by powers of two near the vectors' norms, so that neither overflows; a vector
// loses bits where its norm is below 2^-17 of the context's largest.
#include <algorithm>

#include "attention_tile.cuh"
#include "groups.cuh"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kStepRows = 16, kTileColumns = 32, kTileBlocks = kTileColumns / 8;
constexpr int kMostSteps = 8;  // summed by the tensor cores, which may cut off where they add
constexpr int kMostRows = 3584;
constexpr float kOfPowers = 32768.0f, kOfGram = 4096.0f,
                kOfRoot = 1.0f / 2097152.0f;  // the last: 1 / (first * sqrt(second))

// What a lane has of 16 x 16 or 16 x 8 numbers: words of two of float16.
struct alignas(16) Words4 {
  uint32_t x[4];
};

// Two numbers as the sums of two of float16 each.
SIMT_DEVICE void split(float low, float high, uint32_t& big, uint32_t& small) {
  big = simt::two_f16(low, high);
  small = simt::two_f16(low - simt::low_f16(big), high - simt::high_f16(big));
}
SIMT_DEVICE float low_of(uint32_t big, uint32_t small) { return simt::low_f16(big) + simt::low_f16(small); }
SIMT_DEVICE float high_of(uint32_t big, uint32_t small) { return simt::high_f16(big) + simt::high_f16(small); }

SIMT_DEVICE int blocks_of_rows(int n) { return (n + kStepRows - 1) / kStepRows; }
SIMT_DEVICE int steps_of(int n_blocks) {  // attention_steps
  const int tiles = (n_blocks + 1) / 2;
  return tiles * (tiles + 1) - n_blocks % 2;
}

// Tile t has the rows up to its own last, 2 t + 2 steps of them, and t (t + 1) steps come before it.
SIMT_DEVICE int tile_of_step(int step) {
  int tile = int((sqrtf(4.0f * float(step) + 1.0f) - 1.0f) * 0.5f);
  if ((tile + 1) * (tile + 2) <= step) tile++;
  if (tile * (tile + 1) > step) tile--;
  return tile;
}

// The row of a step that a lane has at place `r` of four.
SIMT_DEVICE int row_of(int r) { return int(threadIdx.x) % 4 * 2 + r / 2 * 8 + r % 2; }

// Numbers of a lane's rows, where there are `end` (an even number) in all.
SIMT_DEVICE void load_pairs(const float* from, int block, int end, float (&to)[4]) {
  for (int k = 0; k < 2; k++) {
    const int row = block * kStepRows + row_of(2 * k);
    const float2 x = simt::load8(from + (row < end ? row : end - 2));
    to[2 * k] = x.x, to[2 * k + 1] = x.y;
  }
}

struct SplitShared {
  float inverse[kMostRows];  // of the power of two near a row's norm; 0 without one
  float largest[kWarps];
};

static_assert(sizeof(SplitShared) <= 15 * 1024);

SIMT_KERNEL(kThreads, 4)
split_gram_kernel(SplitGramArgs args, int parts) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  auto& shared = simt::shared<SplitShared>();
  const int t = int(threadIdx.x), lane = t % 32, warp = t / 32;
  const int context = int(blockIdx.x) / parts, part = int(blockIdx.x) % parts;
  const int n_rows = blocks_of_rows(args.pitch) * kStepRows, n_steps = steps_of(blocks_of_rows(args.pitch));
  const float* gram = args.gram + int64_t(context) * args.pitch * args.pitch;
  float largest = 0;
  for (int row = t; row < n_rows; row += kThreads) {
    const uint32_t bits = row < args.pitch ? __float_as_uint(gram[int64_t(row) * args.pitch + row]) & 0x7fffffffu : 0;
    const int half = (int(bits >> 23) - 127) >> 1;  // of the exponent
    const bool any = bits >= 0x00800000u;
    shared.inverse[row] = any ? __uint_as_float(uint32_t(127 - half) << 23) : 0.0f;
    largest = fmaxf(largest, any ? __uint_as_float(uint32_t(127 + half) << 23) : 0.0f);
  }
  largest = simt::group_max(largest, 32);
  if (lane == 0) shared.largest[warp] = largest;
  SYNC(101);
  for (int other = 0; other < kWarps; other++) largest = fmaxf(largest, shared.largest[other]);
  if (part == 0) {
    for (int row = t; row < n_rows; row += kThreads) {
      const float inverse = shared.inverse[row];
      args.powers[int64_t(context) * n_rows + row] = inverse > 0 ? kOfPowers / (inverse * largest) : 0.0f;
    }
    if (t == 0) args.units[context] = largest * kOfRoot;
  }
  auto* out = static_cast<Words4*>(args.out) + int64_t(context) * n_steps * (kStepBytes / 16) + lane;
  for (int step = part * kWarps + warp; step < n_steps; step += parts * kWarps) {
    const int tile = tile_of_step(step), block = step - tile * (tile + 1);
    // What lies left of the tile counts twice.
    const float scale = block < 2 * tile ? 2.0f * kOfGram : kOfGram;
    for (int j = 0; j < kTileBlocks; j++) {
      const int column = tile * kTileColumns + j * 8 + lane / 4;
      Words4 words;
      for (int k = 0; k < 2; k++) {
        const int row = block * kStepRows + row_of(2 * k);
        float2 x{0.0f, 0.0f};
        if (column < args.pitch && row < args.pitch) {  // an even number, as the pitch
          const float of_column = shared.inverse[column] * scale;
          x = simt::load8(gram + int64_t(column) * args.pitch + row);
          x = {x.x * shared.inverse[row] * of_column, x.y * shared.inverse[row + 1] * of_column};
        }
        split(x.x, x.y, words.x[k], words.x[2 + k]);
      }
      out[step * (kStepBytes / 16) + j * 32] = words;
    }
  }
}

// As Rows::logit takes it.
SIMT_DEVICE float lambda_of(const SimilarityOptions& options, const Clip& clip) {
  return float(options.lambda_softmax) * kLog2OfE * clip.unit;
}

// Without a normalisation every row's number is lambda.
struct PlainRows {};

// The numbers of rows and query groups that Rows::logit takes. A block has four rows of a context, a warp every eighth
// group, eight lanes along a row.
template <class Rows>
SIMT_KERNEL(kThreads, 4)
number_rows_kernel(AttentionArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  const int lane = int(threadIdx.x) % 32, bands = args.context_pitch / 4;
  const int context = int(blockIdx.x) / bands, row = int(blockIdx.x) % bands * 4 + lane / 8;
  const float* of_row = args.sims + (int64_t(context) * args.context_pitch + row) * args.n_queries * args.query_pitch;
  float* out = args.numbers + int64_t(context) * args.n_queries * args.context_pitch + row;
  const bool l2 = Normalisation<float>(args.options.feature_norm).l2;
  const Clip clip(args.options.feature_norm);
  const float lambda = lambda_of(args.options, clip);
#pragma unroll 1
  for (int group = int(threadIdx.x) / 32; group < args.n_queries; group += kWarps) {
    const int size = args.query_sizes[group];
    const float* s = of_row + group * args.query_pitch;
    float sum = 0;
    auto along = [&](const auto& add) {
#pragma unroll 1
      for (int w = lane % 8 * 4; w < size; w += 32) {
        const float4 x = simt::load16(s + w);
        add(x.x, w), add(x.y, w + 1), add(x.z, w + 2), add(x.w, w + 3);
      }
    };
    if constexpr (std::is_same_v<Rows, SoftmaxOfRows>) {
      float largest = -INFINITY;
      along([&](float x, int w) { largest = fmaxf(largest, w < size ? x : -INFINITY); });
      largest = simt::group_max(largest, 8);
      along([&](float x, int w) { sum += w < size ? simt::exp2_approximate((x - largest) * kLog2OfE) : 0.0f; });
      sum = largest * kLog2OfE + log2f(simt::group_sum(sum, 8));
    } else if constexpr (std::is_same_v<Rows, PlainRows>) {
      sum = lambda;
    } else {  // S is zero where a group has no vectors
      along([&](float x, int) {
        const float k = clip.bent(x);
        sum += l2 ? k * k : fabsf(k);
      });
      sum = simt::group_sum(sum, 8);
      if (l2) sum = simt::sqrt_approximate(sum);
      sum = __fdividef(lambda, clip.unit * sum + float(kEpsilon));
    }
    if (lane % 8 == 0) out[int64_t(group) * args.context_pitch] = sum;
  }
}

// Of each warp's columns, and of all columns by each warp.
template <int kColumns, int kWarps>
struct AttentionShared {
  static constexpr int kWide = kColumns < kColumnsOfWarp ? kColumns : kColumnsOfWarp;
  float largest[kWarps][kWide], sums[kWarps][kWide], dots[kWarps][kWide], quadratic[kWarps][kColumns];
  // [step of 16 rows][columns of a warp][32 lanes of each 8 of them]: S, then both parts of the weights of 16 columns.
  Words4 weights[1];
};

int64_t shared_bytes(int64_t pitch, AttentionBlock block) {
  const int64_t of_warps = block.threads / 32 * (3 * std::min(block.columns, kColumnsOfWarp) + block.columns);
  return 4 * (of_warps + attention_rows(pitch) * block.columns);
}

// A warp's sums of 16 columns of S a strip and 32 of the Gram matrix.
template <int kColumns>
using AttentionSums = float[kColumns / 16][kTileBlocks][4];

// sums += weights of 16 rows times 32 columns of the Gram matrix.
template <int kColumns>
SIMT_DEVICE void multiply_step(const Words4* weights, const Words4 (&gram)[kTileBlocks],
                               AttentionSums<kColumns>& sums) {
#pragma unroll
  for (int strip = 0; strip < kColumns / 16; strip++) {
    const Words4 big = weights[strip * 64], small = weights[strip * 64 + 32];
    for (int j = 0; j < kTileBlocks; j++) simt::mma_f16(sums[strip][j], small.x, {gram[j].x[0], gram[j].x[1]});
    for (int j = 0; j < kTileBlocks; j++) simt::mma_f16(sums[strip][j], big.x, {gram[j].x[2], gram[j].x[3]});
    for (int j = 0; j < kTileBlocks; j++) simt::mma_f16(sums[strip][j], big.x, {gram[j].x[0], gram[j].x[1]});
  }
}

// total[strip] of a lane's columns, lane / 4 and 8 more: the weights of 16 rows times their sums.
SIMT_DEVICE void contract(const Words4& big, const Words4& small, const float (&first)[4], const float (&second)[4],
                          float (&total)[2]) {
  for (int k = 0; k < 2; k++) {
    total[k] += low_of(big.x[k], small.x[k]) * first[k * 2] + high_of(big.x[k], small.x[k]) * first[k * 2 + 1];
    total[k] += low_of(big.x[2 + k], small.x[2 + k]) * second[k * 2] +
                high_of(big.x[2 + k], small.x[2 + k]) * second[k * 2 + 1];
  }
}

SIMT_DEVICE void load_own(const float* from, float (&to)[4]) {
  const float4 x = simt::load16(from);
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
SIMT_DEVICE void load_own(const float* from, float (&to)[2]) {
  const float2 x = simt::load8(from);
  to[0] = x.x, to[1] = x.y;
}

template <class Rows, int kColumns, int kOwnThreads>
SIMT_KERNEL(kOwnThreads, 512 / kOwnThreads)
attend_kernel(AttentionArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  constexpr int kWarps = kOwnThreads / 32, kWide = AttentionShared<kColumns, kWarps>::kWide;
  constexpr int kOwn = kWide / 8, kHalves = kColumns / kWide, kStrips = kColumns / 16;  // own: columns of a lane
  constexpr int kApart = kWarps / kHalves, kUnits = kHalves * kOwn * 32;                // of 16 bytes, in a step
  auto& shared = simt::shared<AttentionShared<kColumns, kWarps>>();
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, half = warp % kHalves;
  const int n_columns = args.n_queries * args.query_pitch, tiles = (n_columns + kColumns - 1) / kColumns;
  const int context = int(blockIdx.x) / tiles, first_column = int(blockIdx.x) % tiles * kColumns;
  const int n_rows = size_of(args.context_counts, context, args.context_max);
  const int n_blocks = blocks_of_rows(n_rows), most_blocks = blocks_of_rows(args.context_pitch);
  const Clip clip(args.options.feature_norm);
  const float lambda = lambda_of(args.options, clip);

  // S to its place, and the largest logit of a column. Columns that come after the last are as that one.
  const int own = first_column + half * kWide + lane / 4 * kOwn, column = own < n_columns ? own : n_columns - kOwn;
  const float* sims = args.sims + int64_t(context) * args.context_pitch * n_columns + column;
  const float* numbers =
      args.numbers + (int64_t(context) * args.n_queries + column / args.query_pitch) * args.context_pitch;
  auto place = [&](int block) { return shared.weights + block * kUnits + half * kOwn * 32 + lane; };
  float of_row[4];
  auto load_numbers = [&](int block) { load_pairs(numbers, block, args.context_pitch, of_row); };
  float largest[kOwn];
  for (float& x : largest) x = -INFINITY;
#pragma unroll 1
  for (int block = warp / kHalves; block < n_blocks; block += kApart) {
    load_numbers(block);
    float s[4][kOwn];
    for (int r = 0; r < 4; r++) {
      const int given = block * kStepRows + row_of(r), row = given < n_rows ? given : n_rows - 1;
      load_own(sims + int64_t(row) * n_columns, s[r]);
      for (int j = 0; j < kOwn; j++) {
        const float x = Rows::logit(s[r][j], of_row[r], clip, lambda);
        largest[j] = given < n_rows ? fmaxf(largest[j], x) : largest[j];
      }
    }
    for (int unit = 0; unit < kOwn; unit++) {
      const float* x = &s[0][0] + unit * 4;
      simt::store16(float4{x[0], x[1], x[2], x[3]}, reinterpret_cast<float*>(place(block) + unit * 32));
    }
  }
  for (int j = 0; j < kOwn; j++) {
    largest[j] = simt::group_max(largest[j], 4);
    if (lane % 4 == 0) shared.largest[warp][lane / 4 * kOwn + j] = largest[j];
  }
  SYNC(102);
  for (int other = half; other < kWarps; other += kHalves)
    for (int j = 0; j < kOwn; j++) largest[j] = fmaxf(largest[j], shared.largest[other][lane / 4 * kOwn + j]);

  // The weights take the place of S, each lane's own of its own.
  const float* powers = args.powers + context * most_blocks * kStepRows;
  float sums[kOwn] = {}, dots[kOwn] = {};
#pragma unroll 1
  for (int block = warp / kHalves; block < n_blocks; block += kApart) {
    float w[4][kOwn], power[4];
    load_numbers(block);
    load_pairs(powers, block, most_blocks * kStepRows, power);
    for (int unit = 0; unit < kOwn; unit++)
      load_own(reinterpret_cast<const float*>(place(block) + unit * 32),
               *reinterpret_cast<float (*)[4]>(&w[0][0] + unit * 4));
    for (int r = 0; r < 4; r++) {
      const int row = block * kStepRows + row_of(r);
      for (int j = 0; j < kOwn; j++) {
        const float s = w[r][j], of_s = Rows::logit(s, of_row[r], clip, lambda);
        const float x = row < n_rows ? simt::exp2_approximate(of_s - largest[j]) : 0.0f;
        sums[j] += x;
        dots[j] += x * s;
        w[r][j] = x * power[r];
      }
    }
    for (int strip = 0; strip < kOwn / 2; strip++) {
      Words4 big, small;
      for (int k = 0; k < 4; k++)
        split(w[k / 2 * 2][strip * 2 + k % 2], w[k / 2 * 2 + 1][strip * 2 + k % 2], big.x[k], small.x[k]);
      place(block)[strip * 64] = big;
      place(block)[strip * 64 + 32] = small;
    }
  }
  for (int j = 0; j < kOwn; j++) {
    sums[j] = simt::group_sum(sums[j], 4);
    dots[j] = simt::group_sum(dots[j], 4);
    if (lane % 4 == 0) {
      shared.sums[warp][lane / 4 * kOwn + j] = sums[j];
      shared.dots[warp][lane / 4 * kOwn + j] = dots[j];
    }
  }
  SYNC(103);

  // a^T G a: the warps share the steps.
  const int n_steps = steps_of(n_blocks);
  const auto* gram =
      static_cast<const Words4*>(args.gram) + int64_t(context) * steps_of(most_blocks) * (kStepBytes / 16) + lane;
  const int end = n_steps * (warp + 1) / kWarps;
  float totals[kStrips][2] = {};
#pragma unroll 1
  for (int step = n_steps * warp / kWarps; step < end;) {
    const int tile = tile_of_step(step), first = step - tile * (tile + 1);
    int n = 2 * tile + 2 < n_blocks ? 2 * tile + 2 - first : n_blocks - first;
    n = n < end - step ? n : end - step;
    n = n < kMostSteps ? n : kMostSteps;
    AttentionSums<kColumns> products = {};
#pragma unroll 1
    for (int i = 0; i < n; i++) {
      Words4 of_step[kTileBlocks];
      for (int j = 0; j < kTileBlocks; j++) of_step[j] = gram[(step + i) * (kStepBytes / 16) + j * 32];
      multiply_step<kColumns>(shared.weights + (first + i) * kUnits + lane, of_step, products);
    }
    for (int block = 0; block < 2; block++) {
      if (2 * tile + block >= n_blocks) continue;
      const Words4* weights = shared.weights + (2 * tile + block) * kUnits + lane;
      for (int strip = 0; strip < kStrips; strip++) {
        const Words4 big = weights[strip * 64], small = weights[strip * 64 + 32];
        contract(big, small, products[strip][block * 2], products[strip][block * 2 + 1], totals[strip]);
      }
    }
    step += n;
  }
  for (int strip = 0; strip < kStrips; strip++)
    for (int k = 0; k < 2; k++) {
      const float total = simt::group_sum(totals[strip][k], 4);
      constexpr int kOfHalf = kOwn / 2;  // strips
      if (lane % 4 == 0)
        shared.quadratic[warp][strip / kOfHalf * kWide + lane / 4 * kOwn + strip % kOfHalf * 2 + k] = total;
    }
  SYNC(104);

  const int t = int(threadIdx.x), at = first_column + t;
  if (t >= kColumns || at >= n_columns) return;
  const int group = at / args.query_pitch, of_group = at % args.query_pitch;
  if (of_group >= args.query_sizes[group]) return;
  float sum = 0, dot = 0, quadratic = 0;
  for (int other = t / kWide; other < kWarps; other += kHalves) {
    sum += shared.sums[other][t % kWide];
    dot += shared.dots[other][t % kWide];
  }
  for (int other = 0; other < kWarps; other++) quadratic += shared.quadratic[other][t];
  const float root = simt::sqrt_approximate(fmaxf(quadratic, 0.0f)) * __ldg(args.units + context);
  const float norms = args.norms[at] * root / sum;
  const float cosine = dot / sum / fmaxf(norms, float(kEpsilon));
  args.values[context * args.values_pitch + args.query_offsets[group] + of_group] = n_rows > 0 ? cosine : NAN;
}

template <class Rows, int kColumns, int kOwnThreads>
void launch(const AttentionArgs& args, void* stream) {
  const int tiles = (args.n_queries * args.query_pitch + kColumns - 1) / kColumns;
  SIMT_LAUNCH((attend_kernel<Rows, kColumns, kOwnThreads>), dim3(unsigned(args.n_contexts) * unsigned(tiles)),
              dim3(kOwnThreads), size_t(shared_bytes(args.context_pitch, {kColumns, kOwnThreads})), stream, args);
}
template <class NumberedRows, class Rows = NumberedRows>
void launch(const AttentionArgs& args, AttentionBlock block, void* stream) {
  const dim3 rows(unsigned(args.n_contexts) * unsigned(args.context_pitch / 4));
  SIMT_LAUNCH(number_rows_kernel<NumberedRows>, rows, dim3(kThreads), 0, stream, args);
  if (block.columns == 16) return launch<Rows, 16, 512>(args, stream);
  if (block.columns == 32) return launch<Rows, 32, 512>(args, stream);
  block.threads == 256 ? launch<Rows, 64, 256>(args, stream) : launch<Rows, 64, 512>(args, stream);
}

}  // namespace

AttentionBlock attention_block(int64_t context_pitch, int64_t shared_limit) {
  constexpr int64_t kReserved = 1024;  // of each block, beside its own
  auto bytes = [&](AttentionBlock block) { return shared_bytes(context_pitch, block); };
  if (2 * bytes({64, 256}) + kReserved <= shared_limit) return {64, 256};
  if (bytes({64, 512}) <= shared_limit) return {64, 512};
  for (const int32_t columns : {32, 16})
    if (context_pitch <= kMostRows && bytes({columns, 512}) <= shared_limit) return {columns, 512};
  return {0, 512};
}

void attend_chunk(const AttentionArgs& args, AttentionBlock block, void* stream) {
  switch (args.options.feature_norm) {
    case FeatureNorm::kSoftmax:
      return launch<SoftmaxOfRows>(args, block, stream);
    case FeatureNorm::kClippedL2:
    case FeatureNorm::kL2:
    case FeatureNorm::kClippedL1:
    case FeatureNorm::kL1:
      return launch<ScaledRows>(args, block, stream);
    case FeatureNorm::kClipped:
    case FeatureNorm::kNone:
      return launch<PlainRows, ScaledRows>(args, block, stream);
  }
}

void split_gram(const SplitGramArgs& args, void* stream) {
  // Each warp has a few steps: what a block looks up of the diagonal is little beside them.
  const int64_t parts = (attention_steps(args.pitch) + 4 * kWarps - 1) / (4 * kWarps);
  SIMT_LAUNCH(split_gram_kernel, dim3(unsigned(args.n_contexts * parts)), dim3(kThreads), sizeof(SplitShared), stream,
              args, int(parts));
}

}  // namespace itm::cuda
