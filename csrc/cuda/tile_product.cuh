// S = context . query^T of up to 128 x 128 vectors by tensor cores, 16 warps of 32 x 32 each. Rows arrive by
// asynchronous copies, 128 bytes of each vector at a time, in two buffers; 16-byte chunks are permuted within a row so
// that ldmatrix meets no bank twice.
#pragma once

#include "similarity.h"
#include "simt.h"

namespace itm::cuda {

constexpr int kProductThreads = 512, kStageBytes = 128, kSimsLd = kTileVectors + 8;

struct Stage {
  unsigned char rows[2][kTileVectors][kStageBytes];  // context, query
};
union ProductMemory {
  Stage stages[2];
  float sims[kTileVectors * kSimsLd];
};

struct ProductBf16 {
  using Number = simt::bf16;
  static constexpr bool kSumsApart = false;
  SIMT_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    simt::mma_bf16(d, a, b);
  }
};
struct ProductF16 {
  using Number = simt::f16;
  static constexpr bool kSumsApart = false;
  SIMT_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    simt::mma_f16(d, a, b);
  }
};
struct ProductTf32 {
  using Number = float;
  static constexpr bool kSumsApart = false;
  SIMT_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t x[4], y[2];
    for (int i = 0; i < 4; i++) x[i] = simt::to_tf32(__uint_as_float(a[i]));
    for (int i = 0; i < 2; i++) y[i] = simt::to_tf32(__uint_as_float(b[i]));
    simt::mma_tf32(d, x, y);
  }
};
// float32 from three products of TF32: x = big + small, and small . small is below a rounding. Tensor cores may cut
// off rather than round, so every 128 bytes their sums are added up outside (Ootomo & Yokota, 2022).
struct ProductTf32x3 {
  using Number = float;
  static constexpr bool kSumsApart = true;
  SIMT_DEVICE static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    uint32_t big_a[4], small_a[4], big_b[2], small_b[2];
    for (int i = 0; i < 4; i++) split(a[i], big_a[i], small_a[i]);
    for (int i = 0; i < 2; i++) split(b[i], big_b[i], small_b[i]);
    simt::mma_tf32(d, small_a, big_b);
    simt::mma_tf32(d, big_a, small_b);
    simt::mma_tf32(d, big_a, big_b);
  }

 private:
  SIMT_DEVICE static void split(uint32_t bits, uint32_t& big, uint32_t& small) {
    const float x = __uint_as_float(bits);
    big = simt::to_tf32(x);
    small = simt::to_tf32(x - __uint_as_float(big));
  }
};

// Vectors of one side in a tile: `source[i]` is the number of vector i in the batch.
struct Operand {
  const void* data;
  const int32_t* source;
  int n;
};

SIMT_DEVICE unsigned char* chunk_of(unsigned char (*rows)[kStageBytes], int row, int chunk) {
  return &rows[row][(chunk ^ (row & 7)) * 16];
}

// Both sides' next 128 bytes of every vector, zero beyond the last vector and the last number.
SIMT_DEVICE void fetch(Stage& stage, const Operand& context, const Operand& query, int64_t row_bytes, int64_t at) {
  for (int piece = 0; piece < 4; piece++) {
    const int row = piece % 2 * 64 + int(threadIdx.x) / 8, chunk = int(threadIdx.x) % 8;
    const Operand& side = piece < 2 ? context : query;
    if (row >= (side.n + 31) / 32 * 32) continue;
    const bool inside = row < side.n && at + chunk * 16 < row_bytes;
    const auto* data = static_cast<const unsigned char*>(side.data);
    const auto* from = inside ? data + side.source[row] * row_bytes + at + chunk * 16 : data;
    simt::cp_async16(chunk_of(stage.rows[piece / 2], row, chunk), from, inside ? 16 : 0);
  }
}

template <class Product>
SIMT_DEVICE void multiply_stage(Stage& stage, int top, int left, float (&sums)[2][4][4]) {
  const int lane = int(threadIdx.x) % 32, matrix = lane / 8;
  for (int step = 0; step < kStageBytes / 32; step++) {
    uint32_t a[2][4], b[2][4];
    for (int i = 0; i < 2; i++)
      simt::ldmatrix_x4(a[i], chunk_of(stage.rows[0], top + i * 16 + matrix % 2 * 8 + lane % 8, step * 2 + matrix / 2));
    for (int j = 0; j < 2; j++)
      simt::ldmatrix_x4(b[j],
                        chunk_of(stage.rows[1], left + j * 16 + matrix / 2 * 8 + lane % 8, step * 2 + matrix % 2));
    for (int i = 0; i < 2; i++)
      for (int j = 0; j < 4; j++) {
        const uint32_t columns[2] = {b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]};
        Product::multiply(sums[i][j], a[i], columns);
      }
  }
}

// memory.sims[row * kSimsLd + column], for all threads after a barrier of the caller's.
template <class Product>
SIMT_DEVICE void tile_product(ProductMemory& memory, const Operand& context, const Operand& query, int dim) {
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int top = warp / 4 * 32, left = warp % 4 * 32;
  const bool active = top < context.n && left < query.n;
  const int64_t row_bytes = int64_t(dim) * int64_t(sizeof(typename Product::Number));
  const int n_stages = int((row_bytes + kStageBytes - 1) / kStageBytes);
  float sums[2][4][4] = {};
  fetch(memory.stages[0], context, query, row_bytes, 0);
  simt::cp_async_commit();
  for (int stage = 0; stage < n_stages; stage++) {
    BUG == 31 ? simt::cp_async_wait<1>() : simt::cp_async_wait<0>();
    SYNC(32);  // everyone's copies have arrived, and nobody reads the other buffer
    if (stage + 1 < n_stages)
      fetch(memory.stages[(stage + 1) % 2], context, query, row_bytes, int64_t(stage + 1) * kStageBytes);
    simt::cp_async_commit();
    if (!active) continue;
    if constexpr (Product::kSumsApart) {
      float apart[2][4][4] = {};
      multiply_stage<Product>(memory.stages[stage % 2], top, left, apart);
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
          for (int k = 0; k < 4; k++) sums[i][j][k] += apart[i][j][k];
    } else {
      multiply_stage<Product>(memory.stages[stage % 2], top, left, sums);
    }
  }
  SYNC(33);  // the buffers become S
  if (!active) return;
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 4; j++)
      for (int half = 0; half < 2; half++) {
        const int row = top + i * 16 + half * 8 + lane / 4, column = left + j * 8 + lane % 4 * 2;
        simt::store8(float2{sums[i][j][half * 2], sums[i][j][half * 2 + 1]}, &memory.sims[row * kSimsLd + column]);
      }
}

}  // namespace itm::cuda
