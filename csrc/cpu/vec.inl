// Vectors of VEC_BYTES bytes on the compiler's own vector extension. Included once per instruction set, inside its
// namespace.

template <class T>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(VEC_BYTES)));
  typedef int32_t mask __attribute__((vector_size(VEC_BYTES)));
  typedef float unaligned __attribute__((vector_size(VEC_BYTES), aligned(4), may_alias));
  typedef int32_t unaligned_mask __attribute__((vector_size(VEC_BYTES), aligned(4), may_alias));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(VEC_BYTES)));
  typedef int64_t mask __attribute__((vector_size(VEC_BYTES)));
  typedef double unaligned __attribute__((vector_size(VEC_BYTES), aligned(8), may_alias));
  typedef int64_t unaligned_mask __attribute__((vector_size(VEC_BYTES), aligned(8), may_alias));
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
using Mask = typename VecOf<T>::mask;
template <class T>
constexpr int64_t kLanes = VEC_BYTES / int64_t(sizeof(T));

#define ITM_INLINE inline __attribute__((always_inline))
// Early, so that g++ finds an array of vectors to be registers.
#if defined(__clang__)
#define ITM_UNROLL _Pragma("unroll")
#else
#define ITM_UNROLL _Pragma("GCC unroll 16")
#endif

template <class T>
ITM_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VecOf<T>::unaligned*>(p);
}
template <class T>
ITM_INLINE void store(T* p, Vec<T> x) {
  *reinterpret_cast<typename VecOf<T>::unaligned*>(p) = x;
}
// As wide as T: int32 for float, int64 for double.
template <class T>
using Lane = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <class T>
ITM_INLINE Mask<T> load_mask(const Lane<T>* p) {
  return *reinterpret_cast<const typename VecOf<T>::unaligned_mask*>(p);
}
template <class T>
ITM_INLINE void store_mask(Lane<T>* p, Mask<T> x) {
  *reinterpret_cast<typename VecOf<T>::unaligned_mask*>(p) = x;
}
template <class T>
ITM_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}
// The larger of the two; a NaN in the first place is passed over, in the second it stays.
template <class T>
ITM_INLINE Vec<T> larger(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

template <class T>
ITM_INLINE Mask<T> lane_numbers() {
  Mask<T> lanes{};
  for (int64_t i = 0; i < kLanes<T>; i++) lanes[i] = i;
  return lanes;
}
// x in the first n lanes, `otherwise` in the rest.
template <class T>
ITM_INLINE Vec<T> first_lanes(Vec<T> x, int64_t n, Vec<T> otherwise) {
  return lane_numbers<T>() < Lane<T>(n) ? x : otherwise;
}

template <class T>
ITM_INLINE Vec<T> upper_half_down(Vec<T> x, int width) {
#if defined(__clang__)
  Vec<T> moved;
  for (int64_t i = 0; i < kLanes<T>; i++) moved[i] = x[(i + width) & (kLanes<T> - 1)];
  return moved;
#else
  return __builtin_shuffle(x, (lane_numbers<T>() + Lane<T>(width)) & Lane<T>(kLanes<T> - 1));
#endif
}
// The lower half of one beside the upper half of the other.
template <class T>
ITM_INLINE Vec<T> halves_of(Vec<T> low, Vec<T> high) {
#if defined(__clang__)
  for (int64_t i = kLanes<T> / 2; i < kLanes<T>; i++) low[i] = high[i];
  return low;
#elif defined(__x86_64__) && VEC_BYTES == 32
  Vec<T> both;  // g++ would move halves from lane to lane, which takes the place of a multiplication
  if constexpr (sizeof(T) == 4)
    asm("vblendps $0xf0, %2, %1, %0" : "=x"(both) : "x"(low), "x"(high));
  else
    asm("vblendpd $0xc, %2, %1, %0" : "=x"(both) : "x"(low), "x"(high));
  return both;
#else
#if defined(__x86_64__)
  asm("" : "+v"(low), "+v"(high));  // g++ would load what was splat once more, for each half
#endif
  const Mask<T> lanes = lane_numbers<T>();
  return __builtin_shuffle(low, high, lanes + lanes / Lane<T>(kLanes<T> / 2) * Lane<T>(kLanes<T>));
#endif
}
template <class T>
ITM_INLINE T sum_of_lanes(Vec<T> x) {
  for (int width = int(kLanes<T>) / 2; width > 0; width /= 2) x += upper_half_down<T>(x, width);
  return x[0];
}
template <class T>
ITM_INLINE T largest_of_lanes(Vec<T> x) {
  for (int width = int(kLanes<T>) / 2; width > 0; width /= 2) x = larger<T>(x, upper_half_down<T>(x, width));
  return x[0];
}

// exp(x) = two_n (1 + r), by range reduction to |f| <= ln 2 / 2 and a Taylor polynomial whose remainder there is 5e-9
// (float) and 4e-18 (double) of the value, below the rounding. Arguments are clamped to where 2^n is a normal number;
// NaN stays NaN in r.
template <class T>
struct Exponential {
  Vec<T> two_n, r;
};
template <class T>
ITM_INLINE Exponential<T> exponential(Vec<T> x);
template <>
ITM_INLINE Exponential<float> exponential<float>(Vec<float> x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  x = x > 88.0f ? splat(88.0f) : x;
  const Vec<float> shifted = x * 1.44269504089f + 12582912.0f;  // 1.5 * 2^23: the integer ends up in the low bits
  const Vec<float> n = shifted - 12582912.0f;
  const Vec<float> f = (x - n * 0.693145751953125f) - n * 1.42860682030941723212e-6f;
  Vec<float> p = f * 1.9841270e-4f + 1.3888889e-3f;
  p = p * f + 8.3333333e-3f;
  p = p * f + 4.1666667e-2f;
  p = p * f + 1.6666667e-1f;
  p = p * f + 0.5f;
  p = p * f + 1.0f;
  const Mask<float> bits = ((Mask<float>)shifted << 23) + (127 << 23);
  return {(Vec<float>)bits, p * f};
}
template <>
ITM_INLINE Exponential<double> exponential<double>(Vec<double> x) {
  x = x < -708.0 ? splat(-708.0) : x;
  x = x > 709.0 ? splat(709.0) : x;
  const Vec<double> shifted = x * 1.4426950408889634074 + 6755399441055744.0;  // 1.5 * 2^52
  const Vec<double> n = shifted - 6755399441055744.0;
  const Vec<double> f = (x - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  constexpr double inverse_factorials[] = {
      1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,        1.0 / 120,       1.0 / 24,       1.0 / 6,       0.5,          1.0};
  Vec<double> p = splat(inverse_factorials[0]);
  for (int i = 1; i < 13; i++) p = p * f + inverse_factorials[i];
  const Mask<double> bits = ((Mask<double>)shifted << 52) + (int64_t(1023) << 52);
  return {(Vec<double>)bits, p * f};
}
template <class T>
ITM_INLINE Vec<T> exp(Vec<T> x) {
  const Exponential<T> e = exponential<T>(x);
  return e.two_n * (e.r + T(1));
}
// m / (m + 2) with m = exp(2 x) - 1: where two_n is 1 nothing cancels, so that small numbers keep their accuracy too.
// Measured from 1e-30 to 160 on all sets: within 2 epsilon of the value.
template <class T>
ITM_INLINE Vec<T> tanh(Vec<T> x) {
  const Exponential<T> e = exponential<T>(x + x);
  const Vec<T> m = e.two_n * e.r + (e.two_n - T(1));
  return m / (m + T(2));
}
