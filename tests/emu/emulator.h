// What a kernel sees of the emulator: CUDA's names for the subset that kernels use, served by fibres on one OS thread.
// Included by csrc/cuda/simt.h where the compiler is not nvcc. Calls that synchronise take the source line as a hidden
// last argument, so that threads which meet at different places are told apart.
#pragma once

#include <math.h>  // CUDA's device functions are the global names: sqrtf, not std::sqrtf

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define SIMT_DEVICE inline
#define SIMT_IS_SINCE_AMPERE true
#define SIMT_IS_BEFORE_AMPERE true
#define SIMT_KERNEL(threads, min_blocks) static void
#define SIMT_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
  ((void)(stream), ::emu::launch_with((grid), (block), (shared_bytes), [=] { (kernel)(__VA_ARGS__); }, #kernel))
#define EMU_LINE int line = __builtin_LINE()

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace emu {

struct ThreadView {
  dim3 thread, block, block_size, grid_size;
  unsigned number, lane, warp;  // in the block
};
extern const ThreadView* current;

float approximated(float exact);  // as a device's fast functions are off, where a test asks for that
int left_out();                   // number of the barrier or wait that a test leaves out; 0: none
#define BUG (::emu::left_out())

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body, const char* name);

// The kernel's arguments stay on the caller's stack: on the heap they could take the memory of a tensor that was freed.
template <class Body>
void launch_with(dim3 grid, dim3 block, size_t shared_bytes, const Body& body, const char* name) {
  launch(grid, block, shared_bytes, std::cref(body), name);
}
void* shared_memory(size_t bytes);

void barrier(int line, int predicate, int* any, int* all, int* count);

enum class Kind { kShuffle, kVote, kWarpBarrier, kLoadMatrix, kMatrixProduct };
// Every lane of the mask posts a pointer; the last one runs `combine` on all of them.
using Combine = void (*)(void* const* posted, unsigned mask);
void collective(unsigned mask, Kind kind, int line, void* posted, Combine combine);

struct Shuffle {
  uint64_t bits;
  int source;
  uint64_t result;
};
struct Vote {
  int predicate;
  unsigned ballot;
};
struct LoadMatrix {
  const void* row;
  uint32_t* out;
  int matrices;
  bool transposed;
};
enum class Number { kBf16, kF16, kTf32 };
struct MatrixProduct {
  float* d;
  const uint32_t *a, *b;
  Number number;
};
void combine_shuffles(void* const* posted, unsigned mask);
void combine_votes(void* const* posted, unsigned mask);
void combine_matrix_loads(void* const* posted, unsigned mask);
void combine_matrix_products(void* const* posted, unsigned mask);

void copy_async(void* to, const void* from, int valid, int line);
void copy_commit();
void copy_wait(int allowed);

// What a block did before a fence is published by its next atomic operation, and seen by every block whose atomic
// operation comes later.
void fence();

// While one lives, loads and stores are those of an atomic operation: inside bounds, but no race.
class Atomic {
 public:
  Atomic(const void* p, size_t bytes);
  ~Atomic();
};

template <class T>
T shuffle(unsigned mask, T x, int source, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  Shuffle posted{0, source, 0};
  std::memcpy(&posted.bits, &x, sizeof(T));
  collective(mask, Kind::kShuffle, line, &posted, combine_shuffles);
  std::memcpy(&x, &posted.result, sizeof(T));
  return x;
}
inline int lane() { return int(current->lane); }
inline int first_lane(int width) { return lane() & ~(width - 1); }

}  // namespace emu

#define threadIdx (::emu::current->thread)
#define blockIdx (::emu::current->block)
#define blockDim (::emu::current->block_size)
#define gridDim (::emu::current->grid_size)

inline void __syncthreads(EMU_LINE) { ::emu::barrier(line, 0, nullptr, nullptr, nullptr); }
inline int __syncthreads_or(int predicate, EMU_LINE) {
  int any = 0;
  ::emu::barrier(line, predicate, &any, nullptr, nullptr);
  return any;
}
inline int __syncthreads_and(int predicate, EMU_LINE) {
  int all = 0;
  ::emu::barrier(line, predicate, nullptr, &all, nullptr);
  return all;
}
inline int __syncthreads_count(int predicate, EMU_LINE) {
  int count = 0;
  ::emu::barrier(line, predicate, nullptr, nullptr, &count);
  return count;
}
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_LINE) {
  ::emu::collective(mask, ::emu::Kind::kWarpBarrier, line, nullptr, nullptr);
}
template <class T>
T __shfl_sync(unsigned mask, T x, int source, int width = 32, EMU_LINE) {
  return ::emu::shuffle(mask, x, ::emu::first_lane(width) + (source & (width - 1)), line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int bits, int width = 32, EMU_LINE) {
  const int source = ::emu::lane() ^ bits;
  return ::emu::shuffle(mask, x, source < ::emu::first_lane(width) + width ? source : ::emu::lane(), line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned offset, int width = 32, EMU_LINE) {
  const int source = ::emu::lane() + int(offset);
  return ::emu::shuffle(mask, x, source < ::emu::first_lane(width) + width ? source : ::emu::lane(), line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned offset, int width = 32, EMU_LINE) {
  const int source = ::emu::lane() - int(offset);
  return ::emu::shuffle(mask, x, source >= ::emu::first_lane(width) ? source : ::emu::lane(), line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_LINE) {
  ::emu::Vote posted{predicate, 0};
  ::emu::collective(mask, ::emu::Kind::kVote, line, &posted, ::emu::combine_votes);
  return posted.ballot;
}
inline int __any_sync(unsigned mask, int predicate, EMU_LINE) { return __ballot_sync(mask, predicate, line) != 0; }
inline int __all_sync(unsigned mask, int predicate, EMU_LINE) { return __ballot_sync(mask, !predicate, line) == 0; }

// One OS thread runs every fibre, and none is switched inside these.
template <class T, class U>
T atomicAdd(T* p, U x) {
  const ::emu::Atomic atomic(p, sizeof(T));
  const T old = *p;
  *p = old + T(x);
  return old;
}
template <class T, class U>
T atomicMax(T* p, U x) {
  const ::emu::Atomic atomic(p, sizeof(T));
  const T old = *p;
  if (T(x) > old) *p = T(x);
  return old;
}
template <class T, class U>
T atomicOr(T* p, U x) {
  const ::emu::Atomic atomic(p, sizeof(T));
  const T old = *p;
  *p = old | T(x);
  return old;
}
template <class T, class U>
T atomicExch(T* p, U x) {
  const ::emu::Atomic atomic(p, sizeof(T));
  const T old = *p;
  *p = T(x);
  return old;
}
template <class T, class U>
T atomicCAS(T* p, U expected, U x) {
  const ::emu::Atomic atomic(p, sizeof(T));
  const T old = *p;
  if (old == T(expected)) *p = T(x);
  return old;
}
inline void __threadfence() { ::emu::fence(); }

inline float __expf(float x) { return emu::approximated(expf(x)); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
// Loaded where it stands: a lane that does not use the number must not skip the load, or the lanes of a warp could no
// longer be lined up when requests are counted.
template <class T>
__attribute__((always_inline)) inline T __ldg(const T* p) {
  T x = *p;
  asm volatile("" : "+m"(x));
  return x;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(int(x)); }
inline int __clz(unsigned x) { return x == 0 ? 32 : __builtin_clz(x); }
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

namespace simt {

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};
float to_float(f16 x);
f16 to_f16(float x);
inline float to_float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
inline bf16 to_bf16(float x) {  // to nearest, ties to even
  const uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}
inline uint32_t two_f16(float low, float high) { return uint32_t(to_f16(high).bits) << 16 | to_f16(low).bits; }
inline float low_f16(uint32_t both) { return to_float(f16{uint16_t(both)}); }
inline float high_f16(uint32_t both) { return to_float(f16{uint16_t(both >> 16)}); }
inline float exp2_approximate(float x) { return emu::approximated(exp2f(x)); }
inline void make_anew(int&) {}
inline float sqrt_approximate(float x) { return emu::approximated(sqrtf(x)); }
inline float reciprocal_approximate(float x) { return emu::approximated(1 / x); }

// Kept as one access, as on a device.
inline float4 load16(const float* from) { return __ldg(reinterpret_cast<const float4*>(from)); }
inline float2 load8(const float* from) { return __ldg(reinterpret_cast<const float2*>(from)); }
__attribute__((always_inline)) inline void store16(float4 x, float* to) {
  asm volatile("" : "+m"(x));
  *reinterpret_cast<float4*>(to) = x;
}
__attribute__((always_inline)) inline void store8(float2 x, float* to) {
  asm volatile("" : "+m"(x));
  *reinterpret_cast<float2*>(to) = x;
}

template <class T>
T& shared() {
  return *static_cast<T*>(emu::shared_memory(sizeof(T)));
}
inline void cp_async16(void* to, const void* from, int valid, EMU_LINE) { emu::copy_async(to, from, valid, line); }
inline void cp_async_commit() { emu::copy_commit(); }
template <int N>
void cp_async_wait() {
  emu::copy_wait(N);
}
template <int N>
void load_matrices(uint32_t (&out)[N], const void* row, bool transposed, int line) {
  emu::LoadMatrix posted{row, out, N, transposed};
  emu::collective(~0u, emu::Kind::kLoadMatrix, line, &posted, emu::combine_matrix_loads);
}
inline void ldmatrix_x4(uint32_t (&out)[4], const void* row, EMU_LINE) { load_matrices(out, row, false, line); }
inline void ldmatrix_x2(uint32_t (&out)[2], const void* row, EMU_LINE) { load_matrices(out, row, false, line); }
inline void ldmatrix_x4_trans(uint32_t (&out)[4], const void* row, EMU_LINE) { load_matrices(out, row, true, line); }
inline void ldmatrix_x2_trans(uint32_t (&out)[2], const void* row, EMU_LINE) { load_matrices(out, row, true, line); }
inline void matrix_product(float* d, const uint32_t* a, const uint32_t* b, emu::Number number, int line) {
  emu::MatrixProduct posted{d, a, b, number};
  emu::collective(~0u, emu::Kind::kMatrixProduct, line, &posted, emu::combine_matrix_products);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_LINE) {
  matrix_product(d, a, b, emu::Number::kBf16, line);
}
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_LINE) {
  matrix_product(d, a, b, emu::Number::kF16, line);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], EMU_LINE) {
  matrix_product(d, a, b, emu::Number::kTf32, line);
}

}  // namespace simt
