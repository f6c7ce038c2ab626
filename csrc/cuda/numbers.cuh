// Numbers of every type that tensors have, as the type a kernel computes in, and back.
#pragma once

#include "simt.h"

namespace itm::cuda {

SIMT_DEVICE float widened(float x) { return x; }
SIMT_DEVICE double widened(double x) { return x; }
SIMT_DEVICE float widened(simt::bf16 x) { return simt::to_float(x); }
SIMT_DEVICE float widened(simt::f16 x) { return simt::to_float(x); }
SIMT_DEVICE void narrow(float x, float& to) { to = x; }
SIMT_DEVICE void narrow(double x, double& to) { to = x; }
SIMT_DEVICE void narrow(float x, simt::bf16& to) { to = simt::to_bf16(x); }
SIMT_DEVICE void narrow(float x, simt::f16& to) { to = simt::to_f16(x); }

// Without infinities, which would make NaN of sums: float16's largest number in their place.
template <class T, class To>
SIMT_DEVICE void narrow_finite(T x, To& to) {
  narrow(x, to);
}
SIMT_DEVICE void narrow_finite(float x, simt::f16& to) {
  constexpr float kMost = 65504.0f;
  narrow(x > kMost ? kMost : x < -kMost ? -kMost : x, to);
}

}  // namespace itm::cuda
