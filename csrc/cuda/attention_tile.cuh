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
  int32_t source[kTileVectors];           // number in the batch
  int32_t group[kTileVectors];
};

// The first normalisation: how the attention's logits, in powers of two, follow from S and from a number of its row and
// query group. `lambda` is in powers of two as well; a slope of 1 below zero leaves S as it is.
struct ScaledRows {  // clip(s) / (norm + epsilon): the number is lambda / (norm + epsilon)
  static constexpr bool kOfRows = true, kBounded = true;
  SIMT_DEVICE static float logit(float s, float of_row, float slope, float) { return fmaxf(s, slope * s) * of_row; }
};
struct SoftmaxOfRows {  // exp(s) / sum of exp(s): the number is the sum's binary logarithm
  static constexpr bool kOfRows = true, kBounded = true;
  SIMT_DEVICE static float logit(float s, float of_row, float, float lambda) {
    return lambda * simt::exp2_approximate(s * kLog2OfE - of_row);
  }
};
struct PlainRows {
  static constexpr bool kOfRows = false, kBounded = false;
  SIMT_DEVICE static float logit(float s, float, float slope, float lambda) { return fmaxf(s, slope * s) * lambda; }
};

// Where a Gram matrix has the numbers that a lane takes for 8 x 8 of it: rows first + t and first + t + 4 of column
// `column_of_lane`, as TF32 and the rest. [block of columns][block of rows][lane][4]
SIMT_DEVICE int column_of_lane(int lane) { return lane / 8 + lane / 4 % 2 * 4; }
SIMT_DEVICE void split_for_gram(float x, float& big, float& small) {
  big = __uint_as_float(simt::cut_to_tf32(__float_as_uint(x) + 0x1000u));
  small = x - big;
}

// Lane t of four gets what the four have of x[t].
SIMT_DEVICE float sum_of_own(const float (&x)[4], int t) {
  const bool high = (t & 2) != 0, odd = (t & 1) != 0;
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
        slope_(norm_.clips ? 0.1f : 1.0f),
        lambda_(float(options.lambda_softmax) * kLog2OfE),
        // Bounded logits of this size leave exp, its square and sums of both far from overflow and underflow.
        shifts_(!Rows::kBounded || !(fabsf(lambda_) <= 29.0f)) {}

  // of_rows[row * kRowPitch + group]. A warp takes a query group, a lane rows lane, lane + 32 ...
  template <int kThreads>
  SIMT_DEVICE void number_rows(const float* sims, const TileSide<kTileQueries>& query, int n_queries, int n_rows,
                               float* of_rows) const {
    const int lane = int(threadIdx.x) % 32;
    for (int group = int(threadIdx.x) / 32; n_rows > 0 && group < n_queries; group += kThreads / 32) {
      const int begin = query.begin[group], size = query.size[group];
      if (size == 0) continue;
      float* out = of_rows + lane * kRowPitch + group;
      // The product has written rows up to a multiple of 64.
      n_rows > kWarpRows ? number_rows_of<kTileVectors / 32>(sims + lane * kSimsLd + begin, size, n_rows - lane, out)
                         : number_rows_of<kWarpRows / 32>(sims + lane * kSimsLd + begin, size, n_rows - lane, out);
    }
  }

  // Cosines of all columns with what they attend to in each context take the place of S in the context's first row.
  template <int kThreads, class NormOf>
  SIMT_DEVICE void attend(float* sims, const float* of_rows, const TileSide<kTileContexts>& context, int n_contexts,
                          const TileSide<kTileQueries>& query, int n_columns, const float* gram, int gram_pitch,
                          const NormOf& query_norm) const {
    constexpr int kAcross = kTileVectors / kColumnsOfWarp;
    const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, t = lane % 4;
    const int first = warp % kAcross * kColumnsOfWarp, column = first + lane / 4 * 4;
    if (first >= n_columns) return;
    int group[4];
    for (int j = 0; j < 4; j++)
      group[j] = Rows::kOfRows ? query.group[column + j < n_columns ? column + j : n_columns - 1] : 0;
    const float length = column + t < n_columns ? query_norm(query.source[column + t]) : 1.0f;
    for (int number = warp / kAcross; number < n_contexts; number += kThreads / 32 / kAcross) {
      const int begin = context.begin[number], n_rows = context.size[number];
      if (n_rows == 0) continue;
      Columns of{sims + (begin + t) * kSimsLd + column, {}, n_rows, t, {}};
      for (int j = 0; j < 4; j++) of.of_rows[j] = of_rows + (begin + t) * kRowPitch + group[j];
      if (shifts_) largest_logits(of);
      const auto* blocks = reinterpret_cast<const float4*>(gram + int64_t(number) * 2 * gram_pitch * gram_pitch) + lane;
      const float cosine = n_rows <= kBlocksInRegisters * 8 ? in_registers(of, blocks, gram_pitch / 8, length)
                                                            : in_place(of, blocks, gram_pitch / 8, length);
      __syncwarp();
      if (column + t < n_columns) sims[begin * kSimsLd + column + t] = cosine;
    }
  }

 private:
  // A lane's columns of a context, from its row t on.
  struct Columns {
    float* sims;
    const float* of_rows[4];
    int n_rows, t;
    float shift[4];
  };
  struct Totals {
    float weights[4], dot[4], quadratic[4];
  };

  // Calls add(row, s) for each column of a group. Neighbouring lanes begin at other columns, so that 32 rows meet no
  // bank twice.
  template <int kRows, class Add>
  SIMT_DEVICE static void along(const float* s, int size, const Add& add) {
    const int first = int(threadIdx.x) % 32 / 4;
    int column = first < size ? first : 0;
    for (int i = 0; i < size; i++) {
      for (int row = 0; row < kRows; row++) add(row, s[row * 32 * kSimsLd + column]);
      column = column + 1 == size ? 0 : column + 1;
    }
  }

  // Rows 0, 32 ... of those from `s` on, of which n_rows count.
  template <int kRows>
  SIMT_DEVICE void number_rows_of(const float* s, int size, int n_rows, float* out) const {
    float sums[kRows] = {}, largest[kRows];
    if constexpr (std::is_same_v<Rows, SoftmaxOfRows>) {
      for (int i = 0; i < kRows; i++) largest[i] = s[i * 32 * kSimsLd];
      along<kRows>(s, size, [&](int i, float x) { largest[i] = fmaxf(largest[i], x); });
      along<kRows>(s, size, [&](int i, float x) { sums[i] += simt::exp2_approximate((x - largest[i]) * kLog2OfE); });
      for (int i = 0; i < kRows; i++) sums[i] = largest[i] * kLog2OfE + log2f(sums[i]);
    } else {
      if (norm_.l2) {
        along<kRows>(s, size, [&](int i, float x) {
          const float k = fmaxf(x, slope_ * x);
          sums[i] += k * k;
        });
        for (float& sum : sums) sum = simt::sqrt_approximate(sum);
      } else {
        along<kRows>(s, size, [&](int i, float x) { sums[i] += fabsf(fmaxf(x, slope_ * x)); });
      }
      for (float& sum : sums) sum = __fdividef(lambda_, sum + float(kEpsilon));
    }
    for (int i = 0; i < kRows; i++)
      if (i * 32 < n_rows) out[i * 32 * kRowPitch] = sums[i];
  }

  // Of the row that comes so many after the lane's first.
  SIMT_DEVICE float logit(const Columns& of, float s, int row, int j) const {
    return Rows::logit(s, Rows::kOfRows ? of.of_rows[j][row * kRowPitch] : 0.0f, slope_, lambda_) - of.shift[j];
  }

  SIMT_DEVICE void largest_logits(Columns& of) const {
    float largest[4] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
#pragma unroll 1
    for (int row = 0; row + of.t < of.n_rows; row += 4)
      for (int j = 0; j < 4; j++) largest[j] = fmaxf(largest[j], logit(of, of.sims[row * kSimsLd + j], row, j));
    for (int j = 0; j < 4; j++) of.shift[j] = simt::group_max(largest[j], 4);
  }

  // Weights of rows 8 block + t (the first four) and 8 block + t + 4, 0 beyond the context.
  SIMT_DEVICE void weigh(const Columns& of, int block, float (&w)[8], Totals& totals) const {
    block * 8 + 8 <= of.n_rows ? weigh<true>(of, block, w, totals) : weigh<false>(of, block, w, totals);
  }
  template <bool kWhole>
  SIMT_DEVICE void weigh(const Columns& of, int block, float (&w)[8], Totals& totals) const {
    for (int half = 0; half < 2; half++) {
      const int row = block * 8 + half * 4;
      const bool inside = kWhole || row + of.t < of.n_rows;
      // Beyond the context a lane reads a row of its own: others' may be weights already. With fewer than four, the
      // last.
      const int last = of.n_rows - 1 - of.t, at = inside ? row : last < 0 ? last : 0;
      const float4 s4 = simt::load16(of.sims + at * kSimsLd);
      const float s[4] = {s4.x, s4.y, s4.z, s4.w};
      for (int j = 0; j < 4; j++) {
        const float x = simt::exp2_approximate(logit(of, s[j], at, j));
        w[half * 4 + j] = inside ? x : 0.0f;
        totals.weights[j] += w[half * 4 + j];
        totals.dot[j] += w[half * 4 + j] * s[j];
      }
    }
  }

  // out += w^T G of a block of rows and one of columns, for two times 16 columns of S; w cut to TF32.
  SIMT_DEVICE static void multiply(const float (&w)[8], const float4* gram, float (&out)[2][4]) {
    const float4 g = __ldg(gram);
    const uint32_t big[2] = {__float_as_uint(g.x), __float_as_uint(g.y)};
    const uint32_t small[2] = {__float_as_uint(g.z), __float_as_uint(g.w)};
    for (int strip = 0; strip < 2; strip++) {
      uint32_t a[4];
      for (int k = 0; k < 4; k++) a[k] = simt::cut_to_tf32(__float_as_uint(w[k / 2 * 4 + strip * 2 + k % 2]));
      simt::mma_tf32(out[strip], a, small);
      simt::mma_tf32(out[strip], a, big);
    }
  }

  // w^T G w = c^T G (2 w - c) where c is w cut to TF32, but for the square of what was cut off.
  SIMT_DEVICE static void contract(const float (&w)[8], const float (&product)[2][4], Totals& totals) {
    for (int half = 0; half < 2; half++)
      for (int j = 0; j < 4; j++) {
        const float x = w[half * 4 + j], cut = __uint_as_float(simt::cut_to_tf32(__float_as_uint(x)));
        totals.quadratic[j] += product[j / 2][j % 2 * 2 + half] * fmaf(2.0f, x, -cut);
      }
  }

  // As attended_cosine, by quotients of the special function unit.
  SIMT_DEVICE static float cosine_of(const Totals& totals, int t, float length) {
    const float inverse = __fdividef(1.0f, sum_of_own(totals.weights, t));
    const float norms = length * (simt::sqrt_approximate(fmaxf(sum_of_own(totals.quadratic, t), 0.0f)) * inverse);
    return __fdividef(sum_of_own(totals.dot, t) * inverse, fmaxf(norms, float(kEpsilon)));
  }

  SIMT_DEVICE float in_registers(const Columns& of, const float4* gram, int pitch, float length) const {
    float w[kBlocksInRegisters][8] = {};
    Totals totals = {};
#pragma unroll
    for (int block = 0; block < kBlocksInRegisters; block++)
      if (block * 8 < of.n_rows) weigh(of, block, w[block], totals);
#pragma unroll
    for (int columns = 0; columns < kBlocksInRegisters; columns++) {
      if (columns * 8 >= of.n_rows) continue;
      const float4* of_columns = gram + columns * pitch * 32;
      float product[2][4] = {};
#pragma unroll
      for (int block = 0; block < kBlocksInRegisters; block++)
        if (block * 8 < of.n_rows) multiply(w[block], of_columns + block * 32, product);
      contract(w[columns], product, totals);
    }
    return cosine_of(totals, of.t, length);
  }

  // As many rows as there may be: the weights take the place of S, each lane's own of its own.
  SIMT_DEVICE float in_place(const Columns& of, const float4* gram, int pitch, float length) const {
    float w[8];
    Totals totals = {};
    const int n_blocks = (of.n_rows + 7) / 8;
#pragma unroll 1
    for (int block = 0; block < n_blocks; block++) {
      weigh(of, block, w, totals);
      for (int half = 0; half < 2; half++) {
        const int row = block * 8 + half * 4 + of.t;
        const float4 x{w[half * 4], w[half * 4 + 1], w[half * 4 + 2], w[half * 4 + 3]};
        if (row < of.n_rows) simt::store16(x, of.sims + (row - of.t) * kSimsLd);
      }
    }
    auto load = [&](int block) {
      for (int half = 0; half < 2; half++) {
        const int row = block * 8 + half * 4 + of.t;
        const float4 x = simt::load16(of.sims + (row < of.n_rows ? row - of.t : 0) * kSimsLd);
        const bool inside = row < of.n_rows;
        w[half * 4] = inside ? x.x : 0.0f, w[half * 4 + 1] = inside ? x.y : 0.0f;
        w[half * 4 + 2] = inside ? x.z : 0.0f, w[half * 4 + 3] = inside ? x.w : 0.0f;
      }
    };
#pragma unroll 1
    for (int columns = 0; columns < n_blocks; columns++) {
      float product[2][4] = {};
#pragma unroll 2
      for (int block = 0; block < n_blocks; block++) {
        load(block);
        multiply(w, gram + (columns * pitch + block) * 32, product);
      }
      load(columns);
      contract(w, product, totals);
    }
    return cosine_of(totals, of.t, length);
  }

  Normalisation<float> norm_;
  float slope_, lambda_;
  bool shifts_;
};

}  // namespace itm::cuda
