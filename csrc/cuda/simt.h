// The one header a kernel includes. Under nvcc every name is CUDA's own or a thin wrapper of one PTX instruction;
// compiled as C++ the same names come from the emulator in tests/emu, so that one text is compiled by both.
//
// Rules for kernels: no #ifdef, no static __shared__ variable (one struct, through simt::shared), arguments in one POD
// struct, tensor cores and asynchronous copies through the wrappers below only.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define SIMT_DEVICE __device__ __forceinline__
#define SIMT_KERNEL(threads, min_blocks) static __global__ void __launch_bounds__(threads, min_blocks)
// A kernel may have more than 48 kB of shared memory where it is told so; an error is the launch's, for its caller.
#define SIMT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
  do {                                                                                              \
    const size_t simt_bytes = (shared_bytes);                                                       \
    if (simt_bytes > 48 * 1024)                                                                     \
      cudaFuncSetAttribute((kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, int(simt_bytes)); \
    (kernel)<<<(grid), (block), simt_bytes, static_cast<cudaStream_t>(stream)>>>(__VA_ARGS__);      \
  } while (0)

// Turing (7.5) has neither these tensor cores nor asynchronous copies: kernels that use them are not launched there
// (ops/similarity.cpp) and are empty, for compiling them took as long as elsewhere; so are Turing's own elsewhere.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#define SIMT_IS_SINCE_AMPERE false
#define SIMT_IS_BEFORE_AMPERE true
#define SIMT_SINCE_AMPERE(...) __trap()
#else
#define SIMT_IS_SINCE_AMPERE true
#define SIMT_IS_BEFORE_AMPERE false
#define SIMT_SINCE_AMPERE(...) asm volatile(__VA_ARGS__)
#endif

namespace simt {

// Of our own: CUDA's headers of them are a fifth of what a small file takes to compile.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
// A kernel's __ldg finds these beside CUDA's.
SIMT_DEVICE bf16 __ldg(const bf16* from) { return {::__ldg(&from->bits)}; }
SIMT_DEVICE f16 __ldg(const f16* from) { return {::__ldg(&from->bits)}; }
SIMT_DEVICE float to_float(bf16 x) {
  float y;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("cvt.f32.bf16 %0, %1;" : "=f"(y) : "h"(x.bits));
#else
  asm("mov.b32 %0, {0,%1};" : "=f"(y) : "h"(x.bits));
#endif
  return y;
}
SIMT_DEVICE float to_float(f16 x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
}
SIMT_DEVICE bf16 to_bf16(float x) {
  bf16 y;
#if SIMT_IS_SINCE_AMPERE
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else  // to nearest, ties to even
  const uint32_t bits = __float_as_uint(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  y.bits = is_nan ? 0x7fff : uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
#endif
  return y;
}
SIMT_DEVICE f16 to_f16(float x) {
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
}
// Two numbers of a word, as tensor cores take them.
SIMT_DEVICE uint32_t two_f16(float low, float high) {
#if SIMT_IS_SINCE_AMPERE
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %2, %1;" : "=r"(both) : "f"(low), "f"(high));
  return both;
#else
  return uint32_t(to_f16(high).bits) << 16 | to_f16(low).bits;
#endif
}
SIMT_DEVICE float low_f16(uint32_t both) {
  float y;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(y) : "r"(both));
  return y;
}
SIMT_DEVICE float high_f16(uint32_t both) {
  float y;
  asm("{.reg .f16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, high;}" : "=f"(y) : "r"(both));
  return y;
}
// 2^x, the square root and 1 / x as the special function units have them, to about 2^-22.
SIMT_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SIMT_DEVICE float sqrt_approximate(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
SIMT_DEVICE float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// In a loop: what follows from x is made where it is used, and takes no register through the whole loop.
SIMT_DEVICE void make_anew(int& x) { asm volatile("" : "+r"(x)); }
// The block's shared memory, whose size the launch gives.
template <class T>
SIMT_DEVICE T& shared() {
  extern __shared__ __align__(128) unsigned char simt_shared_bytes[];
  return *reinterpret_cast<T*>(simt_shared_bytes);
}
SIMT_DEVICE unsigned shared_address(const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); }

// Starts to copy 16 bytes from global to shared memory; `valid` of them are read, the rest becomes zero.
SIMT_DEVICE void cp_async16(void* to, const void* from, int valid) {
  SIMT_SINCE_AMPERE("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                    "r"(valid) : "memory");
}
SIMT_DEVICE void cp_async_commit() { SIMT_SINCE_AMPERE("cp.async.commit_group;" :: : "memory"); }
// Waits until at most N of this thread's groups are under way.
template <int N>
SIMT_DEVICE void cp_async_wait() {
  SIMT_SINCE_AMPERE("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// 8 x 8 matrices of 16-bit numbers from shared memory: lane l gives the address of row l % 8 of matrix l / 8.
SIMT_DEVICE void ldmatrix_x4(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
SIMT_DEVICE void ldmatrix_x2(uint32_t (&out)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(shared_address(row))
               : "memory");
}
// Each matrix transposed on the way.
SIMT_DEVICE void ldmatrix_x4_trans(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
SIMT_DEVICE void ldmatrix_x2_trans(uint32_t (&out)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(out[0]), "=r"(out[1])
               : "r"(shared_address(row))
               : "memory");
}

// d (16 x 8, float32) += a (16 x k, rows) . b (k x 8, columns), spread over the lanes of a warp as PTX describes for
// mma.m16n8k16 (16-bit types) and mma.m16n8k8 (TF32).
SIMT_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  SIMT_SINCE_AMPERE(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+"
                                                                                                                    "f"(d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
SIMT_DEVICE void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  SIMT_SINCE_AMPERE(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(
          d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
SIMT_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  SIMT_SINCE_AMPERE(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" : "+f"(
          d[0]),
      "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 16 or 8 bytes of shared or global memory that the kernel may also write, in one access.
SIMT_DEVICE float4 load16(const float* from) { return *reinterpret_cast<const float4*>(from); }
SIMT_DEVICE float2 load8(const float* from) { return *reinterpret_cast<const float2*>(from); }
SIMT_DEVICE void store16(float4 x, float* to) { *reinterpret_cast<float4*>(to) = x; }
SIMT_DEVICE void store8(float2 x, float* to) { *reinterpret_cast<float2*>(to) = x; }

}  // namespace simt

#else
#include "emulator.h"
#endif

// Barriers have numbers, so that a test can leave out one at a time and see that it is missed: BUG is its number, which
// only the emulator's kernels can be told.
#ifndef BUG
#define BUG 0
#endif
#define SYNC(n)                      \
  do {                               \
    if ((n) != BUG) __syncthreads(); \
  } while (0)

namespace simt {

// Tensor cores read the first 19 bits of a float as TF32: those of x, and of x rounded to them, ties away from zero.
SIMT_DEVICE uint32_t cut_to_tf32(uint32_t bits) { return bits & 0xffffe000u; }
SIMT_DEVICE uint32_t rounded_for_tf32(uint32_t bits) {
  return (bits & 0x7fffffffu) < 0x7f800000u ? bits + 0x1000u : bits;
}

// Over groups of `width` neighbouring lanes (a power of two); every lane of the warp takes part.
template <class T>
SIMT_DEVICE T group_sum(T x, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  return x;
}
template <class T>
SIMT_DEVICE T group_max(T x, int width) {
  for (int offset = width / 2; offset > 0; offset /= 2) {
    const T other = __shfl_xor_sync(0xffffffffu, x, offset);
    x = other > x ? other : x;
  }
  return x;
}

}  // namespace simt
