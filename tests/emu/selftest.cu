// Kernels that show what the emulator runs and what it finds. SYNC(n) is a barrier that is left out where BUG is n.
#include "simt.h"

namespace {

struct Arguments {
  const float* in;
  float* out;
  int n, which;
};

// Sums of 256 numbers a block: warps by shuffles, then through shared memory; the last block adds up the blocks.
struct SumShared {
  float warps[8];
  int last;
};
SIMT_KERNEL(256, 1) sum_kernel(Arguments a, int* finished) {
  auto& shared = simt::shared<SumShared>();
  const int t = int(threadIdx.x), i = int(blockIdx.x) * 256 + t;
  const float sum = simt::group_sum(i < a.n ? a.in[i] : 0.0f, 32);
  if (t % 32 == 0) shared.warps[t / 32] = sum;
  SYNC(1);
  if (t == 0) {
    float total = 0;
    for (float warp : shared.warps) total += warp;
    a.out[1 + blockIdx.x] = total;
    if (BUG != 4) __threadfence();
    shared.last = atomicAdd(finished, 1) == int(gridDim.x) - 1;
  }
  SYNC(2);
  if (shared.last && t < 32) {
    __threadfence();
    float total = 0;
    for (int b = t; b < int(gridDim.x); b += 32) total += a.out[1 + b];
    total = simt::group_sum(total, 32);
    if (t == 0) a.out[0] = total;
  }
}

// out = in^T for 32 x 32 tiles; row length 32 + padding.
template <int kPadding>
struct TransposeShared {
  float tile[32][32 + kPadding];
};
template <int kPadding>
SIMT_KERNEL(256, 1)
transpose_kernel(Arguments a) {
  auto& shared = simt::shared<TransposeShared<kPadding>>();
  const int x = int(threadIdx.x), left = int(blockIdx.x) * 32, top = int(blockIdx.y) * 32;
  for (int y = int(threadIdx.y); y < 32; y += 8)
    if (top + y < a.n && left + x < a.n) shared.tile[y][x] = a.in[(top + y) * a.n + left + x];
  SYNC(1);
  for (int y = int(threadIdx.y); y < 32; y += 8)
    if (left + y < a.n && top + x < a.n) a.out[(left + y) * a.n + top + x] = shared.tile[x][y];
}

// d (16 x 8) = a (16 x k) . b (8 x k)^T by tensor cores, chunks of 16 through two buffers of asynchronous copies.
struct ProductShared {
  simt::bf16 a[2][16][16], b[2][8][16];
};
SIMT_KERNEL(32, 1) product_kernel(const simt::bf16* left, const simt::bf16* right, float* out, int k) {
  auto& shared = simt::shared<ProductShared>();
  const int lane = int(threadIdx.x);
  auto fetch = [&](int chunk) {
    const int row = lane / 2, half = lane % 2 * 8, at = chunk * 16 + half;
    const int valid = at >= k ? 0 : k - at >= 8 ? 16 : 2 * (k - at);
    simt::cp_async16(&shared.a[chunk % 2][row][half], valid > 0 ? left + row * k + at : left, valid);
    if (row < 8) simt::cp_async16(&shared.b[chunk % 2][row][half], valid > 0 ? right + row * k + at : right, valid);
  };
  const int chunks = (k + 15) / 16;
  float d[4] = {0, 0, 0, 0};
  fetch(0);
  simt::cp_async_commit();
  for (int chunk = 0; chunk < chunks; chunk++) {
    if (chunk + 1 < chunks) fetch(chunk + 1);
    simt::cp_async_commit();
    BUG == 3 ? simt::cp_async_wait<2>() : simt::cp_async_wait<1>();
    SYNC(1);
    uint32_t a[4], b[2];
    simt::ldmatrix_x4(a, &shared.a[chunk % 2][lane % 16][lane / 16 * 8]);
    simt::ldmatrix_x2(b, &shared.b[chunk % 2][lane % 8][lane / 8 % 2 * 8]);
    simt::mma_bf16(d, a, b);
    SYNC(2);
  }
  for (int i = 0; i < 4; i++) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// Loads a 16 x 16 matrix with and without transposition and multiplies in another number type.
struct LoadShared {
  simt::f16 a[16][16], b[16][8];
};
SIMT_KERNEL(32, 1) types_kernel(const simt::f16* left, const simt::f16* right, const float* wide, float* out) {
  auto& shared = simt::shared<LoadShared>();
  const int lane = int(threadIdx.x), group = lane / 4, place = lane % 4;
  for (int i = lane; i < 256; i += 32) shared.a[i / 16][i % 16] = left[i];
  for (int i = lane; i < 128; i += 32) shared.b[i / 8][i % 8] = right[i];
  __syncwarp();
  uint32_t a[4], b[2];
  simt::ldmatrix_x4(a, &shared.a[lane % 16][lane / 16 * 8]);
  simt::ldmatrix_x2_trans(b, &shared.b[lane % 16][0]);  // rows of b are k: transposed into columns
  float d[4] = {0, 0, 0, 0};
  simt::mma_f16(d, a, b);
  for (int i = 0; i < 4; i++) out[(group + i / 2 * 8) * 8 + place * 2 + i % 2] = d[i];
  uint32_t p[4], q[2];
  for (int i = 0; i < 4; i++)
    p[i] = simt::rounded_for_tf32(__float_as_uint(wide[(group + i % 2 * 8) * 8 + place + i / 2 * 4]));
  for (int i = 0; i < 2; i++) q[i] = simt::rounded_for_tf32(__float_as_uint(wide[128 + (place + i * 4) * 8 + group]));
  float e[4] = {0, 0, 0, 0};
  simt::mma_tf32(e, p, q);
  for (int i = 0; i < 4; i++) out[128 + (group + i / 2 * 8) * 8 + place * 2 + i % 2] = e[i];
}

// Votes, shuffles of every kind, barriers with predicates; out[48 t ...] of thread t.
SIMT_KERNEL(64, 1) collectives_kernel(float* out) {
  const int t = int(threadIdx.x), lane = t % 32;
  float* mine = out + 16 * t;
  mine[0] = float(__shfl_sync(~0u, t, 3));
  mine[1] = float(__shfl_sync(~0u, t, 3, 8));
  mine[2] = float(__shfl_xor_sync(~0u, t, 5));
  mine[3] = float(__shfl_down_sync(~0u, t, 4));
  mine[4] = float(__shfl_up_sync(~0u, t, 4, 16));
  mine[5] = float(__popc(__ballot_sync(~0u, lane % 3 == 0)));
  mine[6] = float(__any_sync(~0u, lane == 40) + 2 * __all_sync(~0u, lane < 32));
  mine[7] = float(__syncthreads_count(t % 2));
  mine[8] = float(__syncthreads_or(t == 63));
  mine[9] = float(__syncthreads_and(t != 63));
  if (lane < 16) mine[10] = float(__shfl_xor_sync(0xffffu, t, 1));
  mine[11] = simt::group_max(float(lane ^ 21), 8);
}

struct FaultShared {
  float x[32];
};
SIMT_KERNEL(64, 1) fault_kernel(Arguments a) {
  auto& shared = simt::shared<FaultShared>();
  const int t = int(threadIdx.x);
  if (a.which == 0) shared.x[t] = 1;                 // beyond the struct for t >= 32
  if (a.which == 1) a.out[blockIdx.x * 64 + t] = 1;  // the tail is not checked
  if (a.which == 2) {
    if (t < 32)
      __syncthreads();
    else
      __syncthreads();
  }
  if (a.which == 3 && t < 20) a.out[t] = float(__shfl_xor_sync(~0u, t, 1));  // lanes 20 ... 31 never come
  if (a.which == 4 && t == 0) a.out[0] = 1;                                  // every block the same number
  if (a.which == 5 && t == 0) a.out[blockIdx.x] = shared.x[3];               // nobody wrote it
  if (a.which == 6 && t == 0) simt::cp_async16(&shared.x[0], a.in, 16);      // never waited for
  if (a.which == 7 && t < 32) {
    if (t % 2)
      __syncwarp();
    else
      a.out[t] = float(__shfl_sync(~0u, t, 0));  // half the warp elsewhere
  }
  if (a.which == 8 && t < 16) a.out[t] = float(__shfl_sync(0xffffu, t, 20));  // a source outside the mask
  if (a.which == 9 && t == 0) simt::cp_async16(&shared.x[1], a.in, 16);       // not aligned
  if (a.which == 10) {
    if (t == 0) shared.x[0] = 1;
    if (t == 1) a.out[blockIdx.x] = shared.x[0];  // no barrier between
  }
  if (a.which == 11 && t < 32) {
    shared.x[t] = float(t);
    (void)__shfl_xor_sync(~0u, t, 1);  // orders no memory
    a.out[t] = shared.x[31 - t];
  }
  if (a.which == 12 && t < 8) {
    uint32_t m[4];
    simt::ldmatrix_x4(m, &shared.x[0]);  // an eighth of a warp
  }
  if (a.which == 13 && t == 0) *const_cast<float*>(a.in - 1) = 1;  // before the buffer
  if (a.which == 14) {
    if (t < 32) __syncthreads();  // half the block exits: CUDA's barrier counts only who is left
    if (t == 0) a.out[0] = 1;
  }
  if (a.which == 15 && t == 0) a.out[0] = a.out[1];  // device memory that nobody wrote
}

#if !defined(__CUDACC__)  // where threadIdx has no address
SIMT_KERNEL(64, 1) places_kernel(uintptr_t* out) { out[threadIdx.x] = uintptr_t(&threadIdx); }
#endif

}  // namespace

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

EMU_EXPORT void sum(const float* in, float* out, int* finished, int n) {
  SIMT_LAUNCH(sum_kernel, dim3((n + 255) / 256), dim3(256), sizeof(SumShared), nullptr, Arguments{in, out, n, 0},
              finished);
}
EMU_EXPORT void transpose(const float* in, float* out, int n, int padded) {
  const dim3 grid((n + 31) / 32, (n + 31) / 32), block(32, 8);
  const Arguments a{in, out, n, 0};
  if (padded)
    SIMT_LAUNCH(transpose_kernel<1>, grid, block, sizeof(TransposeShared<1>), nullptr, a);
  else
    SIMT_LAUNCH(transpose_kernel<0>, grid, block, sizeof(TransposeShared<0>), nullptr, a);
}
EMU_EXPORT void product(const void* left, const void* right, float* out, int k) {
  SIMT_LAUNCH(product_kernel, dim3(1), dim3(32), sizeof(ProductShared), nullptr, static_cast<const simt::bf16*>(left),
              static_cast<const simt::bf16*>(right), out, k);
}
EMU_EXPORT void types(const void* left, const void* right, const float* wide, float* out) {
  SIMT_LAUNCH(types_kernel, dim3(1), dim3(32), sizeof(LoadShared), nullptr, static_cast<const simt::f16*>(left),
              static_cast<const simt::f16*>(right), wide, out);
}
EMU_EXPORT void collectives(float* out) { SIMT_LAUNCH(collectives_kernel, dim3(1), dim3(64), 0, nullptr, out); }
EMU_EXPORT void fault(const float* in, float* out, int n, int which) {
  SIMT_LAUNCH(fault_kernel, dim3(2), dim3(64), sizeof(FaultShared), nullptr, Arguments{in, out, n, which});
}
EMU_EXPORT void bad_launch(float* out, int threads, int shared_bytes) {
  SIMT_LAUNCH(collectives_kernel, dim3(1), dim3(threads), shared_bytes, nullptr, out);
}
EMU_EXPORT void little_shared(float* out) {
  SIMT_LAUNCH(fault_kernel, dim3(1), dim3(64), 16, nullptr, Arguments{out, out, 0, 99});
}
#if !defined(__CUDACC__)
EMU_EXPORT void places(uintptr_t* out) { SIMT_LAUNCH(places_kernel, dim3(1), dim3(64), 0, nullptr, out); }
EMU_EXPORT float f16_to_float(uint16_t bits) { return simt::to_float(simt::f16{bits}); }
EMU_EXPORT uint16_t float_to_f16(float x) { return simt::to_f16(x).bits; }
EMU_EXPORT uint16_t float_to_bf16(float x) { return simt::to_bf16(x).bits; }
#endif
