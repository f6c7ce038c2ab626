// S = context . query^T of up to 128 x 128 vectors by tensor cores: warps of 64 x 64, or 64 x 32 where float32 needs
// the registers. Rows arrive by asynchronous copies, 64 bytes of each vector at a time, three stages ahead; 16-byte
// chunks are permuted within a row so that ldmatrix meets no bank twice.
#pragma once

#include "similarity.h"
#include "simt.h"

namespace itm::cuda {

constexpr int kStageBytes = 64, kStages = 4, kWarpRows = 64, kSimsLd = kTileVectors + 8;

// Where S lies: rows of kSimsLd numbers, or rows of 128 whose 16-byte units change places by the row, so that neither
// eight rows of a unit nor four rows of two neighbouring units meet a bank twice. Four rows on, units are the other of
// a pair; eight rows on, they are the same.
struct PaddedSims {
  static constexpr int kLd = kSimsLd;
  // Of a lane's two sums of 8 x 8 numbers, from the first row and column of a warp's; `column`: a multiple of 8.
  SIMT_DEVICE static int place(int lane, int column) { return lane / 4 * kLd + column + lane % 4 * 2; }
};
struct PermutedSims {
  static constexpr int kLd = kTileVectors;
  SIMT_DEVICE static int flip(int row) { return (row & 3) * 8 | (row & 4); }
  SIMT_DEVICE static int place(int lane, int column) {
    return lane / 4 * kLd + column / 32 * 32 + (column % 32 ^ lane % 4 * 2 ^ flip(lane / 4));
  }
};

struct Stage {
  unsigned char rows[2][kTileVectors][kStageBytes];  // context, query
};
union ProductMemory {
  Stage stages[kStages];
  float sims[kTileVectors * kSimsLd];
};

// A warp's fragments of a step of 32 bytes of K: rows of the context, and columns, 16 vectors of either at a time.
constexpr int kRowFragments = kWarpRows / 16;
template <int kColumns>
struct Fragments {
  uint32_t rows[kRowFragments][4], columns[kColumns / 16][4];

  // The 8 x 8 numbers (k, column) that a product takes twice of: columns j * 8 and on.
  SIMT_DEVICE void of_columns(int j, uint32_t (&out)[2]) const {
    out[0] = columns[j / 2][j % 2 * 2];
    out[1] = columns[j / 2][j % 2 * 2 + 1];
  }
};

// What a kind of product has: threads of a block, blocks that fit into a multiprocessor by their registers, and how a
// step's fragments are multiplied.
template <int kColumns>
struct ProductShape {
  static constexpr int kWarpColumns = kColumns, kWarpsAcross = kTileVectors / kColumns;
  static constexpr int kThreads = 32 * kTileVectors / kWarpRows * kWarpsAcross;
  using Sums = float[kRowFragments][kColumns / 8][4];
};

template <class Of>
struct OneProduct : ProductShape<64> {
  static constexpr bool kSumsApart = false;
  static constexpr int kBlocks = 2;
  SIMT_DEVICE static void round(Fragments<64>&) {}
  SIMT_DEVICE static void multiply(Fragments<64>& step, Sums& sums) {
    Of::round(step);
    for (int i = 0; i < kRowFragments; i++)
      for (int j = 0; j < kWarpColumns / 8; j++) {
        uint32_t columns[2];
        step.of_columns(j, columns);
        Of::mma(sums[i][j], step.rows[i], columns);
      }
  }
};
struct ProductBf16 : OneProduct<ProductBf16> {
  using Number = simt::bf16;
  SIMT_DEVICE static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    simt::mma_bf16(d, a, b);
  }
};
struct ProductF16 : OneProduct<ProductF16> {
  using Number = simt::f16;
  SIMT_DEVICE static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { simt::mma_f16(d, a, b); }
};
struct ProductTf32 : OneProduct<ProductTf32> {
  using Number = float;
  SIMT_DEVICE static void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    simt::mma_tf32(d, a, b);
  }
  SIMT_DEVICE static void round(Fragments<64>& step) {
    for (auto& fragment : step.rows)
      for (uint32_t& bits : fragment) bits = simt::rounded_for_tf32(bits);
    for (auto& fragment : step.columns)
      for (uint32_t& bits : fragment) bits = simt::rounded_for_tf32(bits);
  }
};
// float32 from three products of TF32: x = big + small, and small . small is below a rounding. Tensor cores may cut
// off rather than round, so every stage's sums are added up outside (Ootomo & Yokota, 2022).
struct ProductTf32x3 : ProductShape<32> {
  using Number = float;
  static constexpr bool kSumsApart = true;
  static constexpr int kBlocks = 1;
  SIMT_DEVICE static void multiply(Fragments<32>& step, Sums& sums) {
    constexpr int kAcross = kWarpColumns / 8;
    uint32_t big_b[kAcross][2], small_b[kAcross][2];
    for (int j = 0; j < kAcross; j++) {
      uint32_t columns[2];
      step.of_columns(j, columns);
      for (int k = 0; k < 2; k++) split(columns[k], big_b[j][k], small_b[j][k]);
    }
    for (int i = 0; i < kRowFragments; i++) {
      uint32_t big_a[4], small_a[4];
      for (int k = 0; k < 4; k++) split(step.rows[i][k], big_a[k], small_a[k]);
      for (int j = 0; j < kAcross; j++) simt::mma_tf32(sums[i][j], small_a, big_b[j]);
      for (int j = 0; j < kAcross; j++) simt::mma_tf32(sums[i][j], big_a, small_b[j]);
      for (int j = 0; j < kAcross; j++) simt::mma_tf32(sums[i][j], big_a, big_b[j]);
    }
  }

 private:
  SIMT_DEVICE static void split(uint32_t bits, uint32_t& big, uint32_t& small) {
    big = simt::cut_to_tf32(bits + 0x1000u);  // NaN may be lost here, and is in the rest then
    small = __float_as_uint(__uint_as_float(bits) - __uint_as_float(big));
  }
};

// Vectors of one side in a tile: `source[i]` is the number of vector i in the batch.
struct Operand {
  const void* data;
  const int32_t* source;
  int n;
};

// Copies 64 bytes of each vector at a time, zero beyond the last vector and the last number. A thread has the same
// chunk of the same rows in every stage.
template <int kThreads>
class Copies {
 public:
  SIMT_DEVICE Copies(const Operand& context, const Operand& query, int64_t row_bytes)
      : n_chunks_(int(row_bytes / 16)), rows_{rows_of(context), rows_of(query)} {
    for (int side = 0; side < 2; side++)
      for (int piece = 0; piece < kPieces; piece++) {
        const Operand& of = side == 0 ? context : query;
        const int row = piece * kRowsOfPiece + int(threadIdx.x) / kChunks;
        const auto* data = static_cast<const unsigned char*>(of.data);
        const bool inside = row < of.n;
        from_[side][piece] = inside ? data + of.source[row] * row_bytes + int(threadIdx.x) % kChunks * 16 : data;
        inside_ |= unsigned(inside) << (side * kPieces + piece);
      }
  }

  SIMT_DEVICE void start(Stage& stage, int number) const {
    const int row = int(threadIdx.x) / kChunks, chunk = int(threadIdx.x) % kChunks;
    const unsigned inside = number * kChunks + chunk < n_chunks_ ? inside_ : 0;
    unsigned char* to = stage.rows[0][row] + (chunk ^ (row / 2 & 3)) * 16;
    for (int side = 0; side < 2; side++)
      for (int piece = 0; piece < kPieces; piece++) {
        if (piece * kRowsOfPiece >= rows_[side]) continue;  // nobody reads them
        const bool copies = (inside >> (side * kPieces + piece) & 1) != 0;
        simt::cp_async16(to + (side * kTileVectors + piece * kRowsOfPiece) * kStageBytes,
                         from_[side][piece] + int64_t(number) * kStageBytes, copies ? 16 : 0);
      }
  }

 private:
  static constexpr int kChunks = kStageBytes / 16, kRowsOfPiece = kThreads / kChunks;
  static constexpr int kPieces = kTileVectors / kRowsOfPiece;
  SIMT_DEVICE static int rows_of(const Operand& side) { return (side.n + kWarpRows - 1) / kWarpRows * kWarpRows; }

  int n_chunks_;
  int rows_[2];  // that warps read
  const unsigned char* from_[2][kPieces];
  unsigned inside_ = 0;
};

template <class Product>
SIMT_DEVICE void multiply_stage(const Stage& stage, int top, int left, typename Product::Sums& sums) {
  const int lane = int(threadIdx.x) % 32, matrix = lane / 8, row = lane % 8, flip = row / 2;
  const unsigned char* rows = stage.rows[0][top + matrix % 2 * 8 + row];
  const unsigned char* columns = stage.rows[1][left + matrix / 2 * 8 + row];
#pragma unroll
  for (int step = 0; step < kStageBytes / 32; step++) {
    Fragments<Product::kWarpColumns> of;
    for (int i = 0; i < kRowFragments; i++)
      simt::ldmatrix_x4(of.rows[i], rows + i * 16 * kStageBytes + ((step * 2 + matrix / 2) ^ flip) * 16);
    for (int j = 0; j < Product::kWarpColumns / 16; j++)
      simt::ldmatrix_x4(of.columns[j], columns + j * 16 * kStageBytes + ((step * 2 + matrix % 2) ^ flip) * 16);
    Product::multiply(of, sums);
  }
}

// memory.sims as Sims places it, for all threads after a barrier of the caller's; zero beyond the vectors, up
// to the next multiple of 64 rows and of a warp's columns. copies_of: makes what starts the copies of a stage; bytes:
// of all stages, of a row.
template <class Product, class Sims, class CopiesOf>
SIMT_DEVICE void multiply_copies(ProductMemory& memory, int n_rows, int n_columns, int64_t bytes,
                                 const CopiesOf& copies_of) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int top = warp / Product::kWarpsAcross * kWarpRows, left = warp % Product::kWarpsAcross * Product::kWarpColumns;
  const bool active = top < n_rows && left < n_columns;
  const int n_stages = int((bytes + kStageBytes - 1) / kStageBytes);
  const auto copies = copies_of();
  typename Product::Sums sums = {};
  for (int ahead = 0; ahead < kStages - 1; ahead++) {
    if (ahead < n_stages) copies.start(memory.stages[ahead], ahead);
    simt::cp_async_commit();
  }
#pragma unroll 1
  for (int stage = 0; stage < n_stages; stage++) {
    BUG == 31 ? simt::cp_async_wait<kStages - 1>() : simt::cp_async_wait<kStages - 2>();
    SYNC(32);  // everyone's copies of this stage have arrived, and nobody reads the stage before it
    const int next = stage + kStages - 1;
    if (next < n_stages) copies.start(memory.stages[next % kStages], next);
    simt::cp_async_commit();
    if (!active) continue;
    if constexpr (Product::kSumsApart) {
      typename Product::Sums apart = {};
      multiply_stage<Product>(memory.stages[stage % kStages], top, left, apart);
      for (int i = 0; i < kRowFragments; i++)
        for (int j = 0; j < Product::kWarpColumns / 8; j++)
          for (int k = 0; k < 4; k++) sums[i][j][k] += apart[i][j][k];
    } else {
      multiply_stage<Product>(memory.stages[stage % kStages], top, left, sums);
    }
  }
  SYNC(33);  // the stages become S
  if (!active) return;
  float* const from = memory.sims + top * Sims::kLd + left;
  for (int i = 0; i < kRowFragments; i++)
    for (int j = 0; j < Product::kWarpColumns / 8; j++)
      for (int half = 0; half < 2; half++)
        simt::store8(float2{sums[i][j][half * 2], sums[i][j][half * 2 + 1]},
                     from + (i * 16 + half * 8) * Sims::kLd + Sims::place(lane, j * 8));
}

template <class Product, class Sims = PaddedSims>
SIMT_DEVICE void tile_product(ProductMemory& memory, const Operand& context, const Operand& query, int dim) {
  const int64_t row_bytes = int64_t(dim) * int64_t(sizeof(typename Product::Number));
  multiply_copies<Product, Sims>(memory, context.n, query.n, row_bytes,
                                 [&]() { return Copies<Product::kThreads>(context, query, row_bytes); });
}

// Blocks that run at the same time share operands: bands of context tiles, all query tiles within a band.
constexpr int kBand = 8;
struct TilePair {
  int context, query;
};
SIMT_DEVICE TilePair tile_pair(int64_t number, int context_tiles, int query_tiles) {
  const int64_t per_band = int64_t(kBand) * query_tiles;
  const int band = int(number / per_band), within = int(number % per_band);
  const int left = context_tiles - band * kBand, width = left < kBand ? left : kBand;
  return {band * kBand + within % width, within / width};
}

// As many blocks as a device runs at a time, or as there may be tiles.
template <class Product>
dim3 blocks_of(int64_t most_tiles, int multiprocessors) {
  const int64_t resident = int64_t(multiprocessors) * Product::kBlocks;
  return dim3(unsigned(most_tiles < resident ? most_tiles : resident));
}

}  // namespace itm::cuda
