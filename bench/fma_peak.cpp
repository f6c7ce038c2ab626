// Multiply-adds a second that the processor can do when nothing else is asked of it: GFLOP/s of float32, float64 and,
// where it multiplies pairs, bfloat16, on so many threads. Compiled by gemm.py with -O3 -march=native.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VEC_BYTES 64
#elif defined(__AVX__)
#define VEC_BYTES 32
#else
#define VEC_BYTES 16
#endif

constexpr int kChains = 12;  // two units, latency of four or five: ten at least
constexpr int64_t kSteps = 30'000'000;

template <class T>
double numbers() {
  typedef T Vec __attribute__((vector_size(VEC_BYTES)));
  Vec sums[kChains] = {}, factor = Vec{} + T(0.5);
  for (int64_t i = 0; i < kSteps; i++)
    for (Vec& sum : sums) {
      sum = sum * factor + factor;
      asm volatile("" : "+x"(sum));
    }
  return 2.0 * kChains * kSteps * (VEC_BYTES / sizeof(T));
}

#if defined(__AVX512BF16__)
double pairs() {
  __m512 sums[kChains] = {};
  const __m512bh factor = (__m512bh)_mm512_set1_epi32(0);
  for (int64_t i = 0; i < kSteps; i++)
    for (__m512& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, factor, factor);
      asm volatile("" : "+v"(sum));
    }
  return 4.0 * kChains * kSteps * 16;
}
#endif

template <class Work>
void measure(const char* name, int n_threads, Work work) {
  double best = 0;
  for (int round = 0; round < 3; round++) {
    std::vector<std::thread> threads;
    std::vector<double> done(n_threads);
    const auto start = std::chrono::steady_clock::now();
    for (int t = 0; t < n_threads; t++) threads.emplace_back([&, t] { done[t] = work(); });
    for (std::thread& thread : threads) thread.join();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double total = 0;
    for (double flops : done) total += flops;
    best = std::max(best, total / seconds * 1e-9);
  }
  std::printf("%s %.1f\n", name, best);
}

int main(int, char** arguments) {
  const int n_threads = std::atoi(arguments[1]);
  measure("float32", n_threads, numbers<float>);
  measure("float64", n_threads, numbers<double>);
#if defined(__AVX512BF16__)
  measure("bfloat16", n_threads, pairs);
#endif
}
