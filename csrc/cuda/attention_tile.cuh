// SCAN's cross attention to the context groups of a tile, on S in shared memory. A warp takes 32 columns of one context
// after the other: lane 4 g + t has rows t, t + 4, t + 8 ... and columns 4 g ... 4 g + 3, which is at once how the
// tensor cores take the weights in w^T G and how they give the product back, so that weights need not leave the
// registers.
#pragma once

#include <type_traits>

#include "attention.cuh"
#include "tile_product.cuh"

namespace itm::cuda {

constexpr int kRowPitch = kTileQueries + 1;  // of numbers of rows and query groups: neighbouring rows in other banks
constexpr float kLog2OfE = 1.44269504f;
constexpr int kColumnsOfWarp = 32, kBlocksInRegisters = 5;  // 8 rows each

// A tile's groups of one side, and where their vectors are.
template <int kGroups>
struct TileSide {
  int32_t begin[kGroups], size[kGroups];  // of each group, in vectors of the tile
  int32_t number[kGroups];                // in the batch; -1: none
  int32_t source[kTileVectors];           // number in the batch
  int32_t group[kTileVectors];
};

// The leaky ReLU of S, where there is one, as unit * bent(s), whose `bent` is one instruction.
struct Clip {
  float bend, unit;

  SIMT_DEVICE explicit Clip(FeatureNorm norm) {
    const bool clips = Normalisation<float>(norm).clips;
    bend = clips ? 9.0f / 11.0f : 0.0f;  // for a slope of 0.1
    unit = clips ? 0.55f : 1.0f;
  }
  SIMT_DEVICE float bent(float s) const { return s + bend * fabsf(s); }
};

// The first normalisation: how the attention's logits, in powers of two, follow from S and from a number of its row and
// query group. `lambda` is in powers of two as well, and times the clip's unit.
struct ScaledRows {  // clip(s) / (norm + epsilon): the number is lambda / (norm + epsilon); or lambda: clip(s) alone
  SIMT_DEVICE static float logit(float s, float of_row, const Clip& clip, float) { return clip.bent(s) * of_row; }
};
struct SoftmaxOfRows {  // exp(s) / sum of exp(s): the number is the sum's binary logarithm
  SIMT_DEVICE static float logit(float s, float of_row, const Clip&, float lambda) {
    return lambda * simt::exp2_approximate(s * kLog2OfE - of_row);
  }
};

// Where a Gram matrix has the numbers that a lane takes for 8 x 8 of it: rows first + t and first + t + 4 of column
// `column_of_lane`, as TF32 and the rest. Blocks on and below the diagonal, [block][lane][4], those below twice their
// numbers: w^T G w needs no others.
SIMT_DEVICE int gram_block(int rows, int columns) { return rows * (rows + 1) / 2 + columns; }
SIMT_DEVICE int column_of_lane(int lane) { return lane / 8 + lane / 4 % 2 * 4; }
SIMT_DEVICE void split_for_gram(float x, float& big, float& small) {
  big = __uint_as_float(simt::cut_to_tf32(__float_as_uint(x) + 0x1000u));
  small = x - big;
}

// Lane t of four gets what the four have of x[t].
SIMT_DEVICE float sum_of_own(const float (&x)[4], int t) {
  const bool high = t > 1, odd = t % 2 != 0;
  float a = high ? x[2] : x[0], b = high ? x[3] : x[1];
  a += __shfl_xor_sync(0xffffffffu, high ? x[0] : x[2], 2);
  b += __shfl_xor_sync(0xffffffffu, high ? x[1] : x[3], 2);
  return (odd ? b : a) + __shfl_xor_sync(0xffffffffu, odd ? a : b, 1);
}

template <class Rows>
class TileAttention {
 public:
  SIMT_DEVICE explicit TileAttention(const SimilarityOptions& options)
      : norm_(options.feature_norm),
        clip_(options.feature_norm),
        lambda_(float(options.lambda_softmax) * kLog2OfE),
        // Bounded logits of this size leave exp, its square and sums of both far from overflow and underflow.
        shifts_(!norm_.sums() || !(fabsf(lambda_) <= 29.0f)),
        least_(1.01f * float(kEpsilon) * (shifts_ ? 1.0f : simt::exp2_approximate(fabsf(lambda_)))) {}

  // of_rows[row * kRowPitch + group]. A warp takes a query group, a lane rows lane, lane + 32 ...
  SIMT_DEVICE void number_rows(const float* sims, const TileSide<kTileQueries>& query, int n_queries, int n_rows,
                               float* of_rows) const {
    const int lane = int(threadIdx.x) % 32;
    for (int group = int(threadIdx.x) / 32; n_rows > 0 && group < n_queries; group += int(blockDim.x) / 32) {
      const int begin = query.begin[group], size = query.size[group];
      if (size == 0) continue;
      float* out = of_rows + lane * kRowPitch + group;
      // The product has written rows up to a multiple of 64.
      n_rows > kWarpRows ? number_rows_of<kTileVectors / 32>(sims, begin, size, out)
                         : number_rows_of<kWarpRows / 32>(sims, begin, size, out);
    }
  }

  // Cosines of all columns with what they attend to in each context take the place of S in the context's first row,
  // where they lie in their order: those of a warp's columns where its S was.
  template <class NormOf>
  SIMT_DEVICE void attend(float* sims, const float* of_rows, const TileSide<kTileContexts>& context, int n_contexts,
                          const TileSide<kTileQueries>& query, int n_columns, const float* gram, int gram_blocks,
                          const NormOf& query_norm) const {
    constexpr int kAcross = kTileVectors / kColumnsOfWarp;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4;
    const int first = warp % kAcross * kColumnsOfWarp, column = first + lane / 4 * 4;
    if (first >= n_columns) return;
    const float* numbers[4];
    for (int j = 0; j < 4; j++)
      numbers[j] = of_rows + t * kRowPitch + query.group[column + j < n_columns ? column + j : n_columns - 1];
    const float length = column + t < n_columns ? query_norm(query.source[column + t]) : 1.0f;
    for (int number = warp / kAcross; number < n_contexts; number += int(blockDim.x) / 32 / kAcross) {
      const int begin = context.begin[number], n_rows = context.size[number];
      if (n_rows == 0) continue;
      const int at = ((begin + t) * PermutedSims::kLd + column) ^ PermutedSims::flip(begin + t);
      Columns of{sims + at, sims + (at ^ 4), {}, n_rows, t, {}};
      for (int j = 0; j < 4; j++) of.of_rows[j] = numbers[j] + begin * kRowPitch;
      if (shifts_) largest_logits(of);
      const auto* blocks =
          reinterpret_cast<const float4*>(gram) + int64_t(context.number[number]) * (gram_blocks * 32) + lane;
      Totals totals = {};
      n_rows <= kBlocksInRegisters * 8 ? in_registers<kBlocksInRegisters>(of, blocks, totals)
                                       : in_place(of, blocks, totals);
      const float cosine = cosine_of(of, totals, length);
      __syncwarp();
      if (column + t < n_columns) sims[begin * PermutedSims::kLd + column + t] = cosine;
    }
  }

 private:
  // A lane's columns of a context, from its row t on.
  struct Columns {
    float *sims, *flipped;  // in that row: their place there, and in the fourth row after it
    const float* of_rows[4];
    int n_rows, t;
    float shift[4];

    // Of the row that comes so many after the lane's first, a multiple of four.
    SIMT_DEVICE float* row(int after) const { return (after % 8 == 0 ? sims : flipped) + after * PermutedSims::kLd; }
  };
  struct Totals {
    float dot[4], quadratic[4];
  };

  // Calls add(i, s) for `size` columns from `begin` on and the rows lane + 32 i. Control is the same for all lanes.
  template <int kRows, class Add>
  SIMT_DEVICE static void along(const float* sims, int begin, int size, const Add& add) {
    const int lane = int(threadIdx.x) % 32, flip = PermutedSims::flip(lane);
    const auto four = [&](int at, float (&s)[kRows][4]) {
      for (int i = 0; i < kRows; i++) {
        const float4 s4 = simt::load16(sims + i * 32 * PermutedSims::kLd + (at ^ flip));
        s[i][0] = s4.x, s[i][1] = s4.y, s[i][2] = s4.z, s[i][3] = s4.w;
      }
    };
    float s[kRows][4];
    const int first = lane * PermutedSims::kLd + begin, end = first + size;
    int at = first & ~3;
    if (at < first) {
      four(at, s);
      for (int j = 1; j < 4; j++)
        if (first <= at + j && at + j < end)
          for (int i = 0; i < kRows; i++) add(i, s[i][j]);
      at += 4;
    }
#pragma unroll 1
    for (; at + 4 <= end; at += 4) {
      four(at, s);
      for (int j = 0; j < 4; j++)
        for (int i = 0; i < kRows; i++) add(i, s[i][j]);
    }
    if (at < end) {
      four(at, s);
      for (int j = 0; j < 3; j++)
        if (at + j < end)
          for (int i = 0; i < kRows; i++) add(i, s[i][j]);
    }
  }

  // Of rows lane, lane + 32 ..., and columns of one group; those beyond the contexts are zero.
  template <int kRows>
  SIMT_DEVICE void number_rows_of(const float* sims, int begin, int size, float* out) const {
    float sums[kRows] = {}, largest[kRows];
    if constexpr (std::is_same_v<Rows, SoftmaxOfRows>) {
      for (float& most : largest) most = -INFINITY;
      along<kRows>(sims, begin, size, [&](int i, float x) { largest[i] = fmaxf(largest[i], x); });
      along<kRows>(sims, begin, size,
                   [&](int i, float x) { sums[i] += simt::exp2_approximate((x - largest[i]) * kLog2OfE); });
      for (int i = 0; i < kRows; i++) sums[i] = largest[i] * kLog2OfE + log2f(sums[i]);
    } else {
      if (norm_.l2) {
        along<kRows>(sims, begin, size, [&](int i, float x) {
          const float k = clip_.bent(x);
          sums[i] += k * k;
        });
        for (float& sum : sums) sum = simt::sqrt_approximate(sum);
      } else if (norm_.l1) {
        along<kRows>(sims, begin, size, [&](int i, float x) { sums[i] += fabsf(clip_.bent(x)); });
      }
      for (float& sum : sums) {
        const float inverse = simt::reciprocal_approximate(clip_.unit * sum + float(kEpsilon));
        sum = lambda_ * clip_.unit * (norm_.sums() ? inverse : 1.0f);
      }
    }
    for (int i = 0; i < kRows; i++) out[i * 32 * kRowPitch] = sums[i];
  }

  // Of the row that comes so many after the lane's first.
  SIMT_DEVICE float logit(const Columns& of, float s, int row, int j) const {
    return Rows::logit(s, of.of_rows[j][row * kRowPitch], clip_, lambda_ * clip_.unit) - of.shift[j];
  }

  SIMT_DEVICE void largest_logits(Columns& of) const {
    float largest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
#pragma unroll 1
    for (int row = 0; row + of.t < of.n_rows; row += 4)
      for (int j = 0; j < 4; j++) largest[j] = fmaxf(largest[j], logit(of, of.row(row)[j], row, j));
    for (int j = 0; j < 4; j++) of.shift[j] = simt::group_max(largest[j], 4);
  }

  // Weights of rows 8 block + t (the first four) and 8 block + t + 4, 0 beyond the context.
  template <bool kLast>
  SIMT_DEVICE void weigh(const Columns& of, int block, float (&w)[8], Totals& totals) const {
    for (int half = 0; half < 2; half++) {
      const int row = block * 8 + half * 4;
      if (kLast) {
        for (int j = 0; j < 4; j++) w[half * 4 + j] = 0.0f;
        if (row + of.t >= of.n_rows) continue;
      }
      const float4 s4 = simt::load16(of.row(row));
      const float s[4] = {s4.x, s4.y, s4.z, s4.w};
      for (int j = 0; j < 4; j++) {
        const float x = simt::exp2_approximate(logit(of, s[j], row, j));
        w[half * 4 + j] = x;
        totals.dot[j] += x * s[j];
      }
    }
  }

  // A block of rows and some blocks of columns of a Gram matrix, in two parts of TF32.
  template <int kBlocks>
  struct Gram {
    uint32_t big[kBlocks][2], small[kBlocks][2];

    SIMT_DEVICE explicit Gram(const float4* from) {
      for (int i = 0; i < kBlocks; i++) {
        const float4 g = __ldg(from + i * 32);
        big[i][0] = __float_as_uint(g.x), big[i][1] = __float_as_uint(g.y);
        small[i][0] = __float_as_uint(g.z), small[i][1] = __float_as_uint(g.w);
      }
    }
  };

  // product[i] += w^T G of a block of rows and the i-th of blocks of columns, for two times 16 columns of S: w in two
  // parts as well, without the product of both rests.
  template <int kBlocks>
  SIMT_DEVICE static void multiply(const float (&w)[8], const Gram<kBlocks>& gram, float (*product)[2][4]) {
    uint32_t big[2][4], small[2][4];
    for (int strip = 0; strip < 2; strip++)
      for (int k = 0; k < 4; k++) {
        const float x = w[k / 2 * 4 + strip * 2 + k % 2];
        big[strip][k] = simt::cut_to_tf32(__float_as_uint(x));
        small[strip][k] = __float_as_uint(x - __uint_as_float(big[strip][k]));
      }
    // One part after the other: neighbouring products do not wait for each other's sums.
    for (int i = 0; i < kBlocks; i++)
      for (int strip = 0; strip < 2; strip++) simt::mma_tf32(product[i][strip], big[strip], gram.small[i]);
    for (int i = 0; i < kBlocks; i++)
      for (int strip = 0; strip < 2; strip++) simt::mma_tf32(product[i][strip], small[strip], gram.big[i]);
    for (int i = 0; i < kBlocks; i++)
      for (int strip = 0; strip < 2; strip++) simt::mma_tf32(product[i][strip], big[strip], gram.big[i]);
  }

  SIMT_DEVICE static void contract(const float (&w)[8], const float (&product)[2][4], Totals& totals) {
    for (int half = 0; half < 2; half++)
      for (int j = 0; j < 4; j++) totals.quadratic[j] += product[j / 2][j % 2 * 2 + half] * w[half * 4 + j];
  }

  // As attended_cosine, with both parts of the quotient times the sum of the weights, which is made where the clamp may
  // count only.
  SIMT_DEVICE float cosine_of(const Columns& of, const Totals& totals, float length) const {
    float norms = length * simt::sqrt_approximate(fmaxf(sum_of_own(totals.quadratic, of.t), 0.0f));
    if (__any_sync(0xffffffffu, !(norms > least_ * float(of.n_rows))) != 0) {
      float sums[4] = {};
#pragma unroll 1
      for (int row = 0; row + of.t < of.n_rows; row += 4)
        for (int j = 0; j < 4; j++) {
          const float s = of.row(row)[j];  // or the weight, in its place
          sums[j] += of.n_rows <= kBlocksInRegisters * 8 ? simt::exp2_approximate(logit(of, s, row, j)) : s;
        }
      norms = fmaxf(norms, float(kEpsilon) * sum_of_own(sums, of.t));
    }
    return sum_of_own(totals.dot, of.t) * simt::reciprocal_approximate(norms);
  }

  // At most kBlocks blocks of rows, the last first: a block of columns is complete once its own rows are multiplied.
  template <int kBlocks>
  SIMT_DEVICE void in_registers(const Columns& of, const float4* gram, Totals& totals) const {
    if constexpr (kBlocks > 1)
      if (of.n_rows <= (kBlocks - 1) * 8) return in_registers<kBlocks - 1>(of, gram, totals);
    float product[kBlocks][2][4] = {};
    add_rows<kBlocks - 1, true>(of, gram, product, totals);
  }
  template <int kBlock, bool kLast>
  SIMT_DEVICE void add_rows(const Columns& of, const float4* gram, float (*product)[2][4], Totals& totals) const {
    const Gram<kBlock + 1> of_rows(gram + gram_block(kBlock, 0) * 32);
    float w[8];
    weigh<kLast>(of, kBlock, w, totals);
    if (kLast) __syncwarp();
    multiply(w, of_rows, product);
    contract(w, product[kBlock], totals);
    if constexpr (kBlock > 0) add_rows<kBlock - 1, false>(of, gram, product, totals);
  }

  // As many rows as there may be: the weights take the place of S, each lane's own of its own.
  SIMT_DEVICE void in_place(const Columns& of, const float4* gram, Totals& totals) const {
    float w[8];
    const int n_blocks = (of.n_rows + 7) / 8;
#pragma unroll 1
    for (int block = 0; block < n_blocks; block++) {
      weigh<true>(of, block, w, totals);
      for (int half = 0; half < 2; half++) {
        const int row = block * 8 + half * 4 + of.t;
        const float4 x{w[half * 4], w[half * 4 + 1], w[half * 4 + 2], w[half * 4 + 3]};
        if (row < of.n_rows) simt::store16(x, of.row(row - of.t));
      }
    }
    auto load = [&](int block) {
      for (int half = 0; half < 2; half++) {
        const int row = block * 8 + half * 4 + of.t;
        const float4 x = simt::load16(of.row(row < of.n_rows ? row - of.t : 0));
        const bool inside = row < of.n_rows;
        w[half * 4] = inside ? x.x : 0.0f, w[half * 4 + 1] = inside ? x.y : 0.0f;
        w[half * 4 + 2] = inside ? x.z : 0.0f, w[half * 4 + 3] = inside ? x.w : 0.0f;
      }
    };
#pragma unroll 1
    for (int columns = 0; columns < n_blocks; columns++) {
      float product[1][2][4] = {};
#pragma unroll 2
      for (int block = columns; block < n_blocks; block++) {
        load(block);
        multiply(w, Gram<1>(gram + gram_block(block, columns) * 32), product);
      }
      load(columns);
      contract(w, product[0], totals);
    }
  }

  Normalisation<float> norm_;
  Clip clip_;
  float lambda_;
  bool shifts_;
  float least_;  // kEpsilon times what no weight exceeds
};

}  // namespace itm::cuda
